//! What the payment role does with events.

use std::collections::{BTreeSet, HashMap};

use futures_util::future::BoxFuture;

use super::channels::Channels;
use super::refund::{self, Part, Wish};
use super::{close, gateway, query, tell};
use crate::db::delivery::{self, Delivery};
use crate::db::payments::{self, PaymentRow};
use crate::db::tx::Draft;
use crate::db::{DbError, Tx};
use crate::domain::event::{
    CallbackSubmit, Group, Kind, OrderCanceled, PaymentCloseRequested, RefundRequested, StockFrozen,
};
use crate::domain::id::RefundId;
use crate::domain::order::Decision;
use crate::domain::payment::{self, Effect, Input, PaymentState, Status};
use crate::domain::statistics::Type;
use crate::mq::{Event, Handler, Outcome};

/// Currency of the shop.
pub(super) const CURRENCY: &str = "CNY";

/// `payment-consumer-group`: opens, closes and refunds payments.
#[derive(Clone, Debug)]
pub struct PaymentEvents {
    /// The channels.
    pub channels: Channels,
}

enum Body {
    Open(StockFrozen),
    Close(PaymentCloseRequested),
    Canceled(OrderCanceled),
    Refund(RefundRequested),
}

impl Body {
    fn order_id(&self) -> i64 {
        match self {
            Self::Open(body) => body.order_id.0,
            Self::Close(body) => body.order_id.0,
            Self::Canceled(body) => body.order_id.0,
            Self::Refund(body) => body.order_id.0,
        }
    }
}

fn read(event: &Event) -> Result<Body, Outcome> {
    match event.kind {
        Kind::StockFrozen => event.read().map(Body::Open),
        Kind::PaymentCloseRequested => event.read().map(Body::Close),
        Kind::OrderCanceled => event.read().map(Body::Canceled),
        Kind::RefundRequested => event.read().map(Body::Refund),
        other => Err(Outcome::Reject(format!("{} does not move payments", other.name()))),
    }
}

impl Handler for PaymentEvents {
    fn group(&self) -> Group {
        Group::Payment
    }

    fn handle<'a>(&'a self, tx: &'a mut Tx, events: &'a [Event]) -> BoxFuture<'a, Result<Vec<Outcome>, DbError>> {
        Box::pin(async move {
            let bodies: Vec<Result<Body, Outcome>> = events.iter().map(read).collect();
            let ids = bodies.iter().flatten().map(Body::order_id).collect();
            let mut batch = Batch {
                found: payments::lock_by_order(tx, ids).await?,
                new: BTreeSet::new(),
                changed: BTreeSet::new(),
            };
            let (mut refunds, mut questions) = (Vec::new(), Vec::new());
            let mut outcomes = Vec::with_capacity(events.len());
            for (event, body) in events.iter().zip(bodies) {
                outcomes.push(match body {
                    Err(outcome) => outcome,
                    Ok(Body::Open(body)) => self.open(tx, &mut batch, event, &body)?,
                    Ok(Body::Close(body)) => {
                        let (order_id, user_id) = (body.order_id.0, body.user_id.0);
                        questions.push(close::Asked::of(event, body));
                        batch.close(tx, order_id, user_id)
                    }
                    Ok(Body::Canceled(body)) => batch.canceled(tx, &body, event, &mut refunds),
                    Ok(Body::Refund(body)) => batch.refund(&body, event, &mut refunds),
                });
            }
            batch.write(tx).await?;
            query::ask_closed(tx, self.channels.query_after_ms(), &batch.closed()).await?;
            close::answer(tx, &batch.found, &questions).await?;
            for Refund { order_id, part, wish } in refunds {
                let Some(payment) = batch.found.get(&order_id) else { continue };
                match part {
                    Some(part) => refund::part(tx, &self.channels, payment, &part, &wish).await?,
                    None => refund::rest(tx, &self.channels, payment, &wish).await?,
                }
            }
            Ok(outcomes)
        })
    }
}

