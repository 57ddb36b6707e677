//! The relay: committed outbox rows leave from memory, in batches, right after the commit. What it does not get to
//! (the hand-over is bounded, brokers go away, processes die) stays pending for the [sweep](super::sweep).

mod shard;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use self::shard::Shard;
use super::broker::Broker;
use super::health::{Reach, State};
use super::local::lane_of;
use super::message::{Delay, Outgoing};
use super::rocketmq::PublishError;
use crate::db::outbox::{self, OutboxRow};
use crate::db::{Db, DbError, Tx};
use crate::shutdown::Shutdown;
use crate::telemetry::Metrics;

/// Bytes of the bodies that are under way at most.
const MEMORY_BYTES: usize = 64 << 20;
/// Rows marked as sent in one transaction.
const MARK: usize = 1024;

/// Publishes rows and marks them.
#[derive(Clone)]
pub struct Relay {
    db: Db,
    broker: Broker,
    metrics: Arc<Metrics>,
    /// The change of the broker's state up to which everything that had waited is sent.
    caught_up: Arc<AtomicU64>,
}

/// What is under way.
#[derive(Default)]
struct Load {
    rows: AtomicUsize,
    bytes: AtomicUsize,
}

impl Load {
    /// Takes rows up, unless they are too many, or too large together.
    fn more(&self, rows: &[OutboxRow], limit: usize) -> bool {
        let bytes: usize = rows.iter().map(|row| row.body.len()).sum();
        let is_full = self.rows.load(Ordering::Relaxed) + rows.len() > limit
            || self.bytes.load(Ordering::Relaxed) + bytes > MEMORY_BYTES;
        if !is_full {
            self.rows.fetch_add(rows.len(), Ordering::Relaxed);
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        !is_full
    }

    fn less(&self, row: &OutboxRow) {
        self.rows.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(row.body.len(), Ordering::Relaxed);
    }
}

/// What became of rows: to be written down.
struct Marks {
    sent: Vec<i64>,
    held: Vec<i64>,
}

impl Relay {
    /// A relay from `db` to `broker`.
    #[must_use]
    pub fn new(db: Db, broker: Broker, metrics: Arc<Metrics>) -> Self {
        Self { db, broker, metrics, caught_up: Arc::default() }
    }

    /// The broker that it publishes to.
    #[must_use]
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// False while rows that waited for the broker, or for its stand-in, are still to be sent: new ones must not
    /// overtake them.
    fn is_caught_up(&self) -> bool {
        self.caught_up.load(Ordering::Acquire) >= self.broker.state().change
    }

    /// New rows wait here for those before them: a broker is there, or its stand-in, and the sweep is at it.
    fn has_to_wait(&self) -> bool {
        !self.is_caught_up() && self.broker.state().reach != Reach::Away
    }

    /// Says that nothing waits any more since `state` began.
    pub(super) fn caught_up(&self, state: State) {
        self.caught_up.fetch_max(state.change, Ordering::AcqRel);
    }

    /// The database.
    #[must_use]
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// Takes the rows of every commit from now on: `shards` publishers (all rows of a key have the same one) and one
    /// task that marks. At most about `memory_limit` rows are under way, and [`MEMORY_BYTES`] of their bodies.
    pub fn start(&self, shards: usize, memory_limit: usize, shutdown: &Shutdown) {
        let load = Arc::new(Load::default());
        let (marks, to_mark) = mpsc::channel::<Marks>(64);
        let mut senders = Vec::with_capacity(shards);
        for _ in 0..shards.max(1) {
            // Unbounded in name only: `load` bounds the rows of all shards together.
            let (sender, rows) = mpsc::unbounded_channel();
            senders.push(sender);
            let shard = Shard::new(self.clone(), rows, marks.clone(), Arc::clone(&load));
            shutdown.run("relay", shard.run(shutdown.clone()));
        }
        drop(marks);
        shutdown.run("relay", self.clone().mark_all(to_mark));
        self.db.on_commit(Box::new(move |rows| {
            if !load.more(&rows, memory_limit) {
                return;
            }
            for row in rows {
                let shard = lane_of(&row.key, senders.len());
                let Some(sender) = senders.get(shard) else { continue };
                if let Err(unsent) = sender.send(row) {
                    load.less(&unsent.0);
                }
            }
        }));
    }

    /// Publishes rows; for each, in order, why not.
    pub async fn publish(&self, rows: &[OutboxRow]) -> Vec<Result<(), PublishError>> {
        let started = Instant::now();
        let now_ms = self.db.clock().now_ms();
        let batch: Vec<Outgoing> = rows.iter().map(|row| outgoing(row, now_ms)).collect();
        let results = self.broker.publish(&batch).await;
        let mut counts = std::collections::HashMap::new();
        for (row, result) in rows.iter().zip(&results) {
            let word = if result.is_ok() { "ok" } else { "error" };
            *counts.entry((row.topic.as_str(), word)).or_insert(0_u64) += 1;
        }
        for ((topic, word), count) in counts {
            self.metrics.sent(topic, word, count, started.elapsed());
        }
        results
    }

