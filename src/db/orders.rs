//! `orders` and `order_item`.

use std::collections::HashMap;

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::sql::{self, Column, Columns, Val};
use super::tx::Draft;
use super::{DbError, Tx};
use crate::domain::event::{CacheKind, Kind, OrderDataSync};
use crate::domain::id::PaymentId;
use crate::domain::money::Money;
use crate::domain::order::{OrderState, RefundState, Status};
use crate::vals;

/// A line of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// SKU.
    pub sku: String,
    /// Pieces.
    pub quantity: i64,
    /// Price of one piece when the order was accepted.
    pub unit_price: Money,
}

/// The coupon that an order was placed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CouponUse {
    /// Coupon.
    pub id: i64,
    /// What it took off; the order's total is what is left.
    pub discount: Money,
}

/// An order. Amounts in minor units, times in epoch ms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderRow {
    /// Id.
    pub id: i64,
    /// Number for people.
    pub order_no: String,
    /// Who ordered.
    pub user_id: i64,
    /// What decides where it may go.
    pub state: OrderState,
    /// Grows with each change.
    pub version: i64,
    /// The coupon that reduced it; never changes.
    pub coupon: Option<CouponUse>,
    /// ISO 4217.
    pub currency: String,
    /// Who sells.
    pub merchant_id: i64,
    /// Channel that is to take the money.
    pub channel_id: String,
    /// Free text of the user.
    pub remark: String,
    /// Where to send it.
    pub address: String,
    /// Wait between payment and fulfilment.
    pub hold_ms: i64,
    /// `<user>:<Idempotency-Key>`.
    pub idempotency_key: Option<String>,
    /// SHA-256 of the request that came with the key.
    pub request_hash: Option<String>,
    /// Unpaid by then, it is canceled.
    pub expire_time: i64,
    /// When it was paid.
    pub pay_time: Option<i64>,
    /// Who canceled.
    pub cancel_type: Option<String>,
    /// Why.
    pub cancel_reason: Option<String>,
    /// Carrier's name.
    pub carrier: Option<String>,
    /// Carrier's number.
    pub tracking_no: Option<String>,
    /// When it was accepted.
    pub created_at: i64,
    /// When it last changed.
    pub updated_at: i64,
}

const COLUMNS: &str = "id, order_no, user_id, status, version, total_amount, currency, merchant_id, channel_id, remark, \
    address, hold_ms, idempotency_key, request_hash, expire_time, payment_id, pay_time, handed_over, refund_status, \
    cancel_type, cancel_reason, carrier, tracking_no, created_at, updated_at, coupon_id, discount";

fn from_row(row: &AnyRow) -> Result<OrderRow, DbError> {
    let id = row.int(0)?;
    let broken = |what: String| DbError::Row { table: "orders", key: id.to_string(), what };
    let status = row.int(3)?;
    let refund = row.int(18)?;
    let money = |minor| Money::from_minor(minor).map_err(|error| broken(error.to_string()));
    Ok(OrderRow {
        id,
        order_no: row.text(1)?,
        user_id: row.int(2)?,
        state: OrderState {
            status: Status::from_code(status).ok_or_else(|| broken(format!("unknown status {status}")))?,
            refund: RefundState::from_code(refund).ok_or_else(|| broken(format!("unknown refund_status {refund}")))?,
            handed_over: row.int(17)? != 0,
            total: money(row.int(5)?)?,
            payment_id: row.maybe_int(15)?.map(PaymentId),
        },
        version: row.int(4)?,
        coupon: match row.maybe_int(25)? {
            Some(id) => Some(CouponUse { id, discount: money(row.int(26)?)? }),
            None => None,
        },
        currency: row.text(6)?,
        merchant_id: row.int(7)?,
        channel_id: row.text(8)?,
        remark: row.text(9)?,
        address: row.text(10)?,
        hold_ms: row.int(11)?,
        idempotency_key: row.maybe_text(12)?,
        request_hash: row.maybe_text(13)?,
        expire_time: row.int(14)?,
        pay_time: row.maybe_int(16)?,
        cancel_type: row.maybe_text(19)?,
        cancel_reason: row.maybe_text(20)?,
        carrier: row.maybe_text(21)?,
        tracking_no: row.maybe_text(22)?,
        created_at: row.int(23)?,
        updated_at: row.int(24)?,
    })
}

/// When the walk of the timeouts has to look at it: only while it can be canceled for not being paid.
fn due_at(order: &OrderRow) -> Option<i64> {
    matches!(order.state.status, Status::Created | Status::Reserved).then_some(order.expire_time)
}

