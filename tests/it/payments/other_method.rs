//! A payer who changes the method of a payment: its channel has one method at a time by which it may take the money.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::parties::{Act, Party, body, channel, is_consistent, key, money_comes, opened, shop_with};
use crate::support::serving::Serving;
use crate::support::waiting::eventually;

async fn pay(serving: &Serving, order: &str, method: &str) -> (StatusCode, Value) {
    let path = format!("/payments/{order}/pay");
    let (status, _, answer) = serving.send(Method::POST, &path, &json!({ "method": method })).await;
    (status, answer)
}

/// What the bank was asked for: the key of each request, and the method in it.
fn asked(bank: &Party) -> Vec<(String, String)> {
    let method = |body: Value| body["method"].as_str().unwrap().to_owned();
    bank.asked().iter().map(|seen| (key(seen).to_owned(), method(body(seen)))).collect()
}

/// The money comes, once, by the one method that the bank knows.
async fn is_paid(serving: &Serving, order: &str, payment: &Value) {
    assert_eq!(money_comes(serving, payment).await, StatusCode::OK);
    serving.until(&format!("/orders/{order}"), "status", "SIGNED").await;
    is_consistent(serving).await;
    assert_eq!(serving.get(&format!("/payments/{order}")).await["refunds"], json!([]));
}

/// The bank has the submission, or may have it: somebody may be paying there just now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_method_is_refused_while_one_is_open() {
    for first in [Act::Do, Act::Cut, Act::Say(500, "out of order"), Act::Hold(200)] {
        let bank = Party::start("/pay", vec![vec![first]], Act::Do).await;
        let serving = shop_with(&bank, &[]).await;
        let (order, payment) = opened(&serving, 1, json!({})).await.remove(0);
        let id = payment["paymentId"].as_str().unwrap().to_owned();
        assert_eq!(pay(&serving, &order, "card").await.0, StatusCode::ACCEPTED);
        eventually("the bank is asked", async || !bank.asked().is_empty()).await;

        let (status, answer) = pay(&serving, &order, "wallet").await;
        assert_eq!(status, StatusCode::CONFLICT, "{first:?}: {answer}");
        let detail = answer["detail"].as_str().unwrap();
        assert!(detail.contains("\"card\"") && detail.contains("cancel the order"), "{detail}");
        // The same method once more is the same submission.
        assert_eq!(pay(&serving, &order, "card").await.0, StatusCode::ACCEPTED, "{first:?}");

        bank.open();
        bank.has_done(1).await;
        is_paid(&serving, &order, &payment).await;
        // What has its money is paid, whatever method is named.
        assert_eq!(pay(&serving, &order, "wallet").await.0, StatusCode::ACCEPTED, "{first:?}");
        let asked = asked(&bank);
        assert!(asked.iter().all(|one| *one == (id.clone(), "card".to_owned())), "{first:?}: {asked:?}");
        serving.stop().await;
    }
}

/// Nobody can pay by what the bank has refused: the next method is an attempt of its own, which the bank can tell apart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_method_gives_way_to_another() {
    let bank = Party::start("/pay", vec![vec![Act::Say(422, "no cards here")]], Act::Do).await;
    let serving = shop_with(&bank, &[]).await;
    let (order, payment) = opened(&serving, 1, json!({})).await.remove(0);
    let id = payment["paymentId"].as_str().unwrap();
    assert_eq!(pay(&serving, &order, "card").await.0, StatusCode::ACCEPTED);
    let refused = "SELECT COUNT(*) FROM delivery WHERE kind = 1 AND status = 3";
    eventually("it is refused", async || serving.number(refused).await == 1).await;

    for _ in 0..2 {
        assert_eq!(pay(&serving, &order, "wallet").await.0, StatusCode::ACCEPTED);
    }
    bank.has_done(1).await;
    assert_eq!(pay(&serving, &order, "card").await.0, StatusCode::CONFLICT);
    is_paid(&serving, &order, &payment).await;
    assert_eq!(asked(&bank), [(id.to_owned(), "card".to_owned()), (format!("{id}-2"), "wallet".to_owned())]);
    let attempts: Vec<Value> = bank.asked().iter().map(|seen| body(seen)["attempt"].clone()).collect();
    assert_eq!(attempts, [Value::Null, json!(2)]);
    serving.stop().await;
}

/// Nobody has told the bank of the first method yet: it hears of the last one only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_method_that_has_not_left_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let data = format!("data_dir={}", dir.path().display());
    let bank = Party::start("/pay", vec![], Act::Do).await;
    let known = channel(&bank);
    let serving = Serving::planned("127.0.0.1:0", &[&data, &known], |plan| plan.work.deliveries = false).await;
    serving.fill().await;
    let (order, payment) = opened(&serving, 1, json!({})).await.remove(0);
    for method in ["card", "wallet", "wallet"] {
        assert_eq!(pay(&serving, &order, method).await.0, StatusCode::ACCEPTED, "{method}");
    }
    serving.stop().await;
    assert!(bank.asked().is_empty());

    let serving = Serving::start(&[&data, &known]).await;
    bank.has_done(1).await;
    is_paid(&serving, &order, &payment).await;
    let id = payment["paymentId"].as_str().unwrap();
    assert_eq!(asked(&bank), [(format!("{id}-2"), "wallet".to_owned())]);
    serving.stop().await;
}
