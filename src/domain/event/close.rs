//! The bodies of events about payments that are closed before their orders are canceled.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::id::{OrderId, PaymentId, UserId};
use crate::domain::money::Money;
use crate::domain::order::CancelType;
use crate::domain::time::epoch_ms;

/// Body of `PAYMENT_CLOSE_REQUESTED`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PaymentCloseRequested {
    /// Order.
    pub order_id: OrderId,
    /// Whose.
    pub user_id: UserId,
    /// Who wants it canceled.
    pub cancel_type: CancelType,
    /// Why, for the user.
    #[serde(default)]
    pub reason: String,
}

/// Body of `PAYMENT_CLOSE_RESULT`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PaymentCloseResult {
    /// Order.
    pub order_id: OrderId,
    /// Who wants it canceled: as it was asked.
    pub cancel_type: CancelType,
    /// Why, for the user: as it was asked.
    #[serde(default)]
    pub reason: String,
    /// Payment that has the order's money, and was not closed; without it the payment is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment_id: Option<PaymentId>,
    /// How much was paid, where it has its money.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<Money>,
    /// When the channel took it, epoch ms; 0 where the payment is closed.
    #[serde(default, deserialize_with = "epoch_ms")]
    pub pay_time: i64,
}
