//! A dead letter: a message in `%DLQ%<group>`, whoever put it there.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::cmd::WithHelp;
use crate::cmd::mq::offsets::plan;
use crate::domain::event::Kind;
use crate::mq::message::QueueId;
use crate::mq::operate::StoredMessage;
use crate::mq::rocketmq::{DLQ_PREFIX, MqError, RocketMq};

/// Messages asked for at once.
const PAGE: i32 = 256;

/// Where a dead letter lies: `broker:queue:offset`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LetterId {
    /// Broker.
    pub broker: String,
    /// Queue.
    pub queue: i32,
    /// Offset.
    pub offset: i64,
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.broker, self.queue, self.offset)
    }
}

impl FromStr for LetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (rest, offset) = text.rsplit_once(':')?;
            let (broker, queue) = rest.rsplit_once(':')?;
            let id = Self { broker: broker.to_owned(), queue: queue.parse().ok()?, offset: offset.parse().ok()? };
            (!id.broker.is_empty() && id.queue >= 0 && id.offset >= 0).then_some(id)
        };
        parse().ok_or_else(|| format!("{text:?} is no id of a dead letter: BROKER:QUEUE:OFFSET, as `browse` prints it"))
    }
}

impl Serialize for LetterId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LetterId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A dead letter and what is known of it.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Where it lies.
    pub id: LetterId,
    /// The message.
    pub message: StoredMessage,
}

impl Letter {
    /// What duplicates share: the property, else the body's, else the producer's id.
    #[must_use]
    pub fn event_id(&self) -> String {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct InBody {
            event_id: Option<String>,
        }
        let property = self.message.property("eventId").map(str::to_owned);
        property
            .or_else(|| serde_json::from_slice::<InBody>(&self.message.body).ok().and_then(|body| body.event_id))
            .filter(|id| !id.is_empty())
            .unwrap_or_else(|| self.message.unique_id.clone())
    }

    /// The topic that it was consumed from.
    #[must_use]
    pub fn origin(&self) -> Option<&str> {
        ["dlqOriginTopic", "DLQ_ORIGIN_TOPIC", "RETRY_TOPIC", "REAL_TOPIC"]
            .into_iter()
            .find_map(|name| self.message.property(name))
            .filter(|topic| !topic.starts_with('%'))
    }

    /// What happened: its event, else its tag, else its topic.
    #[must_use]
    pub fn event(&self) -> &str {
        let tag = (!self.message.tag.is_empty()).then_some(self.message.tag.as_str());
        self.message.property("eventType").or(tag).or_else(|| self.origin()).unwrap_or("-")
    }

    /// The event, where the catalogue knows it.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        Kind::from_name(self.event()).or_else(|| self.origin().and_then(Kind::from_name))
    }

    /// Why it was given up; a client that does not say so leaves none.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.message.property("dlqReason")
    }

    /// How often it was tried.
    #[must_use]
    pub fn attempts(&self) -> i64 {
        let said = self.message.property("dlqAttempts").and_then(|count| count.parse().ok());
        said.unwrap_or_else(|| i64::from(self.message.reconsumed))
    }

    /// How often it was replayed before it died again.
    #[must_use]
    pub fn replays(&self) -> u32 {
        self.message.property(REPLAYS).and_then(|count| count.parse().ok()).unwrap_or(0)
    }

    /// When it failed first, epoch ms; else when it was given up.
    #[must_use]
    pub fn failed_ms(&self) -> i64 {
        let said = self.message.property("dlqFirstFailure").and_then(|at| at.parse().ok());
        said.unwrap_or(self.message.stored_ms)
    }

    /// Names what went wrong: equal for letters that differ in ids and numbers only.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.event(), self.reason().unwrap_or_default())
    }
}

/// Property that counts replays; it travels with the message.
pub const REPLAYS: &str = "dlqReplays";

/// An event and a reason with ids and numbers masked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint {
    /// Event.
    pub event: String,
    /// Reason, masked.
    pub reason: String,
}

impl Fingerprint {
    fn of(event: &str, reason: &str) -> Self {
        Self { event: event.to_owned(), reason: mask(reason) }
    }

    /// Eight hexadecimal digits, to name it on a command line.
    #[must_use]
    pub fn short(&self) -> String {
        use sha2::{Digest, Sha256};
        let digest = Sha256::new().chain_update(&self.event).chain_update([0]).chain_update(&self.reason).finalize();
        hex::encode(digest.get(..4).unwrap_or_default())
    }
}

