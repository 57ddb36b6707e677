//! Merchants, who are told what becomes of their money.

use axum::http::{Method, StatusCode};
use ruyi::delivery::webhook::new_secret;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::support::merchant_accounts::is_signed;
use crate::support::parties::{
    Act, DEADLINE, Party, body, impatient, is_consistent, key, money_comes, opened, scripts, shop_with, until,
};
use crate::support::serving::Serving;

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
