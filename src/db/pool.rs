//! Connections, and the one way to write.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, watch};

use super::connection::{Conn, Pool};
use super::gate::Gate;
use super::health::Health;
use super::outbox::OutboxRow;
use super::pace::Pace;
use super::tx::After;
use super::{DbError, Dialect, Ids, Tx, look};
use crate::cache::Cache;
use crate::clock::Clock;
use crate::domain::event::Kind;
use crate::fault::Faults;
use crate::watchdog::Watchdog;

/// How a transaction that lost a deadlock is tried again: so many times in all.
const ATTEMPTS: u32 = 8;

/// The largest message that a broker takes by default.
const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// How to open a database.
#[derive(Clone, Debug)]
pub struct Options {
    /// `sqlite://path` or `mysql://user:password@host:port/name`.
    pub url: String,
    /// Connections (SQLite: readers, beside the one writer).
    pub max_connections: u32,
    /// Source of "now".
    pub clock: Clock,
    /// Planned failures, for tests.
    pub faults: Faults,
}

/// A transaction that failed.
struct Failed {
    error: DbError,
    stage: Stage,
}

/// How far a transaction has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Opening,
    Working,
    /// It may be committed.
    Ending,
}

/// Is told the outbox rows of each transaction right after its commit, and must not block.
pub type Committed = Box<dyn Fn(Vec<OutboxRow>) + Send + Sync>;

/// A database. A cheap clone.
#[derive(Clone)]
pub struct Db(Arc<Inner>);

struct Inner {
    dialect: Dialect,
    writer: Pool,
    reader: Pool,
    gate: Gate,
    health: Health,
    clock: Clock,
    ids: Arc<Ids>,
    faults: Faults,
    committed: OnceLock<Committed>,
    webhook: OnceLock<String>,
    body_max: usize,
    max_message_bytes: AtomicUsize,
    without: OnceLock<&'static [Kind]>,
    cache: OnceLock<Cache>,
    watchdog: Watchdog,
    deliveries: Notify,
    retries: watch::Sender<u64>,
}

impl fmt::Debug for Db {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Db").field("dialect", &self.0.dialect).finish_non_exhaustive()
    }
}

impl Db {
    /// Opens the pools. The schema must have been migrated before: SQLite's prepared statements keep the column types
    /// of the moment they were prepared in.
    ///
    /// # Errors
    /// [`DbError::Config`] for an address that is neither SQLite nor MySQL; an outage when it cannot be reached.
    pub async fn open(options: &Options) -> Result<Self, DbError> {
        sqlx::any::install_default_drivers();
        let (dialect, url) = address(&options.url)?;
        let (writer, reader) = match dialect {
            Dialect::Sqlite => {
                (Pool::new(dialect, &url, 1)?, Pool::new(dialect, &url, options.max_connections.max(1))?)
            }
            Dialect::MySql => {
                let both = Pool::new(dialect, &url, options.max_connections.max(2))?;
                (both.clone(), both)
            }
        };
        // Whoever opens it is told at once when it is not there; on SQLite the writer makes the file.
        writer.acquire().await?;
        let body_max = look::body_max(&mut *reader.acquire().await?).await?;
        // Corrected by this database's server: another one may have another time.
        let clock = options.clock.apart();
        Ok(Self(Arc::new(Inner {
            dialect,
            writer,
            reader,
            gate: Gate::default(),
            health: Health::default(),
            ids: Arc::new(Ids::new(clock.clone())),
            clock,
            faults: options.faults.clone(),
            committed: OnceLock::new(),
            webhook: OnceLock::new(),
            body_max,
            max_message_bytes: AtomicUsize::new(MAX_MESSAGE_BYTES.min(body_max)),
            without: OnceLock::new(),
            cache: OnceLock::new(),
            watchdog: Watchdog::default(),
            deliveries: Notify::new(),
            retries: watch::Sender::new(0),
        })))
    }

