//! The retry lane: parked messages, tried again from the table until they work out or are given up.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use rand::RngExt;
use tokio_util::sync::CancellationToken;

use super::consume::{Consumer, DeadLetter};
use super::handler::{Event, Outcome};
use super::message::{Incoming, QueueId};
use crate::config;
use crate::db::retry::{self, Parked, Status};
use crate::db::sql::Val;
use crate::db::walk::{self, Walk};
use crate::db::{DbError, Tx, claim, inbox};
use crate::progress::Progress;

/// How long a claim on a parked message holds.
const LEASE_MS: i64 = 30_000;
/// Parked messages taken at once.
const BATCH: usize = 64;
/// Messages tried at the same time, of different keys or of none.
const AT_ONCE: usize = 4;
/// How often the table is looked at without being told to: for what another process parked.
const LOOK_MS: i64 = 5_000;
/// What is put off through no fault of its own waits for no longer than about this, ms, however long failed attempts
/// wait: whatever stands in its way may be gone at any moment.
const PUT_OFF_MS: i64 = 5_000;

/// When to try again, and how often: a message is handled when it comes, and then up to `max_attempts` times from the
/// table, `schedule` apart. With the defaults it has failed four times in a hundred seconds when it is given up.
#[derive(Clone, Debug)]
pub struct Policy {
    schedule_ms: Vec<i64>,
    max_attempts: i64,
    jitter: f64,
}

impl Policy {
    /// As configured.
    #[must_use]
    pub fn of(retry: &config::Retry) -> Self {
        Self {
            schedule_ms: retry.schedule.iter().map(|wait| wait.ms()).collect(),
            max_attempts: i64::from(retry.max_attempts),
            jitter: retry.jitter,
        }
    }

    /// The wait after the `attempt`-th failure (from 1), with jitter: many messages that failed together must not
    /// come back together.
    #[must_use]
    pub fn wait_ms(&self, attempt: i64) -> i64 {
        let index = usize::try_from(attempt - 1).unwrap_or(0).min(self.schedule_ms.len().saturating_sub(1));
        self.about(self.schedule_ms.get(index).copied().unwrap_or(10_000))
    }

    /// The wait of a message in whose way something else stood.
    #[must_use]
    pub(super) fn put_off_ms(&self) -> i64 {
        self.about(self.schedule_ms.first().copied().unwrap_or(PUT_OFF_MS).min(PUT_OFF_MS))
    }

    #[expect(clippy::disallowed_methods, reason = "jitter is the one use of chance here")]
    fn about(&self, base: i64) -> i64 {
        if self.jitter <= 0.0 {
            return base;
        }
        let factor = 1.0 + rand::rng().random_range(-self.jitter..=self.jitter);
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "milliseconds of a wait")]
        let wait = (base as f64 * factor) as i64;
        wait.max(0)
    }

    /// Failures after which a message is given up: the first one, and each retry.
    #[must_use]
    fn is_exhausted(&self, attempts: i64) -> bool {
        attempts > self.max_attempts
    }
}

/// The retry lane of one consumer group. It needs no consumer beside it, and any number of instances may work on one
/// database: a message is leased to one of them, and an attempt counts only if nobody else has made it.
pub struct RetryLane {
    consumer: Consumer,
}

/// A message, the end of its lease, and what became of it.
type Attempt = BoxFuture<'static, (Arc<Parked>, i64, Result<(), DbError>)>;

/// What a lane has taken: several keys at the same time, so that a slow one holds up no other; of one key one message
/// after the other. Messages without a key are each for itself.
#[derive(Default)]
struct Taken {
    /// Not begun yet, in the order in which they fell due, and when their lease ends, epoch ms.
    ready: VecDeque<(Parked, i64)>,
    running: FuturesUnordered<Attempt>,
    /// Keys of what is running.
    busy: HashSet<String>,
    /// What an outage has stopped, as in `ready`.
    stopped: Vec<(Parked, i64)>,
}

impl Taken {
    /// Begins what can be begun.
    fn begin(&mut self, consumer: &Consumer) {
        let now_ms = consumer.db().clock().now_ms();
        let mut place = 0;
        while self.running.len() < AT_ONCE && place < self.ready.len() {
            if self.ready.get(place).is_some_and(|(row, _)| self.busy.contains(&row.key)) {
                place += 1;
                continue;
            }
            // What has waited for longer than its lease is somebody else's.
            let Some((row, until)) = self.ready.remove(place) else { return };
            if until > now_ms {
                if !row.key.is_empty() {
                    self.busy.insert(row.key.clone());
                }
                let (consumer, row) = (consumer.clone(), Arc::new(row));
                self.running.push(Box::pin(async move {
                    let result = attempt(&consumer, Arc::clone(&row)).await;
                    (row, until, result)
                }));
            }
        }
    }

