//! Coupons of orders: locked when an order is placed, used when it is paid, released when it is canceled.

use std::collections::{BTreeSet, HashMap};

use super::place::NewOrder;
use crate::db::coupons::{self, CouponRow};
use crate::db::orders::{CouponUse, OrderRow};
use crate::db::tx::Draft;
use crate::db::{DbError, Tx};
use crate::domain::coupon::{Change, Refused};
use crate::domain::event::Kind;
use crate::domain::money::Money;
use crate::domain::order::Effect;

/// The coupons that the orders of one transaction name, locked.
pub(super) struct Coupons {
    found: HashMap<i64, CouponRow>,
    changed: BTreeSet<i64>,
}

impl Coupons {
    /// Locks them. Whoever waits here for an order with the same coupon sees that order afterwards.
    pub async fn lock(tx: &mut Tx, requests: &[NewOrder]) -> Result<Self, DbError> {
        Self::of(tx, requests.iter().filter_map(|request| request.coupon_id).collect()).await
    }

    async fn of(tx: &mut Tx, ids: Vec<i64>) -> Result<Self, DbError> {
        let found = if ids.is_empty() { HashMap::new() } else { coupons::lock(tx, ids).await? };
        Ok(Self { found, changed: BTreeSet::new() })
    }

    /// Reduces a new order by the coupon that its request names, if it names one.
    pub fn reduce(&mut self, order: &mut OrderRow, wanted: Option<i64>, now_ms: i64) -> Result<(), Refused> {
        let Some(id) = wanted else { return Ok(()) };
        // Whether somebody else has it is nobody's business.
        let of_user = |coupon: &&mut CouponRow| coupon.user_id == order.user_id;
        let coupon = self.found.get_mut(&id).filter(of_user).ok_or(Refused::Unknown)?;
        let discount = coupon.held.lock(order.id, order.state.total, now_ms)?;
        let left = order.state.total.minor() - discount.minor();
        order.state.total = Money::from_minor(left).map_err(|_| Refused::Nothing)?;
        order.coupon = Some(CouponUse { id, discount });
        self.changed.insert(id);
        Ok(())
    }

    /// Writes what has changed.
    pub async fn write(self, tx: &mut Tx) -> Result<(), DbError> {
        let changed: Vec<&CouponRow> = self.changed.iter().filter_map(|id| self.found.get(id)).collect();
        coupons::update(tx, &changed).await
    }
}

/// COUPON_LOCKED, for an order that has a coupon.
pub(super) fn tell_locked(tx: &mut Tx, order: &OrderRow, trace: Option<&str>) -> Result<(), DbError> {
    tell(tx, Kind::CouponLocked, order, trace)
}

fn tell(tx: &mut Tx, kind: Kind, order: &OrderRow, trace: Option<&str>) -> Result<(), DbError> {
    let Some(body) = order.coupon_moved() else { return Ok(()) };
    tx.emit(&Draft::new(kind, order.id, &body, trace))
}

/// What has to become of the coupon of an order that moved.
#[derive(Clone, Debug)]
pub(super) struct Settled {
    order: OrderRow,
    change: Change,
    trace: Option<String>,
}

impl Settled {
    /// `None`: nothing, or the order has no coupon.
    pub fn of(order: &OrderRow, effects: &[Effect], trace: Option<&str>) -> Option<Self> {
        order.coupon.as_ref()?;
        let change = effects.iter().find_map(|effect| match effect {
            Effect::TellPaid => Some(Change::Use),
            Effect::TellCanceled => Some(Change::Release),
            _ => None,
        })?;
        Some(Self { order: order.clone(), change, trace: trace.map(str::to_owned) })
    }
}

/// Uses and releases the coupons of orders that moved, in this order. Orders are locked before coupons, everywhere.
pub(super) async fn settle(tx: &mut Tx, moves: &[Settled]) -> Result<(), DbError> {
    let ids = moves.iter().filter_map(|one| one.order.coupon.as_ref()).map(|coupon| coupon.id).collect();
    let mut coupons = Coupons::of(tx, ids).await?;
    for Settled { order, change, trace } in moves {
        let Some(CouponUse { id, .. }) = &order.coupon else { continue };
        if !coupons.found.get_mut(id).is_some_and(|coupon| coupon.held.settle(order.id, *change)) {
            // Not for the order to fail by: the audit finds it.
            tracing::warn!(order_id = order.id, coupon_id = id, ?change, "the coupon of this order is not its own");
            continue;
        }
        coupons.changed.insert(*id);
        let kind = match change {
            Change::Use => Kind::CouponUsed,
            Change::Release => Kind::CouponReleased,
        };
        tell(tx, kind, order, trace.as_deref())?;
    }
    coupons.write(tx).await
}
