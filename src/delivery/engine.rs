//! The loop: claim, call, record.

mod hold;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use self::hold::Waiting;
use super::breaker::{Admit, Breakers, Limits};
use super::call::{Caller, Made};
use super::lanes::{Job, Lanes};
use super::record::{self, Effects};
use super::schedule::{Outcome, Schedules};
use super::target::{Endpoint, Targets};
use crate::config;
use crate::db::delivery::{self, Delivery, Kind};
use crate::db::pace::Hurry;
use crate::db::sql::Val;
use crate::db::walk::{self, Walk};
use crate::db::{Db, DbError};
use crate::progress::Progress;
use crate::telemetry::Metrics;

/// Calls claimed, or recorded, in one transaction at most.
const BATCH: usize = 256;

/// Endpoints that are left alone are tried no more often, ms.
const SHORTEST_PAUSE_MS: i64 = 1_000;

/// Looks at the table at least this often: another process may have recorded a call, or died with some.
const TICK: Duration = Duration::from_secs(5);

/// While the queues are full, looks whether they still are.
const FULL_TICK: Duration = Duration::from_millis(100);

/// Pause after an error of the database: this long at first, doubled each time.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How the engine works.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Calls at once.
    pub concurrency: usize,
    /// Calls at once to one host and port. This process itself may have half of `concurrency`.
    pub per_target: usize,
    /// Timeouts, schedules, breaker: as configured.
    pub delivery: config::Delivery,
    /// Which calls: those that this process records or whose paths (`/...`) it serves. Processes that share a
    /// database must not make each other's: a path would lead to the wrong one.
    pub kinds: Vec<Kind>,
}

impl EngineConfig {
    /// As configured, for these kinds.
    #[must_use]
    pub fn new(config: &config::Delivery, kinds: &[Kind]) -> Self {
        Self {
            concurrency: config.concurrency,
            per_target: config.per_target,
            delivery: config.clone(),
            kinds: kinds.to_vec(),
        }
    }
}

/// Calls cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The HTTP client cannot be made.
    #[error("no HTTP client for outgoing calls: {0}")]
    Http(#[from] reqwest::Error),
    /// What is configured for messages to users cannot be used.
    #[error("{0}")]
    Notices(String),
}

/// Makes the calls that are due. One per process and database: only one hears the bell of [`Db::deliveries`].
pub struct Engine {
    db: Db,
    kinds: Arc<[Kind]>,
    timeout: Duration,
    lease_ms: i64,
    schedules: Arc<Schedules>,
    breakers: Breakers,
    effects: Effects,
    metrics: Arc<Metrics>,
    caller: Caller,
    lanes: Lanes,
    running: JoinSet<Made>,
    /// What waits for its endpoint.
    waiting: Waiting,
    /// Made, and not recorded yet.
    made: Vec<Made>,
    /// Made, and not recorded yet because somebody has locked a row of theirs.
    locked_out: Vec<Made>,
    hurry: Hurry,
    /// The table may hold more than was claimed.
    look: bool,
    /// When the next call falls due, as of the last look.
    next_due: Option<i64>,
}

