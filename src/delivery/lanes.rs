//! Claimed calls that wait for a free place: a lane for each target, so that one that hangs holds up nobody else, and in
//! it a queue for each endpoint, so that none of those behind a target holds up its neighbours.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::Id;
use tokio::time::Instant;

use super::target::{Endpoint, OWN};
use crate::db::delivery::Delivery;

/// An endpoint with so many calls waiting gets no more until some of them are through.
const FULL: usize = 64;

/// The endpoints of a target with so many calls waiting get no more, as long as they have one waiting.
const CROWDED: usize = 1024;

/// So many calls wait at most, whatever their targets.
const MOST_WAITING: usize = 4096;

/// A full endpoint whose next call has waited this long is slow: the others do not wait for it.
const SLOW_AFTER: Duration = Duration::from_secs(1);

/// A claimed call.
#[derive(Debug)]
pub(super) struct Job {
    pub call: Delivery,
    pub endpoint: Endpoint,
    /// Until then nobody else makes this call, epoch ms.
    pub leased_until: i64,
    queued: Instant,
}

impl Job {
    pub fn new(call: Delivery, endpoint: Endpoint, leased_until: i64) -> Self {
        Self { call, endpoint, leased_until, queued: Instant::now() }
    }
}

/// The calls of one endpoint.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Job>,
    running: usize,
}

impl Queue {
    fn is_full(&self) -> bool {
        self.waiting.len() >= FULL
    }

    fn is_late(&self) -> bool {
        self.waiting.front().is_some_and(|job| job.queued.elapsed() > SLOW_AFTER)
    }
}

/// The calls of one target.
#[derive(Debug, Default)]
struct Lane {
    queues: HashMap<i64, Queue>,
    /// Endpoints with calls waiting, in the order of their turns.
    turns: VecDeque<i64>,
    waiting: usize,
    running: usize,
}

impl Lane {
    /// The next call: of the endpoint that has the fewest under way, and among these of the one whose turn it is.
    fn next(&mut self) -> Option<Job> {
        let running = |endpoint: &i64| self.queues.get(endpoint).map_or(0, |queue| queue.running);
        let (place, _) = self.turns.iter().enumerate().min_by_key(|(place, endpoint)| (running(endpoint), *place))?;
        let endpoint = self.turns.remove(place)?;
        let queue = self.queues.get_mut(&endpoint)?;
        let job = queue.waiting.pop_front()?;
        queue.running += 1;
        if !queue.waiting.is_empty() {
            self.turns.push_back(endpoint);
        }
        self.waiting -= 1;
        self.running += 1;
        Some(job)
    }

    fn is_crowded(&self) -> bool {
        self.waiting >= CROWDED
    }
}

/// The queues.
#[derive(Debug)]
pub(super) struct Lanes {
    lanes: HashMap<Arc<str>, Lane>,
    /// Targets with calls waiting, in the order of their turns.
    turns: VecDeque<Arc<str>>,
    /// Endpoint of each call that runs.
    tasks: HashMap<Id, Endpoint>,
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

    /// More calls may be claimed: no endpoint is full, except for slow ones.
    pub fn has_room(&self) -> bool {
        let mut queues = self.lanes.values().flat_map(|lane| lane.queues.values());
        self.waiting < MOST_WAITING && queues.all(|queue| !queue.is_full() || queue.is_late())
    }

    /// The endpoints that get no more calls now.
    pub fn slow(&self) -> impl Iterator<Item = i64> {
        self.lanes.values().flat_map(|lane| {
            let is_crowded = lane.is_crowded();
            let slow = lane.queues.iter().filter(move |(_, queue)| (queue.is_full() || is_crowded) && queue.is_late());
            slow.map(|(endpoint, _)| *endpoint)
        })
    }

