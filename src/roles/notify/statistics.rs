//! Counting payments by day.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;

use crate::db::statistics::{self, Key, Sum};
use crate::db::{DbError, Tx};
use crate::domain::event::{DayStatistics, Group};
use crate::domain::statistics::{Type, parse_day};
use crate::mq::{Event, Handler, Outcome};

/// Longest product, channel and tenant, in characters.
const NAME_MAX: usize = 64;
/// Longest extra argument, in characters.
const EXTRA_MAX: usize = 200;

/// `day-statistics-consumer-group`: counts each event once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Statistics;

impl Handler for Statistics {
    fn group(&self) -> Group {
        Group::DayStatistics
    }

    fn handle<'a>(&'a self, tx: &'a mut Tx, events: &'a [Event]) -> BoxFuture<'a, Result<Vec<Outcome>, DbError>> {
        Box::pin(async move {
            // One write for each line that a batch adds to, in the order of keys: batches wait for each other, and never
            // in a circle.
            let mut sums: BTreeMap<Key, Sum> = BTreeMap::new();
            let mut outcomes = Vec::with_capacity(events.len());
            for event in events {
                outcomes.push(match event.read::<DayStatistics>().and_then(|body| Ok((key(&body)?, body))) {
                    Err(outcome) => outcome,
                    Ok((key, body)) => {
                        let kind = key.kind;
                        sums.entry(key).or_default().add(kind, body.money.minor(), &body.extra_arg);
                        Outcome::Done
                    }
                });
            }
            statistics::add(tx, &sums).await?;
            Ok(outcomes)
        })
    }
}

fn key(body: &DayStatistics) -> Result<Key, Outcome> {
    let reject = |why: String| Err(Outcome::Reject(why));
    let Some(kind) = Type::from_name(&body.statistics_type) else {
        return reject("statistics_type must be SUBMIT or SUCCESS".to_owned());
    };
    let Some(date) = parse_day(&body.date) else {
        return reject("date must be a day like 2026-01-31".to_owned());
    };
    let names = [("product_id", &body.product_id), ("channel_id", &body.channel_id), ("tenant_id", &body.tenant_id)];
    for (name, text) in names {
        // Databases differ in what they make of blanks at the end of a key.
        if text.chars().count() > NAME_MAX || text.ends_with(char::is_whitespace) {
            return reject(format!("{name} must have at most {NAME_MAX} characters, and no blank at its end"));
        }
    }
    if body.extra_arg.chars().count() > EXTRA_MAX {
        return reject(format!("extra_arg must have at most {EXTRA_MAX} characters"));
    }
    let (product_id, channel_id) = (body.product_id.clone(), body.channel_id.clone());
    Ok(Key { date, product_id, channel_id, tenant_id: body.tenant_id.clone(), kind })
}
