//! Sending: one lane per queue keeps order, lanes run side by side.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures_util::StreamExt;
use rocketmq_client_rust::ClientError;
use rocketmq_model::common::message::message_accessor::MessageAccessor;
use rocketmq_model::common::message::message_queue::MessageQueue;
use rocketmq_model::common::message::message_single::Message;
use rocketmq_model::common::message::{MessageConst, STRING_HASH_SET};
use rocketmq_model::result::{SendResult, SendStatus};
use tokio::time::Instant;

use super::{
    DLQ_PREFIX, NO_PERMISSION, PublishError, RETRY_PREFIX, RocketMq, RocketMqConfig, TopicNames, answer, denied,
    explain,
};
use crate::db::outbox::{MAX_PROPERTIES_BYTES, encoded_bytes, properties_bytes};
use crate::mq::message::{Delay, LETTER, Outgoing};

/// Requests to brokers at the same time.
const IN_FLIGHT: usize = 16;
/// How long a route is used before it is read again.
const ROUTE_TTL: Duration = Duration::from_secs(10);

pub(super) type Queues = Arc<Vec<MessageQueue>>;

/// Topic → its writable queues, in a stable order.
#[derive(Default)]
pub(super) struct Routes {
    known: RwLock<HashMap<String, (Queues, Instant)>>,
    /// Spreads messages without a key. One counter a topic: with one for all, two topics that take turns would each
    /// use every second queue.
    turns: Mutex<HashMap<String, usize>>,
}

/// The messages of one queue, in order; or one delayed message.
pub(super) struct Lane {
    pub topic: String,
    pub queues: Queues,
    pub hash: usize,
    items: Vec<usize>,
}

impl RocketMq {
    /// Sends messages, and answers for each in the order of the input. Messages of one key keep their order; the same
    /// key always goes to the same queue as long as the topic keeps its queues. Nothing is sent past a failed message
    /// of the same queue. Delayed messages are no part of any order. Takes at most about
    /// `(retries + 3) * send_timeout_ms`.
    ///
    /// `%DLQ%<group>` and `%RETRY%<group>` are made when they are missing, and need the group to exist for `%RETRY%`.
    /// The embedded broker stores what is sent to `%RETRY%<group>` in `%DLQ%<group>`.
    pub async fn publish(&self, batch: &[Outgoing]) -> Vec<Result<(), PublishError>> {
        let deadline = self.deadline();
        let sender = self.shared.sender();
        let mut results = vec![Ok(()); batch.len()];
        let lanes = self.plan(batch, &mut results).await;
        let mut sends = futures_util::stream::iter(lanes)
            .map(|lane| self.send_lane(lane, batch, deadline))
            .buffer_unordered(IN_FLIGHT);
        while let Some(outcomes) = sends.next().await {
            for (index, error) in outcomes {
                results[index] = Err(error);
            }
        }
        if results.iter().any(|result| result.as_ref().is_err_and(PublishError::is_unanswered)) {
            self.shared.renew_sender(&sender).await;
        }
        results
    }

    /// When to stop trying to send something that is begun now.
    pub(super) fn deadline(&self) -> Instant {
        let timeout = Duration::from_millis(u64::from(self.shared.config.send_timeout_ms));
        Instant::now() + timeout * (self.shared.config.retries + 1)
    }

