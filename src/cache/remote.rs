//! Redis, on sufferance: every call has a short deadline, and after a few failures it is left alone for a moment. A call
//! that does not work out is `None`, and the caller goes on without.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, FromRedisValue, ScriptInvocation, TlsCertificates};
use tokio::time::Instant;

use super::CacheError;
use crate::config;

/// Calls in a row that may fail before Redis is left alone.
const FAILURES: u32 = 3;
/// For how long, until one call tries again.
const PAUSE_MS: u64 = 1_000;
/// One attempt to connect, TLS included; callers do not wait for it longer than their own deadline.
const CONNECT: Duration = Duration::from_secs(2);
/// Pauses between attempts to connect.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Calls that may wait for their turn on the one connection.
const QUEUED: usize = 1_024;

/// A Redis server.
pub(super) struct Remote {
    connection: ConnectionManager,
    timeout: Duration,
    prefix: String,
    start: Instant,
    breaker: Breaker,
}

impl Remote {
    /// Begins to connect in the background.
    pub(super) fn connect(config: &config::Cache) -> Result<Self, CacheError> {
        let client = client(config)?;
        let manager = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(config.timeout.duration()))
            .set_min_delay(RECONNECT.0)
            .set_max_delay(RECONNECT.1)
            .set_number_of_retries(1)
            .set_pipeline_buffer_size(QUEUED);
        let connection = ConnectionManager::new_lazy_with_config(client, manager).map_err(CacheError::Redis)?;
        let mut first = connection.clone();
        // The first connection is made by whoever asks first, and callers do not wait long enough for that.
        tokio::spawn(async move {
            if let Err(error) = redis::cmd("PING").exec_async(&mut first).await {
                tracing::warn!(%error, "Redis cannot be reached: it is done without");
            }
        });
        Ok(Self {
            connection,
            timeout: config.timeout.duration(),
            prefix: config.prefix.clone(),
            start: Instant::now(),
            breaker: Breaker::default(),
        })
    }

    /// The name of a key in Redis.
    pub(super) fn key(&self, what: &str, key: &str) -> String {
        format!("{}{what}:{key}", self.prefix)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Runs a script; `None` when Redis does not give a usable answer in time.
    pub(super) async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Option<T> {
        if !self.breaker.lets_through(self.now_ms()) {
            return None;
        }
        let mut connection = self.connection.clone();
        match tokio::time::timeout(self.timeout, script.invoke_async(&mut connection)).await {
            Ok(Ok(answer)) => {
                self.breaker.worked();
                Some(answer)
            }
            // It is there and says no (full, loading, wrong type): that was quick, and the next call may fare better.
            Ok(Err(error)) if !error.is_io_error() && !error.is_timeout() && !error.is_connection_dropped() => {
                self.breaker.worked();
                tracing::debug!(%error, "Redis refused");
                None
            }
            Ok(Err(error)) => {
                self.breaker.failed(self.now_ms(), &error);
                None
            }
            Err(late) => {
                self.breaker.failed(self.now_ms(), &late);
                None
            }
        }
    }
}

pub(super) fn client(config: &config::Cache) -> Result<Client, CacheError> {
    let url = config.url.expose();
    if !url.starts_with("rediss:") {
        return Client::open(url).map_err(CacheError::Redis);
    }
    // Whoever installs a provider first has chosen for the process; this one is as good as any.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let root_cert = match config.ca_file.as_str() {
        "" => None,
        file => Some(std::fs::read(file).map_err(|source| CacheError::CaFile { file: file.to_owned(), source })?),
    };
    Client::build_with_tls(url, TlsCertificates { client_tls: None, root_cert }).map_err(CacheError::Redis)
}

/// Closed: calls go through. Open: none, except one each [`PAUSE_MS`]. Its times are ms since the start of its owner.
#[derive(Default)]
struct Breaker {
    failures: AtomicU32,
    /// 0: closed.
    open_until: AtomicU64,
}

impl Breaker {
    fn lets_through(&self, now: u64) -> bool {
        let until = self.open_until.load(Ordering::Relaxed);
        if until == 0 {
            return true;
        }
        // One of those who come when the pause is over tries it; the others wait for what it finds out.
        now >= until
            && self.open_until.compare_exchange(until, now + PAUSE_MS, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn worked(&self) {
        self.failures.store(0, Ordering::Relaxed);
        if self.open_until.swap(0, Ordering::Relaxed) != 0 {
            tracing::info!("Redis is back");
        }
    }

    fn failed(&self, now: u64, why: &dyn std::fmt::Display) {
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 < FAILURES {
            return;
        }
        if self.open_until.swap(now + PAUSE_MS, Ordering::Relaxed) == 0 {
            tracing::warn!(%why, "Redis does not answer in time: it is done without");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_some_failures_one_call_a_second_tries() {
        let breaker = Breaker::default();
        for _ in 0..FAILURES {
            assert!(breaker.lets_through(5));
            breaker.failed(5, &"late");
        }
        assert!(!breaker.lets_through(5) && !breaker.lets_through(4 + PAUSE_MS));
        assert!(breaker.lets_through(5 + PAUSE_MS) && !breaker.lets_through(5 + PAUSE_MS));
        breaker.failed(6 + PAUSE_MS, &"late");
        assert!(!breaker.lets_through(5 + 2 * PAUSE_MS));
        assert!(breaker.lets_through(6 + 2 * PAUSE_MS));
        breaker.worked();
        assert!(breaker.lets_through(0) && breaker.lets_through(0));
    }
}
