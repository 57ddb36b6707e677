//! `delivery` and `delivery_attempt`: outgoing HTTP calls, recorded in the transaction that wants them.

mod again;
pub mod held;
pub mod log;
mod order;

use std::collections::HashSet;

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::claim::{self, Claim};
use super::sql::{self, Column, Columns, Inserted, Val};
use super::walk::{self, Walk};
use super::{DbError, Tx};
use crate::vals;

pub use crate::domain::call::Kind;
pub use again::{ask_anew, by_references, go_on_asking, reword};
pub use order::{release_next, subjects};

/// Where a call stands (`delivery.status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// To be made.
    Pending = 0,
    /// Answered well.
    Done = 1,
    /// Given up after the last attempt.
    Dead = 2,
    /// Refused for good by the other side.
    Refused = 3,
    /// Taken back by hand.
    Canceled = 4,
    /// Not made: there was nobody to be told, or who wanted to be.
    Unsent = 5,
}

/// `next_at` of a call that was given up or refused: no real time, so that the index by which work is found finds these.
pub const GIVEN_UP: i64 = super::outbox::GIVEN_UP;

/// A call to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Row.
    pub id: i64,
    /// What for.
    pub kind: Kind,
    /// Idempotency key: one call per (kind, reference).
    pub reference: String,
    /// Order, or payment of the gateway, that it is about; 0: none. Negative: something of another system, or a payment
    /// of the gateway, see [`Delivery::order`].
    pub order_id: i64,
    /// Where to.
    pub url: String,
    /// JSON.
    pub body: String,
    /// Attempts so far.
    pub attempts: i64,
    /// Not before, epoch ms.
    pub next_at: i64,
    /// W3C trace context of what caused it.
    pub trace: Option<String>,
}

impl Delivery {
    /// The order that it is about, as people are told; 0: none of ours. A number that only stands for something of
    /// another system is nothing that they could look for.
    #[must_use]
    pub fn order(&self) -> i64 {
        self.order_id.max(0)
    }
}

/// Records calls; one that is recorded already is left out.
///
/// # Errors
/// The database's.
pub async fn insert(tx: &mut Tx, deliveries: &[Delivery]) -> Result<Inserted, DbError> {
    let now_ms = tx.now_ms();
    let rows = deliveries
        .iter()
        .map(|call| {
            vals![
                call.id,
                call.kind as i64,
                &call.reference,
                call.order_id,
                &call.url,
                &call.body,
                Status::Pending as i64,
                0_i64,
                call.next_at,
                now_ms,
                now_ms,
                call.trace.as_deref(),
            ]
        })
        .collect();
    let columns = "delivery (id, kind, ref, order_id, url, body, status, attempts, next_at, created_at, \
                   updated_at, trace)";
    let inserted = sql::insert_ignore(tx, columns, rows).await?;
    tx.wake_deliveries();
    Ok(inserted)
}

/// `kind IN (...)`: the codes are ours, so they stand in the text.
fn among(kinds: &[Kind]) -> String {
    let codes: Vec<String> = kinds.iter().map(|kind| (*kind as i64).to_string()).collect();
    format!("kind IN ({})", codes.join(","))
}

/// What is due of one kind: binds the kind, the time and how many. One at a time: what another role's kinds leave open is
/// then never read on the way to what is due here.
pub(super) fn due_text() -> String {
    format!("{CALL} WHERE kind = ? AND next_at <= ? ORDER BY next_at, id LIMIT ?")
}

/// What falls due next of these kinds, at least one: binds the end of time for each.
pub(super) fn next_due_text(kinds: &[Kind]) -> String {
    // Not every database takes an order and a limit in a part of a union.
    let first = |kind: &Kind| {
        let code = *kind as i64;
        format!(
            "SELECT next_at FROM (SELECT next_at FROM delivery WHERE kind = {code} AND next_at < ? \
             ORDER BY next_at LIMIT 1) AS one_kind"
        )
    };
    let firsts: Vec<String> = kinds.iter().map(first).collect();
    format!("SELECT MIN(next_at) FROM ({}) AS each_kind", firsts.join(" UNION ALL "))
}

