//! `payment_record` and `refund_record`.

pub mod statement;

use std::collections::HashMap;

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::sql::{self, Column, Columns, Inserted, Val};
use super::{DbError, Tx};
use crate::domain::call::Kind as Call;
use crate::domain::event::RefundKind;
use crate::domain::id::unpadded;
use crate::domain::money::Money;
use crate::domain::payment::{PaymentState, Status};
use crate::domain::refund::left;
use crate::vals;

/// What a payment is of (`payment_record.kind`). Whatever walks over payments has to know each of them: a test asks for
/// that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PaymentKind {
    /// An order of the shop.
    Shop = 1,
    /// A merchant's own order, through the gateway.
    Gateway = 2,
}

impl PaymentKind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Shop, Self::Gateway];
}

/// A payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaymentRow {
    /// Id.
    pub id: i64,
    /// Order that it pays; of a payment of the gateway see [`PaymentRow::without_order`].
    pub order_id: i64,
    /// Its number for people.
    pub order_no: String,
    /// Who pays.
    pub user_id: i64,
    /// What decides where it may go.
    pub state: PaymentState,
    /// Channel.
    pub channel_id: String,
    /// When its order times out, epoch ms.
    pub expire_time: i64,
    /// Card, wallet, ...: as the channel calls it.
    pub payment_method: Option<String>,
    /// When the channel took the money, epoch ms.
    pub pay_time: Option<i64>,
    /// W3C trace context of what opened it.
    pub trace: Option<String>,
}

impl PaymentRow {
    /// What stands for an order in a payment of the gateway: no order, of whichever database, has it.
    #[must_use]
    pub fn without_order(id: i64) -> i64 {
        -id
    }

    /// What it is of.
    #[must_use]
    pub fn kind(&self) -> PaymentKind {
        if self.order_id < 0 { PaymentKind::Gateway } else { PaymentKind::Shop }
    }

    /// It pays a merchant's own order, and none of the shop.
    #[must_use]
    pub fn is_gateway(&self) -> bool {
        self.kind() == PaymentKind::Gateway
    }

    /// What people and other systems know it by: its order, or, where it has none, the payment itself.
    #[must_use]
    pub fn business_id(&self) -> i64 {
        if self.is_gateway() { self.id } else { self.order_id }
    }
}

const COLUMNS: &str = "id, order_id, order_no, user_id, merchant_id, channel_id, amount, currency, status, expire_time, \
    transaction_no, payment_method, pay_time, trace";

fn from_row(row: &AnyRow) -> Result<PaymentRow, DbError> {
    let id = row.int(0)?;
    let broken = |what: String| DbError::Row { table: "payment_record", key: id.to_string(), what };
    let status = row.int(8)?;
    Ok(PaymentRow {
        id,
        order_id: row.int(1)?,
        order_no: row.text(2)?,
        user_id: row.int(3)?,
        state: PaymentState {
            status: Status::from_code(status).ok_or_else(|| broken(format!("unknown status {status}")))?,
            amount: Money::from_minor(row.int(6)?).map_err(|error| broken(error.to_string()))?,
            currency: row.text(7)?,
            merchant_id: row.int(4)?,
            transaction_no: row.maybe_text(10)?.map(|number| unpadded(&number).to_owned()),
        },
        channel_id: row.text(5)?,
        expire_time: row.int(9)?,
        payment_method: row.maybe_text(11)?,
        pay_time: row.maybe_int(12)?,
        trace: row.maybe_text(13)?,
    })
}

