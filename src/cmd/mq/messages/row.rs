//! How a message is printed.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::cmd::journal::rfc3339;
use crate::mq::operate::StoredMessage;
use crate::output::printable;

/// A body as it is best read: JSON as JSON, text as text, anything else in hexadecimal.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Body<'a> {
    /// JSON on one line.
    Json(&'a RawValue),
    /// Any other text.
    Text(&'a str),
    /// Bytes: `{"$hex": "00ff"}`, which no text is.
    Hex {
        /// In hexadecimal.
        #[serde(rename = "$hex")]
        hex: String,
    },
}

impl<'a> Body<'a> {
    /// Of these bytes.
    #[must_use]
    pub fn of(body: &'a [u8]) -> Self {
        match (serde_json::from_slice::<&RawValue>(body), std::str::from_utf8(body)) {
            // A line feed inside would break a JSON line apart.
            (Ok(json), _) if !json.get().contains(['\n', '\r']) => Self::Json(json),
            (_, Ok(text)) => Self::Text(text),
            _ => Self::Hex { hex: hex::encode(body) },
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Json(json) => json.get(),
            Self::Text(text) => text,
            Self::Hex { hex } => hex,
        }
    }
}

/// A message in a list.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct Row<'a> {
    /// BROKER:QUEUE:OFFSET, as `get` takes it.
    id: String,
    /// TAGS.
    tag: &'a str,
    /// KEYS.
    key: &'a str,
    /// Property `eventId`.
    event_id: Option<&'a str>,
    /// When the broker stored it.
    stored: String,
    /// JSON as it is, other text as a text, other bytes as {"$hex": "00ff"}.
    #[schema(value_type = serde_json::Value)]
    body: Body<'a>,
}

impl<'a> Row<'a> {
    /// Of this message.
    pub(super) fn of(message: &'a StoredMessage) -> Self {
        Self {
            id: place(message),
            tag: &message.tag,
            key: &message.key,
            event_id: message.property("eventId"),
            stored: rfc3339(message.stored_ms),
            body: Body::of(&message.body),
        }
    }

    /// On one line, for people who watch.
    pub(super) fn line(&self) -> String {
        let dash = |text: &'a str| if text.is_empty() { "-" } else { text };
        let body = printable(self.body.text());
        format!("{}  {}  {}  {}  {body}\n", self.stored, self.id, dash(self.tag), printable(dash(self.key)))
    }
}

/// A message whole.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct Whole<'a> {
    /// BROKER:QUEUE:OFFSET.
    id: String,
    /// Topic as it is called on the broker.
    topic: &'a str,
    /// TAGS.
    tag: &'a str,
    /// KEYS.
    key: &'a str,
    /// Property `eventId`.
    event_id: Option<&'a str>,
    /// Id that the producer's client gave it.
    unique_id: &'a str,
    /// Id of this copy: address of its broker and place in its log.
    offset_id: &'a str,
    /// When the producer made it.
    born: String,
    /// When the broker stored it.
    stored: String,
    /// How often a consumer gave it back.
    reconsumed: i32,
    /// Bytes in the broker's log.
    size: i32,
    /// All properties, RocketMQ's own as well.
    properties: BTreeMap<&'a str, &'a str>,
    /// Why the body is as the broker has it: it is compressed, and cannot be decompressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<&'a str>,
    /// JSON as it is, other text as a text, other bytes as {"$hex": "00ff"}.
    #[schema(value_type = serde_json::Value)]
    body: Body<'a>,
}

impl<'a> Whole<'a> {
    /// Of this message.
    pub(super) fn of(message: &'a StoredMessage) -> Self {
        Self {
            id: place(message),
            topic: &message.queue.topic,
            tag: &message.tag,
            key: &message.key,
            event_id: message.property("eventId"),
            unique_id: &message.unique_id,
            offset_id: &message.offset_id,
            born: rfc3339(message.born_ms),
            stored: rfc3339(message.stored_ms),
            reconsumed: message.reconsumed,
            size: message.size,
            properties: message.properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
            unreadable: message.unreadable.as_deref(),
            body: Body::of(&message.body),
        }
    }

    /// For people: a line for each field, the body last.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let fields = [
            ("id", self.id.as_str()),
            ("topic", self.topic),
            ("tag", self.tag),
            ("key", self.key),
            ("unique id", self.unique_id),
            ("offset id", self.offset_id),
            ("born", &self.born),
            ("stored", &self.stored),
        ];
        for (name, value) in fields {
            let _ = writeln!(text, "{name:<12}{}", printable(value));
        }
        let _ = writeln!(text, "{:<12}{} bytes, given back {} times", "size", self.size, self.reconsumed);
        for (name, value) in &self.properties {
            let _ = writeln!(text, "{:<12}{}={}", "property", printable(name), printable(value));
        }
        if let Some(reason) = self.unreadable {
            let _ = writeln!(text, "{:<12}{}", "unreadable", printable(reason));
        }
        let _ = writeln!(text, "\n{}", printable(self.body.text()));
        text
    }
}

/// Where a message lies, as it is given to `get`.
fn place(message: &StoredMessage) -> String {
    format!("{}:{}:{}", message.queue.broker, message.queue.queue, message.offset)
}
