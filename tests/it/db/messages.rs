//! Outbox, inbox, parked messages, outgoing calls.

use std::collections::HashSet;

use bytes::Bytes;
use ruyi::db::delivery::{self, Attempt, Delivery};
use ruyi::db::outbox::{self, Failure, HEAD_START_MS, OutboxRow};
use ruyi::db::retry::{self, OpenKey, Parked};
use ruyi::db::tx::Draft;
use ruyi::db::{Dialect, inbox};
use ruyi::domain::event::Kind;

use super::count;
use crate::servers::{START_MS, TestDb, write_tx};

fn row(id: i64) -> OutboxRow {
    OutboxRow {
        id,
        event_id: format!("{id}:E"),
        topic: "E".into(),
        tag: "E".into(),
        key: id.to_string(),
        body: Bytes::from(vec![0, 255, 1]),
        properties: outbox::properties(&format!("{id}:E"), "E", Some("00-trace")),
        deliver_at_ms: 0,
        attempts: 0,
    }
}

pub(super) async fn outbox_(test: TestDb) {
    let (told, mut committed) = tokio::sync::mpsc::unbounded_channel();
    test.db.on_commit(Box::new(move |rows| told.send(rows).unwrap()));
    let later = OutboxRow { deliver_at_ms: START_MS + 60_000, ..row(3) };
    let done = write_tx!(test.db, [later], |tx| {
        outbox::insert(tx, &[row(1), row(2), later, row(4)], START_MS).await?;
        let body = serde_json::json!({"orderId": "5"});
        tx.emit(&Draft {
            kind: Kind::OrderCreated,
            key: 5,
            discriminator: "x",
            body: &body,
            trace: None,
            deliver_at: 0,
        })
    });
    done.unwrap();
    let rows = committed.recv().await.unwrap();
    assert_eq!(rows.iter().map(|row| row.event_id.as_str()).collect::<Vec<_>>(), ["5:ORDER_CREATED:x"]);
    let claim = async || write_tx!(test.db, [], |tx| { outbox::claim(tx, 10, 1_000).await }).unwrap();
    assert!(claim().await.is_empty(), "the writer's head start");
    test.clock.advance_ms(HEAD_START_MS);
    let taken = claim().await;
    assert_eq!(taken.len(), 4);
    let first = taken.iter().find(|one| one.id == 1).unwrap();
    assert_eq!((&first.body, &first.properties), (&row(1).body, &row(1).properties));
    assert!(claim().await.is_empty(), "leased");
    test.clock.advance_ms(1_000);
    assert_eq!(claim().await.len(), 4);
    let now_ms = test.clock.now_ms();
    let failure = |id, next_at| Failure { id, attempts: 2, next_at, error: "é".repeat(600) };
    let failures = vec![failure(1, None), failure(2, Some(now_ms + 5))];
    let done = write_tx!(test.db, [failures], |tx| {
        outbox::mark_failed(tx, failures).await?;
        assert_eq!(outbox::cancel(tx, vec!["3:E".into(), "1:E".into(), "9:E".into()]).await?, 1);
        outbox::mark_sent(tx, &[4, 3], now_ms).await
    });
    done.unwrap();
    let mut conn = test.db.read().await.unwrap();
    // 2, and the emitted one.
    assert_eq!(outbox::pending(&mut conn, now_ms).await.unwrap(), (2, Some(START_MS)));
    assert_eq!(outbox::next_due(&mut conn).await.unwrap(), Some(now_ms + 5));
    assert_eq!(count(&test.db, "SELECT status FROM message_record WHERE id = 1").await, 2);
    assert_eq!(count(&test.db, "SELECT status FROM message_record WHERE id = 3").await, 3);
    assert_eq!(count(&test.db, "SELECT status FROM message_record WHERE id = 4 AND next_at IS NULL").await, 1);
}

pub(super) async fn outbox_claims_are_disjoint(test: TestDb) {
    let rows: Vec<OutboxRow> = (1..=6).map(row).collect();
    write_tx!(test.db, [rows], |tx| { outbox::insert(tx, &rows, START_MS).await }).unwrap();
    test.clock.advance_ms(HEAD_START_MS);
    let ids = |rows: Vec<OutboxRow>| rows.into_iter().map(|row| row.id).collect::<Vec<_>>();
    if test.db.dialect() == Dialect::MySql {
        // The second claims while the first has not committed.
        let db = test.db.clone();
        let (first, second) = write_tx!(test.db, [db], |tx| {
            let first = outbox::claim(tx, 3, 1_000).await?;
            let second = write_tx!(db, [], |other| { outbox::claim(other, 3, 1_000).await })?;
            Ok((first, second))
        })
        .unwrap();
        assert_eq!((ids(first), ids(second)), (vec![1, 2, 3], vec![4, 5, 6]));
    } else {
        let first = write_tx!(test.db, [], |tx| { outbox::claim(tx, 3, 1_000).await }).unwrap();
        let second = write_tx!(test.db, [], |tx| { outbox::claim(tx, 3, 1_000).await }).unwrap();
        assert_eq!((ids(first), ids(second)), (vec![1, 2, 3], vec![4, 5, 6]));
    }
}