/// Writes new payments.
///
/// # Errors
/// The database's; a unique violation when an order has a payment already.
pub async fn insert(tx: &mut Tx, payments: &[PaymentRow]) -> Result<(), DbError> {
    let now_ms = tx.now_ms();
    let rows = payments
        .iter()
        .map(|payment| {
            vals![
                payment.id,
                payment.kind() as i64,
                payment.order_id,
                &payment.order_no,
                payment.user_id,
                payment.state.merchant_id,
                &payment.channel_id,
                payment.state.amount.minor(),
                &payment.state.currency,
                payment.state.status.code(),
                1_i64,
                payment.expire_time,
                now_ms,
                now_ms,
                payment.trace.as_deref(),
            ]
        })
        .collect();
    let head = "INSERT INTO payment_record (id, kind, order_id, order_no, user_id, merchant_id, channel_id, amount, \
                currency, status, version, expire_time, created_at, updated_at, trace)";
    sql::insert(tx, head, rows, "").await.map(|_| ())
}

/// Payments of orders, by order id, locked until the commit.
///
/// # Errors
/// The database's.
pub async fn lock_by_order(tx: &mut Tx, order_ids: Vec<i64>) -> Result<HashMap<i64, PaymentRow>, DbError> {
    lock(tx, "order_id", order_ids, |payment| payment.order_id).await
}

/// Payments by id, locked until the commit.
///
/// # Errors
/// The database's.
pub async fn lock_by_id(tx: &mut Tx, ids: Vec<i64>) -> Result<HashMap<i64, PaymentRow>, DbError> {
    lock(tx, "id", ids, |payment| payment.id).await
}

/// Payments by id.
///
/// # Errors
/// The database's.
pub async fn find(conn: &mut AnyConnection, mut ids: Vec<i64>) -> Result<HashMap<i64, PaymentRow>, DbError> {
    ids.sort_unstable();
    ids.dedup();
    let before = format!("SELECT {COLUMNS} FROM payment_record WHERE id");
    let rows = sql::select_in(conn, &before, "", &[], ids.into_iter().map(Val::Int).collect()).await?;
    rows.iter().map(|row| from_row(row).map(|payment| (payment.id, payment))).collect()
}

async fn lock(
    tx: &mut Tx,
    column: &str,
    mut keys: Vec<i64>,
    key_of: impl Fn(&PaymentRow) -> i64,
) -> Result<HashMap<i64, PaymentRow>, DbError> {
    keys.sort_unstable();
    keys.dedup();
    let before = format!("SELECT {COLUMNS} FROM payment_record WHERE {column}");
    let after = format!(" ORDER BY {column}{}", tx.dialect().for_update());
    let rows = sql::select_in(tx, &before, &after, &[], keys.into_iter().map(Val::Int).collect()).await?;
    rows.iter().map(|row| from_row(row).map(|payment| (key_of(&payment), payment))).collect()
}

/// The payment of an order.
///
/// # Errors
/// The database's.
pub async fn of_order(conn: &mut AnyConnection, order_id: i64) -> Result<Option<PaymentRow>, DbError> {
    let text = format!("SELECT {COLUMNS} FROM payment_record WHERE order_id = ?");
    sql::fetch_one(conn, text, vals![order_id]).await?.as_ref().map(from_row).transpose()
}

/// The first call of a kind in a range of ids: binds its beginning, its end and the kind. The sign keeps SQLite from the
/// index by kind, by which it would read every submission there ever was.
pub(super) const FIRST_SUBMISSION: &str =
    "SELECT id FROM delivery WHERE id >= ? AND id < ? AND +kind = ? ORDER BY id LIMIT 1";

/// The first submission to a channel with an id in this range, its end excluded.
///
/// # Errors
/// The database's.
pub async fn first_submission(conn: &mut AnyConnection, from: i64, until: i64) -> Result<Option<i64>, DbError> {
    let row = sql::fetch_one(conn, FIRST_SUBMISSION, vals![from, until, Call::ChannelSubmit as i64]).await?;
    row.map(|row| row.int(0)).transpose()
}

/// Payments that were looked for.
#[derive(Debug)]
pub struct Found {
    /// In the order of their ids.
    pub payments: Vec<PaymentRow>,
    /// Those that cannot be read, and why.
    pub unreadable: Vec<(i64, DbError)>,
}

