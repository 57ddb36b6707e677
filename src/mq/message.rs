//! The two shapes in which a message crosses the border between ruyi and a broker.

use bytes::Bytes;

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
}

/// One queue of a topic on one broker.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
    /// User properties.
    pub properties: Vec<(String, String)>,
    /// When the producer made it, epoch ms.
    pub born_ms: i64,
}

impl Incoming {
    /// The value of a user property.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}
