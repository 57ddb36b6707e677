//! Whether the row of an order is to be believed: the one place that judges it, for the audit and for every repair.
//!
//! What an order did stands in more places than its row. Where they contradict the row, nothing that would follow from
//! it is done: stock would be released that was delivered, money given back that was earned. What is merely behind its
//! time, as after a backup was restored, contradicts nothing: the inbox of the order role was restored with the row.

use std::collections::BTreeMap;

use super::evidence::{self, Evidence};
use super::{Auditor, RoleDbs, Suspect, amount};
use crate::db::DbError;
use crate::db::audit::{self as facts, OrderFact};
use crate::domain::event::{Group, Kind};
use crate::domain::money::Money;
use crate::domain::order::{RefundState, Status};
use crate::domain::payment::Status as Pay;
use crate::domain::stock::Status as Held;

/// Why a row is not to be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Doubt {
    /// In words.
    pub why: String,
    /// Another check names it as well.
    pub named: bool,
}

fn doubt(why: impl Into<String>) -> Option<Doubt> {
    Some(Doubt { why: why.into(), named: false })
}

fn named(why: impl Into<String>) -> Option<Doubt> {
    Some(Doubt { why: why.into(), named: true })
}

/// Each step of the fulfilment, and the state it leads to.
const STEPS: [(Kind, Status); 4] = [
    (Kind::OrderFulfillSuccess, Status::Fulfill),
    (Kind::OrderOutStock, Status::OutStock),
    (Kind::OrderDelivery, Status::Delivery),
    (Kind::OrderSigned, Status::Signed),
];

/// The orders of these ids, and which of them are not to be believed. Events of orders older than `events_since` may
/// have been deleted: that they are missing says nothing.
pub(super) async fn doubts(
    dbs: &RoleDbs,
    events_since: i64,
    ids: &[i64],
) -> Result<(BTreeMap<i64, OrderFact>, BTreeMap<i64, Doubt>), DbError> {
    // The rows last: they are then no older than what they have to agree with.
    let evidence = evidence::of(dbs, ids).await?;
    let orders = facts::orders(&mut *dbs.order.read().await?, ids).await?;
    let none = Evidence::default();
    let judge = |order: &OrderFact| {
        let known = evidence.get(&order.id).unwrap_or(&none);
        of(order, known, order.created_at >= events_since).map(|doubt| (order.id, doubt))
    };
    let found = orders.values().filter_map(judge).collect();
    Ok((orders, found))
}

/// `order_rows`: contradictions that no other check names.
pub(super) async fn check(auditor: &Auditor<'_>, ids: &[i64]) -> Result<Vec<Suspect<i64>>, DbError> {
    let moment = auditor.moment();
    let (orders, found) = doubts(auditor.dbs, moment.events_since, ids).await?;
    let settled = |id: &i64| orders.get(id).is_some_and(|order| moment.settled(order.updated_at));
    let found = found.into_iter().filter(|(id, doubt)| !doubt.named && settled(id));
    Ok(found.map(|(id, doubt)| Suspect::of(id, doubt.why)).collect())
}

fn of(order: &OrderFact, known: &Evidence, is_young: bool) -> Option<Doubt> {
    let Some(status) = Status::from_code(order.status) else {
        return doubt(format!("unknown status {}", order.status));
    };
    if RefundState::from_code(order.refund).is_none() {
        return doubt(format!("unknown refund_status {}", order.refund));
    }
    if Money::from_minor(order.total).is_err() {
        return doubt(format!("total_amount {} is no amount", order.total));
    }
    of_state(order, status, known, is_young).or_else(|| of_amount(order, status, known)).or_else(|| {
        let alone = is_young && !is_witnessed(order, status, known);
        if alone { named(format!("{}, and nothing else says so", status.name())) } else { None }
    })
}

