//! The actions: each one transaction, which looks again before it writes.

use serde_json::Value;

use super::{Action, Mended, copies, coupons, events, plan, stock, view};
use crate::audit::RoleDbs;
use crate::db::audit as facts;
use crate::db::coupons as coupon_rows;
use crate::db::delivery::{self, Kind as Call};
use crate::db::inbox::{self, Claim, Outcome};
use crate::db::order_view;
use crate::db::orders::{self, OrderRow};
use crate::db::outbox::{self, OutboxRow};
use crate::db::payments::{self, RefundStatus};
use crate::db::points;
use crate::db::retry::{self, Parked};
use crate::db::stock as stock_rows;
use crate::db::{DbError, Tx};
use crate::domain::event::{Group, Kind, PaymentSuccess, Producer, RefundKind, Role};
use crate::domain::id::PaymentId;
use crate::domain::order::{Decision, Status};
use crate::domain::payment::{self, Confirmation, Input, Status as Pay};
use crate::domain::stock as held;

fn done(what: impl Into<String>) -> Result<Mended, DbError> {
    Ok(Mended::Done(what.into()))
}

fn if_any(rows: u64) -> Result<Mended, DbError> {
    Ok(if rows > 0 { Mended::Done(String::new()) } else { Mended::Healed })
}

/// Runs `$body` in one transaction of `$db`.
macro_rules! write {
    ($db:expr, [$($cap:ident),*], |$tx:ident| $body:expr) => {{
        $(let $cap = $cap.clone();)*
        $db.write("repair", move |$tx| { $(let $cap = $cap.clone();)* Box::pin(async move { $body }) }).await
    }};
}

