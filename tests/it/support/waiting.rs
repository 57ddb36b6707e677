//! Waiting for what other threads and processes do.

use std::time::{Duration, Instant};

/// Nothing takes so long, on however slow a machine.
const DEADLINE: Duration = Duration::from_secs(300);

/// Looks until it is so.
pub async fn eventually(what: &str, look: impl AsyncFnMut() -> bool) {
    eventually_or_show(what, || String::from("it is not so"), look).await;
}

/// Looks until it is so; where it never is, the failure says what `show` does.
pub async fn eventually_or_show(what: &str, show: impl Fn() -> String, mut look: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !look().await {
        assert!(started.elapsed() < DEADLINE, "not in time: {what}: {}", show());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
