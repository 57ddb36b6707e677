//! What a broker lost: `ruyi mq outbox redrive` brings it back, `ruyi trace` tells the story.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::trace;
use crate::support::operated_broker::OperatedBroker;
use crate::support::operators::Operator;
use crate::support::servers::child::free_port;
use crate::support::servers::rocketmq::apache;
use crate::support::servers::unique;
use crate::support::serving::Serving;
use crate::support::waiting::eventually;

/// Pays an order, and waits for its end.
async fn signed(serving: &Serving, id: &str) {
    serving.until(&format!("/payments/{id}"), "status", "PENDING").await;
    serving.fine(Method::POST, &format!("/payments/{id}/pay"), &json!({"method": "card"})).await;
    serving.until(&format!("/orders/{id}"), "outcome", "SIGNED").await;
    serving.settled().await;
}

/// Redrives what `filter` says, as soon as it is old enough: `rows` of them.
async fn redriven(operator: &Operator, filter: &[&str], rows: i64) {
    let redrive = [&["mq", "outbox", "redrive", "--since", "1h"], filter].concat();
    let sum = |items: &[Value], field: &str| items.iter().map(|item| item[field].as_i64().unwrap()).sum::<i64>();
    eventually("what was sent is old enough", async || {
        sum(&operator.items(&[&redrive[..], &["--dry-run"]].concat()).await, "rows") == rows
    })
    .await;
    assert_eq!(sum(&operator.items(&[&redrive[..], &["--yes", "--reason", "lost"]].concat()).await, "done"), rows);
}

/// What the brokers have, every group has consumed.
async fn consumed(operator: &Operator) {
    eventually("the copies are consumed", async || {
        let output = operator.run(&["worker", "backlog", "--once", "--output", "jsonl"]).await;
        let text = String::from_utf8(output.stdout).unwrap();
        let lags: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        !lags.is_empty() && lags.iter().all(|row| row["lag"].as_i64().unwrap_or(0) == 0)
    })
    .await;
}

async fn clean(operator: &Operator) {
    let audit = operator.run(&["audit", "--settle", "0s"]).await;
    assert!(audit.status.success(), "{}", String::from_utf8_lossy(&audit.stdout));
}

/// A shop on a cluster that `lose` makes forget what it had.
async fn lost_and_found(cluster: &[&str], lose: impl AsyncFnOnce(&Operator)) {
    let files = tempfile::tempdir().unwrap();
    let url = format!("database.url=sqlite://{}", files.path().join("ruyi.db").display());
    let short = [
        "mq.outbox.lease=4s",
        "mq.outbox.sweep_interval=200ms",
        "mq.queues=2",
        "log.filter=warn",
        "order.data_sync=false",
    ];
    let settings = [cluster, &[url.as_str()], &short].concat();
    let operator = Operator::with(&settings);
    assert!(operator.run(&["db", "migrate"]).await.status.success());
    let with_broker = [&["mq.enabled=true"][..], &settings[..]].concat();
    let serving = Serving::start(&with_broker).await;
    serving.fill().await;
    let order = json!({"userId": "7", "items": [{"sku": "A1", "quantity": 2}]});
    let first = serving.place(&order).await;
    signed(&serving, &first).await;

    // All of it once more: nothing happens twice.
    consumed(&operator).await;
    serving.settled().await;
    let before = serving.rows().await;
    let sent = operator.items(&["mq", "outbox", "list", "--status", "sent", "--limit", "1000"]).await;
    redriven(&operator, &[], i64::try_from(sent.len()).unwrap()).await;
    serving.settled().await;
    consumed(&operator).await;
    serving.settled().await;
    assert_eq!(serving.rows().await, before, "nothing happened twice");
    clean(&operator).await;
    serving.stop().await;

    // Accepted and sent, and lost before anybody took it.
    let addr = format!("127.0.0.1:{}", free_port());
    let mut orders = operator.command(&["serve", "order", "--listen", &addr]).spawn().unwrap();
    let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy().build().unwrap();
    let mut lost = String::new();
    eventually("an order is accepted", async || {
        let Ok(reply) = client.post(format!("http://{addr}/orders")).json(&order).send().await else { return false };
        let Ok(reply) = reply.json::<Value>().await else { return false };
        lost = reply["orderId"].as_str().unwrap_or_default().to_owned();
        !lost.is_empty()
    })
    .await;
    let of_order = ["mq", "outbox", "list", "--status", "sent", "--key", &lost];
    eventually("its event is sent", async || operator.items(&of_order).await.len() == 1).await;
    orders.kill().await.unwrap();
    lose(&operator).await;
    let serving = Serving::start(&with_broker).await;
    trace::tells_what_is_missing(&operator, &lost).await;
    redriven(&operator, &["--event", "ORDER_CREATED", "--key", &lost], 1).await;
    signed(&serving, &lost).await;
    clean(&operator).await;
    let payment = serving.get(&format!("/payments/{lost}")).await;
    trace::tells_all(&operator, &lost, payment["paymentId"].as_str().unwrap()).await;
    trace::does_without_a_broker(&url, &lost).await;
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_lost_by_embedded_broker_are_resent_and_complete() {
    let mut embedded = OperatedBroker::start(&[]).await;
    let namesrv = format!("mq.namesrv={}", embedded.namesrv());
    lost_and_found(&[&namesrv], async |_| {
        embedded.kill_broker().await;
        embedded.empty_broker();
        embedded.start_broker().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_lost_with_their_topic_are_resent_and_complete() {
    let Some(apache) = apache().await else { return };
    let namespace = unique("lost");
    let settings = [format!("mq.namesrv={}", apache.namesrv()), format!("mq.namespace={namespace}")];
    lost_and_found(&[&settings[0], &settings[1]], async |operator| {
        let topic = format!("{namespace}%ORDER_CREATED");
        let deleted = operator.run(&["mq", "topics", "delete", &topic, "--yes"]).await;
        assert!(deleted.status.success(), "{}", String::from_utf8_lossy(&deleted.stderr));
    })
    .await;
}
