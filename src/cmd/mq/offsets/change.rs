//! Setting offsets: shown first, refused while somebody consumes, snapshotted, then done queue by queue.

use std::collections::BTreeSet;
use std::io::{Write, stderr};
use std::process::ExitCode;

use serde::Serialize;

use super::plan::{self, Move};
use super::position::Position;
use super::snapshot::Snapshot;
use crate::cmd::confirm::Change;
use crate::cmd::journal;
use crate::cmd::mq::silent;
use crate::cmd::{Context, Failed, Usage, WithHelp};
use crate::mq::message::QueueId;
use crate::mq::rocketmq::RocketMq;

/// What keeps a change from being undone by a consumer that runs.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Guard {
    /// Change offsets although members of the group are online that are not ruyi's; they may commit over it
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
    let now_ms = context.clock.now_ms();
    if matches!(args.to, Position::At(at_ms) if at_ms > now_ms) {
        return Err(Usage("this time is still to come: say end for the end".to_owned()).into());
    }
    silent::refuse(mq, args.queue.as_ref().map(|(broker, _)| broker.as_str())).await?;
    plan::topics(mq, &args.group, Some(&args.topic)).await?;
    let only = args.queue.clone().map(|(broker, queue)| QueueId { topic: args.topic.clone(), broker, queue });
    let moves = plan::moves(mq, &args.group, &args.topic, args.to, only.as_ref(), now_ms).await?;
    expect(&moves, &args.topic, only.as_ref(), args.expect_current)?;
    let job = Job { command: "mq offsets reset", group: &args.group, guard: &args.guard, change: &args.change };
    carry_out(context, mq, &job, moves).await
}

pub(super) async fn skip(context: &Context, mq: &RocketMq, args: &Skip) -> anyhow::Result<ExitCode> {
    silent::refuse(mq, Some(&args.queue.0)).await?;
    plan::topics(mq, &args.group, Some(&args.topic)).await?;
    let (broker, queue) = args.queue.clone();
    let only = QueueId { topic: args.topic.clone(), broker, queue };
    let now_ms = context.clock.now_ms();
    let moves = plan::moves(mq, &args.group, &args.topic, Position::By(args.count), Some(&only), now_ms).await?;
    expect(&moves, &args.topic, Some(&only), args.expect_current)?;
    let job = Job { command: "mq offsets skip", group: &args.group, guard: &args.guard, change: &args.change };
    carry_out(context, mq, &job, moves).await
}

pub(super) async fn clone(context: &Context, mq: &RocketMq, args: &CloneFrom) -> anyhow::Result<ExitCode> {
    if args.from == args.to {
        return Err(Usage("FROM and TO are the same group".to_owned()).into());
    }
    silent::refuse(mq, None).await?;
    let now_ms = context.clock.now_ms();
    let mut moves = Vec::new();
    for topic in plan::topics(mq, &args.from, args.topic.as_deref()).await? {
        let from = mq.committed(&args.from, &topic).await?;
        for one in plan::moves(mq, &args.to, &topic, Position::By(0), None, now_ms).await? {
            let source = from.iter().find(|queue| queue.queue == one.queue_id());
            // Where FROM has committed nothing, TO is left alone.
            let Some(after) = source.and_then(|queue| queue.consumer_offset) else { continue };
            // Nobody is to stand beyond the end because somebody else does.
            let after = after.min(one.end);
            let again = one.before.unwrap_or(after) - after;
            moves.push(Move { after, again, ..one });
        }
    }
    if moves.is_empty() {
        return Err(anyhow::anyhow!("{} has committed nothing that {} could get", args.from, args.to))
            .help("`ruyi mq offsets show` tells where a group is");
    }
    if !mq.groups().await?.contains(&args.to) {
        writeln!(stderr(), "no broker knows the group {} yet: it is made", args.to)?;
    }
    let job = Job { command: "mq offsets clone", group: &args.to, guard: &args.guard, change: &args.change };
    carry_out(context, mq, &job, moves).await
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

/// What is asked for, besides the moves.
pub(super) struct Job<'a> {
    pub command: &'a str,
    pub group: &'a str,
    pub guard: &'a Guard,
    pub change: &'a Change,
}

/// Who may commit over a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Online {
    Nobody,
    /// Members that follow when a broker moves their group: all are ruyi's, or were overruled with `--force`.
    Moved,
}

/// What the journal keeps.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    group: &'a str,
    snapshot: String,
    moves: &'a [Move],
}

