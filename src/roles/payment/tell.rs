//! What the payment role says of payments beside PAYMENT_SUCCESS: the statistics of their day, and to merchants what
//! became of the gateway's.

use std::collections::HashMap;

use super::channels::Channels;
use crate::db::gateway::{self, GatewayRow};
use crate::db::payments::{PaymentRow, RefundRow};
use crate::db::tx::Draft;
use crate::db::{DbError, Tx};
use crate::domain::event::{DayStatistics, Kind, OrderNotify};
use crate::domain::id::{MerchantId, RefundId};
use crate::domain::money::Money;
use crate::domain::statistics::{Type, day_of};

/// What the gateway's payments among these have beside the shop's, by payment.
///
/// # Errors
/// The database's.
pub(super) async fn gateways<'p>(
    tx: &mut Tx,
    payments: impl Iterator<Item = &'p PaymentRow>,
) -> Result<HashMap<i64, GatewayRow>, DbError> {
    let ids: Vec<i64> = payments.filter(|payment| payment.is_gateway()).map(|payment| payment.id).collect();
    if ids.is_empty() { Ok(HashMap::new()) } else { gateway::by_id(tx, ids).await }
}

/// DAY_STATISTICS of what happened to a payment at `at_ms` (epoch ms), once for each payment and type.
///
/// # Errors
/// See [`Tx::emit`].
pub(super) fn count(
    tx: &mut Tx,
    channels: &Channels,
    kind: Type,
    payment: &PaymentRow,
    gateway: Option<&GatewayRow>,
    at_ms: i64,
    trace: Option<&str>,
) -> Result<(), DbError> {
    let of = |field: fn(&GatewayRow) -> &String| gateway.map(field).cloned().unwrap_or_default();
    let body = DayStatistics {
        product_id: of(|row| &row.product_id),
        channel_id: payment.channel_id.clone(),
        tenant_id: of(|row| &row.tenant_id),
        money: payment.state.amount,
        date: day_of(at_ms, channels.zone()),
        statistics_type: kind.name().to_owned(),
        extra_arg: of(|row| &row.extra_arg),
    };
    let draft = Draft::new(Kind::DayStatistics, payment.business_id(), &body, trace);
    tx.emit(&Draft { discriminator: kind.name(), ..draft })
}

/// What a merchant is told of its own order.
#[derive(Clone, Copy, Debug)]
pub(super) enum News<'r> {
    /// The money is there.
    Paid,
    /// Money went back; with that, all of it.
    Refunded(&'r RefundRow, bool),
    /// It could not go back.
    RefundFailed(&'r RefundRow),
}

/// ORDER_NOTIFY, where the merchant wants to know.
///
/// # Errors
/// See [`Tx::emit`].
pub(super) fn merchant(
    tx: &mut Tx,
    payment: &PaymentRow,
    gateway: &GatewayRow,
    news: News<'_>,
    trace: Option<&str>,
) -> Result<(), DbError> {
    if gateway.notify_url.is_empty() {
        return Ok(());
    }
    let (status, money, refund_id): (&str, Money, Option<i64>) = match news {
        News::Paid => ("PAID", payment.state.amount, None),
        News::Refunded(refund, true) => ("REFUNDED", refund.amount, Some(refund.id)),
        News::Refunded(refund, false) => ("PART_REFUNDED", refund.amount, Some(refund.id)),
        News::RefundFailed(refund) => ("REFUND_FAILED", refund.amount, Some(refund.id)),
    };
    let body = OrderNotify {
        order_id: payment.id.to_string(),
        order_no: payment.order_no.clone(),
        out_order_no: gateway.out_order_no.clone(),
        money,
        status: status.to_owned(),
        notify_url: gateway.notify_url.clone(),
        retry_count: 0,
        merchant_id: Some(MerchantId(gateway.merchant_id)),
        refund_id: refund_id.map(RefundId),
    };
    let apart = match refund_id {
        Some(id) if status != "REFUNDED" => format!("{status}:{id}"),
        _ => status.to_owned(),
    };
    let draft = Draft::new(Kind::OrderNotify, payment.id, &body, trace);
    tx.emit(&Draft { discriminator: &apart, ..draft })
}
