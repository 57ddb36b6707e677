//! `ruyi check`: plugins for Nagios, Icinga, Zabbix and whatever else reads four exit codes.

mod broker;
mod cluster;
mod range;
mod report;
mod tables;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::Subcommand;

use super::Context;
use super::mq::cluster::Where;
use crate::config::Millis;
use crate::output::{Format, Output, OutputError};
use range::Range;
use report::{Limits, Report, Status};

pub(in crate::cmd) use broker::taking;
pub(in crate::cmd) use report::Row;

/// Answer one question for a monitoring system, in one line and with its exit code
///
/// Each check prints a line as the Monitoring Plugins guidelines want it, `BACKLOG OK - 12 messages behind in 10
/// groups | 'order-consumer-group'=12;1000;10000;0`, then a line for each thing that is not fine when there are
/// several. The worst decides: critical, then warning, then unknown. With --output json or jsonl the same comes as rows.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN: it could not be found out (wrong usage, too, and a database that \
does not answer; only `check broker` is CRITICAL when nobody answers).

Ranges of --warn and --crit say what is fine: 10 is 0 to 10, 10: is 10 and more, ~:10 is 10 and less, 10:20 is between \
the two, @10:20 is anything but between the two.

Examples:
  ruyi check backlog --warn 1000 --crit 10000
  ruyi check dlq --group order-consumer-group --since 1h
  ruyi check broker --warn 3: --crit 2: --namesrv 10.0.0.1:9876")]
pub struct Args {
    /// Not done after this is UNKNOWN
    #[arg(long, global = true, value_name = "DURATION", default_value = "10s", help_heading = "Check options")]
    timeout: Millis,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// How far consumer groups are behind, in messages and in seconds
    ///
    /// Messages that a group has not consumed, of each group. A lag that is not known of every queue is UNKNOWN, never
    /// 0, unless what is known is too much already. A queue in which messages wait and which none of the members of its
    /// group has is CRITICAL, however few they are.
    #[command(after_help = "\
Defaults: --crit is the group's backlog.groups threshold (10000 unless it is set), --warn a tenth of it; ages are read
only when --warn-age or --crit-age is given. Queues without an owner are looked at a second time, 3 s later.

Examples:
  ruyi check backlog
  ruyi check backlog --group my-group --warn 500 --crit 5000
  ruyi check backlog --group my-group --crit-age 300")]
    Backlog(cluster::Backlog),

    /// Dead letters of consumer groups
    ///
    /// What lies in the %DLQ% topics of all groups of the cluster, or of those that are named: all of it, or only what
    /// died within --since.
    #[command(after_help = "\
Defaults: --warn 0 (any is a warning), --crit 100.

Examples:
  ruyi check dlq
  ruyi check dlq --since 1h --crit 0
  ruyi check dlq --group my-group --warn 10")]
    Dlq(cluster::Dlq),

    /// Events that should have been sent by now, and those that were given up
    ///
    /// For each database: how many seconds ago the oldest row that waits should have been sent, and how many rows were
    /// given up (`ruyi mq outbox redrive` sends them again).
    #[command(after_help = "\
Defaults: --warn 60, --crit 300 (seconds); --warn-failed 0 (any is a warning), --crit-failed 10.

Example:
  ruyi check outbox --crit 120")]
    Outbox(tables::Outbox),

    /// Messages that wait for another attempt
    ///
    /// For each group: how many are parked, and how many seconds ago the first of them should have been tried: that
    /// grows only when no process of the role, and no `ruyi worker retry`, works.
    #[command(after_help = "\
Defaults: --warn 100, --crit 1000 (messages); --warn-late 60, --crit-late 300 (seconds).

Example:
  ruyi check retry --group stock-consumer-group --warn 10")]
    Retry(tables::Retry),

    /// Outgoing calls that should have been made by now, and those that were given up
    ///
    /// For each database: how many seconds ago the first call that waits should have been made, and how many calls were
    /// given up or refused for good among those of the time of --since.
    #[command(after_help = "\
Defaults: --warn 60, --crit 300 (seconds); --warn-failed 0 (any is a warning), --crit-failed 100; --since 24h.

Example:
  ruyi check delivery --since 1h --crit-failed 10")]
    Delivery(tables::Delivery),

    /// Whether the brokers answer and take messages
    ///
    /// Counts the master brokers that answer, may be written to and have room, as far as they say so: nothing is
    /// written. CRITICAL when there is none.
    #[command(after_help = "\
Defaults: --warn is all masters that the name servers know, --crit 1: (at least one). Name servers forget a broker that \
has gone: say how many there have to be, with --warn 3: for example.

Examples:
  ruyi check broker
  ruyi check broker --warn 3: --crit 2:")]
    Broker(broker::Broker),
}

