//! Going where a member has to be: where somebody else has moved its group, and back to what is missing.
//!
//! Brokers take members along only when an operator resets a group, and say so once, to whoever pulls next: a member that
//! has just lost the queue can take that word with it. So each member looks where the brokers have its group. And the
//! client forgets where it was sent when its first question from there fails, with all that it had in hand: so what it
//! hands out is held against what the brokers have left out.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::super::holes::Asked;
use super::super::{LIFECYCLE_TIMEOUT, MqError, within};
use super::GroupConsumer;
use super::places::{Errand, Verdict};
use crate::mq::message::{Incoming, QueueId};

/// Between two looks at where the brokers have the group.
const LOOK: Duration = Duration::from_secs(10);
/// How long an answer may take. Who asks whether the brokers are there waits behind this.
const ANSWER: Duration = Duration::from_secs(1);

impl GroupConsumer {
    /// Sees to it, as long as it runs, that this member goes where somebody else moves its group. What the member has in
    /// hand may still be committed over a move; it goes there all the same.
    pub async fn follow_moves(&self) {
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
        taken.collect()
    }

    /// Goes where the member has to be; in which queues. What fails is tried again with the next poll.
    pub(super) async fn go_on_errands(&self) -> BTreeSet<QueueId> {
        let errands = self.places().errands();
        let mut gone = BTreeSet::new();
        for (queue, errand) in errands {
            let QueueId { topic, broker, queue: number } = &queue;
            match self.go(&queue, errand).await {
                Ok(offset) => {
                    self.shared.holes.forget_before(&self.asked(&queue), offset);
                    if self.places().went_to(&queue, offset) {
                        tracing::error!(
                            group = self.group,
                            topic,
                            broker,
                            queue = number,
                            offset,
                            "the client does not go there: what it gives instead is taken"
                        );
                    }
                    gone.insert(queue);
                }
                Err(error) => {
                    tracing::warn!(group = self.group, topic, broker, queue = number, %error, "the queue waits");
                }
            }
        }
        gone
    }

    /// Goes where it has to; where that is.
    async fn go(&self, queue: &QueueId, errand: Errand) -> Result<i64, MqError> {
        let (min, end) = self.ends(queue).await?;
        let to = match errand {
            Errand::To(offset) => offset,
            Errand::Missing { next, came } => self.resumed(queue, next, came).await,
        };
        // What lay before the first message is deleted, and beyond the end no member can go.
        let to = to.clamp(min, end.max(min));
        let physical = self.physical([queue]);
        if let Some(place) = physical.first() {
            let went = Box::pin(self.consumer.seek(place, to));
            within("go to another place in a queue", LIFECYCLE_TIMEOUT, went).await?;
        }
        Ok(to)
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

async fn in_time<T>(answer: impl Future<Output = Result<T, MqError>>) -> Result<T, MqError> {
    let late = MqError::Timeout { operation: "look where a group is", timeout_ms: ANSWER.as_millis() };
    tokio::time::timeout(ANSWER, answer).await.unwrap_or(Err(late))
}
