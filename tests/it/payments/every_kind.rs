//! Whatever looks after payments by itself knows every kind of them.

use reqwest::{Method, StatusCode};
use ruyi::db::payments::PaymentKind;
use serde_json::{Value, json};

use super::channel_query::{self, Bank, Say, merchant_pays, submitted};
use crate::support::parties::{self, Act, Party, is_consistent, money_comes, violations};
use crate::support::role_books::execute;
use crate::support::serving::Serving;
use crate::support::waiting::eventually;

/// Where a payment is seen, closed, and given back.
struct Opened {
    path: String,
    close: String,
    refund: String,
}

impl Opened {
    /// A payment of 59.80, of which the bank is told. A new kind has to be opened here.
    async fn of(kind: PaymentKind, serving: &Serving) -> Self {
        match kind {
            PaymentKind::Shop => {
                let order = submitted(serving).await;
                let (close, refund) = (format!("/orders/{order}/cancel"), format!("/orders/{order}/refund"));
                Self { path: format!("/payments/{order}"), close, refund }
            }
            PaymentKind::Gateway => {
                merchant_pays(serving).await;
                let path = "/merchants/9/payments/M-1";
                Self { path: path.to_owned(), close: format!("{path}/close"), refund: format!("{path}/refund") }
            }
        }
    }

    async fn until(&self, serving: &Serving, status: &str) -> Value {
        serving.until(&self.path, "status", status).await
    }

    async fn until_refund_is(&self, serving: &Serving, status: &str) {
        let refund = async || serving.get(&self.path).await["refunds"][0]["status"].clone();
        eventually("the refund stands so", async || refund().await == status).await;
    }
}

/// The process that recorded no question with a submission was of the version before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_without_question_is_made_up_for() {
    for kind in PaymentKind::ALL {
        let dir = tempfile::tempdir().unwrap();
        let data = format!("data_dir={}", dir.path().display());
        let (bank, url) = Bank::open(&[], Say::Paid).await;
        let serving = channel_query::shop_with(&url, &[&data, "payment.query_after=1h"]).await;
        let opened = Opened::of(kind, &serving).await;
        let taken = "SELECT COUNT(*) FROM delivery WHERE kind = 1 AND status = 1";
        eventually("the bank is told", async || serving.number(taken).await == 1).await;
        let forget = "DELETE FROM delivery WHERE kind = 10";
        assert_eq!(execute(serving.db(), forget.to_owned()).await, 1, "{kind:?}");
        serving.stop().await;

        let serving = channel_query::shop_with(&url, &[&data]).await;
        opened.until(&serving, "SUCCESS").await;
        assert_eq!(bank.asked(), 1, "{kind:?}");
        serving.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_is_asked_about_while_open() {
    for kind in PaymentKind::ALL {
        let (bank, url) = Bank::open(&[Say::Unknown], Say::Paid).await;
        let serving = channel_query::shop_with(&url, &[]).await;
        let opened = Opened::of(kind, &serving).await;
        opened.until(&serving, "SUCCESS").await;
        assert_eq!(bank.asked(), 2, "{kind:?}");
        serving.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_is_asked_about_when_closed() {
    for kind in PaymentKind::ALL {
        let (bank, url) = Bank::open(&[Say::Pending; 3], Say::Paid).await;
        let three = r#"delivery.kinds.channel_query.schedule=["10ms","10ms"]"#;
        let serving = channel_query::shop_with(&url, &[three]).await;
        let opened = Opened::of(kind, &serving).await;
        bank.until_asked(3).await;
        serving.settled().await;

        serving.fine(Method::POST, &opened.close, &json!({})).await;
        opened.until(&serving, "REFUNDED").await;
        assert_eq!(bank.asked(), 4, "{kind:?}");
        serving.stop().await;
    }
}

/// The bank gives money back, and its answer is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_in_doubt_is_asked_about() {
    for kind in PaymentKind::ALL {
        let no = Act::Say(409, r#"{"refused": true}"#);
        let bank = Party::start("/refund", vec![vec![Act::Cut, no]], Act::Do).await;
        let serving = parties::shop_with(&bank, &[r#"delivery.kinds.refund_query.schedule=["10ms"]"#]).await;
        let opened = Opened::of(kind, &serving).await;
        assert_eq!(money_comes(&serving, &serving.get(&opened.path).await).await, StatusCode::OK, "{kind:?}");
        serving.settled().await;
        let request = serving.request(Method::POST, &opened.refund).header("idempotency-key", "r1");
        let (status, _, answer) = serving.reply(request.json(&json!({ "amount": 30 }))).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{kind:?}: {answer}");
        opened.until_refund_is(&serving, "IN_DOUBT").await;
        let found = violations(&serving).await;
        assert!(found.iter().any(|one| one.evidence.contains("in doubt")), "{kind:?}: {found:#?}");

        bank.says_of_refunds("SUCCESS");
        let due = "UPDATE delivery SET next_at = 0 WHERE kind = 11 AND status = 0";
        assert_eq!(execute(serving.db(), due.to_owned()).await, 1, "{kind:?}");
        opened.until_refund_is(&serving, "SUCCESS").await;
        is_consistent(&serving).await;
        assert_eq!(bank.done().len(), 1, "{kind:?}");
        serving.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_is_looked_at_by_the_audit() {
    for kind in PaymentKind::ALL {
        let bank = Party::start("/refund", vec![], Act::Do).await;
        let serving = parties::shop_with(&bank, &[]).await;
        let opened = Opened::of(kind, &serving).await;
        let payment = serving.get(&opened.path).await;
        assert_eq!(money_comes(&serving, &payment).await, StatusCode::OK, "{kind:?}");
        is_consistent(&serving).await;

        // As if all of it had gone back, of which nobody knows anything.
        assert_eq!(execute(serving.db(), "UPDATE payment_record SET status = 4".to_owned()).await, 1, "{kind:?}");
        let named = format!("payment {}: REFUNDED, but", payment["paymentId"].as_str().unwrap());
        let found = violations(&serving).await;
        assert!(found.iter().any(|one| one.evidence.contains(&named)), "{kind:?}: {found:#?}");
        serving.stop().await;
    }
}
