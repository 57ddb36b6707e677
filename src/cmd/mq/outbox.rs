//! `ruyi mq outbox`: what was sent, and sending it again.

mod again;
mod list;

use std::process::ExitCode;

use clap::Subcommand;

pub(in crate::cmd) use again::Redriven;
pub(in crate::cmd) use list::Row;

use crate::cmd::Context;
use crate::mq::rocketmq::DLQ_PREFIX;

/// Arguments of `ruyi mq outbox`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the events that were written to be sent, newest first
    ///
    /// Of every role's database, or of one. Sent rows are kept for retention.sent.
    #[command(
        after_help = "Examples:\n  ruyi mq outbox list --status failed\n  ruyi mq outbox list --since 1h --event ORDER_CREATED --limit 1000 --output jsonl\n  ruyi mq outbox list --key 382402245859213314"
    )]
    List(list::Args),
    /// Send events again, with the same event ids
    ///
    /// For what a broker lost, or for what was given up. The rows become pending again, a batch a transaction, and
    /// whoever sweeps the outbox (every role's process, `ruyi worker retry`) sends them in their order. Consumers drop
    /// what they have handled. Rows that wait to be sent anyway, and events that were taken back, stay as they are; so
    /// does what was sent less than mq.outbox.lease ago. Stopped half-way, the same command goes on where it was; after
    /// 10 minutes, unless both its times are absolute, it has to be said whether that is meant (--continue) or a new run
    /// (--anew).
    #[command(
        after_help = "Examples:\n  ruyi mq outbox redrive --since 2h --dry-run\n  ruyi mq outbox redrive --since @2024-01-15T08:00 --event ORDER_CREATED --reason 'broker a lost its disk' --yes\n  ruyi mq outbox redrive --since 1h --status failed --yes\n  ruyi mq outbox redrive --since 1h --status failed --continue --yes\n  ruyi mq outbox redrive --ids 1001:ORDER_CREATED,1002:ORDER_CREATED --yes"
    )]
    Redrive(again::Args),
}

/// Runs `ruyi mq outbox ...`.
///
/// # Errors
/// A database cannot be read or written.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List(args) => list::run(context, &args).await,
        Command::Redrive(args) => again::run(context, &args).await,
    }
}

/// A topic of the outbox as it is stored: the event's name.
fn event(text: &str) -> Result<String, String> {
    if text.starts_with(DLQ_PREFIX) {
        Ok(text.to_owned())
    } else {
        super::kind(text).map(|kind| kind.name().to_owned())
    }
}
