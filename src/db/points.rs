//! `user_points` and `points_record`.

use std::collections::{BTreeMap, HashMap};

use sqlx::AnyConnection;

use super::sql::{self, Column, Columns, Val};
use super::{DbError, Dialect, Tx};
use crate::domain::points::{Kind, Standing};
use crate::vals;

mod book;

pub use book::*;

/// A change of a balance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Order that earned it; of a gift, or of what was spent, an id of its own.
    pub order_id: i64,
    /// What it was.
    pub kind: Kind,
    /// Whose balance.
    pub user_id: i64,
    /// Points, negative where they were taken back.
    pub points: i64,
}

fn kind_of(order_id: i64, code: i64) -> Result<Kind, DbError> {
    let what = || format!("unknown kind {code}");
    Kind::from_code(code).ok_or_else(|| DbError::Row {
        table: "points_record",
        key: order_id.to_string(),
        what: what(),
    })
}

/// Records of orders, by order. Whoever asks for them as well, to change what these orders earned or lost, waits until the
/// commit, also of an order that has no record yet.
///
/// # Errors
/// The database's.
pub async fn lock_of_orders(tx: &mut Tx, mut order_ids: Vec<i64>) -> Result<HashMap<i64, Vec<Record>>, DbError> {
    order_ids.sort_unstable();
    order_ids.dedup();
    // Counted up, so that the row changes each time: one that stays as it is may stay unlocked.
    let rows = order_ids.iter().map(|order_id| vals![*order_id, 1_i64]).collect();
    let tail = Dialect::of(tx).on_conflict("order_id", &[], &["taken"]);
    sql::insert(tx, "INSERT INTO points_order (order_id, taken)", rows, &tail).await?;
    records_of_orders(tx, order_ids).await
}

/// Records of orders, by order, as far as they are there; these are locked until the commit.
///
/// # Errors
/// The database's.
pub async fn records_of_orders(tx: &mut Tx, mut order_ids: Vec<i64>) -> Result<HashMap<i64, Vec<Record>>, DbError> {
    order_ids.sort_unstable();
    order_ids.dedup();
    let before = "SELECT order_id, kind, user_id, points FROM points_record WHERE order_id";
    let after = format!(" AND kind < 4 ORDER BY order_id, kind{}", tx.dialect().for_update());
    let rows = sql::select_in(tx, before, &after, &[], order_ids.into_iter().map(Val::Int).collect()).await?;
    let mut found: HashMap<i64, Vec<Record>> = HashMap::new();
    for row in &rows {
        let kind = kind_of(row.int(0)?, row.int(1)?)?;
        let record = Record { order_id: row.int(0)?, kind, user_id: row.int(2)?, points: row.int(3)? };
        found.entry(record.order_id).or_default().push(record);
    }
    Ok(found)
}

/// Writes records, and adds them to the balances.
///
/// # Errors
/// The database's.
pub async fn apply(tx: &mut Tx, records: &[Record]) -> Result<(), DbError> {
    let now_ms = tx.now_ms();
    let rows = records
        .iter()
        .map(|record| vals![record.order_id, record.kind.code(), record.user_id, record.points, now_ms])
        .collect();
    sql::insert(tx, INSERT, rows, "").await?;
    add(tx, records).await
}

/// Writes a correction, and adds it to the balance. An order has one row of the kind: a later correction is added to it.
///
/// # Errors
/// The database's.
pub async fn correct(tx: &mut Tx, order_id: i64, user_id: i64, change: i64) -> Result<(), DbError> {
    let record = Record { order_id, kind: Kind::Correct, user_id, points: change };
    let rows = vec![vals![order_id, record.kind.code(), user_id, change, tx.now_ms()]];
    let tail = Dialect::of(tx).on_conflict("order_id, kind", &["created_at"], &["points"]);
    sql::insert(tx, INSERT, rows, &tail).await?;
    add(tx, &[record]).await
}

const INSERT: &str = "INSERT INTO points_record (order_id, kind, user_id, points, created_at)";

/// Adds records to the balances, each user once and in user order.
async fn add(tx: &mut Tx, records: &[Record]) -> Result<(), DbError> {
    let mut changes: BTreeMap<i64, i64> = BTreeMap::new();
    for record in records {
        *changes.entry(record.user_id).or_default() += record.points;
    }
    move_balances(tx, changes).await
}

/// A refund whose points were taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reversal {
    /// Refund.
    pub refund_id: i64,
    /// Order.
    pub order_id: i64,
    /// Money that went back, minor units.
    pub amount: i64,
    /// What was paid, minor units.
    pub paid: i64,
}

/// The refunds of orders whose points were taken back, by order.
///
/// # Errors
/// The database's.
pub async fn reversals(
    conn: &mut AnyConnection,
    mut order_ids: Vec<i64>,
) -> Result<HashMap<i64, Vec<Reversal>>, DbError> {
    order_ids.sort_unstable();
    order_ids.dedup();
    let before = "SELECT refund_id, order_id, amount, paid FROM points_reversal WHERE order_id";
    let keys = order_ids.into_iter().map(Val::Int).collect();
    let mut found: HashMap<i64, Vec<Reversal>> = HashMap::new();
    for row in &sql::select_in(conn, before, " ORDER BY refund_id", &[], keys).await? {
        let one = Reversal { refund_id: row.int(0)?, order_id: row.int(1)?, amount: row.int(2)?, paid: row.int(3)? };
        found.entry(one.order_id).or_default().push(one);
    }
    Ok(found)
}

