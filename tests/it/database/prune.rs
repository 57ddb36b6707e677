//! Pruning: what is old and done goes, what is needed stays, duplicates stay duplicates, and the audit stays clean.

use std::collections::BTreeMap;
use std::time::Duration;

use ruyi::audit::RoleDbs;
use ruyi::db::inbox::{self, Claim};
use ruyi::db::sql::{self, Columns};
use ruyi::db::{Db, node};
use ruyi::domain::event::{Group, Kind, Role};
use ruyi::prune::{self, Options, Summary, Table, Target};
use ruyi::vals;

use crate::support::servers::{TestDb, mariadb, sqlite, write_tx};
use crate::support::small_shop::{audit, execute, small_shop};

const DAY_MS: i64 = 86_400_000;

fn options(tables: &[Table], days: i64) -> Options {
    let targets = tables.iter().map(|table| Target { table: *table, older_than_ms: days * DAY_MS }).collect();
    Options { targets, inbox_ms: 60 * DAY_MS, batch: 3, pause: Duration::ZERO, dry_run: false }
}

async fn run(db: &Db, options: &Options) -> BTreeMap<Table, (u64, u64)> {
    let mut told = 0;
    let done = prune::run(&RoleDbs::one(db), options, |_: &Summary| told += 1).await;
    let failed: Vec<_> = done.iter().filter_map(|one| one.error.as_ref()).collect();
    assert!(failed.is_empty() && (told > 0 || done.iter().all(|one| one.scanned == 0)), "{failed:?}");
    done.iter().map(|one| (one.table, (one.pruned, one.kept))).collect()
}

async fn rows(db: &Db) -> Vec<i64> {
    let mut conn = db.read().await.unwrap();
    let mut counts = Vec::new();
    for table in Table::ALL {
        let text = format!("SELECT COUNT(*) FROM {}", table.name());
        counts.push(sql::fetch_one(&mut conn, text, vec![]).await.unwrap().unwrap().int(0).unwrap());
    }
    counts
}

/// Rows of each table that have to stay whatever their age, beside others that have not.
async fn needed(db: &Db) {
    execute(
        db,
        &[
            "UPDATE message_record SET status = 0, next_at = 1 WHERE event_id = '1:ORDER_CREATED'",
            "UPDATE message_record SET status = 2 WHERE event_id = '2:ORDER_CREATED'",
            "UPDATE message_record SET status = 3 WHERE event_id = '3:ORDER_CREATED'",
            // The broker's timer still holds it.
            "UPDATE message_record SET properties = '[[\"TIMER_DELIVER_MS\",\"9000000000000\"]]' \
             WHERE event_id = '4:ORDER_CREATED'",
            // A group has not handled it; another one has it parked.
            "DELETE FROM message_process_log WHERE message_id = '1:PAID_ORDER_SUCCESS' \
             AND consumer_group = 'points-consumer-group'",
            "UPDATE message_process_log SET outcome = 2 WHERE message_id = '5:INVENTORY_RELEASE'",
        ],
    )
    .await;
    let old = db.clock().now_ms() - 40 * DAY_MS;
    let mut conn = db.read().await.unwrap();
    for (id, status) in [(1_i64, 0_i64), (2, 1), (3, 2)] {
        let text = "INSERT INTO message_retry_log (id, consumer_group, message_id, topic, tag, msg_key, body, \
                    properties, status, blocks, attempts, first_failed_at, last_error, updated_at) \
                    VALUES (?, 'g', ?, 't', 't', 'k', 'b', '[]', ?, 1, 1, 1, '', ?)";
        sql::execute(&mut conn, text, vals![id, format!("m{id}"), status, old]).await.unwrap();
        let text = "INSERT INTO delivery (id, kind, ref, order_id, url, body, status, attempts, created_at, updated_at) \
                    VALUES (?, 3, ?, 1, 'u', 'b', ?, 4, 1, ?)";
        sql::execute(&mut conn, text, vals![id, format!("d{id}"), status, old]).await.unwrap();
        // The same to a merchant, who was only told something.
        let text = "INSERT INTO delivery (id, kind, ref, order_id, url, body, status, attempts, created_at, updated_at) \
                    VALUES (?, 7, ?, 1, 'u', 'b', ?, 4, 1, ?)";
        sql::execute(&mut conn, text, vals![id + 10, format!("n{id}"), status, old]).await.unwrap();
        for (call, attempt) in (1..=8_i64).map(|number| (id + number / 5 * 10, number)) {
            let text =
                "INSERT INTO delivery_attempt (delivery_id, attempt, started_at, duration_ms) VALUES (?, ?, 1, 1)";
            sql::execute(&mut conn, text, vals![call, attempt]).await.unwrap();
        }
        let at = if id == 1 { old + 30 * DAY_MS } else { old };
        let text =
            "INSERT INTO message_tx_state (tx_id, event_id, msg_key, state, created_at) VALUES (?, 'e', 'k', 1, ?)";
        sql::execute(&mut conn, text, vals![format!("t{id}"), at]).await.unwrap();
    }
}

