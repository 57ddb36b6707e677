//! Whether this member has the queues that it should have.

use super::super::{MqError, RocketMq, within};
use super::GroupConsumer;
use super::moves::{ANSWER, in_time};
use crate::mq::message::QueueId;

/// Members share the queues of a topic out evenly: none of so many has less than this.
fn share(queues: usize, members: usize) -> usize {
    queues / members.max(1)
}

impl GroupConsumer {
    /// Those of `topics` of which this member has fewer queues than each member of its group gets, while messages wait
    /// in queues of them that it does not have.
    ///
    /// # Errors
    /// [`MqError`] when a broker does not say.
    pub async fn lacks(&self, topics: &[String]) -> Result<Vec<String>, MqError> {
        let own = self.assignment().await?;

        // The members of a process look one after the other: a broker that hangs is waited for once.
        let _turn = self.shared.looks.lock().await;
        let mq = self.mq();
        let members = in_time(mq.connections(&mq.with_namespace(&self.group))).await?.len();
        let mut lacking = Vec::new();
        for topic in topics {
            let call = Box::pin(self.consumer.fetch_message_queues(self.shared.names.physical(topic)));
            // A topic that nobody knows has no queues.
            let Ok(queues) = within("list the queues of a topic", ANSWER, call).await else { continue };
            let has = own.iter().filter(|queue| queue.topic == *topic).count();
            if has < share(queues.len(), members) && self.wait_elsewhere(&mq, topic, &own).await? {
                lacking.push(topic.clone());
            }
        }
        Ok(lacking)
    }

    /// Messages wait in queues of a topic that are none of `own`.
    async fn wait_elsewhere(&self, mq: &RocketMq, topic: &str, own: &[QueueId]) -> Result<bool, MqError> {
        let own: Vec<QueueId> = own.iter().map(|queue| self.at_broker(mq, queue)).collect();
        let (group, topic) = (mq.with_namespace(&self.group), mq.with_namespace(self.shared.names.physical(topic)));
        let queues = in_time(mq.committed(&group, &topic)).await?;
        Ok(queues.iter().any(|queue| !own.contains(&queue.queue) && queue.standing().lag() != Some(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_less_than_an_even_share() {
        assert_eq!([share(8, 1), share(8, 3), share(8, 8), share(8, 9)], [8, 2, 1, 0]);
        assert_eq!(share(4, 0), 4, "the brokers may know of none yet, but there is one");
    }
}
