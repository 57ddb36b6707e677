//! The sweep: claims outbox rows that were left behind or that waited for their time, and publishes them.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::broker;
use super::health::{Reach, State};
use super::left_behind;
use super::relay::{Relay, outgoing};
use super::rocketmq::{DLQ_PREFIX, PublishError};
use crate::alert::{self, Alert};
use crate::config;
use crate::db::outbox::{self, Failure, OutboxRow};
use crate::db::walk::Walk;
use crate::db::{DbError, claim};
use crate::progress::Progress;

/// Rows claimed at once, as far as their bytes allow.
const BATCH: i64 = 1024;
/// The shortest wait between two looks at rows that are not due yet.
const SHORTEST_WAIT_MS: i64 = 200;
/// The longest wait between two attempts to send a row.
const LONGEST_WAIT_MS: i64 = 60_000;

/// The sweep of one database.
pub struct Sweep {
    relay: Relay,
    lease_ms: i64,
    interval_ms: i64,
    max_attempts: i64,
}

impl Sweep {
    /// A sweep that publishes through `relay`.
    #[must_use]
    pub fn new(relay: Relay, outbox: &config::Outbox) -> Self {
        Self {
            relay,
            lease_ms: outbox.lease.ms(),
            interval_ms: outbox.sweep_interval.ms().max(100),
            max_attempts: i64::from(outbox.max_attempts),
        }
    }

    /// Claims and publishes what is due, one batch.
    ///
    /// # Errors
    /// The database's.
    pub async fn step(&self) -> Result<Progress, DbError> {
        let state = self.relay.broker().state();
        if state.reach == Reach::Away {
            return Ok(Progress::Idle);
        }
        if state.reach == Reach::Degraded && self.relay.broker().take_trial() {
            self.try_the_oldest().await?;
        }
        // Nothing is swept before all of it is released, so its order holds.
        match self.release(state).await? {
            Some(released) => Ok(Progress::Did(released)),
            None => self.sweep(state).await,
        }
    }

    /// What is held waits for a broker; now there is one. Also what another process of this database has held, which
    /// may be gone. How many rows were released, if there may be more.
    async fn release(&self, state: State) -> Result<Option<usize>, DbError> {
        let db = self.relay.db();
        if state.reach != Reach::Up || !outbox::any_held(&mut *db.read().await?).await? {
            return Ok(None);
        }
        let rows = db.write("outbox_claim", |tx| Box::pin(async move { outbox::release(tx).await })).await?;
        tracing::info!(rows, "rows that waited for a broker are sent");
        Ok((rows >= outbox::RELEASED).then(|| usize::try_from(rows).unwrap_or(usize::MAX)))
    }

    /// Brokers that refuse say only by taking a message that they take messages again: the oldest of those that are held,
    /// since none may overtake it.
    async fn try_the_oldest(&self) -> Result<(), DbError> {
        let db = self.relay.db();
        let Some(row) = outbox::oldest_held(&mut *db.read().await?).await? else { return Ok(()) };
        if self.relay.broker().try_on(&outgoing(&row, db.clock().now_ms())).await {
            self.relay.mark_sent(vec![row.id]).await?;
        }
        Ok(())
    }

