//! What the audit reads of coupons.

use std::collections::BTreeMap;

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::ints;
use crate::db::DbError;
use crate::db::sql::{self, Columns};
use crate::vals;

/// A coupon, as far as the audit looks.
#[derive(Clone, Debug)]
pub struct CouponFact {
    /// Id.
    pub id: i64,
    /// `coupon.state`.
    pub state: i64,
    /// Order that has it.
    pub order_id: Option<i64>,
    /// Epoch ms.
    pub updated_at: i64,
}

/// Coupons by id.
///
/// # Errors
/// The database's.
pub async fn coupons(conn: &mut AnyConnection, ids: &[i64]) -> Result<BTreeMap<i64, CouponFact>, DbError> {
    let before = "SELECT id, state, order_id, updated_at FROM coupon WHERE id";
    let rows = sql::select_in(conn, before, "", &[], ints(ids)).await?;
    let fact = |row: &AnyRow| {
        Ok(CouponFact { id: row.int(0)?, state: row.int(1)?, order_id: row.maybe_int(2)?, updated_at: row.int(3)? })
    };
    rows.iter().map(|row| fact(row).map(|coupon| (coupon.id, coupon))).collect()
}

/// What the lines of orders cost, in minor units.
///
/// # Errors
/// The database's.
pub async fn line_totals(conn: &mut AnyConnection, order_ids: &[i64]) -> Result<BTreeMap<i64, i64>, DbError> {
    let before = "SELECT order_id, CAST(COALESCE(SUM(quantity * unit_price), 0) AS SIGNED) FROM order_item \
                  WHERE order_id";
    let rows = sql::select_in(conn, before, " GROUP BY order_id", &[], ints(order_ids)).await?;
    rows.iter().map(|row| Ok((row.int(0)?, row.int(1)?))).collect()
}

/// A template and its coupons.
#[derive(Clone, Debug)]
pub struct TemplateFact {
    /// Its name.
    pub template: String,
    /// How many were issued, as it says.
    pub issued: i64,
    /// How many there may be.
    pub stock: i64,
    /// How many there are.
    pub coupons: i64,
}

/// The next `limit` templates after `after`, in one statement with the count of their coupons.
///
/// # Errors
/// The database's.
pub async fn templates(conn: &mut AnyConnection, after: &str, limit: i64) -> Result<Vec<TemplateFact>, DbError> {
    let text = "SELECT t.template, t.issued, t.stock, COUNT(c.id) FROM coupon_template t \
                LEFT JOIN coupon c ON c.template = t.template WHERE t.template > ? \
                GROUP BY t.template, t.issued, t.stock ORDER BY t.template LIMIT ?";
    let fact = |row: &AnyRow| {
        Ok(TemplateFact { template: row.text(0)?, issued: row.int(1)?, stock: row.int(2)?, coupons: row.int(3)? })
    };
    sql::fetch(conn, text, vals![after, limit]).await?.iter().map(fact).collect()
}
