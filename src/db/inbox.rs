//! `message_process_log`: the inbox. A row says that a group has handled an event; it is written with the effects.

use std::collections::HashSet;

use sqlx::AnyConnection;

use super::DbError;
use super::sql::{self, Columns, Val};
use crate::vals;

/// How a message went (`message_process_log.outcome`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its effects are written.
    Done = 0,
    /// It changed nothing: the row says why.
    Ignored = 1,
    /// It waits in `message_retry_log`.
    Parked = 2,
    /// It was given up and sent to the dead letter queue.
    Dead = 3,
}

/// A message to be claimed.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// Event id.
    pub message_id: &'a str,
    /// Topic.
    pub topic: &'a str,
    /// Business key.
    pub key: &'a str,
}

/// Writes inbox rows for `claims` (distinct, sorted by id: two consumers that meet must lock in the same order) and
/// tells which of them are new to the group.
///
/// # Errors
/// The database's.
pub async fn claim(
    conn: &mut AnyConnection,
    group: &str,
    batch_id: i64,
    claims: &[Claim<'_>],
    now_ms: i64,
) -> Result<HashSet<String>, DbError> {
    let rows = claims
        .iter()
        .map(|claim| vals![group, claim.message_id, batch_id, claim.topic, claim.key, Outcome::Done as i64, now_ms])
        .collect();
    let columns = "message_process_log (consumer_group, message_id, batch_id, topic, msg_key, outcome, consumed_at)";
    let inserted = sql::insert_ignore(conn, columns, rows).await?;
    if inserted == claims.len() as u64 {
        return Ok(claims.iter().map(|claim| claim.message_id.to_owned()).collect());
    }
    if inserted == 0 {
        return Ok(HashSet::new());
    }
    let keys = claims.iter().map(|claim| Val::from(claim.message_id)).collect();
    let before = "SELECT message_id FROM message_process_log WHERE batch_id = ? AND consumer_group = ? AND message_id";
    let rows = sql::select_in(conn, before, "", &[Val::Int(batch_id), Val::from(group)], keys).await?;
    rows.iter().map(|row| row.text(0)).collect()
}

/// Corrects the outcome of rows just claimed.
///
/// # Errors
/// The database's.
pub async fn set_outcome(
    conn: &mut AnyConnection,
    group: &str,
    message_ids: Vec<String>,
    outcome: Outcome,
    reason: Option<&str>,
) -> Result<(), DbError> {
    let fixed = [Val::Int(outcome as i64), Val::from(reason.map(super::retry::shorten)), Val::from(group)];
    let before = "UPDATE message_process_log SET outcome = ?, reason = ? WHERE consumer_group = ? AND message_id";
    sql::execute_in(conn, before, "", &fixed, message_ids.into_iter().map(Val::Text).collect()).await.map(|_| ())
}
