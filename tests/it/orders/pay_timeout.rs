//! The time to pay, held by the broker's timer: on time, in hops, early, late, lost, repeated. And cancels by others.

use ruyi::config::{Config, TimeoutVia};
use ruyi::db::outbox::{self, OutboxRow};
use ruyi::db::sql;
use ruyi::db::walk::ASIDE_MS;
use ruyi::domain::event::{Group, Kind};
use ruyi::mq::message::{Incoming, QueueId};
use ruyi::vals;
use serde_json::{Value, json};

use crate::support::servers::{START_MS, mariadb_url, write_tx};
use crate::support::shop::{Setup, Shop};

const DAY_MS: i64 = 86_400_000;
/// Comfortably shorter than the time to pay in these tests.
const SOON_MS: i64 = 60_000;

fn by_broker(config: &mut Config) {
    config.order.timeout.via = TimeoutVia::Broker;
}

async fn open() -> Shop {
    open_on(None).await
}

async fn open_on(url: Option<String>) -> Shop {
    let shop = Shop::with(Setup { url, change: by_broker, ..Setup::default() }, 0).await;
    shop.sell("TEA", 1_000, 100).await;
    shop
}

/// A payable order, to be paid within so many seconds.
async fn reserved(shop: &mut Shop, seconds: i64) -> String {
    let order = shop.place_order(7, &[("TEA", 1)], json!({ "payWithinSeconds": seconds })).await;
    shop.settle_within(SOON_MS.min(seconds * 500)).await;
    assert_eq!(shop.status(&order).await, "RESERVED");
    order
}

/// (event id without the order, outcome, reason) of what the group took of an order, in its order.
async fn taken(shop: &Shop, order: &str) -> Vec<(String, String, String)> {
    let text = "SELECT consumer_group, message_id, CAST(outcome AS CHAR), reason, msg_key FROM message_process_log \
                ORDER BY consumed_at, message_id";
    let rows = shop.rows(text).await;
    let mine = rows.iter().filter(|row| row[0] == Group::PayTimeout.name() && row[4] == order);
    mine.map(|row| (row[1].replace(order, "#"), row[2].clone(), row[3].clone())).collect()
}

fn done(ids: &[&str]) -> Vec<(String, String, String)> {
    ids.iter().map(|id| ((*id).to_owned(), "0".to_owned(), String::new())).collect()
}

/// Canceled for not being paid, `late_ms` after its time, and all is given back.
async fn canceled(shop: &Shop, order: &str, late_ms: i64) {
    let seen = shop.order(order).await;
    assert_eq!((&seen["outcome"], &seen["cancelType"]), (&json!("CANCELED"), &json!("TIMEOUT")));
    let ms = |field: &str| seen[field].as_i64().unwrap();
    assert_eq!(ms("updatedAt") - ms("expireTime"), late_ms);
    assert_eq!(shop.stock("TEA").await, (100, 0, 0));
    assert_eq!(shop.told().await.remove(order).unwrap(), ["ORDER_CANCELED"]);
    shop.audit().await;
}

fn copy(order: &str, kind: Kind, event_id: &str, body: &Value) -> Incoming {
    Incoming {
        queue: QueueId { topic: kind.name().to_owned(), broker: "other".to_owned(), queue: 0 },
        offset: 0,
        tag: kind.name().to_owned(),
        key: order.to_owned(),
        body: body.to_string().into(),
        unreadable: None,
        properties: vec![("eventId".to_owned(), event_id.to_owned())],
        born_ms: 0,
        stored_ms: 0,
    }
}

async fn on_time(mut shop: Shop) {
    let order = reserved(&mut shop, 600).await;
    assert_eq!(shop.timer().len(), 1, "one message is with the broker");
    let early: Vec<String> = shop.violations().await.into_iter().filter(|one| one.contains("PAY_TIMEOUT")).collect();
    assert_eq!(early, Vec::<String>::new(), "what the broker holds cannot have been handled");
    shop.manner.times = 3;
    shop.settle().await;
    canceled(&shop, &order, 0).await;
    assert_eq!(taken(&shop, &order).await, done(&["#:PAY_TIMEOUT_DELAY"]));
}

#[tokio::test]
async fn canceled_on_time_by_the_message() {
    on_time(open().await).await;
}