/// Makes calls that were given up or refused due again: somebody asked for them once more.
///
/// # Errors
/// The database's.
pub async fn revive(tx: &mut Tx, kind: Kind, references: Vec<String>) -> Result<u64, DbError> {
    let now_ms = tx.now_ms();
    let before = "UPDATE delivery SET status = 0, next_at = ?, armed_at = ?, base_attempts = attempts, updated_at = ? \
         WHERE kind = ? AND status IN (2, 3, 4, 5) AND ref";
    let fixed = [Val::Int(now_ms), Val::Int(now_ms), Val::Int(now_ms), Val::Int(kind as i64)];
    let keys = references.into_iter().map(Val::Text).collect();
    let revived = sql::execute_in(tx, before, "", &fixed, keys).await?;
    if revived > 0 {
        tx.wake_deliveries();
    }
    Ok(revived)
}

/// Deletes calls that are no longer wanted, and that nobody has begun to make.
///
/// # Errors
/// The database's.
pub async fn delete_unbegun(tx: &mut Tx, kind: Kind, references: Vec<String>) -> Result<u64, DbError> {
    let before = "DELETE FROM delivery WHERE kind = ? AND status = 0 AND attempts = 0 \
                  AND COALESCE(unanswered, 0) = 0 AND ref";
    let keys = references.into_iter().map(Val::Text).collect();
    sql::execute_in(tx, before, "", &[Val::Int(kind as i64)], keys).await
}

/// Takes up to `limit` calls of `kinds` (at least one) that are due, and keeps others from making them for `lease_ms`.
/// Of calls that keep their order only the first that is to be made is taken; the others wait for its end.
///
/// # Errors
/// The database's.
pub async fn claim(tx: &mut Tx, kinds: &[Kind], limit: i64, lease_ms: i64) -> Result<Vec<Delivery>, DbError> {
    loop {
        let mut calls = claim_due(tx, kinds, limit, lease_ms).await?;
        let found = calls.len();
        order::hold_back(tx, &mut calls, lease_ms).await?;
        // Those that wait are no longer due: there may be others behind them.
        if found == 0 || !calls.is_empty() {
            return Ok(calls);
        }
    }
}

const CALL: &str = "SELECT id, kind, ref, order_id, url, body, attempts, next_at, trace FROM delivery";

fn call(row: &AnyRow) -> Result<Delivery, DbError> {
    let id = row.int(0)?;
    Ok(Delivery {
        id,
        kind: kind(row.int(1)?, id)?,
        reference: row.text(2)?,
        order_id: row.int(3)?,
        url: row.text(4)?,
        body: row.text(5)?,
        attempts: row.int(6)?,
        next_at: row.maybe_int(7)?.unwrap_or(GIVEN_UP),
        trace: row.maybe_text(8)?,
    })
}

fn kind(code: i64, id: i64) -> Result<Kind, DbError> {
    let what = format!("unknown kind {code}");
    Kind::from_code(code).ok_or_else(|| DbError::Row { table: "delivery", key: id.to_string(), what })
}

/// These calls, in the order of their ids.
///
/// # Errors
/// The database's.
pub async fn by_ids(conn: &mut AnyConnection, ids: Vec<i64>) -> Result<Vec<Delivery>, DbError> {
    let keys = ids.into_iter().map(Val::Int).collect();
    let rows = sql::select_in(conn, &format!("{CALL} WHERE id"), "", &[], keys).await?;
    let mut calls = rows.iter().map(call).collect::<Result<Vec<_>, _>>()?;
    calls.sort_unstable_by_key(|call| call.id);
    Ok(calls)
}

/// Whoever claims it may make it: that it was not, or what was answered, is written later. Where no claim was counted
/// yet, each attempt may be one.
const CLAIM: Claim =
    Claim { table: "delivery", until: &["next_at"], emptied: &["held_by"], counted: Some(("unanswered", "attempts")) };

/// A claimed call that was not begun: its claim does not count.
const NOT_MADE: &str = "unanswered = CASE WHEN unanswered > 0 THEN unanswered - 1 ELSE unanswered END";

/// Calls that cannot be read are set aside.
async fn claim_due(tx: &mut Tx, kinds: &[Kind], limit: i64, lease_ms: i64) -> Result<Vec<Delivery>, DbError> {
    let now_ms = tx.now_ms();
    let text = due_text() + claim::lock_clause(tx.dialect());
    let mut rows = Vec::new();
    for kind in kinds {
        rows.extend(sql::fetch(tx, text.clone(), vals![*kind as i64, now_ms, limit]).await?);
    }
    let mut due = rows.iter().map(|row| Ok((row.int(0)?, row.int(7)?))).collect::<Result<Vec<_>, DbError>>()?;
    due.sort_unstable_by_key(|(id, next_at)| (*next_at, *id));
    due.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let taken = claim::take(tx, CLAIM, due, now_ms + lease_ms).await?;

    let (mut claimed, unreadable) = sql::read_each(claim::of_us(&rows, &taken), call);
    claimed.sort_unstable_by_key(|call| (call.next_at, call.id));
    for (row, why) in unreadable {
        let id = row.int(0)?;
        let order_id = row.int(3).map_or_else(|_| String::new(), |order_id| order_id.max(0).to_string());
        postpone(tx, vec![id], now_ms).await?;
        walk::set_aside(tx, Walk::Deliveries, id.into(), &order_id, &why).await?;
    }
    Ok(claimed)
}

