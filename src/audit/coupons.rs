//! Coupons against orders, templates against what was issued of them.

use super::{About, Auditor, Check, Moment, Suspect, amount, orders};
use crate::db::DbError;
use crate::db::audit::{self as facts, CouponFact, OrderFact, TemplateFact};
use crate::domain::coupon::State;
use crate::domain::order::Status;

/// Every order with a coupon: it has it for itself, as its state says, and its lines cost what is to be paid and what
/// came off.
pub(super) async fn of_orders(auditor: &Auditor<'_>, ids: &[i64]) -> Result<Vec<Suspect<i64>>, DbError> {
    let mut orders = orders::settled(auditor, auditor.moment(), ids).await?;
    orders.retain(|_, order| order.coupon_id.is_some());
    let keys: Vec<i64> = orders.keys().copied().collect();
    let coupons: Vec<i64> = orders.values().filter_map(|order| order.coupon_id).collect();
    let mut conn = auditor.dbs.order.read().await?;
    let found = facts::coupons(&mut conn, &coupons).await?;
    let lines = facts::line_totals(&mut conn, &keys).await?;
    let judge = |order: &OrderFact| {
        let coupon = order.coupon_id.and_then(|id| found.get(&id));
        let lines = lines.get(&order.id).copied().unwrap_or(0);
        wrong(order, coupon).or_else(|| {
            let money = |minor| amount(minor, &order.currency);
            let (total, discount) = (order.total, order.discount);
            (lines != total.saturating_add(discount))
                .then(|| format!("its lines cost {}, it {} + {}", money(lines), money(total), money(discount)))
        })
    };
    Ok(orders.values().filter_map(|order| judge(order).map(|text| Suspect::of(order.id, text))).collect())
}

fn wrong(order: &OrderFact, coupon: Option<&CouponFact>) -> Option<String> {
    let state = orders::show_status(order.status);
    let Some(coupon) = coupon else { return Some(format!("order {state}, its coupon is missing")) };
    let its = coupon.order_id == Some(order.id);
    let fits = match Status::from_code(order.status) {
        Some(Status::Created | Status::Reserved) => its && coupon.state == State::Locked.code(),
        Some(Status::Canceled) => !its,
        Some(_) => its && coupon.state == State::Used.code(),
        None => false,
    };
    let show = |text: &str| format!("order {state}, coupon {} in state {} {text}", coupon.id, coupon.state);
    match coupon.order_id {
        _ if fits => None,
        Some(other) if !its => Some(show(&format!("has order {other}"))),
        Some(_) => Some(show("has it")),
        None => Some(show("has no order")),
    }
}

/// Every coupon: free, or with an order that names it.
pub(super) async fn of_coupons(auditor: &Auditor<'_>, ids: &[i64]) -> Result<Vec<Suspect<i64>>, DbError> {
    let moment: Moment = auditor.moment();
    let mut conn = auditor.dbs.order.read().await?;
    let mut coupons = facts::coupons(&mut conn, ids).await?;
    coupons.retain(|_, coupon| moment.settled(coupon.updated_at));
    let named: Vec<i64> = coupons.values().filter_map(|coupon| coupon.order_id).collect();
    let orders = facts::orders(&mut conn, &named).await?;
    let judge = |coupon: &CouponFact| {
        let free = coupon.state == State::Free.code();
        match coupon.order_id {
            None => (!free).then(|| format!("in state {}, but of no order", coupon.state)),
            Some(order) if free => Some(format!("free, but of order {order}")),
            Some(order) => {
                let names = orders.get(&order).is_some_and(|order| order.coupon_id == Some(coupon.id));
                (!names).then(|| format!("in state {} by order {order}, which does not name it", coupon.state))
            }
        }
    };
    let suspect = |coupon: &CouponFact, evidence| Suspect {
        about: About::Coupon(coupon.id),
        ..Suspect::of(coupon.id, format!("coupon {evidence}"))
    };
    Ok(coupons.values().filter_map(|coupon| judge(coupon).map(|text| suspect(coupon, text))).collect())
}

/// Every template: what it says that was issued is there, and not more than its stock. Read in one statement.
pub(super) async fn templates(auditor: &mut Auditor<'_>) -> Result<(), DbError> {
    let mut after = String::new();
    loop {
        let mut conn = auditor.dbs.order.read().await?;
        let found = facts::templates(&mut conn, &after, auditor.options.page.max(1)).await?;
        drop(conn);
        let Some(last) = found.last() else { return Ok(()) };
        after.clone_from(&last.template);
        auditor.checked(Check::Coupons, found.len());
        let wrong = found.into_iter().filter(|one| one.issued != one.coupons || one.issued > one.stock);
        let suspect = |one: TemplateFact| {
            let TemplateFact { template, issued, stock, coupons } = one;
            let evidence = format!("{issued} of {stock} issued, {coupons} are there");
            Suspect { id: (), key: template.clone(), evidence, about: About::Template(template) }
        };
        auditor.found(Check::Coupons, wrong.map(suspect).collect());
    }
}