#[tokio::test]
async fn canceled_on_time_by_the_message_on_a_server() {
    let Some(url) = mariadb_url().await else { return };
    on_time(open_on(Some(url)).await).await;
}

/// Eight days do not fit a timer of three: the broker gets it three times, and the shop's broker checks its limit.
#[tokio::test]
async fn what_is_far_ahead_goes_in_hops() {
    let mut shop = open().await;
    let order = reserved(&mut shop, 8 * 86_400).await;
    let ids = ["#:PAY_TIMEOUT_DELAY", "#:PAY_TIMEOUT_DELAY:2", "#:PAY_TIMEOUT_DELAY:3"];
    for hops in 1..=2 {
        shop.settle_within(3 * DAY_MS).await;
        assert_eq!(taken(&shop, &order).await, done(&ids[..hops]));
        assert_eq!((shop.timer().len(), shop.status(&order).await.as_str()), (1, "RESERVED"));
    }
    shop.settle().await;
    canceled(&shop, &order, 0).await;
    assert_eq!(taken(&shop, &order).await, done(&ids));
}

/// A broker whose clock is ahead of ours: another round through it would come back at once, and again.
#[tokio::test]
async fn what_comes_early_is_held_here() {
    let mut shop = open().await;
    let order = reserved(&mut shop, 600).await;
    for (_, group, message) in std::mem::take(shop.timer()) {
        shop.queue(group).extend([message.clone(), message]);
    }
    shop.settle_within(0).await;
    assert_eq!(taken(&shop, &order).await, done(&["#:PAY_TIMEOUT_DELAY"]));
    assert!(shop.timer().is_empty());
    let held = "SELECT next_at FROM message_record WHERE topic = 'PAY_TIMEOUT_DELAY' AND status = 0";
    assert_eq!(json!(shop.count(held).await), shop.order(&order).await["expireTime"]);
    // Nor does somebody else's copy start another chain.
    let body = json!({ "orderId": order, "expireTime": 1 });
    shop.queue(Group::PayTimeout).push(copy(&order, Kind::PayTimeoutDelay, "elsewhere", &body));
    shop.settle_within(0).await;
    let (_, outcome, reason) = taken(&shop, &order).await.pop().unwrap();
    assert_eq!((outcome.as_str(), reason.as_str()), ("1", "too early, and its next hop is under way"));
    shop.settle().await;
    canceled(&shop, &order, 0).await;
}

/// A broker that is away, or loses it: the walk comes two seconds later, and the message changes nothing any more.
#[tokio::test]
async fn what_does_not_come_is_found_by_the_walk() {
    let mut shop = open().await;
    let order = reserved(&mut shop, 600).await;
    let lost = std::mem::take(shop.timer());
    shop.settle().await;
    assert_eq!(shop.outcome(&order).await, "CANCELED");
    for (_, group, message) in lost {
        shop.queue(group).push(message);
    }
    shop.settle().await;
    canceled(&shop, &order, 2_000).await;
    let (_, outcome, reason) = taken(&shop, &order).await.pop().unwrap();
    assert_eq!((outcome.as_str(), reason.as_str()), ("1", "already canceled"));
}

#[tokio::test]
async fn message_about_paid_or_canceled_order_changes_nothing() {
    let mut shop = open().await;
    let (paid, canceled) = (reserved(&mut shop, 600).await, reserved(&mut shop, 600).await);
    shop.pay(&paid, json!({})).await;
    shop.cancel(&canceled).await;
    shop.settle().await;
    assert_eq!((shop.outcome(&paid).await.as_str(), shop.outcome(&canceled).await.as_str()), ("SIGNED", "CANCELED"));
    assert_eq!(shop.order(&canceled).await["cancelType"], "USER");
    for (order, why) in [(&paid, "paid in time"), (&canceled, "already canceled")] {
        let ignored = ("#:PAY_TIMEOUT_DELAY".to_owned(), "1".to_owned(), why.to_owned());
        assert_eq!(taken(&shop, order).await, [ignored]);
    }
    shop.audit().await;
}

