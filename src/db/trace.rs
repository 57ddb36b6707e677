//! What is written about one order, one event: each table's rows with their times. Nothing here locks or writes, and no
//! statement looks into the tables of two roles, which may live in different databases.

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::DbError;
use super::sql::{self, Columns, Val};
use crate::vals;

/// What a group did with an event (`message_process_log`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handled {
    /// Consumer group.
    pub group: String,
    /// Id of the event.
    pub event_id: String,
    /// Topic.
    pub topic: String,
    /// Business key.
    pub key: String,
    /// `inbox::Outcome`, as stored.
    pub outcome: i64,
    /// Why it was ignored, parked or given up.
    pub reason: Option<String>,
    /// Epoch ms.
    pub at: i64,
}

const HANDLED: &str = "SELECT consumer_group, message_id, topic, msg_key, outcome, reason, consumed_at \
                       FROM message_process_log WHERE";

fn handled(row: &AnyRow) -> Result<Handled, DbError> {
    Ok(Handled {
        group: row.text(0)?,
        event_id: row.text(1)?,
        topic: row.text(2)?,
        key: row.text(3)?,
        outcome: row.int(4)?,
        reason: row.maybe_text(5)?,
        at: row.int(6)?,
    })
}

/// What the groups of this database handled of a business key.
///
/// # Errors
/// The database's.
pub async fn handled_of_key(conn: &mut AnyConnection, key: &str) -> Result<Vec<Handled>, DbError> {
    let text = format!("{HANDLED} msg_key = ? ORDER BY consumed_at, consumer_group, message_id");
    sql::fetch(conn, text, vals![key]).await?.iter().map(handled).collect()
}

/// What these groups did with an event.
///
/// # Errors
/// The database's.
pub async fn handled_of_event(
    conn: &mut AnyConnection,
    groups: &[&str],
    event_id: &str,
) -> Result<Vec<Handled>, DbError> {
    let keys = groups.iter().map(|group| Val::from(*group)).collect();
    let before = format!("{HANDLED} message_id = ? AND consumer_group");
    let rows = sql::select_in(conn, &before, "", &[Val::from(event_id)], keys).await?;
    rows.iter().map(handled).collect()
}

/// A message that failed (`message_retry_log`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// Consumer group.
    pub group: String,
    /// Id of the event.
    pub event_id: String,
    /// Topic.
    pub topic: String,
    /// `retry::Status`, as stored.
    pub status: i64,
    /// Failed attempts.
    pub attempts: i64,
    /// When it is tried next, epoch ms; `None`: when what is before it is through, or never.
    pub next_at: Option<i64>,
    /// Epoch ms.
    pub first_failed_at: i64,
    /// Why.
    pub last_error: String,
    /// Epoch ms.
    pub updated_at: i64,
}

/// Messages of a group that are or were parked.
///
/// # Errors
/// The database's.
pub async fn failing(conn: &mut AnyConnection, group: &str, event_ids: Vec<String>) -> Result<Vec<Failing>, DbError> {
    let before = "SELECT message_id, topic, status, attempts, next_at, first_failed_at, last_error, updated_at \
                  FROM message_retry_log WHERE consumer_group = ? AND message_id";
    let keys = event_ids.into_iter().map(Val::Text).collect();
    let rows = sql::select_in(conn, before, "", &[Val::from(group)], keys).await?;
    let failing = |row: &AnyRow| {
        Ok(Failing {
            group: group.to_owned(),
            event_id: row.text(0)?,
            topic: row.text(1)?,
            status: row.int(2)?,
            attempts: row.int(3)?,
            next_at: row.maybe_int(4)?,
            first_failed_at: row.int(5)?,
            last_error: row.text(6)?,
            updated_at: row.int(7)?,
        })
    };
    rows.iter().map(failing).collect()
}

/// An outgoing call (`delivery`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Row.
    pub id: i64,
    /// `delivery::Kind`, as stored.
    pub kind: i64,
    /// `delivery::Status`, as stored.
    pub status: i64,
    /// Attempts so far.
    pub attempts: i64,
    /// When it is made next, epoch ms.
    pub next_at: Option<i64>,
    /// Why it failed.
    pub last_error: Option<String>,
    /// Epoch ms.
    pub created_at: i64,
}

