//! Events about coupons, for systems outside.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::id::{CouponId, OrderId, UserId};

/// Body of `COUPON_LOCKED`, `COUPON_USED` and `COUPON_RELEASED`; the key is the order, which has one coupon at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CouponMoved {
    /// Coupon.
    pub coupon_id: CouponId,
    /// Order that has, had used, or no longer has it.
    pub order_id: OrderId,
    /// Whose.
    pub user_id: UserId,
}
