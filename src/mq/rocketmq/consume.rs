//! Consuming: one member of a consumer group, offsets committed by the caller.

mod moves;
mod places;
mod share;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use rocketmq_client_rust::{ClientOptions, ClientRuntime, DefaultLitePullConsumer, DefaultLitePullConsumerBuilder};
use rocketmq_model::common::consumer::consume_from_where::ConsumeFromWhere;
use rocketmq_model::common::message::message_ext::MessageExt;
use rocketmq_model::common::message::message_queue::MessageQueue;
use rocketmq_model::common::message::{MessageConst, STRING_HASH_SET};
use rocketmq_runtime::ShutdownDeadline;
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::frames::restored;
use super::{LIFECYCLE_TIMEOUT, MqError, RocketMq, Shared, client_error, client_runtime, within};
use crate::mq::message::{Incoming, QueueId};
use places::Places;

/// A consumer asks for the route of each of its topics, one after the other, before it has started: begun anew it would do
/// the same on a machine that is as busy.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Long polls at the same time. Each assigned queue holds one for as long as it is empty, so this must not be less
/// than the queues of a group, or the rest would wait in turn.
const LONG_POLLS: usize = 4096;
/// Messages asked for per pull; Apache RocketMQ gives 32 at most unless it is configured otherwise.
const PULL_BATCH: i32 = 256;
/// How long leaving a group may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// How much longer than a long poll its answer may take; Apache RocketMQ looks after waiting pulls every 5 s only.
const LONG_POLL_GRACE_MS: u64 = 10_000;
/// What RocketMQ adds besides the names that it reserves.
const BROKER_PROPERTIES: [&str; 8] =
    ["UNIQ_KEY", "CLUSTER", "MIN_OFFSET", "MAX_OFFSET", "CONSUME_START_TIME", "TRACE_ON", "MSG_REGION", "INSTANCE_ID"];

/// One member of a consumer group; shut it down, dropping it leaves it in the group. Messages come in order within a queue; a queue belongs to one member at a time.
pub struct GroupConsumer {
    consumer: Arc<DefaultLitePullConsumer>,
    runtime: Arc<ClientRuntime>,
    shared: Arc<Shared>,
    group: String,
    polled: Mutex<Polled>,
    /// Held by the one commit that is under way.
    commits: Mutex<()>,
    places: std::sync::Mutex<Places>,
    /// Told when there is a place to go to.
    astray: Notify,
    /// It has no place to keep: what it has not heard is gone.
    listens: bool,
    closed: AtomicBool,
}

#[derive(Default)]
struct Polled {
    /// Beyond what the last poll asked for.
    left: VecDeque<Incoming>,
    /// A poll that its caller gave up waiting for.
    running: Option<JoinHandle<Vec<Arc<MessageExt>>>>,
}

impl RocketMq {
    /// Joins `group` for `topics` (catalogue names, or `%RETRY%<group>`). A group that has committed nothing starts
    /// at the oldest message.
    ///
    /// # Errors
    /// [`MqError::Client`] or [`MqError::Timeout`] when the cluster does not take it.
    pub async fn subscribe(&self, group: &str, topics: &[String]) -> Result<GroupConsumer, MqError> {
        let member = self.member(group, ConsumeFromWhere::ConsumeFromFirstOffset)?;
        for topic in topics {
            let physical = self.shared.names.physical(topic);
            let tag = self.shared.names.tag(topic).unwrap_or("*");
            let subscribed = member.consumer.subscribe_with_expression(physical, tag);
            within("subscribe to a topic", LIFECYCLE_TIMEOUT, Box::pin(subscribed)).await?;
        }
        member.start().await?;
        Ok(member)
    }

