//! The number of a channel's transaction is one identity, however it is padded: money under the same number is the same
//! money.

use axum::http::{Method, StatusCode};
use ruyi::db::sql;
use serde_json::{Value, json};

use crate::support::servers::{mariadb_url, write_tx};
use crate::support::shop::{Setup, Shop};

const SOON_MS: i64 = 60_000;

/// An order of 29.90 with an open payment that its payer has submitted; the sandbox keeps silent.
async fn submitted(shop: &mut Shop, number: &str) -> (String, Value) {
    let order = shop.place_order(7, &[("TEA", 1)], json!({ "holdSeconds": 600 })).await;
    shop.settle_within(1_000).await;
    assert_eq!(shop.pay(&order, json!({ "silent": true, "transactionNo": number })).await, StatusCode::ACCEPTED);
    shop.settle_within(1_000).await;
    let payment = shop.payment(&order).await.unwrap();
    (order, payment)
}

/// The channel says that it has the money, under this number.
async fn say(shop: &Shop, payment: &Value, number: &str) -> StatusCode {
    let now_ms = shop.clock.now_ms();
    let body = json!({ "paymentId": payment["paymentId"], "transactionNo": number, "amount": payment["amount"],
        "currency": "CNY", "merchantId": payment["merchantId"], "payTime": now_ms });
    shop.signed("/payments/callback/sandbox", "sandbox", now_ms / 1_000, &body.to_string()).await
}

/// What the sandbox answers when it is asked is padded from now on.
async fn pad_answers(shop: &Shop, number: &str, padded: &str) {
    let text = format!("UPDATE delivery SET body = REPLACE(body, '\"{number}\"', '\"{padded}\"') WHERE kind = 4");
    write_tx!(shop.db, [text], |tx| { sql::execute(tx, text, vec![]).await }).unwrap();
}

/// It is paid by this number, and by nothing else: no money goes back.
async fn is_paid_once(shop: &mut Shop, order: &str, number: &str) {
    shop.settle_within(1_000).await;
    let payment = shop.payment(order).await.unwrap();
    assert_eq!((&payment["status"], &payment["transactionNo"]), (&json!("SUCCESS"), &json!(number)));
    assert_eq!((shop.status(order).await.as_str(), shop.refunds(order).await), ("PAID", vec![]));
}

async fn one_identity(mut shop: Shop) {
    shop.sell("TEA", 2_990, 100).await;

    // Callbacks, whichever comes first.
    for padded in [["T1", "T1 ", " T1"], ["T1 ", "T1", " T1  "], [" T1", "T1 ", "T1"]] {
        let (order, payment) = submitted(&mut shop, "T1").await;
        for number in padded {
            assert_eq!(say(&shop, &payment, number).await, StatusCode::OK, "{number:?}");
            is_paid_once(&mut shop, &order, "T1").await;
        }
    }

    // The answer to a question, and then callbacks.
    for padded in ["Q1 ", " Q1"] {
        let (order, payment) = submitted(&mut shop, "Q1").await;
        pad_answers(&shop, "Q1", padded).await;
        shop.clock.advance_ms(SOON_MS + 1_000);
        is_paid_once(&mut shop, &order, "Q1").await;
        for number in ["Q1", "Q1 ", " Q1"] {
            assert_eq!(say(&shop, &payment, number).await, StatusCode::OK, "{number:?}");
        }
        is_paid_once(&mut shop, &order, "Q1").await;
    }

    // A callback that overtakes the question.
    let (order, payment) = submitted(&mut shop, "Q2").await;
    pad_answers(&shop, "Q2", "Q2 ").await;
    shop.clock.advance_ms(SOON_MS + 1_000);
    assert_eq!(say(&shop, &payment, "Q2").await, StatusCode::OK);
    is_paid_once(&mut shop, &order, "Q2").await;
    assert_eq!(shop.count("SELECT COUNT(*) FROM delivery WHERE kind = 10").await, 2);

    assert_eq!(shop.count("SELECT COUNT(*) FROM refund_record").await, 0);
    shop.audit().await;
}

#[tokio::test]
async fn blanks_around_a_number_are_no_other_number() {
    one_identity(Shop::open().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blanks_are_no_other_number_on_mariadb() {
    let Some(url) = mariadb_url().await else { return };
    one_identity(Shop::with(Setup { url: Some(url), ..Setup::default() }, 0).await).await;
}

/// Rows of before have the blanks that the channel sent. They name the same transactions, and so do their refunds.
async fn rows_of_before(mut shop: Shop) {
    shop.sell("TEA", 2_990, 100).await;
    let (order, payment) = submitted(&mut shop, "T1").await;
    for number in ["T1", "T2"] {
        assert_eq!(say(&shop, &payment, number).await, StatusCode::OK);
    }
    shop.settle_within(1_000).await;
    let extra = [("EXTRA".to_owned(), "SUCCESS".to_owned())];
    assert_eq!(shop.refunds(&order).await, extra);
    let texts = [
        "UPDATE payment_record SET transaction_no = 'T1 '",
        "UPDATE refund_record SET transaction_no = ' T2 ', refund_key = REPLACE(refund_key, ':T2', ': T2 ')",
    ];
    write_tx!(shop.db, [texts], |tx| {
        for text in texts {
            sql::execute(tx, text, vec![]).await?;
        }
        Ok::<_, ruyi::db::DbError>(())
    })
    .unwrap();

    for number in ["T1", "T1 ", " T1", "T2", "T2 ", " T2"] {
        assert_eq!(say(&shop, &payment, number).await, StatusCode::OK, "{number:?}");
    }
    shop.settle_within(1_000).await;
    assert_eq!(shop.refunds(&order).await, extra);
    let seen = shop.payment(&order).await.unwrap();
    assert_eq!((&seen["transactionNo"], &seen["refunds"][0]["transactionNo"]), (&json!("T1"), &json!("T2")));
    shop.audit().await;

    // The money that paid it went back as if it had come twice: that is seen.
    let text = "UPDATE refund_record SET transaction_no = 'T1'";
    write_tx!(shop.db, [], |tx| { sql::execute(tx, text, vec![]).await }).unwrap();
    let found = shop.violations().await;
    assert!(found.iter().any(|one| one.contains("29.90 CNY of transaction T1 goes back, too")), "{found:#?}");
}

#[tokio::test]
async fn rows_with_blanks_name_the_same_transactions() {
    rows_of_before(Shop::open().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_with_blanks_on_mariadb() {
    let Some(url) = mariadb_url().await else { return };
    rows_of_before(Shop::with(Setup { url: Some(url), ..Setup::default() }, 0).await).await;
}

/// A wish of the payer reaches the sandbox without its blanks; one of blanks alone is none.
#[tokio::test]
async fn a_padded_wish_is_the_number() {
    let mut shop = Shop::open().await;
    shop.sell("TEA", 2_990, 100).await;
    let order = shop.place_order(7, &[("TEA", 1)], json!({ "holdSeconds": 600 })).await;
    shop.settle_within(1_000).await;
    for number in ["W1 ", " W1", "W1"] {
        assert_eq!(shop.pay(&order, json!({ "transactionNo": number })).await, StatusCode::ACCEPTED, "{number:?}");
    }
    is_paid_once(&mut shop, &order, "W1").await;
    for wrong in [" ", "W\n1"] {
        let body = json!({ "sandbox": { "transactionNo": wrong } });
        let (status, answer) = shop.request(Method::POST, &format!("/payments/{order}/pay"), None, Some(body)).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{wrong:?} {answer}");
    }
    shop.audit().await;
}