async fn what_is_needed_stays(test: TestDb) {
    small_shop(&test).await;
    test.clock.advance_ms(40 * DAY_MS);
    needed(&test.db).await;
    let before = rows(&test.db).await;
    let dry = Options { dry_run: true, ..options(&Table::ALL, 30) };
    let counted = run(&test.db, &dry).await;
    assert_eq!(rows(&test.db).await, before, "a dry run changes nothing");
    let done = run(&test.db, &options(&Table::ALL, 30)).await;
    for (table, (pruned, _)) in &done {
        // A dry run cannot know which sent events will stay for lack of a handler, and keep their inbox rows.
        let (said, _) = counted[table];
        assert!(said == *pruned || (*table == Table::Inbox && said > *pruned), "{table:?}: {said}, {pruned}");
    }
    let after = rows(&test.db).await;
    let gone: Vec<i64> = before.iter().zip(&after).map(|(before, after)| before - after).collect();
    let told: Vec<i64> = done.values().map(|(pruned, _)| i64::try_from(*pruned).unwrap()).collect();
    assert_eq!(gone, told);
    let mut conn = test.db.read().await.unwrap();
    let left = sql::fetch(&mut conn, "SELECT event_id FROM message_record ORDER BY event_id", vec![]).await.unwrap();
    let left: Vec<String> = left.iter().map(|row| row.text(0).unwrap()).collect();
    let wanted = [
        "1:ORDER_CREATED",
        "1:PAID_ORDER_SUCCESS",
        "2:ORDER_CREATED",
        "3:ORDER_CREATED",
        "4:ORDER_CREATED",
        "5:INVENTORY_RELEASE",
    ];
    assert_eq!(left, wanted);
    // The inbox keeps what the send log keeps, for each group.
    let inbox = "SELECT consumer_group, message_id FROM message_process_log ORDER BY message_id, consumer_group";
    let inbox = sql::fetch(&mut conn, inbox, vec![]).await.unwrap();
    let inbox: Vec<String> = inbox.iter().map(|row| row.text(1).unwrap()).collect();
    let kept: Vec<&str> =
        wanted.iter().flat_map(|id| if id.contains("PAID") { vec![*id; 2] } else { vec![*id] }).collect();
    assert_eq!(inbox, kept);
    // Of the calls those that are proofs, those that failed, and one that is open.
    let kept = sql::fetch(&mut conn, "SELECT ref FROM delivery ORDER BY ref", vec![]).await.unwrap();
    let kept: Vec<String> = kept.iter().map(|row| row.text(0).unwrap()).collect();
    assert_eq!(kept, ["d1", "d2", "d3", "n1", "n3"]);
    assert_eq!(after[2..5], [1, 16, 1], "an open retry, attempts of four open calls, a young transaction");
    let again = run(&test.db, &options(&Table::ALL, 30)).await;
    assert!(again.values().all(|(pruned, _)| *pruned == 0), "{again:?}");
}

