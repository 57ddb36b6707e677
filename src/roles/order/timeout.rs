//! The walk over orders whose time to pay is over.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::flow::{self, Moved, Note, Step};
use crate::db::{Db, DbError, orders};
use crate::domain::order::{CancelType, Decision, Input};
use crate::progress::Progress;

/// Orders canceled in one transaction.
const BATCH: i64 = 256;
/// The longest wait between two looks; orders placed meanwhile may fall due earlier than the ones known.
const LOOK_MS: i64 = 1_000;

/// Cancels orders that were not paid in time.
pub struct Timeouts {
    db: Db,
}

impl Timeouts {
    /// The walk of one database.
    #[must_use]
    pub fn new(db: Db) -> Self {
        Self { db }
    }

    /// Cancels what is due, one batch.
    ///
    /// # Errors
    /// The database's.
    pub async fn step(&self) -> Result<Progress, DbError> {
        let mut conn = self.db.read().await?;
        let next = orders::next_due(&mut conn).await?;
        drop(conn);
        match next {
            None => return Ok(Progress::Idle),
            Some(at) if at > self.db.clock().now_ms() => return Ok(Progress::WaitUntil(at)),
            Some(_) => {}
        }
        let canceled = self.db.write("timeout", |tx| Box::pin(async move { cancel_due(tx).await })).await?;
        Ok(if canceled == 0 { Progress::Idle } else { Progress::Did(canceled) })
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

async fn cancel_due(tx: &mut crate::db::Tx) -> Result<usize, DbError> {
    let ids = orders::due(tx, BATCH).await?;
    let steps: Vec<Step> = ids
        .into_iter()
        .map(|order_id| Step {
            order_id,
            input: Input::Cancel(CancelType::Timeout),
            note: Note { reason: Some("not paid in time".to_owned()), ..Note::default() },
        })
        .collect();
    let moved = flow::advance(tx, &steps).await?;
    Ok(moved.iter().filter(|one| matches!(one, Moved::Decided(Decision::Apply(..), _))).count())
}
