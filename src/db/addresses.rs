//! Changes of the addresses of orders: `orders.address`, and `order_address_change`, which keeps all of them.

use sqlx::AnyConnection;

use super::orders::OrderRow;
use super::sql::{self, Columns};
use super::{DbError, Tx};
use crate::domain::event::CacheKind;
use crate::vals;

/// A change that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressChange {
    /// Version of the order with it.
    pub version: i64,
    /// Where it was to go.
    pub before: String,
    /// Where it is to go.
    pub after: String,
    /// Name of the API key that asked for it.
    pub by: String,
    /// Epoch ms.
    pub at_ms: i64,
}

/// Changes where an order is to go: the next version of it. It was locked in this transaction.
///
/// # Errors
/// The database's.
pub async fn change(tx: &mut Tx, order: &mut OrderRow, after: &str, by: &str) -> Result<(), DbError> {
    let (id, now_ms, version) = (tx.next_id(), tx.now_ms(), order.version + 1);
    let text = "UPDATE orders SET address = ?, version = ?, updated_at = ? WHERE id = ? AND version = ?";
    let changed = sql::execute(tx, text, vals![after, version, now_ms, order.id, order.version]).await?;
    if changed != 1 {
        let what = "it was changed although it was locked".to_owned();
        return Err(DbError::Row { table: "orders", key: order.id.to_string(), what });
    }
    let text = "INSERT INTO order_address_change \
                (id, order_id, version, address_before, address_after, changed_by, created_at) VALUES (?,?,?,?,?,?,?)";
    sql::execute(tx, text, vals![id, order.id, version, &order.address, after, by, now_ms]).await?;
    tx.changed(CacheKind::Order, order.id.to_string(), version);
    after.clone_into(&mut order.address);
    (order.version, order.updated_at) = (version, now_ms);
    Ok(())
}

/// The changes of an order, oldest first.
///
/// # Errors
/// The database's.
pub async fn of_order(conn: &mut AnyConnection, order_id: i64) -> Result<Vec<AddressChange>, DbError> {
    let text = "SELECT version, address_before, address_after, changed_by, created_at FROM order_address_change \
                WHERE order_id = ? ORDER BY id LIMIT 1000";
    let rows = sql::fetch(conn, text, vals![order_id]).await?;
    let change = |row: &sqlx::any::AnyRow| {
        Ok(AddressChange {
            version: row.int(0)?,
            before: row.text(1)?,
            after: row.text(2)?,
            by: row.text(3)?,
            at_ms: row.int(4)?,
        })
    };
    rows.iter().map(change).collect()
}
