//! Node numbers: no two processes give out the same id, whatever happens to their leases and clocks.

use std::collections::HashSet;

use ruyi::clock::Clock;
use ruyi::db::{Db, DbError, Options, node};
use ruyi::fault::Faults;

use crate::support::servers::{START_MS, TestDb, count, write_tx};

/// A process on the database of `test`, with a clock of its own.
async fn process(test: &TestDb, ahead_ms: i64) -> (Db, Clock) {
    let clock = Clock::manual(START_MS + ahead_ms);
    let options = Options { url: test.url.clone(), max_connections: 2, clock: clock.clone(), faults: Faults::none() };
    (Db::open(&options).await.unwrap(), clock)
}

/// What a transaction of this process gives out.
async fn ids(db: &Db, count: usize) -> Result<Vec<i64>, DbError> {
    write_tx!(db, [], |tx| { Ok((0..count).map(|_| tx.next_id()).collect::<Vec<_>>()) })
}

fn assert_all_differ(all: &[&[i64]]) {
    let (mut seen, mut total) = (HashSet::new(), 0);
    for one in all {
        assert!(one.windows(2).all(|pair| pair[0] < pair[1]), "they grow");
        total += one.len();
        seen.extend(one.iter().copied());
    }
    assert_eq!(seen.len(), total, "an id was given out twice");
}

pub(super) async fn numbers_are_unique(test: TestDb) {
    let mut all = Vec::new();
    for number in 0..12 {
        let (db, _) = process(&test, 0).await;
        all.push(tokio::spawn(async move {
            let taken = node::lease(&db, &format!("owner{number}"), 0).await.unwrap();
            (db, taken)
        }));
    }
    let (mut numbers, mut given) = (Vec::new(), Vec::new());
    for one in all {
        let (db, number) = one.await.unwrap();
        numbers.push(number);
        given.push(ids(&db, 5_000).await.unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..12).collect::<Vec<i64>>());
    assert_eq!(count(&test.db, "SELECT COUNT(DISTINCT owner) FROM node_lease").await, 12);
    assert_all_differ(&given.iter().map(Vec::as_slice).collect::<Vec<_>>());
    // Where a role begins; after the last one it goes on with the first.
    for (first, expected) in [(256, 256), (256, 257), (1_022, 1_022), (1_022, 12)] {
        let (db, _) = process(&test, 0).await;
        assert_eq!(node::lease(&db, &format!("{first}-{expected}"), first).await.unwrap(), expected);
    }
}

/// The database was away, or the process slept, for longer than the lease holds.
pub(super) async fn a_number_that_ran_out_gives_no_ids(test: TestDb) {
    let (late, late_clock) = process(&test, 0).await;
    assert_eq!(node::lease(&late, "late", 0).await.unwrap(), 0);
    let mut of_late = ids(&late, 10).await.unwrap();
    late_clock.advance_ms(node::LEASE_MS - 1);
    of_late.extend(ids(&late, 10).await.unwrap());
    late_clock.advance_ms(1);
    let refused = ids(&late, 1).await.unwrap_err();
    assert!(matches!(refused, DbError::NoNode) && refused.is_outage(), "{refused}");
    // What such a transaction had written is not there; what needs no id works.
    let written = write_tx!(late, [], |tx| {
        let text = "INSERT INTO node_lease (node, owner, lease_until) VALUES (500, ?, 0)";
        let id = tx.next_id().to_string();
        ruyi::db::sql::execute(tx, text, ruyi::vals![id]).await
    });
    assert!(matches!(written, Err(DbError::NoNode)));
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM node_lease WHERE node = 500").await, 0);
    write_tx!(late, [], |_tx| { Ok(()) }).unwrap();

    // Nobody has taken it: it is renewed, and goes on.
    assert!(node::renew(&late, "late").await.unwrap());
    of_late.extend(ids(&late, 10).await.unwrap());
    late_clock.advance_ms(node::LEASE_MS);

    // Somebody has: by the same clock, and as early as can be.
    let (next, _) = process(&test, 2 * node::LEASE_MS).await;
    assert_eq!(node::lease(&next, "next", 0).await.unwrap(), 0);
    let of_next = ids(&next, 5_000).await.unwrap();
    assert!(ids(&late, 1).await.is_err());
    assert!(!node::renew(&late, "late").await.unwrap());
    assert!(ids(&late, 1).await.is_err());
    assert_eq!(node::lease(&late, "late", 0).await.unwrap(), 1);
    of_late.extend(ids(&late, 5_000).await.unwrap());
    assert_all_differ(&[&of_late, &of_next]);
    // A clock that is wrong by any amount does not help the old holder to the number.
    late_clock.advance_ms(-node::LEASE_MS);
    of_late.extend(ids(&late, 10).await.unwrap());
    assert_all_differ(&[&of_late, &of_next]);
}

/// Ids of a fast clock, and of more load than a millisecond has ids, lie ahead of the next holder's clock.
pub(super) async fn returned_number_is_not_used_before_its_last_id(test: TestDb) {
    let (fast, _) = process(&test, 30_000).await;
    assert_eq!(node::lease(&fast, "fast", 0).await.unwrap(), 0);
    let of_fast = ids(&fast, 10_000).await.unwrap();
    node::release(&fast, "fast").await.unwrap();
    assert!(ids(&fast, 1).await.is_err(), "given back");
    let (right, _) = process(&test, 0).await;
    assert_eq!(node::lease(&right, "right", 0).await.unwrap(), 1);
    let (later, _) = process(&test, 30_003).await;
    assert_eq!(node::lease(&later, "later", 0).await.unwrap(), 0);
    let (of_right, of_later) = (ids(&right, 10_000).await.unwrap(), ids(&later, 10_000).await.unwrap());
    assert_all_differ(&[&of_fast, &of_right, &of_later]);
    // One that is not ours is not given back.
    node::release(&right, "somebody else").await.unwrap();
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM node_lease WHERE owner = 'right'").await, 1);
}

pub(super) async fn a_clock_that_goes_back_shortens_no_lease(test: TestDb) {
    let (db, clock) = process(&test, 0).await;
    node::lease(&db, "owner", 0).await.unwrap();
    clock.advance_ms(node::LEASE_MS - 1);
    let mut given = ids(&db, 1).await.unwrap();
    clock.advance_ms(-30_000);
    assert!(node::renew(&db, "owner").await.unwrap());
    let (next, _) = process(&test, node::LEASE_MS - 1).await;
    assert_eq!(node::lease(&next, "next", 0).await.unwrap(), 1);
    given.extend(ids(&db, 10).await.unwrap());
    assert_all_differ(&[&given, &ids(&next, 10).await.unwrap()]);
}
