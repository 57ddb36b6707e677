//! `ruyi order wait`: until orders are where they should be.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use clap::builder::PossibleValue;

use super::Ids;
use crate::client::{OrderView, Reply, Watch};
use crate::cmd::{Context, bulk};
use crate::config::Millis;
use crate::domain::order::{Outcome, Status};

/// Arguments of `ruyi order wait`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ruyi order create orders.jsonl | ruyi payment pay - | ruyi order wait --status SIGNED -\n  ruyi order wait 1234567890 --timeout 2m"
)]
pub struct Args {
    #[command(flatten)]
    orders: Ids,
    /// State or end to wait for; a later state counts as well [default: any end]
    #[arg(long, value_enum, ignore_case = true)]
    status: Option<Target>,
    /// Give up on an order after this long
    #[arg(long, value_name = "TIME", default_value = "60s")]
    timeout: Millis,
    /// Orders waited for at once; they share their requests
    #[arg(long, value_name = "N", default_value = "1000", value_parser = clap::value_parser!(u16).range(1..=4096))]
    concurrency: u16,
}

/// What can be waited for: the states, and the one end that is no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Status(Status),
    Refunded,
}

impl ValueEnum for Target {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::Status(Status::Created),
            Self::Status(Status::Reserved),
            Self::Status(Status::Paid),
            Self::Status(Status::Fulfill),
            Self::Status(Status::OutStock),
            Self::Status(Status::Delivery),
            Self::Status(Status::Signed),
            Self::Status(Status::Canceled),
            Self::Refunded,
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::Status(status) => status.name(),
            Self::Refunded => Outcome::Refunded.name(),
        }
    }

    fn reached(self, order: &OrderView) -> bool {
        match self {
            Self::Refunded => order.outcome == Outcome::Refunded,
            Self::Status(Status::Canceled) => order.status == Status::Canceled,
            Self::Status(wanted) => order.status >= wanted && order.status != Status::Canceled,
        }
    }
}

/// Runs `ruyi order wait`. An order that ends elsewhere, or takes too long, fails; the others go on.
///
/// # Errors
/// The input or output fails.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let watch = &Watch::start(bulk::api(context)?);
    let (limit, target) = (args.timeout.duration(), args.status);
    bulk::run(context, bulk::from_args(&args.orders.ids)?, args.concurrency.into(), |line| async move {
        let id = bulk::id_of(&line.text)?;
        let settled = |order: &OrderView| order.is_over() || target.is_some_and(|target| target.reached(order));
        let order = watch.until(id, limit, settled).await.with_context(|| format!("order {id}"))?;
        conclude(target, &order)
    })
    .await
}

fn conclude(target: Option<Target>, order: &OrderView) -> anyhow::Result<Reply> {
    if let Some(target) = target
        && !target.reached(order)
    {
        let why = order.cancel_reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
        bail!("order {} ended {}, not {}{why}", order.order_id, order.outcome.name(), target.name());
    }
    order.raw.clone().context("the order came without its text")
}
