//! Money in doubt: a request to give it back stayed without an answer, so nobody knows whether it went.
//!
//! What is in doubt stays promised: it is not free to go back another time. Its channel is asked about the refund by its
//! number until it says what became of it. People are told when it does not until the end of the schedule, and it is
//! asked on, for as long as nobody has ended the doubt by hand.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::channels::Channels;
use super::query::GOES_ON_AFTER_MS;
use super::refund::{self, GivenUp};
use crate::db::delivery::{self, Delivery, Kind};
use crate::db::payments::{self, PaymentRow, RefundRow, RefundStatus};
use crate::db::{DbError, Tx};
use crate::delivery::{Said, Settled, Verdict};
use crate::domain::id::{PaymentId, RefundId};
use crate::domain::money::Money;

/// What a channel is asked.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Question<'a> {
    channel_id: &'a str,
    payment_id: PaymentId,
    refund_id: RefundId,
    amount: Money,
}

/// What a channel answers: which refund it speaks of, and how much went back.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    refund_id: RefundId,
    #[serde(default)]
    amount: Option<Money>,
}

/// Nobody knows whether the money of a refund went back: it stays promised, and its channel is asked.
///
/// # Errors
/// The database's.
pub(super) async fn open(
    tx: &mut Tx,
    channels: &Channels,
    payment: Option<&PaymentRow>,
    refund: &RefundRow,
    given_up: &GivenUp,
) -> Result<(), DbError> {
    payments::doubt_refund(tx, refund.id, &given_up.error).await?;
    let Some(payment) = payment.filter(|payment| channels.get(&payment.channel_id).is_some()) else { return Ok(()) };

    let question = Question {
        channel_id: &payment.channel_id,
        payment_id: PaymentId(payment.id),
        refund_id: RefundId(refund.id),
        amount: refund.amount,
    };
    let reference = refund.id.to_string();
    let call = Delivery {
        id: tx.next_id(),
        kind: Kind::RefundQuery,
        reference: reference.clone(),
        order_id: payment.business_id(),
        url: channels.url(&payment.channel_id, "query"),
        body: serde_json::to_string(&question)?,
        attempts: 0,
        next_at: tx.now_ms(),
        trace: given_up.trace.clone(),
    };
    // Where it was in doubt before, and was sent again, the same question is asked anew.
    let due = call.next_at;
    delivery::insert(tx, &[call]).await?.or_known();
    delivery::ask_anew(tx, Kind::RefundQuery, vec![reference], due).await.map(drop)
}

/// Takes the word of channels that were asked about refunds.
///
/// # Errors
/// The database's.
pub async fn settle(tx: &mut Tx, channels: &Channels, settled: &[Settled]) -> Result<(), DbError> {
    let (mut back, mut refused, mut in_vain) = (HashMap::new(), HashMap::new(), Vec::new());
    for one in settled.iter().filter(|one| one.delivery.kind == Kind::RefundQuery) {
        let Ok(id) = one.delivery.reference.parse::<i64>() else { continue };
        let is_back = matches!(one.said, Some(Said::Paid(_)));
        match (&one.said, one.verdict) {
            (Some(Said::Paid(text) | Said::Closed(text)), _) => match fits(tx, id, text, is_back).await? {
                Err(why) => one.alert(tx, format!("the channel answers about a refund, but {why}")),
                Ok(()) if is_back => drop(back.insert(id, one.delivery.trace.clone())),
                Ok(()) => drop(refused.insert(id, one)),
            },
            // The end of the schedule.
            (_, Verdict::Delivered | Verdict::Dead) => in_vain.push((id, one)),
            _ => {}
        }
    }
    go_on(tx, &in_vain).await?;
    if !back.is_empty() {
        refund::settle(tx, &back).await?;
    }
    let mut given_up = HashMap::new();
    for (id, one) in refused {
        // Whoever makes the call once more has locked it before, or finds it refused.
        if !delivery::close(tx, Kind::ChannelRefund, &id.to_string()).await? {
            one.alert(tx, "the channel will not give the money back, but is being asked to once more".to_owned());
            continue;
        }
        let error = "the channel says that it did not give the money back, and will not".to_owned();
        given_up.insert(id, GivenUp { error, refused: true, trace: one.delivery.trace.clone() });
    }
    if !given_up.is_empty() {
        refund::give_up(tx, channels, &given_up).await?;
    }
    Ok(())
}

