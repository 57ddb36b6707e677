//! What the statements of the loops read, over a history of which nothing is due.

use ruyi::db::hot::{self, Hot};
use ruyi::db::sql::{self, Columns};
use ruyi::db::{DbError, Dialect};
use sqlx::{AnyConnection, AssertSqlSafe};

use crate::support::servers::{START_MS, TestDb};

/// Rows that a statement may read beside those that it returns.
const MOST_READ: i64 = 20;

/// Ten thousand settled rows in each table, in which three more are open, and not due.
async fn long_history(test: &TestDb) {
    let digits = "(SELECT 0 AS d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL \
                  SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)";
    let numbers = format!(
        "(SELECT a.d + 10 * b.d + 100 * c.d + 1000 * e.d AS n FROM {digits} a, {digits} b, {digits} c, {digits} e) v"
    );
    let at = format!("CASE WHEN n < 3 THEN {} ELSE NULL END", START_MS * 2);
    let tables = [
        format!(
            "delivery (id, kind, ref, order_id, url, body, status, attempts, next_at, created_at, updated_at) \
             SELECT n, n % 10 + 1, CAST(n AS CHAR), n, 'u', '{{}}', 1, 1, {at}, 1, 1"
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
        assert!(!step.starts_with("SCAN") && !is_sort, "{}: {step}", hot.name);
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
    long_history(&test).await;
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
