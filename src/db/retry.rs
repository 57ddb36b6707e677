//! `message_retry_log`: messages that wait for another attempt. Of one (group, key) only the first that blocks is
//! tried; those behind it have no `next_at` until it is their turn. The empty key is none: what is parked under it
//! neither blocks nor waits. Versions before did park behind it, and what they left has its turn as under any key.

pub mod log;

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::claim::{self, Claim};
use super::outbox::COUNTED;
use super::sql::{self, Columns, Val};
use super::walk::{self, Walk};
use super::{DbError, Dialect, Tx};
use crate::vals;

/// Where a row stands (`message_retry_log.status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Waits.
    Waiting = 0,
    /// Handled in the end.
    Done = 1,
    /// Given up.
    Dead = 2,
}

/// A parked message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// Row; later messages have larger ones.
    pub id: i64,
    /// Event id.
    pub message_id: String,
    /// Topic.
    pub topic: String,
    /// TAGS.
    pub tag: String,
    /// Business key.
    pub key: String,
    /// Body as it came.
    pub body: Vec<u8>,
    /// User properties as they came.
    pub properties: Vec<(String, String)>,
    /// Later messages of the key wait behind it.
    pub blocks: bool,
    /// Failed attempts.
    pub attempts: i64,
    /// When to try again; `None`: when the one before it is through.
    pub next_at: Option<i64>,
    /// When it failed first.
    pub first_failed_at: i64,
    /// Why.
    pub last_error: String,
}

/// Text that fits an error column.
#[must_use]
pub fn shorten(text: &str) -> String {
    text.chars().take(500).collect()
}

/// A key of a group under which something waits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OpenKey {
    /// Business key.
    pub key: String,
    /// Later messages have to wait.
    pub blocks: bool,
}

/// Which of `keys` have something waiting in this group; of the empty one it is not told. What waits cannot be finished
/// before the transaction of `conn` ends: otherwise a message could be parked behind one that has just gone, and never
/// get its turn.
///
/// # Errors
/// The database's.
pub async fn open_keys(conn: &mut AnyConnection, group: &str, keys: Vec<String>) -> Result<Vec<OpenKey>, DbError> {
    let keys: Vec<Val> = keys.into_iter().filter(|key| !key.is_empty()).map(Val::Text).collect();
    let of_group = [Val::from(group)];
    let before = "SELECT DISTINCT open_key, blocks FROM message_retry_log WHERE consumer_group = ? AND open_key";
    let mut rows = sql::select_in(conn, before, "", &of_group, keys.clone()).await?;
    let lock = Dialect::of(conn).for_update();
    // Without row locks a transaction that writes is alone anyway.
    if !rows.is_empty() && !lock.is_empty() {
        let ids = "SELECT id FROM message_retry_log WHERE consumer_group = ? AND open_key";
        let ids = sql::select_in(conn, ids, "", &of_group, keys.clone()).await?;
        let mut ids = ids.iter().map(|row| row.int(0)).collect::<Result<Vec<_>, _>>()?;
        ids.sort_unstable();
        let by_id = "SELECT id FROM message_retry_log WHERE id";
        sql::select_in(conn, by_id, &format!(" ORDER BY id{lock}"), &[], ids.into_iter().map(Val::Int).collect())
            .await?;
        rows = sql::select_in(conn, before, "", &of_group, keys).await?;
    }
    rows.iter().map(|row| Ok(OpenKey { key: row.text(0)?, blocks: row.int(1)? != 0 })).collect()
}

/// Forgets finished rows of messages that are about to be handled afresh: should they be parked again, their attempts
/// count from the beginning.
///
/// # Errors
/// The database's.
pub async fn forget(conn: &mut AnyConnection, group: &str, message_ids: Vec<String>) -> Result<(), DbError> {
    let before = "DELETE FROM message_retry_log WHERE consumer_group = ? AND status <> 0 AND message_id";
    let ids = message_ids.into_iter().map(Val::Text).collect();
    sql::execute_in(conn, before, "", &[Val::from(group)], ids).await.map(|_| ())
}

/// Parks messages.
///
/// # Errors
/// The database's.
pub async fn park(conn: &mut AnyConnection, group: &str, rows: &[Parked], now_ms: i64) -> Result<(), DbError> {
    let mut values = Vec::with_capacity(rows.len());
    for row in rows {
        values.push(vals![
            row.id,
            group,
            &row.message_id,
            &row.topic,
            &row.tag,
            &row.key,
            row.body.clone(),
            serde_json::to_string(&row.properties)?,
            Status::Waiting as i64,
            row.blocks,
            row.attempts,
            row.next_at,
            &row.key,
            row.first_failed_at,
            shorten(&row.last_error),
            now_ms,
        ]);
    }
    let head = "INSERT INTO message_retry_log (id, consumer_group, message_id, topic, tag, msg_key, body, properties, \
                status, blocks, attempts, next_at, open_key, first_failed_at, last_error, updated_at)";
    sql::insert(conn, head, values, "").await.map(|_| ())
}

