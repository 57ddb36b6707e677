//! The topic by which a letter comes back to its group, and to no other.

use std::collections::BTreeMap;

use super::super::letter::{Letter, topics_of_pop};
use crate::mq::rocketmq::{MqError, RETRY_PREFIX, RocketMq};

/// The retry topics of one group: one for all, which members that pull and are pushed to read, and one for each topic,
/// which members that pop read (those that speak gRPC) and which is the only one that they read.
pub struct Ways<'a> {
    mq: &'a RocketMq,
    group: &'a str,
    /// The group has committed offsets in the topic that is for all.
    pulls: bool,
    /// Topic of origin → how its letters come back.
    known: BTreeMap<String, String>,
}

impl<'a> Ways<'a> {
    /// Of a group.
    ///
    /// # Errors
    /// The cluster is away.
    pub async fn of(mq: &'a RocketMq, group: &'a str) -> Result<Self, MqError> {
        let pulls = mq.consumed_topics(group).await?.contains(&format!("{RETRY_PREFIX}{group}"));
        Ok(Self { mq, group, pulls, known: BTreeMap::new() })
    }

    /// Where a letter has to be sent.
    ///
    /// # Errors
    /// The cluster is away.
    pub async fn back(&mut self, letter: &Letter) -> Result<String, MqError> {
        // Who had popped it says so itself. No client may send to the form with `+`; brokers that have it read the other
        // one as well, unless they are told not to (retrieveMessageFromPopRetryTopicV1).
        if let Some(origin) = letter.of_pop() {
            let [topic, _] = topics_of_pop(self.group, origin);
            return Ok(topic);
        }
        let origin = letter.origin().unwrap_or_default();
        if let Some(topic) = self.known.get(origin) {
            return Ok(topic.clone());
        }

        // A message that died at its first attempt was in no retry topic yet.
        let mut topic = format!("{RETRY_PREFIX}{}", self.group);
        if !self.pulls && !origin.is_empty() {
            let [of_pop, second] = topics_of_pop(self.group, origin);
            if !self.mq.topic(&of_pop).await?.is_empty() || !self.mq.topic(&second).await?.is_empty() {
                topic = of_pop;
            }
        }
        self.known.insert(origin.to_owned(), topic.clone());
        Ok(topic)
    }
}
