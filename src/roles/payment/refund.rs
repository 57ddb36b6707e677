//! Giving money back: recorded with what caused it, called outside, settled with the channel's answer.
//!
//! Of what a payment took, all that went back and all that is on its way is never more than that: whoever adds to it has
//! locked the payment. That lock is no lock on the number of a refund, which another payment may take at the same moment:
//! then the transaction is run again. So each refund that is decided has its row and its call.

use std::collections::{HashMap, HashSet};

use sha2::{Digest, Sha256};

use super::channels::Channels;
use super::doubt;
use super::tell::{self, News};
use crate::db::delivery::{self, Delivery};
use crate::db::payments::{self, PaymentRow, RefundRow, RefundStatus};
use crate::db::tx::Draft;
use crate::db::{DbError, Tx, outbox};
use crate::domain::event::{Kind, RefundKind, RefundSuccess};
use crate::domain::id::derived_id;
use crate::domain::money::Money;
use crate::domain::order::Decision;
use crate::domain::payment::{self, Input, Status};
use crate::domain::refund::left;

/// What the column of a refund's key holds.
const KEY: usize = 96;
/// So many numbers are tried for a refund; whatever has that many on one millisecond gets one that comes from nothing.
const NUMBERS_TRIED: u16 = 64;
/// Longest reason that is kept, characters.
const REASON: usize = 200;

/// What is to go back of a payment.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Why.
    pub reason: String,
    /// W3C trace context of what caused it.
    pub trace: Option<String>,
}

/// A part of the money, under the number that the order gave it.
#[derive(Clone, Debug)]
pub struct Part {
    /// Refund.
    pub id: i64,
    /// How much.
    pub amount: Money,
    /// It is not to be: why.
    pub refused: Option<&'static str>,
}

/// Gives the money of a second transaction back, once.
///
/// # Errors
/// The database's.
pub async fn extra(
    tx: &mut Tx,
    channels: &Channels,
    payment: &PaymentRow,
    transaction_no: &str,
    wish: &Wish,
) -> Result<(), DbError> {
    if payments::has_refund(tx, payment.id, transaction_no).await? {
        return Ok(());
    }
    let id = number(tx, payment, transaction_no).await?;
    let refund = row(payment, id, RefundKind::Extra, payment.state.amount, transaction_no, wish);
    record(tx, channels, payment, refund, wish).await
}

/// Gives all of the money back that is neither back nor on its way, once.
///
/// # Errors
/// The database's.
pub async fn rest(tx: &mut Tx, channels: &Channels, payment: &PaymentRow, wish: &Wish) -> Result<(), DbError> {
    let transaction_no = payment.state.transaction_no.clone().unwrap_or_default();
    let amount = left_of(tx, payment).await?;
    if amount == Money::ZERO {
        return end(tx, payment).await;
    }
    if payments::has_refund(tx, payment.id, &transaction_no).await? {
        return Ok(());
    }
    let id = number(tx, payment, &transaction_no).await?;
    let refund = row(payment, id, RefundKind::Order, amount, &transaction_no, wish);
    record(tx, channels, payment, refund, wish).await
}

/// Nothing is left to give back. Where all of it went in parts the payment ends here, since no refund will end it any
/// more; what is still on its way, or in doubt, ends it when its channel answers.
async fn end(tx: &mut Tx, payment: &PaymentRow) -> Result<(), DbError> {
    let refunds = payments::refunds_of_orders(tx, vec![payment.order_id]).await?;
    let is_back = payment.is_back(refunds.get(&payment.id).map_or(&[][..], Vec::as_slice));
    match payment::decide(&payment.state, &Input::RefundDone { all: is_back }) {
        Decision::Apply(state, _) => payments::update(tx, &[&PaymentRow { state, ..payment.clone() }]).await,
        _ => Ok(()),
    }
}

/// Gives a part of the money back, or tells the order why not.
///
/// # Errors
/// The database's.
pub async fn part(
    tx: &mut Tx,
    channels: &Channels,
    payment: &PaymentRow,
    part: &Part,
    wish: &Wish,
) -> Result<(), DbError> {
    let known = payments::lock_refunds(tx, vec![part.id]).await?;
    if known.contains_key(&part.id) {
        return Ok(());
    }
    let transaction_no = payment.state.transaction_no.clone().unwrap_or_default();
    let refund = row(payment, part.id, RefundKind::Part, part.amount, &transaction_no, wish);
    let left = left_of(tx, payment).await?;
    let none = part.amount > left || part.amount == Money::ZERO;
    match part.refused.map(str::to_owned).or_else(|| none.then(|| format!("only {left} is left of the payment"))) {
        Some(why) => tell_failure(tx, &refund, &why, wish.trace.as_deref()).await,
        None => record(tx, channels, payment, refund, wish).await,
    }
}

