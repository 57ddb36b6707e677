//! States against the outbox, and the outbox against the inboxes.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::AnyConnection;

use super::evidence::{self, has_event};
use super::{About, Auditor, Check, Moment, Suspect, orders};
use crate::clock::rfc3339;
use crate::db::audit::{self as facts, OrderFact, SentFact};
use crate::db::inbox::Outcome;
use crate::db::{Db, DbError, delivery};
use crate::domain::call::Kind as Call;
use crate::domain::event::{Group, Kind};
use crate::domain::order::{CancelType, RefundState, Status};
use crate::domain::payment::Status as PaymentStatus;
use crate::domain::stock::Status as StockStatus;

/// The calls by which a group handles its events, if it does.
fn calls_of(group: Group) -> Option<Call> {
    match group {
        Group::OrderNotify => Some(Call::Merchant),
        Group::Sms => Some(Call::Sms),
        Group::Email => Some(Call::Email),
        _ => None,
    }
}

/// `events_of_states`: the event of a state is written with it, and so is there as soon as the state is.
pub(super) async fn of_states(auditor: &Auditor<'_>, ids: &[i64]) -> Result<Vec<Suspect<i64>>, DbError> {
    let moment = auditor.moment();
    let mut orders = orders::settled(auditor, moment, ids).await?;
    orders.retain(|_, order| order.created_at >= moment.events_since);
    let keys: Vec<i64> = orders.keys().copied().collect();
    let mut wanted: BTreeMap<i64, Vec<Kind>> = orders.values().map(|order| (order.id, of_order(order))).collect();
    let mut conn = auditor.dbs.stock.read().await?;
    for (order_id, reservation) in facts::reservations(&mut conn, &keys).await? {
        let held = reservation.lines.is_some_and(|lines| !lines.is_empty());
        let kind = match StockStatus::from_code(reservation.status) {
            Some(StockStatus::Refused) => Kind::StockFreezeFailed,
            // Without lines: a release that came first, which tells nobody.
            Some(_) if held => Kind::StockFrozen,
            _ => continue,
        };
        if moment.settled(reservation.updated_at) {
            wanted.entry(order_id).or_default().push(kind);
        }
    }
    drop(conn);
    let mut conn = auditor.dbs.payment.read().await?;
    for payment in facts::payments(&mut conn, "order_id", &keys).await? {
        let taken = PaymentStatus::from_code(payment.status).is_some_and(PaymentStatus::has_money);
        if taken && moment.settled(payment.updated_at) {
            wanted.entry(payment.order_id).or_default().push(Kind::PaymentSuccess);
        }
    }
    drop(conn);
    let written = evidence::written(auditor.dbs, &keys).await?;
    let mut missing = Vec::new();
    for (order_id, kinds) in wanted {
        let events = written.get(&order_id);
        let has = |kind: Kind| has_event(events, order_id, kind);
        missing.extend(kinds.into_iter().filter(|kind| !has(*kind)).map(|kind| (order_id, kind)));
        if let Some(order) = orders.get(&order_id) {
            // Not by the id of a part that was asked for before.
            let asked = events.is_some_and(|events| events.contains(&Kind::RefundRequested.event_id(order_id)));
            if (order.refund == RefundState::Requested.code() && !asked)
                || (order.refund == RefundState::Done.code() && !asked && !has(Kind::RefundSuccess))
            {
                missing.push((order_id, Kind::RefundRequested));
            }
        }
    }
    from_outside(auditor, &mut missing).await?;
    missing.extend(untriggered(auditor, moment, &orders, &written).await?);
    Ok(missing
        .into_iter()
        .map(|(order_id, kind)| {
            let state = orders.get(&order_id).map_or_else(String::new, |order| orders::show_status(order.status));
            let evidence = format!("order {state}, but no event {}", kind.event_id(order_id));
            Suspect { about: About::Missing(order_id, kind), ..Suspect::of(order_id, evidence) }
        })
        .collect())
}

