//! The time to pay, as a message that the broker holds (`order.timeout.via = "broker"`).
//!
//! `PAY_TIMEOUT_DELAY` leaves with the order and comes back when the time is over. What is further away than the
//! brokers' timer goes in hops. The walk ([`super::timeout`]) comes a moment later, as the safety net.

use std::collections::HashSet;

use futures_util::future::BoxFuture;

use super::cancel::{Cancels, Wanted};
use super::events::outcomes;
use super::timeout;
use crate::config::{Config, TimeoutVia};
use crate::db::orders::{self, OrderRow};
use crate::db::tx::{Draft, Holder};
use crate::db::{DbError, Tx, outbox};
use crate::domain::event::{Group, Kind, PayTimeoutDelay};
use crate::domain::id::OrderId;
use crate::domain::order::Status;
use crate::mq::{Event, Handler, Outcome};

/// Sends the message, hop by hop.
#[derive(Clone, Copy, Debug)]
pub struct Reminders {
    /// How far ahead the brokers' timer takes a message.
    max_delay_ms: i64,
}

impl Reminders {
    /// As configured; `None` when the walk alone does it.
    #[must_use]
    pub fn of(config: &Config) -> Option<Self> {
        (config.order.timeout.via == TimeoutVia::Broker).then(|| Self::new(config))
    }

    fn new(config: &Config) -> Self {
        Self { max_delay_ms: config.mq.producer.max_delay.ms() }
    }

    /// The message of a new order.
    ///
    /// # Errors
    /// As [`Tx::emit`].
    pub fn first(self, tx: &mut Tx, order: &OrderRow, trace: Option<&str>) -> Result<(), DbError> {
        self.send(tx, order, 1, trace)
    }

    /// The `hop`-th message (from 1) of an order. As many as its time to pay takes are the broker's; one beyond that
    /// follows a message that came early (a broker whose clock is ahead of ours), and another round through the same
    /// broker would come back at once: the outbox holds it.
    fn send(self, tx: &mut Tx, order: &OrderRow, hop: i64, trace: Option<&str>) -> Result<(), DbError> {
        let time_to_pay_ms = (order.expire_time - order.created_at).max(1);
        let by_broker = hop <= (time_to_pay_ms + self.max_delay_ms - 1) / self.max_delay_ms;
        let body = PayTimeoutDelay { order_id: OrderId(order.id), expire_time: order.expire_time };
        let number = hop.to_string();
        let draft = Draft::new(Kind::PayTimeoutDelay, order.id, &body, trace);
        tx.emit(&Draft {
            discriminator: if hop == 1 { "" } else { &number },
            deliver_at: if by_broker {
                order.expire_time.min(tx.now_ms() + self.max_delay_ms)
            } else {
                order.expire_time
            },
            held_by: if by_broker { Holder::Broker } else { Holder::Outbox },
            ..draft
        })
    }
}

/// `pay-timeout-consumer-group`: cancels orders whose time to pay is over.
#[derive(Clone, Copy, Debug)]
pub struct PayTimeouts {
    reminders: Reminders,
    cancels: Cancels,
}

/// What becomes of one message.
enum Plan {
    Settled(Outcome),
    Cancel(i64, Wanted),
}

impl PayTimeouts {
    /// As configured. It runs with either setting: messages that were sent before the setting was changed come too.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self { reminders: Reminders::new(config), cancels: Cancels::of(config) }
    }

    async fn check(&self, tx: &mut Tx, events: &[Event]) -> Result<Vec<Outcome>, DbError> {
        let bodies: Vec<Result<PayTimeoutDelay, Outcome>> = events.iter().map(Event::read).collect();
        let found = orders::lock(tx, bodies.iter().flatten().map(|body| body.order_id.0).collect()).await?;
        let now_ms = tx.now_ms();
        let is_early = |order: &&OrderRow| {
            matches!(order.state.status, Status::Created | Status::Reserved) && order.expire_time > now_ms
        };
        let order_of = |body: &PayTimeoutDelay| found.get(&body.order_id.0);
        let early = events.iter().zip(&bodies).filter_map(|(event, body)| {
            let order = body.as_ref().ok().and_then(order_of).filter(is_early)?;
            Some(next_id(event, order.id))
        });
        let mut known = outbox::existing(tx, early.collect()).await?;
        let mut plans = Vec::with_capacity(events.len());
        for (event, body) in events.iter().zip(bodies) {
            plans.push(match body {
                Err(outcome) => Plan::Settled(outcome),
                Ok(body) => match order_of(&body) {
                    None => Plan::Settled(Outcome::Early(format!("there is no order {}", body.order_id))),
                    Some(order) if is_early(&order) => Plan::Settled(self.again(tx, event, order, &mut known)?),
                    // What is no longer open is decided where every cancel is.
                    Some(order) => Plan::Cancel(order.id, timeout::cancel(order.id, event.trace.clone())),
                },
            });
        }
        settle(tx, self.cancels, plans).await
    }

    /// A message that came before its time.
    fn again(
        &self,
        tx: &mut Tx,
        event: &Event,
        order: &OrderRow,
        known: &mut HashSet<String>,
    ) -> Result<Outcome, DbError> {
        // A copy under another id (an operator's, another system's) must not start a second chain.
        if !known.insert(next_id(event, order.id)) {
            return Ok(Outcome::Ignored("too early, and its next hop is under way".to_owned()));
        }
        self.reminders.send(tx, order, hop_of(&event.id) + 1, event.trace.as_deref())?;
        Ok(Outcome::Done)
    }
}

impl Handler for PayTimeouts {
    fn group(&self) -> Group {
        Group::PayTimeout
    }

    fn handle<'a>(&'a self, tx: &'a mut Tx, events: &'a [Event]) -> BoxFuture<'a, Result<Vec<Outcome>, DbError>> {
        Box::pin(self.check(tx, events))
    }
}

/// Cancels what is to be canceled; one outcome for each plan.
async fn settle(tx: &mut Tx, cancels: Cancels, plans: Vec<Plan>) -> Result<Vec<Outcome>, DbError> {
    let wanted: Vec<Wanted> = plans
        .iter()
        .filter_map(|plan| match plan {
            Plan::Cancel(_, wanted) => Some(wanted.clone()),
            Plan::Settled(_) => None,
        })
        .collect();
    let moved = cancels.advance(tx, &wanted).await?;
    let orders = plans.into_iter().map(|plan| match plan {
        Plan::Settled(outcome) => Err(outcome),
        Plan::Cancel(order_id, _) => Ok(order_id),
    });
    Ok(outcomes(orders, moved))
}

/// The id of the hop after this one.
fn next_id(event: &Event, order_id: i64) -> String {
    format!("{}:{}", Kind::PayTimeoutDelay.event_id(order_id), hop_of(&event.id) + 1)
}

/// Which hop a message is, from its event id: `<order>:PAY_TIMEOUT_DELAY[:<hop>]`. Ids of other systems count as 1.
fn hop_of(event_id: &str) -> i64 {
    let (_, last) = event_id.rsplit_once(':').unwrap_or_default();
    last.parse().ok().filter(|hop| (1..=1_000).contains(hop)).unwrap_or(1)
}
