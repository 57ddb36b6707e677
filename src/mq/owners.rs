//! Queues of a group that has members, in which messages wait and which none of them has. Nobody comes for these
//! messages, however well the members are. While queues change hands some have no owner for seconds, so one look proves
//! nothing: what it shows is looked at again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::message::QueueId;
use super::operate::{Committed, Member};
use super::rocketmq::{MqError, RocketMq};

/// Between two looks: members that hear of each other share the queues out anew within a second.
const PAUSE: Duration = Duration::from_secs(3);

/// What is no fault yet.
#[derive(Clone, Copy, Debug)]
pub struct Grace {
    after: Duration,
    /// Whoever has come since then, and what has, may have no place yet; epoch ms.
    before_ms: i64,
}

impl Grace {
    /// Messages, and members, may be there for `after` until `now_ms`, epoch ms.
    #[must_use]
    pub fn new(after: Duration, now_ms: i64) -> Self {
        Self { after, before_ms: now_ms.saturating_sub_unsigned(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)) }
    }
}

/// A group that had such queues at one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    group: String,
    members: BTreeSet<String>,
    queues: BTreeSet<QueueId>,
}

/// A group that has such queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unowned {
    /// Its name on the brokers.
    pub group: String,
    /// How many members it has.
    pub members: usize,
    /// Its queues that none of them has, at least one.
    pub queues: Vec<QueueId>,
}

impl Unowned {
    /// In words.
    #[must_use]
    pub fn message(&self) -> String {
        format!("messages wait in {} queues that none of its {} members has", self.queues.len(), self.members)
    }

    /// Which queues.
    #[must_use]
    pub fn places(&self) -> String {
        let place = |queue: &QueueId| format!("{} {}:{}", queue.topic, queue.broker, queue.queue);
        self.queues.iter().map(place).collect::<Vec<_>>().join(", ")
    }
}

impl Suspect {
    /// Looks at a group (its name on the brokers) whose members are `members`, as [`RocketMq::members`] tells them.
    /// None where nothing is wrong, and where nobody can say.
    ///
    /// # Errors
    /// [`MqError`] when a broker is away.
    pub async fn of(mq: &RocketMq, group: &str, members: &[Member], grace: Grace) -> Result<Option<Self>, MqError> {
        if !tell(members, grace) {
            return Ok(None);
        }
        let subscriptions = members.iter().flat_map(|member| &member.subscriptions);
        let topics: BTreeSet<&str> = subscriptions.map(|one| one.topic.as_str()).collect();
        let owned: BTreeSet<&QueueId> = members.iter().flat_map(|member| &member.queues).collect();
        let (mut queues, masters) = (BTreeSet::new(), mq.master_addrs().await?);
        for topic in topics {
            // A topic of retries is made with the first of them.
            if mq.topic(topic).await?.is_empty() {
                continue;
            }
            for queue in mq.committed(group, topic).await?.iter().filter(|queue| !owned.contains(&queue.queue)) {
                if waits_since(mq, &masters, queue).await?.is_some_and(|at_ms| at_ms <= grace.before_ms) {
                    queues.insert(queue.queue.clone());
                }
            }
        }
        let members = members.iter().map(|member| member.client_id.clone()).collect();
        Ok((!queues.is_empty()).then(|| Self { group: group.to_owned(), members, queues }))
    }

    /// What both looks have shown, unless somebody came or went between them.
    fn and(self, again: Option<Self>) -> Option<Unowned> {
        let again = again.filter(|again| again.members == self.members)?;
        let queues: Vec<QueueId> = self.queues.intersection(&again.queues).cloned().collect();
        (!queues.is_empty()).then_some(Unowned { group: self.group, members: self.members.len(), queues })
    }
}

/// Whether the members say who has which queue: each of them tells what it takes, and is there for long enough to have
/// got its queues. Where members pop, a queue has no owner.
fn tell(members: &[Member], grace: Grace) -> bool {
    let is_settled = |member: &Member| member.started_ms.is_none_or(|at_ms| at_ms <= grace.before_ms);
    let tells = |member: &Member| !member.subscriptions.is_empty() && !member.pops && is_settled(member);
    !members.is_empty() && members.iter().all(tells)
}

/// When the oldest message was stored that waits in a queue, epoch ms. A group that has committed nothing there has all
/// of them before it. `masters` are the addresses of the brokers, by name.
async fn waits_since(
    mq: &RocketMq,
    masters: &BTreeMap<String, String>,
    queue: &Committed,
) -> Result<Option<i64>, MqError> {
    let next = queue.consumer_offset.unwrap_or(0);
    if next >= queue.broker_offset {
        return Ok(None);
    }
    match masters.get(&queue.queue.broker) {
        Some(addr) => mq.stored_at(addr, &queue.queue, next).await,
        None => Ok(None),
    }
}

/// Looks at suspects again, a moment later: those that it was no moment of.
///
/// # Errors
/// [`MqError`] when a broker is away.
pub async fn still_unowned(mq: &RocketMq, suspects: Vec<Suspect>, grace: Grace) -> Result<Vec<Unowned>, MqError> {
    if suspects.is_empty() {
        return Ok(Vec::new());
    }
    tokio::time::sleep(grace.after.min(PAUSE)).await;
    let mut found = Vec::new();
    for suspect in suspects {
        let members = mq.members(&suspect.group).await?;
        let again = Suspect::of(mq, &suspect.group, &members, grace).await?;
        found.extend(suspect.and(again));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::operate::Subscription;
    use super::*;

    fn member(id: &str) -> Member {
        let subscriptions = vec![Subscription { topic: "T".to_owned(), expression: "*".to_owned() }];
        Member { client_id: id.to_owned(), subscriptions, ..Member::default() }
    }

    fn suspect(members: &[&str], queues: &[i32]) -> Suspect {
        let queue = |queue: &i32| QueueId { topic: "T".to_owned(), broker: "a".to_owned(), queue: *queue };
        let members = members.iter().map(|id| (*id).to_owned()).collect();
        Suspect { group: "g".to_owned(), members, queues: queues.iter().map(queue).collect() }
    }

    #[test]
    fn nothing_is_said_where_members_do_not_tell() {
        let grace = Grace::new(Duration::from_secs(30), 100_000);
        assert!(tell(&[member("a"), member("b")], grace));
        assert!(!tell(&[], grace), "nobody is there");
        let silent = Member { subscriptions: Vec::new(), ..member("b") };
        let pops = Member { pops: true, ..member("b") };
        let fresh = Member { started_ms: Some(70_001), ..member("b") };
        for other in [silent, pops, fresh] {
            assert!(!tell(&[member("a"), other.clone()], grace), "{other:?}");
        }
        assert!(tell(&[Member { started_ms: Some(70_000), ..member("a") }], grace));
    }

    #[test]
    fn what_two_looks_show_is_told() {
        let first = || suspect(&["a", "b"], &[1, 2, 3]);
        let found = first().and(Some(suspect(&["a", "b"], &[2, 3, 4]))).unwrap();
        assert_eq!(found.places(), "T a:2, T a:3");
        assert_eq!(found.message(), "messages wait in 2 queues that none of its 2 members has");
        // Somebody has come, or has taken them, or it was no fault any more.
        assert_eq!(first().and(Some(suspect(&["a", "b", "c"], &[1, 2, 3]))), None);
        assert_eq!(first().and(Some(suspect(&["a", "b"], &[4]))), None);
        assert_eq!(first().and(None), None);
    }
}
