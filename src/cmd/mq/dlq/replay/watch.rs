//! Whether replayed letters fail again. They say so themselves: each carries the place of its letter, and comes to lie
//! in the dead letters again, or in the group's retry topic as a copy that a consumer gave back.

use std::collections::HashSet;

use super::super::letter::{LETTER, LetterId};
use super::super::read::{Reader, Span};
use crate::mq::rocketmq::{MqError, RocketMq};

/// A topic that is read from where it ended at first.
struct Tail {
    topic: String,
    span: Span,
}

/// Counts the letters of one run that failed again.
pub struct Watch<'a> {
    mq: &'a RocketMq,
    dead: Tail,
    given_back: Vec<Tail>,
    sent: HashSet<LetterId>,
    back: HashSet<LetterId>,
}

impl<'a> Watch<'a> {
    /// From now on, in the dead letters.
    ///
    /// # Errors
    /// The cluster is away.
    pub async fn new(mq: &'a RocketMq, dead: &str) -> Result<Self, MqError> {
        let dead = Tail::end(mq, dead).await?;
        Ok(Self { mq, dead, given_back: Vec::new(), sent: HashSet::new(), back: HashSet::new() })
    }

    /// From now on in this retry topic of the group as well, into which letters are about to be sent.
    ///
    /// # Errors
    /// The cluster is away.
    pub async fn follow(&mut self, topic: &str) -> Result<(), MqError> {
        if self.given_back.iter().any(|tail| tail.topic == topic) {
            return Ok(());
        }
        let tail = match self.mq.topic(topic).await?.is_empty() {
            false => Tail::end(self.mq, topic).await?,
            true => Tail { topic: topic.to_owned(), span: Span::default() },
        };
        self.given_back.push(tail);
        Ok(())
    }

    /// It was sent.
    pub fn sent(&mut self, id: LetterId) {
        self.sent.insert(id);
    }

    /// How many of those that were sent came back so far.
    #[must_use]
    pub fn back(&self) -> u64 {
        self.back.len() as u64
    }

    /// Reads what came since the last look.
    ///
    /// # Errors
    /// The cluster's.
    pub async fn look(&mut self) -> Result<(), MqError> {
        let back = self.dead.read(self.mq, |_| true).await?;
        self.back.extend(back.into_iter().filter(|id| self.sent.contains(id)));
        for tail in &mut self.given_back {
            // What we send there ourselves was given back by nobody yet.
            let back = tail.read(self.mq, |reconsumed| reconsumed > 0).await?;
            self.back.extend(back.into_iter().filter(|id| self.sent.contains(id)));
        }
        Ok(())
    }
}

impl Tail {
    async fn end(mq: &RocketMq, topic: &str) -> Result<Self, MqError> {
        let mut span = Span::of_topic(mq, topic).await?;
        span.queues.values_mut().for_each(|(from, to)| *from = *to);
        Ok(Self { topic: topic.to_owned(), span })
    }

    /// The letters of which copies came since the last time, as far as `counts` takes how often they were given back.
    async fn read(&mut self, mq: &RocketMq, counts: impl Fn(i32) -> bool) -> Result<Vec<LetterId>, MqError> {
        let now = Span::of_topic(mq, &self.topic).await?;
        for (queue, (from, to)) in now.queues {
            // A queue that was not there before is read from its beginning.
            self.span.queues.entry(queue).or_insert((from, to)).1 = to;
        }
        let mut reader = Reader::of_topic(mq, self.topic.clone(), &self.span).await?;
        let mut found = Vec::new();
        while let Some(copy) = reader.next().await? {
            if counts(copy.message.reconsumed) {
                found.extend(copy.message.property(LETTER).and_then(|id| id.parse().ok()));
            }
        }
        for (from, to) in self.span.queues.values_mut() {
            *from = *to;
        }
        Ok(found)
    }
}
