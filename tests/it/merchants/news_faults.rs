//! Merchants, who are told what becomes of their money.

use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::http::{Method, StatusCode};
use ruyi::db::outbox::OutboxRow;
use ruyi::delivery::webhook::new_secret;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::support::merchant_accounts::is_signed;
use crate::support::parties::{
    Act, DEADLINE, Party, body, impatient, is_consistent, key, money_comes, opened, scripts, shop_with, until,
};
use crate::support::servers::write_tx;
use crate::support::serving::Serving;
use crate::support::waiting::eventually;

/// A merchant that is told at `party`; its secret.
async fn merchant(serving: &Serving, id: i64, party: &Party) -> SecretString {
    let accepts = json!([{ "productId": "h5", "channelId": "sandbox", "minAmount": 1 }]);
    let profile = json!({ "name": "Tea House", "notifyUrl": party.url("/told"), "accepts": accepts });
    let made = serving.fine(Method::PUT, &format!("/merchants/{id}"), &profile).await;
    made["secret"].as_str().unwrap().to_owned().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn news_of_an_order_is_told_in_its_order() {
    const NEWS: [&str; 3] = ["PAID", "PART_REFUNDED", "REFUNDED"];
    let count = scripts().len();
    let party = Party::start("/told", NEWS.map(|_| scripts()).concat(), Act::Do).await;
    let serving = impatient(&["delivery.allow_private=true".to_owned()]).await;
    let secret = merchant(&serving, 1, &party).await;
    let wish = json!({ "userId": "7", "items": [{ "sku": "A1", "quantity": 1 }], "holdSeconds": 3_600 });
    let mut orders = Vec::new();
    for _ in 0..count {
        let order = serving.place(&wish).await;
        serving.until(&format!("/payments/{order}"), "status", "PENDING").await;
        serving.fine(Method::POST, &format!("/payments/{order}/pay"), &json!({ "sandbox": { "repeat": 2 } })).await;
        serving.until(&format!("/orders/{order}"), "status", "PAID").await;
        let part = serving.request(Method::POST, &format!("/orders/{order}/refund")).header("idempotency-key", "r1");
        let (status, _, answer) = serving.reply(part.json(&json!({ "amount": 9.8 }))).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
        serving.fine(Method::POST, &format!("/orders/{order}/cancel"), &json!({})).await;
        orders.push(order);
    }
    party.has_done(count * NEWS.len()).await;
    is_consistent(&serving).await;
    party.is_asked_for(count * NEWS.len());
    let asked = party.asked();
    for seen in &asked {
        assert!(is_signed(seen, &secret) && !is_signed(seen, &new_secret()), "{seen:?}");
        assert_eq!(seen.header("webhook-id"), key(seen));
    }
    for order in orders {
        let told = asked.iter().map(body).filter(|body| body["data"]["order_id"] == *order);
        let mut told: Vec<Value> = told.map(|body| body["data"]["status"].clone()).collect();
        told.dedup();
        assert_eq!(told, NEWS, "{order}");
    }
    serving.stop().await;
}

/// The money of a canceled order is all back when the part is that was on its way before, not when the rest is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_is_back_when_the_last_of_it_is() {
    let bank = Party::start("/refund", vec![vec![Act::Hold(200)]], Act::Do).await;
    let party = Party::start("/told", vec![], Act::Do).await;
    let patient = ["delivery.timeout=5m", "delivery.lease=10m", "delivery.allow_private=true"];
    let serving = shop_with(&bank, &patient).await;
    merchant(&serving, 1, &party).await;
    let (order, payment) = opened(&serving, 1, json!({ "holdSeconds": 3_600 })).await.remove(0);
    assert_eq!(money_comes(&serving, &payment).await, StatusCode::OK);
    serving.until(&format!("/orders/{order}"), "status", "PAID").await;
    serving.fine(Method::POST, &format!("/orders/{order}/refund"), &json!({ "amount": 9.8 })).await;
    bank.has_done(1).await;
    serving.fine(Method::POST, &format!("/orders/{order}/cancel"), &json!({})).await;
    party.has_done(2).await;
    bank.open();
    party.has_done(3).await;
    is_consistent(&serving).await;
    let told = party.done().into_iter().map(|seen| body(&seen)["data"].clone());
    let told: Vec<_> = told.map(|data| (data["status"].clone(), data["money"].as_f64().unwrap())).collect();
    assert_eq!(told, [(json!("PAID"), 59.8), (json!("PART_REFUNDED"), 50.0), (json!("REFUNDED"), 9.8)]);
    serving.stop().await;
}

