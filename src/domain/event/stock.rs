//! Events about the stock of an order.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::id::{MerchantId, OrderId, UserId};
use crate::domain::money::Money;
use crate::domain::time::epoch_ms;

/// Body of `STOCK_FROZEN`: all that payment needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StockFrozen {
    /// Order.
    pub order_id: OrderId,
    /// Its number for people.
    pub order_no: String,
    /// Who pays.
    pub user_id: UserId,
    /// What is to be paid.
    pub total_amount: Money,
    /// Epoch ms.
    #[serde(deserialize_with = "epoch_ms")]
    pub expire_time: i64,
    /// Who sells.
    pub merchant_id: MerchantId,
    /// Which channel is to take the money.
    pub channel_id: String,
}

/// Body of `STOCK_FREEZE_FAILED`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StockFreezeFailed {
    /// Order.
    pub order_id: OrderId,
    /// Its number for people.
    #[serde(default)]
    pub order_no: String,
    /// Why, for the user.
    pub reason: String,
}

/// Body of `INVENTORY_DEDUCT` and `INVENTORY_RELEASE`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Inventory {
    /// Order.
    pub order_id: OrderId,
    /// What made it necessary: PAID, or the cancel's type.
    #[serde(default)]
    pub kind: String,
}
