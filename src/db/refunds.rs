//! `order_refund`: the refunds of an order as its role knows them.

use std::collections::HashMap;

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::sql::{self, Columns, Inserted, Val};
use super::{DbError, Tx};
use crate::domain::money::Money;
use crate::vals;

/// Where a refund stands (`order_refund.status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Payment sees to it.
    Requested = 0,
    /// The money is back.
    Success = 1,
    /// It could not go back, and may be asked for again.
    Failed = 2,
}

/// A refund of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderRefund {
    /// Refund: the same id as payment's.
    pub id: i64,
    /// Order.
    pub order_id: i64,
    /// Number that whoever asked gave it.
    pub refund_no: Option<String>,
    /// How much.
    pub amount: Money,
    /// Why.
    pub reason: String,
    /// Where it stands.
    pub status: Standing,
    /// Why it failed.
    pub error: Option<String>,
    /// Epoch ms.
    pub created_at: i64,
    /// Epoch ms.
    pub updated_at: i64,
}

fn from_row(row: &AnyRow) -> Result<OrderRefund, DbError> {
    let id = row.int(0)?;
    let amount = Money::from_minor(row.int(3)?).map_err(|error| DbError::Row {
        table: "order_refund",
        key: id.to_string(),
        what: error.to_string(),
    })?;
    Ok(OrderRefund {
        id,
        order_id: row.int(1)?,
        refund_no: row.maybe_text(2)?,
        amount,
        reason: row.text(4)?,
        status: match row.int(5)? {
            0 => Standing::Requested,
            1 => Standing::Success,
            _ => Standing::Failed,
        },
        error: row.maybe_text(6)?,
        created_at: row.int(7)?,
        updated_at: row.int(8)?,
    })
}

/// Writes refunds that are not there yet, by id and by number.
///
/// # Errors
/// The database's.
pub async fn insert(tx: &mut Tx, refunds: &[OrderRefund]) -> Result<Inserted, DbError> {
    let row = |refund: &OrderRefund| {
        vals![
            refund.id,
            refund.order_id,
            refund.refund_no.as_deref(),
            refund.amount.minor(),
            &refund.reason,
            refund.status as i64,
            refund.error.as_deref(),
            refund.created_at,
            refund.updated_at,
        ]
    };
    let columns = "order_refund (id, order_id, refund_no, amount, reason, status, error, created_at, updated_at)";
    sql::insert_ignore(tx, columns, refunds.iter().map(row).collect()).await
}

/// The refunds of orders, by order, each in the order in which they were written. Whoever decides by them has locked the
/// orders.
///
/// # Errors
/// The database's.
pub async fn of_orders(
    conn: &mut AnyConnection,
    mut order_ids: Vec<i64>,
) -> Result<HashMap<i64, Vec<OrderRefund>>, DbError> {
    order_ids.sort_unstable();
    order_ids.dedup();
    let before = "SELECT id, order_id, refund_no, amount, reason, status, error, created_at, updated_at \
                  FROM order_refund WHERE order_id";
    let rows = sql::select_in(conn, before, " ORDER BY id", &[], order_ids.into_iter().map(Val::Int).collect()).await?;
    let mut found: HashMap<i64, Vec<OrderRefund>> = HashMap::new();
    for row in &rows {
        let refund = from_row(row)?;
        found.entry(refund.order_id).or_default().push(refund);
    }
    Ok(found)
}

/// The money of these refunds is back; whatever was thought of them before.
///
/// # Errors
/// The database's.
pub async fn succeeded(tx: &mut Tx, ids: Vec<i64>) -> Result<(), DbError> {
    let fixed = [Val::Int(Standing::Success as i64), Val::Int(tx.now_ms())];
    let before = "UPDATE order_refund SET status = ?, updated_at = ?, error = NULL WHERE status <> 1 AND id";
    sql::execute_in(tx, before, "", &fixed, ids.into_iter().map(Val::Int).collect()).await.map(|_| ())
}

/// A refund could not go back, unless it is known that it did.
///
/// # Errors
/// The database's.
pub async fn failed(tx: &mut Tx, id: i64, error: &str) -> Result<(), DbError> {
    let text = "UPDATE order_refund SET status = ?, updated_at = ?, error = ? WHERE status = 0 AND id = ?";
    let vals = vals![Standing::Failed as i64, tx.now_ms(), super::retry::shorten(error), id];
    sql::execute(tx, text, vals).await.map(|_| ())
}
