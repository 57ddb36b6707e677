//! `order_view` and `order_view_term`: the newest that ORDER_DATA_SYNC told of each order, to be searched.

mod walk;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::page::Wanted;
use super::sql::{self, Columns, Val};
use super::{DbError, Tx};
use crate::domain::event::OrderDataSync;
use crate::domain::id::{MerchantId, OrderId, UserId};
use crate::domain::money::Money;
use crate::domain::order::{Outcome, Status};
use crate::vals;

pub(super) use walk::OF_TERM;

/// How many characters of a remark it is found by.
pub const REMARK_TERM: usize = 64;
/// So many orders are looked at for one beginning of a remark; for more it has to be said longer.
pub const MOST: usize = 10_000;
const COLUMNS: &str = "id, order_no, user_id, status, outcome, version, total_amount, currency, merchant_id, channel_id, \
    remark, cancel_reason, created_at, updated_at";

/// What reads orders, up to its conditions.
fn select() -> String {
    format!("SELECT {COLUMNS} FROM order_view WHERE ")
}

fn from_row(row: &AnyRow) -> Result<OrderDataSync, DbError> {
    let id = row.int(0)?;
    let broken = |what: String| DbError::Row { table: "order_view", key: id.to_string(), what };
    let (status, outcome) = (row.int(3)?, row.text(4)?);
    Ok(OrderDataSync {
        order_id: OrderId(id),
        order_no: row.text(1)?,
        user_id: UserId(row.int(2)?),
        status: Status::from_code(status).ok_or_else(|| broken(format!("unknown status {status}")))?,
        outcome: Outcome::from_name(&outcome).ok_or_else(|| broken(format!("unknown outcome {outcome}")))?,
        version: row.int(5)?,
        total_amount: Money::from_minor(row.int(6)?).map_err(|error| broken(error.to_string()))?,
        currency: row.text(7)?,
        merchant_id: MerchantId(row.int(8)?),
        channel_id: row.text(9)?,
        remark: row.text(10)?,
        cancel_reason: row.text(11)?,
        created_at: row.int(12)?,
        updated_at: row.int(13)?,
        product_quantity_map: None,
    })
}

fn values(told: &OrderDataSync) -> Vec<Val> {
    vals![
        told.order_id.0,
        &told.order_no,
        told.user_id.0,
        told.status.code(),
        told.outcome.name(),
        told.version,
        told.total_amount.minor(),
        &told.currency,
        told.merchant_id.0,
        &told.channel_id,
        &told.remark,
        &told.cancel_reason,
        told.created_at,
        told.updated_at,
    ]
}

/// The term of a SKU.
#[must_use]
pub fn sku_term(sku: &str) -> String {
    format!("sku:{}", sku.to_lowercase())
}

/// The term of a remark, or of its beginning; `None` for one that is empty.
#[must_use]
pub fn remark_term(remark: &str) -> Option<String> {
    let start: String = remark.trim().to_lowercase().chars().take(REMARK_TERM).collect();
    (!start.is_empty()).then(|| format!("remark:{}", start.trim_end()))
}

fn terms(told: &OrderDataSync) -> Vec<Vec<Val>> {
    let Some(lines) = &told.product_quantity_map else { return vec![] };
    let all: BTreeSet<String> = lines.keys().map(|sku| sku_term(sku)).chain(remark_term(&told.remark)).collect();
    all.into_iter().map(|term| vals![term, told.order_id.0]).collect()
}

/// Writes what is newer than what is known, whatever came first; which version of each order is known then.
///
/// # Errors
/// The database's.
pub async fn learn(tx: &mut Tx, told: &[OrderDataSync]) -> Result<HashMap<i64, i64>, DbError> {
    let mut newest: BTreeMap<i64, &OrderDataSync> = BTreeMap::new();
    for one in told {
        let known = newest.entry(one.order_id.0).or_insert(one);
        if one.version > known.version {
            *known = one;
        }
    }
    let columns = COLUMNS.split(", ").filter(|column| !["id", "version"].contains(column)).collect::<Vec<_>>();
    let tail = tx.dialect().on_newer("order_view", "id", "version", &columns);
    let rows = newest.values().map(|one| values(one)).collect();
    sql::insert(tx, &format!("INSERT INTO order_view ({COLUMNS})"), rows, &tail).await?;
    let terms = told.iter().flat_map(terms).collect();
    // Such a row is nothing but its key.
    sql::insert_ignore(tx, "order_view_term (term, order_id)", terms).await?.or_known();
    versions(tx, newest.into_keys().collect()).await
}

/// The version of each of these orders that is shown; those that were never told of are missing.
///
/// # Errors
/// The database's.
pub async fn versions(conn: &mut AnyConnection, ids: Vec<i64>) -> Result<HashMap<i64, i64>, DbError> {
    let keys = ids.into_iter().map(Val::Int).collect();
    let rows = sql::select_in(conn, "SELECT id, version FROM order_view WHERE id", "", &[], keys).await?;
    rows.iter().map(|row| Ok((row.int(0)?, row.int(1)?))).collect()
}

