//! Waiting for what other threads and processes do.

use std::time::{Duration, Instant};

/// Nothing takes so long, on however slow a machine.
const DEADLINE: Duration = Duration::from_secs(300);

/// Looks until it is so.
pub async fn eventually(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !look().await {
        assert!(started.elapsed() < DEADLINE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
