//! Lanes: a consumer group works in parallel, but a queue always has the same lane, so its order holds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::broker::Cluster;
use super::consume::Consumer;
use super::local::Handed;
use super::message::{Incoming, QueueId};
use super::rocketmq::GroupConsumer;
use super::share;
use super::spread::Spread;
use crate::shutdown::Shutdown;
use crate::watchdog::Part;

/// Batches that wait before a lane; the broker keeps the rest.
const WAITING: usize = 4;
/// Bytes of a batch at most, unless what was handed over at once has more.
const BATCH_BYTES: usize = 4 << 20;
/// The first and the longest wait while the database is away.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// The place of a group in a cluster: what it takes to join, again and again.
pub struct Membership {
    /// The cluster, and what is known about it.
    pub cluster: Cluster,
    /// Catalogue names, or `%RETRY%<group>`.
    pub topics: Vec<String>,
    /// Lanes that work in parallel.
    pub lanes: usize,
    /// Messages in one transaction at most.
    pub batch: usize,
}

/// Starts a group on a cluster. It joins as soon as a broker is there, and anew whenever one comes back: a client that
/// has lost a broker may keep away from it for half a minute and more. What a member holds when it is replaced is
/// finished or dropped before the next one joins, and what was not committed comes again.
pub fn start_cluster(consumer: &Consumer, membership: Membership, shutdown: &Shutdown) {
    shutdown.run("consumer", be_member(consumer.clone(), membership, shutdown.clone()));
}

async fn be_member(consumer: Consumer, membership: Membership, shutdown: Shutdown) {
    let health = membership.cluster.health();
    let (mut changes, mut returns) = (health.changes(), health.returns());
    let group = consumer.handler().group().name();
    let mut wait = BACKOFF.0;
    loop {
        let joined = async {
            // Only fails when nobody looks any more.
            let _ = changes.wait_for(|state| state.reach.answers()).await;
            returns.mark_unchanged();
            membership.cluster.mq().subscribe(group, &membership.topics).await
        };
        let joined = tokio::select! {
            () = shutdown.token.cancelled() => return,
            joined = joined => joined,
        };
        match joined {
            Ok(member) => {
                wait = BACKOFF.0;
                serve(&consumer, Arc::new(member), &membership, &mut returns, &shutdown).await;
            }
            Err(error) => {
                tracing::warn!(group, %error, wait_ms = wait.as_millis(), "the group could not be joined");
                tokio::select! {
                    () = shutdown.token.cancelled() => return,
                    () = tokio::time::sleep(wait) => {}
                }
                wait = (wait * 2).min(BACKOFF.1);
            }
        }
        if shutdown.token.is_cancelled() {
            return;
        }
        tracing::debug!(group, "joining the group anew");
    }
}

/// Consumes as one member, until the process stops or a broker has come back.
async fn serve(
    consumer: &Consumer,
    member: Arc<GroupConsumer>,
    membership: &Membership,
    returns: &mut watch::Receiver<u64>,
    shutdown: &Shutdown,
) {
    let token = shutdown.token.child_token();
    let mut lanes = Vec::with_capacity(membership.lanes);
    for _ in 0..membership.lanes.max(1) {
        let (sender, messages) = mpsc::channel(WAITING);
        lanes.push(sender);
        let (consumer, member) = (consumer.clone(), Arc::clone(&member));
        let part = consumer.db().watchdog().part(consumer.handler().group().name());
        let lane = ClusterLane { consumer, member, messages, batch: membership.batch, part };
        shutdown.run("lane", lane.run(token.clone()));
    }
    let queues = consumer.db().watchdog().part(format!("queues of {}", consumer.handler().group().name()));
    tokio::select! {
        () = token.cancelled() => {}
        _ = returns.changed() => {}
        () = share::watch(&member, &membership.topics, &queues) => {}
        () = Spread::new(&member, &lanes).run(membership.batch) => {}
        () = member.keep_place() => {}
    }
    token.cancel();
    // The lanes finish what they hold and commit it before the member leaves; each closes its end when it is done.
    for lane in &lanes {
        lane.closed().await;
    }
    member.shutdown().await;
}