/// What came of one attempt.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Call.
    pub delivery_id: i64,
    /// Which attempt, from 1.
    pub attempt: i64,
    /// When it began, epoch ms.
    pub started_at: i64,
    /// How long it took.
    pub duration_ms: i64,
    /// HTTP status of the answer, if there was one.
    pub http_status: Option<i64>,
    /// Why it failed.
    pub error: Option<String>,
    /// What was sent, as people may see it.
    pub request: Option<String>,
    /// What was answered, as people may see it.
    pub answer: Option<String>,
    /// Where the call stands now.
    pub status: Status,
    /// When to try again.
    pub next_at: Option<i64>,
    /// How often it may have been carried out without a word of it, with this attempt.
    pub unanswered: i64,
}

/// Numbers of attempts come from a locked call, so no two have the same.
async fn log_attempts(tx: &mut Tx, attempts: &[Attempt]) -> Result<(), DbError> {
    // Number 0 is no attempt: the call was given up without one.
    let made = attempts.iter().filter(|one| one.attempt > 0);
    let rows = made
        .map(|one| {
            let error = one.error.as_deref().map(super::retry::shorten);
            let (request, answer) = (one.request.as_deref(), one.answer.as_deref());
            vals![
                one.delivery_id,
                one.attempt,
                one.started_at,
                one.duration_ms,
                one.http_status,
                error,
                request,
                answer
            ]
        })
        .collect();
    let columns =
        "delivery_attempt (delivery_id, attempt, started_at, duration_ms, http_status, error, request, answer)";
    // A call that was not tried has the number of its last attempt, which is on record.
    sql::insert_ignore(tx, columns, rows).await?.or_known();
    Ok(())
}

/// Logs attempts and moves their calls.
///
/// # Errors
/// The database's.
pub async fn record(tx: &mut Tx, attempts: &[Attempt]) -> Result<(), DbError> {
    let now_ms = tx.now_ms();
    log_attempts(tx, attempts).await?;
    let rows = attempts
        .iter()
        .map(|one| {
            let error = one.error.as_deref().map(super::retry::shorten);
            let given_up = matches!(one.status, Status::Dead | Status::Refused);
            let next_at = if given_up { Some(GIVEN_UP) } else { one.next_at };
            vals![one.delivery_id, one.status as i64, one.attempt, next_at, None::<i64>, error, one.unanswered, now_ms]
        })
        .collect();
    let columns = [
        Column::Set("status"),
        Column::Set("attempts"),
        Column::Set("next_at"),
        Column::Set("held_by"),
        Column::Set("last_error"),
        Column::Set("unanswered"),
        Column::Set("updated_at"),
    ];
    sql::update(tx, "delivery", "id", &columns, rows).await
}

/// Logs attempts whose calls somebody else had made as well, and moved on: they count as made, and for no schedule, whose
/// `base` (as in [`Open`]) stands beside each.
///
/// # Errors
/// The database's.
pub async fn record_late(tx: &mut Tx, late: &[(Attempt, i64)]) -> Result<(), DbError> {
    let attempts: Vec<Attempt> = late.iter().map(|(attempt, _)| attempt.clone()).collect();
    log_attempts(tx, &attempts).await?;
    let rows = late.iter().map(|(one, base)| vals![one.delivery_id, one.attempt, *base, one.unanswered]).collect();
    let columns = [Column::Set("attempts"), Column::Set("base_attempts"), Column::Set("unanswered")];
    sql::update(tx, "delivery", "id", &columns, rows).await
}

/// Makes calls that are still to be made due at `next_at`, epoch ms: gives back what was claimed and not begun.
///
/// # Errors
/// The database's.
pub async fn postpone(tx: &mut Tx, ids: Vec<i64>, next_at: i64) -> Result<u64, DbError> {
    put_back(tx, ids, next_at, None).await
}

