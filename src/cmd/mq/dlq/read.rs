//! Reading dead letters where they lie, a page at a time: in their order, or those that are wanted.

use std::collections::{BTreeMap, VecDeque};

use super::letter::{Letter, LetterId, topic_of};
use crate::cmd::WithHelp;
use crate::cmd::mq::nearest;

use crate::mq::message::QueueId;
use crate::mq::operate::Page;
use crate::mq::rocketmq::{DLQ_PREFIX, MqError, RocketMq};

/// Messages asked for at once. Apache RocketMQ gives 32, and 256 KiB, at most.
const PAGE: i32 = 256;
/// Attempts at one read.
const TRIES: u32 = 3;
/// Pages of a queue that are kept for letters that are wanted in another order.
const PAGES_KEPT: usize = 4;

/// A queue of a dead letter topic: broker and number.
pub type Place = (String, i32);

/// Part of the dead letters of a group: from where to where in each queue.
#[derive(Clone, Debug, Default)]
pub struct Span {
    /// Queue → first offset and the one after the last.
    pub queues: BTreeMap<Place, (i64, i64)>,
}

impl Span {
    /// All that lie there now.
    ///
    /// # Errors
    /// The group has no dead letter topic, or the cluster is away.
    pub async fn all(mq: &RocketMq, group: &str) -> anyhow::Result<Self> {
        let topic = topic_of(group);
        if mq.topic(&topic).await?.is_empty() {
            let topics = mq.topics().await?;
            let near = nearest(group, topics.iter().filter_map(|name| name.strip_prefix(DLQ_PREFIX)));
            let near = near.map_or_else(String::new, |near| format!("did you mean {near}? "));
            let text = anyhow::anyhow!("{group} has no dead letters: there is no topic {topic}");
            return Err(text).help(format!("{near}`ruyi mq dlq list` lists the groups that have some"));
        }
        Ok(Self::of_topic(mq, &topic).await?)
    }

    /// What a topic holds now.
    ///
    /// # Errors
    /// The cluster is away.
    pub async fn of_topic(mq: &RocketMq, topic: &str) -> Result<Self, MqError> {
        let (ranges, _) = mq.queue_ranges(topic).await?;
        let queues = ranges.into_iter().map(|range| ((range.queue.broker, range.queue.queue), (range.min, range.max)));
        Ok(Self { queues: queues.collect() })
    }
}

/// Reads the messages of a span queue by queue, in order.
pub struct Reader<'a> {
    mq: &'a RocketMq,
    topic: String,
    addrs: BTreeMap<String, String>,
    /// Queues still to be read, with the next offset and the one after the last.
    queues: VecDeque<(Place, i64, i64)>,
    page: VecDeque<Letter>,
}

impl<'a> Reader<'a> {
    /// Of the dead letters of `group` in `span`.
    ///
    /// # Errors
    /// The cluster is away.
    pub async fn new(mq: &'a RocketMq, group: &str, span: &Span) -> Result<Self, MqError> {
        Self::of_topic(mq, topic_of(group), span).await
    }

    /// Of the messages of any topic in `span`.
    ///
    /// # Errors
    /// The cluster is away.
    pub async fn of_topic(mq: &'a RocketMq, topic: String, span: &Span) -> Result<Self, MqError> {
        let queues = span.queues.iter().map(|(queue, (from, to))| (queue.clone(), *from, *to)).collect();
        Ok(Self { mq, topic, addrs: mq.master_addrs().await?, queues, page: VecDeque::new() })
    }

    /// The next letter; none at the end.
    ///
    /// # Errors
    /// The cluster's.
    pub async fn next(&mut self) -> Result<Option<Letter>, MqError> {
        loop {
            if let Some(letter) = self.page.pop_front() {
                return Ok(Some(letter));
            }
            let Some((place, from, to)) = self.queues.pop_front() else { return Ok(None) };
            if from >= to {
                continue;
            }
            let page = read(self.mq, &self.addrs, &self.topic, &place, from).await?;
            let (next, is_end) = (page.next, page.is_end);
            let inside = page.messages.into_iter().filter(|message| message.offset < to);
            self.page.extend(inside.map(|message| letter(&place, message)));
            if !is_end && next > from {
                self.queues.push_front((place, next, to));
            }
        }
    }
}

/// Reads letters in any order; neighbours come with one request.
pub struct Shelf<'a> {
    mq: &'a RocketMq,
    topic: String,
    addrs: BTreeMap<String, String>,
    pages: BTreeMap<Place, VecDeque<Vec<Letter>>>,
}

impl<'a> Shelf<'a> {
    /// Of the dead letters of `group`.
    ///
    /// # Errors
    /// The cluster is away.
    pub async fn new(mq: &'a RocketMq, group: &str) -> Result<Self, MqError> {
        Ok(Self { mq, topic: topic_of(group), addrs: mq.master_addrs().await?, pages: BTreeMap::new() })
    }

    /// The letter at this place; none when it is not there (any more).
    ///
    /// # Errors
    /// The cluster's.
    pub async fn get(&mut self, id: &LetterId) -> Result<Option<Letter>, MqError> {
        let place = (id.broker.clone(), id.queue);
        if let Some(found) = self.kept(&place, id.offset) {
            return Ok(Some(found));
        }
        let page = read(self.mq, &self.addrs, &self.topic, &place, id.offset).await?;
        let letters: Vec<Letter> = page.messages.into_iter().map(|message| letter(&place, message)).collect();
        let pages = self.pages.entry(place.clone()).or_default();
        pages.push_front(letters);
        pages.truncate(PAGES_KEPT);
        Ok(self.kept(&place, id.offset))
    }

    fn kept(&self, place: &Place, offset: i64) -> Option<Letter> {
        let mut pages = self.pages.get(place)?.iter();
        pages.find_map(|page| {
            let at = page.binary_search_by_key(&offset, |letter| letter.id.offset).ok()?;
            page.get(at).cloned()
        })
    }
}

async fn read(
    mq: &RocketMq,
    addrs: &BTreeMap<String, String>,
    topic: &str,
    place: &Place,
    from: i64,
) -> Result<Page, MqError> {
    let Some(addr) = addrs.get(&place.0) else { return Err(MqError::NoBroker) };
    let queue = QueueId { topic: topic.to_owned(), broker: place.0.clone(), queue: place.1 };
    // Of thousands of reads one may be too slow: that is no reason to begin anew.
    for _ in 1..TRIES {
        match mq.read_queue(addr, &queue, from, PAGE).await {
            Err(MqError::Timeout { .. } | MqError::Client { .. }) => {}
            other => return other,
        }
    }
    mq.read_queue(addr, &queue, from, PAGE).await
}

fn letter(place: &Place, message: crate::mq::operate::StoredMessage) -> Letter {
    Letter { id: LetterId { broker: place.0.clone(), queue: place.1, offset: message.offset }, message }
}

/// One letter.
///
/// # Errors
/// It is not there (any more), or the cluster is away.
pub async fn one(mq: &RocketMq, group: &str, id: &LetterId) -> anyhow::Result<Letter> {
    // A group without dead letters has an answer of its own.
    let span = Span::all(mq, group).await?;
    let known = span.queues.contains_key(&(id.broker.clone(), id.queue));
    let found = if known { Shelf::new(mq, group).await?.get(id).await? } else { None };
    let missing = || anyhow::anyhow!("there is no dead letter {id} of {group}: it may have expired");
    found.ok_or_else(missing).help("`ruyi mq dlq browse` prints those that are there")
}
