//! The retry lane by itself, as `worker retry` runs it: several keys at a time, several instances, and its crashes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ruyi::config::Config;
use ruyi::db::retry::{self, Parked};
use ruyi::db::sql::{self, Columns};
use ruyi::db::{Db, Options, inbox};
use ruyi::domain::event::Group;
use ruyi::fault::Faults;
use ruyi::mq::retry::{Policy, RetryLane};
use ruyi::mq::{Consumer, Handler};
use ruyi::telemetry::Metrics;
use tokio_util::sync::CancellationToken;

use crate::support::failing_handler::{FailingHandler, now, open, order};
use crate::support::holding_handler::HoldingHandler;
use crate::support::servers::{START_MS, TestDb, mariadb, sqlite, write_tx};
use crate::support::shop::{Fault, Setup};

const DEADLINE: Duration = Duration::from_secs(60);

fn lane(db: &Db, handler: &Arc<HoldingHandler>) -> RetryLane {
    let policy = Policy::of(&Config::example().unwrap().mq.retry);
    let handler = Arc::clone(handler) as Arc<dyn Handler>;
    RetryLane::new(Consumer::new(db.clone(), handler, policy, Arc::new(Metrics::new().unwrap())))
}

/// Parks messages `id` of `key`; the first of a key is due, the others wait behind it.
async fn park(test: &TestDb, messages: &[(i64, &str)]) {
    let mut first: HashMap<&str, ()> = HashMap::new();
    let rows: Vec<Parked> = messages
        .iter()
        .map(|(id, key)| Parked {
            id: *id,
            message_id: format!("{id:04}:E"),
            topic: "INVENTORY_DEDUCT".into(),
            tag: String::new(),
            key: (*key).into(),
            body: b"{}".to_vec(),
            properties: vec![("eventId".into(), format!("{id:04}:E"))],
            blocks: true,
            attempts: 1,
            next_at: first.insert(key, ()).is_none().then_some(START_MS),
            first_failed_at: START_MS,
            last_error: "why".into(),
        })
        .collect();
    let group = Group::Stock.name();
    write_tx!(test.db, [rows], |tx| {
        let claims = rows.iter().map(|row| {
            let Parked { message_id, topic, key, .. } = row;
            inbox::Claim { message_id, topic, key, resent: None }
        });
        let mut claims: Vec<_> = claims.collect();
        claims.sort_by_key(|claim| claim.message_id);
        inbox::claim(tx, group, 1, &claims, START_MS).await?;
        retry::park(tx, group, &rows, START_MS).await
    })
    .unwrap();
}

async fn waiting(db: &Db) -> i64 {
    let text = "SELECT COUNT(*) FROM message_retry_log WHERE status = 0";
    sql::fetch_one(&mut db.read().await.unwrap(), text, vec![]).await.unwrap().unwrap().int(0).unwrap()
}

