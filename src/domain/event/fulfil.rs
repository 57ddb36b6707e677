//! The warehouse's no.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::id::OrderId;
use crate::domain::time::epoch_ms;

/// Body of `ORDER_FULFILL_REFUSED`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FulfilRefused {
    /// Order.
    pub order_id: OrderId,
    /// When the warehouse said so, epoch ms.
    #[serde(default, deserialize_with = "epoch_ms")]
    pub occurred_at: i64,
    /// Why, for the user.
    #[serde(default)]
    pub reason: String,
}
