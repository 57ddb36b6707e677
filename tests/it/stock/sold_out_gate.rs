//! The sold-out gate of hot SKUs.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::servers::redis::redis;
use crate::support::serving::{Serving, order_of};
use crate::support::waiting::eventually;

const HOT: &str = r#"order.hot_skus=["A1"]"#;

async fn tried(serving: &Serving, quantity: i64) -> StatusCode {
    let (status, _, body) = serving.send(Method::POST, "/orders", &order_of("A1", quantity)).await;
    if status == StatusCode::CONFLICT {
        assert!(body.to_string().contains("sold out"), "{body}");
    }
    status
}

/// Orders until the gate is shut.
async fn until_shut(serving: &Serving) {
    eventually("the gate is shut", async || tried(serving, 1).await == StatusCode::CONFLICT).await;
}

/// Orders until one is written again, and held.
async fn until_open(serving: &Serving) {
    let mut last = String::new();
    eventually("an order is accepted", async || {
        let (status, _, body) = serving.send(Method::POST, "/orders", &order_of("A1", 1)).await;
        last = body["orderId"].as_str().unwrap_or_default().to_owned();
        status == StatusCode::CREATED
    })
    .await;
    serving.until(&format!("/orders/{last}"), "status", "RESERVED").await;
}

async fn set(serving: &Serving, pieces: i64) {
    serving.fine(Method::PUT, "/stock/A1", &json!({ "available": pieces })).await;
}

/// Never more held than there was, and what is refused is not written.
async fn shuts_and_opens(serving: &Serving) {
    serving.fill().await;
    set(serving, 3).await;
    until_shut(serving).await;
    serving.settled().await;
    let written = serving.number("SELECT COUNT(*) FROM orders").await;
    let stock = serving.get("/stock/A1").await;
    assert_eq!((&stock["available"], &stock["frozen"]), (&json!(0), &json!(3)), "all three were sold");
    assert_eq!(tried(serving, 1).await, StatusCode::CONFLICT);
    assert_eq!(serving.number("SELECT COUNT(*) FROM orders").await, written);
    // Other goods are not its business.
    serving.place(&order_of("B2", 1)).await;
    set(serving, 1_000).await;
    until_open(serving).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_shuts_and_opens_without_redis() {
    let serving = Serving::start(&[HOT]).await;
    shuts_and_opens(&serving).await;
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_works_with_redis_and_opens_without_its_answer() {
    let Some(redis) = redis().await else { return };
    let serving = Serving::start(&[HOT, &format!("cache.url={}", redis.url()), "cache.timeout=5s"]).await;
    shuts_and_opens(&serving).await;
    // Nothing left, says somebody: as one of us would, for ever, and in another tongue.
    for lie in [
        "HSET ruyi:left:A1 left 0 version 999999",
        "SET ruyi:left:A1 0",
        "HSET ruyi:left:A1 left nothing version never",
    ] {
        redis.ask("DEL ruyi:left:A1").await.unwrap();
        redis.ask(lie).await.unwrap();
        until_open(&serving).await;
    }
    redis.ask("DEL ruyi:left:A1").await.unwrap();
    redis.ask("HSET ruyi:left:A1 left 0 version 999999").await.unwrap();
    redis.ask("PEXPIRE ruyi:left:A1 4900").await.unwrap();
    until_open(&serving).await;
    // Sold out, and nobody there to say so: the database decides.
    set(&serving, 0).await;
    until_shut(&serving).await;
    redis.kill();
    let mut last = String::new();
    eventually("it passes", async || {
        let (status, _, body) = serving.send(Method::POST, "/orders", &order_of("A1", 1)).await;
        last = body["orderId"].as_str().unwrap_or_default().to_owned();
        status == StatusCode::CREATED
    })
    .await;
    serving.until(&format!("/orders/{last}"), "status", "CANCELED").await;
    redis.start_again().await;
    until_shut(&serving).await;
    redis.flush().await;
    until_shut(&serving).await;
    serving.stop().await;
}
