//! An operator's calls, on any cluster. Every call names the broker that it asks, and none moves an offset unless it
//! says so.

mod brokers;
mod groups;
mod messages;
mod topics;

use std::collections::BTreeMap;
use std::sync::PoisonError;

use rocketmq_client_rust::{ClientError, DefaultMQAdminExt, RouteAdmin};
use rocketmq_model::common::message::message_queue::MessageQueue;

use super::admin::MASTER_ID;
use super::{ADMIN_TIMEOUT, MqError, RocketMq, within};
use crate::mq::message::QueueId;
use crate::mq::operate::BrokerNode;

/// Response codes that are answers rather than failures.
const TOPIC_NOT_EXIST: i32 = 17;
const QUERY_NOT_FOUND: i32 = 22;
const SUBSCRIPTION_GROUP_NOT_EXIST: i32 = 26;
const CONSUMER_NOT_ONLINE: i32 = 206;

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

    /// Names of the brokers that belong to the cluster as it is configured, and of which no name server knows a master.
    ///
    /// # Errors
    /// [`MqError`] when no name server answers, or none knows a broker.
    pub async fn missing_brokers(&self) -> Result<Vec<String>, MqError> {
        if self.shared.config.brokers.is_empty() {
            return Ok(Vec::new());
        }
        let nodes = self.brokers().await?;
        let is_there = |name: &String| nodes.iter().any(|node| node.name == *name && node.is_master());
        Ok(self.shared.config.brokers.iter().filter(|name| !is_there(name)).cloned().collect())
    }

    /// Asks every master whether it is there. Those that do not answer are returned, for the caller to tell, and are
    /// left out of all that is asked from now on; unless this was called, a silent broker makes every question fail.
    ///
    /// # Errors
    /// [`MqError`] when no name server answers, or no master does.
    pub async fn leave_out_silent(&self) -> Result<Vec<BrokerNode>, MqError> {
        let mut silent = Vec::new();
        let mut masters = 0;
        for node in self.brokers().await?.into_iter().filter(BrokerNode::is_master) {
            masters += 1;
            if !self.answers(&node.addr).await {
                silent.push(node);
            }
        }
        if masters == silent.len() {
            let operation = "reach any of the brokers that the name servers know";
            let silent: Vec<String> = silent.iter().map(|node| format!("{} ({})", node.name, node.addr)).collect();
            return Err(MqError::Silent { operation, brokers: silent.join(", ") });
        }
        let addrs = silent.iter().map(|node| node.addr.clone()).collect();
        *self.shared.left_out.lock().unwrap_or_else(PoisonError::into_inner) = addrs;
        Ok(silent)
    }

    /// True for the address of a broker that [`RocketMq::leave_out_silent`] found silent.
    #[must_use]
    pub fn is_left_out(&self, addr: &str) -> bool {
        self.shared.left_out.lock().unwrap_or_else(PoisonError::into_inner).contains(addr)
    }

    /// Some broker was left out.
    fn leaves_out(&self) -> bool {
        !self.shared.left_out.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Broker name → address of its master. Brokers without a master, and those that were left out, are missing.
    ///
    /// # Errors
    /// [`MqError`] when no name server answers, or none knows a master.
    pub async fn master_addrs(&self) -> Result<BTreeMap<String, String>, MqError> {
        let masters = self.brokers().await?.into_iter().filter(BrokerNode::is_master);
        let masters = masters.filter(|node| !self.is_left_out(&node.addr));
        let masters: BTreeMap<String, String> = masters.map(|node| (node.name, node.addr)).collect();
        if masters.is_empty() { Err(MqError::NoBroker) } else { Ok(masters) }
    }

    /// Address of the master that has this queue.
    pub(super) async fn master_of(&self, queue: &QueueId) -> Result<String, MqError> {
        self.master_addrs().await?.remove(&queue.broker).ok_or(MqError::NoBroker)
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

impl MqError {
    /// What a server answered instead of doing it: RocketMQ's code.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        let Self::Client { source, .. } = self else { return None };
        super::answer(source).map(|(code, _)| code)
    }
}

/// True when a server answered with one of `codes`.
fn says(error: &MqError, codes: &[i32]) -> bool {
    error.code().is_some_and(|code| codes.contains(&code))
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
