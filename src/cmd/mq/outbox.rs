//! `ruyi mq outbox`: what was sent, and sending it again.

mod again;
mod list;

use std::process::ExitCode;

use clap::Subcommand;

pub(in crate::cmd) use again::Redriven;
pub(in crate::cmd) use list::Row;

use crate::cmd::{Context, audit};
use crate::db::Db;
use crate::domain::event::Role;
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
    /// does what was sent less than mq.outbox.lease ago. Stopped half-way, the same command goes on where it was.
    #[command(
        after_help = "Examples:\n  ruyi mq outbox redrive --since 2h --dry-run\n  ruyi mq outbox redrive --since @2024-01-15T08:00 --event ORDER_CREATED --reason 'broker a lost its disk' --yes\n  ruyi mq outbox redrive --since 1h --status failed --yes\n  ruyi mq outbox redrive --ids 1001:ORDER_CREATED,1002:ORDER_CREATED --yes"
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

/// A database and the roles that share it.
pub(in crate::cmd) struct Part {
    /// Their names, comma-separated.
    pub roles: String,
    /// Without its password.
    pub shown: String,
    pub db: Db,
}

/// The databases of all roles, each once; or of one role.
pub(in crate::cmd) async fn open(context: &Context, only: Option<Role>) -> anyhow::Result<Vec<Part>> {
    let mut parts = Vec::new();
    for (url, roles) in context.config.databases(&Role::ALL) {
        if only.is_some_and(|only| !roles.contains(&only)) {
            continue;
        }
        let roles = roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(",");
        parts.push(Part { roles, shown: url.masked(), db: audit::open_one(context, &url).await? });
    }
    Ok(parts)
}

pub(in crate::cmd) async fn close(parts: &[Part]) {
    for part in parts {
        part.db.close().await;
    }
}

/// A role by its name.
pub(in crate::cmd) fn role(text: &str) -> Result<Role, String> {
    let known = Role::ALL.into_iter().find(|role| role.name() == text);
    known.ok_or_else(|| "say order, payment, stock or notify".to_owned())
}

/// A time gone by: how long ago, or `@2024-01-15T08:00`.
#[derive(Clone, Copy, Debug)]
pub(in crate::cmd) enum Since {
    /// Milliseconds ago.
    Ago(i64),
    /// Epoch ms.
    At(i64),
}

impl std::str::FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        use super::offsets::Position;
        match text.strip_prefix('@') {
            Some(_) => match text.parse() {
                Ok(Position::Ago(ms)) => Ok(Self::Ago(ms)),
                Ok(Position::At(at_ms)) => Ok(Self::At(at_ms)),
                _ => Err("say how long ago (2h), or a time: @2024-01-15T08:00".to_owned()),
            },
            None => {
                text.parse::<crate::config::Millis>().map(|ago| Self::Ago(ago.ms())).map_err(|error| error.to_string())
            }
        }
    }
}

impl Since {
    pub fn at_ms(self, now_ms: i64) -> i64 {
        match self {
            Self::Ago(ms) => now_ms - ms,
            Self::At(at_ms) => at_ms,
        }
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