/// The calls about an order.
///
/// # Errors
/// The database's.
pub async fn calls(conn: &mut AnyConnection, order_id: i64) -> Result<Vec<Call>, DbError> {
    let text = "SELECT id, kind, status, attempts, next_at, last_error, created_at FROM delivery \
                WHERE order_id = ? ORDER BY id";
    let call = |row: &AnyRow| {
        Ok(Call {
            id: row.int(0)?,
            kind: row.int(1)?,
            status: row.int(2)?,
            attempts: row.int(3)?,
            next_at: row.maybe_int(4)?,
            last_error: row.maybe_text(5)?,
            created_at: row.int(6)?,
        })
    };
    sql::fetch(conn, text, vals![order_id]).await?.iter().map(call).collect()
}

/// One try of a call (`delivery_attempt`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Try {
    /// Which call.
    pub call_id: i64,
    /// From 1.
    pub number: i64,
    /// Epoch ms.
    pub at: i64,
    /// How long it took.
    pub duration_ms: i64,
    /// What the other side answered.
    pub http_status: Option<i64>,
    /// Why it failed.
    pub error: Option<String>,
}

/// The attempts of these calls, in their order.
///
/// # Errors
/// The database's.
pub async fn tries(conn: &mut AnyConnection, call_ids: Vec<i64>) -> Result<Vec<Try>, DbError> {
    let before = "SELECT delivery_id, attempt, started_at, duration_ms, http_status, error FROM delivery_attempt \
                  WHERE delivery_id";
    let keys = call_ids.into_iter().map(Val::Int).collect();
    let rows = sql::select_in(conn, before, " ORDER BY delivery_id, attempt", &[], keys).await?;
    let one = |row: &AnyRow| {
        Ok(Try {
            call_id: row.int(0)?,
            number: row.int(1)?,
            at: row.int(2)?,
            duration_ms: row.int(3)?,
            http_status: row.maybe_int(4)?,
            error: row.maybe_text(5)?,
        })
    };
    rows.iter().map(one).collect()
}

/// A payment (`payment_record`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payment {
    /// Id.
    pub id: i64,
    /// Order that it pays.
    pub order_id: i64,
    /// `payment::Status`, as stored.
    pub status: i64,
    /// Minor units.
    pub amount: i64,
    /// ISO 4217.
    pub currency: String,
    /// Channel.
    pub channel_id: String,
    /// Transaction that paid it.
    pub transaction_no: Option<String>,
    /// When the channel took the money, epoch ms.
    pub pay_time: Option<i64>,
    /// Epoch ms.
    pub created_at: i64,
    /// Epoch ms.
    pub updated_at: i64,
}

/// The payment with this id, or of this order.
///
/// # Errors
/// The database's.
pub async fn payment(conn: &mut AnyConnection, by: By) -> Result<Option<Payment>, DbError> {
    let (column, id) = match by {
        By::Id(id) => ("id", id),
        By::Order(id) => ("order_id", id),
    };
    let text = format!(
        "SELECT id, order_id, status, amount, currency, channel_id, transaction_no, pay_time, created_at, updated_at \
         FROM payment_record WHERE {column} = ?"
    );
    let payment = |row: &AnyRow| {
        Ok(Payment {
            id: row.int(0)?,
            order_id: row.int(1)?,
            status: row.int(2)?,
            amount: row.int(3)?,
            currency: row.text(4)?,
            channel_id: row.text(5)?,
            transaction_no: row.maybe_text(6)?,
            pay_time: row.maybe_int(7)?,
            created_at: row.int(8)?,
            updated_at: row.int(9)?,
        })
    };
    sql::fetch_one(conn, text, vals![id]).await?.as_ref().map(payment).transpose()
}

/// How a payment is named.
#[derive(Clone, Copy, Debug)]
pub enum By {
    /// By its own id.
    Id(i64),
    /// By its order's.
    Order(i64),
}