impl PaymentEvents {
    fn open(&self, tx: &mut Tx, batch: &mut Batch, event: &Event, body: &StockFrozen) -> Result<Outcome, DbError> {
        if let Some(known) = batch.found.get(&body.order_id.0) {
            let why =
                if known.state.status == Status::Closed { "the order was canceled before" } else { "already open" };
            return Ok(Outcome::Ignored(why.to_owned()));
        }
        let payment = PaymentRow {
            id: tx.next_id(),
            order_id: body.order_id.0,
            order_no: body.order_no.chars().take(32).collect(),
            user_id: body.user_id.0,
            state: PaymentState {
                status: Status::Pending,
                amount: body.total_amount,
                currency: CURRENCY.to_owned(),
                merchant_id: body.merchant_id.0,
                transaction_no: None,
            },
            channel_id: body.channel_id.chars().take(64).collect(),
            expire_time: body.expire_time,
            payment_method: None,
            pay_time: None,
            trace: event.trace.clone(),
        };
        if self.channels.submits_on_open(&payment.channel_id) {
            let submit = gateway::submission(&self.channels, &payment, None, tx.now_ms());
            tx.emit(&Draft::new(Kind::CallbackSubmit, payment.order_id, &submit, event.trace.as_deref()))?;
        }
        let now_ms = tx.now_ms();
        tell::count(tx, &self.channels, Type::Submit, &payment, None, now_ms, event.trace.as_deref())?;
        batch.new.insert(payment.order_id);
        batch.found.insert(payment.order_id, payment);
        Ok(Outcome::Done)
    }
}

/// An order whose money goes back: a part of it, or all that is left.
struct Refund {
    order_id: i64,
    part: Option<Part>,
    wish: Wish,
}

/// The payments of a batch, by order.
struct Batch {
    found: HashMap<i64, PaymentRow>,
    new: BTreeSet<i64>,
    changed: BTreeSet<i64>,
}

impl Batch {
    fn canceled(&mut self, tx: &mut Tx, body: &OrderCanceled, event: &Event, refunds: &mut Vec<Refund>) -> Outcome {
        let order_id = body.order_id.0;
        if !self.found.contains_key(&order_id) {
            self.bury(tx, order_id, body.user_id.0);
            return Outcome::Done;
        }
        let reason = if body.cancel_reason.is_empty() { body.cancel_type.name() } else { &body.cancel_reason };
        self.apply(order_id, &Input::OrderCanceled, reason, event, refunds)
    }

    /// Its order is to be canceled, unless it has its money: the answer says which.
    fn close(&mut self, tx: &Tx, order_id: i64, user_id: i64) -> Outcome {
        let Some(payment) = self.found.get_mut(&order_id) else {
            self.bury(tx, order_id, user_id);
            return Outcome::Done;
        };
        let is_closed_now = close::close_one(payment);
        if is_closed_now {
            self.changed.insert(order_id);
        }
        close::outcome(is_closed_now)
    }

    fn bury(&mut self, tx: &Tx, order_id: i64, user_id: i64) {
        self.new.insert(order_id);
        self.found.insert(order_id, close::tombstone(tx, order_id, user_id));
    }

    fn refund(&mut self, body: &RefundRequested, event: &Event, refunds: &mut Vec<Refund>) -> Outcome {
        let order_id = body.order_id.0;
        if !self.found.contains_key(&order_id) {
            return Outcome::Early("the order has no payment yet".to_owned());
        }
        if let Some(RefundId(id)) = body.refund_id {
            return self.part(order_id, id, body, event, refunds);
        }
        self.apply(order_id, &Input::RefundRequested, &body.reason, event, refunds)
    }

    /// A part of the money: whether it is there is seen when it is written, after what came before it.
    fn part(
        &self,
        order_id: i64,
        id: i64,
        body: &RefundRequested,
        event: &Event,
        refunds: &mut Vec<Refund>,
    ) -> Outcome {
        let refused = match self.found.get(&order_id).map(|payment| payment.state.status) {
            None | Some(Status::Pending | Status::Closed) => {
                return Outcome::Early("there is no money to give back yet".to_owned());
            }
            Some(Status::Success) => None,
            Some(Status::Refunding | Status::Refunded) => Some("the order was canceled: all of its money goes back"),
        };
        let wish = Wish { reason: body.reason.clone(), trace: event.trace.clone() };
        refunds.push(Refund { order_id, part: Some(Part { id, amount: body.amount, refused }), wish });
        Outcome::Done
    }

