//! Finding messages.

use std::process::ExitCode;

use super::row::{Row, Whole};
use crate::cmd::mq::cluster::Where;
use crate::cmd::mq::dlq::LetterId;
use crate::cmd::mq::offsets::{Position, plan};
use crate::cmd::{Context, Usage, WithHelp};
use crate::mq::message::QueueId;
use crate::mq::operate::StoredMessage;
use crate::mq::rocketmq::RocketMq;
use crate::output::Output;

/// Messages asked for at once.
const PAGE: i32 = 256;

#[derive(Debug, clap::Args)]
pub(super) struct Get {
    /// Topic as it is called on the broker
    topic: String,
    /// BROKER:QUEUE:OFFSET, or the id that the producer's client gave it
    id: String,
    #[command(flatten)]
    pub(super) place: Where,
}

#[derive(Debug, clap::Args)]
pub(super) struct Query {
    /// Topic as it is called on the broker
    topic: String,
    /// Only messages with this key, found through the brokers' index
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// From there: start, @-1h, @2024-01-15T08:00 [default: @-1h, with --key start]
    #[arg(long, value_name = "POSITION")]
    from: Option<Position>,
    /// Up to there: end, @-5m, @2024-01-15T09:00
    #[arg(long, value_name = "POSITION", default_value = "end")]
    to: Position,
    /// Only messages with this tag
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// So many at most
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(i32).range(1..))]
    limit: i32,
    #[command(flatten)]
    pub(super) place: Where,
}

pub(super) async fn get(mq: &RocketMq, args: &Get) -> anyhow::Result<ExitCode> {
    plan::existing_topic(mq, &args.topic).await?;
    let found = match args.id.parse::<LetterId>() {
        Ok(place) => at(mq, &args.topic, &place).await?,
        Err(_) => mq.message_by_unique_id(&args.topic, &args.id).await?,
    };
    let missing = || anyhow::anyhow!("{} has no message {} (any more)", args.topic, args.id);
    let message = found.ok_or_else(missing).help("`ruyi mq messages query` finds messages by key or time")?;
    let mut output = Output::stdout(crate::output::Format::Json);
    output.text(&format!("{}\n", serde_json::to_string_pretty(&Whole::of(&message))?))?;
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

async fn at(mq: &RocketMq, topic: &str, place: &LetterId) -> anyhow::Result<Option<StoredMessage>> {
    let addrs = plan::addrs(mq).await?;
    let Some(addr) = addrs.get(&place.broker) else { return Ok(None) };
    let queue = QueueId { topic: topic.to_owned(), broker: place.broker.clone(), queue: place.queue };
    let page = mq.read_queue(addr, &queue, place.offset, 1).await?;
    Ok(page.messages.into_iter().find(|message| message.offset == place.offset))
}

pub(super) async fn query(context: &Context, mq: &RocketMq, args: &Query) -> anyhow::Result<ExitCode> {
    plan::existing_topic(mq, &args.topic).await?;
    let now_ms = context.clock.now_ms();
    let wanted = |message: &StoredMessage| args.tag.as_ref().is_none_or(|tag| message.tag == *tag);
    let mut output = context.output();
    if let Some(key) = &args.key {
        let from_ms = time(args.from.unwrap_or(Position::Start), now_ms)?;
        let to_ms = time(args.to, now_ms)?;
        let found = mq.messages_by_key(&args.topic, key, from_ms, to_ms, args.limit).await?;
        for message in found.iter().filter(|message| wanted(message)) {
            output.row(&Row::of(message))?;
        }
        output.finish()?;
        return Ok(ExitCode::SUCCESS);
    }
    let addrs = plan::addrs(mq).await?;
    let from = args.from.unwrap_or(Position::Ago(3_600_000));
    let starts = plan::positions(mq, &args.topic, from, now_ms).await?;
    let ends = plan::positions(mq, &args.topic, args.to, now_ms).await?;
    let mut left = args.limit;
    for ((queue, start), (_, end)) in starts.into_iter().zip(ends) {
        let Some(addr) = addrs.get(&queue.broker) else { continue };
        let mut offset = start;
        while offset < end && left > 0 {
            let page = mq.read_queue(addr, &queue, offset, PAGE).await?;
            for message in page.messages.iter().filter(|message| message.offset < end && wanted(message)) {
                if left > 0 {
                    output.row(&Row::of(message))?;
                    left -= 1;
                }
            }
            if page.is_end || page.next <= offset {
                break;
            }
            offset = page.next;
        }
    }
    output.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// Epoch milliseconds of a position that is a time.
fn time(position: Position, now_ms: i64) -> Result<i64, Usage> {
    match position {
        Position::Start => Ok(0),
        Position::End => Ok(now_ms),
        Position::Ago(ms) => Ok(now_ms - ms),
        Position::At(at_ms) => Ok(at_ms),
        Position::By(_) | Position::Offset(_) => {
            Err(Usage("say a time: start, end, @-1h or @2024-01-15T08:00".to_owned()))
        }
    }
}