pub(super) async fn apply(dbs: &RoleDbs, action: &Action) -> Result<Mended, DbError> {
    let all = dbs.distinct();
    let at = |place: usize| all.get(place).copied().unwrap_or(&dbs.order);
    match action.clone() {
        Action::Redrive(place, id) => {
            write!(at(place), [], |tx| if_any(outbox::redrive_lost(tx, id).await?))
        }
        Action::Wake(place, id) => write!(at(place), [], |tx| {
            let woken = retry::wake_lost(tx, id).await?;
            tx.wake_retries();
            if_any(woken)
        }),
        Action::View(order_id, seen) => {
            let Some(order) = view::as_it_is(dbs, order_id).await? else { return Ok(Mended::Healed) };
            write!(dbs.notify, [order], |tx| {
                order_view::replace(tx, &order, seen).await?;
                done(format!("version {}", order.version))
            })
        }
        Action::TellStock(sku, copy) => write!(dbs.stock, [sku], |tx| copies::step_over_sku(tx, &sku, copy).await),
        Action::TellMerchant(id, copy) => {
            write!(dbs.notify, [copy], |tx| copies::step_over_merchant(tx, id, &copy).await)
        }
        Action::Expire(id) => write!(dbs.order, [], |tx| if_any(orders::expire_at_its_time(tx, id).await?)),
        Action::Coupon(order_id) => write!(dbs.order, [], |tx| coupons::settle(tx, order_id).await),
        Action::FreeCoupon(id) => write!(dbs.order, [], |tx| coupons::free(tx, id).await),
        Action::Issued(name) => write!(dbs.order, [name], |tx| match coupon_rows::recount(tx, &name).await? {
            Some((before, after)) => done(format!("{before} → {after}")),
            None => Ok(Mended::Healed),
        }),
        Action::Rewrite(order_id, kind) => rewrite(dbs, order_id, kind).await,
        Action::Redeliver { group, event, anew } => {
            write!(dbs.of(group.role()), [event], |tx| redeliver(tx, group, &event, anew).await)
        }
        Action::Release(order_id) => {
            if !is(dbs, order_id, |order| order.state.status == Status::Canceled && !order.state.handed_over).await? {
                return Ok(Mended::Healed);
            }
            write!(dbs.stock, [], |tx| stock::settle(tx, order_id, held::release).await)
        }
        Action::ReleaseUnknown(order_id) => {
            if !facts::orders(&mut *dbs.order.read().await?, &[order_id]).await?.is_empty() {
                return Ok(Mended::Healed);
            }
            write!(dbs.stock, [], |tx| stock::release_frozen(tx, order_id).await)
        }
        Action::Deduct(order_id) => {
            // Should it be canceled meanwhile, its release puts back what is sold.
            if !is(dbs, order_id, |order| order.state.status.is_paid()).await? {
                return Ok(Mended::Healed);
            }
            write!(dbs.stock, [], |tx| stock::settle(tx, order_id, held::deduct).await)
        }
        Action::Movements(order_id) => write!(dbs.stock, [], |tx| stock::movements(tx, order_id).await),
        Action::Level(sku) => write!(dbs.stock, [sku], |tx| stock::sums(tx, &sku).await),
        Action::Points(order_id, sum, rows) => {
            write!(dbs.notify, [], |tx| correct_points(tx, order_id, sum, rows).await)
        }
        Action::Balance(user_id) => write!(dbs.notify, [], |tx| match points::rebalance(tx, user_id).await? {
            Some((before, after)) => done(format!("{before} → {after}")),
            None => Ok(Mended::Healed),
        }),
        Action::Paid(order_id) => {
            let id = Kind::PaymentSuccess.event_id(order_id);
            let Some(event) = events::find(dbs, &id).await? else { return Ok(Mended::Healed) };
            write!(dbs.payment, [event], |tx| confirm(tx, order_id, &event.body).await)
        }
        Action::AllBack(order_id) => write!(dbs.payment, [], |tx| all_back(tx, order_id).await),
        Action::PaymentOf(order_id, payment_id) => {
            write!(dbs.order, [], |tx| name_payment(tx, order_id, payment_id).await)
        }
        Action::Refund(id) => write!(dbs.payment, [], |tx| refund_again(tx, id).await),
        Action::Call(id) => write!(dbs.order, [], |tx| {
            let Some(reference) = delivery::reference(tx, id).await? else { return Ok(Mended::Healed) };
            if_any(delivery::revive(tx, Call::Warehouse, vec![reference]).await?)
        }),
    }
}

/// An order is still in a state that calls for the action. States that an order cannot leave in a way that matters
/// need no lock over two databases.
async fn is(dbs: &RoleDbs, order_id: i64, wanted: impl Fn(&OrderRow) -> bool) -> Result<bool, DbError> {
    Ok(orders::get(&mut *dbs.order.read().await?, order_id).await?.is_some_and(|order| wanted(&order)))
}

/// Writes an event again, if the state, locked, still proves it.
async fn rewrite(dbs: &RoleDbs, order_id: i64, kind: Kind) -> Result<Mended, DbError> {
    let written = |written: bool| if written { done("it leaves with the next sweep") } else { Ok(Mended::Healed) };
    let producer = match kind.producer() {
        Producer::Role(role) => role,
        Producer::Outside | Producer::Broadcast => return Ok(Mended::Left("it is not ours to write".to_owned())),
    };
    match producer {
        Role::Payment => write!(dbs.payment, [], |tx| {
            let payment = payments::lock_by_order(tx, vec![order_id]).await?.remove(&order_id);
            let body: Option<Value> = payment.map_or(Ok(None), |payment| events::of_payment(kind, &payment))?;
            let Some(body) = body else { return Ok(Mended::Healed) };
            written(events::write(tx, kind, order_id, &body, 0).await?)
        }),
        Role::Stock => {
            let order = orders::get(&mut *dbs.order.read().await?, order_id).await?;
            let Some(order) = order else { return Ok(Mended::Healed) };
            write!(dbs.stock, [order], |tx| {
                let held = stock_rows::lock_reservations(tx, vec![order_id]).await?.remove(&order_id);
                let body = held.map_or(Ok(None), |held| events::of_stock(kind, &order, &held))?;
                let Some(body) = body else { return Ok(Mended::Healed) };
                written(events::write(tx, kind, order_id, &body, 0).await?)
            })
        }
        Role::Order | Role::Notify => write!(dbs.order, [], |tx| {
            let order = orders::lock(tx, vec![order_id]).await?.remove(&order_id);
            let items = orders::items(tx, &[order_id]).await?.remove(&order_id).unwrap_or_default();
            let Some(order) = order else { return Ok(Mended::Healed) };
            let Some(body) = events::of_order(kind, &order, &items)? else { return Ok(Mended::Healed) };
            // What the order wanted to be held for counts from when it was paid.
            let paid_at = order.pay_time.unwrap_or(order.updated_at);
            let deliver_at = if kind == Kind::TriggerOrderFulfill { paid_at.saturating_add(order.hold_ms) } else { 0 };
            written(events::write(tx, kind, order_id, &body, deliver_at).await?)
        }),
    }
}

