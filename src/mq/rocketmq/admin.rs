//! What the client asks of the cluster besides sending and consuming.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rocketmq_client_rust::{ConsumerAdmin, DefaultMQAdminExt, RouteAdmin, TopicAdmin};
use rocketmq_model::topic::TopicConfig;
use rocketmq_protocol::protocol::namespace_util::NamespaceUtil;
use tokio::net::TcpStream;
use tokio::sync::MutexGuard;
use tokio::time::Instant;

use super::{ADMIN_TIMEOUT, LIFECYCLE_TIMEOUT, MqError, RocketMq, answer, within};
use crate::mq::message::QueueId;
use crate::mq::operate::Standing;

/// How long a new topic may take to reach the name servers.
const ROUTE_WAIT: Duration = Duration::from_secs(10);
/// How long a broker may take to answer that it is there.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// RocketMQ numbers the master of a broker group 0.
pub(super) const MASTER_ID: u64 = 0;

impl RocketMq {
    /// Makes the topics (catalogue names) that are missing, with `queues` queues on every broker, and waits until they
    /// can be used. Topics that exist are left as they are.
    ///
    /// # Errors
    /// [`MqError`] when the cluster is away, knows no broker, or forbids it.
    pub async fn ensure_topics(&self, topics: &[String], queues: i32) -> Result<(), MqError> {
        let physical: Vec<String> = topics.iter().map(|topic| self.shared.names.physical(topic).to_owned()).collect();
        self.create_topics(&physical, queues).await
    }

    pub(super) async fn create_topics(&self, topics: &[String], queues: i32) -> Result<(), MqError> {
        let queues = u32::try_from(queues).map_err(|_| MqError::Config(format!("{queues} queues")))?;
        let masters = self.masters().await?;
        let guard = self.admin().await?;
        let Some(admin) = guard.as_ref() else { return Err(MqError::NoBroker) };
        let mut created = Vec::new();
        for topic in topics {
            let name = self.with_namespace(topic);
            for master in &masters {
                let known = admin.examine_topic_config(master.as_str().into(), name.as_str().into());
                if within("look up a topic", ADMIN_TIMEOUT, Box::pin(known)).await.is_ok() {
                    continue;
                }
                let config = TopicConfig::with_queues(name.as_str(), queues, queues);
                let create = admin.create_and_update_topic_config(master.as_str().into(), config);
                within("create a topic", ADMIN_TIMEOUT, Box::pin(create)).await?;
                created.push(name.clone());
            }
        }
        created.dedup();
        for name in created {
            wait_for_route(admin, &name).await?;
        }
        Ok(())
    }

    /// True when a broker answers.
    pub async fn is_reachable(&self) -> bool {
        self.probe().await.values().any(|answers| *answers)
    }

    /// The addresses of the master brokers, and whether each answers a request: those that the name servers know, and
    /// while they are silent, those that they have named before.
    pub async fn probe(&self) -> BTreeMap<String, bool> {
        let known = &self.shared.known_masters;
        match self.masters().await {
            Ok(masters) => *known.lock().unwrap_or_else(PoisonError::into_inner) = masters.into_iter().collect(),
            Err(error) => tracing::debug!(%error, "no name server answers"),
        }
        let masters = known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let looks = masters.into_iter().map(|master| async move {
            let answers = self.answers(&master).await;
            (master, answers)
        });
        futures_util::future::join_all(looks).await.into_iter().collect()
    }

    /// True when the broker at `master` answers, whatever it says: a socket that is open may belong to one that hangs.
    pub(super) async fn answers(&self, master: &str) -> bool {
        let connect = tokio::time::timeout(PROBE_TIMEOUT, TcpStream::connect(master));
        if !matches!(connect.await, Ok(Ok(_))) {
            return false;
        }
        // The second try is with a new client: one that could not connect for a while refuses to, for some time.
        for _ in 0..2 {
            let Ok(mut guard) = self.admin().await else { return false };
            let Some(admin) = guard.as_ref() else { return false };
            let topic = self.with_namespace("ORDER_CREATED");
            let call = admin.examine_topic_config(master.into(), topic.as_str().into());
            match tokio::time::timeout(PROBE_TIMEOUT, Box::pin(call)).await {
                Ok(Ok(_)) => return true,
                Ok(Err(error)) if answer(&error).is_some() => return true,
                _ => drop_client(guard.take()),
            }
        }
        false
    }

    /// Where `group` stands in each queue of `topics` (catalogue names).
    ///
    /// # Errors
    /// [`MqError`] when the cluster is away.
    pub async fn lag(&self, group: &str, topics: &[String]) -> Result<Vec<(QueueId, Standing)>, MqError> {
        let group = self.with_namespace(group);
        let mut consumed: Option<Vec<String>> = None;
        let mut standings = Vec::new();
        for topic in topics {
            let physical = self.shared.names.physical(topic);
            let name = self.with_namespace(physical);
            let mut part = self.told(&group, &name, physical).await?;
            if part.iter().any(|(_, standing)| standing.lag().is_none()) {
                // A broker leaves out what the last heartbeat of a member did not name, however much lies there.
                let consumed = match &mut consumed {
                    Some(consumed) => consumed,
                    none => none.insert(self.consumed_topics(&group).await.unwrap_or_default()),
                };
                if consumed.contains(&name) {
                    // Who may consume need not be one who may ask for this: then it stays unknown.
                    part = self.exactly(&group, &name).await.unwrap_or(part);
                }
            }
            for (mut queue, standing) in part {
                topic.clone_into(&mut queue.topic);
                standings.push((queue, standing));
            }
        }
        Ok(standings)
    }

