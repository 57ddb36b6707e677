//! `ruyi mq messages`: single messages of any topic, read without belonging to a group.

mod filter;
mod find;
mod row;
mod scan;
mod send;
mod tail;

use std::process::ExitCode;

use clap::Subcommand;

pub use row::Body;
pub(in crate::cmd) use row::{Row, Whole};
pub(in crate::cmd) use scan::Scan;
pub(in crate::cmd) use send::Sent;

use super::cluster::{Cluster, Where};
use crate::cmd::Context;

/// Arguments of `ruyi mq messages`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Where,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print one message whole, by its place or its id
    ///
    /// An id is looked up in the brokers' index; where that has nothing, a topic of up to 100,000 messages is read.
    #[command(
        after_help = "Examples:\n  ruyi mq messages get ORDER_CREATED broker-a:0:17\n  ruyi mq messages get ORDER_CREATED 7F0000010001D4B8C5890A1F3C2E0000"
    )]
    Get(find::Get),
    /// Find messages by key or by when they were stored
    ///
    /// They come in the order in which they were stored, over all queues and brokers. A key is looked up in the
    /// brokers' index; where that has nothing, up to 100,000 messages are read instead, and --scan reads any number.
    #[command(
        after_help = "Examples:\n  ruyi mq messages query ORDER_CREATED --key 382402245859213314\n  ruyi mq messages query ORDER_CREATED --from @-10m --to @-5m --output jsonl | jq .body\n  ruyi mq messages query ORDER_CREATED --from @2024-01-15T08:00 --contains TEA-1 --limit 1000"
    )]
    Query(find::Query),
    /// Follow a topic as messages come
    ///
    /// Goes on until Ctrl-C. A broker that goes away is waited for; new queues and brokers are followed, too.
    #[command(
        after_help = "Examples:\n  ruyi mq messages tail ORDER_CREATED --contains TEA-1\n  ruyi mq messages tail ORDER_CREATED --since 10m --output jsonl | jq .body.orderId"
    )]
    Tail(tail::Args),
    /// Send messages: one from the command line, or one per line of stdin
    ///
    /// On a topic of ruyi's events each body has to follow the event's schema; one that does not is not sent, and its
    /// fault is told.
    #[command(
        after_help = "Examples:\n  ruyi mq messages send test-topic --key 7 --tag hello --body '{\"a\":1}' --yes\n  ruyi mq messages send test-topic --body late --after 90s --yes\n  jq -c .body dead.jsonl | ruyi mq messages send test-topic --stdin --rps 100 --yes"
    )]
    Send(send::Args),
}

/// Runs `ruyi mq messages ...`.
///
/// # Errors
/// The cluster cannot be read or refuses.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    Cluster::with(context, &args.place, async |mq| match args.command {
        Command::Get(args) => find::get(context, mq, &args).await,
        Command::Query(args) => find::query(context, mq, &args).await,
        Command::Tail(args) => tail::run(context, mq, &args).await,
        Command::Send(args) => send::run(context, mq, &args).await,
    })
    .await
}