/// Gives money of a payment of the gateway back, once for each key of the caller; why not, where it cannot be.
///
/// # Errors
/// The database's.
pub async fn by_key(
    tx: &mut Tx,
    channels: &Channels,
    payment: &PaymentRow,
    amount: Option<Money>,
    key: &str,
    wish: &Wish,
) -> Result<Option<String>, DbError> {
    let digest = hex::encode(Sha256::digest(key.as_bytes()));
    let key = format!("{}:k:{digest}", payment.id);
    let key: String = key.chars().take(KEY).collect();
    if let Some(known) = payments::refund_by_key(tx, &key).await? {
        let differs = amount.is_some_and(|amount| amount != known.amount);
        return Ok(differs.then(|| format!("this Idempotency-Key belongs to a refund of {}", known.amount)));
    }
    if payment.state.status != Status::Success {
        return Ok(Some(format!("the payment is {}: there is no money to give back", payment.state.status.name())));
    }
    let left = left_of(tx, payment).await?;
    let amount = amount.unwrap_or(left);
    if amount > left || amount == Money::ZERO {
        return Ok(Some(format!("only {left} is left of the payment")));
    }
    let transaction_no = payment.state.transaction_no.clone().unwrap_or_default();
    let id = number(tx, payment, &key).await?;
    let refund = row(payment, id, RefundKind::Part, amount, &transaction_no, wish);
    payments::insert_refunds_as(tx, &[(key, &refund)]).await?.all()?;
    call(tx, channels, payment, &refund, wish).await?;
    Ok(None)
}

/// The number of a new refund: the same for the same `cause` (a transaction, a key) whenever it is given. A database that
/// was restored from a backup asks for the refund anew, and the channel, which knows it by its number, pays once.
async fn number(tx: &mut Tx, payment: &PaymentRow, cause: &str) -> Result<i64, DbError> {
    let digest = Sha256::digest(format!("{}:{cause}", payment.id).as_bytes());
    let first = u16::from_be_bytes([digest[0], digest[1]]);
    // Another payment of the same millisecond may have a refund under this number. One that is not committed yet is not
    // seen here: whoever writes the refund finds out.
    for step in 0..NUMBERS_TRIED {
        let id = derived_id(payment.id, first.wrapping_add(step));
        if payments::refund(tx, id).await?.is_none() {
            return Ok(id);
        }
    }
    Ok(tx.next_id())
}

/// What is neither back nor on its way, of the money that paid the order.
async fn left_of(tx: &mut Tx, payment: &PaymentRow) -> Result<Money, DbError> {
    let refunds =
        payments::refunds_of_orders(tx, vec![payment.order_id]).await?.remove(&payment.id).unwrap_or_default();
    // What is in doubt may have gone.
    let promised = refunds.iter().filter(|one| one.kind != RefundKind::Extra && one.status != RefundStatus::Failed);
    Ok(left(payment.state.amount, promised.map(|refund| refund.amount)))
}

fn row(payment: &PaymentRow, id: i64, kind: RefundKind, amount: Money, transaction_no: &str, wish: &Wish) -> RefundRow {
    RefundRow {
        id,
        payment_id: payment.id,
        order_id: payment.order_id,
        kind,
        amount,
        reason: wish.reason.chars().take(REASON).collect(),
        status: RefundStatus::Pending,
        transaction_no: transaction_no.to_owned(),
        error: None,
    }
}

async fn record(
    tx: &mut Tx,
    channels: &Channels,
    payment: &PaymentRow,
    refund: RefundRow,
    wish: &Wish,
) -> Result<(), DbError> {
    payments::insert_refunds(tx, std::slice::from_ref(&refund)).await?.all()?;
    call(tx, channels, payment, &refund, wish).await
}

async fn call(
    tx: &mut Tx,
    channels: &Channels,
    payment: &PaymentRow,
    refund: &RefundRow,
    wish: &Wish,
) -> Result<(), DbError> {
    let call = Delivery {
        id: tx.next_id(),
        kind: delivery::Kind::ChannelRefund,
        reference: refund.id.to_string(),
        order_id: payment.business_id(),
        url: channels.url(&payment.channel_id, "refund"),
        body: Channels::refund(payment, refund)?,
        attempts: 0,
        next_at: tx.now_ms(),
        trace: wish.trace.clone().or_else(|| payment.trace.clone()),
    };
    delivery::insert(tx, &[call]).await?.all()
}

