//! The bodies of events that a row proves: what a role tells when it writes the row, and what a repair tells again.

use super::orders::{Item, OrderRow};
use super::payments::{PaymentRow, RefundRow};
use super::refunds::OrderRefund;
use crate::domain::event::{
    CouponMoved, Line, OrderCanceled, OrderCreated, OrderDataSync, PaidOrderSuccess, RefundFailed, RefundKind,
    RefundRequested, RefundSuccess, TriggerOrderFulfill,
};
use crate::domain::id::{CouponId, MerchantId, OrderId, PaymentId, RefundId, UserId};
use crate::domain::order::CancelType;
use crate::domain::stock::Lines;

impl OrderRow {
    /// ORDER_CREATED, with what was ordered.
    #[must_use]
    pub fn created(&self, lines: Lines) -> OrderCreated {
        OrderCreated {
            order_id: OrderId(self.id),
            order_no: self.order_no.clone(),
            user_id: UserId(self.user_id),
            total_amount: self.state.total,
            product_quantity_map: lines,
            remark: self.remark.clone(),
            expire_time: self.expire_time,
            merchant_id: MerchantId(self.merchant_id),
            channel_id: self.channel_id.clone(),
        }
    }

    /// ORDER_DATA_SYNC of what it becomes as `version` at `updated_at`, epoch ms; `lines` with the first version only.
    #[must_use]
    pub fn synced(&self, version: i64, updated_at: i64, lines: Option<Lines>) -> OrderDataSync {
        OrderDataSync {
            order_id: OrderId(self.id),
            order_no: self.order_no.clone(),
            user_id: UserId(self.user_id),
            status: self.state.status,
            outcome: self.state.outcome(),
            version,
            total_amount: self.state.total,
            currency: self.currency.clone(),
            merchant_id: MerchantId(self.merchant_id),
            channel_id: self.channel_id.clone(),
            remark: self.remark.clone(),
            cancel_reason: self.cancel_reason.clone().unwrap_or_default(),
            created_at: self.created_at,
            updated_at,
            product_quantity_map: lines,
        }
    }

    /// PAID_ORDER_SUCCESS; `or_at`, epoch ms, stands for a time of payment that is not known.
    #[must_use]
    pub fn paid(&self, or_at: i64) -> PaidOrderSuccess {
        PaidOrderSuccess {
            order_id: OrderId(self.id),
            user_id: UserId(self.user_id),
            pay_amount: self.state.total,
            pay_time: self.pay_time.unwrap_or(or_at),
            order_no: self.order_no.clone(),
            merchant_id: Some(MerchantId(self.merchant_id)),
        }
    }

    /// ORDER_CANCELED.
    #[must_use]
    pub fn canceled(&self, cancel_type: CancelType) -> OrderCanceled {
        OrderCanceled {
            order_id: OrderId(self.id),
            user_id: UserId(self.user_id),
            cancel_type,
            cancel_reason: self.cancel_reason.clone().unwrap_or_default(),
        }
    }

    /// TRIGGER_ORDER_FULFILL.
    #[must_use]
    pub fn trigger(&self, items: &[Item]) -> TriggerOrderFulfill {
        TriggerOrderFulfill {
            order_id: OrderId(self.id),
            user_id: UserId(self.user_id),
            lines: items.iter().map(|item| Line { sku: item.sku.clone(), quantity: item.quantity }).collect(),
            address: self.address.clone(),
        }
    }

    /// COUPON_LOCKED, COUPON_USED and COUPON_RELEASED, of an order that has a coupon.
    #[must_use]
    pub fn coupon_moved(&self) -> Option<CouponMoved> {
        let coupon = self.coupon.as_ref()?;
        let (order_id, user_id) = (OrderId(self.id), UserId(self.user_id));
        Some(CouponMoved { coupon_id: CouponId(coupon.id), order_id, user_id })
    }

    /// REFUND_REQUESTED, for all that was paid.
    #[must_use]
    pub fn refund_requested(&self) -> RefundRequested {
        let reason = self.cancel_reason.clone().or_else(|| self.cancel_type.clone());
        RefundRequested {
            order_id: OrderId(self.id),
            payment_id: self.state.payment_id,
            refund_id: None,
            amount: self.state.total,
            reason: reason.unwrap_or_default(),
        }
    }
}

impl OrderRefund {
    /// REFUND_REQUESTED, for a part of what this payment took.
    #[must_use]
    pub fn requested(&self, payment_id: Option<PaymentId>) -> RefundRequested {
        RefundRequested {
            order_id: OrderId(self.order_id),
            payment_id,
            refund_id: Some(RefundId(self.id)),
            amount: self.amount,
            reason: self.reason.clone(),
        }
    }
}

impl RefundRow {
    /// REFUND_SUCCESS, of what `payment` took.
    #[must_use]
    pub fn success(&self, payment: &PaymentRow) -> RefundSuccess {
        RefundSuccess {
            order_id: OrderId(self.order_id),
            refund_id: RefundId(self.id),
            amount: self.amount,
            kind: self.kind,
            user_id: (payment.user_id > 0).then_some(UserId(payment.user_id)),
            paid_amount: (self.kind != RefundKind::Extra).then_some(payment.state.amount),
            all_back: None,
            order_no: payment.order_no.clone(),
            merchant_id: Some(MerchantId(payment.state.merchant_id)),
        }
    }

    /// REFUND_FAILED.
    #[must_use]
    pub fn failure(&self, reason: &str) -> RefundFailed {
        RefundFailed {
            order_id: OrderId(self.order_id),
            refund_id: RefundId(self.id),
            amount: self.amount,
            reason: reason.to_owned(),
        }
    }
}
