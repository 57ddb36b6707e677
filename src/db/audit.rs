//! What the audit reads: small facts by key, page by page. Nothing here locks or writes, and no statement looks into
//! the tables of two roles, which may live in different databases.

mod copies;
mod coupons;
mod gateway;
mod messages;

use std::collections::{BTreeMap, HashMap};

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::DbError;
use super::delivery::Kind as Call;
use super::sql::{self, Columns, Val};
use crate::domain::id::unpadded;
use crate::domain::points::Standing;
use crate::domain::stock::{Kind, Level, Lines};
use crate::vals;

pub use copies::*;
pub use coupons::*;
pub use gateway::*;
pub use messages::*;

fn ints(ids: &[i64]) -> Vec<Val> {
    ids.iter().copied().map(Val::Int).collect()
}

fn texts(keys: &[String]) -> Vec<Val> {
    keys.iter().map(Val::from).collect()
}

/// Which numeric keys a walk goes over, in order.
#[derive(Clone, Copy, Debug)]
pub enum Ids {
    /// Every order.
    Orders,
    /// Every order that is paid, and not with its customer.
    OpenOrders,
    /// Every payment of a shop order.
    Payments,
    /// Every payment of the gateway.
    GatewayPayments,
    /// Every reservation.
    Reservations,
    /// Every order that the stock ledger knows.
    LedgerOrders,
    /// Every order that a user was told about.
    NotifiedOrders,
    /// Every user with points.
    PointsUsers,
    /// Every coupon that a user holds.
    Coupons,
    /// Every merchant that the payment role was told of.
    MerchantCopies,
}

/// The next `limit` keys after `after`.
///
/// # Errors
/// The database's.
pub async fn ids(conn: &mut AnyConnection, which: Ids, after: i64, limit: i64) -> Result<Vec<i64>, DbError> {
    let text = match which {
        Ids::Orders => "SELECT id FROM orders WHERE id > ? ORDER BY id LIMIT ?",
        Ids::OpenOrders => "SELECT id FROM orders WHERE id > ? AND status IN (20, 30, 40, 50) ORDER BY id LIMIT ?",
        Ids::Payments => "SELECT id FROM payment_record WHERE id > ? AND kind = 1 ORDER BY id LIMIT ?",
        Ids::GatewayPayments => "SELECT id FROM payment_record WHERE id > ? AND kind = 2 ORDER BY id LIMIT ?",
        Ids::Reservations => "SELECT order_id FROM stock_reservation WHERE order_id > ? ORDER BY order_id LIMIT ?",
        Ids::LedgerOrders => "SELECT DISTINCT order_id FROM stock_ledger WHERE order_id > ? ORDER BY order_id LIMIT ?",
        Ids::NotifiedOrders => {
            "SELECT DISTINCT order_id FROM notification WHERE order_id > ? ORDER BY order_id LIMIT ?"
        }
        Ids::Coupons => "SELECT id FROM coupon WHERE id > ? ORDER BY id LIMIT ?",
        Ids::MerchantCopies => {
            "SELECT merchant_id FROM merchant_account WHERE merchant_id > ? ORDER BY merchant_id LIMIT ?"
        }
        Ids::PointsUsers => "SELECT user_id FROM user_points WHERE user_id > ? ORDER BY user_id LIMIT ?",
    };
    sql::fetch(conn, text, vals![after, limit]).await?.iter().map(|row| row.int(0)).collect()
}

/// The next `limit` SKUs after `after`.
///
/// # Errors
/// The database's.
pub async fn skus(conn: &mut AnyConnection, after: &str, limit: i64) -> Result<Vec<String>, DbError> {
    let text = "SELECT sku FROM stock WHERE sku > ? ORDER BY sku LIMIT ?";
    sql::fetch(conn, text, vals![after, limit]).await?.iter().map(|row| row.text(0)).collect()
}

