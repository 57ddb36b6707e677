//! `order-data-sync-consumer-group`: the picture of all orders that is searched. Versions tell what is newer, so events
//! that are late, repeated or out of order change nothing.

use futures_util::future::BoxFuture;

use crate::db::{DbError, Tx, order_view};
use crate::domain::event::{Group, OrderDataSync};
use crate::mq::{Event, Handler, Outcome};

/// `order-data-sync-consumer-group`.
#[derive(Clone, Copy, Debug, Default)]
pub struct OrderDataSyncs;

impl Handler for OrderDataSyncs {
    fn group(&self) -> Group {
        Group::OrderDataSync
    }

    fn handle<'a>(&'a self, tx: &'a mut Tx, events: &'a [Event]) -> BoxFuture<'a, Result<Vec<Outcome>, DbError>> {
        Box::pin(async move {
            let bodies: Vec<Result<OrderDataSync, Outcome>> = events.iter().map(read).collect();
            let told: Vec<OrderDataSync> = bodies.iter().flatten().cloned().collect();
            let known = order_view::learn(tx, &told).await?;
            let outcomes = bodies.into_iter().map(|body| match body {
                Err(outcome) => outcome,
                Ok(one) if known.get(&one.order_id.0) == Some(&one.version) => Outcome::Done,
                Ok(_) => Outcome::Ignored("a newer version is known".to_owned()),
            });
            Ok(outcomes.collect())
        })
    }
}

fn read(event: &Event) -> Result<OrderDataSync, Outcome> {
    let body: OrderDataSync = event.read()?;
    let fits = |text: &str, most: usize| text.chars().count() <= most;
    let skus = body.product_quantity_map.iter().flat_map(|lines| lines.keys());
    let texts = [
        (&body.order_no, 32),
        (&body.currency, 3),
        (&body.channel_id, 64),
        (&body.remark, 500),
        (&body.cancel_reason, 500),
    ];
    let all = texts.into_iter().chain(skus.map(|sku| (sku, 64)));
    if body.version < 1 || !all.into_iter().all(|(text, most)| fits(text, most)) {
        return Err(Outcome::Reject("a version from 1 on and texts of the usual lengths are needed".to_owned()));
    }
    Ok(body)
}
