//! The pay gateway: a merchant opens a payment under its own number, which the channel is asked for outside the request.

use std::collections::HashMap;

use super::channels::Channels;
use super::query;
use super::refund::{self, Wish};
use super::tell;
use crate::db::gateway::{self, GatewayRow};
use crate::db::group::Batch;
use crate::db::merchants;
use crate::db::payments::{self, PaymentRow, RefundRow};
use crate::db::tx::Draft;
use crate::db::{Db, DbError, Tx};
use crate::domain::event::{CallbackSubmit, Kind, MerchantChanged};
use crate::domain::id::MerchantId;
use crate::domain::merchant::{Refused, admits};
use crate::domain::money::Money;
use crate::domain::payment::{PaymentState, Status};
use crate::domain::statistics::Type;

/// Currency of the gateway.
const CURRENCY: &str = "CNY";

/// A merchant's wish to be paid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Who.
    pub merchant_id: i64,
    /// The merchant's number.
    pub out_order_no: String,
    /// How much.
    pub amount: Money,
    /// Product.
    pub product_id: String,
    /// Channel.
    pub channel_id: String,
    /// Where to tell what became of it; `None`: where the merchant is told by default.
    pub notify_url: Option<String>,
    /// What the merchant counts by.
    pub extra_arg: String,
    /// Who pays, where the merchant says so; 0 is nobody that is known.
    pub user_id: i64,
    /// W3C trace context of the request.
    pub trace: Option<String>,
}

impl Open {
    fn number(&self) -> (i64, String) {
        (self.merchant_id, self.out_order_no.clone())
    }
}

/// A payment of the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payment {
    /// As every payment.
    pub row: PaymentRow,
    /// What only the gateway's have.
    pub gateway: GatewayRow,
}

/// The answer to a wish to be paid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It was opened now.
    New(Box<Payment>),
    /// It was opened before, by the same wish.
    Replayed(Box<Payment>),
    /// The number belongs to another wish.
    Different,
    /// No merchant of this id is known.
    Unknown,
    /// The merchant may open no payments.
    Closed,
    /// The merchant may not open this one.
    Refused(Refused),
    /// No channel of this id is configured.
    NoChannel,
}

/// Opens payments.
///
/// # Errors
/// The database's.
pub async fn open(db: Db, channels: Channels, batch: Batch<Open>) -> Result<Vec<Opened>, DbError> {
    db.write("gateway_pay", move |tx| {
        let (channels, batch) = (channels.clone(), batch.clone());
        Box::pin(async move { open_all(tx, &channels, &batch.requests()).await })
    })
    .await
}

