//! Orders against their reservations and payments.

use std::collections::BTreeMap;

use super::{Auditor, Moment, Suspect, amount, stock};
use crate::clock::rfc3339;
use crate::db::DbError;
use crate::db::audit::{self as facts, OrderFact, PaymentFact, ReservationFact};
use crate::domain::event::Kind;
use crate::domain::order::Status;
use crate::domain::payment::Status as PaymentStatus;
use crate::domain::stock::Status as StockStatus;

/// The orders of a page that are old enough to be judged.
pub(super) async fn settled(
    auditor: &Auditor<'_>,
    moment: Moment,
    ids: &[i64],
) -> Result<BTreeMap<i64, OrderFact>, DbError> {
    let mut conn = auditor.dbs.order.read().await?;
    let mut orders = facts::orders(&mut conn, ids).await?;
    orders.retain(|_, order| moment.settled(order.updated_at));
    Ok(orders)
}

/// The state of an order, for people.
pub(super) fn show_status(code: i64) -> String {
    super::named(Status::from_code(code), code, Status::name)
}

/// Paid, and not canceled since.
pub(super) fn is_paid(order: &OrderFact) -> bool {
    Status::from_code(order.status).is_some_and(Status::is_paid)
}

/// `reservations_match_orders`.
pub(super) async fn reservations(auditor: &Auditor<'_>, ids: &[i64]) -> Result<Vec<Suspect<i64>>, DbError> {
    let moment = auditor.moment();
    let orders = settled(auditor, moment, ids).await?;
    let keys: Vec<i64> = orders.keys().copied().collect();
    let mut conn = auditor.dbs.stock.read().await?;
    let found = facts::reservations(&mut conn, &keys).await?;
    drop(conn);
    let mut suspects = Vec::new();
    let mut waiting = Vec::new();
    for order in orders.values() {
        let code = found.get(&order.id).map(|reservation| reservation.status);
        let held = code.and_then(StockStatus::from_code);
        let fits = match Status::from_code(order.status) {
            None => false,
            Some(Status::Created) => !moment.overdue(order.updated_at),
            Some(Status::Reserved) => held == Some(StockStatus::Frozen),
            Some(Status::Canceled) => {
                let back = matches!(held, None | Some(StockStatus::Released | StockStatus::Refused));
                // Its release may still be on its way.
                back || !moment.overdue(order.updated_at)
            }
            Some(_) if held == Some(StockStatus::Frozen) => {
                waiting.push(order);
                true
            }
            Some(_) => held == Some(StockStatus::Deducted),
        };
        if !fits {
            suspects.push(Suspect::of(order.id, evidence(order, code)));
        }
    }
    if !waiting.is_empty() {
        // Paid, and still frozen: the deduct may be on its way.
        let events: Vec<String> = waiting.iter().map(|order| Kind::InventoryDeduct.event_id(order.id)).collect();
        let mut conn = auditor.dbs.order.read().await?;
        let times = facts::event_times(&mut conn, &events).await?;
        for (order, event) in waiting.into_iter().zip(&events) {
            if times.get(event).is_none_or(|written| moment.overdue(*written)) {
                suspects.push(Suspect::of(order.id, evidence(order, Some(StockStatus::Frozen.code()))));
            }
        }
    }
    Ok(suspects)
}

/// `reservations_match_orders`, from the other side: stock that is held or sold for an order that nobody knows. An order
/// is written before its event, and so before its reservation.
pub(super) async fn unknown(auditor: &Auditor<'_>, ids: &[i64]) -> Result<Vec<Suspect<i64>>, DbError> {
    let moment = auditor.moment();
    let mut held = facts::reservations(&mut *auditor.dbs.stock.read().await?, ids).await?;
    held.retain(|_, one| {
        let takes = matches!(StockStatus::from_code(one.status), Some(StockStatus::Frozen | StockStatus::Deducted));
        takes && moment.overdue(one.updated_at)
    });
    let keys: Vec<i64> = held.keys().copied().collect();
    let known = facts::orders(&mut *auditor.dbs.order.read().await?, &keys).await?;
    let missing = held.into_iter().filter(|(id, _)| !known.contains_key(id));
    let suspect = |(id, one): (i64, ReservationFact)| {
        let lines = one.lines.unwrap_or_default();
        let lines: Vec<String> = lines.iter().map(|(sku, pieces)| format!("{pieces} {sku}")).collect();
        let (state, since) = (stock::show_status(one.status), rfc3339(one.updated_at));
        let text = format!("reservation {state} of {} since {since}, but there is no such order", lines.join(", "));
        Suspect::of(id, text)
    };
    Ok(missing.map(suspect).collect())
}

fn evidence(order: &OrderFact, reservation: Option<i64>) -> String {
    let held = reservation.map_or_else(|| "none".to_owned(), stock::show_status);
    format!("order {} since {}, reservation: {held}", show_status(order.status), rfc3339(order.updated_at))
}

/// `paid_orders_have_payment`.
pub(super) async fn payments(auditor: &Auditor<'_>, ids: &[i64]) -> Result<Vec<Suspect<i64>>, DbError> {
    let mut orders = settled(auditor, auditor.moment(), ids).await?;
    orders.retain(|_, order| is_paid(order));
    let keys: Vec<i64> = orders.keys().copied().collect();
    let mut conn = auditor.dbs.payment.read().await?;
    let mut of_order: BTreeMap<i64, Vec<PaymentFact>> = BTreeMap::new();
    for payment in facts::payments(&mut conn, "order_id", &keys).await? {
        of_order.entry(payment.order_id).or_default().push(payment);
    }
    drop(conn);
    let judge = |order: &OrderFact| {
        let payments = of_order.get(&order.id).map_or(&[][..], Vec::as_slice);
        let mut taken = payments.iter().filter(|payment| payment.status == PaymentStatus::Success.code());
        match (taken.next(), taken.next()) {
            (Some(one), None) => {
                let same = one.amount == order.total && one.currency == order.currency;
                (!same || order.payment_id != Some(one.id)).then(|| {
                    format!(
                        "order {} of {} paid by {:?}, but payment {} is of {}",
                        show_status(order.status),
                        amount(order.total, &order.currency),
                        order.payment_id.unwrap_or(0),
                        one.id,
                        amount(one.amount, &one.currency)
                    )
                })
            }
            (Some(_), Some(_)) => Some("more than one successful payment".to_owned()),
            (None, _) => {
                let states: Vec<i64> = payments.iter().map(|payment| payment.status).collect();
                Some(format!("order {}, no successful payment; states found: {states:?}", show_status(order.status)))
            }
        }
    };
    Ok(orders.values().filter_map(|order| judge(order).map(|text| Suspect::of(order.id, text))).collect())
}
