//! `/readyz` of every process of a campaign, asked all the time: it is not ready only where a fault concerns it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::{Client, StatusCode};
use tokio::task::JoinHandle;

use crate::support::clustered_roles::Instance;

/// Between two looks at a process: each of them costs it a statement.
const LOOK: Duration = Duration::from_secs(1);
/// A process that has not answered within so long does not.
const PATIENCE: Duration = Duration::from_secs(10);
/// When all is as before, a connection that has rested since the fault may still be found to be broken.
const SETTLES: Duration = Duration::from_secs(5);

/// What `/readyz` answers, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// 200.
    Ready,
    /// 503.
    NotReady,
    /// None, or any other.
    Silent,
}

/// What a process may answer at worst, and until when; without an end for as long as a fault lasts.
#[derive(Clone, Copy, Debug)]
struct Allowed {
    worst: Answer,
    until: Option<Instant>,
}

struct Watched {
    name: String,
    url: String,
    allowed: Mutex<Allowed>,
}

impl Watched {
    /// What it may answer at worst now.
    fn worst(&self) -> Answer {
        let allowed = *self.allowed.lock().unwrap();
        let is_over = allowed.until.is_some_and(|until| Instant::now() >= until);
        if is_over { Answer::Ready } else { allowed.worst }
    }
}

/// Asks until it is stopped.
pub struct Readiness {
    processes: Vec<Arc<Watched>>,
    wrong: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Readiness {
    /// All of these are ready now.
    pub fn watch(instances: &[Instance]) -> Self {
        let (wrong, stop) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicBool>::default());
        let (mut processes, mut tasks) = (Vec::new(), Vec::new());
        for instance in instances {
            let process = Arc::new(Watched {
                name: instance.name.clone(),
                url: format!("{}/readyz", instance.url()),
                allowed: Mutex::new(Allowed { worst: Answer::Ready, until: Some(Instant::now()) }),
            });
            tasks.push(tokio::spawn(ask_on(Arc::clone(&process), Arc::clone(&wrong), Arc::clone(&stop))));
            processes.push(process);
        }
        Self { processes, wrong, stop, tasks }
    }

    /// A fault begins, and each process may answer so at worst. What the fault before has left behind is no fault of
    /// this one.
    pub fn fault_begins(&self, worst_answers: &[Answer]) {
        for (process, worst) in self.processes.iter().zip(worst_answers) {
            let worst_now = process.worst();
            if *worst > Answer::Ready {
                *process.allowed.lock().unwrap() = Allowed { worst: worst_now.max(*worst), until: None };
            }
        }
    }

    /// All is as before.
    pub fn fault_is_over(&self) {
        for process in &self.processes {
            let mut allowed = process.allowed.lock().unwrap();
            allowed.until = allowed.until.or_else(|| Some(Instant::now() + SETTLES));
        }
    }

    /// The answers since the last call that were worse than any that may be.
    pub fn take_wrong(&self) -> Vec<String> {
        std::mem::take(&mut *self.wrong.lock().unwrap())
    }

    /// As [`Readiness::take_wrong`], at the end.
    pub async fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
        std::mem::take(&mut *self.wrong.lock().unwrap())
    }
}

async fn ask_on(process: Arc<Watched>, wrong: Arc<Mutex<Vec<String>>>, stop: Arc<AtomicBool>) {
    // Each question has a connection of its own, as those of an orchestrator.
    let client = Client::builder().timeout(PATIENCE).pool_max_idle_per_host(0).no_proxy().build().unwrap();
    while !stop.load(Ordering::SeqCst) {
        let worst_before = process.worst();
        let (answer, text) = ask(&client, &process.url).await;
        // A fault may have begun, or ended, since it was asked.
        if answer > worst_before.max(process.worst()) {
            wrong.lock().unwrap().push(format!("{}: {text}", process.name));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn ask(client: &Client, url: &str) -> (Answer, String) {
    let reply = match client.get(url).send().await {
        Ok(reply) => reply,
        Err(error) => return (Answer::Silent, format!("{error:?}")),
    };
    let status = reply.status();
    let answer = match status {
        StatusCode::OK => Answer::Ready,
        StatusCode::SERVICE_UNAVAILABLE => Answer::NotReady,
        _ => Answer::Silent,
    };
    (answer, format!("{status} {}", reply.text().await.unwrap_or_default()))
}
