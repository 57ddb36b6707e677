//! Messages that cannot be handled now, or never: parked, waited behind, tried again, given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ruyi::db::retry;
use ruyi::domain::event::{Group, Kind};
use ruyi::fault::Faults;
use ruyi::mq::{Event, Handler};
use serde_json::json;

use crate::support::failing_handler::{FailingHandler, inbox, now, open, order};
use crate::support::shop::{Fault, Setup, Shop, Unreliable};

async fn later_events_of_the_key_wait(fault: Fault) {
    let bad = FailingHandler::default();
    let mut shop = open(bad.setup()).await;
    let (stuck, other) = (order(&shop).await, order(&shop).await);
    bad.set(Group::Stock, &stuck, fault);
    now(&mut shop).await;
    assert_eq!(shop.status(&other).await, "RESERVED");
    assert_eq!((shop.status(&stuck).await.as_str(), shop.parked().await), ("CREATED", 1));
    // Its release waits behind its freeze, which failed; the other order's does not.
    shop.cancel(&stuck).await;
    shop.cancel(&other).await;
    now(&mut shop).await;
    assert_eq!(shop.parked().await, 2);
    assert_eq!(shop.stock("TEA").await, (1_000, 0, 0));
    let parked = |kind: Kind| (kind.name().to_owned(), 2);
    assert_eq!(inbox(&shop, Group::Stock, &stuck).await, [parked(Kind::OrderCreated), parked(Kind::InventoryRelease)]);
    // Only the first one is tried again, and not before its time.
    let before = bad.calls();
    now(&mut shop).await;
    assert_eq!(bad.calls(), before);
    shop.settle_within(10_000).await;
    assert_eq!((bad.calls() - before, shop.parked().await), (1, 2));
    bad.heal();
    shop.settle().await;
    // Frozen, then released: the tombstone of a release that came first would have frozen nothing.
    assert_eq!(shop.count("SELECT COUNT(*) FROM stock_ledger WHERE order_id <> 0").await, 4);
    let done = |kind: Kind| (kind.name().to_owned(), 0);
    assert_eq!(inbox(&shop, Group::Stock, &stuck).await, [done(Kind::OrderCreated), done(Kind::InventoryRelease)]);
    assert_eq!(shop.outcome(&stuck).await, "CANCELED");
    shop.audit().await;
}

#[tokio::test]
async fn later_events_of_key_wait_behind_a_retry() {
    later_events_of_the_key_wait(Fault::Retry).await;
}

#[tokio::test]
async fn later_events_of_key_wait_behind_a_failure() {
    later_events_of_the_key_wait(Fault::Error).await;
}

/// Grants of points without KEYS and without an order: nothing but their ids tells them apart.
async fn messages_without_a_key_wait_for_none(fault: Fault) {
    let failing = Arc::new(AtomicBool::new(true));
    let plan = Arc::clone(&failing);
    let wrap = move |handler: Arc<dyn Handler>| {
        let plan = Arc::clone(&plan);
        let strikes = move |event: &Event| event.id.starts_with("bad") && plan.load(Ordering::SeqCst);
        Unreliable::around(handler, move |event: &Event| strikes(event).then_some(fault))
    };
    let mut shop = open(Setup { wrap: Box::new(wrap), ..Setup::default() }).await;
    let grant = |shop: &mut Shop, id: &str, user: i64| {
        shop.outside("POINTS_GRANT", id, "", &json!({ "userId": user.to_string(), "points": 5 }));
    };
    // In one batch, before and behind one that fails; and after it was parked.
    for (id, user) in [("a", 6), ("bad-1", 7), ("b", 8), ("bad-2", 7)] {
        grant(&mut shop, id, user);
    }
    now(&mut shop).await;
    grant(&mut shop, "c", 9);
    now(&mut shop).await;
    assert_eq!((shop.points(6).await, shop.points(8).await, shop.points(9).await), (5, 5, 5));
    assert_eq!((shop.points(7).await, shop.parked().await), (0, 2));
    let waiting = "SELECT COUNT(*) FROM message_retry_log WHERE blocks = 1 OR next_at IS NULL";
    assert_eq!(shop.count(waiting).await, 0, "each is due by itself");
    // Both are tried at once, and so they end at once.
    failing.store(false, Ordering::SeqCst);
    shop.settle_within(10_000).await;
    assert_eq!((shop.points(7).await, shop.parked().await, shop.dead_letters().await), (10, 0, 0));
}

