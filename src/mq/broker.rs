//! Where the relay publishes to.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::health::{Health, Reach, State};
use super::local::Local;
use super::message::{Outgoing, QueueId, Receipt};
use super::rocketmq::{PublishError, RocketMq};

/// How long a failed send waits to hear whether a broker is there at all.
const VERDICT: Duration = Duration::from_secs(8);

/// The broker of a process.
#[derive(Clone)]
pub enum Broker {
    /// A RocketMQ cluster, embedded or outside.
    Cluster(Cluster),
    /// None: messages go straight to the handlers of this process (`mq.enabled = false`).
    Local(Local),
}

impl Broker {
    /// Publishes messages; for each, in order, whether it is safe with the broker now.
    pub async fn publish(&self, batch: &[Outgoing]) -> Vec<Result<(), PublishError>> {
        match self {
            Self::Cluster(cluster) => cluster.publish(batch).await,
            Self::Local(local) => local.publish(batch).await,
        }
    }

    /// How the brokers stand, to be waited for; none without a cluster.
    #[must_use]
    pub fn changes(&self) -> Option<watch::Receiver<State>> {
        match self {
            Self::Cluster(cluster) => Some(cluster.health.changes()),
            Self::Local(_) => None,
        }
    }

    /// How the brokers stand; without any, there is nothing to be away.
    #[must_use]
    pub fn state(&self) -> State {
        match self {
            Self::Cluster(cluster) => cluster.health.now(),
            Self::Local(_) => State { reach: Reach::Up, change: 0 },
        }
    }

    /// Publishes one message, and says where it is stored.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn send(&self, message: &Outgoing) -> Result<Receipt, PublishError> {
        match self {
            Self::Cluster(cluster) => cluster.mq.send(message).await,
            Self::Local(local) => {
                local.publish(std::slice::from_ref(message)).await.into_iter().collect::<Result<(), _>>()?;
                let queue = QueueId { topic: message.topic.clone(), broker: String::new(), queue: 0 };
                Ok(Receipt { message_id: String::new(), queue, offset: 0 })
            }
        }
    }

    /// Whether somebody is to [try](Self::try_on) one message now on brokers that refuse.
    #[must_use]
    pub fn take_trial(&self) -> bool {
        matches!(self, Self::Cluster(cluster) if cluster.health.take_trial())
    }

    /// Tries one message on brokers that refuse, also while others stand in for them; true when it was taken.
    pub async fn try_on(&self, message: &Outgoing) -> bool {
        let Self::Cluster(cluster) = self else { return false };
        let results = cluster.mq.publish(std::slice::from_ref(message)).await;
        cluster.hear(&results);
        results.iter().any(Result::is_ok)
    }

    /// Sends one message that may be lost, without asking whether it arrived.
    ///
    /// # Errors
    /// [`PublishError`] when it did not even leave.
    pub async fn send_one_way(&self, message: &Outgoing) -> Result<(), PublishError> {
        match self {
            Self::Cluster(cluster) => cluster.mq.send_one_way(message).await,
            Self::Local(local) => local.publish(std::slice::from_ref(message)).await.into_iter().collect(),
        }
    }
}

/// A cluster that may go away, and what stands in for it then.
#[derive(Clone)]
pub struct Cluster {
    mq: RocketMq,
    health: Arc<Health>,
    stand_in: Local,
}

impl Cluster {
    /// `stand_in` has the lanes of the groups that run in this process.
    #[must_use]
    pub fn new(mq: RocketMq, health: Arc<Health>, stand_in: Local) -> Self {
        Self { mq, health, stand_in }
    }

    /// The client.
    #[must_use]
    pub fn mq(&self) -> &RocketMq {
        &self.mq
    }

    /// What is known about the brokers.
    #[must_use]
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    async fn publish(&self, batch: &[Outgoing]) -> Vec<Result<(), PublishError>> {
        match self.health.now().reach {
            Reach::Up | Reach::Refusing => {
                let mut results = self.mq.publish(batch).await;
                self.hear(&results);
                let unanswered =
                    |result: &Result<(), PublishError>| result.as_ref().is_err_and(PublishError::is_unanswered);
                if results.iter().any(unanswered) && !self.health.doubt(VERDICT).await.reach.answers() {
                    for result in results.iter_mut().filter(|result| unanswered(result)) {
                        *result = Err(PublishError::Away);
                    }
                }
                results
            }
            Reach::Away => vec![Err(PublishError::Away); batch.len()],
            Reach::Degraded => self.hand_over(batch).await,
        }
    }

    /// What the results of a round say about the brokers.
    fn hear(&self, results: &[Result<(), PublishError>]) {
        if results.iter().any(Result::is_ok) {
            self.health.taken();
        } else if let Some(reason) = results.iter().find_map(|result| result.as_ref().err()?.refusal()) {
            self.health.refused(&reason);
        }
    }

    /// To the groups of this process. No message counts as sent: groups elsewhere and other systems still need the
    /// broker's copy, which the inboxes here will drop.
    async fn hand_over(&self, batch: &[Outgoing]) -> Vec<Result<(), PublishError>> {
        let handled = self.stand_in.publish(batch).await;
        handled.into_iter().map(|result| result.and(Err(PublishError::HandledHere))).collect()
    }
}

/// Waits for the brokers to go or to come back; for ever, where there are none.
pub async fn changed(changes: &mut Option<watch::Receiver<State>>) {
    if let Some(receiver) = changes
        && receiver.changed().await.is_ok()
    {
        return;
    }
    *changes = None;
    std::future::pending().await
}
