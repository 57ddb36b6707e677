//! What to do about each violation, from what the databases say now.

use super::{Action, Plan, Repair, copies, coupons, events, stock, view};
use crate::audit::events::left_behind;
use crate::audit::progress::{self, Next, Remedy};
use crate::audit::{About, Check, RoleDbs, Violation};
use crate::db::audit::{self as facts, Stuck};
use crate::db::orders::{self, OrderRow};
use crate::db::payments::{self, PaymentRow, RefundRow, RefundStatus};
use crate::db::refunds::{self, Standing};
use crate::db::{DbError, delivery, points as points_rows, stock as stock_rows};
use crate::domain::event::{Group, Kind, PaymentSuccess, RefundKind};
use crate::domain::id::{PaymentId, TransactionNo};
use crate::domain::money::Money;
use crate::domain::order::{RefundState, Status};
use crate::domain::payment::Status as Pay;
use crate::domain::points::{Kind as Earned, earned};
use crate::domain::refund::points_back;
use crate::domain::stock::Status as Held;

type Planned = Result<Plan, DbError>;

fn leave(why: impl Into<String>) -> Planned {
    Ok(Plan::Leave(why.into()))
}

fn mend(action: Action) -> Planned {
    Ok(Plan::Mend(action))
}

pub(super) async fn plan(repair: &mut Repair<'_>, violation: &Violation) -> Planned {
    let dbs = repair.dbs;
    if let Some(order_id) = order_of(dbs, violation).await?
        && let Some(why) = repair.distrust(order_id).await?
    {
        doubt_skus(repair, violation, order_id).await?;
        return leave(why);
    }
    match &violation.about {
        About::Orphan => leave(
            "what it belongs to is gone from its table: restore that row from a backup, or look with `ruyi trace`; \
             nothing says what it was",
        ),
        About::SkuCopy(sku) => copies::of_sku(dbs, sku).await,
        About::MerchantCopy(id) => copies::of_merchant(dbs, *id).await,
        About::Coupon(id) => coupons::of_coupon(dbs, *id).await,
        About::Template(name) => coupons::of_template(dbs, name).await,
        About::User(user_id) => mend(Action::Balance(*user_id)),
        About::Sku(sku) if repair.doubtful.contains(sku) => leave(format!(
            "movements of {sku} are left to a person: its level can only follow them. Count the pieces, then \
             `ruyi stock set`"
        )),
        About::Sku(sku) => level(dbs, sku).await,
        About::Missing(order_id, kind) => missing(dbs, *order_id, *kind).await,
        About::Unhandled(group, event_id) => unhandled(dbs, *group, event_id).await,
        About::Undone(group, event_id) => undone(dbs, *group, event_id).await,
        About::Row(what, place, id) => row(dbs, *what, *place, *id).await,
        About::Order(order_id) => {
            let is = |check: Check| violation.check == check.name();
            if is(Check::OrderRows) {
                // It was in doubt, and is no more.
                return Ok(Plan::Healed);
            }
            if is(Check::NothingStuck) {
                return halted(dbs, *order_id).await;
            }
            if is(Check::StockReservations) || is(Check::Duplicates) {
                movements(repair, *order_id).await
            } else if is(Check::Points) {
                points(dbs, *order_id).await
            } else if is(Check::OrderView) {
                view::plan(dbs, *order_id).await
            } else if is(Check::Coupons) {
                coupons::of_order(dbs, *order_id).await
            } else if is(Check::PaidOrdersHavePayment) {
                paid(dbs, *order_id).await
            } else if is(Check::PaymentsHaveOrder) {
                money(dbs, *order_id).await
            } else {
                held(dbs, *order_id).await
            }
        }
    }
}

