//! Consumer groups: all of the cluster, whoever they are.

use std::collections::{BTreeMap, BTreeSet};

use super::broker::Told;
use super::{Finding, Findings, offsets};
use crate::domain::event::Group;
use crate::mq::operate::{Member, Subscription};
use crate::mq::owners::{self, Grace, Suspect, Unowned};
use crate::mq::rocketmq::{MqError, RocketMq};

/// Groups that RocketMQ makes for itself.
const OWN: [&str; 9] = [
    "CID_RMQ_SYS_",
    "CID_SYS_",
    "CID_ONSAPI_",
    "CID_ONS-HTTP-PROXY",
    "CID_HOUSEKEEPING",
    "TOOLS_CONSUMER",
    "FILTERSRV_CONSUMER",
    "SELF_TEST_",
    "__MONITOR_CONSUMER",
];

/// `ours`: the cluster has topics of ruyi.
pub(super) async fn look(mq: &RocketMq, told: &Told, ours: bool, grace: Grace, findings: &Findings) {
    let known: BTreeSet<String> = match mq.groups().await {
        Ok(groups) => groups.into_iter().collect(),
        Err(error) => return findings.add(unread("groups", &error)),
    };
    let catalogue: Vec<String> = Group::ALL.iter().map(|group| mq.on_brokers(group.name())).collect();
    if ours {
        missing(&known, &catalogue, told, findings);
    }
    let (mut alive, mut suspects) = (BTreeSet::new(), Vec::new());
    for group in known.iter().filter(|group| !OWN.iter().any(|prefix| group.starts_with(prefix))) {
        let members = match mq.members(group).await {
            Ok(members) => members,
            // The others would take as long to fail.
            Err(error) => return findings.add(unread(group, &error)),
        };
        match offsets::look(mq, group, &members).await {
            Ok(found) => found.into_iter().for_each(|finding| findings.add(finding)),
            Err(error) => findings.add(unread(group, &error)),
        }
        if members.is_empty() {
            continue;
        }
        alive.insert(group.as_str());
        findings.add(subscriptions(group, &members));
        match idle(mq, group, &members).await {
            Ok(finding) => finding.into_iter().for_each(|finding| findings.add(finding)),
            Err(error) => findings.add(unread(group, &error)),
        }
        match Suspect::of(mq, group, &members, grace).await {
            Ok(suspect) => suspects.extend(suspect),
            Err(error) => findings.add(unread(group, &error)),
        }
    }
    let asleep = catalogue.iter().filter(|group| known.contains(*group) && !alive.contains(group.as_str()));
    let asleep: Vec<&str> = asleep.map(String::as_str).collect();
    if !asleep.is_empty() {
        let message = format!("{} groups of ruyi have no member now: their messages wait", asleep.len());
        let fix = "start the roles that run them (`ruyi serve ...`)";
        findings.add(Finding::info("group.offline", "groups", message).seen(asleep.join(", ")).fix(fix));
    }
    // Last: it takes a second look.
    match owners::still_unowned(mq, suspects, grace).await {
        Ok(found) => found.iter().for_each(|one| findings.add(unowned(one))),
        Err(error) => findings.add(unread("groups", &error)),
    }
}

/// Nobody comes for what waits there, however well the members are.
fn unowned(found: &Unowned) -> Finding {
    let fix = "start a member again: the queues are then shared out anew; members that subscribe to something else take \
               only their own, and leave the rest to nobody";
    Finding::error("group.unowned", &found.group, found.message()).seen(found.places()).fix(fix)
}

fn unread(subject: &str, error: &MqError) -> Finding {
    let fix = "see that the brokers answer, and that the user of mq.access_key may read";
    Finding::error("group.read", subject, "it cannot be read").seen(error.to_string()).fix(fix)
}

/// Groups of the catalogue that no broker knows: made by the first consumer, where the brokers allow that.
fn missing(known: &BTreeSet<String>, catalogue: &[String], told: &Told, findings: &Findings) {
    let missing: Vec<&str> = catalogue.iter().filter(|group| !known.contains(*group)).map(String::as_str).collect();
    if missing.is_empty() {
        return;
    }
    let forbids: Vec<&str> = told
        .iter()
        .filter(|(_, settings)| settings.get("autoCreateSubscriptionGroup").is_some_and(|auto| auto == "false"))
        .map(|(broker, _)| broker.as_str())
        .collect();
    let (count, seen) = (missing.len(), missing.join(", "));
    if forbids.is_empty() {
        let message = format!("{count} groups of ruyi have never consumed here");
        findings.add(Finding::info("group.missing", "groups", message).seen(seen));
    } else {
        let message =
            format!("{count} groups of ruyi are missing, and {} do not make groups by themselves", forbids.join(", "));
        let fix = "make them (mqadmin updateSubGroup), or set autoCreateSubscriptionGroup=true";
        findings.add(Finding::error("group.missing", "groups", message).seen(seen).fix(fix));
    }
}

