//! `ruyi mq offsets`: how far consumer groups are, and setting it.

mod change;
pub(super) mod plan;
mod position;
mod snapshot;

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Subcommand;
use serde::Serialize;
use utoipa::ToSchema;

use super::cluster::{Cluster, Where};
use super::silent;
use crate::cmd::journal::rfc3339;
use crate::cmd::{Context, Failed};
use crate::mq::message::QueueId;
use crate::mq::operate::{Committed, Member};
use crate::mq::rocketmq::{MqError, RocketMq};
use crate::process::LISTENERS;
pub(in crate::cmd) use plan::Move;
pub(in crate::cmd) use position::Position;

/// Arguments of `ruyi mq offsets`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Where,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List consumer groups with what they have not consumed yet
    #[command(after_help = "Example:\n  ruyi mq offsets list --output json | jq '.items[] | select(.lag > 10000)'")]
    List(List),
    /// Show a group queue by queue: offsets, lag, age of the oldest message, owner
    #[command(after_help = "Example:\n  ruyi mq offsets show stock-consumer-group --topic ORDER_CREATED")]
    Show(Show),
    /// Print the lag of groups, one line per group and topic
    #[command(after_help = "Example:\n  ruyi mq offsets lag stock-consumer-group order-consumer-group")]
    Lag(Lag),
    /// Set where a group goes on; a snapshot is taken first
    #[command(
        after_help = "Examples:\n  ruyi mq offsets reset my-group --topic my-topic --to @-1h --dry-run\n  ruyi mq offsets reset my-group --topic my-topic --to end --yes --reason \"poison backlog, see incident 42\"\n  ruyi mq offsets reset my-group --topic my-topic --queue broker-a:3 --to =1200 --expect-current 1190 --yes"
    )]
    Reset(change::Reset),
    /// Write the offsets of a group to a file
    #[command(after_help = "Example:\n  ruyi mq offsets snapshot my-group > my-group.json")]
    Snapshot(snapshot::Take),
    /// Set the offsets of a group back to those of a snapshot
    #[command(after_help = "Example:\n  ruyi mq offsets restore my-group.json --dry-run")]
    Restore(snapshot::Restore),
    /// Leave out the next messages of a group in one queue
    #[command(
        after_help = "Example:\n  ruyi mq offsets skip my-group --topic my-topic --queue broker-a:3 --count 1 --yes"
    )]
    Skip(change::Skip),
    /// Let a group go on where another one is
    #[command(after_help = "Example:\n  ruyi mq offsets clone old-group new-group --topic my-topic --yes")]
    Clone(change::CloneFrom),
}

#[derive(Debug, clap::Args)]
struct List {
    /// Only groups whose name contains this
    #[arg(long, value_name = "TEXT")]
    matching: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// Consumer group
    group: String,
    /// Only this topic [default: every topic that it has consumed from]
    #[arg(long)]
    topic: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Lag {
    /// Consumer groups
    #[arg(required = true, value_name = "GROUP")]
    groups: Vec<String>,
}

/// A group in the list. What cannot be known is null, never 0.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct Listed {
    group: String,
    /// Topics that it has committed offsets for.
    topics: usize,
    /// Null as well where it stands beyond the end of a queue, and of a group that broadcasts.
    lag: Option<i64>,
    /// Clients that are connected.
    members: usize,
}

/// A topic of a group.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct TopicLag {
    group: String,
    topic: String,
    lag: Option<i64>,
    lag_seconds: Option<f64>,
}

/// A queue of a group.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct QueueLag {
    topic: String,
    broker: String,
    queue: i32,
    /// Offset of the next message that will be stored.
    broker_offset: i64,
    /// Offset of the next message that the group will consume; none: it has committed nothing here.
    consumer_offset: Option<i64>,
    lag: Option<i64>,
    /// Age of the oldest message that is not consumed.
    lag_seconds: Option<f64>,
    /// When the last consumed message was stored.
    last_consumed: Option<String>,
    /// Client id of the member that has the queue.
    owner: Option<String>,
}

/// Runs `ruyi mq offsets ...`.
///
/// # Errors
/// The cluster cannot be read or refuses.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    Cluster::with(context, &args.place, async |mq| match args.command {
        Command::List(args) => list(context, mq, &args).await,
        Command::Show(args) => show(context, mq, &args).await,
        Command::Lag(args) => lag(context, mq, &args).await,
        Command::Reset(args) => change::reset(context, mq, &args).await,
        Command::Snapshot(args) => snapshot::take(context, mq, &args).await,
        Command::Restore(args) => snapshot::restore(context, mq, &args).await,
        Command::Skip(args) => change::skip(context, mq, &args).await,
        Command::Clone(args) => change::clone(context, mq, &args).await,
    })
    .await
}

/// The sum, unless one of them is unknown.
fn sum(queues: &[Committed]) -> Option<i64> {
    queues.iter().map(|queue| queue.standing().lag()).sum()
}

async fn list(context: &Context, mq: &RocketMq, args: &List) -> anyhow::Result<ExitCode> {
    let mut failed = Failed::default();
    silent::leave_out(mq, &mut failed).await?;
    let mut output = context.output();
    let wanted = |name: &String| args.matching.as_ref().is_none_or(|text| name.contains(text.as_str()));
    for group in mq.groups().await?.into_iter().filter(wanted) {
        match listed(mq, group.clone()).await {
            Ok(Some(row)) => output.row(&row)?,
            Ok(None) => {}
            Err(error) => failed.note(&group, &error)?,
        }
    }
    output.finish()?;
    Ok(failed.code())
}