/// Events that the state of an order proves.
fn of_order(order: &OrderFact) -> Vec<Kind> {
    let mut kinds = vec![Kind::OrderCreated];
    let Some(status) = Status::from_code(order.status) else { return kinds };
    if status.is_paid() {
        kinds.extend([Kind::PaidOrderSuccess, Kind::InventoryDeduct]);
    }
    if order.coupon_id.is_some() {
        kinds.push(Kind::CouponLocked);
        kinds.extend(status.is_paid().then_some(Kind::CouponUsed));
        kinds.extend((status == Status::Canceled).then_some(Kind::CouponReleased));
    }
    match status {
        Status::Fulfill => kinds.push(Kind::OrderFulfillSuccess),
        Status::OutStock => kinds.push(Kind::OrderOutStock),
        Status::Delivery => kinds.push(Kind::OrderDelivery),
        Status::Signed => kinds.push(Kind::OrderSigned),
        Status::Canceled => {
            kinds.push(Kind::OrderCanceled);
            if order.cancel_type.as_deref() != Some(CancelType::Stock.name()) {
                kinds.push(Kind::InventoryRelease);
            }
        }
        Status::Created | Status::Reserved | Status::Paid => {}
    }
    kinds
}

/// A warehouse may publish its events itself: then they are in the inbox only.
async fn from_outside(auditor: &Auditor<'_>, missing: &mut Vec<(i64, Kind)>) -> Result<(), DbError> {
    let fulfilment = [Kind::OrderFulfillSuccess, Kind::OrderOutStock, Kind::OrderDelivery, Kind::OrderSigned];
    if !missing.iter().any(|(_, kind)| fulfilment.contains(kind)) {
        return Ok(());
    }
    let mut conn = auditor.dbs.order.read().await?;
    for kind in fulfilment {
        let keys: Vec<String> =
            missing.iter().filter(|(_, one)| *one == kind).map(|(order_id, _)| order_id.to_string()).collect();
        let seen = facts::keys_consumed(&mut conn, Group::Order.name(), kind.name(), &keys).await?;
        missing.retain(|(order_id, one)| *one != kind || !seen.contains(&order_id.to_string()));
    }
    Ok(())
}

/// Paid orders whose payment was taken note of, and whose fulfilment nothing has triggered: they would wait for ever.
async fn untriggered(
    auditor: &Auditor<'_>,
    moment: Moment,
    orders: &BTreeMap<i64, OrderFact>,
    written: &HashMap<i64, HashSet<String>>,
) -> Result<Vec<(i64, Kind)>, DbError> {
    let trigger = Kind::TriggerOrderFulfill;
    let waits = |order: &&OrderFact| {
        order.status == Status::Paid.code()
            && !order.handed_over
            && moment.overdue(order.updated_at)
            && !has_event(written.get(&order.id), order.id, trigger)
    };
    let ids: Vec<i64> = orders.values().filter(waits).map(|order| order.id).collect();
    if ids.is_empty() {
        return Ok(vec![]);
    }
    let told: Vec<String> = ids.iter().map(|id| Kind::PaidOrderSuccess.event_id(id)).collect();
    let mut conn = auditor.dbs.order.read().await?;
    let outcomes = facts::outcomes(&mut conn, Group::PaidOrder.name(), &told).await?;
    let done = |told: &String| outcomes.get(told) == Some(&(Outcome::Done as i64));
    Ok(ids.into_iter().zip(&told).filter(|(_, told)| done(told)).map(|(id, _)| (id, trigger)).collect())
}

/// `events_consumed`, for each outbox.
pub(super) async fn consumed(auditor: &mut Auditor<'_>) -> Result<(), DbError> {
    let dbs = auditor.dbs;
    for db in dbs.distinct() {
        consumed_of(auditor, db).await?;
    }
    Ok(())
}

async fn consumed_of(auditor: &mut Auditor<'_>, db: &Db) -> Result<(), DbError> {
    let mut after = 0;
    loop {
        let moment = auditor.moment();
        let mut conn = db.read().await?;
        let mut sent = facts::sent(&mut conn, after, auditor.options.page.max(1)).await?;
        drop(conn);
        let Some(last) = sent.last() else { return Ok(()) };
        after = last.id;
        auditor.checked(Check::EventsConsumed, sent.len());
        let groups = |row: &SentFact| Kind::from_name(&row.topic).map(Kind::groups).unwrap_or_default();
        let calls = |row: &&SentFact| groups(row).iter().any(|group| calls_of(*group).is_some());
        auditor.checked(Check::Deliveries, sent.iter().filter(calls).count());
        sent.retain(|row| moment.overdue(row.due_at) && row.sent_at >= moment.events_since);
        let mut suspects = unhandled(auditor, &sent).await?;
        if !suspects.is_empty() {
            let again: HashSet<i64> = suspects.iter().map(|suspect| suspect.id).collect();
            sent.retain(|row| again.contains(&row.id));
            suspects = unhandled(auditor, &sent).await?;
        }
        let (calls, events) = suspects.into_iter().partition(|one| check_of(one) == Check::Deliveries);
        auditor.found(Check::Deliveries, calls);
        auditor.found(Check::EventsConsumed, events);
    }
}