/// Who has handled the event stays known, and the audit stays clean, before, at and after the end of each window.
async fn duplicates_stay_known_and_the_audit_clean(test: TestDb) {
    small_shop(&test).await;
    execute(&test.db, &["UPDATE orders SET due_at = 9000000000000 WHERE due_at IS NOT NULL"]).await;
    let sent = options(&[Table::Outbox], 1);
    test.clock.advance_ms(DAY_MS / 2);
    assert_eq!(run(&test.db, &sent).await[&Table::Outbox], (0, 0));
    assert!(audit(&test.db).await.is_clean());
    test.clock.advance_ms(2 * DAY_MS);
    let everything = Options { inbox_ms: 30 * DAY_MS, ..sent };
    let events = rows(&test.db).await[0];
    assert_eq!(run(&test.db, &everything).await[&Table::Outbox], (u64::try_from(events).unwrap(), 0));
    let report = audit(&test.db).await;
    assert!(report.is_clean(), "{report:#?}");
    // Within the inbox's window: a copy that comes late.
    let again = async || {
        write_tx!(test.db, [], |tx| {
            let id = Kind::OrderCreated.event_id(1);
            let claim = Claim { message_id: &id, topic: "ORDER_CREATED", key: "1", resent: None };
            let now_ms = tx.now_ms();
            inbox::claim(tx, Group::Stock.name(), 7, &[claim], now_ms).await
        })
        .unwrap()
    };
    assert!(again().await.ids.is_empty());
    assert_eq!(run(&test.db, &options(&[Table::Inbox], 30)).await[&Table::Inbox], (0, 0));
    test.clock.advance_ms(30 * DAY_MS);
    let known = rows(&test.db).await[1];
    let (pruned, kept) = run(&test.db, &options(&[Table::Inbox], 30)).await[&Table::Inbox];
    assert!(known > 0);
    assert_eq!((i64::try_from(pruned).unwrap(), kept, rows(&test.db).await[1]), (known, 0, 0));
    let report = audit(&test.db).await;
    assert!(report.is_clean(), "{report:#?}");
}

/// Each role's inbox is asked about events of other roles' outboxes.
#[tokio::test]
async fn roles_with_databases_of_their_own() {
    let (all, notify) = (sqlite().await, sqlite().await);
    small_shop(&all).await;
    for clock in [&all.clock, &notify.clock] {
        clock.advance_ms(40 * DAY_MS);
    }
    node::lease(&notify.db, "test", 512).await.unwrap();
    let dbs = RoleDbs { notify: notify.db.clone(), ..RoleDbs::one(&all.db) };
    // Points and notices are in a database that has handled nothing yet.
    let done = prune::run(&dbs, &options(&[Table::Outbox], 30), |_| {}).await;
    let mut conn = all.db.read().await.unwrap();
    let left = sql::fetch(&mut conn, "SELECT topic FROM message_record ORDER BY id", vec![]).await.unwrap();
    let left: Vec<String> = left.iter().map(|row| row.text(0).unwrap()).collect();
    let for_notify = |kind: &Kind| kind.groups().iter().any(|group| group.role() == Role::Notify);
    assert!(!left.is_empty() && left.iter().all(|topic| for_notify(&Kind::from_name(topic).unwrap())), "{left:?}");
    assert_eq!(done.iter().map(|one| one.kept).sum::<u64>(), left.len() as u64);
    drop(conn);
    // What was handled of them stays known, in either database.
    prune::run(&dbs, &options(&[Table::Inbox], 30), |_| {}).await;
    assert!(rows(&all.db).await[1] > 0);
    // One that cannot be read ends its own part, and says why.
    notify.db.close().await;
    let done = prune::run(&dbs, &options(&[Table::Transactions], 30), |_| {}).await;
    assert_eq!(done.iter().map(|one| one.error.is_some()).collect::<Vec<_>>(), [false, true]);
}

macro_rules! on_each {
    ($($name:ident),*) => {
        mod on_sqlite {
            $(#[tokio::test] async fn $name() { super::$name(super::sqlite().await).await })*
        }
        mod on_mariadb {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(test) = super::mariadb().await { super::$name(test).await }
            })*
        }
    };
}

on_each!(what_is_needed_stays, duplicates_stay_known_and_the_audit_clean);
