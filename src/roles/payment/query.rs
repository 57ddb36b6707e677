//! Payments whose callback stays away: their channels are asked what became of them.
//!
//! A walk goes behind the submissions, `payment.query_after` later, and records a question for each whose payment has no
//! money by then. The engine asks it on the schedule of its kind until the channel gives a final answer, or the callback
//! comes after all.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::callback::{self, Callback, Confirmed};
use super::channels::Channels;
use crate::db::delivery::{self, Delivery};
use crate::db::pace::Hurry;
use crate::db::payments::{self, PaymentRow};
use crate::db::sql::Val;
use crate::db::walk::{self, Walk};
use crate::db::{Db, DbError, Tx};
use crate::delivery::{Said, Settled, channel_of};
use crate::domain::id::{PaymentId, first_id_of, millisecond_of};
use crate::progress::Progress;

/// So much of the submissions is looked at in one step, ms.
const WINDOW_MS: i64 = 60_000;
/// A submission may be written so much later than its id says, ms: what is younger is looked at once more.
const LATE_MS: i64 = 10_000;
/// Questions recorded in one transaction.
const BATCH: usize = 256;
/// A walk begins so far back: submissions of a time when no process of this role was running.
const LOOK_BACK_MS: i64 = 86_400_000;
/// The longest wait between two looks.
const LOOK_MS: i64 = 5_000;

/// What a channel is asked.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Question<'a> {
    channel_id: &'a str,
    payment_id: PaymentId,
}

/// The walk behind the submissions of one database.
pub struct Queries {
    db: Db,
    channels: Channels,
    after_ms: i64,
    /// Submissions before this id have been looked at for the last time.
    from: i64,
    /// Those before this one, once.
    seen: i64,
    hurry: Hurry,
}

impl Queries {
    /// Asks `after_ms` after a submission.
    #[must_use]
    pub fn new(db: Db, channels: Channels, after_ms: i64) -> Self {
        let from = first_id_of(db.clock().now_ms() - after_ms - LOOK_BACK_MS, 0);
        Self { db, channels, after_ms, from, seen: from, hurry: Hurry::default() }
    }

    /// Goes on by one window, or up to the submissions that are too young.
    ///
    /// # Errors
    /// The database's: the same window is looked at again.
    pub async fn step(&mut self) -> Result<Progress, DbError> {
        let newest_ms = self.db.clock().now_ms() - self.after_ms;
        let newest = first_id_of(newest_ms, 0);
        if newest <= self.seen {
            return Ok(Progress::Idle);
        }
        let mut conn = self.db.read().await?;
        // Over the time in which nobody paid.
        let Some(first) = payments::first_submission(&mut conn, self.from, newest).await? else {
            self.looked_until(newest_ms);
            return Ok(Progress::Idle);
        };
        let until_ms = newest_ms.min(millisecond_of(first) + WINDOW_MS);
        let until = first_id_of(until_ms, 0);
        let waiting = payments::submitted_without_money(&mut conn, first, until).await?;
        drop(conn);
        for (id, why) in waiting.unreadable {
            walk::put_aside(&self.db, Walk::ChannelQueries, (Val::Int(id), String::new()), why).await?;
        }
        for some in waiting.payments.chunks(BATCH) {
            self.ask_all(some.to_vec()).await?;
        }
        self.looked_until(until_ms);
        Ok(if until_ms < newest_ms { Progress::Did(waiting.payments.len()) } else { Progress::Idle })
    }

    /// Records a question for each; one for which none can be recorded is left out, and people are told.
    async fn ask_all(&self, payments: Vec<PaymentRow>) -> Result<(), DbError> {
        let row = |one: &PaymentRow| (Val::Int(one.id), one.business_id().to_string());
        let (by, channels) = ((&self.db, &self.hurry), self.channels.clone());
        let asked = walk::over(by, Walk::ChannelQueries, payments, row, move |tx, some: Arc<Vec<PaymentRow>>| {
            let channels = channels.clone();
            async move { ask(tx, &channels, &some).await }.boxed()
        });
        // This walk comes by once: what is left for later is looked at with the same window again.
        asked.await?.left.map_or(Ok(()), Err)
    }

