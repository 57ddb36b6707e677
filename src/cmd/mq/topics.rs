//! `ruyi mq topics`: the topics of a cluster.

mod edit;

use std::process::ExitCode;

use clap::Subcommand;
use serde::Serialize;
use utoipa::ToSchema;

use super::cluster::{Cluster, Where};
use crate::cmd::journal::rfc3339;
use crate::cmd::{Context, Failed};
use crate::mq::operate::{Permission, QueueRange, TopicPart};
use crate::mq::rocketmq::{MqError, RocketMq};

/// Arguments of `ruyi mq topics`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List topics with their queues, type and messages
    #[command(
        after_help = "Examples:\n  ruyi mq topics list\n  ruyi mq topics list --all --output json | jq '.items[].topic'"
    )]
    List(List),
    /// Show the queues of one topic
    #[command(after_help = "Example:\n  ruyi mq topics show ORDER_CREATED --namesrv 10.0.0.1:9876")]
    Show(Show),
    /// Make a topic on every broker of the cluster
    #[command(after_help = "Example:\n  ruyi mq topics create order-created --queues 8 --type fifo --yes")]
    Create(edit::Put),
    /// Change the queues, permission or type of a topic
    #[command(after_help = "Example:\n  ruyi mq topics update order-created --permission read --reason drain --yes")]
    Update(edit::Put),
    /// Remove a topic and all its messages
    #[command(after_help = "Example:\n  ruyi mq topics delete old-topic --dry-run")]
    Delete(edit::Delete),
}

#[derive(Debug, clap::Args)]
struct List {
    /// RocketMQ's own topics, retry topics and dead letters as well
    #[arg(long)]
    all: bool,
    /// Only topics whose name contains this
    #[arg(long, value_name = "TEXT")]
    matching: Option<String>,
    #[command(flatten)]
    place: Where,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// Topic as it is called on the broker
    topic: String,
    #[command(flatten)]
    place: Where,
}

/// A topic in the list.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct Listed {
    topic: String,
    #[serde(rename = "type")]
    message_type: String,
    permission: Option<Permission>,
    brokers: usize,
    queues: u32,
    messages: i64,
    per_second: f64,
    last_stored: Option<String>,
}

/// A queue of a shown topic.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct Queue {
    broker: String,
    queue: i32,
    min: i64,
    max: i64,
    messages: i64,
    oldest: Option<String>,
    last_stored: Option<String>,
    permission: Option<Permission>,
    #[serde(rename = "type")]
    message_type: Option<String>,
}

/// Runs `ruyi mq topics ...`.
///
/// # Errors
/// The cluster cannot be read or refuses.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List(args) => Cluster::with(context, &args.place, async |mq| list(context, mq, &args).await).await,
        Command::Show(args) => {
            Cluster::with(context, &args.place, async |mq| show(context, mq, &args.topic).await).await
        }
        Command::Create(args) => {
            Cluster::with(context, &args.place, async |mq| edit::create(context, mq, &args).await).await
        }
        Command::Update(args) => {
            Cluster::with(context, &args.place, async |mq| edit::update(context, mq, &args).await).await
        }
        Command::Delete(args) => {
            Cluster::with(context, &args.place, async |mq| edit::delete(context, mq, &args).await).await
        }
    }
}

/// RocketMQ's own: not what an operator looks for first.
fn is_internal(topic: &str) -> bool {
    topic.starts_with('%') || crate::mq::rocketmq::is_system_topic(topic)
}

async fn list(context: &Context, mq: &RocketMq, args: &List) -> anyhow::Result<ExitCode> {
    let names = mq.topics().await?;
    let wanted = |name: &String| {
        (args.all || !is_internal(name)) && args.matching.as_ref().is_none_or(|text| name.contains(text.as_str()))
    };
    let mut output = context.output();
    let mut failed = Failed::default();
    for topic in names.into_iter().filter(wanted) {
        match listed(mq, &topic).await {
            Ok(row) => output.row(&row)?,
            Err(error) => failed.note(&topic, &error)?,
        }
    }
    output.finish()?;
    Ok(failed.code())
}

async fn listed(mq: &RocketMq, topic: &str) -> Result<Listed, MqError> {
    let parts = mq.topic(topic).await?;
    let (ranges, per_second) = mq.queue_ranges(topic).await?;
    Ok(Listed {
        topic: topic.to_owned(),
        message_type: parts.first().map_or_else(|| String::from("-"), |part| part.message_type.clone()),
        permission: parts.first().map(|part| part.permission),
        brokers: parts.len(),
        queues: parts.iter().map(|part| part.read_queues).sum(),
        messages: ranges.iter().map(|range| range.max - range.min).sum(),
        per_second,
        last_stored: ranges.iter().filter_map(|range| range.last_stored_ms).max().map(rfc3339),
    })
}

async fn show(context: &Context, mq: &RocketMq, topic: &str) -> anyhow::Result<ExitCode> {
    let parts = existing(mq, topic).await?;
    let (ranges, _) = mq.queue_ranges(topic).await?;
    let mut output = context.output();
    for range in ranges {
        let part = parts.iter().find(|part| part.broker == range.queue.broker);
        output.row(&Queue {
            oldest: oldest(mq, part, &range).await?.map(rfc3339),
            broker: range.queue.broker,
            queue: range.queue.queue,
            min: range.min,
            max: range.max,
            messages: range.max - range.min,
            last_stored: range.last_stored_ms.map(rfc3339),
            permission: part.map(|part| part.permission),
            message_type: part.map(|part| part.message_type.clone()),
        })?;
    }
    output.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// When the oldest message of a queue was stored.
async fn oldest(mq: &RocketMq, part: Option<&TopicPart>, range: &QueueRange) -> Result<Option<i64>, MqError> {
    let (Some(part), true) = (part, range.max > range.min) else { return Ok(None) };
    let page = mq.read_queue(&part.addr, &range.queue, range.min, 1).await?;
    Ok(page.messages.first().map(|message| message.stored_ms))
}

/// The topic on its brokers.
async fn existing(mq: &RocketMq, topic: &str) -> anyhow::Result<Vec<TopicPart>> {
    let parts = mq.topic(topic).await?;
    if parts.is_empty() {
        return Err(super::no_such_topic(mq, topic).await);
    }
    Ok(parts)
}
