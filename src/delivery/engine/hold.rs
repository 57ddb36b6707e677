//! Calls to endpoints that are left alone: put to wait for their endpoint, and woken one at a time to try it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::{BATCH, Engine};
use crate::db::DbError;
use crate::db::delivery::{self, Kind, held};
use crate::delivery::breaker::Admit;
use crate::delivery::call::Made;
use crate::delivery::schedule::Outcome;

/// What waits, and for how long at most.
pub(super) struct Waiting {
    /// As (endpoint, call).
    calls: Vec<(i64, i64)>,
    /// When one of them is woken.
    pub wake_at: i64,
    /// Which call was woken last, by endpoint.
    woken: BTreeMap<i64, i64>,
    give_up_after_ms: i64,
    pause_ms: i64,
}

impl Waiting {
    /// Calls wait for up to `give_up_after_ms`; endpoints are tried every `pause_ms`.
    pub fn new(give_up_after_ms: i64, pause_ms: i64) -> Self {
        Self { calls: Vec::new(), wake_at: 0, woken: BTreeMap::new(), give_up_after_ms, pause_ms }
    }

    /// A claimed call cannot be made before its endpoint, whose pause ends at `until`, was tried.
    pub fn push(&mut self, endpoint: i64, id: i64, until: i64) {
        self.calls.push((endpoint, id));
        self.wake_at = self.wake_at.min(until);
    }

    /// An endpoint has just failed, and may be left alone from now on.
    pub fn failed(&mut self, now_ms: i64) {
        self.wake_at = self.wake_at.min(now_ms.saturating_add(self.pause_ms));
    }
}

/// Puts calls to wait, as (endpoint, call), and leaves out those that have waited too long: these.
pub(super) async fn park(
    tx: &mut crate::db::Tx,
    calls: &[(i64, i64)],
    give_up_after_ms: i64,
) -> Result<HashSet<i64>, DbError> {
    let ids = calls.iter().map(|(_, id)| *id).collect();
    let old = delivery::armed_before(tx, ids, tx.now_ms() - give_up_after_ms).await?;
    let old: HashSet<i64> = old.into_iter().collect();
    let young: Vec<(i64, i64)> = calls.iter().filter(|(_, id)| !old.contains(id)).copied().collect();
    held::park(tx, &young, give_up_after_ms).await?;
    Ok(old)
}

impl Engine {
    /// How long a call may wait for its endpoint, ms.
    pub(super) fn give_up_after_ms(&self) -> i64 {
        self.waiting.give_up_after_ms
    }

    /// Puts the calls to endpoints that are left alone to wait for them, and gives up those that have waited too long;
    /// no attempt is counted.
    pub(super) async fn hold(&mut self) -> Result<(), DbError> {
        if self.waiting.calls.is_empty() {
            return Ok(());
        }
        let calls = Arc::new(std::mem::take(&mut self.waiting.calls));
        let give_up_after_ms = self.waiting.give_up_after_ms;
        let write = self.db.write("delivery_claim", move |tx| {
            let calls = Arc::clone(&calls);
            Box::pin(async move {
                let old = park(tx, &calls, give_up_after_ms).await?;
                delivery::by_ids(tx, old.into_iter().collect()).await
            })
        });
        let started_at = self.db.clock().now_ms();
        let why = "the target has not answered for too long";
        let targets = self.caller.targets().clone();
        let expired = write.await?.into_iter().map(|call| Made {
            target: targets.of(&call),
            call,
            started_at,
            duration_ms: 0,
            http_status: None,
            outcome: Outcome::Expired(why.to_owned()),
            request: None,
            answer: None,
            said: None,
            unsure: false,
        });
        self.made.extend(expired);
        Ok(())
    }

    /// Wakes one call of each endpoint that may be tried again, also of those that another process has left alone, which
    /// may be gone; how many.
    pub(super) async fn wake(&mut self) -> Result<usize, DbError> {
        let now_ms = self.db.clock().now_ms();
        if now_ms < self.waiting.wake_at {
            return Ok(0);
        }
        self.waiting.wake_at = now_ms.saturating_add(self.waiting.pause_ms);
        let mut endpoints = Vec::new();
        let mut conn = self.db.read().await?;
        loop {
            let after = endpoints.last().copied().unwrap_or(i64::MIN);
            let page = held::endpoints(&mut conn, after, BATCH).await?;
            let is_last = page.len() < BATCH;
            endpoints.extend(page);
            if is_last {
                break;
            }
        }
        drop(conn);

        let mut woken = 0;
        self.waiting.woken.retain(|endpoint, _| endpoints.binary_search(endpoint).is_ok());
        let ready = |endpoint: &i64| match self.breakers.look(*endpoint, now_ms) {
            Admit::Now => true,
            Admit::Wait(until) => {
                self.waiting.wake_at = self.waiting.wake_at.min(until);
                false
            }
        };
        endpoints.retain(ready);
        for some in endpoints.chunks(BATCH) {
            let last = |endpoint: &i64| (*endpoint, self.waiting.woken.get(endpoint).copied().unwrap_or(i64::MIN));
            let some: Arc<Vec<(i64, i64)>> = Arc::new(some.iter().map(last).collect());
            let calls = wake_some(self, some).await?;
            woken += calls.len();
            self.waiting.woken.extend(calls);
        }
        Ok(woken)
    }
}

/// As (endpoint, call).
async fn wake_some(engine: &Engine, endpoints: Arc<Vec<(i64, i64)>>) -> Result<Vec<(i64, i64)>, DbError> {
    let kinds: Arc<[Kind]> = Arc::clone(&engine.kinds);
    let write = engine.db.write("delivery_claim", move |tx| {
        let (endpoints, kinds) = (Arc::clone(&endpoints), Arc::clone(&kinds));
        Box::pin(async move {
            let mut woken = Vec::new();
            for (endpoint, after) in endpoints.iter() {
                let id = held::wake(tx, &kinds, *endpoint, *after).await?;
                woken.extend(id.map(|id| (*endpoint, id)));
            }
            Ok(woken)
        })
    });
    write.await
}
