//! Consumer groups: who is in them and how far they are.

use std::collections::{BTreeMap, BTreeSet};

use rocketmq_client_rust::{ConsumerAdmin, MQAdminMutationExt, OffsetAdmin, TopicAdmin};
use rocketmq_protocol::protocol::body::consumer_running_info::ConsumerRunningInfo;
use rocketmq_protocol::protocol::subscription::subscription_group_config::SubscriptionGroupConfig;

use super::{
    CONSUMER_NOT_ONLINE, QUERY_NOT_FOUND, SUBSCRIPTION_GROUP_NOT_EXIST, TOPIC_NOT_EXIST, known, message_queue,
    queue_id, says,
};
use crate::mq::message::QueueId;
use crate::mq::operate::{Committed, Member, QueueRange, Subscription};
use crate::mq::rocketmq::{ADMIN_TIMEOUT, MqError, RETRY_PREFIX, RocketMq};

impl RocketMq {
    /// The consumer groups that any master broker has a configuration for, sorted.
    ///
    /// # Errors
    /// [`MqError`] when a broker is away.
    pub async fn groups(&self) -> Result<Vec<String>, MqError> {
        let names: BTreeSet<String> = self.group_table().await?.into_values().flatten().collect();
        Ok(names.into_iter().collect())
    }

