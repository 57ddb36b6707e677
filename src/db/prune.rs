//! What `ruyi db prune` reads and deletes: pages in the order of a primary key, and deletes by primary key, so that no
//! statement sorts, waits or locks more than its own batch. Each delete says again what makes a row expendable.

use std::collections::HashSet;

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::inbox::Outcome;
use super::sql::{self, Columns, Val};
use super::{DbError, Tx, outbox, retry};
use crate::domain::call::Kind;
use crate::vals;

fn ints(ids: &[i64]) -> Vec<Val> {
    ids.iter().copied().map(Val::Int).collect()
}

fn texts(keys: &[String]) -> Vec<Val> {
    keys.iter().map(Val::from).collect()
}

/// A row of the outbox.
#[derive(Clone, Debug)]
pub struct LoggedRow {
    /// Row.
    pub id: i64,
    /// Event id.
    pub event_id: String,
    /// Topic.
    pub topic: String,
    /// When it was sent, epoch ms; `None`: it was not (pending, given up, canceled).
    pub sent_at: Option<i64>,
    /// Until when the broker's timer holds it, epoch ms.
    pub held_until: Option<i64>,
}

/// The next `limit` outbox rows between two ids, without them.
///
/// # Errors
/// The database's.
pub async fn outbox_page(
    conn: &mut AnyConnection,
    after: i64,
    before: i64,
    limit: i64,
) -> Result<Vec<LoggedRow>, DbError> {
    let text = "SELECT id, event_id, topic, CASE WHEN status = 1 THEN sent_at ELSE NULL END, \
                CASE WHEN properties LIKE ? THEN properties ELSE NULL END FROM message_record \
                WHERE id > ? AND id < ? ORDER BY id LIMIT ?";
    let timed = format!("%\"{}\"%", outbox::TIMER_PROPERTY);
    let row = |row: &AnyRow| {
        Ok(LoggedRow {
            id: row.int(0)?,
            event_id: row.text(1)?,
            topic: row.text(2)?,
            sent_at: row.maybe_int(3)?,
            held_until: row.maybe_text(4)?.and_then(|properties| outbox::timer_of(&properties)),
        })
    };
    sql::fetch(conn, text, vals![timed, after, before, limit]).await?.iter().map(row).collect()
}

/// Deletes rows that were sent before `before_ms`; how many.
///
/// # Errors
/// The database's.
pub async fn outbox_delete(tx: &mut Tx, ids: Vec<i64>, before_ms: i64) -> Result<u64, DbError> {
    let before = "DELETE FROM message_record WHERE status = 1 AND sent_at < ? AND id";
    sql::execute_in(tx, before, "", &[Val::Int(before_ms)], ints(&ids)).await
}

/// Which of these events have a row in the outbox, not counting rows that were sent before `gone_before`, epoch ms.
///
/// # Errors
/// The database's.
pub async fn logged(
    conn: &mut AnyConnection,
    event_ids: &[String],
    gone_before: i64,
) -> Result<HashSet<String>, DbError> {
    let before = "SELECT event_id FROM message_record WHERE (status <> 1 OR sent_at >= ?) AND event_id";
    let rows = sql::select_in(conn, before, "", &[Val::Int(gone_before)], texts(event_ids)).await?;
    rows.iter().map(|row| row.text(0)).collect()
}

/// The consumer group after `after` in the inbox.
///
/// # Errors
/// The database's.
pub async fn next_group(conn: &mut AnyConnection, after: &str) -> Result<Option<String>, DbError> {
    let text = "SELECT MIN(consumer_group) FROM message_process_log WHERE consumer_group > ?";
    sql::fetch_one(conn, text, vals![after]).await?.map_or(Ok(None), |row| row.maybe_text(0))
}

/// A row of the inbox.
#[derive(Clone, Debug)]
pub struct ConsumedRow {
    /// Event id.
    pub message_id: String,
    /// It waits in `message_retry_log`.
    pub parked: bool,
    /// Epoch ms.
    pub consumed_at: i64,
}

