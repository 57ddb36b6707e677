//! A shard of the relay: the rows of some keys, in their order. The sweep leaves them alone for as long as they are held
//! here, however slowly the broker answers.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::{Load, Marks, Relay};
use crate::db::outbox::{self, OutboxRow};
use crate::mq::rocketmq::PublishError;
use crate::shutdown::Shutdown;

/// Rows of one publishing round.
const ROUND: usize = 1024;
/// Bytes of their bodies.
const ROUND_BYTES: usize = 8 << 20;
/// For so long the sweep leaves a row alone that is held on to, ms.
const KEPT_MS: i64 = 10_000;
/// A row is held on to when the sweep would take it so soon, ms.
const RENEWED_BEFORE_MS: i64 = 1_500;
/// For so long rows wait at most for those before them, which the sweep sends, ms.
const PATIENCE_MS: i64 = 30_000;
/// How often a shard looks at what it holds while something is under way.
const LOOK: Duration = Duration::from_millis(500);
/// How often it looks whether rows still have to wait.
const WAITING_LOOK: Duration = Duration::from_millis(50);

/// A row that is held here.
struct Held {
    row: OutboxRow,
    /// The sweep leaves it alone until then, epoch ms.
    until_ms: i64,
    /// Since when it is here, epoch ms.
    since_ms: i64,
}

pub(super) struct Shard {
    relay: Relay,
    rows: mpsc::UnboundedReceiver<OutboxRow>,
    marks: mpsc::Sender<Marks>,
    load: Arc<Load>,
    queue: VecDeque<Held>,
}

impl Shard {
    pub fn new(
        relay: Relay,
        rows: mpsc::UnboundedReceiver<OutboxRow>,
        marks: mpsc::Sender<Marks>,
        load: Arc<Load>,
    ) -> Self {
        Self { relay, rows, marks, load, queue: VecDeque::new() }
    }

    /// Publishes what comes, until the process stops.
    pub async fn run(mut self, shutdown: Shutdown) {
        while self.receive(&shutdown).await {
            self.hold_on(&mut Vec::new()).await;
            if self.relay.is_caught_up() {
                if !self.round().await {
                    return;
                }
            } else if self.relay.has_to_wait() {
                self.give_up_the_impatient();
                tokio::select! {
                    () = shutdown.token.cancelled() => return,
                    () = tokio::time::sleep(WAITING_LOOK) => {}
                }
            } else {
                self.leave(self.queue.len(), &PublishError::Behind);
            }
        }
    }

    /// Waits for rows, unless there are some; false at the end.
    async fn receive(&mut self, shutdown: &Shutdown) -> bool {
        if self.queue.is_empty() {
            let row = tokio::select! {
                biased;
                row = self.rows.recv() => row,
                () = shutdown.token.cancelled() => None,
            };
            match row {
                Some(row) => self.push(row),
                None => return false,
            }
        }
        self.receive_all();
        true
    }

    fn receive_all(&mut self) {
        while let Ok(row) = self.rows.try_recv() {
            self.push(row);
        }
    }

    fn push(&mut self, row: OutboxRow) {
        let (until_ms, since_ms) = (row.deliver_at_ms + outbox::HEAD_START_MS, self.now_ms());
        self.queue.push_back(Held { row, until_ms, since_ms });
    }

    fn now_ms(&self) -> i64 {
        self.relay.db.clock().now_ms()
    }

    /// Leaves the first `count` rows for the sweep.
    fn leave(&mut self, count: usize, why: &PublishError) {
        for held in self.queue.drain(..count) {
            self.load.less(&held.row);
            tracing::debug!(topic = held.row.topic, event_id = held.row.event_id, error = %why, "left for the sweep");
        }
    }

    /// What has waited too long is left for any sweep: ours may be the one that does not move.
    fn give_up_the_impatient(&mut self) {
        let before_ms = self.now_ms() - PATIENCE_MS;
        let count = self.queue.iter().take_while(|held| held.since_ms < before_ms).count();
        self.leave(count, &PublishError::Behind);
    }

