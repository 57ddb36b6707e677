//! Half messages that the broker has given up asking about: it moves them to a topic of its own and forgets them.

use rocketmq_client_rust::TopicAdmin;
use rocketmq_model::common::message::MessageConst;
use rocketmq_model::common::message::message_ext::MessageExt;
use rocketmq_model::common::message::message_queue::MessageQueue;
use rocketmq_protocol::protocol::namespace_util::NamespaceUtil;
use tokio::net::TcpStream;

use super::consume::{property, user_properties};
use super::frames::restored;
use super::transaction::TX_ID;
use super::{ADMIN_TIMEOUT, MqError, RocketMq, within};
use crate::mq::message::{Delay, Outgoing};

/// Where both brokers put them, in no namespace; it exists once there was one.
const TOPIC: &str = "TRANS_CHECK_MAX_TIME_TOPIC";
/// Messages of one pull.
const PULL: i32 = 32;

/// A half message past the broker's check limit.
#[derive(Clone, Debug)]
pub struct StuckHalf {
    /// The message as it would have been delivered; topic as the catalogue names it.
    pub message: Outgoing,
    /// Property `eventId`; empty when another program made it.
    pub event_id: String,
    /// Property [`TX_ID`]; empty when another program made it.
    pub tx_id: String,
    /// The producer group that was asked, as it stands in the message.
    pub group: String,
    /// When the half message was made, epoch ms.
    pub born_ms: i64,
}

impl RocketMq {
    /// What the brokers have given up asking about and still keep, oldest first; at most `limit`.
    ///
    /// # Errors
    /// [`MqError`] when the cluster is away.
    pub async fn stuck_halves(&self, limit: usize) -> Result<Vec<StuckHalf>, MqError> {
        let mut found = Vec::new();
        for master in self.masters().await? {
            for (queue, min, max) in self.stuck_queues(&master).await? {
                let mut offset = min;
                while offset < max && found.len() < limit {
                    let (next, messages) = self.pull_stuck(&master, &queue, offset).await?;
                    found.extend(messages.iter().map(|message| self.stuck(message)));
                    // Never back, and never the same again: what is missing there was deleted.
                    offset = next.max(offset + 1);
                }
            }
        }
        found.sort_by_key(|half| half.born_ms);
        found.truncate(limit);
        Ok(found)
    }

    /// The producer group `group` as it stands in messages.
    #[must_use]
    pub fn producer_group(&self, group: &str) -> String {
        self.with_namespace(group)
    }

    /// The queues of the topic on one broker, with their first and next offsets.
    async fn stuck_queues(&self, master: &str) -> Result<Vec<(MessageQueue, i64, i64)>, MqError> {
        let guard = self.admin().await?;
        let Some(admin) = guard.as_ref() else { return Err(MqError::NoBroker) };
        let call = Box::pin(admin.examine_topic_stats(TOPIC.into(), Some(master.into())));
        match within("read a topic's offsets", ADMIN_TIMEOUT, call).await {
            Ok(stats) => Ok(stats
                .get_offset_table()
                .iter()
                .map(|(queue, offsets)| (queue.clone(), offsets.get_min_offset(), offsets.get_max_offset()))
                .collect()),
            // The broker is there, so it is the topic that is not: it never gave one up.
            Err(MqError::Client { .. }) if TcpStream::connect(master).await.is_ok() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    async fn pull_stuck(
        &self,
        master: &str,
        queue: &MessageQueue,
        offset: i64,
    ) -> Result<(i64, Vec<MessageExt>), MqError> {
        let guard = self.admin().await?;
        let Some(admin) = guard.as_ref() else { return Err(MqError::NoBroker) };
        let timeout_ms = u64::try_from(ADMIN_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
        let call = Box::pin(admin.inner().pull_message_from_queue(master, queue, "*", offset, PULL, timeout_ms));
        let result = within("read half messages", ADMIN_TIMEOUT, call).await?;
        let next = i64::try_from(result.next_begin_offset()).unwrap_or(i64::MAX);
        Ok((next, result.msg_found_list().unwrap_or_default().to_vec()))
    }

    fn stuck(&self, message: &MessageExt) -> StuckHalf {
        let text = |name| property(message, name);
        let mut properties = user_properties(message);
        properties.sort();
        let physical = NamespaceUtil::without_namespace(&text(MessageConst::PROPERTY_REAL_TOPIC)).to_string();
        StuckHalf {
            event_id: text("eventId"),
            tx_id: text(TX_ID),
            group: text(MessageConst::PROPERTY_PRODUCER_GROUP),
            born_ms: message.born_timestamp(),
            message: Outgoing {
                topic: self.shared.names.logical(&physical).to_owned(),
                tag: text(MessageConst::PROPERTY_TAGS),
                key: text(MessageConst::PROPERTY_KEYS),
                body: restored(message.body().unwrap_or_default(), message.sys_flag()).0,
                properties,
                delay: Delay::None,
            },
        }
    }
}