async fn until_waiting(db: &Db, wanted: i64) {
    let started = Instant::now();
    while waiting(db).await != wanted {
        assert!(started.elapsed() < DEADLINE, "{} instead of {wanted} wait", waiting(db).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_attempt_holds_up_no_other_key() {
    // On SQLite one transaction writes at a time, whatever the lane does.
    let Some(test) = mariadb().await else { return };
    let handler = HoldingHandler::new();
    let keys: Vec<String> = (0..40).map(|key| format!("k{key}")).collect();
    let mut messages = vec![(1, "slow"), (2, "slow")];
    messages.extend((3..203).map(|id| (id, keys[usize::try_from(id).unwrap() % 40].as_str())));
    park(&test, &messages).await;
    let token = CancellationToken::new();
    let running = tokio::spawn(lane(&test.db, &handler).run(token.clone()));
    until_waiting(&test.db, 2).await;
    assert_eq!(handler.held.load(Ordering::SeqCst), 1);
    handler.gate.close();
    until_waiting(&test.db, 0).await;
    token.cancel();
    running.await.unwrap();
    for (key, ids) in handler.seen() {
        assert!(ids.is_sorted(), "{key}: {ids:?}");
        assert_eq!(ids.len(), if key == "slow" { 2 } else { 5 });
    }
}

/// They have nothing in common but that: a lane tries several of them at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_without_a_key_are_tried_together() {
    // On SQLite one transaction writes at a time, whatever the lane does.
    let Some(test) = mariadb().await else { return };
    let handler = HoldingHandler::new();
    for id in 1..=3 {
        // Each on its own, so that none is parked behind another.
        park(&test, &[(id, "")]).await;
    }
    let token = CancellationToken::new();
    let running = tokio::spawn(lane(&test.db, &handler).run(token.clone()));
    let started = Instant::now();
    while handler.held.load(Ordering::SeqCst) < 3 {
        assert!(started.elapsed() < DEADLINE, "{} of 3", handler.held.load(Ordering::SeqCst));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    handler.gate.close();
    until_waiting(&test.db, 0).await;
    token.cancel();
    running.await.unwrap();
    assert_eq!(handler.seen()[""].len(), 3);
}

async fn instances_share(test: TestDb) {
    let handler = HoldingHandler::new();
    let keys: Vec<String> = (0..30).map(|key| format!("k{key}")).collect();
    let messages: Vec<(i64, &str)> =
        (1..=120).map(|id| (id, keys[usize::try_from(id).unwrap() % 30].as_str())).collect();
    park(&test, &messages).await;
    let token = CancellationToken::new();
    let running: Vec<_> = (0..3).map(|_| tokio::spawn(lane(&test.db, &handler).run(token.clone()))).collect();
    until_waiting(&test.db, 0).await;
    token.cancel();
    for one in running {
        one.await.unwrap();
    }
    let seen = handler.seen();
    assert_eq!(seen.values().map(Vec::len).sum::<usize>(), 120, "each once");
    assert!(seen.values().all(|ids| ids.is_sorted()), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_instances_try_each_once_in_order_on_sqlite() {
    instances_share(sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_instances_try_each_once_in_order_on_mariadb() {
    if let Some(test) = mariadb().await {
        instances_share(test).await;
    }
}

/// A lease that ran out while its attempt went on: the second one to come sees that it was made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_lease_does_not_become_a_second_attempt() {
    let Some(test) = mariadb().await else { return };
    let handler = HoldingHandler::new();
    park(&test, &[(1, "slow")]).await;
    let tokens = [CancellationToken::new(), CancellationToken::new()];
    let first = tokio::spawn(lane(&test.db, &handler).run(tokens[0].clone()));
    let started = Instant::now();
    while handler.held.load(Ordering::SeqCst) == 0 {
        assert!(started.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    test.clock.advance_ms(31_000);
    let second = tokio::spawn(lane(&test.db, &handler).run(tokens[1].clone()));
    handler.gate.close();
    until_waiting(&test.db, 0).await;
    for token in tokens {
        token.cancel();
    }
    first.await.unwrap();
    second.await.unwrap();
    assert_eq!(handler.seen()["slow"].len(), 1);
}

async fn crash_inside_a_retry(stage: &'static str) {
    let strikes = Arc::new(AtomicBool::new(false));
    let plan = Arc::clone(&strikes);
    let faults =
        Faults::plan(Box::new(move |name, at| name == "retry" && at == stage && plan.swap(false, Ordering::SeqCst)));
    let bad = FailingHandler::default();
    let mut shop = open(Setup { faults, ..bad.setup() }).await;
    let id = order(&shop).await;
    bad.set(Group::Stock, &id, Fault::Retry);
    now(&mut shop).await;
    bad.heal();
    shop.cancel(&id).await;
    now(&mut shop).await;
    assert_eq!(shop.parked().await, 2);
    shop.clock.advance_ms(10_000);
    strikes.store(true, Ordering::SeqCst);
    // The process dies with the attempt.
    shop.lane(Group::Stock).step().await.unwrap_err();
    assert!(!strikes.load(Ordering::SeqCst));
    // Whoever comes next goes on, when the lease is over.
    shop.settle_within(40_000).await;
    assert_eq!((shop.parked().await, shop.stock("TEA").await), (0, (1_000, 0, 0)));
    // Frozen once, and released once, in this order.
    assert_eq!(shop.count("SELECT COUNT(*) FROM stock_ledger WHERE order_id <> 0").await, 2);
    assert_eq!(shop.outcome(&id).await, "CANCELED");
    shop.audit().await;
}

#[tokio::test]
async fn retry_dead_before_its_commit_is_made_again() {
    crash_inside_a_retry("before_commit").await;
}

#[tokio::test]
async fn retry_dead_after_its_commit_is_not_made_again() {
    crash_inside_a_retry("after_commit").await;
}

#[tokio::test]
async fn retry_while_database_is_away_is_no_attempt() {
    let away = Arc::new(AtomicBool::new(false));
    let plan = Arc::clone(&away);
    let faults = Faults::plan(Box::new(move |_, at| at == "before_commit" && plan.load(Ordering::SeqCst)));
    let bad = FailingHandler::default();
    let mut shop = open(Setup { faults, ..bad.setup() }).await;
    let id = order(&shop).await;
    bad.set(Group::Stock, &id, Fault::Error);
    now(&mut shop).await;
    bad.heal();
    away.store(true, Ordering::SeqCst);
    for _ in 0..20 {
        shop.clock.advance_ms(60_000);
        shop.lane(Group::Stock).step().await.unwrap_err();
    }
    away.store(false, Ordering::SeqCst);
    assert_eq!(shop.count("SELECT attempts FROM message_retry_log WHERE status = 0").await, 1);
    shop.settle_within(0).await;
    assert_eq!((shop.parked().await, shop.dead_letters().await), (0, 0));
    assert_eq!((shop.status(&id).await.as_str(), shop.stock("TEA").await), ("RESERVED", (999, 1, 0)));
}

/// The clock stands still, and so does the lease: whoever waited for its end would wait for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_outage_stops_is_tried_after_it() {
    let test = sqlite().await;
    let is_away = AtomicBool::new(true);
    let faults = Faults::plan(Box::new(move |name, at| {
        name == "retry" && at == "before_commit" && is_away.swap(false, Ordering::SeqCst)
    }));
    let options = Options { url: test.url.clone(), max_connections: 4, clock: test.clock.clone(), faults };
    let db = Db::open(&options).await.unwrap();
    let handler = HoldingHandler::new();
    park(&test, &[(1, "k")]).await;
    let token = CancellationToken::new();
    let running = tokio::spawn(lane(&db, &handler).run(token.clone()));
    until_waiting(&test.db, 0).await;
    token.cancel();
    running.await.unwrap();
    assert_eq!(handler.seen()["k"].len(), 2, "its first attempt was taken back");
}