/// As [`postpone`], waiting for the endpoint `held_by`.
async fn put_back(tx: &mut Tx, mut ids: Vec<i64>, next_at: i64, held_by: Option<i64>) -> Result<u64, DbError> {
    ids.sort_unstable();
    let ids = ids.into_iter().map(Val::Int).collect();
    let fixed = [Val::Int(next_at), Val::MaybeInt(held_by)];
    let text = format!("UPDATE delivery SET next_at = ?, held_by = ?, {NOT_MADE} WHERE id");
    sql::execute_in(tx, &text, " AND status = 0", &fixed, ids).await
}

/// Makes due now what waits for `from` (epoch ms) or later, among the calls of `kind` whose reference begins with
/// `prefix` and a colon; how many.
///
/// # Errors
/// The database's.
pub async fn release(tx: &mut Tx, kind: Kind, prefix: &str, from: i64) -> Result<u64, DbError> {
    let now_ms = tx.now_ms();
    // A semicolon follows the colon in ASCII: the range is all references with the prefix.
    let text = "UPDATE delivery SET next_at = ?, updated_at = ? \
                WHERE kind = ? AND ref >= ? AND ref < ? AND status = 0 AND next_at >= ?";
    let values = vals![now_ms, now_ms, kind as i64, format!("{prefix}:"), format!("{prefix};"), from];
    let released = sql::execute(tx, text, values).await?;
    tx.wake_deliveries();
    Ok(released)
}

/// The first call of this kind whose reference begins with `<prefix>:`: when it is due, its attempts, its body.
///
/// # Errors
/// The database's.
pub async fn first_with_prefix(
    conn: &mut AnyConnection,
    kind: Kind,
    prefix: &str,
) -> Result<Option<(Option<i64>, i64, String)>, DbError> {
    let text =
        "SELECT next_at, attempts, body FROM delivery WHERE kind = ? AND ref >= ? AND ref < ? ORDER BY ref LIMIT 1";
    let rows = sql::fetch(conn, text, vals![kind as i64, format!("{prefix}:"), format!("{prefix};")]).await?;
    rows.first().map(|row| Ok((row.maybe_int(0)?, row.int(1)?, row.text(2)?))).transpose()
}

/// How a call stands that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// Row.
    pub id: i64,
    /// Attempts on record.
    pub attempts: i64,
    /// Those of them before somebody asked for it once more: its schedule begins after them.
    pub base: i64,
    /// Where it stands: it may have been taken back by hand, or settled by somebody who made it as well.
    pub status: Status,
    /// How often it may have been made without an answer, the claim of whoever asks included.
    pub unanswered: i64,
}

/// How these calls stand, by id, locked until the commit.
///
/// # Errors
/// The database's.
pub async fn lock_made(tx: &mut Tx, mut ids: Vec<i64>) -> Result<Vec<Open>, DbError> {
    ids.sort_unstable();
    let after = format!(" ORDER BY id{}", tx.dialect().for_update());
    let before = "SELECT id, attempts, COALESCE(base_attempts, 0), status, COALESCE(unanswered, attempts) FROM delivery WHERE id";
    let rows = sql::select_in(tx, before, &after, &[], ids.into_iter().map(Val::Int).collect()).await?;
    let open = |row: &AnyRow| {
        let (id, attempts, base, unanswered) = (row.int(0)?, row.int(1)?, row.int(2)?, row.int(4)?);
        Ok(Open { id, attempts, base, status: Status::from_code(row.int(3)?, id)?, unanswered })
    };
    rows.iter().map(open).collect()
}

/// Which of these calls are to be made since `before` or longer, epoch ms.
///
/// # Errors
/// The database's.
pub async fn armed_before(tx: &mut Tx, mut ids: Vec<i64>, before: i64) -> Result<Vec<i64>, DbError> {
    ids.sort_unstable();
    let text = "SELECT id FROM delivery WHERE COALESCE(armed_at, created_at) <= ? AND id";
    let keys = ids.into_iter().map(Val::Int).collect();
    let rows = sql::select_in(tx, text, "", &[Val::Int(before)], keys).await?;
    rows.iter().map(|row| row.int(0)).collect()
}

/// The call with this reference, if it is still to be made.
///
/// # Errors
/// The database's.
pub async fn open_call(conn: &mut AnyConnection, kind: Kind, reference: &str) -> Result<Option<i64>, DbError> {
    let text = "SELECT id FROM delivery WHERE kind = ? AND ref = ? AND status = 0";
    sql::fetch_one(conn, text, vals![kind as i64, reference]).await?.map_or(Ok(None), |row| row.int(0).map(Some))
}

