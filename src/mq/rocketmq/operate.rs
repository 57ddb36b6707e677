//! An operator's calls, on any cluster. Every call names the broker that it asks, and none moves an offset unless it
//! says so.

mod groups;
mod messages;
mod topics;

use std::collections::BTreeMap;

use rocketmq_client_rust::{ClientError, DefaultMQAdminExt, RouteAdmin};
use rocketmq_model::common::message::message_queue::MessageQueue;

use super::{ADMIN_TIMEOUT, MqError, RocketMq, within};
use crate::mq::message::QueueId;
use crate::mq::operate::BrokerNode;

/// RocketMQ numbers the master of a broker group 0.
const MASTER_ID: u64 = 0;

impl RocketMq {
    /// Every broker process that the name servers know, by cluster, name and id.
    ///
    /// # Errors
    /// [`MqError`] when no name server answers, or none knows a broker.
    pub async fn brokers(&self) -> Result<Vec<BrokerNode>, MqError> {
        let info = self.ask("read the broker list", async |admin| admin.examine_broker_cluster_info().await).await?;
        let mut nodes: Vec<BrokerNode> = Vec::new();
        for (name, broker) in info.broker_addr_table.unwrap_or_default() {
            for (id, addr) in broker.broker_addrs() {
                nodes.push(BrokerNode {
                    cluster: broker.cluster().to_owned(),
                    name: name.to_string(),
                    id: *id,
                    addr: addr.to_string(),
                });
            }
        }
        nodes.sort();
        if nodes.is_empty() { Err(MqError::NoBroker) } else { Ok(nodes) }
    }

    /// Broker name → address of its master. Brokers without a master are missing.
    async fn master_addrs(&self) -> Result<BTreeMap<String, String>, MqError> {
        let masters = self.brokers().await?.into_iter().filter(|node| node.id == MASTER_ID);
        let masters: BTreeMap<String, String> = masters.map(|node| (node.name, node.addr)).collect();
        if masters.is_empty() { Err(MqError::NoBroker) } else { Ok(masters) }
    }

    /// One call of the administration client. `call` must not ask for another one: the client serves one at a time.
    async fn ask<T>(
        &self,
        operation: &'static str,
        call: impl AsyncFnOnce(&DefaultMQAdminExt) -> Result<T, ClientError>,
    ) -> Result<T, MqError> {
        let guard = self.admin().await?;
        let Some(admin) = guard.as_ref() else { return Err(MqError::NoBroker) };
        within(operation, ADMIN_TIMEOUT, Box::pin(call(admin))).await
    }
}

fn queue_id(queue: &MessageQueue) -> QueueId {
    QueueId { topic: queue.topic_str().to_owned(), broker: queue.broker_name().to_string(), queue: queue.queue_id() }
}

fn message_queue(queue: &QueueId) -> MessageQueue {
    MessageQueue::from_parts(queue.topic.as_str(), queue.broker.as_str(), queue.queue)
}

/// A time or offset that a broker reports: it says 0 or less where it knows none.
fn known(value: i64) -> Option<i64> {
    (value > 0).then_some(value)
}