    /// Sorts messages into lanes; those that can not be sent get their error here.
    pub(super) async fn plan(&self, batch: &[Outgoing], results: &mut [Result<(), PublishError>]) -> Vec<Lane> {
        let mut routes: HashMap<&str, Result<Queues, PublishError>> = HashMap::new();
        let mut lanes: Vec<Lane> = Vec::new();
        let mut lane_of: HashMap<(&str, usize), usize> = HashMap::new();
        let mut keyless: HashMap<&str, usize> = HashMap::new();
        for (index, message) in batch.iter().enumerate() {
            if let Err(error) = check(message, &self.shared.config) {
                results[index] = Err(error);
                continue;
            }
            let topic = self.shared.names.physical(&message.topic);
            if !routes.contains_key(topic) {
                routes.insert(topic, self.route(topic, false).await);
            }
            let queues = match routes.get(topic) {
                Some(Ok(queues)) => queues,
                Some(Err(error)) => {
                    results[index] = Err(error.clone());
                    continue;
                }
                None => continue,
            };
            let hash = if message.key.is_empty() {
                *keyless.entry(topic).or_insert_with(|| self.shared.routes.turn(topic))
            } else {
                key_hash(&message.key)
            };
            let queue = hash % queues.len();
            let lane = Lane { topic: topic.to_owned(), queues: Arc::clone(queues), hash, items: vec![index] };
            if message.delay != Delay::None {
                // Batches cannot carry it.
                lanes.push(lane);
            } else if let Some(known) = lane_of.get(&(topic, queue)) {
                lanes[*known].items.push(index);
            } else {
                lane_of.insert((topic, queue), lanes.len());
                lanes.push(lane);
            }
        }
        lanes
    }

    /// Sends one lane chunk by chunk; returns the messages that failed.
    async fn send_lane(&self, lane: Lane, batch: &[Outgoing], deadline: Instant) -> Vec<(usize, PublishError)> {
        let mut failed = Vec::new();
        for chunk in chunks(&lane, batch, &self.shared.config) {
            if !failed.is_empty() {
                failed.extend(chunk.iter().map(|index| (*index, PublishError::Behind)));
                continue;
            }
            let messages: Vec<&Outgoing> = chunk.iter().map(|index| &batch[*index]).collect();
            if let Err(error) = self.send_together(&lane, &messages, deadline).await {
                failed.extend(chunk.iter().map(|index| (*index, error.clone())));
            }
        }
        failed
    }

    /// One request to the lane's queue, and where that fails to another broker's.
    pub(super) async fn send_together(
        &self,
        lane: &Lane,
        messages: &[&Outgoing],
        deadline: Instant,
    ) -> Result<SendResult, PublishError> {
        let mut queues = Arc::clone(&lane.queues);
        let mut queue = queues[lane.hash % queues.len()].clone();
        let mut attempt = 0;
        loop {
            let error = match self.send_once(messages, &queue).await {
                Ok(sent) => return Ok(sent),
                Err(error) => error,
            };
            attempt += 1;
            if error.is_permanent() || attempt > self.shared.config.retries || Instant::now() >= deadline {
                return Err(error);
            }
            tracing::debug!(topic = lane.topic, %error, attempt, "send failed, trying again");
            if let Ok(fresh) = self.route(&lane.topic, true).await {
                queues = fresh;
            }
            queue = other_broker(&queues, queue.broker_name(), lane.hash);
        }
    }

    async fn send_once(&self, messages: &[&Outgoing], queue: &MessageQueue) -> Result<SendResult, PublishError> {
        let names = &self.shared.names;
        let messages = messages.iter().map(|message| encode(names, message)).collect::<Result<Vec<_>, _>>()?;
        let timeout_ms = u64::from(self.shared.config.send_timeout_ms);
        let sender = self.shared.sender();
        let producer = &sender.producer;
        let call = async {
            match <[Message; 1]>::try_from(messages) {
                Ok([single]) => Box::pin(producer.send_to_queue_with_timeout(single, queue.clone(), timeout_ms)).await,
                Err(many) => {
                    Box::pin(producer.send_batch_to_queue_with_timeout(many, queue.clone(), timeout_ms)).await.map(Some)
                }
            }
        };
        // The client's own timeout does not cover connecting.
        match tokio::time::timeout(Duration::from_millis(timeout_ms), call).await {
            Ok(result) => judge(result).inspect(|_| sender.note_success()),
            Err(_) => Err(PublishError::Send(format!("no answer within {timeout_ms} ms"))),
        }
    }

