//! `ruyi mq dlq`: dead letters of any group. Reading them belongs to no group and moves no offset.

pub(in crate::cmd) mod discard;
pub(in crate::cmd) mod edit;
mod filter;
mod letter;
mod pace;
mod read;
pub(in crate::cmd) mod replay;
pub(in crate::cmd) mod show;
mod state;
pub(in crate::cmd) mod transfer;

use std::process::ExitCode;

use clap::Subcommand;
use serde::Serialize;

pub(super) use letter::LetterId;
pub(in crate::cmd) use show::Depth;

use self::filter::Filter;
use super::cluster::{Cluster, Where};
use crate::cmd::Context;

/// What the journal says of a bulk.
#[derive(Serialize)]
struct What<'a> {
    group: &'a str,
    filter: &'a Filter,
    letters: u64,
}

/// Arguments of `ruyi mq dlq`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Where,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List groups that have dead letters: how many, how old
    #[command(after_help = "Example:\n  ruyi mq dlq list")]
    List(show::List),
    /// Print the dead letters of a group, one row each
    ///
    /// Bodies are in the JSON outputs, whole. A letter that was replayed or discarded from this data_dir is left out,
    /// though RocketMQ keeps it until it expires.
    #[command(
        after_help = "Examples:\n  ruyi mq dlq browse stock-consumer-group --event ORDER_CREATED --since 2h\n  ruyi mq dlq browse stock-consumer-group --because \"no such SKU\" --output jsonl | jq .body"
    )]
    Browse(show::Browse),
    /// Print one dead letter whole: body, properties, origin
    #[command(after_help = "Example:\n  ruyi mq dlq show stock-consumer-group broker-a:0:17")]
    Show(show::Show),
    /// Count dead letters by what went wrong: event and reason, with ids and numbers masked
    #[command(after_help = "Example:\n  ruyi mq dlq group stock-consumer-group")]
    Group(show::Group),
    /// Give dead letters to the group that failed, and to no other
    ///
    /// Each goes as it is, with all that its producer gave it, the same event id, and the properties dlqReplays,
    /// dlqLetter and dlqBorn; to a group of ruyi, dlqReplayId as well, by which its inbox tells replays apart. What was
    /// sent is noted under data_dir: run it again after an interruption, and it goes on. A body that is compressed and
    /// that ruyi could not decompress is not sent: its letter is named, and stays where it is.
    #[command(
        after_help = "Examples:\n  ruyi mq dlq replay stock-consumer-group --event ORDER_CREATED --dry-run\n  ruyi mq dlq replay stock-consumer-group --fingerprint 1f0a44c2 --rps 200 --max-fail 5 --reason \"fixed in 1.4.2\" --yes"
    )]
    Replay(replay::Args),
    /// Change the body of a dead letter before it is replayed; the original stays as it is
    ///
    /// What is written in the editor lies in a draft under data_dir until it is stored, whatever ends the editor or ruyi.
    #[command(
        after_help = "Examples:\n  ruyi mq dlq edit stock-consumer-group broker-a:0:17 --field totalAmount=59.80 --yes\n  EDITOR=vim ruyi mq dlq edit stock-consumer-group broker-a:0:17\n  ruyi mq dlq edit stock-consumer-group broker-a:0:17 --body mended.json --yes"
    )]
    Edit(edit::Args),
    /// Write dead letters as JSON lines, byte for byte
    #[command(after_help = "Example:\n  ruyi mq dlq export stock-consumer-group > dead.jsonl")]
    Export(transfer::Export),
    /// Put exported dead letters back into the dead letter topic of their group
    ///
    /// All lines are checked before the first one is sent. After an interruption the same file goes on where it stopped.
    #[command(after_help = "Example:\n  ruyi mq dlq import dead.jsonl --yes")]
    Import(transfer::Import),
    /// Take dead letters out of sight: they are listed and replayed no more
    ///
    /// It is noted under data_dir only: RocketMQ keeps them until they expire.
    #[command(
        after_help = "Example:\n  ruyi mq dlq discard stock-consumer-group --fingerprint 1f0a44c2 --reason \"test orders\" --yes"
    )]
    Discard(discard::Args),
}

/// Runs `ruyi mq dlq ...`.
///
/// # Errors
/// The cluster cannot be read or refuses.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    Cluster::with(context, &args.place, async |mq| match args.command {
        Command::List(args) => show::list(context, mq, &args).await,
        Command::Browse(args) => show::browse(context, mq, &args).await,
        Command::Show(args) => show::one(context, mq, &args).await,
        Command::Group(args) => show::group(context, mq, &args).await,
        Command::Replay(args) => replay::run(context, mq, &args).await,
        Command::Edit(args) => edit::run(context, mq, &args).await,
        Command::Export(args) => transfer::export(context, mq, &args).await,
        Command::Import(args) => transfer::import(context, mq, &args).await,
        Command::Discard(args) => discard::run(context, mq, &args).await,
    })
    .await
}
