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
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Nothing has moved for as long as patience lasts.
    #[must_use]
    pub fn is_still(&self) -> bool {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed() >= self.patience
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

    const PAUSE: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn nothing_is_given_up_while_something_moves() {
        let (pulse, began) = (Pulse::new(Duration::from_secs(10)), Instant::now());
        let looking = pulse.look_for(PAUSE, async || {
            let seconds = began.elapsed().as_secs();
            if seconds < 95 {
                // Somebody else's order.
                pulse.beat();
            }
            Ok(if seconds < 100 { Err("not yet".to_owned()) } else { Ok(seconds) })
        });
        assert_eq!(looking.await.unwrap(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn what_stands_still_is_given_up_with_what_was_seen() {
        let (pulse, began) = (Pulse::new(Duration::from_secs(10)), Instant::now());
        let looking = pulse.look_for::<()>(PAUSE, async || Ok(Err("2 of 3 came".to_owned())));
        let error = looking.await.unwrap_err().to_string();
        assert_eq!(error, "2 of 3 came, and nothing has moved for 10 s");
        assert_eq!(began.elapsed().as_secs(), 10);
    }
}