/// An order, as far as the audit looks. Codes as stored.
#[derive(Clone, Debug)]
pub struct OrderFact {
    /// Id.
    pub id: i64,
    /// Whose.
    pub user_id: i64,
    /// `orders.status`.
    pub status: i64,
    /// Grows with each change.
    pub version: i64,
    /// Minor units.
    pub total: i64,
    /// ISO 4217.
    pub currency: String,
    /// Payment that paid it.
    pub payment_id: Option<i64>,
    /// `orders.refund_status`.
    pub refund: i64,
    /// The warehouse was asked to send it.
    pub handed_over: bool,
    /// Who canceled.
    pub cancel_type: Option<String>,
    /// Coupon that it was placed with.
    pub coupon_id: Option<i64>,
    /// What that took off, minor units.
    pub discount: i64,
    /// Epoch ms.
    pub created_at: i64,
    /// Epoch ms.
    pub updated_at: i64,
}

/// Orders by id.
///
/// # Errors
/// The database's.
pub async fn orders(conn: &mut AnyConnection, ids: &[i64]) -> Result<BTreeMap<i64, OrderFact>, DbError> {
    let before = "SELECT id, user_id, status, total_amount, currency, payment_id, refund_status, cancel_type, \
                  created_at, updated_at, handed_over, coupon_id, discount, version FROM orders WHERE id";
    let rows = sql::select_in(conn, before, "", &[], ints(ids)).await?;
    let fact = |row: &AnyRow| {
        Ok(OrderFact {
            id: row.int(0)?,
            user_id: row.int(1)?,
            status: row.int(2)?,
            total: row.int(3)?,
            currency: row.text(4)?,
            payment_id: row.maybe_int(5)?,
            refund: row.int(6)?,
            cancel_type: row.maybe_text(7)?,
            created_at: row.int(8)?,
            updated_at: row.int(9)?,
            handed_over: row.int(10)? != 0,
            coupon_id: row.maybe_int(11)?,
            discount: row.int(12)?,
            version: row.int(13)?,
        })
    };
    rows.iter().map(|row| fact(row).map(|order| (order.id, order))).collect()
}

/// Where the calls of a kind for these orders stand: order → `delivery.status`.
///
/// # Errors
/// The database's.
pub async fn calls_of_orders(conn: &mut AnyConnection, kind: Call, ids: &[i64]) -> Result<BTreeMap<i64, i64>, DbError> {
    let before = "SELECT order_id, status FROM delivery WHERE kind = ? AND order_id";
    let rows = sql::select_in(conn, before, " ORDER BY id", &[Val::Int(kind as i64)], ints(ids)).await?;
    rows.iter().map(|row| Ok((row.int(0)?, row.int(1)?))).collect()
}

/// A reservation, as far as the audit looks.
#[derive(Clone, Debug)]
pub struct ReservationFact {
    /// `stock_reservation.status`.
    pub status: i64,
    /// SKU → pieces; `None` when they cannot be read.
    pub lines: Option<Lines>,
    /// Epoch ms.
    pub updated_at: i64,
}

/// Reservations by order.
///
/// # Errors
/// The database's.
pub async fn reservations(conn: &mut AnyConnection, ids: &[i64]) -> Result<BTreeMap<i64, ReservationFact>, DbError> {
    let before = "SELECT order_id, status, items, updated_at FROM stock_reservation WHERE order_id";
    let rows = sql::select_in(conn, before, "", &[], ints(ids)).await?;
    let fact = |row: &AnyRow| {
        let lines = serde_json::from_str(&row.text(2)?).ok();
        Ok((row.int(0)?, ReservationFact { status: row.int(1)?, lines, updated_at: row.int(3)? }))
    };
    rows.iter().map(fact).collect()
}

/// What the ledger says about orders: order → SKU → sum of the movements.
///
/// # Errors
/// The database's.
pub async fn ledger_of_orders(
    conn: &mut AnyConnection,
    ids: &[i64],
) -> Result<HashMap<i64, BTreeMap<String, Level>>, DbError> {
    let before = "SELECT order_id, sku, CAST(COALESCE(SUM(d_available), 0) AS SIGNED), \
                  CAST(COALESCE(SUM(d_frozen), 0) AS SIGNED), CAST(COALESCE(SUM(d_sold), 0) AS SIGNED) \
                  FROM stock_ledger WHERE order_id";
    let rows = sql::select_in(conn, before, " GROUP BY order_id, sku", &[], ints(ids)).await?;
    let mut found: HashMap<i64, BTreeMap<String, Level>> = HashMap::new();
    for row in &rows {
        let level = Level { available: row.int(2)?, frozen: row.int(3)?, sold: row.int(4)? };
        found.entry(row.int(0)?).or_default().insert(row.text(1)?, level);
    }
    Ok(found)
}

