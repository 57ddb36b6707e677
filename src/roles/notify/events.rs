//! What the notify role does with events.

use std::collections::HashMap;

use futures_util::future::BoxFuture;
use serde_json::json;

use super::gifts::Gifts;
use super::notices::{Outlets, Told};
use super::{merchants, points_of};
use crate::db::notification::{self, Notification};
use crate::db::points::{self, Reversal};
use crate::db::{DbError, Tx};
use crate::domain::event::{
    Fulfilment, Group, Kind, OrderCanceled, OrderNotification, PaidOrderSuccess, PointsGrant, RefundKind, RefundSuccess,
};
use crate::domain::id::{OrderId, UserId};
use crate::domain::money::Money;
use crate::domain::points as domain;
use crate::mq::{Event, Handler, Outcome};

/// `points-consumer-group`: grants points, and takes them back with the money.
#[derive(Clone, Copy, Debug, Default)]
pub struct PointsEvents;

enum Change {
    Grant { order_id: i64, user_id: i64, points: i64 },
    Reverse { order_id: i64, refund: Reversal },
    Gift(PointsGrant),
}

impl Change {
    /// The order that earned or loses them; a gift is tied to none.
    fn order_id(&self) -> Option<i64> {
        match self {
            Self::Grant { order_id, .. } | Self::Reverse { order_id, .. } => Some(*order_id),
            Self::Gift(_) => None,
        }
    }
}

fn change(event: &Event) -> Result<Change, Outcome> {
    match event.kind {
        Kind::PaidOrderSuccess => {
            let body: PaidOrderSuccess = event.read()?;
            let points = domain::earned(body.pay_amount);
            Ok(Change::Grant { order_id: body.order_id.0, user_id: body.user_id.0, points })
        }
        Kind::RefundSuccess => {
            let body: RefundSuccess = event.read()?;
            if body.kind == RefundKind::Extra {
                return Err(Outcome::Ignored("money paid twice earned nothing".to_owned()));
            }
            let amount = body.amount.minor();
            let paid = body.paid_amount.map_or(amount, Money::minor);
            let (refund_id, order_id) = (body.refund_id.0, body.order_id.0);
            Ok(Change::Reverse { order_id, refund: Reversal { refund_id, order_id, amount, paid } })
        }
        Kind::PointsGrant => event.read().map(Change::Gift),
        other => Err(Outcome::Reject(format!("{} does not change points", other.name()))),
    }
}

impl Handler for PointsEvents {
    fn group(&self) -> Group {
        Group::Points
    }

    fn handle<'a>(&'a self, tx: &'a mut Tx, events: &'a [Event]) -> BoxFuture<'a, Result<Vec<Outcome>, DbError>> {
        Box::pin(async move {
            let changes: Vec<Result<Change, Outcome>> = events.iter().map(change).collect();
            let ids: Vec<i64> = changes.iter().flatten().filter_map(Change::order_id).collect();
            // A grant and a refund that are handled at the same moment end as if one had come after the other.
            let records = points::lock_of_orders(tx, ids.clone()).await?;
            let reversals = points::reversals(tx, ids).await?;
            let mut batch = points_of::Batch::new(records, reversals);
            let mut gifts = Gifts::of(tx, events).await?;
            let outcomes = events.iter().zip(changes).map(|(event, change)| match change {
                Err(outcome) => outcome,
                Ok(Change::Gift(body)) => gifts.take(tx, event, &body),
                Ok(Change::Grant { order_id, user_id, points }) => batch.grant(order_id, user_id, points),
                Ok(Change::Reverse { order_id, refund }) => batch.reverse(order_id, refund),
            });
            let outcomes = outcomes.collect();
            batch.write(tx).await?;
            gifts.write(tx).await?;
            Ok(outcomes)
        })
    }
}

/// `notification-consumer-group`: tells users, inside the application, and has them told outside of it.
#[derive(Clone, Debug)]
pub struct NotificationEvents {
    /// By which ways, and what.
    pub outlets: Outlets,
}

/// A message about to be written; the user may have to be looked up by the order.
struct Message {
    user_id: Option<i64>,
    order_id: i64,
    template: String,
    params: serde_json::Value,
}

