//! Payments and refunds against orders.

use std::collections::BTreeMap;

use super::{About, Auditor, Moment, Suspect, amount, orders};
use crate::clock::rfc3339;
use crate::db::DbError;
use crate::db::audit::{self as facts, OrderFact, PaymentFact, RefundFact};
use crate::db::payments::RefundStatus;
use crate::db::refunds::{self, OrderRefund, Standing};
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
            return late.then(|| format!("refund asked for, and not done since {}", rfc3339(order.updated_at)));
        }
        let back = sum(refunds.get(&order.id).into_iter().flatten(), is_done);
        let money = |minor| amount(minor, &order.currency);
        (back != order.total).then(|| format!("refunded, but {} of {} went back", money(back), money(order.total)))
    };
    Ok(orders.values().filter_map(|order| judge(order).map(|text| Suspect::of(order.id, text))).collect())
}

fn is(refund: &RefundFact, kind: RefundKind) -> bool {
    refund.kind == kind as i64
}

fn is_done(refund: &RefundFact) -> bool {
    refund.status == RefundStatus::Success as i64
}

fn is_alive(refund: &RefundFact) -> bool {
    refund.status != RefundStatus::Failed as i64
}

/// Minor units of these refunds, of the money that paid the order.
pub(super) fn sum<'a>(refunds: impl Iterator<Item = &'a RefundFact>, of: impl Fn(&RefundFact) -> bool) -> i64 {
    let own = refunds.filter(|refund| !is(refund, RefundKind::Extra) && of(refund));
    own.fold(0, |sum, refund| sum.saturating_add(refund.amount))
}

/// What an order asked to go back of its money, against what payment made of it.
pub(super) async fn parts_of_orders(auditor: &Auditor<'_>, ids: &[i64]) -> Result<Vec<Suspect<i64>>, DbError> {
    let moment = auditor.moment();
    let mut conn = auditor.dbs.order.read().await?;
    let totals: BTreeMap<i64, i64> =
        facts::orders(&mut conn, ids).await?.into_values().map(|order| (order.id, order.total)).collect();
    let rows = refunds::of_orders(&mut conn, ids.to_vec()).await?;
    drop(conn);
    let mut conn = auditor.dbs.payment.read().await?;
    let made = facts::refunds(&mut conn, ids).await?;
    drop(conn);
    let mut suspects = Vec::new();
    for id in ids {
        let (rows, made) = (rows.get(id).map_or(&[][..], Vec::as_slice), made.get(id).map_or(&[][..], Vec::as_slice));
        let total = totals.get(id).copied().unwrap_or(0);
        suspects.extend(of_parts(moment, total, rows, made).map(|text| Suspect::of(*id, text)));
    }
    Ok(suspects)
}

fn of_parts(moment: Moment, total: i64, rows: &[OrderRefund], made: &[RefundFact]) -> Option<String> {
    let back: i64 = rows.iter().filter(|row| row.status == Standing::Success).map(|row| row.amount.minor()).sum();
    if back > total {
        return Some(format!("{back} went back of {total}"));
    }
    for row in rows.iter().filter(|row| moment.overdue(row.updated_at)) {
        let made = made.iter().find(|made| made.id == row.id);
        let fits = match (row.status, made) {
            (Standing::Requested, _) | (Standing::Success, None) => false,
            (Standing::Success, Some(made)) => is_done(made) && made.amount == row.amount.minor(),
            (Standing::Failed, made) => made.is_none_or(|made| !is_alive(made) || !moment.overdue(made.updated_at)),
        };
        if !fits {
            let made =
                made.map_or_else(|| "none".to_owned(), |made| format!("{} in state {}", made.amount, made.status));
            return Some(format!("refund {} of {}: {:?}; payment has {made}", row.id, row.amount, row.status));
        }
    }
    let known = |made: &RefundFact| rows.iter().any(|row| row.id == made.id);
    let lost = made.iter().find(|made| is(made, RefundKind::Part) && moment.overdue(made.updated_at) && !known(made));
    lost.map(|made| format!("refund {} of {}: the order did not ask for it", made.id, made.amount))
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
            (late && !going_back).then(|| format!("SUCCESS since {}, order {state}", rfc3339(payment.updated_at)))
        }
        PaymentStatus::Refunding | PaymentStatus::Refunded => {
            if refunds.iter().all(|refund| is(refund, RefundKind::Extra)) {
                return Some(format!("{}, but no refund", status.name()));
            }
            let back = sum(refunds.iter().copied(), is_done);
            if status == PaymentStatus::Refunding {
                let since = rfc3339(payment.updated_at);
                return (late && back == payment.amount).then(|| format!("REFUNDING since {since}, but all went back"));
            }
            (back != payment.amount).then(|| {
                let money = |minor| amount(minor, &payment.currency);
                format!("REFUNDED, but {} of {} went back", money(back), money(payment.amount))
            })
        }
        PaymentStatus::Pending => (late && canceled)
            .then(|| format!("PENDING since {}, but the order is CANCELED", rfc3339(payment.updated_at))),
        PaymentStatus::Closed => None,
    }
}

/// Not more goes back than came in: once the amount, and once for each further transaction.
fn of_refunds(payment: &PaymentFact, refunds: &[&RefundFact]) -> Option<String> {
    let back = sum(refunds.iter().copied(), is_alive);
    let mut extra = refunds.iter().filter(|refund| is(refund, RefundKind::Extra) && is_alive(refund));
    let has_money = PaymentStatus::from_code(payment.status).is_some_and(PaymentStatus::has_money);
    let came = if has_money { payment.amount } else { 0 };
    if back > came {
        let money = |minor| amount(minor, &payment.currency);
        return Some(format!("{} goes back, {} came in", money(back), money(came)));
    }
    let own = payment.transaction_no.as_deref();
    // What came a second time came in another transaction than what paid it.
    let wrong = extra.find(|refund| refund.amount > payment.amount || own == Some(refund.transaction_no.as_str()))?;
    let money = amount(wrong.amount, &payment.currency);
    Some(format!("{money} of transaction {} goes back, too", wrong.transaction_no))
}