/// Payments without money, of orders and of the gateway, of which a submission has an id in this range, its end excluded.
///
/// # Errors
/// The database's.
pub async fn submitted_without_money(conn: &mut AnyConnection, from: i64, until: i64) -> Result<Found, DbError> {
    let codes: Vec<String> =
        Status::ALL.iter().filter(|status| !status.has_money()).map(|status| status.code().to_string()).collect();
    let text = "SELECT DISTINCT order_id FROM delivery WHERE id >= ? AND id < ? AND +kind = ? ORDER BY order_id";
    let rows = sql::fetch(conn, text, vals![from, until, Call::ChannelSubmit as i64]).await?;
    let submitted: Vec<i64> = rows.iter().map(|row| row.int(0)).collect::<Result<_, _>>()?;
    // A call names an order, or, of the gateway, the payment: what stands there for an order is looked for as well.
    let keys = submitted.into_iter().flat_map(|id| [id, PaymentRow::without_order(id)]).map(Val::Int).collect();
    let after = format!(" AND status IN ({})", codes.join(","));
    let before = format!("SELECT {COLUMNS} FROM payment_record WHERE order_id");
    let rows = sql::select_in(conn, &before, &after, &[], keys).await?;
    let (mut payments, unreadable) = sql::read_each(&rows, from_row);
    payments.sort_unstable_by_key(|payment| payment.id);
    payments.dedup_by_key(|payment| payment.id);
    let unreadable = unreadable.into_iter().map(|(row, why)| Ok((row.int(0)?, why)));
    Ok(Found { payments, unreadable: unreadable.collect::<Result<_, DbError>>()? })
}

/// Writes changed payments back, each once; they were locked in this transaction.
///
/// # Errors
/// The database's.
pub async fn update(tx: &mut Tx, payments: &[&PaymentRow]) -> Result<(), DbError> {
    let now_ms = tx.now_ms();
    let rows = payments
        .iter()
        .map(|payment| {
            vals![
                payment.id,
                payment.state.status.code(),
                1_i64,
                payment.state.transaction_no.clone(),
                payment.payment_method.clone(),
                payment.pay_time,
                now_ms,
            ]
        })
        .collect();
    let columns = [
        Column::Set("status"),
        Column::Add("version"),
        Column::Set("transaction_no"),
        Column::Set("payment_method"),
        Column::Set("pay_time"),
        Column::Set("updated_at"),
    ];
    sql::update(tx, "payment_record", "id", &columns, rows).await
}

/// Where a refund stands (`refund_record.status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefundStatus {
    /// The channel is being asked.
    Pending = 0,
    /// The money is back.
    Success = 1,
    /// The channel refused to give it back.
    Failed = 2,
    /// Nobody knows whether the money went back, so it counts as promised. Stored as PENDING with its `doubt_at`, which a
    /// program that does not know of doubts takes for promised as well.
    InDoubt = 3,
}

impl RefundStatus {
    /// As in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Success => "SUCCESS",
            Self::Failed => "FAILED",
            Self::InDoubt => "IN_DOUBT",
        }
    }

    /// Neither back nor refused.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::InDoubt)
    }
}

/// Money on its way back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefundRow {
    /// Id.
    pub id: i64,
    /// Payment.
    pub payment_id: i64,
    /// Order.
    pub order_id: i64,
    /// What it gives back.
    pub kind: RefundKind,
    /// How much.
    pub amount: Money,
    /// Why.
    pub reason: String,
    /// Where it stands.
    pub status: RefundStatus,
    /// Transaction whose money goes back.
    pub transaction_no: String,
    /// Why it did not.
    pub error: Option<String>,
}

impl PaymentRow {
    /// All of the money that paid it went back, by these refunds of it.
    #[must_use]
    pub fn is_back(&self, refunds: &[RefundRow]) -> bool {
        let back = refunds.iter().filter(|one| one.kind != RefundKind::Extra && one.status == RefundStatus::Success);
        left(self.state.amount, back.map(|refund| refund.amount)) == Money::ZERO
    }
}

