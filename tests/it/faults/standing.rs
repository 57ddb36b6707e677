//! A part of a process that has work and does not go forward is told of by its name, until it does.

use reqwest::{Method, StatusCode};
use ruyi::db::sql;
use serde_json::Value;

use crate::support::serving::Serving;
use crate::support::waiting::eventually;

async fn readiness(serving: &Serving) -> (StatusCode, Value) {
    let (status, _, told) = serving.reply(serving.request(Method::GET, "/readyz")).await;
    (status, told)
}

async fn rename(serving: &Serving, from: &'static str, to: &'static str) {
    let renamed = serving.db().write("test", move |tx| {
        Box::pin(async move { sql::execute(tx, format!("ALTER TABLE {from} RENAME TO {to}"), vec![]).await.map(drop) })
    });
    renamed.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_always_fails_makes_it_not_ready() {
    let serving = Serving::start(&[]).await;
    assert_eq!(readiness(&serving).await.1["checks"]["parts"], "ok");

    // Nobody can read what is to be called, though the database answers and is written to.
    rename(&serving, "delivery", "delivery_away").await;
    let told = async || readiness(&serving).await.1["checks"]["parts"].as_str().unwrap().to_owned();
    eventually("/readyz tells", async || told().await.contains("deliveries")).await;
    let (status, told) = readiness(&serving).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let parts = told["checks"]["parts"].as_str().unwrap();
    assert!(parts.contains("deliveries has not gone forward for 3") && parts.contains("table: delivery"), "{parts}");
    assert_eq!(told["checks"]["database"], "ok");
    let metric = "ruyi_part_stands{part=\"deliveries\"} 1";
    let metrics = async || serving.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    eventually("the metric tells", async || metrics().await.contains(metric)).await;
    let (healthy, ..) = serving.reply(serving.request(Method::GET, "/healthz")).await;
    assert_eq!(healthy, StatusCode::OK, "a restart mends nothing");

    rename(&serving, "delivery_away", "delivery").await;
    serving.until("/readyz", "status", "ready").await;
    eventually("the metric is gone", async || !metrics().await.contains("ruyi_part_stands{")).await;
    serving.stop().await;
}
