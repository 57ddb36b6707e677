//! Consuming with exactly-once effects: inbox rows, effects and next events of a batch are one transaction.

mod last_resort;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use self::last_resort::Lost;
use super::handler::{self, DLQ_FIRST_FAILURE, DLQ_ORIGIN, Event, Handler, Outcome};
use super::left_behind::{self, REQUEST_MAX};
use super::message::{Incoming, NAME_MAX, REPLAY_ID, TOPIC_MAX, cut, known_by};
use super::reader::Reader;
use super::retry::Policy;
use crate::alert::{self, Alert};
use crate::db::inbox::{self, Claim};
use crate::db::outbox::{self, OutboxRow};
use crate::db::pace::Hurry;
use crate::db::retry::{self, Parked};
use crate::db::{Db, DbError, Tx};
use crate::telemetry::Metrics;
use crate::watchdog::Part;

/// One consumer group of this process.
#[derive(Clone)]
pub struct Consumer {
    db: Db,
    handler: Arc<dyn Handler>,
    policy: Policy,
    reader: Reader,
    metrics: Arc<Metrics>,
    hurry: Arc<Hurry>,
    part: Arc<Part>,
}

/// A message that is given up.
pub(super) struct DeadLetter<'a> {
    pub event_id: &'a str,
    pub topic: &'a str,
    pub tag: &'a str,
    pub key: &'a str,
    pub body: bytes::Bytes,
    pub properties: &'a [(String, String)],
    pub reason: &'a str,
    pub attempts: i64,
    pub first_failed_at: i64,
}

impl Consumer {
    /// A consumer of `handler`'s group.
    #[must_use]
    pub fn new(db: Db, handler: Arc<dyn Handler>, policy: Policy, metrics: Arc<Metrics>) -> Self {
        let part = db.watchdog().part(handler.group().name());
        Self { db, handler, policy, reader: Reader::default(), metrics, hurry: Arc::default(), part }
    }

    /// The same with this reader of bodies.
    #[must_use]
    pub fn reading(self, reader: Reader) -> Self {
        Self { reader, ..self }
    }

    /// What reads its bodies.
    #[must_use]
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// The database that it writes to.
    #[must_use]
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// Its handler.
    #[must_use]
    pub fn handler(&self) -> &Arc<dyn Handler> {
        &self.handler
    }

    /// How it tries again.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whether its group has met a lock lately.
    pub(super) fn hurry(&self) -> &Hurry {
        &self.hurry
    }

    /// Handles messages, in this order. When it returns, each is handled, parked or dead, and may be acknowledged. One
    /// that needs a row that somebody else has locked is parked, and the others go on.
    ///
    /// # Errors
    /// Only when the database is away, takes no row of anybody, or somebody else has locked the very row that says what
    /// became of a message: then nothing may be acknowledged, and the same messages are to come again.
    pub async fn process(&self, messages: Vec<Incoming>) -> Result<(), DbError> {
        let group = self.handler.group();
        let mut events = Vec::with_capacity(messages.len());
        let body_max = self.db.body_max();
        let mut behind = BehindLock::default();
        for message in messages {
            match Event::of(message.fitted(body_max), group, &self.reader) {
                Ok(event) => events.push(event),
                Err(refused) => behind.unless_locked(None, self.refuse(refused.0, refused.1).await)?,
            }
        }
        // The halves of a failing batch, first half on top.
        let mut todo = vec![Arc::new(events)];
        while let Some(mut batch) = todo.pop() {
            behind.leave_out(&mut batch);
            if batch.is_empty() {
                continue;
            }
            let is_alone = batch.len() == 1;
            match self.hurry.run(is_alone, || self.part.during(self.try_batch(Arc::clone(&batch)))).await {
                Ok(()) => {}
                // That there was no answer may be for the size of the batch.
                Err(error) if error.is_outage() && (is_alone || !error.is_silence()) => return Err(error),
                Err(error) if is_alone => {
                    let recorded = self.fail_alone(Arc::clone(&batch), error).await;
                    behind.unless_locked(batch.first(), recorded)?;
                }
                Err(error) => {
                    tracing::debug!(group = group.name(), messages = batch.len(), %error, "halving a failing batch");
                    let (first, second) = batch.split_at(batch.len() / 2);
                    todo.push(Arc::new(second.to_vec()));
                    todo.push(Arc::new(first.to_vec()));
                }
            }
        }
        behind.locked.map_or(Ok(()), Err)
    }

