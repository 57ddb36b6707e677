//! `ruyi mq topics`: the topics of a cluster.

mod compare;
mod edit;
mod plan;
mod wanted;

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Subcommand;
use serde::Serialize;
use utoipa::ToSchema;

use super::cluster::{Cluster, Where};
use super::silent;
use crate::cmd::journal::rfc3339;
use crate::cmd::{Context, Failed};
use crate::mq::operate::{Permission, QueueRange, TopicPart};
use crate::mq::rocketmq::{MqError, RocketMq};
pub(in crate::cmd) use compare::Difference;
pub(in crate::cmd) use edit::Step;

/// Topics that brokers come with, besides those that the client calls system topics.
const BROKERS_OWN: [&str; 4] = ["TBW102", "BenchmarkTest", "OFFSET_MOVED_EVENT", "SELF_TEST_TOPIC"];

/// Arguments of `ruyi mq topics`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Where,
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
    Update(edit::Update),
    /// Remove a topic and all its messages
    #[command(after_help = "Example:\n  ruyi mq topics delete old-topic --dry-run")]
    Delete(edit::Delete),
    /// Show how the cluster differs from what is wanted: one row per difference
    ///
    /// Wanted are ruyi's own topics and groups (their names are those of mq.topics, with at least mq.queues queues), and
    /// those of a file. Members of any group that subscribe to something else than the others are shown as well.
    /// Ends with 0 whether there are differences or not; with --exit-code it ends with 1 when there are.
    #[command(after_help = format!("{}\n\nExamples:\n  ruyi mq topics plan\n  ruyi mq topics plan --file wanted.toml --no-catalogue --exit-code", plan::FORMAT))]
    Plan(plan::Plan),
    /// Make the cluster as it is wanted
    ///
    /// Makes topics and groups, adds queues, sets permissions. What would lose something (fewer queues, another type,
    /// a deletion) is done with --force only. Ends with 0 when the cluster is as wanted then, else with 1: a change
    /// failed (the others are made all the same), was not forced, or is up to whoever runs a member.
    #[command(after_help = format!("{}\n\nExamples:\n  ruyi mq topics apply --dry-run\n  ruyi mq topics apply --file wanted.toml --yes --reason \"release 12\"", plan::FORMAT))]
    Apply(plan::Apply),
}

#[derive(Debug, clap::Args)]
struct List {
    /// RocketMQ's own topics, retry topics and dead letters as well
    #[arg(long)]
    all: bool,
    /// Say when the oldest message was stored as well: one more read for each queue
    #[arg(long)]
    oldest: bool,
    /// Only topics whose name contains this
    #[arg(long, value_name = "TEXT")]
    matching: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// Topic as it is called on the broker
    topic: String,
}

/// A topic in the list.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct Listed {
    topic: String,
    #[serde(rename = "type")]
    message_type: String,
    /// None where the brokers differ.
    permission: Option<Permission>,
    brokers: usize,
    queues: u32,
    messages: i64,
    per_second: f64,
    oldest: Option<String>,
    last_stored: Option<String>,
}

/// A queue of a shown topic.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct Queue {
    broker: String,
    addr: Option<String>,
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
    Cluster::with(context, &args.place, async |mq| match args.command {
        Command::List(args) => list(context, mq, &args).await,
        Command::Show(args) => show(context, mq, &args.topic).await,
        Command::Create(args) => edit::create(context, mq, &args).await,
        Command::Update(args) => edit::update(context, mq, &args).await,
        Command::Delete(args) => edit::delete(context, mq, &args).await,
        Command::Plan(args) => plan::plan(context, mq, &args).await,
        Command::Apply(args) => plan::apply(context, mq, &args).await,
    })
    .await
}

async fn list(context: &Context, mq: &RocketMq, args: &List) -> anyhow::Result<ExitCode> {
    let mut failed = Failed::default();
    silent::leave_out(mq, &mut failed).await?;
    // A broker has a topic of its own name and one of its cluster's.
    let own: BTreeSet<String> = mq.brokers().await?.into_iter().flat_map(|node| [node.cluster, node.name]).collect();
    let is_own =
        |name: &str| own.contains(name) || name.strip_suffix("_REPLY_TOPIC").is_some_and(|of| own.contains(of));
    let internal = |name: &str| {
        name.starts_with('%')
            || is_own(name)
            || BROKERS_OWN.contains(&name)
            || crate::mq::rocketmq::is_system_topic(name)
    };
    let mut output = context.output();
    for (topic, parts) in mq.topic_table().await? {
        let named = args.matching.as_ref().is_none_or(|text| topic.contains(text.as_str()));
        if !named || (!args.all && internal(&topic)) {
            continue;
        }
        match listed(mq, topic.clone(), &parts, args.oldest).await {
            Ok(row) => output.row(&row)?,
            Err(error) => failed.note(&topic, &error)?,
        }
    }
    output.finish()?;
    Ok(failed.code())
}

async fn listed(mq: &RocketMq, topic: String, parts: &[TopicPart], with_oldest: bool) -> Result<Listed, MqError> {
    let (ranges, per_second) = mq.ranges_on(&topic, parts.iter().map(|part| part.addr.as_str())).await?;
    let mut first = None;
    if with_oldest {
        for range in &ranges {
            let part = parts.iter().find(|part| part.broker == range.queue.broker);
            first = [first, oldest(mq, part, range).await?].into_iter().flatten().min();
        }
    }
    let types: BTreeSet<&str> = parts.iter().map(|part| part.message_type.as_str()).collect();
    let permissions: BTreeSet<Permission> = parts.iter().map(|part| part.permission).collect();
    Ok(Listed {
        message_type: types.into_iter().collect::<Vec<_>>().join(","),
        permission: permissions.first().copied().filter(|_| permissions.len() == 1),
        brokers: parts.len(),
        queues: parts.iter().map(|part| part.read_queues).sum(),
        messages: ranges.iter().map(|range| range.max - range.min).sum(),
        per_second,
        oldest: first.map(rfc3339),
        last_stored: ranges.iter().filter_map(|range| range.last_stored_ms).max().map(rfc3339),
        topic,
    })
}

async fn show(context: &Context, mq: &RocketMq, topic: &str) -> anyhow::Result<ExitCode> {
    let mut failed = Failed::default();
    silent::leave_out(mq, &mut failed).await?;
    let parts = existing(mq, topic).await?;
    let (ranges, _) = mq.ranges_on(topic, parts.iter().map(|part| part.addr.as_str())).await?;
    let mut output = context.output();
    for range in ranges {
        let part = parts.iter().find(|part| part.broker == range.queue.broker);
        output.row(&Queue {
            oldest: oldest(mq, part, &range).await?.map(rfc3339),
            addr: part.map(|part| part.addr.clone()),
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
    Ok(failed.code())
}

/// When the oldest message of a queue was stored.
async fn oldest(mq: &RocketMq, part: Option<&TopicPart>, range: &QueueRange) -> Result<Option<i64>, MqError> {
    let (Some(part), true) = (part, range.max > range.min) else { return Ok(None) };
    mq.stored_at(&part.addr, &range.queue, range.min).await
}

/// The topic on its brokers.
async fn existing(mq: &RocketMq, topic: &str) -> anyhow::Result<Vec<TopicPart>> {
    let parts = mq.topic(topic).await?;
    if parts.is_empty() {
        return Err(super::no_such_topic(mq, topic).await);
    }
    Ok(parts)
}
