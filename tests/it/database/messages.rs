//! Outbox, inbox, parked messages, outgoing calls.

use std::collections::HashSet;

use bytes::Bytes;
use ruyi::db::delivery::{self, Attempt, Delivery};
use ruyi::db::outbox::{self, Failure, HEAD_START_MS, OutboxRow};
use ruyi::db::retry::{self, OpenKey, Parked};
use ruyi::db::tx::{Draft, Holder};
use ruyi::db::tx_state::{self, TxState};
use ruyi::db::{DbError, Dialect, inbox};
use ruyi::domain::event::Kind;
use ruyi::mq::message::Delay;
use ruyi::mq::relay::outgoing;

use crate::support::message_rows::outbox_row;
use crate::support::servers::tidb::is_tidb;
use crate::support::servers::{START_MS, TestDb, count, write_tx};

fn row(id: i64) -> OutboxRow {
    let properties = outbox::properties(&format!("{id}:E"), "E", Some("00-trace"));
    OutboxRow { key: id.to_string(), body: Bytes::from(vec![0, 255, 1]), properties, ..outbox_row(id) }
}

pub(super) async fn outbox_(test: TestDb) {
    let (told, mut committed) = tokio::sync::mpsc::unbounded_channel();
    test.db.on_commit(Box::new(move |rows| told.send(rows).unwrap()));
    let later = OutboxRow { deliver_at_ms: START_MS + 60_000, ..row(3) };
    let done = write_tx!(test.db, [later], |tx| {
        outbox::insert(tx, &[row(1), row(2), later], START_MS).await?;
        let known = outbox::existing(tx, vec![row(2).event_id, row(4).event_id]).await?;
        assert_eq!(known.into_iter().collect::<Vec<_>>(), [row(2).event_id]);
        outbox::insert(tx, &[row(4)], START_MS).await?;
        let body = serde_json::json!({"orderId": "5"});
        tx.emit(&Draft { discriminator: "x", ..Draft::new(Kind::OrderCreated, 5, &body, None) })
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

pub(super) async fn what_is_late_or_given_up_is_counted(test: TestDb) {
    let now_ms = START_MS;
    let later = OutboxRow { deliver_at_ms: now_ms + 10_000, ..row(3) };
    let failed = |id, next_at| Failure { id, attempts: 1, next_at, error: "no".into() };
    let failures = vec![failed(2, Some(now_ms + 60_000)), failed(4, None), failed(5, None)];
    let done = write_tx!(test.db, [later, failures], |tx| {
        outbox::insert(tx, &[row(1), row(2), later, row(4), row(5), row(6)], START_MS).await?;
        outbox::mark_failed(tx, failures).await?;
        outbox::hold(tx, &[6]).await
    });
    done.unwrap();
    let mut conn = test.db.read().await.unwrap();
    // The one that failed and the one that is held, since they were written.
    assert_eq!(outbox::overdue(&mut conn, now_ms).await.unwrap(), (2, Some(now_ms)));
    assert_eq!(outbox::overdue(&mut conn, now_ms + HEAD_START_MS).await.unwrap(), (3, Some(now_ms)));
    // The delayed one, since it was due.
    assert_eq!(outbox::overdue(&mut conn, now_ms + 10_000).await.unwrap(), (4, Some(now_ms)));
    write_tx!(test.db, [], |tx| { outbox::mark_sent(tx, &[1, 2, 6], now_ms).await }).unwrap();
    assert_eq!(outbox::overdue(&mut conn, now_ms + 12_000).await.unwrap(), (1, Some(now_ms + 10_000)));
    assert_eq!(outbox::given_up(&mut conn, 0).await.unwrap(), 2);
    assert_eq!(outbox::given_up(&mut conn, 5).await.unwrap(), 1);
    write_tx!(test.db, [], |tx| { outbox::mark_sent(tx, &[4], now_ms).await }).unwrap();
    assert_eq!(outbox::given_up(&mut conn, 0).await.unwrap(), 1);

    let call = |id: i64, next_at| Delivery {
        id,
        kind: delivery::Kind::Warehouse,
        reference: id.to_string(),
        order_id: 1,
        url: "http://127.0.0.1:1/".into(),
        body: "{}".into(),
        attempts: 0,
        next_at,
        trace: None,
    };
    let attempt = |id, status| Attempt {
        delivery_id: id,
        attempt: 1,
        started_at: now_ms,
        duration_ms: 1,
        http_status: None,
        error: None,
        request: None,
        answer: None,
        status,
        next_at: None,
        unanswered: 0,
    };
    let calls = [call(1, now_ms + 5), call(2, now_ms), call(3, now_ms), call(4, now_ms), call(5, now_ms + 9)];
    let attempts =
        [attempt(2, delivery::Status::Dead), attempt(3, delivery::Status::Refused), attempt(4, delivery::Status::Done)];
    let done = write_tx!(test.db, [calls, attempts], |tx| {
        delivery::insert(tx, &calls).await?.all()?;
        delivery::record(tx, &attempts).await
    });
    done.unwrap();
    assert_eq!(delivery::overdue(&mut conn, now_ms).await.unwrap(), (0, None));
    assert_eq!(delivery::overdue(&mut conn, now_ms + 9).await.unwrap(), (2, Some(now_ms + 5)));
    assert_eq!(delivery::given_up(&mut conn, 0).await.unwrap(), 2);
    assert_eq!(delivery::given_up(&mut conn, 3).await.unwrap(), 1);
    assert_eq!(delivery::find(&mut conn, delivery::Kind::Warehouse, "2").await.unwrap().unwrap().next_at, None);
    assert_eq!(retry::waiting_of(&mut conn, "g").await.unwrap(), (0, None));
}

pub(super) async fn outbox_rows_wait_for_broker_and_leave_in_order(test: TestDb) {
    let rows: Vec<OutboxRow> = (1..=4).map(row).collect();
    write_tx!(test.db, [rows], |tx| { outbox::insert(tx, &rows, START_MS).await }).unwrap();
    test.clock.advance_ms(HEAD_START_MS);
    let now_ms = test.clock.now_ms();
    // One is sent, one is held twice, and what is sent is not held.
    let done = write_tx!(test.db, [], |tx| {
        outbox::mark_sent(tx, &[4], now_ms).await?;
        outbox::hold(tx, &[2, 3, 4]).await?;
        outbox::hold(tx, &[3]).await
    });
    done.unwrap();
    let mut conn = test.db.read().await.unwrap();
    assert!(outbox::any_held(&mut conn).await.unwrap());
    // Held rows are pending, but nobody's work.
    assert_eq!(outbox::pending(&mut conn, now_ms).await.unwrap(), (3, Some(START_MS)));
    let ids = |rows: Vec<OutboxRow>| rows.into_iter().map(|row| row.id).collect::<Vec<_>>();
    let claim = async || ids(write_tx!(test.db, [], |tx| { outbox::claim(tx, 10, 1_000).await }).unwrap());
    assert_eq!(claim().await, [1]);
    let done = write_tx!(test.db, [], |tx| {
        outbox::cancel(tx, vec![row(3).event_id]).await?;
        outbox::hold(tx, &[1]).await
    });
    done.unwrap();
    assert_eq!(write_tx!(test.db, [], |tx| { outbox::release(tx).await }).unwrap(), 2);
    assert!(!outbox::any_held(&mut conn).await.unwrap());
    assert_eq!(claim().await, [1, 2], "in their order, and without the canceled one");
    assert_eq!(write_tx!(test.db, [], |tx| { outbox::release(tx).await }).unwrap(), 0);
}

pub(super) async fn outbox_claims_are_disjoint(test: TestDb) {
    let rows: Vec<OutboxRow> = (1..=6).map(row).collect();
    write_tx!(test.db, [rows], |tx| { outbox::insert(tx, &rows, START_MS).await }).unwrap();
    test.clock.advance_ms(HEAD_START_MS);
    let ids = |rows: Vec<OutboxRow>| rows.into_iter().map(|row| row.id).collect::<Vec<_>>();
    if is_tidb(&test.url) {
        // There both read the same rows, and what one of them takes is not the other's: together no row twice.
        let claim = || {
            let db = test.db.clone();
            tokio::spawn(async move { write_tx!(db, [], |tx| { outbox::claim(tx, 3, 1_000).await }) })
        };
        let both = [claim(), claim()];
        let mut claimed = Vec::new();
        for one in both {
            claimed.extend(ids(one.await.unwrap().unwrap()));
        }
        let rest = write_tx!(test.db, [], |tx| { outbox::claim(tx, 10, 1_000).await }).unwrap();
        claimed.extend(ids(rest));
        claimed.sort_unstable();
        assert_eq!(claimed, [1, 2, 3, 4, 5, 6]);
    } else if test.db.dialect() == Dialect::MySql {
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

pub(super) async fn events_are_taken_back_by_key(test: TestDb) {
    let of = |id: i64, topic: &str, key: &str| OutboxRow { topic: topic.into(), key: key.into(), ..row(id) };
    let rows = vec![of(1, "A", "k"), of(2, "A", "k"), of(3, "A", "other"), of(4, "B", "k"), of(5, "A", "k")];
    let done = write_tx!(test.db, [rows], |tx| {
        outbox::insert(tx, &rows, START_MS).await?;
        outbox::mark_sent(tx, &[5], START_MS).await
    });
    done.unwrap();
    test.clock.advance_ms(HEAD_START_MS);
    // One of them is being sent.
    write_tx!(test.db, [], |tx| { outbox::claim(tx, 1, 1_000).await }).unwrap();
    let keys = vec!["k".to_owned(), "none".to_owned()];
    let taken = write_tx!(test.db, [keys], |tx| { outbox::cancel_by_key(tx, "A", keys).await }).unwrap();
    assert_eq!(taken, 2);
    // Its end finds it taken back, and leaves it so, however it ends.
    let failure = Failure { id: 1, attempts: 1, next_at: Some(START_MS), error: "e".into() };
    let done = write_tx!(test.db, [failure], |tx| {
        outbox::mark_failed(tx, vec![failure]).await?;
        outbox::mark_sent(tx, &[1, 2], START_MS).await
    });
    done.unwrap();
    test.clock.advance_ms(60_000);
    let left = write_tx!(test.db, [], |tx| { outbox::claim(tx, 10, 1_000).await }).unwrap();
    assert_eq!(left.iter().map(|row| row.id).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM message_record WHERE status = 3 AND next_at IS NULL").await, 2);
}

pub(super) async fn who_holds_a_delayed_event(test: TestDb) {
    let (told, mut committed) = tokio::sync::mpsc::unbounded_channel();
    test.db.on_commit(Box::new(move |rows| told.send(rows).unwrap()));
    let at_ms = START_MS + 60_000;
    let done = write_tx!(test.db, [], |tx| {
        let body = serde_json::json!({});
        let draft = |key| Draft { deliver_at: at_ms, ..Draft::new(Kind::TriggerOrderFulfill, key, &body, None) };
        tx.emit(&draft(1))?;
        tx.emit(&Draft { held_by: Holder::Broker, ..draft(2) })?;
        // Over already: there is nothing to hold.
        tx.emit(&Draft { held_by: Holder::Broker, deliver_at: START_MS, ..draft(3) })
    });
    done.unwrap();
    // Those that the broker holds leave at once.
    let delays = |rows: &[OutboxRow], now_ms| {
        rows.iter().map(|row| (row.key.clone(), outgoing(row, now_ms).delay)).collect::<Vec<_>>()
    };
    let left = committed.recv().await.unwrap();
    assert_eq!(delays(&left, START_MS), [("2".into(), Delay::Until(at_ms)), ("3".into(), Delay::None)]);
    // Sent again from the row, it is as delayed as before.
    test.clock.advance_ms(HEAD_START_MS);
    let claim = async || write_tx!(test.db, [], |tx| { outbox::claim(tx, 10, 600_000).await }).unwrap();
    let again = claim().await;
    assert_eq!(delays(&again, test.clock.now_ms()), [("2".into(), Delay::Until(at_ms)), ("3".into(), Delay::None)]);
    assert!(outgoing(&again[0], START_MS).properties.iter().all(|(name, _)| name != outbox::TIMER_PROPERTY));
    test.clock.advance_ms(60_000);
    let held = claim().await;
    assert_eq!(delays(&held, test.clock.now_ms()), [("1".into(), Delay::None)]);
}

pub(super) async fn what_no_broker_takes_has_no_row(test: TestDb) {
    let emit = async |body: String, trace: Option<String>| {
        let done = write_tx!(test.db, [body, trace], |tx| {
            let body = serde_json::json!({ "b": body });
            tx.emit(&Draft::new(Kind::OrderCreated, 1, &body, None))?;
            tx.emit(&Draft::new(Kind::StockFrozen, 1, &body, trace.as_deref()))
        });
        done.map_err(|error| (error.is_permanent(), error.is_outage(), error))
    };
    test.db.limit_messages(10_000);
    // 3,300 characters, 9,900 bytes.
    let (permanent, outage, error) = emit("\u{5b57}".repeat(3_300), None).await.unwrap_err();
    assert!(permanent && !outage);
    assert!(matches!(error, DbError::TooLarge { max_bytes: 10_000, bytes, .. } if bytes > 10_000), "{error}");
    let (permanent, _, error) = emit(String::new(), Some("t".repeat(9_900))).await.unwrap_err();
    assert!(permanent, "{error}");
    test.db.limit_messages(100_000);
    let (permanent, outage, error) = emit(String::new(), Some("t".repeat(40_000))).await.unwrap_err();
    assert!(permanent && !outage && matches!(error, DbError::Unsendable { .. }), "{error}");
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM message_record").await, 0);
    emit("\u{5b57}".repeat(3_300), None).await.unwrap();
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM message_record").await, 2);
}

fn claims(ids: &[String]) -> Vec<inbox::Claim<'_>> {
    ids.iter().map(|id| inbox::Claim { message_id: id, topic: "T", key: "k", resent: None }).collect()
}

pub(super) async fn inbox_(test: TestDb) {
    let ids = |range: std::ops::Range<i64>| range.map(|id| format!("{id:05}:E")).collect::<Vec<_>>();
    let claim = async |group: &'static str, batch: i64, ids: Vec<String>| {
        write_tx!(test.db, [ids], |tx| { inbox::claim(tx, group, batch, &claims(&ids), 1).await }).unwrap().ids
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
                    mine.extend(new.unwrap().ids);
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

pub(super) async fn inbox_revives_what_was_sent_again(test: TestDb) {
    let claim = async |batch: i64, ids: &[&str], resent_at: Option<i64>| {
        let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        let claimed = write_tx!(test.db, [ids], |tx| {
            let resent = resent_at.map(inbox::Resent::At);
            let claims: Vec<_> = claims(&ids).into_iter().map(|claim| inbox::Claim { resent, ..claim }).collect();
            inbox::claim(tx, "g", batch, &claims, START_MS + batch).await
        });
        let mut ids: Vec<String> = claimed.unwrap().ids.into_iter().collect();
        ids.sort();
        ids
    };
    let bury = async |id: &'static str, at: i64| {
        write_tx!(test.db, [], |tx| { inbox::bury(tx, "g", id, None, "no", START_MS + at).await }).unwrap();
    };
    assert_eq!(claim(1, &["a", "b", "c", "d"], None).await, ["a", "b", "c", "d"]);
    bury("b", 10).await;
    bury("c", 10).await;
    for (id, outcome) in [("a", inbox::Outcome::Ignored), ("d", inbox::Outcome::Parked)] {
        write_tx!(test.db, [], |tx| { inbox::set_outcome(tx, "g", vec![id.into()], outcome, None).await }).unwrap();
    }
    // Not without being asked, not what was sent before the death, and only what is dead.
    assert!(claim(2, &["a", "b", "c", "d"], None).await.is_empty());
    assert!(claim(3, &["a", "b", "c", "d"], Some(START_MS + 10)).await.is_empty());
    assert_eq!(claim(4, &["a", "b", "d", "e"], Some(START_MS + 11)).await, ["b", "e"]);
    assert!(claim(5, &["b"], Some(START_MS + 11)).await.is_empty());
    assert_eq!(claim(6, &["c"], Some(0)).await, ["c"], "sent at a time that nobody knows");
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM message_process_log WHERE outcome = 3").await, 0);
    bury("b", 20).await;
    // Two copies at once: one gets through.
    let copies: Vec<_> = (0..6_i64)
        .map(|copy| {
            let db = test.db.clone();
            tokio::spawn(async move {
                let claimed = write_tx!(db, [], |tx| {
                    let resent = Some(inbox::Resent::At(START_MS + 21));
                    let b = inbox::Claim { message_id: "b", topic: "T", key: "k", resent };
                    inbox::claim(tx, "g", 100 + copy, &[b], START_MS + 22).await
                });
                claimed.unwrap().revived.len()
            })
        })
        .collect();
    let mut through = 0;
    for copy in copies {
        through += copy.await.unwrap();
    }
    assert_eq!(through, 1);
}

/// A message that comes while the one before it is being finished has its turn all the same.
pub(super) async fn parking_behind_and_finishing_exclude_each_other(test: TestDb) {
    for round in 0..40_i64 {
        let (key, first, second) = (format!("k{round}"), round * 10 + 1, round * 10 + 2);
        let before = parked(first, &key, true, Some(START_MS));
        let rows = vec![before.clone()];
        write_tx!(test.db, [rows], |tx| { retry::park(tx, "g", &rows, START_MS).await }).unwrap();
        let (db, other, behind) = (test.db.clone(), test.db.clone(), key.clone());
        let finish = tokio::spawn(async move {
            write_tx!(db, [before], |tx| {
                assert!(retry::lock_waiting(tx, &before).await?);
                retry::finish(tx, "g", &before, retry::Status::Done, "").await
            })
        });
        let park = tokio::spawn(async move {
            write_tx!(other, [behind], |tx| {
                let open = retry::open_keys(tx, "g", vec![behind.clone()]).await?;
                // Long enough for the other to commit, were it not held up.
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                let next_at = open.is_empty().then_some(START_MS);
                retry::park(tx, "g", &[parked(second, &behind, true, next_at)], START_MS).await
            })
        });
        finish.await.unwrap().unwrap();
        park.await.unwrap().unwrap();
    }
    let stuck = "SELECT COUNT(*) FROM message_retry_log WHERE status = 0 AND next_at IS NULL";
    assert_eq!(count(&test.db, stuck).await, 0);
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM message_retry_log WHERE status = 0").await, 40);
    let all = (0..40_i64).map(|round| format!("{}:E", round * 10 + 1)).collect::<Vec<_>>();
    write_tx!(test.db, [all], |tx| { retry::forget(tx, "g", all).await }).unwrap();
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM message_retry_log").await, 40);
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
        let before = Parked { attempts: if next == 2 { 2 } else { 1 }, ..parked(next - 1, "k", true, None) };
        let done = write_tx!(test.db, [before], |tx| {
            assert!(retry::lock_waiting(tx, &before).await?);
            retry::finish(tx, "g", &before, retry::Status::Done, "").await?;
            assert!(!retry::lock_waiting(tx, &before).await?);
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

/// What has no key waits for nothing; what the version before parked behind such a message has its turn all the same.
pub(super) async fn without_a_key_nothing_waits(test: TestDb) {
    let rows = [
        parked(1, "", true, Some(START_MS)),
        parked(2, "", true, None),
        parked(3, "", true, None),
        parked(4, "", false, Some(START_MS)),
        parked(5, "", false, Some(START_MS + 9_000)),
    ];
    write_tx!(test.db, [rows], |tx| { retry::park(tx, "g", &rows, START_MS).await }).unwrap();
    let mut conn = test.db.read().await.unwrap();
    assert!(retry::open_keys(&mut conn, "g", vec![String::new()]).await.unwrap().is_empty());
    assert_eq!(retry::waiting(&mut conn).await.unwrap(), 5);
    write_tx!(test.db, [], |tx| { retry::wake_early(tx, "g", vec![String::new()]).await }).unwrap();
    let claim = async || {
        let claimed = write_tx!(test.db, [], |tx| { retry::claim(tx, "g", 10, 1_000).await }).unwrap();
        claimed.iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let finish = async |row: Parked| {
        write_tx!(test.db, [row], |tx| { retry::finish(tx, "g", &row, retry::Status::Done, "").await }).unwrap();
    };
    assert_eq!(claim().await, [1, 4], "nobody has said that 5 may come now");
    finish(rows[3].clone()).await;
    assert!(claim().await.is_empty());
    finish(rows[0].clone()).await;
    assert_eq!(claim().await, [2]);
    // An operator need not wait for it.
    assert_eq!(write_tx!(test.db, [], |tx| { retry::wake_lost(tx, 3).await }).unwrap(), 1);
    assert_eq!(claim().await, [3]);
}

pub(super) async fn delivery_(test: TestDb) {
    use delivery::Status::{Done, Pending};

    let call = |id: i64, reference: &str| Delivery {
        id,
        kind: delivery::Kind::Warehouse,
        reference: reference.into(),
        order_id: 9,
        url: "http://x/".into(),
        body: "{}".into(),
        attempts: 0,
        next_at: START_MS + id,
        trace: (id == 1).then(|| "00-a-b-01".to_owned()),
    };
    let calls = vec![call(1, "a"), call(2, "b"), call(3, "a")];
    let inserted = write_tx!(test.db, [calls], |tx| { delivery::insert(tx, &calls).await }).unwrap();
    assert_eq!((inserted.count(), inserted.is_all()), (2, false));
    let mut conn = test.db.read().await.unwrap();
    assert_eq!(delivery::next_due(&mut conn, &[delivery::Kind::Warehouse]).await.unwrap(), Some(START_MS + 1));
    let claim = async || {
        write_tx!(test.db, [], |tx| { delivery::claim(tx, &[delivery::Kind::Warehouse], 10, 1_000).await }).unwrap()
    };
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
        request: None,
        answer: None,
        status,
        next_at,
        unanswered: 1,
    };
    let open = |id, attempts, status| delivery::Open { id, attempts, base: 0, status, unanswered: 1 };
    let attempts = vec![attempt(1, Done, None), attempt(2, Pending, Some(START_MS + 50))];
    let done = write_tx!(test.db, [attempts], |tx| {
        assert_eq!(delivery::lock_made(tx, vec![2, 1, 3]).await?, [open(1, 0, Pending), open(2, 0, Pending)]);
        delivery::record(tx, &attempts).await?;
        assert_eq!(delivery::lock_made(tx, vec![2, 1]).await?, [open(1, 1, Done), open(2, 1, Pending)]);
        Ok(())
    });
    done.unwrap();
    assert_eq!(delivery::next_due(&mut conn, &[delivery::Kind::Warehouse]).await.unwrap(), Some(START_MS + 50));
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM delivery_attempt").await, 2);
    test.clock.advance_ms(60);
    assert_eq!(claim().await.iter().map(|call| (call.id, call.attempts)).collect::<Vec<_>>(), [(2, 1)]);
}

pub(super) async fn tx_state_(test: TestDb) {
    let attempt = |n: i64| tx_state::Attempt { tx_id: format!("1:E#{n}"), event_id: format!("{n}:E"), key: "1".into() };
    let (a, b, c) = (attempt(3), attempt(1), attempt(2));
    let both = [a.clone(), b.clone()];
    let decided = write_tx!(test.db, [both], |tx| { tx_state::decide(tx, &both, TxState::Committed).await }).unwrap();
    assert_eq!(decided.len(), 2);
    assert!(decided.values().all(|state| *state == TxState::Committed));
    // The first word counts, whoever says it, and however often.
    let mixed = [a.clone(), c.clone()];
    for _ in 0..2 {
        let mixed = mixed.clone();
        let decided = write_tx!(test.db, [mixed], |tx| { tx_state::decide(tx, &mixed, TxState::RolledBack).await });
        let decided = decided.unwrap();
        assert_eq!((decided[&a.tx_id], decided[&c.tx_id]), (TxState::Committed, TxState::RolledBack));
    }
    let decided = write_tx!(test.db, [c], |tx| { tx_state::decide(tx, &[c], TxState::Committed).await }).unwrap();
    assert_eq!(decided.into_values().collect::<Vec<_>>(), [TxState::RolledBack]);
    assert!(write_tx!(test.db, [], |tx| { tx_state::decide(tx, &[], TxState::Committed).await }).unwrap().is_empty());

    test.clock.advance_ms(5);
    let ids = vec![a.tx_id.clone(), c.tx_id.clone()];
    write_tx!(test.db, [ids], |tx| { tx_state::mark_resumed(tx, ids).await }).unwrap();
    let mut conn = test.db.read().await.unwrap();
    let ids = vec![a.tx_id.clone(), b.tx_id.clone(), c.tx_id.clone(), "absent".into()];
    let found = tx_state::find(&mut conn, ids).await.unwrap();
    assert_eq!(found.len(), 3);
    let row = &found[&a.tx_id];
    assert_eq!((&row.attempt, row.created_at, row.resumed_at), (&a, START_MS, Some(START_MS + 5)));
    assert_eq!(found[&b.tx_id].resumed_at, None);
    let events = ["3:E", "1:E", "2:E", "9:E"].map(str::to_owned).to_vec();
    let mut committed: Vec<String> = tx_state::committed_events(&mut conn, events).await.unwrap().into_iter().collect();
    committed.sort();
    assert_eq!(committed, ["1:E", "3:E"]);
}
