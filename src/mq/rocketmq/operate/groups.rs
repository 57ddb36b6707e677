//! Consumer groups: who is in them and how far they are.

use std::collections::{BTreeMap, BTreeSet};

use rocketmq_client_rust::{ConsumerAdmin, OffsetAdmin};

use super::{known, message_queue, queue_id};
use crate::mq::message::QueueId;
use crate::mq::operate::{Committed, Member, Subscription};
use crate::mq::rocketmq::{ADMIN_TIMEOUT, MqError, RETRY_PREFIX, RocketMq};

impl RocketMq {
    /// The consumer groups that any master broker has a configuration for, sorted.
    ///
    /// # Errors
    /// [`MqError`] when a broker is away.
    pub async fn groups(&self) -> Result<Vec<String>, MqError> {
        let timeout_ms = u64::try_from(ADMIN_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
        let mut names = BTreeSet::new();
        for addr in self.master_addrs().await?.into_values() {
            let table = self
                .ask("list the consumer groups", async |admin| {
                    admin.get_all_subscription_group(addr.as_str().into(), timeout_ms).await
                })
                .await?;
            names.extend(table.get_subscription_group_table().keys().map(ToString::to_string));
        }
        Ok(names.into_iter().collect())
    }

    /// The topics that a group has committed offsets for, without its own retry topic, sorted.
    ///
    /// # Errors
    /// [`MqError`] when a broker is away.
    pub async fn topics_of(&self, group: &str) -> Result<Vec<String>, MqError> {
        let timeout_ms = u64::try_from(ADMIN_TIMEOUT.as_millis()).ok();
        let mut topics = BTreeSet::new();
        for addr in self.master_addrs().await?.into_values() {
            let stats = self
                .ask("read the group's topics", async |admin| {
                    let addr = Some(addr.as_str().into());
                    admin.examine_consume_stats(group.into(), None, None, addr, timeout_ms).await
                })
                .await;
            match stats {
                Ok(stats) => topics.extend(stats.offset_table.keys().map(|queue| queue.topic_str().to_owned())),
                // "Not consumed here" is an error to the client, and an answer to us.
                Err(MqError::Client { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        topics.retain(|topic| *topic != format!("{RETRY_PREFIX}{group}"));
        Ok(topics.into_iter().collect())
    }

    /// How far a group is in every queue of `topic`, also where it has committed nothing; by queue.
    ///
    /// # Errors
    /// [`MqError`] when a broker of the topic is away, or there is no such topic.
    pub async fn committed(&self, group: &str, topic: &str) -> Result<Vec<Committed>, MqError> {
        let masters = self.master_addrs().await?;
        let (ranges, _) = self.queue_ranges(topic).await?;
        let brokers: BTreeSet<String> = ranges.iter().map(|range| range.queue.broker.clone()).collect();
        let timeout_ms = u64::try_from(ADMIN_TIMEOUT.as_millis()).ok();
        let mut offsets = BTreeMap::new();
        for broker in &brokers {
            let Some(addr) = masters.get(broker) else { continue };
            let stats = self
                .ask("read the group's offsets", async |admin| {
                    let addr = Some(addr.as_str().into());
                    admin.examine_consume_stats(group.into(), Some(topic.into()), None, addr, timeout_ms).await
                })
                .await?;
            for (queue, wrapper) in stats.offset_table {
                offsets.insert(queue_id(&queue), wrapper);
            }
        }
        let committed = ranges.into_iter().map(|range| {
            let found = offsets.get(&range.queue);
            Committed {
                broker_offset: range.max,
                consumer_offset: found.map(|offsets| offsets.get_consumer_offset()).filter(|offset| *offset >= 0),
                last_consumed_ms: found.and_then(|offsets| known(offsets.get_last_timestamp())),
                queue: range.queue,
            }
        });
        Ok(committed.collect())
    }

    /// Sets what a group consumes next in one queue. A member that has the queue commits over it: stop the group
    /// before.
    ///
    /// # Errors
    /// [`MqError`] when the broker is away or refuses.
    pub async fn set_offset(&self, group: &str, queue: &QueueId, offset: i64) -> Result<(), MqError> {
        let masters = self.master_addrs().await?;
        let Some(addr) = masters.get(&queue.broker) else { return Err(MqError::NoBroker) };
        let offset = u64::try_from(offset).map_err(|_| MqError::Config(format!("offset {offset} is below 0")))?;
        let queue = message_queue(queue);
        self.ask("write an offset", async |admin| {
            admin.update_consume_offset(addr.as_str().into(), group.into(), queue, offset).await
        })
        .await
    }

    /// The offset of the first message of a queue stored at or after `time_ms`; its end when there is none.
    ///
    /// # Errors
    /// [`MqError`] when the broker is away.
    pub async fn offset_at(&self, queue: &QueueId, time_ms: i64) -> Result<i64, MqError> {
        let masters = self.master_addrs().await?;
        let Some(addr) = masters.get(&queue.broker) else { return Err(MqError::NoBroker) };
        let (time_ms, timeout_ms) = (u64::try_from(time_ms).unwrap_or(0), 5_000);
        let found = self
            .ask("look up an offset by time", async |admin| {
                let (addr, topic) = (addr.as_str().into(), queue.topic.as_str().into());
                admin.search_offset(addr, topic, queue.queue, time_ms, timeout_ms).await
            })
            .await?;
        Ok(i64::try_from(found).unwrap_or(i64::MAX))
    }

    /// The clients that are connected as members of a group, on any master, by client id. What a member does not
    /// tell (its queues, while it is busy or speaks an older protocol) is left empty.
    ///
    /// # Errors
    /// [`MqError`] when a broker is away.
    pub async fn members(&self, group: &str) -> Result<Vec<Member>, MqError> {
        let mut members: BTreeMap<String, Member> = BTreeMap::new();
        for addr in self.master_addrs().await?.into_values() {
            let asked = self
                .ask("list the members of a group", async |admin| {
                    admin.examine_consumer_connection_info(group.into(), Some(addr.as_str().into())).await
                })
                .await;
            let connections = match asked {
                Ok(connections) => connections,
                // "Not online" is an error to the client, and an answer to us.
                Err(MqError::Client { .. }) => continue,
                Err(error) => return Err(error),
            };
            for connection in connections.get_connection_set() {
                let client_id = connection.get_client_id().to_string();
                members.entry(client_id.clone()).or_insert_with(|| Member {
                    client_id,
                    addr: connection.get_client_addr().to_string(),
                    language: format!("{:?}", connection.get_language()),
                    subscriptions: Vec::new(),
                    queues: Vec::new(),
                });
            }
        }
        for member in members.values_mut() {
            let client = member.client_id.clone();
            let info = self
                .ask("ask a member what it does", async |admin| {
                    admin.get_consumer_running_info(group.into(), client.as_str().into(), false, None).await
                })
                .await;
            match info {
                Ok(info) => {
                    member.queues = info.mq_table.keys().map(queue_id).collect();
                    member.queues.sort();
                    let subscriptions = info.subscription_set.iter().map(|one| Subscription {
                        topic: one.topic.to_string(),
                        expression: one.sub_string.to_string(),
                    });
                    member.subscriptions = subscriptions.collect();
                    member.subscriptions.sort();
                }
                Err(error) => tracing::debug!(group, client, %error, "a member does not say what it does"),
            }
        }
        Ok(members.into_values().collect())
    }
}
