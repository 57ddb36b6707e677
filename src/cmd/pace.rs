//! So many a second, evenly.

use std::time::Duration;

use tokio::time::Instant;

/// Waits between the parts of a bulk.
pub(super) struct Pace {
    rps: f64,
    due: Instant,
}

impl Pace {
    /// `rps` items a second.
    pub fn new(rps: u32) -> Self {
        Self { rps: f64::from(rps.max(1)), due: Instant::now() }
    }

    /// Until the next part may begin, after `done` items.
    pub async fn wait(&mut self, done: usize) {
        let done = u32::try_from(done).unwrap_or(u32::MAX);
        self.due += Duration::from_secs_f64(f64::from(done) / self.rps);
        tokio::time::sleep_until(self.due).await;
        // What took longer by itself is not caught up with.
        self.due = self.due.max(Instant::now());
    }
}
