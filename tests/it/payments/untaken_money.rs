//! What a channel has signed for, and what is not taken; and what is not sent to it.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::outbound::OutboundServer;
use crate::support::parties::{Act, Party, SECRET, money_comes, opened, shop_with};
use crate::support::serving::Serving;

/// Alerts about money, as they were told.
fn told(people: &OutboundServer) -> Vec<Value> {
    let all = people.seen().into_iter().map(|seen| serde_json::from_str::<Value>(&seen.body).unwrap());
    all.filter(|alert| alert["alert"] == "MONEY_NOT_TAKEN").collect()
}

async fn calls_back(serving: &Serving, body: &str) -> StatusCode {
    let call = serving.signed("/payments/callback/bank", SECRET, serving.now_s(), body);
    serving.reply(call.header("content-type", "application/json")).await.0
}

/// Each statement about money that is not taken is told to people, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signed_money_that_is_not_taken_is_told() {
    let people = OutboundServer::start().await;
    let bank = Party::start("/pay", vec![], Act::Do).await;
    let webhook = format!("alerts.webhook={}", people.url("/alerts"));
    let serving = shop_with(&bank, &[&webhook]).await;
    let (_, payment) = opened(&serving, 1, json!({})).await.remove(0);
    let right = json!({ "paymentId": payment["paymentId"], "transactionNo": "T1", "amount": 59.8, "currency": "CNY",
        "merchantId": payment["merchantId"], "payTime": serving.now_s() * 1_000 });

    let mut number = 0;
    for (field, wrong, why) in [
        ("amount", json!(59.7), "the amount is not"),
        ("paymentId", json!("12345"), "there is no such payment"),
        ("currency", json!("USD"), "the currency is not"),
        ("merchantId", json!("7"), "the merchant is not"),
        ("payTime", json!(serving.now_s()), "payTime must be"),
        ("amount", json!("much"), "cannot be read"),
        ("transactionNo", json!("t".repeat(65)), "must have 1 to 64 characters"),
    ] {
        let mut body = right.clone();
        body[field] = wrong;
        for _ in 0..3 {
            assert!(calls_back(&serving, &body.to_string()).await.is_client_error(), "{field}");
        }
        serving.settled().await;
        number += 1;
        let told = told(&people);
        let last = told.last().unwrap_or_else(|| panic!("{field}: nobody was told"));
        assert_eq!((told.len(), &last["channelId"]), (number, &json!("bank")), "{field}: {told:#?}");
        assert!(last["errorMessage"].as_str().unwrap().contains(why), "{field}: {last}");
        assert_eq!(last["paymentId"], body["paymentId"], "{field}: {last}");
    }
    // What is not signed is no word of the channel, and what is right is no alarm.
    let forged = serving.signed("/payments/callback/bank", "another", serving.now_s(), &right.to_string());
    assert_eq!(serving.reply(forged).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(calls_back(&serving, &right.to_string()).await, StatusCode::OK);
    serving.settled().await;
    assert_eq!(told(&people).len(), number);
    serving.stop().await;
}

/// A transaction number of the payer's own would make a real channel take the money twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_channel_takes_no_sandbox_wishes() {
    let bank = Party::start("/pay", vec![], Act::Do).await;
    let serving = shop_with(&bank, &[]).await;
    let (order, payment) = opened(&serving, 1, json!({ "holdSeconds": 3_600 })).await.remove(0);
    let path = format!("/payments/{order}/pay");
    let wishes = [json!({}), json!({ "transactionNo": "T2" }), json!({ "amountDelta": -1 }), json!({ "silent": true })];
    for paid in [false, true] {
        for wish in &wishes {
            let (status, _, answer) = serving.send(Method::POST, &path, &json!({ "sandbox": wish })).await;
            assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{wish} {paid}: {answer}");
        }
        assert_eq!(bank.asked().len(), usize::from(paid));
        serving.fine(Method::POST, &path, &json!({})).await;
        bank.has_done(1).await;
        assert_eq!(money_comes(&serving, &payment).await, StatusCode::OK);
        serving.until(&format!("/orders/{order}"), "status", "PAID").await;
    }
    assert_eq!(bank.asked().len(), 1, "what has its money is not submitted again");
    serving.stop().await;
}
