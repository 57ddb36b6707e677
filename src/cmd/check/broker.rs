//! Whether the brokers answer and take messages.

use std::collections::BTreeMap;

use super::{Limits, Range, Report, Status, Where, float, limits};
use crate::cmd::Context;
use crate::cmd::mq::cluster::Cluster;
use crate::mq::operate::BrokerNode;
use crate::mq::rocketmq::RocketMq;

/// How full a broker's disk may be before it takes no more messages, if it does not say so itself.
const FULL: f64 = 0.9;

/// Arguments of `ruyi check broker`.
#[derive(Debug, clap::Args)]
pub(super) struct Broker {
    /// Brokers that have to take messages
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    warn: Option<Range>,
    /// Brokers that have to take messages
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    crit: Option<Range>,
    #[command(flatten)]
    place: Where,
}

pub(super) async fn run(context: &Context, args: &Broker) -> anyhow::Result<Report> {
    let cluster = match Cluster::open(context, &args.place).await {
        Ok(cluster) => cluster,
        Err(error) => return Ok(Report::failed("BROKER", Status::Critical, &format!("{error:#}"))),
    };
    let mq = &cluster.mq;
    let masters: BTreeMap<String, String> =
        mq.brokers().await?.into_iter().filter(BrokerNode::is_master).map(|node| (node.addr, node.name)).collect();
    let answers = mq.probe().await;
    let mut report = Report::new("BROKER");
    let mut good = 0;
    let mut faults = Vec::new();
    for (addr, name) in &masters {
        let label = format!("{name} ({addr})");
        if answers.get(addr) != Some(&true) {
            faults.push(format!("{label} does not answer"));
            continue;
        }
        match takes(mq, addr).await {
            Ok(()) => good += 1,
            Err(why) => faults.push(format!("{label} {why}")),
        }
    }
    let gone = mq.missing_brokers().await?;
    let all = i64::try_from(masters.len() + gone.len()).unwrap_or(i64::MAX);
    faults.extend(gone.into_iter().map(|name| format!("{name} is known to no name server")));
    let wanted: Limits = limits(args.warn, args.crit, Range::from(float(all)), Range::from(1.0));
    let about = match faults.as_slice() {
        [] => format!("only {good} brokers are known"),
        faults => faults.join("; "),
    };
    report.measured("brokers", float(good), "", &wanted, &about);
    report.summary = format!("{good} of {all} brokers answer and take messages");
    Ok(report)
}

async fn takes(mq: &RocketMq, addr: &str) -> Result<(), String> {
    let settings = mq.broker_settings(addr).await.unwrap_or_default();
    taking(&settings, &mq.broker_figures(addr).await.unwrap_or_default())
}

/// Whether a broker takes messages, as far as it says so in its settings and figures; what it does not tell is not
/// held against it.
///
/// # Errors
/// Why not.
pub(in crate::cmd) fn taking(
    settings: &BTreeMap<String, String>,
    figures: &BTreeMap<String, String>,
) -> Result<(), String> {
    if let Some(bits) = settings.get("brokerPermission").and_then(|bits| bits.parse::<u32>().ok())
        && bits & 2 == 0
    {
        return Err(format!("takes no messages: its brokerPermission is {bits}"));
    }
    if figures.get("storeWriteable").is_some_and(|writable| writable == "false") {
        return Err("takes no messages: its store cannot be written".to_owned());
    }
    if let Some(used) = figures.get("commitLogDiskRatio").and_then(|used| used.parse::<f64>().ok())
        && used >= FULL
    {
        return Err(format!("has filled {:.0} % of its disk and refuses messages", used * 100.0));
    }
    Ok(())
}