/// A group that has ever consumed or has members; brokers keep configurations of others.
async fn listed(mq: &RocketMq, group: String) -> Result<Option<Listed>, MqError> {
    let topics = mq.topics_of(&group).await?;
    let members = mq.connections(&group).await?.len();
    if topics.is_empty() && members == 0 {
        return Ok(None);
    }
    // Of a group that broadcasts each member knows for itself how far it is; what a broker keeps says nothing.
    let broadcasts = group.ends_with(LISTENERS) || members > 0 && mq.broadcasts(&group).await?;
    let mut lag = (!topics.is_empty() && !broadcasts).then_some(0);
    for topic in topics.iter().filter(|_| !broadcasts) {
        lag = lag.zip(sum(&mq.committed(&group, topic).await?)).map(|(sum, more)| sum + more);
    }
    Ok(Some(Listed { topics: topics.len(), lag, members, group }))
}

async fn show(context: &Context, mq: &RocketMq, args: &Show) -> anyhow::Result<ExitCode> {
    let mut failed = Failed::default();
    silent::leave_out(mq, &mut failed).await?;
    let topics = plan::topics(mq, &args.group, args.topic.as_deref()).await?;
    let members = mq.members(&args.group).await?;
    let now_ms = context.clock.now_ms();
    let addrs = mq.master_addrs().await?;
    let mut output = context.output();
    for topic in topics {
        match queues(mq, &addrs, &members, (&args.group, &topic), now_ms).await {
            Ok(rows) => rows.iter().try_for_each(|row| output.row(row))?,
            Err(error) => failed.note(&topic, &error)?,
        }
    }
    output.finish()?;
    Ok(failed.code())
}

async fn queues(
    mq: &RocketMq,
    addrs: &BTreeMap<String, String>,
    members: &[Member],
    (group, topic): (&str, &str),
    now_ms: i64,
) -> Result<Vec<QueueLag>, MqError> {
    let mut rows = Vec::new();
    for queue in mq.committed(group, topic).await? {
        if queue.standing().is_beyond() {
            let QueueId { broker, queue: number, .. } = &queue.queue;
            eprintln!(
                "{topic} {broker}:{number}: the group stands beyond the end and passes messages over: set it with \
                 `ruyi mq offsets reset {group} --topic {topic} --to start`"
            );
        }
        let oldest = mq.oldest_unconsumed(addrs, &queue).await?;
        rows.push(QueueLag {
            lag: queue.standing().lag(),
            lag_seconds: age(&queue, oldest, now_ms),
            last_consumed: queue.last_consumed_ms.map(rfc3339),
            owner: owner(members, &queue),
            topic: queue.queue.topic,
            broker: queue.queue.broker,
            queue: queue.queue.queue,
            broker_offset: queue.broker_offset,
            consumer_offset: queue.consumer_offset,
        });
    }
    Ok(rows)
}

async fn lag(context: &Context, mq: &RocketMq, args: &Lag) -> anyhow::Result<ExitCode> {
    let mut failed = Failed::default();
    silent::leave_out(mq, &mut failed).await?;
    let now_ms = context.clock.now_ms();
    let addrs = mq.master_addrs().await?;
    let mut output = context.output();
    for group in &args.groups {
        let topics = match plan::topics(mq, group, None).await {
            Ok(topics) => topics,
            Err(error) => {
                failed.note(group, &*error)?;
                continue;
            }
        };
        for topic in topics {
            match topic_lag(mq, &addrs, group, &topic, now_ms).await {
                Ok(row) => output.row(&row)?,
                Err(error) => failed.note(&format!("{group} {topic}"), &error)?,
            }
        }
    }
    output.finish()?;
    Ok(failed.code())
}

async fn topic_lag(
    mq: &RocketMq,
    addrs: &BTreeMap<String, String>,
    group: &str,
    topic: &str,
    now_ms: i64,
) -> Result<TopicLag, MqError> {
    let queues = mq.committed(group, topic).await?;
    let mut oldest = Some(0.0_f64);
    for queue in &queues {
        let at = mq.oldest_unconsumed(addrs, queue).await?;
        oldest = oldest.zip(age(queue, at, now_ms)).map(|(a, b)| a.max(b));
    }
    Ok(TopicLag { group: group.to_owned(), topic: topic.to_owned(), lag: sum(&queues), lag_seconds: oldest })
}

/// Seconds since the oldest message that the group has not consumed was stored; 0 when there is none.
fn age(queue: &Committed, oldest_ms: Option<i64>, now_ms: i64) -> Option<f64> {
    match (queue.standing().lag()?, oldest_ms) {
        (0, _) => Some(0.0),
        #[expect(clippy::cast_precision_loss, reason = "seconds, for people")]
        (_, Some(at)) => Some((now_ms - at).max(0) as f64 / 1000.0),
        (_, None) => None,
    }
}

/// The member that has a queue.
fn owner(members: &[Member], queue: &Committed) -> Option<String> {
    members.iter().find(|member| member.queues.contains(&queue.queue)).map(|member| member.client_id.clone())
}