    async fn try_batch(&self, batch: Arc<Vec<Event>>) -> Result<(), DbError> {
        let started = std::time::Instant::now();
        let consumer = self.clone();
        let events = Arc::clone(&batch);
        let tally = self
            .db
            .write("consume", move |tx| {
                let (consumer, events) = (consumer.clone(), Arc::clone(&events));
                Box::pin(async move { consumer.apply(tx, &events).await })
            })
            .await?;
        let group = self.handler.group().name();
        for ((topic, result), count) in tally {
            self.metrics.consumed(&topic, group, result, count);
        }
        if let Some(first) = batch.first() {
            self.metrics.consume_seconds(&first.topic, group).observe(started.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// The transaction: which are new, their effects, what becomes of those that did not work out.
    async fn apply(&self, tx: &mut Tx, events: &[Event]) -> Result<HashMap<(String, &'static str), u64>, DbError> {
        let group = self.handler.group().name();
        let fresh = claim(tx, group, events).await?;
        let keys = fresh.iter().map(|event| event.key.clone()).collect::<HashSet<_>>();
        let open = retry::open_keys(tx, group, keys.into_iter().collect()).await?;
        let blocked: HashSet<&str> = open.iter().filter(|open| open.blocks).map(|open| open.key.as_str()).collect();
        let (behind, ready): (Vec<Event>, Vec<Event>) =
            fresh.into_iter().partition(|event| blocked.contains(event.key.as_str()));

        let outcomes = if ready.is_empty() { vec![] } else { self.handler.handle(tx, &ready).await? };
        if outcomes.len() != ready.len() {
            return Err(DbError::Stopped(format!("{group}: {} outcomes for {} events", outcomes.len(), ready.len())));
        }
        check_key_order(&ready, &outcomes)?;

        let mut tally = HashMap::new();
        let mut count = |event: &Event, result| *tally.entry((event.topic.clone(), result)).or_insert(0) += 1;
        let mut parked: Vec<Parked> = Vec::new();
        let mut ignored: HashMap<&str, Vec<String>> = HashMap::new();
        let done = ready.iter().zip(&outcomes).filter(|(event, o)| **o == Outcome::Done && has_key(event));
        let done: HashSet<&str> = done.map(|(event, _)| event.key.as_str()).collect();
        for (event, outcome) in ready.iter().zip(&outcomes) {
            match outcome {
                Outcome::Done => count(event, "done"),
                Outcome::Ignored(why) => {
                    ignored.entry(why).or_default().push(event.id.clone());
                    count(event, "ignored");
                }
                Outcome::Early(why) => {
                    // What it waits for may have been in this very batch.
                    let wait = if done.contains(event.key.as_str()) { 0 } else { self.policy.wait_ms(1) };
                    parked.push(park(tx, event, false, Some(tx.now_ms() + wait), why));
                    count(event, "parked");
                }
                Outcome::Retry(why) => {
                    parked.push(park(tx, event, true, Some(tx.now_ms() + self.policy.wait_ms(1)), why));
                    count(event, "parked");
                }
                Outcome::Reject(why) => {
                    count(event, "dead");
                    self.reject(tx, event, why).await?;
                }
            }
        }
        for event in &behind {
            parked.push(park(tx, event, true, None, "waits behind an earlier event of its key"));
            count(event, "parked");
        }
        for (why, ids) in ignored {
            inbox::set_outcome(tx, group, ids, inbox::Outcome::Ignored, Some(why)).await?;
        }
        if !parked.is_empty() {
            let now_ms = tx.now_ms();
            retry::park(tx, group, &parked, now_ms).await?;
            let ids = parked.iter().map(|row| row.message_id.clone()).collect();
            inbox::set_outcome(tx, group, ids, inbox::Outcome::Parked, None).await?;
            tx.wake_retries();
        }
        let early = open.iter().filter(|open| !open.blocks && done.contains(open.key.as_str()));
        let early: Vec<String> = early.map(|open| open.key.clone()).collect();
        if !early.is_empty() {
            retry::wake_early(tx, group, early).await?;
        }
        Ok(tally)
    }

    async fn reject(&self, tx: &mut Tx, event: &Event, reason: &str) -> Result<(), DbError> {
        let letter = DeadLetter {
            event_id: &event.id,
            topic: &event.topic,
            tag: event.kind.name(),
            key: &event.key,
            body: event.body.clone(),
            properties: &event.properties,
            reason,
            attempts: 1,
            first_failed_at: first_failure(&event.properties, tx.now_ms()),
        };
        self.bury(tx, &letter).await
    }

    /// Gives a message up: to the dead letter topic of the group, through the outbox like any other message.
    pub(super) async fn bury(&self, tx: &mut Tx, letter: &DeadLetter<'_>) -> Result<(), DbError> {
        let group = self.handler.group().name();
        let now_ms = tx.now_ms();
        let replay = handler::replay_id(letter.properties);
        inbox::bury(tx, group, letter.event_id, replay, letter.reason, now_ms).await?;
        let (mut body, mut properties) = (letter.body.clone(), letter.properties.to_vec());
        if body.len() > REQUEST_MAX {
            left_behind::leave(&mut body, &mut properties, "larger than what is sent to any broker");
        }
        let of_this_death = [
            // Which characters no property can have, only the wire knows.
            ("dlqReason".to_owned(), retry::shorten(letter.reason).replace(['\u{1}', '\u{2}'], " ")),
            (DLQ_ORIGIN.to_owned(), letter.topic.to_owned()),
            (DLQ_FIRST_FAILURE.to_owned(), letter.first_failed_at.to_string()),
            ("dlqAttempts".to_owned(), letter.attempts.to_string()),
        ];
        // What a replay has noted stays: how often, of which letter. Its name has died with the message: whoever sends
        // the letter on as it stands makes another replay.
        properties.retain(|(name, _)| name != REPLAY_ID && of_this_death.iter().all(|(told, _)| told != name));
        properties.extend(of_this_death);
        let id = tx.next_id();
        let mut event_id = known_by(&format!("{}@{group}", letter.event_id), 128);
        if !outbox::existing(tx, vec![event_id.clone()]).await?.is_empty() {
            // It was sent again, and died again.
            event_id = format!("{}:{id}", known_by(&event_id, 100));
        }
        let alert = Alert::DeadLetter {
            original_topic: letter.topic.to_owned(),
            business_id: letter.key.to_owned(),
            retry_count: letter.attempts - 1,
            error_message: alert::without_values(letter.reason),
            alert_time: now_ms,
            consumer_group: group.to_owned(),
            event_id: letter.event_id.to_owned(),
        };
        tx.alert(event_id.clone(), alert);
        let row = OutboxRow {
            id,
            event_id,
            topic: format!("%DLQ%{group}"),
            tag: letter.tag.to_owned(),
            key: keys_of(letter.key),
            body,
            properties,
            deliver_at_ms: now_ms,
            attempts: 0,
        };
        tx.emit_raw(row);
        Ok(())
    }

    /// A message that is no event of the group: recorded, and to the dead letters.
    async fn refuse(&self, message: Incoming, reason: String) -> Result<(), DbError> {
        let consumer = self.clone();
        let group = self.handler.group().name();
        let (message, reason) = (Arc::new(message), Arc::new(reason));
        let (of_message, why) = (Arc::clone(&message), Arc::clone(&reason));
        let recorded = self.db.write("consume", move |tx| {
            let (consumer, message, reason) = (consumer.clone(), Arc::clone(&message), Arc::clone(&reason));
            Box::pin(async move {
                let (id, topic) = (handler::refused_id(&message), cut(handler::origin(&message), TOPIC_MAX));
                let resent = handler::resent(handler::resent_at(&message), &message.properties);
                let claim = Claim { message_id: &id, topic: &topic, key: "", resent };
                let (batch, now_ms) = (tx.next_id(), tx.now_ms());
                if inbox::claim(tx, group, batch, &[claim], now_ms).await?.ids.is_empty() {
                    return Ok(());
                }
                let letter = DeadLetter {
                    event_id: &id,
                    topic: &topic,
                    tag: &message.tag,
                    key: &message.key,
                    body: message.body.clone(),
                    properties: &message.properties,
                    reason: &reason,
                    attempts: 1,
                    first_failed_at: first_failure(&message.properties, tx.now_ms()),
                };
                consumer.bury(tx, &letter).await
            })
        });
        self.or_last_resort(recorded.await, || Lost::of_message(&of_message, &why)).await
    }

    /// An event whose transaction fails even alone.
    async fn fail_alone(&self, batch: Arc<Vec<Event>>, error: DbError) -> Result<(), DbError> {
        let (events, why) = (Arc::clone(&batch), error.to_string());
        let recorded = if error.is_permanent() {
            self.reject_alone(batch, why.clone()).await
        } else {
            self.park_failed(batch, Arc::new(error)).await
        };
        match events.first() {
            Some(event) => self.or_last_resort(recorded, || Lost::of_event(event, &why)).await,
            None => recorded,
        }
    }

    /// An event whose effects can never be written: to the dead letters at once.
    async fn reject_alone(&self, batch: Arc<Vec<Event>>, error: String) -> Result<(), DbError> {
        let consumer = self.clone();
        self.db
            .write("consume", move |tx| {
                let (consumer, batch, error) = (consumer.clone(), Arc::clone(&batch), error.clone());
                Box::pin(async move {
                    for event in claim(tx, consumer.handler.group().name(), &batch).await? {
                        consumer.reject(tx, &event, &error).await?;
                    }
                    Ok(())
                })
            })
            .await
    }

    /// An event whose transaction fails even alone: parked with the error. Where that may be no fault of the event, it has
    /// not counted as an attempt.
    async fn park_failed(&self, batch: Arc<Vec<Event>>, error: Arc<DbError>) -> Result<(), DbError> {
        let consumer = self.clone();
        self.db
            .write("consume", move |tx| {
                let (consumer, batch, error) = (consumer.clone(), Arc::clone(&batch), Arc::clone(&error));
                Box::pin(async move {
                    let (group, policy) = (consumer.handler.group().name(), &consumer.policy);
                    let wait_ms = if error.is_passing() { policy.put_off_ms() } else { policy.wait_ms(1) };
                    for event in claim(tx, group, &batch).await? {
                        let next_at = tx.now_ms() + wait_ms;
                        let open = retry::open_keys(tx, group, vec![event.key.clone()]).await?;
                        let first = !open.iter().any(|open| open.blocks);
                        let mut row = park(tx, &event, true, first.then_some(next_at), &error.to_string());
                        if error.is_passing() {
                            row.attempts = 0;
                        }
                        let now_ms = tx.now_ms();
                        retry::park(tx, group, &[row], now_ms).await?;
                        inbox::set_outcome(tx, group, vec![event.id.clone()], inbox::Outcome::Parked, None).await?;
                    }
                    tx.wake_retries();
                    Ok(())
                })
            })
            .await
    }
}

/// Messages without a key have nothing in common: none of them waits for another.
fn has_key(event: &Event) -> bool {
    !event.key.is_empty()
}

/// Messages whose very rows somebody has locked: the others go on, but none of their keys.
#[derive(Default)]
struct BehindLock {
    locked: Option<DbError>,
    keys: HashSet<String>,
}

impl BehindLock {
    /// What became of a message, unless its row is locked: that is kept for the end.
    fn unless_locked(&mut self, event: Option<&Event>, recorded: Result<(), DbError>) -> Result<(), DbError> {
        match recorded {
            Err(error) if error.is_locked() => self.locked = Some(error),
            recorded => return recorded,
        }
        self.keys.extend(event.filter(|event| has_key(event)).map(|event| event.key.clone()));
        Ok(())
    }

    /// These come again as well, in their order.
    fn leave_out(&self, batch: &mut Arc<Vec<Event>>) {
        if !self.keys.is_empty() {
            Arc::make_mut(batch).retain(|event| !self.keys.contains(&event.key));
        }
    }
}

/// KEYS of a letter: all of them where the column holds them, else the first, by which its event is known.
fn keys_of(keys: &str) -> String {
    let is_short = keys.chars().count() <= NAME_MAX;
    if is_short { keys.to_owned() } else { known_by(keys.split_whitespace().next().unwrap_or_default(), NAME_MAX) }
}

/// Writes the inbox rows; the events that are new to the group, or alive again, each once, in their order.
async fn claim(tx: &mut Tx, group: &str, events: &[Event]) -> Result<Vec<Event>, DbError> {
    let (batch, now_ms) = (tx.next_id(), tx.now_ms());
    let mut waiting: Vec<(Claim<'_>, usize)> =
        events.iter().enumerate().map(|(place, event)| (claim_of(event), place)).collect();
    // Of an event and its resends, which may be in one batch, the resends count.
    waiting.sort_by_key(|(claim, _)| (claim.message_id, claim.resent.is_none()));
    waiting.dedup_by_key(|(claim, _)| (claim.message_id, claim.resent));

    let mut fresh: HashSet<String> = HashSet::new();
    let mut revived: BTreeMap<&str, usize> = BTreeMap::new();
    while !waiting.is_empty() {
        // One resend after the other: the first may be a late copy of a replay that has died.
        let (mut asked, mut later): (Vec<(Claim<'_>, usize)>, Vec<_>) = (Vec::new(), Vec::new());
        for (claim, place) in waiting {
            let is_asked = asked.last().is_some_and(|(last, _)| last.message_id == claim.message_id);
            let round = if is_asked { &mut later } else { &mut asked };
            round.push((claim, place));
        }
        let claims: Vec<Claim<'_>> = asked.iter().map(|(claim, _)| *claim).collect();
        let claimed = inbox::claim(tx, group, batch, &claims, now_ms).await?;

        later.retain(|(claim, _)| claim.resent.is_some() && !claimed.ids.contains(claim.message_id));
        let of_letters: HashSet<String> = claimed.revived.into_iter().collect();
        let resends = asked.into_iter().filter(|(claim, _)| of_letters.contains(claim.message_id));
        revived.extend(resends.map(|(claim, place)| (claim.message_id, place)));
        fresh.extend(claimed.ids);
        waiting = later;
    }

    if !revived.is_empty() {
        tracing::info!(group, messages = revived.len(), "dead letters were sent again");
        retry::forget(tx, group, revived.keys().map(|id| (*id).to_owned()).collect()).await?;
    }
    // What was revived is handled as it was sent again: its body may have been mended.
    let taken = events.iter().enumerate().filter(|(place, event)| match revived.get(event.id.as_str()) {
        Some(resend) => resend == place,
        None => fresh.remove(&event.id),
    });
    Ok(taken.map(|(_, event)| event.clone()).collect())
}

fn claim_of(event: &Event) -> Claim<'_> {
    let Event { id, topic, key, resent_at, properties, .. } = event;
    Claim { message_id: id, topic, key, resent: handler::resent(*resent_at, properties) }
}

/// When a message failed first: before its last resend, if that says so.
fn first_failure(properties: &[(String, String)], now_ms: i64) -> i64 {
    let told = properties.iter().find(|(name, _)| name == DLQ_FIRST_FAILURE);
    told.and_then(|(_, at)| at.parse().ok()).filter(|at| (1..now_ms).contains(at)).unwrap_or(now_ms)
}

/// A retry keeps later events of its key back. If the handler has already handled one of them in the same batch, the
/// batch is run again in halves, so that it is parked behind instead.
fn check_key_order(events: &[Event], outcomes: &[Outcome]) -> Result<(), DbError> {
    let mut failed: HashSet<&str> = HashSet::new();
    for (event, outcome) in events.iter().zip(outcomes) {
        if failed.contains(event.key.as_str()) {
            return Err(DbError::Stopped(format!("an earlier event of {} has to be tried again first", event.key)));
        }
        if matches!(outcome, Outcome::Retry(_)) && has_key(event) {
            failed.insert(&event.key);
        }
    }
    Ok(())
}

fn park(tx: &Tx, event: &Event, blocks: bool, next_at: Option<i64>, why: &str) -> Parked {
    Parked {
        id: tx.next_id(),
        message_id: event.id.clone(),
        topic: event.topic.clone(),
        tag: event.kind.name().to_owned(),
        key: event.key.clone(),
        body: event.body.to_vec(),
        properties: event.properties.clone(),
        blocks: blocks && has_key(event),
        attempts: i64::from(next_at.is_some()),
        next_at,
        first_failed_at: first_failure(&event.properties, tx.now_ms()),
        last_error: why.to_owned(),
    }
}
