//! Questions that are asked again: on all of their schedule, or, where nobody knows the answer yet, on the end of it.
//! And calls that say something else when they are made again.

use sqlx::AnyConnection;

use super::{CALL, Delivery, Kind, Status, call};
use crate::db::sql::{self, Val};
use crate::db::{DbError, Tx};
use crate::vals;

/// So many of the last waits of its schedule come again before a question that goes on is at its end once more.
const LAST_WAITS: i64 = 3;

/// Calls of this kind with these references, as they were recorded.
///
/// # Errors
/// The database's.
pub async fn by_references(
    conn: &mut AnyConnection,
    kind: Kind,
    references: Vec<String>,
) -> Result<Vec<Delivery>, DbError> {
    let keys = references.into_iter().map(Val::Text).collect();
    let before = format!("{CALL} WHERE kind = ? AND ref");
    let rows = sql::select_in(conn, &before, "", &[Val::Int(kind as i64)], keys).await?;
    rows.iter().map(call).collect()
}

/// Questions that were asked in vain, or have ended, are asked at `due` (epoch ms) at the latest, and on all of their
/// schedule from then on. One that nobody has begun to ask stays as it is. How many.
///
/// # Errors
/// The database's.
pub async fn ask_anew(tx: &mut Tx, kind: Kind, references: Vec<String>, due: i64) -> Result<u64, DbError> {
    let now_ms = tx.now_ms();
    // What has ended has no time, or one that never comes.
    let before = "UPDATE delivery SET next_at = CASE WHEN next_at < ? THEN next_at ELSE ? END, armed_at = ?, \
                  base_attempts = attempts, status = 0, updated_at = ? \
                  WHERE kind = ? AND (status <> 0 OR attempts > 0) AND ref";
    let fixed = [due, due, now_ms, now_ms, kind as i64].map(Val::Int);
    let asked = sql::execute_in(tx, before, "", &fixed, references.into_iter().map(Val::Text).collect()).await?;
    if asked > 0 {
        tx.wake_deliveries();
    }
    Ok(asked)
}

/// Questions that came to the end of their schedule without an answer, or failed there, are asked again at `due`, epoch
/// ms, and then after its last waits. How many.
///
/// # Errors
/// The database's.
pub async fn go_on_asking(tx: &mut Tx, kind: Kind, references: Vec<String>, due: i64) -> Result<u64, DbError> {
    let now_ms = tx.now_ms();
    // One attempt more than there are waits has ended the schedule. One that is shorter begins anew.
    let before = "UPDATE delivery SET base_attempts = CASE WHEN COALESCE(base_attempts, 0) + ? < attempts \
                  THEN COALESCE(base_attempts, 0) + ? ELSE attempts END, status = 0, next_at = ?, armed_at = ?, \
                  updated_at = ? WHERE kind = ? AND status IN (?, ?) AND ref";
    let made = LAST_WAITS + 1;
    let fixed = [made, made, due, due, now_ms, kind as i64, Status::Done as i64, Status::Dead as i64].map(Val::Int);
    let asked = sql::execute_in(tx, before, "", &fixed, references.into_iter().map(Val::Text).collect()).await?;
    tx.wake_deliveries();
    Ok(asked)
}

/// Has a call say something else and makes it due, where none of its requests can have been carried out: none has been
/// sent, or the other side has refused each. False where one may have been, or is under way; the call stays as it is.
///
/// # Errors
/// The database's.
pub async fn reword(tx: &mut Tx, kind: Kind, reference: String, body: String) -> Result<bool, DbError> {
    let now_ms = tx.now_ms();
    // Whoever claims the call has counted that before anything is sent.
    let text = "UPDATE delivery SET body = ?, status = 0, next_at = ?, armed_at = ?, held_by = NULL, \
                base_attempts = attempts, updated_at = ? \
                WHERE kind = ? AND ref = ? AND status <> ? AND COALESCE(unanswered, attempts) = 0";
    let values = vals![body, now_ms, now_ms, now_ms, kind as i64, reference, Status::Done as i64];
    let is_reworded = sql::execute(tx, text, values).await? > 0;
    if is_reworded {
        tx.wake_deliveries();
    }
    Ok(is_reworded)
}
