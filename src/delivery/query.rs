//! Asking a channel what became of a payment whose callback stays away, or of a refund that is in doubt.
//!
//! The answer is signed as its callbacks are, and says where the payment stands. Money counts as if the channel had
//! called back; a payment that nobody has paid is asked for again, and after the last time that is the answer. Of a
//! refund only "it is back" and "it will not go back" are answers.

use http::HeaderMap;
use serde::Deserialize;

use super::record::Said;
use super::schedule::Outcome;
use super::target::{Targets, channel_of};
use crate::db::delivery::{self, Delivery, Kind, State, Status as Standing};
use crate::db::payments::{self, PaymentRow, RefundRow, RefundStatus};
use crate::db::{Db, DbError};

/// A question waits so much longer than the submission that it is about, ms.
const AFTER_SUBMISSION_MS: i64 = 1_000;
/// It looks again so much later at the latest, ms: a submission that waits for its endpoint is not due for days, and
/// released long before that.
const LOOK_MS: i64 = 300_000;

/// The part of a channel's answer that says what it means.
#[derive(Deserialize)]
struct Answer {
    status: Status,
}

/// Where a payment stands, as its channel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Status {
    /// Paid, with the fields of a callback; of a refund: it is back.
    Success,
    /// Not paid, which may change.
    Pending,
    /// The channel does not know it, or does not know it yet.
    Unknown,
    /// Not paid, and it can no longer be; of a refund: not back, and it will not be.
    Closed,
}

/// The payment, and its submission under the channel's own number.
async fn look(db: &Db, call: &Delivery, id: i64) -> Result<(Option<PaymentRow>, Option<State>), DbError> {
    let mut conn = db.read().await?;
    let payment = payments::find(&mut conn, vec![id]).await?.remove(&id);
    Ok((payment, delivery::find(&mut conn, Kind::ChannelSubmit, &call.reference).await?))
}

async fn look_at_refund(db: &Db, id: i64) -> Result<Option<RefundRow>, DbError> {
    let mut conn = db.read().await?;
    payments::refund(&mut conn, id).await
}

/// What comes of the call without making it: the money has been found meanwhile, or it is too early.
pub(super) async fn settled(db: &Db, call: &Delivery) -> Option<Outcome> {
    let Ok(id) = call.reference.parse::<i64>() else {
        return Some(Outcome::Refused("its reference is no number".to_owned()));
    };
    if call.kind == Kind::RefundQuery { refund(db, id).await } else { payment(db, call, id).await }
}

async fn refund(db: &Db, id: i64) -> Option<Outcome> {
    match look_at_refund(db, id).await {
        Ok(Some(refund)) if refund.status == RefundStatus::InDoubt => None,
        Ok(Some(_)) => Some(Outcome::Unsent("it is known by now what became of the refund".to_owned())),
        Ok(None) => Some(Outcome::Refused("there is no such refund".to_owned())),
        Err(error) => Some(Outcome::unread("the refund", &error, db.clock().now_ms())),
    }
}

async fn payment(db: &Db, call: &Delivery, id: i64) -> Option<Outcome> {
    match look(db, call, id).await {
        Ok((Some(payment), _)) if payment.state.status.has_money() => {
            Some(Outcome::Unsent("the channel has said so by itself".to_owned()))
        }
        // One that was given up untried is asked about: whoever makes it due again makes no other question.
        Ok((Some(_), Some(State { status, attempts: 0, next_at: Some(next_at), .. })))
            if status == Standing::Pending as i64 =>
        {
            let why = "the channel has not been told of the payment yet".to_owned();
            let now_ms = db.clock().now_ms();
            let told_at = next_at.clamp(now_ms, now_ms.saturating_add(LOOK_MS));
            Some(Outcome::Wait { why, until_ms: told_at.saturating_add(AFTER_SUBMISSION_MS) })
        }
        Ok((Some(_), _)) => None,
        Ok((None, _)) => Some(Outcome::Refused("there is no such payment".to_owned())),
        Err(error) => Some(Outcome::unread("the payment", &error, db.clock().now_ms())),
    }
}

/// Reads an answer 2xx.
pub(super) fn read(
    targets: &Targets,
    call: &Delivery,
    headers: &HeaderMap,
    text: &str,
    now_ms: i64,
) -> (Outcome, Option<Said>) {
    let again = |error: String| (Outcome::Again { error, retry_after_ms: None }, None);
    let channel = channel_of(&call.body).unwrap_or_default();
    if let Err(error) = targets.check_answer(&channel, headers, text.as_bytes(), now_ms) {
        return again(format!("the answer does not count: {error}"));
    }
    match serde_json::from_str::<Answer>(text) {
        Ok(Answer { status: Status::Success }) => (Outcome::Delivered, Some(Said::Paid(text.to_owned()))),
        Ok(Answer { status: Status::Closed }) => (Outcome::Delivered, Some(Said::Closed(text.to_owned()))),
        Ok(Answer { status: status @ (Status::Pending | Status::Unknown) }) => {
            (Outcome::NotYet(format!("the channel does not say that it is done: {status:?}")), None)
        }
        Err(error) => again(format!("the answer cannot be read: {error}")),
    }
}