    /// One attempt has ended; `None` when none is under way. Dropped half-way, it has lost nothing.
    async fn next(&mut self) -> Option<Result<(), DbError>> {
        let (row, until, result) = self.running.next().await?;
        self.busy.remove(&row.key);
        if result.is_err() {
            self.stopped.push((Arc::unwrap_or_clone(row), until));
        }
        Some(result)
    }

    /// After an outage what it has stopped is tried again while it is ours: otherwise it would wait for the end of its
    /// lease, which may be long after that of the outage.
    fn take_up(&mut self) {
        self.ready.extend(self.stopped.drain(..));
    }

    /// A slot is free, nothing that was taken can fill it, and what waits leaves room in memory.
    fn has_room(&self) -> bool {
        let held: usize = self.ready.iter().map(|(row, _)| row.body.len()).sum();
        self.running.len() < AT_ONCE && self.ready.len() < BATCH && held < claim::MAX_BYTES
    }
}

impl RetryLane {
    /// The lane of `consumer`'s group.
    #[must_use]
    pub fn new(consumer: Consumer) -> Self {
        Self { consumer }
    }

    /// Tries what is due, once, and waits for the end of it.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn step(&self) -> Result<Progress, DbError> {
        let mut taken = Taken::default();
        let progress = self.take(&mut taken).await?;
        taken.begin(&self.consumer);
        let mut outcome = Ok(progress);
        while let Some(result) = taken.next().await {
            match result {
                Ok(()) => taken.begin(&self.consumer),
                // What is not begun is due again when its lease is over.
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    /// Claims what is due.
    async fn take(&self, taken: &mut Taken) -> Result<Progress, DbError> {
        let group = self.consumer.handler().group().name();
        let db = self.consumer.db();
        let limit = i64::try_from(BATCH - taken.ready.len().min(BATCH)).unwrap_or(0);
        let due = db
            .write("retry_claim", move |tx| {
                Box::pin(async move {
                    let due = retry::claim(tx, group, limit, LEASE_MS).await?;
                    Ok(due.into_iter().map(|row| (row, tx.now_ms() + LEASE_MS)).collect::<Vec<_>>())
                })
            })
            .await?;
        if due.is_empty() {
            let mut conn = db.read().await?;
            return Ok(retry::next_due(&mut conn, group).await?.map_or(Progress::Idle, Progress::WaitUntil));
        }
        let count = due.len();
        taken.ready.extend(due);
        Ok(Progress::Did(count))
    }

    /// Runs until `token` is cancelled; what is under way is ended then.
    pub async fn run(self, token: CancellationToken) {
        let db = self.consumer.db().clone();
        let mut bell = db.retries();
        let mut taken = Taken::default();
        let part =
            db.watchdog().part(format!("{} of {}", Walk::Retries.name(), self.consumer.handler().group().name()));
        while !token.is_cancelled() {
            taken.begin(&self.consumer);
            let wait_ms = match part.step(self.take_if_room(&mut taken)).await {
                Ok(Progress::Did(_)) => continue,
                Ok(Progress::Idle) => LOOK_MS,
                Ok(Progress::WaitUntil(at)) => (at - db.clock().now_ms()).clamp(10, LOOK_MS),
                Err(error) => {
                    self.pause(&error, &token).await;
                    continue;
                }
            };
            tokio::select! {
                () = token.cancelled() => {}
                // The database outlives its lanes: the sender is never gone.
                _ = bell.changed() => {}
                Some(result) = taken.next() => {
                    if let Err(error) = result {
                        // The others that are under way meet the same, so that one wait is for all of them.
                        while taken.next().await.is_some() {}
                        self.pause(&error, &token).await;
                        taken.take_up();
                    }
                }
                () = tokio::time::sleep(Duration::from_millis(wait_ms.unsigned_abs())) => {}
            }
        }
        while taken.next().await.is_some() {}
    }

    async fn take_if_room(&self, taken: &mut Taken) -> Result<Progress, DbError> {
        if taken.has_room() { self.take(taken).await } else { Ok(Progress::Idle) }
    }

    /// The database is away: trying at once would only burn.
    async fn pause(&self, error: &DbError, token: &CancellationToken) {
        tracing::warn!(group = self.consumer.handler().group().name(), %error, "retry lane waits");
        let wait = Duration::from_millis(LOOK_MS.unsigned_abs());
        tokio::select! {
            () = token.cancelled() => {}
            () = self.consumer.db().rest(wait) => {}
        }
    }
}

/// One attempt, whatever comes of it; an error only when the database is away.
async fn attempt(consumer: &Consumer, parked: Arc<Parked>) -> Result<(), DbError> {
    let tried = || {
        let (with, row) = (consumer.clone(), Arc::clone(&parked));
        consumer.db().write("retry", move |tx| {
            let (consumer, row) = (with.clone(), Arc::clone(&row));
            Box::pin(async move { try_again(&consumer, tx, &row).await })
        })
    };
    // A row that somebody has locked must not hold up the messages that do not need it.
    let error = match consumer.hurry().run(true, tried).await {
        Err(error) if !error.is_outage() => Arc::new(error),
        other => return other,
    };
    let (with, row) = (consumer.clone(), Arc::clone(&parked));
    let record = consumer.db().write("retry", move |tx| {
        let (consumer, row, error) = (with.clone(), Arc::clone(&row), Arc::clone(&error));
        Box::pin(async move {
            let why = error.to_string();
            match retry::lock_waiting(tx, &row).await? {
                true if error.is_permanent() => dead(&consumer, tx, &row, &why).await,
                true if error.is_passing() => put_off(&consumer, tx, &row, &why).await,
                true => failed(&consumer, tx, &row, &why).await,
                false => Ok(()),
            }
        })
    });
    match record.await {
        // The lane goes on with other messages.
        Err(error) if !error.is_outage() => {
            let row = (Val::Int(parked.id), parked.key.clone());
            walk::put_aside(consumer.db(), Walk::Retries, row, error).await.map(drop)
        }
        done => done,
    }
}

async fn try_again(consumer: &Consumer, tx: &mut Tx, row: &Parked) -> Result<(), DbError> {
    if !retry::lock_waiting(tx, row).await? {
        return Ok(());
    }
    let group = consumer.handler().group();
    let message = Incoming {
        queue: QueueId { topic: row.topic.clone(), broker: String::new(), queue: 0 },
        offset: 0,
        tag: row.tag.clone(),
        key: row.key.clone(),
        body: row.body.clone().into(),
        unreadable: None,
        properties: row.properties.clone(),
        born_ms: 0,
        stored_ms: 0,
    };
    let mut event = match Event::of(message, group, consumer.reader()) {
        Ok(event) => event,
        Err(refused) => return dead(consumer, tx, row, &refused.1).await,
    };
    event.id.clone_from(&row.message_id);
    let outcome = consumer.handler().handle(tx, std::slice::from_ref(&event)).await?.pop();
    let done = |row: &Parked| Parked { attempts: row.attempts + 1, ..row.clone() };
    let id = vec![row.message_id.clone()];
    match outcome {
        Some(Outcome::Done) => {
            inbox::set_outcome(tx, group.name(), id, inbox::Outcome::Done, None).await?;
            retry::finish(tx, group.name(), &done(row), Status::Done, "").await?;
            retry::wake_early(tx, group.name(), vec![row.key.clone()]).await
        }
        Some(Outcome::Ignored(why)) => {
            inbox::set_outcome(tx, group.name(), id, inbox::Outcome::Ignored, Some(&why)).await?;
            retry::finish(tx, group.name(), &done(row), Status::Done, &why).await
        }
        Some(Outcome::Early(why) | Outcome::Retry(why)) => failed(consumer, tx, row, &why).await,
        Some(Outcome::Reject(why)) => dead(consumer, tx, row, &why).await,
        None => Err(DbError::Stopped(format!("{}: no outcome for one event", group.name()))),
    }
}

/// What stood in the way may be no fault of the message: it is tried again, and no attempt is counted.
async fn put_off(consumer: &Consumer, tx: &mut Tx, row: &Parked, why: &str) -> Result<(), DbError> {
    let next_at = tx.now_ms() + consumer.policy().put_off_ms();
    retry::postpone(tx, row, next_at, why).await
}

async fn failed(consumer: &Consumer, tx: &mut Tx, row: &Parked, why: &str) -> Result<(), DbError> {
    let attempts = row.attempts + 1;
    if consumer.policy().is_exhausted(attempts) {
        return dead(consumer, tx, row, why).await;
    }
    let next_at = tx.now_ms() + consumer.policy().wait_ms(attempts);
    retry::postpone(tx, &Parked { attempts, ..row.clone() }, next_at, why).await
}

async fn dead(consumer: &Consumer, tx: &mut Tx, row: &Parked, why: &str) -> Result<(), DbError> {
    let group = consumer.handler().group().name();
    let attempts = row.attempts + 1;
    retry::finish(tx, group, &Parked { attempts, ..row.clone() }, Status::Dead, why).await?;
    let letter = DeadLetter {
        event_id: &row.message_id,
        topic: &row.topic,
        tag: &row.tag,
        key: &row.key,
        body: row.body.clone().into(),
        properties: &row.properties,
        reason: why,
        attempts,
        first_failed_at: row.first_failed_at,
    };
    consumer.bury(tx, &letter).await
}
