//! Payments whose callback stays away: their channels are asked what became of them.
//!
//! The question is recorded with the submission, in its transaction, and falls due `payment.query_after` later: whatever
//! stops meanwhile, and for however long, it is there. The engine asks it on the schedule of its kind until the channel
//! gives a final answer, or the callback comes after all. Money that comes before takes it back.
//!
//! A payer who was sent to the channel may pay as long as the payment is open, and even behind its end. So the channel
//! is asked on, a few times a day, until the payment is closed; and anew when the payer tries once more, and when the
//! payment is closed. That nobody has paid a closed payment has to be said: a channel that fails to say it is asked on.

use std::collections::BTreeMap;

use serde::Serialize;

use super::callback::{self, Callback, Confirmed};
use super::channels::Channels;
use crate::db::delivery::{self, Delivery, Kind};
use crate::db::payments::{self, PaymentRow};
use crate::db::{DbError, Tx};
use crate::delivery::{Said, Settled, Verdict, channel_of};
use crate::domain::id::PaymentId;
use crate::domain::payment::Status;

/// After the end of its schedule a question that goes on is asked again so much later, ms: half a day.
pub(super) const GOES_ON_AFTER_MS: i64 = 43_200_000;

/// What a channel is asked.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Question<'a> {
    channel_id: &'a str,
    payment_id: PaymentId,
}

/// The question about a payment that is submitted now, to be recorded with its submission; one for each payment. None
/// where channels are never asked. Nobody can ask a channel that is not configured: that ends the call, and people are
/// told.
///
/// # Errors
/// Never in practice: every field is plain.
pub(super) fn question(tx: &Tx, channels: &Channels, payment: &PaymentRow) -> Result<Option<Delivery>, DbError> {
    let Some(after_ms) = channels.query_after_ms() else { return Ok(None) };
    call(tx, payment, channels.url(&payment.channel_id, "query"), after_ms).map(Some)
}

/// The call that asks about a payment, `after_ms` from now.
fn call(tx: &Tx, payment: &PaymentRow, url: String, after_ms: i64) -> Result<Delivery, DbError> {
    let question = Question { channel_id: &payment.channel_id, payment_id: PaymentId(payment.id) };
    Ok(Delivery {
        id: tx.next_id(),
        kind: Kind::ChannelQuery,
        reference: payment.id.to_string(),
        order_id: payment.business_id(),
        url,
        body: serde_json::to_string(&question)?,
        attempts: 0,
        next_at: tx.now_ms().saturating_add(after_ms),
        trace: payment.trace.clone(),
    })
}

/// The payers of these payments, named by the references of their questions, try once more: what was asked in vain
/// before says nothing about that.
///
/// # Errors
/// The database's.
pub(super) async fn ask_anew(tx: &mut Tx, channels: &Channels, references: Vec<String>) -> Result<(), DbError> {
    let Some(after_ms) = channels.query_after_ms() else { return Ok(()) };
    let due = tx.now_ms().saturating_add(after_ms);
    delivery::ask_anew(tx, Kind::ChannelQuery, references, due).await.map(drop)
}

/// These payments are closed now. Channels that they were submitted to are asked `after_ms` later: what somebody has
/// paid there meanwhile, or is paying just now, goes back. Nobody is asked where `after_ms` is none.
///
/// # Errors
/// The database's.
pub(super) async fn ask_closed(tx: &mut Tx, after_ms: Option<i64>, closed: &[&PaymentRow]) -> Result<(), DbError> {
    let Some(after_ms) = after_ms.filter(|_| !closed.is_empty()) else { return Ok(()) };
    let mut unasked: BTreeMap<String, &PaymentRow> =
        closed.iter().map(|payment| (payment.id.to_string(), *payment)).collect();
    let asked = delivery::recorded(tx, Kind::ChannelQuery, unasked.keys().cloned().collect()).await?;
    unasked.retain(|reference, _| !asked.contains(reference));

    // Most of them were never submitted.
    let submissions = delivery::by_references(tx, Kind::ChannelSubmit, unasked.keys().cloned().collect()).await?;
    let mut questions = Vec::new();
    for submission in &submissions {
        let Some(payment) = unasked.get(&submission.reference) else { continue };
        // The order role may close a payment, and need not know its channel: that is asked where it was told.
        let place = submission.url.strip_suffix("pay").unwrap_or(&submission.url);
        questions.push(call(tx, payment, format!("{place}query"), after_ms)?);
    }
    if !questions.is_empty() {
        // Whoever looks for submissions without a question may have recorded the same.
        delivery::insert(tx, &questions).await?.or_known();
    }

    let due = tx.now_ms().saturating_add(after_ms);
    delivery::ask_anew(tx, Kind::ChannelQuery, asked.into_iter().collect(), due).await.map(drop)
}