impl Engine {
    /// Nothing is claimed before the first step.
    ///
    /// # Errors
    /// [`BuildError`]: the system's certificates cannot be read.
    pub fn new(
        db: Db,
        config: EngineConfig,
        targets: Targets,
        effects: Effects,
        metrics: Arc<Metrics>,
    ) -> Result<Self, BuildError> {
        let delivery = &config.delivery;
        let own = delivery.kinds.iter().filter_map(|(name, kind)| Some((Kind::from_name(name)?, kind.timeout?)));
        // How long the calls of other engines may take is nothing to these: what a crash leaves claimed waits for the
        // lease.
        let own = own.filter(|(kind, _)| config.kinds.contains(kind));
        let own: HashMap<Kind, Duration> = own.map(|(kind, timeout)| (kind, timeout.duration())).collect();
        let timeout = own.values().copied().fold(delivery.timeout.duration(), Duration::max);
        let timeout_ms = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
        let open_ms = delivery.breaker.open_for.ms();
        if let Some(broken) = targets.senders().broken() {
            return Err(BuildError::Notices(broken.to_owned()));
        }
        let limits = Limits { failures: delivery.breaker.failures, open_ms, probe_ms: timeout_ms.min(open_ms) };
        Ok(Self {
            caller: Caller::new(delivery.timeout.duration(), own, targets, db.clone())?,
            timeout,
            // A call is only begun when it ends within its lease.
            lease_ms: delivery.lease.ms().max(timeout_ms.saturating_mul(2)),
            schedules: Arc::new(Schedules::of(delivery)),
            breakers: Breakers::new(limits),
            waiting: Waiting::new(delivery.give_up_after.ms(), open_ms.max(SHORTEST_PAUSE_MS)),
            kinds: config.kinds.into(),
            lanes: Lanes::new(config.concurrency, config.per_target),
            running: JoinSet::new(),
            made: Vec::new(),
            locked_out: Vec::new(),
            hurry: Hurry::default(),
            look: true,
            db,
            effects,
            metrics,
            next_due: None,
        })
    }

    /// Records what has ended, claims what is due if there is room, and begins calls; waits for none of them.
    ///
    /// # Errors
    /// The database's. What was made stays in memory and is recorded by a later step.
    pub async fn step(&mut self) -> Result<Progress, DbError> {
        self.look = true;
        self.advance().await
    }

    /// Makes all calls that are due, and those that fall due by that, until there are none; how many. For tests with
    /// a clock that stands still, and for commands that end.
    ///
    /// # Errors
    /// The database's. What was made stays in memory and is recorded by a later step.
    pub async fn drain(&mut self) -> Result<usize, DbError> {
        let mut total = 0;
        loop {
            self.record().await?;
            self.wake().await?;
            let claimed = self.claim().await?;
            self.begin();
            self.hold().await?;
            if claimed == 0 && self.running.is_empty() && self.made.is_empty() && self.locked_out.is_empty() {
                return Ok(total);
            }
            while let Some(ended) = self.running.join_next_with_id().await {
                total += self.ended(ended);
                self.begin();
            }
            self.hold().await?;
        }
    }

    /// Works until `token` is cancelled, then waits for the calls that are under way, gives the others back, and
    /// records.
    pub async fn run(mut self, token: CancellationToken) {
        let mut pause = BACKOFF.0;
        let part = self.db.watchdog().part(Walk::Deliveries.name());
        while !token.is_cancelled() {
            let failing = pause > BACKOFF.0;
            match part.step(self.advance()).await {
                Ok(progress) => {
                    if failing {
                        tracing::info!("outgoing calls go on");
                        pause = BACKOFF.0;
                    }
                    if !matches!(progress, Progress::Did(_)) {
                        self.wait(progress, &token).await;
                    }
                }
                Err(error) => {
                    if !failing {
                        tracing::error!(%error, "outgoing calls are held up");
                    }
                    self.look = true;
                    tokio::select! {
                        () = token.cancelled() => {}
                        () = self.db.rest(pause) => pause = (pause * 2).min(BACKOFF.1),
                    }
                }
            }
        }
        self.finish().await;
    }

    async fn advance(&mut self) -> Result<Progress, DbError> {
        while let Some(ended) = self.running.try_join_next_with_id() {
            self.ended(ended);
        }
        let mut did = self.record().await?;
        self.begin();
        self.hold().await?;
        did += self.wake().await?;
        // A call that failed now may be due before what was known to be next.
        self.look |= did > 0;
        if self.look && self.lanes.has_room() {
            let due = delivery::next_due(&mut *self.db.read().await?, &self.kinds).await?;
            self.next_due = due;
            let claimed = if due.is_some_and(|due| due <= self.db.clock().now_ms()) { self.claim().await? } else { 0 };
            self.look = claimed > 0;
            did += claimed;
            self.begin();
            self.hold().await?;
            // What is given up without a call is to be recorded.
            did += self.made.len();
        }
        Ok(match self.next_due {
            _ if did > 0 => Progress::Did(did),
            Some(due) => Progress::WaitUntil(due),
            None => Progress::Idle,
        })
    }

