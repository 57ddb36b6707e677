//! The two shapes in which a message crosses the border between ruyi and a broker.

use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::left_behind::{BODY_AT, BODY_LEFT, LeftBehind, PLACED_OVER, Place};

/// A message on its way to a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Topic as it stands in the outbox row: a catalogue name, or `%DLQ%<group>` / `%RETRY%<group>`.
    pub topic: String,
    /// RocketMQ TAGS: the event name.
    pub tag: String,
    /// RocketMQ KEYS: the business key. It also chooses the queue: all messages of one key go to one queue.
    pub key: String,
    /// JSON, as stored.
    pub body: Bytes,
    /// User properties: eventId, eventType, schemaVersion, source, traceparent, and whatever a replay keeps.
    pub properties: Vec<(String, String)>,
    /// How long the broker keeps it back.
    pub delay: Delay,
}

/// How long a broker keeps a message back. Delayed messages travel alone, and keep no order among themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delay {
    /// Not at all.
    #[default]
    None,
    /// For one of the fixed spans that every RocketMQ knows, counted from the send.
    Level(DelayLevel),
    /// Until this time, epoch ms: the broker's timer (5.x), never early, up to about a second late. Brokers refuse
    /// what is further away than their own limit (`timerMaxDelaySec`, 3 days by default), and some what is past.
    Until(i64),
}

/// One of the 18 delay levels: 1s 5s 10s 30s, 1m to 10m, 20m 30m, 1h 2h (`messageDelayLevel` of the brokers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DelayLevel(u8);

/// Name and seconds of each level.
const LEVELS: [(&str, i64); 18] = [
    ("1s", 1),
    ("5s", 5),
    ("10s", 10),
    ("30s", 30),
    ("1m", 60),
    ("2m", 120),
    ("3m", 180),
    ("4m", 240),
    ("5m", 300),
    ("6m", 360),
    ("7m", 420),
    ("8m", 480),
    ("9m", 540),
    ("10m", 600),
    ("20m", 1_200),
    ("30m", 1_800),
    ("1h", 3_600),
    ("2h", 7_200),
];

impl DelayLevel {
    /// The level of this number, 1 to 18.
    #[must_use]
    pub fn new(number: u8) -> Option<Self> {
        (1..=LEVELS.len()).contains(&usize::from(number)).then_some(Self(number))
    }

    /// Its number on the wire.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }

    /// Its span, as it is written: `10s`.
    #[must_use]
    pub fn name(self) -> &'static str {
        LEVELS[usize::from(self.0) - 1].0
    }

    /// Its span, ms.
    #[must_use]
    pub fn ms(self) -> i64 {
        LEVELS[usize::from(self.0) - 1].1 * 1_000
    }
}

/// Why a text is no delay level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no delay level: 1 to 18, or 1s 5s 10s 30s, 1m to 10m, 20m 30m, 1h 2h")]
pub struct NoSuchLevel(String);

impl FromStr for DelayLevel {
    type Err = NoSuchLevel;

    /// From its number or its span.
    fn from_str(text: &str) -> Result<Self, NoSuchLevel> {
        let named = LEVELS.iter().zip(1..).find(|((name, _), _)| *name == text).map(|(_, number)| Self(number));
        named.or_else(|| text.parse().ok().and_then(Self::new)).ok_or_else(|| NoSuchLevel(text.to_owned()))
    }
}

/// Where a broker stored a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The client's id of the message: unique for each copy sent, so never to be used to drop duplicates.
    pub message_id: String,
    /// Queue.
    pub queue: QueueId,
    /// Position in the queue (of a delayed message: in the broker's own queue of waiting messages).
    pub offset: i64,
}

/// One queue of a topic on one broker.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueId {
    /// Topic as the catalogue names it.
    pub topic: String,
    /// Broker name; empty for the local broker.
    pub broker: String,
    /// Queue number, from 0.
    pub queue: i32,
}

/// A message as a consumer group received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// Where it came from; `queue.topic` is the catalogue's topic name.
    pub queue: QueueId,
    /// Position in the queue; what is committed after it is `offset + 1`.
    pub offset: i64,
    /// RocketMQ TAGS.
    pub tag: String,
    /// RocketMQ KEYS.
    pub key: String,
    /// Body bytes, decompressed.
    pub body: Bytes,
    /// Why `body` is still as the broker has it; `None`: it is as its producer wrote it.
    pub unreadable: Option<String>,
    /// User properties.
    pub properties: Vec<(String, String)>,
    /// When the producer made it, epoch ms.
    pub born_ms: i64,
    /// When its broker stored it, by the broker's clock, epoch ms; 0: nobody knows.
    pub stored_ms: i64,
}

/// What the columns hold that name a message: more of a tag or of KEYS is cut off.
pub(super) const NAME_MAX: usize = 64;
/// What the columns of topics hold, in characters.
pub(super) const TOPIC_MAX: usize = 128;
/// What the columns of properties hold, in bytes of JSON, with room for what ruyi adds.
const PROPERTIES_MAX: usize = 60_000;
/// Property with the names of the properties that did not fit; `*` for all but a few.
pub const LEFT_OUT: &str = "propertiesLeftOut";
/// Property with all KEYS, where they did not fit.
pub const ALL_KEYS: &str = "originKeys";
/// Property of a letter whose body could not be decompressed: why. Its bytes are as the producer sent them, and nothing
/// else says that they are compressed: a broker keeps the sign of that beside the message, and gives it to no copy.
pub const COMPRESSED: &str = "dlqBodyCompressed";
/// Characters of that at most.
const REASON_MAX: usize = 200;
/// Property of a message that was sent again: where the dead letter lay that it is a copy of.
pub const LETTER: &str = "dlqLetter";
/// Property of a message that was sent again: how often that has been done, with it and with what it is a copy of.
pub const REPLAYS: &str = "dlqReplays";
/// Property of a message that was sent again to a group of ruyi: the name of this one replay, which no other has. It
/// ends with the death of the message: a letter that somebody sends on as it stands does not pass for this replay.
pub const REPLAY_ID: &str = "dlqReplayId";

