//! Looking at dead letters.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use utoipa::ToSchema;

use super::filter::Chosen;
use super::letter::{Fingerprint, Letter, LetterId, topic_of};
use super::read::{self, Reader};
use super::state::{Mark, State};
use crate::cmd::journal::rfc3339;
use crate::cmd::mq::messages::Body;
use crate::cmd::mq::silent;

use crate::cmd::{Context, Failed};
use crate::mq::reader;
use crate::mq::rocketmq::{DLQ_PREFIX, RocketMq};
use crate::output::Format;

/// Fingerprints that `group` tells apart; letters of further ones are counted together by their event.
const MAX_FINGERPRINTS: usize = 10_000;

#[derive(Debug, clap::Args)]
pub(super) struct List {}

#[derive(Debug, clap::Args)]
pub(super) struct Browse {
    /// Also those that were discarded or replayed
    #[arg(long)]
    all: bool,
    /// So many at most
    #[arg(long, value_name = "N", default_value = "100")]
    limit: u64,
    #[command(flatten)]
    pub(super) chosen: Chosen,
}

#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// Consumer group
    group: String,
    /// The letter, as `browse` prints its id
    id: LetterId,
}

#[derive(Debug, clap::Args)]
pub(super) struct Group {
    #[command(flatten)]
    pub(super) chosen: Chosen,
}

/// A group in the list.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct Listed {
    group: String,
    /// Dead letters in the topic.
    depth: i64,
    /// Of these, neither replayed nor discarded from this data directory.
    open: i64,
    oldest: Option<String>,
    oldest_seconds: Option<i64>,
    newest: Option<String>,
}

/// A letter in a list.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct Row<'a> {
    #[schema(value_type = String)]
    id: &'a LetterId,
    event: &'a str,
    key: &'a str,
    event_id: String,
    reason: Option<&'a str>,
    fingerprint: String,
    attempts: i64,
    replays: u32,
    failed: String,
    died: String,
    mark: Option<Mark>,
    /// JSON as JSON, text as text, anything else in hexadecimal. Not in tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value)]
    body: Option<Body<'a>>,
}

/// A letter whole.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct Whole<'a> {
    group: &'a str,
    #[schema(value_type = String)]
    id: &'a LetterId,
    event: &'a str,
    key: &'a str,
    event_id: String,
    reason: Option<&'a str>,
    fingerprint: String,
    attempts: i64,
    replays: u32,
    mark: Option<Mark>,
    /// The topic that it was consumed from.
    origin_topic: Option<&'a str>,
    born: String,
    failed: String,
    died: String,
    /// Id that its producer's client gave it.
    unique_id: &'a str,
    properties: BTreeMap<&'a str, &'a str>,
    /// Why the groups of its event cannot read what would be sent; none: they can, or nobody knows the event.
    fault: Option<String>,
    /// Where the body of its message is, BROKER:QUEUE:OFFSET of TOPIC: a replay sends that, and `body` describes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_at: Option<String>,
    #[schema(value_type = serde_json::Value)]
    body: Body<'a>,
    /// What a replay sends instead.
    #[schema(value_type = Option<serde_json::Value>)]
    edited_body: Option<Body<'a>>,
}

/// Letters with one fingerprint.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct Count<'a> {
    fingerprint: String,
    event: &'a str,
    reason: &'a str,
    count: u64,
    first: String,
    last: String,
    #[schema(value_type = String)]
    example: &'a LetterId,
}

