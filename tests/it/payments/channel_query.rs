//! Channels whose callback stays away are asked: what they may answer, and what comes of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use reqwest::Method;
use ruyi::clock::Clock;
use ruyi::config::{Config, Sources};
use ruyi::db::delivery::{GIVEN_UP, Kind};
use ruyi::db::payments::{self, PaymentRow};
use ruyi::db::sql;
use ruyi::delivery::{EngineConfig, no_effects, sign};
use ruyi::domain::money::Money;
use ruyi::domain::payment::{PaymentState, Status};
use ruyi::progress::Progress;
use ruyi::roles::payment::channels::Channels;
use ruyi::roles::payment::unasked::Unasked;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::support::outbound::{OutboundCalls, OutboundServer, START_MS as WORLD_MS};
use crate::support::servers::{START_MS, mariadb_url, write_tx};
use crate::support::serving::Serving;
use crate::support::shop::{Setup, Shop};
use crate::support::waiting::eventually;

const SOON_MS: i64 = 60_000;
/// Longer than a day.
const WEEKEND_MS: i64 = 60 * 3_600_000;
const SECRET: &str = "a secret of the bank";

/// What one question is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Say {
    Paid,
    Pending,
    Unknown,
    Closed,
    Broken,
    NotFound,
    /// Says paid, and has not signed it.
    Unsigned,
    /// Signed with another secret.
    Forged,
    /// Signed long ago.
    Old,
    /// About another payment.
    Other,
    /// Less than the payment asks for.
    TooLittle,
    /// No JSON, though signed.
    Nonsense,
    /// Breaks off in the middle of the answer.
    Torn,
    /// Later than anybody waits.
    Late,
}

/// A bank that takes payments, never calls back by itself, and answers questions as it was told to.
#[derive(Clone)]
pub(super) struct Bank {
    answers: Arc<Mutex<VecDeque<Say>>>,
    /// What it says when there are no more.
    last: Say,
    pub(super) submitted: Arc<Mutex<Vec<Value>>>,
    asked: Arc<Mutex<Vec<Value>>>,
}

