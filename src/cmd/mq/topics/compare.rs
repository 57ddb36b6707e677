//! How a cluster differs from what is wanted. Nothing is asked here.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use utoipa::ToSchema;

use super::edit::MessageType;
use super::wanted::{Subscriptions, Topic, Wanted};
use crate::mq::operate::{Member, Permission, TopicPart};
use crate::mq::rocketmq::RETRY_PREFIX;

/// What a cluster has.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Masters: name → address.
    pub brokers: BTreeMap<String, String>,
    /// By name, on the brokers that have it.
    pub topics: BTreeMap<String, Vec<TopicPart>>,
    /// Broker → groups that it has a configuration for.
    pub groups: BTreeMap<String, BTreeSet<String>>,
    /// Group → its members that are online.
    pub members: BTreeMap<String, Vec<Member>>,
}

/// What can be done about a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) enum Action {
    Create,
    AddQueues,
    RemoveQueues,
    SetPermission,
    SetType,
    Delete,
    /// By whoever runs the member: it has to subscribe to something else.
    FixMember,
}

impl Action {
    /// It would lose something, or change what its users rely on.
    fn is_risky(self) -> bool {
        matches!(self, Self::RemoveQueues | Self::SetType | Self::Delete)
    }
}

/// A difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct Difference {
    /// Name of the topic, or of the group.
    pub name: String,
    /// topic, queues, permission, type, group or subscription.
    pub what: &'static str,
    /// Broker, or client id of the member.
    pub place: String,
    pub is: Option<String>,
    pub wanted: Option<String>,
    pub action: Action,
    /// `apply` does it with --force only.
    pub needs_force: bool,
    pub done: bool,
}

/// All of them, topics first, by name and broker.
pub(super) fn compare(wanted: &Wanted, seen: &Seen) -> Vec<Difference> {
    let mut found = Vec::new();
    for (name, topic) in &wanted.topics {
        let parts = seen.topics.get(name).map(Vec::as_slice).unwrap_or_default();
        for broker in seen.brokers.keys() {
            let part = parts.iter().find(|part| part.broker == *broker);
            of_topic(name, topic, broker, part, &mut found);
        }
    }
    for (name, subscriptions) in &wanted.groups {
        for (broker, groups) in &seen.groups {
            if !groups.contains(name) {
                found.push(difference(name, "group", broker, None, Some("there".to_owned()), Action::Create));
            }
        }
        of_members(name, subscriptions, seen.members.get(name).map(Vec::as_slice).unwrap_or_default(), &mut found);
    }
    let others = seen.members.iter().filter(|(name, _)| !wanted.is_all && !wanted.groups.contains_key(*name));
    for (name, members) in others {
        of_members(name, &None, members, &mut found);
    }
    found
}

fn difference(
    name: &str,
    what: &'static str,
    place: &str,
    is: Option<String>,
    wanted: Option<String>,
    action: Action,
) -> Difference {
    let needs_force = action.is_risky();
    Difference { name: name.to_owned(), what, place: place.to_owned(), is, wanted, action, needs_force, done: false }
}

fn of_topic(name: &str, wanted: &Topic, broker: &str, part: Option<&TopicPart>, found: &mut Vec<Difference>) {
    let mut add = |what, is, wanted, action| found.push(difference(name, what, broker, is, wanted, action));
    let Some(part) = part else {
        if !wanted.absent {
            add("topic", None, Some(shown(wanted)), Action::Create);
        }
        return;
    };
    if wanted.absent {
        add("topic", Some("there".to_owned()), None, Action::Delete);
        return;
    }
    if let Some(queues) = wanted.queues {
        let (read, write) = (part.read_queues, part.write_queues);
        let is = if read == write { read.to_string() } else { format!("{read} to read, {write} to write") };
        if read.max(write) > queues && !wanted.at_least {
            add("queues", Some(is), Some(queues.to_string()), Action::RemoveQueues);
        } else if read.min(write) < queues {
            add("queues", Some(is), Some(queues.to_string()), Action::AddQueues);
        }
    }
    if let Some(permission) = wanted.permission.filter(|permission| *permission != part.permission) {
        let (is, wanted) = (permission_name(part.permission), permission_name(permission));
        add("permission", Some(is.to_owned()), Some(wanted.to_owned()), Action::SetPermission);
    }
    if let Some(wanted) = wanted.message_type.map(MessageType::name).filter(|name| *name != part.message_type) {
        add("type", Some(part.message_type.clone()), Some(wanted.to_owned()), Action::SetType);
    }
}

fn shown(topic: &Topic) -> String {
    let queues = topic.queues.map(|queues| format!("{queues} queues"));
    let kind = topic.message_type.map(|kind| kind.name().to_owned());
    let permission = topic.permission.map(|permission| permission_name(permission).to_owned());
    let all: Vec<String> = [queues, permission, kind].into_iter().flatten().collect();
    if all.is_empty() { "there".to_owned() } else { all.join(", ") }
}

fn permission_name(permission: Permission) -> &'static str {
    match permission {
        Permission::ReadWrite => "readWrite",
        Permission::Read => "read",
        Permission::Write => "write",
        Permission::None => "none",
    }
}

