//! Calls that keep their order: the next one about an order is made when the one before has been settled.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sqlx::AnyConnection;

use super::{Delivery, Kind, Status};
use crate::db::sql::{self, Columns, Val};
use crate::db::{DbError, Tx};

/// What waits for a call that is due itself, and not taken, looks again after this, ms.
const AGAIN_MS: i64 = 1_000;

/// A call about an order that is still to be made.
struct Open {
    id: i64,
    next_at: i64,
    /// The endpoint that it waits for.
    held_by: Option<i64>,
    /// Not tried yet, or not since somebody asked for it once more.
    is_fresh: bool,
}

/// The calls still to be made of these kinds and orders, oldest first.
async fn open_of(tx: &mut Tx, wanted: &BTreeSet<(i64, i64)>) -> Result<BTreeMap<(i64, i64), Vec<Open>>, DbError> {
    let keys = wanted.iter().map(|(_, order_id)| *order_id).collect::<BTreeSet<_>>();
    let text = "SELECT kind, order_id, id, next_at, attempts - COALESCE(base_attempts, 0), held_by FROM delivery \
                WHERE status = ? AND order_id";
    let fixed = [Val::Int(Status::Pending as i64)];
    let rows = sql::select_in(tx, text, " ORDER BY id", &fixed, keys.into_iter().map(Val::Int).collect()).await?;
    let mut found: BTreeMap<(i64, i64), Vec<Open>> = BTreeMap::new();
    for row in rows {
        let key = (row.int(0)?, row.int(1)?);
        if wanted.contains(&key) {
            let next_at = row.maybe_int(3)?.unwrap_or(i64::MAX);
            let (is_fresh, held_by) = (row.int(4)? == 0, row.maybe_int(5)?);
            found.entry(key).or_default().push(Open { id: row.int(2)?, next_at, held_by, is_fresh });
        }
    }
    for open in found.values_mut() {
        open.sort_unstable_by_key(|one| one.id);
    }
    Ok(found)
}

fn key(call: &Delivery) -> (i64, i64) {
    (call.kind as i64, call.order_id)
}

/// Takes out of `calls`, claimed for `lease_ms`, what has to wait for an earlier one: until that one is due again, or
/// for its lease. [`release_next`] wakes it before. Behind a call that waits for its endpoint, it waits for that as well.
pub(super) async fn hold_back(tx: &mut Tx, calls: &mut Vec<Delivery>, lease_ms: i64) -> Result<(), DbError> {
    let wanted: BTreeSet<(i64, i64)> = calls.iter().filter(|call| call.kind.is_ordered()).map(key).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let now_ms = tx.now_ms();
    let open = open_of(tx, &wanted).await?;
    let mut later: BTreeMap<(i64, Option<i64>), Vec<i64>> = BTreeMap::new();
    calls.retain(|call| {
        let first = open.get(&key(call)).and_then(|open| open.first());
        let Some(first) = first.filter(|first| call.kind.is_ordered() && first.id != call.id) else { return true };
        let until = match first.held_by {
            _ if first.next_at <= now_ms => now_ms + AGAIN_MS,
            Some(_) => first.next_at,
            None => first.next_at.min(now_ms + lease_ms),
        };
        later.entry((until, first.held_by)).or_default().push(call.id);
        false
    });
    for ((until, held_by), ids) in later {
        super::put_back(tx, ids, until, held_by).await?;
    }
    Ok(())
}

/// What those of these calls are about that are recorded, by their references.
///
/// # Errors
/// The database's.
pub async fn subjects(
    conn: &mut AnyConnection,
    kind: Kind,
    references: Vec<String>,
) -> Result<HashMap<String, i64>, DbError> {
    let before = "SELECT ref, order_id FROM delivery WHERE kind = ? AND ref";
    let keys = references.into_iter().map(Val::Text).collect();
    let rows = sql::select_in(conn, before, "", &[Val::Int(kind as i64)], keys).await?;
    rows.iter().map(|row| Ok((row.text(0)?, row.int(1)?))).collect()
}

/// After `settled` have ended: makes the next calls about their orders due, of the kinds that keep their order.
///
/// # Errors
/// The database's.
pub async fn release_next(tx: &mut Tx, settled: impl Iterator<Item = &Delivery>) -> Result<(), DbError> {
    let wanted: BTreeSet<(i64, i64)> = settled.filter(|call| call.kind.is_ordered()).map(key).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let now_ms = tx.now_ms();
    let open = open_of(tx, &wanted).await?;
    let firsts = open.values().filter_map(|open| open.first());
    let ids: Vec<i64> = firsts.filter(|one| one.is_fresh && one.next_at > now_ms).map(|one| one.id).collect();
    if !ids.is_empty() {
        super::postpone(tx, ids, now_ms).await?;
        tx.wake_deliveries();
    }
    Ok(())
}