pub(super) async fn list(context: &Context, mq: &RocketMq, _: &List) -> anyhow::Result<ExitCode> {
    let mut failed = Failed::default();
    silent::leave_out(mq, &mut failed).await?;
    let addrs = mq.master_addrs().await?;
    let now_ms = context.clock.now_ms();
    let mut output = context.output();
    for topic in mq.topics().await? {
        let Some(group) = topic.strip_prefix(DLQ_PREFIX) else { continue };
        match Depth::of(mq, &context.config.data_dir, &addrs, group, None).await {
            Ok(depth) if depth.all > 0 => output.row(&Listed {
                group: group.to_owned(),
                depth: depth.all,
                open: depth.open,
                oldest: depth.oldest_ms.map(rfc3339),
                oldest_seconds: depth.oldest_ms.map(|at| (now_ms - at).max(0) / 1000),
                newest: depth.newest_ms.map(rfc3339),
            })?,
            Ok(_) => {}
            Err(error) => failed.note(group, &error)?,
        }
    }
    output.finish()?;
    Ok(failed.code())
}

/// How many dead letters a group has.
pub(in crate::cmd) struct Depth {
    /// All.
    all: i64,
    /// Those that were neither replayed nor discarded from this data directory.
    pub open: i64,
    oldest_ms: Option<i64>,
    newest_ms: Option<i64>,
}

impl Depth {
    /// Of those stored at or after `from_ms`; `addrs` as [`RocketMq::master_addrs`] gives them.
    ///
    /// # Errors
    /// The cluster is away, or what was done with the letters cannot be read.
    pub async fn of(
        mq: &RocketMq,
        data_dir: &Path,
        addrs: &BTreeMap<String, String>,
        group: &str,
        from_ms: Option<i64>,
    ) -> anyhow::Result<Self> {
        let (ranges, _) = mq.queue_ranges(&topic_of(group)).await?;
        let mut depth = Self { all: 0, open: 0, oldest_ms: None, newest_ms: None };
        let mut state = None;
        for range in ranges.iter().filter(|range| range.max > range.min) {
            depth.newest_ms = depth.newest_ms.max(range.last_stored_ms);
            let from = match from_ms {
                Some(at) => mq.offset_at(&range.queue, at).await?.clamp(range.min, range.max),
                None => range.min,
            };
            let first_ms = match addrs.get(&range.queue.broker) {
                Some(addr) => mq.stored_at(addr, &range.queue, from).await?,
                None => None,
            };
            let state: &State = match &state {
                Some(state) => state,
                None => state.insert(State::open(data_dir, group)?),
            };
            let place = (range.queue.broker.clone(), range.queue.queue);
            let closed = first_ms.map_or(0, |first_ms| state.closed_in(&place, from, range.max, first_ms));
            depth.all += range.max - from;
            depth.open += (range.max - from - closed).max(0);
            depth.oldest_ms = depth.oldest_ms.into_iter().chain(first_ms).min();
        }
        Ok(depth)
    }
}

pub(super) async fn browse(context: &Context, mq: &RocketMq, args: &Browse) -> anyhow::Result<ExitCode> {
    let Browse { chosen, all, limit } = args;
    let state = State::open(&context.config.data_dir, &chosen.group)?;
    let mut reader = Reader::new(mq, &chosen.group, &chosen.span(mq).await?).await?;
    let mut named = chosen.named();
    let now_ms = context.clock.now_ms();
    let with_body = context.format() != Format::Table;
    let mut output = context.output();
    let mut printed = 0;
    while let Some(letter) = reader.next().await? {
        named.found(&letter);
        if !chosen.filter.takes(&letter, now_ms) || !(*all || state.is_open(&letter)) {
            continue;
        }
        if printed == *limit {
            writeln!(std::io::stderr(), "there are more: --limit prints more than {limit}")?;
            output.finish()?;
            return Ok(ExitCode::SUCCESS);
        }
        output.row(&row(&letter, state.mark(&letter), with_body))?;
        printed += 1;
    }
    output.finish()?;
    named.none_missing()?;
    Ok(ExitCode::SUCCESS)
}

fn row(letter: &Letter, mark: Option<Mark>, with_body: bool) -> Row<'_> {
    Row {
        id: &letter.id,
        event: letter.event(),
        key: &letter.message.key,
        event_id: letter.event_id(),
        reason: letter.reason(),
        fingerprint: letter.fingerprint().short(),
        attempts: letter.attempts(),
        replays: letter.replays(),
        failed: rfc3339(letter.failed_ms()),
        died: rfc3339(letter.message.stored_ms),
        mark,
        body: with_body.then(|| Body::of(&letter.message.body)),
    }
}

