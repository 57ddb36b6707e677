//! What belongs to which role: handlers, outgoing calls, and what follows from these.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::Config;
use crate::db::delivery::Kind as Call;
use crate::delivery::{Effects, Said, Settled, Verdict};
use crate::domain::event::Role;
use crate::domain::notice::Way;
use crate::mq::Handler;
use crate::roles::payment::channels::Channels;
use crate::roles::payment::refund::GivenUp;
use crate::roles::{notify, order, payment, stock};

/// The handlers of the consumer groups of `roles`.
#[must_use]
pub fn handlers(config: &Config, roles: &[Role]) -> Vec<Arc<dyn Handler>> {
    let channels = Channels::of(config);
    // Whoever makes the call and knows a warehouse calls that one: see `delivery::Providers`.
    let warehouse_url = config.warehouse.url().unwrap_or_else(|| "/sandbox/warehouse/orders".to_owned());
    let outlets = notify::notices::Outlets::new(&config.notices);
    let mut all: Vec<Arc<dyn Handler>> = Vec::new();
    for role in roles {
        match role {
            Role::Order => {
                all.push(Arc::new(order::events::OrderEvents { cancels: order::cancel::Cancels::of(config) }));
                all.push(Arc::new(order::availability::InventorySyncs));
                all.push(Arc::new(order::events::PaidOrders { cool_off_ms: config.order.fulfil.after.ms() }));
                all.push(Arc::new(order::events::Fulfilments { warehouse_url: warehouse_url.clone() }));
                all.push(Arc::new(order::pay_timeout::PayTimeouts::new(config)));
            }
            Role::Payment => {
                all.push(Arc::new(payment::events::PaymentEvents { channels: channels.clone() }));
                all.push(Arc::new(payment::events::CallbackSubmits { channels: channels.clone() }));
                all.push(Arc::new(payment::merchants::Merchants));
            }
            Role::Stock => all.push(Arc::new(stock::events::StockEvents)),
            Role::Notify => {
                all.push(Arc::new(notify::events::PointsEvents));
                all.push(Arc::new(notify::events::NotificationEvents { outlets: outlets.clone() }));
                all.extend(Way::ALL.map(|way| outlets.handler(way)));
                all.push(Arc::new(notify::merchants::OrderNotifies));
                all.push(Arc::new(notify::statistics::Statistics));
                all.push(Arc::new(notify::order_view::OrderDataSyncs));
            }
        }
    }
    all
}

/// What follows from outgoing calls: refunds are settled by the channel's answer, payments that it says are paid are, and
/// orders that the warehouse will not send are canceled.
#[must_use]
pub fn effects(config: &Config) -> Effects {
    let channels = Channels::of(config);
    Arc::new(move |tx, settled| {
        let channels = channels.clone();
        Box::pin(async move {
            let (mut done, mut failed) = (HashMap::new(), HashMap::new());
            for one in settled.iter().filter(|one| one.delivery.kind == Call::ChannelRefund) {
                let Ok(refund_id) = one.delivery.reference.parse::<i64>() else { continue };
                let (trace, error) = (one.delivery.trace.clone(), one.error.clone().unwrap_or_default());
                match one.verdict {
                    Verdict::Delivered => drop(done.insert(refund_id, trace)),
                    verdict => {
                        let refused = verdict == Verdict::Refused;
                        failed.insert(refund_id, GivenUp { error, refused, trace });
                    }
                }
            }
            let no = |one: &Settled| match &one.said {
                Some(Said::Declined(why)) if one.delivery.kind == Call::Warehouse => {
                    Some((one.delivery.order_id, (why.clone(), one.delivery.trace.clone())))
                }
                _ => None,
            };
            order::refusal::tell(tx, &settled.iter().filter_map(no).collect()).await?;
            payment::query::settle(tx, &channels, settled).await?;
            if !done.is_empty() {
                payment::refund::settle(tx, &done).await?;
            }
            if !failed.is_empty() {
                payment::refund::give_up(tx, &channels, &failed).await?;
            }
            payment::doubt::settle(tx, &channels, settled).await
        })
    })
}

/// The kinds of calls that `roles` make.
#[must_use]
pub fn calls(roles: &[Role]) -> Vec<Call> {
    Call::ALL.into_iter().filter(|kind| kind.role().is_some_and(|role| roles.contains(&role))).collect()
}
