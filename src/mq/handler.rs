//! What a consumer group does with its events.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::left_behind::Place;
use super::message::{ALL_KEYS, Incoming, NAME_MAX, REPLAY_ID, REPLAYS, TOPIC_MAX, cut, known_by};
use super::reader::Reader;
use crate::db::inbox::Resent;
use crate::db::{DbError, Tx};
use crate::domain::event::{Group, Kind};
use crate::domain::id::unpadded;
use crate::domain::loose;
use crate::domain::order::Decision;

/// An event as a handler sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Deterministic id: what the inbox knows it by.
    pub id: String,
    /// What happened.
    pub kind: Kind,
    /// Business key.
    pub key: String,
    /// JSON.
    pub body: Bytes,
    /// W3C trace context of what caused it.
    pub trace: Option<String>,
    /// Topic that it came from.
    pub topic: String,
    /// Where the broker has it.
    pub place: Place,
    /// User properties as they came.
    pub properties: Vec<(String, String)>,
    /// Somebody sent it again on purpose, by `%RETRY%<group>`, an inlet or as a copy of a dead letter: when, epoch ms.
    pub resent_at: Option<i64>,
    /// Reads `body`.
    pub reader: Reader,
}

/// Where a dead letter of ours came from; its copies still carry it.
pub(super) const DLQ_ORIGIN: &str = "dlqOriginTopic";
/// When the message of a dead letter failed first.
pub(super) const DLQ_FIRST_FAILURE: &str = "dlqFirstFailure";
/// RocketMQ's own words for the same: on a message that a group sent back, and on one that it gave up.
const ORIGINS: [&str; 3] = [DLQ_ORIGIN, "RETRY_TOPIC", "DLQ_ORIGIN_TOPIC"];
/// Bytes of an event id at most.
const ID_MAX: usize = 96;
/// Bytes of the name of a replay at most: the inbox has one column for it and the event id.
const REPLAY_ID_MAX: usize = 31;

impl Event {
    /// Reads the body.
    ///
    /// # Errors
    /// [`Outcome::Reject`] with the reason: a body that cannot be read now can never be.
    pub fn read<B: DeserializeOwned>(&self) -> Result<B, Outcome> {
        let body = self.reader.read(self.kind, &self.body);
        body.map_err(|error| Outcome::Reject(format!("the body of {} cannot be read: {error}", self.kind.name())))
    }

    /// From a message of this group. One that came by `%RETRY%<group>` is what it was on its first topic; one that came
    /// by an inlet is an event of the kind that the inlet repeats.
    ///
    /// # Errors
    /// The message back with the reason, when it is no event of the group.
    pub fn of(message: Incoming, group: Group, reader: &Reader) -> Result<Self, Box<(Incoming, String)>> {
        if let Some(reason) = message.unreadable.clone() {
            return Err(Box::new((message, reason)));
        }
        let topic = cut(origin(&message), TOPIC_MAX);
        // The topic decides; on a topic that carries several events, the property or the tag.
        let named = |name: Option<&str>| name.and_then(Kind::from_name);
        let kind =
            named(Some(&topic)).or_else(|| named(message.property("eventType"))).or_else(|| named(Some(&message.tag)));
        let Some(kind) = kind.filter(|kind| kind.groups().contains(&group)) else {
            let reason = format!("topic {topic}, tag {:?} is no event of {}", message.tag, group.name());
            return Err(Box::new((message, reason)));
        };
        // An inlet is for what somebody sends again.
        let resent_at = if kind.repeats().is_some() { Some(sent_at(&message)) } else { resent_at(&message) };
        let kind = kind.repeats().unwrap_or(kind);
        // A letter that was sent again may have no more than the beginning of its KEYS.
        let keys = message.property(ALL_KEYS).unwrap_or(&message.key);
        let (id, key) = identity(message.property("eventId"), keys, &message.body, kind);
        let id = match id {
            Some(id) if id.len() <= ID_MAX => id,
            Some(_) => return Err(Box::new((message, "eventId is longer than 96 characters".to_owned()))),
            None => {
                let reason = "neither an eventId nor a key: it cannot be told apart from its duplicates".to_owned();
                return Err(Box::new((message, reason)));
            }
        };
        Ok(Self {
            id,
            kind,
            trace: message.property("traceparent").map(str::to_owned),
            resent_at,
            topic,
            place: message.place(),
            key: known_by(&key, NAME_MAX),
            body: message.body,
            properties: message.properties,
            reader: reader.clone(),
        })
    }
}

