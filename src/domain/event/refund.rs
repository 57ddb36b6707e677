//! The bodies of events about money that goes back.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::id::{MerchantId, OrderId, PaymentId, RefundId, UserId};
use crate::domain::money::Money;

/// Body of `REFUND_REQUESTED`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefundRequested {
    /// Order.
    pub order_id: OrderId,
    /// Payment whose money goes back, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment_id: Option<PaymentId>,
    /// Number of a refund of a part; without it all that is left of a canceled order's money goes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund_id: Option<RefundId>,
    /// How much.
    pub amount: Money,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// What a refund gives back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RefundKind {
    /// The money of a canceled order, or what was left of it.
    #[default]
    Order = 0,
    /// Money that was paid a second time for an order that goes on.
    Extra = 1,
    /// A part of the money of an order that goes on.
    Part = 2,
}

impl RefundKind {
    /// From the stored code.
    #[must_use]
    pub fn from_code(code: i64) -> Option<Self> {
        [Self::Order, Self::Extra, Self::Part].into_iter().find(|kind| *kind as i64 == code)
    }
}

/// Body of `REFUND_SUCCESS`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefundSuccess {
    /// Order.
    pub order_id: OrderId,
    /// Refund.
    pub refund_id: RefundId,
    /// How much.
    pub amount: Money,
    /// What it gave back.
    #[serde(default)]
    pub kind: RefundKind,
    /// Who paid, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    /// What was paid; without it all of that went back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paid_amount: Option<Money>,
    /// With it all of that is back; where it is not said, that of a canceled order is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_back: Option<bool>,
    /// The order's number for people.
    #[serde(default)]
    pub order_no: String,
    /// Who sells, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merchant_id: Option<MerchantId>,
}

/// Body of `REFUND_FAILED`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefundFailed {
    /// Order.
    pub order_id: OrderId,
    /// Refund.
    pub refund_id: RefundId,
    /// How much did not go back.
    pub amount: Money,
    /// Why.
    #[serde(default)]
    pub reason: String,
}