    fn apply(
        &mut self,
        order_id: i64,
        input: &Input,
        reason: &str,
        event: &Event,
        refunds: &mut Vec<Refund>,
    ) -> Outcome {
        let Some(payment) = self.found.get_mut(&order_id) else {
            return Outcome::Early("the order has no payment yet".to_owned());
        };
        let decision = payment::decide(&payment.state, input);
        if let Decision::Apply(next, effects) = &decision {
            payment.state = next.clone();
            self.changed.insert(order_id);
            if effects.contains(&Effect::Refund) {
                let wish = Wish { reason: reason.to_owned(), trace: event.trace.clone() };
                refunds.push(Refund { order_id, part: None, wish });
            }
        }
        Outcome::from(&decision)
    }

    /// Payments that were open before, and are closed now.
    fn closed(&self) -> Vec<&PaymentRow> {
        let before = self.changed.iter().filter(|id| !self.new.contains(id)).filter_map(|id| self.found.get(id));
        before.filter(|payment| payment.state.status == Status::Closed).collect()
    }

    async fn write(&self, tx: &mut Tx) -> Result<(), DbError> {
        let new: Vec<PaymentRow> = self.new.iter().filter_map(|id| self.found.get(id)).cloned().collect();
        payments::insert(tx, &new).await?;
        let changed = self.changed.iter().filter(|id| !self.new.contains(id));
        let changed: Vec<&PaymentRow> = changed.filter_map(|id| self.found.get(id)).collect();
        payments::update(tx, &changed).await
    }
}

/// `callback-submit-consumer-group`: submits open payments to channels that want them at once.
#[derive(Clone, Debug)]
pub struct CallbackSubmits {
    /// The channels.
    pub channels: Channels,
}

impl Handler for CallbackSubmits {
    fn group(&self) -> Group {
        Group::CallbackSubmit
    }

    fn handle<'a>(&'a self, tx: &'a mut Tx, events: &'a [Event]) -> BoxFuture<'a, Result<Vec<Outcome>, DbError>> {
        Box::pin(async move {
            let mut outcomes = Vec::with_capacity(events.len());
            let bodies: Vec<Result<CallbackSubmit, Outcome>> = events.iter().map(Event::read).collect();
            let id_of = |body: &CallbackSubmit| body.order_no.parse::<i64>().unwrap_or(0);
            let found = payments::lock_by_id(tx, bodies.iter().flatten().map(id_of).collect()).await?;
            let mut calls = Vec::new();
            for body in bodies {
                outcomes.push(match body {
                    Err(outcome) => outcome,
                    Ok(body) => match found.get(&id_of(&body)) {
                        // Other systems name their own payments on this topic; ours are numbers.
                        None if id_of(&body) == 0 => {
                            Outcome::Ignored(format!("{} is no payment of this system", body.order_no))
                        }
                        None => Outcome::Early(format!("there is no payment {}", body.order_no)),
                        Some(payment) if payment.state.status != Status::Pending => {
                            Outcome::Ignored("no longer waiting for the payer".to_owned())
                        }
                        Some(payment) => {
                            calls.push(submit_call(tx, &self.channels, payment)?);
                            calls.extend(query::question(tx, &self.channels, payment)?);
                            Outcome::Done
                        }
                    },
                });
            }
            // Its payer may have had it submitted already.
            delivery::insert(tx, &calls).await?.or_known();
            Ok(outcomes)
        })
    }
}

fn submit_call(tx: &Tx, channels: &Channels, payment: &PaymentRow) -> Result<Delivery, DbError> {
    Ok(Delivery {
        id: tx.next_id(),
        kind: delivery::Kind::ChannelSubmit,
        reference: payment.id.to_string(),
        order_id: payment.business_id(),
        url: channels.url(&payment.channel_id, "pay"),
        body: Channels::submission(payment, "", None, None)?,
        attempts: 0,
        next_at: tx.now_ms(),
        trace: payment.trace.clone(),
    })
}
