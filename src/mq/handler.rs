//! What a consumer group does with its events.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::message::Incoming;
use crate::db::{DbError, Tx};
use crate::domain::event::{Group, Kind};
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
    /// User properties as they came.
    pub properties: Vec<(String, String)>,
    /// Somebody sent it again on purpose, by `%RETRY%<group>`, an inlet or as a copy of a dead letter: when, epoch ms.
    pub resent_at: Option<i64>,
}

/// Where a dead letter of ours came from; its copies still carry it.
pub(super) const DLQ_ORIGIN: &str = "dlqOriginTopic";
/// When the message of a dead letter failed first.
pub(super) const DLQ_FIRST_FAILURE: &str = "dlqFirstFailure";
/// RocketMQ's own words for the same: on a message that a group sent back, and on one that it gave up.
const ORIGINS: [&str; 3] = [DLQ_ORIGIN, "RETRY_TOPIC", "DLQ_ORIGIN_TOPIC"];

impl Event {
    /// Reads the body.
    ///
    /// # Errors
    /// [`Outcome::Reject`] with the reason: a body that cannot be read now can never be.
    pub fn read<B: DeserializeOwned>(&self) -> Result<B, Outcome> {
        serde_json::from_slice(&self.body)
            // Jackson writes fields that have no value as null: the same as a field that is not there.
            .or_else(|error| without_nulls(&self.body).map_or(Err(error), serde_json::from_value))
            .map_err(|error| Outcome::Reject(format!("the body of {} cannot be read: {error}", self.kind.name())))
    }

    /// From a message of this group. One that came by `%RETRY%<group>` is what it was on its first topic; one that came
    /// by an inlet is an event of the kind that the inlet repeats.
    ///
    /// # Errors
    /// The message back with the reason, when it is no event of the group.
    pub fn of(message: Incoming, group: Group) -> Result<Self, Box<(Incoming, String)>> {
        let topic = origin(&message).to_owned();
        // The topic decides; on a topic that carries several events, the property or the tag.
        let named = |name: Option<&str>| name.and_then(Kind::from_name);
        let kind =
            named(Some(&topic)).or_else(|| named(message.property("eventType"))).or_else(|| named(Some(&message.tag)));
        let Some(kind) = kind.filter(|kind| kind.groups().contains(&group)) else {
            let reason = format!("topic {topic}, tag {:?} is no event of {}", message.tag, group.name());
            return Err(Box::new((message, reason)));
        };
        let resent_at = resent_at(&message);
        // The event, and whether this is an inlet for it.
        let (inlet, kind) = (kind.repeats().is_some(), kind.repeats().unwrap_or(kind));
        let (id, key) = identity(message.property("eventId"), &message.key, &message.body, kind);
        let id = match id {
            Some(id) if id.len() <= 96 => id,
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
            resent_at: if inlet { Some(message.born_ms) } else { resent_at },
            topic,
            key: key.chars().take(64).collect(),
            body: message.body,
            properties: message.properties,
        })
    }
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
    resent.then_some(message.born_ms)
}

/// The fields of a body, if there are nulls among them to be left out.
fn without_nulls(body: &[u8]) -> Option<serde_json::Value> {
    let mut fields: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(body).ok()?;
    let all = fields.len();
    fields.retain(|_, value| !value.is_null());
    (fields.len() < all).then_some(serde_json::Value::Object(fields))
}

/// A text, or a number that stands for one.
#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Text(String),
    Number(i64),
}

impl Text {
    fn filled(self) -> Option<String> {
        match self {
            Self::Text(text) => (!text.is_empty()).then_some(text),
            Self::Number(number) => Some(number.to_string()),
        }
    }
}

/// What a body may say about itself; the first key that is there is the business key.
#[derive(Default, Deserialize)]
struct InBody {
    #[serde(rename = "eventId")]
    event_id: Option<Text>,
    #[serde(rename = "orderId")]
    order_id: Option<Text>,
    order_no: Option<Text>,
    sku: Option<Text>,
}

/// The id that duplicates share, and the business key, from the property `eventId`, KEYS and the body. The id is the property `eventId`, else the body's, else key
/// and kind, never the broker's message id, which differs between copies. The key is KEYS, else what the body names.
#[must_use]
pub fn identity(property: Option<&str>, key: &str, body: &[u8], kind: Kind) -> (Option<String>, String) {
    let property = property.filter(|id| !id.is_empty());
    if let (Some(id), false) = (property, key.is_empty()) {
        return (Some(id.to_owned()), key.to_owned());
    }
    let body = serde_json::from_slice::<InBody>(body).unwrap_or_default();
    let named = [body.order_id, body.order_no, body.sku].into_iter().flatten().find_map(Text::filled);
    let key = if key.is_empty() { named.unwrap_or_default() } else { key.to_owned() };
    let id = property
        .map(str::to_owned)
        .or_else(|| body.event_id.and_then(Text::filled))
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
    use crate::domain::event::{PaymentSuccess, StockFreezeFailed};
    use crate::mq::message::QueueId;

    fn message(key: &str, properties: &[(&str, &str)], body: &str) -> Incoming {
        Incoming {
            queue: QueueId { topic: "PAYMENT_SUCCESS".to_owned(), broker: String::new(), queue: 0 },
            offset: 0,
            tag: "pay".to_owned(),
            key: key.to_owned(),
            body: Bytes::copy_from_slice(body.as_bytes()),
            properties: properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            born_ms: 0,
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
        ] {
            match Event::of(message(key, properties, body), Group::Order) {
                Ok(event) => assert_eq!((Some(event.id.as_str()), event.key.as_str()), (id, of_key), "{body}"),
                Err(_) => assert_eq!(id, None, "{body}"),
            }
        }
    }

    #[test]
    fn bodies_of_java_services_are_read() {
        let read = |body: &str| Event::of(message("7", &[], body), Group::Order).unwrap().read::<PaymentSuccess>();
        let body = read(
            r#"{"paymentId":9007199254740993,"orderId":7,"orderNo":null,"userId":3,"amount":99.90,"currency":null,
                "payTime":"2026-01-01T08:00:00+08:00","ext":{"a":[1,null]},"transactionNo":null}"#,
        );
        let body = body.unwrap();
        assert_eq!(
            (body.payment_id.0, body.amount.minor(), body.order_no.as_str()),
            (9_007_199_254_740_993, 9_990, "")
        );
        assert_eq!(body.pay_time, 1_767_225_600_000);
        for (bad, why) in [
            (r#"{"paymentId":1,"orderId":null,"userId":3,"amount":1,"payTime":1}"#, "orderId"),
            (r#"{"paymentId":1,"orderId":7,"userId":3,"amount":0.001,"payTime":1}"#, "at most two places"),
            (r#"{"paymentId":1,"orderId":7,"userId":3,"amount":1,"payTime":"2026-01-01T08:00:00"}"#, "with its zone"),
            (r#"{"paymentId":"P1","orderId":7,"userId":3,"amount":1,"payTime":1}"#, "a payment id"),
            ("null", "PAYMENT_SUCCESS"),
        ] {
            match read(bad) {
                Err(Outcome::Reject(reason)) => assert!(reason.contains(why), "{reason}"),
                other => panic!("{bad}: {other:?}"),
            }
        }
        let event =
            Event::of(message("7", &[], r#"{"orderId":"7","orderNo":null,"reason":"none left"}"#), Group::Order);
        assert_eq!(event.unwrap().read::<StockFreezeFailed>().unwrap().reason, "none left");
    }
}
