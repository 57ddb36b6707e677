//! `ruyi payment reconcile`: a channel's own statement of a day against what is on record.

mod form;
mod line;
mod totals;

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use encoding_rs::Encoding;
use jiff::civil::Date;
use serde::Serialize;
use tabled::Tabled;
use utoipa::ToSchema;

use crate::audit::statement::{Comparison, Difference, Line, Scope, Sums, What};
use crate::cmd::csv_file::{self, RecordError, Records};
use crate::cmd::{Context, Usage, WithHelp as _, audit, exit};
use crate::domain::event::Role;
use crate::output::{Output, printable};
use form::{Form, Layout, Renamed};
use totals::{Around, Totals};

/// Lines compared at once.
const BATCH: usize = 1_000;
/// Lines that cannot be read and are told one by one.
const TOLD_AT_MOST: u64 = 100;
/// Differences between a file and what is on record: with more it is a file of something else.
const DIFFERENCES_MAX: usize = 1_000_000;
/// Exit code: not all of the statement was compared.
const INCOMPLETE: u8 = 3;

/// Arguments of `ruyi payment reconcile`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The statement as CSV; - is stdin. Columns that are not needed are not read
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Channel whose statement it is
    #[arg(long)]
    channel: String,
    /// Day of the statement (statistics.time_zone): payments and refunds of this day must be in it
    #[arg(long, value_name = "YYYY-MM-DD")]
    date: Date,
    /// Whose form it has
    #[arg(long, value_enum, default_value_t = Form::Ruyi)]
    format: Form,
    /// What the file calls columns, where it is not as the form says: amount=Total,paymentId="Order no". The columns are
    /// type, transactionNo, paymentId, refundId, amount, refundAmount, refundStatus, currency and received
    #[arg(long, value_name = "COLUMN=NAME", value_delimiter = ',')]
    columns: Vec<Renamed>,
    /// Its encoding: utf-8, gbk, gb18030, big5, ... [default: UTF-8 if the header is that, else GB18030]
    #[arg(long, value_name = "NAME", value_parser = csv_file::encoding)]
    encoding: Option<&'static Encoding>,
}

/// A difference between a statement and what is on record.
#[derive(Debug, Serialize, Tabled, ToSchema)]
#[serde(rename_all = "camelCase")]
#[tabled(rename_all = "UPPERCASE")]
pub(in crate::cmd) struct Row {
    /// unknown, not_paid, other_transaction, amount, currency, not_refunded, repeated, missing or totals.
    difference: String,
    /// Line of the file; null for what is missing there.
    #[tabled(display("or_dash"))]
    line: Option<u64>,
    /// PAYMENT, REFUND, or TOTAL of both.
    #[serde(rename = "type")]
    #[tabled(rename = "TYPE")]
    what: &'static str,
    /// Our payment, or what the statement has in its place; empty of totals.
    #[tabled(rename = "PAYMENT")]
    payment_id: String,
    /// Our refund, or what the statement has in its place, of a refund.
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
        let Difference { kind, number, what, payment, refund, transaction_no, statement, record } = difference;
        Self {
            difference: kind.name().to_owned(),
            line: number,
            what: match what {
                What::Payment => "PAYMENT",
                What::Refund => "REFUND",
                What::Total => "TOTAL",
            },
            payment_id: payment,
            refund_id: (what == What::Refund).then_some(refund),
            transaction_no,
            statement,
            record,
        }
    }
}

/// Runs `ruyi payment reconcile`: 0 nothing differs, 1 something does, 3 not all of it could be compared.
///
/// # Errors
/// The command line asks for what is not there. What else goes wrong is told, and is the exit code 3.
pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    if !context.config.payment.channels.contains_key(&args.channel) {
        let known: Vec<&str> = context.config.payment.channels.keys().map(String::as_str).collect();
        let known = known.join(", ");
        return Err(Usage(format!("there is no channel {:?}: the configuration has {known}", args.channel)).into());
    }

    let file = args.file.display().to_string();
    let compared = reconcile(context, &args).await.with_context(|| format!("cannot reconcile {file}"));
    Ok(exit::conclude_as(compared, INCOMPLETE))
}

