//! What the order role does with events: one handler per consumer group.

use futures_util::future::BoxFuture;

use super::cancel::{self, Cancels, Wanted, Wish};
use super::flow::{self, HandOver, Moved, Note, Step};
use super::refunds::{self, Back};
use crate::db::tx::Draft;
use crate::db::{DbError, Tx, orders, outbox};
use crate::domain::event::{
    FulfilRefused, Fulfilment, Group, Kind, OrderAutoCancel, PaidOrderSuccess, PaymentCloseResult, PaymentSuccess,
    RefundFailed, RefundKind, RefundSuccess, StockFreezeFailed, StockFrozen, TriggerOrderFulfill,
};
use crate::domain::id::OrderId;
use crate::domain::order::{CancelType, Input, Status};
use crate::mq::{Event, Handler, Outcome};

/// `order-consumer-group`: moves orders.
#[derive(Clone, Copy, Debug)]
pub struct OrderEvents {
    /// How it cancels.
    pub cancels: Cancels,
}

impl Handler for OrderEvents {
    fn group(&self) -> Group {
        Group::Order
    }

    fn handle<'a>(&'a self, tx: &'a mut Tx, events: &'a [Event]) -> BoxFuture<'a, Result<Vec<Outcome>, DbError>> {
        Box::pin(async move {
            let back = refunds::note(tx, events).await?;
            advance(tx, self.cancels, events.iter().map(|event| plan(event, &back)).collect()).await
        })
    }
}

/// Advances the orders of the events that could be read, and gives every event its outcome.
async fn advance(
    tx: &mut Tx,
    cancels: Cancels,
    plans: Vec<Result<(i64, Wanted), Outcome>>,
) -> Result<Vec<Outcome>, DbError> {
    let wanted: Vec<Wanted> = plans.iter().flatten().map(|(_, wanted)| wanted.clone()).collect();
    let moved = cancels.advance(tx, &wanted).await?;
    Ok(outcomes(plans.into_iter().map(|plan| plan.map(|(order_id, _)| order_id)), moved))
}

/// What became of each event: what it was refused for, or what became of its order, which follow each other in `moved`.
pub(super) fn outcomes(orders: impl Iterator<Item = Result<i64, Outcome>>, moved: Vec<Moved>) -> Vec<Outcome> {
    let mut moved = moved.into_iter();
    let outcome = |order: Result<i64, Outcome>| match order {
        Err(outcome) => outcome,
        Ok(order_id) => moved.next().unwrap_or(Moved::Unknown).outcome(order_id),
    };
    orders.map(outcome).collect()
}

/// One step of an order.
fn one(step: Step) -> (i64, Wanted) {
    (step.order_id, Wanted::Steps(vec![step]))
}

fn plan(event: &Event, back: &Back) -> Result<(i64, Wanted), Outcome> {
    let trace = event.trace.clone();
    let step =
        |order_id: OrderId, input, note| Ok(one(Step { order_id: order_id.0, input, note: Note { trace, ..note } }));
    match event.kind {
        Kind::StockFrozen => {
            let body: StockFrozen = event.read()?;
            step(body.order_id, Input::StockFrozen, Note::default())
        }
        Kind::StockFreezeFailed => {
            let body: StockFreezeFailed = event.read()?;
            step(body.order_id, Input::FreezeFailed, Note { reason: Some(text(body.reason)), ..Note::default() })
        }
        Kind::PaymentSuccess => {
            let body: PaymentSuccess = event.read()?;
            let input = Input::Paid { payment_id: body.payment_id, amount: body.amount };
            step(body.order_id, input, Note { pay_time: Some(body.pay_time), ..Note::default() })
        }
        Kind::OrderAutoCancel => {
            let body: OrderAutoCancel = event.read()?;
            let (order_id, reason) = (body.order_id.0, Some(text(body.reason)));
            Ok((order_id, Wanted::Cancel(Wish { order_id, by: CancelType::Auto, reason, trace: event.trace.clone() })))
        }
        Kind::PaymentCloseResult => {
            let body: PaymentCloseResult = event.read()?;
            Ok((body.order_id.0, cancel::answered(&body, event.trace.clone())))
        }
        Kind::OrderFulfillSuccess => fulfilment(event, Status::Fulfill),
        Kind::OrderOutStock => fulfilment(event, Status::OutStock),
        Kind::OrderDelivery => fulfilment(event, Status::Delivery),
        Kind::OrderSigned => fulfilment(event, Status::Signed),
        Kind::OrderFulfillRefused => {
            let body: FulfilRefused = event.read()?;
            step(body.order_id, Input::Declined, Note { reason: Some(text(body.reason)), ..Note::default() })
        }
        Kind::RefundSuccess => {
            let body: RefundSuccess = event.read()?;
            if body.kind == RefundKind::Extra {
                return Err(Outcome::Ignored("money paid twice went back; the order goes on".to_owned()));
            }
            let all = back.get(&body.order_id.0) == Some(&true);
            step(body.order_id, Input::Refunded { part: body.kind == RefundKind::Part, all }, Note::default())
        }
        Kind::RefundFailed => {
            let body: RefundFailed = event.read()?;
            // Noted already, if there is such an order.
            let known = back.contains_key(&body.order_id.0);
            Err(if known { Outcome::Done } else { Outcome::Early(format!("there is no order {}", body.order_id)) })
        }
        other => Err(Outcome::Reject(format!("{} does not move orders", other.name()))),
    }
}

