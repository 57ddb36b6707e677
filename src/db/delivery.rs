//! `delivery` and `delivery_attempt`: outgoing HTTP calls, recorded in the transaction that wants them.

use sqlx::AnyConnection;

use super::sql::{self, Column, Columns, Val};
use super::{DbError, Tx};
use crate::vals;

/// What an outgoing call is for (`delivery.kind`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A payment to its channel.
    ChannelSubmit = 1,
    /// A refund to its channel.
    ChannelRefund = 2,
    /// An order to the warehouse.
    Warehouse = 3,
    /// The sandbox channel's call back to us.
    SandboxPayment = 4,
    /// The sandbox warehouse's call back to us.
    SandboxFulfilment = 5,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] =
        [Self::ChannelSubmit, Self::ChannelRefund, Self::Warehouse, Self::SandboxPayment, Self::SandboxFulfilment];

    /// For people and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ChannelSubmit => "channel_submit",
            Self::ChannelRefund => "channel_refund",
            Self::Warehouse => "warehouse",
            Self::SandboxPayment => "sandbox_payment",
            Self::SandboxFulfilment => "sandbox_fulfilment",
        }
    }

    /// From the stored code.
    #[must_use]
    pub fn from_code(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as i64 == code)
    }
}

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
}

/// A call to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Row.
    pub id: i64,
    /// What for.
    pub kind: Kind,
    /// Idempotency key: one call per (kind, reference).
    pub reference: String,
    /// Order that it is about.
    pub order_id: i64,
    /// Where to.
    pub url: String,
    /// JSON.
    pub body: String,
    /// Attempts so far.
    pub attempts: i64,
    /// Not before, epoch ms.
    pub next_at: i64,
}

/// Records calls; one that is recorded already is left out.
///
/// # Errors
/// The database's.
pub async fn insert(tx: &mut Tx, deliveries: &[Delivery]) -> Result<u64, DbError> {
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
            ]
        })
        .collect();
    let columns = "delivery (id, kind, ref, order_id, url, body, status, attempts, next_at, created_at, updated_at)";
    let inserted = sql::insert_ignore(tx, columns, rows).await?;
    tx.wake_deliveries();
    Ok(inserted)
}

/// Takes up to `limit` calls that are due, and keeps others from making them for `lease_ms`.
///
/// # Errors
/// The database's.
pub async fn claim(tx: &mut Tx, limit: i64, lease_ms: i64) -> Result<Vec<Delivery>, DbError> {
    let now_ms = tx.now_ms();
    let text = format!(
        "SELECT id, kind, ref, order_id, url, body, attempts, next_at FROM delivery \
         WHERE next_at <= ? ORDER BY next_at, id LIMIT ?{}",
        tx.dialect().skip_locked()
    );
    let rows = sql::fetch(tx, text, vals![now_ms, limit]).await?;
    let mut calls = Vec::with_capacity(rows.len());
    for row in &rows {
        let (id, code) = (row.int(0)?, row.int(1)?);
        let kind = Kind::from_code(code).ok_or_else(|| DbError::Row {
            table: "delivery",
            key: id.to_string(),
            what: format!("unknown kind {code}"),
        })?;
        calls.push(Delivery {
            id,
            kind,
            reference: row.text(2)?,
            order_id: row.int(3)?,
            url: row.text(4)?,
            body: row.text(5)?,
            attempts: row.int(6)?,
            next_at: row.int(7)?,
        });
    }
    let ids = calls.iter().map(|call| Val::Int(call.id)).collect();
    sql::execute_in(tx, "UPDATE delivery SET next_at = ? WHERE id", "", &[Val::Int(now_ms + lease_ms)], ids).await?;
    Ok(calls)
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
    /// Where the call stands now.
    pub status: Status,
    /// When to try again.
    pub next_at: Option<i64>,
}

/// Logs attempts and moves their calls.
///
/// # Errors
/// The database's.
pub async fn record(tx: &mut Tx, attempts: &[Attempt]) -> Result<(), DbError> {
    let now_ms = tx.now_ms();
    let rows = attempts
        .iter()
        .map(|one| {
            let error = one.error.as_deref().map(super::retry::shorten);
            vals![one.delivery_id, one.attempt, one.started_at, one.duration_ms, one.http_status, error]
        })
        .collect();
    // Ignored where it exists: an attempt whose lease ran out is made, and counted, again.
    let columns = "delivery_attempt (delivery_id, attempt, started_at, duration_ms, http_status, error)";
    sql::insert_ignore(tx, columns, rows).await?;
    let rows = attempts
        .iter()
        .map(|one| {
            let error = one.error.as_deref().map(super::retry::shorten);
            vals![one.delivery_id, one.status as i64, one.attempt, one.next_at, error, now_ms]
        })
        .collect();
    let columns = [
        Column::Set("status"),
        Column::Set("attempts"),
        Column::Set("next_at"),
        Column::Set("last_error"),
        Column::Set("updated_at"),
    ];
    sql::update(tx, "delivery", "id", &columns, rows).await
}

/// Which of these calls are still to be made, locked until the commit: the others were finished by somebody who held
/// the lease before.
///
/// # Errors
/// The database's.
pub async fn lock_pending(tx: &mut Tx, mut ids: Vec<i64>) -> Result<Vec<i64>, DbError> {
    ids.sort_unstable();
    let after = format!(" AND status = 0 ORDER BY id{}", tx.dialect().for_update());
    let rows =
        sql::select_in(tx, "SELECT id FROM delivery WHERE id", &after, &[], ids.into_iter().map(Val::Int).collect())
            .await?;
    rows.iter().map(|row| row.int(0)).collect()
}

/// When the next call falls due.
///
/// # Errors
/// The database's.
pub async fn next_due(conn: &mut AnyConnection) -> Result<Option<i64>, DbError> {
    let text = "SELECT MIN(next_at) FROM delivery WHERE next_at IS NOT NULL";
    sql::fetch_one(conn, text, vec![]).await?.map_or(Ok(None), |row| row.maybe_int(0))
}
