//! One orderly shutdown: stop accepting, finish what is in hand, commit, close. A second signal ends the process at once.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    tracker: TaskTracker,
    parts: Arc<Parts>,
}

/// The end was not in order. What was left behind is done at the next start.
#[derive(Debug, thiserror::Error)]
pub enum Disorder {
    /// These parts panicked, which is why the process stopped, or while it did.
    #[error("panicked: {}", .0.join(", "))]
    Panicked(Vec<&'static str>),
    /// These parts still ran when the time for stopping was over.
    #[error("still running when its time was over: {}", .0.join(", "))]
    Unfinished(Vec<&'static str>),
}

/// What is known of the parts of a process, by name.
#[derive(Debug, Default)]
struct Parts {
    running: Mutex<BTreeMap<&'static str, usize>>,
    panicked: Mutex<Vec<&'static str>>,
}

/// A panic elsewhere leaves both lists valid.
fn lock<T>(list: &Mutex<T>) -> MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A part that runs, until this is dropped.
struct Running {
    name: &'static str,
    parts: Arc<Parts>,
}

impl Running {
    fn begin(name: &'static str, parts: &Arc<Parts>) -> Self {
        *lock(&parts.running).entry(name).or_default() += 1;
        Self { name, parts: Arc::clone(parts) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = lock(&self.parts.running);
        match running.get_mut(self.name) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                running.remove(self.name);
            }
        }
    }
}

impl Shutdown {
    /// Nothing to stop yet, and no signal handlers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task that [`Shutdown::drain`] waits for, and that the process cannot do without: if it panics, the
    /// process stops, and says so by its exit code, instead of living on with a part of it dead.
    pub fn run<F>(&self, name: &'static str, task: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (token, parts) = (self.token.clone(), Arc::clone(&self.parts));
        let running = Running::begin(name, &parts);
        self.tracker.spawn(async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                tracing::error!(task = name, "a part of the process panicked: stopping");
                lock(&parts.panicked).push(name);
                token.cancel();
            }
            drop(running);
        })
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

    /// Cancels, then waits until every task has ended, for `limit` at most.
    ///
    /// # Errors
    /// [`Disorder`]: a task still runs then, or one has panicked.
    pub async fn drain(self, limit: Duration) -> Result<(), Disorder> {
        self.token.cancel();
        self.tracker.close();
        let drained = tokio::time::timeout(limit, self.tracker.wait()).await;

        let unfinished: Vec<_> = lock(&self.parts.running).keys().copied().collect();
        let panicked = lock(&self.parts.panicked).clone();
        let disorder = match drained {
            Err(_) if !unfinished.is_empty() => Disorder::Unfinished(unfinished),
            _ if !panicked.is_empty() => Disorder::Panicked(panicked),
            _ => return Ok(()),
        };
        tracing::warn!(%disorder, "what was left behind is done at the next start");
        Err(disorder)
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
        let task = shutdown.run("heeds", async move { token.cancelled().await });
        shutdown.drain(Duration::from_secs(60)).await.unwrap();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn drain_names_the_tasks_that_do_not() {
        let shutdown = Shutdown::new();
        shutdown.run("deaf", std::future::pending());
        shutdown.run("deaf", std::future::pending());
        shutdown.run("mute", std::future::pending());
        shutdown.run("ends", std::future::ready(()));
        let disorder = shutdown.drain(Duration::from_millis(200)).await.unwrap_err();
        assert_eq!(disorder.to_string(), "still running when its time was over: deaf, mute");
    }

    #[tokio::test]
    async fn a_panic_stops_the_others_and_is_named() {
        let shutdown = Shutdown::new();
        shutdown.run("dies", async { panic!("on purpose") });
        let token = shutdown.token.clone();
        shutdown.run("heeds", async move { token.cancelled().await });
        shutdown.token.cancelled().await;
        let disorder = shutdown.drain(Duration::from_secs(60)).await.unwrap_err();
        assert_eq!(disorder.to_string(), "panicked: dies");
    }
}
