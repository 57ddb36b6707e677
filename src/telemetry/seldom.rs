//! Lines of the log about what may happen at any rate.

use std::sync::{Mutex, PoisonError};

/// Lets something be said once in a while, however often it happens.
#[derive(Debug)]
pub struct Seldom {
    every_ms: i64,
    /// When it was said last, epoch ms, and how often it has happened since.
    state: Mutex<(Option<i64>, u64)>,
}

impl Seldom {
    /// At most once in so many milliseconds.
    #[must_use]
    pub const fn every(every_ms: i64) -> Self {
        Self { every_ms, state: Mutex::new((None, 0)) }
    }

    /// It has happened: whether to say so now, with how often it has happened unsaid before.
    pub fn say(&self, now_ms: i64) -> Option<u64> {
        // Both parts are always valid, also after a panic elsewhere.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (said_at, unsaid) = *state;
        // A clock that was set back does not silence it.
        let is_silent = said_at.is_some_and(|at| (0..self.every_ms).contains(&(now_ms - at)));
        *state = if is_silent { (said_at, unsaid + 1) } else { (Some(now_ms), 0) };
        (!is_silent).then_some(unsaid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn said_once_with_the_number_of_the_others() {
        let seldom = Seldom::every(1_000);
        let said: Vec<_> = [5, 5, 1_004, 1_005, 1_006, 2_005, 10].map(|now_ms| seldom.say(now_ms)).into();
        assert_eq!(said, [Some(0), None, None, Some(2), None, Some(1), Some(0)]);
    }
}