    async fn sweep(&self, state: State) -> Result<Progress, DbError> {
        let lease_ms = self.lease_ms;
        let db = self.relay.db();
        let rows = db
            .write("outbox_claim", move |tx| Box::pin(async move { outbox::claim(tx, BATCH, lease_ms).await }))
            .await?;
        if rows.is_empty() {
            self.relay.caught_up(state);
            let mut conn = db.read().await?;
            return Ok(outbox::next_due(&mut conn).await?.map_or(Progress::Idle, Progress::WaitUntil));
        }
        let results = self.relay.publish(&rows).await;
        db.fault("relay", "published")?;
        let now_ms = db.clock().now_ms();
        let (mut sent, mut held, mut failures, mut alerts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut smaller = Vec::new();
        for (row, result) in rows.iter().zip(results) {
            match result {
                Ok(()) => sent.push(row.id),
                Err(PublishError::HandledHere) => held.push(row.id),
                Err(error) => match without_body(row, &error) {
                    Some(row) => smaller.push(row),
                    None => {
                        let failure = self.failure(row, &error, now_ms);
                        alerts.extend(given_up_alert(row, &failure, now_ms));
                        failures.push(failure);
                    }
                },
            }
        }
        let count = sent.len() + held.len();
        self.relay.hold(held).await?;
        sent.sort_unstable();
        self.relay.mark_sent(sent).await?;
        self.make_smaller(smaller).await?;
        if !failures.is_empty() {
            db.write("outbox_mark", move |tx| {
                let (failures, alerts) = (failures.clone(), alerts.clone());
                Box::pin(async move {
                    for (reference, alert) in alerts {
                        tx.alert(reference, alert);
                    }
                    outbox::mark_failed(tx, failures).await
                })
            })
            .await?;
        }
        // A claim that took less than it might has left nothing that was due.
        let bytes: usize = rows.iter().map(|row| row.body.len()).sum();
        let is_rest = rows.len() < usize::try_from(BATCH).unwrap_or(usize::MAX) && bytes < claim::MAX_BYTES / 2;
        if is_rest && count == rows.len() {
            self.relay.caught_up(state);
        }
        Ok(Progress::Did(count))
    }

    /// Letters that are sent without their bodies next time.
    async fn make_smaller(&self, letters: Vec<OutboxRow>) -> Result<(), DbError> {
        if letters.is_empty() {
            return Ok(());
        }
        let letters = Arc::new(letters);
        let work = self.relay.db().write("outbox_mark", move |tx| {
            let letters = Arc::clone(&letters);
            Box::pin(async move {
                for letter in letters.iter() {
                    outbox::make_smaller(tx, letter).await?;
                }
                Ok(())
            })
        });
        work.await
    }

    /// When to try a row again. Only what a broker has said about it counts as an attempt: an outage, however long,
    /// makes no row fail.
    fn failure(&self, row: &OutboxRow, error: &PublishError, now_ms: i64) -> Failure {
        let attempts = row.attempts + i64::from(error.counts());
        let given_up = error.is_permanent() || (error.counts() && attempts >= self.max_attempts);
        let next_at = match error {
            // Nothing is tried before a broker is there, and then all of it, in its order.
            PublishError::Away => row.deliver_at_ms,
            // Nothing else can keep it.
            PublishError::NotDue { at_ms } => *at_ms,
            _ => now_ms + (1_000_i64 << attempts.min(6)).min(LONGEST_WAIT_MS),
        };
        let next_at = (!given_up).then_some(next_at);
        Failure { id: row.id, attempts, next_at, error: error.to_string() }
    }

    /// Runs until `token` is cancelled.
    pub async fn run(self, token: CancellationToken) {
        let mut changes = self.relay.broker().changes();
        let part = self.relay.db().watchdog().part(Walk::Outbox.name());
        while !token.is_cancelled() {
            let wait_ms = match part.step(self.step()).await {
                // Nothing got through: the broker is away, and trying again at once would only burn.
                Ok(Progress::Did(0)) => 1_000,
                Ok(Progress::Did(_)) => continue,
                Ok(Progress::Idle) => self.interval_ms,
                Ok(Progress::WaitUntil(at)) => {
                    (at - self.relay.db().clock().now_ms()).max(SHORTEST_WAIT_MS).min(self.interval_ms)
                }
                Err(error) => {
                    tracing::warn!(%error, "the outbox sweep waits");
                    self.interval_ms
                }
            };
            tokio::select! {
                () = token.cancelled() => {}
                () = broker::changed(&mut changes) => {}
                () = self.relay.db().rest(Duration::from_millis(wait_ms.unsigned_abs())) => {}
            }
        }
    }
}

/// A letter that is too large for the brokers, as one that says where the body of its message is.
fn without_body(row: &OutboxRow, error: &PublishError) -> Option<OutboxRow> {
    if !row.topic.starts_with(DLQ_PREFIX) || !error.is_for_its_size() {
        return None;
    }
    let mut letter = row.clone();
    left_behind::leave(&mut letter.body, &mut letter.properties, &error.to_string()).then_some(letter)
}

/// That a row is given up, if it is, and the name of the occasion: driven again by hand, it may be given up again.
fn given_up_alert(row: &OutboxRow, failure: &Failure, now_ms: i64) -> Option<(String, Alert)> {
    let alert = Alert::OutboxGivenUp {
        original_topic: row.topic.clone(),
        business_id: row.key.clone(),
        retry_count: (failure.attempts - 1).max(0),
        error_message: alert::without_values(&failure.error),
        alert_time: now_ms,
        event_id: row.event_id.clone(),
        record_id: row.id.to_string(),
    };
    failure.next_at.is_none().then(|| (format!("outbox:{}:{now_ms}", row.id), alert))
}