/// What is due: binds the group, the time and how many.
pub(super) const DUE: &str = "SELECT id, next_at, LENGTH(body) FROM message_retry_log \
                              WHERE consumer_group = ? AND next_at <= ? ORDER BY next_at, id LIMIT ?";

/// What falls due next: binds the group.
pub(super) const NEXT_DUE: &str =
    "SELECT MIN(next_at) FROM message_retry_log WHERE consumer_group = ? AND next_at IS NOT NULL";

const CLAIM: Claim =
    Claim { table: "message_retry_log", until: &["next_at", "leased_until"], emptied: &[], counted: None };

/// Takes up to `limit` messages that are due, and up to [`claim::MAX_BYTES`], and keeps others from taking them for
/// `lease_ms`. Messages that cannot be read are set aside.
///
/// # Errors
/// The database's.
pub async fn claim(tx: &mut Tx, group: &str, limit: i64, lease_ms: i64) -> Result<Vec<Parked>, DbError> {
    let now_ms = tx.now_ms();
    let text = format!("{DUE}{}", claim::lock_clause(tx.dialect()));
    let due = claim::affordable(&sql::fetch(tx, text, vals![group, now_ms, limit]).await?)?;
    let taken = claim::take(tx, CLAIM, due.clone(), now_ms + lease_ms).await?;

    let before = "SELECT id, message_id, topic, tag, msg_key, body, properties, blocks, attempts, next_at, \
                  first_failed_at, last_error FROM message_retry_log WHERE id";
    let rows = sql::select_in(tx, before, "", &[], taken.into_iter().map(Val::Int).collect()).await?;
    let (claimed, unreadable) = sql::read_each(&rows, from_row);
    for (row, why) in unreadable {
        walk::set_aside(tx, Walk::Retries, row.int(0)?.into(), &row.text(4).unwrap_or_default(), &why).await?;
    }
    let claimed = claim::as_due(due, claimed, |row| row.id);
    Ok(claimed.map(|(next_at, row)| Parked { next_at: Some(next_at), ..row }).collect())
}

fn from_row(row: &AnyRow) -> Result<Parked, DbError> {
    let id = row.int(0)?;
    Ok(Parked {
        id,
        message_id: row.text(1)?,
        topic: row.text(2)?,
        tag: row.text(3)?,
        key: row.text(4)?,
        body: row.bytes(5)?,
        properties: row.json(6, "message_retry_log", id)?,
        blocks: row.int(7)? != 0,
        attempts: row.int(8)?,
        next_at: row.maybe_int(9)?,
        first_failed_at: row.int(10)?,
        last_error: row.text(11)?,
    })
}

/// Nobody has tried or finished this message since it was claimed: locks the row. A lease that ran out during a slow
/// attempt must not become a second attempt.
///
/// # Errors
/// The database's.
pub async fn lock_waiting(tx: &mut Tx, claimed: &Parked) -> Result<bool, DbError> {
    let lock = tx.dialect().for_update();
    let text = format!("SELECT id FROM message_retry_log WHERE id = ? AND status = 0 AND attempts = ?{lock}");
    Ok(sql::fetch_one(tx, text, vals![claimed.id, claimed.attempts]).await?.is_some())
}

/// A message is through: handled or given up. The next one behind it becomes due.
///
/// # Errors
/// The database's.
pub async fn finish(tx: &mut Tx, group: &str, row: &Parked, status: Status, error: &str) -> Result<(), DbError> {
    let now_ms = tx.now_ms();
    let text = "UPDATE message_retry_log SET status = ?, attempts = ?, next_at = NULL, open_key = NULL, \
                leased_until = NULL, last_error = ?, updated_at = ? WHERE id = ?";
    sql::execute(tx, text, vals![status as i64, row.attempts, shorten(error), now_ms, row.id]).await?;
    if row.key.is_empty() && !row.blocks {
        return Ok(());
    }
    let text = "SELECT MIN(id) FROM message_retry_log WHERE consumer_group = ? AND open_key = ? AND next_at IS NULL";
    let next = match sql::fetch_one(tx, text, vals![group, &row.key]).await? {
        Some(found) => found.maybe_int(0)?,
        None => None,
    };
    if let Some(next) = next {
        // Unless another one of the key is still ahead of it.
        let text = "SELECT COUNT(*) FROM message_retry_log \
                    WHERE consumer_group = ? AND open_key = ? AND blocks = 1 AND next_at IS NOT NULL";
        let ahead = match sql::fetch_one(tx, text, vals![group, &row.key]).await? {
            Some(found) => found.int(0)?,
            None => 0,
        };
        if ahead == 0 {
            sql::execute(tx, "UPDATE message_retry_log SET next_at = ? WHERE id = ?", vals![now_ms, next]).await?;
            tx.wake_retries();
        }
    }
    Ok(())
}