/// What a group leaves behind when it has handled an event, by the event's id: it is written in the transaction that says
/// that the event is handled, and nothing deletes it. None where a group leaves nothing of this kind.
pub(super) async fn left_behind(
    conn: &mut AnyConnection,
    group: Group,
    event_ids: &[String],
) -> Result<Option<HashSet<String>>, DbError> {
    match calls_of(group) {
        _ if group == Group::Notification => facts::told(conn, event_ids).await.map(Some),
        Some(call) => delivery::recorded(conn, call, event_ids.to_vec()).await.map(Some),
        None => Ok(None),
    }
}

/// Events that were handled without what their group leaves behind.
async fn undone(
    conn: &mut AnyConnection,
    group: Group,
    rows: &[&SentFact],
    outcomes: &HashMap<String, i64>,
) -> Result<Vec<Suspect<i64>>, DbError> {
    let done = |row: &&&SentFact| outcomes.get(&row.event_id) == Some(&(Outcome::Done as i64));
    let rows: Vec<&&SentFact> = rows.iter().filter(done).collect();
    let ids: Vec<String> = rows.iter().map(|row| row.event_id.clone()).collect();
    let Some(there) = left_behind(conn, group, &ids).await? else { return Ok(Vec::new()) };
    let missing = if group == Group::Notification { "the user was not told" } else { "no call was recorded" };
    let suspect = |row: &&SentFact| {
        let event_id = row.event_id.clone();
        let evidence = format!("handled by {}, but {missing}", group.name());
        Suspect { id: row.id, key: event_id.clone(), evidence, about: About::Undone(group, event_id) }
    };
    Ok(rows.into_iter().filter(|row| !there.contains(&row.event_id)).map(suspect).collect())
}

/// The check that a suspect of [`unhandled`] belongs to.
fn check_of(suspect: &Suspect<i64>) -> Check {
    match suspect.about {
        About::Undone(group, _) if calls_of(group).is_some() => Check::Deliveries,
        _ => Check::EventsConsumed,
    }
}

async fn unhandled(auditor: &Auditor<'_>, sent: &[SentFact]) -> Result<Vec<Suspect<i64>>, DbError> {
    let mut suspects = Vec::new();
    for group in Group::ALL {
        let kinds: Vec<&str> = group.events().map(Kind::name).collect();
        let rows: Vec<&SentFact> = sent.iter().filter(|row| kinds.contains(&row.topic.as_str())).collect();
        if rows.is_empty() {
            continue;
        }
        let mut conn = auditor.dbs.of(group.role()).read().await?;
        let ids: Vec<String> = rows.iter().map(|row| row.event_id.clone()).collect();
        let outcomes = facts::outcomes(&mut conn, group.name(), &ids).await?;
        let dead: Vec<String> = rows
            .iter()
            .filter(|row| outcomes.get(&row.event_id) == Some(&(Outcome::Dead as i64)))
            .map(|row| row.key.clone())
            .collect();
        let buried = facts::keys_on_topic(&mut conn, &format!("%DLQ%{}", group.name()), &dead).await?;
        suspects.extend(undone(&mut conn, group, &rows, &outcomes).await?);
        let absent: Vec<String> = ids.into_iter().filter(|id| !outcomes.contains_key(id)).collect();
        let parked = facts::parked(&mut conn, group.name(), &absent).await?;
        for row in rows {
            let text = match outcomes.get(&row.event_id) {
                Some(outcome) if *outcome == Outcome::Dead as i64 && !buried.contains(&row.key) => {
                    "given up, but there is no dead letter"
                }
                None if !parked.contains(&row.event_id) => "not handled",
                _ => continue,
            };
            let evidence = format!("{text} by {}; sent at {}", group.name(), rfc3339(row.sent_at));
            let about = About::Unhandled(group, row.event_id.clone());
            suspects.push(Suspect { id: row.id, key: row.event_id.clone(), evidence, about });
        }
    }
    Ok(suspects)
}