/// The order that a violation is of. Ids of events begin with it.
async fn order_of(dbs: &RoleDbs, violation: &Violation) -> Result<Option<i64>, DbError> {
    let of_event = |event_id: &str| event_id.split(':').next().and_then(|id| id.parse().ok());
    Ok(match &violation.about {
        About::Order(id) | About::Missing(id, _) | About::Row(Stuck::Orders | Stuck::OrdersTimeless, _, id) => {
            Some(*id)
        }
        About::Unhandled(_, event_id) | About::Undone(_, event_id) => of_event(event_id),
        About::Row(Stuck::Refunds | Stuck::RefundsInDoubt, _, id) => {
            facts::order_of_refund(&mut *dbs.payment.read().await?, *id).await?
        }
        About::Row(..) => of_event(&violation.key),
        About::Coupon(id) => {
            let coupon = facts::coupons(&mut *dbs.order.read().await?, &[*id]).await?.remove(id);
            coupon.and_then(|coupon| coupon.order_id)
        }
        About::Orphan
        | About::User(_)
        | About::Sku(_)
        | About::Template(_)
        | About::SkuCopy(_)
        | About::MerchantCopy(_) => None,
    })
}

/// Movements of an order that are left leave the levels of their SKUs in doubt.
async fn doubt_skus(repair: &mut Repair<'_>, violation: &Violation, order_id: i64) -> Result<(), DbError> {
    if [Check::StockReservations, Check::Duplicates].iter().any(|check| violation.check == check.name()) {
        let rows = facts::movements(&mut *repair.dbs.stock.read().await?, order_id).await?;
        repair.doubtful.extend(rows.into_iter().map(|row| row.sku));
    }
    Ok(())
}

async fn order(dbs: &RoleDbs, order_id: i64) -> Result<Option<OrderRow>, DbError> {
    orders::get(&mut *dbs.order.read().await?, order_id).await
}

/// Hand an event of an order to a group that should have its effects, and has not.
async fn again(dbs: &RoleDbs, kind: Kind, order_id: i64, group: Group) -> Planned {
    match events::of_state(dbs, kind, order_id).await? {
        Some(event) => mend(Action::Redeliver { group, event: Box::new(event), anew: true }),
        None => leave(format!("{} is in no outbox, and no state proves it", kind.event_id(order_id))),
    }
}

async fn level(dbs: &RoleDbs, sku: &str) -> Planned {
    let sums = facts::ledger_sums(&mut *dbs.stock.read().await?, &[sku.to_owned()]).await?;
    match sums.get(sku) {
        Some(sum) if sum.available < 0 || sum.frozen < 0 || sum.sold < 0 => leave(format!(
            "the ledger of {sku} adds up to available {} frozen {} sold {}: a movement is lost, and nothing says \
             which. Count the pieces, then `ruyi stock set`",
            sum.available, sum.frozen, sum.sold
        )),
        _ => mend(Action::Level(sku.to_owned())),
    }
}

async fn movements(repair: &mut Repair<'_>, order_id: i64) -> Planned {
    let of = order(repair.dbs, order_id).await?;
    let mut conn = repair.dbs.stock.read().await?;
    let rows = facts::movements(&mut conn, order_id).await?;
    let known = facts::reservations(&mut conn, &[order_id]).await?;
    let why = match known.get(&order_id).map(|fact| fact.lines.is_some()) {
        None if rows.is_empty() => return Ok(Plan::Healed),
        None => "the reservation of the order is gone".to_owned(),
        Some(false) => "the lines of the reservation cannot be read".to_owned(),
        Some(true) => match stock_rows::reservation(&mut conn, order_id).await? {
            None => return Ok(Plan::Healed),
            Some(held) => match stock::corrections(order_id, &held, &rows) {
                Ok(more) if more.is_empty() => return Ok(Plan::Healed),
                Ok(_) if !fits(of.as_ref(), held.status) => {
                    repair.doubtful.extend(held.lines.into_keys());
                    "the reservation does not fit the state of the order".to_owned()
                }
                Ok(_) => return mend(Action::Movements(order_id)),
                Err(why) => {
                    repair.doubtful.extend(held.lines.into_keys());
                    why
                }
            },
        },
    };
    repair.doubtful.extend(rows.into_iter().map(|row| row.sku));
    leave(format!(
        "{why}: the reservation and the ledger contradict each other, and either may be wrong. Compare with the lines \
         of the order and with what lies on the shelf"
    ))
}