/// The money of these payments is there. Questions that nobody has begun to ask are taken back, as one for nearly every
/// payment is; of the others the engine sees that there is nothing left to ask.
///
/// # Errors
/// The database's.
pub(super) async fn take_back(tx: &mut Tx, payment_ids: impl Iterator<Item = i64>) -> Result<(), DbError> {
    delivery::delete_unbegun(tx, Kind::ChannelQuery, payment_ids.map(|id| id.to_string()).collect()).await.map(drop)
}

/// Takes the word of channels that were asked: the money is there. Through the outbox however PAYMENT_SUCCESS leaves
/// otherwise: a transaction that asks the broker first would call the network inside one, and the event's id is the
/// same.
///
/// # Errors
/// The database's.
pub async fn settle(tx: &mut Tx, channels: &Channels, settled: &[Settled]) -> Result<(), DbError> {
    go_on(tx, channels, settled).await?;
    let (mut answered, mut callbacks) = (Vec::new(), Vec::new());
    for one in settled {
        let (Kind::ChannelQuery, Some(Said::Paid(text))) = (one.delivery.kind, &one.said) else { continue };
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

/// Questions that came to the end of their schedule go on: while the payment is open, whatever the channel said last,
/// and of a closed payment where it failed to say anything. People are told of such a failure, once while the payment is
/// open and once when it is closed.
async fn go_on(tx: &mut Tx, channels: &Channels, settled: &[Settled]) -> Result<(), DbError> {
    let at_its_end = |one: &&Settled| {
        let is_question = one.delivery.kind == Kind::ChannelQuery && one.said.is_none();
        is_question && matches!(one.verdict, Verdict::Delivered | Verdict::Dead)
    };
    let ended: Vec<&Settled> = settled.iter().filter(at_its_end).collect();
    if ended.is_empty() {
        return Ok(());
    }
    // Whoever closes one of them just now waits for its question, which is locked here, and asks it anew then.
    let found = payments::find(tx, ended.iter().filter_map(|one| payment_of(one)).collect()).await?;

    let mut references = Vec::new();
    for one in ended {
        let payment = payment_of(one).and_then(|id| found.get(&id));
        let (failed, asks) = (one.verdict == Verdict::Dead, channels.query_after_ms().is_some());
        let goes_on = |status: &Status| asks && (*status == Status::Pending || (*status == Status::Closed && failed));
        let status = payment.map(|payment| payment.state.status).filter(goes_on);
        references.extend(status.map(|_| one.delivery.reference.clone()));
        match status {
            Some(status) if failed => one.alert_once(tx, status.name(), format!("{}; it is asked on", one.failure())),
            None if failed => one.alert(tx, one.failure()),
            _ => {}
        }
    }
    let due = tx.now_ms().saturating_add(GOES_ON_AFTER_MS);
    delivery::go_on_asking(tx, Kind::ChannelQuery, references, due).await.map(drop)
}

/// The payment that a question is about.
fn payment_of(question: &Settled) -> Option<i64> {
    question.delivery.reference.parse().ok()
}

/// A channel that says it has money which fits no payment: somebody has to talk to it.
fn doubt(tx: &mut Tx, settled: &Settled, why: &str) {
    settled.alert(tx, format!("the channel says that it was paid, but {why}"));
}
