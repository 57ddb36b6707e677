//! A payment channel: asked to take money and to give it back, and its callbacks.

use std::collections::BTreeSet;

use axum::http::{Method, StatusCode};
use ruyi::delivery::sign;
use serde_json::{Value, json};

use crate::support::parties::{
    Act, Party, SECRET, body, is_consistent, key, money_comes, opened, scripts, shop_with, until,
};
use crate::support::serving::Serving;

/// As [`money_comes`], twice at once.
async fn money_comes_twice(serving: &Serving, payment: &Value) {
    let both = tokio::join!(money_comes(serving, payment), money_comes(serving, payment));
    assert_eq!(both, (StatusCode::OK, StatusCode::OK));
}

async fn pay(serving: &Serving, order: &str) {
    let (status, _, answer) = serving.send(Method::POST, &format!("/payments/{order}/pay"), &json!({})).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
}

/// All of these were paid and signed for, each once.
async fn are_signed_for(serving: &Serving, orders: &[(String, Value)]) {
    for (order, _) in orders {
        serving.until(&format!("/orders/{order}"), "status", "SIGNED").await;
        let payment = serving.get(&format!("/payments/{order}")).await;
        assert_eq!((&payment["status"], &payment["refunds"]), (&json!("SUCCESS"), &json!([])));
    }
    let count = orders.len();
    is_consistent(serving).await;
    let paid = "SELECT COUNT(*) FROM message_record WHERE topic = 'PAYMENT_SUCCESS'";
    assert_eq!(serving.number(paid).await, i64::try_from(count).unwrap());
    assert_eq!(serving.get("/stock/A1").await["sold"], count);
    assert_eq!(serving.get("/points/7").await["balance"], 59 * count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_is_submitted_once() {
    let scripts = scripts();
    let bank = Party::start("/pay", scripts.clone(), Act::Do).await;
    let serving = shop_with(&bank, &[]).await;
    let orders = opened(&serving, scripts.len(), json!({})).await;
    for (order, _) in &orders {
        // The payer is impatient as well.
        pay(&serving, order).await;
        pay(&serving, order).await;
    }
    for (_, payment) in &orders {
        until("it is submitted", || bank.keys().contains(payment["paymentId"].as_str().unwrap())).await;
        money_comes_twice(&serving, payment).await;
    }
    are_signed_for(&serving, &orders).await;
    bank.is_asked_for(orders.len());
    for seen in bank.asked() {
        let at_ms = 1_000 * seen.header(sign::TIMESTAMP_HEADER).parse::<i64>().unwrap();
        sign::verify(&SECRET.to_owned().into(), &seen.headers, seen.body.as_bytes(), at_ms, 0).unwrap();
        let asked = body(&seen);
        assert_eq!((asked["paymentId"].as_str(), &asked["amount"]), (Some(key(&seen)), &json!(59.8)));
    }
    // What has its money is not submitted any more, and money that is there does not come again.
    let calls = bank.asked().len();
    for (order, payment) in &orders {
        pay(&serving, order).await;
        money_comes_twice(&serving, payment).await;
    }
    are_signed_for(&serving, &orders).await;
    assert_eq!(bank.asked().len(), calls);
    serving.stop().await;
}

/// The callback is there while the submission still waits for its answer, which may then be anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callback_may_overtake_the_answer() {
    let answers = [200, 500, 422];
    let bank = Party::start("/pay", answers.map(|status| vec![Act::Hold(status)]).to_vec(), Act::Do).await;
    let serving = shop_with(&bank, &["delivery.timeout=5m", "delivery.lease=10m"]).await;
    let orders = opened(&serving, answers.len(), json!({})).await;
    for (order, _) in &orders {
        pay(&serving, order).await;
    }
    bank.has_done(orders.len()).await;
    for (order, payment) in &orders {
        money_comes_twice(&serving, payment).await;
        serving.until(&format!("/orders/{order}"), "status", "SIGNED").await;
    }
    assert_eq!(bank.asked().len(), orders.len(), "none of them was answered");
    bank.open();
    are_signed_for(&serving, &orders).await;
    bank.is_asked_for(orders.len());
    // 200 and 422 say all there is to say.
    assert_eq!(bank.asked().len(), orders.len() + 1);
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_goes_back_once() {
    let scripts = scripts();
    let bank = Party::start("/refund", scripts.clone(), Act::Do).await;
    let serving = shop_with(&bank, &[]).await;
    let orders = opened(&serving, scripts.len(), json!({ "holdSeconds": 3_600 })).await;
    for (order, payment) in &orders {
        money_comes_twice(&serving, payment).await;
        serving.until(&format!("/orders/{order}"), "status", "PAID").await;
        serving.fine(Method::POST, &format!("/orders/{order}/cancel"), &json!({})).await;
    }
    for (order, payment) in &orders {
        serving.until(&format!("/orders/{order}"), "outcome", "REFUNDED").await;
        // What came once and went does not come again.
        money_comes_twice(&serving, payment).await;
    }
    is_consistent(&serving).await;
    bank.is_asked_for(orders.len());
    let asked: Vec<Value> = bank.done().iter().map(body).collect();
    assert!(asked.iter().all(|body| body["amount"] == 59.8), "{asked:?}");
    let of = |field: &str| asked.iter().map(|body| body[field].clone().to_string()).collect::<BTreeSet<_>>();
    assert_eq!(of("paymentId"), orders.iter().map(|(_, payment)| payment["paymentId"].to_string()).collect());
    assert_eq!(of("refundId"), bank.keys().iter().map(|key| json!(key).to_string()).collect());
    for (order, _) in &orders {
        let payment = serving.get(&format!("/payments/{order}")).await;
        let refunds = payment["refunds"].as_array().unwrap();
        assert_eq!((&payment["status"], refunds.len()), (&json!("REFUNDED"), 1), "{payment}");
        assert_eq!((&refunds[0]["status"], &refunds[0]["amount"]), (&json!("SUCCESS"), &json!(59.8)));
    }
    let back = "SELECT COUNT(*) FROM message_record WHERE topic = 'REFUND_SUCCESS'";
    assert_eq!(serving.number(back).await, i64::try_from(orders.len()).unwrap());
    assert_eq!(serving.get("/stock/A1").await, json!({ "sku": "A1", "available": 1_000, "frozen": 0, "sold": 0 }));
    assert_eq!(serving.get("/points/7").await["balance"], 0);
    serving.stop().await;
}