/// Opens a payment of a merchant, which the sandbox channel then makes.
async fn open(serving: &Serving, merchant: i64, number: usize) {
    let wish = json!({ "merchantId": merchant.to_string(), "outOrderNo": format!("M-{number}"), "amount": 5,
        "productId": "h5", "channelId": "sandbox" });
    // The payment role may not have heard of the merchant yet.
    let look = async {
        while serving.send(Method::POST, "/payments", &wish).await.0 != StatusCode::CREATED {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, look).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merchant_that_hangs_delays_no_other() {
    const PAYMENTS: usize = 12;
    let hanging = Party::start("/told", vec![], Act::Hold(200)).await;
    let other = Party::start("/told", vec![], Act::Do).await;
    let settings = ["delivery.allow_private=true", "delivery.per_target=4", "delivery.lease=10m"];
    let mut settings = settings.map(str::to_owned).to_vec();
    settings.push("delivery.kinds.merchant.timeout=5m".to_owned());
    let serving = impatient(&settings).await;
    merchant(&serving, 8, &hanging).await;
    merchant(&serving, 9, &other).await;
    for number in 0..PAYMENTS {
        open(&serving, 8, number).await;
    }
    until("all its places are taken", || hanging.asked().len() == 4).await;
    for number in 0..PAYMENTS {
        open(&serving, 9, number).await;
    }
    other.has_done(PAYMENTS).await;
    assert_eq!(hanging.asked().len(), 4, "it has answered none of them");
    hanging.open();
    hanging.has_done(PAYMENTS).await;
    is_consistent(&serving).await;
    for party in [&hanging, &other] {
        party.is_asked_for(PAYMENTS);
    }
    serving.stop().await;
}

/// A gateway outside wants a merchant told of the money of an order.
async fn news(serving: &Serving, merchant: i64, order: &str, status: &str) {
    let event_id = format!("gateway-{merchant}-{order}-{status}");
    let body = json!({ "eventId": event_id, "order_id": order, "money": 5, "status": status,
        "merchant_id": merchant.to_string() });
    let body = body.to_string();
    let (db, key) = (serving.db(), order.to_owned());
    let sent = write_tx!(db, [event_id, body, key], |tx| {
        let row = OutboxRow {
            id: tx.next_id(),
            event_id,
            topic: "ORDER_NOTIFY".to_owned(),
            tag: String::new(),
            key,
            body: body.into(),
            // Those of ruyi's own events would say so.
            properties: vec![],
            deliver_at_ms: tx.now_ms(),
            attempts: 0,
        };
        tx.emit_raw(row);
        Ok(())
    });
    sent.unwrap();
}

/// A provider of several merchants that never takes the news of `dead-...`; the orders that it was told of, in turn.
async fn provider() -> (String, Arc<Mutex<Vec<String>>>) {
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&told);
    let app = axum::Router::new().fallback(move |news: Bytes| {
        let seen = Arc::clone(&seen);
        async move {
            let news: Value = serde_json::from_slice(&news).unwrap();
            let order = news["data"]["order_id"].as_str().unwrap().to_owned();
            let is_dead = order.starts_with("dead");
            seen.lock().unwrap().push(order);
            if is_dead { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK }
        }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (base, told)
}

/// Two merchants are told at one provider, each at a path of its own, or both at the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_merchant_delays_none_at_its_host() {
    for paths in [["/dead", "/told"], ["/both", "/both"]] {
        let (base, told) = provider().await;
        let count = |what: &str| told.lock().unwrap().iter().filter(|order| order.starts_with(what)).count();
        // What has failed, and whoever has, is left alone for longer than this test runs.
        let settings = [
            "delivery.allow_private=true",
            "delivery.kinds.merchant.schedule=[\"1h\"]",
            "delivery.breaker.failures=3",
            "delivery.breaker.open_for=1h",
            "delivery.per_target=2",
        ];
        let serving = impatient(&settings.map(str::to_owned)).await;
        let accepts = json!([{ "productId": "h5", "channelId": "sandbox" }]);
        for (id, path) in [(7, paths[0]), (9, paths[1])] {
            let profile = json!({ "name": "Tea House", "notifyUrl": format!("{base}{path}"), "accepts": &accepts });
            serving.fine(Method::PUT, &format!("/merchants/{id}"), &profile).await;
        }
        for number in 0..10 {
            news(&serving, 7, &format!("dead-{number}"), "PAID").await;
        }
        until("the dead one has failed often enough", || count("dead") >= 3).await;
        for number in 0..3 {
            news(&serving, 9, &format!("alive-{number}"), "PAID").await;
        }
        until("the other one is told", || count("alive") == 3).await;
        // Three in a row, and one that was under way at that moment.
        assert!(count("dead") <= 4, "{paths:?}: {}", count("dead"));
        serving.stop().await;
    }
}

/// Gateways outside number as they like: not in numbers, or in those that another one gives out as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_merchant_delays_none_of_an_outside_gateway() {
    let dead = Party::start("/told", vec![], Act::Say(500, "out of order")).await;
    let other = Party::start("/told", vec![], Act::Do).await;
    // What has failed is not made again as long as this test runs.
    let settings = ["delivery.allow_private=true", "delivery.kinds.merchant.schedule=[\"1h\"]"].map(str::to_owned);
    let serving = impatient(&settings).await;
    merchant(&serving, 7, &dead).await;
    merchant(&serving, 9, &other).await;
    for (count, (of_dead, of_other)) in (1..).zip([("x", "y"), ("1", "1"), ("z", "z")]) {
        news(&serving, 7, of_dead, "PAID").await;
        until("the dead one has been called", || dead.asked().len() == count).await;
        news(&serving, 9, of_other, "PAID").await;
        other.has_done(count).await;
    }
    // One order's calls wait for each other all the same.
    news(&serving, 7, "x ", "REFUNDED").await;
    let recorded = "SELECT COUNT(*) FROM delivery WHERE kind = 7 AND order_id < 0";
    eventually("it is recorded", async || serving.number(recorded).await == 7).await;
    news(&serving, 7, "last", "PAID").await;
    until("the dead one has been called", || dead.asked().len() >= 4).await;
    let asked = dead.asked();
    let orders: Vec<_> = asked.iter().map(|seen| body(seen)["data"]["order_id"].clone()).collect();
    assert_eq!(orders, ["x", "1", "z", "last"]);
    // What stands for their orders is shown to nobody.
    let calls = serving.get("/deliveries?kind=merchant").await;
    let shown: Vec<_> = calls["items"].as_array().unwrap().iter().map(|call| call["orderId"].clone()).collect();
    assert_eq!(shown, vec![json!("0"); 8]);
    serving.stop().await;
}