impl RefundRow {
    /// Of its key nothing goes back twice: the transaction, or, of a part of it, the refund.
    fn key(&self) -> String {
        match self.kind {
            RefundKind::Part => format!("{}:#{}", self.payment_id, self.id),
            RefundKind::Order | RefundKind::Extra => format!("{}:{}", self.payment_id, self.transaction_no),
        }
    }
}

/// Writes refunds whose number is free, and whose key is not being refunded already.
///
/// # Errors
/// The database's.
pub async fn insert_refunds(tx: &mut Tx, refunds: &[RefundRow]) -> Result<Inserted, DbError> {
    let rows: Vec<(String, &RefundRow)> = refunds.iter().map(|refund| (refund.key(), refund)).collect();
    insert_refunds_as(tx, &rows).await
}

/// Writes refunds under keys of their own, of at most 96 bytes.
///
/// # Errors
/// The database's.
pub async fn insert_refunds_as(tx: &mut Tx, refunds: &[(String, &RefundRow)]) -> Result<Inserted, DbError> {
    let now_ms = tx.now_ms();
    let rows = refunds
        .iter()
        .map(|(key, refund)| {
            vals![
                refund.id,
                key,
                refund.payment_id,
                refund.order_id,
                refund.kind as i64,
                refund.amount.minor(),
                &refund.reason,
                refund.status as i64,
                &refund.transaction_no,
                refund.error.as_deref(),
                now_ms,
                now_ms,
            ]
        })
        .collect();
    let columns = "refund_record (id, refund_key, payment_id, order_id, kind, amount, reason, status, transaction_no, \
                   error, created_at, updated_at)";
    sql::insert_ignore(tx, columns, rows).await
}

/// A refund, locked until the commit.
///
/// # Errors
/// The database's.
pub async fn lock_refunds(tx: &mut Tx, mut ids: Vec<i64>) -> Result<HashMap<i64, RefundRow>, DbError> {
    ids.sort_unstable();
    let after = format!(" ORDER BY id{}", tx.dialect().for_update());
    let before = format!("{REFUNDS}id");
    let rows = sql::select_in(tx, &before, &after, &[], ids.into_iter().map(Val::Int).collect()).await?;
    rows.iter().map(|row| refund_from_row(row).map(|refund| (refund.id, refund))).collect()
}

