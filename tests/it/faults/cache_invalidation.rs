//! CACHE_INVALIDATE: what one process writes, another forgets.
#![cfg(feature = "embedded")]

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::servers::redis::redis;
use crate::support::serving::order_of;
use crate::support::shared_broker::SharedBroker;
use crate::support::waiting::eventually;

async fn ask(method: Method, url: &str, body: Option<Value>) -> Value {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).no_proxy().build().unwrap();
    let request = client.request(method, url);
    let request = if let Some(body) = body { request.json(&body) } else { request };
    let reply = request.send().await.unwrap();
    assert!(reply.status().is_success(), "{url}: {}", reply.status());
    reply.json().await.unwrap()
}

/// With a time to live that no test outlives, only the message can make the other process forget.
async fn other_processes_forget(settings: &[&str]) {
    let shared = SharedBroker::start(&[settings, &["cache.ttl=1h"]].concat()).await;
    let one = shared.listening("order-1", &["serve", "order"]).await;
    let two = shared.listening("order-2", &["serve", "order"]).await;
    ask(Method::PUT, &format!("{}/products/A1", one.url), Some(json!({"name": "Tea", "price": 3}))).await;
    // The other may not listen yet, and a message may be lost: one of them arrives.
    eventually("the other process forgets", async || {
        let placed = ask(Method::POST, &format!("{}/orders", one.url), Some(order_of("A1", 1))).await;
        let path = format!("orders/{}", placed["orderId"].as_str().unwrap());
        let there = format!("{}/{path}", two.url);
        assert_eq!(ask(Method::GET, &there, None).await["status"], "CREATED");
        ask(Method::POST, &format!("{}/{path}/cancel", one.url), Some(json!({}))).await;
        assert_eq!(ask(Method::GET, &format!("{}/{path}", one.url), None).await["status"], "CANCELED");
        for _ in 0..20 {
            if ask(Method::GET, &there, None).await["status"] == "CANCELED" {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_processes_forget_without_redis() {
    other_processes_forget(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_processes_forget_with_redis() {
    let Some(redis) = redis().await else { return };
    other_processes_forget(&[&format!("cache.url={}", redis.url())]).await;
}