/// What a message is known by that is no event of the group: its property `eventId`, else its place.
pub(super) fn refused_id(message: &Incoming) -> String {
    let named = message.property("eventId").map(unpadded).filter(|id| !id.is_empty());
    let place =
        || format!("{}:{}:{}:{}", message.queue.topic, message.queue.broker, message.queue.queue, message.offset);
    known_by(&named.map_or_else(place, str::to_owned), ID_MAX)
}

/// The topic that a message was first sent to. A group's own topics (`%RETRY%...`) say it in a property, or not at all.
pub(super) fn origin(message: &Incoming) -> &str {
    let topic = message.queue.topic.as_str();
    if !topic.starts_with('%') {
        return topic;
    }
    ORIGINS.into_iter().filter_map(|name| message.property(name)).find(|name| !name.starts_with('%')).unwrap_or(topic)
}

/// When a message was sent again on purpose, if it was: what comes by a group's own topic, and copies of dead letters.
pub(super) fn resent_at(message: &Incoming) -> Option<i64> {
    let resent = message.queue.topic.starts_with('%') || message.property(DLQ_ORIGIN).is_some();
    resent.then_some(sent_at(message))
}

/// What tells a message that was sent again from copies of the one that died: the name of its replay, whatever the
/// clocks say; its age where another tool, or an older ruyi, has sent it without one.
pub(super) fn resent(resent_at: Option<i64>, properties: &[(String, String)]) -> Option<Resent<'_>> {
    let sent_at = resent_at?;
    Some(replay_id(properties).map_or(Resent::At(sent_at), Resent::By))
}

/// The name of the replay that a message came by. What the inbox cannot hold, or pads, is none.
pub(super) fn replay_id(properties: &[(String, String)]) -> Option<&str> {
    let (_, id) = properties.iter().find(|(name, _)| name == REPLAY_ID)?;
    let is_name = (1..=REPLAY_ID_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_name.then_some(id.as_str())
}

/// When a message was sent, epoch ms. The clock of whoever replays a letter may be behind the one by which it died, and
/// the replay is no older than the death for that: where the broker stored it later, that counts.
fn sent_at(message: &Incoming) -> i64 {
    let is_replay = message.property(REPLAYS).is_some();
    if is_replay { message.born_ms.max(message.stored_ms) } else { message.born_ms }
}

/// What a body may say about itself; the first key that is there is the business key.
#[derive(Default, Deserialize)]
#[serde(default)]
struct InBody {
    #[serde(rename = "eventId")]
    event_id: Option<Value>,
    #[serde(rename = "orderId")]
    order_id: Option<Value>,
    order_no: Option<Value>,
    sku: Option<Value>,
}

impl InBody {
    /// A body that is no JSON may still name itself.
    fn of(body: &[u8]) -> Self {
        let strict = serde_json::from_slice(body);
        let named = strict.or_else(|_| loose::parse(body).and_then(serde_json::from_value));
        named.unwrap_or_else(|_| Self { event_id: spelled_out(body, "\"eventId\""), ..Self::default() })
    }
}

/// The text or number behind the first `name:` of something that begins like JSON.
fn spelled_out(body: &[u8], name: &str) -> Option<Value> {
    let place = memchr::memmem::find(body, name.as_bytes())? + name.len();
    let rest = body.get(place..)?.trim_ascii_start().strip_prefix(b":")?;
    serde_json::Deserializer::from_slice(rest).into_iter().next()?.ok()
}

/// A text that identifies, or a number that stands for one, without the blanks around it: databases do not agree on
/// whether these count.
fn identifying(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => unpadded(text).to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    (!text.is_empty()).then_some(text)
}

/// The id that duplicates share, and the business key, from the property `eventId`, KEYS and the body. The id is the
/// property `eventId`, else the body's, else key and kind, never the broker's message id, which differs between copies.
/// The key is the first of KEYS, which is a list between blanks, else what the body names.
#[must_use]
pub fn identity(property: Option<&str>, keys: &str, body: &[u8], kind: Kind) -> (Option<String>, String) {
    let property = property.map(unpadded).filter(|id| !id.is_empty());
    let key = keys.split_whitespace().next();
    if let (Some(id), Some(key)) = (property, key) {
        return (Some(id.to_owned()), key.to_owned());
    }

    let body = InBody::of(body);
    let named = || [&body.order_id, &body.order_no, &body.sku].into_iter().flatten().find_map(identifying);
    let key = key.map(str::to_owned).or_else(named).unwrap_or_default();
    let id = property
        .map(str::to_owned)
        .or_else(|| body.event_id.as_ref().and_then(identifying))
        .or_else(|| (!key.is_empty()).then(|| kind.event_id(&key)));
    (id, key)
}

/// How handling an event went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its effects are in the transaction.
    Done,
    /// It changes nothing: recorded with the reason.
    Ignored(String),
    /// What has to come first has not come: tried again, and nothing waits behind it.
    Early(String),
    /// It failed for now: tried again, and later events of its key wait behind it.
    Retry(String),
    /// It can never apply: to the dead letters.
    Reject(String),
}