    /// Until a call ends, the bell rings, something falls due, or it is time to look anyway.
    async fn wait(&mut self, progress: Progress, token: &CancellationToken) {
        let until = |at: i64| {
            let wait_ms = at.saturating_sub(self.db.clock().now_ms()).max(1);
            Duration::from_millis(wait_ms.unsigned_abs()).min(TICK)
        };
        let sleep = match progress {
            _ if self.look => FULL_TICK,
            Progress::WaitUntil(due) => until(due),
            Progress::Did(_) | Progress::Idle => TICK,
        };
        let sleep = sleep.min(until(self.waiting.wake_at));
        tokio::select! {
            () = token.cancelled() => {}
            Some(ended) = self.running.join_next_with_id() => { self.ended(ended); }
            () = self.db.deliveries().notified() => self.look = true,
            () = tokio::time::sleep(sleep) => self.look = true,
        }
    }

    /// Claims what is due, up to a batch; how many calls.
    async fn claim(&mut self) -> Result<usize, DbError> {
        let now_ms = self.db.clock().now_ms();
        let shut: Arc<HashSet<i64>> = Arc::new(self.lanes.slow().chain(self.breakers.shut(now_ms)).collect());
        let (kinds, lease_ms, give_up_after_ms) = (Arc::clone(&self.kinds), self.lease_ms, self.give_up_after_ms());
        let leased_until = now_ms.saturating_add(lease_ms);
        let targets = self.caller.targets().clone();
        let claimed = self
            .db
            .write("delivery_claim", move |tx| {
                let (kinds, shut, targets) = (Arc::clone(&kinds), Arc::clone(&shut), targets.clone());
                Box::pin(async move {
                    let calls = delivery::claim(tx, &kinds, BATCH as i64, lease_ms).await?;
                    // Lanes, breakers and the record go by where a call goes, which is for whoever makes it to say.
                    let aimed = calls.into_iter().map(|call| targets.aimed(call));
                    let named = aimed.map(|call| (Endpoint::of(&call), call));
                    let (later, mut now): (Vec<_>, Vec<_>) =
                        named.partition(|(endpoint, _)| shut.contains(&endpoint.number));

                    let waiting: Vec<_> = later.iter().map(|(endpoint, call)| (endpoint.number, call.id)).collect();
                    let old = hold::park(tx, &waiting, give_up_after_ms).await?;
                    let parked = waiting.len() - old.len();
                    now.extend(later.into_iter().filter(|(_, call)| old.contains(&call.id)));
                    Ok((now, parked))
                })
            })
            .await?;
        let (calls, parked): (Vec<(Endpoint, Delivery)>, usize) = claimed;
        let count = calls.len() + parked;
        for (endpoint, call) in calls {
            self.lanes.push(Job::new(call, endpoint, leased_until));
        }
        Ok(count)
    }

    /// Begins as many calls as there are free places.
    fn begin(&mut self) {
        let now_ms = self.db.clock().now_ms();
        let ends_ms = now_ms + i64::try_from(self.timeout.as_millis()).unwrap_or(i64::MAX / 2);
        while let Some(job) = self.lanes.take() {
            if ends_ms > job.leased_until {
                // It waited too long: whoever claims it next makes it.
                tracing::debug!(reference = job.call.reference, "lease over before the call was begun");
                self.lanes.done(&job.endpoint);
                continue;
            }
            if let Admit::Wait(until) = self.breakers.admit(job.endpoint.number, now_ms) {
                self.lanes.done(&job.endpoint);
                self.waiting.push(job.endpoint.number, job.call.id, until);
                continue;
            }
            let task = self.running.spawn(self.caller.clone().make(job.call));
            self.lanes.began(task.id(), job.endpoint);
        }
    }

