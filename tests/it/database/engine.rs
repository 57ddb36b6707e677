//! Connections, transactions, statements and the group commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use ruyi::db::group::{Batch, Bounds, Group, GroupError};
use ruyi::db::sql::{self, Columns, Val};
use ruyi::db::{DbError, Dialect, products};
use ruyi::domain::money::Money;
use ruyi::vals;
use ruyi::watchdog::Watchdog;

use super::business;
use crate::support::servers::{TestDb, count, mariadb, sqlite, write_tx};

pub async fn in_lists_of_any_length(test: TestDb) {
    let sku = |number: usize| format!("S{number:04}");
    let all: Vec<products::Product> = (0..700)
        .map(|number| products::Product {
            sku: sku(number),
            name: "n".into(),
            price: Money::from_minor(1).unwrap(),
            currency: "CNY".into(),
            active: true,
        })
        .collect();
    write_tx!(test.db, [all], |tx| { products::put(tx, &all, 1).await }).unwrap();
    let mut conn = test.db.read().await.unwrap();
    for length in [0, 1, 2, 4, 5, 16, 17, 64, 65, 256, 257, 513, 700] {
        let wanted: Vec<String> = (0..length).map(sku).collect();
        assert_eq!(products::get(&mut conn, wanted).await.unwrap().len(), length);
    }
    let keys: Vec<Val> = (0..600).map(|number| Val::Text(sku(number))).collect();
    let touched =
        sql::execute_in(&mut conn, "UPDATE product SET name = ? WHERE sku", "", &[Val::from("x")], keys).await.unwrap();
    assert_eq!(touched, 600);
}

pub async fn updates_of_any_size_and_text_length(test: TestDb) {
    // The same prepared text again and again, with NULLs, short and long texts.
    for (round, reason) in
        [None, Some("x".to_owned()), Some("é".repeat(500)), None, Some("yy".to_owned())].into_iter().enumerate()
    {
        let first = i64::try_from(round).unwrap() * 1_000 + 1;
        let rows: Vec<_> = (first..first + 300).map(|id| (business::order(id), vec![])).collect();
        let wanted = reason.clone();
        let done = write_tx!(test.db, [rows, reason], |tx| {
            ruyi::db::orders::insert(tx, &rows).await?;
            let mut changed: Vec<_> = rows.iter().map(|(order, _)| order.clone()).collect();
            for (number, order) in changed.iter_mut().enumerate() {
                order.cancel_reason = if number % 2 == 0 { reason.clone() } else { None };
                order.pay_time = (number % 3 == 0).then_some(i64::MAX);
            }
            ruyi::db::orders::update(tx, &changed.iter().collect::<Vec<_>>()).await
        });
        done.unwrap();
        let mut conn = test.db.read().await.unwrap();
        for id in [first, first + 1, first + 256, first + 299] {
            let order = ruyi::db::orders::get(&mut conn, id).await.unwrap().unwrap();
            assert_eq!(order.cancel_reason, if (id - first) % 2 == 0 { wanted.clone() } else { None });
            assert_eq!((order.pay_time, order.version), (((id - first) % 3 == 0).then_some(i64::MAX), 2));
        }
    }
    let gone = write_tx!(test.db, [], |tx| {
        ruyi::db::orders::update(tx, &[&business::order(1), &business::order(999_999)]).await
    });
    assert!(matches!(gone, Err(DbError::Row { .. })), "{gone:?}");
}

pub async fn a_failed_transaction_leaves_nothing(test: TestDb) {
    let failed: Result<(), DbError> = write_tx!(test.db, [], |tx| {
        ruyi::db::orders::insert(tx, &[(business::order(1), vec![])]).await?;
        Err(DbError::Config("stop".into()))
    });
    assert!(failed.is_err());
    let panicked: Result<(), DbError> = write_tx!(test.db, [], |tx| {
        ruyi::db::orders::insert(tx, &[(business::order(1), vec![])]).await?;
        assert_eq!(tx.now_ms(), 0, "on purpose");
        Ok(())
    });
    assert!(matches!(panicked, Err(DbError::Stopped(_))));
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM orders").await, 0);
    test.db.ping().await.unwrap();
    let twice = write_tx!(test.db, [], |tx| {
        ruyi::db::orders::insert(tx, &[(business::order(1), vec![]), (business::order(1), vec![])]).await
    });
    assert!(twice.unwrap_err().is_unique_violation());
}

