//! Roles and workers as processes of their own, with a broker in yet another one and a database for each role.

use std::sync::Arc;
use std::time::Duration;

use crate::support::shared_broker::{SharedBroker, metric, status};
use crate::support::waiting::eventually;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use ruyi::config::{Config, Sources};
use ruyi::db::sql::{self, Columns};
use ruyi::db::{Db, DbError, Tx};
use ruyi::domain::event::{Group, Kind, Role};
use ruyi::mq::message::{Incoming, QueueId};
use ruyi::mq::retry::Policy;
use ruyi::mq::{Consumer, Event, Handler, Outcome};
use ruyi::telemetry::Metrics;
use serde_json::{Value, json};

const CONSUMED: &str = "rocketmq_consumer_consume_total";

async fn count(db: &Db, text: &'static str) -> i64 {
    let mut conn = db.read().await.unwrap();
    sql::fetch_one(&mut conn, text, vec![]).await.unwrap().unwrap().int(0).unwrap()
}

/// Feeds `orders` orders of the demo's kind, and wants each to end as it should, and nothing to be wrong afterwards.
fn demo(shared: &SharedBroker, clients: &[String], orders: u32) -> Value {
    let orders = orders.to_string();
    let mut args = vec!["demo", "--external", "--orders", &orders, "--patience", "120s", "-o", "json"];
    for client in clients {
        args.extend(["--set", client]);
    }
    let done = shared.run(&args);
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{text}\n{}", String::from_utf8_lossy(&done.stderr));
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&report["unexpected"], &report["refused"]), (&json!(0), &json!(0)), "{report}");
    assert_eq!(report["audit"]["violations"], 0, "{report}");
    report
}

/// Three instances of one role share its work; one of them dies during the run, and nobody outside notices.
#[tokio::test(flavor = "multi_thread")]
async fn roles_in_processes_of_their_own() {
    let shared = Arc::new(SharedBroker::start(&[]).await);
    let mut orders = Vec::new();
    for name in ["order-1", "order-2", "order-3"] {
        orders.push(shared.listening(name, &["serve", "order"]).await);
    }
    let payment = shared.listening("payment", &["serve", "payment"]).await;
    let stock = shared.listening("stock", &["serve", "stock"]).await;
    let notify = shared.listening("notify", &["serve", "notify"]).await;
    let retry = shared.listening("worker-retry", &["worker", "retry"]).await;
    let timeout = shared.listening("worker-timeout", &["worker", "timeout"]).await;
    // A worker answers probes, and no business.
    assert_eq!(status(&format!("{}/healthz", retry.url)).await, 200);
    assert_eq!(status(&format!("{}/orders/1", timeout.url)).await, 404);

    let urls: Vec<&str> = orders.iter().map(|one| one.url.as_str()).collect();
    let clients = vec![
        format!("client.order={}", urls.join(",")),
        format!("client.payment={}", payment.url),
        format!("client.stock={}", stock.url),
        format!("client.notify={}", notify.url),
    ];
    let run = |orders: u32| {
        let (shared, clients) = (Arc::clone(&shared), clients.clone());
        tokio::task::spawn_blocking(move || demo(&shared, &clients, orders))
    };
    eventually("all three instances consume", async || {
        let report = run(100).await.unwrap();
        assert_eq!(report["orders"], 99, "one line repeats another: {report}");
        for one in &orders {
            if metric(&one.url, CONSUMED, "order-consumer-group").await == 0.0 {
                return false;
            }
        }
        true
    })
    .await;
    for one in &orders {
        assert!(metric(&one.url, "ruyi_http_requests_total", "\"/orders\"").await > 0.0, "requests are spread");
    }

    let before = metric(&orders[0].url, CONSUMED, "order-consumer-group").await;
    let running = run(100);
    eventually("the second run is under way", async || {
        metric(&orders[0].url, CONSUMED, "order-consumer-group").await > before
    })
    .await;
    orders[1].server.kill();
    running.await.unwrap();
    // Its work goes to the others, its number to nobody before its lease is over.
    let db = shared.db(Role::Order).await;
    assert_eq!(count(&db, "SELECT COUNT(*) FROM node_lease WHERE owner <> ''").await, 5);
    assert_eq!(count(&db, "SELECT COUNT(DISTINCT node) FROM node_lease").await, 5);
    db.close().await;
}

/// Always fails for now.
struct NotNow(Group);

impl Handler for NotNow {
    fn group(&self) -> Group {
        self.0
    }

    fn handle<'a>(&'a self, _: &'a mut Tx, events: &'a [Event]) -> BoxFuture<'a, Result<Vec<Outcome>, DbError>> {
        Box::pin(async move { Ok(events.iter().map(|_| Outcome::Retry("not now".to_owned())).collect()) })
    }
}