    /// A call has ended: frees its place; 1 when there is something to record.
    fn ended(&mut self, ended: Result<(Id, Made), tokio::task::JoinError>) -> usize {
        match ended {
            Ok((task, made)) => {
                self.lanes.ended(task);
                self.learn(&made);
                self.made.push(made);
                1
            }
            Err(error) => {
                // Its lease runs out, and it is made again.
                tracing::error!(%error, "a call was not finished");
                if let Some(endpoint) = self.lanes.ended(error.id()) {
                    self.breakers.forgot(endpoint.number);
                }
                0
            }
        }
    }

    /// What a call says about its endpoint. This process itself is never left alone.
    fn learn(&mut self, made: &Made) {
        let (endpoint, now_ms) = (Endpoint::of(&made.call), self.db.clock().now_ms());
        let (number, target) = (endpoint.number, &made.target);
        if made.outcome.is_answer() {
            if self.breakers.answered(number) {
                tracing::info!(%target, reference = made.call.reference, "an endpoint answers again");
            }
        } else if !matches!(made.outcome, Outcome::Again { .. }) {
            self.breakers.forgot(number);
        } else if !endpoint.is_own() {
            if self.breakers.failed(number, now_ms) {
                let reference = &made.call.reference;
                tracing::warn!(%target, reference, "an endpoint fails again and again: its calls wait");
            }
            self.waiting.failed(now_ms);
        }
    }

    /// Records what has ended, a batch at a time; how many calls. A call that makes its transaction fail is found by
    /// halving, and set aside. One whose row somebody has locked is kept.
    async fn record(&mut self) -> Result<usize, DbError> {
        self.made.append(&mut self.locked_out);
        if self.made.is_empty() {
            return Ok(0);
        }
        if let Err(error) = self.db.fault("delivery", "called") {
            // What a crash leaves in memory.
            self.made.clear();
            return Err(error);
        }
        let (db, mut recorded) = (self.db.clone(), 0);
        while !self.made.is_empty() {
            let rest = self.made.split_off(self.made.len().min(BATCH));
            let batch = std::mem::replace(&mut self.made, rest);
            let (schedules, effects) = (Arc::clone(&self.schedules), Arc::clone(&self.effects));
            let write = |some| record::record(&db, some, Arc::clone(&schedules), Arc::clone(&effects));
            let halved = walk::halve(&self.hurry, batch, write).await;
            for one in halved.done.iter().flatten() {
                self.metrics.delivered(one.call.kind.name(), one.result());
                one.log();
            }
            recorded += halved.done.iter().map(Vec::len).sum::<usize>();
            if let Some((error, left)) = halved.outage {
                self.made.splice(0..0, left);
                return Err(error);
            }
            for (made, error) in halved.failed {
                if error.is_passing() {
                    tracing::warn!(%error, reference = made.call.reference, "what came of a call is recorded later");
                    self.locked_out.push(made);
                    continue;
                }
                let row = (Val::Int(made.call.id), made.call.order().to_string());
                walk::put_aside(&db, Walk::Deliveries, row, error).await?;
            }
        }
        Ok(recorded)
    }

    /// Gives back what was not begun, waits for what was, and records it.
    async fn finish(&mut self) {
        let ids: Arc<Vec<i64>> = Arc::new(self.lanes.clear().into_iter().map(|job| job.call.id).collect());
        if !ids.is_empty() {
            let given_back = self.db.write("delivery_claim", move |tx| {
                let (ids, now_ms) = (ids.to_vec(), tx.now_ms());
                Box::pin(async move { delivery::postpone(tx, ids, now_ms).await })
            });
            if let Err(error) = given_back.await {
                tracing::warn!(%error, "calls that were not begun wait until their lease is over");
            }
        }
        let limit = self.timeout + Duration::from_secs(1);
        let wait = async {
            while let Some(ended) = self.running.join_next_with_id().await {
                self.ended(ended);
            }
        };
        if tokio::time::timeout(limit, wait).await.is_err() {
            tracing::warn!("calls were under way at the end: they are made again");
        }
        if let Err(error) = self.record().await {
            tracing::warn!(%error, "calls that were made could not be recorded: they are made again");
        }
    }
}