fn fulfilment(event: &Event, reached: Status) -> Result<(i64, Wanted), Outcome> {
    let body: Fulfilment = event.read()?;
    let short = |value: Option<String>| value.map(|value| value.chars().take(100).collect());
    let note = Note {
        carrier: short(body.carrier),
        tracking_no: short(body.tracking_no),
        trace: event.trace.clone(),
        ..Note::default()
    };
    Ok(one(Step { order_id: body.order_id.0, input: Input::Fulfilment(reached), note }))
}

/// Text that fits the column of reasons.
fn text(value: String) -> String {
    value.chars().take(500).collect()
}

/// `paid-order-success-consumer-group`: starts the fulfilment of paid orders.
#[derive(Clone, Copy, Debug)]
pub struct PaidOrders {
    /// Wait between payment and fulfilment, on top of the order's own.
    pub cool_off_ms: i64,
}

impl Handler for PaidOrders {
    fn group(&self) -> Group {
        Group::PaidOrder
    }

    fn handle<'a>(&'a self, tx: &'a mut Tx, events: &'a [Event]) -> BoxFuture<'a, Result<Vec<Outcome>, DbError>> {
        Box::pin(self.trigger(tx, events))
    }
}

impl PaidOrders {
    async fn trigger(&self, tx: &mut Tx, events: &[Event]) -> Result<Vec<Outcome>, DbError> {
        let bodies: Vec<Result<PaidOrderSuccess, Outcome>> = events.iter().map(Event::read).collect();
        let ids: Vec<i64> = bodies.iter().flatten().map(|body| body.order_id.0).collect();
        let found = orders::lock(tx, ids.clone()).await?;
        let mut items = orders::items(tx, &ids).await?;
        // Another system, or an operator, may say so under another event id.
        let trigger = Kind::TriggerOrderFulfill;
        let mut triggered = outbox::existing(tx, ids.iter().map(|id| trigger.event_id(id)).collect()).await?;
        let mut outcomes = Vec::with_capacity(events.len());
        for (event, body) in events.iter().zip(bodies) {
            let body = match body {
                Ok(body) => body,
                Err(outcome) => {
                    outcomes.push(outcome);
                    continue;
                }
            };
            let Some(order) = found.get(&body.order_id.0) else {
                outcomes.push(Outcome::Early(format!("there is no order {}", body.order_id)));
                continue;
            };
            outcomes.push(match order.state.status {
                Status::Canceled => Outcome::Ignored("the order is canceled".to_owned()),
                Status::Created | Status::Reserved => Outcome::Early("the order is not paid yet".to_owned()),
                _ if order.state.handed_over => Outcome::Ignored("already with the warehouse".to_owned()),
                _ if !triggered.insert(trigger.event_id(order.id)) => {
                    Outcome::Ignored("its fulfilment was triggered already".to_owned())
                }
                _ => {
                    let lines = items.remove(&order.id).unwrap_or_default();
                    let body = order.trigger(&lines);
                    let wait_ms = self.cool_off_ms + order.hold_ms;
                    let deliver_at = if wait_ms > 0 { tx.now_ms() + wait_ms } else { 0 };
                    let draft = Draft::new(Kind::TriggerOrderFulfill, order.id, &body, event.trace.as_deref());
                    tx.emit(&Draft { deliver_at, ..draft })?;
                    Outcome::Done
                }
            });
        }
        Ok(outcomes)
    }
}

/// `order-fulfill-consumer-group`: hands orders to the warehouse.
#[derive(Clone, Debug)]
pub struct Fulfilments {
    /// Where the warehouse takes orders; a path is this process's own sandbox.
    pub warehouse_url: String,
}

impl Handler for Fulfilments {
    fn group(&self) -> Group {
        Group::Fulfil
    }

    fn handle<'a>(&'a self, tx: &'a mut Tx, events: &'a [Event]) -> BoxFuture<'a, Result<Vec<Outcome>, DbError>> {
        Box::pin(async move {
            let plans = events.iter().map(|event| event.read().map(|body| self.step(event, body)));
            let plans: Vec<Result<Step, Outcome>> = plans.collect();
            let steps: Vec<Step> = plans.iter().flatten().cloned().collect();
            let moved = flow::advance(tx, &steps).await?;
            Ok(outcomes(plans.into_iter().map(|plan| plan.map(|step| step.order_id)), moved))
        })
    }
}

impl Fulfilments {
    fn step(&self, event: &Event, body: TriggerOrderFulfill) -> Step {
        let order_id = body.order_id.0;
        let warehouse = Some(HandOver { url: self.warehouse_url.clone(), order: body });
        let note = Note { warehouse, trace: event.trace.clone(), ..Note::default() };
        Step { order_id, input: Input::HandOver, note }
    }
}