/// The state of an order allows this reservation: only then do movements follow from it.
fn fits(order: Option<&OrderRow>, held: Held) -> bool {
    let Some(status) = order.map(|order| order.state.status) else { return true };
    match held {
        Held::Frozen => true,
        Held::Deducted => status.is_paid() || status == Status::Canceled,
        Held::Released | Held::Refused => status == Status::Canceled,
    }
}

/// A paid order that comes no further.
async fn halted(dbs: &RoleDbs, order_id: i64) -> Planned {
    match progress::next(dbs, order_id).await? {
        Some((_, Next::Halted(_, Remedy::Again(kind, group)))) => again(dbs, kind, order_id, group).await,
        Some((_, Next::Halted(_, Remedy::Write(kind)))) => missing(dbs, order_id, kind).await,
        Some((_, Next::Halted(_, Remedy::Person(why)))) => leave(why),
        _ => Ok(Plan::Healed),
    }
}

/// An order and its reservation.
async fn held(dbs: &RoleDbs, order_id: i64) -> Planned {
    let found = facts::reservations(&mut *dbs.stock.read().await?, &[order_id]).await?;
    let held = found.get(&order_id).and_then(|fact| Held::from_code(fact.status));
    let Some(order) = order(dbs, order_id).await? else { return unknown(dbs, order_id, held).await };
    match (order.state.status, held) {
        (Status::Created, None) => again(dbs, Kind::OrderCreated, order_id, Group::Stock).await,
        (Status::Created, Some(Held::Frozen)) => again(dbs, Kind::StockFrozen, order_id, Group::Order).await,
        (Status::Created, Some(Held::Refused)) => again(dbs, Kind::StockFreezeFailed, order_id, Group::Order).await,
        (Status::Created | Status::Reserved, Some(Held::Deducted)) => {
            again(dbs, Kind::PaymentSuccess, order_id, Group::Order).await
        }
        (Status::Created | Status::Reserved, _) if held != Some(Held::Frozen) => leave(
            "nothing is held for an order that can still be paid: cancel it with `ruyi order cancel`, and let the \
             customer order again",
        ),
        (Status::Canceled, Some(Held::Frozen | Held::Deducted)) if order.state.handed_over => {
            leave("the order is canceled and was handed to the warehouse: only the warehouse knows where the goods are")
        }
        (Status::Canceled, Some(Held::Frozen | Held::Deducted)) => mend(Action::Release(order_id)),
        (status, Some(Held::Frozen)) if status.is_paid() => mend(Action::Deduct(order_id)),
        (status, None | Some(Held::Released | Held::Refused)) if status.is_paid() => leave(
            "a paid order for which nothing is held: whether there are pieces for it only a person can see. Set the \
             stock, or cancel the order, which gives the money back",
        ),
        _ => Ok(Plan::Healed),
    }
}

/// Stock of an order that nobody knows: somebody else's event froze it, or the order is lost.
async fn unknown(dbs: &RoleDbs, order_id: i64, held: Option<Held>) -> Planned {
    match held {
        Some(Held::Frozen) => {}
        Some(Held::Deducted) => {
            return leave(
                "the stock was sold, so the order was paid, and its row is gone: restore it from a backup, or put the \
                 pieces back with `ruyi stock adjust`",
            );
        }
        None | Some(Held::Released | Held::Refused) => return Ok(Plan::Healed),
    }
    let event_id = Kind::OrderCreated.event_id(order_id);
    if events::find(dbs, &event_id).await?.is_some() {
        return leave(format!(
            "{event_id} is written, so the order was here, and its row is gone: restore it from a backup"
        ));
    }
    let payment = facts::payments(&mut *dbs.payment.read().await?, "order_id", &[order_id]).await?;
    if payment.iter().any(|one| Pay::from_code(one.status).is_none_or(Pay::has_money)) {
        return leave(
            "money was taken for it: restore the order, or give the money back at the channel; then release the stock",
        );
    }
    mend(Action::ReleaseUnknown(order_id))
}

