//! What an order's tables say: states, money, stock, points, calls.

use super::step::{Source, Step, Story};
use crate::audit::{self, Next, RoleDbs, amount};
use crate::cmd::journal::rfc3339;
use crate::db::orders::{self, OrderRow};
use crate::db::payments::RefundStatus;
use crate::db::trace::{self as facts, By, Call, Payment, Try};
use crate::db::{DbError, delivery};
use crate::domain::payment::Status as PaymentStatus;
use crate::domain::{points, stock};

fn step(at_ms: i64, source: Source, who: &str, what: String) -> Step {
    Step { at_ms, took_ms: None, source, who: who.to_owned(), what, event: None, place: None }
}

/// # Errors
/// The database's.
pub(super) async fn tell(dbs: &RoleDbs, id: i64, story: &mut Story) -> Result<(), DbError> {
    order(dbs, id, story).await?;
    waiting(dbs, id, story).await?;
    money(dbs, id, story).await?;
    pieces_and_points(dbs, id, story).await?;
    for db in dbs.distinct() {
        let mut conn = db.read().await?;
        let calls = facts::calls(&mut conn, id).await?;
        let tries = facts::tries(&mut conn, calls.iter().map(|call| call.id).collect()).await?;
        for call in &calls {
            tell_call(call, &tries, story);
        }
    }
    Ok(())
}

async fn order(dbs: &RoleDbs, id: i64, story: &mut Story) -> Result<(), DbError> {
    let mut conn = dbs.order.read().await?;
    let Some(order) = orders::get(&mut conn, id).await? else { return Ok(()) };
    let items = orders::items(&mut conn, &[id]).await?;
    let lines: Vec<String> =
        items.get(&id).into_iter().flatten().map(|item| format!("{} x {}", item.quantity, item.sku)).collect();
    let state = order.state.status.name();
    story.title = format!(
        "order {id} ({}): {state}, {} {}, user {}",
        order.order_no, order.state.total, order.currency, order.user_id
    );
    let accepted = format!("accepts the order: {}, {} {}", lines.join(", "), order.state.total, order.currency);
    story.steps.push(step(order.created_at, Source::Order, "order", accepted));
    if order.version > 0 && order.updated_at > order.created_at {
        story.steps.push(step(order.updated_at, Source::Order, "order", now(&order)));
    }
    Ok(())
}

/// What a paid order waits for, where no event, retry or call says it.
async fn waiting(dbs: &RoleDbs, id: i64, story: &mut Story) -> Result<(), DbError> {
    if let Some((since_ms, Next::Halted(what, _) | Next::Told(what))) = audit::next(dbs, id).await? {
        story.missing.push(step(since_ms, Source::Order, "order", what));
    }
    Ok(())
}

/// The last change of an order.
fn now(order: &OrderRow) -> String {
    let mut text = format!("the order is {}, version {}", order.state.status.name(), order.version);
    if let Some(by) = &order.cancel_type {
        text.push_str(&format!(", canceled by {by}: {}", order.cancel_reason.as_deref().unwrap_or("no reason given")));
    }
    if let Some(carrier) = &order.carrier {
        text.push_str(&format!(", with {carrier} {}", order.tracking_no.as_deref().unwrap_or_default()));
    }
    text.trim_end().to_owned()
}

async fn money(dbs: &RoleDbs, id: i64, story: &mut Story) -> Result<(), DbError> {
    let mut conn = dbs.payment.read().await?;
    if let Some(payment) = facts::payment(&mut conn, By::Order(id)).await? {
        tell_payment(&payment, story);
    }
    for refund in facts::refunds(&mut conn, id).await? {
        let amount = amount(refund.amount, "");
        let what = format!("refund {} of {amount} is asked for: {}", refund.id, refund.reason);
        story.steps.push(step(refund.created_at, Source::Refund, "payment", what));
        if refund.status == RefundStatus::Success as i64 {
            let what = format!("the money of refund {} is back", refund.id);
            story.steps.push(step(refund.updated_at, Source::Refund, "payment", what));
        } else {
            let word = if refund.status == RefundStatus::Failed as i64 { "was given up" } else { "is under way" };
            let what = format!("refund {} {word}: {amount} is not back", refund.id);
            story.missing.push(step(refund.updated_at, Source::Refund, "payment", what));
        }
    }
    Ok(())
}

