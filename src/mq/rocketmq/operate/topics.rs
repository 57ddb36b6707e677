//! Topics: what is there, and changing it.

use rocketmq_client_rust::TopicAdmin;
use rocketmq_model::topic::TopicConfig;

use super::{known, queue_id};
use crate::mq::operate::{Permission, QueueRange, TopicPart, TopicSpec};
use crate::mq::rocketmq::{MqError, RocketMq};

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
            let known = self.topic_config(&addr, name).await;
            let config = match known {
                Ok(config) => config,
                // The broker says "no such topic" with an error; any other trouble is the caller's to know.
                Err(MqError::Client { .. }) => continue,
                Err(error) => return Err(error),
            };
            parts.push(TopicPart {
                broker,
                addr,
                read_queues: config.read_queue_nums,
                write_queues: config.write_queue_nums,
                permission: Permission::of_bits(config.perm),
                message_type: message_type(&config).unwrap_or_else(|| String::from("NORMAL")),
            });
        }
        Ok(parts)
    }

    /// Makes a topic on one broker (its address), or changes it to what `spec` says.
    ///
    /// # Errors
    /// [`MqError`] when the broker is away or refuses.
    pub async fn put_topic(&self, addr: &str, spec: &TopicSpec) -> Result<(), MqError> {
        let mut config = self.topic_config(addr, &spec.name).await.unwrap_or_else(|_| {
            let mut fresh = TopicConfig::new(spec.name.as_str());
            fresh.attributes.clear();
            fresh
        });
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
        let mut ranges = Vec::new();
        let mut per_second = 0.0;
        for broker in route.map(|route| route.broker_datas).unwrap_or_default() {
            let Some(addr) = broker.broker_addrs().get(&super::MASTER_ID).map(ToString::to_string) else { continue };
            let stats = self
                .ask("read the topic's offsets", async |admin| {
                    admin.examine_topic_stats(topic.into(), Some(addr.as_str().into())).await
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

    async fn topic_config(&self, addr: &str, name: &str) -> Result<TopicConfig, MqError> {
        self.ask("look up a topic", async |admin| admin.examine_topic_config(addr.into(), name.into()).await).await
    }
}

fn message_type(config: &TopicConfig) -> Option<String> {
    let found = config.attributes.iter().find(|(name, _)| name.trim_start_matches('+') == MESSAGE_TYPE);
    found.map(|(_, value)| value.to_string())
}
