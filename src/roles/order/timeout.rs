//! The walk over orders whose time to pay is over.

use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use super::flow::{self, Moved, Note, Step};
use crate::config::{OrderTimeout, TimeoutVia};
use crate::db::sql::Val;
use crate::db::walk::{self, Walk};
use crate::db::{Db, DbError, Tx, orders};
use crate::domain::order::{CancelType, Decision, Input};
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
}

impl Timeouts {
    /// The walk of one database.
    #[must_use]
    pub fn new(db: Db, timeout: &OrderTimeout) -> Self {
        let grace_ms = if timeout.via == TimeoutVia::Broker { GRACE_MS } else { 0 };
        Self { db, grace_ms }
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
        let grace_ms = self.grace_ms;
        let together =
            self.db.write("timeout", move |tx| Box::pin(async move { cancel_due(tx, grace_ms).await })).await;
        let canceled = match together {
            Err(error) if !error.is_outage() => self.cancel_apart().await?,
            done => done?,
        };
        Ok(if canceled == 0 { Progress::Idle } else { Progress::Did(canceled) })
    }

    /// Cancels what is due where one of the orders cannot be canceled: that one is set aside.
    async fn cancel_apart(&self) -> Result<usize, DbError> {
        let before_ms = self.db.clock().now_ms() - self.grace_ms;
        let ids = orders::due(&mut *self.db.read().await?, before_ms, BATCH, "").await?;
        let row = |id: &i64| (Val::Int(*id), id.to_string());
        let cancel = walk::over(&self.db, Walk::Timeouts, ids, row, |tx, ids| cancel_all(tx, ids.to_vec()).boxed());
        let (canceled, aside) = cancel.await?;
        Ok(canceled.iter().sum::<usize>() + aside)
    }

    /// Runs until `token` is cancelled.
    pub async fn run(self, token: CancellationToken) {
        while !token.is_cancelled() {
            let wait_ms = match self.step().await {
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
                () = tokio::time::sleep(Duration::from_millis(wait_ms.unsigned_abs())) => {}
            }
        }
    }
}

/// The cancel of an order that was not paid in time.
pub(super) fn cancel(order_id: i64, trace: Option<String>) -> Step {
    Step {
        order_id,
        input: Input::Cancel(CancelType::Timeout),
        note: Note { reason: Some("not paid in time".to_owned()), trace, ..Note::default() },
    }
}

async fn cancel_due(tx: &mut Tx, grace_ms: i64) -> Result<usize, DbError> {
    let before_ms = tx.now_ms() - grace_ms;
    let lock = tx.dialect().skip_locked();
    let ids = orders::due(tx, before_ms, BATCH, lock).await?;
    cancel_all(tx, ids).await
}

async fn cancel_all(tx: &mut Tx, ids: Vec<i64>) -> Result<usize, DbError> {
    let steps: Vec<Step> = ids.into_iter().map(|order_id| cancel(order_id, None)).collect();
    let moved = flow::advance(tx, &steps).await?;
    Ok(moved.iter().filter(|one| matches!(one, Moved::Decided(Decision::Apply(..), _))).count())
}
