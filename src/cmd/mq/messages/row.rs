//! How a message is printed.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::cmd::journal::rfc3339;
use crate::mq::operate::StoredMessage;

/// A body as it is best read: JSON as JSON, text as text, anything else in hexadecimal.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Body<'a> {
    /// JSON on one line.
    Json(&'a RawValue),
    /// Any other text.
    Text(&'a str),
    /// Bytes.
    Hex(String),
}

impl<'a> Body<'a> {
    /// Of these bytes.
    #[must_use]
    pub fn of(body: &'a [u8]) -> Self {
        match (serde_json::from_slice::<&RawValue>(body), std::str::from_utf8(body)) {
            // A line feed inside would break a JSON line apart.
            (Ok(json), _) if !json.get().contains(['\n', '\r']) => Self::Json(json),
            (_, Ok(text)) => Self::Text(text),
            _ => Self::Hex(hex::encode(body)),
        }
    }
}

/// A message in a list.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row<'a> {
    id: String,
    tag: &'a str,
    key: &'a str,
    event_id: Option<&'a str>,
    stored: String,
    body: Body<'a>,
}

impl<'a> Row<'a> {
    /// Of this message.
    #[must_use]
    pub fn of(message: &'a StoredMessage) -> Self {
        Self {
            id: place(message),
            tag: &message.tag,
            key: &message.key,
            event_id: message.property("eventId"),
            stored: rfc3339(message.stored_ms),
            body: Body::of(&message.body),
        }
    }
}

/// A message whole.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Whole<'a> {
    #[serde(flatten)]
    row: Row<'a>,
    topic: &'a str,
    unique_id: &'a str,
    offset_id: &'a str,
    born: String,
    reconsumed: i32,
    size: i32,
    properties: BTreeMap<&'a str, &'a str>,
}

impl<'a> Whole<'a> {
    /// Of this message.
    #[must_use]
    pub fn of(message: &'a StoredMessage) -> Self {
        Self {
            row: Row::of(message),
            topic: &message.queue.topic,
            unique_id: &message.unique_id,
            offset_id: &message.offset_id,
            born: rfc3339(message.born_ms),
            reconsumed: message.reconsumed,
            size: message.size,
            properties: message.properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
        }
    }
}

/// Where a message lies, as it is given to `get`.
fn place(message: &StoredMessage) -> String {
    format!("{}:{}:{}", message.queue.broker, message.queue.queue, message.offset)
}
