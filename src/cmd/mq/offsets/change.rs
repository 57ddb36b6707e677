//! Setting offsets: shown first, refused while somebody consumes, snapshotted, then done queue by queue.

use std::io::Write;
use std::process::ExitCode;

use super::plan::{self, Move};
use super::position::Position;
use super::snapshot::Snapshot;
use crate::cmd::confirm::Change;
use crate::cmd::journal;
use crate::cmd::mq::cluster::Where;
use crate::cmd::{Context, Failed, Usage, WithHelp};
use crate::mq::message::QueueId;
use crate::mq::rocketmq::RocketMq;

/// What keeps a change from being undone by a consumer that runs.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Guard {
    /// Change offsets although members of the group are online; they may commit over it
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Reset {
    /// Consumer group
    group: String,
    /// Topic
    #[arg(long)]
    topic: String,
    /// start, end, @-1h, @2024-01-15T08:00, +N, -N, or =N with --queue
    #[arg(long, value_name = "POSITION", allow_hyphen_values = true)]
    to: Position,
    /// Only this queue
    #[arg(long, value_name = "BROKER:N", value_parser = queue_of)]
    queue: Option<(String, i32)>,
    /// Refuse unless the queue's offset is this now
    #[arg(long, value_name = "N", requires = "queue")]
    expect_current: Option<i64>,
    #[command(flatten)]
    guard: Guard,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    pub(super) place: Where,
}

#[derive(Debug, clap::Args)]
pub(super) struct Skip {
    /// Consumer group
    group: String,
    /// Topic
    #[arg(long)]
    topic: String,
    /// The queue
    #[arg(long, value_name = "BROKER:N", value_parser = queue_of)]
    queue: (String, i32),
    /// Messages to leave out
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(i64).range(1..))]
    count: i64,
    /// Refuse unless the queue's offset is this now
    #[arg(long, value_name = "N")]
    expect_current: Option<i64>,
    #[command(flatten)]
    guard: Guard,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    pub(super) place: Where,
}

#[derive(Debug, clap::Args)]
pub(super) struct CloneFrom {
    /// Group whose offsets are taken
    from: String,
    /// Group that gets them
    to: String,
    /// Only this topic [default: every topic that FROM has consumed from]
    #[arg(long)]
    topic: Option<String>,
    #[command(flatten)]
    guard: Guard,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    pub(super) place: Where,
}

fn queue_of(text: &str) -> Result<(String, i32), String> {
    let parsed = text.rsplit_once(':').and_then(|(broker, queue)| Some((broker, queue.parse::<i32>().ok()?)));
    match parsed {
        Some((broker, queue)) if !broker.is_empty() && queue >= 0 => Ok((broker.to_owned(), queue)),
        _ => Err("write it as BROKER:NUMBER, for example broker-a:3".to_owned()),
    }
}

pub(super) async fn reset(context: &Context, mq: &RocketMq, args: &Reset) -> anyhow::Result<ExitCode> {
    if matches!(args.to, Position::Offset(_)) && args.queue.is_none() {
        return Err(Usage("=N is the offset of one queue: name it with --queue BROKER:N".to_owned()).into());
    }
    plan::topics(mq, &args.group, Some(&args.topic)).await?;
    let only = args.queue.clone().map(|(broker, queue)| QueueId { topic: args.topic.clone(), broker, queue });
    let now_ms = context.clock.now_ms();
    let moves = plan::moves(mq, &args.group, &args.topic, args.to, only.as_ref(), now_ms).await?;
    expect(&moves, &args.topic, only.as_ref(), args.expect_current)?;
    carry_out(context, mq, &args.group, moves, "mq offsets reset", &args.guard, &args.change).await
}

pub(super) async fn skip(context: &Context, mq: &RocketMq, args: &Skip) -> anyhow::Result<ExitCode> {
    plan::topics(mq, &args.group, Some(&args.topic)).await?;
    let (broker, queue) = args.queue.clone();
    let only = QueueId { topic: args.topic.clone(), broker, queue };
    let now_ms = context.clock.now_ms();
    let moves = plan::moves(mq, &args.group, &args.topic, Position::By(args.count), Some(&only), now_ms).await?;
    expect(&moves, &args.topic, Some(&only), args.expect_current)?;
    carry_out(context, mq, &args.group, moves, "mq offsets skip", &args.guard, &args.change).await
}

