//! `ruyi mq`: operate a cluster.

#[cfg(feature = "embedded")]
pub mod broker;
pub mod cluster;
pub mod dlq;
pub mod messages;
pub mod offsets;
pub mod outbox;
mod silent;
pub mod topics;
pub mod tx;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};

use super::{Context, WithHelp};
use crate::domain::event::Kind;
use crate::mq::rocketmq::RocketMq;

/// Work with a cluster
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List, make, change and remove topics
    Topics(topics::Args),
    /// Look at dead letters, and give them back to the group that failed
    Dlq(dlq::Args),
    /// Find, follow and send messages
    Messages(messages::Args),
    /// See how far consumer groups are, and set it
    Offsets(offsets::Args),
    /// List what was sent, and send it again
    Outbox(outbox::Args),
    /// Run the embedded name server and broker until the process is told to stop
    #[cfg(feature = "embedded")]
    Broker(broker::Args),
    /// Look at transaction messages that the broker has given up asking about, and deliver those that are due
    Tx(tx::Args),
}

/// Runs the subcommand.
///
/// # Errors
/// Whatever the subcommand could not do.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Topics(args) => topics::run(context, args).await,
        Command::Dlq(args) => dlq::run(context, args).await,
        Command::Messages(args) => messages::run(context, args).await,
        Command::Offsets(args) => offsets::run(context, args).await,
        Command::Outbox(args) => outbox::run(context, args).await,
        #[cfg(feature = "embedded")]
        Command::Broker(args) => broker::run(context, &args).await,
        Command::Tx(args) => tx::run(context, args).await,
    }
}

/// An event of the catalogue by its name, or what to say about one that it lacks.
fn kind(text: &str) -> Result<Kind, String> {
    Kind::from_name(text).ok_or_else(|| match nearest(text, Kind::ALL.into_iter().map(Kind::name)) {
        Some(near) => format!("did you mean {near}?"),
        None => "no such event: docs/events.md lists them".to_owned(),
    })
}

/// A group's name as part of a file's.
fn file_name(group: &str) -> String {
    group.replace(['/', '\\'], "_")
}

/// The error for a topic that no broker has, with the nearest name that one has.
async fn no_such_topic(mq: &RocketMq, topic: &str) -> anyhow::Error {
    let names = mq.topics().await.unwrap_or_default();
    let help = match nearest(topic, names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {near}? `ruyi mq topics list --all` lists them"),
        None => "`ruyi mq topics list --all` lists them".to_owned(),
    };
    let failed: anyhow::Result<()> = Err(anyhow::anyhow!("there is no topic {topic}")).help(help);
    failed.err().unwrap_or_else(|| anyhow::anyhow!("there is no topic {topic}"))
}

/// The name that a mistyped one probably means.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.map(|candidate| (strsim::jaro_winkler(name, candidate), candidate));
    near.filter(|(likeness, _)| *likeness > 0.85).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, candidate)| candidate)
}

/// A bar on a terminal, nothing elsewhere.
pub(super) fn progress(count: u64, what: &'static str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len} {per_sec} {eta}");
    ProgressBar::new(count).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message(what)
}
