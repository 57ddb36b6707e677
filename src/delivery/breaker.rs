//! Endpoints that fail again and again are left alone for a while, then tried with one call.

use std::collections::HashMap;

/// Endpoints known to fail; one that answers is forgotten, so this bounds only those that do not.
const MOST: usize = 100_000;

/// When an endpoint is left alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Failures in a row; 0: never.
    pub failures: u32,
    /// For how long, ms.
    pub open_ms: i64,
    /// A call that tries the endpoint ends within this time, ms.
    pub probe_ms: i64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// So many failures in a row.
    Closed(u32),
    /// Left alone until then, epoch ms.
    Open(i64),
    /// One call tries it.
    Probing,
}

/// What may be done with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admit {
    /// It may be made.
    Now,
    /// It waits until then, epoch ms.
    Wait(i64),
}

/// The breakers of all endpoints, by their numbers. This process itself has none.
#[derive(Debug)]
pub(super) struct Breakers {
    limits: Limits,
    endpoints: HashMap<i64, State>,
}

impl Breakers {
    pub fn new(limits: Limits) -> Self {
        Self { limits, endpoints: HashMap::new() }
    }

    /// Whether a call to `endpoint` could be made now.
    pub fn look(&self, endpoint: i64, now_ms: i64) -> Admit {
        match self.endpoints.get(&endpoint) {
            Some(State::Open(until)) if now_ms < *until => Admit::Wait(*until),
            Some(State::Probing) => Admit::Wait(now_ms.saturating_add(self.limits.probe_ms)),
            _ => Admit::Now,
        }
    }

    /// As [`Breakers::look`], for a call that is then made: the first one after a pause is the only one.
    pub fn admit(&mut self, endpoint: i64, now_ms: i64) -> Admit {
        let admit = self.look(endpoint, now_ms);
        if admit == Admit::Now
            && let Some(state @ State::Open(_)) = self.endpoints.get_mut(&endpoint)
        {
            *state = State::Probing;
        }
        admit
    }

    /// The endpoint has answered: true when it had been left alone.
    pub fn answered(&mut self, endpoint: i64) -> bool {
        matches!(self.endpoints.remove(&endpoint), Some(State::Open(_) | State::Probing))
    }

    /// A call has failed: true when the endpoint is left alone from now on.
    pub fn failed(&mut self, endpoint: i64, now_ms: i64) -> bool {
        if self.limits.failures == 0 {
            return false;
        }
        let known = self.endpoints.get(&endpoint).copied();
        if known.is_none() && self.endpoints.len() >= MOST {
            return false;
        }
        let (next, opened) = match known.unwrap_or(State::Closed(0)) {
            State::Closed(failures) if failures + 1 < self.limits.failures => (State::Closed(failures + 1), false),
            State::Closed(_) => (self.open(now_ms), true),
            State::Probing => (self.open(now_ms), false),
            // A call that had begun before.
            open @ State::Open(_) => (open, false),
        };
        self.endpoints.insert(endpoint, next);
        opened
    }

    /// A call that had been admitted was not made, or it is not known how it ended: the next one may try.
    pub fn forgot(&mut self, endpoint: i64) {
        if let Some(state @ State::Probing) = self.endpoints.get_mut(&endpoint) {
            *state = State::Open(0);
        }
    }

    /// The endpoints that get no calls now.
    pub fn shut(&self, now_ms: i64) -> impl Iterator<Item = i64> {
        self.endpoints.keys().copied().filter(move |endpoint| self.look(*endpoint, now_ms) != Admit::Now)
    }

    fn open(&self, now_ms: i64) -> State {
        State::Open(now_ms.saturating_add(self.limits.open_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_after_failures_in_a_row_and_lets_one_call_try() {
        let mut breakers = Breakers::new(Limits { failures: 3, open_ms: 100, probe_ms: 10 });
        let target = 1;
        assert!(!breakers.failed(target, 0) && !breakers.failed(target, 0));
        assert!(!breakers.answered(target), "an answer in between begins the count anew");
        assert!(!breakers.failed(target, 0) && !breakers.failed(target, 0) && breakers.failed(target, 0));
        assert_eq!(breakers.admit(target, 99), Admit::Wait(100));
        assert_eq!((breakers.shut(99).count(), breakers.shut(100).count()), (1, 0));
        assert_eq!(breakers.admit(2, 99), Admit::Now);
        assert!(!breakers.failed(target, 99), "one that had begun before");
        assert_eq!(breakers.look(target, 100), Admit::Now);
        assert_eq!(breakers.admit(target, 100), Admit::Now);
        assert_eq!(breakers.admit(target, 100), Admit::Wait(110));
        assert!(!breakers.failed(target, 105), "told once");
        assert_eq!(breakers.admit(target, 204), Admit::Wait(205));
        assert_eq!(breakers.admit(target, 205), Admit::Now);
        breakers.forgot(target);
        assert_eq!(breakers.admit(target, 205), Admit::Now);
        assert!(breakers.answered(target));
        assert_eq!((breakers.admit(target, 205), breakers.admit(target, 205)), (Admit::Now, Admit::Now));
    }

    #[test]
    fn without_a_limit_it_never_opens() {
        let mut none = Breakers::new(Limits { failures: 0, open_ms: 100, probe_ms: 10 });
        assert!((0..100).all(|_| !none.failed(1, 0)));
    }
}