pub(super) async fn clone(context: &Context, mq: &RocketMq, args: &CloneFrom) -> anyhow::Result<ExitCode> {
    if args.from == args.to {
        return Err(Usage("FROM and TO are the same group".to_owned()).into());
    }
    let now_ms = context.clock.now_ms();
    let mut moves = Vec::new();
    for topic in plan::topics(mq, &args.from, args.topic.as_deref()).await? {
        let from = mq.committed(&args.from, &topic).await?;
        for one in plan::moves(mq, &args.to, &topic, Position::By(0), None, now_ms).await? {
            let source = from.iter().find(|queue| queue.queue == one.queue_id());
            // Where FROM has committed nothing, TO is left alone.
            let Some(after) = source.and_then(|queue| queue.consumer_offset) else { continue };
            let again = one.before.unwrap_or(after) - after;
            moves.push(Move { after, again, ..one });
        }
    }
    carry_out(context, mq, &args.to, moves, "mq offsets clone", &args.guard, &args.change).await
}

/// The queue exists, and is where the operator believes it to be.
fn expect(moves: &[Move], topic: &str, only: Option<&QueueId>, current: Option<i64>) -> anyhow::Result<()> {
    let Some(only) = only else { return Ok(()) };
    let Some(found) = moves.first() else {
        return Err(anyhow::anyhow!("{topic} has no queue {} on broker {}", only.queue, only.broker))
            .help("`ruyi mq topics show` lists them");
    };
    if let Some(expected) = current
        && found.before != Some(expected)
    {
        let is = found.before.map_or_else(|| "not set".to_owned(), |offset| offset.to_string());
        anyhow::bail!("the offset is {is}, not {expected}: somebody else changed it; nothing was done");
    }
    Ok(())
}

/// Shows the moves, and makes them when they may be made. The table shows what was done.
pub(super) async fn carry_out(
    context: &Context,
    mq: &RocketMq,
    group: &str,
    mut moves: Vec<Move>,
    command: &str,
    guard: &Guard,
    change: &Change,
) -> anyhow::Result<ExitCode> {
    let due = moves.iter().filter(|one| one.changes()).count();
    let mut failed = Failed::default();
    if due > 0 && !change.dry_run {
        refuse_online(mq, group, guard).await?;
    }
    if due > 0 && change.approved(&format!("{command}: set {due} queues of {group}"))? {
        let mut topics: Vec<String> = moves.iter().map(|one| one.topic.clone()).collect();
        topics.dedup();
        let snapshot = Snapshot::of(mq, group, &topics, context.clock.now_ms()).await?;
        let file = snapshot.save(&context.config.data_dir)?;
        writeln!(std::io::stderr(), "undo with: ruyi mq offsets restore {}", file.display())?;
        journal::record(context, command, change.reason.as_deref(), &(group, &moves))?;
        for one in moves.iter_mut().filter(|one| one.changes()) {
            match mq.set_offset(group, &one.queue_id(), one.after).await {
                Ok(()) => one.done = true,
                Err(error) => failed.note(&format!("{} {}:{}", one.topic, one.broker, one.queue), &error)?,
            }
        }
    }
    context.output().rows(moves)?;
    Ok(failed.code())
}

/// A member that is online commits its own offsets over ours.
async fn refuse_online(mq: &RocketMq, group: &str, guard: &Guard) -> anyhow::Result<()> {
    let members = mq.members(group).await?;
    if members.is_empty() {
        return Ok(());
    }
    let names: Vec<String> =
        members.iter().map(|member| format!("{} ({})", member.client_id, member.addr)).take(5).collect();
    if guard.force {
        writeln!(std::io::stderr(), "members are online and may commit over this: {}", names.join(", "))?;
        return Ok(());
    }
    let text = format!("{} members of {group} are online: {}", members.len(), names.join(", "));
    Err(anyhow::anyhow!(text)).help("stop them first, or say --force if they are to be overruled")
}
