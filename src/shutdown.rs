//! One orderly shutdown: stop accepting, finish what is in hand, commit, close. A second signal ends the process at once.

use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Handed to everything that runs for long: `token` says when to stop, `tracker` knows what still runs.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Cancelled when the process is to stop.
    pub token: CancellationToken,
    /// The tasks to wait for.
    pub tracker: TaskTracker,
    broken: Arc<AtomicBool>,
}

impl Shutdown {
    /// Nothing to stop yet, and no signal handlers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task that [`Shutdown::drain`] waits for.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(task)
    }

    /// Starts a task that the process cannot do without: if it panics, the process stops, and says so by its exit code,
    /// instead of living on with a part of it dead.
    pub fn run<F>(&self, name: &'static str, task: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (token, broken) = (self.token.clone(), Arc::clone(&self.broken));
        self.tracker.spawn(async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                tracing::error!(task = name, "a part of the process panicked: stopping");
                broken.store(true, Ordering::Release);
                token.cancel();
            }
        })
    }

    /// A task started with [`Shutdown::run`] panicked.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Says that it is time to stop.
    pub fn cancel(&self) {
        self.token.cancel();
    }

    /// Cancels on SIGINT or SIGTERM; the second one ends the process with 130 or 143 and no further work.
    ///
    /// # Errors
    /// The handlers cannot be installed.
    pub fn on_signals(&self) -> io::Result<()> {
        let mut signals = Signals::install()?;
        let token = self.token.clone();
        // Not tracked: it outlives the orderly part, to hear the second signal.
        tokio::spawn(async move {
            let first = signals.next().await;
            tracing::info!(signal = first.name, "stopping; once more to stop at once");
            token.cancel();
            let second = signals.next().await;
            tracing::warn!(signal = second.name, "stopped at once");
            std::process::exit(second.exit_code);
        });
        Ok(())
    }

    /// Cancels, then waits until every tracked task has ended, for `limit` at most. True when all have ended.
    pub async fn drain(self, limit: Duration) -> bool {
        self.token.cancel();
        self.tracker.close();
        let drained = tokio::time::timeout(limit, self.tracker.wait()).await.is_ok();
        if !drained {
            tracing::warn!(tasks = self.tracker.len(), "gave up waiting for tasks to end");
        }
        drained
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

struct Received {
    name: &'static str,
    /// 128 + signal number, as shells report it.
    exit_code: i32,
}

impl Signals {
    fn install() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> Received {
        tokio::select! {
            _ = self.interrupt.recv() => Received { name: "SIGINT", exit_code: 130 },
            _ = self.terminate.recv() => Received { name: "SIGTERM", exit_code: 143 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn drain_waits_for_tasks_that_heed_the_token() {
        let shutdown = Shutdown::new();
        let token = shutdown.token.clone();
        let task = shutdown.spawn(async move { token.cancelled().await });
        assert!(shutdown.drain(Duration::from_secs(60)).await);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn drain_gives_up_on_tasks_that_do_not() {
        let shutdown = Shutdown::new();
        shutdown.spawn(std::future::pending::<()>());
        assert!(!shutdown.drain(Duration::from_millis(1)).await);
    }
}