    /// Writes down what became of rows.
    async fn mark<T, W>(&self, ids: Vec<i64>, work: W) -> Result<T, DbError>
    where
        T: Send + 'static,
        W: for<'t> Fn(&'t mut Tx, Arc<Vec<i64>>) -> BoxFuture<'t, Result<T, DbError>> + Send + Sync + 'static,
    {
        let ids = Arc::new(ids);
        self.db.write("outbox_mark", move |tx| work(tx, Arc::clone(&ids))).await
    }

    /// Marks rows as sent.
    ///
    /// # Errors
    /// The database's.
    pub async fn mark_sent(&self, ids: Vec<i64>) -> Result<(), DbError> {
        self.mark(ids, |tx, ids| {
            Box::pin(async move {
                let now_ms = tx.now_ms();
                outbox::mark_sent(tx, &ids, now_ms).await
            })
        })
        .await
    }

    /// Keeps the sweep from rows until `until_ms`; those that are still ours.
    ///
    /// # Errors
    /// The database's.
    async fn hold_on(&self, ids: Vec<i64>, until_ms: i64) -> Result<HashSet<i64>, DbError> {
        self.mark(ids, move |tx, ids| Box::pin(async move { outbox::hold_on(tx, &ids, until_ms).await })).await
    }

    /// Puts rows aside that were handled without the broker.
    ///
    /// # Errors
    /// The database's.
    pub async fn hold(&self, mut ids: Vec<i64>) -> Result<(), DbError> {
        if ids.is_empty() {
            return Ok(());
        }
        ids.sort_unstable();
        self.mark(ids, |tx, ids| Box::pin(async move { outbox::hold(tx, &ids).await })).await
    }

    async fn mark_all(self, mut to_mark: mpsc::Receiver<Marks>) {
        let mut lists = Vec::new();
        while to_mark.recv_many(&mut lists, 16).await > 0 {
            let (mut ids, mut held) = (Vec::new(), Vec::new());
            for marks in lists.drain(..) {
                ids.extend(marks.sent);
                held.extend(marks.held);
            }
            if let Err(error) = self.hold(held).await {
                // They are handed over once more, and dropped by the inboxes.
                tracing::warn!(%error, "handled rows could not be put aside");
            }
            // Two transactions that mark overlapping rows must lock them in the same order.
            ids.sort_unstable();
            for chunk in ids.chunks(MARK) {
                if let Err(error) = self.mark_sent(chunk.to_vec()).await {
                    // They stay pending, are sent once more by the sweep, and dropped by the inboxes.
                    tracing::warn!(rows = chunk.len(), %error, "sent rows could not be marked");
                }
            }
        }
    }
}

impl Marks {
    fn is_empty(&self) -> bool {
        self.sent.is_empty() && self.held.is_empty()
    }
}

/// The message of a row, sent at `now_ms`. A delay that is over by then is dropped: brokers refuse times that are past.
#[must_use]
pub fn outgoing(row: &OutboxRow, now_ms: i64) -> Outgoing {
    let until = row.properties.iter().find(|(name, _)| name == outbox::TIMER_PROPERTY);
    let until = until.and_then(|(_, at)| at.parse().ok()).filter(|at| *at > now_ms);
    let properties = row.properties.iter().filter(|(name, _)| name != outbox::TIMER_PROPERTY);
    Outgoing {
        topic: row.topic.clone(),
        tag: row.tag.clone(),
        key: row.key.clone(),
        body: row.body.clone(),
        properties: properties.cloned().collect(),
        delay: until.map_or(Delay::None, Delay::Until),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_that_is_over_is_dropped() {
        let timer = (outbox::TIMER_PROPERTY.to_owned(), "1000".to_owned());
        let mine = ("eventId".to_owned(), "1:E".to_owned());
        let row = OutboxRow {
            id: 1,
            event_id: "1:E".into(),
            topic: "E".into(),
            tag: "E".into(),
            key: "1".into(),
            body: "{}".into(),
            properties: vec![timer, mine.clone()],
            deliver_at_ms: 0,
            attempts: 0,
        };
        for (now_ms, delay) in [(999, Delay::Until(1_000)), (1_000, Delay::None), (5_000, Delay::None)] {
            let message = outgoing(&row, now_ms);
            assert_eq!((message.delay, message.properties), (delay, vec![mine.clone()]));
        }
    }
}
