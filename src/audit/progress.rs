//! Paid orders on their way to the customer: what each waits for, and whether it will ever come.

use std::collections::{BTreeMap, HashMap};

use super::evidence::{self, Evidence};
use super::{About, Auditor, Moment, RoleDbs, Suspect, Warning, orders, trust};
use crate::clock::rfc3339;
use crate::db::audit::{self as facts, Ids, OrderFact};
use crate::db::inbox::Outcome;
use crate::db::outbox::Status as Sent;
use crate::db::outbox::log::{self, Logged};
use crate::db::{DbError, delivery};
use crate::domain::event::{Group, Kind};
use crate::domain::order::Status;

/// What a paid order waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing will come by itself: what is missing, and what helps.
    Halted(String, Remedy),
    /// Somebody outside has to tell: who, what.
    Told(String),
    /// An event, a retry, a call or a hold that is on its way, or that another check names.
    Moving,
}

/// What sets a halted order going again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Its event, handed to the group once more.
    Again(Kind, Group),
    /// Its event, written again.
    Write(Kind),
    /// A person.
    Person(&'static str),
}

const LETTER: Remedy = Remedy::Person(
    "its event is a dead letter, which says why: remove the cause, and hand it in again with `ruyi mq dlq replay`",
);

/// What each of these orders waits for. Only those that are paid and not at an end, and whose row is to be believed.
async fn next_of(
    dbs: &RoleDbs,
    moment: Moment,
    ids: &[i64],
) -> Result<BTreeMap<i64, (OrderFact, Status, Next)>, DbError> {
    let (found, doubts) = trust::doubts(dbs, moment.events_since, ids).await?;
    let mut open = BTreeMap::new();
    for (id, order) in found {
        match Status::from_code(order.status) {
            Some(status) if (Status::Paid..Status::Signed).contains(&status) && !doubts.contains_key(&id) => {
                open.insert(id, (order, status));
            }
            _ => {}
        }
    }
    let keys: Vec<i64> = open.keys().copied().collect();
    let evidence = evidence::of(dbs, &keys).await?;
    let events = keys.iter().map(|id| Kind::TriggerOrderFulfill.event_id(id)).collect();
    let triggers = log::of_events(&mut *dbs.order.read().await?, events).await?;
    let triggers: HashMap<String, Logged> = triggers.into_iter().map(|row| (row.event_id.clone(), row)).collect();
    let none = Evidence::default();
    let next = |(id, (order, status)): (i64, (OrderFact, Status))| {
        let known = evidence.get(&id).unwrap_or(&none);
        let trigger = triggers.get(&Kind::TriggerOrderFulfill.event_id(id));
        let next = match status {
            Status::Paid if !order.handed_over => to_the_warehouse(moment, &order, known, trigger),
            Status::Paid => by_the_warehouse(known),
            _ => to_the_customer(status, known),
        };
        (id, (order, status, next))
    };
    Ok(open.into_iter().map(next).collect())
}

/// Paid, and not handed over.
fn to_the_warehouse(moment: Moment, order: &OrderFact, known: &Evidence, trigger: Option<&Logged>) -> Next {
    let name = Kind::TriggerOrderFulfill.name();
    let again = Remedy::Again(Kind::TriggerOrderFulfill, Group::Fulfil);
    let handled = known.handled.get(&(Group::Fulfil, Kind::TriggerOrderFulfill));
    match (handled, trigger) {
        (Some(Outcome::Done | Outcome::Ignored), _) => {
            Next::Halted(format!("{name} was handled, but the order was never handed to the warehouse"), again)
        }
        (Some(Outcome::Dead), _) => Next::Halted(format!("{name} was given up by {}", Group::Fulfil.name()), LETTER),
        (Some(Outcome::Parked), _) => Next::Moving,
        (None, Some(row)) if row.status == Sent::Canceled => {
            Next::Halted(format!("{name} was taken back, but the order was not canceled"), again)
        }
        // Not sent, held, or sent and not handled: the checks of events name it once it is late.
        (None, Some(_)) => Next::Moving,
        (None, None) => match known.handled.get(&(Group::PaidOrder, Kind::PaidOrderSuccess)) {
            Some(Outcome::Dead) => {
                let who = Group::PaidOrder.name();
                Next::Halted(format!("{} was given up by {who}", Kind::PaidOrderSuccess.name()), LETTER)
            }
            // `events_of_states` names it.
            Some(Outcome::Done) if order.created_at >= moment.events_since => Next::Moving,
            Some(Outcome::Done | Outcome::Ignored) => {
                Next::Halted(format!("{name} was never written"), Remedy::Write(Kind::TriggerOrderFulfill))
            }
            Some(Outcome::Parked) | None => Next::Moving,
        },
    }
}

