//! `ruyi db prune`: retention.

use std::io::IsTerminal;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use utoipa::ToSchema;

use super::targets;
use crate::cmd::audit::open;
use crate::cmd::confirm::Change;
use crate::cmd::journal::{self, rfc3339};
use crate::cmd::{Context, Failed, Usage, WithHelp};
use crate::config::{Config, Millis};
use crate::prune::{self, Options, Summary, Table, Target};

/// How long brokers keep messages, half messages and dead letters unless they are told otherwise
/// (`fileReservedTime`, 72 h).
const BROKER_KEEPS_MS: i64 = 3 * 86_400_000;

/// Arguments of `ruyi db prune`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Tables, and what each keeps at least (a shorter --older-than is refused):
  message_record       sent events              retention.sent
  message_process_log  what groups have handled retention.inbox, retention.sent, and retries + 3 days
  message_retry_log    messages tried again     retention.inbox
  delivery_attempt     attempts of calls that were answered well   retention.sent
  message_tx_state     decided transactions     retention.inbox, and 3 days
  delivery             settled calls that told somebody something  as message_process_log

Whatever its age, nothing goes that is still needed: events that are pending, given up or taken back, events that one
of their groups has not handled, what was handled of an event that is still in the send log, open retries, calls that
were not answered well, and calls about money or to the warehouse. (A dry run may count a few inbox rows more.) Each batch is a small transaction by primary key; stopped half-way, the next run goes on.

Examples:
  ruyi db prune --dry-run
  ruyi db prune --yes
  ruyi db prune --table message_record --older-than 14d --batch-size 1000 --pause 20ms --yes")]
pub struct Args {
    /// Only rows that were done with longer ago than this [default: what each table keeps at least]
    #[arg(long, value_name = "DURATION")]
    older_than: Option<Millis>,
    /// Only this table; may be repeated
    #[arg(long = "table", value_name = "TABLE", value_parser = Table::ALL.map(Table::name))]
    tables: Vec<String>,
    /// Rows looked at and deleted in one transaction
    #[arg(long, value_name = "ROWS", default_value_t = 500, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    batch_size: i64,
    /// Wait after each batch that deleted something
    #[arg(long, value_name = "DURATION", default_value = "50ms")]
    pause: Millis,
    #[command(flatten)]
    change: Change,
}

/// What became of one table.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct Row {
    table: &'static str,
    database: String,
    /// Rows that were done with before this are old.
    before: String,
    /// Rows looked at.
    scanned: u64,
    /// Rows deleted; in a dry run those that would be.
    pruned: u64,
    /// Old rows that are still needed.
    kept: u64,
    took_ms: u64,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// For how long a table is needed, and why.
fn window(config: &Config, table: Table) -> (i64, &'static str) {
    let (sent, inbox) = (config.retention.sent.ms(), config.retention.inbox.ms());
    match table {
        Table::Outbox => (sent, "retention.sent: the send log, which can be driven again and which the audit reads"),
        Table::Attempts => (sent, "retention.sent: the log of calls"),
        Table::Inbox => {
            let brokers = retries_ms(config) + BROKER_KEEPS_MS;
            let longest = inbox.max(sent).max(brokers);
            let why = if longest == inbox {
                "retention.inbox: for so long a message that comes again is known as a duplicate"
            } else if longest == sent {
                "retention.sent: what can still be driven again has to be known as a duplicate"
            } else {
                "the brokers keep messages and dead letters for 3 days, and retries come on top"
            };
            (longest, why)
        }
        Table::Retry => (inbox, "retention.inbox: for so long a dead letter may be sent again"),
        Table::Calls => {
            let why = "a message that comes again must find its call: for as long as it can come";
            (window(config, Table::Inbox).0, why)
        }
        Table::Transactions => {
            let why =
                "retention.inbox: a broker that asks about a transaction nobody knows is told to forget its message";
            (inbox.max(BROKER_KEEPS_MS), why)
        }
    }
}

/// From the first failure of a message to its last.
fn retries_ms(config: &Config) -> i64 {
    let retry = &config.mq.retry;
    let last = retry.schedule.last().map_or(0, |wait| wait.ms());
    let waits = (0..retry.max_attempts as usize).map(|at| retry.schedule.get(at).map_or(last, |wait| wait.ms()));
    // Jitter is at most the whole wait again.
    waits.sum::<i64>().saturating_mul(2)
}

fn plan(config: &Config, args: &Args) -> anyhow::Result<Vec<Target>> {
    let wanted = |table: &Table| args.tables.is_empty() || args.tables.iter().any(|name| name == table.name());
    let mut plan = Vec::new();
    for table in Table::ALL.into_iter().filter(wanted) {
        let (least_ms, why) = window(config, table);
        let older_than_ms = args.older_than.map_or(least_ms, Millis::ms);
        if older_than_ms < least_ms {
            let (asked, least) = (Millis::new(older_than_ms), Millis::new(least_ms));
            let text = format!("--older-than {asked}: {} is needed for {least} ({why})", table.name());
            return Err(Usage(text)).help(format!(
                "say --older-than {least}, or choose tables that may be shorter with --table, or change retention.*"
            ));
        }
        plan.push(Target { table, older_than_ms });
    }
    Ok(plan)
}

/// Runs `ruyi db prune`.
///
/// # Errors
/// A window that is too short; a database that cannot be opened.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let plan = plan(&context.config, &args)?;
    let dbs = open(context).await?;
    let asked: Vec<String> = plan
        .iter()
        .map(|target| format!("{} older than {}", target.table.name(), Millis::new(target.older_than_ms)))
        .collect();
    let go = args.change.approved(&format!("delete old rows for good: {}", asked.join(", ")));
    let go = match go {
        Ok(go) => go,
        Err(error) => {
            dbs.close().await;
            return Err(error);
        }
    };
    if !go && !args.change.dry_run {
        dbs.close().await;
        return Ok(ExitCode::SUCCESS);
    }
    if go {
        journal::record(context, "db prune", args.change.reason.as_deref(), &asked)?;
    }
    let options = Options {
        targets: plan,
        inbox_ms: window(&context.config, Table::Inbox).0,
        batch: args.batch_size,
        pause: args.pause.duration(),
        dry_run: !go,
    };
    let bar = spinner();
    let done = prune::run(&dbs, &options, |summary| {
        bar.set_message(format!("{}: {} of {} rows", summary.table.name(), summary.pruned, summary.scanned));
        bar.tick();
    })
    .await;
    bar.finish_and_clear();
    let shown: Vec<String> = targets(&context.config).into_iter().map(|target| target.shown).collect();
    dbs.close().await;
    print(context, &done, &shown, go)
}

fn print(context: &Context, done: &[Summary], databases: &[String], went: bool) -> anyhow::Result<ExitCode> {
    let mut output = context.output();
    let mut failed = Failed::default();
    for one in done {
        let database = databases.get(one.database).cloned().unwrap_or_default();
        if let Some(error) = &one.error {
            failed.note(&format!("{} in {database}", one.table.name()), error)?;
        }
        output.row(&Row {
            table: one.table.name(),
            database,
            before: rfc3339(one.before_ms),
            scanned: one.scanned,
            pruned: one.pruned,
            kept: one.kept,
            took_ms: u64::try_from(one.took.as_millis()).unwrap_or(u64::MAX),
            result: match (&one.error, went) {
                (Some(_), _) => "failed",
                (None, true) => "pruned",
                (None, false) => "would prune",
            },
            error: one.error.clone(),
        })?;
    }
    output.finish()?;
    Ok(failed.code())
}

/// On a terminal only.
fn spinner() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
    ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
}
