//! Calls that are recorded by one process and made by another: they go where the configuration of whoever makes them
//! says, and never to a stand-in that plays somebody else.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::refund_doubt::{ask, given_back, sent_again_by_repair, until};
use crate::support::parties::{Act, Party, SECRET, body, channel, is_consistent, money_comes, shop_with, signed};
use crate::support::role_books::execute;
use crate::support::serving::Serving;
use crate::support::waiting::eventually;

/// Requests that were made of the stand-in for a channel.
const ASKED_SANDBOX: &str = "SELECT COUNT(*) FROM delivery_attempt WHERE request LIKE '%/sandbox/channel/%'";

async fn place_at_bank(serving: &Serving) -> (String, Value) {
    let order = json!({"userId": "7", "channelId": "bank", "items": [{"sku": "A1", "quantity": 1}]});
    let id = serving.place(&order).await;
    let payment = serving.until(&format!("/payments/{id}"), "status", "PENDING").await;
    (id, payment)
}

async fn signed_post(serving: &Serving, path: &str, secret: &str, body: &Value) -> StatusCode {
    serving.reply(serving.signed(path, secret, serving.now_s(), &body.to_string())).await.0
}

/// The refund is recorded by a process that lacks the channel; a version before wrote the path of the sandbox into it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_goes_to_the_channel_of_its_sender() {
    for recorded in ["channel://bank/refund", "/sandbox/channel/refund"] {
        let dir = tempfile::tempdir().unwrap();
        let data = format!("data_dir={}", dir.path().display());
        let bank = Party::start("/refund", vec![], Act::Do).await;
        let serving = shop_with(&bank, &[&data]).await;
        let id = signed(&serving).await;
        serving.settled().await;
        serving.stop().await;

        let serving = Serving::start(&[&data]).await;
        assert_eq!(ask(&serving, &id, 30.0).await.0, StatusCode::ACCEPTED);
        until(&serving, &id, "IN_DOUBT").await;
        let called = "SELECT COUNT(*) FROM delivery WHERE kind = 2 AND url = 'channel://bank/refund'";
        assert_eq!(serving.number(called).await, 1);
        let before = format!("UPDATE delivery SET url = '{recorded}' WHERE kind = 2");
        assert_eq!(execute(serving.db(), before).await, 1);
        serving.stop().await;
        assert!(bank.asked().is_empty());

        let serving = Serving::start(&[&data, &channel(&bank)]).await;
        sent_again_by_repair(&serving).await;
        until(&serving, &id, "SUCCESS").await;

        is_consistent(&serving).await;
        assert_eq!(given_back(&bank), [json!(30)], "{recorded}");
        assert_eq!(serving.number(ASKED_SANDBOX).await, 0, "{recorded}");
        serving.stop().await;
    }
}

/// Whoever holds the secret of a real channel gets no yes from the stand-in, nor a call back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sandbox_plays_no_real_channel() {
    let bank = Party::start("/refund", vec![], Act::Do).await;
    let serving = shop_with(&bank, &["sandbox.beside_channels=true"]).await;
    let refund = json!({ "channelId": "bank", "refundId": "5", "paymentId": "9", "transactionNo": "T1", "amount": 1 });
    let pay = json!({ "channelId": "bank", "paymentId": "9", "orderId": "7", "amount": 1, "currency": "CNY",
        "merchantId": "1" });
    let question = json!({ "channelId": "bank", "paymentId": "9", "refundId": "5", "amount": 1 });
    for (what, body) in [("refund", &refund), ("pay", &pay), ("query", &question)] {
        let path = format!("/sandbox/channel/{what}");
        assert_eq!(signed_post(&serving, &path, SECRET, body).await, StatusCode::UNAUTHORIZED, "{what}");
    }
    assert_eq!(serving.number("SELECT COUNT(*) FROM delivery WHERE kind = 4").await, 0);

    // Its own it plays as before.
    let mut own = refund;
    own["channelId"] = json!("sandbox");
    assert_eq!(signed_post(&serving, "/sandbox/channel/refund", "sandbox", &own).await, StatusCode::OK);
    serving.stop().await;
}

/// The stand-in took a payment for a channel that is a real one when it would call back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_sandbox_does_not_speak_for_the_bank() {
    let dir = tempfile::tempdir().unwrap();
    let data = format!("data_dir={}", dir.path().display());
    let played = format!(r#"payment.channels.bank={{kind="sandbox",secret="{SECRET}"}}"#);
    let serving = Serving::start(&[&data, &played]).await;
    serving.fill().await;
    let (id, _) = place_at_bank(&serving).await;
    serving.fine(Method::POST, &format!("/payments/{id}/pay"), &json!({ "sandbox": { "silent": true } })).await;
    let silent = "SELECT COUNT(*) FROM delivery WHERE kind = 4 AND status = 0";
    eventually("the stand-in has taken it", async || serving.number(silent).await == 1).await;
    serving.stop().await;

    let bank = Party::start("/pay", vec![], Act::Do).await;
    let serving = Serving::start(&[&data, &channel(&bank)]).await;
    let due = "UPDATE delivery SET next_at = 0 WHERE kind = 4";
    assert_eq!(execute(serving.db(), due.to_owned()).await, 1);
    let refused = "SELECT COUNT(*) FROM delivery WHERE kind = 4 AND status = 3";
    eventually("it is not signed", async || serving.number(refused).await == 1).await;
    assert_ne!(serving.get(&format!("/payments/{id}")).await["status"], "SUCCESS");
    serving.stop().await;
}

/// The order is handed over by a process that knows no warehouse, and the call is made by one that does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_goes_to_the_warehouse_of_its_sender() {
    let dir = tempfile::tempdir().unwrap();
    let data = format!("data_dir={}", dir.path().display());
    let bank = Party::start("/pay", vec![], Act::Do).await;
    let known = channel(&bank);
    let serving = Serving::planned("127.0.0.1:0", &[&data, &known], |plan| plan.work.deliveries = false).await;
    serving.fill().await;
    let (id, payment) = place_at_bank(&serving).await;
    assert_eq!(money_comes(&serving, &payment).await, StatusCode::OK);
    let recorded = "SELECT COUNT(*) FROM delivery WHERE kind = 3 AND url = '/sandbox/warehouse/orders'";
    eventually("the hand-over is recorded", async || serving.number(recorded).await == 1).await;
    serving.stop().await;

    let warehouse = Party::start("/orders", vec![], Act::Do).await;
    let endpoint = format!("warehouse.endpoint={}", warehouse.url(""));
    let serving = Serving::start(&[&data, &known, &endpoint]).await;
    let taken = warehouse.has_done(1).await;
    assert_eq!(body(&taken[0])["orderId"], json!(id));
    let order = json!({ "orderId": id, "userId": "7", "lines": [{ "sku": "A1", "quantity": 1 }] });
    let status = signed_post(&serving, "/sandbox/warehouse/orders", "sandbox", &order).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(serving.number("SELECT COUNT(*) FROM delivery WHERE kind = 5").await, 0);
    serving.stop().await;
}
