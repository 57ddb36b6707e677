//! Reading a topic from queue to queue in the order in which its messages were stored.

use std::collections::VecDeque;

use anyhow::Context as _;

use crate::cmd::mq::offsets::{Position, plan};
use crate::mq::message::QueueId;
use crate::mq::operate::StoredMessage;
use crate::mq::rocketmq::{MqError, RocketMq};

/// Messages asked for at once; what is held of each queue.
const PAGE: i32 = 64;

/// A part of a topic, being read.
pub(in crate::cmd) struct Scan<'a> {
    mq: &'a RocketMq,
    queues: Vec<Cursor>,
}

struct Cursor {
    queue: QueueId,
    addr: String,
    next: i64,
    end: i64,
    ahead: VecDeque<StoredMessage>,
}

impl<'a> Scan<'a> {
    /// What lies between two positions now.
    ///
    /// # Errors
    /// A broker of the topic is away.
    pub(in crate::cmd) async fn between(
        mq: &'a RocketMq,
        topic: &str,
        (from, to): (Position, Position),
        now_ms: i64,
    ) -> anyhow::Result<Self> {
        let addrs = mq.master_addrs().await?;
        let starts = plan::positions(mq, topic, from, now_ms).await?;
        let ends = plan::positions(mq, topic, to, now_ms).await?;
        let mut queues = Vec::with_capacity(starts.len());
        for ((queue, next), (_, end)) in starts.into_iter().zip(ends) {
            let addr = addrs.get(&queue.broker).cloned();
            let addr = addr.with_context(|| format!("broker {} has no master now", queue.broker))?;
            queues.push(Cursor { queue, addr, next, end, ahead: VecDeque::new() });
        }
        Ok(Self { mq, queues })
    }

    /// Messages that are still to be read, at most.
    pub(in crate::cmd) fn left(&self) -> i64 {
        self.queues.iter().map(|queue| (queue.end - queue.next).max(0)).sum()
    }

    /// The next one; `None` at the end.
    ///
    /// # Errors
    /// A broker of the topic is away.
    pub(in crate::cmd) async fn next(&mut self) -> Result<Option<StoredMessage>, MqError> {
        for queue in &mut self.queues {
            queue.fill(self.mq).await?;
        }
        let heads = self.queues.iter_mut().filter(|queue| !queue.ahead.is_empty());
        let first = heads.min_by_key(|queue| queue.ahead.front().map(|message| message.stored_ms));
        Ok(first.and_then(|queue| queue.ahead.pop_front()))
    }
}

impl Cursor {
    async fn fill(&mut self, mq: &RocketMq) -> Result<(), MqError> {
        while self.ahead.is_empty() && self.next < self.end {
            let page = mq.read_queue(&self.addr, &self.queue, self.next, PAGE).await?;
            let (next, end) = (self.next, self.end);
            let wanted = |message: &StoredMessage| (next..end).contains(&message.offset);
            let is_empty = page.messages.is_empty();
            self.ahead.extend(page.messages.into_iter().filter(wanted));
            // Where nothing comes and nothing follows, the rest has expired meanwhile.
            self.next = if page.next > next && !(is_empty && page.is_end) { page.next } else { end };
        }
        Ok(())
    }
}