pub(super) async fn one(context: &Context, mq: &RocketMq, args: &Show) -> anyhow::Result<ExitCode> {
    let state = State::open(&context.config.data_dir, &args.group)?;
    let letter = read::one(mq, &args.group, &args.id).await?;
    let edited = state.edited(&letter).map(str::as_bytes);
    let sent = edited.unwrap_or(&letter.message.body);
    let left = letter.left_behind();
    let is_left = left.is_some() && edited.is_none();
    let reader = reader::Reader::of(&context.config);
    let whole = Whole {
        group: &args.group,
        id: &letter.id,
        event: letter.event(),
        key: &letter.message.key,
        event_id: letter.event_id(),
        reason: letter.reason(),
        fingerprint: letter.fingerprint().short(),
        attempts: letter.attempts(),
        replays: letter.replays(),
        mark: state.mark(&letter),
        origin_topic: letter.origin(),
        born: rfc3339(letter.born_ms()),
        failed: rfc3339(letter.failed_ms()),
        died: rfc3339(letter.message.stored_ms),
        unique_id: &letter.message.unique_id,
        properties: letter.message.properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
        fault: match letter.compressed().filter(|_| edited.is_none()) {
            Some(why) => Some(why.to_owned()),
            // What would be sent is not here to be read.
            None => letter.kind().filter(|_| !is_left).and_then(|kind| reader.check(kind, sent).err()),
        },
        body_at: left.map(|left| left.place.to_string()),
        body: Body::of(&letter.message.body),
        edited_body: edited.map(Body::of),
    };
    let mut output = context.output();
    if context.format() == Format::Table {
        // A table of one row with a body in it serves nobody.
        output.text(&format!("{}\n", serde_json::to_string_pretty(&whole)?))?;
        output.flush()?;
    } else {
        output.rows([whole])?;
    }
    Ok(ExitCode::SUCCESS)
}

struct Tally {
    count: u64,
    first_ms: i64,
    last_ms: i64,
    example: LetterId,
}

pub(super) async fn group(context: &Context, mq: &RocketMq, args: &Group) -> anyhow::Result<ExitCode> {
    let chosen = &args.chosen;
    let state = State::open(&context.config.data_dir, &chosen.group)?;
    let mut reader = Reader::new(mq, &chosen.group, &chosen.span(mq).await?).await?;
    let mut named = chosen.named();
    let now_ms = context.clock.now_ms();
    let mut tallies: BTreeMap<Fingerprint, Tally> = BTreeMap::new();
    while let Some(letter) = reader.next().await? {
        named.found(&letter);
        if !chosen.filter.takes(&letter, now_ms) || !state.is_open(&letter) {
            continue;
        }
        let mut print = letter.fingerprint();
        if tallies.len() >= MAX_FINGERPRINTS && !tallies.contains_key(&print) {
            "(other reasons)".clone_into(&mut print.reason);
        }
        let at = letter.message.stored_ms;
        let fresh = || Tally { count: 0, first_ms: at, last_ms: at, example: letter.id.clone() };
        let tally = tallies.entry(print).or_insert_with(fresh);
        tally.count += 1;
        tally.first_ms = tally.first_ms.min(at);
        tally.last_ms = tally.last_ms.max(at);
    }
    named.none_missing()?;
    let mut all: Vec<_> = tallies.iter().collect();
    all.sort_by_key(|(_, tally)| std::cmp::Reverse(tally.count));
    context.output().rows(all.into_iter().map(|(print, tally)| Count {
        fingerprint: print.short(),
        event: &print.event,
        reason: &print.reason,
        count: tally.count,
        first: rfc3339(tally.first_ms),
        last: rfc3339(tally.last_ms),
        example: &tally.example,
    }))?;
    Ok(ExitCode::SUCCESS)
}
