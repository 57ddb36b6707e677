//! Each path of the life of an order, from the first request to rest.

use axum::http::StatusCode;
use ruyi::config::Millis;
use ruyi::domain::event::{Group, Kind};
use serde_json::{Value, json};

use crate::support::servers::mariadb_url;
use crate::support::shop::{Setup, Shop};

const USER: i64 = 1001;
/// Within this nothing times out that was placed just now, and everything else gets done.
const SOON_MS: i64 = 60_000;

const FULFILLED: [&str; 5] =
    ["ORDER_DELIVERY", "ORDER_FULFILL_SUCCESS", "ORDER_OUT_STOCK", "ORDER_PAY_SUCCESS", "ORDER_SIGNED"];

/// A shop that sells 10 TEA at 29.90 and 3 CUP at 5.00.
async fn open(setup: Setup) -> Shop {
    let shop = Shop::with(setup, 0).await;
    shop.sell("TEA", 2_990, 10).await;
    shop.sell("CUP", 500, 3).await;
    shop
}

/// 2 TEA and 1 CUP: 64.80.
async fn order(shop: &mut Shop, more: Value) -> String {
    let order = shop.place_order(USER, &[("TEA", 2), ("CUP", 1)], more).await;
    assert_eq!(shop.status(&order).await, "CREATED");
    order
}

/// 2 TEA and 1 CUP, frozen and payable.
async fn reserved(shop: &mut Shop, more: Value) -> String {
    let order = order(shop, more).await;
    shop.settle_within(SOON_MS).await;
    assert_eq!(shop.status(&order).await, "RESERVED");
    assert_eq!((shop.stock("TEA").await, shop.stock("CUP").await), ((8, 2, 0), (2, 1, 0)));
    assert_eq!(shop.payment(&order).await.unwrap()["status"], "PENDING");
    order
}

/// Nothing was sold, granted or kept.
async fn nothing_happened(shop: &Shop) {
    assert_eq!((shop.stock("TEA").await, shop.stock("CUP").await), ((10, 0, 0), (3, 0, 0)));
    assert_eq!(shop.points(USER).await, 0);
}

async fn told(shop: &Shop, order: &str) -> Vec<String> {
    shop.told().await.remove(order).unwrap_or_default()
}

fn refund(kind: &str) -> (String, String) {
    (kind.to_owned(), "SUCCESS".to_owned())
}

async fn is_signed(mut shop: Shop) {
    let order = reserved(&mut shop, json!({})).await;
    assert_eq!(shop.pay(&order, json!({ "repeat": 3 })).await, StatusCode::ACCEPTED);
    assert_eq!(shop.pay(&order, json!({ "repeat": 3 })).await, StatusCode::ACCEPTED);
    shop.settle().await;
    let seen = shop.order(&order).await;
    assert_eq!((&seen["outcome"], &seen["status"]), (&json!("SIGNED"), &json!("SIGNED")));
    assert_eq!((&seen["carrier"], &seen["totalAmount"]), (&json!("RUYI-EXPRESS"), &json!(64.8)));
    assert_eq!((shop.stock("TEA").await, shop.stock("CUP").await), ((8, 0, 2), (2, 0, 1)));
    let payment = shop.payment(&order).await.unwrap();
    assert_eq!((&payment["status"], &payment["paymentId"]), (&json!("SUCCESS"), &seen["paymentId"]));
    assert_eq!(shop.refunds(&order).await, []);
    assert_eq!(shop.points(USER).await, 64);
    assert_eq!(told(&shop, &order).await, FULFILLED);
    assert_eq!(shop.cancel(&order).await, StatusCode::CONFLICT);
    shop.audit().await;
}

async fn is_canceled_after_paying(mut shop: Shop) {
    let order = reserved(&mut shop, json!({ "holdSeconds": 3_600 })).await;
    shop.pay(&order, json!({})).await;
    shop.settle_within(SOON_MS).await;
    assert_eq!(shop.status(&order).await, "PAID");
    assert_eq!((shop.stock("TEA").await, shop.points(USER).await), ((8, 0, 2), 64));
    assert_eq!(shop.cancel(&order).await, StatusCode::OK);
    assert_eq!(shop.cancel(&order).await, StatusCode::OK);
    shop.settle().await;
    let seen = shop.order(&order).await;
    assert_eq!((&seen["outcome"], &seen["cancelType"]), (&json!("REFUNDED"), &json!("USER")));
    assert_eq!(shop.payment(&order).await.unwrap()["status"], "REFUNDED");
    assert_eq!(shop.refunds(&order).await, [refund("ORDER")]);
    nothing_happened(&shop).await;
    assert_eq!(told(&shop, &order).await, ["ORDER_CANCELED", "ORDER_PAY_SUCCESS", "ORDER_REFUNDED"]);
    shop.audit().await;
}

