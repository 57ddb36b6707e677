//! One row that cannot be moved holds up no other: it is set aside, people are told, and it is tried again.

use ruyi::db::delivery::{self, Kind};
use ruyi::db::outbox::{self, HEAD_START_MS, OutboxRow};
use ruyi::db::retry;
use ruyi::db::walk::ASIDE_MS;
use ruyi::domain::id::Sku;
use ruyi::progress::Progress;
use ruyi::roles::stock::flow::{self, Because, Change};
use ruyi::roles::stock::sync::StockSync;

use sqlx::{AnyConnection, Connection};

use crate::support::message_rows::{call, outbox_row, parked};
use crate::support::servers::{START_MS, TestDb, count, mariadb, sqlite, write_tx};
use crate::support::small_shop::execute;

fn row(id: i64, event_id: &str) -> OutboxRow {
    OutboxRow { event_id: event_id.into(), properties: vec![("a".into(), "b".into())], ..outbox_row(id) }
}

async fn counted(test: &TestDb, skus: &[&str]) {
    for sku in skus {
        let because = Because { reason: "counted".into(), actor: "ops".into() };
        flow::change(&test.db, sku.parse::<Sku>().unwrap(), Change::By(1), because).await.unwrap().unwrap();
    }
}

async fn alerts(test: &TestDb) -> i64 {
    count(&test.db, "SELECT COUNT(*) FROM delivery WHERE kind = 6 AND body LIKE '%SET_ASIDE%'").await
}

pub(super) async fn an_unreadable_row_stops_no_claim(test: TestDb) {
    test.db.alert_by("http://127.0.0.1:1/");
    let (rows, waiting) = ([row(1, "1:E"), row(2, "2:E")], [parked(1), parked(2)]);
    let done = write_tx!(test.db, [rows, waiting], |tx| {
        outbox::insert(tx, &rows, START_MS).await?;
        retry::park(tx, "g", &waiting, START_MS).await
    });
    done.unwrap();
    let broken = [
        "UPDATE message_record SET properties = '{broken' WHERE id = 1",
        "UPDATE message_retry_log SET properties = '{broken' WHERE id = 1",
    ];
    execute(&test.db, &broken).await;
    test.clock.advance_ms(HEAD_START_MS);
    let claim = async || {
        let claimed = write_tx!(test.db, [], |tx| {
            let rows = outbox::claim(tx, 10, ASIDE_MS * 10).await?;
            Ok((rows, retry::claim(tx, "g", 10, ASIDE_MS * 10).await?))
        });
        let (rows, waiting) = claimed.unwrap();
        let ids = rows.iter().map(|row| row.id).collect::<Vec<_>>();
        (ids, waiting.iter().map(|row| row.id).collect::<Vec<_>>())
    };
    assert_eq!(claim().await, (vec![2], vec![2]));
    assert_eq!(alerts(&test).await, 2);
    let said = "SELECT COUNT(*) FROM message_record WHERE id = 1 AND last_error LIKE 'message_record 1: %'";
    assert_eq!(count(&test.db, said).await, 1, "what is wrong, and where");

    // It is no less broken later, and nobody is called again; once it is mended, it goes.
    test.clock.advance_ms(ASIDE_MS);
    assert_eq!(claim().await, (vec![], vec![]));
    assert_eq!(alerts(&test).await, 2);
    let mended = [
        "UPDATE message_record SET properties = '[]' WHERE id = 1",
        "UPDATE message_retry_log SET properties = '[]' WHERE id = 1",
    ];
    execute(&test.db, &mended).await;
    test.clock.advance_ms(ASIDE_MS);
    assert_eq!(claim().await, (vec![1], vec![1]));
}

/// The servers let nothing into a column that cannot be read from it.
#[tokio::test]
async fn an_unreadable_call_stops_no_other() {
    let test = sqlite().await;
    test.db.alert_by("http://127.0.0.1:1/");
    let calls = [call(1), call(2)];
    write_tx!(test.db, [calls], |tx| { delivery::insert(tx, &calls).await?.all() }).unwrap();
    execute(&test.db, &["UPDATE delivery SET order_id = 'broken' WHERE id = 1"]).await;
    let claim = async || {
        let calls = write_tx!(test.db, [], |tx| { delivery::claim(tx, &[Kind::Sms], 10, ASIDE_MS * 10).await });
        calls.unwrap().iter().map(|call| call.id).collect::<Vec<_>>()
    };
    assert_eq!((claim().await, alerts(&test).await), (vec![2], 1));

    test.clock.advance_ms(ASIDE_MS);
    assert_eq!((claim().await, alerts(&test).await), (vec![], 1));
    execute(&test.db, &["UPDATE delivery SET order_id = 1 WHERE id = 1"]).await;
    test.clock.advance_ms(ASIDE_MS);
    assert_eq!(claim().await, [1]);
}

pub(super) async fn a_level_that_cannot_be_told_stops_none(test: TestDb) {
    test.db.alert_by("http://127.0.0.1:1/");
    counted(&test, &["A", "B", "C"]).await;
    // A backup that is older than what was told.
    let stale = [row(1, "B:INVENTORY_SYNC:1")];
    write_tx!(test.db, [stale], |tx| { outbox::insert(tx, &stale, START_MS).await }).unwrap();
    let mut sync = StockSync::new(test.db.clone(), 1_000);
    test.clock.advance_ms(1_000);
    assert_eq!(sync.step().await.unwrap(), Progress::Did(2));
    let told = "SELECT COUNT(*) FROM message_record WHERE event_id IN ('A:INVENTORY_SYNC:1', 'C:INVENTORY_SYNC:1')";
    assert_eq!((count(&test.db, told).await, alerts(&test).await), (2, 1));
    assert_eq!(sync.next_due().await.unwrap(), Some(test.clock.now_ms() + ASIDE_MS + 1_000));
    execute(&test.db, &["DELETE FROM message_record WHERE id = 1"]).await;
    test.clock.advance_ms(ASIDE_MS + 1_000);
    sync.step().await.unwrap();
    assert_eq!(sync.step().await.unwrap(), Progress::Did(1), "a new round");
}

/// On SQLite a transaction that writes is alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_level_stops_no_other() {
    let Some(test) = mariadb().await else { return };
    test.db.alert_by("http://127.0.0.1:1/");
    counted(&test, &["A", "B", "C"]).await;
    let mut holder = AnyConnection::connect(&test.url).await.unwrap();
    sqlx::raw_sql("BEGIN").execute(&mut holder).await.unwrap();
    let locked =
        sqlx::raw_sql("SELECT sku FROM stock WHERE sku = 'B' FOR UPDATE").fetch_all(&mut holder).await.unwrap();
    assert_eq!(locked.len(), 1);

    let mut sync = StockSync::new(test.db.clone(), 1_000);
    test.clock.advance_ms(1_000);
    assert_eq!(sync.step().await.unwrap(), Progress::Did(2));
    assert_eq!(sync.step().await.unwrap(), Progress::Did(0), "the end of the round");
    assert_eq!(sync.step().await.unwrap(), Progress::Idle, "it waits, and nothing is wrong with it");
    assert_eq!(alerts(&test).await, 0);

    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    holder.close().await.unwrap();
    assert_eq!(sync.step().await.unwrap(), Progress::Did(0));
    assert_eq!(sync.step().await.unwrap(), Progress::Did(1));
}
