//! Levels that are told, and what others know of them.

use std::collections::BTreeMap;

use ruyi::db::availability::{self, Known};
use ruyi::db::stock;
use ruyi::domain::event::InventorySync;
use ruyi::domain::id::Sku;
use ruyi::progress::Progress;
use ruyi::roles::stock::flow::{self, Because, Change};
use ruyi::roles::stock::sync::StockSync;

use crate::support::servers::{TestDb, count, write_tx};

const INTERVAL_MS: i64 = 1_000;

fn because() -> Because {
    Because { reason: "counted".into(), actor: "ops".into() }
}

async fn change(test: &TestDb, sku: &str, by: i64) {
    flow::change(&test.db, sku.parse::<Sku>().unwrap(), Change::By(by), because()).await.unwrap().unwrap();
}

async fn told(test: &TestDb) -> i64 {
    count(&test.db, "SELECT COUNT(*) FROM message_record WHERE topic = 'INVENTORY_SYNC'").await
}

pub(super) async fn what_changed_is_told_once(test: TestDb) {
    for number in 0..300 {
        change(&test, &format!("S{number:03}"), 1).await;
    }
    // Four instances at once: each SKU is told of by one of them.
    let all: Vec<_> = (0..4)
        .map(|_| {
            let mut sync = StockSync::new(test.db.clone(), INTERVAL_MS);
            tokio::spawn(async move {
                let mut total = 0;
                while let Progress::Did(count) = sync.step().await.unwrap() {
                    total += count;
                }
                total
            })
        })
        .collect();
    let mut total = 0;
    for one in all {
        total += one.await.unwrap();
    }
    assert_eq!((total, told(&test).await), (300, 300));
    let mut sync = StockSync::new(test.db.clone(), INTERVAL_MS);
    assert_eq!((sync.step().await.unwrap(), sync.next_due().await.unwrap()), (Progress::Idle, None));

    // Changes within the interval become one event, with the last level.
    for _ in 0..3 {
        change(&test, "S007", 5).await;
    }
    assert_eq!(sync.step().await.unwrap(), Progress::Idle, "not yet");
    assert_eq!(sync.next_due().await.unwrap(), Some(test.clock.now_ms() + INTERVAL_MS));
    test.clock.advance_ms(INTERVAL_MS);
    assert_eq!(sync.step().await.unwrap(), Progress::Did(1));
    let body = "SELECT COUNT(*) FROM message_record WHERE event_id = 'S007:INVENTORY_SYNC:4' AND msg_key = 'S007'";
    assert_eq!((told(&test).await, count(&test.db, body).await), (301, 1));

    // A SKU that another instance has told of since it was found is left out.
    change(&test, "S001", 1).await;
    test.clock.advance_ms(INTERVAL_MS);
    let before = test.clock.now_ms();
    let taken = async || {
        write_tx!(test.db, [], |tx| { stock::take_sync_due(tx, vec!["S001".into(), "S002".into()], before).await })
            .unwrap()
    };
    assert_eq!(taken().await.keys().collect::<Vec<_>>(), ["S001"]);
    assert_eq!(taken().await, BTreeMap::new());
}

pub(super) async fn newer_levels_win(test: TestDb) {
    let told =
        |sku: &str, version, available| InventorySync { sku: sku.into(), available, frozen: 1, sold: 2, version };
    let learn = async |all: Vec<InventorySync>| {
        write_tx!(test.db, [all], |tx| { availability::learn(tx, &all).await }).unwrap()
    };
    let first = learn(vec![told("b", 3, 30), told("a", 0, 10), told("b", 2, 20)]).await;
    assert_eq!(first, BTreeMap::from([("a".into(), 0), ("b".into(), 3)]));
    assert_eq!(learn(vec![told("b", 3, 99), told("a", 0, 99), told("b", 1, 99)]).await, BTreeMap::new());
    assert_eq!(learn(vec![told("a", 1, 11), told("b", 3, 99)]).await, BTreeMap::from([("a".into(), 1)]));
    assert_eq!(learn(vec![]).await, BTreeMap::new());
    let mut conn = test.db.read().await.unwrap();
    let known = availability::get(&mut conn, vec!["a".into(), "b".into(), "c".into()]).await.unwrap();
    let wanted =
        [("a", 11, 1), ("b", 30, 3)].map(|(sku, available, version)| (sku.into(), Known { available, version }));
    assert_eq!(known, wanted.into_iter().collect());
}

pub(super) async fn the_ledger_is_read_page_by_page(test: TestDb) {
    for by in [5, -2, 3] {
        change(&test, "TEA", by).await;
    }
    let to = |sku: &str, pieces| (sku.to_owned(), Change::To(pieces));
    let changes = BTreeMap::from([to("CUP", 4), to("TEA", 6), to("POT", 0)]);
    let levels = flow::change_all(&test.db, changes, because()).await.unwrap().unwrap();
    let changed = |sku: &str| (levels[sku].0.available, levels[sku].1);
    assert_eq!([changed("CUP"), changed("POT"), changed("TEA")], [(4, true), (0, false), (6, false)]);
    // All or none.
    let wrong = BTreeMap::from([("CUP".to_owned(), Change::By(1)), ("TEA".to_owned(), Change::By(-7))]);
    assert!(flow::change_all(&test.db, wrong, because()).await.unwrap().is_none());
    let mut conn = test.db.read().await.unwrap();
    let first = stock::ledger(&mut conn, "TEA", i64::MAX, 2).await.unwrap();
    let moved = |entries: &[stock::Entry]| entries.iter().map(|one| one.movement.change.available).collect::<Vec<_>>();
    assert_eq!(moved(&first), [3, -2]);
    let rest = stock::ledger(&mut conn, "TEA", first[1].id, 2).await.unwrap();
    assert_eq!(moved(&rest), [5]);
    let movement = &rest[0].movement;
    assert_eq!((movement.reason.as_str(), movement.actor.as_deref(), movement.order_id), ("counted", Some("ops"), 0));
    assert_eq!(moved(&stock::ledger(&mut conn, "CUP", i64::MAX, 9).await.unwrap()), [4]);
    assert_eq!(stock::ledger(&mut conn, "POT", i64::MAX, 9).await.unwrap(), []);
}