/// Parks an event for a group, so that its retry lane handles it: in whichever process that runs, with a broker or
/// without one. The inbox row is claimed with it, so a copy from the broker is a duplicate.
async fn redeliver(tx: &mut Tx, group: Group, event: &OutboxRow, anew: bool) -> Result<Mended, DbError> {
    let (name, id) = (group.name(), event.event_id.as_str());
    let now_ms = tx.now_ms();
    let batch = tx.next_id();
    let claim = Claim { message_id: id, topic: &event.topic, key: &event.key, resent: None };
    let new = !inbox::claim(tx, name, batch, &[claim], now_ms).await?.ids.is_empty();
    if !new {
        match inbox::lock_outcome(tx, name, id).await? {
            Some(outcome) if outcome == Outcome::Dead as i64 => {}
            Some(outcome) if outcome != Outcome::Parked as i64 && anew => {}
            _ => return Ok(Mended::Healed),
        }
    }
    retry::forget(tx, name, vec![id.to_owned()]).await?;
    let parked = Parked {
        id: tx.next_id(),
        message_id: id.to_owned(),
        topic: event.topic.clone(),
        tag: event.tag.clone(),
        key: event.key.clone(),
        body: event.body.to_vec(),
        properties: event.properties.clone(),
        // Later events of the key have passed it already.
        blocks: false,
        attempts: 0,
        next_at: Some(now_ms),
        first_failed_at: now_ms,
        last_error: "handed over again by audit --repair".to_owned(),
    };
    match retry::park(tx, name, &[parked], now_ms).await {
        // It waits there although the inbox says otherwise: its turn comes.
        Err(error) if error.is_unique_violation() => return Ok(Mended::Healed),
        other => other?,
    }
    inbox::set_outcome(tx, name, vec![id.to_owned()], Outcome::Parked, None).await?;
    tx.wake_retries();
    done(format!("it waits for {name}: a role, or `ruyi worker retry`, handles it"))
}

async fn correct_points(tx: &mut Tx, order_id: i64, due: i64, rows: usize) -> Result<Mended, DbError> {
    let records = points::lock_of_orders(tx, vec![order_id]).await?.remove(&order_id).unwrap_or_default();
    let sum: i64 = records.iter().map(|record| record.points).sum();
    // A row more: something else has happened to the order's points meanwhile.
    if records.len() != rows || sum == due {
        return Ok(Mended::Healed);
    }
    let Some(user_id) = records.iter().map(|record| record.user_id).find(|user| *user != 0) else {
        return Ok(Mended::Left("nobody got them".to_owned()));
    };
    points::correct(tx, order_id, user_id, due - sum).await?;
    done(format!("{sum} → {due} points for user {user_id}"))
}

