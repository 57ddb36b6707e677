//! The only place that reads the wall clock. Everything else is handed a [`Clock`], so that tests own time.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// By so much the machine's clock and its steady one may go apart between two comparisons with another clock, ms. More
/// means that somebody has set the one, or that the machine slept.
const STEP_MS: i64 = 1_000;

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
    wrong_by_ms: Arc<AtomicI64>,
    /// What is added to the machine's time, ms.
    correction_ms: Arc<AtomicI64>,
    compared: Arc<Mutex<Option<Compared>>>,
}

/// What the machine's clock said when it was compared with another one last, ms, and when that was by the steady clock.
#[derive(Clone, Copy, Debug)]
struct Compared {
    machine_ms: i64,
    at: Instant,
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
        Self { wrong_by_ms: Arc::new(AtomicI64::new(ms)), ..Self::default() }
    }

    /// The machine's clock is set while the program runs, and is wrong by so much from now on: for tests.
    pub fn set_wrong_by(&self, ms: i64) {
        self.wrong_by_ms.store(ms, Ordering::SeqCst);
    }

    /// The same source, with a correction of its own.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self { correction_ms: Arc::default(), compared: Arc::default(), ..self.clone() }
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

    /// The machine's clock was compared with another one at `at`, when it said `machine_ms`.
    pub fn compared(&self, machine_ms: i64, at: Instant) {
        *self.compared.lock().unwrap_or_else(PoisonError::into_inner) = Some(Compared { machine_ms, at });
    }

    /// Somebody has set the machine's clock since it was compared with another one, or the machine slept: by how much
    /// it is wrong is not known any more.
    #[must_use]
    pub fn was_set(&self) -> bool {
        let compared = *self.compared.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Compared { machine_ms, at }) = compared.filter(|_| self.manual.is_none()) else { return false };
        let passed_ms = i64::try_from(at.elapsed().as_millis()).unwrap_or(i64::MAX);
        (self.machine_ms() - machine_ms).saturating_sub(passed_ms).abs() > STEP_MS
    }

    /// What the machine's clock says, without a correction, epoch ms.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one module that reads the wall clock")]
    pub fn machine_ms(&self) -> i64 {
        let machine = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
        machine.saturating_add(self.wrong_by_ms.load(Ordering::SeqCst))
    }

    /// A clock that stands still at `now_ms` until it is moved.
    #[must_use]
    pub fn manual(now_ms: i64) -> Self {
        Self { manual: Some(Arc::new(AtomicI64::new(now_ms))), ..Self::default() }
    }

    /// Now, in epoch milliseconds UTC.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        match &self.manual {
            Some(now) => now.load(Ordering::SeqCst),
            None => self.machine_ms().saturating_add(self.correction_ms()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_whose_clock_was_set_is_noticed() {
        let clock = Clock::wrong_by(0);
        let of_database = clock.apart();
        assert!(!of_database.was_set(), "it was compared with nothing");
        for wrong_ms in [3_600_000, -3_600_000, 0] {
            of_database.compared(of_database.machine_ms(), Instant::now());
            assert!(!of_database.was_set());
            clock.set_wrong_by(wrong_ms);
            assert!(of_database.was_set(), "{wrong_ms}");
        }
    }
}