    /// Queues a call.
    pub fn push(&mut self, job: Job) {
        let lane = self.lanes.entry(Arc::clone(&job.endpoint.target)).or_default();
        if lane.waiting == 0 {
            self.turns.push_back(Arc::clone(&job.endpoint.target));
        }
        let queue = lane.queues.entry(job.endpoint.number).or_default();
        if queue.waiting.is_empty() {
            lane.turns.push_back(job.endpoint.number);
        }
        queue.waiting.push_back(job);
        lane.waiting += 1;
        self.waiting += 1;
    }

    /// Takes the next call that has a free place; its place is taken until [`Lanes::done`].
    pub fn take(&mut self) -> Option<Job> {
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
            let job = lane.next()?;
            if lane.waiting > 0 {
                self.turns.push_back(target);
            }
            self.waiting -= 1;
            self.running += 1;
            return Some(job);
        }
        None
    }

    /// The call that was taken runs as this task.
    pub fn began(&mut self, task: Id, endpoint: Endpoint) {
        self.tasks.insert(task, endpoint);
    }

    /// The task has ended: its place is free; its endpoint.
    pub fn ended(&mut self, task: Id) -> Option<Endpoint> {
        let endpoint = self.tasks.remove(&task)?;
        self.done(&endpoint);
        Some(endpoint)
    }

    /// The place of a call to `endpoint` is free.
    pub fn done(&mut self, endpoint: &Endpoint) {
        self.running = self.running.saturating_sub(1);
        let Some(lane) = self.lanes.get_mut(&endpoint.target) else { return };
        lane.running = lane.running.saturating_sub(1);
        if let Some(queue) = lane.queues.get_mut(&endpoint.number) {
            queue.running = queue.running.saturating_sub(1);
            if queue.running == 0 && queue.waiting.is_empty() {
                lane.queues.remove(&endpoint.number);
            }
        }
        if lane.queues.is_empty() {
            self.lanes.remove(&endpoint.target);
        }
    }

    /// Empties the queues: the calls that were not begun.
    pub fn clear(&mut self) -> Vec<Job> {
        self.turns.clear();
        self.waiting = 0;
        let mut jobs = Vec::new();
        for lane in self.lanes.values_mut() {
            (lane.turns, lane.waiting) = (VecDeque::new(), 0);
            jobs.extend(lane.queues.values_mut().flat_map(|queue| queue.waiting.drain(..)));
            lane.queues.retain(|_, queue| queue.running > 0);
        }
        self.lanes.retain(|_, lane| !lane.queues.is_empty());
        jobs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::delivery::Kind;

    fn job(id: i64, url: &str) -> Job {
        let call = Delivery {
            id,
            kind: Kind::Warehouse,
            reference: id.to_string(),
            order_id: 1,
            url: url.to_owned(),
            body: "{}".to_owned(),
            attempts: 0,
            next_at: 0,
            trace: None,
        };
        let endpoint = Endpoint::of(&call);
        Job::new(call, endpoint, i64::MAX)
    }

    #[test]
    fn endpoints_behind_a_target_have_equal_shares() {
        let mut lanes = Lanes::new(32, 4);
        (0..50).for_each(|id| lanes.push(job(id, "http://a/slow?x=1")));
        lanes.push(job(50, "http://a/other"));
        lanes.push(job(51, "http://b/"));
        let taken = |lanes: &mut Lanes| std::iter::from_fn(|| lanes.take()).map(|job| job.call.id).collect::<Vec<_>>();
        let mut first = taken(&mut lanes);
        first.sort_unstable();
        assert_eq!(first, [0, 1, 2, 50, 51], "four places at one target, one of them for the other endpoint");
        lanes.done(&Endpoint::of(&job(0, "http://a/slow").call));
        lanes.push(job(52, "http://a/other"));
        assert_eq!(taken(&mut lanes), [52], "who has fewer under way comes first");
        assert!(lanes.has_room());
        assert_eq!((lanes.clear().len(), lanes.take().is_none()), (47, true));
    }
}
