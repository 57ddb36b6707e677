//! Reading messages where they lie. Nothing here belongs to a consumer group, so no offset moves.

use std::collections::{BTreeMap, HashMap};

use rocketmq_client_rust::{ConsumerAdmin, PullResult, PullStatus};
use rocketmq_model::common::message::message_ext::MessageExt;
use rocketmq_protocol::common::message::message_decoder::decode_message_id;

use super::message_queue;
use crate::mq::left_behind::Place;
use crate::mq::message::QueueId;
use crate::mq::operate::{Page, StoredMessage};
use crate::mq::rocketmq::frames::restored;
use crate::mq::rocketmq::{ADMIN_TIMEOUT, MqError, RocketMq};

/// Property that the producer's client names a message with.
const UNIQUE_KEY: &str = "UNIQ_KEY";
/// Messages asked of a broker's index at once; Apache RocketMQ gives 64 at most (`maxMsgsNumBatch`).
const INDEX_BATCH: i32 = 64;
/// An answer of so many may have been cut off.
const INDEX_FULL: usize = 32;

impl RocketMq {
    /// Up to `max` messages of a queue from `offset` on; `addr` is the master of its broker (see
    /// [`RocketMq::brokers`]). Apache RocketMQ gives 32 at most at once unless it is configured otherwise.
    ///
    /// # Errors
    /// [`MqError`] when the broker is away or refuses.
    pub async fn read_queue(&self, addr: &str, queue: &QueueId, offset: i64, max: i32) -> Result<Page, MqError> {
        let result = self.pull(addr, queue, offset, max).await?;
        let found = result.msg_found_list().unwrap_or_default();
        let next = i64::try_from(result.next_begin_offset()).unwrap_or(i64::MAX);
        let end = i64::try_from(result.max_offset()).unwrap_or(i64::MAX);
        let messages: Vec<StoredMessage> = found.iter().map(|message| stored(message, &queue.broker)).collect();
        let is_end = match result.pull_status() {
            PullStatus::Found => next >= end,
            PullStatus::NoNewMsg => true,
            // Something between was skipped, or the offset lies outside: go on where the broker says.
            _ => next >= end || next <= offset,
        };
        Ok(Page { messages, next, is_end })
    }