/// The order's own time decides, not the one in the message.
#[tokio::test]
async fn an_order_that_was_given_more_time_keeps_it() {
    let mut shop = open().await;
    let order = reserved(&mut shop, 600).await;
    let id: i64 = order.parse().unwrap();
    let later = START_MS + 5 * DAY_MS;
    let moved = write_tx!(shop.db, [], |tx| {
        let text = "UPDATE orders SET expire_time = ?, due_at = ? WHERE id = ?";
        sql::execute(tx, text, vals![later, later, id]).await
    });
    assert_eq!(moved.unwrap(), 1);
    shop.settle_within(3_600_000).await;
    assert_eq!(shop.status(&order).await, "RESERVED");
    shop.settle().await;
    canceled(&shop, &order, 0).await;
    let ids = ["#:PAY_TIMEOUT_DELAY", "#:PAY_TIMEOUT_DELAY:2", "#:PAY_TIMEOUT_DELAY:3"];
    assert_eq!(taken(&shop, &order).await, done(&ids));
}

#[tokio::test]
async fn messages_that_are_none_are_given_up() {
    let mut shop = open().await;
    let unknown = copy("99", Kind::PayTimeoutDelay, "99:PAY_TIMEOUT_DELAY", &json!({"orderId": "99", "expireTime": 1}));
    let broken = copy("98", Kind::PayTimeoutDelay, "98:PAY_TIMEOUT_DELAY", &json!({ "expireTime": true }));
    shop.queue(Group::PayTimeout).extend([unknown, broken]);
    shop.settle_within(0).await;
    assert_eq!((shop.parked().await, shop.dead_letters().await), (1, 1));
    shop.settle().await;
    assert_eq!((shop.parked().await, shop.dead_letters().await), (0, 2));
}

fn auto_cancel(order: &str) -> Incoming {
    let body = json!({ "orderId": order, "reason": "looks like fraud", "score": 0.97 });
    copy(order, Kind::OrderAutoCancel, &format!("risk-{order}"), &body)
}

/// ORDER_AUTO_CANCEL at every stage of an order.
#[tokio::test]
async fn risk_control_cancels_what_can_be_canceled() {
    let mut shop = open().await;
    let unpaid = reserved(&mut shop, 3_600).await;
    let placed = |more: Value| shop.place_order(7, &[("TEA", 1)], more);
    let paid = placed(json!({ "holdSeconds": 7_200 })).await;
    let shipped = placed(json!({})).await;
    shop.settle_within(0).await;
    for order in [&paid, &shipped] {
        shop.pay(order, json!({})).await;
    }
    shop.settle_within(SOON_MS).await;
    assert_eq!((shop.status(&paid).await.as_str(), shop.status(&shipped).await.as_str()), ("PAID", "SIGNED"));
    for order in [unpaid.as_str(), &paid, &shipped, "77"] {
        shop.queue(Group::Order).extend([auto_cancel(order), auto_cancel(order)]);
    }
    shop.settle_within(0).await;
    // The one that no one knows may come yet.
    assert_eq!((shop.parked().await, shop.dead_letters().await), (1, 1));
    shop.settle().await;
    for (order, outcome) in [(&unpaid, "CANCELED"), (&paid, "REFUNDED"), (&shipped, "SIGNED")] {
        assert_eq!(shop.outcome(order).await, outcome);
    }
    let seen = shop.order(&paid).await;
    assert_eq!((&seen["cancelType"], &seen["cancelReason"]), (&json!("AUTO"), &json!("looks like fraud")));
    assert_eq!(shop.stock("TEA").await, (99, 0, 1));
    let dead = shop.rows("SELECT msg_key, CAST(properties AS CHAR) FROM message_record WHERE topic LIKE '%DLQ%'").await;
    let why = |key: &str| dead.iter().find(|row| row[0] == key).unwrap()[1].clone();
    assert!(why(&shipped).contains("handed to the warehouse and can no longer be canceled"), "{dead:?}");
    assert!(why("77").contains("there is no order 77"), "{dead:?}");
    assert_eq!((dead.len(), shop.violations().await), (2, vec![]));
}