struct ClusterLane {
    consumer: Consumer,
    member: Arc<GroupConsumer>,
    messages: mpsc::Receiver<Vec<Incoming>>,
    batch: usize,
    /// Tells when it does not go forward.
    part: Arc<Part>,
}

impl ClusterLane {
    async fn run(mut self, token: CancellationToken) {
        loop {
            let first = tokio::select! {
                biased;
                () = token.cancelled() => return,
                first = self.messages.recv() => first,
            };
            let Some(mut messages) = first else { return };
            while has_room(&messages, self.batch)
                && let Ok(more) = self.messages.try_recv()
            {
                messages.extend(more);
            }
            let mut next: HashMap<QueueId, i64> = HashMap::new();
            for message in &messages {
                let offset = next.entry(message.queue.clone()).or_default();
                *offset = (*offset).max(message.offset + 1);
            }
            if !until_handled(&self.consumer, &self.member, &self.part, messages, &token).await {
                return;
            }
            if self.consumer.db().fault("consume", "acknowledge").is_err() {
                continue;
            }
            self.member.commit(&next.into_iter().collect::<Vec<_>>()).await;
        }
    }
}

/// A transaction takes more than these messages.
fn has_room(messages: &[Incoming], batch: usize) -> bool {
    messages.len() < batch && messages.iter().map(Incoming::weight).sum::<usize>() < BATCH_BYTES
}

/// Handles messages, however long the database stays away, but for those that somebody moves the group past; false when
/// the process stops before.
async fn until_handled(
    consumer: &Consumer,
    member: &GroupConsumer,
    part: &Part,
    mut messages: Vec<Incoming>,
    token: &CancellationToken,
) -> bool {
    let mut wait = BACKOFF.0;
    let mut writes_again = consumer.db().writes_again();
    loop {
        writes_again.mark_unchanged();
        member.leave_past(&mut messages);
        let begun = Instant::now();
        let done = consumer.process(messages.clone()).await;
        part.tried(begun, &done);
        match done {
            Ok(()) => return true,
            Err(error) => {
                let group = consumer.handler().group().name();
                tracing::warn!(group, %error, wait_ms = wait.as_millis(), "consumer waits for the database");
            }
        }
        wait = tokio::select! {
            () = token.cancelled() => return false,
            _ = writes_again.changed() => BACKOFF.0,
            () = tokio::time::sleep(wait) => (wait * 2).min(BACKOFF.1),
        };
    }
}

/// Starts the lanes of a group without a broker; what they are handed comes through the senders.
pub fn start_local(consumer: &Consumer, lanes: usize, batch: usize, shutdown: &Shutdown) -> Vec<mpsc::Sender<Handed>> {
    (0..lanes.max(1))
        .map(|_| {
            let (sender, handed) = mpsc::channel(WAITING * 4);
            shutdown.run("lane", local_lane(consumer.clone(), handed, batch, shutdown.token.clone()));
            sender
        })
        .collect()
}

async fn local_lane(consumer: Consumer, mut handed: mpsc::Receiver<Handed>, batch: usize, token: CancellationToken) {
    loop {
        let first = tokio::select! {
            biased;
            () = token.cancelled() => return,
            first = handed.recv() => first,
        };
        let Some(first) = first else { return };
        let (mut messages, mut waiting) = (first.messages, vec![first.handled]);
        while has_room(&messages, batch)
            && let Ok(more) = handed.try_recv()
        {
            messages.extend(more.messages);
            waiting.push(more.handled);
        }
        // Not tried again here: the outbox row stays pending, and the sweep brings it back.
        let handled = match consumer.process(messages).await {
            Ok(()) => consumer.db().fault("consume", "acknowledge").is_ok(),
            Err(error) => {
                tracing::warn!(group = consumer.handler().group().name(), %error, "left for the sweep");
                false
            }
        };
        for waiter in waiting {
            // Nobody waits any more: the relay has stopped, and the row stays pending.
            let _ = waiter.send(handled);
        }
    }
}