    /// Keeps rows from the sweep that it would take soon: those that wait here, and those under way, as (row, until). A
    /// row that somebody has taken meanwhile, or taken back, is not ours any more.
    async fn hold_on(&mut self, under_way: &mut [(i64, i64)]) {
        let now_ms = self.now_ms();
        let soon = |until_ms: i64| until_ms < now_ms + RENEWED_BEFORE_MS;
        let waiting = self.queue.iter().filter(|held| soon(held.until_ms)).map(|held| held.row.id);
        let flying = under_way.iter().filter(|(_, until)| soon(*until)).map(|(id, _)| *id);
        let ids: Vec<i64> = waiting.chain(flying).collect();
        if ids.is_empty() {
            return;
        }
        let asked: HashSet<i64> = ids.iter().copied().collect();
        let ours = match self.relay.hold_on(ids, now_ms + KEPT_MS).await {
            Ok(ours) => ours,
            Err(error) => {
                tracing::debug!(%error, "rows could not be kept from the sweep: some may be sent twice");
                return;
            }
        };
        for (id, until) in under_way.iter_mut().filter(|(id, _)| asked.contains(id)) {
            // What is gone cannot be called back, and is not asked for again.
            *until = if ours.contains(id) { now_ms + KEPT_MS } else { i64::MAX };
        }
        let load = &self.load;
        self.queue.retain_mut(|held| {
            if !asked.contains(&held.row.id) {
                return true;
            }
            held.until_ms = now_ms + KEPT_MS;
            let is_ours = ours.contains(&held.row.id);
            if !is_ours {
                load.less(&held.row);
            }
            is_ours
        });
    }

    /// Publishes the first rows; false when nobody marks them any more.
    async fn round(&mut self) -> bool {
        let (mut rows, mut under_way) = (Vec::new(), Vec::new());
        for held in first_of(&mut self.queue) {
            under_way.push((held.row.id, held.until_ms));
            rows.push(held.row);
        }

        let relay = self.relay.clone();
        let publish = relay.publish(&rows);
        tokio::pin!(publish);
        let results = loop {
            tokio::select! {
                results = &mut publish => break results,
                () = tokio::time::sleep(LOOK) => {
                    self.receive_all();
                    self.hold_on(&mut under_way).await;
                }
            }
        };

        let stopped = self.relay.db.fault("relay", "published").is_err();
        let (mut sent, mut held) = (Vec::with_capacity(rows.len()), Vec::new());
        for (row, result) in rows.iter().zip(results) {
            self.load.less(row);
            match result {
                Ok(()) => sent.push(row.id),
                Err(PublishError::HandledHere) => held.push(row.id),
                Err(error) => {
                    tracing::debug!(topic = row.topic, event_id = row.event_id, %error, "left for the sweep");
                }
            }
        }
        let marks = Marks { sent, held };
        stopped || marks.is_empty() || self.marks.send(marks).await.is_ok()
    }
}

/// Takes the rows of the next round: as many as it may have, and one however large it is.
fn first_of(queue: &mut VecDeque<Held>) -> Vec<Held> {
    let (mut round, mut bytes): (Vec<Held>, usize) = (Vec::new(), 0);
    while let Some(next) = queue.front() {
        bytes += next.row.body.len();
        if round.len() == ROUND || (!round.is_empty() && bytes > ROUND_BYTES) {
            break;
        }
        round.extend(queue.pop_front());
    }
    round
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(id: i64, bytes: usize) -> Held {
        let row = OutboxRow {
            id,
            event_id: id.to_string(),
            topic: "E".into(),
            tag: "E".into(),
            key: "k".into(),
            body: vec![b'x'; bytes].into(),
            properties: vec![],
            deliver_at_ms: 0,
            attempts: 0,
        };
        Held { row, until_ms: 0, since_ms: 0 }
    }

    #[test]
    fn a_round_has_so_many_rows_and_bytes() {
        let rounds = |sizes: &[usize]| {
            let mut queue: VecDeque<Held> = (0..).zip(sizes).map(|(id, bytes)| held(id, *bytes)).collect();
            let mut rounds = Vec::new();
            while !queue.is_empty() {
                rounds.push(first_of(&mut queue).len());
            }
            rounds
        };
        let large = ROUND_BYTES / 2;
        assert_eq!(rounds(&[large; 5]), [2, 2, 1]);
        assert_eq!(rounds(&[1, 2 * ROUND_BYTES, 1, large]), [1, 1, 2]);
        assert_eq!(rounds(&[10; 2 * ROUND + 1]), [ROUND, ROUND, 1]);
    }
}
