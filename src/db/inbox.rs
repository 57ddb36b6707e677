//! `message_process_log`: the inbox. A row says that a group has handled an event; it is written with the effects.

pub mod log;

use std::collections::{HashMap, HashSet};

use sqlx::AnyConnection;

use super::sql::{self, Columns, Val};
use super::{DbError, Tx};
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

impl Outcome {
    /// From the stored code; `None` for a code this version does not know.
    #[must_use]
    pub fn from_code(code: i64) -> Option<Self> {
        [Self::Done, Self::Ignored, Self::Parked, Self::Dead].into_iter().find(|outcome| *outcome as i64 == code)
    }
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
    /// Somebody sent it again on purpose: when, epoch ms (0: nobody knows).
    pub resent_at: Option<i64>,
}

/// What a group may handle now, of what it was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claimed {
    /// Event ids: new to the group, or revived.
    pub ids: HashSet<String>,
    /// Those of them that had been given up before.
    pub revived: Vec<String>,
}

/// Writes inbox rows for `claims` (distinct, sorted by id: two consumers that meet must lock in the same order) and
/// tells which of them the group may handle: those that are new to it, and those that it had given up before somebody
/// sent them again. Of two such copies one gets through; what was handled, ignored or parked stays a duplicate.
///
/// # Errors
/// The database's.
pub async fn claim(
    conn: &mut AnyConnection,
    group: &str,
    batch_id: i64,
    claims: &[Claim<'_>],
    now_ms: i64,
) -> Result<Claimed, DbError> {
    let rows = claims
        .iter()
        .map(|claim| vals![group, claim.message_id, batch_id, claim.topic, claim.key, Outcome::Done as i64, now_ms])
        .collect();
    let columns = "message_process_log (consumer_group, message_id, batch_id, topic, msg_key, outcome, consumed_at)";
    let inserted = sql::insert_ignore(conn, columns, rows).await?;
    if inserted.is_all() {
        let ids = claims.iter().map(|claim| claim.message_id.to_owned()).collect();
        return Ok(Claimed { ids, revived: vec![] });
    }
    let revived = revive(conn, group, batch_id, claims, now_ms).await?;
    if inserted.count() == 0 {
        return Ok(Claimed { ids: revived.iter().cloned().collect(), revived });
    }
    let keys = claims.iter().map(|claim| Val::from(claim.message_id)).collect();
    let before = "SELECT message_id FROM message_process_log WHERE batch_id = ? AND consumer_group = ? AND message_id";
    let rows = sql::select_in(conn, before, "", &[Val::Int(batch_id), Val::from(group)], keys).await?;
    let ids = rows.iter().map(|row| row.text(0)).collect::<Result<_, _>>()?;
    Ok(Claimed { ids, revived })
}

/// Takes back the rows that had died before their message was sent again; their ids. A copy of the message that died,
/// or of an earlier resend, is older than its death. Looks before it locks: most duplicates need not wait.
async fn revive(
    conn: &mut AnyConnection,
    group: &str,
    batch_id: i64,
    claims: &[Claim<'_>],
    now_ms: i64,
) -> Result<Vec<String>, DbError> {
    let resent: HashMap<&str, i64> =
        claims.iter().filter_map(|claim| Some((claim.message_id, claim.resent_at?))).collect();
    if resent.is_empty() {
        return Ok(vec![]);
    }
    let keys = resent.keys().map(|id| Val::from(*id)).collect();
    let before = "SELECT message_id FROM message_process_log WHERE outcome = 3 AND consumer_group = ? AND message_id";
    let dead = sql::select_in(conn, before, "", &[Val::from(group)], keys).await?;
    let mut dead = dead.iter().map(|row| row.text(0)).collect::<Result<Vec<_>, _>>()?;
    dead.sort_unstable();
    dead.dedup();
    let mut revived = Vec::new();
    let text = "UPDATE message_process_log SET outcome = 0, reason = NULL, batch_id = ?, consumed_at = ? \
                WHERE consumer_group = ? AND message_id = ? AND outcome = 3 AND consumed_at < ?";
    for id in dead {
        let sent_at = resent.get(id.as_str()).copied().filter(|at| *at > 0).unwrap_or(i64::MAX);
        // Another copy may have been faster.
        if sql::execute(conn, text, vals![batch_id, now_ms, group, &id, sent_at]).await? == 1 {
            revived.push(id);
        }
    }
    Ok(revived)
}

/// How a group's handling of a message went, locked until the commit.
///
/// # Errors
/// The database's.
pub async fn lock_outcome(tx: &mut Tx, group: &str, message_id: &str) -> Result<Option<i64>, DbError> {
    let lock = tx.dialect().for_update();
    let text = format!("SELECT outcome FROM message_process_log WHERE consumer_group = ? AND message_id = ?{lock}");
    sql::fetch_one(tx, text, vals![group, message_id]).await?.map(|row| row.int(0)).transpose()
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

/// A message is given up, at `now_ms`: only what is sent again after that is handled.
///
/// # Errors
/// The database's.
pub async fn bury(
    conn: &mut AnyConnection,
    group: &str,
    message_id: &str,
    reason: &str,
    now_ms: i64,
) -> Result<(), DbError> {
    let text = "UPDATE message_process_log SET outcome = ?, reason = ?, consumed_at = ? \
                WHERE consumer_group = ? AND message_id = ?";
    let reason = super::retry::shorten(reason);
    sql::execute(conn, text, vals![Outcome::Dead as i64, reason, now_ms, group, message_id]).await.map(|_| ())
}

/// Writes a row that comes from no message, and takes it away again: where that works, what the inbox refuses is refused
/// for what is in it.
///
/// # Errors
/// The database's: it takes no row of anybody.
pub async fn probe(tx: &mut Tx, group: &str) -> Result<(), DbError> {
    let (batch, now_ms, id) = (tx.next_id(), tx.now_ms(), format!("probe:{}", tx.next_id()));
    claim(tx, group, batch, &[Claim { message_id: &id, topic: "", key: "", resent_at: None }], now_ms).await?;
    let text = "DELETE FROM message_process_log WHERE consumer_group = ? AND message_id = ?";
    sql::execute(tx, text, vals![group, &id]).await.map(|_| ())
}
