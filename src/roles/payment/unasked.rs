//! Submissions without a question about them: those of a program that recorded none with them, and those of a time in which
//! `payment.query_after` was off. A process looks for them when it starts, and once more when the processes of the version
//! before have had the time to end.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use super::channels::Channels;
use super::query::question;
use crate::db::delivery::{self, Kind};
use crate::db::pace::Hurry;
use crate::db::payments::{self, PaymentRow};
use crate::db::sql::Val;
use crate::db::walk::{self, Walk};
use crate::db::{Db, DbError, Tx};
use crate::domain::id::{first_id_of, millisecond_of};
use crate::progress::Progress;

/// So much of the submissions is looked at in one step, ms.
const WINDOW_MS: i64 = 60_000;
/// Questions recorded in one transaction.
const BATCH: usize = 256;
/// Submissions are looked for so far back, ms: over a weekend.
const LOOK_BACK_MS: i64 = 3 * 86_400_000;
/// Other processes may give out ids, and commit them, so much before or after our time, ms.
const SLACK_MS: i64 = 60_000;
/// So much later is the second look, ms.
const AGAIN_MS: i64 = 3_600_000;
/// Pause after a look that failed.
const PAUSE: Duration = Duration::from_secs(5);

/// The walk over the submissions of one database.
pub struct Unasked {
    db: Db,
    channels: Channels,
    /// Submissions before this id have been looked at.
    from: i64,
    /// This id and those behind it are not.
    until: i64,
    hurry: Hurry,
}

impl Unasked {
    /// Looks at all submissions until now, if they are not too old.
    #[must_use]
    pub fn new(db: Db, channels: Channels) -> Self {
        let now_ms = db.clock().now_ms();
        let (from, until) = (first_id_of(now_ms - LOOK_BACK_MS, 0), first_id_of(now_ms + SLACK_MS, 0));
        Self { db, channels, from, until, hurry: Hurry::default() }
    }

    /// Goes on by one window; idle at the end.
    ///
    /// # Errors
    /// The database's: the same window is looked at again.
    pub async fn step(&mut self) -> Result<Progress, DbError> {
        let mut conn = self.db.read().await?;
        // Over the time in which nobody paid.
        let Some(first) = payments::first_submission(&mut conn, self.from, self.until).await? else {
            self.from = self.until;
            return Ok(Progress::Idle);
        };
        let until = first_id_of(millisecond_of(first) + WINDOW_MS, 0).min(self.until);
        let mut waiting = payments::submitted_without_money(&mut conn, first, until).await?;
        let references = waiting.payments.iter().map(|payment| payment.id.to_string()).collect();
        let asked = delivery::recorded(&mut conn, Kind::ChannelQuery, references).await?;
        drop(conn);

        waiting.payments.retain(|payment| !asked.contains(&payment.id.to_string()));
        for (id, why) in waiting.unreadable {
            walk::put_aside(&self.db, Walk::ChannelQueries, (Val::Int(id), String::new()), why).await?;
        }
        for some in waiting.payments.chunks(BATCH) {
            self.ask_all(some.to_vec()).await?;
        }
        self.from = until;
        Ok(Progress::Did(waiting.payments.len()))
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

    /// Runs until both looks are done, or `token` is cancelled.
    pub async fn run(mut self, token: CancellationToken) {
        let begun = first_id_of(self.db.clock().now_ms() - SLACK_MS, 0);
        self.look(&token).await;
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(Duration::from_millis(AGAIN_MS.unsigned_abs())) => {}
        }
        (self.from, self.until) = (begun, first_id_of(self.db.clock().now_ms() + SLACK_MS, 0));
        self.look(&token).await;
    }

    async fn look(&mut self, token: &CancellationToken) {
        let part = self.db.watchdog().part(Walk::ChannelQueries.name());
        while !token.is_cancelled() {
            match part.step(self.step()).await {
                Ok(Progress::Did(_)) => {}
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(%error, "submissions are looked at later: is there a question about each?");
                    tokio::select! {
                        () = token.cancelled() => {}
                        () = self.db.rest(PAUSE) => {}
                    }
                }
            }
        }
    }
}

async fn ask(tx: &mut Tx, channels: &Channels, waiting: &[PaymentRow]) -> Result<(), DbError> {
    let mut calls = Vec::with_capacity(waiting.len());
    for payment in waiting {
        calls.extend(question(tx, channels, payment)?);
    }
    // Whoever looks as well has recorded the same: one question for each payment.
    delivery::insert(tx, &calls).await?.or_known();
    Ok(())
}