/// A broker gives the queues of a topic to the members of a group as if all subscribed to the same: one that does not
/// leaves messages lying, or takes what it was not meant to.
fn of_members(group: &str, wanted: &Subscriptions, members: &[Member], found: &mut Vec<Difference>) {
    let retry = format!("{RETRY_PREFIX}{group}");
    let tell = |member: &Member| {
        let told = member.subscriptions.iter().filter(|one| one.topic != retry);
        told.map(|one| (one.topic.clone(), one.expression.clone())).collect::<BTreeMap<String, String>>()
    };
    // One that does not say anything (it does not answer, or chooses its queues itself) is not judged.
    let told: Vec<(&Member, BTreeMap<String, String>)> =
        members.iter().map(|member| (member, tell(member))).filter(|(_, told)| !told.is_empty()).collect();
    let usual = || {
        let mut counts: BTreeMap<&BTreeMap<String, String>, usize> = BTreeMap::new();
        told.iter().for_each(|(_, told)| *counts.entry(told).or_default() += 1);
        counts.into_iter().rev().max_by_key(|(_, count)| *count).map(|(told, _)| told.clone())
    };
    let Some(wanted) = wanted.clone().or_else(usual) else { return };
    for (member, told) in told.iter().filter(|(_, told)| *told != wanted) {
        let (is, wanted) = (subscription(told), subscription(&wanted));
        found.push(difference(group, "subscription", &member.client_id, Some(is), Some(wanted), Action::FixMember));
    }
}

fn subscription(topics: &BTreeMap<String, String>) -> String {
    let all: Vec<String> = topics.iter().map(|(topic, filter)| format!("{topic} {filter}")).collect();
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mq::operate::Subscription;

    fn part(broker: &str, queues: u32) -> TopicPart {
        TopicPart {
            broker: broker.to_owned(),
            addr: String::new(),
            read_queues: queues,
            write_queues: queues,
            permission: Permission::ReadWrite,
            message_type: "NORMAL".to_owned(),
        }
    }

    fn seen(parts: Vec<TopicPart>) -> Seen {
        let brokers = ["a", "b"].map(|name| (name.to_owned(), String::new())).into();
        Seen { brokers, topics: [("t".to_owned(), parts)].into(), ..Seen::default() }
    }

    fn actions(topic: Topic, seen: &Seen) -> Vec<(String, Action, bool)> {
        let wanted = Wanted { topics: [("t".to_owned(), topic)].into(), ..Wanted::default() };
        compare(&wanted, seen).into_iter().map(|one| (one.place, one.action, one.needs_force)).collect()
    }

    #[test]
    fn topics_differ_on_each_broker() {
        let topic = |queues| Topic { queues: Some(queues), ..Topic::default() };
        let there = seen(vec![part("a", 4), part("b", 8)]);
        let of = |place: &str, action, force| (place.to_owned(), action, force);
        assert_eq!(actions(topic(6), &there), [of("a", Action::AddQueues, false), of("b", Action::RemoveQueues, true)]);
        assert_eq!(actions(Topic { at_least: true, ..topic(6) }, &there), [of("a", Action::AddQueues, false)]);
        assert_eq!(actions(topic(4), &seen(vec![part("a", 4)])), [of("b", Action::Create, false)]);
        assert!(actions(Topic::default(), &there).is_empty());
        let absent = Topic { absent: true, ..Topic::default() };
        assert_eq!(actions(absent.clone(), &seen(vec![part("b", 4)])), [of("b", Action::Delete, true)]);
        assert!(actions(absent, &seen(Vec::new())).is_empty());
        let other =
            Topic { permission: Some(Permission::Read), message_type: Some(MessageType::Fifo), ..Topic::default() };
        assert_eq!(
            actions(other, &seen(vec![part("a", 4), part("b", 4)]))[..2],
            [of("a", Action::SetPermission, false), of("a", Action::SetType, true)]
        );
    }

    #[test]
    fn members_that_subscribe_to_something_else_are_found() {
        let member = |client: &str, filter: &str| {
            let subscription =
                |topic: &str, filter: &str| Subscription { topic: topic.to_owned(), expression: filter.to_owned() };
            let mut subscriptions = vec![subscription("t", filter), subscription("%RETRY%g", "*")];
            subscriptions.retain(|_| !filter.is_empty());
            Member { client_id: client.to_owned(), subscriptions, ..Member::default() }
        };
        let members = vec![member("1", "x"), member("2", "*"), member("3", "*"), member("4", "")];
        let seen = Seen { members: [("g".to_owned(), members)].into(), ..Seen::default() };
        let odd = |wanted: &Wanted| compare(wanted, &seen).into_iter().map(|one| one.place).collect::<Vec<_>>();
        assert_eq!(odd(&Wanted::default()), ["1"]);
        assert!(odd(&Wanted { is_all: true, ..Wanted::default() }).is_empty(), "nobody asked for this group");
        let subscriptions = |filter: &str| Some([("t".to_owned(), filter.to_owned())].into());
        let wanted = |filter| Wanted { groups: [("g".to_owned(), subscriptions(filter))].into(), ..Wanted::default() };
        assert_eq!(odd(&wanted("x")), ["2", "3"]);
        assert_eq!(odd(&wanted("y")), ["1", "2", "3"]);
    }
}
