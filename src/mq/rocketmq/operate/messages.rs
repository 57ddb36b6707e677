//! Reading messages where they lie. Nothing here belongs to a consumer group, so no offset moves.

use rocketmq_client_rust::PullStatus;
use rocketmq_model::common::message::message_ext::MessageExt;

use super::message_queue;
use crate::mq::message::QueueId;
use crate::mq::operate::{Page, StoredMessage};
use crate::mq::rocketmq::{ADMIN_TIMEOUT, MqError, RocketMq};

/// Property that the producer's client names a message with.
const UNIQUE_KEY: &str = "UNIQ_KEY";

impl RocketMq {
    /// Up to `max` messages of a queue from `offset` on; `addr` is the master of its broker (see
    /// [`RocketMq::brokers`]). Apache RocketMQ gives 32 at most at once unless it is configured otherwise.
    ///
    /// # Errors
    /// [`MqError`] when the broker is away or refuses.
    pub async fn read_queue(&self, addr: &str, queue: &QueueId, offset: i64, max: i32) -> Result<Page, MqError> {
        let timeout_ms = u64::try_from(ADMIN_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
        let wanted = message_queue(queue);
        let result = self
            .ask("read messages", async |admin| {
                admin.inner().pull_message_from_queue(addr, &wanted, "*", offset, max, timeout_ms).await
            })
            .await?;
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

    /// Messages of a topic with this key (one of KEYS) stored in a span of time, at most `max`, newest first.
    ///
    /// # Errors
    /// [`MqError`] when there is no such topic or the cluster is away.
    pub async fn messages_by_key(
        &self,
        topic: &str,
        key: &str,
        from_ms: i64,
        to_ms: i64,
        max: i32,
    ) -> Result<Vec<StoredMessage>, MqError> {
        let result = self
            .ask("look up messages by key", async |admin| {
                let inner = admin.inner();
                inner.query_message_by_key(None, topic.into(), key.into(), max, from_ms, to_ms, "K".into(), None).await
            })
            .await?;
        let mut messages: Vec<StoredMessage> =
            result.message_list().iter().map(|message| stored(message, message.broker_name())).collect();
        messages.sort_by_key(|message| std::cmp::Reverse(message.stored_ms));
        Ok(messages)
    }

    /// The message with this id of its producer's client.
    ///
    /// # Errors
    /// [`MqError`] when there is no such topic or the cluster is away.
    pub async fn message_by_unique_id(&self, topic: &str, id: &str) -> Result<Option<StoredMessage>, MqError> {
        let result = self
            .ask("look up a message by its id", async |admin| {
                let inner = admin.inner();
                inner.query_message_by_unique_key(None, topic.into(), id.into(), 32, 0, i64::MAX).await
            })
            .await?;
        Ok(result.message_list().first().map(|message| stored(message, message.broker_name())))
    }
}

fn stored(message: &MessageExt, broker: &str) -> StoredMessage {
    let mut properties: Vec<(String, String)> =
        message.properties().iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    properties.sort();
    let text = |name: &str| {
        properties.iter().find(|(key, _)| key == name).map_or_else(String::new, |(_, value)| value.clone())
    };
    StoredMessage {
        queue: QueueId { topic: message.topic().to_string(), broker: broker.to_owned(), queue: message.queue_id() },
        offset: message.queue_offset(),
        offset_id: message.msg_id().to_string(),
        unique_id: text(UNIQUE_KEY),
        tag: text("TAGS"),
        key: text("KEYS"),
        body: message.body().unwrap_or_default(),
        born_ms: message.born_timestamp(),
        stored_ms: message.store_timestamp(),
        reconsumed: message.reconsume_times(),
        size: message.store_size(),
        properties,
    }
}
