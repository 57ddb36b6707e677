//! How long work waits for the database: for an answer, and for locks that others hold.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{DbError, Dialect};

/// How long work that met a lock goes on without waiting for locks.
const HURRY: Duration = Duration::from_secs(10);

/// Between two attempts of work that stands alone and does not wait for locks: whoever holds them for a moment only,
/// as other transactions do, is through with them by then.
const AGAIN_MS: [u64; 4] = [10, 20, 40, 80];

tokio::task_local! {
    static CURRENT: Pace;
}

/// How patient the statements of a task are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// A command of an operator, whose statements may read much.
    Tool,
    /// A running process: every statement touches few rows.
    #[default]
    Serving,
    /// As [`Pace::Serving`], but locks of others are not waited for (where the server cannot, for one second).
    Hurried,
}

impl Pace {
    /// That of this task.
    #[must_use]
    pub fn current() -> Self {
        CURRENT.try_with(|pace| *pace).unwrap_or_default()
    }

    /// Runs `work` at this pace, also what [`super::Db::write`] does for it.
    pub async fn run<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }

    /// The longest wait for the answer to one statement. After it the connection is closed.
    pub(super) const fn answer(self, dialect: Dialect) -> Duration {
        match (self, dialect) {
            (Self::Tool, _) => Duration::from_secs(600),
            // Longer than it waits for the one writer of another process (its busy timeout).
            (_, Dialect::Sqlite) => Duration::from_secs(60),
            // With the wait for a connection it is within the time of a request, so that its caller is told.
            (_, Dialect::MySql) => Duration::from_secs(5),
        }
    }
}

/// Remembers that work met a lock: for a while it does not wait for locks then, so that the rest of it goes on.
#[derive(Debug, Default)]
pub struct Hurry(Mutex<Option<Instant>>);

impl Hurry {
    /// The pace of the next work.
    #[must_use]
    pub fn pace(&self) -> Pace {
        let met = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if met.is_some_and(|at| at.elapsed() < HURRY) { Pace::Hurried } else { Pace::current() }
    }

    /// Takes note of how work failed.
    pub fn note(&self, error: &DbError) {
        if error.is_locked() {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }

    /// Runs `work` at its pace. Work that is `alone` and need not wait for locks is tried some times, close together.
    ///
    /// # Errors
    /// The last one of `work`.
    pub async fn run<T, F>(&self, alone: bool, work: impl Fn() -> F) -> Result<T, DbError>
    where
        F: Future<Output = Result<T, DbError>>,
    {
        let pace = self.pace();
        let mut waits = AGAIN_MS.iter().filter(|_| alone && pace == Pace::Hurried);
        let started = Instant::now();
        loop {
            let done = pace.run(work()).await;
            let Err(error) = &done else { return done };
            self.note(error);
            // A server that cannot but wait has waited long enough.
            let is_soon = started.elapsed() < Duration::from_millis(500);
            match waits.next() {
                Some(wait) if error.is_locked() && is_soon => tokio::time::sleep(Duration::from_millis(*wait)).await,
                _ => return done,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn after_a_lock_was_met_nothing_waits_for_locks() {
        let (hurry, runs) = (Hurry::default(), AtomicU32::new(0));
        let work = || async {
            runs.fetch_add(1, Ordering::Relaxed);
            Err::<Pace, _>(DbError::Locked)
        };
        assert_eq!(hurry.pace(), Pace::Serving);
        assert!(hurry.run(true, work).await.is_err_and(|error| error.is_locked()));
        assert_eq!((hurry.pace(), runs.swap(0, Ordering::Relaxed)), (Pace::Hurried, 1));

        assert_eq!(hurry.run(false, || async { Ok(Pace::current()) }).await.unwrap(), Pace::Hurried);
        assert!(hurry.run(false, work).await.is_err());
        assert_eq!(runs.swap(0, Ordering::Relaxed), 1, "a batch is halved instead");
        assert!(hurry.run(true, work).await.is_err());
        assert!(runs.load(Ordering::Relaxed) > 1, "others hold locks for a moment");
    }
}