    /// The writable queues of a physical topic, from the cache unless it is old or `fresh` is asked for.
    pub(super) async fn route(&self, topic: &str, fresh: bool) -> Result<Queues, PublishError> {
        let cached = self.shared.routes.get(topic);
        if let Some((queues, read)) = &cached
            && !fresh
            && read.elapsed() < ROUTE_TTL
        {
            return Ok(Arc::clone(queues));
        }
        let mut found = self.fetch_route(topic).await;
        if found.is_err() && cached.is_none() && is_group_topic(topic) {
            // Brokers make these when the group appears, or never.
            if let Err(error) = self.create_topics(&[topic.to_owned()], 1).await {
                tracing::debug!(topic, %error, "could not create the topic");
            }
            found = self.fetch_route(topic).await;
        }
        match (found, cached) {
            (Ok(queues), _) => Ok(self.shared.routes.put(topic, queues)),
            // Name servers away: brokers may still be there.
            (Err(_), Some((queues, _))) => Ok(queues),
            (Err(error), None) => Err(error),
        }
    }

    async fn fetch_route(&self, topic: &str) -> Result<Vec<MessageQueue>, PublishError> {
        let no_route = |reason: String| PublishError::NoRoute { topic: topic.to_owned(), reason };
        let timeout_ms = u64::from(self.shared.config.send_timeout_ms);
        let mut producer = self.shared.sender().producer.clone();
        let call = Box::pin(producer.fetch_publish_message_queues(topic));
        let queues = match tokio::time::timeout(Duration::from_millis(timeout_ms), call).await {
            Ok(Ok(queues)) => queues,
            Ok(Err(error)) => return Err(no_route(error.to_string())),
            Err(_) => return Err(no_route(format!("no answer within {timeout_ms} ms"))),
        };
        if queues.is_empty() { Err(no_route(String::from("it has no queue"))) } else { Ok(queues) }
    }
}

impl Routes {
    fn get(&self, topic: &str) -> Option<(Queues, Instant)> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(topic).cloned()
    }

    /// Counts up with every batch that has messages without a key for this topic.
    fn turn(&self, topic: &str) -> usize {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        match turns.get_mut(topic) {
            Some(turn) => {
                *turn = turn.wrapping_add(1);
                *turn
            }
            None => *turns.entry(topic.to_owned()).or_default(),
        }
    }

    fn put(&self, topic: &str, mut queues: Vec<MessageQueue>) -> Queues {
        queues.sort_by(|a, b| (a.broker_name().as_str(), a.queue_id()).cmp(&(b.broker_name().as_str(), b.queue_id())));
        let queues = Arc::new(queues);
        let entry = (Arc::clone(&queues), Instant::now());
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(topic.to_owned(), entry);
        queues
    }
}

fn judge(result: Result<Option<SendResult>, ClientError>) -> Result<SendResult, PublishError> {
    match result {
        Ok(Some(sent)) if sent.send_status == SendStatus::SendOk => Ok(sent),
        Ok(Some(sent)) => Err(PublishError::NotSafe(format!("{:?}", sent.send_status))),
        Ok(None) => Err(PublishError::Send(String::from("the broker gave no result"))),
        Err(error) => Err(match answer(&error) {
            Some((NO_PERMISSION, said)) => PublishError::Refused { code: NO_PERMISSION, reason: denied(&said) },
            Some((code, reason)) => PublishError::Refused { code, reason },
            None => PublishError::Send(explain(&error)),
        }),
    }
}

fn is_group_topic(topic: &str) -> bool {
    topic.starts_with(RETRY_PREFIX) || topic.starts_with(DLQ_PREFIX)
}

/// A queue for the same hash on a broker other than `failed`; on the same one if there is no other.
pub(super) fn other_broker(queues: &[MessageQueue], failed: &str, hash: usize) -> MessageQueue {
    let others: Vec<&MessageQueue> = queues.iter().filter(|queue| queue.broker_name().as_str() != failed).collect();
    match others.get(hash % others.len().max(1)) {
        Some(queue) => (*queue).clone(),
        None => queues[hash % queues.len()].clone(),
    }
}