/// Notes refunds whose points are taken back with this transaction.
///
/// # Errors
/// The database's; a unique violation when one was noted before.
pub async fn note_reversals(tx: &mut Tx, refunds: &[Reversal]) -> Result<(), DbError> {
    let now_ms = tx.now_ms();
    let row = |one: &Reversal| vals![one.refund_id, one.order_id, one.amount, one.paid, now_ms];
    let head = "INSERT INTO points_reversal (refund_id, order_id, amount, paid, created_at)";
    sql::insert(tx, head, refunds.iter().map(row).collect(), "").await.map(|_| ())
}

/// Adds to what was taken back of an order's points (a row that [`lock_of_orders`] has locked), and to the balance.
///
/// # Errors
/// The database's.
pub async fn take_more(tx: &mut Tx, more: &Record) -> Result<(), DbError> {
    let text = "UPDATE points_record SET user_id = ?, points = points + ? WHERE order_id = ? AND kind = ?";
    sql::execute(tx, text, vals![more.user_id, more.points, more.order_id, more.kind.code()]).await?;
    move_balances(tx, BTreeMap::from([(more.user_id, more.points)])).await
}

/// Adds to what users have, each user once and in user order; user 0 is nobody. What was spent before it is taken back
/// becomes a shortfall.
///
/// # Errors
/// The database's.
pub async fn move_balances(tx: &mut Tx, mut changes: BTreeMap<i64, i64>) -> Result<(), DbError> {
    changes.remove(&0);
    let now_ms = tx.now_ms();
    let standings = lock_standings(tx, changes.keys().copied().collect()).await?;
    let row = |(user_id, change): (i64, i64)| {
        let next = Standing::of(standings.get(&user_id).copied().unwrap_or_default().sum() + change);
        vals![user_id, next.balance, next.shortfall, now_ms]
    };
    let columns = [Column::Set("balance"), Column::Set("shortfall"), Column::Set("updated_at")];
    sql::update(tx, "user_points", "user_id", &columns, changes.into_iter().map(row).collect()).await
}

/// What users have, locked until the commit; who had nothing yet has a row then.
async fn lock_standings(tx: &mut Tx, users: Vec<i64>) -> Result<BTreeMap<i64, Standing>, DbError> {
    let mut found = locked(tx, users.clone()).await?;
    let missing: Vec<i64> = users.into_iter().filter(|user| !found.contains_key(user)).collect();
    if !missing.is_empty() {
        let now_ms = tx.now_ms();
        let rows = missing.iter().map(|user| vals![*user, 0_i64, 0_i64, now_ms]).collect();
        // Another one may have been faster, and added something: what counts is what is locked below.
        sql::insert_ignore(tx, "user_points (user_id, balance, shortfall, updated_at)", rows).await?.or_known();
        found.extend(locked(tx, missing).await?);
    }
    Ok(found)
}

async fn locked(tx: &mut Tx, users: Vec<i64>) -> Result<BTreeMap<i64, Standing>, DbError> {
    let before = "SELECT user_id, balance, shortfall FROM user_points WHERE user_id";
    let after = format!(" ORDER BY user_id{}", tx.dialect().for_update());
    let rows = sql::select_in(tx, before, &after, &[], users.into_iter().map(Val::Int).collect()).await?;
    rows.iter().map(|row| Ok((row.int(0)?, Standing { balance: row.int(1)?, shortfall: row.int(2)? }))).collect()
}

/// Makes what a user has the sum of the records again, locked until the commit: (before, after), where they differed.
///
/// # Errors
/// The database's.
pub async fn rebalance(tx: &mut Tx, user_id: i64) -> Result<Option<(i64, i64)>, DbError> {
    let before = lock_standings(tx, vec![user_id]).await?.remove(&user_id).unwrap_or_default();
    let text = "SELECT CAST(COALESCE(SUM(points), 0) AS SIGNED) FROM points_record WHERE user_id = ?";
    let sum = sql::fetch_one(tx, text, vals![user_id]).await?.map_or(Ok(0), |row| row.int(0))?;
    let after = Standing::of(sum);
    if before == after {
        return Ok(None);
    }
    let text = "UPDATE user_points SET balance = ?, shortfall = ?, updated_at = ? WHERE user_id = ?";
    let now_ms = tx.now_ms();
    sql::execute(tx, text, vals![after.balance, after.shortfall, now_ms, user_id]).await?;
    Ok(Some((before.sum(), after.sum())))
}

/// What a user has; nothing for one who never had points.
///
/// # Errors
/// The database's.
pub async fn standing(conn: &mut AnyConnection, user_id: i64) -> Result<Standing, DbError> {
    let text = "SELECT balance, shortfall FROM user_points WHERE user_id = ?";
    let found = sql::fetch_one(conn, text, vals![user_id]).await?;
    found.map_or(Ok(Standing::default()), |row| Ok(Standing { balance: row.int(0)?, shortfall: row.int(1)? }))
}
