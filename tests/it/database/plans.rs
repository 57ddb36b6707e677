//! What the statements of the loops read, over a history of which nothing is due.

use ruyi::db::delivery::{self, Kind};
use ruyi::db::hot::{self, Hot};
use ruyi::db::order_view::{self, Found, Search};
use ruyi::db::sql::{self, Columns};
use ruyi::db::{DbError, Dialect, outbox, retry};
use ruyi::domain::order::Status;
use sqlx::{AnyConnection, AssertSqlSafe};

use crate::support::number;
use crate::support::servers::{START_MS, TestDb, write_tx};

/// Rows that a statement may read beside those that it returns.
const MOST_READ: i64 = 20;
/// Settled rows that are written at once.
const PART: i64 = 10_000;

/// Settled rows of each table: `RUYI_TEST_HISTORY` makes it more than one part.
fn rows_of_history() -> i64 {
    let asked = number("RUYI_TEST_HISTORY").map(|rows| i64::try_from(rows).unwrap());
    asked.map_or(PART, |rows| (rows / PART).max(1) * PART)
}

/// A part of the natural numbers, as the table `v` with the column `n`.
fn numbers_from(first: i64) -> String {
    let digits = "(SELECT 0 AS d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL \
                  SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)";
    format!(
        "(SELECT {first} + a.d + 10 * b.d + 100 * c.d + 1000 * e.d AS n \
         FROM {digits} a, {digits} b, {digits} c, {digits} e) v"
    )
}

/// Writes so many settled rows into each table, of which three are open, and not due; and as many questions to a
/// channel that another role leaves open, half of them due. Three orders are of one user, and none is with the carrier.
async fn long_history(test: &TestDb, rows: i64) {
    for first in (0..rows).step_by(usize::try_from(PART).unwrap()) {
        part_of_history(test, first, rows).await;
    }
}

/// The rows from number `first` on.
async fn part_of_history(test: &TestDb, first: i64, rows: i64) {
    let numbers = numbers_from(first);
    // Beyond the ids of the others.
    let beyond = 2 * rows;
    let at = format!("CASE WHEN n < 3 THEN {} ELSE NULL END", START_MS * 2);
    let tables = [
        format!(
            "delivery (id, kind, ref, order_id, url, body, status, attempts, next_at, created_at, updated_at) \
             SELECT n, n % 10 + 1, CAST(n AS CHAR), n, 'u', '{{}}', 1, 1, {at}, 1, 1"
        ),
        format!(
            "delivery (id, kind, ref, order_id, url, body, status, attempts, next_at, created_at, updated_at) \
             SELECT n + {beyond}, 10, CAST(n + {beyond} AS CHAR), n, 'u', '{{}}', 0, 1, \
             CASE WHEN n % 2 = 0 THEN n ELSE {START_MS} + n END, 1, 1"
        ),
        format!(
            "message_record (id, event_id, topic, tag, msg_key, body, properties, status, attempts, next_at, created_at) \
             SELECT n, CAST(n AS CHAR), 't', 't', 'k', 'b', '[]', 1, 0, {at}, 1"
        ),
        format!(
            "message_retry_log (id, consumer_group, message_id, topic, tag, msg_key, body, properties, status, blocks, \
             attempts, next_at, first_failed_at, last_error, updated_at) \
             SELECT n, 'g', CAST(n AS CHAR), 't', 't', 'k', 'b', '[]', 1, 1, 1, {at}, 1, '', 1"
        ),
        format!(
            "orders (id, order_no, user_id, status, version, total_amount, currency, merchant_id, channel_id, remark, \
             address, hold_ms, expire_time, due_at, handed_over, refund_status, created_at, updated_at) \
             SELECT n, 'o', CASE WHEN n < 3 THEN 1 ELSE 2 END, {signed}, 1, 1, 'CNY', 1, 'c', '', '', 1, 1, {at}, \
             0, 0, 1, 1",
            signed = Status::Signed.code()
        ),
        "stock (sku, available, frozen, sold, version, updated_at, sync_due) \
         SELECT CAST(n AS CHAR), 1, 0, 0, 1, 1, CASE WHEN n < 3 THEN 1 ELSE NULL END"
            .to_owned(),
        format!(
            "order_view (id, order_no, user_id, status, outcome, version, total_amount, currency, merchant_id, \
             channel_id, remark, cancel_reason, created_at, updated_at) \
             SELECT n + 1, 'o', CASE WHEN n < 3 THEN 1 ELSE 2 END, {}, 'SIGNED', 1, 1, 'CNY', 1, 'c', '', '', 1, 1",
            Status::Signed.code()
        ),
        "order_view_term (term, order_id) SELECT 'sku:tea', n + 1".to_owned(),
        "merchant (id, name, tenant_id, notify_url, active, accepts, secret, old_until, version, created_at, updated_at) \
         SELECT n + 1, 'm', 't', CASE WHEN n < 3 THEN 'https://shop.example/1' ELSE 'https://shop.example/2' END, 1, \
         '[]', 's', 0, 1, 1, 1"
            .to_owned(),
        format!("node_lease (node, owner, lease_until) SELECT n + {beyond}, 'o', 1"),
    ];
    let mut conn = test.db.read().await.unwrap();
    for table in tables {
        let text = format!("INSERT INTO {table} FROM {numbers}");
        sqlx::query(AssertSqlSafe(text)).execute(&mut *conn).await.unwrap();
    }
}

