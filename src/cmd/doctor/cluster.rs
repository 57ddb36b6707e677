//! The name servers, the way to the brokers, and then what is on them.

use std::time::Duration;

use tokio::net::TcpStream;

use super::{Finding, Findings, Where, broker, groups, settings, topics};
use crate::cmd::Context;
use crate::cmd::mq::cluster::Cluster;
use crate::mq::owners::Grace;
use crate::process;

/// How long a name server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(3);

pub(super) async fn look(context: &Context, place: &Where, grace: Grace, findings: &Findings) {
    let config = &context.config;
    if !config.mq.enabled && place.namesrv.is_none() {
        findings.add(Finding::info("broker.none", "mq.enabled", "there is no broker, as configured"));
        findings.add(settings::retention(config, None));
        return;
    }
    let addrs = match process::cluster_config(&place.applied_to(config)) {
        Ok(known) => known.namesrv,
        Err(error) => {
            let message = "no broker is configured, and no embedded one runs on this data directory";
            let fix = "start `ruyi serve all` or `ruyi mq broker`, or set mq.namesrv";
            findings.add(Finding::warning("broker.none", "mq.namesrv", message).seen(error.to_string()).fix(fix));
            findings.add(settings::retention(config, None));
            return;
        }
    };
    if !name_servers(&addrs, findings).await {
        findings.add(settings::retention(config, None));
        return;
    }
    let cluster = match Cluster::open(context, &Where { namesrv: Some(addrs.clone()) }).await {
        Ok(cluster) => cluster,
        Err(error) => {
            findings.add(not_open(&addrs, &error));
            findings.add(settings::retention(config, None));
            return;
        }
    };
    let mq = &cluster.mq;
    let told = broker::look(context, mq, findings).await;
    let kept = told.values().filter_map(|one| one.get("fileReservedTime")?.parse::<i64>().ok()).max();
    findings.add(settings::retention(config, kept));
    if told.is_empty() {
        return;
    }
    let ours = topics::look(config, mq, findings).await;
    topics::dead_letters(mq, findings).await;
    groups::look(mq, &told, ours, grace, findings).await;
}

/// Whether one of them takes connections.
async fn name_servers(addrs: &str, findings: &Findings) -> bool {
    let all: Vec<&str> = addrs.split(';').map(str::trim).filter(|addr| !addr.is_empty()).collect();
    let looks = all.iter().map(|addr| async move {
        match tokio::time::timeout(CONNECT, TcpStream::connect(addr)).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(format!("{addr}: {error}")),
            Err(_) => Some(format!("{addr}: no answer within {} ms", CONNECT.as_millis())),
        }
    });
    let faults: Vec<String> = futures_util::future::join_all(looks).await.into_iter().flatten().collect();
    let seen = faults.join("; ");
    let fix = "start it, or correct mq.namesrv (--namesrv)";
    if faults.len() == all.len() {
        let message = "no name server takes connections";
        findings.add(Finding::error("broker.connect", addrs, message).seen(seen).fix(fix));
        return false;
    }
    if !faults.is_empty() {
        let message = format!("{} of {} name servers take no connections", faults.len(), all.len());
        findings.add(Finding::warning("broker.namesrv", addrs, message).seen(seen).fix(fix));
    }
    true
}

fn not_open(addrs: &str, error: &anyhow::Error) -> Finding {
    let seen = format!("{error:#}");
    if seen.contains("the cluster denies it") {
        let fix = "set mq.access_key and mq.secret_key to those of a user that may read the cluster";
        return Finding::error("broker.denied", addrs, "the cluster does not let us in").seen(seen).fix(fix);
    }
    let fix = "see that a broker runs and is registered with these name servers, and whether they want TLS (mq.tls)";
    Finding::error("broker.connect", addrs, "the cluster cannot be read").seen(seen).fix(fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_that_denies_is_not_one_that_is_away() {
        let kind = |text: &'static str| not_open("a:1", &anyhow::anyhow!(text).context("cannot be read")).check;
        assert_eq!(kind("read the broker list: the cluster denies it (no user): check"), "broker.denied");
        assert_eq!(kind("no answer within 5000 ms"), "broker.connect");
    }
}