/// Writes new orders with their lines.
///
/// # Errors
/// The database's; a unique violation when an idempotency key is used already.
pub async fn insert(conn: &mut AnyConnection, orders: &[(OrderRow, Vec<Item>)]) -> Result<(), DbError> {
    let rows = orders
        .iter()
        .map(|(order, _)| {
            vals![
                order.id,
                &order.order_no,
                order.user_id,
                order.state.status.code(),
                order.version,
                order.state.total.minor(),
                &order.currency,
                order.merchant_id,
                &order.channel_id,
                &order.remark,
                &order.address,
                order.hold_ms,
                order.idempotency_key.clone(),
                order.request_hash.clone(),
                order.expire_time,
                due_at(order),
                false,
                order.state.refund.code(),
                order.created_at,
                order.updated_at,
                order.coupon.as_ref().map(|coupon| coupon.id),
                order.coupon.as_ref().map_or(0, |coupon| coupon.discount.minor()),
            ]
        })
        .collect();
    let head = "INSERT INTO orders (id, order_no, user_id, status, version, total_amount, currency, merchant_id, \
                channel_id, remark, address, hold_ms, idempotency_key, request_hash, expire_time, due_at, handed_over, \
                refund_status, created_at, updated_at, coupon_id, discount)";
    sql::insert(conn, head, rows, "").await?;
    let lines = orders
        .iter()
        .flat_map(|(order, items)| {
            (1_i64..)
                .zip(items)
                .map(|(line_no, item)| vals![order.id, line_no, &item.sku, item.quantity, item.unit_price.minor()])
        })
        .collect();
    sql::insert(conn, "INSERT INTO order_item (order_id, line_no, sku, quantity, unit_price)", lines, "").await?;
    Ok(())
}

/// Reads orders and keeps others from changing them until the commit. `ids` may repeat; locked in id order.
///
/// # Errors
/// The database's.
pub async fn lock(tx: &mut Tx, mut ids: Vec<i64>) -> Result<HashMap<i64, OrderRow>, DbError> {
    ids.sort_unstable();
    ids.dedup();
    let before = format!("SELECT {COLUMNS} FROM orders WHERE id");
    let after = format!(" ORDER BY id{}", tx.dialect().for_update());
    let rows = sql::select_in(tx, &before, &after, &[], ids.into_iter().map(Val::Int).collect()).await?;
    rows.iter().map(|row| from_row(row).map(|order| (order.id, order))).collect()
}

/// One order.
///
/// # Errors
/// The database's.
pub async fn get(conn: &mut AnyConnection, id: i64) -> Result<Option<OrderRow>, DbError> {
    let text = format!("SELECT {COLUMNS} FROM orders WHERE id = ?");
    sql::fetch_one(conn, text, vals![id]).await?.as_ref().map(from_row).transpose()
}

/// Orders that were created with these idempotency keys.
///
/// # Errors
/// The database's.
pub async fn by_idempotency_keys(conn: &mut AnyConnection, keys: Vec<String>) -> Result<Vec<OrderRow>, DbError> {
    let before = format!("SELECT {COLUMNS} FROM orders WHERE idempotency_key");
    let rows = sql::select_in(conn, &before, "", &[], keys.into_iter().map(Val::Text).collect()).await?;
    rows.iter().map(from_row).collect()
}

/// Orders by id; those that do not exist are missing.
///
/// # Errors
/// The database's.
pub async fn by_ids(conn: &mut AnyConnection, ids: Vec<i64>) -> Result<Vec<OrderRow>, DbError> {
    let before = format!("SELECT {COLUMNS} FROM orders WHERE id");
    let rows = sql::select_in(conn, &before, "", &[], ids.into_iter().map(Val::Int).collect()).await?;
    rows.iter().map(from_row).collect()
}

/// Whose these orders are; those that do not exist are missing.
///
/// # Errors
/// The database's.
pub async fn users(conn: &mut AnyConnection, ids: Vec<i64>) -> Result<HashMap<i64, i64>, DbError> {
    let keys = ids.into_iter().map(Val::Int).collect();
    let rows = sql::select_in(conn, "SELECT id, user_id FROM orders WHERE id", "", &[], keys).await?;
    rows.iter().map(|row| Ok((row.int(0)?, row.int(1)?))).collect()
}

/// Lines of orders, in line order.
///
/// # Errors
/// The database's.
pub async fn items(conn: &mut AnyConnection, ids: &[i64]) -> Result<HashMap<i64, Vec<Item>>, DbError> {
    let before = "SELECT order_id, sku, quantity, unit_price FROM order_item WHERE order_id";
    let keys = ids.iter().copied().map(Val::Int).collect();
    let rows = sql::select_in(conn, before, " ORDER BY order_id, line_no", &[], keys).await?;
    let mut found: HashMap<i64, Vec<Item>> = HashMap::with_capacity(ids.len());
    for row in &rows {
        let order_id = row.int(0)?;
        let unit_price = Money::from_minor(row.int(3)?).map_err(|error| DbError::Row {
            table: "order_item",
            key: order_id.to_string(),
            what: error.to_string(),
        })?;
        found.entry(order_id).or_default().push(Item { sku: row.text(1)?, quantity: row.int(2)?, unit_price });
    }
    Ok(found)
}

