//! Points that systems outside grant: one record for each event.

use std::collections::HashSet;

use crate::db::points::{self, Record, Source};
use crate::db::{DbError, Tx};
use crate::domain::event::{Kind, PointsGrant};
use crate::domain::points::{Kind as Change, MOST};
use crate::mq::{Event, Outcome};

/// The grants of a batch.
pub(super) struct Gifts {
    known: HashSet<String>,
    records: Vec<Record>,
    sources: Vec<Source>,
}

impl Gifts {
    /// Looks up which of the events have been granted before: the inbox does not remember for ever.
    pub async fn of(tx: &mut Tx, events: &[Event]) -> Result<Self, DbError> {
        let ids = events.iter().filter(|event| event.kind == Kind::PointsGrant).map(|event| event.id.clone());
        let known = points::known_sources(tx, ids.collect()).await?;
        Ok(Self { known, records: Vec::new(), sources: Vec::new() })
    }

    /// Takes an event in.
    pub fn take(&mut self, tx: &Tx, event: &Event, body: &PointsGrant) -> Outcome {
        if !(1..=MOST).contains(&body.points) {
            return Outcome::Reject(format!("points must be 1 to {MOST}"));
        }
        if event.id.len() > 200 {
            return Outcome::Reject("the event id has more than 200 bytes".to_owned());
        }
        if !self.known.insert(event.id.clone()) {
            return Outcome::Ignored("already granted".to_owned());
        }
        let (record_id, order_id) = (tx.next_id(), body.order_id.map(|id| id.0));
        let user_id = body.user_id.0;
        self.records.push(Record { order_id: record_id, kind: Change::Gift, user_id, points: body.points });
        self.sources.push(Source { record_id, source: event.id.clone(), order_id, reason: String::new() });
        Outcome::Done
    }

    /// Writes what was taken in.
    pub async fn write(self, tx: &mut Tx) -> Result<(), DbError> {
        points::apply(tx, &self.records).await?;
        points::note_sources(tx, &self.sources).await
    }
}