#[tokio::test]
async fn without_a_key_none_waits_behind_a_retry() {
    messages_without_a_key_wait_for_none(Fault::Retry).await;
}

#[tokio::test]
async fn without_a_key_none_waits_behind_a_failure() {
    messages_without_a_key_wait_for_none(Fault::Error).await;
}

#[tokio::test]
async fn what_keeps_failing_becomes_one_dead_letter() {
    let bad = FailingHandler::default();
    let mut shop = open(bad.setup()).await;
    let stuck = order(&shop).await;
    bad.set(Group::Stock, &stuck, Fault::Retry);
    let placed_ms = shop.clock.now_ms();
    shop.settle_within(600_000).await;
    assert_eq!((bad.calls(), shop.parked().await, shop.dead_letters().await), (4, 0, 1));
    let text = "SELECT topic, event_id, msg_key, CAST(properties AS CHAR), CAST(status AS CHAR) FROM message_record \
                WHERE topic LIKE '%DLQ%'";
    let row = shop.rows(text).await.remove(0);
    assert_eq!(row[0], "%DLQ%stock-consumer-group");
    assert_eq!((&row[1], &row[2]), (&format!("{stuck}:ORDER_CREATED@stock-consumer-group"), &stuck));
    assert_eq!(row[4], "1");
    let properties: Vec<(String, String)> = serde_json::from_str(&row[3]).unwrap();
    for (name, value) in [
        ("dlqReason", "not today"),
        ("dlqOriginTopic", "ORDER_CREATED"),
        ("dlqAttempts", "4"),
        ("dlqFirstFailure", &placed_ms.to_string()),
        ("eventId", &format!("{stuck}:ORDER_CREATED")),
    ] {
        assert!(properties.contains(&(name.to_owned(), value.to_owned())), "{name}={value}: {properties:?}");
    }
    assert_eq!(inbox(&shop, Group::Stock, &stuck).await, [("ORDER_CREATED".to_owned(), 3)]);
    // Given up: nothing waits behind it any more, and it is not given up twice.
    bad.heal();
    shop.cancel(&stuck).await;
    shop.settle().await;
    assert_eq!(
        (shop.outcome(&stuck).await.as_str(), shop.parked().await, shop.dead_letters().await),
        ("CANCELED", 0, 1)
    );
}

#[tokio::test]
async fn handler_failing_for_one_order_holds_up_no_other() {
    let bad = FailingHandler::default();
    let change = |config: &mut ruyi::config::Config| config.mq.retry.max_attempts = 4;
    let mut shop = open(Setup { change, ..bad.setup() }).await;
    let stuck = order(&shop).await;
    now(&mut shop).await;
    bad.set(Group::Stock, &stuck, Fault::Error);
    shop.pay(&stuck, json!({})).await;
    let began_ms = shop.clock.now_ms();
    let mut others = Vec::new();
    for minute in 1..=5 {
        for _ in 0..20 {
            others.push(order(&shop).await);
        }
        now(&mut shop).await;
        for other in &others[others.len() - 20..] {
            // Each of them at once: in the very moment in which it was placed.
            assert_eq!(shop.status(other).await, "RESERVED");
            shop.pay(other, json!({})).await;
        }
        let next = began_ms + minute * 60_000 - shop.clock.now_ms();
        shop.settle_within(next).await;
        let rest = (began_ms + minute * 60_000 - shop.clock.now_ms()).max(0);
        shop.clock.advance_ms(rest);
        // Its deduction waits; that it is with the warehouse by now is another group's.
        assert_eq!((shop.parked().await, shop.dead_letters().await), (1, 0));
        assert_eq!(shop.stock("TEA").await, (999 - 20 * minute, 1, 20 * minute));
    }
    bad.heal();
    shop.settle().await;
    assert_eq!(shop.stock("TEA").await, (899, 0, 101));
    for id in others.iter().chain([&stuck]) {
        assert_eq!(shop.outcome(id).await, "SIGNED");
    }
    shop.audit().await;
}