impl Bank {
    pub(super) async fn open(answers: &[Say], last: Say) -> (Self, String) {
        let (submitted, asked) = (Arc::default(), Arc::default());
        let bank = Self { answers: Arc::new(Mutex::new(answers.iter().copied().collect())), last, submitted, asked };
        let pay = |State(bank): State<Self>, body: Bytes| async move {
            bank.submitted.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
        };
        let app = axum::Router::new()
            .route("/pay", post(pay))
            .route("/query", post(answer))
            .route("/refund", post(|| async {}));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = app.with_state(bank.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (bank, url)
    }

    pub(super) fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    pub(super) async fn until_asked(&self, times: usize) {
        let look = async {
            while self.asked() < times {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), look).await.unwrap_or_else(|_| panic!("asked {}", self.asked()));
    }
}

/// What the bank would call back with.
fn payment(submitted: &Value) -> Value {
    json!({
        "paymentId": submitted["paymentId"], "transactionNo": format!("B{}", submitted["paymentId"]),
        "amount": submitted["amount"], "currency": "CNY", "merchantId": submitted["merchantId"],
        "payTime": 1_700_000_000_000_i64,
    })
}

async fn answer(State(bank): State<Bank>, body: Bytes) -> Response {
    let question: Value = serde_json::from_slice(&body).unwrap();
    bank.asked.lock().unwrap().push(question.clone());
    let say = bank.answers.lock().unwrap().pop_front().unwrap_or(bank.last);
    let submitted = bank.submitted.lock().unwrap().clone();
    let known = submitted.iter().find(|one| one["paymentId"] == question["paymentId"]).cloned().unwrap_or_default();
    let mut found = payment(&known);
    found["status"] = match say {
        Say::Pending => "PENDING",
        Say::Unknown => "UNKNOWN",
        Say::Closed => "CLOSED",
        _ => "SUCCESS",
    }
    .into();
    match say {
        Say::Broken => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Say::NotFound => return StatusCode::NOT_FOUND.into_response(),
        Say::Other => found["paymentId"] = "1".into(),
        Say::TooLittle => found["amount"] = json!(0.01),
        Say::Late => tokio::time::sleep(Duration::from_secs(3)).await,
        _ => {}
    }
    let text = if say == Say::Nonsense { "paid!".to_owned() } else { found.to_string() };
    if say == Say::Unsigned {
        return text.into_response();
    }
    let now_s = Clock::system().now_ms() / 1_000;
    let at_s = if say == Say::Old { now_s - 3_600 } else { now_s };
    let secret = SecretString::from(if say == Say::Forged { "another" } else { SECRET });
    let signature = sign::sign(&secret, at_s, text.as_bytes());
    let response = Response::builder()
        .header(sign::TIMESTAMP_HEADER, at_s)
        .header(sign::SIGNATURE_HEADER, signature)
        .header("content-type", "application/json");
    if say == Say::Torn {
        let parts = [Ok(text[..9].to_owned()), Err(std::io::Error::other("cable cut"))];
        return response.body(axum::body::Body::from_stream(futures_util::stream::iter(parts))).unwrap();
    }
    response.body(text.into()).unwrap()
}

pub(super) async fn shop_with(url: &str, more: &[&str]) -> Serving {
    let channel = format!(r#"payment.channels.bank={{kind="http",secret="{SECRET}",endpoint="{url}"}}"#);
    let mut settings = vec![
        channel.as_str(),
        "payment.query_after=1s",
        r#"delivery.kinds.channel_query.schedule=["10ms","10ms","10ms","10ms","10ms","10ms","10ms","10ms","10ms"]"#,
        "delivery.timeout=1s",
        // Nine answers in a row that are of no use are what is tested.
        "delivery.breaker.failures=0",
    ];
    settings.extend(more);
    let serving = Serving::start(&settings).await;
    serving.fill().await;
    serving
}

/// An order of one A1 that its payer has paid at the bank; its id.
pub(super) async fn submitted(serving: &Serving) -> String {
    let order = json!({"userId": "7", "channelId": "bank", "items": [{"sku": "A1", "quantity": 1}]});
    let id = serving.place(&order).await;
    serving.until(&format!("/payments/{id}"), "status", "PENDING").await;
    serving.fine(Method::POST, &format!("/payments/{id}/pay"), &json!({})).await;
    id
}

/// The payment M-1 of merchant 9, of his own.
pub(super) async fn merchant_pays(serving: &Serving) {
    let accepts = json!([{ "productId": "h5", "channelId": "bank" }]);
    serving.fine(Method::PUT, "/merchants/9", &json!({ "name": "M", "accepts": accepts })).await;
    serving.settled().await;
    let wish =
        json!({ "merchantId": "9", "outOrderNo": "M-1", "amount": 59.8, "productId": "h5", "channelId": "bank" });
    serving.fine(Method::POST, "/payments", &wish).await;
}

/// Waits until the bank has taken the one submission.
async fn until_taken(serving: &Serving) {
    let submitted = "SELECT COUNT(*) FROM delivery WHERE kind = 1 AND status = 1";
    eventually("it is submitted", async || serving.number(submitted).await == 1).await;
}

async fn call_back(serving: &Serving, bank: &Bank) -> StatusCode {
    let body = payment(&bank.submitted.lock().unwrap()[0]).to_string();
    let call = serving.signed("/payments/callback/bank", SECRET, serving.now_s(), &body);
    serving.reply(call.header("content-type", "application/json")).await.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_is_found_once_whatever_precedes_the_answer() {
    let before = [
        Say::Late,
        Say::Broken,
        Say::Torn,
        Say::Unsigned,
        Say::Forged,
        Say::Old,
        Say::Nonsense,
        Say::Unknown,
        Say::Pending,
    ];
    let (bank, url) = Bank::open(&before, Say::Paid).await;
    let serving = shop_with(&url, &[]).await;
    let id = submitted(&serving).await;
    let paid = serving.until(&format!("/orders/{id}"), "status", "SIGNED").await;
    assert_eq!(paid["outcome"], "SIGNED");
    assert_eq!(bank.asked(), before.len() + 1);
    // The bank's own word comes after all, twice.
    for _ in 0..2 {
        assert_eq!(call_back(&serving, &bank).await, StatusCode::OK);
    }
    serving.settled().await;
    for (topic, wanted) in [
        ("SELECT COUNT(*) FROM message_record WHERE topic = 'PAYMENT_SUCCESS'", 1),
        ("SELECT COUNT(*) FROM refund_record", 0),
        ("SELECT COUNT(*) FROM delivery WHERE kind = 10 AND status = 1", 1),
    ] {
        assert_eq!(serving.number(topic).await, wanted, "{topic}");
    }
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_called_back_meanwhile_is_not_asked() {
    let (bank, url) = Bank::open(&[], Say::Pending).await;
    let slow = r#"delivery.kinds.channel_query.schedule=["500ms","500ms"]"#;
    let serving = shop_with(&url, &[slow]).await;
    let id = submitted(&serving).await;
    bank.until_asked(1).await;
    assert_eq!(call_back(&serving, &bank).await, StatusCode::OK);
    serving.until(&format!("/orders/{id}"), "status", "SIGNED").await;
    serving.settled().await;
    assert_eq!(bank.asked(), 1);
    // Not asked the second time: there was nothing left to ask.
    assert_eq!(serving.number("SELECT COUNT(*) FROM delivery WHERE kind = 10 AND status = 5").await, 1);
    serving.stop().await;
}

/// A merchant's own payment has no order: its channel is asked all the same, and what it took is told and counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_of_the_gateway_is_found() {
    let (bank, url) = Bank::open(&[Say::Unknown], Say::Paid).await;
    let serving = shop_with(&url, &[]).await;
    merchant_pays(&serving).await;
    let paid = serving.until("/merchants/9/payments/M-1", "status", "SUCCESS").await;
    assert_eq!((&paid["amount"], bank.asked()), (&json!(59.8), 2), "{paid}");
    serving.settled().await;
    assert_eq!(serving.number("SELECT COUNT(*) FROM delivery WHERE kind = 10 AND status = 1").await, 1);
    serving.stop().await;
}

/// One that the version before submitted, without a question: the process that starts makes up for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_submission_of_the_gateway_is_made_up_for() {
    let dir = tempfile::tempdir().unwrap();
    let data = format!("data_dir={}", dir.path().display());
    let (bank, url) = Bank::open(&[], Say::Paid).await;
    let serving = shop_with(&url, &[&data, "payment.query_after=1h"]).await;
    merchant_pays(&serving).await;
    until_taken(&serving).await;
    let forget = "DELETE FROM delivery WHERE kind = 10";
    assert_eq!(write_tx!(serving.db(), [], |tx| { sql::execute(tx, forget, vec![]).await }).unwrap(), 1);
    serving.stop().await;

    let serving = shop_with(&url, &[&data]).await;
    let paid = serving.until("/merchants/9/payments/M-1", "status", "SUCCESS").await;
    assert_eq!((&paid["amount"], bank.asked()), (&json!(59.8), 1), "{paid}");
    serving.stop().await;
}

/// Answers that find no money: how often the bank is asked, how the call ends, and what people are told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_without_money() {
    let schedule = r#"delivery.kinds.channel_query.schedule=["10ms","10ms"]"#;
    for (say, times, status, alerts) in [
        // Nobody has paid yet: the channel is asked on, half a day later.
        (Say::Pending, 3, 0, 0),
        (Say::Unknown, 3, 0, 0),
        // Nobody will pay: that is an answer.
        (Say::Closed, 1, 1, 0),
        // Nobody knows: people are told, and the channel is asked on as well.
        (Say::Broken, 3, 0, 1),
        (Say::Forged, 3, 0, 1),
        // It cannot be asked: somebody has to find out.
        (Say::NotFound, 1, 3, 1),
        // Money that fits nothing.
        (Say::TooLittle, 1, 1, 1),
        (Say::Other, 1, 1, 1),
    ] {
        let (bank, url) = Bank::open(&[], say).await;
        let (hook, at) = Bank::open(&[], Say::Paid).await;
        let webhook = format!("alerts.webhook={at}/pay");
        let serving = shop_with(&url, &[schedule, &webhook]).await;
        let id = submitted(&serving).await;
        bank.until_asked(times).await;
        serving.settled().await;
        assert_eq!(bank.asked(), times, "{say:?}");
        let ended = serving.number("SELECT MIN(status) FROM delivery WHERE kind = 10").await;
        assert_eq!(ended, status, "{say:?}");
        let told = hook.submitted.lock().unwrap().clone();
        assert_eq!(told.len(), alerts, "{say:?}: {told:?}");
        assert!(told.iter().all(|one| one["kind"] == "channel_query"), "{told:?}");
        assert_eq!(serving.get(&format!("/payments/{id}")).await["status"], "PENDING", "{say:?}");
        serving.stop().await;
    }
}

/// The payer pays at the channel, which says so too late or not at all; the order was canceled meanwhile, or not.
async fn is_found(mut shop: Shop) {
    shop.sell("TEA", 2_990, 10).await;
    let paid = shop.place_order(7, &[("TEA", 2)], json!({})).await;
    let canceled = shop.place_order(7, &[("TEA", 1)], json!({})).await;
    let unpaid = shop.place_order(7, &[("TEA", 1)], json!({})).await;
    shop.settle_within(SOON_MS).await;
    for order in [&paid, &canceled] {
        shop.pay(order, json!({ "silent": true })).await;
    }
    // Too early, and the payer asks once more.
    shop.settle_within(SOON_MS / 2).await;
    shop.pay(&paid, json!({})).await;
    shop.settle_within(SOON_MS / 4).await;
    assert_eq!((shop.status(&paid).await, shop.status(&canceled).await), ("RESERVED".into(), "RESERVED".into()));
    assert_eq!(shop.count("SELECT COUNT(*) FROM delivery WHERE kind = 10 AND attempts = 0").await, 2);
    shop.cancel(&canceled).await;
    shop.settle_within(SOON_MS).await;
    shop.settle().await;
    for (order, outcome) in [(&paid, "SIGNED"), (&canceled, "REFUNDED"), (&unpaid, "CANCELED")] {
        assert_eq!(shop.outcome(order).await, outcome);
    }
    assert_eq!(shop.refunds(&canceled).await.len(), 1);
    assert_eq!(shop.refunds(&paid).await.len(), 0);
    assert_eq!(shop.count("SELECT COUNT(*) FROM delivery WHERE kind = 10").await, 2);
    // The channel calls back in the end.
    let late = "UPDATE delivery SET next_at = 0 WHERE kind = 4 AND status = 0";
    write_tx!(shop.db, [], |tx| { sql::execute(tx, late, vec![]).await }).unwrap();
    shop.settle().await;
    assert_eq!((shop.refunds(&canceled).await.len(), shop.refunds(&paid).await.len()), (1, 0));
    shop.audit().await;
}

#[tokio::test]
async fn money_is_found() {
    is_found(Shop::open().await).await;
}

#[tokio::test]
async fn money_is_found_though_all_comes_twice_in_reverse() {
    let mut shop = Shop::open().await;
    (shop.manner.times, shop.manner.reversed) = (2, true);
    is_found(shop).await;
}

#[tokio::test]
async fn money_is_found_though_success_leaves_as_a_transaction() {
    let change = |config: &mut Config| config.payment.publish = ruyi::config::PublishVia::Transaction;
    is_found(Shop::with(Setup { change, ..Setup::default() }, 1).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_is_found_on_mariadb() {
    let Some(url) = mariadb_url().await else { return };
    is_found(Shop::with(Setup { url: Some(url), ..Setup::default() }, 1).await).await;
}

/// A submission that waits for its first attempt is waited for; one that was given up untried is not.
#[tokio::test]
async fn a_question_follows_the_submission() {
    let (calls, server) = (OutboundCalls::new().await, OutboundServer::start().await);
    let payment = PaymentRow {
        id: 9,
        order_id: 7,
        order_no: "N7".into(),
        user_id: 7,
        state: PaymentState {
            status: Status::Pending,
            amount: Money::from_minor(500).unwrap(),
            currency: "CNY".into(),
            merchant_id: 1,
            transaction_no: None,
        },
        channel_id: "sandbox".into(),
        expire_time: 0,
        payment_method: None,
        pay_time: None,
        trace: None,
    };
    write_tx!(calls.db, [payment], |tx| { payments::insert(tx, &[payment]).await }).unwrap();
    calls.insert(Kind::ChannelSubmit, "9", &server.url("/pay"), "{}").await;
    calls.insert(Kind::ChannelQuery, "9", &server.url("/query"), "{}").await;
    let asks = |config: &mut EngineConfig| config.kinds = vec![Kind::ChannelQuery];
    let mut engine = calls.engine_with(no_effects(), asks);
    engine.drain().await.unwrap();
    let waits = calls.state(Kind::ChannelQuery, "9").await;
    assert_eq!((server.seen().len(), waits.attempts, waits.next_at), (0, 0, Some(WORLD_MS + 1_000)));
    // One that waits for its endpoint may be released long before its time.
    let parked = format!("UPDATE delivery SET next_at = {WORLD_MS} + 86400000 WHERE kind = 1");
    write_tx!(calls.db, [parked], |tx| { sql::execute(tx, parked, vec![]).await }).unwrap();
    calls.clock.advance_ms(1_000);
    engine.drain().await.unwrap();
    let waits = calls.state(Kind::ChannelQuery, "9").await;
    assert_eq!((server.seen().len(), waits.attempts, waits.next_at), (0, 0, Some(WORLD_MS + 302_000)));
    let given_up = format!("UPDATE delivery SET status = 2, next_at = {GIVEN_UP} WHERE kind = 1");
    write_tx!(calls.db, [given_up], |tx| { sql::execute(tx, given_up, vec![]).await }).unwrap();
    calls.clock.advance_ms(301_000);
    engine.drain().await.unwrap();
    assert_eq!((server.only().path, calls.state(Kind::ChannelQuery, "9").await.attempts), ("/query".to_owned(), 1));
}

/// Most payers' money comes at once: what would have been asked is taken back with it.
#[tokio::test]
async fn money_that_comes_at_once_leaves_no_question() {
    let mut shop = Shop::open().await;
    shop.sell("TEA", 2_990, 10).await;
    let order = shop.place_order(7, &[("TEA", 2)], json!({})).await;
    shop.settle_within(1_000).await;
    shop.pay(&order, json!({ "delayMs": 5_000 })).await;
    shop.settle_within(4_000).await;
    assert_eq!(shop.count("SELECT COUNT(*) FROM delivery WHERE kind = 10 AND status = 0").await, 1);
    shop.settle_within(6_000).await;
    assert_eq!(shop.count("SELECT COUNT(*) FROM delivery WHERE kind = 10").await, 0);
    // Whoever pays once more asks nothing either.
    shop.pay(&order, json!({})).await;
    shop.settle().await;
    assert_eq!(shop.outcome(&order).await, "SIGNED");
    assert_eq!(shop.count("SELECT COUNT(*) FROM delivery WHERE kind = 10").await, 0);
}

/// The version before recorded no question with a submission: a process that starts makes up for it, however many do.
async fn is_made_up_for(mut shop: Shop) {
    shop.sell("TEA", 2_990, 10).await;
    let mut orders = Vec::new();
    for _ in 0..4 {
        orders.push(shop.place_order(7, &[("TEA", 1)], json!({ "payWithinSeconds": 7 * 86_400 })).await);
    }
    shop.settle_within(1_000).await;
    let [old, paid, young, unpaid] = &orders[..] else { panic!() };
    let forget = async |shop: &Shop| {
        let text = "DELETE FROM delivery WHERE kind = 10";
        write_tx!(shop.db, [], |tx| { sql::execute(tx, text, vec![]).await }).unwrap();
    };
    shop.pay(old, json!({ "silent": true })).await;
    shop.settle_within(1_000).await;
    forget(&shop).await;
    shop.clock.advance_ms(WEEKEND_MS);
    shop.pay(paid, json!({})).await;
    shop.pay(young, json!({ "silent": true })).await;
    shop.settle_within(1_000).await;
    forget(&shop).await;

    for _ in 0..2 {
        let mut unasked = Unasked::new(shop.db.clone(), Channels::of(&Config::load(&Sources::default()).unwrap()));
        while unasked.step().await.unwrap() != Progress::Idle {}
        assert_eq!(shop.count("SELECT COUNT(*) FROM delivery WHERE kind = 10 AND attempts = 0").await, 2);
    }
    shop.settle().await;
    for (order, outcome) in [(old, "SIGNED"), (paid, "SIGNED"), (young, "SIGNED"), (unpaid, "CANCELED")] {
        assert_eq!(shop.outcome(order).await, outcome);
    }
    shop.audit().await;
}

#[tokio::test]
async fn submissions_of_before_are_asked_about() {
    is_made_up_for(Shop::open().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn submissions_of_before_are_asked_about_on_mariadb() {
    let Some(url) = mariadb_url().await else { return };
    is_made_up_for(Shop::with(Setup { url: Some(url), ..Setup::default() }, 1).await).await;
}

/// One payment that cannot be read holds up no other: people are told of it, and once it is mended it is asked about.
#[tokio::test]
async fn an_unreadable_payment_holds_up_no_question() {
    let mut shop = Shop::open().await;
    shop.db.alert_by("http://127.0.0.1:1/");
    shop.sell("TEA", 2_990, 10).await;
    let week = json!({ "payWithinSeconds": 7 * 86_400 });
    let broken = shop.place_order(7, &[("TEA", 1)], week.clone()).await;
    let sound = shop.place_order(7, &[("TEA", 1)], week).await;
    shop.settle_within(1_000).await;
    for order in [&broken, &sound] {
        shop.pay(order, json!({ "silent": true })).await;
    }
    shop.settle_within(1_000).await;
    let change = async |shop: &Shop, text: String| {
        write_tx!(shop.db, [text], |tx| { sql::execute(tx, text, vec![]).await }).unwrap();
    };
    change(&shop, "DELETE FROM delivery WHERE kind = 10".to_owned()).await;
    change(&shop, format!("UPDATE payment_record SET amount = -1 WHERE order_id = {broken}")).await;
    let look = async |shop: &Shop| {
        let mut unasked = Unasked::new(shop.db.clone(), Channels::of(&Config::load(&Sources::default()).unwrap()));
        while unasked.step().await.unwrap() != Progress::Idle {}
        let told = "SELECT COUNT(*) FROM delivery WHERE kind = 6 AND body LIKE '%SET_ASIDE%payment_record%'";
        (shop.count("SELECT COUNT(*) FROM delivery WHERE kind = 10").await, shop.count(told).await)
    };
    assert_eq!(look(&shop).await, (1, 1));
    change(&shop, format!("UPDATE payment_record SET amount = 2990 WHERE order_id = {broken}")).await;
    assert_eq!(look(&shop).await, (2, 1));
    shop.settle().await;
    for order in [&broken, &sound] {
        assert_eq!(shop.outcome(order).await, "SIGNED");
    }
}

/// The payer pays in the minute before a weekend in which no process of the role runs: the bank is asked all the same.
#[tokio::test]
async fn a_submission_before_a_long_stop_is_asked_about() {
    let dir = tempfile::tempdir().unwrap();
    let url = || Some(format!("sqlite://{}", dir.path().join("shop.db").display()));
    let mut shop = Shop::with(Setup { url: url(), ..Setup::default() }, 1).await;
    shop.sell("TEA", 2_990, 10).await;
    let in_time = shop.place_order(7, &[("TEA", 2)], json!({ "payWithinSeconds": 7 * 86_400 })).await;
    let too_late = shop.place_order(7, &[("TEA", 1)], json!({})).await;
    shop.settle_within(1_000).await;
    for order in [&in_time, &too_late] {
        shop.pay(order, json!({ "silent": true })).await;
    }
    shop.settle_within(1_000).await;
    drop(shop);

    let clock = Clock::manual(WEEKEND_MS + START_MS);
    let mut shop = Shop::with(Setup { url: url(), clock: Some(clock), ..Setup::default() }, 1).await;
    shop.settle().await;
    assert_eq!((shop.outcome(&in_time).await, shop.outcome(&too_late).await), ("SIGNED".into(), "REFUNDED".into()));
    shop.audit().await;
}

/// A channel that is no longer configured cannot be asked about what was submitted to it before: people are told, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_is_gone_is_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let data = format!("data_dir={}", dir.path().display());
    let (bank, url) = Bank::open(&[], Say::Paid).await;
    let serving = shop_with(&url, &[&data, "payment.query_after=1h"]).await;
    let id = submitted(&serving).await;
    until_taken(&serving).await;
    serving.stop().await;

    let (hook, at) = Bank::open(&[], Say::Paid).await;
    let webhook = format!("alerts.webhook={at}/pay");
    let serving = Serving::start(&[&data, &webhook, "payment.query_after=1s"]).await;
    let due = "UPDATE delivery SET next_at = 0 WHERE kind = 10";
    write_tx!(serving.db(), [], |tx| { sql::execute(tx, due, vec![]).await }).unwrap();
    eventually("people are told", async || !hook.submitted.lock().unwrap().is_empty()).await;
    serving.settled().await;
    let told = hook.submitted.lock().unwrap().clone();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((&told[0]["alert"], &told[0]["kind"]), (&json!("CALL_GIVEN_UP"), &json!("channel_query")));
    assert!(told[0]["errorMessage"].as_str().unwrap().contains("no channel"), "{told:?}");
    assert_eq!((bank.asked(), serving.get(&format!("/payments/{id}")).await["status"].clone()), (0, json!("PENDING")));
    // What it calls back with is not taken: nobody can say whether it is the channel.
    assert_eq!(call_back(&serving, &bank).await, StatusCode::NOT_FOUND);
    serving.stop().await;
}
