//! `message_process_log`: the inbox. A row says that a group has handled an event; it is written with the effects.

pub mod log;

use std::collections::{HashMap, HashSet};

use sqlx::AnyConnection;

use super::sql::{self, Columns, Val};
use super::{DbError, Dialect, Tx};
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

/// What tells a message that somebody sent again on purpose from copies of the one that died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resent<'a> {
    /// When it was sent, epoch ms (0: nobody knows): copies are older than the death.
    At(i64),
    /// The name of its replay: copies have the name of one that has died.
    By(&'a str),
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
    /// Somebody sent it again on purpose.
    pub resent: Option<Resent<'a>>,
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
/// or of an earlier resend, is older than its death, or is named as a replay that has died. Looks before it locks: most
/// duplicates need not wait.
async fn revive(
    conn: &mut AnyConnection,
    group: &str,
    batch_id: i64,
    claims: &[Claim<'_>],
    now_ms: i64,
) -> Result<Vec<String>, DbError> {
    let resent: HashMap<&str, Resent<'_>> =
        claims.iter().filter_map(|claim| Some((claim.message_id, claim.resent?))).collect();
    if resent.is_empty() {
        return Ok(vec![]);
    }
    let mut dead = dead_of(conn, group, resent.keys().map(|id| Val::from(*id)).collect(), "").await?;
    if dead.iter().any(|id| matches!(resent.get(id.as_str()), Some(Resent::By(_)))) {
        dead = without_copies(conn, group, dead, &resent).await?;
    }

    let mut revived = Vec::new();
    let text = "UPDATE message_process_log SET outcome = 0, reason = NULL, batch_id = ?, consumed_at = ? \
                WHERE consumer_group = ? AND message_id = ? AND outcome = 3 AND consumed_at < ?";
    for id in dead {
        let sent_at = match resent.get(id.as_str()) {
            Some(Resent::At(at)) if *at > 0 => *at,
            _ => i64::MAX,
        };
        // Another copy may have been faster.
        if sql::execute(conn, text, vals![batch_id, now_ms, group, &id, sent_at]).await? == 1 {
            revived.push(id);
        }
    }
    Ok(revived)
}

/// Those of these messages that a group has given up, in the order of their ids.
async fn dead_of(
    conn: &mut AnyConnection,
    group: &str,
    message_ids: Vec<Val>,
    after: &str,
) -> Result<Vec<String>, DbError> {
    let before = "SELECT message_id FROM message_process_log WHERE outcome = 3 AND consumer_group = ? AND message_id";
    let rows = sql::select_in(conn, before, after, &[Val::from(group)], message_ids).await?;
    let mut dead = rows.iter().map(|row| row.text(0)).collect::<Result<Vec<_>, _>>()?;
    dead.sort_unstable();
    dead.dedup();
    Ok(dead)
}

/// Locks these rows, and leaves out those whose message is a copy of a replay that has died. Of two copies at once the
/// second one waits here, and sees what became of the first.
async fn without_copies(
    conn: &mut AnyConnection,
    group: &str,
    dead: Vec<String>,
    resent: &HashMap<&str, Resent<'_>>,
) -> Result<Vec<String>, DbError> {
    let after = format!(" ORDER BY message_id{}", Dialect::of(conn).for_update());
    let mut locked = dead_of(conn, group, dead.into_iter().map(Val::Text).collect(), &after).await?;

    let named_row = |message_id: &str| match resent.get(message_id) {
        Some(Resent::By(replay)) => Some(replay_row(message_id, replay)),
        _ => None,
    };
    let keys = locked.iter().filter_map(|id| named_row(id.as_str())).map(Val::Text).collect();
    let before = "SELECT message_id FROM message_process_log WHERE consumer_group = ? AND message_id";
    let rows = sql::select_in(conn, before, "", &[Val::from(group)], keys).await?;
    let known = rows.iter().map(|row| row.text(0)).collect::<Result<HashSet<_>, _>>()?;
    locked.retain(|id| named_row(id.as_str()).is_none_or(|row| !known.contains(&row)));
    Ok(locked)
}

/// What the inbox knows a replay by that has died.
fn replay_row(message_id: &str, replay: &str) -> String {
    format!("{message_id}@{replay}")
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

/// A message is given up, at `now_ms`: only what is sent again after that is handled. The name of the replay that it
/// came by gets a row of its own, of no topic and no key, so that copies of this replay stay known.
///
/// # Errors
/// The database's.
pub async fn bury(
    conn: &mut AnyConnection,
    group: &str,
    message_id: &str,
    replay: Option<&str>,
    reason: &str,
    now_ms: i64,
) -> Result<(), DbError> {
    let text = "UPDATE message_process_log SET outcome = ?, reason = ?, consumed_at = ? \
                WHERE consumer_group = ? AND message_id = ?";
    let reason = super::retry::shorten(reason);
    sql::execute(conn, text, vals![Outcome::Dead as i64, reason, now_ms, group, message_id]).await?;

    let Some(replay) = replay else { return Ok(()) };
    let columns =
        "message_process_log (consumer_group, message_id, batch_id, topic, msg_key, outcome, reason, consumed_at)";
    let (id, why) = (replay_row(message_id, replay), "this replay has died: copies of it are duplicates");
    let row = vals![group, id, 0_i64, "", "", Outcome::Ignored as i64, why, now_ms];
    // It is there where the message was tried by hand after its death, and died once more.
    sql::insert_ignore(conn, columns, vec![row]).await?.or_known();
    Ok(())
}

/// Writes a row that comes from no message, and takes it away again: where that works, what the inbox refuses is refused
/// for what is in it.
///
/// # Errors
/// The database's: it takes no row of anybody.
pub async fn probe(tx: &mut Tx, group: &str) -> Result<(), DbError> {
    let (batch, now_ms, id) = (tx.next_id(), tx.now_ms(), format!("probe:{}", tx.next_id()));
    claim(tx, group, batch, &[Claim { message_id: &id, topic: "", key: "", resent: None }], now_ms).await?;
    let text = "DELETE FROM message_process_log WHERE consumer_group = ? AND message_id = ?";
    sql::execute(tx, text, vals![group, &id]).await.map(|_| ())
}
