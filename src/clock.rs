//! The only place that reads the wall clock. Everything else is handed a [`Clock`], so that tests own time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Epoch milliseconds as people read them, UTC.
#[must_use]
pub fn rfc3339(at_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(at_ms).map_or_else(|_| at_ms.to_string(), |at| format!("{at:.3}"))
}

/// Source of "now", epoch milliseconds UTC. A cheap clone; clones share the time of a manual clock, and corrections.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    manual: Option<Arc<AtomicI64>>,
    /// How wrong the machine's clock is made, ms: for tests.
    wrong_by_ms: i64,
    /// What is added to the machine's time, ms.
    correction_ms: Arc<AtomicI64>,
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// The machine's clock as it would be if it were wrong by so much: for tests.
    #[must_use]
    pub fn wrong_by(ms: i64) -> Self {
        Self { wrong_by_ms: ms, ..Self::default() }
    }

    /// The same source, with a correction of its own.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self { correction_ms: Arc::default(), ..self.clone() }
    }

    /// From now on so much is added to the machine's time, ms. A manual clock is always right.
    pub fn correct(&self, by_ms: i64) {
        self.correction_ms.store(by_ms, Ordering::SeqCst);
    }

    /// What is added to the machine's time, ms.
    #[must_use]
    pub fn correction_ms(&self) -> i64 {
        self.correction_ms.load(Ordering::SeqCst)
    }

    /// A clock that stands still at `now_ms` until it is moved.
    #[must_use]
    pub fn manual(now_ms: i64) -> Self {
        Self { manual: Some(Arc::new(AtomicI64::new(now_ms))), ..Self::default() }
    }

    /// Now, in epoch milliseconds UTC.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one module that reads the wall clock")]
    pub fn now_ms(&self) -> i64 {
        match &self.manual {
            Some(now) => now.load(Ordering::SeqCst),
            None => {
                let machine = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
                machine.saturating_add(self.wrong_by_ms).saturating_add(self.correction_ms())
            }
        }
    }

    /// Moves a manual clock forward; the machine's clock is not ours to move, so there it does nothing.
    pub fn advance_ms(&self, by_ms: i64) {
        if let Some(now) = &self.manual {
            now.fetch_add(by_ms, Ordering::SeqCst);
        }
    }

    /// True for a manual clock: background loops then wait to be stepped instead of sleeping.
    #[must_use]
    pub fn is_manual(&self) -> bool {
        self.manual.is_some()
    }
}