/// A paid order and its payment.
async fn paid(dbs: &RoleDbs, order_id: i64) -> Planned {
    let Some(order) = order(dbs, order_id).await? else { return Ok(Plan::Healed) };
    let payment = payments::of_order(&mut *dbs.payment.read().await?, order_id).await?;
    let Some(payment) = payment else {
        return leave(
            "the payment is gone: look for the transaction at the channel, and restore the row from a backup",
        );
    };
    if !order.state.status.is_paid() {
        return Ok(Plan::Healed);
    }
    if payment.state.amount != order.state.total || payment.state.currency != order.currency {
        return leave(
            "the order and its payment name different amounts: which one the payer paid only the channel's statement \
             says. Refund or charge the difference there, then correct the wrong row by hand",
        );
    }
    match payment.state.status {
        Pay::Success if order.state.payment_id == Some(PaymentId(payment.id)) => Ok(Plan::Healed),
        Pay::Success => mend(Action::PaymentOf(order_id, PaymentId(payment.id))),
        Pay::Refunding | Pay::Refunded => leave(
            "the money of a live order is on its way back: stop the order at the warehouse, or charge the customer again",
        ),
        Pay::Pending | Pay::Closed => match events::find(dbs, &Kind::PaymentSuccess.event_id(order_id)).await? {
            Some(event) if confirms(&payment, &event.body) => mend(Action::Paid(order_id)),
            _ => leave(
                "the order is paid, its payment is not, and no event says that it was: ask the channel for the \
                 transaction; its callback can be sent again",
            ),
        },
    }
}

/// The event is about this payment and all of its amount.
pub(super) fn confirms(payment: &PaymentRow, body: &[u8]) -> bool {
    serde_json::from_slice::<PaymentSuccess>(body).is_ok_and(|told| {
        told.payment_id == PaymentId(payment.id)
            && told.amount == payment.state.amount
            && told.transaction_no.parse::<TransactionNo>().is_ok()
    })
}

/// A payment, its refunds and its order.
async fn money(dbs: &RoleDbs, order_id: i64) -> Planned {
    let mut conn = dbs.payment.read().await?;
    let payment = payments::of_order(&mut conn, order_id).await?;
    let refunds = payments::refunds_of_order(&mut conn, order_id).await?;
    drop(conn);
    let order = order(dbs, order_id).await?;
    let (Some(payment), Some(order)) = (payment, order) else {
        return leave("there is money without an order, or an order without its payment: restore the row that is gone");
    };
    let refund = refunds.iter().find(|refund| refund.kind == RefundKind::Order);
    let alive = refunds.iter().filter(|one| one.kind != RefundKind::Extra && one.status != RefundStatus::Failed);
    let sum: Money = alive.map(|refund| refund.amount).sum();
    if sum > payment.state.amount
        || refund.is_some_and(|_| sum < payment.state.amount && !refunds.iter().any(is_failed))
    {
        return leave(format!(
            "{sum} goes back, {} came in: the channel's statement says what went back",
            payment.state.amount
        ));
    }
    let own = payment.state.transaction_no.as_deref();
    let is_own = |one: &RefundRow| one.kind == RefundKind::Extra && own == Some(one.transaction_no.as_str());
    if refunds.iter().any(|one| is_own(one) && !is_failed(one)) {
        return leave(
            "the money that paid it goes back as if it had come twice: stop the order at the warehouse, or charge the \
             customer again",
        );
    }
    if let Some(planned) = parts(dbs, &order, &payment, &refunds).await? {
        return Ok(planned);
    }
    let (status, canceled) = (order.state.status, order.state.status == Status::Canceled);
    match payment.state.status {
        Pay::Success if status.is_paid() => Ok(Plan::Healed),
        Pay::Success if matches!(status, Status::Created | Status::Reserved) => {
            again(dbs, Kind::PaymentSuccess, order_id, Group::Order).await
        }
        Pay::Success if refund.is_some() => leave(
            "a refund is recorded, but the payment does not know of it: the channel's statement says whether the money \
             is back",
        ),
        Pay::Success => match order.state.refund {
            RefundState::None => again(dbs, Kind::PaymentSuccess, order_id, Group::Order).await,
            RefundState::Requested => again(dbs, Kind::RefundRequested, order_id, Group::Payment).await,
            RefundState::Done if payment.is_back(&refunds) => {
                again(dbs, Kind::OrderCanceled, order_id, Group::Payment).await
            }
            RefundState::Done => leave(
                "the order says that its money is back, and there is no refund: the channel's statement says whether it \
                 is; a tool must not pay twice",
            ),
        },
        Pay::Pending if canceled => again(dbs, Kind::OrderCanceled, order_id, Group::Payment).await,
        Pay::Refunding | Pay::Refunded => refunded(dbs, &order, &payment, &refunds).await,
        Pay::Pending | Pay::Closed if order.state.refund == RefundState::None => Ok(Plan::Healed),
        Pay::Pending | Pay::Closed => {
            leave("the order wants its money back, but the payment has none: the channel's statement says who is right")
        }
    }
}