#[tokio::test]
async fn signed() {
    is_signed(open(Setup::default()).await).await;
}

#[tokio::test]
async fn canceled_after_paying() {
    is_canceled_after_paying(open(Setup::default()).await).await;
}

#[tokio::test]
async fn signed_or_canceled_after_paying_on_mariadb() {
    for number in 0..2 {
        let Some(url) = mariadb_url().await else { return };
        let shop = open(Setup { url: Some(url), ..Setup::default() }).await;
        if number == 0 { is_signed(shop).await } else { is_canceled_after_paying(shop).await }
    }
}

#[tokio::test]
async fn too_little_stock() {
    let mut shop = open(Setup::default()).await;
    let order = shop.place_order(USER, &[("TEA", 2), ("CUP", 4)], json!({})).await;
    shop.settle().await;
    let seen = shop.order(&order).await;
    assert_eq!((&seen["outcome"], &seen["cancelType"]), (&json!("CANCELED"), &json!("STOCK")));
    assert_eq!(seen["cancelReason"], "CUP: 4 wanted, 3 available");
    assert_eq!(shop.pay(&order, json!({})).await, StatusCode::CONFLICT);
    nothing_happened(&shop).await;
    assert_eq!(told(&shop, &order).await, ["ORDER_CANCELED"]);
    shop.audit().await;
}

#[tokio::test]
async fn canceled_before_paying() {
    let mut shop = open(Setup::default()).await;
    let order = reserved(&mut shop, json!({})).await;
    assert_eq!(shop.cancel(&order).await, StatusCode::OK);
    shop.settle().await;
    let seen = shop.order(&order).await;
    assert_eq!((&seen["outcome"], &seen["cancelType"]), (&json!("CANCELED"), &json!("USER")));
    assert_eq!(seen["cancelReason"], "changed my mind");
    assert_eq!(shop.payment(&order).await.unwrap()["status"], "CLOSED");
    assert_eq!(shop.pay(&order, json!({})).await, StatusCode::CONFLICT);
    nothing_happened(&shop).await;
    assert_eq!(told(&shop, &order).await, ["ORDER_CANCELED"]);
    shop.audit().await;
}

#[tokio::test]
async fn not_paid_in_time() {
    let mut shop = open(Setup::default()).await;
    let order = reserved(&mut shop, json!({ "payWithinSeconds": 600 })).await;
    shop.settle().await;
    let seen = shop.order(&order).await;
    assert_eq!((&seen["outcome"], &seen["cancelType"]), (&json!("CANCELED"), &json!("TIMEOUT")));
    assert_eq!(seen["updatedAt"], seen["expireTime"]);
    assert_eq!(shop.payment(&order).await.unwrap()["status"], "CLOSED");
    nothing_happened(&shop).await;
    assert_eq!(told(&shop, &order).await, ["ORDER_CANCELED"]);
    shop.audit().await;
}

#[tokio::test]
async fn paid_after_it_was_canceled() {
    let mut shop = open(Setup::default()).await;
    let order = reserved(&mut shop, json!({ "payWithinSeconds": 600 })).await;
    assert_eq!(shop.pay(&order, json!({ "delayMs": 900_000 })).await, StatusCode::ACCEPTED);
    shop.settle().await;
    let seen = shop.order(&order).await;
    assert_eq!((&seen["outcome"], &seen["cancelType"]), (&json!("REFUNDED"), &json!("TIMEOUT")));
    assert_eq!(shop.payment(&order).await.unwrap()["status"], "REFUNDED");
    assert_eq!(shop.refunds(&order).await, [refund("ORDER")]);
    nothing_happened(&shop).await;
    assert_eq!(told(&shop, &order).await, ["ORDER_CANCELED", "ORDER_REFUNDED"]);
    shop.audit().await;
}

