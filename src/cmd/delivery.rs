//! `ruyi delivery`: outgoing calls, what was said, and making them once more or taking them back.

mod change;
mod list;
mod show;

use std::process::ExitCode;

use clap::Subcommand;

pub(super) use change::Changed;
pub(super) use list::Row;
pub(super) use show::Whole;

use super::Context;
use super::parts::{self, Since};
use crate::db::delivery::log::Filter;
use crate::db::delivery::{Kind, Status};
use crate::delivery::Providers;
use crate::domain::event::Role;

/// Arguments of `ruyi delivery`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List outgoing calls, newest first
    ///
    /// Of every role's database, or of one. Messages to users, and calls to channels and to the warehouse, go where the
    /// configuration says when they are made: shown is where that is by the configuration of this command.
    #[command(
        after_help = "Examples:\n  ruyi delivery list --state dead\n  ruyi delivery list --kind merchant --target shop.example:443 --since 1h --output jsonl\n  ruyi delivery list --order 382402245859213314"
    )]
    List(list::Args),
    /// Show a call with its attempts: what was sent, what was answered
    ///
    /// Secrets and personal data are masked, long bodies are cut.
    #[command(after_help = "Examples:\n  ruyi delivery show 382402245859213314 --output json")]
    Show(show::Args),
    /// Make calls once more, now, with the same Idempotency-Key
    ///
    /// Those named, or those that a filter finds: without --state, what is dead, refused or canceled. Their schedule
    /// begins anew. A refund that has failed is asked for in its own way. Whoever makes the calls of their role finds them within seconds.
    #[command(
        after_help = "Examples:\n  ruyi delivery resend 382402245859213314 --yes\n  ruyi delivery resend --kind merchant --state dead --since 2d --dry-run\n  ruyi delivery resend --target shop.example --reason 'their server is back' --rps 20 --yes"
    )]
    Resend(change::Args),
    /// Take back calls that are still to be made
    ///
    /// Refunds are not taken back: their channel may have paid. A call that is being made at this moment counts all the
    /// same when it is answered well.
    #[command(
        after_help = "Examples:\n  ruyi delivery cancel 382402245859213314 --reason 'sent by hand' --yes\n  ruyi delivery cancel --kind merchant --target gone.example --dry-run"
    )]
    Cancel(change::Args),
}

/// Runs `ruyi delivery ...`.
///
/// # Errors
/// A database cannot be read or written.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List(args) => list::run(context, &args).await,
        Command::Show(args) => show::run(context, &args).await,
        Command::Resend(args) => change::run(context, &args, change::What::Resend).await,
        Command::Cancel(args) => change::run(context, &args, change::What::Cancel).await,
    }
}

/// Which calls.
#[derive(Debug, clap::Args)]
struct Which {
    /// Only of this kind: merchant, warehouse, channel_submit, channel_refund, alert, ...
    #[arg(long, value_name = "KIND", value_parser = kind)]
    kind: Option<Kind>,
    /// Only those that stand so: pending, done, dead, refused, canceled or unsent
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Option<Status>,
    /// Only to this host, or host:port; "own" for calls of a process to itself
    #[arg(long, value_name = "HOST", value_parser = target)]
    target: Option<String>,
    /// Only what was recorded since then: 2h, @2024-01-15T08:00
    #[arg(long, value_name = "TIME")]
    since: Option<Since>,
    /// Only about this order
    #[arg(long, value_name = "ORDER", value_parser = clap::value_parser!(i64).range(1..))]
    order: Option<i64>,
    /// Only the database of this role
    #[arg(long, value_name = "ROLE", value_parser = parts::role)]
    role: Option<Role>,
}

impl Which {
    fn filter(&self, now_ms: i64, providers: &Providers) -> Filter {
        Filter {
            kinds: self.kind.map(|kind| vec![kind]),
            status: self.state,
            target: self.target.clone(),
            elsewhere: self.target.as_deref().map(|target| providers.going_to(target)).unwrap_or_default(),
            since_ms: self.since.map(|since| since.at_ms(now_ms)),
            order_id: self.order,
        }
    }

    /// Something narrows it down.
    fn is_any(&self) -> bool {
        self.kind.is_some()
            || self.state.is_some()
            || self.target.is_some()
            || self.since.is_some()
            || self.order.is_some()
    }
}

fn kind(text: &str) -> Result<Kind, String> {
    Kind::from_name(text).ok_or_else(|| format!("say one of {}", Kind::ALL.map(Kind::name).join(", ")))
}

fn state(text: &str) -> Result<Status, String> {
    Status::from_name(text).ok_or_else(|| "say pending, done, dead, refused, canceled or unsent".to_owned())
}

fn target(text: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    if text.is_empty() || !text.chars().all(fine) {
        return Err("say a host or host:port, without http:// and path".to_owned());
    }
    Ok(text.to_ascii_lowercase())
}
