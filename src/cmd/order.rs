//! `ruyi order`: place, look at, cancel and wait for orders, one or many.

mod create;
mod search;
mod wait;

use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use serde::Serialize;

use super::{Context, bulk};
use crate::client::{IDS_PER_CALL, Page};
use crate::domain::id::{OrderId, parse_id};
use crate::domain::order::Status;

/// Arguments of `ruyi order`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: ruyi order create orders.jsonl | ruyi payment pay - | ruyi order wait --status SIGNED -"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Place orders
    Create(create::Args),
    /// Print orders
    #[command(
        after_help = "Examples:\n  ruyi order get 1234567890\n  ruyi order list --status PAID -o jsonl | ruyi order get -"
    )]
    Get(Get),
    /// List orders, the newest first
    #[command(
        after_help = "Examples:\n  ruyi order list --status RESERVED --limit 20\n  ruyi order list --user 1001 -o jsonl | jq -r .orderId"
    )]
    List(List),
    /// Search orders, the newest first: as they were a moment ago
    Search(search::Args),
    /// Cancel orders
    #[command(
        after_help = "Examples:\n  ruyi order cancel 1234567890\n  ruyi order list --status RESERVED -o jsonl | ruyi order cancel -"
    )]
    Cancel(Cancel),
    /// Change where an order is to go, until the warehouse is told of it
    #[command(after_help = "Example:\n  ruyi order address 1234567890 \"5 Bell Street, flat 2\"")]
    Address(Address),
    /// Wait until orders reach a state or an end
    Wait(wait::Args),
}

/// What names orders.
#[derive(Debug, clap::Args)]
struct Ids {
    /// Order ids; - reads them from stdin, plain or as JSON lines with an orderId
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct Get {
    #[command(flatten)]
    orders: Ids,
    #[command(flatten)]
    bulk: bulk::Parallel,
}

#[derive(Debug, clap::Args)]
struct List {
    /// Only those of this user
    #[arg(long, value_name = "ID", value_parser = user_id)]
    user: Option<i64>,
    /// Only those in this state
    #[arg(long, ignore_case = true)]
    status: Option<StatusArg>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Only those before this one
    #[arg(long, value_name = "ID")]
    before: Option<OrderId>,
}

#[derive(Debug, clap::Args)]
struct Cancel {
    #[command(flatten)]
    orders: Ids,
    /// Why; the customer sees it
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    dry: bulk::DryRun,
    #[command(flatten)]
    bulk: bulk::Parallel,
}

#[derive(Debug, clap::Args)]
struct Address {
    /// The order
    id: OrderId,
    /// Where it is to go
    address: String,
    /// Only if the order is still in this version
    #[arg(long, value_name = "N")]
    if_version: Option<i64>,
    #[command(flatten)]
    dry: bulk::DryRun,
}

/// A state on the command line, spelled as in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StatusArg(Status);

impl ValueEnum for StatusArg {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [StatusArg; Status::ALL.len()] = {
            let mut all = [StatusArg(Status::Created); Status::ALL.len()];
            let mut n = 0;
            while n < all.len() {
                all[n] = StatusArg(Status::ALL[n]);
                n += 1;
            }
            all
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.0.name()))
    }
}

fn user_id(text: &str) -> Result<i64, crate::domain::id::ParseError> {
    parse_id("a user id", text)
}

#[derive(Serialize)]
struct NewAddress<'a> {
    address: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<i64>,
}

#[derive(Serialize)]
struct Reason<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

/// Runs `ruyi order ...`.
///
/// # Errors
/// The input or output fails; items that fail only make the exit code 1.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Create(args) => create::run(context, args).await,
        Command::Get(args) => get(context, args).await,
        Command::List(args) => list(context, args).await,
        Command::Search(args) => search::run(context, args).await,
        Command::Address(args) => address(context, args).await,
        Command::Cancel(args) => cancel(context, args).await,
        Command::Wait(args) => wait::run(context, args).await,
    }
}

async fn get(context: &Context, args: Get) -> anyhow::Result<ExitCode> {
    let api = &bulk::api(context)?;
    bulk::orders(context, &args.orders.ids, &args.bulk, |id| async move { Ok(api.order(id).await?) }).await
}

async fn list(context: &Context, args: List) -> anyhow::Result<ExitCode> {
    let api = bulk::api(context)?;
    pages(context, args.limit, args.before, async |limit, before| {
        let mut parameters = vec![("limit", limit.to_string())];
        parameters.extend(args.user.map(|user| ("userId", user.to_string())));
        parameters.extend(args.status.map(|status| ("status", status.0.name().to_owned())));
        parameters.extend(before.map(|id: OrderId| ("before", id.to_string())));
        Ok(api.orders(&parameters).await?)
    })
    .await
}

/// Prints up to `left` orders, page by page; `page` gets the next so many before an order.
async fn pages(
    context: &Context,
    mut left: usize,
    mut before: Option<OrderId>,
    page: impl AsyncFn(usize, Option<OrderId>) -> anyhow::Result<Page>,
) -> anyhow::Result<ExitCode> {
    let mut output = context.output();
    while left > 0 {
        let page = page(left.min(IDS_PER_CALL), before).await?;
        for order in page.items.iter().take(left) {
            output.row(order)?;
        }
        output.flush()?;
        left = left.saturating_sub(page.items.len());
        before = page.next;
        if before.is_none() || page.items.is_empty() {
            break;
        }
    }
    output.finish()?;
    Ok(ExitCode::SUCCESS)
}

async fn address(context: &Context, args: Address) -> anyhow::Result<ExitCode> {
    let body = NewAddress { address: &args.address, version: args.if_version };
    let mut output = context.output();
    if args.dry.dry_run {
        let path = format!("/orders/{}/address", args.id);
        output.row(&bulk::Planned { method: "PUT", path, idempotency_key: None, body: &body }.row()?)?;
    } else {
        output.row(&bulk::api(context)?.put_address(args.id, serde_json::to_vec(&body)?).await?)?;
    }
    output.finish()?;
    Ok(ExitCode::SUCCESS)
}

async fn cancel(context: &Context, args: Cancel) -> anyhow::Result<ExitCode> {
    let api = &bulk::api(context)?;
    let body = &Reason { reason: args.reason.as_deref() };
    bulk::orders(context, &args.orders.ids, &args.bulk, |id| async move {
        if args.dry.dry_run {
            let path = format!("/orders/{id}/cancel");
            return bulk::Planned { method: "POST", path, idempotency_key: None, body }.row();
        }
        Ok(api.cancel(id, serde_json::to_vec(body)?).await?)
    })
    .await
}
