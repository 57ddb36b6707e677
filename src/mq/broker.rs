//! Where the relay publishes to.

use super::local::Local;
use super::message::Outgoing;
use super::rocketmq::{PublishError, RocketMq};

/// The broker of a process.
#[derive(Clone)]
pub enum Broker {
    /// A RocketMQ cluster, embedded or outside.
    RocketMq(RocketMq),
    /// None: messages go straight to the handlers of this process (`mq.enabled = false`).
    Local(Local),
}

impl Broker {
    /// Publishes messages; for each, in order, whether it is safe with the broker now.
    pub async fn publish(&self, batch: &[Outgoing]) -> Vec<Result<(), PublishError>> {
        match self {
            Self::RocketMq(cluster) => cluster.publish(batch).await,
            Self::Local(local) => local.publish(batch).await,
        }
    }
}
