//! Looking at dead letters.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde::Serialize;

use super::filter::Chosen;
use super::letter::{self, Fingerprint, Letter, LetterId, Reader, Span};
use super::state::{Mark, State};
use crate::cmd::journal::rfc3339;
use crate::cmd::mq::cluster::Where;
use crate::cmd::mq::messages::Body;
use crate::cmd::mq::offsets::plan;
use crate::cmd::{Context, Failed};
use crate::mq::rocketmq::{DLQ_PREFIX, MqError, RocketMq};

#[derive(Debug, clap::Args)]
pub(super) struct List {
    #[command(flatten)]
    pub(super) place: Where,
}

#[derive(Debug, clap::Args)]
pub(super) struct Browse {
    #[command(flatten)]
    chosen: Chosen,
    /// Also those that were discarded or replayed
    #[arg(long)]
    all: bool,
    /// So many at most
    #[arg(long, value_name = "N", default_value = "100")]
    limit: u64,
}

#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// Consumer group
    group: String,
    /// The letter, as `browse` prints its id
    id: LetterId,
    #[command(flatten)]
    pub(super) place: Where,
}

#[derive(Debug, clap::Args)]
pub(super) struct Group {
    #[command(flatten)]
    chosen: Chosen,
}

impl std::ops::Deref for Browse {
    type Target = Chosen;

    fn deref(&self) -> &Chosen {
        &self.chosen
    }
}

impl std::ops::Deref for Group {
    type Target = Chosen;

    fn deref(&self) -> &Chosen {
        &self.chosen
    }
}

/// A group in the list.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    group: String,
    depth: i64,
    oldest: Option<String>,
    oldest_seconds: Option<i64>,
    newest: Option<String>,
}

/// A letter in a list.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    id: &'a LetterId,
    event: &'a str,
    key: &'a str,
    event_id: String,
    reason: Option<&'a str>,
    attempts: i64,
    replays: u32,
    failed: String,
    died: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mark: Option<Mark>,
    body: Body<'a>,
}

/// Letters with one fingerprint.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Count<'a> {
    fingerprint: String,
    event: &'a str,
    reason: &'a str,
    count: u64,
    first: String,
    last: String,
    example: &'a LetterId,
}

pub(super) async fn list(context: &Context, mq: &RocketMq, _: &List) -> anyhow::Result<ExitCode> {
    let addrs = plan::addrs(mq).await?;
    let now_ms = context.clock.now_ms();
    let mut output = context.output();
    let mut failed = Failed::default();
    for topic in mq.topics().await? {
        let Some(group) = topic.strip_prefix(DLQ_PREFIX) else { continue };
        match listed(mq, &addrs, &topic, group, now_ms).await {
            Ok(row) if row.depth > 0 => output.row(&row)?,
            Ok(_) => {}
            Err(error) => failed.note(group, &error)?,
        }
    }
    output.finish()?;
    Ok(failed.code())
}

async fn listed(
    mq: &RocketMq,
    addrs: &BTreeMap<String, String>,
    topic: &str,
    group: &str,
    now_ms: i64,
) -> Result<Listed, MqError> {
    let (ranges, _) = mq.queue_ranges(topic).await?;
    let mut oldest: Option<i64> = None;
    for range in ranges.iter().filter(|range| range.max > range.min) {
        let Some(addr) = addrs.get(&range.queue.broker) else { continue };
        let page = mq.read_queue(addr, &range.queue, range.min, 1).await?;
        let at = page.messages.first().map(|message| message.stored_ms);
        oldest = oldest.into_iter().chain(at).min();
    }
    Ok(Listed {
        group: group.to_owned(),
        depth: ranges.iter().map(|range| range.max - range.min).sum(),
        oldest: oldest.map(rfc3339),
        oldest_seconds: oldest.map(|at| (now_ms - at).max(0) / 1000),
        newest: ranges.iter().filter_map(|range| range.last_stored_ms).max().map(rfc3339),
    })
}

