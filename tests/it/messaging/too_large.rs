//! Events that no broker would take: refused before their row is written, where they are made.

use axum::http::StatusCode;
use reqwest::Method;
use ruyi::domain::event::Group;
use serde_json::{Value, json};

use crate::support::shop::Shop;

/// A shop that sells 60 things with long names, and an order of one piece of each.
async fn open() -> (Shop, Value) {
    let shop = Shop::open().await;
    let mut items = Vec::new();
    for number in 0..60 {
        let sku = format!("{number:02}-{}", "X".repeat(40));
        shop.sell(&sku, 100, 10).await;
        items.push(json!({ "sku": sku, "quantity": 1 }));
    }
    (shop, json!({ "userId": "1", "items": items, "address": "1 Bell Street" }))
}

#[tokio::test]
async fn a_request_is_answered_with_413_and_changes_nothing() {
    let (shop, order) = open().await;
    shop.db.limit_messages(2_000);
    let (status, problem) = shop.request(Method::POST, "/orders", Some("k"), Some(order.clone())).await;
    assert_eq!((status, &problem["type"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("urn:ruyi:problem:too-large")));
    assert!(problem["detail"].as_str().unwrap().contains("mq.producer.max_message"), "{problem}");
    assert_eq!(shop.count("SELECT COUNT(*) FROM orders").await, 0);
    assert_eq!(shop.count("SELECT COUNT(*) FROM message_record").await, 0);
    shop.db.limit_messages(1 << 20);
    let (status, _) = shop.request(Method::POST, "/orders", Some("k"), Some(order)).await;
    assert_eq!(status, StatusCode::CREATED);
}

/// A handler that would have to send it: the message that asks for it is a dead letter at once, with the reason, and
/// the others of its batch are handled.
#[tokio::test]
async fn a_handler_gives_its_message_up() {
    let (mut shop, order) = open().await;
    let (status, large) = shop.request(Method::POST, "/orders", Some("large"), Some(order.clone())).await;
    assert_eq!(status, StatusCode::CREATED);
    let large = large["orderId"].as_str().unwrap().to_owned();
    let sku = order["items"][0]["sku"].as_str().unwrap().to_owned();
    let small = shop.place_order(2, &[(&sku, 1)], json!({})).await;
    shop.settle_within(0).await;
    for order in [&large, &small] {
        shop.pay(order, json!({})).await;
    }
    // All but the lines of the large order on their way to the warehouse fit.
    shop.db.limit_messages(2_000);
    shop.settle_within(60_000).await;
    assert_eq!((shop.status(&small).await.as_str(), shop.status(&large).await.as_str()), ("SIGNED", "PAID"));
    assert_eq!((shop.parked().await, shop.dead_letters().await), (0, 1));
    let dead =
        shop.rows("SELECT topic, msg_key, CAST(properties AS CHAR) FROM message_record WHERE topic LIKE '%DLQ%'");
    let dead = dead.await.remove(0);
    assert_eq!((&dead[0], &dead[1]), (&format!("%DLQ%{}", Group::PaidOrder.name()), &large));
    assert!(dead[2].contains("mq.producer.max_message is 2000"), "{dead:?}");
}