/// The next `limit` inbox rows of a group, after a message id.
///
/// # Errors
/// The database's.
pub async fn inbox_page(
    conn: &mut AnyConnection,
    group: &str,
    after: &str,
    limit: i64,
) -> Result<Vec<ConsumedRow>, DbError> {
    let text = "SELECT message_id, outcome, consumed_at FROM message_process_log \
                WHERE consumer_group = ? AND message_id > ? ORDER BY message_id LIMIT ?";
    let row = |row: &AnyRow| {
        let parked = row.int(1)? == Outcome::Parked as i64;
        Ok(ConsumedRow { message_id: row.text(0)?, parked, consumed_at: row.int(2)? })
    };
    sql::fetch(conn, text, vals![group, after, limit]).await?.iter().map(row).collect()
}

/// Deletes inbox rows that were written before `before_ms` and wait for nothing; how many.
///
/// # Errors
/// The database's.
pub async fn inbox_delete(tx: &mut Tx, group: String, ids: Vec<String>, before_ms: i64) -> Result<u64, DbError> {
    let before = "DELETE FROM message_process_log WHERE consumer_group = ? AND outcome <> 2 AND consumed_at < ? \
                  AND message_id";
    sql::execute_in(tx, before, "", &[Val::from(group), Val::Int(before_ms)], texts(&ids)).await
}

/// The next `limit` rows of the retry log between two ids, as (id, when it was finished).
///
/// # Errors
/// The database's.
pub async fn retry_page(
    conn: &mut AnyConnection,
    after: i64,
    before: i64,
    limit: i64,
) -> Result<Vec<(i64, Option<i64>)>, DbError> {
    let text = "SELECT id, CASE WHEN status <> 0 THEN updated_at ELSE NULL END FROM message_retry_log \
                WHERE id > ? AND id < ? ORDER BY id LIMIT ?";
    let rows = sql::fetch(conn, text, vals![after, before, limit]).await?;
    rows.iter().map(|row| Ok((row.int(0)?, row.maybe_int(1)?))).collect()
}

/// Deletes rows of messages that were through, or given up, before `before_ms`; how many.
///
/// # Errors
/// The database's.
pub async fn retry_delete(tx: &mut Tx, ids: Vec<i64>, before_ms: i64) -> Result<u64, DbError> {
    let open = retry::Status::Waiting as i64;
    let before = "DELETE FROM message_retry_log WHERE status <> ? AND updated_at < ? AND id";
    sql::execute_in(tx, before, "", &[Val::Int(open), Val::Int(before_ms)], ints(&ids)).await
}

/// The calls of the next `limit` logged attempts, between two call ids: one entry for each attempt.
///
/// # Errors
/// The database's.
pub async fn attempts_page(conn: &mut AnyConnection, after: i64, before: i64, limit: i64) -> Result<Vec<i64>, DbError> {
    let text = "SELECT delivery_id FROM delivery_attempt WHERE delivery_id > ? AND delivery_id < ? \
                ORDER BY delivery_id, attempt LIMIT ?";
    sql::fetch(conn, text, vals![after, before, limit]).await?.iter().map(|row| row.int(0)).collect()
}

/// Which of these calls were answered well before `before_ms`: they are never made again.
///
/// # Errors
/// The database's.
pub async fn finished_calls(conn: &mut AnyConnection, ids: &[i64], before_ms: i64) -> Result<HashSet<i64>, DbError> {
    let before = "SELECT id FROM delivery WHERE status = 1 AND updated_at < ? AND id";
    let rows = sql::select_in(conn, before, "", &[Val::Int(before_ms)], ints(ids)).await?;
    rows.iter().map(|row| row.int(0)).collect()
}