/// Orders whose stock cannot be frozen now: their messages are parked.
async fn park(db: &Db, orders: std::ops::Range<i64>) {
    let mut config = Config::load(&Sources::default()).unwrap();
    config.mq.retry.schedule = vec![ruyi::config::Millis::new(100)];
    let metrics = Arc::new(Metrics::new().unwrap());
    let policy = Policy::of(&config.mq.retry);
    let consumer = Consumer::new(db.clone(), Arc::new(NotNow(Group::Stock)), policy, metrics);
    let message = |id: i64| {
        let body = json!({
            "orderId": id.to_string(), "orderNo": format!("N{id}"), "userId": "1", "totalAmount": 1,
            "currency": "CNY", "productQuantityMap": {"NONE": 1}, "remark": "", "expireTime": 4_000_000_000_000_i64,
            "merchantId": "1", "channelId": "sandbox", "eventId": Kind::OrderCreated.event_id(id),
        });
        Incoming {
            queue: QueueId { topic: Kind::OrderCreated.name().to_owned(), broker: String::new(), queue: 0 },
            offset: id,
            tag: String::new(),
            key: id.to_string(),
            body: Bytes::from(body.to_string()),
            unreadable: None,
            properties: vec![("eventId".to_owned(), Kind::OrderCreated.event_id(id))],
            born_ms: 0,
            stored_ms: 0,
        }
    };
    consumer.process(orders.map(message).collect()).await.unwrap();
}

/// Two of them, without any role beside: each parked message is tried once, and what follows from it is sent.
#[tokio::test(flavor = "multi_thread")]
async fn worker_retry_alone() {
    let shared = SharedBroker::start(&[]).await;
    let db = shared.db(Role::Stock).await;
    park(&db, 1..41).await;
    let parked = "SELECT COUNT(*) FROM message_retry_log WHERE open_key IS NOT NULL";
    assert_eq!(count(&db, parked).await, 40);
    let workers =
        [1, 2].map(|number| shared.process(&format!("retry-{number}"), &["worker", "retry", "--role", "stock"]));
    eventually("nothing is parked", async || count(&db, parked).await == 0).await;
    // There is no such product: it was tried, and said so, once for each.
    let said = "SELECT COUNT(*) FROM message_record WHERE topic = 'STOCK_FREEZE_FAILED'";
    assert_eq!(count(&db, said).await, 40);
    let sent = "SELECT COUNT(*) FROM message_record WHERE topic = 'STOCK_FREEZE_FAILED' AND status = 1";
    eventually("all is sent", async || count(&db, sent).await == 40).await;
    assert_eq!(count(&db, "SELECT MAX(attempts) FROM message_retry_log").await, 2, "failed once, tried once");
    // What a process that died has left in an outbox is sent as well.
    let left = "UPDATE message_record SET status = 0, next_at = 1, sent_at = NULL";
    db.write("test", move |tx| Box::pin(async move { sql::execute(tx, left, vec![]).await })).await.unwrap();
    eventually("what was left is sent", async || count(&db, sent).await == 40).await;
    for worker in &workers {
        worker.stop_with("TERM");
        assert!(!worker.log().contains("ERROR"), "{}", worker.log());
    }
    assert_eq!(count(&db, "SELECT COUNT(*) FROM node_lease WHERE owner <> ''").await, 0, "numbers are given back");
    db.close().await;
}

/// Two of them, begun without the role itself: each order is canceled once, and the others are told.
#[tokio::test(flavor = "multi_thread")]
async fn worker_timeout_alone() {
    let shared = SharedBroker::start(&[]).await;
    let order = shared.listening("order", &["serve", "order"]).await;
    let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).no_proxy().build().unwrap();
    let product = client.put(format!("{}/products/A1", order.url)).json(&json!({"name": "Tea", "price": 3}));
    assert!(product.send().await.unwrap().status().is_success());
    for user in 1..31 {
        let body = json!({
            "userId": user.to_string(), "items": [{"sku": "A1", "quantity": 1}], "payWithinSeconds": 2,
        });
        let placed = client.post(format!("{}/orders", order.url)).json(&body).send().await.unwrap();
        assert!(placed.status().is_success(), "{}", placed.text().await.unwrap());
    }
    order.server.kill();
    let db = shared.db(Role::Order).await;
    let canceled = "SELECT COUNT(*) FROM orders WHERE cancel_type = 'TIMEOUT'";
    let already = count(&db, canceled).await;
    assert!(already < 30, "some are left");
    let _workers = [1, 2].map(|number| shared.process(&format!("timeout-{number}"), &["worker", "timeout"]));
    // The walk has payment close what is open first, and what payment answers is for the role.
    let _payment = shared.listening("payment", &["serve", "payment"]).await;
    let _order = shared.listening("order-again", &["serve", "order"]).await;
    eventually("all are canceled", async || count(&db, canceled).await == 30).await;
    for text in [
        "SELECT COUNT(*) FROM message_record WHERE topic = 'ORDER_CANCELED' AND status = 1",
        "SELECT COUNT(*) FROM message_record WHERE topic = 'INVENTORY_RELEASE' AND status = 1",
        // What the role had no time to send.
        "SELECT COUNT(*) FROM message_record WHERE topic = 'ORDER_CREATED' AND status = 1",
    ] {
        eventually(text, async || count(&db, text).await == 30).await;
    }
    db.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_the_roles_needs_a_broker() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["serve", "order"][..], &["worker", "retry"], &["worker", "timeout"]] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ruyi"));
        command.args(args).args(["--set", "mq.enabled=false"]).current_dir(dir.path()).env_remove("RUYI_TEST_REQUIRE");
        let done = command.output().unwrap();
        assert_eq!(done.status.code(), Some(1), "{args:?}");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(said.contains("without a broker all roles must be in one process"), "{args:?}: {said}");
    }
}
