//! Handlers and transactions that fail, or are given up, as they are told.

use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ruyi::db::{DbError, Tx};
use ruyi::domain::event::Group;
use ruyi::fault::Faults;
use ruyi::mq::{Event, Handler, Outcome};
use tokio::sync::Notify;

/// What goes wrong, by chance. A cheap clone; clones share it.
#[derive(Clone)]
pub struct Trouble {
    inner: Arc<Mutex<Inner>>,
    given_up: Arc<Notify>,
}

struct Inner {
    chance: StdRng,
    /// Of a transaction to fail before, or after, its commit, and of other points.
    transactions: f64,
    /// Of a handler to fail for an event.
    handlers: f64,
}

impl Trouble {
    pub fn new(seed: u64, transactions: f64, handlers: f64) -> Self {
        let inner = Inner { chance: StdRng::seed_from_u64(seed), transactions, handlers };
        Self { inner: Arc::new(Mutex::new(inner)), given_up: Arc::default() }
    }

    /// From now on everything works.
    pub fn heal(&self) {
        let mut inner = self.inner.lock().unwrap();
        (inner.transactions, inner.handlers) = (0.0, 0.0);
    }

    /// Failures of transactions.
    pub fn faults(&self) -> Faults {
        let trouble = self.clone();
        Faults::plan(Box::new(move |_, _| {
            let mut inner = trouble.inner.lock().unwrap();
            let share = inner.transactions;
            inner.chance.random_bool(share)
        }))
    }

    fn strikes(&self) -> bool {
        let mut inner = self.inner.lock().unwrap();
        let share = inner.handlers;
        inner.chance.random_bool(share)
    }

    /// Told when whoever called a handler is to give it up.
    pub fn given_up(&self) -> Arc<Notify> {
        Arc::clone(&self.given_up)
    }

    pub fn around(&self, handler: Arc<dyn Handler>) -> Arc<dyn Handler> {
        let trouble = self.clone();
        let plan = move |_: &Event| match (trouble.strikes(), trouble.strikes(), trouble.strikes()) {
            (true, true, _) => Some(Fault::Retry),
            (true, false, _) => Some(Fault::Error),
            (false, true, true) => Some(Fault::Late),
            _ => None,
        };
        Arc::new(Unreliable { inner: handler, plan: Box::new(plan), given_up: self.given_up() })
    }
}

/// How a handler fails for an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// With an error: the whole batch is rolled back.
    Error,
    /// It wants the event to be tried again, and has handled the others.
    Retry,
    /// It is handled, but whoever called has given it up by then, and does not learn of it.
    Late,
}

type Plan = dyn Fn(&Event) -> Option<Fault> + Send + Sync;

/// A handler that fails for the events that a plan names.
pub struct Unreliable {
    inner: Arc<dyn Handler>,
    plan: Box<Plan>,
    given_up: Arc<Notify>,
}

impl Unreliable {
    pub fn around(
        inner: Arc<dyn Handler>,
        plan: impl Fn(&Event) -> Option<Fault> + Send + Sync + 'static,
    ) -> Arc<dyn Handler> {
        Arc::new(Self { inner, plan: Box::new(plan), given_up: Arc::default() })
    }
}

impl Handler for Unreliable {
    fn group(&self) -> Group {
        self.inner.group()
    }

    fn handle<'a>(&'a self, tx: &'a mut Tx, events: &'a [Event]) -> BoxFuture<'a, Result<Vec<Outcome>, DbError>> {
        Box::pin(async move {
            let faults: Vec<Option<Fault>> = events.iter().map(|event| (self.plan)(event)).collect();
            let rest: Vec<Event> = events
                .iter()
                .zip(&faults)
                .filter(|(_, fault)| matches!(fault, None | Some(Fault::Late)))
                .map(|(event, _)| event.clone())
                .collect();
            let handled = if rest.is_empty() { vec![] } else { self.inner.handle(tx, &rest).await? };
            let mut handled = handled.into_iter();
            if faults.contains(&Some(Fault::Late)) {
                self.given_up.notify_one();
                tokio::task::yield_now().await;
            }
            if faults.contains(&Some(Fault::Error)) {
                return Err(DbError::Stopped("out of order today".to_owned()));
            }
            let outcome = |fault: &Option<Fault>| match fault {
                None | Some(Fault::Late) => handled.next().unwrap(),
                Some(_) => Outcome::Retry("not today".to_owned()),
            };
            Ok(faults.iter().map(outcome).collect())
        })
    }
}
