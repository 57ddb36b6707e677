//! Targets that fail again and again are left alone for a while, then tried with one call.

use std::collections::HashMap;
use std::sync::Arc;

use super::target::OWN;

/// Targets known to fail; a target that answers is forgotten, so this bounds only those that do not.
const MOST: usize = 100_000;

/// When a target is left alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Failures in a row; 0: never.
    pub failures: u32,
    /// For how long, ms.
    pub open_ms: i64,
    /// While a call tries the target, the others wait this long, ms.
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

/// The breakers of all targets, by name. This process itself has none.
#[derive(Debug)]
pub(super) struct Breakers {
    limits: Limits,
    targets: HashMap<Arc<str>, State>,
}

impl Breakers {
    pub fn new(limits: Limits) -> Self {
        Self { limits, targets: HashMap::new() }
    }

    /// Whether a call to `target` could be made now.
    pub fn look(&self, target: &str, now_ms: i64) -> Admit {
        match self.targets.get(target) {
            Some(State::Open(until)) if now_ms < *until => Admit::Wait(*until),
            Some(State::Probing) => Admit::Wait(now_ms.saturating_add(self.limits.probe_ms)),
            _ => Admit::Now,
        }
    }

    /// As [`Breakers::look`], for a call that is then made: the first one after a pause is the only one.
    pub fn admit(&mut self, target: &str, now_ms: i64) -> Admit {
        let admit = self.look(target, now_ms);
        if admit == Admit::Now
            && let Some(state @ State::Open(_)) = self.targets.get_mut(target)
        {
            *state = State::Probing;
        }
        admit
    }

    /// The target has answered: true when it had been left alone.
    pub fn answered(&mut self, target: &str) -> bool {
        matches!(self.targets.remove(target), Some(State::Open(_) | State::Probing))
    }

    /// A call has failed: true when the target is left alone from now on.
    pub fn failed(&mut self, target: &Arc<str>, now_ms: i64) -> bool {
        if self.limits.failures == 0 || **target == *OWN {
            return false;
        }
        let known = self.targets.get(target).copied();
        if known.is_none() && self.targets.len() >= MOST {
            return false;
        }
        let (next, opened) = match known.unwrap_or(State::Closed(0)) {
            State::Closed(failures) if failures + 1 < self.limits.failures => (State::Closed(failures + 1), false),
            State::Closed(_) => (self.open(now_ms), true),
            State::Probing => (self.open(now_ms), false),
            // A call that had begun before.
            open @ State::Open(_) => (open, false),
        };
        self.targets.insert(Arc::clone(target), next);
        opened
    }

    /// A call that had been admitted was not made, or it is not known how it ended: the next one may try.
    pub fn forgot(&mut self, target: &str) {
        if let Some(state @ State::Probing) = self.targets.get_mut(target) {
            *state = State::Open(0);
        }
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
        let target: Arc<str> = "a:80".into();
        assert!(!breakers.failed(&target, 0) && !breakers.failed(&target, 0));
        assert!(!breakers.answered(&target), "an answer in between begins the count anew");
        assert!(!breakers.failed(&target, 0) && !breakers.failed(&target, 0) && breakers.failed(&target, 0));
        assert_eq!(breakers.admit(&target, 99), Admit::Wait(100));
        assert_eq!(breakers.admit("b:80", 99), Admit::Now);
        assert!(!breakers.failed(&target, 99), "one that had begun before");
        assert_eq!(breakers.look(&target, 100), Admit::Now);
        assert_eq!(breakers.admit(&target, 100), Admit::Now);
        assert_eq!(breakers.admit(&target, 100), Admit::Wait(110));
        assert!(!breakers.failed(&target, 105), "told once");
        assert_eq!(breakers.admit(&target, 204), Admit::Wait(205));
        assert_eq!(breakers.admit(&target, 205), Admit::Now);
        breakers.forgot(&target);
        assert_eq!(breakers.admit(&target, 205), Admit::Now);
        assert!(breakers.answered(&target));
        assert_eq!((breakers.admit(&target, 205), breakers.admit(&target, 205)), (Admit::Now, Admit::Now));
    }

    #[test]
    fn this_process_and_no_limit_never_open() {
        let mut breakers = Breakers::new(Limits { failures: 1, open_ms: 100, probe_ms: 10 });
        assert!(!breakers.failed(&OWN.into(), 0));
        assert_eq!(breakers.admit(OWN, 0), Admit::Now);
        let mut none = Breakers::new(Limits { failures: 0, open_ms: 100, probe_ms: 10 });
        assert!((0..100).all(|_| !none.failed(&"a:80".into(), 0)));
    }
}
