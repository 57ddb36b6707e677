//! The copies of events on the brokers.

use std::io::Write as _;
use std::process::ExitCode;

use super::messages::Messages;
use super::step::{Doubtful, Source, Step, Story};
use crate::cmd::Context;
use crate::cmd::mq::cluster::{Cluster, Where};
use crate::cmd::mq::messages::Scan;
use crate::cmd::mq::offsets::Position;
use crate::domain::event::Kind;
use crate::domain::id::unpadded;
use crate::mq::handler::identity;
use crate::mq::operate::StoredMessage;
use crate::mq::rocketmq::{RocketMq, RocketMqConfig};

/// Copies of one key shown per topic.
const COPIES: usize = 100;
/// The clocks of brokers and of ours differ by less.
const AROUND_MS: i64 = 60_000;
/// A message is looked for among those that were stored so long before it was handled.
const BEFORE_MS: i64 = 600_000;
/// Messages read for one event at most, and for all that the index does not find.
const SCANNED: i64 = 20_000;

/// Looks each event up by its key.
///
/// # Errors
/// The cluster is away, or one of its brokers.
pub(super) async fn tell(context: &Context, messages: &Messages, story: &mut Story) -> anyhow::Result<()> {
    if messages.topics().is_empty() {
        return Ok(());
    }
    if !context.config.mq.enabled {
        anyhow::bail!("mq.enabled is false");
    }
    let look = async |mq: &RocketMq| {
        let known = mq.topics().await?;
        for topic in messages.topics() {
            let physical = physical(mq.config(), &topic);
            // What was handed over without a broker may never have had a topic.
            if known.contains(&physical) {
                copies(mq, &topic, &physical, messages, story).await?;
            }
        }
        without_key(mq, &known, messages, story).await?;
        for doubtful in std::mem::take(&mut story.doubtful) {
            look_closely(mq, &known, &doubtful, story).await?;
        }
        Ok(ExitCode::SUCCESS)
    };
    Cluster::with(context, &Where::default(), look).await.map(|_| ())
}

async fn copies(
    mq: &RocketMq,
    topic: &str,
    physical: &str,
    messages: &Messages,
    story: &mut Story,
) -> anyhow::Result<()> {
    let (ranges, _) = mq.queue_ranges(physical).await?;
    for key in messages.keys() {
        let (found, _) = mq.messages_by_key(physical, key, 0, i64::MAX, COPIES).await?;
        for message in found {
            // The index still knows what went with a topic that was deleted; no group reads it.
            let range = ranges.iter().find(|range| range.queue == message.queue);
            if !range.is_some_and(|range| (range.min..range.max).contains(&message.offset)) {
                continue;
            }
            let event = event_of(topic, &message);
            if messages.only.is_some() && messages.only != event {
                continue;
            }
            story.steps.push(copy(topic, physical, &message, event));
        }
    }
    Ok(())
}

/// Others may send events without KEYS, which no index knows: looks among what was stored before they were handled.
async fn without_key(mq: &RocketMq, known: &[String], messages: &Messages, story: &mut Story) -> anyhow::Result<()> {
    let mut budget = SCANNED;
    for (topic, event, handled_ms) in messages.first_handled() {
        let is_there =
            story.steps.iter().any(|step| step.source == Source::Broker && step.event.as_deref() == Some(event));
        let physical = physical(mq.config(), topic);
        if is_there || !known.contains(&physical) {
            continue;
        }
        let around = (Position::At(handled_ms - BEFORE_MS), Position::At(handled_ms + AROUND_MS));
        let mut scan = Scan::between(mq, &physical, around, handled_ms).await?;
        if scan.left() > budget {
            let many = scan.left();
            writeln!(std::io::stderr(), "{event}: where it lies is not known: {many} messages of that time to search")?;
            continue;
        }
        budget -= scan.left();
        while let Some(message) = scan.next().await? {
            if event_of(topic, &message).as_deref() == Some(event) {
                story.steps.push(copy(topic, &physical, &message, Some(event.to_owned())));
                break;
            }
        }
    }
    Ok(())
}

/// The event that a message is, as its handlers see it.
fn event_of(topic: &str, message: &StoredMessage) -> Option<String> {
    let property = message.property("eventId");
    match Kind::from_name(topic) {
        Some(kind) => identity(property, &message.key, &message.body, kind.repeats().unwrap_or(kind)).0,
        None => property.map(|id| unpadded(id).to_owned()),
    }
}

/// The index may lag behind, and what was not handled may be lost: reads what was stored around the time of the send.
async fn look_closely(mq: &RocketMq, known: &[String], doubtful: &Doubtful, story: &mut Story) -> anyhow::Result<()> {
    let event = Some(doubtful.event.as_str());
    if story.steps.iter().any(|step| step.source == Source::Broker && step.event.as_deref() == event) {
        return Ok(());
    }
    let physical = physical(mq.config(), &doubtful.topic);
    let mut what = format!("have no copy of {0}: `ruyi mq outbox redrive --ids {0}` sends it again", doubtful.event);
    if known.contains(&physical) {
        let around = (Position::At(doubtful.sent_ms - AROUND_MS), Position::At(doubtful.sent_ms + AROUND_MS));
        let mut scan = Scan::between(mq, &physical, around, doubtful.sent_ms).await?;
        if scan.left() > SCANNED {
            what = format!("were not searched for {}: {} messages of that time", doubtful.event, scan.left());
        } else {
            while let Some(message) = scan.next().await? {
                if event_of(&doubtful.topic, &message).as_deref() == event {
                    story.steps.push(copy(&doubtful.topic, &physical, &message, Some(doubtful.event.clone())));
                    return Ok(());
                }
            }
        }
    }
    story.missing.push(Step {
        at_ms: doubtful.sent_ms,
        took_ms: None,
        source: Source::Broker,
        who: "brokers".to_owned(),
        what,
        event: Some(doubtful.event.clone()),
        place: None,
    });
    Ok(())
}

fn copy(topic: &str, physical: &str, message: &StoredMessage, event: Option<String>) -> Step {
    let (broker, queue, offset) = (&message.queue.broker, message.queue.queue, message.offset);
    Step {
        at_ms: message.stored_ms,
        took_ms: None,
        source: Source::Broker,
        who: broker.clone(),
        what: format!("stores a copy in {topic}"),
        event,
        place: Some(format!("{physical} {broker}:{queue}:{offset}")),
    }
}

/// A catalogue topic, or `%DLQ%<group>`, as the broker calls it.
fn physical(config: &RocketMqConfig, topic: &str) -> String {
    const DLQ: &str = "%DLQ%";
    let named = config.topics.get(topic).map_or(topic, String::as_str);
    let named = named.split_once(':').map_or(named, |(named, _)| named);
    match (&config.namespace, named.strip_prefix(DLQ)) {
        (Some(namespace), Some(group)) => format!("{DLQ}{namespace}%{group}"),
        (Some(namespace), None) => format!("{namespace}%{named}"),
        (None, _) => named.to_owned(),
    }
}
