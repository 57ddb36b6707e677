//! How orders move: decide in the domain, write the change and what follows from it in one transaction.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::coupons::{self, Settled};
use super::refunds;
use crate::db::delivery::{self, Delivery};
use crate::db::orders::{self, OrderRow};
use crate::db::tx::Draft;
use crate::db::{DbError, Tx, outbox};
use crate::domain::event::{Inventory, Kind, Line, TriggerOrderFulfill};
use crate::domain::id::{OrderId, UserId};
use crate::domain::money::Money;
use crate::domain::order::{self, CancelType, Decision, Effect, Input, Status};
use crate::mq::Outcome;

/// What an input brings along that the decision does not depend on.
#[derive(Clone, Debug, Default)]
pub struct Note {
    /// Why it is canceled, for the user.
    pub reason: Option<String>,
    /// When it was paid, epoch ms.
    pub pay_time: Option<i64>,
    /// Who carries it.
    pub carrier: Option<String>,
    /// Under which number.
    pub tracking_no: Option<String>,
    /// What the warehouse is to be told.
    pub warehouse: Option<HandOver>,
    /// W3C trace context of the cause.
    pub trace: Option<String>,
}

/// The call that hands an order to the warehouse.
#[derive(Clone, Debug)]
pub struct HandOver {
    /// Where the warehouse takes orders.
    pub url: String,
    /// What is to be sent; the address is the order's own, as it is then.
    pub order: TriggerOrderFulfill,
}

/// What the warehouse is told.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WarehouseOrder<'a> {
    order_id: OrderId,
    user_id: UserId,
    lines: &'a [Line],
    address: &'a str,
}