/// Channels that have not said until the end of the schedule what became of these refunds are asked on while they are
/// in doubt. People are told once.
async fn go_on(tx: &mut Tx, in_vain: &[(i64, &Settled)]) -> Result<(), DbError> {
    let mut references = Vec::new();
    for (id, one) in in_vain {
        if in_doubt(payments::refund(tx, *id).await?).is_err() {
            continue;
        }
        let last = match one.verdict {
            Verdict::Dead => format!(" (the last question failed: {})", one.failure()),
            _ => String::new(),
        };
        let why = format!(
            "the channel does not say what became of a refund{last}: look at its books, then `ruyi payment settle`; it \
             is asked on"
        );
        one.alert_once(tx, "doubt", why);
        references.push(one.delivery.reference.clone());
    }
    if references.is_empty() {
        return Ok(());
    }
    let due = tx.now_ms().saturating_add(GOES_ON_AFTER_MS);
    delivery::go_on_asking(tx, Kind::RefundQuery, references, due).await.map(drop)
}

/// A refund that is in doubt.
///
/// # Errors
/// It is not: why.
pub fn in_doubt(refund: Option<RefundRow>) -> Result<RefundRow, String> {
    match refund {
        None => Err("there is no such refund".to_owned()),
        Some(refund) if refund.status == RefundStatus::InDoubt => Ok(refund),
        Some(refund) => Err(format!("it is {}: nothing is in doubt", refund.status.name())),
    }
}

/// Ends the doubt about a refund on the word of somebody who has looked at the channel's books: its money went back, or
/// it did not and will not. Its call can no longer be made. Why not, where nothing is in doubt.
///
/// # Errors
/// The database's.
pub async fn end_by_hand(
    tx: &mut Tx,
    channels: &Channels,
    id: i64,
    is_back: bool,
    why: &str,
) -> Result<Result<(), String>, DbError> {
    if let Err(why) = in_doubt(payments::refund(tx, id).await?) {
        return Ok(Err(why));
    }
    // Calls are locked before what they are about, as by the engine that makes them.
    let reference = id.to_string();
    if !delivery::close(tx, Kind::ChannelRefund, &reference).await?
        && delivery::open_call(tx, Kind::ChannelRefund, &reference).await?.is_some()
    {
        return Ok(Err("its channel is being asked to pay it once more: wait until that call has ended".to_owned()));
    }
    if let Err(why) = in_doubt(payments::lock_refunds(tx, vec![id]).await?.remove(&id)) {
        return Ok(Err(why));
    }
    if is_back {
        refund::settle(tx, &HashMap::from([(id, None)])).await?;
    } else {
        let given_up = GivenUp { error: format!("by hand: {why}"), refused: true, trace: None };
        refund::give_up(tx, channels, &HashMap::from([(id, given_up)])).await?;
    }
    Ok(Ok(()))
}

/// Whether an answer is about this refund, which is in doubt, and about all of its money; why not.
async fn fits(tx: &mut Tx, id: i64, text: &str, is_back: bool) -> Result<Result<(), String>, DbError> {
    let answer: Answer = match serde_json::from_str(text) {
        Ok(answer) => answer,
        Err(error) => return Ok(Err(format!("the answer cannot be read: {error}"))),
    };
    let refund = payments::refund(tx, id).await?;
    Ok(match refund {
        _ if answer.refund_id.0 != id => Err("it is about another one".to_owned()),
        None => Err("there is no such refund".to_owned()),
        Some(refund) if is_back && answer.amount != Some(refund.amount) => {
            Err("it does not name the amount of this refund".to_owned())
        }
        // A no about what is known to be back.
        Some(refund) if !is_back && refund.status != RefundStatus::InDoubt => {
            Err(format!("it says no, and the refund is {}", refund.status.name()))
        }
        Some(_) => Ok(()),
    })
}
