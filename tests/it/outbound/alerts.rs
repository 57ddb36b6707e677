//! Alerts: told once for each occasion, durably, without bodies.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ruyi::config::Config;
use ruyi::db::outbox::{self, OutboxRow};
use ruyi::delivery::sign;
use ruyi::domain::event::Group;
use ruyi::mq::Broker;
use ruyi::mq::broker::Cluster;
use ruyi::mq::health::Health;
use ruyi::mq::local::Local;
use ruyi::mq::message::Incoming;
use ruyi::mq::relay::Relay;
use ruyi::mq::rocketmq::{RocketMq, RocketMqConfig};
use ruyi::mq::runtime::MqRuntime;
use ruyi::mq::sweep::Sweep;
use ruyi::telemetry::Metrics;
use serde_json::{Value, json};

use crate::support::failing_handler::{FailingHandler, now, open, order};
use crate::support::outbound::{Answer, OutboundServer};
use crate::support::serving::Serving;
use crate::support::shop::{Fault, Setup, Shop};

const WEBHOOK: &str = "http://127.0.0.1:1/alerts";

/// (reference, body) of the alerts on record.
async fn alerts(shop: &Shop) -> Vec<(String, Value)> {
    let rows = shop.rows("SELECT ref, body FROM delivery WHERE kind = 6 ORDER BY id").await;
    rows.iter().map(|row| (row[0].clone(), serde_json::from_str(&row[1]).unwrap())).collect()
}

#[tokio::test]
async fn dead_letter_alerts_once_and_again_at_each_death() {
    let bad = FailingHandler::default();
    let mut shop = open(bad.setup()).await;
    shop.db.alert_by(WEBHOOK);
    let id = order(&shop).await;
    shop.relay(0.0).await;
    let first = shop.queue(Group::Stock)[0].clone();
    bad.set(Group::Stock, &id, Fault::Retry);
    // Failed for now is nothing to be told.
    now(&mut shop).await;
    assert_eq!(alerts(&shop).await, []);
    shop.settle_within(110_000).await;
    let died_ms = shop.clock.now_ms();
    let wanted = json!({
        "alert": "DEAD_LETTER",
        "originalTopic": "ORDER_CREATED",
        "businessId": id,
        "retryCount": 3,
        "errorMessage": "not today",
        "alertTime": died_ms,
        "consumerGroup": "stock-consumer-group",
        "eventId": format!("{id}:ORDER_CREATED"),
    });
    assert_eq!(alerts(&shop).await, [(format!("{id}:ORDER_CREATED@stock-consumer-group"), wanted)]);
    // A copy of it is none.
    shop.queue(Group::Stock).push(first.clone());
    now(&mut shop).await;
    assert_eq!(alerts(&shop).await.len(), 1);
    shop.clock.advance_ms(1);
    let mut again = Incoming { born_ms: shop.clock.now_ms(), ..first };
    again.queue.topic = "%RETRY%stock-consumer-group".to_owned();
    shop.queue(Group::Stock).push(again);
    shop.settle_within(110_000).await;
    let told = alerts(&shop).await;
    assert_eq!((told.len(), shop.dead_letters().await), (2, 2));
    assert_eq!(told[1].1["alertTime"], shop.clock.now_ms());
}

#[tokio::test]
async fn alert_commits_with_its_transaction_without_a_webhook() {
    let bad = FailingHandler::default();
    let mut shop = open(bad.setup()).await;
    let id = order(&shop).await;
    bad.set(Group::Stock, &id, Fault::Retry);
    shop.settle_within(110_000).await;
    // Nobody to be told: the log has it.
    assert_eq!((shop.dead_letters().await, alerts(&shop).await), (1, vec![]));
}

