//! The bodies of events around merchants and the pay gateway; its own three are snake_case.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::id::{MerchantId, RefundId};
use crate::domain::merchant::Accept;
use crate::domain::money::Money;
use crate::domain::time::epoch_ms;

/// Body of `CALLBACK_SUBMIT` (snake_case, as the pay gateway has it).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CallbackSubmit {
    /// Payment id, as the channel knows it.
    pub order_no: String,
    /// The merchant's own number: the order number for a shop payment.
    pub out_order_no: String,
    /// Channel's plugin.
    pub plugin_id: String,
    /// Kind of the plugin.
    pub plugin_type: String,
    /// How much.
    pub money: Money,
    /// Product of the gateway, where there is one.
    #[serde(default)]
    pub product_id: String,
    /// Channel.
    pub channel_id: String,
    /// Who sells.
    pub merchant_id: MerchantId,
    /// Tenant of the gateway, where there is one.
    #[serde(default)]
    pub tenant_id: String,
    /// When it was opened, epoch ms.
    #[serde(deserialize_with = "epoch_ms")]
    pub create_datetime: i64,
}

/// Body of `ORDER_NOTIFY` (snake_case, as the pay gateway has it).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrderNotify {
    /// Order, or payment of the gateway.
    pub order_id: String,
    /// Its number for people.
    #[serde(default)]
    pub order_no: String,
    /// The merchant's own number, where there is one.
    #[serde(default)]
    pub out_order_no: String,
    /// How much was paid, or went back.
    pub money: Money,
    /// PAID, REFUNDED (all of it), PART_REFUNDED or REFUND_FAILED; other systems may say something else.
    pub status: String,
    /// Where to tell it; without it the merchant's own address.
    #[serde(default)]
    pub notify_url: String,
    /// How often it was told before, by the system that asks.
    #[serde(default)]
    pub retry_count: i64,
    /// Who sells; without it whoever has the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merchant_id: Option<MerchantId>,
    /// Refund, where the money went back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund_id: Option<RefundId>,
}

/// Body of `DAY_STATISTICS` (snake_case, as the pay gateway has it).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DayStatistics {
    /// Product of the gateway; empty for payments of the shop.
    #[serde(default)]
    pub product_id: String,
    /// Channel.
    #[serde(default)]
    pub channel_id: String,
    /// Tenant of the gateway; empty for payments of the shop.
    #[serde(default)]
    pub tenant_id: String,
    /// How much.
    pub money: Money,
    /// Day in the time zone of the payment role (`statistics.time_zone`), like 2026-01-31.
    pub date: String,
    /// SUBMIT: a payment was opened; SUCCESS: it has its money.
    pub statistics_type: String,
    /// Whatever else the sender counts by; it is kept.
    #[serde(default)]
    pub extra_arg: String,
}

/// Body of `MERCHANT_CHANGED`. The secrets of a merchant are in no message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MerchantChanged {
    /// Who.
    pub merchant_id: MerchantId,
    /// Rises with each change: an older one that comes late says nothing.
    pub version: i64,
    /// May open payments.
    pub active: bool,
    /// Tenant.
    #[serde(default)]
    pub tenant_id: String,
    /// Where it is told what became of its payments.
    #[serde(default)]
    pub notify_url: String,
    /// Which payments it may open.
    #[serde(default)]
    pub accepts: Vec<Accept>,
}