fn claims(ids: &[String]) -> Vec<inbox::Claim<'_>> {
    ids.iter().map(|id| inbox::Claim { message_id: id, topic: "T", key: "k" }).collect()
}

pub(super) async fn inbox_(test: TestDb) {
    let ids = |range: std::ops::Range<i64>| range.map(|id| format!("{id:05}:E")).collect::<Vec<_>>();
    let claim = async |group: &'static str, batch: i64, ids: Vec<String>| {
        write_tx!(test.db, [ids], |tx| { inbox::claim(tx, group, batch, &claims(&ids), 1).await }).unwrap()
    };
    assert!(claim("g", 1, vec![]).await.is_empty());
    assert_eq!(claim("g", 2, ids(0..300)).await.len(), 300);
    assert_eq!(claim("g", 3, ids(0..300)).await, HashSet::new());
    assert_eq!(claim("g", 4, ids(290..600)).await, ids(300..600).into_iter().collect::<HashSet<_>>());
    assert_eq!(claim("other", 2, ids(0..10)).await.len(), 10);
    let some = ids(0..257);
    let done = write_tx!(test.db, [some], |tx| {
        inbox::set_outcome(tx, "g", some, inbox::Outcome::Ignored, Some(&"é".repeat(600))).await
    });
    done.unwrap();
    let ignored = "SELECT COUNT(*) FROM message_process_log WHERE outcome = 1 AND consumer_group = 'g'";
    assert_eq!(count(&test.db, ignored).await, 257);
}

pub(super) async fn inbox_claims_each_id_once(test: TestDb) {
    let consumers: Vec<_> = (0..6_i64)
        .map(|consumer| {
            let db = test.db.clone();
            tokio::spawn(async move {
                let mut mine = Vec::new();
                for round in 0..6 {
                    let first = round * 50 + consumer * 20;
                    let ids: Vec<String> = (first..first + 100).map(|id| format!("{id:05}:E")).collect();
                    let batch = 1_000 * consumer + round;
                    let new = write_tx!(db, [ids], |tx| { inbox::claim(tx, "g", batch, &claims(&ids), 1).await });
                    mine.extend(new.unwrap());
                }
                mine
            })
        })
        .collect();
    let mut all = Vec::new();
    for consumer in consumers {
        all.extend(consumer.await.unwrap());
    }
    let distinct: HashSet<&String> = all.iter().collect();
    assert_eq!(distinct.len(), all.len(), "claimed twice");
    assert_eq!(i64::try_from(all.len()).unwrap(), count(&test.db, "SELECT COUNT(*) FROM message_process_log").await);
    assert_eq!(all.len(), 450);
}

fn parked(id: i64, key: &str, blocks: bool, next_at: Option<i64>) -> Parked {
    Parked {
        id,
        message_id: format!("{id}:E"),
        topic: "E".into(),
        tag: "E".into(),
        key: key.into(),
        body: vec![0, 200],
        properties: vec![("a".into(), "b".into())],
        blocks,
        attempts: 1,
        next_at,
        first_failed_at: START_MS,
        last_error: "why".into(),
    }
}

