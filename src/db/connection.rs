//! Connections: a pool each step of which has a bound. The one of sqlx tests and closes connections without any, so a
//! server that hangs would keep their places for ever.

use std::ops::{Deref, DerefMut};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::any::AnyConnectOptions;
use sqlx::{AnyConnection, Connection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::dialect::LockWait;
use super::pace::Pace;
use super::{DbError, Dialect, sql};

/// The longest wait for a connection on SQLite: all of the process wait in line for the one writer, and on a slow machine
/// the line is long. That is no outage, and whoever cannot wait so long, as a request, has a limit of its own.
const SQLITE_WAIT: Duration = Duration::from_secs(60);
/// The longest wait for a connection to a server: well within the time of a request, so that it is told what is wrong.
const SERVER_WAIT: Duration = Duration::from_secs(4);
/// One that does not answer within this when it is taken or given back is closed.
const CHECK: Duration = Duration::from_secs(2);
/// The longest wait for an orderly end; after it the connection is cut.
const GOODBYE: Duration = Duration::from_secs(1);
/// Older connections are not used again: the address may lead to another server by now.
const OLDEST: Duration = Duration::from_secs(600);
/// Connections that rested for longer are not used again: the server ends them soon (`wait_timeout`).
const RESTED: Duration = Duration::from_secs(45);
/// The first and the longest wait between two attempts to connect to a server that is starting.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

/// The connections to one database. A cheap clone.
#[derive(Clone)]
pub(super) struct Pool(Arc<Inner>);

struct Inner {
    dialect: Dialect,
    options: AnyConnectOptions,
    most: u32,
    places: Arc<Semaphore>,
    resting: Mutex<Vec<Resting>>,
    /// Connections of an earlier epoch are not used again.
    epoch: AtomicU64,
}

/// A connection, and what is known about it.
struct Live {
    conn: AnyConnection,
    since: Instant,
    epoch: u64,
    locks: LockWait,
}

struct Resting {
    live: Live,
    since: Instant,
}

impl Pool {
    /// At most `most` connections to `url`, as sqlx wants it; none is made yet.
    pub fn new(dialect: Dialect, url: &str, most: u32) -> Result<Self, DbError> {
        let options = AnyConnectOptions::from_str(url).map_err(|error| DbError::Config(error.to_string()))?;
        Ok(Self(Arc::new(Inner {
            dialect,
            options,
            most,
            places: Arc::new(Semaphore::new(usize::try_from(most).unwrap_or(1))),
            resting: Mutex::new(Vec::new()),
            epoch: AtomicU64::new(0),
        })))
    }

    /// A connection that answers, outside any transaction.
    pub async fn acquire(&self) -> Result<Conn, DbError> {
        self.get("ROLLBACK").await
    }

    /// A connection on which a transaction has begun: it is closed, and not given back, unless the transaction comes to
    /// its end.
    pub async fn begin(&self) -> Result<Conn, DbError> {
        let mut conn = self.get(self.0.dialect.begin()).await?;
        conn.is_clean = false;
        Ok(conn)
    }

    /// Connections of now are not used again: one of them could not do what was wanted.
    pub fn distrust(&self) {
        self.0.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Ends the connections, after what is under way.
    pub async fn close(&self) {
        let all = timeout(SQLITE_WAIT, self.0.places.acquire_many(self.0.most)).await;
        self.0.places.close();
        drop(all);
        let resting: Vec<Resting> = self.resting().drain(..).collect();
        for Resting { live, .. } in resting {
            say_goodbye(live.conn).await;
        }
    }

    async fn get(&self, opening: &'static str) -> Result<Conn, DbError> {
        let wait = if self.0.dialect == Dialect::Sqlite { SQLITE_WAIT } else { SERVER_WAIT };
        let deadline = Instant::now() + wait;
        let place = match timeout_at(deadline, Arc::clone(&self.0.places).acquire_owned()).await {
            Ok(Ok(place)) => place,
            Ok(Err(_)) => return Err(sqlx::Error::PoolClosed.into()),
            Err(_) => return Err(DbError::Busy),
        };
        if self.0.dialect == Dialect::Sqlite {
            return self.get_file(opening, place).await;
        }
        let locks = LockWait::of(Pace::current());
        while let Some(mut live) = self.take_rested() {
            let text = if live.locks == locks { opening } else { locks.before(opening) };
            match timeout(CHECK, sqlx::raw_sql(text).execute(&mut live.conn)).await {
                Ok(Ok(_)) => {
                    live.locks = locks;
                    return Ok(self.handed(live, place));
                }
                // It was cut or hangs: so are, most likely, the others of its time.
                _ => self.distrust(),
            }
        }
        let fresh = async {
            let mut live = self.connect(locks).await?;
            sqlx::raw_sql(opening).execute(&mut live.conn).await.map_err(DbError::Session)?;
            Ok::<_, DbError>(live)
        };
        match timeout_at(deadline, fresh).await {
            Ok(live) => Ok(self.handed(live?, place)),
            Err(_) => Err(DbError::Silent(wait)),
        }
    }

    /// A file does not go away: nothing is to be checked, and to begin means to wait for the writer of another process.
    async fn get_file(&self, opening: &'static str, place: OwnedSemaphorePermit) -> Result<Conn, DbError> {
        let live = match self.take_rested() {
            Some(live) => live,
            None => self.connect(LockWait::Usual).await?,
        };
        let mut conn = self.handed(live, place);
        if opening == self.0.dialect.begin() {
            let begun = sql::run(&mut conn, opening).await;
            begun.inspect_err(|error| conn.is_clean = error.is_of_the_moment())?;
        }
        Ok(conn)
    }

    fn handed(&self, live: Live, place: OwnedSemaphorePermit) -> Conn {
        Conn { live: Some(live), place: Some(place), pool: self.clone(), is_clean: true }
    }

    fn resting(&self) -> MutexGuard<'_, Vec<Resting>> {
        self.0.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_usable(&self, live: &Live) -> bool {
        self.0.dialect == Dialect::Sqlite
            || (live.epoch == self.0.epoch.load(Ordering::Acquire) && live.since.elapsed() < OLDEST)
    }

    /// The one that has rested for the shortest time; those that are not to be used any more are ended.
    fn take_rested(&self) -> Option<Live> {
        let mut resting = self.resting();
        let is_file = self.0.dialect == Dialect::Sqlite;
        let (good, old): (Vec<Resting>, Vec<Resting>) = std::mem::take(&mut *resting)
            .into_iter()
            .partition(|one| self.is_usable(&one.live) && (is_file || one.since.elapsed() < RESTED));
        *resting = good;
        let taken = resting.pop();
        drop(resting);
        for Resting { live, .. } in old {
            tokio::spawn(say_goodbye(live.conn));
        }
        taken.map(|one| one.live)
    }

    fn give_back(&self, live: Live) {
        if self.is_usable(&live) && !self.0.places.is_closed() {
            self.resting().push(Resting { live, since: Instant::now() });
        } else {
            tokio::spawn(say_goodbye(live.conn));
        }
    }

    async fn connect(&self, locks: LockWait) -> Result<Live, DbError> {
        let Inner { dialect, options, epoch, .. } = &*self.0;
        let (epoch, mut pause) = (epoch.load(Ordering::Acquire), BACKOFF.0);
        let mut conn = loop {
            match AnyConnection::connect_with(options).await {
                Ok(conn) => break conn,
                // The server is starting.
                Err(sqlx::Error::Io(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(BACKOFF.1);
                }
                Err(error) => return Err(DbError::Session(error)),
            }
        };
        for text in [dialect.session_init(), dialect.serving_init()].into_iter().filter(|text| !text.is_empty()) {
            sqlx::raw_sql(text).execute(&mut conn).await.map_err(DbError::Session)?;
        }
        if locks != LockWait::Usual {
            sqlx::raw_sql(locks.before("ROLLBACK")).execute(&mut conn).await.map_err(DbError::Session)?;
        }
        Ok(Live { conn, since: Instant::now(), epoch, locks })
    }
}

/// Ends a connection in order if the server goes along; else it is cut.
async fn say_goodbye(conn: AnyConnection) {
    if !matches!(timeout(GOODBYE, conn.close()).await, Ok(Ok(()))) {
        tracing::debug!("a connection to the database was cut");
    }
}

/// A connection. Dropped, it goes back to its pool once it answers and is outside any transaction, or is closed.
pub struct Conn {
    live: Option<Live>,
    place: Option<OwnedSemaphorePermit>,
    pool: Pool,
    is_clean: bool,
}

impl Conn {
    /// Ends the transaction on it with `text`, and gives it back. Without an answer it is closed, and so the server
    /// takes back what was not committed.
    pub(super) async fn end(mut self, text: &'static str, limit: Duration) -> Result<(), DbError> {
        let ended = match timeout(limit, sqlx::raw_sql(text).execute(&mut *self)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(DbError::at_end(error)),
            Err(_) => Err(DbError::Silent(limit)),
        };
        if ended.is_ok()
            && let Some(live) = self.live.take()
        {
            self.pool.give_back(live);
        }
        ended
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        let (Some(mut live), place, pool) = (self.live.take(), self.place.take(), self.pool.clone()) else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !self.is_clean {
            // Dropped, it is cut: the server rolls back. A file is closed in order, so that its locks go now.
            if pool.0.dialect == Dialect::Sqlite {
                runtime.spawn(async move {
                    say_goodbye(live.conn).await;
                    drop(place);
                });
            }
            return;
        }
        if pool.0.dialect == Dialect::Sqlite {
            pool.give_back(live);
            return;
        }
        // Its user may have gone away in the middle of an answer.
        runtime.spawn(async move {
            if let Ok(Ok(_)) = timeout(CHECK, sqlx::raw_sql("ROLLBACK").execute(&mut live.conn)).await {
                pool.give_back(live);
            }
            drop(place);
        });
    }
}

impl Deref for Conn {
    type Target = AnyConnection;

    fn deref(&self) -> &AnyConnection {
        #[expect(clippy::expect_used, reason = "it is taken at the end only")]
        &self.live.as_ref().expect("a connection is there until its end").conn
    }
}

impl DerefMut for Conn {
    fn deref_mut(&mut self) -> &mut AnyConnection {
        #[expect(clippy::expect_used, reason = "it is taken at the end only")]
        &mut self.live.as_mut().expect("a connection is there until its end").conn
    }
}
