//! `stock`, `stock_reservation` and `stock_ledger`.

use std::collections::{BTreeMap, HashMap};

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::sql::{self, Column, Columns, Val};
use super::{DbError, Tx};
use crate::domain::event::CacheKind;
use crate::domain::stock::{Kind, Level, Lines, Status};
use crate::vals;

/// What is held for an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// State.
    pub status: Status,
    /// SKU → pieces; empty for a tombstone.
    pub lines: Lines,
    /// Why it was refused.
    pub reason: String,
}

/// A movement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Movement {
    /// SKU.
    pub sku: String,
    /// Order; 0: an operator's.
    pub order_id: i64,
    /// What it was.
    pub kind: Kind,
    /// What it did.
    pub change: Level,
    /// Why.
    pub reason: String,
    /// Name of the API key of whoever asked for it; none for an order's.
    pub actor: Option<String>,
}

/// The pieces of a SKU, as stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stocked {
    /// By where they are.
    pub level: Level,
    /// Grows with each change.
    pub version: i64,
}

/// Levels of SKUs, locked in SKU order until the commit; those that do not exist are missing.
///
/// # Errors
/// The database's.
pub async fn lock(tx: &mut Tx, skus: Vec<String>) -> Result<BTreeMap<String, Stocked>, DbError> {
    let after = format!(" ORDER BY sku{}", tx.dialect().for_update());
    select(tx, skus, &after).await
}

/// Levels of SKUs.
///
/// # Errors
/// The database's.
pub async fn get(conn: &mut AnyConnection, skus: Vec<String>) -> Result<BTreeMap<String, Stocked>, DbError> {
    select(conn, skus, "").await
}

async fn select(
    conn: &mut AnyConnection,
    mut skus: Vec<String>,
    after: &str,
) -> Result<BTreeMap<String, Stocked>, DbError> {
    skus.sort_unstable();
    skus.dedup();
    let before = "SELECT sku, available, frozen, sold, version FROM stock WHERE sku";
    let rows = sql::select_in(conn, before, after, &[], skus.into_iter().map(Val::Text).collect()).await?;
    rows.iter().map(from_row).collect()
}

fn from_row(row: &AnyRow) -> Result<(String, Stocked), DbError> {
    let level = Level { available: row.int(1)?, frozen: row.int(2)?, sold: row.int(3)? };
    Ok((row.text(0)?, Stocked { level, version: row.int(4)? }))
}

/// Creates SKUs without pieces where they do not exist.
///
/// # Errors
/// The database's.
pub async fn create(conn: &mut AnyConnection, skus: &[String], now_ms: i64) -> Result<(), DbError> {
    let rows = skus.iter().map(|sku| vals![sku, 0_i64, 0_i64, 0_i64, 0_i64, now_ms]).collect();
    // Only that there is a row to lock is wanted: its pieces are counted under that lock.
    sql::insert_ignore(conn, "stock (sku, available, frozen, sold, version, updated_at)", rows).await?.or_known();
    Ok(())
}

/// Writes levels back, each SKU once; they were read with [`lock`] in this transaction.
///
/// # Errors
/// The database's.
pub async fn update(tx: &mut Tx, levels: &BTreeMap<&str, Stocked>) -> Result<(), DbError> {
    let now_ms = tx.now_ms();
    let rows = levels
        .iter()
        .map(|(sku, Stocked { level, .. })| {
            vals![*sku, level.available, level.frozen, level.sold, 1_i64, 1_i64, now_ms]
        })
        .collect();
    let columns = [
        Column::Set("available"),
        Column::Set("frozen"),
        Column::Set("sold"),
        Column::Add("version"),
        Column::Set("sync_due"),
        Column::Set("updated_at"),
    ];
    for (sku, stocked) in levels {
        tx.changed(CacheKind::Stock, (*sku).to_owned(), stocked.version + 1);
    }
    sql::update(tx, "stock", "sku", &columns, rows).await
}

