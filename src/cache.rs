//! What is kept in memory, and in Redis where there is one: reads of orders and stock, the estimate of what is left of
//! hot SKUs, and the shared rate limit. All of it is advisory: it may be slow, wiped, full, wrong or away at any moment,
//! and costs latency only. Nothing here is called inside a database transaction.

mod estimate;
mod look;
mod rate;
mod remote;
mod views;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

pub use estimate::{Estimates, LIFE, Level, RESEED, Taken, Verdict};
pub use look::{Look, look};
pub use rate::SharedRate;

use crate::config;
use crate::domain::event::{CacheInvalidate, CacheKind};
use remote::Remote;
use views::Views;

/// Changes that wait to be told to Redis and to other processes; more are dropped, and time heals it.
const CHANGES: usize = 4_096;

/// Why there is no cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The address, or its TLS settings.
    #[error("cache.url cannot be used")]
    Redis(#[source] redis::RedisError),
    /// The certificates of `cache.ca_file`.
    #[error("cache.ca_file {file} cannot be read")]
    CaFile {
        /// Which.
        file: String,
        /// Why.
        source: std::io::Error,
    },
}

/// The cache of a process. A cheap clone.
#[derive(Clone)]
pub struct Cache(Arc<Inner>);

struct Inner {
    views: Views,
    remote: Option<Arc<Remote>>,
    ttl: Duration,
    changes: mpsc::Sender<Vec<CacheInvalidate>>,
    to_tell: Mutex<Option<mpsc::Receiver<Vec<CacheInvalidate>>>>,
}

impl Cache {
    /// A cache in the process, and in Redis where `config` names one; that is connected to in the background. To be
    /// called inside a Tokio runtime.
    ///
    /// # Errors
    /// [`CacheError`] for settings that cannot work; never because Redis is away.
    pub fn new(config: &config::Cache) -> Result<Self, CacheError> {
        let remote = if config.url.is_empty() { None } else { Some(Arc::new(Remote::connect(config)?)) };
        let (changes, to_tell) = mpsc::channel(CHANGES);
        Ok(Self(Arc::new(Inner {
            views: Views::new(config.ttl.duration()),
            remote,
            ttl: config.ttl.duration(),
            changes,
            to_tell: Mutex::new(Some(to_tell)),
        })))
    }

    /// The JSON of a thing, at most `cache.ttl` old: from memory, from Redis, or from `load`, which gives it with its
    /// version, or `None` where it does not exist. What this process has changed is never read as it was before.
    ///
    /// # Errors
    /// What `load` says.
    pub async fn read<E, F>(&self, kind: CacheKind, key: &str, load: F) -> Result<Option<Bytes>, E>
    where
        F: Future<Output = Result<Option<(i64, Bytes)>, E>>,
    {
        let Inner { views, remote, ttl, .. } = &*self.0;
        if ttl.is_zero() {
            return Ok(load.await?.map(|(_, body)| body));
        }
        let at_least = match views.get(kind, key, Instant::now()) {
            views::Found::Body(body) => return Ok(Some(body)),
            views::Found::Stale { since } => since,
        };
        if let Some(remote) = remote
            && let Some(view) = views::fetch(remote, kind, key, *ttl).await
            && view.version >= at_least
        {
            views.put(kind, key, view.version, Some(view.body.clone()), Instant::now() + view.left);
            return Ok(Some(view.body));
        }
        let started = Instant::now();
        let Some((version, body)) = load.await? else { return Ok(None) };
        // A read that took that long may have seen what a change, already forgotten, has replaced since.
        if let Some(left) = ttl.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) {
            views.put(kind, key, version, Some(body.clone()), started + *ttl);
            if let Some(remote) = remote {
                views::store(Arc::clone(remote), kind, key, version, body.clone(), left);
            }
        }
        Ok(Some(body))
    }

    /// This process has committed changes: it forgets what it has of these things at once, and others are told soon.
    /// Never blocks.
    pub fn changed(&self, changes: Vec<CacheInvalidate>) {
        if self.0.ttl.is_zero() || changes.is_empty() {
            return;
        }
        self.heard(&changes);
        // Nobody takes them, or not fast enough: others then see these changes when their time is over.
        let _ = self.0.changes.try_send(changes);
    }

    /// Another process has committed changes.
    pub fn heard(&self, changes: &[CacheInvalidate]) {
        let until = Instant::now() + self.0.ttl;
        for change in changes {
            self.0.views.put(change.kind, &change.key, change.version, None, until);
        }
    }

    /// Changes of this process that Redis and other processes are to be told of; the first caller gets them.
    #[must_use]
    pub fn to_tell(&self) -> Option<mpsc::Receiver<Vec<CacheInvalidate>>> {
        self.0.to_tell.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Makes Redis forget these things as they were; says which of them other processes may have in memory.
    pub async fn forget(&self, changes: Vec<CacheInvalidate>) -> Vec<CacheInvalidate> {
        match &self.0.remote {
            Some(remote) => views::forget(remote, changes, self.0.ttl).await,
            None => changes,
        }
    }

    /// Estimates of what is left of hot SKUs; without Redis this process has its own.
    #[must_use]
    pub fn estimates(&self) -> Estimates {
        Estimates::new(self.0.remote.clone())
    }

    /// The rate limit that all processes with `name` share; `None` without Redis.
    #[must_use]
    pub fn rate(&self, name: &str, per_second: u32) -> Option<SharedRate> {
        let remote = self.0.remote.clone().filter(|_| per_second > 0)?;
        Some(SharedRate::new(remote, name, per_second))
    }
}