fn message(event: &Event) -> Result<Message, Outcome> {
    let known = |user_id: UserId, order_id: i64, template: &str, params| {
        Ok(Message { user_id: Some(user_id.0), order_id, template: template.to_owned(), params })
    };
    match event.kind {
        Kind::PaidOrderSuccess => {
            let body: PaidOrderSuccess = event.read()?;
            known(body.user_id, body.order_id.0, "ORDER_PAY_SUCCESS", json!({ "amount": body.pay_amount }))
        }
        Kind::OrderCanceled => {
            let body: OrderCanceled = event.read()?;
            let params = json!({ "by": body.cancel_type, "reason": body.cancel_reason });
            known(body.user_id, body.order_id.0, "ORDER_CANCELED", params)
        }
        Kind::OrderNotification => {
            let body: OrderNotification = event.read()?;
            if body.template.is_empty() || body.template.len() > 64 {
                return Err(Outcome::Reject("template must have 1 to 64 characters".to_owned()));
            }
            known(body.user_id, body.order_id.0, &body.template, body.params)
        }
        Kind::RefundSuccess => {
            let body: RefundSuccess = event.read()?;
            Ok(Message {
                user_id: body.user_id.map(|id| id.0),
                order_id: body.order_id.0,
                template: "ORDER_REFUNDED".to_owned(),
                params: json!({ "amount": body.amount }),
            })
        }
        Kind::OrderFulfillSuccess | Kind::OrderOutStock | Kind::OrderDelivery | Kind::OrderSigned => {
            let body: Fulfilment = event.read()?;
            Ok(Message {
                // Only ours name the user.
                user_id: body.user_id.map(|id| id.0),
                order_id: body.order_id.0,
                template: event.kind.name().to_owned(),
                params: json!({ "carrier": body.carrier, "trackingNo": body.tracking_no }),
            })
        }
        other => Err(Outcome::Reject(format!("{} tells nobody anything", other.name()))),
    }
}

impl Handler for NotificationEvents {
    fn group(&self) -> Group {
        Group::Notification
    }

    fn handle<'a>(&'a self, tx: &'a mut Tx, events: &'a [Event]) -> BoxFuture<'a, Result<Vec<Outcome>, DbError>> {
        Box::pin(async move {
            let messages: Vec<Result<Message, Outcome>> = events.iter().map(message).collect();
            let unknown = messages.iter().flatten().filter(|message| message.user_id.is_none());
            let unknown: Vec<i64> = unknown.map(|message| message.order_id).collect();
            let mut users: HashMap<i64, i64> = notification::users_of_orders(tx, unknown).await?;
            // Of a message that another system asks for, nobody says that it is for the user of the order.
            let of_ours = events.iter().zip(&messages).filter(|(event, _)| event.kind != Kind::OrderNotification);
            for message in of_ours.filter_map(|(_, message)| message.as_ref().ok()) {
                if let Some(user) = message.user_id {
                    users.entry(message.order_id).or_insert(user);
                }
            }
            let (mut rows, mut told) = (Vec::new(), Vec::new());
            let mut outcomes = Vec::with_capacity(events.len());
            for (event, message) in events.iter().zip(messages) {
                outcomes.push(match message {
                    Err(outcome) => outcome,
                    Ok(message) => match message.user_id.or_else(|| users.get(&message.order_id).copied()) {
                        None => Outcome::Early("it is not known yet whose order this is".to_owned()),
                        Some(user_id) => {
                            told.push(Told {
                                event,
                                body: OrderNotification {
                                    user_id: UserId(user_id),
                                    order_id: OrderId(message.order_id),
                                    template: message.template.clone(),
                                    params: message.params.clone(),
                                },
                            });
                            rows.push(Notification {
                                event_id: event.id.clone(),
                                user_id,
                                order_id: message.order_id,
                                template: message.template,
                                params: message.params.to_string(),
                            });
                            Outcome::Done
                        }
                    },
                });
            }
            notification::insert(tx, &rows).await?;
            let done = events.iter().zip(&outcomes).filter(|(_, outcome)| **outcome == Outcome::Done);
            merchants::tell(tx, done.map(|(event, _)| event)).await?;
            self.outlets.pass_on(tx, told).await?;
            Ok(outcomes)
        })
    }
}
