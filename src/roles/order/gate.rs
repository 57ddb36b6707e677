//! The sold-out gate: turns orders of hot SKUs away before they are written, by an estimate of what is left. It only
//! ever says no: an order that passes still needs its freeze. Where nothing fresh is known, everything passes.
//!
//! What it refuses although the database would accept it ends once INVENTORY_SYNC has arrived (`stock.sync_interval`
//! and the way through the broker), or, where an order was taken into account that was never frozen, after
//! [`cache::RESEED`] and [`LOOK`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::place::NewOrder;
use crate::cache::{self, Estimates, Level, Taken, Verdict};
use crate::config::Config;
use crate::db::{Db, DbError, availability, orders};

/// Between two looks at what the stock role has told.
pub const LOOK: Duration = Duration::from_millis(500);

/// The gate of one database. A cheap clone; clones share their estimates.
#[derive(Clone)]
pub struct Gate {
    db: Db,
    skus: Arc<BTreeSet<String>>,
    estimates: Estimates,
}

impl Gate {
    /// For the hot SKUs of `config`; `None` when there are none.
    #[must_use]
    pub fn new(db: &Db, config: &Config) -> Option<Self> {
        let skus: BTreeSet<String> = config.order.hot_skus.iter().cloned().collect();
        if skus.is_empty() {
            return None;
        }
        let estimates = db.cache().map_or_else(Estimates::in_process, cache::Cache::estimates);
        Some(Self { db: db.clone(), skus: Arc::new(skus), estimates })
    }

    /// Takes the pieces of an order from the estimates; or says of which SKUs there is not enough.
    ///
    /// # Errors
    /// The database's, when an order that is turned away may be the repetition of one that was accepted.
    pub async fn enter(&self, order: &NewOrder) -> Result<Verdict, DbError> {
        let hot = order.items.iter().filter(|(sku, _)| self.skus.contains(sku.as_str()));
        let wanted: Vec<(&str, i64)> = hot.map(|(sku, quantity)| (sku.as_str(), quantity.get())).collect();
        if wanted.is_empty() {
            return Ok(Verdict::Pass(Taken::default()));
        }
        let verdict = self.estimates.take(&wanted).await;
        if let (Verdict::SoldOut(_), Some(key)) = (&verdict, order.stored_key()) {
            let mut conn = self.db.read().await?;
            if !orders::by_idempotency_keys(&mut conn, vec![key]).await?.is_empty() {
                // It gets its first answer again.
                return Ok(Verdict::Pass(Taken::default()));
            }
        }
        Ok(verdict)
    }

    /// The order was not written.
    pub async fn leave(&self, taken: &Taken) {
        self.estimates.give_back(taken).await;
    }

    /// Sets the estimates from what the stock role has told.
    ///
    /// # Errors
    /// The database's.
    pub async fn step(&self) -> Result<(), DbError> {
        let mut conn = self.db.read().await?;
        let known = availability::get(&mut conn, self.skus.iter().cloned().collect()).await?;
        drop(conn);
        let levels: Vec<Level> = known
            .into_iter()
            .map(|(sku, known)| Level { sku, available: known.available, version: known.version })
            .collect();
        self.estimates.set(&levels).await;
        Ok(())
    }

    /// Runs until `token` is cancelled.
    pub async fn run(self, token: CancellationToken) {
        while !token.is_cancelled() {
            if let Err(error) = self.step().await {
                tracing::debug!(%error, "the estimates of hot SKUs are not set");
            }
            tokio::select! {
                () = token.cancelled() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }
}