/// The level of a SKU, and what its ledger adds up to.
#[derive(Clone, Debug)]
pub struct Balance {
    /// SKU.
    pub sku: String,
    /// As in `stock`.
    pub level: Level,
    /// As in `stock_ledger`.
    pub ledger: Level,
}

/// Levels beside their ledgers. One statement, and so one moment: the two cannot differ because of a movement in
/// between.
///
/// # Errors
/// The database's.
pub async fn balances(conn: &mut AnyConnection, skus: &[String]) -> Result<Vec<Balance>, DbError> {
    let before = "SELECT s.sku, s.available, s.frozen, s.sold, CAST(COALESCE(SUM(l.d_available), 0) AS SIGNED), \
                  CAST(COALESCE(SUM(l.d_frozen), 0) AS SIGNED), CAST(COALESCE(SUM(l.d_sold), 0) AS SIGNED) \
                  FROM stock s LEFT JOIN stock_ledger l ON l.sku = s.sku WHERE s.sku";
    let after = " GROUP BY s.sku, s.available, s.frozen, s.sold";
    let rows = sql::select_in(conn, before, after, &[], texts(skus)).await?;
    let balance = |row: &AnyRow| {
        Ok(Balance {
            sku: row.text(0)?,
            level: Level { available: row.int(1)?, frozen: row.int(2)?, sold: row.int(3)? },
            ledger: Level { available: row.int(4)?, frozen: row.int(5)?, sold: row.int(6)? },
        })
    };
    rows.iter().map(balance).collect()
}

/// Ledger rows that belong to nothing: (key, rows).
///
/// # Errors
/// The database's.
pub async fn orphans(conn: &mut AnyConnection, which: Orphans, limit: i64) -> Result<Vec<(String, i64)>, DbError> {
    let text = match which {
        Orphans::LedgerSkus => {
            "SELECT l.sku, COUNT(*) FROM stock_ledger l LEFT JOIN stock s ON s.sku = l.sku WHERE s.sku IS NULL \
             GROUP BY l.sku ORDER BY l.sku LIMIT ?"
        }
        Orphans::LedgerOrders => {
            "SELECT l.order_id, COUNT(*) FROM stock_ledger l LEFT JOIN stock_reservation r \
             ON r.order_id = l.order_id WHERE r.order_id IS NULL AND l.order_id <> 0 \
             GROUP BY l.order_id ORDER BY l.order_id LIMIT ?"
        }
        Orphans::PointsUsers => {
            "SELECT p.user_id, COUNT(*) FROM points_record p LEFT JOIN user_points u ON u.user_id = p.user_id \
             WHERE u.user_id IS NULL AND p.user_id <> 0 GROUP BY p.user_id ORDER BY p.user_id LIMIT ?"
        }
        Orphans::PointsSources => {
            "SELECT s.record_id, COUNT(*) FROM points_source s LEFT JOIN points_record p ON p.order_id = s.record_id \
             AND p.kind >= 4 WHERE p.order_id IS NULL GROUP BY s.record_id ORDER BY s.record_id LIMIT ?"
        }
        Orphans::Refunds => {
            "SELECT r.payment_id, COUNT(*) FROM refund_record r LEFT JOIN payment_record p ON p.id = r.payment_id \
             WHERE p.id IS NULL GROUP BY r.payment_id ORDER BY r.payment_id LIMIT ?"
        }
    };
    let key = |row: &AnyRow| match which {
        Orphans::LedgerSkus => row.text(0),
        _ => row.int(0).map(|id| id.to_string()),
    };
    sql::fetch(conn, text, vals![limit]).await?.iter().map(|row| Ok((key(row)?, row.int(1)?))).collect()
}

/// Rows without the row that they belong to.
#[derive(Clone, Copy, Debug)]
pub enum Orphans {
    /// Ledger rows of a SKU that is not in `stock`.
    LedgerSkus,
    /// Ledger rows of an order without a reservation.
    LedgerOrders,
    /// Points of a user without a balance.
    PointsUsers,
    /// Sources of points without their record.
    PointsSources,
    /// Refunds of a payment that does not exist.
    Refunds,
}