pub(super) async fn retry_(test: TestDb) {
    let rows = vec![
        parked(1, "k", true, Some(START_MS + 10)),
        parked(2, "k", true, None),
        parked(3, "k", true, None),
        parked(4, "early", false, Some(START_MS + 9_000)),
    ];
    write_tx!(test.db, [rows], |tx| { retry::park(tx, "g", &rows, START_MS).await }).unwrap();
    let mut conn = test.db.read().await.unwrap();
    let mut open = retry::open_keys(&mut conn, "g", vec!["k".into(), "early".into(), "no".into()]).await.unwrap();
    open.sort_by(|a, b| a.key.cmp(&b.key));
    let key = |key: &str, blocks| OpenKey { key: key.into(), blocks };
    assert_eq!(open, [key("early", false), key("k", true)]);
    assert!(retry::open_keys(&mut conn, "other", vec!["k".into()]).await.unwrap().is_empty());
    assert_eq!(retry::next_due(&mut conn, "g").await.unwrap(), Some(START_MS + 10));
    assert_eq!(retry::waiting(&mut conn).await.unwrap(), 4);
    let claim = async || write_tx!(test.db, [], |tx| { retry::claim(tx, "g", 10, 1_000).await }).unwrap();
    assert!(claim().await.is_empty());
    test.clock.advance_ms(10);
    let taken = claim().await;
    assert_eq!(taken, rows[..1]);
    assert!(claim().await.is_empty(), "leased");
    let first = Parked { attempts: 2, ..rows[0].clone() };
    let until = test.clock.now_ms() + 30;
    write_tx!(test.db, [first], |tx| { retry::postpone(tx, &first, until, "again").await }).unwrap();
    test.clock.advance_ms(30);
    let taken = claim().await;
    assert_eq!((taken.len(), taken[0].attempts, taken[0].last_error.as_str()), (1, 2, "again"));
    // One after the other, in order.
    for next in [2, 3] {
        let before = parked(next - 1, "k", true, None);
        let done = write_tx!(test.db, [before], |tx| {
            assert!(retry::lock_waiting(tx, before.id).await?);
            retry::finish(tx, "g", &before, retry::Status::Done, "").await?;
            assert!(!retry::lock_waiting(tx, before.id).await?);
            Ok(())
        });
        done.unwrap();
        assert_eq!(claim().await.iter().map(|row| row.id).collect::<Vec<_>>(), [next]);
    }
    let last = parked(3, "k", true, None);
    write_tx!(test.db, [last], |tx| { retry::finish(tx, "g", &last, retry::Status::Dead, "no").await }).unwrap();
    assert_eq!(retry::waiting(&mut conn).await.unwrap(), 1);
    write_tx!(test.db, [], |tx| { retry::wake_early(tx, "g", vec!["early".into(), "k".into()]).await }).unwrap();
    assert_eq!(claim().await.iter().map(|row| row.id).collect::<Vec<_>>(), [4]);
    assert_eq!(count(&test.db, "SELECT status FROM message_retry_log WHERE id = 3").await, 2);
}

pub(super) async fn delivery_(test: TestDb) {
    let call = |id: i64, reference: &str| Delivery {
        id,
        kind: delivery::Kind::Warehouse,
        reference: reference.into(),
        order_id: 9,
        url: "http://x/".into(),
        body: "{}".into(),
        attempts: 0,
        next_at: START_MS + id,
    };
    let calls = vec![call(1, "a"), call(2, "b"), call(3, "a")];
    let inserted = write_tx!(test.db, [calls], |tx| { delivery::insert(tx, &calls).await }).unwrap();
    assert_eq!(inserted, 2);
    let mut conn = test.db.read().await.unwrap();
    assert_eq!(delivery::next_due(&mut conn, &delivery::Kind::ALL).await.unwrap(), Some(START_MS + 1));
    let claim =
        async || write_tx!(test.db, [], |tx| { delivery::claim(tx, &delivery::Kind::ALL, 10, 1_000).await }).unwrap();
    assert!(claim().await.is_empty());
    test.clock.advance_ms(2);
    assert_eq!(claim().await, calls[..2]);
    assert!(claim().await.is_empty(), "leased");
    let attempt = |delivery_id, status, next_at: Option<i64>| Attempt {
        delivery_id,
        attempt: 1,
        started_at: START_MS,
        duration_ms: 3,
        http_status: next_at.is_none().then_some(200),
        error: next_at.is_some().then(|| "é".repeat(600)),
        status,
        next_at,
    };
    let attempts =
        vec![attempt(1, delivery::Status::Done, None), attempt(2, delivery::Status::Pending, Some(START_MS + 50))];
    let done = write_tx!(test.db, [attempts], |tx| {
        assert_eq!(delivery::lock_pending(tx, vec![2, 1, 3]).await?, [(1, 0), (2, 0)]);
        delivery::record(tx, &attempts).await?;
        assert_eq!(delivery::lock_pending(tx, vec![2, 1]).await?, [(2, 1)]);
        Ok(())
    });
    done.unwrap();
    assert_eq!(delivery::next_due(&mut conn, &delivery::Kind::ALL).await.unwrap(), Some(START_MS + 50));
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM delivery_attempt").await, 2);
    test.clock.advance_ms(60);
    assert_eq!(claim().await.iter().map(|call| (call.id, call.attempts)).collect::<Vec<_>>(), [(2, 1)]);
}
