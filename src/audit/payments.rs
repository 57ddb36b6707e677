//! Payments and refunds against orders.

use std::collections::BTreeMap;

use super::{About, Auditor, Moment, Suspect, orders};
use crate::db::DbError;
use crate::db::audit::{self as facts, OrderFact, PaymentFact, RefundFact};
use crate::db::payments::RefundStatus;
use crate::domain::event::RefundKind;
use crate::domain::order::{RefundState, Status};
use crate::domain::payment::Status as PaymentStatus;

/// Canceled orders: the money that they ask for goes back in time, and did where they say so.
pub(super) async fn refunds_of_orders(auditor: &Auditor<'_>, ids: &[i64]) -> Result<Vec<Suspect<i64>>, DbError> {
    let moment = auditor.moment();
    let mut orders = orders::settled(auditor, moment, ids).await?;
    orders.retain(|_, order| order.refund != RefundState::None.code());
    let keys: Vec<i64> = orders.keys().copied().collect();
    let mut conn = auditor.dbs.payment.read().await?;
    let refunds = facts::refunds(&mut conn, &keys).await?;
    drop(conn);
    let judge = |order: &OrderFact| {
        if order.refund == RefundState::Requested.code() {
            let late = moment.overdue(order.updated_at);
            return late.then(|| format!("refund asked for, and not done since {}", order.updated_at));
        }
        let back = refunds.get(&order.id).into_iter().flatten().any(|refund| {
            is(refund, RefundKind::Order)
                && refund.status == RefundStatus::Success as i64
                && refund.amount == order.total
        });
        (!back).then(|| format!("refunded, but no successful refund of {}", order.total))
    };
    Ok(orders.values().filter_map(|order| judge(order).map(|text| Suspect::of(order.id, text))).collect())
}

fn is(refund: &RefundFact, kind: RefundKind) -> bool {
    refund.kind == kind as i64
}

/// Every payment: its money belongs to a paid order, or is on its way back.
pub(super) async fn orders_of_payments(auditor: &Auditor<'_>, ids: &[i64]) -> Result<Vec<Suspect<i64>>, DbError> {
    let moment = auditor.moment();
    let mut conn = auditor.dbs.payment.read().await?;
    let mut payments = facts::payments(&mut conn, "id", ids).await?;
    payments.retain(|payment| moment.settled(payment.updated_at));
    let order_ids: Vec<i64> = payments.iter().map(|payment| payment.order_id).collect();
    let refunds = facts::refunds(&mut conn, &order_ids).await?;
    drop(conn);
    let mut conn = auditor.dbs.order.read().await?;
    let orders: BTreeMap<i64, OrderFact> = facts::orders(&mut conn, &order_ids).await?;
    let mut suspects = Vec::new();
    for payment in &payments {
        let none = Vec::new();
        let refunds = refunds.get(&payment.order_id).unwrap_or(&none);
        let refunds: Vec<&RefundFact> = refunds.iter().filter(|refund| refund.payment_id == payment.id).collect();
        let wrong = of_order(moment, payment, orders.get(&payment.order_id), &refunds)
            .or_else(|| of_refunds(payment, &refunds));
        if let Some(text) = wrong {
            let (id, key) = (payment.id, payment.order_id.to_string());
            let about = About::Order(payment.order_id);
            suspects.push(Suspect { id, key, evidence: format!("payment {id}: {text}"), about });
        }
    }
    Ok(suspects)
}

fn of_order(
    moment: Moment,
    payment: &PaymentFact,
    order: Option<&OrderFact>,
    refunds: &[&RefundFact],
) -> Option<String> {
    let Some(status) = PaymentStatus::from_code(payment.status) else {
        return Some(format!("unknown state {}", payment.status));
    };
    let state = order.map_or_else(|| "missing".to_owned(), |order| orders::show_status(order.status));
    let canceled = order.is_some_and(|order| order.status == Status::Canceled.code());
    // Nothing newer than the bound is judged: the news may be on its way.
    let late = moment.overdue(payment.updated_at) && order.is_none_or(|order| moment.overdue(order.updated_at));
    match status {
        PaymentStatus::Success if order.is_some_and(orders::is_paid) => None,
        PaymentStatus::Success => {
            let going_back = canceled && refunds.iter().any(|refund| is(refund, RefundKind::Order));
            (late && !going_back).then(|| format!("SUCCESS since {}, order {state}", payment.updated_at))
        }
        PaymentStatus::Refunding | PaymentStatus::Refunded => {
            let mut of_order = refunds.iter().filter(|refund| is(refund, RefundKind::Order)).peekable();
            if of_order.peek().is_none() {
                return Some(format!("{}, but no refund", status.name()));
            }
            let back = of_order.any(|refund| refund.status == RefundStatus::Success as i64);
            (status == PaymentStatus::Refunded && !back).then(|| "REFUNDED, but no successful refund".to_owned())
        }
        PaymentStatus::Pending => {
            (late && canceled).then(|| format!("PENDING since {}, but the order is CANCELED", payment.updated_at))
        }
        PaymentStatus::Closed => None,
    }
}

/// Not more goes back than came in: once the amount, and once for each further transaction.
fn of_refunds(payment: &PaymentFact, refunds: &[&RefundFact]) -> Option<String> {
    let alive = refunds.iter().filter(|refund| refund.status != RefundStatus::Failed as i64);
    let (mut back, mut extra) = (0_i64, Vec::new());
    for refund in alive {
        if is(refund, RefundKind::Order) {
            back = back.saturating_add(refund.amount);
        } else {
            extra.push(refund);
        }
    }
    let has_money = PaymentStatus::from_code(payment.status).is_some_and(PaymentStatus::has_money);
    let came = if has_money { payment.amount } else { 0 };
    if back > came {
        return Some(format!("{back} goes back, {came} came in"));
    }
    let own = payment.transaction_no.as_deref();
    let wrong = extra
        .iter()
        .find(|refund| refund.amount > payment.amount || (own == Some(refund.transaction_no.as_str()) && back > 0))?;
    Some(format!("{} of transaction {} goes back, too", wrong.amount, wrong.transaction_no))
}
