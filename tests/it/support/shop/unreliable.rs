//! Handlers and transactions that fail as they are told.

use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ruyi::db::{DbError, Tx};
use ruyi::domain::event::Group;
use ruyi::fault::Faults;
use ruyi::mq::{Event, Handler, Outcome};

/// What goes wrong, by chance. A cheap clone; clones share it.
#[derive(Clone)]
pub struct Trouble(Arc<Mutex<Inner>>);

struct Inner {
    chance: StdRng,
    /// Of a transaction to fail before, or after, its commit, and of other points.
    transactions: f64,
    /// Of a handler to fail for an event.
    handlers: f64,
}

impl Trouble {
    pub fn new(seed: u64, transactions: f64, handlers: f64) -> Self {
        Self(Arc::new(Mutex::new(Inner { chance: StdRng::seed_from_u64(seed), transactions, handlers })))
    }

    /// From now on everything works.
    pub fn heal(&self) {
        let mut inner = self.0.lock().unwrap();
        (inner.transactions, inner.handlers) = (0.0, 0.0);
    }

    /// Failures of transactions.
    pub fn faults(&self) -> Faults {
        let trouble = self.clone();
        Faults::plan(Box::new(move |_, _| {
            let mut inner = trouble.0.lock().unwrap();
            let share = inner.transactions;
            inner.chance.random_bool(share)
        }))
    }

    fn strikes(&self) -> bool {
        let mut inner = self.0.lock().unwrap();
        let share = inner.handlers;
        inner.chance.random_bool(share)
    }

    pub fn around(&self, handler: Arc<dyn Handler>) -> Arc<dyn Handler> {
        let trouble = self.clone();
        Unreliable::around(handler, move |_| match (trouble.strikes(), trouble.strikes()) {
            (true, true) => Some(Fault::Retry),
            (true, false) => Some(Fault::Error),
            _ => None,
        })
    }
}

/// How a handler fails for an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// With an error: the whole batch is rolled back.
    Error,
    /// It wants the event to be tried again, and has handled the others.
    Retry,
}

type Plan = dyn Fn(&Event) -> Option<Fault> + Send + Sync;

/// A handler that fails for the events that a plan names.
pub struct Unreliable {
    inner: Arc<dyn Handler>,
    plan: Box<Plan>,
}

impl Unreliable {
    pub fn around(
        inner: Arc<dyn Handler>,
        plan: impl Fn(&Event) -> Option<Fault> + Send + Sync + 'static,
    ) -> Arc<dyn Handler> {
        Arc::new(Self { inner, plan: Box::new(plan) })
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
                .filter(|(_, fault)| fault.is_none())
                .map(|(event, _)| event.clone())
                .collect();
            let handled = if rest.is_empty() { vec![] } else { self.inner.handle(tx, &rest).await? };
            let mut handled = handled.into_iter();
            if faults.contains(&Some(Fault::Error)) {
                return Err(DbError::Stopped("out of order today".to_owned()));
            }
            let outcome = |fault: &Option<Fault>| match fault {
                Some(_) => Outcome::Retry("not today".to_owned()),
                None => handled.next().unwrap(),
            };
            Ok(faults.iter().map(outcome).collect())
        })
    }
}
