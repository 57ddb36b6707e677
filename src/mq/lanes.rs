//! Lanes: a consumer group works in parallel, but a queue always has the same lane, so its order holds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::consume::Consumer;
use super::local::{Handed, lane_of};
use super::message::{Incoming, QueueId};
use super::rocketmq::GroupConsumer;
use crate::shutdown::Shutdown;

/// How long a poll waits for a message.
const POLL: Duration = Duration::from_secs(2);
/// Batches that wait before a lane; the broker keeps the rest.
const WAITING: usize = 4;
/// The first and the longest wait while the database is away.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Starts the lanes of a group on a cluster.
pub fn start_cluster(consumer: &Consumer, member: GroupConsumer, lanes: usize, batch: usize, shutdown: &Shutdown) {
    let member = Arc::new(member);
    let mut senders = Vec::with_capacity(lanes);
    for _ in 0..lanes.max(1) {
        let (sender, messages) = mpsc::channel(WAITING);
        senders.push(sender);
        let lane = ClusterLane { consumer: consumer.clone(), member: Arc::clone(&member), messages, batch };
        shutdown.run("lane", lane.run(shutdown.token.clone()));
    }
    shutdown.run("poll", poll(member, senders, batch, shutdown.token.clone()));
}

async fn poll(
    member: Arc<GroupConsumer>,
    lanes: Vec<mpsc::Sender<Vec<Incoming>>>,
    batch: usize,
    token: CancellationToken,
) {
    'polling: while !token.is_cancelled() {
        let messages = tokio::select! {
            () = token.cancelled() => break,
            messages = member.poll(batch, POLL) => messages,
        };
        let mut parts: HashMap<usize, Vec<Incoming>> = HashMap::new();
        for message in messages {
            parts.entry(lane_of(&message.queue, lanes.len())).or_default().push(message);
        }
        for (lane, part) in parts {
            let Some(sender) = lanes.get(lane) else { continue };
            if sender.send(part).await.is_err() {
                break 'polling;
            }
        }
    }
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
            while messages.len() < self.batch
                && let Ok(more) = self.messages.try_recv()
            {
                messages.extend(more);
            }
            let mut next: HashMap<QueueId, i64> = HashMap::new();
            for message in &messages {
                let offset = next.entry(message.queue.clone()).or_default();
                *offset = (*offset).max(message.offset + 1);
            }
            if !until_handled(&self.consumer, messages, &token).await {
                return;
            }
            if self.consumer.db().fault("consume", "acknowledge").is_err() {
                continue;
            }
            self.member.commit(&next.into_iter().collect::<Vec<_>>()).await;
        }
    }
}

/// Handles messages, however long the database stays away; false when the process stops before.
async fn until_handled(consumer: &Consumer, messages: Vec<Incoming>, token: &CancellationToken) -> bool {
    let mut wait = BACKOFF.0;
    loop {
        match consumer.process(messages.clone()).await {
            Ok(()) => return true,
            Err(error) => {
                let group = consumer.handler().group().name();
                tracing::warn!(group, %error, wait_ms = wait.as_millis(), "consumer waits for the database");
            }
        }
        tokio::select! {
            () = token.cancelled() => return false,
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(BACKOFF.1);
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
        while messages.len() < batch
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
