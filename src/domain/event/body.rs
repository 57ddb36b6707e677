//! Which type the body of an event has.

use serde::de::DeserializeOwned;
use utoipa::ToSchema;

use super::{
    CacheInvalidate, CallbackSubmit, CouponMoved, DayStatistics, FulfilRefused, Fulfilment, Inventory, InventorySync,
    Kind, MerchantChanged, OrderAutoCancel, OrderCanceled, OrderCreated, OrderDataSync, OrderNotification, OrderNotify,
    PaidOrderSuccess, PayTimeoutDelay, PaymentCloseRequested, PaymentCloseResult, PaymentSuccess, PointsGrant,
    RefundFailed, RefundRequested, RefundSuccess, StockFreezeFailed, StockFrozen, TriggerOrderFulfill,
};

/// Does something with the type of a body.
pub trait BodyVisitor {
    /// What comes of it.
    type Output;

    /// Does it with `B`.
    fn visit<B: DeserializeOwned + ToSchema>(self) -> Self::Output;
}

impl Kind {
    /// Does something with the type of the body of this event.
    pub fn visit_body<V: BodyVisitor>(self, visitor: V) -> V::Output {
        match self {
            Kind::OrderCreated => visitor.visit::<OrderCreated>(),
            Kind::StockFrozen => visitor.visit::<StockFrozen>(),
            Kind::StockFreezeFailed => visitor.visit::<StockFreezeFailed>(),
            Kind::RefundFailed => visitor.visit::<RefundFailed>(),
            Kind::PaymentSuccess => visitor.visit::<PaymentSuccess>(),
            Kind::PaymentCloseRequested => visitor.visit::<PaymentCloseRequested>(),
            Kind::PaymentCloseResult => visitor.visit::<PaymentCloseResult>(),
            Kind::PaidOrderSuccess | Kind::PaidOrderSuccessRetry => visitor.visit::<PaidOrderSuccess>(),
            Kind::OrderCanceled => visitor.visit::<OrderCanceled>(),
            Kind::InventoryDeduct | Kind::InventoryRelease | Kind::InventoryDeductRetry => visitor.visit::<Inventory>(),
            Kind::InventorySync => visitor.visit::<InventorySync>(),
            Kind::OrderDataSync => visitor.visit::<OrderDataSync>(),
            Kind::CacheInvalidate => visitor.visit::<CacheInvalidate>(),
            Kind::CouponLocked | Kind::CouponUsed | Kind::CouponReleased => visitor.visit::<CouponMoved>(),
            Kind::PointsGrant => visitor.visit::<PointsGrant>(),
            Kind::PayTimeoutDelay => visitor.visit::<PayTimeoutDelay>(),
            Kind::OrderAutoCancel => visitor.visit::<OrderAutoCancel>(),
            Kind::TriggerOrderFulfill | Kind::TriggerOrderFulfillRetry => visitor.visit::<TriggerOrderFulfill>(),
            Kind::OrderFulfillSuccess | Kind::OrderOutStock | Kind::OrderDelivery | Kind::OrderSigned => {
                visitor.visit::<Fulfilment>()
            }
            Kind::OrderFulfillRefused => visitor.visit::<FulfilRefused>(),
            Kind::RefundRequested => visitor.visit::<RefundRequested>(),
            Kind::RefundSuccess => visitor.visit::<RefundSuccess>(),
            Kind::OrderNotification | Kind::SmsNotification | Kind::EmailNotification => {
                visitor.visit::<OrderNotification>()
            }
            Kind::CallbackSubmit => visitor.visit::<CallbackSubmit>(),
            Kind::OrderNotify => visitor.visit::<OrderNotify>(),
            Kind::DayStatistics => visitor.visit::<DayStatistics>(),
            Kind::MerchantChanged => visitor.visit::<MerchantChanged>(),
        }
    }
}
