//! Claimed calls that wait for a free place: a queue per target, so that one that hangs holds up nobody else.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::Id;
use tokio::time::Instant;

use super::target::OWN;
use crate::db::delivery::Delivery;

/// A target with so many calls waiting gets no more until some of them are through.
const FULL: usize = 64;

/// So many calls wait at most, whatever their targets.
const MOST_WAITING: usize = 4096;

/// A full target whose next call has waited this long is slow: the others do not wait for it.
const SLOW_AFTER: Duration = Duration::from_secs(1);

/// A claimed call.
#[derive(Debug)]
pub(super) struct Job {
    pub call: Delivery,
    /// Until then nobody else makes this call, epoch ms.
    pub leased_until: i64,
    queued: Instant,
}

impl Job {
    pub fn new(call: Delivery, leased_until: i64) -> Self {
        Self { call, leased_until, queued: Instant::now() }
    }
}

#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Job>,
    running: usize,
}

impl Lane {
    fn is_full(&self) -> bool {
        self.waiting.len() >= FULL
    }

    fn is_slow(&self) -> bool {
        self.is_full() && self.waiting.front().is_some_and(|job| job.queued.elapsed() > SLOW_AFTER)
    }
}

/// The queues.
#[derive(Debug)]
pub(super) struct Lanes {
    lanes: HashMap<Arc<str>, Lane>,
    /// Targets with calls waiting, in the order of their turns.
    turns: VecDeque<Arc<str>>,
    /// Target of each call that runs.
    tasks: HashMap<Id, Arc<str>>,
    waiting: usize,
    running: usize,
    concurrency: usize,
    per_target: usize,
}

impl Lanes {
    pub fn new(concurrency: usize, per_target: usize) -> Self {
        Self {
            lanes: HashMap::new(),
            turns: VecDeque::new(),
            tasks: HashMap::new(),
            waiting: 0,
            running: 0,
            concurrency: concurrency.max(1),
            per_target: per_target.max(1),
        }
    }

    /// Half of all places are for calls to this process: it is not a stranger to be spared, but must leave room.
    fn limit(&self, target: &str) -> usize {
        if target == OWN { self.per_target.max(self.concurrency / 2) } else { self.per_target }
    }

    /// More calls may be claimed: no target is full, except for slow ones.
    pub fn has_room(&self) -> bool {
        self.waiting < MOST_WAITING && self.lanes.values().all(|lane| !lane.is_full() || lane.is_slow())
    }

    /// The targets that get no more calls now.
    pub fn slow(&self) -> Vec<Arc<str>> {
        self.lanes.iter().filter(|(_, lane)| lane.is_slow()).map(|(target, _)| Arc::clone(target)).collect()
    }

    /// Queues a call.
    pub fn push(&mut self, target: Arc<str>, job: Job) {
        let lane = self.lanes.entry(Arc::clone(&target)).or_default();
        if lane.waiting.is_empty() {
            self.turns.push_back(target);
        }
        lane.waiting.push_back(job);
        self.waiting += 1;
    }

    /// Takes the next call that has a free place; its place is taken until [`Lanes::done`].
    pub fn take(&mut self) -> Option<(Arc<str>, Job)> {
        if self.running >= self.concurrency {
            return None;
        }
        for _ in 0..self.turns.len() {
            let target = self.turns.pop_front()?;
            let limit = self.limit(&target);
            let lane = self.lanes.get_mut(&target)?;
            if lane.running >= limit {
                self.turns.push_back(target);
                continue;
            }
            let job = lane.waiting.pop_front()?;
            lane.running += 1;
            if !lane.waiting.is_empty() {
                self.turns.push_back(Arc::clone(&target));
            }
            self.waiting -= 1;
            self.running += 1;
            return Some((target, job));
        }
        None
    }

    /// The call that was taken runs as this task.
    pub fn began(&mut self, task: Id, target: Arc<str>) {
        self.tasks.insert(task, target);
    }

    /// The task has ended: its place is free; its target.
    pub fn ended(&mut self, task: Id) -> Option<Arc<str>> {
        let target = self.tasks.remove(&task)?;
        self.done(&target);
        Some(target)
    }

    /// The place of a call to `target` is free.
    pub fn done(&mut self, target: &Arc<str>) {
        self.running = self.running.saturating_sub(1);
        if let Some(lane) = self.lanes.get_mut(target) {
            lane.running = lane.running.saturating_sub(1);
            if lane.running == 0 && lane.waiting.is_empty() {
                self.lanes.remove(target);
            }
        }
    }

    /// Empties the queues: the calls that were not begun.
    pub fn clear(&mut self) -> Vec<Job> {
        self.turns.clear();
        self.waiting = 0;
        let jobs = self.lanes.values_mut().flat_map(|lane| lane.waiting.drain(..)).collect();
        self.lanes.retain(|_, lane| lane.running > 0);
        jobs
    }
}