/// A broker keeps one subscription for a group: members that differ overwrite one another's, and messages are lost to
/// filters.
fn subscriptions(group: &str, members: &[Member]) -> Finding {
    let telling: Vec<&Member> = members.iter().filter(|member| !member.subscriptions.is_empty()).collect();
    let mut kinds: BTreeMap<Vec<Subscription>, Vec<&str>> = BTreeMap::new();
    for member in &telling {
        let mut normal: Vec<Subscription> = member.subscriptions.iter().map(normal).collect();
        normal.sort();
        kinds.entry(normal).or_default().push(&member.client_id);
    }
    match (kinds.len(), members.len() - telling.len()) {
        (0, _) => {
            let message = format!("its {} members do not say what they subscribe to", members.len());
            Finding::info("group.subscription", group, message)
        }
        (1, 0) => {
            let message = format!("its {} members subscribe to the same", members.len());
            Finding::ok("group.subscription", group, message)
        }
        (1, silent) => {
            let message = format!("{} members subscribe to the same, {silent} do not say", telling.len());
            Finding::info("group.subscription", group, message)
        }
        (count, _) => {
            let say = |one: &Subscription| format!("{} [{}]", one.topic, one.expression);
            let seen: Vec<String> = kinds
                .iter()
                .map(|(kind, who)| {
                    format!("{}: {}", who.join(", "), kind.iter().map(say).collect::<Vec<_>>().join(", "))
                })
                .collect();
            let message =
                format!("its members subscribe in {count} ways: they take messages from one another, and lose some");
            let fix =
                "give all members of the group the same topics and filters, or another group to those that differ";
            Finding::error("group.subscription", group, message).seen(seen.join("; ")).fix(fix)
        }
    }
}

/// `A||B` is `B || A`.
fn normal(one: &Subscription) -> Subscription {
    let mut tags: Vec<&str> = one.expression.split("||").map(str::trim).collect();
    tags.sort_unstable();
    tags.dedup();
    let expression = if tags == [""] { "*".to_owned() } else { tags.join(" || ") };
    Subscription { topic: one.topic.clone(), expression }
}

/// A queue is consumed by one member: more members than queues have nothing to do.
async fn idle(mq: &RocketMq, group: &str, members: &[Member]) -> Result<Option<Finding>, MqError> {
    let subscribed = members.iter().flat_map(|member| &member.subscriptions).map(|one| one.topic.as_str());
    let mut topics: BTreeSet<String> = subscribed.filter(|topic| !topic.starts_with('%')).map(str::to_owned).collect();
    if topics.is_empty() {
        topics = mq.topics_of(group).await?.into_iter().collect();
    }
    let mut most = (0, String::new());
    for topic in topics {
        let queues: u32 = mq.topic(&topic).await?.iter().map(|part| part.read_queues).sum();
        most = most.max((queues, topic));
    }
    let (queues, topic) = most;
    let members = u32::try_from(members.len()).unwrap_or(u32::MAX);
    if queues == 0 || members <= queues || mq.broadcasts(group).await? {
        return Ok(None);
    }
    let message = format!(
        "{} of its {members} members have nothing to do: no topic of it has more than {queues} queues",
        members - queues
    );
    let fix = format!("`ruyi mq topics update {topic} --queues ...`, or fewer members");
    Ok(Some(Finding::warning("group.idle", group, message).fix(fix)))
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    #[test]
    fn the_order_of_tags_is_no_difference() {
        let member = |id: &str, subscriptions: &[(&str, &str)]| Member {
            client_id: id.into(),
            subscriptions: subscriptions
                .iter()
                .map(|(topic, expression)| Subscription { topic: (*topic).into(), expression: (*expression).into() })
                .collect(),
            ..Member::default()
        };
        let severity = |members: &[Member]| subscriptions("g", members).severity;
        let same = [member("a", &[("T", "A||B"), ("U", "*")]), member("b", &[("U", ""), ("T", "B || A")])];
        assert_eq!(severity(&same), Severity::Ok);
        assert_eq!(severity(&[member("a", &[("T", "A")]), member("b", &[("T", "B")])]), Severity::Error);
        assert_eq!(severity(&[member("a", &[("T", "A")]), member("b", &[])]), Severity::Info);
        assert_eq!(severity(&[member("a", &[])]), Severity::Info);
    }
}