/// A payment, as far as the audit looks.
#[derive(Clone, Debug)]
pub struct PaymentFact {
    /// Id.
    pub id: i64,
    /// Order that it pays.
    pub order_id: i64,
    /// `payment_record.status`.
    pub status: i64,
    /// Minor units.
    pub amount: i64,
    /// ISO 4217.
    pub currency: String,
    /// Transaction that paid it.
    pub transaction_no: Option<String>,
    /// Epoch ms.
    pub updated_at: i64,
}

/// Payments whose `column` (`id` or `order_id`) is one of `keys`.
///
/// # Errors
/// The database's.
pub async fn payments(
    conn: &mut AnyConnection,
    column: &'static str,
    keys: &[i64],
) -> Result<Vec<PaymentFact>, DbError> {
    let before = format!(
        "SELECT id, order_id, status, amount, currency, transaction_no, updated_at FROM payment_record \
         WHERE kind = 1 AND {column}"
    );
    let rows = sql::select_in(conn, &before, "", &[], ints(keys)).await?;
    let fact = |row: &AnyRow| {
        Ok(PaymentFact {
            id: row.int(0)?,
            order_id: row.int(1)?,
            status: row.int(2)?,
            amount: row.int(3)?,
            currency: row.text(4)?,
            transaction_no: row.maybe_text(5)?.map(|number| unpadded(&number).to_owned()),
            updated_at: row.int(6)?,
        })
    };
    rows.iter().map(fact).collect()
}

/// A refund, as far as the audit looks.
#[derive(Clone, Debug)]
pub struct RefundFact {
    /// Id.
    pub id: i64,
    /// Payment.
    pub payment_id: i64,
    /// `refund_record.kind`.
    pub kind: i64,
    /// Minor units.
    pub amount: i64,
    /// `refund_record.status`.
    pub status: i64,
    /// Transaction whose money goes back.
    pub transaction_no: String,
    /// Epoch ms.
    pub updated_at: i64,
}

/// The order that a refund is of.
///
/// # Errors
/// The database's.
pub async fn order_of_refund(conn: &mut AnyConnection, id: i64) -> Result<Option<i64>, DbError> {
    let row = sql::fetch_one(conn, "SELECT order_id FROM refund_record WHERE id = ?", vals![id]).await?;
    row.map(|row| row.int(0)).transpose()
}

/// Refunds by order.
///
/// # Errors
/// The database's.
pub async fn refunds(conn: &mut AnyConnection, order_ids: &[i64]) -> Result<HashMap<i64, Vec<RefundFact>>, DbError> {
    let before = "SELECT order_id, payment_id, kind, amount, status, transaction_no, id, updated_at FROM refund_record \
                  WHERE order_id";
    let rows = sql::select_in(conn, before, "", &[], ints(order_ids)).await?;
    let mut found: HashMap<i64, Vec<RefundFact>> = HashMap::new();
    for row in &rows {
        found.entry(row.int(0)?).or_default().push(RefundFact {
            payment_id: row.int(1)?,
            kind: row.int(2)?,
            amount: row.int(3)?,
            status: row.int(4)?,
            transaction_no: unpadded(&row.text(5)?).to_owned(),
            id: row.int(6)?,
            updated_at: row.int(7)?,
        });
    }
    Ok(found)
}

/// Points by order: (kind, user, points).
///
/// # Errors
/// The database's.
pub async fn points(
    conn: &mut AnyConnection,
    order_ids: &[i64],
) -> Result<HashMap<i64, Vec<(i64, i64, i64)>>, DbError> {
    let before = "SELECT order_id, kind, user_id, points FROM points_record WHERE order_id";
    let rows = sql::select_in(conn, before, " AND kind < 4", &[], ints(order_ids)).await?;
    let mut found: HashMap<i64, Vec<(i64, i64, i64)>> = HashMap::new();
    for row in &rows {
        found.entry(row.int(0)?).or_default().push((row.int(1)?, row.int(2)?, row.int(3)?));
    }
    Ok(found)
}

