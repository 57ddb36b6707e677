//! Channels that are asked on while a payment is open, anew when its payer tries once more, and when it is closed.

use reqwest::Method;
use ruyi::db::sql;
use serde_json::json;

use super::channel_query::{Bank, Say, merchant_pays, shop_with, submitted};
use crate::support::servers::{mariadb_url, write_tx};
use crate::support::serving::Serving;
use crate::support::shop::{Setup, Shop};
use crate::support::waiting::eventually;

const DAY_MS: i64 = 86_400_000;
const HOUR_MS: i64 = 3_600_000;
/// Three questions, and then half a day of silence.
const SCHEDULE: &str = r#"delivery.kinds.channel_query.schedule=["10ms","10ms"]"#;
const ASKED_ON: &str =
    "SELECT COUNT(*) FROM delivery WHERE kind = 10 AND status = 0 AND next_at - updated_at = 43200000";
const DONE: &str = "SELECT COUNT(*) FROM delivery WHERE kind = 10 AND status = 1";

/// The channel was asked so often, to the end of the schedule, and knew nothing of any money.
async fn asked_in_vain(serving: &Serving, bank: &Bank, times: usize) {
    bank.until_asked(times).await;
    eventually("it is asked on later", async || serving.number(ASKED_ON).await == 1).await;
}

async fn change(serving: &Serving, text: &'static str) {
    write_tx!(serving.db(), [], |tx| { sql::execute(tx, text, vec![]).await }).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payer_who_tries_again_is_asked_about() {
    let (bank, url) = Bank::open(&[Say::Pending; 3], Say::Paid).await;
    let serving = shop_with(&url, &[SCHEDULE]).await;
    let id = submitted(&serving).await;
    asked_in_vain(&serving, &bank, 3).await;
    serving.fine(Method::POST, &format!("/payments/{id}/pay"), &json!({})).await;
    serving.until(&format!("/orders/{id}"), "status", "SIGNED").await;
    serving.settled().await;
    assert_eq!((bank.asked(), bank.submitted.lock().unwrap().len()), (4, 1));
    assert_eq!(serving.number("SELECT COUNT(*) FROM refund_record").await, 0);
    assert_eq!(serving.number("SELECT COUNT(*) FROM delivery WHERE kind = 10").await, 1);
    serving.stop().await;
}

/// Nobody knows of the money when the payment is closed, whether the channel had no answer or none that counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_of_a_payment_that_is_closed_goes_back() {
    for before in [Say::Pending, Say::Broken] {
        let (bank, url) = Bank::open(&[before; 3], Say::Paid).await;
        let serving = shop_with(&url, &[SCHEDULE]).await;
        let id = submitted(&serving).await;
        bank.until_asked(3).await;
        serving.settled().await;
        assert_eq!(bank.asked(), 3, "{before:?}");
        serving.fine(Method::POST, &format!("/orders/{id}/cancel"), &json!({})).await;
        serving.until(&format!("/orders/{id}"), "outcome", "REFUNDED").await;
        serving.settled().await;
        assert_eq!((bank.asked(), serving.number(DONE).await), (4, 1), "{before:?}");
        serving.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_behind_the_time_to_pay_goes_back() {
    let (bank, url) = Bank::open(&[Say::Pending; 3], Say::Paid).await;
    let serving = shop_with(&url, &[SCHEDULE]).await;
    let order = json!({ "userId": "7", "channelId": "bank", "payWithinSeconds": 6,
        "items": [{ "sku": "A1", "quantity": 1 }] });
    let id = serving.place(&order).await;
    serving.until(&format!("/payments/{id}"), "status", "PENDING").await;
    serving.fine(Method::POST, &format!("/payments/{id}/pay"), &json!({})).await;
    bank.until_asked(3).await;
    serving.until(&format!("/orders/{id}"), "outcome", "REFUNDED").await;
    assert_eq!(bank.asked(), 4);
    serving.stop().await;
}

/// The channel was away when it was asked for the last time: it is asked on, and people are told once of each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_that_failed_last_is_asked_on() {
    let answers = [Say::Pending, Say::Broken, Say::Broken, Say::Broken, Say::Forged, Say::Broken];
    let (bank, url) = Bank::open(&answers, Say::Paid).await;
    let (hook, at) = Bank::open(&[], Say::Paid).await;
    let webhook = format!("alerts.webhook={at}/pay");
    let serving = shop_with(&url, &[SCHEDULE, &webhook]).await;
    let id = submitted(&serving).await;
    for times in [3, 6] {
        asked_in_vain(&serving, &bank, times).await;
        assert_eq!(bank.asked(), times);
        change(&serving, "UPDATE delivery SET next_at = 0 WHERE kind = 10 AND status = 0").await;
    }
    serving.until(&format!("/orders/{id}"), "status", "SIGNED").await;
    serving.settled().await;
    assert_eq!((bank.asked(), hook.submitted.lock().unwrap().len()), (7, 1));
    serving.stop().await;
}

/// Nobody said whether a payment was paid before it was closed: its money may be there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_payment_is_asked_about_until_answered() {
    let (bank, url) = Bank::open(&[[Say::Pending; 3], [Say::Broken; 3]].concat(), Say::Paid).await;
    let serving = shop_with(&url, &[SCHEDULE]).await;
    let id = submitted(&serving).await;
    asked_in_vain(&serving, &bank, 3).await;
    serving.fine(Method::POST, &format!("/orders/{id}/cancel"), &json!({})).await;
    asked_in_vain(&serving, &bank, 6).await;
    change(&serving, "UPDATE delivery SET next_at = 0 WHERE kind = 10 AND status = 0").await;
    serving.until(&format!("/orders/{id}"), "outcome", "REFUNDED").await;
    serving.settled().await;
    assert_eq!((bank.asked(), serving.number(DONE).await), (7, 1));
    serving.stop().await;
}

