//! What the order role knows of stock.

use axum::http::{Method, StatusCode};
use ruyi::domain::event::Group;
use serde_json::{Value, json};

use crate::support::shop::Shop;

async fn shown(shop: &Shop, sku: &str) -> Value {
    let (status, product) = shop.request(Method::GET, &format!("/products/{sku}"), None, None).await;
    assert_eq!(status, StatusCode::OK);
    product["available"].clone()
}

/// Moves messages until nothing is due, without letting the time to pay run out.
async fn settle(shop: &mut Shop) {
    shop.settle_within(60_000).await;
}

#[tokio::test]
async fn products_show_what_can_be_sold() {
    let mut shop = Shop::open().await;
    shop.manner.times = 2;
    shop.sell("TEA", 1_000, 5).await;
    assert_eq!(shown(&shop, "TEA").await, Value::Null, "nobody has told yet");
    settle(&mut shop).await;
    assert_eq!(shown(&shop, "TEA").await, 5);
    let order = shop.place_order(1, &[("TEA", 2)], json!({})).await;
    settle(&mut shop).await;
    assert_eq!(shown(&shop, "TEA").await, 3);
    assert_eq!(shop.cancel(&order).await, StatusCode::OK);
    settle(&mut shop).await;
    assert_eq!(shown(&shop, "TEA").await, 5);
    shop.settle().await;
    shop.audit().await;
}

#[tokio::test]
async fn older_level_that_comes_late_replaces_no_newer_one() {
    let mut shop = Shop::open().await;
    shop.manner.reversed = true;
    shop.sell("TEA", 1_000, 5).await;
    // Two levels are told, and arrive in reverse.
    for pieces in [7, 9] {
        let (status, _) = shop.request(Method::PUT, "/stock/TEA", None, Some(json!({ "available": pieces }))).await;
        assert_eq!(status, StatusCode::OK);
        shop.sync().await;
        shop.relay(0.0).await;
        shop.clock.advance_ms(1_000);
    }
    assert_eq!(shop.queue(Group::InventorySync).len(), 2);
    settle(&mut shop).await;
    assert_eq!(shown(&shop, "TEA").await, 9);
    let ignored = "SELECT COUNT(*) FROM message_process_log WHERE reason = 'something newer is known'";
    assert_eq!(shop.count(ignored).await, 1);
}
