//! Points that systems outside grant.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::id::{OrderId, UserId};

/// Body of `POINTS_GRANT`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PointsGrant {
    /// Whom to grant them.
    pub user_id: UserId,
    /// For which order, if for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<OrderId>,
    /// How many, 1 to 1000000000.
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    pub points: i64,
}