/// A merchant's own payment has no time to pay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_of_a_closed_gateway_payment_goes_back() {
    let (bank, url) = Bank::open(&[Say::Pending; 3], Say::Paid).await;
    let serving = shop_with(&url, &[SCHEDULE]).await;
    merchant_pays(&serving).await;
    asked_in_vain(&serving, &bank, 3).await;
    serving.fine(Method::POST, "/merchants/9/payments/M-1/close", &json!({})).await;
    serving.until("/merchants/9/payments/M-1", "status", "REFUNDED").await;
    assert_eq!(bank.asked(), 4);
    serving.stop().await;
}

/// A submission of a time in which no channel was asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_payment_without_a_question_is_asked_about() {
    let (bank, url) = Bank::open(&[], Say::Paid).await;
    let serving = shop_with(&url, &["payment.query_after=1h"]).await;
    let id = submitted(&serving).await;
    let order = json!({ "userId": "7", "channelId": "bank", "items": [{ "sku": "B2", "quantity": 1 }] });
    let unpaid = serving.place(&order).await;
    serving.until(&format!("/payments/{unpaid}"), "status", "PENDING").await;
    change(&serving, "DELETE FROM delivery WHERE kind = 10").await;
    for order in [&id, &unpaid] {
        serving.fine(Method::POST, &format!("/orders/{order}/cancel"), &json!({})).await;
        serving.until(&format!("/payments/{order}"), "status", "CLOSED").await;
    }
    // Nobody was told of the other one.
    assert_eq!(serving.number("SELECT COUNT(*) FROM delivery WHERE kind = 10 AND attempts = 0").await, 1);
    change(&serving, "UPDATE delivery SET next_at = 0 WHERE kind = 10").await;
    serving.until(&format!("/orders/{id}"), "outcome", "REFUNDED").await;
    assert_eq!(bank.asked(), 1);
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_payment_is_asked_about_until_closed() {
    let (bank, url) = Bank::open(&[], Say::Pending).await;
    let serving = shop_with(&url, &[SCHEDULE]).await;
    let id = submitted(&serving).await;
    for times in [3, 6] {
        asked_in_vain(&serving, &bank, times).await;
        assert_eq!(bank.asked(), times);
        change(&serving, "UPDATE delivery SET next_at = 0 WHERE kind = 10").await;
    }
    asked_in_vain(&serving, &bank, 9).await;
    serving.fine(Method::POST, &format!("/orders/{id}/cancel"), &json!({})).await;
    eventually("nobody asks any more", async || serving.number(DONE).await == 1).await;
    assert_eq!(bank.asked(), 12);
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_never_asks_does_not_begin_to() {
    let (bank, url) = Bank::open(&[], Say::Paid).await;
    let serving = shop_with(&url, &["payment.query_after=0s"]).await;
    let id = submitted(&serving).await;
    for (what, status) in [(format!("/payments/{id}/pay"), "PENDING"), (format!("/orders/{id}/cancel"), "CLOSED")] {
        serving.fine(Method::POST, &what, &json!({})).await;
        serving.until(&format!("/payments/{id}"), "status", status).await;
    }
    assert_eq!(serving.number("SELECT COUNT(*) FROM delivery WHERE kind = 10").await, 0);
    assert_eq!(bank.asked(), 0);
    serving.stop().await;
}

/// On the schedule that is the default: never silent for longer than half a day, and no more often than it has to be.
async fn is_asked_through(mut shop: Shop) {
    shop.sell("TEA", 2_990, 10).await;
    let order = shop.place_order(7, &[("TEA", 2)], json!({ "payWithinSeconds": 7 * DAY_MS / 1_000 })).await;
    shop.settle_within(1_000).await;
    shop.pay(&order, json!({ "delayMs": 6 * DAY_MS })).await;
    shop.settle_within(5 * DAY_MS).await;
    let text = "SELECT CAST(started_at AS CHAR) FROM delivery_attempt JOIN delivery ON id = delivery_id \
                WHERE kind = 10 ORDER BY attempt";
    let asked: Vec<i64> = shop.rows(text).await.iter().map(|row| row[0].parse().unwrap()).collect();
    let longest = asked.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    // Twelve times in the first day, and four times in each 32 hours after it.
    assert!((20..=26).contains(&asked.len()) && longest <= 12 * HOUR_MS, "{longest} {asked:?}");
    shop.settle_within(2 * DAY_MS).await;
    assert_eq!(shop.outcome(&order).await, "SIGNED");
    shop.audit().await;
}

#[tokio::test]
async fn a_week_is_asked_through() {
    is_asked_through(Shop::open().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_week_is_asked_through_on_mariadb() {
    let Some(url) = mariadb_url().await else { return };
    is_asked_through(Shop::with(Setup { url: Some(url), ..Setup::default() }, 1).await).await;
}
