//! Several processes of each role on one TiDB, whose `SKIP LOCKED` locks nothing: none makes a call that another makes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::support::clustered_roles::{ROLES, RoleCluster, RolePlan};
use crate::support::outbound::OutboundServer;
use crate::support::servers::tidb::tidb_url;

const ORDERS: &str = include_str!("../../../examples/orders.jsonl");
const COUNT: usize = 240;
/// SMS that so many orders lead to, at least: paid, sent, signed for.
const CALLS: usize = 300;

/// Orders that go all the way.
fn normal_orders() -> Vec<Value> {
    let all = ORDERS.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    all.filter(|order| order["case"] == "normal").take(COUNT).collect()
}

/// The SMS provider's answers are slow enough to overlap with whoever else would make the same call.
fn settings(provider: &OutboundServer) -> String {
    format!("\n[notices.sms]\nendpoint = \"{}\"\n\n[delivery.kinds.sms]\ntimeout = \"30s\"\n", provider.url("/slow"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_of_each_role_call_once() {
    let mut databases = Vec::new();
    for _ in ROLES {
        let Some(url) = tidb_url().await else { return };
        databases.push(url);
    }
    let provider = OutboundServer::start().await;
    let plan = RolePlan { instances: 2, workers: 2, settings: settings(&provider), ..RolePlan::on(databases) };
    let Some(roles) = RoleCluster::start(plan).await else { return };
    let orders = normal_orders();
    let users: BTreeSet<&str> = orders.iter().filter_map(|order| order["userId"].as_str()).collect();
    let client = reqwest::Client::new();
    for user in users {
        let url = format!("{}/contacts/{user}", roles.urls("notify")[0]);
        let answer = client.put(url).json(&json!({"phone": "+8613800138000"})).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    }

    let lines: String = orders.iter().map(|order| format!("{order}\n")).collect();
    let file = roles.write("orders.jsonl", &lines);
    let args = ["demo", "--external", "--patience", "240s", "--concurrency", "40", "--orders", &file];
    let demo = roles.ruyi(&args).await;
    assert!(demo.ok, "{}\n{}", demo.text(), roles.logs());
    let audit = roles.ruyi(&["audit", "--output", "json"]).await;
    assert!(audit.ok && audit.json()["ok"] == true, "{}", audit.text());

    let mut made: BTreeMap<String, usize> = BTreeMap::new();
    for call in provider.seen() {
        let body: Value = serde_json::from_str(&call.body).unwrap();
        *made.entry(body["idempotencyKey"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    eprintln!("{} calls, each made once by one of two processes", made.len());
    assert!(made.len() >= CALLS, "{}", made.len());
    made.retain(|_, times| *times > 1);
    assert!(made.is_empty(), "made more than once: {made:?}");
}