/// An input for one order.
#[derive(Clone, Debug)]
pub struct Step {
    /// Which order.
    pub order_id: i64,
    /// What happens to it.
    pub input: Input,
    /// What else is known.
    pub note: Note,
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moved {
    /// There is no such order.
    Unknown,
    /// It was decided; the order as it is now.
    Decided(Decision<(), ()>, Box<OrderRow>),
    /// Its payment is asked first, and answers by an event; the order as it is.
    Asked(Box<OrderRow>),
}

impl Moved {
    /// What became of the message that wanted it.
    #[must_use]
    pub fn outcome(&self, order_id: i64) -> Outcome {
        match self {
            Self::Decided(decision, _) => Outcome::from(decision),
            Self::Asked(_) => Outcome::Ignored("its payment is asked first, and answers".to_owned()),
            Self::Unknown => Outcome::Early(format!("there is no order {order_id}")),
        }
    }
}

/// Applies steps, in this order; one answer for each.
///
/// # Errors
/// The database's.
pub async fn advance(tx: &mut Tx, steps: &[Step]) -> Result<Vec<Moved>, DbError> {
    let mut found = orders::lock(tx, steps.iter().map(|step| step.order_id).collect()).await?;
    let all_back = refunds::all_back(tx, &paid_and_canceled(&found, steps)).await?;
    let mut changed = BTreeMap::new();
    let (mut calls, mut coupons) = (Vec::new(), Vec::new());
    let mut answers = Vec::with_capacity(steps.len());
    for step in steps {
        let Some(order) = found.get_mut(&step.order_id) else {
            answers.push(Moved::Unknown);
            continue;
        };
        let decided = order::decide(&order.state, &step.input);
        let decided = if all_back.contains(&order.id) { order::with_all_back(decided) } else { decided };
        let decision = match decided {
            Decision::Apply(next, effects) => {
                take_back_trigger(tx, order, next.status).await?;
                if step.input == Input::Declined && order.state.handed_over {
                    take_back_call(tx, order.id).await?;
                }
                order.state = next;
                note(order, step);
                changed.insert(order.id, step.note.trace.as_deref());
                for effect in &effects {
                    follow(tx, order, *effect, step, &mut calls)?;
                }
                coupons.extend(Settled::of(order, &effects, step.note.trace.as_deref()));
                Decision::Apply((), vec![])
            }
            Decision::Ignore(why) => Decision::Ignore(why),
            Decision::Early(why) => Decision::Early(why),
            Decision::Refuse(why) => Decision::Refuse(why),
        };
        answers.push(Moved::Decided(decision, Box::new(order.clone())));
    }
    write(tx, &found, &changed, &calls).await?;
    coupons::settle(tx, &coupons).await?;
    Ok(answers)
}

/// The paid orders that are to be canceled, and what was to be paid: their money may have gone back in parts by now.
fn paid_and_canceled(found: &HashMap<i64, OrderRow>, steps: &[Step]) -> HashMap<i64, Money> {
    let cancels = steps.iter().filter(|step| matches!(step.input, Input::Cancel(_) | Input::Declined));
    let orders = cancels.filter_map(|step| found.get(&step.order_id));
    orders.filter(|order| order.state.status.is_paid()).map(|order| (order.id, order.state.total)).collect()
}

async fn write(
    tx: &mut Tx,
    found: &HashMap<i64, OrderRow>,
    changed: &BTreeMap<i64, Option<&str>>,
    calls: &[Delivery],
) -> Result<(), DbError> {
    let rows: Vec<&OrderRow> = changed.keys().filter_map(|id| found.get(id)).collect();
    orders::update(tx, &rows).await?;
    for order in rows {
        let trace = changed.get(&order.id).copied().flatten();
        orders::tell_version(tx, &order.synced(order.version + 1, tx.now_ms(), None), trace)?;
    }
    if !calls.is_empty() {
        // An order is handed over by one call, which people make once more where it failed.
        delivery::insert(tx, calls).await?.or_known();
    }
    Ok(())
}

/// A paid order that is canceled while its fulfilment still waits: the waiting event is taken back.
async fn take_back_trigger(tx: &mut Tx, order: &OrderRow, next: Status) -> Result<(), DbError> {
    if order.state.status == Status::Paid && next == Status::Canceled {
        outbox::cancel(tx, vec![Kind::TriggerOrderFulfill.event_id(order.id)]).await?;
    }
    Ok(())
}

/// An order that the warehouse refused is not offered to it again.
async fn take_back_call(tx: &mut Tx, order_id: i64) -> Result<(), DbError> {
    if let Some(id) = delivery::open_call(tx, delivery::Kind::Warehouse, &order_id.to_string()).await? {
        delivery::log::cancel(tx, vec![id], "the warehouse refused the order").await?;
    }
    Ok(())
}

fn note(order: &mut OrderRow, step: &Step) {
    let note = &step.note;
    match &step.input {
        Input::Paid { .. } => order.pay_time = note.pay_time,
        Input::Cancel(by) => {
            order.cancel_type = Some(by.name().to_owned());
            order.cancel_reason.clone_from(&note.reason);
        }
        Input::Declined => {
            order.cancel_type = Some(CancelType::Warehouse.name().to_owned());
            order.cancel_reason.clone_from(&note.reason);
        }
        Input::FreezeFailed => {
            order.cancel_type = Some(CancelType::Stock.name().to_owned());
            order.cancel_reason.clone_from(&note.reason);
        }
        Input::Fulfilment(_) => {
            order.carrier = note.carrier.clone().or_else(|| order.carrier.take());
            order.tracking_no = note.tracking_no.clone().or_else(|| order.tracking_no.take());
        }
        Input::StockFrozen | Input::HandOver | Input::Refunded { .. } => {}
    }
}

fn follow(
    tx: &mut Tx,
    order: &OrderRow,
    effect: Effect,
    step: &Step,
    calls: &mut Vec<Delivery>,
) -> Result<(), DbError> {
    let order_id = OrderId(order.id);
    let trace = step.note.trace.as_deref();
    let key = order.id;
    match effect {
        Effect::TellPaid => {
            let body = order.paid(tx.now_ms());
            tx.emit(&Draft::new(Kind::PaidOrderSuccess, key, &body, trace))
        }
        Effect::AskDeduct => {
            let body = Inventory { order_id, kind: "PAID".to_owned() };
            tx.emit(&Draft::new(Kind::InventoryDeduct, key, &body, trace))
        }
        Effect::TellCanceled => {
            let by = match &step.input {
                Input::Cancel(by) => *by,
                Input::Declined => CancelType::Warehouse,
                _ => CancelType::Stock,
            };
            tx.emit(&Draft::new(Kind::OrderCanceled, key, &order.canceled(by), trace))
        }
        Effect::AskRelease => {
            let body = Inventory { order_id, kind: order.cancel_type.clone().unwrap_or_default() };
            tx.emit(&Draft::new(Kind::InventoryRelease, key, &body, trace))
        }
        Effect::AskRefund => tx.emit(&Draft::new(Kind::RefundRequested, key, &order.refund_requested(), trace)),
        Effect::CallWarehouse => {
            if let Some(HandOver { url, order: told }) = &step.note.warehouse {
                let address = if order.address.is_empty() { &told.address } else { &order.address };
                let body = WarehouseOrder { order_id, user_id: told.user_id, lines: &told.lines, address };
                calls.push(Delivery {
                    id: tx.next_id(),
                    kind: delivery::Kind::Warehouse,
                    reference: order.id.to_string(),
                    order_id: order.id,
                    url: url.clone(),
                    body: serde_json::to_string(&body)?,
                    attempts: 0,
                    next_at: tx.now_ms(),
                    trace: trace.map(str::to_owned),
                });
            }
            Ok(())
        }
    }
}
