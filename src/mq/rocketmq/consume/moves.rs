//! Going where a member has to be: where somebody else has moved its group, and back to what is missing.
//!
//! Brokers take members along only when an operator resets a group, and say so once, to whoever pulls next: a member that
//! has just lost the queue can take that word with it. So each member looks where the brokers have its group. And the
//! client forgets where it was sent when its first question from there fails, with all that it had in hand: so what it
//! hands out is held against what the brokers have left out. Where it is sent again and again and does not go, the member
//! reads what is missing without it.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::super::holes::Asked;
use super::super::{MqError, within};
use super::GroupConsumer;
use super::places::{Errand, Verdict};
use crate::mq::message::{Incoming, QueueId};

/// Between two looks at where the brokers have the group.
const LOOK: Duration = Duration::from_secs(10);
/// How long an answer may take. Who asks whether the brokers are there waits behind this.
pub(super) const ANSWER: Duration = Duration::from_secs(1);
/// Before a place is gone to again that could not be gone to.
const AGAIN: Duration = Duration::from_secs(1);
/// Messages that are read at once without the client; Apache RocketMQ gives no more.
const READ: i32 = 32;

impl GroupConsumer {
    /// Sees to it, as long as it runs, that this member is where it has to be: it goes where somebody else moves its group,
    /// and back to what is missing. Until it has noticed a move, what the member has in hand may still be committed over
    /// that; it goes there all the same.
    pub async fn keep_place(&self) {
        tokio::join!(self.watch_moves(), self.go_on_errands());
    }