/// How many attempts of these calls are logged.
///
/// # Errors
/// The database's.
pub async fn attempts_count(conn: &mut AnyConnection, delivery_ids: &[i64]) -> Result<u64, DbError> {
    let before = "SELECT delivery_id, COUNT(*) FROM delivery_attempt WHERE delivery_id";
    let rows = sql::select_in(conn, before, " GROUP BY delivery_id", &[], ints(delivery_ids)).await?;
    let counts = rows.iter().map(|row| row.int(1)).collect::<Result<Vec<_>, _>>()?;
    Ok(counts.iter().sum::<i64>().unsigned_abs())
}

/// Deletes the logged attempts of these calls; how many.
///
/// # Errors
/// The database's.
pub async fn attempts_delete(tx: &mut Tx, delivery_ids: Vec<i64>) -> Result<u64, DbError> {
    sql::execute_in(tx, "DELETE FROM delivery_attempt WHERE delivery_id", "", &[], ints(&delivery_ids)).await
}

/// A call that told somebody something, and is settled: it was answered well, or there was nobody to be told.
fn told() -> String {
    let codes: Vec<String> =
        Kind::ALL.iter().filter(|kind| !kind.is_proof()).map(|kind| (*kind as i64).to_string()).collect();
    format!("status IN (1, 5) AND kind IN ({})", codes.join(","))
}

/// The next `limit` outgoing calls between two ids, as (id, when it was settled); open calls, calls that failed and calls
/// that are proofs have no end.
///
/// # Errors
/// The database's.
pub async fn calls_page(
    conn: &mut AnyConnection,
    after: i64,
    before: i64,
    limit: i64,
) -> Result<Vec<(i64, Option<i64>)>, DbError> {
    let text = format!(
        "SELECT id, CASE WHEN {} THEN updated_at ELSE NULL END FROM delivery \
         WHERE id > ? AND id < ? ORDER BY id LIMIT ?",
        told()
    );
    let rows = sql::fetch(conn, text, vals![after, before, limit]).await?;
    rows.iter().map(|row| Ok((row.int(0)?, row.maybe_int(1)?))).collect()
}

/// Deletes calls that were settled before `before_ms`, with their attempts; how many calls.
///
/// # Errors
/// The database's.
pub async fn calls_delete(tx: &mut Tx, ids: Vec<i64>, before_ms: i64) -> Result<u64, DbError> {
    let before = format!("DELETE FROM delivery WHERE {} AND updated_at < ? AND id", told());
    let deleted = sql::execute_in(tx, &before, "", &[Val::Int(before_ms)], ints(&ids)).await?;
    let orphans = "DELETE FROM delivery_attempt WHERE NOT EXISTS \
                   (SELECT 1 FROM delivery d WHERE d.id = delivery_attempt.delivery_id) AND delivery_id";
    sql::execute_in(tx, orphans, "", &[], ints(&ids)).await?;
    Ok(deleted)
}

/// The next `limit` decided attempts to publish with a transaction, as (transaction id, when it was decided).
///
/// # Errors
/// The database's.
pub async fn transactions_page(
    conn: &mut AnyConnection,
    after: &str,
    limit: i64,
) -> Result<Vec<(String, i64)>, DbError> {
    let text = "SELECT tx_id, created_at FROM message_tx_state WHERE tx_id > ? ORDER BY tx_id LIMIT ?";
    let rows = sql::fetch(conn, text, vals![after, limit]).await?;
    rows.iter().map(|row| Ok((row.text(0)?, row.int(1)?))).collect()
}

/// Deletes attempts that were decided before `before_ms`; how many.
///
/// # Errors
/// The database's.
pub async fn transactions_delete(tx: &mut Tx, tx_ids: Vec<String>, before_ms: i64) -> Result<u64, DbError> {
    let before = "DELETE FROM message_tx_state WHERE created_at < ? AND tx_id";
    sql::execute_in(tx, before, "", &[Val::Int(before_ms)], texts(&tx_ids)).await
}