/// A call that was given up counts as refused for good from now on: nobody can make it once more. False where it is not
/// one that was given up.
///
/// # Errors
/// The database's.
pub async fn close(tx: &mut Tx, kind: Kind, reference: &str) -> Result<bool, DbError> {
    let text = "UPDATE delivery SET status = ?, updated_at = ? WHERE kind = ? AND ref = ? AND status = ?";
    let vals = vals![Status::Refused as i64, tx.now_ms(), kind as i64, reference, Status::Dead as i64];
    Ok(sql::execute(tx, text, vals).await? > 0)
}

/// When the next call of `kinds` (at least one) falls due, epoch ms.
///
/// # Errors
/// The database's.
pub async fn next_due(conn: &mut AnyConnection, kinds: &[Kind]) -> Result<Option<i64>, DbError> {
    let ends = vec![Val::Int(GIVEN_UP); kinds.len()];
    let next = sql::fetch_one(conn, next_due_text(kinds), ends).await?;
    next.map_or(Ok(None), |row| row.maybe_int(0))
}

/// Where one call stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Code of [`Status`].
    pub status: i64,
    /// Attempts made.
    pub attempts: i64,
    /// When it falls due, epoch ms; none once it is settled.
    pub next_at: Option<i64>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
}

/// The reference of a call.
///
/// # Errors
/// The database's.
pub async fn reference(conn: &mut AnyConnection, id: i64) -> Result<Option<String>, DbError> {
    sql::fetch_one(conn, "SELECT ref FROM delivery WHERE id = ?", vals![id]).await?.map(|row| row.text(0)).transpose()
}

/// Where the call of this row stands.
///
/// # Errors
/// The database's.
pub async fn standing(conn: &mut AnyConnection, id: i64) -> Result<Option<State>, DbError> {
    let row =
        sql::fetch_one(conn, "SELECT status, attempts, next_at, last_error FROM delivery WHERE id = ?", vals![id]);
    row.await?.map(state).transpose()
}

fn state(row: AnyRow) -> Result<State, DbError> {
    let (next_at, last_error) = (row.maybe_int(2)?, row.maybe_text(3)?);
    let next_at = next_at.filter(|at| *at != GIVEN_UP);
    Ok(State { status: row.int(0)?, attempts: row.int(1)?, next_at, last_error })
}

/// Where the call with this reference stands.
///
/// # Errors
/// The database's.
pub async fn find(conn: &mut AnyConnection, kind: Kind, reference: &str) -> Result<Option<State>, DbError> {
    let text = "SELECT status, attempts, next_at, last_error FROM delivery WHERE kind = ? AND ref = ?";
    let row = sql::fetch_one(conn, text, vals![kind as i64, reference]).await?;
    row.map(state).transpose()
}

/// Which of these calls are recorded.
///
/// # Errors
/// The database's.
pub async fn recorded(
    conn: &mut AnyConnection,
    kind: Kind,
    references: Vec<String>,
) -> Result<HashSet<String>, DbError> {
    let before = "SELECT ref FROM delivery WHERE kind = ? AND ref";
    let keys = references.into_iter().map(Val::Text).collect();
    let rows = sql::select_in(conn, before, "", &[Val::Int(kind as i64)], keys).await?;
    rows.iter().map(|row| row.text(0)).collect()
}

/// Calls that should have been made by now, and since when the first of them should have been.
///
/// # Errors
/// The database's.
pub async fn overdue(conn: &mut AnyConnection, now_ms: i64) -> Result<(i64, Option<i64>), DbError> {
    let text = "SELECT COUNT(*), MIN(next_at) FROM delivery WHERE next_at <= ?";
    match sql::fetch_one(conn, text, vals![now_ms]).await? {
        Some(row) => Ok((row.int(0)?, row.maybe_int(1)?)),
        None => Ok((0, None)),
    }
}

/// Calls that were given up or refused, recorded since the id `first` was given out.
///
/// # Errors
/// The database's.
pub async fn given_up(conn: &mut AnyConnection, first: i64) -> Result<i64, DbError> {
    let text = "SELECT COUNT(*) FROM delivery WHERE next_at = ? AND id >= ?";
    sql::fetch_one(conn, text, vals![GIVEN_UP, first]).await?.map_or(Ok(0), |row| row.int(0))
}
