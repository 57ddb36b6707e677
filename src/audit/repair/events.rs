//! Events, found in an outbox or made again from the state that proves them: the same ids, the same bodies but for
//! their time.

use serde::Serialize;
use serde_json::Value;

use crate::audit::RoleDbs;
use crate::db::orders::{self, OrderRow};
use crate::db::outbox::{self, OutboxRow};
use crate::db::payments::{self, PaymentRow, RefundRow};
use crate::db::refunds::OrderRefund;
use crate::db::stock::{self, Reservation};
use crate::db::tx::Draft;
use crate::db::{DbError, Tx};
use crate::domain::event::{Fulfilment, Inventory, Kind, PaymentSuccess, StockFreezeFailed, StockFrozen};
use crate::domain::id::{MerchantId, OrderId, PaymentId, UserId};
use crate::domain::order::{CancelType, RefundState, Status};
use crate::domain::stock::Status as Held;

/// The outbox row of an event, in whichever database.
pub(super) async fn find(dbs: &RoleDbs, event_id: &str) -> Result<Option<OutboxRow>, DbError> {
    for db in dbs.distinct() {
        if let Some(row) = outbox::find(&mut *db.read().await?, event_id).await? {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

/// An event that no outbox has: as a row that is in none.
pub(super) fn unwritten(kind: Kind, order_id: i64, discriminator: &str, body: &Value) -> Result<OutboxRow, DbError> {
    let draft = Draft { discriminator, ..Draft::new(kind, order_id, body, None) };
    let (event_id, body) = draft.encode(0)?;
    Ok(OutboxRow {
        id: 0,
        topic: kind.name().to_owned(),
        tag: kind.name().to_owned(),
        key: order_id.to_string(),
        body: body.into(),
        properties: outbox::properties(&event_id, kind.name(), None),
        deliver_at_ms: 0,
        event_id,
        attempts: 0,
    })
}

fn json(body: &impl Serialize) -> Result<Option<Value>, DbError> {
    Ok(Some(serde_json::to_value(body)?))
}

/// The body of an event of the order role, if the order is in a state that proves it.
pub(super) fn of_order(kind: Kind, order: &OrderRow, items: &[orders::Item]) -> Result<Option<Value>, DbError> {
    let (order_id, user_id) = (OrderId(order.id), UserId(order.user_id));
    let (status, canceled) = (order.state.status, order.state.status == Status::Canceled);
    let cancel_type = order.cancel_type.clone().unwrap_or_default();
    let reached = |wanted: Status| {
        let body = Fulfilment {
            order_id,
            occurred_at: order.updated_at,
            carrier: order.carrier.clone(),
            tracking_no: order.tracking_no.clone(),
            user_id: Some(user_id),
        };
        if status == wanted { json(&body) } else { Ok(None) }
    };
    match kind {
        Kind::OrderCreated => {
            json(&order.created(items.iter().map(|item| (item.sku.clone(), item.quantity)).collect()))
        }
        Kind::CouponLocked => order.coupon_moved().map_or(Ok(None), |body| json(&body)),
        Kind::CouponUsed if status.is_paid() => order.coupon_moved().map_or(Ok(None), |body| json(&body)),
        Kind::CouponReleased if canceled => order.coupon_moved().map_or(Ok(None), |body| json(&body)),
        Kind::PaidOrderSuccess if status.is_paid() => json(&order.paid(order.updated_at)),
        Kind::InventoryDeduct if status.is_paid() => json(&Inventory { order_id, kind: "PAID".to_owned() }),
        Kind::TriggerOrderFulfill if status == Status::Paid && !order.state.handed_over => json(&order.trigger(items)),
        Kind::OrderFulfillSuccess => reached(Status::Fulfill),
        Kind::OrderOutStock => reached(Status::OutStock),
        Kind::OrderDelivery => reached(Status::Delivery),
        Kind::OrderSigned => reached(Status::Signed),
        Kind::OrderCanceled if canceled => {
            let Some(by) = CancelType::ALL.into_iter().find(|one| one.name() == cancel_type) else { return Ok(None) };
            json(&order.canceled(by))
        }
        Kind::InventoryRelease if canceled => json(&Inventory { order_id, kind: cancel_type }),
        // Money that is said to be back is not asked for again.
        Kind::RefundRequested if canceled && order.state.refund == RefundState::Requested => {
            json(&order.refund_requested())
        }
        _ => Ok(None),
    }
}

/// The body of an event of the stock role, if the reservation proves it.
pub(super) fn of_stock(kind: Kind, order: &OrderRow, held: &Reservation) -> Result<Option<Value>, DbError> {
    let (order_id, order_no) = (OrderId(order.id), order.order_no.clone());
    match (kind, held.status) {
        (Kind::StockFreezeFailed, Held::Refused) => {
            json(&StockFreezeFailed { order_id, order_no, reason: held.reason.clone() })
        }
        (Kind::StockFrozen, Held::Frozen | Held::Deducted | Held::Released) if !held.lines.is_empty() => {
            json(&StockFrozen {
                order_id,
                order_no,
                user_id: UserId(order.user_id),
                total_amount: order.state.total,
                expire_time: order.expire_time,
                merchant_id: MerchantId(order.merchant_id),
                channel_id: order.channel_id.clone(),
            })
        }
        _ => Ok(None),
    }
}

/// The body of the event of a payment, if it has its money.
pub(super) fn of_payment(kind: Kind, payment: &PaymentRow) -> Result<Option<Value>, DbError> {
    if kind != Kind::PaymentSuccess || !payment.state.status.has_money() {
        return Ok(None);
    }
    json(&PaymentSuccess {
        payment_id: PaymentId(payment.id),
        order_id: OrderId(payment.order_id),
        order_no: payment.order_no.clone(),
        user_id: UserId(payment.user_id),
        amount: payment.state.amount,
        payment_method: payment.payment_method.clone().unwrap_or_default(),
        transaction_no: payment.state.transaction_no.clone().unwrap_or_default(),
        pay_time: payment.pay_time.unwrap_or(0),
    })
}

/// The event of a refund that went through, as it was or as it would be.
pub(super) async fn of_refund(dbs: &RoleDbs, refund: &RefundRow) -> Result<OutboxRow, DbError> {
    let number = refund.id.to_string();
    let event_id = format!("{}:{number}", Kind::RefundSuccess.event_id(refund.order_id));
    if let Some(row) = find(dbs, &event_id).await? {
        return Ok(row);
    }
    let found = payments::find(&mut *dbs.payment.read().await?, vec![refund.payment_id]).await?;
    let payment = found.get(&refund.payment_id).ok_or_else(|| DbError::Row {
        table: "refund_record",
        key: number.clone(),
        what: "its payment is not there".to_owned(),
    })?;
    let body = refund.success(payment);
    unwritten(Kind::RefundSuccess, refund.order_id, &number, &serde_json::to_value(body)?)
}

/// The event by which an order asked for a part of its money, as it was or as it would be.
pub(super) async fn of_part(dbs: &RoleDbs, part: &OrderRefund, order: &OrderRow) -> Result<OutboxRow, DbError> {
    let number = part.id.to_string();
    let event_id = format!("{}:{number}", Kind::RefundRequested.event_id(order.id));
    if let Some(row) = find(dbs, &event_id).await? {
        return Ok(row);
    }
    let body = part.requested(order.state.payment_id);
    unwritten(Kind::RefundRequested, order.id, &number, &serde_json::to_value(body)?)
}

/// The event of an order, from an outbox or, failing that, from the state that proves it.
pub(super) async fn of_state(dbs: &RoleDbs, kind: Kind, order_id: i64) -> Result<Option<OutboxRow>, DbError> {
    if let Some(row) = find(dbs, &kind.event_id(order_id)).await? {
        return Ok(Some(row));
    }
    let body = match kind {
        Kind::PaymentSuccess => {
            let payment = payments::of_order(&mut *dbs.payment.read().await?, order_id).await?;
            payment.map_or(Ok(None), |payment| of_payment(kind, &payment))?
        }
        Kind::StockFrozen | Kind::StockFreezeFailed => {
            let order = orders::get(&mut *dbs.order.read().await?, order_id).await?;
            let held = stock::reservation(&mut *dbs.stock.read().await?, order_id).await?;
            match (order, held) {
                (Some(order), Some(held)) => of_stock(kind, &order, &held)?,
                _ => None,
            }
        }
        _ => {
            let mut conn = dbs.order.read().await?;
            let items = orders::items(&mut conn, &[order_id]).await?.remove(&order_id).unwrap_or_default();
            let order = orders::get(&mut conn, order_id).await?;
            order.map_or(Ok(None), |order| of_order(kind, &order, &items))?
        }
    };
    body.map(|body| unwritten(kind, order_id, "", &body)).transpose()
}

/// Writes an event with this body, not to leave before `deliver_at`, unless it is written already.
pub(super) async fn write(
    tx: &mut Tx,
    kind: Kind,
    order_id: i64,
    body: &Value,
    deliver_at: i64,
) -> Result<bool, DbError> {
    if !outbox::existing(tx, vec![kind.event_id(order_id)]).await?.is_empty() {
        return Ok(false);
    }
    tx.emit(&Draft { deliver_at, ..Draft::new(kind, order_id, body, None) })?;
    Ok(true)
}
