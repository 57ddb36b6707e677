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
        // Who had popped it says so itself.
        if let Some(topic) = letter.retry_topic_of_pop() {
            return Ok(topic.to_owned());
        }
        let origin = letter.origin().unwrap_or_default();
        if let Some(topic) = self.known.get(origin) {
            return Ok(topic.clone());
        }

        // A message that died at its first attempt was in no retry topic yet.
        let mut topic = format!("{RETRY_PREFIX}{}", self.group);
        if !self.pulls && !origin.is_empty() {
            for of_pop in topics_of_pop(self.group, origin) {
                if !self.mq.topic(&of_pop).await?.is_empty() {
                    topic = of_pop;
                    break;
                }
            }
        }
        self.known.insert(origin.to_owned(), topic.clone());
        Ok(topic)
    }
}