fn is_failed(refund: &RefundRow) -> bool {
    refund.status == RefundStatus::Failed
}

/// Parts of an order's money that its role and payment do not agree on.
async fn parts(
    dbs: &RoleDbs,
    order: &OrderRow,
    payment: &PaymentRow,
    made: &[RefundRow],
) -> Result<Option<Plan>, DbError> {
    let rows = refunds::of_orders(&mut *dbs.order.read().await?, vec![order.id]).await?.remove(&order.id);
    for row in rows.unwrap_or_default() {
        let made = made.iter().find(|made| made.id == row.id);
        let (group, event) = match (row.status, made.map(|made| made.status)) {
            (Standing::Requested, None) if payment.state.status.has_money() => {
                (Group::Payment, events::of_part(dbs, &row, order).await?)
            }
            (Standing::Requested | Standing::Failed, Some(RefundStatus::Success)) => {
                let Some(made) = made else { continue };
                (Group::Order, events::of_refund(dbs, made).await?)
            }
            (Standing::Requested, Some(RefundStatus::Pending | RefundStatus::InDoubt)) => {
                return Ok(Some(Plan::Leave(
                    "the channel is being asked to give the money back: look at the call with `ruyi trace`".to_owned(),
                )));
            }
            (Standing::Success, made) if made != Some(RefundStatus::Success) => {
                return Ok(Some(Plan::Leave(
                    "the order says that the money is back, payment does not: the channel's statement says which"
                        .to_owned(),
                )));
            }
            _ => continue,
        };
        return Ok(Some(Plan::Mend(Action::Redeliver { group, event: Box::new(event), anew: true })));
    }
    // Of a canceled order all has to go back, what the channel refused before, too.
    let failed = made.iter().find(|one| one.kind == RefundKind::Part && is_failed(one));
    let owed = failed.filter(|_| payment.state.status == Pay::Refunding);
    Ok(owed.map(|refund| Plan::Mend(Action::Refund(refund.id))))
}