fn tell_payment(payment: &Payment, story: &mut Story) {
    let (id, channel) = (payment.id, &payment.channel_id);
    let amount = amount(payment.amount, &payment.currency);
    let opened = format!("opens payment {id}: {amount} through {channel}");
    story.steps.push(step(payment.created_at, Source::Payment, "payment", opened));
    if let Some(at_ms) = payment.pay_time {
        let number = payment.transaction_no.as_deref().unwrap_or("-");
        let what = format!("the channel took {amount}, transaction {number}");
        story.steps.push(step(at_ms, Source::Payment, channel, what));
    }
    if payment.updated_at > payment.created_at {
        let state = PaymentStatus::from_code(payment.status).map_or("in an unknown state", PaymentStatus::name);
        let what = format!("payment {id} is {state}");
        story.steps.push(step(payment.updated_at, Source::Payment, "payment", what));
    }
}

async fn pieces_and_points(dbs: &RoleDbs, id: i64, story: &mut Story) -> Result<(), DbError> {
    let mut conn = dbs.stock.read().await?;
    for one in facts::movements(&mut conn, id).await? {
        let word = match one.kind {
            kind if kind == stock::Kind::Freeze.code() => "freezes",
            kind if kind == stock::Kind::Deduct.code() => "sells",
            kind if kind == stock::Kind::Release.code() => "releases",
            kind if kind == stock::Kind::PutBack.code() => "puts back",
            _ => "moves",
        };
        let what = format!("{word} {} x {}", one.count, one.on);
        story.steps.push(step(one.at, Source::Stock, "stock", what));
    }
    drop(conn);
    let mut conn = dbs.notify.read().await?;
    for one in facts::points(&mut conn, id).await? {
        let word = if one.kind == points::Kind::Grant.code() { "grants" } else { "takes back" };
        let what = format!("{word} {} points of user {}", one.count.abs(), one.on);
        story.steps.push(step(one.at, Source::Points, "notify", what));
    }
    for (at_ms, template, event) in facts::notices(&mut conn, id).await? {
        let what = format!("tells the user {template}");
        let told = Step { event: Some(event), ..step(at_ms, Source::Notice, "notify", what) };
        story.steps.push(told);
    }
    Ok(())
}

fn tell_call(call: &Call, tries: &[Try], story: &mut Story) {
    let name = delivery::Kind::from_code(call.kind).map_or("unknown", delivery::Kind::name);
    let mut is_tried = false;
    for one in tries.iter().filter(|one| one.call_id == call.id) {
        let answer = match (&one.error, one.http_status) {
            (Some(error), _) => error.clone(),
            (None, Some(status)) => format!("answered {status}"),
            (None, None) => "no answer".to_owned(),
        };
        let what = format!("calls {name}, attempt {}: {answer}", one.number);
        let made = Step { took_ms: Some(one.duration_ms), ..step(one.at, Source::Call, name, what) };
        story.steps.push(made);
        is_tried = true;
    }
    let why = call.last_error.as_deref().map_or_else(String::new, |error| format!(": {error}"));
    let open = match call.status {
        status if status == delivery::Status::Done as i64 => return,
        status if status == delivery::Status::Unsent as i64 => {
            story.steps.push(step(call.created_at, Source::Call, name, format!("is not called: {name}{why}")));
            return;
        }
        status if status == delivery::Status::Pending as i64 => {
            let next = call.next_at.map_or_else(|| "without a time".to_owned(), |at| format!("next {}", rfc3339(at)));
            format!("the call to {name} is not through after {} attempts, {next}{why}", call.attempts)
        }
        status if status == delivery::Status::Refused as i64 => format!("the call to {name} was refused{why}"),
        _ => format!("the call to {name} was given up after {} attempts{why}", call.attempts),
    };
    if !is_tried {
        story.steps.push(step(call.created_at, Source::Call, name, format!("is to be called: {name}")));
    }
    story.missing.push(step(call.created_at, Source::Call, name, open));
}