/// Handed over, and not taken.
fn by_the_warehouse(known: &Evidence) -> Next {
    match known.call {
        None => Next::Halted(
            "it was handed over, but there is no call to the warehouse".to_owned(),
            Remedy::Person("nothing says what the warehouse was told: ask it for the order by its id"),
        ),
        Some(status) if status == delivery::Status::Done as i64 => to_the_customer(Status::Paid, known),
        // Open; or given up or refused: which is named as such.
        Some(0..=3) => Next::Moving,
        Some(_) => Next::Halted(
            "the call to the warehouse was taken back".to_owned(),
            Remedy::Person(
                "make the call again with `ruyi delivery resend`; an order that is not to be sent is canceled by \
                 ORDER_FULFILL_REFUSED, which the warehouse sends by its callback",
            ),
        ),
    }
}

/// With the warehouse, or the carrier.
fn to_the_customer(status: Status, known: &Evidence) -> Next {
    let steps = [Kind::OrderFulfillSuccess, Kind::OrderOutStock, Kind::OrderDelivery, Kind::OrderSigned];
    let (who, place) = match status {
        Status::Paid => ("the warehouse", 0),
        Status::Fulfill => ("the warehouse", 1),
        Status::OutStock => ("the carrier", 2),
        _ => ("the carrier", 3),
    };
    let later = &steps[place..];
    let came = |kind: &&Kind| known.handled.contains_key(&(Group::Order, **kind));
    match later.iter().rev().find(came) {
        Some(kind) if known.handled.get(&(Group::Order, *kind)) == Some(&Outcome::Dead) => {
            Next::Halted(format!("{} was given up by {}", kind.name(), Group::Order.name()), LETTER)
        }
        Some(_) => Next::Moving,
        None => Next::Told(format!("{who} has not told {}", steps[place].name())),
    }
}

/// Orders that come no further.
pub(super) async fn halted(auditor: &Auditor<'_>, ids: &[i64]) -> Result<Vec<Suspect<i64>>, DbError> {
    let moment = auditor.moment();
    let found = next_of(auditor.dbs, moment, ids).await?;
    let suspect = |(order, _, next): (OrderFact, Status, Next)| match next {
        Next::Halted(what, _) if moment.overdue(order.updated_at) => {
            let evidence = format!("{}: {what}", since(&order));
            Some(Suspect { about: About::Order(order.id), ..Suspect::of(order.id, evidence) })
        }
        _ => None,
    };
    Ok(found.into_values().filter_map(suspect).collect())
}

fn since(order: &OrderFact) -> String {
    format!("order {} since {}", orders::show_status(order.status), rfc3339(order.updated_at))
}

/// Orders that wait for the warehouse or the carrier for longer than a parcel takes: a warning.
pub(super) async fn slow(auditor: &mut Auditor<'_>) -> Result<(), DbError> {
    let (mut after, mut count, mut told) = (0, 0, Vec::new());
    let mut moment = auditor.moment();
    moment.overdue_before = auditor.dbs.order.clock().now_ms().saturating_sub(auditor.options.parcel_bound_ms);
    loop {
        let mut conn = auditor.dbs.order.read().await?;
        let ids = facts::ids(&mut conn, Ids::OpenOrders, after, auditor.options.page.max(1)).await?;
        let Some(last) = ids.last().copied() else { break };
        after = last;
        let mut late = facts::orders(&mut conn, &ids).await?;
        drop(conn);
        late.retain(|_, order| moment.overdue(order.updated_at));
        let late: Vec<i64> = late.into_keys().collect();
        for (order, _, next) in next_of(auditor.dbs, moment, &late).await?.into_values() {
            let Next::Told(what) = next else { continue };
            count += 1;
            if told.len() < EXAMPLES {
                told.push(format!("{}: {}, {what}", order.id, since(&order)));
            }
        }
    }
    if count > 0 {
        let what = "orders that wait for the warehouse or the carrier for longer than audit.parcel_bound";
        auditor.report.warnings.push(Warning { what, count, evidence: Some(told.join("; ")) });
    }
    Ok(())
}

/// Orders named in a warning.
const EXAMPLES: usize = 10;

/// What an order waits for now, and since when; `None` for one that is not paid, at an end, or not to be believed.
///
/// # Errors
/// The database's.
pub async fn next(dbs: &RoleDbs, id: i64) -> Result<Option<(i64, Next)>, DbError> {
    // Far back: an event that was deleted for its age is not told as missing.
    let moment = Moment { settled_before: i64::MAX, overdue_before: i64::MAX, events_since: 0 };
    let found = next_of(dbs, moment, &[id]).await?.remove(&id);
    Ok(found.map(|(order, _, next)| (order.updated_at, next)))
}
