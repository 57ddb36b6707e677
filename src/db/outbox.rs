//! `message_record`: the outbox, which is the send log as well.

pub mod log;

use std::collections::HashSet;

use bytes::Bytes;
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::claim::{self, Claim};
use super::sql::{self, Columns, Val};
use super::walk::{self, Walk};
use super::{DbError, Tx};
use crate::domain::event::SCHEMA_VERSION;
use crate::vals;

/// The process that wrote a row publishes it from memory; for so long the sweep leaves it alone.
pub const HEAD_START_MS: i64 = 3_000;

/// `next_at` of a row that was handled without its broker, and waits for it: later than any real time.
pub const HELD: i64 = 9_000_000_000_000_000;

/// `next_at` of a row that was given up: later than [`HELD`], so that the index by which work is found finds these too.
pub const GIVEN_UP: i64 = HELD + 1;

/// A row that failed is tried again within this time.
const RETRIED_WITHIN_MS: i64 = 65_000;

/// Where a row stands (`message_record.status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// To be sent.
    Pending = 0,
    /// The broker has it.
    Sent = 1,
    /// Given up; by hand only.
    Failed = 2,
    /// Taken back before it was sent.
    Canceled = 3,
}

/// A message to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    /// Row.
    pub id: i64,
    /// Deterministic id of the event.
    pub event_id: String,
    /// Topic: a catalogue name or `%DLQ%<group>`.
    pub topic: String,
    /// TAGS.
    pub tag: String,
    /// KEYS: the business key.
    pub key: String,
    /// JSON.
    pub body: Bytes,
    /// User properties.
    pub properties: Vec<(String, String)>,
    /// Not before this time, epoch ms.
    pub deliver_at_ms: i64,
    /// Failed sends so far.
    pub attempts: i64,
}

/// The property in which a row says until when the broker is to keep its message back, epoch ms: RocketMQ's own name.
pub const TIMER_PROPERTY: &str = "TIMER_DELIVER_MS";
/// Until when the broker keeps the message of a row back, epoch ms, from the row's properties as stored.
pub(super) fn timer_of(properties: &str) -> Option<i64> {
    let properties: Vec<(String, String)> = serde_json::from_str(properties).ok()?;
    properties.iter().find(|(name, _)| name == TIMER_PROPERTY).and_then(|(_, at)| at.parse().ok())
}

/// RocketMQ stores the length of the properties as a signed 16-bit number.
pub const MAX_PROPERTIES_BYTES: usize = 32_000;
/// Fixed fields of an encoded message, and the properties that the client adds (unique key, instance, store flag,
/// delay).
const ENCODING_OVERHEAD: usize = 200;

/// Bytes of a message's properties, its tag and its key, as RocketMQ encodes them.
#[must_use]
pub fn properties_bytes(tag: &str, key: &str, properties: &[(String, String)]) -> usize {
    let user: usize = properties.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    user + tag.len() + key.len() + "TAGS".len() + "KEYS".len() + 4
}

/// Bytes of a whole message as a broker counts it, its body uncompressed.
#[must_use]
pub fn encoded_bytes(tag: &str, key: &str, properties: &[(String, String)], body: usize) -> usize {
    ENCODING_OVERHEAD + body + properties_bytes(tag, key, properties)
}

/// The property that says which program wrote an event, and what this one says. Others may have it as well, and say
/// something else.
pub const SOURCE: (&str, &str) = ("source", "ruyi");

/// User properties of an event of this program.
#[must_use]
pub fn properties(event_id: &str, event_type: &str, trace: Option<&str>) -> Vec<(String, String)> {
    let mut all = vec![
        ("eventId".to_owned(), event_id.to_owned()),
        ("eventType".to_owned(), event_type.to_owned()),
        ("schemaVersion".to_owned(), SCHEMA_VERSION.to_owned()),
        (SOURCE.0.to_owned(), SOURCE.1.to_owned()),
    ];
    if let Some(trace) = trace {
        all.push(("traceparent".to_owned(), trace.to_owned()));
    }
    all
}

/// Writes rows.
///
/// # Errors
/// The database's; a unique violation when an event is written a second time.
pub async fn insert(conn: &mut AnyConnection, rows: &[OutboxRow], now_ms: i64) -> Result<(), DbError> {
    let mut values = Vec::with_capacity(rows.len());
    for row in rows {
        values.push(row_vals(row, now_ms)?);
    }
    sql::insert(conn, &format!("INSERT INTO {COLUMNS}"), values, "").await.map(|_| ())
}