/// Shows an order as it is, where something else is shown: what was seen there is taken away first, and whatever is
/// newer by now stays.
///
/// # Errors
/// The database's.
pub async fn replace(tx: &mut Tx, order: &OrderDataSync, seen: Option<i64>) -> Result<(), DbError> {
    if let Some(version) = seen {
        let text = "DELETE FROM order_view WHERE id = ? AND version = ?";
        sql::execute(tx, text, vals![order.order_id.0, version]).await?;
    }
    learn(tx, std::slice::from_ref(order)).await?;
    Ok(())
}

/// Orders by id; those that are not shown are missing.
///
/// # Errors
/// The database's.
pub async fn get(conn: &mut AnyConnection, ids: Vec<i64>) -> Result<Vec<OrderDataSync>, DbError> {
    let rows =
        sql::select_in(conn, &format!("{}id", select()), "", &[], ids.into_iter().map(Val::Int).collect()).await?;
    rows.iter().map(from_row).collect()
}

/// Which orders to look for.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// An order id or number, a SKU, or how a remark begins; in any case.
    pub text: Option<String>,
    /// Only of this user.
    pub user_id: Option<i64>,
    /// Only in this state.
    pub status: Option<Status>,
    /// Only accepted at or after this, epoch ms.
    pub from_ms: Option<i64>,
    /// Only accepted before this, epoch ms.
    pub to_ms: Option<i64>,
    /// Only older than this id (keyset paging).
    pub before_id: i64,
    /// At most so many.
    pub limit: i64,
}

impl Search {
    fn wanted(&self, before_id: i64) -> Wanted {
        let mut wanted = Wanted::before(before_id);
        wanted.and("user_id =", self.user_id);
        // As in a list of the orders themselves: what belongs to a user is found by the user.
        let in_state = if self.user_id.is_some() { "+status =" } else { "status =" };
        wanted.and(in_state, self.status.map(Status::code));
        wanted.since(self.from_ms);
        wanted.until(self.to_ms);
        wanted
    }
}

/// What reads the newest orders of a user, in this state if one is named, and what is bound.
pub(super) fn of_user(user_id: i64, status: Option<Status>, limit: i64) -> (String, Vec<Val>) {
    let search = Search { user_id: Some(user_id), status, ..Search::default() };
    search.wanted(i64::MAX).statement(&select(), limit)
}

/// What a search came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Orders, newest first.
    Orders(Vec<OrderDataSync>),
    /// More than [`MOST`] remarks begin so.
    TooMany,
}

/// Looks for orders, newest first.
///
/// # Errors
/// The database's.
pub async fn search(conn: &mut AnyConnection, search: &Search) -> Result<Found, DbError> {
    let Some(text) = &search.text else {
        let found = search.wanted(search.before_id).newest(conn, &select(), search.limit, from_row).await?;
        return Ok(Found::Orders(found));
    };
    let term = sku_term(text);
    let remarks = by_remark(conn, text).await?;
    if remarks.len() > MOST && with_term(conn, &term, search.before_id, 1).await?.is_empty() {
        return Ok(Found::TooMany);
    }
    let mut others: BTreeSet<i64> = if remarks.len() > MOST { BTreeSet::new() } else { remarks };
    let number = text.to_uppercase();
    others.extend(number.strip_prefix("RY").unwrap_or(&number).parse::<i64>().ok());
    walk::both_ways(conn, search, &walk::Matching { term, others }).await.map(Found::Orders)
}

/// Orders with a term, newest first: binds the term, the order that is not reached any more, and how many.
pub(super) const WITH_TERM: &str =
    "SELECT order_id FROM order_view_term WHERE term = ? AND order_id < ? ORDER BY order_id DESC LIMIT ?";

/// Orders with a term, newest first.
async fn with_term(conn: &mut AnyConnection, term: &str, before: i64, limit: usize) -> Result<Vec<i64>, DbError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    sql::fetch(conn, WITH_TERM, vals![term, before, limit]).await?.iter().map(|row| row.int(0)).collect()
}

/// Orders whose remark begins so; one more than [`MOST`]: there are too many.
async fn by_remark(conn: &mut AnyConnection, text: &str) -> Result<BTreeSet<i64>, DbError> {
    let Some(from) = remark_term(text) else { return Ok(BTreeSet::new()) };
    // No character comes after the last one.
    let to = format!("{from}{}", char::MAX);
    let limit = i64::try_from(MOST).unwrap_or(i64::MAX).saturating_add(1);
    let select = "SELECT order_id FROM order_view_term WHERE term >= ? AND term < ? LIMIT ?";
    sql::fetch(conn, select, vals![from, to, limit]).await?.iter().map(|row| row.int(0)).collect()
}
