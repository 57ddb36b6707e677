//! Giving money back: recorded with what caused it, called outside, settled with the channel's answer.

use std::collections::{HashMap, HashSet};

use super::channels::Channels;
use crate::db::delivery::{self, Delivery};
use crate::db::payments::{self, PaymentRow, RefundRow, RefundStatus};
use crate::db::tx::Draft;
use crate::db::{DbError, Tx};
use crate::domain::event::{Kind, RefundKind};
use crate::domain::order::Decision;
use crate::domain::payment::{self, Input};

/// Records the refund of one transaction, and the call to the channel; nothing where it is recorded already.
///
/// # Errors
/// The database's.
pub async fn record(
    tx: &mut Tx,
    channels: &Channels,
    payment: &PaymentRow,
    kind: RefundKind,
    transaction_no: &str,
    reason: &str,
    trace: Option<&str>,
) -> Result<(), DbError> {
    if payments::has_refund(tx, payment.id, transaction_no).await? {
        return Ok(());
    }
    let refund = RefundRow {
        id: tx.next_id(),
        payment_id: payment.id,
        order_id: payment.order_id,
        kind,
        amount: payment.state.amount,
        reason: reason.chars().take(200).collect(),
        status: RefundStatus::Pending,
        transaction_no: transaction_no.to_owned(),
    };
    payments::insert_refunds(tx, std::slice::from_ref(&refund)).await?;
    let call = Delivery {
        id: tx.next_id(),
        kind: delivery::Kind::ChannelRefund,
        reference: refund.id.to_string(),
        order_id: refund.order_id,
        url: channels.url(&payment.channel_id, "refund"),
        body: Channels::refund(&refund)?,
        attempts: 0,
        next_at: tx.now_ms(),
        trace: trace.or(payment.trace.as_deref()).map(str::to_owned),
    };
    delivery::insert(tx, &[call]).await.map(|_| ())
}

/// The channel gave the money of these refunds back; with each, the trace of the call that asked for it.
///
/// # Errors
/// The database's.
pub async fn settle(tx: &mut Tx, traces: &HashMap<i64, Option<String>>) -> Result<(), DbError> {
    let refunds = payments::lock_refunds(tx, traces.keys().copied().collect()).await?;
    let open: Vec<&RefundRow> = refunds.values().filter(|refund| refund.status != RefundStatus::Success).collect();
    let payment_ids = open.iter().map(|refund| refund.payment_id).collect();
    let mut found = payments::lock_by_id(tx, payment_ids).await?;
    let mut changed = HashSet::new();
    for refund in &open {
        let Some(payment) = found.get_mut(&refund.payment_id) else { continue };
        if refund.kind == RefundKind::Order
            && let Decision::Apply(next, _) = payment::decide(&payment.state, &Input::RefundDone)
        {
            payment.state = next;
            changed.insert(payment.id);
        }
        let body = refund.success(payment.user_id);
        let discriminator = refund.id.to_string();
        let trace = traces.get(&refund.id).and_then(Option::as_deref);
        let draft = Draft::new(Kind::RefundSuccess, refund.order_id, &body, trace);
        tx.emit(&Draft { discriminator: &discriminator, ..draft })?;
    }
    let changed: Vec<&PaymentRow> = found.values().filter(|payment| changed.contains(&payment.id)).collect();
    payments::update(tx, &changed).await?;
    let ids: Vec<i64> = open.iter().map(|refund| refund.id).collect();
    payments::set_refund_status(tx, &ids, RefundStatus::Success).await
}

/// The channel could not be moved to give the money of these refunds back.
///
/// # Errors
/// The database's.
pub async fn give_up(tx: &mut Tx, refund_ids: &[i64]) -> Result<(), DbError> {
    payments::set_refund_status(tx, refund_ids, RefundStatus::Failed).await
}
