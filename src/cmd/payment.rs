//! `ruyi payment`: pay orders, look at payments, compare them with what a channel says, and end doubts about refunds.

pub(super) mod reconcile;
pub(super) mod settle;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Subcommand;
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{Context, bulk};
use crate::client::{Api, CallError, Reply};
use crate::config::Millis;
use crate::domain::id::OrderId;
use crate::domain::order::Status;

/// Pause between two tries while the payment is not opened; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Arguments of `ruyi payment`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Pay orders, as their customers would
    #[command(
        after_help = "Examples:\n  ruyi payment pay 1234567890\n  ruyi order create orders.jsonl | ruyi payment pay -"
    )]
    Pay(Pay),
    /// Print the payments of orders
    #[command(after_help = "Example:\n  ruyi payment get 1234567890")]
    Get(Get),
    /// Compare a channel's statement of a day with the payments and refunds on record
    ///
    /// Every difference is a row: unknown (no such payment or refund here), not_paid (its callback did not come),
    /// other_transaction (money that came twice and does not go back), amount, currency, not_refunded, repeated (twice in
    /// the file), missing (a payment or a refund that is on record, and not in the file), totals (those of the file are
    /// not those of its lines). A line that cannot be read is told on stderr, and the others are compared. Reads the
    /// database of the payment role.
    #[command(after_help = "\
Exit codes: 0 nothing differs, 1 something does, 2 wrong usage, 3 not all could be compared: lines that cannot be read, a
file that is not whole, or no file or database at all.

Examples:
  ruyi payment reconcile statement.csv --channel sandbox --date 2026-01-31
  ruyi payment reconcile - --channel sandbox --date 2026-01-31 --output jsonl < statement.csv
  ruyi payment reconcile bill.csv --format alipay --channel sandbox --date 2026-01-31
  ruyi payment reconcile bank.csv --columns \"paymentId=Order no,amount=Total\" --encoding gbk --channel sandbox --date 2026-01-31")]
    Reconcile(reconcile::Args),
    /// Say what became of refunds that are in doubt, after a look at the channel's books
    ///
    /// The money of a refund whose request stayed without an answer counts as promised until its channel says whether it
    /// went back. Where the channel does not say, somebody has to find out. With --paid the refund is SUCCESS; with
    /// --not-paid it is FAILED, and a part may be asked for anew. Either way its call can no longer be made. The events
    /// that follow are sent by the payment role. Reads and writes the database of the payment role.
    #[command(after_help = "\
Examples:
  ruyi payment settle 382402245859213314 --paid --reason 'on the bank statement of 31 January' --yes
  ruyi payment settle 382402245859213314 --not-paid --reason 'the bank knows nothing of it' --dry-run")]
    Settle(settle::Args),
}

#[derive(Debug, clap::Args)]
struct Get {
    /// Order ids; - reads them from stdin, plain or as JSON lines with an orderId
    #[arg(required = true, value_name = "ORDER-ID")]
    ids: Vec<String>,
    #[command(flatten)]
    bulk: bulk::Parallel,
}

#[derive(Debug, clap::Args)]
struct Pay {
    /// Order ids; - reads them from stdin, plain or as JSON lines with an orderId (and method, sandbox)
    #[arg(required = true, value_name = "ORDER-ID")]
    ids: Vec<String>,
    /// Means of payment, where the line has none
    #[arg(long)]
    method: Option<String>,
    /// How long a payment may take to be opened after its order was placed
    #[arg(long, value_name = "TIME", default_value = "30s")]
    wait_open: Millis,
    #[command(flatten)]
    dry: bulk::DryRun,
    #[command(flatten)]
    bulk: bulk::Parallel,
}

/// Runs `ruyi payment ...`.
///
/// # Errors
/// The input or output fails; items that fail only make the exit code 1.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Pay(args) => pay(context, args).await,
        Command::Reconcile(args) => reconcile::run(context, args).await,
        Command::Settle(args) => settle::run(context, &args).await,
        Command::Get(args) => {
            let api = &bulk::api(context)?;
            bulk::orders(context, &args.ids, &args.bulk, |id| async move { Ok(api.payment(id).await?) }).await
        }
    }
}

async fn pay(context: &Context, args: Pay) -> anyhow::Result<ExitCode> {
    let api = &bulk::api(context)?;
    let args = &args;
    bulk::run(context, bulk::from_args(&args.ids)?, args.bulk.concurrency(), |line| one(api, line, args)).await
}

async fn one(api: &Api, line: bulk::Line, args: &Pay) -> anyhow::Result<Reply> {
    let id = bulk::id_of(&line.text)?;
    let mut body = Map::new();
    if line.text.trim_start().starts_with('{') {
        body = bulk::object_of(&line.text)?;
        body.retain(|name, _| name == "method" || name == "sandbox");
    }
    if let Some(method) = &args.method {
        body.entry("method").or_insert_with(|| Value::from(method.as_str()));
    }
    if args.dry.dry_run {
        let path = format!("/payments/{id}/pay");
        return bulk::Planned { method: "POST", path, idempotency_key: None, body: &body }.row();
    }
    let deadline = Instant::now() + args.wait_open.duration();
    pay_when_open(api, id, &serde_json::to_vec(&body)?, || Instant::now() < deadline).await
}

#[derive(Deserialize)]
struct Order {
    status: Status,
}

/// Pays as soon as the payment is opened, which follows the order, unless the order was canceled; for as long as
/// `is_patient`.
///
/// # Errors
/// Refused, or not opened in time.
pub async fn pay_when_open(
    api: &Api,
    id: OrderId,
    body: &[u8],
    is_patient: impl Fn() -> bool,
) -> anyhow::Result<Reply> {
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let refused = match api.pay(id, body.to_vec()).await {
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => error,
            other => return Ok(other?),
        };
        // No payment will ever be opened for an order that is canceled, or that does not exist.
        match api.order(id).await {
            Ok(order) => {
                if serde_json::from_str::<Order>(order.get()).is_ok_and(|order| order.status == Status::Canceled) {
                    bail!("order {id} is canceled: there is nothing to pay");
                }
            }
            Err(CallError::Refused(problem)) if problem.status_code() == StatusCode::NOT_FOUND => {
                return Err(CallError::Refused(problem).into());
            }
            Err(_) => {}
        }
        if !is_patient() {
            let waited = started.elapsed().as_secs_f64();
            return Err(anyhow::Error::new(refused)
                .context(format!("the payment of order {id} was not opened within {waited:.1} s")));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