    /// Clones of one handle, and so one database.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The dialect.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.0.dialect
    }

    /// The clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Whoever works on this database in the background is watched.
    #[must_use]
    pub fn watchdog(&self) -> &Watchdog {
        &self.0.watchdog
    }

    /// The source of ids.
    #[must_use]
    pub fn ids(&self) -> &Arc<Ids> {
        &self.0.ids
    }

    /// The planned failures.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.0.faults
    }

    /// From now on reads may come from `cache`, which forgets what is changed here. Only the first call counts.
    pub fn set_cache(&self, cache: Cache) {
        if self.0.cache.set(cache).is_err() {
            tracing::debug!("a second cache for one database was ignored");
        }
    }

    /// Its cache, if it has one.
    #[must_use]
    pub fn cache(&self) -> Option<&Cache> {
        self.0.cache.get()
    }

    /// Names who is told of committed outbox rows. Only the first call counts: a database has one relay.
    pub fn on_commit(&self, committed: Committed) {
        if self.0.committed.set(committed).is_err() {
            tracing::debug!("a second relay for one database was ignored");
        }
    }

    /// From now on alerts are not only logged, but recorded as calls to this URL. Only the first call counts.
    pub fn alert_by(&self, webhook: &str) {
        if self.0.webhook.set(webhook.to_owned()).is_err() {
            tracing::debug!("a second webhook for one database was ignored");
        }
    }

    /// From now on events over this size (body and properties, as encoded) are refused before their row is written, as
    /// are those whose body no row may have.
    pub fn limit_messages(&self, max_bytes: usize) {
        self.0.max_message_bytes.store(max_bytes.min(self.0.body_max), Ordering::Relaxed);
    }

    /// The largest body that a row may have, in bytes.
    #[must_use]
    pub fn body_max(&self) -> usize {
        self.0.body_max
    }

    /// From now on events of these kinds, which the configuration turns off, are not written. Only the first call counts.
    pub fn leave_out(&self, kinds: &'static [Kind]) {
        if self.0.without.set(kinds).is_err() {
            tracing::debug!("a second list of events to leave out was ignored");
        }
    }

    /// Rings when a delivery was recorded.
    #[must_use]
    pub fn deliveries(&self) -> &Notify {
        &self.0.deliveries
    }

    /// Changes when a parked message may be tried: every retry lane of the process has to see it.
    #[must_use]
    pub fn retries(&self) -> watch::Receiver<u64> {
        self.0.retries.subscribe()
    }

    /// A connection to read with, outside any transaction.
    ///
    /// # Errors
    /// When none is to be had.
    pub async fn read(&self) -> Result<Conn, DbError> {
        let inner = &self.0;
        match inner.dialect {
            Dialect::Sqlite => inner.reader.acquire().await,
            Dialect::MySql => inner.gate.pass(inner.reader.acquire()).await,
        }
    }

    /// Runs `body` in one transaction that may write, and commits it. Deadlocks are tried again, and what failed for its
    /// connection on a new one, so `body` may run more than once and must not touch anything but the transaction. The
    /// whole runs in a task of its own: a caller that goes away cannot leave a connection inside a transaction. One that
    /// went away before the transaction began wants nothing any more: then `body` does not run.
    ///
    /// `name` is one of [`crate::fault::TRANSACTIONS`].
    ///
    /// # Errors
    /// What `body` or the database said; nothing was written then, except that after an error of the commit itself
    /// nobody can know.
    pub async fn write<T, F>(&self, name: &'static str, body: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<T, DbError>> + Send + Sync + 'static,
    {
        let db = self.clone();
        let here = Arc::new(());
        let caller = Arc::downgrade(&here);
        let work = tokio::spawn(Pace::current().run(async move {
            let (mut attempt, mut is_renewed) = (1, false);
            loop {
                let Failed { error, stage } = match db.write_once(name, &body, &caller).await {
                    Ok(value) => return Ok(value),
                    Err(failed) => failed,
                };
                if error.is_of_the_moment() && attempt < ATTEMPTS {
                    tracing::debug!(transaction = name, attempt, %error, "trying again");
                    tokio::time::sleep(Duration::from_millis(u64::from(attempt * attempt))).await;
                    attempt += 1;
                } else if error.spoils() && !error.is_silence() && stage == Stage::Working && !is_renewed {
                    // Not committed, and perhaps only this session could not do it.
                    tracing::debug!(transaction = name, %error, "trying again on a new connection");
                    is_renewed = true;
                } else {
                    db.0.health.failed(&error);
                    return Err(error);
                }
            }
        }));
        let done = work.await.unwrap_or_else(|stopped| Err(DbError::Stopped(stopped.to_string())));
        drop(here);
        done
    }

    async fn write_once<T, F>(&self, name: &'static str, body: &F, caller: &Weak<()>) -> Result<T, Failed>
    where
        F: for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<T, DbError>>,
    {
        let inner = &self.0;
        let begin = inner.writer.begin();
        let begun = match inner.dialect {
            Dialect::Sqlite => begin.await,
            Dialect::MySql => inner.gate.pass(begin).await,
        };
        let opening = |error| Failed { error, stage: Stage::Opening };
        let mut conn = begun.map_err(opening)?;
        self.mind_a_set_clock(&mut conn).await.map_err(opening)?;
        let mut tx = self.tx(conn);
        if caller.strong_count() == 0 {
            tx.roll_back(false).await;
            let error = DbError::Stopped("the caller went away before the transaction began".to_owned());
            return Err(Failed { error, stage: Stage::Opening });
        }
        let value = match self.work(name, &mut tx, body).await {
            Ok(value) => value,
            Err(error) => {
                if error.spoils() {
                    inner.writer.distrust();
                }
                tx.roll_back(error.spoils()).await;
                return Err(Failed { error, stage: Stage::Working });
            }
        };
        let after = tx.commit().await.map_err(|error| {
            if error.spoils() {
                inner.writer.distrust();
            }
            Failed { error, stage: Stage::Ending }
        })?;
        self.tell(after);
        self.fault(name, "after_commit").map_err(|error| Failed { error, stage: Stage::Ending })?;
        Ok(value)
    }

    fn tx(&self, conn: Conn) -> Tx {
        let inner = &self.0;
        let limit = inner.max_message_bytes.load(Ordering::Relaxed);
        let mut tx = Tx::new(conn, inner.dialect, inner.clock.now_ms(), Arc::clone(&inner.ids), limit);
        tx.leave_out(inner.without.get().copied().unwrap_or_default());
        tx
    }

    /// All that is written before the commit.
    async fn work<T, F>(&self, name: &'static str, tx: &mut Tx, body: &F) -> Result<T, DbError>
    where
        F: for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<T, DbError>>,
    {
        let value = body(tx).await;
        if tx.without_node() {
            return Err(DbError::NoNode);
        }
        let value = value?;
        if let Some(webhook) = self.0.webhook.get() {
            tx.write_alerts(webhook).await?;
        }
        tx.write_outbox().await?;
        self.fault(name, "before_commit")?;
        Ok(value)
    }

    /// What follows from a commit.
    fn tell(&self, after: After) {
        let inner = &self.0;
        for (_, _, alert) in &after.alerts {
            alert.log();
        }
        if after.deliveries {
            inner.deliveries.notify_one();
        }
        if after.retries {
            inner.retries.send_modify(|count| *count += 1);
        }
        if let Some(cache) = inner.cache.get() {
            cache.changed(after.changed);
        }
        if let (Some(committed), false) = (inner.committed.get(), after.outbox.is_empty()) {
            committed(after.outbox);
        }
    }

    /// Why nothing is written, since when; `None` while transactions succeed, or fail for reasons of their own.
    #[must_use]
    pub fn writes_fail(&self) -> Option<String> {
        self.0.health.wrong()
    }

    /// Rings when a transaction has failed for a reason of the session or the server. Somebody has to try then, and say
    /// so by [`Db::can_write`] when a row was written.
    pub async fn until_writes_fail(&self) {
        self.0.health.until_failing().await;
    }

    /// Changes when something is written again after transactions had failed for a reason of the session or the server:
    /// whoever waits between two attempts need wait no longer.
    #[must_use]
    pub fn writes_again(&self) -> watch::Receiver<u64> {
        self.0.health.ends()
    }

    /// Waits before work is tried again, or looked for: so long, or until something is written again that could not be.
    pub async fn rest(&self, wait: Duration) {
        let mut writes_again = self.writes_again();
        tokio::select! {
            // The database outlives who waits for it: the sender is never gone.
            _ = writes_again.changed() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }

    /// A row was written and committed.
    pub fn can_write(&self) {
        if self.writes_fail().is_some() {
            // It may be another server that writes: what was connected to the old one meanwhile would read on there.
            self.0.writer.distrust();
        }
        self.0.health.wrote();
    }

    /// Passes a planned failure.
    ///
    /// # Errors
    /// [`DbError::Injected`] where the plan says so.
    pub fn fault(&self, name: &str, stage: &str) -> Result<(), DbError> {
        if self.0.faults.fails(name, stage) { Err(DbError::Injected(format!("{name}.{stage}"))) } else { Ok(()) }
    }

    /// The database answers.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn ping(&self) -> Result<(), DbError> {
        let mut conn = self.read().await?;
        super::sql::fetch_one(&mut conn, "SELECT 1", vec![]).await.map(|_| ())
    }

    /// Closes the pools, after what is under way.
    pub async fn close(&self) {
        self.0.writer.close().await;
        self.0.reader.close().await;
    }
}

/// Dialect and the URL as sqlx wants it.
pub(super) fn address(url: &str) -> Result<(Dialect, String), DbError> {
    let with = |parameter: &str| {
        let separator = if url.contains('?') { '&' } else { '?' };
        format!("{url}{separator}{parameter}")
    };
    if url.starts_with("sqlite:") {
        Ok((Dialect::Sqlite, if url.contains("mode=") { url.to_owned() } else { with("mode=rwc") }))
    } else if url.starts_with("mysql:") || url.starts_with("mariadb:") {
        // More texts than the default of 100 would be closed and prepared again all the time, and in sqlx 0.9.0 each
        // close costs the next statement 40 ms (launchbadge/sqlx#4335).
        let cached = url.contains("statement-cache-capacity");
        Ok((Dialect::MySql, if cached { url.to_owned() } else { with("statement-cache-capacity=1024") }))
    } else {
        let scheme = url.split(':').next().unwrap_or_default();
        Err(DbError::Config(format!("database.url begins with {scheme:?}: it must begin with sqlite:// or mysql://")))
    }
}
