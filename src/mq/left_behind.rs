//! Bodies that stay where they are. A dead letter that cannot have the body of its message says instead where a broker
//! has it, and how to know it again; a replay fetches it from there.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::message::QueueId;

/// Property of a letter without the body of its message: the SHA-256 of that body, in hexadecimal.
pub const BODY_LEFT: &str = "dlqBodyLeft";
/// Property of a message whose body a letter may have to leave behind: its [`Place`], as that is written.
pub const BODY_AT: &str = "dlqBodyAt";
/// Bodies over so many bytes have the property [`BODY_AT`]: every broker takes smaller ones.
pub(super) const PLACED_OVER: usize = 64 << 10;
/// The largest request that brokers and clients of RocketMQ read, less what is in it besides a body.
pub(super) const REQUEST_MAX: usize = 15 << 20;

/// Where a broker has a message. Its topic is called as in the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Topic, broker and number.
    #[serde(flatten)]
    pub queue: QueueId,
    /// Position in the queue.
    pub offset: i64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let QueueId { topic, broker, queue } = &self.queue;
        write!(f, "{broker}:{queue}:{} of {topic}", self.offset)
    }
}

/// A text is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no place of a message: BROKER:QUEUE:OFFSET of TOPIC")]
pub struct NoPlace;

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let (rest, topic) = text.rsplit_once(" of ").ok_or(NoPlace)?;
        let (rest, offset) = rest.rsplit_once(':').ok_or(NoPlace)?;
        let (broker, queue) = rest.rsplit_once(':').ok_or(NoPlace)?;
        let (queue, offset) = (queue.parse().map_err(|_| NoPlace)?, offset.parse().map_err(|_| NoPlace)?);
        Ok(Self { queue: QueueId { topic: topic.to_owned(), broker: broker.to_owned(), queue }, offset })
    }
}

/// What a letter has instead of a body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftBehind {
    /// Where the message is.
    #[serde(flatten)]
    pub place: Place,
    /// Size of its body, uncompressed.
    pub bytes: usize,
    /// SHA-256 of that, in hexadecimal.
    pub sha256: String,
    /// Why it stays there.
    pub reason: String,
}

impl LeftBehind {
    /// A body that stays at this place.
    #[must_use]
    pub fn of(body: &[u8], place: Place, reason: &str) -> Self {
        Self { place, bytes: body.len(), sha256: hex::encode(Sha256::digest(body)), reason: reason.to_owned() }
    }

    /// What a message says of a body that was left behind; `None` where it has its own.
    #[must_use]
    pub fn read(body: &[u8], properties: &[(String, String)]) -> Option<Self> {
        value(properties, BODY_LEFT)?;
        serde_json::from_slice(body).ok()
    }

    /// Takes the place of a body.
    pub fn put_into(&self, body: &mut Bytes, properties: &mut Vec<(String, String)>) {
        *body = serde_json::to_string(self).unwrap_or_default().into();
        properties.retain(|(name, _)| name != BODY_LEFT && name != BODY_AT);
        properties.push((BODY_LEFT.to_owned(), self.sha256.clone()));
        properties.push((BODY_AT.to_owned(), self.place.to_string()));
    }

    /// This is the body.
    #[must_use]
    pub fn is_of(&self, body: &[u8]) -> bool {
        self.bytes == body.len() && self.sha256 == hex::encode(Sha256::digest(body))
    }
}

/// Leaves the body of a letter behind; false where nobody has told where it is, or it was left behind already.
pub(super) fn leave(body: &mut Bytes, properties: &mut Vec<(String, String)>, reason: &str) -> bool {
    let place = value(properties, BODY_AT).and_then(|place| place.parse().ok());
    match place {
        Some(place) if value(properties, BODY_LEFT).is_none() => {
            LeftBehind::of(body, place, reason).put_into(body, properties);
            true
        }
        _ => false,
    }
}

fn value<'p>(properties: &'p [(String, String)], name: &str) -> Option<&'p str> {
    properties.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_left_behind_is_known_again() {
        let place: Place = "a:b:3:17 of %RETRY%g".parse().unwrap();
        assert_eq!((place.queue.broker.as_str(), place.queue.queue, place.offset), ("a:b", 3, 17));
        let mut properties = vec![("mine".to_owned(), "1".to_owned()), (BODY_AT.to_owned(), place.to_string())];
        let (mut body, whole) = (Bytes::from_static(b"{}"), Bytes::from_static(b"{}"));
        assert_eq!(LeftBehind::read(&body, &properties), None);
        assert!(leave(&mut body, &mut properties, "too large"));
        let left = LeftBehind::read(&body, &properties).unwrap();
        assert_eq!((&left.place, left.bytes, left.reason.as_str()), (&place, 2, "too large"));
        assert!(left.is_of(&whole) && !left.is_of(&body));
        // Nobody leaves the note of a body behind.
        assert!(!leave(&mut body, &mut properties, "too large"));
        assert_eq!(LeftBehind::read(&body, &properties), Some(left));
        for wrong in ["", "a:0:1", "a:0:x of T", "a:0 of T", "0:1 of T"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }
}
