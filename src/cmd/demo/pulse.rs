//! Whether the run still goes forward. A slow machine makes everything late, and nothing wrong: so nobody gives up because
//! an order takes long, only because nothing at all has moved for a while.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::bail;
use tokio::time::Instant;

/// When something last went forward, as all of the run sees it.
#[derive(Debug)]
pub struct Pulse {
    patience: Duration,
    last: Mutex<Instant>,
}

impl Pulse {
    /// Nothing is given up before nothing has moved for `patience`.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        Self { patience, last: Mutex::new(Instant::now()) }
    }

    /// How long nothing may move.
    #[must_use]
    pub const fn patience(&self) -> Duration {
        self.patience
    }

    /// Something went forward.
    pub fn beat(&self) {
        self.beat_at(Instant::now());
    }

    fn beat_at(&self, now: Instant) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Nothing has moved for as long as patience lasts.
    #[must_use]
    pub fn is_still(&self) -> bool {
        self.is_still_at(Instant::now())
    }

    fn is_still_at(&self, now: Instant) -> bool {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        now.saturating_duration_since(last) >= self.patience
    }

    /// Looks again and again until `look` finds something, which is a step forward; else `look` says what it sees.
    ///
    /// # Errors
    /// Of `look`; or what it saw last, when nothing moves any more.
    pub async fn look_for<T>(
        &self,
        pause: Duration,
        look: impl AsyncFn() -> anyhow::Result<Result<T, String>>,
    ) -> anyhow::Result<T> {
        loop {
            match look().await? {
                Ok(found) => {
                    self.beat();
                    return Ok(found);
                }
                Err(seen) if self.is_still() => {
                    bail!("{seen}, and nothing has moved for {} s", self.patience.as_secs_f64())
                }
                Err(_) => tokio::time::sleep(pause).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn pulse_is_still_when_nothing_moved_for_its_patience() {
        let (pulse, began) = (Pulse::new(HOUR), Instant::now());
        pulse.beat_at(began + HOUR);
        assert!(!pulse.is_still_at(began + HOUR));
        assert!(!pulse.is_still_at(began + HOUR + HOUR / 2));
        assert!(pulse.is_still_at(began + HOUR + HOUR));
        pulse.beat_at(began + 2 * HOUR);
        assert!(!pulse.is_still_at(began + 2 * HOUR));
    }

    #[tokio::test]
    async fn look_goes_on_until_something_is_found() {
        let (pulse, looks) = (Pulse::new(HOUR), std::cell::Cell::new(0));
        let look = async || {
            looks.set(looks.get() + 1);
            Ok(if looks.get() < 5 { Err("not yet".to_owned()) } else { Ok(looks.get()) })
        };
        assert_eq!(pulse.look_for(Duration::ZERO, look).await.unwrap(), 5);
    }

    #[tokio::test]
    async fn look_ends_with_what_was_seen_when_nothing_moves() {
        let pulse = Pulse::new(Duration::ZERO);
        let looking = pulse.look_for::<()>(Duration::ZERO, async || Ok(Err("2 of 3 came".to_owned())));
        assert_eq!(looking.await.unwrap_err().to_string(), "2 of 3 came, and nothing has moved for 0 s");
    }
}
