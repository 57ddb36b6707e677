//! Recording what came of calls: many of them, with their effects, in one transaction.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::{HeaderMap, StatusCode};

use super::answer::{self, Answer, End, Reading};
use super::call::Made;
use super::schedule::{Outcome, Schedules};
use super::target::{Endpoint, Targets};
use crate::alert::{Alert, without_values};
use crate::config;
use crate::db::delivery::{self, Attempt, Delivery, Kind, Open, Status, held};
use crate::db::{Db, DbError, Tx};
use crate::domain::refund::refusal_is_final;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The other side took it.
    Delivered,
    /// The last attempt failed.
    Dead,
    /// The other side refused it for good.
    Refused,
    /// Taken back by hand.
    Canceled,
    /// There was nobody to be told.
    Unsent,
}

/// What an answer says beyond that the call was taken, or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Why the other side will not do what a call that is itself in order asks for: the warehouse will not send the
    /// order, or the channel will not give the money back.
    Declined(String),
    /// The channel has the money, or gave it back: its answer, whose signature counts.
    Paid(String),
    /// The channel did not give the money back, and will not: its answer, whose signature counts.
    Closed(String),
}

/// A call that has ended.
#[derive(Clone, Debug)]
pub struct Settled {
    /// The call; `attempts` counts the last one as well.
    pub delivery: Delivery,
    /// Host and port that it went to.
    pub target: Arc<str>,
    /// How it ended.
    pub verdict: Verdict,
    /// Why, unless it was delivered.
    pub error: Option<String>,
    /// What the answer says beyond that.
    pub said: Option<Said>,
}

impl Settled {
    /// Tells people that nothing good came of it.
    pub fn alert(&self, tx: &mut Tx, why: String) {
        self.alert_once(tx, &self.delivery.attempts.to_string(), why);
    }

    /// As [`Settled::alert`], once for each `occasion` (a word) that the call has: what is asked on may fail for weeks.
    pub fn alert_once(&self, tx: &mut Tx, occasion: &str, why: String) {
        let call = &self.delivery;
        let alert = Alert::CallGivenUp {
            kind: call.kind.name().to_owned(),
            reference: call.reference.clone(),
            business_id: call.order().to_string(),
            target: self.target.to_string(),
            retry_count: call.attempts,
            error_message: why,
            alert_time: tx.now_ms(),
            delivery_id: call.id.to_string(),
        };
        tx.alert(format!("call:{}:{occasion}", call.id), alert);
    }

    /// Why it was not delivered, fit to be told.
    #[must_use]
    pub fn failure(&self) -> String {
        without_values(self.error.as_deref().unwrap_or_default())
    }
}

/// What follows from calls that ended, in the transaction that records their end. It is called with the calls in the
/// order of their ids, may be called again for the same calls when that transaction is rolled back, and must touch
/// nothing but the transaction. An error that is no outage means that one of the calls cannot be recorded: that one
/// is found, and made again once its lease has run out.
pub type Effects =
    Arc<dyn for<'t> Fn(&'t mut Tx, &'t [Settled]) -> BoxFuture<'t, Result<(), DbError>> + Send + Sync + 'static>;

/// No effects.
#[must_use]
pub fn no_effects() -> Effects {
    Arc::new(|_, _| Box::pin(async { Ok(()) }))
}

/// What was recorded of one attempt, for metrics and logs.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    pub call: Delivery,
    pub status: Status,
    pub error: Option<String>,
}

impl Recorded {
    /// Label of the metric.
    pub fn result(&self) -> &'static str {
        match self.status {
            Status::Done => "delivered",
            Status::Pending => "retry",
            Status::Dead => "dead",
            Status::Refused => "refused",
            Status::Canceled => "canceled",
            Status::Unsent => "unsent",
        }
    }

    /// One line for what a person may have to look at.
    pub fn log(&self) {
        let (kind, error) = (self.call.kind.name(), self.error.as_deref().unwrap_or_default());
        let Delivery { reference, attempts, .. } = &self.call;
        let order_id = self.call.order();
        match self.status {
            Status::Dead => tracing::warn!(kind, reference, order_id, attempts, error, "call given up"),
            Status::Refused => tracing::warn!(kind, reference, order_id, attempts, error, "call refused"),
            Status::Canceled => tracing::info!(kind, reference, order_id, attempts, "call taken back"),
            Status::Unsent => tracing::debug!(kind, reference, order_id, error, "call not made"),
            Status::Pending => tracing::debug!(kind, reference, order_id, attempts, error, "call failed for now"),
            Status::Done => tracing::debug!(kind, reference, order_id, attempts, "call made"),
        }
    }
}

