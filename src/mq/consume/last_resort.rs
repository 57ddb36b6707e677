//! The last resort: where even the record of a failure fails, for a reason that is no outage, as much is kept of the
//! message as can be, and its group goes on.

use std::sync::Arc;

use super::{Consumer, DeadLetter, first_failure};
use crate::alert::{self, Alert};
use crate::db::inbox::{self, Claim};
use crate::db::{DbError, Tx};
use crate::mq::handler::{self, DLQ_FIRST_FAILURE, DLQ_ORIGIN, Event};
use crate::mq::left_behind::LeftBehind;
use crate::mq::message::{Incoming, LEFT_OUT, NAME_MAX, REPLAY_ID, TOPIC_MAX, cut, known_by};

/// Properties that even a letter of the last resort keeps, if they are short: what its message is known by, and what
/// replays have noted.
const KEPT: [&str; 8] =
    ["eventId", "eventType", "traceparent", DLQ_ORIGIN, DLQ_FIRST_FAILURE, "dlqReplays", REPLAY_ID, "dlqBorn"];
/// Bytes of one of them.
const KEPT_BYTES: usize = 200;

/// A message of which no more is kept than fits wherever anything does. Its body stays with the broker.
pub(super) struct Lost {
    id: String,
    topic: String,
    tag: String,
    key: String,
    resent_at: Option<i64>,
    properties: Vec<(String, String)>,
    left: LeftBehind,
    /// Why it was given up, before that could not be recorded.
    why: String,
}

impl Lost {
    /// A message that is no event of the group.
    pub fn of_message(message: &Incoming, why: &str) -> Self {
        let read = || LeftBehind::read(&message.body, &message.properties);
        Self {
            id: handler::refused_id(message),
            topic: cut(handler::origin(message), TOPIC_MAX),
            tag: cut(&message.tag, NAME_MAX),
            key: String::new(),
            resent_at: handler::resent_at(message),
            properties: kept(&message.properties),
            left: read().unwrap_or_else(|| LeftBehind::of(&message.body, message.place(), why)),
            why: why.to_owned(),
        }
    }

    /// An event that fails alone.
    pub fn of_event(event: &Event, why: &str) -> Self {
        let mut properties = kept(&event.properties);
        properties.retain(|(name, _)| name != "eventId");
        properties.push(("eventId".to_owned(), event.id.clone()));
        Self {
            id: event.id.clone(),
            topic: event.topic.clone(),
            tag: event.kind.name().to_owned(),
            key: event.key.clone(),
            resent_at: event.resent_at,
            properties,
            left: LeftBehind::of(&event.body, event.place.clone(), why),
            why: why.to_owned(),
        }
    }

    /// Where it is and how it is known again, before the rest, which may be cut off.
    fn told(&self, error: &DbError) -> String {
        let LeftBehind { place, sha256, .. } = &self.left;
        format!("no letter can be written; it is at {place}, SHA-256 {sha256}: {error}; {}", self.why)
    }
}

/// The properties that fit anywhere; the others are read from the message again, as its body is.
fn kept(properties: &[(String, String)]) -> Vec<(String, String)> {
    let fits = |(name, value): &&(String, String)| KEPT.contains(&name.as_str()) && value.len() <= KEPT_BYTES;
    let mut kept: Vec<(String, String)> = properties.iter().filter(fits).cloned().collect();
    kept.push((LEFT_OUT.to_owned(), "*".to_owned()));
    kept
}

impl Consumer {
    /// What became of the record of a failure. Where it could not be written and the database is not away, a letter
    /// without the body is; where not even that can be, the inbox row and an alert; where that cannot be either, and the
    /// inbox takes other rows, a line in the log, and the message counts as handled.
    ///
    /// # Errors
    /// The database is away, takes no row of anybody, or somebody else has locked the row of this very message.
    pub(super) async fn or_last_resort(
        &self,
        recorded: Result<(), DbError>,
        lost: impl FnOnce() -> Lost,
    ) -> Result<(), DbError> {
        let mut error = match recorded {
            Err(error) if is_of_the_message(&error) => error,
            other => return other,
        };
        let (group, lost) = (self.handler.group().name(), Arc::new(lost()));
        for with_letter in [true, false] {
            tracing::warn!(group, event_id = lost.id, with_letter, %error, "a failure could not be recorded");
            error = match self.keep(Arc::clone(&lost), Arc::new(error), with_letter).await {
                Err(next) if is_of_the_message(&next) => next,
                other => return other,
            };
        }

        self.db.write("consume", move |tx| Box::pin(async move { inbox::probe(tx, group).await })).await?;
        lost.alert(group, &error, self.db.clock().now_ms()).log();
        Ok(())
    }

    /// Writes what always fits: a letter that says where the message is, or only the inbox row and the alert.
    async fn keep(&self, lost: Arc<Lost>, error: Arc<DbError>, with_letter: bool) -> Result<(), DbError> {
        let consumer = self.clone();
        self.db
            .write("consume", move |tx| {
                let (consumer, lost, error) = (consumer.clone(), Arc::clone(&lost), Arc::clone(&error));
                Box::pin(async move {
                    let group = consumer.handler.group().name();
                    let Lost { id, topic, key, resent_at, properties, .. } = lost.as_ref();
                    let claim = Claim { message_id: id, topic, key, resent: handler::resent(*resent_at, properties) };
                    let (batch, now_ms) = (tx.next_id(), tx.now_ms());
                    if inbox::claim(tx, group, batch, &[claim], now_ms).await?.ids.is_empty() {
                        return Ok(());
                    }
                    if with_letter {
                        return lost.bury(tx, &consumer, &error).await;
                    }
                    let replay = handler::replay_id(properties);
                    inbox::bury(tx, group, id, replay, &lost.told(&error), now_ms).await?;
                    tx.alert(known_by(&format!("{id}@{group}"), 128), lost.alert(group, &error, now_ms));
                    Ok(())
                })
            })
            .await
    }
}

impl Lost {
    async fn bury(&self, tx: &mut Tx, consumer: &Consumer, error: &DbError) -> Result<(), DbError> {
        let (mut body, mut properties) = (bytes::Bytes::new(), self.properties.clone());
        self.left.put_into(&mut body, &mut properties);
        let letter = DeadLetter {
            event_id: &self.id,
            topic: &self.topic,
            tag: &self.tag,
            key: &self.key,
            body,
            properties: &properties,
            reason: &format!("{}; its failure could not be recorded: {error}", self.why),
            attempts: 1,
            first_failed_at: first_failure(&self.properties, tx.now_ms()),
        };
        consumer.bury(tx, &letter).await
    }

    fn alert(&self, group: &str, error: &DbError, now_ms: i64) -> Alert {
        Alert::DeadLetter {
            original_topic: self.topic.clone(),
            business_id: self.key.clone(),
            retry_count: 0,
            error_message: alert::without_values(&self.told(error)),
            alert_time: now_ms,
            consumer_group: group.to_owned(),
            event_id: self.id.clone(),
        }
    }
}

/// The database refuses what was to be written, and is neither away nor waiting for somebody else.
fn is_of_the_message(error: &DbError) -> bool {
    !error.is_outage() && !error.is_locked()
}