    /// Listens in on `topic`: every process that does gets every message that comes from now on. Nothing is to be
    /// committed, and what comes while nobody listens is gone. `group` is the name that the cluster knows listeners by.
    ///
    /// # Errors
    /// [`MqError::Client`] or [`MqError::Timeout`] when the cluster does not take it.
    pub async fn listen_in(&self, group: &str, topic: &str) -> Result<GroupConsumer, MqError> {
        let mut member = self.member(group, ConsumeFromWhere::ConsumeFromLastOffset)?;
        member.listens = true;
        let names = &self.shared.names;
        let chosen =
            member.consumer.set_sub_expression_for_assign(names.physical(topic), names.tag(topic).unwrap_or("*"));
        within("listen in on a topic", LIFECYCLE_TIMEOUT, Box::pin(chosen)).await?;
        member.start().await?;
        if let Err(error) = member.follow(topic).await {
            member.shutdown().await;
            return Err(error);
        }
        Ok(member)
    }

    fn member(&self, group: &str, from: ConsumeFromWhere) -> Result<GroupConsumer, MqError> {
        let shared = Arc::clone(&self.shared);
        let options = ClientOptions::legacy(shared.client_config(&shared.next_instance()));
        let runtime = client_runtime(shared.clients.component("consumer"))?;
        let mut builder = DefaultLitePullConsumerBuilder::new(Arc::clone(&runtime))
            .client_options(options)
            .use_tls(shared.config.tls.is_some())
            .consumer_group(group)
            .consume_from_where(from)
            .auto_commit(false)
            .pull_batch_size(PULL_BATCH)
            .pull_thread_nums(LONG_POLLS)
            .broker_suspend_max_time_millis(shared.config.long_poll_ms)
            .consumer_timeout_millis_when_suspend(shared.config.long_poll_ms + LONG_POLL_GRACE_MS)
            .rpc_hook(Arc::clone(&shared.hook));
        if shared.config.trace {
            builder = builder.enable_msg_trace();
        }
        let consumer = builder.build().map_err(client_error("make a consumer"))?;
        Ok(GroupConsumer {
            consumer: Arc::new(consumer),
            runtime,
            shared,
            group: group.to_owned(),
            polled: Mutex::default(),
            commits: Mutex::default(),
            places: std::sync::Mutex::default(),
            astray: Notify::new(),
            listens: false,
            closed: AtomicBool::new(false),
        })
    }
}

impl GroupConsumer {
    async fn start(&self) -> Result<(), MqError> {
        let started = within("start a consumer", START_TIMEOUT, Box::pin(self.consumer.start())).await;
        if started.is_err() {
            self.runtime.shutdown_until(ShutdownDeadline::after(STOP_TIMEOUT)).await;
        }
        started
    }

    /// Takes up the queues of `topic` that a listener does not have yet, from their ends.
    ///
    /// # Errors
    /// [`MqError::Client`] or [`MqError::Timeout`] when the cluster does not tell.
    pub async fn follow(&self, topic: &str) -> Result<(), MqError> {
        let call = self.consumer.fetch_message_queues(self.shared.names.physical(topic));
        let queues = within("list the queues of a topic", LIFECYCLE_TIMEOUT, Box::pin(call)).await?;
        let known = self.consumer.assignment().await.map_err(client_error("list the assigned queues"))?;
        if queues.iter().all(|queue| known.contains(queue)) {
            return Ok(());
        }
        let call = self.consumer.assign(queues.clone());
        within("listen to queues", LIFECYCLE_TIMEOUT, Box::pin(call)).await?;
        for queue in queues.iter().filter(|queue| !known.contains(queue)) {
            within("go to the end of a queue", LIFECYCLE_TIMEOUT, Box::pin(self.consumer.seek_to_end(queue))).await?;
        }
        Ok(())
    }

    /// Up to `max` messages: waits `wait` for the first, and takes what is there already besides. Empty when nothing
    /// came. May be dropped half-way: what it had taken comes with the next poll.
    pub async fn poll(&self, max: usize, wait: Duration) -> Vec<Incoming> {
        let mut polled = self.polled.lock().await;
        if self.closed.load(Ordering::Acquire) {
            return Vec::new();
        }
        if polled.left.len() < max {
            let wait = if polled.left.is_empty() { wait } else { Duration::ZERO };
            let wanted = max - polled.left.len();
            // The client loses messages when its own poll is dropped, so that runs to its end in a task.
            polled.running.get_or_insert_with(|| tokio::spawn(take(Arc::clone(&self.consumer), wanted, wait)));
            self.finish(&mut polled).await;
        }
        let count = polled.left.len().min(max);
        let messages = polled.left.drain(..count).collect();
        if self.listens { messages } else { self.accounted(messages) }
    }

