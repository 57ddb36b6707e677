//! From what an operator wants to one new offset for each queue.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::position::Position;
use crate::cmd::WithHelp;
use crate::mq::message::QueueId;
use crate::mq::operate::QueueRange;
use crate::mq::rocketmq::{MqError, RocketMq};

/// What is to happen to one queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Move {
    /// Topic.
    pub topic: String,
    /// Broker.
    pub broker: String,
    /// Queue.
    pub queue: i32,
    /// Where the group is; none: it has committed nothing here.
    pub before: Option<i64>,
    /// Where it is to be.
    pub after: i64,
    /// Messages that it will see again (above 0) or never (below 0).
    pub again: i64,
    /// It was done.
    pub done: bool,
    /// Where the queue ends.
    #[serde(skip)]
    pub end: i64,
    /// What was asked for lies outside of what the queue holds.
    #[serde(skip)]
    pub is_cut: bool,
}

impl Move {
    /// Of a queue, inside what the queue still holds.
    #[must_use]
    pub fn new(range: &QueueRange, before: Option<i64>, wanted: i64) -> Self {
        let after = wanted.clamp(range.min, range.max);
        Self {
            topic: range.queue.topic.clone(),
            broker: range.queue.broker.clone(),
            queue: range.queue.queue,
            before,
            after,
            // What has expired comes no more, and beyond the end there is nothing to come again.
            again: before.unwrap_or(range.min).clamp(range.min, range.max) - after,
            done: false,
            end: range.max,
            is_cut: wanted != after,
        }
    }

    /// Which queue.
    #[must_use]
    pub fn queue_id(&self) -> QueueId {
        QueueId { topic: self.topic.clone(), broker: self.broker.clone(), queue: self.queue }
    }

    /// There is something to do.
    #[must_use]
    pub fn changes(&self) -> bool {
        self.before != Some(self.after)
    }
}

/// The topics of a group: the one that was asked for, else all that it has consumed from.
///
/// # Errors
/// There is no such group or topic.
pub async fn topics(mq: &RocketMq, group: &str, only: Option<&str>) -> anyhow::Result<Vec<String>> {
    if let Some(topic) = only {
        existing_topic(mq, topic).await?;
    }
    let topics = mq.topics_of(group).await?;
    if topics.is_empty() {
        existing_group(mq, group).await?;
    }
    match only {
        Some(topic) => Ok(vec![topic.to_owned()]),
        None if topics.is_empty() => {
            Err(anyhow::anyhow!("{group} has not consumed from any topic yet")).help("name one with --topic")
        }
        None => Ok(topics),
    }
}

/// A broker knows the group: a mistyped name must not become a group of its own.
async fn existing_group(mq: &RocketMq, group: &str) -> anyhow::Result<()> {
    let known = mq.groups().await?;
    if known.iter().any(|name| name == group) || !mq.connections(group).await?.is_empty() {
        return Ok(());
    }
    let near = crate::cmd::mq::nearest(group, known.iter().map(String::as_str));
    Err(anyhow::anyhow!("there is no consumer group {group}")).help(near.map_or_else(
        || "`ruyi mq offsets list` lists them; `ruyi mq topics apply` makes those of a file".to_owned(),
        |near| format!("did you mean {near}? `ruyi mq offsets list` lists them"),
    ))
}

/// There is such a topic.
///
/// # Errors
/// There is none, with the nearest name; or the cluster is away.
pub async fn existing_topic(mq: &RocketMq, topic: &str) -> anyhow::Result<()> {
    if mq.topic(topic).await?.is_empty() {
        return Err(crate::cmd::mq::no_such_topic(mq, topic).await);
    }
    Ok(())
}

/// The offset of a position in each queue of a topic, for a reader that has none of its own.
///
/// # Errors
/// A broker of the topic is away.
pub async fn positions(
    mq: &RocketMq,
    topic: &str,
    position: Position,
    now_ms: i64,
) -> Result<Vec<(QueueId, i64)>, MqError> {
    let mut positions = Vec::new();
    for range in mq.queue_ranges(topic).await?.0 {
        // Back is counted from the end, on from the start.
        let base = if matches!(position, Position::By(count) if count < 0) { range.max } else { range.min };
        let offset = resolve(mq, position, &range, base, now_ms).await?;
        positions.push((range.queue.clone(), offset.clamp(range.min, range.max)));
    }
    Ok(positions)
}

async fn resolve(
    mq: &RocketMq,
    position: Position,
    range: &QueueRange,
    base: i64,
    now_ms: i64,
) -> Result<i64, MqError> {
    Ok(match position {
        Position::Start => range.min,
        Position::End => range.max,
        Position::Ago(ms) => mq.offset_at(&range.queue, now_ms - ms).await?,
        Position::At(at_ms) => mq.offset_at(&range.queue, at_ms).await?,
        Position::By(count) => base.saturating_add(count),
        Position::Offset(offset) => offset,
    })
}

/// Where each queue of `topic` is to be.
pub async fn moves(
    mq: &RocketMq,
    group: &str,
    topic: &str,
    to: Position,
    only: Option<&QueueId>,
    now_ms: i64,
) -> Result<Vec<Move>, MqError> {
    let (ranges, _) = mq.queue_ranges(topic).await?;
    let committed: BTreeMap<QueueId, Option<i64>> =
        mq.committed(group, topic).await?.into_iter().map(|queue| (queue.queue, queue.consumer_offset)).collect();
    let mut moves = Vec::new();
    for range in ranges.iter().filter(|range| only.is_none_or(|only| *only == range.queue)) {
        let before = committed.get(&range.queue).copied().flatten();
        // A group that has committed nothing starts at the oldest message.
        let wanted = resolve(mq, to, range, before.unwrap_or(range.min), now_ms).await?;
        moves.push(Move::new(range, before, wanted));
    }
    Ok(moves)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(min: i64, max: i64) -> QueueRange {
        let queue = QueueId { topic: "t".to_owned(), broker: "a".to_owned(), queue: 0 };
        QueueRange { queue, min, max, last_stored_ms: None }
    }

    #[test]
    fn a_move_stays_inside_the_queue_and_counts_what_it_means() {
        let forward = Move::new(&range(10, 50), Some(20), 30);
        assert_eq!((forward.after, forward.again), (30, -10));
        let back = Move::new(&range(10, 50), Some(20), 0);
        assert_eq!((back.after, back.again), (10, 10));
        let beyond = Move::new(&range(10, 50), Some(20), 99);
        assert_eq!((beyond.after, beyond.again), (50, -30));
        // Where it was has expired meanwhile: only what is left can be left out.
        let expired = Move::new(&range(10, 50), Some(3), 50);
        assert_eq!((expired.before, expired.after, expired.again), (Some(3), 50, -40));
        // Where it was is beyond the end: a topic that was made anew is consumed from its start.
        let anew = Move::new(&range(0, 10), Some(500), 0);
        assert_eq!((anew.before, anew.after, anew.again), (Some(500), 0, 10));
        assert!(Move::new(&range(0, 5), None, 0).changes());
        assert!(!Move::new(&range(0, 5), Some(5), 5).changes());
    }
}
