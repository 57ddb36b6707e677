//! Parts of an order's money that go back while the order goes on.
//!
//! The order decides how much may go back, under its lock; payment sees to it, and answers. What goes back of a canceled
//! order is payment's own to give back, and is noted here when it has.

use std::collections::{HashMap, HashSet};

use crate::db::group::Batch;
use crate::db::orders;
use crate::db::refunds::{self, OrderRefund, Standing};
use crate::db::tx::Draft;
use crate::db::{Db, DbError, Tx};
use crate::domain::event::{Kind, RefundFailed, RefundKind, RefundSuccess};
use crate::domain::id::{OrderId, RefundId};
use crate::domain::money::Money;
use crate::domain::refund::{Refusal, left, part};
use crate::mq::Event;

/// Somebody wants money of an order to go back; lengths are checked.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Which order.
    pub order_id: i64,
    /// Number that whoever asks gives it: a repeated one is the same refund.
    pub refund_no: Option<String>,
    /// How much; none: the rest.
    pub amount: Option<Money>,
    /// Why.
    pub reason: String,
    /// W3C trace context of the request.
    pub trace: Option<String>,
}

/// What became of a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// There is no such order.
    Unknown,
    /// Not of this order, or not so much.
    Refused(Refusal),
    /// Its number belongs to another refund of this order.
    NumberUsed,
    /// On its way.
    Taken(Box<OrderRefund>),
    /// Asked for before, by this number.
    Again(Box<OrderRefund>),
}

/// Decides wishes in this order, and asks payment for what is to go back.
///
/// # Errors
/// The database's.
pub async fn ask(db: Db, batch: Batch<Wish>) -> Result<Vec<Asked>, DbError> {
    db.write("refund_order", move |tx| {
        let batch = batch.clone();
        Box::pin(async move { ask_all(tx, &batch.requests()).await })
    })
    .await
}

async fn ask_all(tx: &mut Tx, wishes: &[Wish]) -> Result<Vec<Asked>, DbError> {
    let ids: Vec<i64> = wishes.iter().map(|wish| wish.order_id).collect();
    let found = orders::lock(tx, ids.clone()).await?;
    let mut known = refunds::of_orders(tx, ids).await?;
    let mut new = Vec::new();
    let mut answers = Vec::with_capacity(wishes.len());
    for wish in wishes {
        let Some(order) = found.get(&wish.order_id) else {
            answers.push(Asked::Unknown);
            continue;
        };
        let of_order = known.entry(order.id).or_default();
        if let Some(earlier) = of_order.iter().find(|one| wish.refund_no.is_some() && wish.refund_no == one.refund_no) {
            let same = wish.amount.is_none_or(|amount| amount == earlier.amount) && wish.reason == earlier.reason;
            answers.push(if same { Asked::Again(Box::new(earlier.clone())) } else { Asked::NumberUsed });
            continue;
        }
        let amount = match part(&order.state, promised(of_order), wish.amount) {
            Ok(amount) => amount,
            Err(refusal) => {
                answers.push(Asked::Refused(refusal));
                continue;
            }
        };
        let (id, now_ms) = (tx.next_id(), tx.now_ms());
        let refund = OrderRefund {
            id,
            order_id: order.id,
            refund_no: wish.refund_no.clone(),
            amount,
            reason: wish.reason.clone(),
            status: Standing::Requested,
            error: None,
            created_at: now_ms,
            updated_at: now_ms,
        };
        let body = refund.requested(order.state.payment_id);
        let discriminator = id.to_string();
        let draft = Draft::new(Kind::RefundRequested, order.id, &body, wish.trace.as_deref());
        tx.emit(&Draft { discriminator: &discriminator, ..draft })?;
        of_order.push(refund.clone());
        new.push(refund.clone());
        answers.push(Asked::Taken(Box::new(refund)));
    }
    // Payment is asked for each of them: a row that is missing would be money that the order does not know of.
    refunds::insert(tx, &new).await?.all()?;
    Ok(answers)
}

/// What went back, or is on its way.
#[must_use]
pub fn promised(refunds: &[OrderRefund]) -> Money {
    refunds.iter().filter(|refund| refund.status != Standing::Failed).map(|refund| refund.amount).sum()
}

/// What went back.
#[must_use]
pub fn back(refunds: &[OrderRefund]) -> Money {
    refunds.iter().filter(|refund| refund.status == Standing::Success).map(|refund| refund.amount).sum()
}

/// Those of these orders, given with what was to be paid, all of whose money went back. They are locked.
///
/// # Errors
/// The database's.
pub async fn all_back(tx: &mut Tx, totals: &HashMap<i64, Money>) -> Result<HashSet<i64>, DbError> {
    let known = refunds::of_orders(tx, totals.keys().copied().collect()).await?;
    let is_back = |id: &i64, total: Money| known.get(id).is_some_and(|rows| left(total, [back(rows)]) == Money::ZERO);
    Ok(totals.iter().filter(|(id, total)| is_back(id, **total)).map(|(id, _)| *id).collect())
}

/// The orders of a batch that payment told something of, and whether all of their money is back.
pub type Back = HashMap<i64, bool>;

/// Notes what payment tells of refunds; the orders are locked then.
///
/// # Errors
/// The database's.
pub async fn note(tx: &mut Tx, events: &[Event]) -> Result<Back, DbError> {
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for event in events {
        match event.kind {
            // What cannot be read is refused with its event.
            Kind::RefundSuccess => {
                done.extend(event.read::<RefundSuccess>().ok().filter(|body| body.kind != RefundKind::Extra));
            }
            Kind::RefundFailed => failed.extend(event.read::<RefundFailed>()),
            _ => {}
        }
    }
    let ids: Vec<i64> =
        done.iter().map(|body| body.order_id.0).chain(failed.iter().map(|body| body.order_id.0)).collect();
    if ids.is_empty() {
        return Ok(Back::new());
    }
    let found = orders::lock(tx, ids).await?;
    let now_ms = tx.now_ms();
    let done: Vec<&RefundSuccess> = done.iter().filter(|body| found.contains_key(&body.order_id.0)).collect();
    // Those of a canceled order payment has made by itself.
    let row = |body: &&RefundSuccess| noted(body.order_id, body.refund_id, body.amount, now_ms);
    let rows: Vec<OrderRefund> = done.iter().map(row).collect();
    // Most were asked for, and are known by that.
    refunds::insert(tx, &rows).await?.or_known();
    refunds::succeeded(tx, rows.iter().map(|refund| refund.id).collect()).await?;
    for body in failed.iter().filter(|body| found.contains_key(&body.order_id.0)) {
        // Should nothing be known of it, it is worth a note.
        let row = OrderRefund { status: Standing::Failed, ..noted(body.order_id, body.refund_id, body.amount, now_ms) };
        let row = OrderRefund { error: Some(body.reason.chars().take(500).collect()), ..row };
        refunds::insert(tx, &[row]).await?.or_known();
        refunds::failed(tx, body.refund_id.0, &body.reason).await?;
    }
    let totals: HashMap<i64, Money> = found.values().map(|order| (order.id, order.state.total)).collect();
    let back = all_back(tx, &totals).await?;
    Ok(totals.into_keys().map(|id| (id, back.contains(&id))).collect())
}

fn noted(order_id: OrderId, refund_id: RefundId, amount: Money, now_ms: i64) -> OrderRefund {
    OrderRefund {
        id: refund_id.0,
        order_id: order_id.0,
        refund_no: None,
        amount,
        reason: String::new(),
        status: Standing::Success,
        error: None,
        created_at: now_ms,
        updated_at: now_ms,
    }
}