/// How SQLite executes it: by an index, and without sorting more than rows of the same time.
async fn explained(conn: &mut AnyConnection, hot: &Hot) -> Result<(), DbError> {
    let rows = sql::fetch(conn, format!("EXPLAIN QUERY PLAN {}", hot.text), hot.vals.clone()).await?;
    for row in &rows {
        let step = row.text(3)?;
        let is_sort = step.starts_with("USE TEMP B-TREE") && !step.contains("TERM") && !step.contains("RIGHT PART");
        // What a bounded count reads of, and the first rows of each kind, are no tables.
        let is_table = !["SCAN counted", "SCAN one_kind", "SCAN each_kind"].contains(&step.as_str());
        let is_scan = step.starts_with("SCAN") && is_table;
        assert!(!is_scan && !is_sort, "{}: {step}", hot.name);
        // By nothing but where a page ends is nearly all of a table, and by a state nearly all of a user's.
        let of_user = hot.name.contains("of a user");
        assert!(!step.ends_with("(id<?)") && (!of_user || step.contains("user_id=?")), "{}: {step}", hot.name);
        assert!(!step.contains("sqlite_autoindex_delivery_2"), "{}: by kind: {step}", hot.name);
    }
    Ok(())
}

/// Rows that MariaDB has read in this session.
async fn rows_read(conn: &mut AnyConnection) -> Result<i64, DbError> {
    let rows = sql::fetch(conn, "SHOW SESSION STATUS LIKE 'Handler_read%'", vec![]).await?;
    let counts = rows.iter().map(|row| Ok(row.text(1)?.parse().unwrap_or(0)));
    counts.sum::<Result<i64, DbError>>()
}

pub(super) async fn loops_read_only_what_is_due(test: TestDb) {
    long_history(&test, rows_of_history()).await;
    let mut conn = test.db.read().await.unwrap();
    for hot in hot::statements(START_MS) {
        if test.db.dialect() == Dialect::Sqlite {
            explained(&mut conn, &hot).await.unwrap();
            continue;
        }
        // The first one reads what the server knows of the table's columns as well.
        sql::fetch(&mut conn, hot.text.clone(), hot.vals.clone()).await.unwrap();
        let before = rows_read(&mut conn).await.unwrap();
        let between = rows_read(&mut conn).await.unwrap();
        sql::fetch(&mut conn, hot.text.clone(), hot.vals.clone()).await.unwrap();
        let read = rows_read(&mut conn).await.unwrap() - between - (between - before);
        assert!(read <= MOST_READ, "{} reads {read} rows", hot.name);
    }
}