fn row<'a>(letter: &'a Letter, mark: Option<Mark>) -> Row<'a> {
    Row {
        id: &letter.id,
        event: letter.event(),
        key: &letter.message.key,
        event_id: letter.event_id(),
        reason: letter.reason(),
        attempts: letter.attempts(),
        replays: letter.replays(),
        failed: rfc3339(letter.failed_ms()),
        died: rfc3339(letter.message.stored_ms),
        mark,
        body: Body::of(&letter.message.body),
    }
}

pub(super) async fn browse(context: &Context, mq: &RocketMq, args: &Browse) -> anyhow::Result<ExitCode> {
    let state = State::open(&context.config.data_dir, &args.group)?;
    let span = Span::all(mq, &args.group).await?;
    let mut reader = Reader::new(mq, &args.group, &span).await?;
    let now_ms = context.clock.now_ms();
    let mut output = context.output();
    let mut left = args.limit;
    while left > 0
        && let Some(letter) = reader.next().await?
    {
        let wanted =
            if args.all { args.filter.takes(&letter, now_ms) } else { args.takes_open(&letter, &state, now_ms) };
        if wanted {
            output.row(&row(&letter, state.mark(&letter)))?;
            left -= 1;
        }
    }
    output.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// A letter whole.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Whole<'a> {
    #[serde(flatten)]
    row: Row<'a>,
    origin_topic: Option<&'a str>,
    unique_id: &'a str,
    properties: BTreeMap<&'a str, &'a str>,
    edited_body: Option<&'a str>,
}

pub(super) async fn one(context: &Context, mq: &RocketMq, args: &Show) -> anyhow::Result<ExitCode> {
    let state = State::open(&context.config.data_dir, &args.group)?;
    let letter = letter::one(mq, &args.group, &args.id).await?;
    let whole = Whole {
        row: row(&letter, state.mark(&letter)),
        origin_topic: letter.origin(),
        unique_id: &letter.message.unique_id,
        properties: letter.message.properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
        edited_body: state.edited(&letter),
    };
    let mut output = context.output();
    // A table of one row with a body in it serves nobody.
    output.text(&format!("{}\n", serde_json::to_string_pretty(&whole)?))?;
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Default)]
struct Tally {
    count: u64,
    first_ms: i64,
    last_ms: i64,
    example: Option<LetterId>,
}

pub(super) async fn group(context: &Context, mq: &RocketMq, args: &Group) -> anyhow::Result<ExitCode> {
    let state = State::open(&context.config.data_dir, &args.group)?;
    let span = Span::all(mq, &args.group).await?;
    let mut reader = Reader::new(mq, &args.group, &span).await?;
    let now_ms = context.clock.now_ms();
    let mut tallies: BTreeMap<Fingerprint, Tally> = BTreeMap::new();
    while let Some(letter) = reader.next().await? {
        if !args.takes_open(&letter, &state, now_ms) {
            continue;
        }
        let at = letter.message.stored_ms;
        let tally = tallies.entry(letter.fingerprint()).or_default();
        if tally.count == 0 {
            (tally.first_ms, tally.last_ms) = (at, at);
            tally.example = Some(letter.id.clone());
        }
        tally.count += 1;
        tally.first_ms = tally.first_ms.min(at);
        tally.last_ms = tally.last_ms.max(at);
    }
    let mut all: Vec<_> = tallies.iter().collect();
    all.sort_by_key(|(_, tally)| std::cmp::Reverse(tally.count));
    let mut output = context.output();
    for (print, tally) in all {
        let Some(example) = &tally.example else { continue };
        output.row(&Count {
            fingerprint: print.short(),
            event: &print.event,
            reason: &print.reason,
            count: tally.count,
            first: rfc3339(tally.first_ms),
            last: rfc3339(tally.last_ms),
            example,
        })?;
    }
    output.finish()?;
    Ok(ExitCode::SUCCESS)
}
