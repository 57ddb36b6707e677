//! `ruyi payment reconcile`: a channel's own statement of a day against what is on record.

use std::io::Read;
use std::process::ExitCode;

use anyhow::Context as _;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use tabled::Tabled;
use utoipa::ToSchema;

use crate::audit::statement::{Comparison, Difference, Line, Scope, What};
use crate::cmd::{Context, Usage, audit};
use crate::domain::event::Role;
use crate::domain::id::{PaymentId, RefundId};
use crate::domain::money::Money;
use crate::output::Output;

/// Lines compared at once.
const BATCH: usize = 1_000;

/// Arguments of `ruyi payment reconcile`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// CSV with a header: paymentId, transactionNo, amount, currency, and for refunds type (PAYMENT or REFUND) and
    /// refundId; other columns are not read. - is stdin
    #[arg(value_name = "FILE")]
    file: String,
    /// Channel whose statement it is
    #[arg(long)]
    channel: String,
    /// Day of the statement (statistics.time_zone): payments of this day must be in it
    #[arg(long, value_name = "YYYY-MM-DD")]
    date: Date,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    #[serde(rename = "type", default)]
    what: String,
    transaction_no: String,
    payment_id: String,
    #[serde(default)]
    refund_id: String,
    amount: String,
    currency: String,
}

/// A difference between a statement and what is on record.
#[derive(Debug, Serialize, Tabled, ToSchema)]
#[serde(rename_all = "camelCase")]
#[tabled(rename_all = "UPPERCASE")]
pub(in crate::cmd) struct Row {
    /// unknown, not_paid, other_transaction, amount, currency, not_refunded, repeated or missing.
    difference: String,
    /// Line of the file; null for what is missing there.
    #[tabled(display("or_dash"))]
    line: Option<u64>,
    /// PAYMENT or REFUND.
    #[serde(rename = "type")]
    #[tabled(rename = "TYPE")]
    what: &'static str,
    /// Our payment.
    #[tabled(rename = "PAYMENT")]
    payment_id: String,
    /// Our refund, of a refund.
    #[tabled(rename = "REFUND", display("text_or_dash"))]
    refund_id: Option<String>,
    /// The channel's number.
    #[tabled(rename = "TRANSACTION")]
    transaction_no: String,
    /// What the statement says.
    statement: String,
    /// What is on record.
    record: String,
}

fn or_dash(number: &Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn text_or_dash(text: &Option<String>) -> String {
    text.clone().unwrap_or_else(|| "-".to_owned())
}

impl From<Difference> for Row {
    fn from(difference: Difference) -> Self {
        let Difference { kind, number, what, payment_id, refund_id, transaction_no, statement, record } = difference;
        Self {
            difference: kind.name().to_owned(),
            line: number,
            what: if what == What::Refund { "REFUND" } else { "PAYMENT" },
            payment_id: payment_id.to_string(),
            refund_id: (what == What::Refund).then(|| refund_id.to_string()),
            transaction_no,
            statement,
            record,
        }
    }
}

/// Runs `ruyi payment reconcile`: exit 1 when anything differs.
///
/// # Errors
/// The file cannot be read, a line of it has not the form, or the database cannot be read.
pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    if !context.config.payment.channels.contains_key(&args.channel) {
        let known: Vec<&str> = context.config.payment.channels.keys().map(String::as_str).collect();
        let known = known.join(", ");
        return Err(Usage(format!("there is no channel {:?}: the configuration has {known}", args.channel)).into());
    }
    let file: Box<dyn Read + Send> = match args.file.as_str() {
        "-" => Box::new(std::io::stdin()),
        path => Box::new(std::fs::File::open(path).with_context(|| format!("cannot read {path}"))?),
    };
    let zone = context.config.statistics.zone();
    let begin = |date: Date| date.to_zoned(zone.clone()).map(|at| at.timestamp().as_millisecond());
    let (from_ms, to_ms) = (begin(args.date)?, begin(args.date.tomorrow()?)?);
    let db = audit::open_role(context, Role::Payment).await?;
    let scope = Scope { channel_id: args.channel.clone(), from_ms, to_ms };
    let compared = compare(Comparison::new(&db, scope), file).await;
    db.close().await;
    let (differences, lines, matched) = compared.with_context(|| format!("cannot reconcile {}", args.file))?;
    let found = differences.len();
    Output::stdout(context.format()).rows(differences.into_iter().map(Row::from))?;
    eprintln!("{} of {}: {lines} lines, {matched} fit, {found} differences", args.channel, args.date);
    Ok(if found == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn compare(
    mut comparison: Comparison<'_>,
    file: Box<dyn Read + Send>,
) -> anyhow::Result<(Vec<Difference>, usize, u64)> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(file);
    let headers = reader.headers().context("cannot read the header")?.clone();
    for wanted in ["paymentId", "transactionNo", "amount", "currency"] {
        anyhow::ensure!(
            headers.iter().any(|name| name == wanted),
            "the header has no {wanted}: wanted are paymentId, transactionNo, amount, currency, and for refunds type and refundId"
        );
    }
    let (mut lines, mut batch) = (0, Vec::with_capacity(BATCH));
    for record in reader.deserialize::<Record>() {
        let record = record?;
        lines += 1;
        // The header is the first line.
        let number = u64::try_from(lines)? + 1;
        batch.push(line(number, &record).with_context(|| format!("line {number}"))?);
        if batch.len() == BATCH {
            comparison.lines(&batch).await?;
            batch.clear();
        }
    }
    comparison.lines(&batch).await?;
    comparison.missing().await?;
    Ok((comparison.differences, lines, comparison.matched))
}

fn line(number: u64, record: &Record) -> anyhow::Result<Line> {
    let what = match record.what.to_ascii_uppercase().as_str() {
        "" | "PAYMENT" => What::Payment,
        "REFUND" => What::Refund,
        other => anyhow::bail!("type must be PAYMENT or REFUND, and is {other:?}"),
    };
    let payment_id: PaymentId = record.payment_id.parse()?;
    let refund_id = match what {
        What::Payment => 0,
        What::Refund => record.refund_id.parse::<RefundId>()?.0,
    };
    let amount: Money = record.amount.parse()?;
    Ok(Line {
        number,
        what,
        transaction_no: record.transaction_no.clone(),
        payment_id: payment_id.0,
        refund_id,
        amount,
        currency: record.currency.clone(),
    })
}