#[tokio::test]
async fn a_message_that_cannot_be_sent_is_one_alert() {
    // One event, and no more.
    let change = |config: &mut Config| config.order.data_sync = false;
    let shop = open(Setup { change, ..Setup::default() }).await;
    shop.db.alert_by(WEBHOOK);
    let id = order(&shop).await;
    // A cluster whose limit is below every message: none will ever be sent.
    let runtime = MqRuntime::start("alerts").unwrap();
    let limits =
        RocketMqConfig { namesrv: "127.0.0.1:1".to_owned(), max_message_bytes: 10, ..RocketMqConfig::default() };
    let mq = RocketMq::connect(limits, &runtime).await.unwrap();
    let health = Arc::new(Health::new(true, Duration::from_secs(3_600)));
    let broker = Broker::Cluster(Cluster::new(mq.clone(), health, Local::standing_in(HashMap::new())));
    let relay = Relay::new(shop.db.clone(), broker, Arc::new(Metrics::new().unwrap()));
    let sweep = Sweep::new(relay, &Config::example().unwrap().mq.outbox);
    shop.clock.advance_ms(outbox::HEAD_START_MS);
    for _ in 0..3 {
        sweep.step().await.unwrap();
        shop.clock.advance_ms(60_000);
    }
    mq.shutdown().await;
    runtime.shutdown(Duration::from_secs(5)).await;
    let told = alerts(&shop).await;
    assert_eq!(told.len(), 1);
    let told = &told[0].1;
    assert_eq!((&told["alert"], &told["originalTopic"]), (&json!("OUTBOX_GIVEN_UP"), &json!("ORDER_CREATED")));
    assert_eq!((&told["businessId"], &told["retryCount"]), (&json!(id), &json!(0)));
    assert_eq!(shop.count("SELECT COUNT(*) FROM message_record WHERE status = 2").await, 1);
}

/// A process, and a message in it that can never be read.
async fn with_poison(settings: &[&str]) -> Serving {
    let serving = Serving::start(settings).await;
    let row = OutboxRow {
        id: serving.db().ids().next(),
        event_id: "77:INVENTORY_DEDUCT".to_owned(),
        topic: "INVENTORY_DEDUCT".to_owned(),
        tag: "INVENTORY_DEDUCT".to_owned(),
        key: "77".to_owned(),
        body: r#"{"orderId":"the phone number 13800138000"}"#.into(),
        properties: outbox::properties("77:INVENTORY_DEDUCT", "INVENTORY_DEDUCT", None),
        deliver_at_ms: 0,
        attempts: 0,
    };
    let write = serving.db().write("create_order", move |tx| {
        let row = row.clone();
        Box::pin(async move {
            tx.emit_raw(row);
            Ok(())
        })
    });
    write.await.unwrap();
    serving
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_webhook_is_told_until_it_listens() {
    let server = OutboundServer::start().await;
    server.script([Answer::status(500)]);
    let webhook = format!("alerts.webhook={}", server.url("/hook"));
    let serving = with_poison(&[&webhook, "alerts.secret=s3", "delivery.schedule=10ms"]).await;
    server.arrived().await;
    server.arrived().await;
    let seen = server.seen();
    assert_eq!((seen.len(), &seen[0].body), (2, &seen[1].body));
    let alert: Value = serde_json::from_str(&seen[1].body).unwrap();
    assert_eq!((&alert["businessId"], &alert["retryCount"]), (&json!("77"), &json!(0)));
    assert!(!seen[1].body.contains("13800138000"), "{alert}");
    assert_eq!(seen[1].header("idempotency-key"), "77:INVENTORY_DEDUCT@stock-consumer-group");
    let now_ms = serving.db().clock().now_ms();
    sign::verify(&"s3".to_owned().into(), &seen[1].headers, seen[1].body.as_bytes(), now_ms, 60_000).unwrap();
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_secret_the_webhook_is_told_unsigned() {
    let server = OutboundServer::start().await;
    let serving = with_poison(&[&format!("alerts.webhook={}", server.url("/hook"))]).await;
    server.arrived().await;
    assert!(server.only().headers.get(sign::SIGNATURE_HEADER).is_none());
    serving.stop().await;
}
