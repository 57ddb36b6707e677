//! Refunds whose request stayed without an answer: their money is promised until the channel says what became of it.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use ruyi::audit::RoleDbs;
use ruyi::audit::repair::{Plan, Repair};
use serde_json::{Value, json};

use crate::support::operators::Operator;
use crate::support::parties::{Act, LOST, Party, body, is_consistent, money_comes, shop_with, signed, violations};
use crate::support::role_books::{STRICT, execute};
use crate::support::serving::Serving;
use crate::support::waiting::eventually;

/// The channel's own no.
const NO: &str = r#"{"refused": true, "reason": "the card is closed"}"#;

pub(super) async fn ask(serving: &Serving, id: &str, amount: f64) -> (StatusCode, Value) {
    let request = serving.request(Method::POST, &format!("/orders/{id}/refund")).json(&json!({ "amount": amount }));
    let (status, _, answer) = serving.reply(request).await;
    (status, answer)
}

/// Waits until the first refund of the payment stands so.
pub(super) async fn until(serving: &Serving, id: &str, status: &str) -> Value {
    let look = async {
        loop {
            let found = serving.get(&format!("/payments/{id}")).await["refunds"][0].clone();
            if found["status"] == status {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), look).await.unwrap_or_else(|_| panic!("never {status}"))
}

/// Has the audit repair the refund that is in doubt.
pub(super) async fn sent_again_by_repair(serving: &Serving) {
    let dbs = RoleDbs::one(serving.db());
    let mut repair = Repair::new(&dbs, &STRICT);
    let found = violations(serving).await;
    let doubt = found.iter().find(|one| one.evidence.contains("in doubt")).unwrap();
    let planned = repair.plan(doubt).await.unwrap();
    let Plan::Mend(action) = planned else { panic!("{planned:?}") };
    repair.apply(&action).await.unwrap();
}

/// What the bank gave back, minor units: each number once.
pub(super) fn given_back(bank: &Party) -> Vec<Value> {
    bank.done().iter().map(|seen| body(seen)["amount"].clone()).collect()
}

/// The bank pays, its answer is lost, and whatever it says to the repetition is no end of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_after_silence_leaves_money_in_doubt() {
    let nos =
        [(302, ""), (303, ""), (409, "{}"), (401, ""), (403, ""), (404, "not here"), (409, NO), (422, NO), (200, NO)];
    for no in nos {
        let bank = Party::start("/refund", vec![vec![Act::Cut]], Act::Say(no.0, no.1)).await;
        let few = r#"delivery.schedule=["10ms","10ms","10ms"]"#;
        let serving = shop_with(&bank, &[few, r#"delivery.kinds.refund_query.schedule=["10ms"]"#]).await;
        let id = signed(&serving).await;
        assert_eq!(ask(&serving, &id, 30.0).await.0, StatusCode::ACCEPTED);
        until(&serving, &id, "IN_DOUBT").await;

        // It stays promised: no more than the rest can go back.
        assert_eq!(ask(&serving, &id, 30.0).await.0, StatusCode::CONFLICT, "{no:?}");
        let found = violations(&serving).await;
        assert!(found.iter().any(|one| one.evidence.contains("in doubt")), "{no:?}: {found:#?}");
        assert_eq!(given_back(&bank), [json!(30)], "{no:?}");
        serving.stop().await;
    }
}

/// The bank pays, a proxy in front of it says something else, and the bank will not pay the same refund once more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_hide_a_yes_leaves_money_in_doubt() {
    for first in [(302, ""), (303, ""), (400, "{}"), (403, "no"), (404, "not here"), (405, ""), (409, "{}"), (502, "")]
    {
        let bank = Party::start("/refund", vec![vec![Act::Masked(first.0, first.1)]], Act::Say(409, NO)).await;
        let serving = shop_with(&bank, &[r#"delivery.kinds.refund_query.schedule=["10ms"]"#]).await;
        let id = signed(&serving).await;
        assert_eq!(ask(&serving, &id, 30.0).await.0, StatusCode::ACCEPTED);
        until(&serving, &id, "IN_DOUBT").await;

        // Nobody may ask for it under another number.
        assert_eq!(ask(&serving, &id, 30.0).await.0, StatusCode::CONFLICT, "{first:?}");
        assert_eq!(given_back(&bank), [json!(30)], "{first:?}");
        serving.stop().await;
    }
}

/// The bank says no, and its words are lost behind a head that says 200: nobody may take that for a yes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_without_its_body_gives_nothing_back() {
    for lost in LOST {
        let bank = Party::start("/refund", vec![vec![lost]], Act::Say(422, NO)).await;
        let serving = shop_with(&bank, &[r#"delivery.kinds.refund_query.schedule=["10ms"]"#]).await;
        let id = signed(&serving).await;
        assert_eq!(ask(&serving, &id, 30.0).await.0, StatusCode::ACCEPTED);
        until(&serving, &id, "IN_DOUBT").await;
        assert!(given_back(&bank).is_empty(), "{lost:?}");
        serving.stop().await;
    }
}

/// The bank pays, its answer is lost, and the process that is to ask again knows no such channel any more: that nothing
/// can be sent says nothing of what was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_is_gone_leaves_money_in_doubt() {
    let dir = tempfile::tempdir().unwrap();
    let data = format!("data_dir={}", dir.path().display());
    let bank = Party::start("/refund", vec![vec![Act::Cut]], Act::Say(409, NO)).await;
    let serving = shop_with(&bank, &[&data, r#"delivery.schedule=["1h"]"#]).await;
    let id = signed(&serving).await;
    assert_eq!(ask(&serving, &id, 30.0).await.0, StatusCode::ACCEPTED);
    let tried = "SELECT COUNT(*) FROM delivery WHERE kind = 2 AND attempts = 1 AND status = 0";
    eventually("its answer is lost", async || serving.number(tried).await == 1).await;
    serving.stop().await;

    let serving = Serving::start(&[&data, r#"delivery.kinds.refund_query.schedule=["10ms"]"#]).await;
    let due = "UPDATE delivery SET next_at = 0 WHERE kind = 2";
    assert_eq!(execute(serving.db(), due.to_owned()).await, 1);
    let refund = until(&serving, &id, "IN_DOUBT").await;
    assert!(refund["error"].as_str().unwrap().contains("there is no channel \"bank\""), "{refund}");
    assert_eq!(ask(&serving, &id, 30.0).await.0, StatusCode::CONFLICT);
    assert_eq!(given_back(&bank), [json!(30)]);
    serving.stop().await;
}

/// A repair asks for the same refund once more: the channel knows it by its number, and pays once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_sends_what_is_in_doubt_again() {
    let bank = Party::start("/refund", vec![vec![Act::Cut, Act::Say(409, NO)]], Act::Do).await;
    let serving = shop_with(&bank, &[r#"delivery.kinds.refund_query.schedule=["10ms"]"#]).await;
    let id = signed(&serving).await;
    assert_eq!(ask(&serving, &id, 30.0).await.0, StatusCode::ACCEPTED);
    until(&serving, &id, "IN_DOUBT").await;

    sent_again_by_repair(&serving).await;
    until(&serving, &id, "SUCCESS").await;
    is_consistent(&serving).await;
    assert_eq!(given_back(&bank), [json!(30)]);
    serving.stop().await;
}

/// The channel is asked by the number of the refund, and its word ends the doubt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_channel_ends_the_doubt() {
    for (word, ends) in [("SUCCESS", "SUCCESS"), ("CLOSED", "FAILED")] {
        let bank = Party::start("/refund", vec![vec![Act::Cut, Act::Say(422, NO)]], Act::Do).await;
        bank.says_of_refunds(word);
        let serving = shop_with(&bank, &[]).await;
        let id = signed(&serving).await;
        assert_eq!(ask(&serving, &id, 30.0).await.0, StatusCode::ACCEPTED);
        until(&serving, &id, ends).await;
        serving.settled().await;

        let again = ask(&serving, &id, 30.0).await.0;
        let wanted = if ends == "FAILED" { StatusCode::ACCEPTED } else { StatusCode::CONFLICT };
        assert_eq!(again, wanted, "{word}");
        is_consistent(&serving).await;
        serving.stop().await;
    }
}

/// The channel says nothing that counts until the schedule is at its end, and gives its word later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doubt_is_asked_about_beyond_the_schedule() {
    let bank = Party::start("/refund", vec![vec![Act::Cut, Act::Say(422, NO)]], Act::Do).await;
    let serving = shop_with(&bank, &[r#"delivery.kinds.refund_query.schedule=["10ms"]"#]).await;
    let id = signed(&serving).await;
    assert_eq!(ask(&serving, &id, 30.0).await.0, StatusCode::ACCEPTED);
    until(&serving, &id, "IN_DOUBT").await;
    let asked_on = "SELECT COUNT(*) FROM delivery WHERE kind = 11 AND status = 0 AND next_at - updated_at = 43200000";
    eventually("it is asked on later", async || serving.number(asked_on).await == 1).await;

    bank.says_of_refunds("SUCCESS");
    let due = "UPDATE delivery SET next_at = 0 WHERE kind = 11 AND status = 0";
    assert_eq!(execute(serving.db(), due.to_owned()).await, 1);
    until(&serving, &id, "SUCCESS").await;
    is_consistent(&serving).await;
    assert_eq!(given_back(&bank), [json!(30)]);
    serving.stop().await;
}

/// Where each request before it has proved that it was not carried out, the channel's own no is the end, and the money is
/// free again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_refusal_frees_the_money() {
    let bank = Party::start("/refund", vec![vec![Act::NotNow, Act::Say(401, ""), Act::Say(422, NO)]], Act::Do).await;
    let serving = shop_with(&bank, &["delivery.timeout=10s"]).await;
    let id = signed(&serving).await;
    assert_eq!(ask(&serving, &id, 59.8).await.0, StatusCode::ACCEPTED);
    until(&serving, &id, "FAILED").await;
    serving.settled().await;
    assert_eq!(ask(&serving, &id, 59.8).await.0, StatusCode::ACCEPTED);
    is_consistent(&serving).await;
    assert_eq!(given_back(&bank), [json!(59.8)]);
    serving.stop().await;
}

/// The same for the refunds of a merchant's own payment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_of_the_gateway_in_doubt_stays_promised() {
    let bank = Party::start("/refund", vec![vec![Act::Cut, Act::Say(409, NO)]], Act::Do).await;
    let asked = format!("delivery.kinds.refund_query.schedule=[{}]", [r#""50ms""#; 100].join(","));
    let serving = shop_with(&bank, &[&asked]).await;
    let accepts = json!([{ "productId": "h5", "channelId": "bank" }]);
    serving.fine(Method::PUT, "/merchants/9", &json!({ "name": "M", "accepts": accepts })).await;
    serving.settled().await;
    let wish =
        json!({ "merchantId": "9", "outOrderNo": "M-1", "amount": 59.8, "productId": "h5", "channelId": "bank" });
    let payment = serving.fine(Method::POST, "/payments", &wish).await;
    assert_eq!(money_comes(&serving, &payment).await, StatusCode::OK);

    let path = "/merchants/9/payments/M-1";
    let refund = async |key: &str| {
        let request = serving.request(Method::POST, &format!("{path}/refund")).header("idempotency-key", key);
        let (status, _, answer) = serving.reply(request.json(&json!({ "amount": 30 }))).await;
        (status, answer)
    };
    assert_eq!(refund("r1").await.0, StatusCode::ACCEPTED);
    let standing = async || serving.get(path).await["refunds"][0]["status"].clone();
    eventually("it is in doubt", async || standing().await == "IN_DOUBT").await;
    assert_eq!(refund("r2").await.0, StatusCode::CONFLICT);
    assert_eq!(refund("r1").await.1["refunds"].as_array().unwrap().len(), 1);
    bank.says_of_refunds("SUCCESS");
    eventually("it is back", async || standing().await == "SUCCESS").await;
    is_consistent(&serving).await;
    serving.stop().await;
}

/// Somebody has looked at the books of a channel that does not say: that ends the doubt, once, and the call is not made
/// any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doubt_is_ended_by_hand() {
    for (word, ends) in [("--paid", "SUCCESS"), ("--not-paid", "FAILED")] {
        let bank = Party::start("/refund", vec![vec![Act::Cut, Act::Say(409, NO)]], Act::Do).await;
        let serving = shop_with(&bank, &[r#"delivery.kinds.refund_query.schedule=["10ms"]"#]).await;
        let id = signed(&serving).await;
        assert_eq!(ask(&serving, &id, 30.0).await.0, StatusCode::ACCEPTED);
        let refund = until(&serving, &id, "IN_DOUBT").await["refundId"].as_str().unwrap().to_owned();
        let operator = Operator::with(&[&format!("database.url={}", serving.database_url)]);
        let settle = ["payment", "settle", &refund, word];
        let now = [&settle[..], &["--reason", "in the books", "--yes"]].concat();
        operator.refuses(&[&settle[..], &["--yes"]].concat(), 2).await;
        operator.refuses(&["payment", "settle", &refund, "--yes", "--reason", "r"], 2).await;
        let planned = operator.items(&[&settle[..], &["--dry-run"]].concat()).await;
        assert_eq!((&planned[0]["status"], &planned[0]["done"]), (&json!("IN_DOUBT"), &json!(false)));
        until(&serving, &id, "IN_DOUBT").await;

        let ended = operator.items(&now).await;
        assert_eq!((&ended[0]["status"], &ended[0]["done"]), (&json!(ends), &json!(true)));
        until(&serving, &id, ends).await;
        let (code, _, stderr) = operator.items_and_code(&now).await;
        assert!(code == 1 && stderr.contains(&format!("it is {ends}: nothing is in doubt")), "{stderr}");
        let call = operator.items(&["delivery", "list", "--kind", "channel_refund"]).await[0].clone();
        let (code, _, stderr) =
            operator.items_and_code(&["delivery", "resend", call["id"].as_str().unwrap(), "--yes"]).await;
        assert_eq!((&call["state"], code), (&json!("refused"), 1), "{stderr}");

        // What did not go back may be asked for anew, as soon as the order has heard of it.
        serving.settled().await;
        let again = if ends == "FAILED" { StatusCode::ACCEPTED } else { StatusCode::CONFLICT };
        assert_eq!(ask(&serving, &id, 30.0).await.0, again);
        serving.settled().await;
        is_consistent(&serving).await;
        let journal = std::fs::read_to_string(operator.data_dir().join("journal.jsonl")).unwrap();
        assert_eq!(journal.matches("in the books").count(), 1, "{journal}");
        serving.stop().await;
    }
}