/// Makes the version of a SKU this one, and its level one that is to be told at once; it was read with [`lock`] in this
/// transaction.
///
/// # Errors
/// The database's.
pub async fn step_over(tx: &mut Tx, sku: &str, version: i64) -> Result<(), DbError> {
    let text = "UPDATE stock SET version = ?, sync_due = 1, synced_at = 0, updated_at = ? WHERE sku = ?";
    let now_ms = tx.now_ms();
    tx.changed(CacheKind::Stock, sku.to_owned(), version);
    sql::execute(tx, text, vals![version, now_ms, sku]).await.map(|_| ())
}

/// What is to be told: binds the SKU before, the time of being told last, and how many.
pub(super) const SYNC_DUE: &str =
    "SELECT sku FROM stock WHERE sync_due = 1 AND sku > ? AND synced_at < ? ORDER BY sku LIMIT ?";

/// What waits the longest to be told again.
pub(super) const SYNC_OLDEST: &str = "SELECT MIN(synced_at) FROM stock WHERE sync_due = 1";

/// SKUs whose level has changed since it was told, and was told last before `told_before`, epoch ms; in SKU order, the
/// first `limit` after `after`.
///
/// # Errors
/// The database's.
pub async fn sync_due(
    conn: &mut AnyConnection,
    told_before: i64,
    after: &str,
    limit: i64,
) -> Result<Vec<String>, DbError> {
    sql::fetch(conn, SYNC_DUE, vals![after, told_before, limit]).await?.iter().map(|row| row.text(0)).collect()
}

/// When the level that waits the longest to be told again was told last, epoch ms; `None` when none has changed.
///
/// # Errors
/// The database's.
pub async fn sync_oldest(conn: &mut AnyConnection) -> Result<Option<i64>, DbError> {
    sql::fetch_one(conn, SYNC_OLDEST, vec![]).await?.map_or(Ok(None), |row| row.maybe_int(0))
}

/// Those of `skus` that nobody has told of since they were found by [`sync_due`], locked, and marked as told now.
///
/// # Errors
/// The database's.
pub async fn take_sync_due(
    tx: &mut Tx,
    skus: Vec<String>,
    told_before: i64,
) -> Result<BTreeMap<String, Stocked>, DbError> {
    let keys: Vec<Val> = skus.into_iter().map(Val::Text).collect();
    let before = "SELECT sku, available, frozen, sold, version FROM stock WHERE sync_due = 1 AND synced_at < ? AND sku";
    // By their primary key, in order, as whoever moves pieces locks them: it waits, and cannot deadlock.
    let after = format!(" ORDER BY sku{}", tx.dialect().for_update());
    let rows = sql::select_in(tx, before, &after, &[Val::Int(told_before)], keys).await?;
    let found = rows.iter().map(from_row).collect::<Result<BTreeMap<_, _>, _>>()?;
    let set = "UPDATE stock SET sync_due = NULL, synced_at = ? WHERE sku";
    let now_ms = tx.now_ms();
    sql::execute_in(tx, set, "", &[Val::Int(now_ms)], found.keys().map(Val::from).collect()).await?;
    Ok(found)
}

/// Reservations of orders, locked until the commit; those that do not exist are missing.
///
/// # Errors
/// The database's.
pub async fn lock_reservations(tx: &mut Tx, mut order_ids: Vec<i64>) -> Result<HashMap<i64, Reservation>, DbError> {
    order_ids.sort_unstable();
    order_ids.dedup();
    let before = "SELECT order_id, status, items, reason FROM stock_reservation WHERE order_id";
    let after = format!(" ORDER BY order_id{}", tx.dialect().for_update());
    let rows = sql::select_in(tx, before, &after, &[], order_ids.into_iter().map(Val::Int).collect()).await?;
    rows.iter().map(reservation_from_row).collect()
}

/// The reservation of an order.
///
/// # Errors
/// The database's.
pub async fn reservation(conn: &mut AnyConnection, order_id: i64) -> Result<Option<Reservation>, DbError> {
    let text = "SELECT order_id, status, items, reason FROM stock_reservation WHERE order_id = ?";
    let row = sql::fetch_one(conn, text, vals![order_id]).await?;
    row.as_ref().map(|row| reservation_from_row(row).map(|(_, found)| found)).transpose()
}

