//! The configured channels: where each is called, and what it is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::config::{self, Config, LeftOut, SubmitWhen};
use crate::db::payments::{PaymentRow, RefundRow};
use crate::domain::id::{MerchantId, OrderId, PaymentId, RefundId, TransactionNo};
use crate::domain::money::Money;

/// The channels of a process, and what is the same for all of them. A cheap clone.
#[derive(Clone, Debug)]
pub struct Channels {
    by_id: Arc<BTreeMap<String, config::Channel>>,
    left_out: Arc<LeftOut>,
    /// Of the days in which their payments are counted.
    zone: TimeZone,
    /// So long after a submission a channel that has not called back is asked; 0: never.
    query_after_ms: i64,
}

/// How a payer's attempt is to go at a sandbox channel; for other channels it is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct SandboxWish {
    /// Call back so many milliseconds later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<i64>,
    /// Call back so many times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeat: Option<i64>,
    /// Do not call back until told to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silent: Option<bool>,
    /// Report an amount that is off by so many minor units.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount_delta: Option<i64>,
    /// Sign the callback wrongly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bad_signature: Option<bool>,
    /// Use this transaction number: another one is another payment of the same order.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub transaction_no: Option<TransactionNo>,
}

/// What a channel is told when a payment is submitted.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Submission<'a> {
    payment_id: PaymentId,
    order_id: OrderId,
    order_no: &'a str,
    amount: Money,
    currency: &'a str,
    merchant_id: MerchantId,
    channel_id: &'a str,
    method: &'a str,
    /// Which attempt of its payment it is, from the second on: another one has another key.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<&'a SandboxWish>,
}

/// What a channel was told when a payment was submitted, as far as another attempt goes by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Told {
    method: String,
    attempt: Option<i64>,
}

impl Told {
    /// As the body of the submission has it.
    pub fn of(body: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(body)
    }

    /// By this method, for the first time.
    pub fn by(method: &str) -> Self {
        Self { method: method.to_owned(), attempt: None }
    }

    /// By what the payer is to pay; empty where the channel asks the payer.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The payer wants to pay by something else than the channel was told.
    pub fn is_other(&self, method: &str) -> bool {
        !self.method.is_empty() && self.method != method
    }

    /// Which attempt of its payment it is, from the second on.
    pub fn attempt(&self) -> Option<i64> {
        self.attempt
    }

    /// The attempt behind this one.
    pub fn next(&self, method: &str) -> Self {
        Self { method: method.to_owned(), attempt: Some(self.attempt.unwrap_or(1).saturating_add(1)) }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RefundCall<'a> {
    /// Whose secret signs the call.
    channel_id: &'a str,
    refund_id: RefundId,
    payment_id: PaymentId,
    transaction_no: &'a str,
    amount: Money,
    reason: &'a str,
}

impl Channels {
    /// These channels, with days of UTC, and never asked.
    #[must_use]
    pub fn new(channels: BTreeMap<String, config::Channel>) -> Self {
        Self { by_id: Arc::new(channels), left_out: Arc::default(), zone: TimeZone::UTC, query_after_ms: 0 }
    }

    /// As configured.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let (zone, query_after_ms) = (config.statistics.zone(), config.payment.query_after.ms());
        let left_out = Arc::new(config.payment.left_out.clone());
        Self { left_out, zone, query_after_ms, ..Self::new(config.payment.channels.clone()) }
    }

    /// Where a day begins.
    #[must_use]
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// How long after a submission a channel that has not called back is asked, ms; none: never.
    #[must_use]
    pub fn query_after_ms(&self) -> Option<i64> {
        Some(self.query_after_ms).filter(|after_ms| *after_ms > 0)
    }

    /// Which protocol a channel speaks; empty for one that is not configured.
    #[must_use]
    pub fn plugin(&self, id: &str) -> &'static str {
        self.get(id).map_or("", |channel| channel.kind.name())
    }

    /// One channel.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&config::Channel> {
        self.by_id.get(id)
    }

    /// Why a channel is not there.
    #[must_use]
    pub fn why_not(&self, id: &str) -> String {
        self.left_out.why(id)
    }

    /// Payments of this channel are submitted as soon as they are open.
    #[must_use]
    pub fn submits_on_open(&self, id: &str) -> bool {
        self.get(id).is_some_and(|channel| channel.submit == SubmitWhen::OnOpen)
    }

    /// Where a channel takes `what` ("pay", "refund", "query"), as a call to it is recorded; a path is this process's
    /// own sandbox. Whoever makes the call goes by its own configuration. For a channel that is not known here, an
    /// address that nobody can call: versions before go by what is recorded, and a sandbox would say yes.
    #[must_use]
    pub fn url(&self, id: &str, what: &str) -> String {
        let known = self.get(id).and_then(|channel| channel.url(what));
        known.unwrap_or_else(|| format!("channel://{id}/{what}"))
    }

    /// Body of a submission; `attempt` is none for the first one.
    ///
    /// # Errors
    /// Never in practice: every field is plain.
    pub fn submission(
        payment: &PaymentRow,
        method: &str,
        sandbox: Option<&SandboxWish>,
        attempt: Option<i64>,
    ) -> Result<String, serde_json::Error> {
        serde_json::to_string(&Submission {
            payment_id: PaymentId(payment.id),
            order_id: OrderId(payment.business_id()),
            order_no: &payment.order_no,
            amount: payment.state.amount,
            currency: &payment.state.currency,
            merchant_id: MerchantId(payment.state.merchant_id),
            channel_id: &payment.channel_id,
            method,
            attempt,
            sandbox,
        })
    }

    /// Body of a refund.
    ///
    /// # Errors
    /// Never in practice: every field is plain.
    pub fn refund(payment: &PaymentRow, refund: &RefundRow) -> Result<String, serde_json::Error> {
        serde_json::to_string(&RefundCall {
            channel_id: &payment.channel_id,
            refund_id: RefundId(refund.id),
            payment_id: PaymentId(refund.payment_id),
            transaction_no: &refund.transaction_no,
            amount: refund.amount,
            reason: &refund.reason,
        })
    }
}