    async fn watch_moves(&self) {
        let mut look = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            if let Err(error) = self.look_for_moves().await {
                tracing::debug!(group = self.group, %error, "where the group is could not be read");
            }
        }
    }

    async fn look_for_moves(&self) -> Result<(), MqError> {
        let own = self.assignment().await?;
        self.places().keep(&own.iter().collect());

        // The members of a process look one after the other: a broker that hangs is waited for once.
        let _turn = self.shared.looks.lock().await;
        let mut masters = in_time(self.mq().master_addrs()).await?;
        for queue in &own {
            let Some(addr) = masters.get(&queue.broker) else { continue };
            if let Err(error) = self.look_at(queue, addr).await {
                tracing::debug!(group = self.group, topic = queue.topic, queue = queue.queue, %error, "not looked at");
                // One that hangs is not waited for once for each of its queues.
                if matches!(error, MqError::Timeout { .. }) {
                    masters.remove(&queue.broker);
                }
            }
        }
        Ok(())
    }

    async fn look_at(&self, queue: &QueueId, addr: &str) -> Result<(), MqError> {
        let Some(offset) = self.committed_at(queue, addr).await? else { return Ok(()) };
        let verdict = self.places().look(queue, offset, std::time::Instant::now());
        let goes = match verdict {
            Verdict::Ours => return Ok(()),
            Verdict::Moved => true,
            // Where nothing lies ahead of the group there is nothing to miss.
            Verdict::Unknown => offset < self.ends(queue).await?.1,
        };
        if verdict == Verdict::Moved {
            let QueueId { topic, broker, queue } = queue;
            tracing::info!(group = self.group, topic, broker, queue, offset, "the group was moved: it goes on there");
        }
        self.places().moved(queue, offset, goes);
        self.astray.notify_one();
        Ok(())
    }

    /// What is to be handled of what the client handed out. The rest comes again, once the member has gone where it has
    /// to be.
    pub(super) fn accounted(&self, messages: Vec<Incoming>) -> Vec<Incoming> {
        let mut places = self.places();
        let taken = messages.into_iter().filter(|message| {
            let queue = &message.queue;
            // A member that asks for some tags only is told of no others.
            let is_whole = self.shared.names.tag(&queue.topic).is_none();
            let beyond = |next| self.shared.holes.beyond(&self.asked(queue), next);
            places.takes(queue, message.offset, is_whole.then_some(beyond))
        });
        let taken: Vec<Incoming> = taken.collect();
        if !places.errands().is_empty() {
            self.astray.notify_one();
        }
        taken
    }

    /// Goes where the member has to be, as often as there is such a place. Only the queues that have one wait for it.
    async fn go_on_errands(&self) {
        loop {
            let errands = self.places().errands();
            if errands.is_empty() {
                self.astray.notified().await;
                continue;
            }
            // A broker that hangs is not waited for once for each of its queues.
            let mut silent: HashSet<&str> = HashSet::new();
            let mut is_done = true;
            for (queue, errand) in &errands {
                let QueueId { topic, broker, queue: number } = queue;
                if silent.contains(broker.as_str()) {
                    continue;
                }
                if let Err(error) = self.go(queue, *errand).await {
                    tracing::warn!(group = self.group, topic, broker, queue = number, %error, "the queue waits");
                    is_done = false;
                    if matches!(error, MqError::Timeout { .. }) {
                        silent.insert(broker);
                    }
                }
            }
            if !is_done {
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    /// Goes where it has to.
    async fn go(&self, queue: &QueueId, errand: Errand) -> Result<(), MqError> {
        let (min, end) = self.ends(queue).await?;
        let to = match errand {
            Errand::To(offset) => offset,
            Errand::Missing { next, came } => self.resumed(queue, next, came).await,
        };
        // What lay before the first message is deleted, and beyond the end no member can go.
        let from = to.clamp(min, end.max(min));
        let is_left_out = matches!(errand, Errand::Missing { came, .. } if from < came) && self.places().is_vain(queue);
        let (read, to) = if is_left_out { self.read_without_client(queue, from).await? } else { (Vec::new(), from) };

        // A poll that is under way may still be handed what lies elsewhere.
        let mut polled = self.polled.lock().await;
        self.finish(&mut polled).await;
        if let Some(place) = self.physical([queue]).first() {
            let went = Box::pin(self.consumer.seek(place, to));
            within("go to another place in a queue", ANSWER, went).await?;
        }
        polled.left.retain(|message| message.queue != *queue);
        polled.left.extend(read);
        self.shared.holes.forget_before(&self.asked(queue), from);
        self.places().went_to(queue, from);
        Ok(())
    }

    /// The messages of a queue from an offset on, as many as its broker gives at once, and the offset behind them.
    async fn read_without_client(&self, queue: &QueueId, from: i64) -> Result<(Vec<Incoming>, i64), MqError> {
        let mq = self.mq();
        let place = self.at_broker(&mq, queue);
        let addr = in_time(mq.master_of(&place)).await?;
        let page = mq.pull(&addr, &place, from, READ).await?;

        let found = page.msg_found_list().unwrap_or_default();
        let messages = found.iter().map(|message| Incoming { queue: queue.clone(), ..self.incoming(message) });
        let messages: Vec<Incoming> = messages.collect();
        let next = i64::try_from(page.next_begin_offset()).unwrap_or(i64::MAX).max(from);
        self.shared.holes.note(|| self.asked(queue), from, messages.iter().map(|message| message.offset), next);

        let (QueueId { topic, broker, queue }, count) = (queue, messages.len());
        tracing::error!(
            group = self.group,
            topic,
            broker,
            queue,
            offset = from,
            count,
            "the client does not go there: what lies there is read without it"
        );
        Ok((messages, next))
    }

    /// Where to go on when `came` came instead of `next`: behind what another member has committed meanwhile, since the
    /// queue may have been its own, or else where the client has lost something.
    async fn resumed(&self, queue: &QueueId, next: i64, came: i64) -> i64 {
        let committed = async {
            let masters = in_time(self.mq().master_addrs()).await?;
            match masters.get(&queue.broker) {
                Some(addr) => self.committed_at(queue, addr).await,
                None => Ok(None),
            }
        };
        let committed = committed.await.ok().flatten().unwrap_or(next);
        if self.shared.holes.beyond(&self.asked(queue), committed.max(next)) >= came {
            return came;
        }
        let QueueId { topic, broker, queue } = queue;
        tracing::error!(group = self.group, topic, broker, queue, next, came, "messages are missing: it goes back");
        next
    }

    /// What the broker has as the group's offset.
    async fn committed_at(&self, queue: &QueueId, addr: &str) -> Result<Option<i64>, MqError> {
        let mq = self.mq();
        let (group, place) = (mq.with_namespace(&self.group), self.at_broker(&mq, queue));
        in_time(mq.committed_in(addr, &group, &place)).await
    }

    /// The first offset of a queue, and the one behind its last.
    async fn ends(&self, queue: &QueueId) -> Result<(i64, i64), MqError> {
        let physical = self.physical([queue]);
        let Some(place) = physical.first() else { return Ok((0, 0)) };
        let first = Box::pin(self.consumer.min_offset(place));
        let first = within("read the start of a queue", ANSWER, first).await?;
        let end = Box::pin(self.consumer.max_offset(place));
        Ok((first, within("read the end of a queue", ANSWER, end).await?))
    }

    fn asked(&self, queue: &QueueId) -> Asked {
        let mq = self.mq();
        let QueueId { topic, broker, queue } = self.at_broker(&mq, queue);
        Asked { group: mq.with_namespace(&self.group), topic, broker, queue }
    }
}

/// An answer that does not come in time is none.
pub(super) async fn in_time<T>(answer: impl Future<Output = Result<T, MqError>>) -> Result<T, MqError> {
    let late = MqError::Timeout { operation: "look where a group is", timeout_ms: ANSWER.as_millis() };
    tokio::time::timeout(ANSWER, answer).await.unwrap_or(Err(late))
}

#[cfg(all(test, feature = "embedded"))]
mod tests {
    use super::*;
    use crate::mq::embedded::{EmbeddedBroker, EmbeddedConfig};
    use crate::mq::message::{Delay, Outgoing};
    use crate::mq::rocketmq::{RocketMq, RocketMqConfig};
    use crate::mq::runtime::MqRuntime;

    const TOPIC: &str = "T";
    const WAIT: Duration = Duration::from_millis(200);

    /// All with one key, and so in one queue.
    async fn send(mq: &RocketMq, count: usize) {
        let message = Outgoing {
            topic: TOPIC.to_owned(),
            tag: TOPIC.to_owned(),
            key: "k".to_owned(),
            body: "{}".to_owned().into(),
            properties: vec![],
            delay: Delay::None,
        };
        let sent = mq.publish(&vec![message; count]).await;
        assert!(sent.iter().all(Result::is_ok), "{sent:?}");
    }

    async fn offsets(member: &GroupConsumer, count: usize) -> Vec<i64> {
        let all = async {
            let mut offsets = Vec::new();
            while offsets.len() < count {
                offsets.extend(member.poll(count, WAIT).await.into_iter().map(|message| message.offset));
            }
            offsets
        };
        tokio::select! {
            offsets = all => offsets,
            () = member.keep_place() => unreachable!(),
            () = tokio::time::sleep(Duration::from_secs(60)) => panic!("{count} messages"),
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_the_client_leaves_out_is_read_without_it() {
        let dir = tempfile::tempdir().unwrap();
        let config = EmbeddedConfig {
            data_dir: dir.path().to_owned(),
            host: std::net::Ipv4Addr::LOCALHOST.into(),
            namesrv_port: 0,
            broker_port: 0,
            queues_per_topic: 4,
            sync_flush: false,
        };
        let runtime = MqRuntime::start("mq-test").unwrap();
        let broker = EmbeddedBroker::start(&config, &runtime).await.unwrap();
        let namesrv = broker.namesrv_addr();
        let mq = RocketMq::connect(RocketMqConfig { namesrv, ..RocketMqConfig::default() }, &runtime).await.unwrap();
        let topics = [TOPIC.to_owned()];
        mq.ensure_topics(&topics, 4).await.unwrap();
        send(&mq, 40).await;
        let member = mq.subscribe("g", &topics).await.unwrap();
        assert_eq!(offsets(&member, 40).await, Vec::from_iter(0..40));

        // As if the client had been sent back to 10 in vain, and went on behind the end.
        let queues = member.assignment().await.unwrap();
        let queue = queues.into_iter().find(|queue| {
            let verdict = member.places().look(queue, 0, std::time::Instant::now());
            verdict != Verdict::Unknown
        });
        let queue = queue.unwrap();
        while !member.places().is_vain(&queue) {
            member.places().went_to(&queue, 10);
        }
        assert!(!member.places().takes(&queue, 40, Some(|next| next)));
        assert_eq!(offsets(&member, 30).await, Vec::from_iter(10..40));
        send(&mq, 1).await;
        assert_eq!(offsets(&member, 1).await, [40], "the client goes on behind them");

        member.shutdown().await;
        mq.shutdown().await;
        broker.shutdown().await;
        runtime.shutdown(Duration::from_secs(10)).await;
    }
}