    /// Waits for the poll that is under way, and keeps what it gives.
    async fn finish(&self, polled: &mut Polled) {
        let Some(running) = &mut polled.running else { return };
        let outcome = running.await;
        polled.running = None;
        match outcome {
            Ok(messages) => polled.left.extend(messages.iter().map(|message| self.incoming(message))),
            Err(error) => tracing::error!(group = self.group, %error, "poll stopped"),
        }
    }

    /// Leaves out what somebody has moved the group past since it was taken: who skips a message that cannot be handled
    /// means those that this member has in hand as well.
    pub fn leave_past(&self, messages: &mut Vec<Incoming>) {
        let places = self.places();
        messages.retain(|message| !places.is_past(&message.queue, message.offset));
    }

    /// Tells the broker the next offset to consume for each queue. Queues that have gone to another member meanwhile
    /// are left alone, and so are those that somebody has moved further on. Not confirmed by the broker: what gets lost
    /// is consumed again.
    pub async fn commit(&self, next: &[(QueueId, i64)]) {
        if next.is_empty() || self.closed.load(Ordering::Acquire) {
            return;
        }
        // The last word on each queue is the one that counts.
        let mut next: HashMap<&QueueId, i64> = next.iter().map(|(queue, offset)| (queue, *offset)).collect();
        let again: Vec<(&QueueId, i64)> = {
            let mut places = self.places();
            next.retain(|queue, offset| !places.is_past(queue, *offset));
            next.iter()
                .filter(|(queue, offset)| places.tell(queue, **offset))
                .map(|(queue, at)| (*queue, *at))
                .collect()
        };
        if next.is_empty() {
            return;
        }
        if !again.is_empty() {
            self.tell_again(&again).await;
        }
        let queues = self.physical(next.keys().copied());
        let offsets: HashMap<MessageQueue, i64> = queues.into_iter().zip(next.into_values()).collect();
        // The client forgets the queues that a commit does not name, also what another one is about to send of them.
        let _turn = self.commits.lock().await;
        let call = Box::pin(self.consumer.commit_with_map(offsets, true));
        if tokio::time::timeout(LIFECYCLE_TIMEOUT, call).await.is_err() {
            tracing::warn!(group = self.group, "the broker did not take the offsets in time");
        }
    }

    /// An operator moved the group back meanwhile, and it has come to the same place again. The client keeps to itself
    /// what it believes that the broker knows, so the broker is told past it.
    async fn tell_again(&self, next: &[(&QueueId, i64)]) {
        let mq = self.mq();
        let own = self.assignment().await.unwrap_or_default();
        for (queue, offset) in next.iter().filter(|(queue, _)| own.contains(*queue)) {
            let place = self.at_broker(&mq, queue);
            if let Err(error) = mq.set_offset(&mq.with_namespace(&self.group), &place, *offset).await {
                tracing::warn!(group = self.group, %error, "the broker did not take an offset");
            }
        }
    }

    fn mq(&self) -> RocketMq {
        RocketMq { shared: Arc::clone(&self.shared) }
    }

    /// As brokers know it.
    fn at_broker(&self, mq: &RocketMq, queue: &QueueId) -> QueueId {
        let topic = mq.with_namespace(self.shared.names.physical(&queue.topic));
        QueueId { topic, broker: queue.broker.clone(), queue: queue.queue }
    }

    /// A panic elsewhere leaves a valid value.
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for nothing more of `queues` until they are resumed, or are given to this member anew; what the client holds
    /// already still comes.
    pub async fn pause(&self, queues: impl IntoIterator<Item = &QueueId>) {
        self.consumer.pause(self.physical(queues)).await;
    }

    /// Asks for messages of `queues` again, within a second.
    pub async fn resume(&self, queues: impl IntoIterator<Item = &QueueId>) {
        self.consumer.resume(self.physical(queues)).await;
    }

