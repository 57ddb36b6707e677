//! Topics against the catalogue, and dead letters.

use std::collections::BTreeSet;

use super::{Finding, Findings};
use crate::config::{Config, PublishVia, TimeoutVia};
use crate::domain::event::Kind;
use crate::mq::operate::{Permission, TopicPart};
use crate::mq::rocketmq::{DLQ_PREFIX, MqError, RocketMq};

/// Whether the cluster has topics of the catalogue.
pub(super) async fn look(config: &Config, mq: &RocketMq, findings: &Findings) -> bool {
    let known: BTreeSet<String> = match mq.topics().await {
        Ok(names) => names.into_iter().collect(),
        Err(error) => {
            findings.add(unread("topic.list", "topics", &error));
            return false;
        }
    };
    let all: Vec<(Kind, String)> = Kind::ALL.iter().map(|kind| (*kind, mq.on_brokers(kind.name()))).collect();
    let (there, missing): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, name)| known.contains(name));
    if there.is_empty() {
        let message = "the cluster has none of the topics of ruyi";
        let fix = "nothing, if ruyi only operates this cluster; else its roles make them when they start";
        findings.add(Finding::info("topic.none", "topics", message).fix(fix));
        return false;
    }
    for (kind, name) in &missing {
        let message = if *name == kind.name() {
            "no broker has this topic: what is sent there waits".to_owned()
        } else {
            format!("no broker has the topic of {}: what is sent there waits", kind.name())
        };
        let fix = "start a role of ruyi, which makes it if it may, or `ruyi mq topics create`";
        findings.add(Finding::error("topic.missing", name, message).fix(fix));
    }
    let mut good = 0;
    for (kind, name) in &there {
        match mq.topic(name).await {
            Ok(parts) => {
                let faults = judge(config, *kind, name, &parts);
                good += usize::from(faults.is_empty());
                for finding in faults {
                    findings.add(finding);
                }
            }
            // The others would take as long to fail.
            Err(error) => {
                findings.add(unread("topic.read", name, &error));
                return true;
            }
        }
    }
    findings.add(Finding::ok("topic.all", "topics", format!("{good} of {} are as they should be", Kind::ALL.len())));
    true
}

fn unread(check: &'static str, subject: &str, error: &MqError) -> Finding {
    let fix = "see that the brokers answer, and that the user of mq.access_key may read";
    Finding::error(check, subject, "it cannot be read").seen(error.to_string()).fix(fix)
}

/// What RocketMQ's proxy lets pass, and what tells others how a topic is used.
fn types(config: &Config, kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::PaymentSuccess if config.payment.publish == PublishVia::Transaction => &["TRANSACTION", "MIXED"],
        Kind::PayTimeoutDelay if config.order.timeout.via == TimeoutVia::Broker => &["DELAY", "MIXED", "NORMAL"],
        // Delayed events travel by the same topics as the others.
        _ => &["NORMAL", "MIXED", "UNSPECIFIED"],
    }
}