#[tokio::test]
async fn an_early_event_keeps_nothing_back_and_is_woken() {
    let mut shop = open(Setup::default()).await;
    let id = order(&shop).await;
    now(&mut shop).await;
    shop.report(&id, "ORDER_SIGNED").await;
    shop.report(&id, "ORDER_DELIVERY").await;
    now(&mut shop).await;
    assert_eq!((shop.status(&id).await.as_str(), shop.parked().await), ("RESERVED", 2));
    shop.pay(&id, json!({})).await;
    now(&mut shop).await;
    // At this very moment: no wait for the next retry.
    assert_eq!((shop.status(&id).await.as_str(), shop.parked().await), ("SIGNED", 0));
    shop.settle().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_poison_message_is_found_in_a_full_batch() {
    let bad = FailingHandler::default();
    let mut shop = open(bad.setup()).await;
    let mut orders = Vec::new();
    for _ in 0..256 {
        orders.push(order(&shop).await);
    }
    let poison = orders[137].clone();
    bad.set(Group::Stock, &poison, Fault::Error);
    shop.relay(0.0).await;
    assert_eq!(shop.queue(Group::Stock).len(), 256);
    assert_eq!(shop.deliver(Group::Stock, 256).await, 256);
    // Halved eight times, and tried alone.
    assert_eq!((bad.calls(), shop.parked().await), (9, 1));
    assert_eq!(shop.stock("TEA").await, (745, 255, 0));
    bad.heal();
    shop.settle_within(60_000).await;
    assert_eq!(shop.stock("TEA").await, (744, 256, 0));
    assert_eq!(shop.count("SELECT COUNT(*) FROM orders WHERE status <> 10").await, 0);
}

#[tokio::test]
async fn parked_message_is_tried_by_one_lane_alone() {
    let bad = FailingHandler::default();
    let mut shop = open(bad.setup()).await;
    let stuck = order(&shop).await;
    bad.set(Group::Stock, &stuck, Fault::Retry);
    now(&mut shop).await;
    shop.clock.advance_ms(10_000);
    // Another instance has just claimed it.
    let group = Group::Stock.name();
    let claim = || shop.db.write("retry_claim", move |tx| Box::pin(retry::claim(tx, group, 64, 30_000)));
    assert_eq!(claim().await.unwrap().len(), 1);
    assert_eq!(claim().await.unwrap().len(), 0);
    let before = bad.calls();
    shop.lane(Group::Stock).step().await.unwrap();
    assert_eq!(bad.calls(), before);
    // It died: when its lease is over, somebody else goes on.
    shop.clock.advance_ms(30_000);
    let (one, two) = (shop.lane(Group::Stock), shop.lane(Group::Stock));
    let (one, two) = tokio::join!(one.step(), two.step());
    assert!(one.is_ok() && two.is_ok());
    assert_eq!(bad.calls(), before + 1);
}

#[tokio::test]
async fn nothing_is_parked_or_acknowledged_while_database_is_away() {
    let away = Arc::new(AtomicBool::new(false));
    let plan = Arc::clone(&away);
    let faults = Faults::plan(Box::new(move |_, stage| stage == "before_commit" && plan.load(Ordering::SeqCst)));
    let mut shop = open(Setup { faults, ..Setup::default() }).await;
    let id = order(&shop).await;
    shop.relay(0.0).await;
    away.store(true, Ordering::SeqCst);
    let messages = shop.queue(Group::Stock).clone();
    let error = shop.consumer(Group::Stock).process(messages.clone()).await.unwrap_err();
    assert!(error.is_outage(), "{error}");
    shop.deliver(Group::Stock, usize::MAX).await;
    assert_eq!(*shop.queue(Group::Stock), messages);
    assert_eq!((shop.parked().await, inbox(&shop, Group::Stock, &id).await), (0, vec![]));
    away.store(false, Ordering::SeqCst);
    now(&mut shop).await;
    assert_eq!((shop.status(&id).await.as_str(), shop.stock("TEA").await), ("RESERVED", (999, 1, 0)));
}
