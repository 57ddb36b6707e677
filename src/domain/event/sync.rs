//! What an order has become, for whoever keeps a picture of all orders.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::id::{MerchantId, OrderId, UserId};
use crate::domain::money::Money;
use crate::domain::order::{Outcome, Status};
use crate::domain::stock::Lines;
use crate::domain::time::epoch_ms;

/// Body of `ORDER_DATA_SYNC`: the whole of it, so that any one may come first; of two the greater version counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderDataSync {
    /// Order.
    pub order_id: OrderId,
    /// Its number for people.
    #[serde(default)]
    pub order_no: String,
    /// Who ordered.
    pub user_id: UserId,
    /// Its state.
    pub status: Status,
    /// How it ended, or OPEN.
    pub outcome: Outcome,
    /// Grows with each change of the order.
    pub version: i64,
    /// What is to be paid.
    pub total_amount: Money,
    /// ISO 4217.
    #[serde(default)]
    pub currency: String,
    /// Who sells.
    pub merchant_id: MerchantId,
    /// Which channel is to take the money.
    #[serde(default)]
    pub channel_id: String,
    /// Free text of the user.
    #[serde(default)]
    pub remark: String,
    /// Why it was canceled; empty: it was not.
    #[serde(default)]
    pub cancel_reason: String,
    /// When it was accepted, epoch ms.
    #[serde(deserialize_with = "epoch_ms")]
    pub created_at: i64,
    /// When it became this, epoch ms.
    #[serde(deserialize_with = "epoch_ms")]
    pub updated_at: i64,
    /// SKU → pieces. Only with the first version: they never change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product_quantity_map: Option<Lines>,
}
