//! Tells the other roles how many pieces there are: INVENTORY_SYNC, one per SKU and interval, however often it changes.

use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use crate::db::pace::Hurry;
use crate::db::sql::Val;
use crate::db::tx::Draft;
use crate::db::walk::{self, Walk};
use crate::db::{Db, DbError, Tx, stock};
use crate::domain::event::{InventorySync, Kind};
use crate::progress::Progress;

/// SKUs told of in one transaction.
const BATCH: i64 = 256;
/// The shortest wait between two looks.
const SHORTEST_MS: i64 = 20;

/// The loop of one database. Several may run: a SKU is told of by the one that gets its row first.
pub struct StockSync {
    db: Db,
    interval_ms: i64,
    /// Where the round has got to: SKUs that change all the time do not keep the later ones waiting.
    after: String,
    hurry: Hurry,
}

impl StockSync {
    /// Tells of each SKU at most once in `interval_ms`.
    #[must_use]
    pub fn new(db: Db, interval_ms: i64) -> Self {
        Self { db, interval_ms, after: String::new(), hurry: Hurry::default() }
    }

    /// When the next level is due to be told.
    ///
    /// # Errors
    /// The database's.
    pub async fn next_due(&self) -> Result<Option<i64>, DbError> {
        let mut conn = self.db.read().await?;
        Ok(stock::sync_oldest(&mut conn).await?.map(|told_at| told_at + self.interval_ms))
    }

    /// Tells of what is due, one batch.
    ///
    /// # Errors
    /// The database's.
    pub async fn step(&mut self) -> Result<Progress, DbError> {
        let told_before = self.db.clock().now_ms() - self.interval_ms + 1;
        let mut conn = self.db.read().await?;
        let skus = stock::sync_due(&mut conn, told_before, &self.after, BATCH).await?;
        drop(conn);
        let Some(last) = skus.last() else {
            let rest = std::mem::take(&mut self.after);
            return Ok(if rest.is_empty() { Progress::Idle } else { Progress::Did(0) });
        };
        let last = last.clone();
        let row = |sku: &String| (Val::from(sku), sku.clone());
        let told = walk::over((&self.db, &self.hurry), Walk::StockSync, skus, row, move |tx, skus| {
            tell(tx, skus.to_vec(), told_before).boxed()
        });
        let walked = told.await?;
        self.after = last;
        let told = walked.done.iter().sum();
        // Levels that somebody has locked come up with the next round, which is not to begin at once.
        Ok(if told == 0 && walked.left.is_some() { Progress::Idle } else { Progress::Did(told) })
    }

    /// Runs until `token` is cancelled.
    pub async fn run(mut self, token: CancellationToken) {
        let part = self.db.watchdog().part(Walk::StockSync.name());
        let pause_ms = self.interval_ms.max(SHORTEST_MS).unsigned_abs();
        while !token.is_cancelled() {
            match part.step(self.step()).await {
                Ok(Progress::Did(_)) => continue,
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "stock levels wait to be told"),
            }
            tokio::select! {
                () = token.cancelled() => {}
                () = self.db.rest(Duration::from_millis(pause_ms)) => {}
            }
        }
    }
}

async fn tell(tx: &mut Tx, skus: Vec<String>, told_before: i64) -> Result<usize, DbError> {
    let found = stock::take_sync_due(tx, skus, told_before).await?;
    for (sku, stocked) in &found {
        let level = stocked.level;
        let body = InventorySync {
            sku: sku.clone(),
            available: level.available,
            frozen: level.frozen,
            sold: level.sold,
            version: stocked.version,
        };
        let version = stocked.version.to_string();
        let draft = Draft::new(Kind::InventorySync, sku, &body, None);
        tx.emit(&Draft { discriminator: &version, ..draft })?;
    }
    Ok(found.len())
}
