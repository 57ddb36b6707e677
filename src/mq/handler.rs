//! What a consumer group does with its events.

use bytes::Bytes;
use futures_util::future::BoxFuture;
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
        let id = match event_id(&message, kind) {
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
            key: message.key.chars().take(64).collect(),
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

/// The id that duplicates share: the property `eventId`, else the body's, else key and kind. Never the broker's
/// message id, which differs between copies.
fn event_id(message: &Incoming, kind: Kind) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct InBody {
        #[serde(rename = "eventId")]
        event_id: Option<String>,
    }
    if let Some(id) = message.property("eventId").filter(|id| !id.is_empty()) {
        return Some(id.to_owned());
    }
    let in_body = serde_json::from_slice::<InBody>(&message.body).ok().and_then(|body| body.event_id);
    in_body.filter(|id| !id.is_empty()).or_else(|| (!message.key.is_empty()).then(|| kind.event_id(&message.key)))
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
