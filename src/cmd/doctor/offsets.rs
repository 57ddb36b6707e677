//! Where groups stand in the queues that they have consumed from.

use std::collections::BTreeSet;

use super::Finding;
use crate::mq::operate::{Committed, Member, Standing};
use crate::mq::rocketmq::{MqError, RocketMq};

/// What is wrong with the places of a group. `members` are those that are online.
pub(super) async fn look(mq: &RocketMq, group: &str, members: &[Member]) -> Result<Vec<Finding>, MqError> {
    let subscribed: BTreeSet<&str> =
        members.iter().flat_map(|member| &member.subscriptions).map(|one| one.topic.as_str()).collect();
    let is_silent = members.iter().any(|member| member.subscriptions.is_empty());
    let mut findings = Vec::new();
    for topic in mq.topics_of(group).await? {
        let queues = mq.committed(group, &topic).await?;
        findings.extend(beyond(group, &topic, &queues));
        // Members that do not say what they take may take this.
        if !is_silent && !members.is_empty() && !subscribed.contains(topic.as_str()) {
            findings.extend(left(group, &topic, &queues));
        }
    }
    Ok(findings)
}

/// A topic that was made anew, or a store that was lost, begins at 0 again, and the group goes on behind its end.
fn beyond(group: &str, topic: &str, queues: &[Committed]) -> Option<Finding> {
    let seen: Vec<String> = queues
        .iter()
        .filter(|queue| queue.standing().is_beyond())
        .map(|queue| {
            let offset = queue.consumer_offset.unwrap_or_default();
            format!("{}:{} is at {offset}, its end is {}", queue.queue.broker, queue.queue.queue, queue.broker_offset)
        })
        .collect();
    if seen.is_empty() {
        return None;
    }
    let message =
        format!("it stands beyond the end of {} queues of {topic}: what comes there is passed over", seen.len());
    let fix = format!(
        "`ruyi mq offsets reset {group} --topic {topic} --to start` (the inboxes of ruyi drop what comes twice)"
    );
    Some(Finding::error("group.beyond", group, message).seen(seen.join("; ")).fix(fix))
}

/// What waits in a topic that nobody of those who are online takes.
fn left(group: &str, topic: &str, queues: &[Committed]) -> Option<Finding> {
    let waiting: i64 = queues.iter().filter_map(|queue| queue.standing().lag()).sum();
    let is_unknown = queues.iter().any(|queue| queue.standing() == Standing::Unknown);
    if waiting == 0 && !is_unknown {
        return None;
    }
    let message = format!("{waiting} messages of {topic} wait, and no member that is online subscribes to it");
    let fix = "start the members that take it, or leave it: the group has consumed from it before";
    Some(Finding::info("group.left", group, message).fix(fix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mq::message::QueueId;

    fn queue(end: i64, committed: Option<i64>) -> Committed {
        let queue = QueueId { topic: "T".to_owned(), broker: "a".to_owned(), queue: 3 };
        Committed { queue, broker_offset: end, consumer_offset: committed, last_consumed_ms: None }
    }

    #[test]
    fn a_place_beyond_the_end_is_named() {
        assert_eq!(beyond("g", "T", &[queue(10, Some(10)), queue(0, None)]), None);
        let finding = beyond("g", "T", &[queue(10, Some(500)), queue(10, Some(9))]).unwrap();
        assert_eq!(finding.evidence.as_deref(), Some("a:3 is at 500, its end is 10"));
        assert!(finding.fix.unwrap().contains("mq offsets reset g --topic T --to start"));
        assert_eq!(left("g", "T", &[queue(10, Some(10))]), None);
        assert!(left("g", "T", &[queue(10, Some(9))]).unwrap().message.starts_with("1 messages of T wait"));
    }
}