/// Which of these events are written already.
///
/// # Errors
/// The database's.
pub async fn existing(conn: &mut AnyConnection, event_ids: Vec<String>) -> Result<HashSet<String>, DbError> {
    let keys = event_ids.into_iter().map(Val::Text).collect();
    let rows = sql::select_in(conn, "SELECT event_id FROM message_record WHERE event_id", "", &[], keys).await?;
    rows.iter().map(|row| row.text(0)).collect()
}

/// The row of an event, if there is one.
///
/// # Errors
/// The database's.
pub async fn find(conn: &mut AnyConnection, event_id: &str) -> Result<Option<OutboxRow>, DbError> {
    let text = "SELECT id, event_id, topic, tag, msg_key, body, properties, COALESCE(next_at, 0), attempts \
                FROM message_record WHERE event_id = ?";
    sql::fetch_one(conn, text, vals![event_id]).await?.as_ref().map(from_row).transpose()
}

/// A row that was given up, or that has no time to be sent, is due now; 0 when it is neither.
///
/// # Errors
/// The database's.
pub async fn redrive_lost(tx: &mut Tx, id: i64) -> Result<u64, DbError> {
    let text = "UPDATE message_record SET status = 0, attempts = 0, next_at = ? \
                WHERE id = ? AND (status = 2 OR (status = 0 AND next_at IS NULL))";
    let now_ms = tx.now_ms();
    sql::execute(tx, text, vals![now_ms, id]).await
}

const COLUMNS: &str = "message_record \
    (id, event_id, topic, tag, msg_key, body, properties, status, attempts, next_at, created_at)";

fn row_vals(row: &OutboxRow, now_ms: i64) -> Result<Vec<Val>, DbError> {
    let next_at = if row.deliver_at_ms > now_ms { row.deliver_at_ms } else { now_ms + HEAD_START_MS };
    Ok(vals![
        row.id,
        &row.event_id,
        &row.topic,
        &row.tag,
        &row.key,
        row.body.to_vec(),
        serde_json::to_string(&row.properties)?,
        Status::Pending as i64,
        0_i64,
        next_at,
        now_ms,
    ])
}

/// What is due: binds the time and how many.
pub(super) const DUE: &str = "SELECT id, next_at, LENGTH(body) FROM message_record WHERE next_at <= ? \
                              ORDER BY next_at, id LIMIT ?";

/// What falls due next.
pub(super) const NEXT_DUE: &str = "SELECT MIN(next_at) FROM message_record WHERE next_at IS NOT NULL";

const CLAIM: Claim = Claim { table: "message_record", until: &["next_at"], emptied: &[], counted: None };

/// Takes up to `limit` rows that are due, and up to [`claim::MAX_BYTES`], and keeps others from taking them for `lease_ms`.
/// Rows that cannot be read are set aside.
///
/// # Errors
/// The database's.
pub async fn claim(tx: &mut Tx, limit: i64, lease_ms: i64) -> Result<Vec<OutboxRow>, DbError> {
    let now_ms = tx.now_ms();
    let text = format!("{DUE}{}", claim::lock_clause(tx.dialect()));
    let due = claim::affordable(&sql::fetch(tx, text, vals![now_ms, limit]).await?)?;
    let taken = claim::take(tx, CLAIM, due.clone(), now_ms + lease_ms).await?;

    let before = format!("SELECT {READ} FROM message_record WHERE id");
    let rows = sql::select_in(tx, &before, "", &[], taken.iter().copied().map(Val::Int).collect()).await?;
    let (claimed, unreadable) = sql::read_each(&rows, from_row);
    for (row, why) in unreadable {
        walk::set_aside(tx, Walk::Outbox, row.int(0)?.into(), &row.text(4).unwrap_or_default(), &why).await?;
    }
    let claimed = claim::as_due(due, claimed, |row| row.id);
    Ok(claimed.map(|(deliver_at_ms, row)| OutboxRow { deliver_at_ms, ..row }).collect())
}

/// Keeps rows of this process from others until `until_ms`: which of them nobody has claimed, sent or taken back since they
/// were written.
///
/// # Errors
/// The database's.
pub async fn hold_on(tx: &mut Tx, ids: &[i64], until_ms: i64) -> Result<HashSet<i64>, DbError> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids.dedup();
    let keys: Vec<Val> = ids.iter().copied().map(Val::Int).collect();
    let set = "UPDATE message_record SET next_at = ? WHERE status = 0 AND claim_id IS NULL AND id";
    sql::execute_in(tx, set, "", &[Val::Int(until_ms)], keys.clone()).await?;
    let ours = "SELECT id FROM message_record WHERE status = 0 AND claim_id IS NULL AND id";
    let rows = sql::select_in(tx, ours, "", &[], keys).await?;
    rows.iter().map(|row| row.int(0)).collect()
}