async fn reconcile(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let mut records = Records::new(csv_file::open(&args.file)?);
    let layout = Layout::read(&mut records, args.format, args.encoding, &args.columns)
        .help("--format says whose form the file has, --columns what it calls its columns, --encoding its encoding")?;

    let zone = context.config.statistics.zone();
    let begin = |date: Date| date.to_zoned(zone.clone()).map(|at| at.timestamp().as_millisecond());
    let (from_ms, to_ms) = (begin(args.date)?, begin(args.date.tomorrow()?)?);
    let db = audit::open_role(context, Role::Payment).await?;
    let scope = Scope { channel_id: args.channel.clone(), from_ms, to_ms };
    let mut reading = Reading::new(Comparison::new(&db, scope), layout);
    let compared = reading.all(records).await;
    let Reading { comparison, totals, read, bad, is_cut, sums, .. } = reading;
    let (differences, matched, on_record) = (comparison.differences, comparison.matched, comparison.on_record);
    db.close().await;
    compared?;

    let differences: Vec<Difference> = differences.into_iter().chain(totals.differences()).collect();
    let found = differences.len();
    Output::stdout(context.format()).rows(differences.into_iter().map(Row::from))?;
    let (channel, date) = (&args.channel, args.date);
    eprintln!("{channel} of {date}: {read} lines, {matched} fit, {found} differences, {bad} lines cannot be read");
    eprintln!("the statement has {sums}; on record are {on_record}");
    if is_cut {
        eprintln!("the totals at the end of the file are missing: it is not whole; download it once more");
    }
    Ok(match (bad > 0 || is_cut, found) {
        (true, _) => ExitCode::from(INCOMPLETE),
        (false, 0) => ExitCode::SUCCESS,
        (false, _) => ExitCode::FAILURE,
    })
}

/// A statement on its way through the comparison.
struct Reading<'a> {
    comparison: Comparison<'a>,
    layout: Layout,
    totals: Totals,
    batch: Vec<Line>,
    /// Lines that could be read.
    read: u64,
    /// Lines that could not.
    bad: u64,
    /// The file ended before it named its totals.
    is_cut: bool,
    /// Of the lines that were read.
    sums: Sums,
}

impl<'a> Reading<'a> {
    fn new(comparison: Comparison<'a>, layout: Layout) -> Self {
        let batch = Vec::with_capacity(BATCH);
        let (totals, sums) = (Totals::default(), Sums::default());
        Self { comparison, layout, totals, batch, read: 0, bad: 0, is_cut: false, sums }
    }

    /// Compares every line that can be read, and tells of those that cannot.
    async fn all(&mut self, records: Records<impl Read>) -> anyhow::Result<()> {
        for record in records {
            match record {
                Ok(record) => {
                    if let Err(why) = self.take(&record) {
                        self.complain(record.line, &why);
                    }
                }
                Err(RecordError::Broken { line, why }) => self.complain(line, why),
                Err(error @ (RecordError::Endless { .. } | RecordError::Input(_))) => return Err(error.into()),
            }
            if self.batch.len() == BATCH {
                self.compare().await?;
            }
        }
        self.compare().await?;
        self.comparison.missing().await?;
        self.is_cut = self.layout.form.has_totals() && !self.totals.is_complete();
        Ok(())
    }

    async fn compare(&mut self) -> anyhow::Result<()> {
        self.comparison.lines(&self.batch).await?;
        let last = self.batch.last().map_or(0, |line| line.number);
        self.batch.clear();
        anyhow::ensure!(
            self.comparison.differences.len() <= DIFFERENCES_MAX,
            "line {last}: more than {DIFFERENCES_MAX} differences until here: see whether it is the statement of this \
             channel and day, and whether database.url names its payments"
        );
        Ok(())
    }

    fn take(&mut self, record: &csv_file::Record) -> Result<(), String> {
        if self.totals.take(record, &self.layout)? == Around::Read {
            return Ok(());
        }
        let entry = line::read(record, &self.layout)?;
        self.totals.add(&entry);
        self.read += 1;
        if let Some(line) = entry.line {
            self.sums.add(line.what, &line.currency, line.amount);
            self.batch.push(line);
        }
        Ok(())
    }

    fn complain(&mut self, number: u64, why: &str) {
        self.bad += 1;
        if self.bad <= TOLD_AT_MOST {
            eprintln!("error: line {number}: {}", printable(why));
        } else if self.bad == TOLD_AT_MOST + 1 {
            eprintln!("error: there are more of these lines, which are only counted");
        }
    }
}