fn reservation_from_row(row: &AnyRow) -> Result<(i64, Reservation), DbError> {
    let order_id = row.int(0)?;
    let code = row.int(1)?;
    let status = Status::from_code(code).ok_or_else(|| DbError::Row {
        table: "stock_reservation",
        key: order_id.to_string(),
        what: format!("unknown status {code}"),
    })?;
    let lines = row.json(2, "stock_reservation", order_id)?;
    Ok((order_id, Reservation { status, lines, reason: row.text(3)? }))
}

/// Writes new reservations.
///
/// # Errors
/// The database's.
pub async fn insert_reservations(tx: &mut Tx, reservations: &[(i64, &Reservation)]) -> Result<(), DbError> {
    let now_ms = tx.now_ms();
    let mut rows = Vec::with_capacity(reservations.len());
    for (order_id, reservation) in reservations {
        let items = serde_json::to_string(&reservation.lines)?;
        let reason = super::retry::shorten(&reservation.reason);
        rows.push(vals![*order_id, reservation.status.code(), items, reason, now_ms, now_ms]);
    }
    let head = "INSERT INTO stock_reservation (order_id, status, items, reason, created_at, updated_at)";
    sql::insert(tx, head, rows, "").await.map(|_| ())
}

/// Writes the states of reservations back; they were read with [`lock_reservations`] in this transaction.
///
/// # Errors
/// The database's.
pub async fn update_reservations(tx: &mut Tx, states: &[(i64, Status)]) -> Result<(), DbError> {
    let now_ms = tx.now_ms();
    let rows = states.iter().map(|(order_id, status)| vals![*order_id, status.code(), now_ms]).collect();
    let columns = [Column::Set("status"), Column::Set("updated_at")];
    sql::update(tx, "stock_reservation", "order_id", &columns, rows).await
}

/// Writes movements to the ledger.
///
/// # Errors
/// The database's.
pub async fn insert_ledger(tx: &mut Tx, movements: &[Movement]) -> Result<(), DbError> {
    let now_ms = tx.now_ms();
    let rows = movements
        .iter()
        .map(|movement| {
            vals![
                tx.next_id(),
                &movement.sku,
                movement.order_id,
                movement.kind.code(),
                movement.change.available,
                movement.change.frozen,
                movement.change.sold,
                &movement.reason,
                now_ms,
                movement.actor.clone(),
            ]
        })
        .collect();
    let head = "INSERT INTO stock_ledger (id, sku, order_id, kind, d_available, d_frozen, d_sold, reason, \
                created_at, actor)";
    sql::insert(tx, head, rows, "").await.map(|_| ())
}

/// A movement as the ledger has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number, which grows with time.
    pub id: i64,
    /// What moved.
    pub movement: Movement,
    /// Epoch ms.
    pub created_at: i64,
}

/// The movements of a SKU before number `before`, newest first.
///
/// # Errors
/// The database's.
pub async fn ledger(conn: &mut AnyConnection, sku: &str, before: i64, limit: i64) -> Result<Vec<Entry>, DbError> {
    let text = "SELECT id, sku, order_id, kind, d_available, d_frozen, d_sold, reason, actor, created_at \
                FROM stock_ledger WHERE sku = ? AND id < ? ORDER BY id DESC LIMIT ?";
    let entry = |row: &AnyRow| {
        let (id, code) = (row.int(0)?, row.int(3)?);
        let kind = Kind::from_code(code).ok_or_else(|| DbError::Row {
            table: "stock_ledger",
            key: id.to_string(),
            what: format!("unknown kind {code}"),
        })?;
        let change = Level { available: row.int(4)?, frozen: row.int(5)?, sold: row.int(6)? };
        let (reason, actor) = (row.text(7)?, row.maybe_text(8)?);
        let movement = Movement { sku: row.text(1)?, order_id: row.int(2)?, kind, change, reason, actor };
        Ok(Entry { id, movement, created_at: row.int(9)? })
    };
    sql::fetch(conn, text, vals![sku, before, limit]).await?.iter().map(entry).collect()
}