/// Sixty thousand calls wait for an endpoint that is dead, and one to another endpoint at its host is due.
pub(super) async fn a_claim_reads_no_calls_that_wait(test: TestDb) {
    let mut conn = test.db.read().await.unwrap();
    let columns =
        "delivery (id, kind, ref, order_id, url, body, status, attempts, next_at, held_by, created_at, updated_at)";
    let (kind, later) = (Kind::Warehouse as i64, START_MS * 2);
    for part in 0..6 {
        let waiting = format!(
            "INSERT INTO {columns} \
             SELECT n, {kind}, CAST(n AS CHAR), n, 'http://h/dead', '{{}}', 0, 1, {later}, 1, 1, 1 FROM {}",
            numbers_from(part * PART)
        );
        sqlx::query(AssertSqlSafe(waiting)).execute(&mut *conn).await.unwrap();
    }
    let due = format!(
        "INSERT INTO {columns} VALUES (60000, {kind}, 'due', 7, 'http://h/told', '{{}}', 0, 0, {START_MS}, NULL, 1, 1)"
    );
    sqlx::query(AssertSqlSafe(due)).execute(&mut *conn).await.unwrap();
    drop(conn);

    let is_sqlite = test.db.dialect() == Dialect::Sqlite;
    let claim = async || {
        let claimed = write_tx!(test.db, [], |tx| {
            let before = if is_sqlite { 0 } else { rows_read(tx).await? };
            let between = if is_sqlite { 0 } else { rows_read(tx).await? };
            let calls = delivery::claim(tx, &[Kind::Warehouse], 64, 1_000).await?;
            let after = if is_sqlite { 0 } else { rows_read(tx).await? };
            let read = after - between - (between - before);
            Ok((calls.into_iter().map(|call| call.reference).collect::<Vec<_>>(), read))
        });
        claimed.unwrap()
    };
    // As above.
    assert_eq!(claim().await.0, ["due"]);
    test.clock.advance_ms(2_000);
    let (claimed, read) = claim().await;
    assert_eq!(claimed, ["due"]);
    assert!(read < 500, "{read} rows, of 60,000");
}

/// The newest page of what a user has ordered of a SKU that everybody orders.
pub(super) async fn search_reads_only_what_is_asked_for(test: TestDb) {
    long_history(&test, PART).await;
    let mut conn = test.db.read().await.unwrap();
    let search =
        Search { text: Some("TEA".to_owned()), user_id: Some(1), before_id: i64::MAX, limit: 20, ..Search::default() };
    // As above.
    order_view::search(&mut conn, &search).await.unwrap();
    let is_sqlite = test.db.dialect() == Dialect::Sqlite;
    let before = if is_sqlite { 0 } else { rows_read(&mut conn).await.unwrap() };
    let found = order_view::search(&mut conn, &search).await.unwrap();
    let Found::Orders(found) = found else { panic!("too many") };
    assert_eq!(found.iter().map(|order| order.order_id.0).collect::<Vec<_>>(), [3, 2, 1]);
    if !is_sqlite {
        let read = rows_read(&mut conn).await.unwrap() - before;
        assert!(read < 2_000, "{read} rows, of 20,000");
    }
}

/// Gauges are read every few seconds, also while all that there ever was waits.
pub(super) async fn a_backlog_is_counted_up_to_a_bound(test: TestDb) {
    long_history(&test, PART).await;
    let mut conn = test.db.read().await.unwrap();
    assert_eq!(outbox::pending(&mut conn, START_MS).await.unwrap(), (0, None));
    assert_eq!(retry::waiting(&mut conn).await.unwrap(), 0);
    let columns = "topic, tag, msg_key, body, properties, status, attempts, created_at";
    for text in [
        "UPDATE message_record SET next_at = 7".to_owned(),
        format!(
            "INSERT INTO message_record (id, event_id, next_at, {columns}) \
             SELECT id + 20000, CONCAT('b', event_id), {}, {columns} FROM message_record WHERE id < 5000",
            outbox::HELD
        ),
        "UPDATE message_record SET created_at = 0 WHERE id = 20000".to_owned(),
        "UPDATE message_retry_log SET open_key = 'k' WHERE id < 4000".to_owned(),
        "UPDATE message_retry_log SET consumer_group = 'h', open_key = '' WHERE id >= 4000 AND id < 4003".to_owned(),
    ] {
        sqlx::query(AssertSqlSafe(text)).execute(&mut *conn).await.unwrap();
    }
    assert_eq!(outbox::pending(&mut conn, START_MS).await.unwrap(), (outbox::COUNTED, Some(0)));
    assert_eq!(retry::waiting(&mut conn).await.unwrap(), 4_003);
    sqlx::query("UPDATE message_record SET next_at = NULL WHERE id < 9000").execute(&mut *conn).await.unwrap();
    assert_eq!(outbox::pending(&mut conn, START_MS).await.unwrap(), (6_000, Some(0)));
}
