//! Whether what is to be written is written.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, watch};

use super::DbError;

/// What is known of the writers of one database.
#[derive(Debug, Default)]
pub(super) struct Health {
    failing: Mutex<Option<Failing>>,
    bell: Notify,
    /// Grows when something is written after a failure.
    ends: watch::Sender<u64>,
}

#[derive(Debug)]
struct Failing {
    since: Instant,
    error: String,
}

impl Health {
    /// A transaction failed; only what says something about the server counts.
    pub fn failed(&self, error: &DbError) {
        let is_ours = matches!(error, DbError::Busy | DbError::Injected(_) | DbError::NoNode | DbError::Overtaken);
        if is_ours || !error.is_outage() {
            return;
        }
        let error = error.to_string();
        let mut failing = self.failing();
        match failing.as_mut() {
            Some(failing) => failing.error = error,
            None => {
                tracing::warn!(%error, "the database does not take what is written");
                *failing = Some(Failing { since: Instant::now(), error });
            }
        }
        self.bell.notify_one();
    }

    /// A row was written.
    pub fn wrote(&self) {
        if let Some(failing) = self.failing().take() {
            let seconds = failing.since.elapsed().as_secs();
            tracing::info!(seconds, "the database takes what is written again");
            self.ends.send_modify(|ends| *ends += 1);
        }
    }

    /// Changes when a failure has ended.
    pub fn ends(&self) -> watch::Receiver<u64> {
        self.ends.subscribe()
    }

    /// Rings when a transaction has failed.
    pub async fn until_failing(&self) {
        self.bell.notified().await;
    }

    /// What is wrong, since when; `None` while transactions succeed.
    pub fn wrong(&self) -> Option<String> {
        let failing = self.failing();
        failing
            .as_ref()
            .map(|one| format!("nothing is written since {} s: {}", one.since.elapsed().as_secs(), one.error))
    }

    fn failing(&self) -> MutexGuard<'_, Option<Failing>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