/// Java's `String.hashCode`, made positive as RocketMQ's SelectMessageQueueByHash does it, so that producers in other
/// languages choose the same queue for a key.
pub(super) fn key_hash(key: &str) -> usize {
    let hash = key.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    usize::try_from(hash.checked_abs().unwrap_or(0)).unwrap_or(0)
}

/// Cuts a lane into requests: at most so many messages and bytes, and alone what can not be in a batch.
fn chunks<'a>(lane: &'a Lane, batch: &[Outgoing], config: &RocketMqConfig) -> Vec<&'a [usize]> {
    let alone_topic = is_group_topic(&lane.topic);
    let max_bytes = config.batch_max_bytes.min(config.max_message_bytes);
    let mut chunks = Vec::new();
    let (mut start, mut bytes, mut closed) = (0, 0, false);
    for (position, index) in lane.items.iter().enumerate() {
        let message = &batch[*index];
        let size = bytes_of(message);
        let alone = alone_topic || message.body.len() > config.compress_over_bytes as usize;
        let full = position - start >= config.batch_max_messages.max(1) || bytes + size > max_bytes;
        if position > start && (alone || closed || full) {
            chunks.push(&lane.items[start..position]);
            (start, bytes) = (position, 0);
        }
        bytes += size;
        closed = alone;
    }
    chunks.push(&lane.items[start..]);
    chunks
}

fn bytes_of(message: &Outgoing) -> usize {
    encoded_bytes(&message.tag, &message.key, &message.properties, message.body.len())
}

/// The limit is for what is made here. What came from a broker is a letter, a replay or a copy of one, and goes to a broker
/// again: how large it may be is for that to say.
fn was_on_a_broker(message: &Outgoing) -> bool {
    is_group_topic(&message.topic) || message.properties.iter().any(|(name, _)| name == LETTER)
}

/// Refuses what no broker could store.
pub(super) fn check(message: &Outgoing, config: &RocketMqConfig) -> Result<(), PublishError> {
    let bytes = bytes_of(message);
    if bytes > config.max_message_bytes && !was_on_a_broker(message) {
        return Err(PublishError::TooLarge { bytes, max_bytes: config.max_message_bytes });
    }
    let properties = properties_bytes(&message.tag, &message.key, &message.properties);
    if properties > MAX_PROPERTIES_BYTES {
        return Err(PublishError::Illegal(format!("{properties} bytes of properties, {MAX_PROPERTIES_BYTES} fit")));
    }
    if message.topic.is_empty() || message.body.is_empty() {
        return Err(PublishError::Illegal(String::from("topic and body must not be empty")));
    }
    // 1 and 2 separate properties on the wire.
    let torn = |text: &str| text.contains(['\u{1}', '\u{2}']);
    let pairs = message.properties.iter().any(|(name, value)| torn(name) || torn(value));
    if pairs || torn(&message.key) || torn(&message.tag) {
        return Err(PublishError::Illegal(String::from("control characters in tag, key or properties")));
    }
    Ok(())
}

/// Of the properties that RocketMQ keeps for itself, those that a message keeps in a group's own topics, as it does when
/// a broker puts it there: what it is known by, where it came from, and who waits for an answer.
const KEPT_BY_GROUPS: &[&str] = &[
    MessageConst::PROPERTY_UNIQ_CLIENT_MESSAGE_ID_KEYIDX,
    MessageConst::PROPERTY_EXTEND_UNIQ_INFO,
    MessageConst::PROPERTY_ORIGIN_MESSAGE_ID,
    MessageConst::PROPERTY_RETRY_TOPIC,
    MessageConst::PROPERTY_DLQ_ORIGIN_TOPIC,
    MessageConst::PROPERTY_DLQ_ORIGIN_MESSAGE_ID,
    MessageConst::PROPERTY_CORRELATION_ID,
    MessageConst::PROPERTY_MESSAGE_REPLY_TO_CLIENT,
    MessageConst::PROPERTY_INSTANCE_ID,
    MessageConst::PROPERTY_BUYER_ID,
];