/// Records calls in one transaction; those that somebody else settled meanwhile are left out.
///
/// # Errors
/// The database's, or the effects'; nothing is recorded then.
pub(super) async fn record(
    db: &Db,
    made: Arc<Vec<Made>>,
    schedules: Arc<Schedules>,
    effects: Effects,
) -> Result<Vec<Recorded>, DbError> {
    db.write("delivery_result", move |tx| {
        let (made, schedules, effects) = (Arc::clone(&made), Arc::clone(&schedules), Arc::clone(&effects));
        Box::pin(async move { record_in(tx, &made, &schedules, &effects).await })
    })
    .await
}

/// A call that was made without the engine, and its answer.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The call as it was claimed.
    pub call: Delivery,
    /// When it was made, epoch ms.
    pub started_at: i64,
    /// Status of the answer.
    pub status: StatusCode,
    /// Headers of the answer.
    pub headers: HeaderMap,
    /// Its text, all of it.
    pub text: String,
}

/// Judges and records answers just as the engine with this configuration does: for tests that carry the calls
/// themselves.
///
/// # Errors
/// The database's.
pub async fn record_answers(
    db: &Db,
    answers: Vec<Answered>,
    config: &config::Delivery,
    targets: &Targets,
    effects: Effects,
) -> Result<(), DbError> {
    let now_ms = db.clock().now_ms();
    let made = answers.into_iter().map(|one| {
        let answer = Answer { status: one.status, headers: &one.headers, text: &one.text, end: End::Whole };
        let Reading { outcome, said, unsure } = answer::read(targets, &one.call, answer, now_ms);
        let (duration_ms, http_status) = (now_ms - one.started_at, Some(i64::from(one.status.as_u16())));
        let Answered { call, started_at, .. } = one;
        let (target, request, answer) = (targets.of(&call), None, None);
        Made { call, target, started_at, duration_ms, http_status, outcome, request, answer, said, unsure }
    });
    let schedules = Arc::new(Schedules::of(config));
    record(db, Arc::new(made.collect()), schedules, effects).await.map(|_| ())
}

async fn record_in(
    tx: &mut Tx,
    made: &[Made],
    schedules: &Schedules,
    effects: &Effects,
) -> Result<Vec<Recorded>, DbError> {
    let by_id: BTreeMap<i64, &Made> = made.iter().map(|made| (made.call.id, made)).collect();
    let locked = delivery::lock_made(tx, by_id.keys().copied().collect()).await?;
    let now_ms = tx.now_ms();
    let (mut attempts, mut late) = (Vec::new(), Vec::new());
    let (mut recorded, mut settled) = (Vec::new(), Vec::new());
    for open in locked {
        let Some(made) = by_id.get(&open.id) else { continue };
        if !counts(made, open) {
            late.push(late_attempt(made, open));
            continue;
        }
        let (one, attempt) = judge(made, open, now_ms, schedules);
        let verdict = match one.status {
            Status::Pending | Status::Canceled => None,
            Status::Done => Some(Verdict::Delivered),
            Status::Dead => Some(Verdict::Dead),
            Status::Refused => Some(Verdict::Refused),
            Status::Unsent => Some(Verdict::Unsent),
        };
        settled.extend(verdict.map(|verdict| Settled {
            delivery: one.call.clone(),
            target: Arc::clone(&made.target),
            verdict,
            error: one.error.clone(),
            said: made.said.clone(),
        }));
        attempts.push(attempt);
        recorded.push(one);
    }
    delivery::record(tx, &attempts).await?;
    delivery::record_late(tx, &late).await?;
    release_held(tx, made).await?;
    delivery::release_next(tx, settled.iter().map(|one| &one.delivery)).await?;
    settled.iter().filter(|one| one.verdict != Verdict::Delivered).for_each(|one| tell(tx, one));
    if !settled.is_empty() {
        effects(tx, &settled).await?;
    }
    Ok(recorded)
}

/// Whether what came of a call moves it. Where it does not, the attempt is only logged: the call was settled or taken
/// back meanwhile, or our lease ran out and somebody else has made it since. Of a call that is still to be made, an
/// answer that ends it counts all the same, and of one that was taken back a good one.
fn counts(made: &Made, open: Open) -> bool {
    match open.status {
        Status::Pending => {
            open.attempts == made.call.attempts || matches!(made.outcome, Outcome::Delivered | Outcome::Refused(_))
        }
        Status::Canceled => made.outcome == Outcome::Delivered,
        Status::Done | Status::Dead | Status::Refused | Status::Unsent => false,
    }
}