fn judge(config: &Config, kind: Kind, name: &str, parts: &[TopicPart]) -> Vec<Finding> {
    let mut found = Vec::new();
    let each = |what: &dyn Fn(&TopicPart) -> String| {
        parts.iter().map(|part| format!("{}: {}", part.broker, what(part))).collect::<Vec<_>>().join(", ")
    };
    if parts.iter().any(|part| part.permission != Permission::ReadWrite) {
        let message = "it may not be both read and written on every broker";
        let seen = each(&|part| format!("{:?}", part.permission));
        let fix = format!("`ruyi mq topics update {name} --permission read-write`, unless it is being drained");
        found.push(Finding::error("topic.permission", name, message).seen(seen).fix(fix));
    }
    let fit = types(config, kind);
    // Where no type is set, the broker calls it NORMAL: only a set one can be wrong for transactions.
    let unset = |part: &TopicPart| part.message_type == "NORMAL";
    if parts.iter().any(|part| !fit.contains(&part.message_type.as_str()) && !unset(part)) {
        let message =
            format!("its message type is wrong for what {} is: RocketMQ's proxy would refuse it", kind.name());
        let seen = each(&|part| part.message_type.clone());
        let fix = format!("`ruyi mq topics update {name} --type {}`", fit[0].to_lowercase());
        found.push(Finding::warning("topic.type", name, message).seen(seen).fix(fix));
    }
    let queues = |part: &TopicPart| (part.read_queues, part.write_queues);
    if parts.windows(2).any(|pair| queues(&pair[0]) != queues(&pair[1])) {
        let message = "its queues are not the same on every broker: one broker has more of the load";
        let seen = each(&|part| format!("{} to read, {} to write", part.read_queues, part.write_queues));
        let most = parts.iter().map(|part| part.read_queues.max(part.write_queues)).max().unwrap_or(0);
        let fix = format!("`ruyi mq topics update {name} --queues {most}`");
        found.push(Finding::warning("topic.queues", name, message).seen(seen).fix(fix));
    } else if parts.iter().any(|part| part.read_queues < part.write_queues) {
        let message = "messages in some of its queues are never read";
        let seen = each(&|part| format!("{} to read, {} to write", part.read_queues, part.write_queues));
        let fix = "raise its read queues to its write queues";
        found.push(Finding::error("topic.unread", name, message).seen(seen).fix(fix));
    }
    found
}

/// Dead letters that nobody could look at would be found by nobody.
pub(super) async fn dead_letters(mq: &RocketMq, findings: &Findings) {
    let topics = match mq.topics().await {
        Ok(topics) => topics,
        Err(error) => return findings.add(unread("dlq.list", "dead letters", &error)),
    };
    let (mut all, mut good) = (0, 0);
    for topic in topics.iter().filter(|topic| topic.starts_with(DLQ_PREFIX)) {
        all += 1;
        let parts = match mq.topic(topic).await {
            Ok(parts) => parts,
            Err(error) => {
                findings.add(unread("dlq.list", topic, &error));
                return;
            }
        };
        let closed: Vec<&str> = parts
            .iter()
            .filter(|part| !matches!(part.permission, Permission::ReadWrite | Permission::Read))
            .map(|part| part.broker.as_str())
            .collect();
        if closed.is_empty() {
            good += 1;
            continue;
        }
        let message = "its dead letters cannot be read, so not replayed";
        let fix = format!("`ruyi mq topics update {topic} --permission read-write`");
        let seen = format!("no permission to read on {}", closed.join(", "));
        findings.add(Finding::error("dlq.unreadable", topic, message).seen(seen).fix(fix));
    }
    findings.add(Finding::ok("dlq.readable", "dead letters", format!("{good} of {all} topics can be read")));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    #[test]
    fn types_matter_where_the_kind_of_message_does() {
        let checks = |sets: &[&str], kind, message_type: &str| -> Vec<&str> {
            let sets = sets.iter().map(|set| (*set).to_owned()).collect();
            let config = Config::load(&Sources { sets, ..Sources::default() }).unwrap();
            let part = TopicPart {
                broker: "a".into(),
                addr: "a:1".into(),
                read_queues: 4,
                write_queues: 4,
                permission: Permission::ReadWrite,
                message_type: message_type.into(),
            };
            judge(&config, kind, "T", &[part]).iter().map(|finding| finding.check).collect()
        };
        assert!(checks(&[], Kind::OrderCreated, "NORMAL").is_empty());
        assert_eq!(checks(&[], Kind::OrderCreated, "FIFO"), ["topic.type"]);
        assert_eq!(checks(&[], Kind::PaymentSuccess, "TRANSACTION"), ["topic.type"]);
        assert!(checks(&["payment.publish=transaction"], Kind::PaymentSuccess, "TRANSACTION").is_empty());
        assert!(checks(&["order.timeout.via=broker"], Kind::PayTimeoutDelay, "DELAY").is_empty());
        assert_eq!(checks(&["order.timeout.via=broker"], Kind::PayTimeoutDelay, "FIFO"), ["topic.type"]);
    }
}
