//! A dead letter: a message in `%DLQ%<group>`, whoever put it there.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::domain::event::Kind;
use crate::domain::id::unpadded;
use crate::mq::handler::identity;
use crate::mq::left_behind::LeftBehind;
use crate::mq::message::{ALL_KEYS, COMPRESSED, LEFT_OUT};
pub use crate::mq::message::{LETTER, REPLAY_ID, REPLAYS};
use crate::mq::operate::StoredMessage;
use crate::mq::rocketmq::{DLQ_PREFIX, RETRY_PREFIX};

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
    /// What duplicates share: as the handlers of the catalogue's events see it, else the producer's id.
    #[must_use]
    pub fn event_id(&self) -> String {
        let message = &self.message;
        let property = message.property("eventId");
        let known = match self.kind() {
            Some(kind) => {
                let keys = message.property(ALL_KEYS).unwrap_or(&message.key);
                identity(property, keys, &message.body, kind.repeats().unwrap_or(kind)).0
            }
            None => property.map(unpadded).filter(|id| !id.is_empty()).map(str::to_owned),
        };
        known.unwrap_or_else(|| message.unique_id.clone())
    }

    /// The topic that it was consumed from.
    #[must_use]
    pub fn origin(&self) -> Option<&str> {
        let named = ["dlqOriginTopic", "DLQ_ORIGIN_TOPIC", "RETRY_TOPIC", "REAL_TOPIC"]
            .into_iter()
            .filter_map(|name| self.message.property(name))
            .find(|topic| !topic.starts_with('%'));
        named.or_else(|| self.of_pop())
    }

    /// The topic of origin, if members of its group that pop found it at last in the retry topic of that topic.
    #[must_use]
    pub fn of_pop(&self) -> Option<&str> {
        let group = self.message.queue.topic.strip_prefix(DLQ_PREFIX)?;
        let rest = self.message.property("RETRY_TOPIC")?.strip_prefix(RETRY_PREFIX)?.strip_prefix(group)?;
        rest.strip_prefix(POP_SEPARATORS).filter(|origin| !origin.is_empty())
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

    /// The body of its message, where that was left behind.
    #[must_use]
    pub fn left_behind(&self) -> Option<LeftBehind> {
        LeftBehind::read(&self.message.body, &self.message.properties)
    }

    /// Why its body is still compressed, where it could not be decompressed. Whoever sends a copy of it has no way to
    /// say that it is.
    #[must_use]
    pub fn compressed(&self) -> Option<&str> {
        self.message.unreadable.as_deref().or_else(|| self.message.property(COMPRESSED))
    }

    /// Its body again, and the properties of its message that it could not keep.
    pub fn take_back(&mut self, original: StoredMessage) {
        self.message.body = original.body;
        if self.message.property(LEFT_OUT) == Some("*") {
            self.message.properties.retain(|(name, _)| name != LEFT_OUT);
            for (name, value) in original.properties {
                if self.message.property(&name).is_none() {
                    self.message.properties.push((name, value));
                }
            }
            self.message.key = original.key;
        }
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

    /// When its producer made it, epoch ms, before anybody sent it again.
    #[must_use]
    pub fn born_ms(&self) -> i64 {
        self.message.property(BORN).and_then(|at| at.parse().ok()).unwrap_or(self.message.born_ms)
    }

    /// What says in which order the letters of a key came: the first failure, else when it was made.
    #[must_use]
    pub fn order_ms(&self) -> (i64, i64) {
        let failed = self.message.property("dlqFirstFailure").and_then(|at| at.parse().ok());
        (failed.unwrap_or_else(|| self.born_ms()), self.message.born_ms)
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

/// Between group and topic in the retry topic of a group that pops: without and with the broker's enableRetryTopicV2.
const POP_SEPARATORS: [char; 2] = ['_', '+'];

/// The retry topics that a group has for a topic, if its members pop; clients may send to the first of them only.
pub fn topics_of_pop(group: &str, topic: &str) -> [String; 2] {
    POP_SEPARATORS.map(|separator| format!("{RETRY_PREFIX}{group}{separator}{topic}"))
}

/// Property of a replayed or imported message: when its producer made it, epoch ms. It travels with the message, as do
/// [`LETTER`] and [`REPLAYS`].
pub const BORN: &str = "dlqBorn";

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mq::message::QueueId;

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

    fn letter_of(properties: &[(&str, &str)], body: &str) -> Letter {
        let mut properties: Vec<_> = properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        properties.sort();
        let queue = QueueId { topic: "%DLQ%g".to_owned(), broker: "a".to_owned(), queue: 0 };
        let message = StoredMessage {
            queue,
            offset: 1,
            offset_id: String::new(),
            unique_id: "UNIQUE".to_owned(),
            tag: String::new(),
            key: "p5".to_owned(),
            body: body.to_owned().into(),
            unreadable: None,
            properties,
            born_ms: 0,
            stored_ms: 0,
            reconsumed: 0,
            size: 0,
        };
        Letter { id: "a:0:1".parse().unwrap(), message }
    }

    #[test]
    fn a_letter_of_pop_names_its_retry_topic() {
        for (property, wanted) in [
            ("%RETRY%g_orders_1", Some("orders_1")),
            ("%RETRY%g+orders", Some("orders")),
            ("%RETRY%g", None),
            ("%RETRY%g_", None),
            ("%RETRY%other_orders", None),
            ("%RETRY%good+orders", None),
        ] {
            let letter = letter_of(&[("RETRY_TOPIC", property)], "{}");
            assert_eq!((letter.of_pop(), letter.origin()), (wanted, wanted), "{property}");
        }
        let pushed = letter_of(&[("RETRY_TOPIC", "orders")], "{}");
        assert_eq!((pushed.of_pop(), pushed.origin()), (None, Some("orders")));
        assert_eq!(topics_of_pop("g", "orders"), ["%RETRY%g_orders", "%RETRY%g+orders"]);
    }

    #[test]
    fn an_event_is_known_by_the_id_that_its_group_knows() {
        let letter = |properties: &[(&str, &str)], body: &str| letter_of(properties, body).event_id();
        let of_ruyi = ("dlqOriginTopic", "ORDER_CREATED");
        assert_eq!(letter(&[of_ruyi], "{"), "p5:ORDER_CREATED");
        assert_eq!(letter(&[of_ruyi], r#"{"eventId": "e1"}"#), "e1");
        assert_eq!(letter(&[of_ruyi, ("eventId", "e2")], "{}"), "e2");
        assert_eq!(letter(&[("dlqOriginTopic", "java-orders")], "{}"), "UNIQUE");
    }
}