    fn looked_until(&mut self, until_ms: i64) {
        self.seen = first_id_of(until_ms, 0);
        // What is far back in time is complete.
        let complete_ms = self.db.clock().now_ms() - self.after_ms - LATE_MS;
        self.from = first_id_of(until_ms.min(complete_ms), 0).max(self.from);
    }

    /// Runs until `token` is cancelled.
    pub async fn run(mut self, token: CancellationToken) {
        let part = self.db.watchdog().part(Walk::ChannelQueries.name());
        let wait_ms = LOOK_MS.min(self.after_ms);
        while !token.is_cancelled() {
            match part.step(self.step()).await {
                Ok(Progress::Did(_)) => continue,
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "channels are asked later what became of payments"),
            }
            tokio::select! {
                () = token.cancelled() => {}
                () = self.db.rest(Duration::from_millis(wait_ms.unsigned_abs())) => {}
            }
        }
    }
}

async fn ask(tx: &mut Tx, channels: &Channels, waiting: &[PaymentRow]) -> Result<(), DbError> {
    let mut calls = Vec::with_capacity(waiting.len());
    for payment in waiting.iter().filter(|payment| channels.get(&payment.channel_id).is_some()) {
        let question = Question { channel_id: &payment.channel_id, payment_id: PaymentId(payment.id) };
        calls.push(Delivery {
            id: tx.next_id(),
            kind: delivery::Kind::ChannelQuery,
            reference: payment.id.to_string(),
            order_id: payment.business_id(),
            url: channels.url(&payment.channel_id, "query"),
            body: serde_json::to_string(&question)?,
            attempts: 0,
            next_at: tx.now_ms(),
            trace: payment.trace.clone(),
        });
    }
    // Whoever walks as well has asked the same: one question for each payment.
    delivery::insert(tx, &calls).await?.or_known();
    Ok(())
}

/// Takes the word of channels that were asked: the money is there. Through the outbox however PAYMENT_SUCCESS leaves
/// otherwise: a transaction that asks the broker first would call the network inside one, and the event's id is the
/// same.
///
/// # Errors
/// The database's.
pub async fn settle(tx: &mut Tx, channels: &Channels, settled: &[Settled]) -> Result<(), DbError> {
    let (mut answered, mut callbacks) = (Vec::new(), Vec::new());
    for one in settled {
        let (delivery::Kind::ChannelQuery, Some(Said::Paid(text))) = (one.delivery.kind, &one.said) else { continue };
        match serde_json::from_str::<Callback>(text) {
            Ok(callback) if callback.payment_id.0.to_string() == one.delivery.reference => {
                let channel_id = channel_of(&one.delivery.body)?;
                match callback.check(tx.now_ms()) {
                    Ok(()) => {
                        callbacks.push(Callback { trace: one.delivery.trace.clone(), channel_id, ..callback });
                        answered.push(one);
                    }
                    Err((field, why)) => doubt(tx, one, &format!("its {field} {why}")),
                }
            }
            Ok(_) => doubt(tx, one, "the answer is about another payment"),
            Err(error) => doubt(tx, one, &format!("the answer cannot be read: {error}")),
        }
    }
    if callbacks.is_empty() {
        return Ok(());
    }
    let confirmed = callback::confirm_by_outbox(tx, channels, &callbacks).await?;
    for (one, confirmed) in answered.into_iter().zip(confirmed) {
        match confirmed {
            Confirmed::Yes | Confirmed::Again => {}
            Confirmed::Unknown => doubt(tx, one, "there is no such payment"),
            Confirmed::Refused(why) => doubt(tx, one, why),
        }
    }
    Ok(())
}

/// A channel that says it has money which fits no payment: somebody has to talk to it.
fn doubt(tx: &mut Tx, settled: &Settled, why: &str) {
    settled.alert(tx, format!("the channel says that it was paid, but {why}"));
}