async fn open_all(tx: &mut Tx, channels: &Channels, wishes: &[Open]) -> Result<Vec<Opened>, DbError> {
    let known = merchants::accounts(tx, wishes.iter().map(|wish| wish.merchant_id).collect()).await?;
    let numbers: Vec<(i64, String)> = wishes.iter().map(Open::number).collect();
    // What was opened before is answered as it is, whatever the merchant may do by now.
    let before = gateway::by_number(tx, &numbers).await?;
    let mut refused: HashMap<usize, Opened> = HashMap::new();
    let mut new: HashMap<(i64, String), GatewayRow> = HashMap::new();
    // Payments of this transaction, and the place of the wish that each is of: others may have the same number.
    let mut makers: HashMap<i64, usize> = HashMap::new();
    for (at, wish) in wishes.iter().enumerate() {
        if before.contains_key(&wish.number()) || new.contains_key(&wish.number()) {
            continue;
        }
        match admit(channels, known.get(&wish.merchant_id), wish) {
            Ok(account) => {
                let row = row(tx, account, wish);
                makers.insert(row.payment_id, at);
                new.insert(wish.number(), row);
            }
            Err(answer) => drop(refused.insert(at, answer)),
        }
    }
    // Whoever has the number now: this transaction, or one that was faster. Only the owner's payment is opened.
    gateway::take(tx, &new.values().cloned().collect::<Vec<_>>()).await?.or_known();
    let owners = gateway::by_number(tx, &numbers).await?;
    let others = owners.values().map(|row| row.payment_id).filter(|id| !makers.contains_key(id)).collect();
    let mut payments = payments::lock_by_id(tx, others).await?;
    let mut rows = Vec::new();
    let mut answers = Vec::with_capacity(wishes.len());
    for (at, wish) in wishes.iter().enumerate() {
        // Also where a later wish of the same number was admitted.
        if let Some(answer) = refused.remove(&at) {
            answers.push(answer);
            continue;
        }
        let Some(owner) = owners.get(&wish.number()) else {
            answers.push(Opened::Unknown);
            continue;
        };
        let is_new = makers.get(&owner.payment_id) == Some(&at);
        if is_new {
            let payment = payment(wish, owner);
            tell_open(tx, channels, &payment, owner)?;
            rows.push(payment.clone());
            payments.insert(payment.id, payment);
        }
        let Some(row) = payments.get(&owner.payment_id) else {
            let (table, key) = ("gateway_payment", owner.payment_id.to_string());
            return Err(DbError::Row { table, key, what: "its payment is not there".to_owned() });
        };
        let opened = Box::new(Payment { row: row.clone(), gateway: owner.clone() });
        answers.push(match (is_new, is_same(wish, &opened)) {
            (true, _) => Opened::New(opened),
            (false, true) => Opened::Replayed(opened),
            (false, false) => Opened::Different,
        });
    }
    payments::insert(tx, &rows).await?;
    Ok(answers)
}

fn admit<'k>(
    channels: &Channels,
    account: Option<&'k MerchantChanged>,
    wish: &Open,
) -> Result<&'k MerchantChanged, Opened> {
    let account = account.ok_or(Opened::Unknown)?;
    if !account.active {
        return Err(Opened::Closed);
    }
    admits(&account.accepts, &wish.product_id, &wish.channel_id, wish.amount).map_err(Opened::Refused)?;
    if channels.get(&wish.channel_id).is_none() {
        return Err(Opened::NoChannel);
    }
    Ok(account)
}

fn row(tx: &Tx, account: &MerchantChanged, wish: &Open) -> GatewayRow {
    GatewayRow {
        payment_id: tx.next_id(),
        merchant_id: wish.merchant_id,
        out_order_no: wish.out_order_no.clone(),
        product_id: wish.product_id.clone(),
        tenant_id: account.tenant_id.clone(),
        notify_url: wish.notify_url.clone().unwrap_or_else(|| account.notify_url.clone()),
        extra_arg: wish.extra_arg.clone(),
    }
}

fn payment(wish: &Open, row: &GatewayRow) -> PaymentRow {
    let id = row.payment_id;
    PaymentRow {
        id,
        order_id: PaymentRow::without_order(id),
        order_no: format!("P{id}"),
        user_id: wish.user_id,
        state: PaymentState {
            status: Status::Pending,
            amount: wish.amount,
            currency: CURRENCY.to_owned(),
            merchant_id: wish.merchant_id,
            transaction_no: None,
        },
        channel_id: wish.channel_id.clone(),
        expire_time: 0,
        payment_method: None,
        pay_time: None,
        trace: wish.trace.clone(),
    }
}

/// The same wish, made again.
fn is_same(wish: &Open, known: &Payment) -> bool {
    let Payment { row, gateway } = known;
    let asked = (wish.amount, &wish.product_id, &wish.channel_id, &wish.extra_arg, wish.user_id);
    let url = wish.notify_url.as_ref().is_none_or(|url| *url == gateway.notify_url);
    url && asked == (row.state.amount, &gateway.product_id, &row.channel_id, &gateway.extra_arg, row.user_id)
}

