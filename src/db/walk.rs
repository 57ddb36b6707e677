//! Walks over rows go on, whatever one row holds.
//!
//! All of them do the same: take a batch, and do it in one transaction. A batch that fails for a reason of its own is
//! done in halves until what fails stands alone. That one is set aside for a while, and people are told. What somebody
//! else has locked is no fault of its row: it stays where it is, and comes up again with the next look.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::pace::Hurry;
use super::retry::shorten;
use super::sql::{self, Val};
use super::{Db, DbError, Tx};
use crate::alert::{Alert, without_values};

/// For so long a row that cannot be moved is left alone, ms. It is not given up: somebody may mend what is in its way.
pub const ASIDE_MS: i64 = 600_000;

/// The walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    /// Rows of the outbox that were left behind.
    Outbox,
    /// Parked messages.
    Retries,
    /// Outgoing calls.
    Deliveries,
    /// Orders whose time to pay is over.
    Timeouts,
    /// Levels of stock that are to be told.
    StockSync,
    /// Payments whose submission came without a question to the channel.
    ChannelQueries,
}

impl Walk {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Outbox, Self::Retries, Self::Deliveries, Self::Timeouts, Self::StockSync, Self::ChannelQueries];

    /// As people are told.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Outbox => "outbox sweep",
            Self::Retries => "retry lane",
            Self::Deliveries => "deliveries",
            Self::Timeouts => "timeouts",
            Self::StockSync => "stock sync",
            Self::ChannelQueries => "channel queries",
        }
    }

    /// The table that it walks over.
    fn table(self) -> &'static str {
        match self {
            Self::Outbox => "message_record",
            Self::Retries => "message_retry_log",
            Self::Deliveries => "delivery",
            Self::Timeouts => "orders",
            Self::StockSync => "stock",
            Self::ChannelQueries => "payment_record",
        }
    }

    /// The name of its transactions.
    #[must_use]
    pub fn transaction(self) -> &'static str {
        match self {
            Self::Outbox => "outbox_claim",
            Self::Retries => "retry",
            Self::Deliveries => "delivery_result",
            Self::Timeouts => "timeout",
            Self::StockSync => "stock_sync",
            Self::ChannelQueries => "channel_query",
        }
    }

    /// What sets a row aside: binds the time and the key, and in between why, where the table has a place for it.
    fn statement(self) -> Option<(&'static str, bool)> {
        match self {
            Self::Outbox => {
                Some(("UPDATE message_record SET next_at = ?, last_error = ? WHERE id = ? AND status = 0", true))
            }
            Self::Retries => Some((
                "UPDATE message_retry_log SET next_at = ?, leased_until = NULL, last_error = ? WHERE id = ? AND status = 0",
                true,
            )),
            Self::Deliveries => {
                Some(("UPDATE delivery SET next_at = ?, last_error = ? WHERE id = ? AND status = 0", true))
            }
            Self::Timeouts => Some(("UPDATE orders SET due_at = ? WHERE id = ? AND due_at IS NOT NULL", false)),
            // It counts as told then, and so it is due again one interval later.
            Self::StockSync => Some(("UPDATE stock SET synced_at = ? WHERE sku = ?", false)),
            // That walk goes by time, and comes by once.
            Self::ChannelQueries => None,
        }
    }
}

/// Sets a row aside for [`ASIDE_MS`]. Each time is a line in the log, and the first one a call to the webhook.
///
/// # Errors
/// The database's.
pub async fn set_aside(tx: &mut Tx, walk: Walk, key: Val, business_id: &str, why: &DbError) -> Result<(), DbError> {
    let (now_ms, why) = (tx.now_ms(), why.to_string());
    let row = key.to_string();
    let until = now_ms + ASIDE_MS;
    if let Some((text, has_reason)) = walk.statement() {
        let reason = has_reason.then(|| Val::Text(shorten(&why)));
        let vals = std::iter::once(Val::Int(until)).chain(reason).chain([key]).collect();
        sql::execute(tx, text, vals).await?;
    }

    let table = walk.table();
    let alert = Alert::SetAside {
        walk: walk.name().to_owned(),
        table: table.to_owned(),
        row: row.clone(),
        business_id: business_id.to_owned(),
        error_message: without_values(&why),
        alert_time: now_ms,
        again_at: walk.statement().map(|_| until),
    };
    tx.alert(format!("aside:{table}:{row}"), alert);
    Ok(())
}

/// As [`set_aside`], in a transaction of its own. A row stays where it is when nothing is wrong with it, as one that somebody
/// has locked, or when it cannot be set aside: why.
///
/// # Errors
/// An outage.
pub async fn put_aside(db: &Db, walk: Walk, row: (Val, String), why: DbError) -> Result<Option<DbError>, DbError> {
    let key = row.0.to_string();
    if why.is_passing() {
        tracing::warn!(walk = walk.name(), row = key, error = %why, "a row is left for later");
        return Ok(Some(why));
    }
    let (row, why) = (Arc::new(row), Arc::new(why));
    let written = db.write(walk.transaction(), move |tx| {
        let (row, why) = (Arc::clone(&row), Arc::clone(&why));
        Box::pin(async move { set_aside(tx, walk, row.0.clone(), &row.1, &why).await })
    });
    match written.await {
        Ok(()) => Ok(None),
        Err(error) if error.is_outage() => Err(error),
        Err(error) => {
            tracing::error!(walk = walk.name(), row = key, %error, "a row cannot be set aside");
            Ok(Some(error))
        }
    }
}