/// Whether this transaction of this payment is being refunded already. Keys of before may have blanks around the number,
/// and databases do not agree on whether these count: they are compared here.
///
/// # Errors
/// The database's.
pub async fn has_refund(conn: &mut AnyConnection, payment_id: i64, transaction_no: &str) -> Result<bool, DbError> {
    // All keys of the payment: the character behind the colon ends them.
    let text = "SELECT refund_key FROM refund_record WHERE refund_key >= ? AND refund_key < ?";
    let of_payment = format!("{payment_id}:");
    let rows = sql::fetch(conn, text, vals![of_payment.as_str(), format!("{payment_id};")]).await?;
    for row in &rows {
        let key = row.text(0)?;
        if key.strip_prefix(&of_payment).is_some_and(|number| unpadded(number) == unpadded(transaction_no)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A refund.
///
/// # Errors
/// The database's.
pub async fn refund(conn: &mut AnyConnection, id: i64) -> Result<Option<RefundRow>, DbError> {
    sql::fetch_one(conn, format!("{REFUNDS}id = ?"), vals![id]).await?.as_ref().map(refund_from_row).transpose()
}

/// The refund under this key.
///
/// # Errors
/// The database's.
pub async fn refund_by_key(conn: &mut AnyConnection, key: &str) -> Result<Option<RefundRow>, DbError> {
    let text = format!("{REFUNDS}refund_key = ?");
    sql::fetch_one(conn, text, vals![key]).await?.as_ref().map(refund_from_row).transpose()
}

/// The refunds of an order, oldest first.
///
/// # Errors
/// The database's.
pub async fn refunds_of_order(conn: &mut AnyConnection, order_id: i64) -> Result<Vec<RefundRow>, DbError> {
    let text = format!("{REFUNDS}order_id = ? ORDER BY id LIMIT 1000");
    sql::fetch(conn, text, vals![order_id]).await?.iter().map(refund_from_row).collect()
}

/// The refunds of orders, by payment.
///
/// # Errors
/// The database's.
pub async fn refunds_of_orders(
    conn: &mut AnyConnection,
    mut order_ids: Vec<i64>,
) -> Result<HashMap<i64, Vec<RefundRow>>, DbError> {
    order_ids.sort_unstable();
    order_ids.dedup();
    let before = format!("{REFUNDS}order_id");
    let keys = order_ids.into_iter().map(Val::Int).collect();
    let mut found: HashMap<i64, Vec<RefundRow>> = HashMap::new();
    for row in &sql::select_in(conn, &before, " ORDER BY id", &[], keys).await? {
        let refund = refund_from_row(row)?;
        found.entry(refund.payment_id).or_default().push(refund);
    }
    Ok(found)
}

/// The last two are of [`statement`] alone.
const REFUNDS: &str = "SELECT id, payment_id, order_id, kind, amount, reason, status, transaction_no, error, doubt_at, \
                       created_at, updated_at FROM refund_record WHERE ";

fn refund_from_row(row: &AnyRow) -> Result<RefundRow, DbError> {
    let id = row.int(0)?;
    let amount = Money::from_minor(row.int(4)?).map_err(|error| DbError::Row {
        table: "refund_record",
        key: id.to_string(),
        what: error.to_string(),
    })?;
    Ok(RefundRow {
        id,
        payment_id: row.int(1)?,
        order_id: row.int(2)?,
        kind: RefundKind::from_code(row.int(3)?).unwrap_or_default(),
        amount,
        reason: row.text(5)?,
        status: match row.int(6)? {
            0 if row.maybe_int(9)?.is_some() => RefundStatus::InDoubt,
            0 => RefundStatus::Pending,
            1 => RefundStatus::Success,
            _ => RefundStatus::Failed,
        },
        transaction_no: unpadded(&row.text(7)?).to_owned(),
        error: row.maybe_text(8)?,
    })
}

/// Refunds reached a state.
///
/// # Errors
/// The database's.
pub async fn set_refund_status(tx: &mut Tx, ids: &[i64], status: RefundStatus) -> Result<(), DbError> {
    let fixed = [Val::Int(status as i64), Val::Int(tx.now_ms())];
    let keys = ids.iter().copied().map(Val::Int).collect();
    let before = "UPDATE refund_record SET status = ?, updated_at = ?, error = NULL, doubt_at = NULL WHERE id";
    sql::execute_in(tx, before, "", &fixed, keys).await.map(|_| ())
}

/// The channel refused a refund.
///
/// # Errors
/// The database's.
pub async fn fail_refund(tx: &mut Tx, id: i64, error: &str) -> Result<(), DbError> {
    let text = "UPDATE refund_record SET status = ?, updated_at = ?, error = ?, doubt_at = NULL WHERE id = ?";
    let vals = vals![RefundStatus::Failed as i64, tx.now_ms(), super::retry::shorten(error), id];
    sql::execute(tx, text, vals).await.map(|_| ())
}

/// Nobody knows whether the money of a refund that is under way went back: why.
///
/// # Errors
/// The database's.
pub async fn doubt_refund(tx: &mut Tx, id: i64, why: &str) -> Result<(), DbError> {
    let text = "UPDATE refund_record SET doubt_at = COALESCE(doubt_at, ?), updated_at = ?, error = ? \
                WHERE id = ? AND status = 0";
    let vals = vals![tx.now_ms(), tx.now_ms(), super::retry::shorten(why), id];
    sql::execute(tx, text, vals).await.map(|_| ())
}
