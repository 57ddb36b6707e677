//! `ruyi mq messages`: single messages of any topic, read without belonging to a group.

mod find;
mod row;
mod send;
mod tail;

use std::process::ExitCode;

use clap::Subcommand;

pub use row::Body;

use super::cluster::Cluster;
use crate::cmd::Context;

/// Arguments of `ruyi mq messages`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print one message whole, by its place or its id
    #[command(
        after_help = "Examples:\n  ruyi mq messages get ORDER_CREATED broker-a:0:17\n  ruyi mq messages get ORDER_CREATED 7F0000010001D4B8C5890A1F3C2E0000"
    )]
    Get(find::Get),
    /// Find messages by key or by when they were stored
    #[command(
        after_help = "Examples:\n  ruyi mq messages query ORDER_CREATED --key 382402245859213314\n  ruyi mq messages query ORDER_CREATED --from @-10m --to @-5m --output jsonl | jq .body"
    )]
    Query(find::Query),
    /// Follow a topic as messages come
    #[command(after_help = "Example:\n  ruyi mq messages tail ORDER_CREATED --tag ORDER_CREATED --contains TEA-1")]
    Tail(tail::Args),
    /// Send messages: one from the command line, or one per line of stdin
    #[command(
        after_help = "Examples:\n  ruyi mq messages send test-topic --key 7 --tag hello --body '{\"a\":1}' --yes\n  jq -c .body dead.jsonl | ruyi mq messages send test-topic --stdin --yes"
    )]
    Send(send::Args),
}

/// Runs `ruyi mq messages ...`.
///
/// # Errors
/// The cluster cannot be read or refuses.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Get(args) => Cluster::with(context, &args.place, async |mq| find::get(mq, &args).await).await,
        Command::Query(args) => {
            Cluster::with(context, &args.place, async |mq| find::query(context, mq, &args).await).await
        }
        Command::Tail(args) => {
            Cluster::with(context, &args.place, async |mq| tail::run(context, mq, &args).await).await
        }
        Command::Send(args) => {
            Cluster::with(context, &args.place, async |mq| send::run(context, mq, &args).await).await
        }
    }
}
