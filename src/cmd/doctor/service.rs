//! The processes of ruyi that answer at the addresses of `[client]`: whether they are ready, and what they say if not.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;

use super::{Finding, Findings};
use crate::config;

const LIMIT: Duration = Duration::from_secs(10);

/// The answer of `/readyz`.
#[derive(Debug, Deserialize)]
struct Readiness {
    status: String,
    checks: BTreeMap<String, String>,
}

pub(super) async fn look(client: &config::Client, findings: &Findings) {
    let http = match reqwest::Client::builder().timeout(LIMIT).build() {
        Ok(http) => http,
        Err(error) => {
            findings.add(Finding::error("service.late", "client", "no HTTP client").seen(error.to_string()));
            return;
        }
    };
    let urls = [&client.order, &client.payment, &client.stock, &client.notify];
    let mut bases: Vec<&str> = urls.into_iter().flat_map(|urls| config::Client::bases(urls)).collect();
    bases.sort_unstable();
    bases.dedup();
    let looks = bases.into_iter().map(|base| {
        let http = &http;
        async move {
            let url = format!("{base}/readyz");
            let answer = match http.get(&url).send().await {
                Ok(answer) => answer,
                Err(error) if error.is_connect() => {
                    findings.add(Finding::info(
                        "service.none",
                        base,
                        "nothing listens there: no role of ruyi runs here",
                    ));
                    return;
                }
                Err(error) => {
                    let message = "it takes connections and does not answer";
                    let fix = "look at its log; `ruyi healthcheck` asks the same where it runs";
                    findings.add(Finding::error("service.late", base, message).seen(error.to_string()).fix(fix));
                    return;
                }
            };
            let status = answer.status();
            for finding in judge(base, status, &answer.bytes().await.unwrap_or_default()) {
                findings.add(finding);
            }
        }
    });
    futures_util::future::join_all(looks).await;
}

fn judge(base: &str, status: StatusCode, body: &[u8]) -> Vec<Finding> {
    let Ok(readiness) = serde_json::from_slice::<Readiness>(body) else {
        let fix = "set client.order, client.payment, client.stock and client.notify to where ruyi serves";
        return vec![
            Finding::warning("service.other", base, format!("what answers there ({status}) is not ruyi")).fix(fix),
        ];
    };
    if status.is_success() {
        return vec![Finding::ok("service.ready", base, "it is ready")];
    }
    if readiness.status == "stopping" {
        return vec![Finding::info("service.stopping", base, "it is stopping")];
    }
    let failing = readiness.checks.into_iter().filter(|(_, told)| told != "ok");
    // The broker is told of and keeps no traffic away; it has findings of its own.
    let failing = failing.filter(|(check, _)| check != "broker");
    let finding = |(check, told): (String, String)| {
        let fix = match check.as_str() {
            "parts" => "what it waits for stands in its log; a restart is the cure only if it does not end by itself",
            _ => "it goes on by itself when that is mended",
        };
        Finding::error("service.not_ready", base, format!("{check}: {told}")).fix(fix)
    };
    failing.map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::doctor::Severity;

    #[test]
    fn what_is_wrong_is_passed_on() {
        let judged = |status, body: &str| {
            let found = judge("http://a", status, body.as_bytes());
            found.into_iter().map(|found| (found.severity, found.check, found.message)).collect::<Vec<_>>()
        };
        let checks = r#""checks":{"broker":"away","database":"ok","parts":"deliveries has not gone forward"}"#;
        let unready = format!(r#"{{"status":"not ready",{checks}}}"#);
        let told = "parts: deliveries has not gone forward".to_owned();
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        assert_eq!(judged(unavailable, &unready), [(Severity::Error, "service.not_ready", told)]);
        let stopping = r#"{"status":"stopping","checks":{}}"#;
        assert_eq!(judged(unavailable, stopping)[0].1, "service.stopping");
        assert_eq!(judged(StatusCode::OK, r#"{"status":"ready","checks":{"database":"ok"}}"#)[0].1, "service.ready");
        assert_eq!(judged(StatusCode::NOT_FOUND, "<html>")[0].1, "service.other");
    }
}
