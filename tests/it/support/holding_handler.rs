//! A handler of the stock group that holds what a test tells it to hold.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use ruyi::db::{DbError, Tx};
use ruyi::domain::event::Group;
use ruyi::mq::{Event, Handler, Outcome};
use tokio::sync::Semaphore;

/// Counts, and holds what has the key `slow`, or none, until it is let go.
pub struct HoldingHandler {
    /// Event ids of each key, in the order in which they were handled.
    seen: Mutex<HashMap<String, Vec<String>>>,
    pub held: AtomicU64,
    pub gate: Semaphore,
}

impl HoldingHandler {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { seen: Mutex::default(), held: AtomicU64::new(0), gate: Semaphore::new(0) })
    }

    pub fn seen(&self) -> HashMap<String, Vec<String>> {
        self.seen.lock().unwrap().clone()
    }
}

impl Handler for HoldingHandler {
    fn group(&self) -> Group {
        Group::Stock
    }

    fn handle<'a>(&'a self, _: &'a mut Tx, events: &'a [Event]) -> BoxFuture<'a, Result<Vec<Outcome>, DbError>> {
        Box::pin(async move {
            for event in events {
                if matches!(event.key.as_str(), "" | "slow") {
                    self.held.fetch_add(1, Ordering::SeqCst);
                    // Never given out, only closed.
                    let _ = self.gate.acquire().await;
                }
                self.seen.lock().unwrap().entry(event.key.clone()).or_default().push(event.id.clone());
            }
            Ok(vec![Outcome::Done; events.len()])
        })
    }
}