/// The attempt, and the attempts that are no part of the schedule with it. What was not sent is none, but its claim is
/// answered for as well.
fn late_attempt(made: &Made, open: Open) -> (Attempt, i64) {
    let sent = i64::from(made.request.is_some() || made.http_status.is_some());
    (attempt_of(made, open.attempts + sent, open.status, unanswered(made, open)), open.base + sent)
}

/// Calls that wait for an endpoint follow those that were made: two for each answer, so that an endpoint that is well
/// again soon has all of its calls, and one for each failure.
async fn release_held(tx: &mut Tx, made: &[Made]) -> Result<(), DbError> {
    let mut places: BTreeMap<i64, i64> = BTreeMap::new();
    for one in made {
        let count = match one.outcome {
            Outcome::Again { .. } => 1,
            _ if one.outcome.is_answer() => 2,
            _ => continue,
        };
        *places.entry(Endpoint::of(&one.call).number).or_default() += count;
    }
    for (endpoint, count) in places {
        held::release(tx, endpoint, count).await?;
    }
    Ok(())
}

/// Tells people of a call that was given up. Of an alert that did not arrive no alert tells, and an order that the
/// warehouse will not send is no failure of the call. Money that the channel will not give back is for people. Whether
/// a question that failed at its end is asked on is for its role to say, and so is what people are told.
fn tell(tx: &mut Tx, settled: &Settled) {
    let call = &settled.delivery;
    let nothing_failed = settled.verdict == Verdict::Unsent || (settled.said.is_some() && !call.kind.is_refund());
    let is_for_role = settled.verdict == Verdict::Dead && matches!(call.kind, Kind::ChannelQuery | Kind::RefundQuery);
    if call.kind == Kind::Alert || call.kind.is_sandbox() || nothing_failed || is_for_role {
        return;
    }
    settled.alert(tx, settled.failure());
}

fn judge(made: &Made, open: Open, now_ms: i64, schedules: &Schedules) -> (Recorded, Attempt) {
    let (id, attempt) = match made.outcome {
        // Nothing was tried.
        Outcome::Expired(_) | Outcome::Wait { .. } | Outcome::Unsent(_) => (open.id, open.attempts),
        _ => (open.id, open.attempts + 1),
    };
    let later = |retry_after_ms, last| {
        let wait_ms = schedules.wait_ms(made.call.kind, id, attempt - open.base, retry_after_ms);
        let status = if wait_ms.is_some() { Status::Pending } else { last };
        (status, wait_ms.map(|wait_ms| now_ms.saturating_add(wait_ms)))
    };
    let (status, next_at) = match &made.outcome {
        Outcome::Delivered => (Status::Done, None),
        Outcome::Refused(_) => (Status::Refused, None),
        Outcome::Wait { until_ms, .. } => (Status::Pending, Some(*until_ms)),
        Outcome::Unsent(_) => (Status::Unsent, None),
        Outcome::Expired(_) => (Status::Dead, None),
        Outcome::Again { retry_after_ms, .. } => later(*retry_after_ms, Status::Dead),
        Outcome::NotYet(_) => later(None, Status::Done),
    };
    // Only the channel's own word ends a refund, and only where no request before may have been carried out.
    let (says_no, unanswered) = (matches!(made.said, Some(Said::Declined(_))), unanswered(made, open));
    let in_doubt = made.call.kind.is_refund() && status == Status::Refused && !refusal_is_final(says_no, unanswered);
    let status = if in_doubt { Status::Dead } else { status };
    let row = Attempt { next_at, ..attempt_of(made, attempt, status, unanswered) };
    let call = Delivery { attempts: attempt, ..made.call.clone() };
    (Recorded { call, status, error: row.error.clone() }, row)
}

/// How often the call may have been carried out without a word of it: this claim is answered for, unless its request may
/// have been.
fn unanswered(made: &Made, open: Open) -> i64 {
    open.unanswered.saturating_sub(i64::from(!made.unsure)).max(0)
}

/// The entry of the log for an attempt that leaves its call so.
fn attempt_of(made: &Made, attempt: i64, status: Status, unanswered: i64) -> Attempt {
    Attempt {
        delivery_id: made.call.id,
        attempt,
        started_at: made.started_at,
        duration_ms: made.duration_ms,
        http_status: made.http_status,
        error: made.outcome.error().map(str::to_owned),
        request: made.request.clone(),
        answer: made.answer.clone(),
        status,
        next_at: None,
        unanswered,
    }
}
