//! Orders as the API shows them.

use serde::Serialize;
use utoipa::ToSchema;

use crate::db::orders::{CouponUse, Item, OrderRow};
use crate::domain::id::{CouponId, MerchantId, OrderId, PaymentId, UserId};
use crate::domain::money::Money;
use crate::domain::order::{Outcome, RefundState, Status};

/// What a coupon did to an order; an order without one has none of these fields.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reduction {
    /// The sum of the lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>, example = 64.8)]
    pub original_amount: Option<Money>,
    /// What the coupon took off it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>, example = 5)]
    pub discount_amount: Option<Money>,
    /// Which coupon.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub coupon_id: Option<CouponId>,
}

impl Reduction {
    fn of(order: &OrderRow) -> Self {
        let Some(CouponUse { id, discount }) = order.coupon.clone() else { return Self::default() };
        let original = [order.state.total, discount].into_iter().sum();
        Self { original_amount: Some(original), discount_amount: Some(discount), coupon_id: Some(CouponId(id)) }
    }
}

/// The reply to an order that was accepted; a replay gets the same.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    /// Order.
    #[schema(value_type = String, example = "412345678901234567")]
    pub order_id: OrderId,
    /// Its number for people.
    pub order_no: String,
    /// Who ordered.
    #[schema(value_type = String)]
    pub user_id: UserId,
    /// Always CREATED: what it becomes is told by GET /orders/{id}.
    #[schema(value_type = String)]
    pub status: Status,
    /// What is to be paid.
    #[schema(value_type = f64, example = 59.8)]
    pub total_amount: Money,
    /// What its coupon did.
    #[serde(flatten)]
    pub reduction: Reduction,
    /// ISO 4217.
    pub currency: String,
    /// Unpaid by then, it is canceled; epoch ms.
    pub expire_time: i64,
    /// Epoch ms.
    pub created_at: i64,
}

impl From<&OrderRow> for Accepted {
    fn from(order: &OrderRow) -> Self {
        Self {
            order_id: OrderId(order.id),
            order_no: order.order_no.clone(),
            user_id: UserId(order.user_id),
            status: Status::Created,
            total_amount: order.state.total,
            reduction: Reduction::of(order),
            currency: order.currency.clone(),
            expire_time: order.expire_time,
            created_at: order.created_at,
        }
    }
}

/// A line of an order.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ItemView {
    /// SKU.
    pub sku: String,
    /// Pieces.
    pub quantity: i64,
    /// Price of one piece when the order was accepted.
    #[schema(value_type = f64)]
    pub unit_price: Money,
}

/// An order.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderView {
    /// Order.
    #[schema(value_type = String)]
    pub order_id: OrderId,
    /// Its number for people.
    pub order_no: String,
    /// Who ordered.
    #[schema(value_type = String)]
    pub user_id: UserId,
    /// CREATED, RESERVED, PAID, FULFILL, OUT_STOCK, DELIVERY, SIGNED or CANCELED.
    #[schema(value_type = String)]
    pub status: Status,
    /// How it ended: OPEN, SIGNED, CANCELED or REFUNDED.
    #[schema(value_type = String)]
    pub outcome: Outcome,
    /// NONE, REQUESTED or DONE.
    #[schema(value_type = String)]
    pub refund_status: RefundState,
    /// Grows with each change.
    pub version: i64,
    /// What is to be paid.
    #[schema(value_type = f64)]
    pub total_amount: Money,
    /// What its coupon did.
    #[serde(flatten)]
    pub reduction: Reduction,
    /// ISO 4217.
    pub currency: String,
    /// Lines; not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<Vec<ItemView>>,
    /// Free text of the user.
    pub remark: String,
    /// Where to.
    pub address: String,
    /// Who sells.
    #[schema(value_type = String)]
    pub merchant_id: MerchantId,
    /// Channel that takes the money.
    pub channel_id: String,
    /// Unpaid by then, it is canceled; epoch ms.
    pub expire_time: i64,
    /// When it was paid, epoch ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pay_time: Option<i64>,
    /// What paid it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub payment_id: Option<PaymentId>,
    /// USER, TIMEOUT, STOCK, AUTO or WAREHOUSE.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancel_type: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancel_reason: Option<String>,
    /// Carrier's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carrier: Option<String>,
    /// Carrier's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracking_no: Option<String>,
    /// Epoch ms.
    pub created_at: i64,
    /// Epoch ms.
    pub updated_at: i64,
}

impl OrderView {
    /// The view of an order, with its lines where they were read.
    #[must_use]
    pub fn of(order: OrderRow, items: Option<Vec<Item>>) -> Self {
        let lines = |items: Vec<Item>| {
            let view = |item: Item| ItemView { sku: item.sku, quantity: item.quantity, unit_price: item.unit_price };
            items.into_iter().map(view).collect()
        };
        Self {
            reduction: Reduction::of(&order),
            order_id: OrderId(order.id),
            order_no: order.order_no,
            user_id: UserId(order.user_id),
            status: order.state.status,
            outcome: order.state.outcome(),
            refund_status: order.state.refund,
            version: order.version,
            total_amount: order.state.total,
            currency: order.currency,
            items: items.map(lines),
            remark: order.remark,
            address: order.address,
            merchant_id: MerchantId(order.merchant_id),
            channel_id: order.channel_id,
            expire_time: order.expire_time,
            pay_time: order.pay_time,
            payment_id: order.state.payment_id,
            cancel_type: order.cancel_type,
            cancel_reason: order.cancel_reason,
            carrier: order.carrier,
            tracking_no: order.tracking_no,
            created_at: order.created_at,
            updated_at: order.updated_at,
        }
    }
}

/// A page of orders.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OrderPage {
    /// Newest first, without their lines.
    pub items: Vec<OrderView>,
    /// Pass it as `before` to get the next page; null: that was all.
    pub next: Option<String>,
}
