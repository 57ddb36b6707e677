//! `gateway_payment`: what a payment of the gateway has beside a payment of the shop.

use std::collections::HashMap;

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::sql::{self, Columns, Inserted, Val};
use super::{DbError, Tx};
use crate::vals;

/// A merchant's own order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayRow {
    /// Payment.
    pub payment_id: i64,
    /// Whose it is.
    pub merchant_id: i64,
    /// The merchant's number: one payment for each.
    pub out_order_no: String,
    /// Product.
    pub product_id: String,
    /// Tenant of the merchant when it was opened; empty for none.
    pub tenant_id: String,
    /// Where the merchant is told; empty for nowhere.
    pub notify_url: String,
    /// What the merchant counts by; empty for nothing.
    pub extra_arg: String,
}

const COLUMNS: &str = "payment_id, merchant_id, out_order_no, product_id, tenant_id, notify_url, extra_arg";

fn from_row(row: &AnyRow) -> Result<GatewayRow, DbError> {
    Ok(GatewayRow {
        payment_id: row.int(0)?,
        merchant_id: row.int(1)?,
        out_order_no: row.text(2)?,
        product_id: row.text(3)?,
        tenant_id: row.text(4)?,
        notify_url: row.text(5)?,
        extra_arg: row.text(6)?,
    })
}

/// Takes the numbers of these payments where nobody has; one that another payment has, also of a transaction that is
/// under way, is left out.
///
/// # Errors
/// The database's.
pub async fn take(tx: &mut Tx, payments: &[GatewayRow]) -> Result<Inserted, DbError> {
    let mut rows: Vec<&GatewayRow> = payments.iter().collect();
    // In one order, so that two batches never wait for each other.
    rows.sort_by(|a, b| (a.merchant_id, &a.out_order_no).cmp(&(b.merchant_id, &b.out_order_no)));
    let rows = rows.into_iter().map(|one| {
        vals![
            one.payment_id,
            one.merchant_id,
            &one.out_order_no,
            &one.product_id,
            &one.tenant_id,
            &one.notify_url,
            &one.extra_arg,
        ]
    });
    sql::insert_ignore(tx, &format!("gateway_payment ({COLUMNS})"), rows.collect()).await
}

/// Payments by merchant and number, as they are committed or written in this transaction.
///
/// # Errors
/// The database's.
pub async fn by_number(
    conn: &mut AnyConnection,
    numbers: &[(i64, String)],
) -> Result<HashMap<(i64, String), GatewayRow>, DbError> {
    let mut texts: Vec<&String> = numbers.iter().map(|(_, number)| number).collect();
    texts.sort_unstable();
    texts.dedup();
    let mut merchants: Vec<i64> = numbers.iter().map(|(merchant_id, _)| *merchant_id).collect();
    merchants.sort_unstable();
    merchants.dedup();
    let mut found = HashMap::new();
    // One statement for each merchant: both columns of the key are bound.
    let before = format!("SELECT {COLUMNS} FROM gateway_payment WHERE merchant_id = ? AND out_order_no");
    for merchant_id in merchants {
        let keys = texts.iter().map(|text| Val::from(*text)).collect();
        for row in &sql::select_in(conn, &before, "", &[Val::Int(merchant_id)], keys).await? {
            let row = from_row(row)?;
            found.insert((row.merchant_id, row.out_order_no.clone()), row);
        }
    }
    Ok(found)
}

/// Payments by id; those that are none of the gateway are missing.
///
/// # Errors
/// The database's.
pub async fn by_id(conn: &mut AnyConnection, mut ids: Vec<i64>) -> Result<HashMap<i64, GatewayRow>, DbError> {
    ids.sort_unstable();
    ids.dedup();
    let before = format!("SELECT {COLUMNS} FROM gateway_payment WHERE payment_id");
    let rows = sql::select_in(conn, &before, "", &[], ids.into_iter().map(Val::Int).collect()).await?;
    rows.iter().map(|row| from_row(row).map(|payment| (payment.payment_id, payment))).collect()
}