impl<S, E> From<&Decision<S, E>> for Outcome {
    fn from(decision: &Decision<S, E>) -> Self {
        match decision {
            Decision::Apply(..) => Self::Done,
            Decision::Ignore(why) => Self::Ignored((*why).to_owned()),
            Decision::Early(why) => Self::Early((*why).to_owned()),
            Decision::Refuse(why) => Self::Reject((*why).to_owned()),
        }
    }
}

/// A consumer group's work.
pub trait Handler: Send + Sync + 'static {
    /// Which group.
    fn group(&self) -> Group;

    /// Applies `events`, in this order, inside `tx`; one outcome for each. An error rolls the whole batch back, and
    /// the batch is halved until the event that causes it stands alone.
    fn handle<'a>(&'a self, tx: &'a mut Tx, events: &'a [Event]) -> BoxFuture<'a, Result<Vec<Outcome>, DbError>>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mq::message::QueueId;

    fn message(key: &str, properties: &[(&str, &str)], body: &str) -> Incoming {
        Incoming {
            queue: QueueId { topic: "PAYMENT_SUCCESS".to_owned(), broker: String::new(), queue: 0 },
            offset: 0,
            tag: "pay".to_owned(),
            key: key.to_owned(),
            body: Bytes::copy_from_slice(body.as_bytes()),
            unreadable: None,
            properties: properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            born_ms: 0,
            stored_ms: 0,
        }
    }

    #[test]
    fn what_a_message_is_known_by() {
        let long = "9".repeat(200);
        for (key, properties, body, id, of_key) in [
            ("7", &[("eventId", "p")][..], r#"{"eventId":"b"}"#, Some("p"), "7"),
            ("7", &[("eventId", "")], r#"{"eventId":"b"}"#, Some("b"), "7"),
            ("7", &[], r#"{"eventId":12}"#, Some("12"), "7"),
            ("7", &[], r#"{"eventId":null}"#, Some("7:PAYMENT_SUCCESS"), "7"),
            ("7", &[], "not JSON", Some("7:PAYMENT_SUCCESS"), "7"),
            ("", &[], r#"{"orderId":8}"#, Some("8:PAYMENT_SUCCESS"), "8"),
            ("", &[], r#"{"orderId":"8","eventId":"b"}"#, Some("b"), "8"),
            ("", &[("eventId", "p")], r#"{"orderId":8}"#, Some("p"), "8"),
            ("", &[], r#"{"order_no":"N8","out_order_no":"x"}"#, Some("N8:PAYMENT_SUCCESS"), "N8"),
            ("", &[], "{}", None, ""),
            ("", &[], "[]", None, ""),
            ("", &[("eventId", &long)], "{}", None, ""),
            // Old Go clients write a blank behind; KEYS is a list.
            ("G1", &[], "{}", Some("G1:PAYMENT_SUCCESS"), "G1"),
            ("G1 ", &[], "{}", Some("G1:PAYMENT_SUCCESS"), "G1"),
            (" G1 X", &[], "{}", Some("G1:PAYMENT_SUCCESS"), "G1"),
            ("7", &[("eventId", "E1 ")], "{}", Some("E1"), "7"),
            ("7", &[], r#"{"eventId":" E1","m":{1:2}}"#, Some("E1"), "7"),
            ("7", &[], r#"{"eventId":"E1","m":{1 2"#, Some("E1"), "7"),
            ("", &[], r#"{"order_no":"N8 ","m":{1:2}}"#, Some("N8:PAYMENT_SUCCESS"), "N8"),
        ] {
            match Event::of(message(key, properties, body), Group::Order, &Reader::default()) {
                Ok(event) => assert_eq!((Some(event.id.as_str()), event.key.as_str()), (id, of_key), "{body}"),
                Err(_) => assert_eq!(id, None, "{body}"),
            }
        }
    }
}