fn tell_open(tx: &mut Tx, channels: &Channels, payment: &PaymentRow, row: &GatewayRow) -> Result<(), DbError> {
    let (trace, now_ms) = (payment.trace.as_deref(), tx.now_ms());
    tell::count(tx, channels, Type::Submit, payment, Some(row), now_ms, trace)?;
    let submit = submission(channels, payment, Some(row), now_ms);
    tx.emit(&Draft::new(Kind::CallbackSubmit, payment.business_id(), &submit, trace))
}

/// CALLBACK_SUBMIT.
pub(super) fn submission(
    channels: &Channels,
    payment: &PaymentRow,
    row: Option<&GatewayRow>,
    now_ms: i64,
) -> CallbackSubmit {
    CallbackSubmit {
        order_no: payment.id.to_string(),
        out_order_no: row.map_or(&payment.order_no, |row| &row.out_order_no).clone(),
        plugin_id: payment.channel_id.clone(),
        plugin_type: channels.plugin(&payment.channel_id).to_owned(),
        money: payment.state.amount,
        product_id: row.map(|row| row.product_id.clone()).unwrap_or_default(),
        channel_id: payment.channel_id.clone(),
        merchant_id: MerchantId(payment.state.merchant_id),
        tenant_id: row.map(|row| row.tenant_id.clone()).unwrap_or_default(),
        create_datetime: now_ms,
    }
}

/// What is done to an open payment by its merchant.
#[derive(Clone, Debug)]
pub enum Act {
    /// Money that comes later goes back.
    Close,
    /// So much goes back, under a number that the caller keeps: repeated, it is the same refund.
    Refund {
        /// How much; all that is left without it.
        amount: Option<Money>,
        /// Why.
        reason: String,
        /// The caller's `Idempotency-Key`.
        key: String,
    },
}

/// What came of it.
#[derive(Debug)]
pub enum Acted {
    /// There is no such payment.
    Unknown,
    /// It is as it was wished; with all its refunds, oldest first.
    Done(Box<Payment>, Vec<RefundRow>),
    /// It cannot be: why.
    Conflict(String),
}

/// Closes a payment of the gateway, or gives money of it back.
///
/// # Errors
/// The database's.
pub async fn act(db: &Db, channels: &Channels, number: (i64, String), act: Act) -> Result<Acted, DbError> {
    let channels = channels.clone();
    db.write("gateway_act", move |tx| {
        let (channels, number, act) = (channels.clone(), number.clone(), act.clone());
        Box::pin(async move {
            let Some(gateway) = gateway::by_number(tx, std::slice::from_ref(&number)).await?.remove(&number) else {
                return Ok(Acted::Unknown);
            };
            let id = gateway.payment_id;
            let Some(row) = payments::lock_by_id(tx, vec![id]).await?.remove(&id) else { return Ok(Acted::Unknown) };
            let mut payment = Payment { row, gateway };
            let refused = match act {
                Act::Close => close(tx, &channels, &mut payment.row).await?,
                Act::Refund { amount, reason, key } => {
                    let wish = Wish { reason, trace: payment.row.trace.clone() };
                    refund::by_key(tx, &channels, &payment.row, amount, &key, &wish).await?
                }
            };
            if let Some(why) = refused {
                return Ok(Acted::Conflict(why));
            }
            let refunds = payments::refunds_of_order(tx, payment.row.order_id).await?;
            Ok(Acted::Done(Box::new(payment), refunds))
        })
    })
    .await
}

async fn close(tx: &mut Tx, channels: &Channels, payment: &mut PaymentRow) -> Result<Option<String>, DbError> {
    match payment.state.status {
        Status::Closed => Ok(None),
        Status::Pending => {
            payment.state.status = Status::Closed;
            payments::update(tx, &[payment]).await?;
            query::ask_closed(tx, channels.query_after_ms(), &[payment]).await?;
            Ok(None)
        }
        status => Ok(Some(format!("the payment is {}: its money can only be refunded", status.name()))),
    }
}
