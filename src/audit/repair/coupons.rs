//! Coupons: the order decides, since its price is what was agreed on.

use super::{Action, Mended, Plan};
use crate::audit::RoleDbs;
use crate::db::coupons::{self, CouponRow};
use crate::db::orders::{self, OrderRow};
use crate::db::{DbError, Tx, audit as facts};
use crate::domain::coupon::State;
use crate::domain::order::Status;

/// What the coupon of an order has to be: `None` when it has to be somewhere else or free.
fn wanted(order: &OrderRow) -> Option<State> {
    match order.state.status {
        Status::Created | Status::Reserved => Some(State::Locked),
        Status::Canceled => None,
        _ => Some(State::Used),
    }
}

/// Whether the coupon is with its order as it has to be.
fn fits(order: &OrderRow, coupon: &CouponRow) -> bool {
    match wanted(order) {
        Some(state) => coupon.held.order_id == Some(order.id) && coupon.held.state == state,
        None => coupon.held.order_id != Some(order.id),
    }
}

/// An order and its coupon.
pub(super) async fn of_order(dbs: &RoleDbs, order_id: i64) -> Result<Plan, DbError> {
    let mut conn = dbs.order.read().await?;
    let Some(order) = orders::get(&mut conn, order_id).await? else { return Ok(Plan::Healed) };
    let Some(reduced) = &order.coupon else { return Ok(Plan::Healed) };
    let Some(coupon) = coupons::get(&mut conn, reduced.id).await? else {
        return Ok(Plan::Leave("the coupon of the order is gone: restore its row from a backup".to_owned()));
    };
    let lines = facts::line_totals(&mut conn, &[order_id]).await?.remove(&order_id).unwrap_or(0);
    if lines != order.state.total.minor() + reduced.discount.minor() {
        return Ok(Plan::Leave(
            "the lines of the order, what came off and what is to be paid do not add up: the payment at the channel \
             says what was agreed on"
                .to_owned(),
        ));
    }
    match coupon.held.order_id {
        _ if fits(&order, &coupon) => Ok(Plan::Healed),
        Some(other) if other != order_id => Ok(Plan::Leave(format!(
            "order {other} has the same coupon: both were reduced by it, and a person decides which one keeps it"
        ))),
        _ => Ok(Plan::Mend(Action::Coupon(order_id))),
    }
}

/// Makes the coupon of an order what the order says.
pub(super) async fn settle(tx: &mut Tx, order_id: i64) -> Result<Mended, DbError> {
    let Some(order) = orders::lock(tx, vec![order_id]).await?.remove(&order_id) else { return Ok(Mended::Healed) };
    let Some(reduced) = &order.coupon else { return Ok(Mended::Healed) };
    let Some(mut coupon) = coupons::lock(tx, vec![reduced.id]).await?.remove(&reduced.id) else {
        return Ok(Mended::Left("the coupon is gone".to_owned()));
    };
    if fits(&order, &coupon) || coupon.held.order_id.is_some_and(|other| other != order_id) {
        return Ok(Mended::Healed);
    }
    let before = coupon.held.state;
    (coupon.held.state, coupon.held.order_id) = match wanted(&order) {
        Some(state) => (state, Some(order_id)),
        None => (State::Free, None),
    };
    coupons::update(tx, &[&coupon]).await?;
    Ok(Mended::Done(format!("coupon {}: {before:?} → {:?}", coupon.id, coupon.held.state)))
}

/// A coupon that is with an order which does not name it, or with none.
pub(super) async fn of_coupon(dbs: &RoleDbs, id: i64) -> Result<Plan, DbError> {
    let mut conn = dbs.order.read().await?;
    let Some(coupon) = coupons::get(&mut conn, id).await? else { return Ok(Plan::Healed) };
    Ok(if is_astray(&mut conn, &coupon).await? { Plan::Mend(Action::FreeCoupon(id)) } else { Plan::Healed })
}

async fn is_astray(conn: &mut sqlx::AnyConnection, coupon: &CouponRow) -> Result<bool, DbError> {
    let Some(order_id) = coupon.held.order_id else { return Ok(coupon.held.state != State::Free) };
    let order = orders::get(conn, order_id).await?;
    let names = order.and_then(|order| order.coupon).is_some_and(|named| named.id == coupon.id);
    Ok(!names || coupon.held.state == State::Free)
}

/// Gives such a coupon back to its user. Should an order name it after all, the next audit says so.
pub(super) async fn free(tx: &mut Tx, id: i64) -> Result<Mended, DbError> {
    let Some(mut coupon) = coupons::lock(tx, vec![id]).await?.remove(&id) else { return Ok(Mended::Healed) };
    if !is_astray(tx, &coupon).await? {
        return Ok(Mended::Healed);
    }
    let before = coupon.held.order_id;
    (coupon.held.state, coupon.held.order_id) = (State::Free, None);
    coupons::update(tx, &[&coupon]).await?;
    Ok(Mended::Done(format!("taken from {before:?}")))
}

/// A template that says another number than there are coupons.
pub(super) async fn of_template(dbs: &RoleDbs, name: &str) -> Result<Plan, DbError> {
    let template = coupons::template(&mut *dbs.order.read().await?, name).await?;
    Ok(match template {
        Some(one) if one.issued > one.stock => Plan::Leave(format!(
            "{} coupons were issued of a stock of {}: users hold them. Raise the stock, or take some back by hand",
            one.issued, one.stock
        )),
        Some(_) => Plan::Mend(Action::Issued(name.to_owned())),
        None => Plan::Healed,
    })
}