/// True for a property that RocketMQ itself sets and reads: nobody else's value of it is sent.
#[must_use]
pub fn is_reserved_property(name: &str) -> bool {
    STRING_HASH_SET.contains(name)
}

/// The RocketMQ message, with the topic's own tag if it has one. Properties that RocketMQ keeps for itself (a message
/// that is sent again carries them) are left out, except in a group's own topics; so are empty ones, which it can not
/// carry.
pub(super) fn encode(names: &TopicNames, message: &Outgoing) -> Result<Message, PublishError> {
    let illegal = |error: rocketmq_error::Error| PublishError::Illegal(error.to_string());
    let mut builder = Message::builder().topic(names.physical(&message.topic)).body(message.body.clone());
    let tag = names.tag(&message.topic).unwrap_or(&message.tag);
    if !tag.is_empty() {
        builder = builder.tags(tag);
    }
    if !message.key.is_empty() {
        builder = builder.key(message.key.as_str());
    }
    builder = match message.delay {
        Delay::None => builder,
        Delay::Level(level) => builder.delay_level(i32::from(level.number())),
        Delay::Until(at_ms) => builder.deliver_time_ms(u64::try_from(at_ms).unwrap_or(0)),
    };
    for (name, value) in &message.properties {
        if !value.is_empty() && !name.is_empty() && !is_reserved_property(name) {
            builder = builder.raw_property(name.as_str(), value.as_str()).map_err(illegal)?;
        }
    }
    let mut encoded = builder.build().map_err(illegal)?;
    if is_group_topic(&message.topic) {
        let kept = message.properties.iter().filter(|(name, _)| KEPT_BY_GROUPS.contains(&name.as_str()));
        for (name, value) in kept.filter(|(_, value)| !value.is_empty()) {
            let names_topic = [MessageConst::PROPERTY_RETRY_TOPIC, MessageConst::PROPERTY_DLQ_ORIGIN_TOPIC];
            let value = if names_topic.contains(&name.as_str()) { names.physical(value) } else { value };
            MessageAccessor::put_property(&mut encoded, name.as_str().into(), value.into());
        }
    }
    Ok(encoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(key: &str, body: usize) -> Outgoing {
        Outgoing {
            topic: String::from("T"),
            tag: String::from("tag"),
            key: key.to_owned(),
            body: vec![b'x'; body].into(),
            properties: vec![(String::from("eventId"), String::from("1:T"))],
            delay: Delay::None,
        }
    }

    fn lane(count: usize, topic: &str) -> Lane {
        Lane { topic: topic.to_owned(), queues: Arc::default(), hash: 0, items: (0..count).collect() }
    }

    #[test]
    fn key_hash_is_java_hash_code() {
        assert_eq!(key_hash(""), 0);
        assert_eq!(key_hash("hello"), 99_162_322);
        // "polygenelubricants".hashCode() is Integer.MIN_VALUE, whose absolute value does not exist.
        assert_eq!(key_hash("polygenelubricants"), 0);
    }

    #[test]
    fn chunks_respect_count_bytes_and_singles() {
        let config = RocketMqConfig { batch_max_messages: 3, batch_max_bytes: 10_000, ..RocketMqConfig::default() };
        let small: Vec<Outgoing> = (0..7).map(|_| message("k", 10)).collect();
        let sizes = |lane: &Lane, batch: &[Outgoing]| {
            chunks(lane, batch, &config).iter().map(|chunk| chunk.len()).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&lane(7, "T"), &small), [3, 3, 1]);
        assert_eq!(sizes(&lane(2, "%DLQ%g"), &small), [1, 1]);
        let wide: Vec<Outgoing> = (0..4).map(|_| message("k", 4000)).collect();
        assert_eq!(sizes(&lane(4, "T"), &wide), [2, 2]);
        let mixed = [message("k", 10), message("k", 5000), message("k", 10), message("k", 10)];
        assert_eq!(sizes(&lane(4, "T"), &mixed), [1, 1, 2]);
    }

    #[test]
    fn other_broker_leaves_the_failed_one() {
        let queues = [MessageQueue::from_parts("T", "a", 0), MessageQueue::from_parts("T", "b", 0)];
        assert_eq!(other_broker(&queues, "a", 8).broker_name().as_str(), "b");
        assert_eq!(other_broker(&queues[..1], "a", 8).broker_name().as_str(), "a");
    }

    #[test]
    fn check_refuses_what_can_not_be_carried() {
        let config = RocketMqConfig { max_message_bytes: 1000, ..RocketMqConfig::default() };
        assert!(matches!(check(&message("k", 2000), &config), Err(PublishError::TooLarge { max_bytes: 1000, .. })));
        let letter = Outgoing { topic: "%DLQ%g".to_owned(), ..message("k", 2000) };
        let mut replay = message("k", 2000);
        replay.properties.push((LETTER.to_owned(), "a:0:1".to_owned()));
        assert_eq!((check(&letter, &config), check(&replay, &config)), (Ok(()), Ok(())));
        assert!(matches!(check(&message("a\u{1}b", 10), &config), Err(PublishError::Illegal(_))));
        assert_eq!(check(&message("k", 10), &config), Ok(()));
    }

    #[test]
    fn only_send_ok_is_sent() {
        let sent = |send_status| judge(Ok(Some(SendResult { send_status, ..SendResult::default() })));
        assert!(sent(SendStatus::SendOk).is_ok());
        for status in [SendStatus::FlushDiskTimeout, SendStatus::FlushSlaveTimeout, SendStatus::SlaveNotAvailable] {
            let error = sent(status).unwrap_err();
            assert!(matches!(error, PublishError::NotSafe(_)) && !error.is_permanent(), "{error}");
        }
        assert!(judge(Ok(None)).is_err());
    }

    #[test]
    fn sizes_count_bytes_not_characters() {
        let config = RocketMqConfig { max_message_bytes: 1000, ..RocketMqConfig::default() };
        let wide = Outgoing { body: "\u{5b57}".repeat(300).into(), ..message("k", 0) };
        assert!(matches!(check(&wide, &config), Err(PublishError::TooLarge { bytes, .. }) if bytes > 900));
        let key = Outgoing { key: "\u{5b57}".repeat(11_000), ..message("k", 1) };
        assert!(matches!(check(&key, &RocketMqConfig::default()), Err(PublishError::Illegal(_))));
    }

    #[test]
    fn a_delay_is_on_the_wire_and_nothing_else_of_the_brokers_own() {
        let replayed = vec![("DELAY".to_owned(), "5".to_owned()), ("mine".to_owned(), "1".to_owned())];
        let wire = |delay| {
            let names = TopicNames::new(&HashMap::new()).unwrap();
            let message = encode(&names, &Outgoing { delay, properties: replayed.clone(), ..message("k", 3) }).unwrap();
            let all = message.properties().as_map();
            let text =
                |name: &str| all.iter().find(|(key, _)| key.as_str() == name).map(|(_, value)| value.to_string());
            (text("DELAY"), text("TIMER_DELIVER_MS"), text("mine"))
        };
        let mine = Some("1".to_owned());
        assert_eq!(wire(Delay::None), (None, None, mine.clone()));
        assert_eq!(wire(Delay::Level("10s".parse().unwrap())), (Some("3".to_owned()), None, mine.clone()));
        assert_eq!(wire(Delay::Until(1_800_000_000_000)), (None, Some("1800000000000".to_owned()), mine));
    }
}
