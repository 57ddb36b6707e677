//! What is known of orders besides their rows: lines, events, calls, payments, stock.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::RoleDbs;
use crate::db::audit::{self as facts, PaymentFact};
use crate::db::inbox::Outcome;
use crate::db::{DbError, delivery, tx_state};
use crate::domain::event::{Group, Kind};
use crate::domain::stock::Status as StockStatus;

/// What is known of one order.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    /// What its lines add up to, minor units; `None` without lines.
    pub lines: Option<i64>,
    /// Ids of its events in the outboxes, and of committed transaction messages.
    pub written: HashSet<String>,
    /// What the groups that move orders made of its events.
    pub handled: HashMap<(Group, Kind), Outcome>,
    /// Where the call that hands it to the warehouse stands.
    pub call: Option<i64>,
    /// Its payments.
    pub payments: Vec<PaymentFact>,
    /// Its reservation.
    pub held: Option<StockStatus>,
}

impl Evidence {
    /// The group has done what the event wants.
    pub fn applied(&self, group: Group, kind: Kind) -> bool {
        self.handled.get(&(group, kind)) == Some(&Outcome::Done)
    }

    /// The event is in an outbox.
    pub fn wrote(&self, order_id: i64, kind: Kind) -> bool {
        has_event(Some(&self.written), order_id, kind)
    }
}

/// By its deterministic id; an aggregate that may emit it again appends to it.
pub(super) fn has_event(events: Option<&HashSet<String>>, order_id: i64, kind: Kind) -> bool {
    let id = kind.event_id(order_id);
    let again = format!("{id}:");
    events.is_some_and(|events| events.contains(&id) || events.iter().any(|event| event.starts_with(&again)))
}

/// Event ids in the outboxes of all databases, and those of committed transaction messages, by order.
pub(super) async fn written(dbs: &RoleDbs, ids: &[i64]) -> Result<HashMap<i64, HashSet<String>>, DbError> {
    let keys: Vec<String> = ids.iter().map(i64::to_string).collect();
    let mut found: HashMap<i64, HashSet<String>> = HashMap::with_capacity(ids.len());
    for db in dbs.distinct() {
        let mut conn = db.read().await?;
        for (key, event_id, _) in facts::events_of_keys(&mut conn, &keys).await? {
            if let Ok(order_id) = key.parse() {
                found.entry(order_id).or_default().insert(event_id);
            }
        }
    }
    let mut conn = dbs.payment.read().await?;
    let ids_of_events = ids.iter().map(|id| (Kind::PaymentSuccess.event_id(id), *id)).collect::<HashMap<_, _>>();
    for event_id in tx_state::committed_events(&mut conn, ids_of_events.keys().cloned().collect()).await? {
        if let Some(order_id) = ids_of_events.get(&event_id) {
            found.entry(*order_id).or_default().insert(event_id);
        }
    }
    Ok(found)
}

/// The groups of the order role that move orders.
const MOVERS: [Group; 3] = [Group::Order, Group::PaidOrder, Group::Fulfil];

/// All of it, for these orders.
pub(super) async fn of(dbs: &RoleDbs, ids: &[i64]) -> Result<BTreeMap<i64, Evidence>, DbError> {
    let mut all: BTreeMap<i64, Evidence> = ids.iter().map(|id| (*id, Evidence::default())).collect();
    for (order_id, events) in written(dbs, ids).await? {
        if let Some(one) = all.get_mut(&order_id) {
            one.written = events;
        }
    }
    let mut conn = dbs.payment.read().await?;
    for payment in facts::payments(&mut conn, "order_id", ids).await? {
        if let Some(one) = all.get_mut(&payment.order_id) {
            one.payments.push(payment);
        }
    }
    drop(conn);
    let mut conn = dbs.stock.read().await?;
    for (order_id, reservation) in facts::reservations(&mut conn, ids).await? {
        if let Some(one) = all.get_mut(&order_id) {
            one.held = StockStatus::from_code(reservation.status);
        }
    }
    drop(conn);
    let mut conn = dbs.order.read().await?;
    for (order_id, total) in facts::line_totals(&mut conn, ids).await? {
        if let Some(one) = all.get_mut(&order_id) {
            one.lines = Some(total);
        }
    }
    for (order_id, status) in facts::calls_of_orders(&mut conn, delivery::Kind::Warehouse, ids).await? {
        if let Some(one) = all.get_mut(&order_id) {
            one.call = Some(status);
        }
    }
    let groups = MOVERS.map(Group::name);
    for (order_id, group, topic, outcome) in facts::handled_of_orders(&mut conn, groups, ids).await? {
        let (Some(one), Some(group), Some(kind), Some(outcome)) =
            (all.get_mut(&order_id), Group::from_name(&group), Kind::from_name(&topic), Outcome::from_code(outcome))
        else {
            continue;
        };
        // What was done once is done, whatever became of another event of the kind.
        let known = one.handled.entry((group, kind)).or_insert(outcome);
        if *known != Outcome::Done {
            *known = outcome;
        }
    }
    Ok(all)
}