/// What a walk has come to over its items.
#[derive(Debug)]
pub struct Walked<R> {
    /// What the transactions have answered.
    pub done: Vec<R>,
    /// How many items were set aside.
    pub aside: usize,
    /// Why items were left where they are, if any were.
    pub left: Option<DbError>,
}

/// Does `items` of a walk in its transactions, and sets aside what fails by itself; `row` says the key of an item, and
/// its business key.
///
/// # Errors
/// An outage: what was done until then is done.
pub async fn over<T, R, W>(
    (db, hurry): (&Db, &Hurry),
    walk: Walk,
    items: Vec<T>,
    row: impl Fn(&T) -> (Val, String),
    work: W,
) -> Result<Walked<R>, DbError>
where
    T: Clone + Send + Sync + 'static,
    R: Send + 'static,
    W: for<'t> Fn(&'t mut Tx, Arc<Vec<T>>) -> BoxFuture<'t, Result<R, DbError>> + Clone + Send + Sync + 'static,
{
    let together = |items: Arc<Vec<T>>| {
        let work = work.clone();
        db.write(walk.transaction(), move |tx| work(tx, Arc::clone(&items)))
    };
    let halved = halve(hurry, items, together).await;
    let mut walked = Walked { done: halved.done, aside: 0, left: None };
    for (item, why) in halved.failed {
        match put_aside(db, walk, row(&item), why).await? {
            Some(why) => walked.left = Some(why),
            None => walked.aside += 1,
        }
    }
    match halved.outage {
        Some((error, _)) => Err(error),
        None => Ok(walked),
    }
}

/// What became of a batch.
#[derive(Debug)]
pub struct Halved<T, R> {
    /// What the parts that went well have answered.
    pub done: Vec<R>,
    /// What failed by itself, and why.
    pub failed: Vec<(T, DbError)>,
    /// An outage, and what was not done because of it.
    pub outage: Option<(DbError, Vec<T>)>,
}

/// Does `items` together; when that fails and is no outage, in halves, down to the item that fails. `work` is one
/// transaction, and leaves nothing behind when it fails. Once it has met a lock, it does not wait for locks for a while.
pub async fn halve<T, R, F>(hurry: &Hurry, items: Vec<T>, work: impl Fn(Arc<Vec<T>>) -> F) -> Halved<T, R>
where
    T: Clone,
    F: Future<Output = Result<R, DbError>>,
{
    let mut halved = Halved { done: Vec::new(), failed: Vec::new(), outage: None };
    let mut todo = if items.is_empty() { Vec::new() } else { vec![items] };
    while let Some(batch) = todo.pop() {
        let batch = Arc::new(batch);
        match hurry.run(batch.len() == 1, || work(Arc::clone(&batch))).await {
            Ok(answer) => halved.done.push(answer),
            Err(error) if error.is_outage() => {
                todo.reverse();
                let left = batch.iter().cloned().chain(todo.into_iter().flatten()).collect();
                halved.outage = Some((error, left));
                return halved;
            }
            Err(error) => match batch.as_slice() {
                [one] => halved.failed.push((one.clone(), error)),
                many => {
                    let (first, second) = many.split_at(many.len() / 2);
                    todo.push(second.to_vec());
                    todo.push(first.to_vec());
                }
            },
        }
    }
    halved
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> DbError {
        DbError::Config("no".to_owned())
    }

    #[tokio::test]
    async fn what_fails_is_found_and_the_others_are_done() {
        let hurry = Hurry::default();
        let halved = halve(&hurry, (0..100).collect(), |batch: Arc<Vec<i32>>| async move {
            if batch.contains(&7) || batch.contains(&93) { Err(refused()) } else { Ok(batch.to_vec()) }
        });
        let halved = halved.await;
        assert_eq!(halved.failed.iter().map(|(one, _)| *one).collect::<Vec<_>>(), [7, 93]);
        let wanted: Vec<i32> = (0..100).filter(|one| ![7, 93].contains(one)).collect();
        assert_eq!(halved.done.concat(), wanted, "in their order");
        assert!(halved.outage.is_none());
    }

    #[tokio::test]
    async fn an_outage_leaves_the_rest_for_later() {
        let hurry = Hurry::default();
        let halved = halve(&hurry, (0..8).collect(), |batch: Arc<Vec<i32>>| async move {
            match batch.as_slice() {
                [0, 1] => Ok(()),
                [_, _] => Err(DbError::Away),
                _ => Err(refused()),
            }
        });
        let halved = halved.await;
        assert_eq!((halved.done.len(), halved.failed.len()), (1, 0));
        assert_eq!(halved.outage.map(|(_, left)| left), Some((2..8).collect()));
    }
}
