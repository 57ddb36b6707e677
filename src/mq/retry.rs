//! The retry lane: parked messages, tried again from the table until they work out or are given up.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio_util::sync::CancellationToken;

use super::consume::{Consumer, DeadLetter};
use super::handler::{Event, Outcome};
use super::message::{Incoming, QueueId};
use crate::config;
use crate::db::retry::{self, Parked, Status};
use crate::db::{DbError, Tx, inbox};
use crate::progress::Progress;

/// How long a claim on a parked message holds.
const LEASE_MS: i64 = 30_000;
/// Parked messages taken at once.
const BATCH: i64 = 64;
/// How often the table is looked at without being told to: for what another process parked.
const LOOK_MS: i64 = 5_000;

/// When to try again, and how often.
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
    #[expect(clippy::disallowed_methods, reason = "jitter is the one use of chance here")]
    pub fn wait_ms(&self, attempt: i64) -> i64 {
        let index = usize::try_from(attempt - 1).unwrap_or(0).min(self.schedule_ms.len().saturating_sub(1));
        let base = self.schedule_ms.get(index).copied().unwrap_or(10_000);
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

/// The retry lane of one consumer group.
pub struct RetryLane {
    consumer: Consumer,
}

impl RetryLane {
    /// The lane of `consumer`'s group.
    #[must_use]
    pub fn new(consumer: Consumer) -> Self {
        Self { consumer }
    }

    /// Tries what is due, once.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn step(&self) -> Result<Progress, DbError> {
        let group = self.consumer.handler().group().name();
        let db = self.consumer.db();
        let due = db
            .write("retry_claim", move |tx| Box::pin(async move { retry::claim(tx, group, BATCH, LEASE_MS).await }))
            .await?;
        if due.is_empty() {
            let mut conn = db.read().await?;
            return Ok(retry::next_due(&mut conn, group).await?.map_or(Progress::Idle, Progress::WaitUntil));
        }
        let count = due.len();
        for parked in due {
            self.attempt(Arc::new(parked)).await?;
        }
        Ok(Progress::Did(count))
    }

    async fn attempt(&self, parked: Arc<Parked>) -> Result<(), DbError> {
        let consumer = self.consumer.clone();
        let row = Arc::clone(&parked);
        let tried = self
            .consumer
            .db()
            .write("retry", move |tx| {
                let (consumer, row) = (consumer.clone(), Arc::clone(&row));
                Box::pin(async move { try_again(&consumer, tx, &row).await })
            })
            .await;
        match tried {
            Err(error) if !error.is_outage() => {
                let consumer = self.consumer.clone();
                let why = error.to_string();
                self.consumer
                    .db()
                    .write("retry", move |tx| {
                        let (consumer, row, why) = (consumer.clone(), Arc::clone(&parked), why.clone());
                        Box::pin(async move {
                            if retry::lock_waiting(tx, &row).await? {
                                failed(&consumer, tx, &row, &why).await
                            } else {
                                Ok(())
                            }
                        })
                    })
                    .await
            }
            other => other,
        }
    }

    /// Runs until `token` is cancelled.
    pub async fn run(self, token: CancellationToken) {
        let db = self.consumer.db().clone();
        let mut bell = db.retries();
        while !token.is_cancelled() {
            let wait_ms = match self.step().await {
                Ok(Progress::Did(_)) => continue,
                Ok(Progress::Idle) => LOOK_MS,
                Ok(Progress::WaitUntil(at)) => (at - db.clock().now_ms()).clamp(10, LOOK_MS),
                Err(error) => {
                    tracing::warn!(group = self.consumer.handler().group().name(), %error, "retry lane waits");
                    LOOK_MS
                }
            };
            tokio::select! {
                () = token.cancelled() => return,
                // The database outlives its lanes: the sender is never gone.
                _ = bell.changed() => {}
                () = tokio::time::sleep(Duration::from_millis(wait_ms.unsigned_abs())) => {}
            }
        }
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
        properties: row.properties.clone(),
        born_ms: 0,
    };
    let mut event = match Event::of(message, group) {
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