/// What of a check is known before it runs: enough to say that it could not.
#[derive(Clone, Copy, Debug)]
pub struct Plugin {
    name: &'static str,
    output: Option<Format>,
}

impl Args {
    /// For errors that come before the check.
    #[must_use]
    pub fn plugin(&self, output: Option<Format>) -> Plugin {
        let name = match self.command {
            Command::Backlog(_) => "BACKLOG",
            Command::Dlq(_) => "DLQ",
            Command::Outbox(_) => "OUTBOX",
            Command::Retry(_) => "RETRY",
            Command::Delivery(_) => "DELIVERY",
            Command::Broker(_) => "BROKER",
        };
        Plugin { name, output }
    }
}

impl Plugin {
    /// Ends the program: an error is UNKNOWN, told on stdout, as monitoring systems want it.
    #[must_use]
    pub fn conclude(self, result: anyhow::Result<ExitCode>) -> ExitCode {
        let error = match result {
            Ok(code) => return code,
            Err(error) => error,
        };
        // Nothing can be done when stdout is gone, too.
        let _ = self.write(&Report::failed(self.name, Status::Unknown, &format!("{error:#}")));
        ExitCode::from(Status::Unknown.code())
    }

    fn write(self, report: &Report) -> Result<(), OutputError> {
        match self.output {
            Some(format @ (Format::Json | Format::Jsonl)) => Output::stdout(format).rows(&report.rows),
            _ => {
                let mut out = std::io::stdout().lock();
                out.write_all(report.text().as_bytes())?;
                Ok(out.flush()?)
            }
        }
    }
}

/// Ends the program as clap does; a check that was asked for wrongly is UNKNOWN, and says so on stdout as well.
pub(super) fn exit_with(error: &clap::Error, args: &[OsString]) -> ! {
    if error.use_stderr() && is_check(args) {
        let text = error.to_string();
        let what = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let report = Report::failed("CHECK", Status::Unknown, &format!("wrong usage: {what}"));
        // Nothing can be done when stdout is gone, too.
        let _ = Plugin { name: "CHECK", output: None }.write(&report);
        let _ = error.print();
        std::process::exit(Status::Unknown.code().into());
    }
    error.exit()
}

/// Whether the first word of the command line that is no option is `check`.
fn is_check(args: &[OsString]) -> bool {
    let mut args = args.iter().skip(1).map(|arg| arg.to_string_lossy());
    while let Some(arg) = args.next() {
        match arg.as_ref() {
            "--config" | "--set" | "--output" | "-o" => drop(args.next()),
            option if option.starts_with('-') => {}
            word => return word == "check",
        }
    }
    false
}

/// Runs a check.
///
/// # Errors
/// What kept it from finding anything out.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let plugin = args.plugin(context.asked_output);
    let (context, limit) = (context.clone(), args.timeout);
    // In a task: what hangs is left behind, not waited for.
    let work = tokio::spawn(async move {
        match args.command {
            Command::Backlog(args) => cluster::backlog(&context, &args).await,
            Command::Dlq(args) => cluster::dlq(&context, &args).await,
            Command::Outbox(args) => tables::outbox(&context, &args).await,
            Command::Retry(args) => tables::retry(&context, &args).await,
            Command::Delivery(args) => tables::delivery(&context, &args).await,
            Command::Broker(args) => broker::run(&context, &args).await,
        }
    });
    let report = match tokio::time::timeout(limit.duration(), work).await {
        Ok(Ok(Ok(report))) => report,
        Ok(Ok(Err(error))) => Report::failed(plugin.name, Status::Unknown, &format!("{error:#}")),
        Ok(Err(stopped)) => Report::failed(plugin.name, Status::Unknown, &stopped.to_string()),
        Err(_) => Report::failed(plugin.name, Status::Unknown, &format!("not done within {limit}")),
    };
    let written = plugin.write(&report);
    // At once: clients and pools would take their time to close, and a plugin has no time and nothing to lose.
    let code = if written.is_ok() { report.status().code() } else { Status::Unknown.code() };
    std::process::exit(code.into())
}

/// What the two options say, or else the defaults.
fn limits(warn: Option<Range>, crit: Option<Range>, default_warn: Range, default_crit: Range) -> Limits {
    Limits { warn: warn.or(Some(default_warn)), crit: crit.or(Some(default_crit)) }
}

#[expect(clippy::cast_precision_loss, reason = "counts and times of monitoring")]
fn float(count: i64) -> f64 {
    count as f64
}

/// Seconds since `at_ms`; nothing since then is 0.
fn seconds_since(at_ms: Option<i64>, now_ms: i64) -> f64 {
    at_ms.map_or(0.0, |at| float((now_ms - at).max(0)) / 1000.0)
}
