//! The walk over orders whose time to pay is over.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use super::cancel::{Cancels, Wanted, Wish};
use super::flow::Moved;
use crate::config::{Config, TimeoutVia};
use crate::db::pace::Hurry;
use crate::db::sql::Val;
use crate::db::walk::{self, Walk};
use crate::db::{Db, DbError, Tx, orders};
use crate::domain::order::{CancelType, Decision};
use crate::progress::Progress;

/// Orders canceled in one transaction.
const BATCH: i64 = 256;
/// The longest wait between two looks; orders placed meanwhile may fall due earlier than the ones known.
const LOOK_MS: i64 = 1_000;

/// Where a message of the broker cancels, the walk comes so much later: it is there for messages that do not come, and
/// the brokers' timer is up to a second late by design.
const GRACE_MS: i64 = 2_000;

/// Cancels orders that were not paid in time.
pub struct Timeouts {
    db: Db,
    grace_ms: i64,
    cancels: Cancels,
    hurry: Hurry,
}

impl Timeouts {
    /// The walk of one database.
    #[must_use]
    pub fn new(db: Db, config: &Config) -> Self {
        let grace_ms = if config.order.timeout.via == TimeoutVia::Broker { GRACE_MS } else { 0 };
        Self { db, grace_ms, cancels: Cancels::of(config), hurry: Hurry::default() }
    }

    /// When the next order is to be looked at.
    ///
    /// # Errors
    /// The database's.
    pub async fn next_due(&self) -> Result<Option<i64>, DbError> {
        let mut conn = self.db.read().await?;
        Ok(orders::next_due(&mut conn).await?.map(|at| at + self.grace_ms))
    }

    /// Cancels what is due, one batch.
    ///
    /// # Errors
    /// The database's.
    pub async fn step(&self) -> Result<Progress, DbError> {
        match self.next_due().await? {
            None => return Ok(Progress::Idle),
            Some(at) if at > self.db.clock().now_ms() => return Ok(Progress::WaitUntil(at)),
            Some(_) => {}
        }
        let (grace_ms, cancels) = (self.grace_ms, self.cancels);
        let together =
            || self.db.write("timeout", move |tx| Box::pin(async move { cancel_due(tx, cancels, grace_ms).await }));
        let moved = match self.hurry.run(false, together).await {
            Err(error) if !error.is_outage() => self.cancel_apart().await?,
            moved => moved?,
        };
        Ok(if moved == 0 { Progress::Idle } else { Progress::Did(moved) })
    }

    /// Cancels what is due where one of the orders cannot be canceled: that one is set aside, or left for later when
    /// somebody has locked what it needs.
    async fn cancel_apart(&self) -> Result<usize, DbError> {
        let before_ms = self.db.clock().now_ms() - self.grace_ms;
        let ids = orders::due(&mut *self.db.read().await?, before_ms, BATCH, "").await?;
        let (cancels, row) = (self.cancels, |id: &i64| (Val::Int(*id), id.to_string()));
        let cancel = walk::over((&self.db, &self.hurry), Walk::Timeouts, ids, row, move |tx, ids: Arc<Vec<i64>>| {
            async move { cancel_all(tx, cancels, &ids).await }.boxed()
        });
        let walked = cancel.await?;
        Ok(walked.done.iter().sum::<usize>() + walked.aside)
    }

    /// Runs until `token` is cancelled.
    pub async fn run(self, token: CancellationToken) {
        let part = self.db.watchdog().part(Walk::Timeouts.name());
        while !token.is_cancelled() {
            let wait_ms = match part.step(self.step()).await {
                Ok(Progress::Did(_)) => continue,
                Ok(Progress::Idle) => LOOK_MS,
                Ok(Progress::WaitUntil(at)) => (at - self.db.clock().now_ms()).clamp(10, LOOK_MS),
                Err(error) => {
                    tracing::warn!(%error, "the walk of the timeouts waits");
                    LOOK_MS
                }
            };
            tokio::select! {
                () = token.cancelled() => {}
                () = self.db.rest(Duration::from_millis(wait_ms.unsigned_abs())) => {}
            }
        }
    }
}

/// The cancel of an order that was not paid in time.
pub(super) fn cancel(order_id: i64, trace: Option<String>) -> Wanted {
    let reason = Some("not paid in time".to_owned());
    Wanted::Cancel(Wish { order_id, by: CancelType::Timeout, reason, trace })
}

async fn cancel_due(tx: &mut Tx, cancels: Cancels, grace_ms: i64) -> Result<usize, DbError> {
    let before_ms = tx.now_ms() - grace_ms;
    let lock = tx.dialect().skip_locked();
    let ids = orders::due(tx, before_ms, BATCH, lock).await?;
    cancel_all(tx, cancels, &ids).await
}

async fn cancel_all(tx: &mut Tx, cancels: Cancels, ids: &[i64]) -> Result<usize, DbError> {
    let wanted: Vec<Wanted> = ids.iter().map(|order_id| cancel(*order_id, None)).collect();
    let moved = cancels.advance(tx, &wanted).await?;
    let goes_on = |one: &&Moved| matches!(one, Moved::Decided(Decision::Apply(..), _) | Moved::Asked(_));
    Ok(moved.iter().filter(goes_on).count())
}
