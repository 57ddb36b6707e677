//! `message_tx_state`: how the local transaction behind a half message went. Whoever writes a transaction's row first,
//! the transaction itself or a check-back that found none, decides it.

use std::collections::{HashMap, HashSet};

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::sql::{self, Columns, Val};
use super::{DbError, Tx};
use crate::vals;

/// How a local transaction went (`message_tx_state.state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxState {
    /// Its effects are written.
    Committed = 1,
    /// Its effects are not written, and never will be.
    RolledBack = 2,
}

/// One attempt to publish an event with a local transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Told apart from every other attempt of the same event.
    pub tx_id: String,
    /// Deterministic id of the event; the same in each attempt.
    pub event_id: String,
    /// Business key.
    pub key: String,
}

/// A decided attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxRow {
    /// Which.
    pub attempt: Attempt,
    /// How it went.
    pub state: TxState,
    /// When it was decided, epoch ms.
    pub created_at: i64,
    /// When its message was published by hand, epoch ms.
    pub resumed_at: Option<i64>,
}

const COLUMNS: &str = "tx_id, event_id, msg_key, state, created_at, resumed_at";

fn from_row(row: &AnyRow) -> Result<TxRow, DbError> {
    let tx_id = row.text(0)?;
    let state = match row.int(3)? {
        1 => TxState::Committed,
        2 => TxState::RolledBack,
        other => {
            let what = format!("unknown state {other}");
            return Err(DbError::Row { table: "message_tx_state", key: tx_id, what });
        }
    };
    Ok(TxRow {
        attempt: Attempt { tx_id, event_id: row.text(1)?, key: row.text(2)? },
        state,
        created_at: row.int(4)?,
        resumed_at: row.maybe_int(5)?,
    })
}

/// Decides attempts, with the transaction of their effects (or, for [`TxState::RolledBack`], instead of it), and tells
/// how each was decided: by this call, or before it. Waits for whoever is deciding one of them right now.
///
/// # Errors
/// The database's.
pub async fn decide(tx: &mut Tx, attempts: &[Attempt], state: TxState) -> Result<HashMap<String, TxState>, DbError> {
    let now_ms = tx.now_ms();
    let mut sorted: Vec<&Attempt> = attempts.iter().collect();
    // Two that meet must lock in the same order.
    sorted.sort_unstable_by(|a, b| a.tx_id.cmp(&b.tx_id));
    let rows = sorted
        .iter()
        .map(|attempt| vals![&attempt.tx_id, &attempt.event_id, &attempt.key, state as i64, now_ms])
        .collect();
    let columns = "message_tx_state (tx_id, event_id, msg_key, state, created_at)";
    if sql::insert_ignore(tx, columns, rows).await?.is_all() {
        return Ok(attempts.iter().map(|attempt| (attempt.tx_id.clone(), state)).collect());
    }
    let found = find(tx, sorted.iter().map(|attempt| attempt.tx_id.clone()).collect()).await?;
    Ok(found.into_iter().map(|(tx_id, row)| (tx_id, row.state)).collect())
}

/// Decided attempts, by transaction id.
///
/// # Errors
/// The database's.
pub async fn find(conn: &mut AnyConnection, tx_ids: Vec<String>) -> Result<HashMap<String, TxRow>, DbError> {
    let keys = tx_ids.into_iter().map(Val::Text).collect();
    let before = format!("SELECT {COLUMNS} FROM message_tx_state WHERE tx_id");
    let rows = sql::select_in(conn, &before, "", &[], keys).await?;
    rows.iter().map(|row| from_row(row).map(|row| (row.attempt.tx_id.clone(), row))).collect()
}

/// Which of these events belong to a committed attempt.
///
/// # Errors
/// The database's.
pub async fn committed_events(conn: &mut AnyConnection, event_ids: Vec<String>) -> Result<HashSet<String>, DbError> {
    let keys = event_ids.into_iter().map(Val::Text).collect();
    let before = "SELECT event_id FROM message_tx_state WHERE event_id";
    let rows = sql::select_in(conn, before, " AND state = 1", &[], keys).await?;
    rows.iter().map(|row| row.text(0)).collect()
}

/// The messages of these attempts were published by hand.
///
/// # Errors
/// The database's.
pub async fn mark_resumed(tx: &mut Tx, tx_ids: Vec<String>) -> Result<(), DbError> {
    let keys = tx_ids.into_iter().map(Val::Text).collect();
    let fixed = [Val::Int(tx.now_ms())];
    sql::execute_in(tx, "UPDATE message_tx_state SET resumed_at = ? WHERE tx_id", "", &fixed, keys).await.map(|_| ())
}
