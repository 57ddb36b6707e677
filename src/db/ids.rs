//! Ids of a process: they only grow, and no other process gives out the same ones.
//!
//! An id carries its millisecond and the node number of its process. A number is leased up to a moment, and an id is
//! only given out when its own millisecond lies before that moment; whoever leases the number next gives out ids from
//! that moment on. So two processes never share an id, whatever their clocks say and however long one of them sleeps.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::clock::Clock;
use crate::domain::id::{NODES, first_id_of, millisecond_of, next_id};

/// Gives out ids that only grow.
#[derive(Debug)]
pub struct Ids {
    state: Mutex<State>,
    refused: Notify,
    clock: Clock,
}

#[derive(Clone, Copy, Debug)]
struct State {
    last: i64,
    node: i64,
    /// Ids lie before this, epoch ms.
    until_ms: i64,
}

impl Ids {
    /// With the number that nobody leases, until one is leased: for tests, and for tools that end soon.
    #[must_use]
    pub(super) fn new(clock: Clock) -> Self {
        let state = State { last: 0, node: NODES - 1, until_ms: i64::MAX };
        Self { state: Mutex::new(state), refused: Notify::new(), clock }
    }

    /// The next id, whether the lease holds or not: for tests.
    #[must_use]
    pub fn next(&self) -> i64 {
        self.next_leased().unwrap_or_else(|id| id)
    }

    /// The next id; as an error when the lease has run out: that one must not be written.
    pub(super) fn next_leased(&self) -> Result<i64, i64> {
        let now_ms = self.clock.now_ms();
        let mut state = self.lock();
        let id = next_id(state.last, now_ms, state.node);
        if millisecond_of(id) >= state.until_ms {
            drop(state);
            self.refused.notify_one();
            return Err(id);
        }
        state.last = id;
        Ok(id)
    }

    /// Node number and the end of its lease, epoch ms.
    #[must_use]
    pub fn lease(&self) -> (i64, i64) {
        let state = self.lock();
        (state.node, state.until_ms)
    }

    /// Rings when an id was asked for after the end of the lease.
    pub async fn refused(&self) {
        self.refused.notified().await;
    }

    /// `node` is ours from `from_ms` until before `until_ms`.
    pub(super) fn set(&self, node: i64, from_ms: i64, until_ms: i64) {
        let mut state = self.lock();
        // Behind what was given out with another number, so that they still grow.
        let from_ms = from_ms.max(millisecond_of(state.last) + 1);
        *state = State { last: first_id_of(from_ms, node) - 1, node, until_ms };
    }

    /// The lease of the number holds longer.
    pub(super) fn extend(&self, until_ms: i64) {
        let mut state = self.lock();
        state.until_ms = state.until_ms.max(until_ms);
    }

    /// No more ids; the millisecond after the last one.
    pub(super) fn end(&self) -> i64 {
        let mut state = self.lock();
        state.until_ms = 0;
        millisecond_of(state.last) + 1
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