/// A payment whose success was told, and whose row does not say so.
async fn confirm(tx: &mut Tx, order_id: i64, body: &[u8]) -> Result<Mended, DbError> {
    let Some(mut payment) = payments::lock_by_order(tx, vec![order_id]).await?.remove(&order_id) else {
        return Ok(Mended::Healed);
    };
    if !matches!(payment.state.status, Pay::Pending | Pay::Closed) || !plan::confirms(&payment, body) {
        return Ok(Mended::Healed);
    }
    let told: PaymentSuccess = serde_json::from_slice(body)?;
    let Ok(transaction_no) = told.transaction_no.parse() else { return Ok(Mended::Healed) };
    let input = Input::Confirmed(Confirmation {
        transaction_no,
        amount: told.amount,
        currency: payment.state.currency.clone(),
        merchant_id: payment.state.merchant_id,
    });
    let Decision::Apply(next, _) = payment::decide(&payment.state, &input) else { return Ok(Mended::Healed) };
    payment.state = next;
    payment.pay_time = Some(told.pay_time);
    payment.payment_method = Some(told.payment_method.chars().take(32).collect());
    payments::update(tx, &[&payment]).await?;
    done(format!("payment {} is SUCCESS", payment.id))
}

/// A payment that waits for a rest of its money to go back, of which there is none.
async fn all_back(tx: &mut Tx, order_id: i64) -> Result<Mended, DbError> {
    let Some(mut payment) = payments::lock_by_order(tx, vec![order_id]).await?.remove(&order_id) else {
        return Ok(Mended::Healed);
    };
    let refunds = payments::refunds_of_order(tx, order_id).await?;
    let input = Input::RefundDone { all: payment.is_back(&refunds) };
    let Decision::Apply(next, _) = payment::decide(&payment.state, &input) else { return Ok(Mended::Healed) };
    payment.state = next;
    payments::update(tx, &[&payment]).await?;
    done(format!("payment {} is REFUNDED", payment.id))
}

async fn name_payment(tx: &mut Tx, order_id: i64, payment_id: PaymentId) -> Result<Mended, DbError> {
    let Some(mut order) = orders::lock(tx, vec![order_id]).await?.remove(&order_id) else {
        return Ok(Mended::Healed);
    };
    if !order.state.status.is_paid() || order.state.payment_id == Some(payment_id) {
        return Ok(Mended::Healed);
    }
    let before = order.state.payment_id.map(|id| id.0);
    order.state.payment_id = Some(payment_id);
    orders::update(tx, &[&order]).await?;
    orders::tell_version(tx, &order.synced(order.version + 1, tx.now_ms(), None), None)?;
    done(format!("{before:?} → {}", payment_id.0))
}

/// Asks the channel once more; it knows the refund by its number, and pays once.
async fn refund_again(tx: &mut Tx, id: i64) -> Result<Mended, DbError> {
    let Some(refund) = payments::lock_refunds(tx, vec![id]).await?.remove(&id) else { return Ok(Mended::Healed) };
    let payment = payments::lock_by_id(tx, vec![refund.payment_id]).await?.remove(&refund.payment_id);
    let owed = refund.kind != RefundKind::Part || payment.is_some_and(|one| one.state.status == Pay::Refunding);
    // A part of a live order's money that was refused may have been asked for again; what is in doubt cannot have been.
    let is_promised = refund.status == RefundStatus::InDoubt;
    if !is_promised && (refund.status != RefundStatus::Failed || !owed) {
        return Ok(Mended::Healed);
    }
    if is_promised && delivery::open_call(tx, Call::ChannelRefund, &id.to_string()).await?.is_some() {
        return Ok(Mended::Healed);
    }
    if delivery::revive(tx, Call::ChannelRefund, vec![id.to_string()]).await? == 0 {
        return Ok(Mended::Left("the call to the channel is gone: ask the channel about this refund".to_owned()));
    }
    // Only an answer ends a doubt.
    if !is_promised {
        payments::set_refund_status(tx, &[id], RefundStatus::Pending).await?;
    }
    done("the channel is asked again")
}
