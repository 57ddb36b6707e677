//! What the payment role knows of merchants.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;

use crate::db::merchants;
use crate::db::{DbError, Tx};
use crate::domain::event::{Group, MerchantChanged};
use crate::mq::{Event, Handler, Outcome};

/// `merchant-sync-consumer-group`: keeps the latest state of each merchant, in whichever order they come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Merchants;

impl Handler for Merchants {
    fn group(&self) -> Group {
        Group::MerchantSync
    }

    fn handle<'a>(&'a self, tx: &'a mut Tx, events: &'a [Event]) -> BoxFuture<'a, Result<Vec<Outcome>, DbError>> {
        Box::pin(async move {
            let bodies: Vec<Result<MerchantChanged, Outcome>> = events.iter().map(Event::read).collect();
            let ids = bodies.iter().flatten().map(|body| body.merchant_id.0).collect();
            let mut known = merchants::lock_accounts(tx, ids).await?;
            let mut changed = BTreeMap::new();
            let mut outcomes = Vec::with_capacity(events.len());
            for body in bodies {
                outcomes.push(match body {
                    Err(outcome) => outcome,
                    Ok(body) if known.get(&body.merchant_id.0).is_some_and(|last| last.version >= body.version) => {
                        Outcome::Ignored("a later state is known".to_owned())
                    }
                    Ok(body) => {
                        known.insert(body.merchant_id.0, body.clone());
                        changed.insert(body.merchant_id.0, body);
                        Outcome::Done
                    }
                });
            }
            let changed: Vec<&MerchantChanged> = changed.values().collect();
            merchants::put_accounts(tx, &changed).await?;
            Ok(outcomes)
        })
    }
}
