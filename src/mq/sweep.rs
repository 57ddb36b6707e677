//! The sweep: claims outbox rows that were left behind or that waited for their time, and publishes them.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::relay::Relay;
use crate::config;
use crate::db::DbError;
use crate::db::outbox::{self, Failure};
use crate::progress::Progress;

/// Rows claimed at once.
const BATCH: i64 = 256;
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
        let lease_ms = self.lease_ms;
        let db = self.relay.db();
        let rows = db
            .write("outbox_claim", move |tx| Box::pin(async move { outbox::claim(tx, BATCH, lease_ms).await }))
            .await?;
        if rows.is_empty() {
            let mut conn = db.read().await?;
            return Ok(outbox::next_due(&mut conn).await?.map_or(Progress::Idle, Progress::WaitUntil));
        }
        let results = self.relay.publish(&rows).await;
        db.fault("relay", "published")?;
        let now_ms = db.clock().now_ms();
        let (mut sent, mut failures) = (Vec::new(), Vec::new());
        for (row, result) in rows.iter().zip(results) {
            match result {
                Ok(()) => sent.push(row.id),
                Err(error) => {
                    let attempts = row.attempts + 1;
                    let given_up = error.is_permanent() || attempts >= self.max_attempts;
                    if given_up {
                        tracing::error!(event_id = row.event_id, topic = row.topic, attempts, %error, "outbox row given up");
                    }
                    let wait_ms = (1_000_i64 << attempts.min(6)).min(LONGEST_WAIT_MS);
                    let next_at = (!given_up).then_some(now_ms + wait_ms);
                    failures.push(Failure { id: row.id, attempts, next_at, error: error.to_string() });
                }
            }
        }
        let count = sent.len();
        sent.sort_unstable();
        self.relay.mark_sent(sent).await?;
        if !failures.is_empty() {
            db.write("outbox_mark", move |tx| {
                let failures = failures.clone();
                Box::pin(async move { outbox::mark_failed(tx, failures).await })
            })
            .await?;
        }
        Ok(Progress::Did(count))
    }

    /// Runs until `token` is cancelled.
    pub async fn run(self, token: CancellationToken) {
        while !token.is_cancelled() {
            let wait_ms = match self.step().await {
                // Nothing got through: the broker is away, and trying again at once would only burn.
                Ok(Progress::Did(0)) => 1_000,
                Ok(Progress::Did(_)) => continue,
                Ok(Progress::Idle) => self.interval_ms,
                Ok(Progress::WaitUntil(at)) => {
                    let until_due_ms = at - self.relay.db().clock().now_ms();
                    until_due_ms.clamp(self.interval_ms.min(1_000), self.interval_ms)
                }
                Err(error) => {
                    tracing::warn!(%error, "the outbox sweep waits");
                    self.interval_ms
                }
            };
            tokio::select! {
                () = token.cancelled() => {}
                () = tokio::time::sleep(Duration::from_millis(wait_ms.unsigned_abs())) => {}
            }
        }
    }
}