pub async fn a_caller_who_left_has_nothing_written(test: TestDb) {
    // All connections that may write are taken, so no other transaction can begin.
    let most = if test.db.dialect() == Dialect::Sqlite { 1 } else { 8 };
    let (begun, mut taken) = tokio::sync::mpsc::channel(most);
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let holding = (0..most).map(|_| {
        let (db, begun, go) = (test.db.clone(), begun.clone(), Arc::clone(&go));
        tokio::spawn(async move {
            write_tx!(db, [begun, go], |_tx| {
                begun.send(()).await.unwrap();
                let _ = go.acquire().await;
                Ok(())
            })
        })
    });
    let holding: Vec<_> = holding.collect();
    for _ in 0..most {
        taken.recv().await.unwrap();
    }
    let insert = |id: i64| {
        test.db.write("test", move |tx| {
            Box::pin(async move { ruyi::db::orders::insert(tx, &[(business::order(id), vec![])]).await })
        })
    };
    let mut leaves = Box::pin(insert(1));
    assert!(futures_util::poll!(leaves.as_mut()).is_pending());
    drop(leaves);

    go.close();
    for held in holding {
        held.await.unwrap().unwrap();
    }
    // Whoever writes now has waited for a connection behind the one that left.
    insert(2).await.unwrap();
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM orders").await, 1);
}

pub async fn group_commit_isolates_the_bad_one(test: TestDb) {
    let db = test.db.clone();
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let bounds = Bounds { waiting: 64, batch: 16, patience: Duration::from_secs(60), writers: 2 };
    let (group, writer) = Group::new(Watchdog::default().part("writer"), bounds, move |batch: Batch<i64>| {
        let (db, ids) = (db.clone(), batch.requests());
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            let answers = ids.to_vec();
            write_tx!(db, [ids], |tx| {
                let rows: Vec<_> = ids.iter().map(|id| (business::order(*id), vec![])).collect();
                ruyi::db::orders::insert(tx, &rows).await
            })?;
            Ok(answers)
        }
    });
    let asked: Vec<_> = (0..20_i64)
        .map(|number| {
            let group = group.clone();
            // Two want the same order.
            tokio::spawn(async move { group.submit(number.max(1)).await })
        })
        .collect();
    let writer = tokio::spawn(writer);
    let mut failed = 0;
    for one in asked {
        match one.await.unwrap() {
            Ok(_) => {}
            Err(GroupError::Db(error)) => {
                assert!(error.is_unique_violation());
                failed += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((failed, count(&test.db, "SELECT COUNT(*) FROM orders").await), (1, 19));
    drop(group);
    writer.await.unwrap();
    assert!(runs.load(Ordering::Relaxed) >= 2);
}

#[tokio::test]
async fn the_pragmas_of_sqlite_are_set_on_every_connection() {
    let test = sqlite().await;
    let mut readers = Vec::new();
    for _ in 0..8 {
        readers.push(test.db.read().await.unwrap());
    }
    for conn in &mut readers {
        check_pragmas(conn).await.unwrap();
    }
    write_tx!(test.db, [], |tx| { check_pragmas(tx).await }).unwrap();
}

async fn check_pragmas(conn: &mut sqlx::AnyConnection) -> Result<(), DbError> {
    let one = async |conn: &mut sqlx::AnyConnection, text: &'static str| {
        sql::fetch_one(conn, text, vec![]).await.map(Option::unwrap)
    };
    assert_eq!(one(conn, "PRAGMA journal_mode").await?.text(0)?, "wal");
    assert_eq!(one(conn, "PRAGMA synchronous").await?.int(0)?, 2);
    assert_eq!(one(conn, "PRAGMA busy_timeout").await?.int(0)?, 15_000);
    Ok(())
}

/// launchbadge/sqlx#4385: a connection that comes back inside a transaction must not swallow what comes next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_left_inside_transaction_is_clean_again_on_mariadb() {
    let Some(test) = mariadb().await else { return };
    assert_eq!(test.db.dialect(), Dialect::MySql);
    let insert = "INSERT INTO node_lease (node, owner, lease_until) VALUES (?, 'x', 1)";
    let mut all = Vec::new();
    for number in 0..8_i64 {
        let mut conn = test.db.read().await.unwrap();
        sqlx::raw_sql("BEGIN").execute(&mut *conn).await.unwrap();
        sql::execute(&mut conn, insert, vals![number]).await.unwrap();
        all.push(conn);
    }
    drop(all);
    // Callers that go away at any moment, while their transaction goes on or never began.
    for turns in 0..40_usize {
        let write = write_tx!(test.db, [], |tx| { sql::fetch(tx, "SELECT 1", vec![]).await.map(|_| ()) });
        assert!(write.is_ok());
        let db = test.db.clone();
        let abandoned =
            tokio::spawn(
                async move { write_tx!(db, [], |tx| { sql::fetch(tx, "SELECT 2", vec![]).await.map(|_| ()) }) },
            );
        for _ in 0..turns % 8 {
            tokio::task::yield_now().await;
        }
        abandoned.abort();
    }
    for number in 100..116_i64 {
        let mut conn = test.db.read().await.unwrap();
        assert_eq!(sql::execute(&mut conn, insert, vals![number]).await.unwrap(), 1);
    }
    test.db.close().await;
    let again = TestDb::open(test.url.clone(), tempfile::tempdir().unwrap()).await;
    assert_eq!(count(&again.db, "SELECT COUNT(*) FROM node_lease").await, 16);
}