/// What [`from_row`] reads.
const READ: &str = "id, event_id, topic, tag, msg_key, body, properties, next_at, attempts";

fn from_row(row: &AnyRow) -> Result<OutboxRow, DbError> {
    let id = row.int(0)?;
    Ok(OutboxRow {
        id,
        event_id: row.text(1)?,
        topic: row.text(2)?,
        tag: row.text(3)?,
        key: row.text(4)?,
        body: row.bytes(5)?.into(),
        properties: row.json(6, "message_record", id)?,
        deliver_at_ms: row.int(7)?,
        attempts: row.int(8)?,
    })
}

/// The broker has these rows.
///
/// # Errors
/// The database's.
pub async fn mark_sent(conn: &mut AnyConnection, ids: &[i64], now_ms: i64) -> Result<(), DbError> {
    let set = "UPDATE message_record SET status = 1, next_at = NULL, sent_at = ?, last_error = NULL WHERE id";
    let keys = ids.iter().copied().map(Val::Int).collect();
    // Not one that was canceled in between: that it went out all the same is for its consumer to ignore.
    sql::execute_in(conn, set, " AND status <> 3", &[Val::Int(now_ms)], keys).await.map(|_| ())
}

/// A send that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Row.
    pub id: i64,
    /// Failed sends so far, with this one.
    pub attempts: i64,
    /// When to try again; `None`: never by itself.
    pub next_at: Option<i64>,
    /// Why.
    pub error: String,
}

/// These rows could not be sent.
///
/// # Errors
/// The database's.
pub async fn mark_failed(conn: &mut AnyConnection, failures: Vec<Failure>) -> Result<(), DbError> {
    for failure in failures {
        let status = if failure.next_at.is_some() { Status::Pending } else { Status::Failed };
        let text = "UPDATE message_record SET status = ?, attempts = ?, next_at = ?, last_error = ? \
                    WHERE id = ? AND status = 0";
        let error: String = failure.error.chars().take(500).collect();
        let next_at = failure.next_at.unwrap_or(GIVEN_UP);
        sql::execute(conn, text, vals![status as i64, failure.attempts, next_at, error, failure.id]).await?;
    }
    Ok(())
}

/// A row that was too large for the brokers has become this smaller one, and is due at once.
///
/// # Errors
/// The database's.
pub async fn make_smaller(tx: &mut Tx, row: &OutboxRow) -> Result<(), DbError> {
    let text = "UPDATE message_record SET body = ?, properties = ?, next_at = ? WHERE id = ? AND status = 0";
    let (properties, now_ms) = (serde_json::to_string(&row.properties)?, tx.now_ms());
    sql::execute(tx, text, vals![row.body.to_vec(), properties, now_ms, row.id]).await.map(|_| ())
}

/// Rows that the groups of this process have handled while no broker was there: they stay pending, and wait until
/// [`release`].
///
/// # Errors
/// The database's.
pub async fn hold(conn: &mut AnyConnection, ids: &[i64]) -> Result<(), DbError> {
    let keys = ids.iter().copied().map(Val::Int).collect();
    let set = "UPDATE message_record SET next_at = ? WHERE id";
    sql::execute_in(conn, set, " AND status = 0", &[Val::Int(HELD)], keys).await.map(|_| ())
}

/// Rows of one time, as they lie in the index, which is as they were written: binds the time and how many.
pub(super) const OF_TIME: &str = "SELECT id FROM message_record WHERE next_at = ? LIMIT ?";

/// Rows that one [`release`] makes due.
pub const RELEASED: u64 = 1024;

/// A broker is there: rows that were held are due, in the order in which they were written, up to [`RELEASED`] of them. How
/// many: fewer than that when they are the last ones.
///
/// # Errors
/// The database's.
pub async fn release(conn: &mut AnyConnection) -> Result<u64, DbError> {
    let rows = sql::fetch(conn, OF_TIME, vals![HELD, RELEASED.cast_signed()]).await?;
    let ids = rows.iter().map(|row| row.int(0).map(Val::Int)).collect::<Result<Vec<_>, _>>()?;
    let set = "UPDATE message_record SET next_at = created_at WHERE next_at = ? AND id";
    sql::execute_in(conn, set, "", &[Val::Int(HELD)], ids).await
}

/// The row that was held first.
///
/// # Errors
/// The database's.
pub async fn oldest_held(conn: &mut AnyConnection) -> Result<Option<OutboxRow>, DbError> {
    let text = format!("SELECT {READ} FROM message_record WHERE next_at = ? LIMIT 1");
    sql::fetch_one(conn, text, vals![HELD]).await?.map(|row| from_row(&row)).transpose()
}

