//! The brokers themselves.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, Findings, clock, settings};
use crate::cmd::Context;
use crate::cmd::check;
use crate::mq::operate::BrokerNode;
use crate::mq::rocketmq::RocketMq;

/// What each broker says of its settings, by name; of those that answer.
pub(super) type Told = BTreeMap<String, BTreeMap<String, String>>;

pub(super) async fn look(context: &Context, mq: &RocketMq, findings: &Findings) -> Told {
    let nodes = match mq.brokers().await {
        Ok(nodes) => nodes,
        Err(error) => {
            let fix = "see that a broker runs, and is registered with the name servers";
            let finding = Finding::error("broker.connect", "brokers", "the list of brokers cannot be read");
            findings.add(finding.seen(error.to_string()).fix(fix));
            return Told::new();
        }
    };
    for finding in masterless(&nodes) {
        findings.add(finding);
    }
    for name in mq.missing_brokers().await.unwrap_or_default() {
        let message = "it is one of mq.brokers, and no name server knows it";
        findings
            .add(Finding::error("broker.missing", name, message).fix("start it; see that it finds the name servers"));
    }
    if context.config.mq.brokers.is_empty() && !context.config.mq.namesrv.is_empty() {
        let names: BTreeSet<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        let message = "name servers forget a broker that dies, and nobody would miss it";
        let fix = format!(
            "set mq.brokers = [{}]",
            names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
        );
        findings.add(Finding::info("broker.names", "mq.brokers", message).fix(fix));
    }
    // The others are asked without those that do not answer.
    let silent = mq.leave_out_silent().await;
    let mut told = Told::new();
    for node in nodes.iter().filter(|node| node.is_master()) {
        if silent.as_ref().is_ok_and(|silent| !silent.contains(node)) {
            let settings = one(context, mq, node, findings).await;
            told.insert(node.name.clone(), settings);
        } else {
            let message = "it is registered, and does not answer";
            let fix = "start it; see that this host reaches the address that it announces (brokerIP1)";
            findings.add(Finding::error("broker.answers", label(node), message).fix(fix));
        }
    }
    told
}

/// Broker groups of which only replicas are left.
fn masterless(nodes: &[BrokerNode]) -> Vec<Finding> {
    let names: BTreeSet<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
    let without = names.into_iter().filter(|name| !nodes.iter().any(|node| node.name == *name && node.is_master()));
    let message = "it has no master: its queues take no messages";
    without
        .map(|name| Finding::error("broker.master", name, message).fix("start its master, or promote a replica"))
        .collect()
}

fn label(node: &BrokerNode) -> String {
    format!("{} ({})", node.name, node.addr)
}

async fn one(context: &Context, mq: &RocketMq, node: &BrokerNode, findings: &Findings) -> BTreeMap<String, String> {
    let subject = label(node);
    let told = match mq.broker_settings(&node.addr).await {
        Ok(told) => told,
        Err(error) => {
            let message = "it does not tell its settings: delays and retention are taken for RocketMQ's defaults";
            let fix = "give the user of mq.access_key the right to read them (GetBrokerConfig)";
            findings.add(Finding::info("broker.settings", &subject, message).seen(error.to_string()).fix(fix));
            BTreeMap::new()
        }
    };
    let before = context.clock.now_ms();
    let figures = mq.broker_figures(&node.addr).await.unwrap_or_default();
    let after = context.clock.now_ms();
    match check::taking(&told, &figures) {
        Ok(()) => {
            let version = figures.get("brokerVersionDesc").map_or(String::new(), |version| format!(" ({version})"));
            findings.add(Finding::ok("broker.answers", &subject, format!("it answers, and takes messages{version}")));
        }
        Err(why) => {
            let fix = "free its disk, or give its write permission back (mqadmin updateBrokerConfig -k brokerPermission -v 6)";
            findings.add(Finding::error("broker.refuses", &subject, format!("it {why}")).fix(fix));
        }
    }
    for finding in settings::delays(&context.config, &subject, &told) {
        findings.add(finding);
    }
    let theirs = figures.get("bootTimestamp").zip(figures.get("runtime"));
    if let Some(theirs) = theirs.and_then(|(boot, runtime)| clock::of_broker(boot, runtime)) {
        findings.add(clock::compare(&subject, theirs, before, after, 1_000));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_alone_take_no_messages() {
        let node =
            |name: &str, id| BrokerNode { cluster: "c".into(), name: name.into(), id, addr: format!("{name}:{id}") };
        let found = masterless(&[node("a", 0), node("a", 1), node("b", 1), node("b", 2)]);
        assert_eq!(found.iter().map(|finding| finding.subject.as_str()).collect::<Vec<_>>(), ["b"]);
    }
}