/// What was done with the order's events, and what it says itself.
fn of_state(order: &OrderFact, status: Status, known: &Evidence, is_young: bool) -> Option<Doubt> {
    let name = status.name();
    let is_canceled = status == Status::Canceled;
    let cancel_written = known.wrote(order.id, Kind::OrderCanceled);
    let may_cancel = is_canceled && (cancel_written || !is_young) && order.cancel_type.is_some();
    let late = |reached: Status| if is_canceled { !may_cancel } else { status < reached };
    if let Some((kind, _)) =
        STEPS.into_iter().rev().find(|(kind, reached)| known.applied(Group::Order, *kind) && late(*reached))
    {
        return doubt(format!("{name}, but {} of it was handled", kind.name()));
    }
    if is_canceled && order.cancel_type.is_none() {
        return doubt("CANCELED, but by nobody");
    }
    if order.handed_over && !status.is_paid() && !may_cancel {
        return doubt(format!("{name}, but it was handed to the warehouse"));
    }
    if known.call.is_some() && !order.handed_over && !is_canceled {
        return doubt(format!("{name} and not handed over, but the warehouse was called"));
    }
    if status.is_paid() && status > Status::Paid && !order.handed_over {
        return doubt(format!("{name}, but it was never handed to the warehouse"));
    }
    if !is_canceled && order.cancel_type.is_some() {
        return doubt(format!("{name}, but it was canceled by {}", order.cancel_type.as_deref().unwrap_or_default()));
    }
    if !is_canceled && cancel_written {
        return doubt(format!("{name}, but {} is written", Kind::OrderCanceled.event_id(order.id)));
    }
    let moved = [
        (Kind::StockFrozen, status == Status::Created),
        (Kind::StockFreezeFailed, !is_canceled),
        (Kind::OrderAutoCancel, !is_canceled),
        (Kind::OrderFulfillRefused, !is_canceled),
        (Kind::PaymentSuccess, status < Status::Paid),
    ];
    let moved = moved.into_iter().find(|(kind, is_behind)| *is_behind && known.applied(Group::Order, *kind));
    moved.and_then(|(kind, _)| doubt(format!("{name}, but {} of it was handled", kind.name())))
}

/// Its lines, and what it was paid with.
fn of_amount(order: &OrderFact, status: Status, known: &Evidence) -> Option<Doubt> {
    let total = amount(order.total, &order.currency);
    match known.lines {
        None => return doubt("it has no lines"),
        // Of an order with a coupon the check of coupons says so.
        Some(lines) if lines != order.total.saturating_add(order.discount) => {
            let lines = amount(lines, &order.currency);
            let why = format!("of {total}, but its lines are of {lines}");
            return if order.coupon_id.is_some() { named(why) } else { doubt(why) };
        }
        Some(_) => {}
    }
    // One that was closed may have been closed before it was opened: it then says nothing but that.
    let other = |payment: &&facts::PaymentFact| {
        let differs = payment.amount != order.total || payment.currency != order.currency;
        differs && Pay::from_code(payment.status) != Some(Pay::Closed)
    };
    let payment = known.payments.iter().find(other)?;
    let why = format!("of {total}, but payment {} is of {}", payment.id, amount(payment.amount, &payment.currency));
    if status.is_paid() { named(why) } else { doubt(why) }
}

/// Something besides the row says that it came so far. What says nothing of it is named by `events_of_states`, or by
/// `paid_orders_have_payment`.
fn is_witnessed(order: &OrderFact, status: Status, known: &Evidence) -> bool {
    let paid_with = |wanted: &[Pay]| {
        known.payments.iter().any(|payment| Pay::from_code(payment.status).is_some_and(|one| wanted.contains(&one)))
    };
    let wrote = |kind: Kind| known.wrote(order.id, kind);
    let reached = STEPS.into_iter().find(|(_, reached)| *reached == status);
    match status {
        Status::Created | Status::Reserved => true,
        Status::Canceled => {
            wrote(Kind::OrderCanceled)
                || wrote(Kind::InventoryRelease)
                || matches!(known.held, Some(Held::Released | Held::Refused))
                || paid_with(&[Pay::Closed, Pay::Refunding, Pay::Refunded])
        }
        _ => {
            let paid = wrote(Kind::PaymentSuccess)
                || known.applied(Group::Order, Kind::PaymentSuccess)
                || paid_with(&[Pay::Success, Pay::Refunding, Pay::Refunded]);
            paid && reached.is_none_or(|(kind, _)| wrote(kind) || known.handled.contains_key(&(Group::Order, kind)))
        }
    }
}

/// The row of one order is not to be believed: why.
pub(super) async fn doubt_of(dbs: &RoleDbs, events_since: i64, id: i64) -> Result<Option<String>, DbError> {
    Ok(doubts(dbs, events_since, &[id]).await?.1.remove(&id).map(|doubt| doubt.why))
}
