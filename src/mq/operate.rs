//! What an operator sees of a cluster: any topics and groups, also those that ruyi knows nothing of. Names are those
//! on the broker, with their namespace.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::message::QueueId;

/// Begins the instance name of every client of ruyi, which is the part of its client id after the address.
pub const RUYI_INSTANCE: &str = "ruyi-";

/// One broker process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BrokerNode {
    /// Cluster that it belongs to.
    pub cluster: String,
    /// Name of its group: a master and its replicas share it.
    pub name: String,
    /// 0 is the master.
    pub id: u64,
    /// `host:port`.
    pub addr: String,
}

impl BrokerNode {
    /// The one of its group that takes messages.
    #[must_use]
    pub const fn is_master(&self) -> bool {
        self.id == 0
    }
}

/// What may be done with a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Permission {
    /// Read and write.
    ReadWrite,
    /// Read only.
    Read,
    /// Write only.
    Write,
    /// Neither.
    None,
}

impl Permission {
    /// RocketMQ's bits: 4 is read, 2 is write.
    #[must_use]
    pub fn of_bits(bits: u32) -> Self {
        match (bits & 4 != 0, bits & 2 != 0) {
            (true, true) => Self::ReadWrite,
            (true, false) => Self::Read,
            (false, true) => Self::Write,
            (false, false) => Self::None,
        }
    }

    /// RocketMQ's bits.
    #[must_use]
    pub fn bits(self) -> u32 {
        match self {
            Self::ReadWrite => 6,
            Self::Read => 4,
            Self::Write => 2,
            Self::None => 0,
        }
    }
}

/// A topic on one broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicPart {
    /// Broker name.
    pub broker: String,
    /// Its master's address.
    pub addr: String,
    /// Queues that are read.
    pub read_queues: u32,
    /// Queues that are written.
    pub write_queues: u32,
    /// What may be done.
    pub permission: Permission,
    /// The broker's message type: NORMAL, FIFO, DELAY, TRANSACTION, MIXED, ...; NORMAL where none is set.
    pub message_type: String,
}

/// What a topic is to be on a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Name.
    pub name: String,
    /// Queues, to read and to write.
    pub queues: u32,
    /// What may be done.
    pub permission: Permission,
    /// Message type; `None` leaves what is there, or the broker's default.
    pub message_type: Option<String>,
}

/// The messages that a queue holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueRange {
    /// Which.
    pub queue: QueueId,
    /// Oldest offset that is still there.
    pub min: i64,
    /// Offset of the next message.
    pub max: i64,
    /// When the last message was stored, epoch ms.
    pub last_stored_ms: Option<i64>,
}

/// How far a group is in a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Committed {
    /// Which.
    pub queue: QueueId,
    /// Offset of the next message that will be stored.
    pub broker_offset: i64,
    /// Offset of the next message that the group will consume; `None`: it has committed nothing here.
    pub consumer_offset: Option<i64>,
    /// When the last consumed message was stored, epoch ms.
    pub last_consumed_ms: Option<i64>,
}

impl Committed {
    /// Where the group stands here.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing::of(self.broker_offset, self.consumer_offset)
    }
}

/// Where a group stands in a queue. Only what is known to be nothing is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// So many messages are not consumed.
    Behind(i64),
    /// So many messages after the end of the queue: its topic was made anew, or its store was lost. What comes until
    /// the queue has grown to there is passed over.
    Beyond(i64),
    /// It has committed nothing here, and messages wait; or nobody said.
    Unknown,
}

impl Standing {
    /// From the end of the queue and what was committed. Of a queue that never held anything nothing is missing.
    #[must_use]
    pub fn of(end: i64, committed: Option<i64>) -> Self {
        match committed.filter(|offset| *offset >= 0) {
            Some(offset) if offset > end => Self::Beyond(offset - end),
            Some(offset) => Self::Behind(end - offset),
            None if end == 0 => Self::Behind(0),
            None => Self::Unknown,
        }
    }

    /// Messages that are not consumed, where that is known.
    #[must_use]
    pub fn lag(self) -> Option<i64> {
        match self {
            Self::Behind(lag) => Some(lag),
            Self::Beyond(_) | Self::Unknown => None,
        }
    }

    /// After the end of the queue.
    #[must_use]
    pub fn is_beyond(self) -> bool {
        matches!(self, Self::Beyond(_))
    }
}

/// One client of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// The client's own id.
    pub client_id: String,
    /// Where it connects from.
    pub addr: String,
    /// Its language.
    pub language: String,
    /// What it subscribes to.
    pub subscriptions: Vec<Subscription>,
    /// Queues that it has, where it says so.
    pub queues: Vec<QueueId>,
    /// When it was started, by its own clock, epoch ms, where it says so.
    pub started_ms: Option<i64>,
    /// It pops messages: out of queues that others have as well.
    pub pops: bool,
}

impl Member {
    /// It is a process of ruyi: it follows when a broker moves its group, and its inbox knows what it has handled.
    #[must_use]
    pub fn is_ruyi(&self) -> bool {
        self.client_id.split('@').nth(1).is_some_and(|instance| instance.starts_with(RUYI_INSTANCE))
    }
}

/// A topic and its filter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Subscription {
    /// Topic.
    pub topic: String,
    /// Filter: `*`, tags, or SQL.
    pub expression: String,
}

/// A message as it lies on a broker: nothing is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    /// Where it lies.
    pub queue: QueueId,
    /// Offset in the queue.
    pub offset: i64,
    /// Id of this copy: address and position in the broker's log.
    pub offset_id: String,
    /// Id that the producer's client gave it; survives retries.
    pub unique_id: String,
    /// RocketMQ TAGS.
    pub tag: String,
    /// RocketMQ KEYS.
    pub key: String,
    /// Body bytes, decompressed.
    pub body: Bytes,
    /// Why `body` is still as the broker has it; `None`: it is as its producer wrote it.
    pub unreadable: Option<String>,
    /// All properties, RocketMQ's own as well, sorted by name.
    pub properties: Vec<(String, String)>,
    /// When the producer made it, epoch ms.
    pub born_ms: i64,
    /// When the broker stored it, epoch ms.
    pub stored_ms: i64,
    /// How often a consumer gave it back.
    pub reconsumed: i32,
    /// Bytes in the broker's log.
    pub size: i32,
}

impl StoredMessage {
    /// The value of a property.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&str> {
        let found = self.properties.binary_search_by(|(key, _)| key.as_str().cmp(name));
        found.ok().and_then(|index| self.properties.get(index)).map(|(_, value)| value.as_str())
    }

    /// True when one of its KEYS is `key`.
    #[must_use]
    pub fn has_key(&self, key: &str) -> bool {
        self.key.split(' ').any(|one| one == key)
    }
}

/// What one read of a queue gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// In order; may be empty although more follow, where the broker skipped something.
    pub messages: Vec<StoredMessage>,
    /// Offset to read on from.
    pub next: i64,
    /// Nothing lies at or after `next` now.
    pub is_end: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_end_is_not_nothing() {
        assert_eq!(Standing::of(10, Some(10)).lag(), Some(0));
        assert_eq!(Standing::of(10, Some(4)).lag(), Some(6));
        assert_eq!(Standing::of(10, Some(500)), Standing::Beyond(490));
        assert_eq!(Standing::of(0, Some(500)), Standing::Beyond(500), "a topic made anew holds nothing yet");
        assert_eq!((Standing::of(0, None).lag(), Standing::of(0, Some(-1)).lag()), (Some(0), Some(0)));
        assert_eq!((Standing::of(10, None).lag(), Standing::of(10, Some(-1)).lag()), (None, None));
    }
}