/// Money on its way back (`refund_record`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refund {
    /// Id.
    pub id: i64,
    /// Minor units.
    pub amount: i64,
    /// `payments::RefundStatus`, as stored.
    pub status: i64,
    /// Why.
    pub reason: String,
    /// Epoch ms.
    pub created_at: i64,
    /// Epoch ms.
    pub updated_at: i64,
}

/// The refunds of an order.
///
/// # Errors
/// The database's.
pub async fn refunds(conn: &mut AnyConnection, order_id: i64) -> Result<Vec<Refund>, DbError> {
    let text = "SELECT id, amount, status, reason, created_at, updated_at FROM refund_record \
                WHERE order_id = ? ORDER BY id";
    let refund = |row: &AnyRow| {
        Ok(Refund {
            id: row.int(0)?,
            amount: row.int(1)?,
            status: row.int(2)?,
            reason: row.text(3)?,
            created_at: row.int(4)?,
            updated_at: row.int(5)?,
        })
    };
    sql::fetch(conn, text, vals![order_id]).await?.iter().map(refund).collect()
}

/// A row of a journal of effects: when, on what, of which kind (as stored), how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// Epoch ms.
    pub at: i64,
    /// SKU, or user.
    pub on: String,
    /// As stored.
    pub kind: i64,
    /// Pieces or points; pieces of a movement are above 0.
    pub count: i64,
}

/// Movements of stock for an order (`stock_ledger`).
///
/// # Errors
/// The database's.
pub async fn movements(conn: &mut AnyConnection, order_id: i64) -> Result<Vec<Effect>, DbError> {
    let text = "SELECT created_at, sku, kind, d_available, d_frozen, d_sold FROM stock_ledger \
                WHERE order_id = ? ORDER BY id";
    let effect = |row: &AnyRow| {
        let count = row.int(3)?.max(row.int(4)?).max(row.int(5)?);
        Ok(Effect { at: row.int(0)?, on: row.text(1)?, kind: row.int(2)?, count })
    };
    sql::fetch(conn, text, vals![order_id]).await?.iter().map(effect).collect()
}

/// Points that an order earned or lost (`points_record`).
///
/// # Errors
/// The database's.
pub async fn points(conn: &mut AnyConnection, order_id: i64) -> Result<Vec<Effect>, DbError> {
    let text = "SELECT created_at, user_id, kind, points FROM points_record WHERE order_id = ? ORDER BY kind";
    let effect = |row: &AnyRow| {
        Ok(Effect { at: row.int(0)?, on: row.int(1)?.to_string(), kind: row.int(2)?, count: row.int(3)? })
    };
    sql::fetch(conn, text, vals![order_id]).await?.iter().map(effect).collect()
}

/// What the user was told about an order (`notification`): when, the text's name, the event that caused it.
///
/// # Errors
/// The database's.
pub async fn notices(conn: &mut AnyConnection, order_id: i64) -> Result<Vec<(i64, String, String)>, DbError> {
    let text = "SELECT created_at, template, event_id FROM notification WHERE order_id = ? ORDER BY id";
    let rows = sql::fetch(conn, text, vals![order_id]).await?;
    rows.iter().map(|row| Ok((row.int(0)?, row.text(1)?, row.text(2)?))).collect()
}

/// Attempts to publish events of a key with their local transaction (`message_tx_state`): event, whether it was
/// committed, when it was decided.
///
/// # Errors
/// The database's.
pub async fn transactions(
    conn: &mut AnyConnection,
    event_ids: Vec<String>,
) -> Result<Vec<(String, bool, i64)>, DbError> {
    let before = "SELECT event_id, state, created_at FROM message_tx_state WHERE event_id";
    let keys = event_ids.into_iter().map(Val::Text).collect();
    let rows = sql::select_in(conn, before, " ORDER BY created_at, tx_id", &[], keys).await?;
    rows.iter().map(|row| Ok((row.text(0)?, row.int(1)? == 1, row.int(2)?))).collect()
}