/// Writes changed orders back. They were read with [`lock`] in this transaction, which makes it a compare-and-set on
/// (status, version): nobody else can have moved them in between.
///
/// # Errors
/// The database's.
pub async fn update(tx: &mut Tx, orders: &[&OrderRow]) -> Result<(), DbError> {
    let now_ms = tx.now_ms();
    let rows = orders
        .iter()
        .map(|order| {
            vals![
                order.id,
                order.state.status.code(),
                1_i64,
                due_at(order),
                order.state.payment_id.map(|id| id.0),
                order.pay_time,
                order.state.handed_over,
                order.state.refund.code(),
                order.cancel_type.clone(),
                order.cancel_reason.clone(),
                order.carrier.clone(),
                order.tracking_no.clone(),
                now_ms,
            ]
        })
        .collect();
    let columns = [
        Column::Set("status"),
        Column::Add("version"),
        Column::Set("due_at"),
        Column::Set("payment_id"),
        Column::Set("pay_time"),
        Column::Set("handed_over"),
        Column::Set("refund_status"),
        Column::Set("cancel_type"),
        Column::Set("cancel_reason"),
        Column::Set("carrier"),
        Column::Set("tracking_no"),
        Column::Set("updated_at"),
    ];
    for order in orders {
        tx.changed(CacheKind::Order, order.id.to_string(), order.version + 1);
    }
    sql::update(tx, "orders", "id", &columns, rows).await
}

/// ORDER_DATA_SYNC: what an order has become.
///
/// # Errors
/// As [`Tx::emit`].
pub fn tell_version(tx: &mut Tx, body: &OrderDataSync, trace: Option<&str>) -> Result<(), DbError> {
    let version = body.version.to_string();
    let draft = Draft::new(Kind::OrderDataSync, body.order_id, body, trace);
    tx.emit(&Draft { discriminator: &version, ..draft })
}

/// What is due: binds the time and how many.
pub(super) const DUE: &str = "SELECT id FROM orders WHERE due_at <= ? ORDER BY due_at, id LIMIT ?";

/// What falls due next.
pub(super) const NEXT_DUE: &str = "SELECT MIN(due_at) FROM orders WHERE due_at IS NOT NULL";

/// Orders whose time to pay was over at `before_ms`, the longest over first; `lock` ends the statement.
///
/// # Errors
/// The database's.
pub async fn due(
    conn: &mut AnyConnection,
    before_ms: i64,
    limit: i64,
    lock: &'static str,
) -> Result<Vec<i64>, DbError> {
    sql::fetch(conn, format!("{DUE}{lock}"), vals![before_ms, limit]).await?.iter().map(|row| row.int(0)).collect()
}

/// The walk of the timeouts looks at these orders again at `at_ms`, as long as they wait to be paid.
///
/// # Errors
/// The database's.
pub async fn look_again(tx: &mut Tx, ids: Vec<i64>, at_ms: i64) -> Result<(), DbError> {
    let keys = ids.into_iter().map(Val::Int).collect();
    // The sign keeps databases from looking the same orders up in the index by state, once for each state.
    let before = "UPDATE orders SET due_at = ? WHERE +status IN (0, 10) AND id";
    sql::execute_in(tx, before, "", &[Val::Int(at_ms)], keys).await.map(|_| ())
}

/// An order that waits to be paid without an end gets its own time back; 0 when it has one, or waits no more.
///
/// # Errors
/// The database's.
pub async fn expire_at_its_time(tx: &mut Tx, id: i64) -> Result<u64, DbError> {
    let text = "UPDATE orders SET due_at = expire_time WHERE id = ? AND status IN (0, 10) AND due_at IS NULL";
    sql::execute(tx, text, vals![id]).await
}

/// When the next order's time to pay is over.
///
/// # Errors
/// The database's.
pub async fn next_due(conn: &mut AnyConnection) -> Result<Option<i64>, DbError> {
    sql::fetch_one(conn, NEXT_DUE, vec![]).await?.map_or(Ok(None), |row| row.maybe_int(0))
}

/// Which orders to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only of this user.
    pub user_id: Option<i64>,
    /// Only in this state.
    pub status: Option<Status>,
    /// Only older than this id (keyset paging).
    pub before_id: Option<i64>,
    /// At most so many.
    pub limit: i64,
}

/// What reads a page of orders, and what is bound.
pub(super) fn listed(filter: &Filter) -> (String, Vec<Val>) {
    let mut text = format!("SELECT {COLUMNS} FROM orders WHERE id < ?");
    let mut vals = vals![filter.before_id.unwrap_or(i64::MAX)];
    if let Some(user_id) = filter.user_id {
        text.push_str(" AND user_id = ?");
        vals.push(user_id.into());
    }
    if let Some(status) = filter.status {
        // A user has few orders, and a state may have nearly all: the sign keeps databases from the index by state.
        text.push_str(if filter.user_id.is_some() { " AND +status = ?" } else { " AND status = ?" });
        vals.push(status.code().into());
    }
    text.push_str(" ORDER BY id DESC LIMIT ?");
    vals.push(filter.limit.into());
    (text, vals)
}

/// Orders, newest first.
///
/// # Errors
/// The database's.
pub async fn list(conn: &mut AnyConnection, filter: &Filter) -> Result<Vec<OrderRow>, DbError> {
    let (text, vals) = listed(filter);
    sql::fetch(conn, text, vals).await?.iter().map(from_row).collect()
}
