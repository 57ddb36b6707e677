//! `ruyi order search`: orders by number, SKU, remark, user, state and time.

use std::process::ExitCode;

use super::{StatusArg, user_id};
use crate::clock::Clock;
use crate::cmd::parts::Since;
use crate::cmd::{Context, bulk};
use crate::domain::id::OrderId;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ruyi order search TEA-1 --status PAID --from 2h\n  ruyi order search \"please ring\" -o jsonl | jq -r .orderId\n  ruyi order search --user 1001 --from @2026-01-01T00:00 --to @2026-02-01T00:00"
)]
pub(super) struct Args {
    /// An order id or number, a SKU, or how the remark begins; in any case
    #[arg(value_name = "TEXT")]
    text: Option<String>,
    /// Only those of this user
    #[arg(long, value_name = "ID", value_parser = user_id)]
    user: Option<i64>,
    /// Only those in this state
    #[arg(long, ignore_case = true)]
    status: Option<StatusArg>,
    /// Only those placed since then: how long ago (2h), or a time (@2024-01-15T08:00)
    #[arg(long, value_name = "WHEN")]
    from: Option<Since>,
    /// Only those placed before then
    #[arg(long, value_name = "WHEN")]
    to: Option<Since>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Only those before this one
    #[arg(long, value_name = "ID")]
    before: Option<OrderId>,
}

pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let api = bulk::api(context)?;
    let now_ms = Clock::system().now_ms();
    let mut parameters = vec![("q", args.text.unwrap_or_default())];
    parameters.extend(args.user.map(|user| ("userId", user.to_string())));
    parameters.extend(args.status.map(|status| ("status", status.0.name().to_owned())));
    parameters.extend(args.from.map(|from| ("from", from.at_ms(now_ms).to_string())));
    parameters.extend(args.to.map(|to| ("to", to.at_ms(now_ms).to_string())));
    super::pages(context, args.limit, args.before, async |limit, before| {
        let mut all = parameters.clone();
        all.push(("limit", limit.to_string()));
        all.extend(before.map(|id: OrderId| ("before", id.to_string())));
        Ok(api.search(&all).await?)
    })
    .await
}