    /// What brokers say at once of a group in a topic, for each queue of the topic.
    async fn told(&self, group: &str, name: &str, physical: &str) -> Result<Vec<(QueueId, Standing)>, MqError> {
        let guard = self.admin().await?;
        let Some(admin) = guard.as_ref() else { return Err(MqError::NoBroker) };
        let timeout_ms = u64::try_from(ADMIN_TIMEOUT.as_millis()).ok();
        let stats = admin.examine_consume_stats(group.into(), Some(name.into()), None, None, timeout_ms);
        let stats = within("read consume statistics", ADMIN_TIMEOUT, Box::pin(stats)).await;
        drop(guard);

        let known = stats.map(|stats| stats.offset_table).unwrap_or_default();
        let mut standings = Vec::new();
        for (broker, queue) in self.queues_of(physical).await? {
            let offsets = known.iter().find(|(mq, _)| mq.broker_name().as_str() == broker && mq.queue_id() == queue);
            let standing = offsets.map_or(Standing::Unknown, |(_, offsets)| {
                Standing::of(offsets.get_broker_offset(), Some(offsets.get_consumer_offset()))
            });
            standings.push((QueueId { topic: name.to_owned(), broker, queue }, standing));
        }
        Ok(standings)
    }

    /// Queue by queue, which takes longer.
    async fn exactly(&self, group: &str, name: &str) -> Result<Vec<(QueueId, Standing)>, MqError> {
        let queues = self.committed(group, name).await?;
        Ok(queues.into_iter().map(|queue| (queue.queue.clone(), queue.standing())).collect())
    }

    /// Where `group`, which may be anybody's, stands in each queue of every topic that it has consumed from, its own
    /// topic of retries among them.
    ///
    /// # Errors
    /// [`MqError`] when the cluster is away.
    pub async fn lag_of_group(&self, group: &str) -> Result<Vec<(QueueId, Standing)>, MqError> {
        let group = self.with_namespace(group);
        let mut standings = Vec::new();
        for name in self.consumed_topics(&group).await? {
            for (mut queue, standing) in self.exactly(&group, &name).await? {
                queue.topic = self.shared.names.logical(&name).to_owned();
                standings.push((queue, standing));
            }
        }
        standings.sort();
        Ok(standings)
    }

    async fn queues_of(&self, physical: &str) -> Result<Vec<(String, i32)>, MqError> {
        let mut producer = self.shared.sender().producer.clone();
        let call = Box::pin(producer.fetch_publish_message_queues(physical));
        let queues = within("read a route", ADMIN_TIMEOUT, call).await?;
        let mut queues: Vec<_> =
            queues.iter().map(|queue| (queue.broker_name().to_string(), queue.queue_id())).collect();
        queues.sort();
        Ok(queues)
    }

    /// Addresses of the master brokers.
    pub(super) async fn masters(&self) -> Result<Vec<String>, MqError> {
        let mut guard = self.admin().await?;
        let Some(admin) = guard.as_ref() else { return Err(MqError::NoBroker) };
        let call = Box::pin(admin.examine_broker_cluster_info());
        let cluster = match within("read the broker list", ADMIN_TIMEOUT, call).await {
            Ok(cluster) => cluster,
            Err(error) => {
                // As with a producer: a new one does not remember that connecting failed.
                drop_client(guard.take());
                return Err(error);
            }
        };
        let brokers = cluster.broker_addr_table.unwrap_or_default();
        let masters: Vec<String> = brokers
            .values()
            .filter_map(|broker| broker.broker_addrs().get(&MASTER_ID))
            .map(ToString::to_string)
            .collect();
        if masters.is_empty() { Err(MqError::NoBroker) } else { Ok(masters) }
    }

    /// The administration client, started when first needed.
    pub(super) async fn admin(&self) -> Result<MutexGuard<'_, Option<DefaultMQAdminExt>>, MqError> {
        let mut guard = self.shared.admin.lock().await;
        if guard.is_none() {
            let runtime = Arc::clone(&self.shared.client_runtime);
            let hook = Arc::clone(&self.shared.hook);
            let mut admin = DefaultMQAdminExt::with_rpc_hook_and_timeout(runtime, hook, ADMIN_TIMEOUT);
            let instance = self.shared.next_instance();
            *admin.client_config_mut() = self.shared.client_config(&instance);
            within("start the administration client", LIFECYCLE_TIMEOUT, Box::pin(admin.start())).await?;
            *guard = Some(admin);
        }
        Ok(guard)
    }

    /// The name of a topic or group as brokers know it.
    #[must_use]
    pub fn with_namespace(&self, name: &str) -> String {
        match &self.shared.config.namespace {
            Some(namespace) => NamespaceUtil::wrap_namespace(namespace.as_str(), name).to_string(),
            None => name.to_owned(),
        }
    }
}

fn drop_client(admin: Option<DefaultMQAdminExt>) {
    if let Some(mut failed) = admin {
        tokio::spawn(async move { failed.shutdown().await });
    }
}

async fn wait_for_route(admin: &DefaultMQAdminExt, name: &str) -> Result<(), MqError> {
    let deadline = Instant::now() + ROUTE_WAIT;
    loop {
        let call = Box::pin(admin.examine_topic_route_info(name.into()));
        let outcome = within("read the route of a new topic", ADMIN_TIMEOUT, call).await;
        match outcome {
            Ok(Some(route)) if !route.queue_datas.is_empty() => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Ok(_) if Instant::now() >= deadline => {
                return Err(MqError::Timeout {
                    operation: "wait for the route of a new topic",
                    timeout_ms: ROUTE_WAIT.as_millis(),
                });
            }
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