    /// Broker name → the consumer groups that its master has a configuration for.
    ///
    /// # Errors
    /// [`MqError`] when a broker is away.
    pub async fn group_table(&self) -> Result<BTreeMap<String, BTreeSet<String>>, MqError> {
        let timeout_ms = u64::try_from(ADMIN_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
        let mut table = BTreeMap::new();
        for (broker, addr) in self.master_addrs().await? {
            let found = self
                .ask("list the consumer groups", async |admin| {
                    admin.get_all_subscription_group(addr.as_str().into(), timeout_ms).await
                })
                .await?;
            let names = found.get_subscription_group_table().keys().map(ToString::to_string).collect();
            table.insert(broker, names);
        }
        Ok(table)
    }

    /// Makes a consumer group on one broker (its address), with RocketMQ's defaults.
    ///
    /// # Errors
    /// [`MqError`] when the broker is away or refuses.
    pub async fn create_group(&self, addr: &str, group: &str) -> Result<(), MqError> {
        let config = SubscriptionGroupConfig::new(group.into());
        self.ask("make a consumer group", async |admin| {
            admin.create_and_update_subscription_group_config(addr.into(), config).await
        })
        .await
    }

    /// The topics that a group has committed offsets for, without its own retry topic, sorted.
    ///
    /// # Errors
    /// [`MqError`] when a broker is away.
    pub async fn topics_of(&self, group: &str) -> Result<Vec<String>, MqError> {
        let mut topics = self.consumed_topics(group).await?;
        topics.retain(|topic| *topic != format!("{RETRY_PREFIX}{group}"));
        Ok(topics)
    }

    /// As [`RocketMq::topics_of`], with its own retry topic.
    ///
    /// # Errors
    /// [`MqError`] when a broker is away.
    pub async fn consumed_topics(&self, group: &str) -> Result<Vec<String>, MqError> {
        let mut topics = BTreeSet::new();
        for addr in self.master_addrs().await?.into_values() {
            topics.extend(self.consumed_on(&addr, group, None).await?.into_keys().map(|queue| queue.topic));
        }

        // While members are online, that answer lacks what the last of their heartbeats did not name. This one has it,
        // and is found by the group's retry topic, which its first member makes.
        let told =
            self.ask("list a group's topics", async |admin| admin.query_topics_by_consumer(group.into()).await).await;
        match told {
            Ok(list) => {
                for topic in list.topic_list.iter().map(ToString::to_string) {
                    // Brokers remember offsets in topics that are gone.
                    if !topics.contains(&topic) && !self.topic(&topic).await?.is_empty() {
                        topics.insert(topic);
                    }
                }
            }
            Err(error) if says(&error, &[TOPIC_NOT_EXIST]) => {}
            // It may have asked a broker that was left out, which was told already.
            Err(error) if self.leaves_out() => tracing::debug!(group, %error, "not all of its topics are known"),
            Err(error) => return Err(error),
        }
        Ok(topics.into_iter().collect())
    }

    /// What one broker says of a group: per queue its offset and when the last consumed message was stored. It says 0
    /// for a queue in which the group has committed nothing.
    async fn consumed_on(
        &self,
        addr: &str,
        group: &str,
        topic: Option<&str>,
    ) -> Result<BTreeMap<QueueId, (i64, Option<i64>)>, MqError> {
        let timeout_ms = u64::try_from(ADMIN_TIMEOUT.as_millis()).ok();
        let stats = self
            .ask("read the group's offsets", async |admin| {
                admin
                    .examine_consume_stats(group.into(), topic.map(Into::into), None, Some(addr.into()), timeout_ms)
                    .await
            })
            .await;
        match stats {
            Ok(stats) => Ok(stats
                .offset_table
                .into_iter()
                .map(|(queue, offsets)| {
                    (queue_id(&queue), (offsets.get_consumer_offset(), known(offsets.get_last_timestamp())))
                })
                .collect()),
            // "Not consumed here" is an error to some brokers, and an answer to us.
            Err(error) if says(&error, &[CONSUMER_NOT_ONLINE, SUBSCRIPTION_GROUP_NOT_EXIST, TOPIC_NOT_EXIST]) => {
                Ok(BTreeMap::new())
            }
            Err(error) => Err(error),
        }
    }

    /// What the group has committed in one queue, whoever is online; none where it has committed nothing.
    pub(in crate::mq::rocketmq) async fn committed_in(
        &self,
        addr: &str,
        group: &str,
        queue: &QueueId,
    ) -> Result<Option<i64>, MqError> {
        let found = self
            .ask("read an offset", async |admin| {
                let (addr, group, topic) = (addr.into(), group.into(), queue.topic.as_str().into());
                admin.mutation_consumer_offset(addr, group, topic, queue.queue).await
            })
            .await;
        match found {
            Ok(offset) => Ok((offset >= 0).then_some(offset)),
            Err(error) if says(&error, &[QUERY_NOT_FOUND]) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How far a group is in every queue of `topic`, also where it has committed nothing; by queue.
    ///
    /// # Errors
    /// [`MqError`] when a broker of the topic is away, or there is no such topic.
    pub async fn committed(&self, group: &str, topic: &str) -> Result<Vec<Committed>, MqError> {
        let masters = self.master_addrs().await?;
        let (mut ranges, _) = self.queue_ranges(topic).await?;
        let brokers: BTreeSet<String> = ranges.iter().map(|range| range.queue.broker.clone()).collect();
        let mut told = BTreeMap::new();
        for addr in brokers.iter().filter_map(|broker| masters.get(broker)) {
            told.extend(self.consumed_on(addr, group, Some(topic)).await?);
        }

        // A broker says 0 where it knows nothing, and nothing at all of what the last heartbeat of a member did not
        // name.
        let mut offsets: BTreeMap<QueueId, Option<i64>> = BTreeMap::new();
        let is_told = |range: &QueueRange| told.get(&range.queue).is_some_and(|(offset, _)| *offset > 0);
        let is_consumed =
            !ranges.iter().all(is_told) && self.consumed_topics(group).await?.iter().any(|name| name == topic);
        for queue in ranges.iter().map(|range| &range.queue) {
            let offset = match (told.get(queue), masters.get(&queue.broker)) {
                (Some((offset, _)), _) if *offset > 0 => Some(*offset),
                (_, Some(addr)) if is_consumed => self.committed_in(addr, group, queue).await?,
                _ => None,
            };
            offsets.insert(queue.clone(), offset);
        }

        // What was stored and consumed since the ends were read is not beyond them.
        let is_beyond = |range: &QueueRange| offsets.get(&range.queue).copied().flatten() > Some(range.max);
        if ranges.iter().any(is_beyond) {
            ranges = self.queue_ranges(topic).await?.0;
        }
        let committed = ranges.into_iter().map(|range| Committed {
            broker_offset: range.max,
            consumer_offset: offsets.get(&range.queue).copied().flatten(),
            last_consumed_ms: told.get(&range.queue).and_then(|(_, at_ms)| *at_ms),
            queue: range.queue,
        });
        Ok(committed.collect())
    }

    /// When the oldest message that the group has not consumed in this queue was stored; `addrs` as
    /// [`RocketMq::master_addrs`] gives them. None where the group has committed nothing, or is at the end.
    ///
    /// # Errors
    /// [`MqError`] when the broker is away.
    pub async fn oldest_unconsumed(
        &self,
        addrs: &BTreeMap<String, String>,
        queue: &Committed,
    ) -> Result<Option<i64>, MqError> {
        match (queue.consumer_offset, addrs.get(&queue.queue.broker)) {
            (Some(offset), Some(addr)) if offset < queue.broker_offset => {
                self.stored_at(addr, &queue.queue, offset).await
            }
            _ => Ok(None),
        }
    }

    /// Sets what a group consumes next in one queue. A member that has the queue commits over it: stop the group
    /// before.
    ///
    /// # Errors
    /// [`MqError`] when the broker is away or refuses.
    pub async fn set_offset(&self, group: &str, queue: &QueueId, offset: i64) -> Result<(), MqError> {
        let addr = self.master_of(queue).await?;
        let offset = u64::try_from(offset).map_err(|_| MqError::Config(format!("offset {offset} is below 0")))?;
        let queue = message_queue(queue);
        self.ask("write an offset", async |admin| {
            admin.update_consume_offset(addr.as_str().into(), group.into(), queue, offset).await
        })
        .await
    }

    /// Sets what a group consumes next in one queue, and has its broker take the member that has the queue there: with
    /// its next pull, which an idle member repeats within its long poll. What the member has in hand it may still
    /// commit, and then goes on from `offset` all the same.
    ///
    /// # Errors
    /// [`MqError`] when the broker is away or refuses: it takes offsets only of what the queue holds.
    pub async fn move_members(&self, group: &str, queue: &QueueId, offset: i64) -> Result<(), MqError> {
        let addr = self.master_of(queue).await?;
        let offset = u64::try_from(offset).map_err(|_| MqError::Config(format!("offset {offset} is below 0")))?;
        self.ask("move a group", async |admin| {
            let (group, topic) = (group.into(), queue.topic.as_str().into());
            admin.reset_offset_by_queue_id(addr.as_str().into(), group, topic, queue.queue, offset).await
        })
        .await
    }

    /// The offset of the first message of a queue stored at or after `time_ms`; its end when there is none.
    ///
    /// # Errors
    /// [`MqError`] when the broker is away.
    pub async fn offset_at(&self, queue: &QueueId, time_ms: i64) -> Result<i64, MqError> {
        let addr = self.master_of(queue).await?;
        let (time_ms, timeout_ms) = (u64::try_from(time_ms).unwrap_or(0), 5_000);
        let found = self
            .ask("look up an offset by time", async |admin| {
                let (addr, topic) = (addr.as_str().into(), queue.topic.as_str().into());
                admin.search_offset(addr, topic, queue.queue, time_ms, timeout_ms).await
            })
            .await?;
        Ok(i64::try_from(found).unwrap_or(i64::MAX))
    }

    /// The clients that are connected as members of a group, on any master, by client id, with what each tells about
    /// itself. What a member does not tell (while it is busy or speaks an older protocol) is left empty.
    ///
    /// # Errors
    /// [`MqError`] when a broker is away.
    pub async fn members(&self, group: &str) -> Result<Vec<Member>, MqError> {
        let mut members = self.connections(group).await?;
        for member in &mut members {
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
                    let started = info.properties.get(ConsumerRunningInfo::PROP_CONSUMER_START_TIMESTAMP);
                    member.started_ms = started.and_then(|at_ms| at_ms.parse().ok()).and_then(known);
                    member.pops = !info.mq_pop_table.is_empty();
                }
                Err(error) => tracing::debug!(group, client, %error, "a member does not say what it does"),
            }
        }
        Ok(members)
    }

    /// As [`RocketMq::members`], as the brokers know them: nobody is asked for queues and subscriptions.
    ///
    /// # Errors
    /// [`MqError`] when a broker is away.
    pub async fn connections(&self, group: &str) -> Result<Vec<Member>, MqError> {
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
                Err(error) if says(&error, &[CONSUMER_NOT_ONLINE, SUBSCRIPTION_GROUP_NOT_EXIST]) => continue,
                Err(error) => return Err(error),
            };
            for connection in connections.get_connection_set() {
                let client_id = connection.get_client_id().to_string();
                members.entry(client_id.clone()).or_insert_with(|| Member {
                    client_id,
                    addr: connection.get_client_addr().to_string(),
                    language: format!("{:?}", connection.get_language()),
                    ..Member::default()
                });
            }
        }
        Ok(members.into_values().collect())
    }
}
