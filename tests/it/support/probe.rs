//! A customer who orders all the time, and notes every answer that is a refusal.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::clustered_roles::DEADLINE;

/// Between two orders.
const PAUSE: Duration = Duration::from_millis(200);

/// Orders until it is stopped.
pub struct Probe {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    database_away: AtomicBool,
    accepted: AtomicU64,
    while_away: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl Probe {
    /// `name` makes its idempotency keys its own.
    pub fn start(name: &str, urls: Vec<String>) -> Self {
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(order_on(Arc::clone(&shared), name.to_owned(), urls));
        Self { shared, task }
    }

    /// From now on a refusal is right, if it is 503 and says when to come again.
    pub fn database_goes(&self) {
        self.shared.database_away.store(true, Ordering::SeqCst);
    }

    /// From now on it is not: every process has said that it is ready again.
    pub fn database_is_back(&self) {
        self.shared.database_away.store(false, Ordering::SeqCst);
    }

    /// Waits until so many orders were refused because the database is away.
    pub async fn until_refused(&self, count: u64) {
        let started = Instant::now();
        while self.shared.while_away.load(Ordering::SeqCst) < count {
            assert!(started.elapsed() < DEADLINE, "nobody says that the database is away");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// How many orders were accepted, and how many refused while the database was away; fails when one was refused
    /// otherwise.
    pub async fn stop(self) -> (u64, u64) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
        let wrong = self.shared.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{} orders were refused: {wrong:#?}", wrong.len());
        (self.shared.accepted.load(Ordering::SeqCst), self.shared.while_away.load(Ordering::SeqCst))
    }
}

/// An order that nobody pays, so that it is canceled soon.
pub fn unpaid_order() -> Value {
    json!({"userId": "10001", "items": [{"sku": "TEA-LONGJING-100", "quantity": 1}], "payWithinSeconds": 1})
}

async fn order_on(shared: Arc<Shared>, name: String, urls: Vec<String>) {
    // As a load balancer: a process that does not take the connection is not asked; an answer is an answer.
    let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).no_proxy().build().unwrap();
    for number in 0_usize.. {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let key = format!("probe-{name}-{number}");
        let body = unpaid_order();
        let mut answered = false;
        for turn in 0..urls.len() {
            let url = format!("{}/orders", urls[(number + turn) % urls.len()]);
            let away = shared.database_away.load(Ordering::SeqCst);
            let sent = client.post(&url).header("idempotency-key", &key).json(&body).send().await;
            // It was killed before it answered.
            let Ok(reply) = sent else { continue };
            answered = true;
            let status = reply.status().as_u16();
            let later = reply.headers().contains_key("retry-after");
            if reply.status().is_success() {
                shared.accepted.fetch_add(1, Ordering::SeqCst);
            } else if (away || shared.database_away.load(Ordering::SeqCst)) && status == 503 && later {
                shared.while_away.fetch_add(1, Ordering::SeqCst);
            } else {
                let text = reply.text().await.unwrap_or_default();
                shared.wrong.lock().unwrap().push(format!("{key} at {url}: {status} {text}"));
            }
            break;
        }
        if !answered {
            shared.wrong.lock().unwrap().push(format!("{key}: no process of the role answered"));
        }
        tokio::time::sleep(PAUSE).await;
    }
}