/// Money that is going back, or is back.
async fn refunded(dbs: &RoleDbs, order: &OrderRow, payment: &PaymentRow, refunds: &[RefundRow]) -> Planned {
    let Some(refund) = refunds.iter().find(|refund| refund.kind == RefundKind::Order) else {
        return in_parts(dbs, order, payment, refunds).await;
    };
    match refund.status {
        RefundStatus::Failed => mend(Action::Refund(refund.id)),
        RefundStatus::Pending | RefundStatus::InDoubt if payment.state.status == Pay::Refunded => leave(
            "the payment says that the money is back, its refund says that it is not: the channel's statement says which",
        ),
        RefundStatus::InDoubt => mend(Action::Refund(refund.id)),
        RefundStatus::Pending => leave(
            "the channel is being asked to give the money back: look at the call with `ruyi trace`, and at the channel",
        ),
        RefundStatus::Success if payment.state.status == Pay::Refunding => {
            leave("the refund is done, and its payment does not say so: the channel's statement says whether it is")
        }
        RefundStatus::Success if order.state.refund == RefundState::Done => Ok(Plan::Healed),
        RefundStatus::Success => {
            let event = Box::new(events::of_refund(dbs, refund).await?);
            mend(Action::Redeliver { group: Group::Order, event, anew: true })
        }
    }
}

/// Money that is going back, or is back, without a refund of a rest: in parts, or its record is gone.
async fn in_parts(dbs: &RoleDbs, order: &OrderRow, payment: &PaymentRow, refunds: &[RefundRow]) -> Planned {
    let is_open = |one: &&RefundRow| one.kind == RefundKind::Part && one.status.is_open();
    let alive = refunds.iter().filter(|one| one.kind != RefundKind::Extra && !is_failed(one));
    let promised: Money = alive.map(|refund| refund.amount).sum();
    match refunds.iter().find(is_open) {
        Some(part) if promised == payment.state.amount && part.status == RefundStatus::InDoubt => {
            return mend(Action::Refund(part.id));
        }
        Some(_) if promised == payment.state.amount => {
            return leave("the channel is being asked to give the money back: look at the call with `ruyi trace`");
        }
        _ => {}
    }
    let last = refunds.iter().rfind(|one| one.kind == RefundKind::Part && one.status == RefundStatus::Success);
    let Some(last) = last.filter(|_| payment.is_back(refunds)) else {
        return leave(
            "the record of the refund is gone: whether the channel has paid it back only its statement says; a tool \
             must not pay twice",
        );
    };
    if order.state.status != Status::Canceled {
        return leave("all of its money went back in parts, and the order goes on: cancel it, or charge again");
    }
    if payment.state.status == Pay::Refunding {
        return mend(Action::AllBack(order.id));
    }
    if order.state.refund == RefundState::Done {
        return Ok(Plan::Healed);
    }
    let event = Box::new(events::of_refund(dbs, last).await?);
    mend(Action::Redeliver { group: Group::Order, event, anew: true })
}

async fn points(dbs: &RoleDbs, order_id: i64) -> Planned {
    let Some(order) = order(dbs, order_id).await? else { return Ok(Plan::Healed) };
    let back = order.state.refund == RefundState::Done;
    if !back && !order.state.status.is_paid() {
        return Ok(Plan::Healed);
    }
    let refunds = payments::refunds_of_order(&mut *dbs.payment.read().await?, order_id).await?;
    let is_back = |one: &&RefundRow| one.kind != RefundKind::Extra && one.status == RefundStatus::Success;
    let gone: Money = refunds.iter().filter(is_back).map(|refund| refund.amount).sum();
    let granted = earned(order.state.total);
    let due = if back { 0 } else { granted - points_back(granted, gone.minor(), order.state.total.minor()) };
    let found = facts::points(&mut *dbs.notify.read().await?, &[order_id]).await?;
    let records = found.get(&order_id).map_or(&[][..], Vec::as_slice);
    let has = |kind: Earned| records.iter().any(|(code, ..)| *code == kind.code());
    let sum: i64 = records.iter().map(|(_, _, points)| points).sum();
    if records.iter().any(|(_, user, _)| *user != order.user_id && *user != 0) {
        return leave(
            "another user than the one who ordered got the points: whether to take them away a person decides",
        );
    }
    if records.is_empty() && due > 0 {
        return again(dbs, Kind::PaidOrderSuccess, order_id, Group::Points).await;
    }
    if sum == due {
        return Ok(Plan::Healed);
    }
    let taken = points_rows::reversals(&mut *dbs.notify.read().await?, vec![order_id]).await?.remove(&order_id);
    let taken = taken.unwrap_or_default();
    // Rows from before refunds were noted took everything back.
    let untaken = |one: &&RefundRow| is_back(one) && !taken.iter().any(|row| row.refund_id == one.id);
    match refunds.iter().find(untaken) {
        Some(refund) if !has(Earned::Reverse) || !taken.is_empty() => {
            let event = Box::new(events::of_refund(dbs, refund).await?);
            return mend(Action::Redeliver { group: Group::Points, event, anew: true });
        }
        None if back && gone == Money::ZERO => {
            return leave("the order says that its money is back, and there is no refund: clear that up first");
        }
        _ => {}
    }
    mend(Action::Points(order_id, due, records.len()))
}