/// The channel gave the money of these refunds back; with each, the trace of the call that asked for it.
///
/// # Errors
/// The database's.
pub async fn settle(tx: &mut Tx, traces: &HashMap<i64, Option<String>>) -> Result<(), DbError> {
    let refunds = payments::lock_refunds(tx, traces.keys().copied().collect()).await?;
    let mut open: Vec<&RefundRow> = refunds.values().filter(|refund| refund.status != RefundStatus::Success).collect();
    open.sort_by_key(|refund| refund.id);
    let payment_ids = open.iter().map(|refund| refund.payment_id).collect();
    let mut found = payments::lock_by_id(tx, payment_ids).await?;
    let ids: Vec<i64> = open.iter().map(|refund| refund.id).collect();
    payments::set_refund_status(tx, &ids, RefundStatus::Success).await?;
    let all = payments::refunds_of_orders(tx, open.iter().map(|refund| refund.order_id).collect()).await?;
    let gateways = tell::gateways(tx, found.values()).await?;
    let mut changed = HashSet::new();
    for refund in &open {
        let Some(payment) = found.get_mut(&refund.payment_id) else { continue };
        let trace = traces.get(&refund.id).and_then(Option::as_deref);
        // Of several that went back at once the last one says that it was all.
        let last = open.iter().filter(|one| one.payment_id == refund.payment_id && one.kind != RefundKind::Extra);
        let is_last = last.map(|one| one.id).max() == Some(refund.id);
        let is_back = payment.is_back(all.get(&payment.id).map_or(&[][..], Vec::as_slice));
        if let Some(gateway) = gateways.get(&payment.id) {
            // No order goes on: what is all back is refunded, whichever way it went.
            if is_back && refund.kind != RefundKind::Extra && payment.state.status != Status::Refunded {
                payment.state.status = Status::Refunded;
                changed.insert(payment.id);
            }
            if refund.kind != RefundKind::Extra {
                tell::merchant(tx, payment, gateway, News::Refunded(refund, is_back && is_last), trace)?;
            }
            continue;
        }
        let input = Input::RefundDone { all: is_back };
        if refund.kind != RefundKind::Extra
            && let Decision::Apply(next, _) = payment::decide(&payment.state, &input)
        {
            payment.state = next;
            changed.insert(payment.id);
        }
        let all_back = (refund.kind != RefundKind::Extra).then_some(is_back && is_last);
        let body = RefundSuccess { all_back, ..refund.success(payment) };
        let discriminator = refund.id.to_string();
        let draft = Draft::new(Kind::RefundSuccess, refund.order_id, &body, trace);
        tx.emit(&Draft { discriminator: &discriminator, ..draft })?;
    }
    let changed: Vec<&PaymentRow> = found.values().filter(|payment| changed.contains(&payment.id)).collect();
    payments::update(tx, &changed).await
}

/// A call that was given up, or refused: why, and its trace.
#[derive(Clone, Debug, Default)]
pub struct GivenUp {
    /// Why.
    pub error: String,
    /// The channel said no, for good; else nobody knows what it did with what it was sent.
    pub refused: bool,
    /// W3C trace context of the call.
    pub trace: Option<String>,
}

/// The channel would not give the money of these refunds back, or could not be moved to. A part that it refused may be
/// asked for again; what it did not answer is in doubt, since its money may have gone: the call was alerted, and can be
/// resent. What a canceled order is owed, and the channel refused, waits for somebody to see to it.
///
/// # Errors
/// The database's.
pub async fn give_up(tx: &mut Tx, channels: &Channels, given_up: &HashMap<i64, GivenUp>) -> Result<(), DbError> {
    let refunds = payments::lock_refunds(tx, given_up.keys().copied().collect()).await?;
    let mut open: Vec<&RefundRow> = refunds.values().filter(|one| one.status.is_open()).collect();
    open.sort_by_key(|refund| refund.id);
    let found = payments::find(tx, open.iter().map(|refund| refund.payment_id).collect()).await?;
    let gateways = tell::gateways(tx, found.values()).await?;
    for refund in open {
        let Some(call) = given_up.get(&refund.id) else { continue };
        if !call.refused {
            doubt::open(tx, channels, found.get(&refund.payment_id), refund, call).await?;
            continue;
        }
        let GivenUp { error, trace, .. } = call;
        payments::fail_refund(tx, refund.id, error).await?;
        if refund.kind != RefundKind::Part {
            continue;
        }
        match (found.get(&refund.payment_id), gateways.get(&refund.payment_id)) {
            (Some(payment), Some(gateway)) => {
                tell::merchant(tx, payment, gateway, News::RefundFailed(refund), trace.as_deref())?;
            }
            _ => tell_failure(tx, refund, error, trace.as_deref()).await?,
        }
    }
    Ok(())
}

/// REFUND_FAILED, once: a refund that is tried again may fail again.
async fn tell_failure(tx: &mut Tx, refund: &RefundRow, why: &str, trace: Option<&str>) -> Result<(), DbError> {
    let (body, discriminator) = (refund.failure(why), refund.id.to_string());
    let draft =
        Draft { discriminator: &discriminator, ..Draft::new(Kind::RefundFailed, refund.order_id, &body, trace) };
    let id = format!("{}:{discriminator}", Kind::RefundFailed.event_id(refund.order_id));
    if outbox::existing(tx, vec![id]).await?.is_empty() {
        tx.emit(&draft)?;
    }
    Ok(())
}
