//! Whether the parts of a process go forward: its writers, lanes and walks. A part that has had work for longer than
//! [`PATIENCE`] and has finished none of it stands still, whatever keeps it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

/// How long a piece of work may take. Every wait inside one is bounded by less: a part that takes longer has failed
/// again and again, or waits for something that has no bound.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// After so long nothing but a new process ends a piece of work that has no end: what bounds its waits has failed.
const HOPELESS: Duration = Duration::from_secs(300);

/// The parts of a process that work on one database. A cheap clone.
#[derive(Clone, Debug, Default)]
pub struct Watchdog(Arc<Mutex<Vec<Weak<Part>>>>);

/// One of them, until it is dropped; what it does at the same time is watched one by one.
#[derive(Debug)]
pub struct Part {
    name: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When each piece of work that is under way was begun, in this order.
    busy: BTreeMap<u64, Instant>,
    begun: u64,
    /// Since when tries have failed, and why the last one did.
    failing: Option<(Instant, String)>,
}

/// A part that stands still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its name.
    pub part: String,
    /// For how long.
    pub since: Duration,
    /// Why the last try failed; none where it has not ended.
    pub wrong: Option<String>,
}

impl Standing {
    /// What it has begun will not end. What fails and is tried again goes on by itself.
    #[must_use]
    pub fn needs_a_restart(&self) -> bool {
        self.wrong.is_none() && self.since > HOPELESS
    }
}

impl Display for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let why = self.wrong.as_deref().unwrap_or("what it has begun does not end");
        write!(f, "{} has not gone forward for {} s: {why}", self.part, self.since.as_secs())
    }
}

impl Watchdog {
    /// Watches another part. Several may have one name: lanes of a group.
    #[must_use]
    pub fn part(&self, name: impl Into<String>) -> Arc<Part> {
        let part = Arc::new(Part { name: name.into(), state: Mutex::default() });
        let mut parts = self.parts();
        parts.retain(|part| part.strong_count() > 0);
        parts.push(Arc::downgrade(&part));
        part
    }

    /// What has stood still for longer than `patience`; [`PATIENCE`], unless in tests.
    #[must_use]
    pub fn standing(&self, patience: Duration) -> Vec<Standing> {
        let parts: Vec<Arc<Part>> = self.parts().iter().filter_map(Weak::upgrade).collect();
        parts.iter().filter_map(|part| part.standing(patience)).collect()
    }

    /// A panic elsewhere leaves a valid list.
    fn parts(&self) -> MutexGuard<'_, Vec<Weak<Part>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    /// Does a piece of work that somebody may have given up when it fails.
    pub async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        let busy = self.begin();
        let done = work.await;
        drop(busy);
        done
    }

    /// Does a piece of work that is tried again until it succeeds.
    ///
    /// # Errors
    /// Those of `work`.
    pub async fn step<T, E: Display>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let begun = Instant::now();
        let done = self.during(work).await;
        self.tried(begun, &done);
        done
    }

    /// A piece of work that was begun at `begun` has ended, and is tried again where it failed.
    pub fn tried<T, E: Display>(&self, begun: Instant, done: &Result<T, E>) {
        let mut state = self.state();
        state.failing = match done {
            Ok(_) => None,
            Err(error) => {
                let since = state.failing.take().map_or(begun, |(since, _)| since);
                Some((since, error.to_string()))
            }
        };
    }

    fn begin(&self) -> Busy<'_> {
        let mut state = self.state();
        state.begun += 1;
        let number = state.begun;
        state.busy.insert(number, Instant::now());
        Busy { part: self, number }
    }

    fn standing(&self, patience: Duration) -> Option<Standing> {
        let state = self.state();
        let failing = state.failing.as_ref().map(|(since, wrong)| (since.elapsed(), Some(wrong.clone())));
        let hanging = state.busy.values().next().map(|since| (since.elapsed(), None));
        drop(state);
        let (since, wrong) = failing.into_iter().chain(hanging).find(|(since, _)| *since > patience)?;
        Some(Standing { part: self.name.clone(), since, wrong })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A piece of work that is under way; dropped half-way, nobody waits for it.
struct Busy<'p> {
    part: &'p Part,
    number: u64,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.part.state().busy.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    fn standing(watchdog: &Watchdog) -> Vec<(String, Option<String>)> {
        watchdog.standing(Duration::ZERO).into_iter().map(|found| (found.part, found.wrong)).collect()
    }

    #[test]
    fn only_work_without_an_end_needs_a_restart() {
        let of =
            |since, wrong: Option<&str>| Standing { part: "writer".to_owned(), since, wrong: wrong.map(str::to_owned) };
        let longer = HOPELESS + Duration::from_secs(1);
        assert!(of(longer, None).needs_a_restart());
        assert!(!of(PATIENCE, None).needs_a_restart());
        assert!(!of(longer, Some("the table is gone")).needs_a_restart());
    }

    #[tokio::test]
    async fn what_does_not_end_and_what_fails_again_and_again_stands() {
        let watchdog = Watchdog::default();
        let (hangs, fails, rests) = (watchdog.part("hangs"), watchdog.part("fails"), watchdog.part("rests"));
        let mut hanging = Box::pin(hangs.during(pending::<()>()));
        assert!(futures_util::poll!(&mut hanging).is_pending());
        for wrong in ["one", "another"] {
            assert_eq!(fails.step(ready(Err::<(), _>(wrong))).await, Err(wrong));
            assert_eq!(rests.during(ready(Err::<(), _>(wrong))).await, Err(wrong));
        }
        let wanted = [("hangs".to_owned(), None), ("fails".to_owned(), Some("another".to_owned()))];
        assert_eq!(standing(&watchdog), wanted);
        assert_eq!(watchdog.standing(PATIENCE), [], "not for so long");

        let outage = watchdog.standing(Duration::ZERO).remove(1);
        assert!(!Standing { since: HOPELESS * 2, ..outage }.needs_a_restart(), "it goes on by itself");

        assert_eq!(fails.step(ready(Ok::<_, &str>(1))).await, Ok(1));
        drop(hanging);
        assert_eq!(standing(&watchdog), []);
    }

    #[tokio::test]
    async fn a_lane_that_hangs_is_not_hidden_by_the_others_of_its_name() {
        let watchdog = Watchdog::default();
        let lanes = watchdog.part("lanes");
        let mut hanging = Box::pin(lanes.during(pending::<()>()));
        assert!(futures_util::poll!(&mut hanging).is_pending());
        lanes.during(ready(())).await;
        assert_eq!(standing(&watchdog), [("lanes".to_owned(), None)]);
        drop(hanging);
        drop(lanes);
        assert_eq!(standing(&watchdog), []);
    }
}
