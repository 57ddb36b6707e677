//! The broker that is none: each message goes straight to the lanes of its groups in this process, and counts as
//! published once all of them have committed its effects. Nothing is kept here; the outbox row stays pending until
//! then, so a crash loses nothing.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::sync::{mpsc, oneshot};

use super::message::{Delay, Incoming, Outgoing, QueueId};
use super::rocketmq::PublishError;
use crate::domain::event::{Group, Kind};

/// Messages for one lane, and who waits for them.
pub struct Handed {
    /// In order.
    pub messages: Vec<Incoming>,
    /// Told whether all of them are handled.
    pub handled: oneshot::Sender<bool>,
}

/// Lanes of one group.
pub type Lanes = Vec<mpsc::Sender<Handed>>;

/// The local broker.
#[derive(Clone)]
pub struct Local(Arc<Inner>);

struct Inner {
    groups: HashMap<Group, Lanes>,
    /// Groups that do not run here have a broker to get their messages from.
    partial: bool,
    offset: AtomicI64,
}

impl Local {
    /// Delivers to these lanes. A group without lanes is not run by this process.
    #[must_use]
    pub fn new(groups: HashMap<Group, Lanes>) -> Self {
        Self(Arc::new(Inner { groups, partial: false, offset: AtomicI64::new(0) }))
    }

    /// Stands in for a broker that is away, for these lanes only: what other groups are to get stays their broker's.
    #[must_use]
    pub fn standing_in(groups: HashMap<Group, Lanes>) -> Self {
        Self(Arc::new(Inner { groups, partial: true, offset: AtomicI64::new(0) }))
    }

    /// Delivers messages; each is published when all its groups have handled it.
    pub async fn publish(&self, batch: &[Outgoing]) -> Vec<Result<(), PublishError>> {
        let mut results: Vec<Result<(), PublishError>> = (0..batch.len()).map(|_| Ok(())).collect();
        let mut parts: HashMap<(Group, usize), Vec<usize>> = HashMap::new();
        for (index, message) in batch.iter().enumerate() {
            // Dead letters and what only outside systems take have nowhere to go: the row is their record.
            let Some(kind) = Kind::from_name(&message.topic) else { continue };
            match message.delay {
                Delay::None => {}
                Delay::Until(at_ms) => {
                    results[index] = Err(PublishError::NotDue { at_ms });
                    continue;
                }
                Delay::Level(_) => {
                    results[index] = Err(PublishError::Illegal("a delay level needs a broker".to_owned()));
                    continue;
                }
            }
            for group in kind.groups() {
                match self.0.groups.get(group) {
                    Some(lanes) if !lanes.is_empty() => {
                        parts.entry((*group, lane_of(&message.key, lanes.len()))).or_default().push(index);
                    }
                    _ if self.0.partial => {}
                    _ => {
                        let reason = format!("{} does not run in this process, and there is no broker", group.name());
                        results[index] = Err(PublishError::Unhandled(reason));
                    }
                }
            }
        }
        let mut waits = Vec::with_capacity(parts.len());
        for ((group, lane), indexes) in parts {
            let messages = indexes.iter().map(|index| self.incoming(&batch[*index], lane)).collect();
            let (handled, wait) = oneshot::channel();
            let sender = self.0.groups.get(&group).and_then(|lanes| lanes.get(lane));
            let lane = match sender {
                Some(sender) => sender.send(Handed { messages, handled }).await.is_ok().then_some(sender),
                None => None,
            };
            waits.push((group, indexes, lane.map(|lane| (lane, wait))));
        }
        for (group, indexes, wait) in waits {
            let is_handled = match wait {
                Some((lane, handled)) => answer_of(lane, handled).await,
                None => false,
            };
            if !is_handled {
                for index in indexes {
                    results[index] = Err(PublishError::Unhandled(format!("{} did not", group.name())));
                }
            }
        }
        results
    }

    fn incoming(&self, message: &Outgoing, lane: usize) -> Incoming {
        Incoming {
            queue: QueueId {
                topic: message.topic.clone(),
                broker: String::new(),
                queue: i32::try_from(lane).unwrap_or(0),
            },
            offset: self.0.offset.fetch_add(1, Ordering::Relaxed),
            tag: message.tag.clone(),
            key: message.key.clone(),
            body: message.body.clone(),
            unreadable: None,
            properties: message.properties.clone(),
            born_ms: 0,
            stored_ms: 0,
        }
    }
}

/// What a lane says about what it was handed; false when it is gone.
///
/// A lane that ends just when it is handed something may never see it: the channel then keeps it, and who waits in it,
/// for as long as it has a sender, which is as long as the process runs. So the end of the lane is an answer, too.
async fn answer_of(lane: &mpsc::Sender<Handed>, handled: oneshot::Receiver<bool>) -> bool {
    tokio::select! {
        biased;
        answer = handled => answer.unwrap_or(false),
        () = lane.closed() => false,
    }
}

/// The lane of a key: always the same one, so that its order holds.
pub(super) fn lane_of(key: impl Hash, lanes: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    usize::try_from(hasher.finish() % lanes.max(1) as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_lane_that_ends_while_it_is_handed_something_answers() {
        let (lane, handed) = mpsc::channel(1);
        let (sender, answer) = oneshot::channel();
        // Between these two steps of a send the lane ends: what is sent then is read by nobody, and is not dropped.
        let room = lane.reserve().await.unwrap();
        drop(handed);
        room.send(Handed { messages: Vec::new(), handled: sender });
        let is_handled = tokio::time::timeout(Duration::from_secs(30), answer_of(&lane, answer)).await;
        assert!(!is_handled.expect("it is answered"));
    }
}
