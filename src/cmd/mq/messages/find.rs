//! Finding messages.

use std::collections::VecDeque;
use std::io::Write as _;
use std::process::ExitCode;

use super::filter::Filter;
use super::row::{Row, Whole};
use super::scan::Scan;
use crate::cmd::mq::dlq::LetterId;
use crate::cmd::mq::offsets::{Position, plan};
use crate::cmd::{Context, Usage, WithHelp};
use crate::mq::message::QueueId;
use crate::mq::operate::StoredMessage;
use crate::mq::rocketmq::RocketMq;
use crate::output::Format;

/// So many messages are read without being asked to, when the brokers' index has nothing.
const SCANNED: i64 = 100_000;
/// Messages of one key taken from the index at most.
const INDEXED: usize = 10_000;

#[derive(Debug, clap::Args)]
pub(super) struct Get {
    /// Topic as it is called on the broker
    topic: String,
    /// BROKER:QUEUE:OFFSET, the id of the producer's client (UNIQ_KEY), or Apache's msgId (the offset id)
    id: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct Query {
    /// Topic as it is called on the broker
    topic: String,
    /// From there: start, @-1h, @2024-01-15T08:00 [default: @-1h, with --key start]
    #[arg(long, value_name = "POSITION", allow_hyphen_values = true)]
    from: Option<Position>,
    /// Up to there: end, @-5m, @2024-01-15T09:00
    #[arg(long, value_name = "POSITION", default_value = "end", allow_hyphen_values = true)]
    to: Position,
    /// So many at most: of a key the newest, of a time the first
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Read the queues themselves, also for a key: complete, and slow where the span is long
    #[arg(long)]
    scan: bool,
    #[command(flatten)]
    filter: Filter,
}

pub(super) async fn get(context: &Context, mq: &RocketMq, args: &Get) -> anyhow::Result<ExitCode> {
    plan::existing_topic(mq, &args.topic).await?;
    let found = match args.id.parse::<LetterId>() {
        Ok(place) => at(mq, &args.topic, &place).await?,
        Err(_) => by_id(context, mq, &args.topic, &args.id).await?,
    };
    let missing = || anyhow::anyhow!("{} has no message {} (any more)", args.topic, args.id);
    let message = found.ok_or_else(missing).help("`ruyi mq messages query` finds messages by key or time")?;
    let mut output = context.output();
    let whole = Whole::of(&message);
    match context.format() {
        Format::Table => output.text(&whole.text())?,
        Format::Json | Format::Jsonl => output.row(&whole)?,
    }
    output.finish()?;
    Ok(ExitCode::SUCCESS)
}

async fn at(mq: &RocketMq, topic: &str, place: &LetterId) -> anyhow::Result<Option<StoredMessage>> {
    let addrs = mq.master_addrs().await?;
    let Some(addr) = addrs.get(&place.broker) else {
        let known = addrs.keys().cloned().collect::<Vec<_>>().join(", ");
        let unknown: anyhow::Result<_> = Err(anyhow::anyhow!("there is no broker {} with a master", place.broker));
        return unknown.help(format!("there is {known}"));
    };
    let queue = QueueId { topic: topic.to_owned(), broker: place.broker.clone(), queue: place.queue };
    let page = mq.read_queue(addr, &queue, place.offset, 1).await?;
    Ok(page.messages.into_iter().find(|message| message.offset == place.offset))
}

/// By one of the two ids, which look alike.
async fn by_id(context: &Context, mq: &RocketMq, topic: &str, id: &str) -> anyhow::Result<Option<StoredMessage>> {
    let id = id.to_ascii_uppercase();
    if let Some(message) = mq.message_by_offset_id(topic, &id).await? {
        return if message.queue.topic == topic {
            Ok(Some(message))
        } else {
            Err(anyhow::anyhow!("message {id} belongs to topic {}, not to {topic}", message.queue.topic))
        };
    }
    if let Some(message) = mq.message_by_unique_id(topic, &id).await? {
        return Ok(Some(message));
    }
    let mut scan = Scan::between(mq, topic, (Position::Start, Position::End), context.clock.now_ms()).await?;
    if scan.left() > SCANNED {
        let unknown: anyhow::Result<_> = Err(anyhow::anyhow!("the brokers' index has no message {id} in {topic}"));
        return unknown.help("name its place, or find it with `ruyi mq messages query --scan --from @-1h`");
    }
    while let Some(message) = scan.next().await? {
        if message.unique_id == id {
            return Ok(Some(message));
        }
    }
    Ok(None)
}

pub(super) async fn query(context: &Context, mq: &RocketMq, args: &Query) -> anyhow::Result<ExitCode> {
    plan::existing_topic(mq, &args.topic).await?;
    let now_ms = context.clock.now_ms();
    match &args.filter.key {
        Some(key) => by_key(context, mq, args, key, now_ms).await,
        None => by_time(context, mq, args, now_ms).await,
    }
}

async fn by_time(context: &Context, mq: &RocketMq, args: &Query, now_ms: i64) -> anyhow::Result<ExitCode> {
    let span = (args.from.unwrap_or(Position::Ago(3_600_000)), args.to);
    let mut scan = Scan::between(mq, &args.topic, span, now_ms).await?;
    let mut output = context.output();
    let mut left = args.limit;
    while let Some(message) = scan.next().await? {
        if !args.filter.takes(&message) {
            continue;
        }
        if left == 0 {
            cut_off(args.limit)?;
            break;
        }
        left -= 1;
        output.row(&Row::of(&message))?;
    }
    output.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// Of a key the newest are asked for, and printed oldest first.
async fn by_key(context: &Context, mq: &RocketMq, args: &Query, key: &str, now_ms: i64) -> anyhow::Result<ExitCode> {
    let from = args.from.unwrap_or(Position::Start);
    let (from_ms, to_ms) = (time(from, now_ms)?, time(args.to, now_ms)?);
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let mut found: VecDeque<StoredMessage> = VecDeque::new();
    let (mut more, mut is_all) = (false, false);
    if !args.scan {
        let (indexed, all) = mq.messages_by_key(&args.topic, key, from_ms, to_ms, INDEXED).await?;
        is_all = all && !indexed.is_empty();
        let mut taken = indexed.into_iter().filter(|message| args.filter.takes(message));
        for message in taken.by_ref().take(limit) {
            found.push_front(message);
        }
        more = taken.next().is_some();
    }
    if !is_all && found.len() < limit {
        let mut scan = Scan::between(mq, &args.topic, (from, args.to), now_ms).await?;
        if args.scan || scan.left() <= SCANNED {
            found.clear();
            while let Some(message) = scan.next().await? {
                if args.filter.takes(&message) {
                    found.push_back(message);
                }
                if found.len() > limit {
                    more = found.pop_front().is_some();
                }
            }
        } else {
            let left = scan.left();
            writeln!(
                std::io::stderr(),
                "the brokers' index has {} messages under {key}, maybe not all; --scan reads the {left} of that time",
                found.len()
            )?;
        }
    }
    if more {
        cut_off(args.limit)?;
    }
    let mut output = context.output();
    for message in &found {
        output.row(&Row::of(message))?;
    }
    output.finish()?;
    Ok(ExitCode::SUCCESS)
}

fn cut_off(limit: u32) -> std::io::Result<()> {
    writeln!(std::io::stderr(), "there are more than {limit}: say --limit, or narrow the time")
}

/// Epoch milliseconds of a position that is a time.
fn time(position: Position, now_ms: i64) -> Result<i64, Usage> {
    match position {
        Position::Start => Ok(0),
        // Clocks of brokers may be ahead.
        Position::End => Ok(now_ms + 3_600_000),
        Position::Ago(ms) => Ok(now_ms - ms),
        Position::At(at_ms) => Ok(at_ms),
        Position::By(_) | Position::Offset(_) => {
            Err(Usage("with --key say a time: start, end, @-1h or @2024-01-15T08:00".to_owned()))
        }
    }
}