    /// The broker's own answer to [`RocketMq::read_queue`].
    pub(in crate::mq::rocketmq) async fn pull(
        &self,
        addr: &str,
        queue: &QueueId,
        offset: i64,
        max: i32,
    ) -> Result<PullResult, MqError> {
        let timeout_ms = u64::try_from(ADMIN_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
        let wanted = message_queue(queue);
        self.ask("read messages", async |admin| {
            admin.inner().pull_message_from_queue(addr, &wanted, "*", offset, max, timeout_ms).await
        })
        .await
    }

    /// The message that a group of ruyi had from this place; none when it is not there (any more).
    ///
    /// # Errors
    /// [`MqError`] when its broker is away or refuses.
    pub async fn message_at(&self, place: &Place) -> Result<Option<StoredMessage>, MqError> {
        let queue = QueueId { topic: self.on_brokers(&place.queue.topic), ..place.queue.clone() };
        let addr = self.master_of(&queue).await?;
        let page = self.read_queue(&addr, &queue, place.offset, 1).await?;
        Ok(page.messages.into_iter().find(|message| message.offset == place.offset))
    }

    /// When the first message of a queue at or after `offset` was stored; none when there is none.
    ///
    /// # Errors
    /// [`MqError`] when the broker is away or refuses.
    pub async fn stored_at(&self, addr: &str, queue: &QueueId, offset: i64) -> Result<Option<i64>, MqError> {
        let mut page = self.read_queue(addr, queue, offset, 1).await?;
        if page.messages.is_empty() && !page.is_end {
            // The oldest messages have expired meanwhile: go on with what is left.
            page = self.read_queue(addr, queue, page.next, 1).await?;
        }
        Ok(page.messages.first().map(|message| message.stored_ms))
    }

    /// Messages of a topic with this key (one of KEYS) stored in a span of time, newest first, as the brokers' index
    /// knows them: at most `max`; and whether it gave all that it has (of one second, Apache RocketMQ's gives 64). The
    /// embedded broker's index may lag behind, and a broker may have none.
    ///
    /// # Errors
    /// [`MqError`] when there is no such topic, or one of its brokers is away.
    pub async fn messages_by_key(
        &self,
        topic: &str,
        key: &str,
        from_ms: i64,
        to_ms: i64,
        max: usize,
    ) -> Result<(Vec<StoredMessage>, bool), MqError> {
        let mut found: BTreeMap<(QueueId, i64), StoredMessage> = BTreeMap::new();
        let mut to_ms = to_ms;
        let is_all = loop {
            let batch = self.ask_index(topic, key, false, from_ms, to_ms).await?;
            let before = found.len();
            let mut full: HashMap<String, (usize, i64)> = HashMap::new();
            for message in batch {
                let seen = full.entry(message.queue.broker.clone()).or_insert((0, i64::MAX));
                *seen = (seen.0 + 1, seen.1.min(message.stored_ms));
                // The index knows hashes only.
                if message.has_key(key) {
                    found.insert((message.queue.clone(), message.offset), message);
                }
            }
            let cut_off = full.into_values().filter(|(count, _)| *count >= INDEX_FULL).map(|(_, oldest)| oldest).max();
            match cut_off {
                Some(oldest) if found.len() > before && found.len() < max => to_ms = oldest,
                cut_off => break cut_off.is_none(),
            }
        };
        self.all_answer(topic).await?;
        let mut messages: Vec<StoredMessage> = found.into_values().collect();
        messages.reverse();
        messages.sort_by_key(|message| std::cmp::Reverse(message.stored_ms));
        messages.truncate(max);
        Ok((messages, is_all))
    }

    /// The message with this id of its producer's client, as the brokers' index knows it.
    ///
    /// # Errors
    /// [`MqError`] when there is no such topic, or one of its brokers is away and no other has it.
    pub async fn message_by_unique_id(&self, topic: &str, id: &str) -> Result<Option<StoredMessage>, MqError> {
        let found = self.ask_index(topic, id, true, 0, i64::MAX).await?;
        let found = found.into_iter().find(|message| message.unique_id == id);
        if found.is_none() {
            self.all_answer(topic).await?;
        }
        Ok(found)
    }

    /// The message with this id of its copy on a broker (address and place in its log; what Apache's tools call
    /// msgId). `None` when the id is none of this cluster's brokers, or nothing begins there.
    ///
    /// # Errors
    /// [`MqError`] when the cluster is away.
    pub async fn message_by_offset_id(&self, topic: &str, id: &str) -> Result<Option<StoredMessage>, MqError> {
        let Ok(place) = decode_message_id(id) else { return Ok(None) };
        let addr = place.address.to_string();
        let Some(broker) = self.broker_at(&addr).await? else { return Ok(None) };
        let call = self.ask("read a message by its id", async |admin| {
            ConsumerAdmin::query_message(admin, "".into(), topic.into(), id.into()).await
        });
        match call.await {
            Ok(message) => Ok(Some(stored(&message, &broker))),
            // The broker says so with an error, when nothing begins there.
            Err(MqError::Client { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the index of each broker of the topic says. The client keeps it to itself when one of them fails.
    async fn ask_index(
        &self,
        topic: &str,
        key: &str,
        unique: bool,
        from_ms: i64,
        to_ms: i64,
    ) -> Result<Vec<StoredMessage>, MqError> {
        let result = self
            .ask("look up messages in the index", async |admin| {
                let (inner, topic, key) = (admin.inner(), topic.into(), key.into());
                if unique {
                    inner.query_message_by_unique_key(None, topic, key, INDEX_BATCH, from_ms, to_ms).await
                } else {
                    inner.query_message_by_key(None, topic, key, INDEX_BATCH, from_ms, to_ms, "K".into(), None).await
                }
            })
            .await?;
        let names: HashMap<String, String> =
            self.master_addrs().await?.into_iter().map(|(name, addr)| (addr, name)).collect();
        let message = |message: &MessageExt| {
            // Where it was stored says which broker this is.
            let broker = names.get(&message.store_host().to_string());
            stored(message, broker.map_or_else(|| message.broker_name(), String::as_str))
        };
        Ok(result.message_list().iter().map(message).collect())
    }

    /// Every broker of the topic answers: what was not found is not there.
    async fn all_answer(&self, topic: &str) -> Result<(), MqError> {
        self.queue_ranges(topic).await.map(|_| ())
    }

    async fn broker_at(&self, addr: &str) -> Result<Option<String>, MqError> {
        Ok(self.brokers().await?.into_iter().find(|node| node.addr == addr).map(|node| node.name))
    }
}

fn stored(message: &MessageExt, broker: &str) -> StoredMessage {
    let mut properties: Vec<(String, String)> =
        message.properties().iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    properties.sort();
    let text = |name: &str| {
        properties.iter().find(|(key, _)| key == name).map_or_else(String::new, |(_, value)| value.clone())
    };
    let (body, unreadable) = restored(message.body().unwrap_or_default(), message.sys_flag());
    StoredMessage {
        queue: QueueId { topic: message.topic().to_string(), broker: broker.to_owned(), queue: message.queue_id() },
        offset: message.queue_offset(),
        offset_id: message.msg_id().to_string(),
        unique_id: text(UNIQUE_KEY),
        tag: text("TAGS"),
        key: text("KEYS"),
        body,
        unreadable,
        born_ms: message.born_timestamp(),
        stored_ms: message.store_timestamp(),
        reconsumed: message.reconsume_times(),
        size: message.store_size(),
        properties,
    }
}