#[tokio::test]
async fn paid_twice() {
    let mut shop = open(Setup::default()).await;
    let order = reserved(&mut shop, json!({})).await;
    for transaction in ["A1", "B2"] {
        assert_eq!(shop.pay(&order, json!({ "transactionNo": transaction })).await, StatusCode::ACCEPTED);
    }
    shop.settle().await;
    assert_eq!(shop.outcome(&order).await, "SIGNED");
    let payment = shop.payment(&order).await.unwrap();
    assert_eq!((&payment["status"], &payment["transactionNo"]), (&json!("SUCCESS"), &json!("A1")));
    assert_eq!(shop.refunds(&order).await, [refund("EXTRA")]);
    assert_eq!(payment["refunds"][0]["transactionNo"], "B2");
    assert_eq!(shop.points(USER).await, 64);
    let mut all = FULFILLED.to_vec();
    all.insert(4, "ORDER_REFUNDED");
    assert_eq!(told(&shop, &order).await, all);
    shop.audit().await;
}

#[tokio::test]
async fn a_wrong_amount_and_a_wrong_signature_pay_nothing() {
    for sandbox in [json!({ "amountDelta": -1 }), json!({ "badSignature": true })] {
        let mut shop = open(Setup::default()).await;
        let order = reserved(&mut shop, json!({})).await;
        assert_eq!(shop.pay(&order, sandbox).await, StatusCode::ACCEPTED);
        shop.settle_within(SOON_MS).await;
        assert_eq!(shop.status(&order).await, "RESERVED");
        shop.settle().await;
        assert_eq!(shop.outcome(&order).await, "CANCELED");
        nothing_happened(&shop).await;
        shop.audit().await;
    }
}

/// The release overtakes the order: it leaves a tombstone, at which the late freeze fails.
#[tokio::test]
async fn released_before_it_was_frozen() {
    let mut shop = open(Setup::default()).await;
    let order = order(&mut shop, json!({})).await;
    assert_eq!(shop.cancel(&order).await, StatusCode::OK);
    shop.relay(0.0).await;
    let queue = shop.queue(Group::Stock);
    queue.reverse();
    let topics: Vec<&str> = queue.iter().map(|message| message.queue.topic.as_str()).collect();
    assert_eq!(topics, [Kind::InventoryRelease.name(), Kind::OrderCreated.name()]);
    shop.deliver(Group::Stock, 1).await;
    shop.deliver(Group::Stock, 1).await;
    shop.settle().await;
    assert_eq!(shop.outcome(&order).await, "CANCELED");
    assert_eq!(shop.count("SELECT COUNT(*) FROM stock_ledger WHERE order_id <> 0").await, 0);
    nothing_happened(&shop).await;
    assert_eq!(told(&shop, &order).await, ["ORDER_CANCELED"]);
    shop.audit().await;
}

/// The last step of a parcel overtakes the ones before it, which then change nothing.
#[tokio::test]
async fn a_later_step_jumps_ahead() {
    let change = |config: &mut ruyi::config::Config| config.sandbox.warehouse.step_delay = Millis::new(0);
    let mut shop = open(Setup { change, ..Setup::default() }).await;
    let order = reserved(&mut shop, json!({})).await;
    shop.pay(&order, json!({})).await;
    let steps = loop {
        shop.relay(0.0).await;
        let steps = shop.queue(Group::Order).len();
        if steps == 4 {
            break steps;
        }
        for group in shop.groups() {
            shop.deliver(group, usize::MAX).await;
        }
        shop.make_calls(64).await.unwrap();
    };
    shop.queue(Group::Order).reverse();
    shop.deliver(Group::Order, 1).await;
    assert_eq!(shop.status(&order).await, "SIGNED");
    assert_eq!(shop.deliver(Group::Order, steps).await, 3);
    let ignored = "SELECT COUNT(*) FROM message_process_log WHERE outcome = 1 AND topic LIKE 'ORDER\\_%' ESCAPE '\\'";
    assert_eq!(shop.count(ignored).await, 3);
    shop.settle().await;
    assert_eq!(shop.outcome(&order).await, "SIGNED");
    assert_eq!(told(&shop, &order).await, FULFILLED);
    shop.audit().await;
}

/// A step that comes before the news of the payment waits for it.
#[tokio::test]
async fn a_step_that_comes_too_early_waits() {
    let mut shop = open(Setup::default()).await;
    let order = reserved(&mut shop, json!({ "holdSeconds": 3_600 })).await;
    let report = shop.report(&order, "ORDER_DELIVERY").await;
    assert_eq!(report, StatusCode::OK);
    shop.pay(&order, json!({})).await;
    shop.settle_within(1_000).await;
    // Done in the same group as soon as the payment was.
    assert_eq!((shop.status(&order).await.as_str(), shop.parked().await), ("DELIVERY", 0));
    assert_eq!(shop.cancel(&order).await, StatusCode::CONFLICT);
}
