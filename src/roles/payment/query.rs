//! Payments whose callback stays away: their channels are asked what became of them.
//!
//! The question is recorded with the submission, in its transaction, and falls due `payment.query_after` later: whatever
//! stops meanwhile, and for however long, it is there. The engine asks it on the schedule of its kind until the channel
//! gives a final answer, or the callback comes after all. Money that comes before takes it back.

use serde::Serialize;

use super::callback::{self, Callback, Confirmed};
use super::channels::Channels;
use crate::db::delivery::{self, Delivery, Kind};
use crate::db::payments::PaymentRow;
use crate::db::{DbError, Tx};
use crate::delivery::{Said, Settled, channel_of};
use crate::domain::id::PaymentId;

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
    let question = Question { channel_id: &payment.channel_id, payment_id: PaymentId(payment.id) };
    Ok(Some(Delivery {
        id: tx.next_id(),
        kind: Kind::ChannelQuery,
        reference: payment.id.to_string(),
        order_id: payment.business_id(),
        url: channels.url(&payment.channel_id, "query"),
        body: serde_json::to_string(&question)?,
        attempts: 0,
        next_at: tx.now_ms().saturating_add(after_ms),
        trace: payment.trace.clone(),
    }))
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

/// A channel that says it has money which fits no payment: somebody has to talk to it.
fn doubt(tx: &mut Tx, settled: &Settled, why: &str) {
    settled.alert(tx, format!("the channel says that it was paid, but {why}"));
}