async fn missing(dbs: &RoleDbs, order_id: i64, kind: Kind) -> Planned {
    if events::find(dbs, &kind.event_id(order_id)).await?.is_some() {
        return Ok(Plan::Healed);
    }
    match events::of_state(dbs, kind, order_id).await? {
        Some(_) => mend(Action::Rewrite(order_id, kind)),
        None => leave(format!("what {} said cannot be made again from the state", kind.event_id(order_id))),
    }
}

async fn unhandled(dbs: &RoleDbs, group: Group, event_id: &str) -> Planned {
    match events::find(dbs, event_id).await? {
        Some(event) => mend(Action::Redeliver { group, event: Box::new(event), anew: false }),
        None => Ok(Plan::Healed),
    }
}

/// The message has the event's id, so a second one is not written.
async fn undone(dbs: &RoleDbs, group: Group, event_id: &str) -> Planned {
    let mut conn = dbs.of(group.role()).read().await?;
    let there = left_behind(&mut conn, group, &[event_id.to_owned()]).await?;
    drop(conn);
    if there.is_none_or(|there| !there.is_empty()) {
        return Ok(Plan::Healed);
    }
    match events::find(dbs, event_id).await? {
        Some(event) => mend(Action::Redeliver { group, event: Box::new(event), anew: true }),
        None => Ok(Plan::Healed),
    }
}

/// A row that does not move.
async fn row(dbs: &RoleDbs, what: Stuck, place: usize, id: i64) -> Planned {
    match what {
        Stuck::OutboxLost | Stuck::OutboxFailed => mend(Action::Redrive(place, id)),
        Stuck::ParkedLost => mend(Action::Wake(place, id)),
        Stuck::OrdersTimeless => mend(Action::Expire(id)),
        // The channel knows both by their number: what it has given back it does not give back again.
        Stuck::Refunds | Stuck::RefundsInDoubt => mend(Action::Refund(id)),
        Stuck::Warehouse => {
            let mut conn = dbs.order.read().await?;
            match delivery::standing(&mut conn, id).await? {
                Some(state) if state.status == delivery::Status::Dead as i64 => mend(Action::Call(id)),
                Some(state) if state.status == delivery::Status::Refused as i64 => leave(format!(
                    "the warehouse refused the order ({}): the same call would be refused again. Clear it up with the \
                     warehouse",
                    state.last_error.unwrap_or_default()
                )),
                _ => Ok(Plan::Healed),
            }
        }
        Stuck::Outbox => leave(
            "it is due, and nobody sends it: no role runs on this database, or no broker takes it (`ruyi doctor`). It \
             leaves by itself as soon as one does",
        ),
        Stuck::Parked => leave("it is due, and nobody tries it: start the role of its group, or `ruyi worker retry`"),
        Stuck::Deliveries => leave("it is due, and nobody makes the call: start the role that makes it"),
        Stuck::Orders => leave(
            "nobody cancels what was not paid in time: start `ruyi worker timeout`, or the order role; where payments \
                 have a database of their own, the payment role, which is asked first",
        ),
    }
}
