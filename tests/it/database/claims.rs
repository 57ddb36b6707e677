//! Claims where the read locks nothing, as on TiDB: what somebody else takes between the read and the change is his.
//! On SQLite a transaction that writes is alone.

use ruyi::db::delivery::{self, Kind};
use ruyi::db::outbox::{self, HEAD_START_MS, OutboxRow};
use ruyi::db::retry::{self, Parked};
use ruyi::db::{Db, claim};

use crate::support::message_rows::{call, outbox_row, parked};
use crate::support::servers::{START_MS, TestDb, mariadb, write_tx};

/// Six of each, all due.
async fn filled(test: &TestDb) {
    let rows: Vec<_> = (1..=6).map(outbox_row).collect();
    let (waiting, calls): (Vec<_>, Vec<_>) = (1..=6).map(|id| (parked(id), call(id))).unzip();
    let done = write_tx!(test.db, [rows, waiting, calls], |tx| {
        outbox::insert(tx, &rows, START_MS).await?;
        retry::park(tx, "g", &waiting, START_MS).await?;
        delivery::insert(tx, &calls).await?.all()
    });
    done.unwrap();
    test.clock.advance_ms(HEAD_START_MS);
}

async fn outbox_ids(db: &Db, limit: i64) -> Vec<i64> {
    let rows = write_tx!(db, [], |tx| { outbox::claim(tx, limit, 1_000).await });
    rows.unwrap().iter().map(|row| row.id).collect()
}

async fn retry_ids(db: &Db, limit: i64) -> Vec<i64> {
    let rows = write_tx!(db, [], |tx| { retry::claim(tx, "g", limit, 1_000).await });
    rows.unwrap().iter().map(|row| row.id).collect()
}

/// Bodies fill memory, not rows: a claim takes as many as it may hold.
pub(super) async fn a_claim_holds_so_many_bytes(test: TestDb) {
    const MIB: usize = 1 << 20;
    for (id, bytes) in [(1, 7), (2, 7), (3, 7), (4, 1), (5, 15), (6, 2)] {
        let row = OutboxRow { body: vec![b'x'; bytes * MIB].into(), ..outbox_row(id) };
        let waiting = Parked { body: vec![b'x'; bytes * MIB], ..parked(id) };
        let done = write_tx!(test.db, [row, waiting], |tx| {
            outbox::insert(tx, &[row], START_MS).await?;
            retry::park(tx, "g", &[waiting], START_MS).await
        });
        done.unwrap();
    }
    test.clock.advance_ms(HEAD_START_MS);
    for ids in [vec![1, 2], vec![3, 4], vec![5], vec![6], vec![]] {
        assert_eq!(outbox_ids(&test.db, 10).await, ids);
        assert_eq!(retry_ids(&test.db, 10).await, ids);
    }
}

async fn call_ids(db: &Db, limit: i64) -> Vec<i64> {
    let calls = write_tx!(db, [], |tx| { delivery::claim(tx, &[Kind::Sms], limit, 1_000).await });
    calls.unwrap().iter().map(|call| call.id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_taken_since_the_read_are_not_claimed_twice() {
    let Some(test) = mariadb().await else { return };
    filled(&test).await;
    let other = test.db.clone();
    let late = write_tx!(test.db, [other], |tx| {
        let meanwhile = Box::pin(async move { assert_eq!(outbox_ids(&other, 2).await, [1, 2]) });
        claim::unlocked(meanwhile, outbox::claim(tx, 3, 1_000)).await
    });
    assert_eq!(late.unwrap().iter().map(|row| row.id).collect::<Vec<_>>(), [3]);
    assert_eq!(outbox_ids(&test.db, 10).await, [4, 5, 6]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_taken_since_the_read_are_not_claimed_twice() {
    let Some(test) = mariadb().await else { return };
    filled(&test).await;
    let other = test.db.clone();
    let late = write_tx!(test.db, [other], |tx| {
        let meanwhile = Box::pin(async move { assert_eq!(retry_ids(&other, 2).await, [1, 2]) });
        claim::unlocked(meanwhile, retry::claim(tx, "g", 3, 1_000)).await
    });
    assert_eq!(late.unwrap().iter().map(|row| row.id).collect::<Vec<_>>(), [3]);
    assert_eq!(retry_ids(&test.db, 10).await, [4, 5, 6]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_taken_since_the_read_are_not_claimed_twice() {
    let Some(test) = mariadb().await else { return };
    filled(&test).await;
    let other = test.db.clone();
    let late = write_tx!(test.db, [other], |tx| {
        let meanwhile = Box::pin(async move { assert_eq!(call_ids(&other, 2).await, [1, 2]) });
        claim::unlocked(meanwhile, delivery::claim(tx, &[Kind::Sms], 3, 1_000)).await
    });
    assert_eq!(late.unwrap().iter().map(|call| call.id).collect::<Vec<_>>(), [3]);
    assert_eq!(call_ids(&test.db, 10).await, [4, 5, 6]);
}

/// Many at once, none of which sees what the others have locked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_claimants_without_locks_share_the_rows() {
    let Some(test) = mariadb().await else { return };
    let rows: Vec<_> = (1..=400).map(outbox_row).collect();
    write_tx!(test.db, [rows], |tx| { outbox::insert(tx, &rows, START_MS).await }).unwrap();
    test.clock.advance_ms(HEAD_START_MS);
    let claimant = |_| {
        let db = test.db.clone();
        tokio::spawn(async move {
            let mut claimed = Vec::new();
            // One that is overtaken gets nothing, and looks again.
            for _ in 0..60 {
                let rows = write_tx!(db, [], |tx| {
                    claim::unlocked(Box::pin(async {}), outbox::claim(tx, 40, 600_000)).await
                });
                claimed.extend(rows.unwrap().iter().map(|row| row.id));
            }
            claimed
        })
    };
    let claimants: Vec<_> = (0..6).map(claimant).collect();
    let mut claimed = Vec::new();
    for one in claimants {
        claimed.extend(one.await.unwrap());
    }
    claimed.sort_unstable();
    assert_eq!(claimed, (1..=400).collect::<Vec<i64>>());
}