/// What `Any` cannot read fails at run time only: so such columns must not be made.
#[test]
fn migrations_have_only_types_that_both_databases_read() {
    let allowed = ["BIGINT", "SMALLINT", "TEXT", "LONGBLOB", "VARCHAR"];
    let mut files = 0;
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|end| end != "sql") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        files += 1;
        let sql: String = text.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n");
        assert_eq!(sql.trim().matches(';').count(), 1, "one statement per file: {sql}");
        if !sql.starts_with("CREATE TABLE") {
            if let Some((_, column)) = sql.split_once(" ADD COLUMN ").filter(|_| sql.starts_with("ALTER TABLE")) {
                let kind = column.split([' ', '(', ';']).nth(1).unwrap();
                assert!(allowed.contains(&kind), "{sql}");
            } else {
                assert!(sql.starts_with("CREATE INDEX"), "{sql}");
            }
            continue;
        }
        assert!(sql.contains("COLLATE=utf8mb4_bin"), "{sql}");
        for line in sql.lines().skip(1).filter(|line| line.starts_with("    ")) {
            let mut words = line.split_whitespace();
            let (name, kind) = (words.next().unwrap(), words.next().unwrap());
            if ["UNIQUE", "PRIMARY"].contains(&name) {
                continue;
            }
            let kind = kind.split(['(', ',']).next().unwrap();
            assert!(allowed.contains(&kind), "{line}");
        }
    }
    assert!(files >= 32);
}

/// SQLite has rolled back by itself then: the connection must not think that it is inside a transaction still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_an_outage_that_ends() {
    let test = sqlite().await;
    let mut writes_again = test.db.writes_again();
    for _ in 0..3 {
        let filled = write_tx!(test.db, [], |tx| {
            let pages = sql::fetch_one(tx, "PRAGMA page_count", vec![]).await?.unwrap().int(0)?;
            sql::fetch(tx, format!("PRAGMA max_page_count = {}", pages + 8), vec![]).await?;
            let rows: Vec<_> = (1..10_000).map(|id| (business::order(id), vec![])).collect();
            ruyi::db::orders::insert(tx, &rows).await
        });
        let error = filled.unwrap_err();
        assert!(error.is_outage() && error.is_passing(), "{error}");
        assert!(test.db.writes_fail().is_some_and(|why| why.contains("full")), "{error}");

        write_tx!(test.db, [], |tx| {
            ruyi::db::orders::insert(tx, &[(business::order(1), vec![])]).await?;
            sql::execute(tx, "DELETE FROM orders", vec![]).await
        })
        .unwrap();
        assert!(!writes_again.has_changed().unwrap());
        let mut rest = Box::pin(test.db.rest(Duration::from_secs(3_600)));
        assert_eq!(rest.as_mut().now_or_never(), None);
        test.db.can_write();
        assert_eq!(rest.now_or_never(), Some(()));
        assert_eq!(test.db.writes_fail(), None);
        assert!(writes_again.has_changed().unwrap(), "whoever waits for it goes on");
        writes_again.mark_unchanged();
    }
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM orders").await, 0);
}

/// Other ways in which a transaction of SQLite is over too early, or is not over: the last statement of each is
/// refused, or the COMMIT after it.
const WITHOUT_AN_END: [&[&str]; 4] = [
    &[
        "INSERT INTO node_lease (node, owner, lease_until) VALUES (1000, 'x', 1)",
        "INSERT OR ROLLBACK INTO node_lease (node, owner, lease_until) VALUES (1000, 'y', 1)",
    ],
    &["DELETE FROM node_lease", "ROLLBACK"],
    &["ROLLBACK", "INSERT INTO node_lease (node, owner) VALUES (1000, 'x')"],
    &[
        "CREATE TEMP TABLE parent (id INTEGER PRIMARY KEY)",
        "CREATE TEMP TABLE child (id INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)",
        "INSERT INTO child (id) VALUES (1)",
    ],
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_that_fails_closes_the_connection() {
    let test = sqlite().await;
    for statements in WITHOUT_AN_END {
        let failed = write_tx!(test.db, [], |tx| {
            ruyi::db::orders::insert(tx, &[(business::order(1), vec![])]).await?;
            for text in statements {
                sql::execute(tx, *text, vec![]).await?;
            }
            Ok(())
        });
        assert!(failed.is_err(), "{statements:?}");

        for id in 2..5 {
            let row =
                write_tx!(test.db, [], |tx| { ruyi::db::orders::insert(tx, &[(business::order(id), vec![])]).await });
            row.unwrap_or_else(|error| panic!("{statements:?}: {error}"));
        }
        // Only a COMMIT that failed says anything about the file, and what was written since has answered it.
        test.db.can_write();
        assert_eq!(test.db.writes_fail(), None);
        assert_eq!(count(&test.db, "SELECT COUNT(*) FROM orders").await, 3, "{statements:?}");
        assert_eq!(count(&test.db, "SELECT COUNT(*) FROM node_lease").await, 0, "{statements:?}");
        write_tx!(test.db, [], |tx| { sql::execute(tx, "DELETE FROM orders", vec![]).await }).unwrap();
    }
}
