//! Payments of the gateway, and all payments by day, as far as the audit looks.

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use crate::db::DbError;
use crate::db::sql::{self, Columns, Val};
use crate::vals;

/// A payment of the gateway.
#[derive(Clone, Debug)]
pub struct GatewayFact {
    /// Id.
    pub id: i64,
    /// `payment_record.status`.
    pub status: i64,
    /// Minor units.
    pub amount: i64,
    /// ISO 4217.
    pub currency: String,
    /// Epoch ms.
    pub updated_at: i64,
    /// Where its merchant is told; none: it has no row of the gateway.
    pub notify_url: Option<String>,
}

/// Payments of the gateway by id.
///
/// # Errors
/// The database's.
pub async fn gateway_payments(conn: &mut AnyConnection, ids: &[i64]) -> Result<Vec<GatewayFact>, DbError> {
    let before = "SELECT p.id, p.status, p.amount, p.currency, p.updated_at, g.notify_url FROM payment_record p \
                  LEFT JOIN gateway_payment g ON g.payment_id = p.id WHERE p.kind = 2 AND p.id";
    let rows = sql::select_in(conn, before, " ORDER BY p.id", &[], ids.iter().copied().map(Val::Int).collect()).await?;
    let fact = |row: &AnyRow| {
        Ok(GatewayFact {
            id: row.int(0)?,
            status: row.int(1)?,
            amount: row.int(2)?,
            currency: row.text(3)?,
            updated_at: row.int(4)?,
            notify_url: row.maybe_text(5)?,
        })
    };
    rows.iter().map(fact).collect()
}

/// A payment, as it is counted.
#[derive(Clone, Debug)]
pub struct CountedPayment {
    /// Id.
    pub id: i64,
    /// `payment_record.status`.
    pub status: i64,
    /// Minor units.
    pub amount: i64,
    /// Channel.
    pub channel_id: String,
    /// Product; empty for payments of the shop.
    pub product_id: String,
    /// Tenant; empty for payments of the shop.
    pub tenant_id: String,
    /// When it was opened, epoch ms.
    pub created_at: i64,
    /// When its channel took the money, epoch ms.
    pub pay_time: Option<i64>,
    /// When it changed last, epoch ms.
    pub updated_at: i64,
}

/// The next `limit` payments after this id that were really opened: no tombstones.
///
/// # Errors
/// The database's.
pub async fn counted_payments(
    conn: &mut AnyConnection,
    after: i64,
    limit: i64,
) -> Result<Vec<CountedPayment>, DbError> {
    let text = "SELECT p.id, p.status, p.amount, p.channel_id, COALESCE(g.product_id, ''), COALESCE(g.tenant_id, ''), \
                p.created_at, p.pay_time, p.updated_at FROM payment_record p \
                LEFT JOIN gateway_payment g ON g.payment_id = p.id \
                WHERE p.id > ? AND p.channel_id <> '' ORDER BY p.id LIMIT ?";
    let fact = |row: &AnyRow| {
        Ok(CountedPayment {
            id: row.int(0)?,
            status: row.int(1)?,
            amount: row.int(2)?,
            channel_id: row.text(3)?,
            product_id: row.text(4)?,
            tenant_id: row.text(5)?,
            created_at: row.int(6)?,
            pay_time: row.maybe_int(7)?,
            updated_at: row.int(8)?,
        })
    };
    sql::fetch(conn, text, vals![after, limit]).await?.iter().map(fact).collect()
}
