//! Calls that wait for their endpoint: it fails, or has enough calls waiting. They are not due before they would be given
//! up, so nobody claims them; one at a time is woken to try the endpoint, and its answers release the others.

use std::collections::BTreeMap;

use super::{Kind, NOT_MADE, among};
use crate::db::sql::{self, Columns, Val};
use crate::db::{DbError, Tx};
use crate::vals;

/// The next endpoint that calls wait for: binds the one before.
pub(in crate::db) const NEXT_ENDPOINT: &str = "SELECT MIN(held_by) FROM delivery WHERE held_by > ?";

/// What waits for an endpoint: binds the endpoint and how many.
pub(in crate::db) const OF_ENDPOINT: &str = "SELECT id FROM delivery WHERE held_by = ? ORDER BY id LIMIT ?";

/// Puts calls to wait for their endpoints, as (endpoint, call), until `give_up_after_ms` after they were armed: they
/// are looked at then, whatever became of the process that put them here.
///
/// # Errors
/// The database's.
pub async fn park(tx: &mut Tx, calls: &[(i64, i64)], give_up_after_ms: i64) -> Result<(), DbError> {
    let mut by_endpoint: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for (endpoint, id) in calls {
        by_endpoint.entry(*endpoint).or_default().push(*id);
    }
    let text =
        format!("UPDATE delivery SET held_by = ?, next_at = COALESCE(armed_at, created_at) + ?, {NOT_MADE} WHERE id");
    for (endpoint, mut ids) in by_endpoint {
        ids.sort_unstable();
        let fixed = [Val::Int(endpoint), Val::Int(give_up_after_ms)];
        sql::execute_in(tx, &text, " AND status = 0", &fixed, ids.into_iter().map(Val::Int).collect()).await?;
    }
    Ok(())
}

/// Up to `limit` endpoints after `after` that calls wait for, in the order of their numbers.
///
/// # Errors
/// The database's.
pub async fn endpoints(conn: &mut sqlx::AnyConnection, mut after: i64, limit: usize) -> Result<Vec<i64>, DbError> {
    let mut found = Vec::new();
    // From one to the next in the index, over all that wait for it.
    while found.len() < limit {
        let next = sql::fetch_one(conn, NEXT_ENDPOINT, vals![after]).await?.map_or(Ok(None), |row| row.maybe_int(0))?;
        let Some(next) = next else { break };
        found.push(next);
        after = next;
    }
    Ok(found)
}

/// Makes one call due that waits for `endpoint`: the first one behind call `after`, or else the first of all, so that
/// the same call does not try it each time. Which one.
///
/// # Errors
/// The database's.
pub async fn wake(tx: &mut Tx, kinds: &[Kind], endpoint: i64, after: i64) -> Result<Option<i64>, DbError> {
    let text = format!(
        "SELECT id FROM delivery WHERE held_by = ? AND status = 0 AND id > ? AND {} ORDER BY id LIMIT 1",
        among(kinds)
    );
    for after in [after, i64::MIN] {
        if let Some(row) = sql::fetch_one(tx, text.clone(), vals![endpoint, after]).await? {
            let id = row.int(0)?;
            let_go(tx, endpoint, vec![id]).await?;
            return Ok(Some(id));
        }
    }
    Ok(None)
}

/// An endpoint answers: makes due what has waited for it the longest, up to `limit` calls. How many.
///
/// # Errors
/// The database's.
pub async fn release(tx: &mut Tx, endpoint: i64, limit: i64) -> Result<u64, DbError> {
    let rows = sql::fetch(tx, OF_ENDPOINT, vals![endpoint, limit]).await?;
    let ids = rows.iter().map(|row| row.int(0)).collect::<Result<Vec<_>, _>>()?;
    if ids.is_empty() { Ok(0) } else { let_go(tx, endpoint, ids).await }
}

async fn let_go(tx: &mut Tx, endpoint: i64, ids: Vec<i64>) -> Result<u64, DbError> {
    let fixed = [Val::Int(tx.now_ms()), Val::Int(endpoint)];
    let text = "UPDATE delivery SET held_by = NULL, next_at = ? WHERE held_by = ? AND status = 0 AND id";
    let released = sql::execute_in(tx, text, "", &fixed, ids.into_iter().map(Val::Int).collect()).await?;
    tx.wake_deliveries();
    Ok(released)
}