/// Words with a digit in them become `#`: numbers, ids, times, addresses.
fn mask(reason: &str) -> String {
    let mut masked = String::with_capacity(reason.len());
    let mut word = String::new();
    let flush = |word: &mut String, masked: &mut String| {
        if word.chars().any(|c| c.is_ascii_digit()) {
            if !masked.ends_with('#') {
                masked.push('#');
            }
        } else {
            masked.push_str(word);
        }
        word.clear();
    };
    for c in reason.chars() {
        if c.is_alphanumeric() || matches!(c, '-' | '_') {
            word.push(c);
        } else {
            flush(&mut word, &mut masked);
            masked.push(c);
        }
    }
    flush(&mut word, &mut masked);
    masked
}

/// The dead letter topic of a group.
#[must_use]
pub fn topic_of(group: &str) -> String {
    format!("{DLQ_PREFIX}{group}")
}

/// Part of the dead letters of a group: from where to where in each queue.
#[derive(Clone, Debug, Default)]
pub struct Span {
    /// (broker, queue) → first offset and the one after the last.
    pub queues: BTreeMap<(String, i32), (i64, i64)>,
}

impl Span {
    /// All that lie there now.
    ///
    /// # Errors
    /// The group has no dead letter topic, or the cluster is away.
    pub async fn all(mq: &RocketMq, group: &str) -> anyhow::Result<Self> {
        let topic = topic_of(group);
        if mq.topic(&topic).await?.is_empty() {
            let text = anyhow::anyhow!("{group} has no dead letters: there is no topic {topic}");
            return Err(text).help("`ruyi mq dlq list` lists the groups that have some");
        }
        let (ranges, _) = mq.queue_ranges(&topic).await?;
        let queues = ranges.into_iter().map(|range| ((range.queue.broker, range.queue.queue), (range.min, range.max)));
        Ok(Self { queues: queues.collect() })
    }
}

/// Reads letters queue by queue, in order, a page at a time.
pub struct Reader<'a> {
    mq: &'a RocketMq,
    group: String,
    addrs: BTreeMap<String, String>,
    /// Queues still to be read: (broker, queue), next offset, the one after the last.
    queues: VecDeque<((String, i32), i64, i64)>,
    page: VecDeque<Letter>,
}

impl<'a> Reader<'a> {
    /// Of the letters of `span`.
    ///
    /// # Errors
    /// The cluster is away.
    pub async fn new(mq: &'a RocketMq, group: &str, span: &Span) -> Result<Self, MqError> {
        let queues = span.queues.iter().map(|(queue, (from, to))| (queue.clone(), *from, *to)).collect();
        Ok(Self { mq, group: group.to_owned(), addrs: plan::addrs(mq).await?, queues, page: VecDeque::new() })
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
            let Some(addr) = self.addrs.get(&place.0) else { return Err(MqError::NoBroker) };
            let queue = QueueId { topic: topic_of(&self.group), broker: place.0.clone(), queue: place.1 };
            let page = self.mq.read_queue(addr, &queue, from, PAGE).await?;
            let inside = page.messages.into_iter().filter(|message| message.offset < to);
            self.page.extend(inside.map(|message| {
                let id = LetterId { broker: place.0.clone(), queue: place.1, offset: message.offset };
                Letter { id, message }
            }));
            if !page.is_end && page.next > from {
                self.queues.push_front((place, page.next, to));
            }
        }
    }
}

/// One letter.
///
/// # Errors
/// It is not there (any more), or the cluster is away.
pub async fn one(mq: &RocketMq, group: &str, id: &LetterId) -> anyhow::Result<Letter> {
    let mut span = Span::default();
    span.queues.insert((id.broker.clone(), id.queue), (id.offset, id.offset + 1));
    let found = Reader::new(mq, group, &span).await?.next().await?;
    let missing = || anyhow::anyhow!("there is no dead letter {id} of {group}: it may have expired");
    found.ok_or_else(missing).help("`ruyi mq dlq browse` prints those that are there")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masked_reasons_differ_in_words_only() {
        assert_eq!(mask("order 382402245859213314 has no line 2"), "order # has no line #");
        assert_eq!(mask("SKU TEA-1 is unknown"), "SKU # is unknown");
        assert_eq!(mask("timeout after 3000ms at 10.0.0.1:9876"), "timeout after # at #.#.#.#:#");
        assert_eq!(mask("no such order"), "no such order");
        let a = Fingerprint::of("ORDER_CREATED", "order 1 is bad");
        assert_eq!(a.short(), Fingerprint::of("ORDER_CREATED", "order 27 is bad").short());
        assert_ne!(a.short(), Fingerprint::of("ORDER_CANCELED", "order 27 is bad").short());
        assert_eq!(a.short().len(), 8);
    }

    #[test]
    fn ids_are_read_as_they_are_printed() {
        let id: LetterId = "broker-a:0:17".parse().unwrap();
        assert_eq!(id.to_string(), "broker-a:0:17");
        for wrong in ["", "a", "a:1", "a:b:1", "a:1:b", ":1:2", "a:-1:2", "a:1:-2"] {
            assert!(wrong.parse::<LetterId>().is_err(), "{wrong}");
        }
    }
}