/// A message failed again, and waits until `next_at`.
///
/// # Errors
/// The database's.
pub async fn postpone(tx: &mut Tx, row: &Parked, next_at: i64, error: &str) -> Result<(), DbError> {
    let now_ms = tx.now_ms();
    let text = "UPDATE message_retry_log SET attempts = ?, next_at = ?, leased_until = NULL, last_error = ?, updated_at = ? \
                WHERE id = ?";
    sql::execute(tx, text, vals![row.attempts, next_at, shorten(error), now_ms, row.id]).await.map(|_| ())
}

/// What came too early for these keys may be tried now. Of the empty one nothing: no message says that it has moved.
///
/// # Errors
/// The database's.
pub async fn wake_early(tx: &mut Tx, group: &str, keys: Vec<String>) -> Result<(), DbError> {
    let now_ms = tx.now_ms();
    let before = "UPDATE message_retry_log SET next_at = ? WHERE consumer_group = ? AND blocks = 0 \
                  AND next_at IS NOT NULL AND open_key";
    let keys = keys.into_iter().filter(|key| !key.is_empty()).map(Val::Text).collect();
    if sql::execute_in(tx, before, "", &[Val::Int(now_ms), Val::from(group)], keys).await? > 0 {
        tx.wake_retries();
    }
    Ok(())
}

/// A message that waits behind nothing is due now; 0 when it does not, or something is ahead of it after all.
///
/// # Errors
/// The database's.
pub async fn wake_lost(tx: &mut Tx, id: i64) -> Result<u64, DbError> {
    let lock = tx.dialect().for_update();
    let text = format!(
        "SELECT consumer_group, open_key FROM message_retry_log WHERE id = ? AND status = 0 AND next_at IS NULL{lock}"
    );
    let Some(row) = sql::fetch_one(tx, text, vals![id]).await? else { return Ok(0) };
    let (group, key) = (row.text(0)?, row.maybe_text(1)?);
    let text = "SELECT COUNT(*) FROM message_retry_log \
                WHERE consumer_group = ? AND open_key = ? AND open_key <> '' AND (next_at IS NOT NULL OR id < ?)";
    let ahead = match sql::fetch_one(tx, text, vals![group, key, id]).await? {
        Some(found) => found.int(0)?,
        None => 0,
    };
    if ahead > 0 {
        return Ok(0);
    }
    let now_ms = tx.now_ms();
    sql::execute(tx, "UPDATE message_retry_log SET next_at = ? WHERE id = ?", vals![now_ms, id]).await
}

/// When the next parked message of a group falls due.
///
/// # Errors
/// The database's.
pub async fn next_due(conn: &mut AnyConnection, group: &str) -> Result<Option<i64>, DbError> {
    sql::fetch_one(conn, NEXT_DUE, vals![group]).await?.map_or(Ok(None), |row| row.maybe_int(0))
}

/// Messages of a group that wait, and when the first of them is or was due.
///
/// # Errors
/// The database's.
pub async fn waiting_of(conn: &mut AnyConnection, group: &str) -> Result<(i64, Option<i64>), DbError> {
    let text = "SELECT COUNT(*), MIN(next_at) FROM message_retry_log WHERE consumer_group = ? AND open_key IS NOT NULL";
    match sql::fetch_one(conn, text, vals![group]).await? {
        Some(row) => Ok((row.int(0)?, row.maybe_int(1)?)),
        None => Ok((0, None)),
    }
}

/// The next group: binds the one before.
pub(super) const NEXT_GROUP: &str = "SELECT MIN(consumer_group) FROM message_retry_log WHERE consumer_group > ?";

/// How many messages of a group wait: binds the group and how many are counted. A key is never smaller than no text.
pub(super) const COUNT_OPEN: &str = "SELECT COUNT(*) FROM (SELECT open_key FROM message_retry_log \
                                     WHERE consumer_group = ? AND open_key >= '' LIMIT ?) AS counted";

/// Messages that wait, over all groups, up to [`COUNTED`].
///
/// # Errors
/// The database's.
pub async fn waiting(conn: &mut AnyConnection) -> Result<i64, DbError> {
    let (mut group, mut waiting) = (String::new(), 0);
    // From one group to the next in the index, over all that they have handled.
    while waiting < COUNTED {
        let next = sql::fetch_one(conn, NEXT_GROUP, vals![&group]).await?;
        let Some(next) = next.map_or(Ok(None), |row| row.maybe_text(0))? else { break };
        let row = sql::fetch_one(conn, COUNT_OPEN, vals![&next, COUNTED - waiting]).await?;
        waiting += row.map_or(Ok(0), |row| row.int(0))?;
        group = next;
    }
    Ok(waiting)
}