    /// The queues that this member has at the moment.
    ///
    /// # Errors
    /// [`MqError::Client`] when it is not running.
    pub async fn assignment(&self) -> Result<Vec<QueueId>, MqError> {
        let queues = self.consumer.assignment().await.map_err(client_error("list the assigned queues"))?;
        let mut queues: Vec<QueueId> = queues
            .iter()
            .map(|queue| self.queue_id(queue.topic_str(), queue.broker_name(), queue.queue_id()))
            .collect();
        queues.sort();
        Ok(queues)
    }

    /// The group's name.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.group
    }

    /// Leaves the group, at once for the other members; polls return empty from here on. Bounded to a few seconds.
    pub async fn shutdown(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        // The client would wait for the long poll of one queue after the other. Closing its connections, which lets
        // written commits out first, ends them all, and tells the broker that the member is gone.
        let leave = tokio::time::timeout(STOP_TIMEOUT, Box::pin(self.consumer.shutdown()));
        let cut = Box::pin(self.runtime.shutdown_until(ShutdownDeadline::after(STOP_TIMEOUT)));
        let (left, _) = tokio::join!(leave, cut);
        if left.is_err() {
            tracing::debug!(group = self.group, "consumer did not stop in time");
        }
    }

    /// As the client knows them, in their order.
    fn physical<'q>(&self, queues: impl IntoIterator<Item = &'q QueueId>) -> Vec<MessageQueue> {
        let names = &self.shared.names;
        let named = |queue: &QueueId| {
            MessageQueue::from_parts(names.physical(&queue.topic), queue.broker.as_str(), queue.queue)
        };
        queues.into_iter().map(named).collect()
    }

    fn queue_id(&self, physical: &str, broker: &str, queue: i32) -> QueueId {
        QueueId { topic: self.shared.names.logical(physical).to_owned(), broker: broker.to_owned(), queue }
    }

    fn incoming(&self, message: &MessageExt) -> Incoming {
        let text = |name| property(message, name);
        let mut properties = user_properties(message);
        // Where a message was before it came to the group's own topic: the client keeps these names for itself.
        for name in [MessageConst::PROPERTY_RETRY_TOPIC, MessageConst::PROPERTY_DLQ_ORIGIN_TOPIC] {
            let topic = text(name);
            if !topic.is_empty() {
                properties.push((name.to_owned(), self.shared.names.logical(&topic).to_owned()));
            }
        }
        properties.sort();
        let (body, unreadable) = restored(message.body().unwrap_or_default(), message.sys_flag());
        Incoming {
            queue: self.queue_id(message.topic(), message.broker_name(), message.queue_id()),
            offset: message.queue_offset(),
            tag: text("TAGS"),
            key: text("KEYS"),
            body,
            unreadable,
            properties,
            born_ms: message.born_timestamp(),
            stored_ms: message.store_timestamp(),
        }
    }
}

/// A property of a message; empty where it has none.
pub(super) fn property(message: &MessageExt, name: &str) -> String {
    let found = message.properties().iter().find(|(key, _)| key.as_str() == name);
    found.map_or_else(String::new, |(_, value)| value.to_string())
}

/// What its producer gave a message: neither RocketMQ's names nor what brokers add. Not sorted.
pub(super) fn user_properties(message: &MessageExt) -> Vec<(String, String)> {
    let ours = |name: &str| !STRING_HASH_SET.contains(name) && !BROKER_PROPERTIES.contains(&name);
    let all = message.properties().iter().filter(|(name, _)| ours(name.as_str()));
    all.map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

/// One poll that waits, then more while there are some; a poll gives one pull's messages.
async fn take(consumer: Arc<DefaultLitePullConsumer>, wanted: usize, wait: Duration) -> Vec<Arc<MessageExt>> {
    let started = Instant::now();
    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    let mut messages = consumer.poll_with_timeout_zero_copy(wait_ms).await;
    if messages.is_empty() {
        // A consumer that is not running answers at once; its caller must not spin.
        tokio::time::sleep_until(started + wait).await;
        return messages;
    }
    while messages.len() < wanted {
        let more = consumer.poll_with_timeout_zero_copy(0).await;
        if more.is_empty() {
            break;
        }
        messages.extend(more);
    }
    messages
}