/// A held event that its cancel meets on the way out: it arrives, and is ignored.
#[tokio::test]
async fn message_taken_back_while_sent_changes_nothing() {
    let mut shop = open().await;
    let order = reserved(&mut shop, 3_600).await;
    shop.pay(&order, json!({})).await;
    let hold_ms = 600_000;
    let id: i64 = order.parse().unwrap();
    write_tx!(shop.db, [], |tx| {
        sql::execute(tx, "UPDATE orders SET hold_ms = ? WHERE id = ?", vals![hold_ms, id]).await
    })
    .unwrap();
    shop.settle_within(SOON_MS).await;
    assert_eq!(shop.status(&order).await, "PAID");
    // Claimed, and on its way to the broker ...
    shop.clock.advance_ms(hold_ms);
    let claimed = write_tx!(shop.db, [], |tx| { outbox::claim(tx, 10, 30_000).await }).unwrap();
    assert_eq!(claimed.iter().map(|row| row.topic.as_str()).collect::<Vec<_>>(), ["TRIGGER_ORDER_FULFILL"]);
    // ... when the order is canceled.
    assert_eq!(shop.cancel(&order).await, axum::http::StatusCode::OK);
    let (now_ms, row) = (shop.clock.now_ms(), claimed[0].id);
    write_tx!(shop.db, [], |tx| { outbox::mark_sent(tx, &[row], now_ms).await }).unwrap();
    let body: Value = serde_json::from_slice(&claimed[0].body).unwrap();
    let message = copy(&order, Kind::TriggerOrderFulfill, &claimed[0].event_id, &body);
    shop.queue(Group::Fulfil).push(message);
    shop.settle().await;
    assert_eq!(shop.outcome(&order).await, "REFUNDED");
    let taken_back = "SELECT COUNT(*) FROM message_record WHERE topic = 'TRIGGER_ORDER_FULFILL' AND status = 3";
    assert_eq!(shop.count(taken_back).await, 1);
    let ignored = "SELECT COUNT(*) FROM message_process_log WHERE topic = 'TRIGGER_ORDER_FULFILL' AND outcome = 1";
    assert_eq!(shop.count(ignored).await, 1);
    assert_eq!(shop.count("SELECT COUNT(*) FROM delivery WHERE kind = 3").await, 0, "the warehouse knows nothing");
    assert_eq!(shop.stock("TEA").await, (100, 0, 0));
    shop.audit().await;
}

/// A backup that is older than what was told: the event of the cancel is there already.
async fn one_that_cannot_be_canceled(mut shop: Shop) {
    shop.sell("TEA", 1_000, 100).await;
    shop.db.alert_by("http://127.0.0.1:1/");
    let stuck = reserved(&mut shop, 600).await;
    let others = [reserved(&mut shop, 600).await, reserved(&mut shop, 600).await];
    let row = OutboxRow {
        id: shop.db.ids().next(),
        event_id: format!("{stuck}:ORDER_CANCELED"),
        topic: "ORDER_CANCELED".to_owned(),
        tag: String::new(),
        key: stuck.clone(),
        body: "{}".into(),
        properties: vec![],
        deliver_at_ms: 0,
        attempts: 0,
    };
    let stale = write_tx!(shop.db, [row], |tx| {
        outbox::insert(tx, std::slice::from_ref(&row), START_MS).await?;
        outbox::mark_sent(tx, &[row.id], START_MS).await
    });
    stale.unwrap();
    shop.settle_within(900_000).await;
    for other in &others {
        assert_eq!(shop.outcome(other).await, "CANCELED");
    }
    assert_eq!(shop.status(&stuck).await, "RESERVED");
    let told = "SELECT COUNT(*) FROM delivery WHERE kind = 6 AND body LIKE '%SET_ASIDE%'";
    assert_eq!(shop.count(told).await, 1);

    write_tx!(shop.db, [row], |tx| {
        sql::execute(tx, "DELETE FROM message_record WHERE id = ?", vals![row.id]).await
    })
    .unwrap();
    shop.settle_within(ASIDE_MS + 60_000).await;
    assert_eq!(shop.outcome(&stuck).await, "CANCELED");
    shop.audit().await;
}

#[tokio::test]
async fn one_order_that_cannot_be_canceled_stops_no_other() {
    one_that_cannot_be_canceled(Shop::with(Setup::default(), 0).await).await;
}

#[tokio::test]
async fn one_order_stops_no_other_on_a_server() {
    let Some(url) = mariadb_url().await else { return };
    one_that_cannot_be_canceled(Shop::with(Setup { url: Some(url), ..Setup::default() }, 0).await).await;
}
