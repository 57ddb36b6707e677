//! Brokers that the name servers know and that do not answer: looking goes on without them, changing does not.

use crate::cmd::{Failed, WithHelp};
use crate::mq::operate::BrokerNode;
use crate::mq::rocketmq::RocketMq;

const HELP: &str = "start it; the name servers forget a broker that is gone for good after two minutes";

/// Leaves them out of what is asked from now on; each is told on stderr, and the exit code will be 1.
///
/// # Errors
/// No broker answers at all.
pub(super) async fn leave_out(mq: &RocketMq, failed: &mut Failed) -> anyhow::Result<()> {
    for node in mq.leave_out_silent().await.help("start a broker")? {
        failed.note(&shown(&node), "does not answer: what it has is missing here")?;
    }
    Ok(())
}

/// Fails when one of them does not answer, for changes that need the whole picture; one that concerns only the broker
/// `only` does without the others.
///
/// # Errors
/// A broker does not answer.
pub(super) async fn refuse(mq: &RocketMq, only: Option<&str>) -> anyhow::Result<()> {
    let concerns = |name: &str| only.is_none_or(|only| only == name);
    if let Some(gone) = mq.missing_brokers().await?.into_iter().find(|name| concerns(name)) {
        let text = anyhow::anyhow!("broker {gone} is known to no name server, so nothing was changed");
        return Err(text).help("start it; if it is gone for good, take it out of mq.brokers");
    }
    let mut silent = mq.leave_out_silent().await.help("start a broker")?;
    silent.retain(|node| concerns(&node.name));
    let Some(first) = silent.first() else { return Ok(()) };
    Err(anyhow::anyhow!("{} does not answer, so nothing was changed", shown(first))).help(HELP)
}

fn shown(node: &BrokerNode) -> String {
    format!("broker {} ({})", node.name, node.addr)
}