/// Shows the moves, and makes them when they may be made. The rows show what was done.
pub(super) async fn carry_out(
    context: &Context,
    mq: &RocketMq,
    job: &Job<'_>,
    mut moves: Vec<Move>,
) -> anyhow::Result<ExitCode> {
    let due = moves.iter().filter(|one| one.changes()).count();
    for one in moves.iter().filter(|one| one.is_cut) {
        writeln!(stderr(), "{}: there are not so many messages: {} is as far as it goes", shown(one), one.after)?;
    }
    let mut failed = Failed::default();
    let online = if due > 0 { look_for_members(mq, job).await? } else { Online::Nobody };
    if due > 0 && job.change.approved(&format!("{}: set {due} queues of {}", job.command, job.group))? {
        let topics: BTreeSet<&str> = moves.iter().map(|one| one.topic.as_str()).collect();
        let snapshot = Snapshot::of(mq, job.group, topics, context.clock.now_ms()).await?;
        if online == Online::Nobody {
            unmoved(&snapshot, &moves)?;
        }
        let file = snapshot.save(&context.config.data_dir)?.display().to_string();
        writeln!(stderr(), "undo with: ruyi mq offsets restore {file}")?;
        let entry = Entry { group: job.group, snapshot: file, moves: &moves };
        journal::record(context, job.command, job.change.reason.as_deref(), &entry)?;
        make_group(mq, job.group, &moves).await?;
        for one in moves.iter_mut().filter(|one| one.changes()) {
            let set = match online {
                Online::Nobody => mq.set_offset(job.group, &one.queue_id(), one.after).await,
                Online::Moved => mq.move_members(job.group, &one.queue_id(), one.after).await,
            };
            match set {
                Ok(()) => one.done = true,
                Err(error) => failed.note(&shown(one), &error)?,
            }
        }
        if online == Online::Nobody {
            settle(mq, job.group, &mut moves, &mut failed).await?;
        }
    }
    context.output().rows(moves)?;
    Ok(failed.code())
}

fn shown(one: &Move) -> String {
    format!("{} {}:{}", one.topic, one.broker, one.queue)
}

/// Brokers take offsets of groups that they know, and a group that was never online may be new to them.
async fn make_group(mq: &RocketMq, group: &str, moves: &[Move]) -> anyhow::Result<()> {
    let (addrs, known) = (mq.master_addrs().await?, mq.group_table().await?);
    for broker in moves.iter().filter(|one| one.changes()).map(|one| &one.broker).collect::<BTreeSet<_>>() {
        if let Some(addr) = addrs.get(broker).filter(|_| known.get(broker).is_none_or(|groups| !groups.contains(group)))
        {
            mq.create_group(addr, group).await?;
        }
    }
    Ok(())
}

/// Between what was shown and what is about to be done nobody has moved the group.
fn unmoved(snapshot: &Snapshot, moves: &[Move]) -> anyhow::Result<()> {
    for one in moves.iter().filter(|one| one.changes()) {
        let now = snapshot.offset_of(&one.queue_id());
        if now != one.before {
            let now = now.map_or_else(|| "not set".to_owned(), |offset| offset.to_string());
            let text = format!("{} is at {now} by now: somebody else moved it; nothing was done", shown(one));
            return Err(anyhow::anyhow!(text)).help("look again with --dry-run");
        }
    }
    Ok(())
}

/// Looks whether the brokers now say what was set. One that was told to move the group before, and has had no pull since,
/// answers with that and ignores everything else: it is told to move the group again.
async fn settle(mq: &RocketMq, group: &str, moves: &mut [Move], failed: &mut Failed) -> anyhow::Result<()> {
    for is_last in [false, true] {
        let topics: BTreeSet<String> = moves.iter().filter(|one| one.done).map(|one| one.topic.clone()).collect();
        for topic in topics {
            let committed = mq.committed(group, &topic).await?;
            for one in moves.iter_mut().filter(|one| one.done && one.topic == topic) {
                let found = committed.iter().find(|queue| queue.queue == one.queue_id());
                if found.and_then(|queue| queue.consumer_offset) == Some(one.after) {
                    continue;
                }
                let moved = if is_last { None } else { mq.move_members(group, &one.queue_id(), one.after).await.err() };
                if is_last || moved.is_some() {
                    one.done = false;
                    let why = moved.map_or_else(|| "its broker says another offset".to_owned(), |why| why.to_string());
                    failed.note(&shown(one), &why)?;
                }
            }
        }
    }
    Ok(())
}

/// A member that is online commits its own offsets over ours, unless it follows when the broker moves the group.
async fn look_for_members(mq: &RocketMq, job: &Job<'_>) -> anyhow::Result<Online> {
    let members = mq.connections(job.group).await?;
    if members.is_empty() {
        return Ok(Online::Nobody);
    }
    let foreign = members.iter().filter(|member| !member.is_ruyi()).count();
    let names: Vec<String> =
        members.iter().map(|member| format!("{} ({})", member.client_id, member.addr)).take(5).collect();
    let names = names.join(", ");
    let text = format!("{} members of {} are online: {names}", members.len(), job.group);
    if foreign == 0 {
        writeln!(stderr(), "{text}: ruyi's own, which go on from there with their next pull")?;
    } else if job.guard.force {
        writeln!(stderr(), "{text}: they are told to go on from there, and may commit over it")?;
    } else if job.change.dry_run {
        writeln!(stderr(), "{text}: without --dry-run this would be refused")?;
    } else {
        return Err(anyhow::anyhow!(text)).help("stop them first, or say --force if they are to be overruled");
    }
    Ok(Online::Moved)
}