/// True when rows are held.
///
/// # Errors
/// The database's.
pub async fn any_held(conn: &mut AnyConnection) -> Result<bool, DbError> {
    Ok(sql::fetch_one(conn, OF_TIME, vals![HELD, 1_i64]).await?.is_some())
}

/// Takes an event back that has not been sent yet.
///
/// # Errors
/// The database's.
pub async fn cancel(conn: &mut AnyConnection, event_ids: Vec<String>) -> Result<u64, DbError> {
    let keys = event_ids.into_iter().map(Val::Text).collect();
    sql::execute_in(
        conn,
        "UPDATE message_record SET status = 3, next_at = NULL WHERE event_id",
        " AND status = 0",
        &[],
        keys,
    )
    .await
}

/// Takes back every event of this topic and these business keys that has not been sent yet; how many rows.
///
/// It is part of the change that makes them pointless, in the same transaction. A row that is being sent at this very
/// moment may reach its consumers all the same: they see the changed state, and ignore it.
///
/// # Errors
/// The database's.
pub async fn cancel_by_key(conn: &mut AnyConnection, topic: &str, keys: Vec<String>) -> Result<u64, DbError> {
    let before = "UPDATE message_record SET status = 3, next_at = NULL WHERE topic = ? AND msg_key";
    let keys = keys.into_iter().map(Val::Text).collect();
    sql::execute_in(conn, before, " AND status = 0", &[Val::from(topic)], keys).await
}

/// So many rows that wait are counted, in a database: a gauge that read a whole backlog every few seconds would slow down
/// what clears it.
pub const COUNTED: i64 = 10_000;

/// How many rows are due, and when the oldest of them was written: binds the time and how many are counted.
pub(super) const COUNT_DUE: &str = "SELECT COUNT(*), MIN(created_at) FROM (SELECT created_at FROM message_record \
                                    WHERE next_at <= ? ORDER BY next_at LIMIT ?) AS counted";

/// As [`COUNT_DUE`], of one time.
pub(super) const COUNT_OF_TIME: &str = "SELECT COUNT(*), MIN(created_at) FROM (SELECT created_at FROM message_record \
                                        WHERE next_at = ? LIMIT ?) AS counted";

/// Rows that wait to be sent and are due or held, up to [`COUNTED`], and when the oldest of those that were counted was
/// written: they are counted in the order in which they fall due.
///
/// # Errors
/// The database's.
pub async fn pending(conn: &mut AnyConnection, now_ms: i64) -> Result<(i64, Option<i64>), DbError> {
    let (mut rows, mut oldest): (i64, Option<i64>) = (0, None);
    for (text, at_ms) in [(COUNT_DUE, now_ms + HEAD_START_MS), (COUNT_OF_TIME, HELD)] {
        // The first one that is held is the oldest of them, so it is looked at in any case.
        let left = (COUNTED - rows).max(1);
        if let Some(row) = sql::fetch_one(conn, text, vals![at_ms, left]).await? {
            rows += row.int(0)?;
            oldest = oldest.into_iter().chain(row.maybe_int(1)?).min();
        }
    }
    Ok((rows.min(COUNTED), oldest))
}

/// Rows that should have been sent by now, and since when the first of them should have been: a delayed one since it
/// fell due, one that failed or is held since it was written.
///
/// # Errors
/// The database's.
pub async fn overdue(conn: &mut AnyConnection, now_ms: i64) -> Result<(i64, Option<i64>), DbError> {
    let since = "CASE WHEN last_error IS NOT NULL OR next_at = ? THEN created_at WHEN next_at <= ? THEN next_at END";
    let text = format!(
        "SELECT COUNT(since), MIN(since) FROM \
         (SELECT {since} AS since FROM message_record WHERE next_at <= ? OR next_at = ?) AS waiting"
    );
    match sql::fetch_one(conn, text, vals![HELD, now_ms, now_ms + RETRIED_WITHIN_MS, HELD]).await? {
        Some(row) => Ok((row.int(0)?, row.maybe_int(1)?)),
        None => Ok((0, None)),
    }
}

/// Rows that were given up, written since the id `first` was given out.
///
/// # Errors
/// The database's.
pub async fn given_up(conn: &mut AnyConnection, first: i64) -> Result<i64, DbError> {
    let text = "SELECT COUNT(*) FROM message_record WHERE next_at = ? AND id >= ?";
    sql::fetch_one(conn, text, vals![GIVEN_UP, first]).await?.map_or(Ok(0), |row| row.int(0))
}

/// When the next row falls due.
///
/// # Errors
/// The database's.
pub async fn next_due(conn: &mut AnyConnection) -> Result<Option<i64>, DbError> {
    sql::fetch_one(conn, NEXT_DUE, vec![]).await?.map_or(Ok(None), |row| row.maybe_int(0))
}