/// (user, what the user has, sum of the records), in one statement.
///
/// # Errors
/// The database's.
pub async fn points_balances(conn: &mut AnyConnection, users: &[i64]) -> Result<Vec<(i64, Standing, i64)>, DbError> {
    let before = "SELECT u.user_id, u.balance, u.shortfall, CAST(COALESCE(SUM(p.points), 0) AS SIGNED) FROM user_points u \
                  LEFT JOIN points_record p ON p.user_id = u.user_id WHERE u.user_id";
    let rows = sql::select_in(conn, before, " GROUP BY u.user_id, u.balance, u.shortfall", &[], ints(users)).await?;
    rows.iter()
        .map(|row| Ok((row.int(0)?, Standing { balance: row.int(1)?, shortfall: row.int(2)? }, row.int(3)?)))
        .collect()
}

/// Movements of orders that the ledger has more than once, and that no correction (a row of the order of the kind
/// `Set`) takes back: (order, "SKU kind", rows).
///
/// # Errors
/// The database's.
pub async fn repeated_movements(conn: &mut AnyConnection, ids: &[i64]) -> Result<Vec<(i64, String, i64)>, DbError> {
    let before = "SELECT order_id, sku, kind, COUNT(*) FROM stock_ledger WHERE order_id";
    let after = " GROUP BY order_id, sku, kind HAVING COUNT(*) > 1 OR kind = 1";
    let rows = sql::select_in(conn, before, after, &[], ints(ids)).await?;
    let mut corrected: HashMap<(i64, String), i64> = HashMap::new();
    let mut found = Vec::new();
    for row in &rows {
        let (order_id, sku, kind, count) = (row.int(0)?, row.text(1)?, row.int(2)?, row.int(3)?);
        if kind == Kind::Set.code() {
            corrected.insert((order_id, sku), count);
        } else {
            found.push((order_id, sku, kind, count));
        }
    }
    found.retain(|(order_id, sku, _, count)| match corrected.get_mut(&(*order_id, sku.clone())) {
        Some(left) if *left >= count - 1 => {
            *left -= count - 1;
            false
        }
        _ => true,
    });
    Ok(found.into_iter().map(|(order_id, sku, kind, count)| (order_id, format!("{sku} kind {kind}"), count)).collect())
}

/// A row of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MovementFact {
    /// SKU.
    pub sku: String,
    /// `stock_ledger.kind`.
    pub kind: i64,
    /// What it did.
    pub change: Level,
}

/// The movements of an order, in the order in which they were written.
///
/// # Errors
/// The database's.
pub async fn movements(conn: &mut AnyConnection, order_id: i64) -> Result<Vec<MovementFact>, DbError> {
    let text = "SELECT sku, kind, d_available, d_frozen, d_sold FROM stock_ledger WHERE order_id = ? ORDER BY id";
    let fact = |row: &AnyRow| {
        let change = Level { available: row.int(2)?, frozen: row.int(3)?, sold: row.int(4)? };
        Ok(MovementFact { sku: row.text(0)?, kind: row.int(1)?, change })
    };
    sql::fetch(conn, text, vals![order_id]).await?.iter().map(fact).collect()
}

/// What the ledger of each of these SKUs adds up to.
///
/// # Errors
/// The database's.
pub async fn ledger_sums(conn: &mut AnyConnection, skus: &[String]) -> Result<BTreeMap<String, Level>, DbError> {
    let before = "SELECT sku, CAST(COALESCE(SUM(d_available), 0) AS SIGNED), CAST(COALESCE(SUM(d_frozen), 0) AS SIGNED), \
                  CAST(COALESCE(SUM(d_sold), 0) AS SIGNED) FROM stock_ledger WHERE sku";
    let rows = sql::select_in(conn, before, " GROUP BY sku", &[], texts(skus)).await?;
    let sum =
        |row: &AnyRow| Ok((row.text(0)?, Level { available: row.int(1)?, frozen: row.int(2)?, sold: row.int(3)? }));
    rows.iter().map(sum).collect()
}

/// Messages to users that one event caused more than once: (order, event id, rows).
///
/// # Errors
/// The database's.
pub async fn repeated_notices(conn: &mut AnyConnection, ids: &[i64]) -> Result<Vec<(i64, String, i64)>, DbError> {
    let before = "SELECT order_id, event_id, COUNT(*) FROM notification WHERE order_id";
    let after = " GROUP BY order_id, event_id HAVING COUNT(*) > 1";
    let rows = sql::select_in(conn, before, after, &[], ints(ids)).await?;
    rows.iter().map(|row| Ok((row.int(0)?, row.text(1)?, row.int(2)?))).collect()
}
