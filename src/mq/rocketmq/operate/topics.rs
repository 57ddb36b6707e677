//! Topics: what is there, and changing it.

use std::collections::BTreeMap;

use rocketmq_client_rust::TopicAdmin;
use rocketmq_model::topic::TopicConfig;

use super::{MASTER_ID, TOPIC_NOT_EXIST, known, queue_id, says};
use crate::mq::operate::{Permission, QueueRange, TopicPart, TopicSpec};
use crate::mq::rocketmq::{ADMIN_TIMEOUT, MqError, RocketMq};

/// Attribute of a topic that holds its message type; a `+` sets it.
const MESSAGE_TYPE: &str = "message.type";
const SET_MESSAGE_TYPE: &str = "+message.type";

impl RocketMq {
    /// The names of all topics that the name servers know, RocketMQ's own, `%RETRY%` and `%DLQ%` among them, sorted.
    ///
    /// # Errors
    /// [`MqError`] when no name server answers.
    pub async fn topics(&self) -> Result<Vec<String>, MqError> {
        let list = self.ask("list the topics", async |admin| admin.fetch_all_topic_list().await).await?;
        let mut names: Vec<String> = list.topic_list.iter().map(ToString::to_string).collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// A topic on each master broker that has it, by broker; empty when there is no such topic.
    ///
    /// # Errors
    /// [`MqError`] when the cluster is away.
    pub async fn topic(&self, name: &str) -> Result<Vec<TopicPart>, MqError> {
        let mut parts = Vec::new();
        for (broker, addr) in self.master_addrs().await? {
            if let Some(config) = self.topic_config(&addr, name).await? {
                parts.push(part(broker, addr, &config));
            }
        }
        Ok(parts)
    }

    /// Every topic, by name, on each master broker that has it, by broker.
    ///
    /// # Errors
    /// [`MqError`] when a broker is away.
    pub async fn topic_table(&self) -> Result<BTreeMap<String, Vec<TopicPart>>, MqError> {
        let timeout_ms = u64::try_from(ADMIN_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
        let mut table: BTreeMap<String, Vec<TopicPart>> = BTreeMap::new();
        for (broker, addr) in self.master_addrs().await? {
            let found = self
                .ask("list a broker's topics", async |admin| {
                    admin.get_all_topic_config(addr.as_str().into(), timeout_ms).await
                })
                .await?;
            for (name, config) in found.topic_config_table().into_iter().flatten() {
                table.entry(name.to_string()).or_default().push(part(broker.clone(), addr.clone(), config));
            }
        }
        Ok(table)
    }

    /// Makes a topic on one broker (its address), or changes it to what `spec` says.
    ///
    /// # Errors
    /// [`MqError`] when the broker is away or refuses.
    pub async fn put_topic(&self, addr: &str, spec: &TopicSpec) -> Result<(), MqError> {
        let mut config = match self.topic_config(addr, &spec.name).await? {
            Some(config) => config,
            None => {
                let mut fresh = TopicConfig::new(spec.name.as_str());
                fresh.attributes.clear();
                fresh
            }
        };
        let before = message_type(&config);
        config.read_queue_nums = spec.queues;
        config.write_queue_nums = spec.queues;
        config.perm = spec.permission.bits();
        // What is sent are changes: naming an attribute again as it is would be refused.
        config.attributes.clear();
        if let Some(wanted) = &spec.message_type
            && before.as_ref() != Some(wanted)
        {
            config.attributes.insert(SET_MESSAGE_TYPE.into(), wanted.as_str().into());
        }
        self.ask("write a topic", async |admin| admin.create_and_update_topic_config(addr.into(), config).await).await
    }

    /// Removes a topic and its messages from brokers and name servers of `cluster`.
    ///
    /// # Errors
    /// [`MqError`] when one of them is away or refuses.
    pub async fn delete_topic(&self, cluster: &str, name: &str) -> Result<(), MqError> {
        self.ask("delete a topic", async |admin| admin.delete_topic(name.into(), cluster.into()).await).await
    }

    /// What each queue of a topic holds, on all masters, by queue; and the messages that come per second.
    ///
    /// # Errors
    /// [`MqError`] when a broker of the topic is away, or there is no such topic.
    pub async fn queue_ranges(&self, topic: &str) -> Result<(Vec<QueueRange>, f64), MqError> {
        let route =
            self.ask("read the route", async |admin| admin.examine_topic_route_info(topic.into()).await).await?;
        let brokers = route.map(|route| route.broker_datas).unwrap_or_default();
        let addrs = brokers.iter().filter_map(|broker| broker.broker_addrs().get(&MASTER_ID));
        let addrs: Vec<String> = addrs.map(ToString::to_string).filter(|addr| !self.is_left_out(addr)).collect();
        self.ranges_on(topic, addrs.iter().map(String::as_str)).await
    }

    /// As [`RocketMq::queue_ranges`], on the brokers that are known to have the topic.
    ///
    /// # Errors
    /// [`MqError`] when one of them is away or has no such topic.
    pub async fn ranges_on(
        &self,
        topic: &str,
        addrs: impl IntoIterator<Item = &str>,
    ) -> Result<(Vec<QueueRange>, f64), MqError> {
        let mut ranges = Vec::new();
        let mut per_second = 0.0;
        for addr in addrs {
            let stats = self
                .ask("read the topic's offsets", async |admin| {
                    admin.examine_topic_stats(topic.into(), Some(addr.into())).await
                })
                .await?;
            per_second += stats.get_topic_put_tps();
            for (queue, offsets) in stats.into_offset_table() {
                ranges.push(QueueRange {
                    queue: queue_id(&queue),
                    min: offsets.get_min_offset(),
                    max: offsets.get_max_offset(),
                    last_stored_ms: known(offsets.get_last_update_timestamp()),
                });
            }
        }
        ranges.sort_by(|a, b| a.queue.cmp(&b.queue));
        Ok((ranges, per_second))
    }

    /// The topic's configuration on one broker; none where it is not.
    async fn topic_config(&self, addr: &str, name: &str) -> Result<Option<TopicConfig>, MqError> {
        let found =
            self.ask("look up a topic", async |admin| admin.examine_topic_config(addr.into(), name.into()).await).await;
        match found {
            Ok(config) => Ok(Some(config)),
            Err(error) if says(&error, &[TOPIC_NOT_EXIST]) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn part(broker: String, addr: String, config: &TopicConfig) -> TopicPart {
    TopicPart {
        broker,
        addr,
        read_queues: config.read_queue_nums,
        write_queues: config.write_queue_nums,
        permission: Permission::of_bits(config.perm),
        message_type: message_type(config).unwrap_or_else(|| String::from("NORMAL")),
    }
}

fn message_type(config: &TopicConfig) -> Option<String> {
    let found = config.attributes.iter().find(|(name, _)| name.trim_start_matches('+') == MESSAGE_TYPE);
    found.map(|(_, value)| value.to_string())
}
