//! `inventory-sync-consumer-group`: what the order role knows of stock. It is a picture some moments old, good for
//! showing and for turning away hopeless orders; whether an order gets its pieces is decided by the freeze.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;

use crate::db::{DbError, Tx, availability};
use crate::domain::event::{Group, InventorySync};
use crate::domain::id::Sku;
use crate::mq::{Event, Handler, Outcome};

/// `inventory-sync-consumer-group`.
#[derive(Clone, Copy, Debug, Default)]
pub struct InventorySyncs;

impl Handler for InventorySyncs {
    fn group(&self) -> Group {
        Group::InventorySync
    }

    fn handle<'a>(&'a self, tx: &'a mut Tx, events: &'a [Event]) -> BoxFuture<'a, Result<Vec<Outcome>, DbError>> {
        Box::pin(async move {
            let bodies: Vec<Result<InventorySync, Outcome>> = events.iter().map(read).collect();
            let told: Vec<InventorySync> = bodies.iter().flatten().cloned().collect();
            let mut learned: BTreeMap<String, i64> = availability::learn(tx, &told).await?;
            let outcomes = bodies.into_iter().map(|body| match body {
                Err(outcome) => outcome,
                Ok(one) if learned.get(&one.sku) == Some(&one.version) => {
                    learned.remove(&one.sku);
                    Outcome::Done
                }
                Ok(_) => Outcome::Ignored("something newer is known".to_owned()),
            });
            Ok(outcomes.collect())
        })
    }
}

fn read(event: &Event) -> Result<InventorySync, Outcome> {
    let body: InventorySync = event.read()?;
    if body.sku.parse::<Sku>().is_err() || body.version < 0 {
        return Err(Outcome::Reject("a sku and a version from 0 on are needed".to_owned()));
    }
    Ok(body)
}