/// The first `max` characters of a text, for people to read: two that differ may be the same then.
pub(super) fn cut(text: &str, max: usize) -> String {
    text.chars().take(max).collect()
}

/// A text by which something is known, in at most `max` characters: of a longer one the beginning, and half of `max` of
/// the SHA-256 of all of it, so that two that differ stay two.
pub(super) fn known_by(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let digest = cut(&hex::encode(Sha256::digest(text)), max / 2);
    format!("{}~{digest}", cut(text, max.saturating_sub(digest.len() + 1)))
}

/// What a message takes in memory beside its body, bytes.
const BESIDE_BODY: usize = 1 << 10;

impl Incoming {
    /// What it takes in memory, bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.body.len() + BESIDE_BODY
    }

    /// The message as the tables can hold it, whatever its sender made of it. Its KEYS stay whole: what it is known by
    /// may be anywhere in them. A body over `body_max` bytes is left where it is, as is an empty one, which no client of
    /// RocketMQ sends on: the broker has it.
    #[must_use]
    pub fn fitted(mut self, body_max: usize) -> Self {
        let place = self.place();
        self.tag = cut(&self.tag, NAME_MAX);
        self.queue.topic = cut(&self.queue.topic, TOPIC_MAX);
        if self.key.chars().count() > NAME_MAX && self.property(ALL_KEYS).is_none() {
            self.properties.push((ALL_KEYS.to_owned(), self.key.clone()));
        }

        // As JSON no character takes more than six bytes for each of its own; few properties ever come near.
        let size = |(name, value): &(String, String)| 6 * (name.len() + value.len()) + 8;
        let mut total: usize = self.properties.iter().map(size).sum();
        let mut left_out = Vec::new();
        while total > PROPERTIES_MAX
            && let Some(place) = (0..self.properties.len()).max_by_key(|place| size(&self.properties[*place]))
        {
            let largest = self.properties.remove(place);
            total -= size(&largest);
            left_out.push(cut(&largest.0, NAME_MAX));
        }
        if !left_out.is_empty() {
            self.properties.push((LEFT_OUT.to_owned(), cut(&left_out.join(" "), 500)));
        }
        // What this adds is never left out.
        if let Some(reason) = &self.unreadable {
            let reason = cut(reason, REASON_MAX).replace(['\u{1}', '\u{2}'], " ");
            self.properties.retain(|(name, _)| name != COMPRESSED);
            self.properties.push((COMPRESSED.to_owned(), reason));
        }
        self.leave_body(body_max, place);
        self
    }

    fn leave_body(&mut self, body_max: usize, place: Place) {
        if self.property(BODY_LEFT).is_some() {
            // The note of a body, sent as if it were one.
            let why = "its body was left behind: `ruyi mq dlq replay` sends it".to_owned();
            self.unreadable = Some(self.unreadable.take().unwrap_or(why));
            return;
        }
        let why = match self.body.len() {
            0 => "an empty body, which no letter can have".to_owned(),
            bytes if bytes > body_max => {
                format!("a body of {bytes} bytes, and the database takes {body_max} (max_allowed_packet)")
            }
            bytes => {
                self.properties.retain(|(name, _)| name != BODY_AT);
                // Without a broker the outbox has it, and nobody else.
                if bytes > PLACED_OVER && !place.queue.broker.is_empty() {
                    self.properties.push((BODY_AT.to_owned(), place.to_string()));
                }
                return;
            }
        };
        self.unreadable = Some(format!("{why}; it is at {place}"));
        LeftBehind::of(&self.body, place, &why).put_into(&mut self.body, &mut self.properties);
    }

    /// Where it came from.
    #[must_use]
    pub fn place(&self) -> Place {
        Place { queue: self.queue.clone(), offset: self.offset }
    }

    /// The value of a user property.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_by_a_long_text_stays_two() {
        let [one, other] = ["a", "b"].map(|end| known_by(&format!("{}{end}", "\u{e9}".repeat(96)), 96));
        assert_eq!((one.chars().count(), other.chars().count()), (96, 96));
        assert_ne!(one, other);
        assert_eq!(known_by(&"e".repeat(96), 96), "e".repeat(96));
        assert_eq!(known_by(&one, 96), one);
    }

    #[test]
    fn levels_are_those_of_the_brokers() {
        let names = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h";
        for (name, number) in names.split(' ').zip(1_u8..) {
            let level: DelayLevel = name.parse().unwrap();
            assert_eq!((level.number(), level.name()), (number, name));
            assert_eq!(number.to_string().parse(), Ok(level));
            let span: crate::config::Millis = name.parse().unwrap();
            assert_eq!(level.ms(), span.ms());
        }
        for wrong in ["0", "19", "", "15m", "-1", "1 s"] {
            assert!(wrong.parse::<DelayLevel>().is_err(), "{wrong}");
        }
    }
}
