//! The catalogue: every event, who emits it, which consumer groups take it, and the fields of its body.
//! `docs/events.md` is generated from this file.

mod advice;
mod body;
mod close;
mod coupon;
mod fulfil;
mod gateway;
mod points;
mod refund;
mod stock;
mod sync;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::id::{MerchantId, OrderId, PaymentId, UserId, unpadded_text};
use super::money::Money;
use super::order::CancelType;
use super::time::epoch_ms;

pub use self::advice::{CacheInvalidate, CacheKind, InventorySync};
pub use self::body::BodyVisitor;
pub use self::close::{PaymentCloseRequested, PaymentCloseResult};
pub use self::coupon::CouponMoved;
pub use self::fulfil::FulfilRefused;
pub use self::gateway::{CallbackSubmit, DayStatistics, MerchantChanged, OrderNotify};
pub use self::points::PointsGrant;
pub use self::refund::{RefundFailed, RefundKind, RefundRequested, RefundSuccess};
pub use self::stock::{Inventory, StockFreezeFailed, StockFrozen};
pub use self::sync::OrderDataSync;

/// A role: a part of the business with its own tables and consumer groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Orders and their fulfilment.
    Order,
    /// Payments and refunds.
    Payment,
    /// Stock.
    Stock,
    /// Points and notices.
    Notify,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Order, Self::Payment, Self::Stock, Self::Notify];

    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Payment => "payment",
            Self::Stock => "stock",
            Self::Notify => "notify",
        }
    }
}

/// A consumer group. Each event is handled once by each of its groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    /// Freezes, deducts and releases stock.
    Stock,
    /// Moves orders.
    Order,
    /// Opens, closes and refunds payments.
    Payment,
    /// Submits payments to channels that want them as soon as they are open.
    CallbackSubmit,
    /// Starts the fulfilment of paid orders.
    PaidOrder,
    /// Hands orders to the warehouse.
    Fulfil,
    /// Cancels orders that were not paid in time.
    PayTimeout,
    /// Grants and reverses points.
    Points,
    /// Tells users.
    Notification,
    /// Sends text messages.
    Sms,
    /// Sends e-mails.
    Email,
    /// Keeps the order role's picture of stock.
    InventorySync,
    /// Records the calls that tell merchants.
    OrderNotify,
    /// Counts payments by day.
    DayStatistics,
    /// Keeps the payment role's picture of merchants.
    MerchantSync,
    /// Keeps the picture of all orders that is searched.
    OrderDataSync,
}

impl Group {
    /// Every group.
    pub const ALL: [Self; 16] = [
        Self::Stock,
        Self::Order,
        Self::Payment,
        Self::CallbackSubmit,
        Self::PaidOrder,
        Self::Fulfil,
        Self::PayTimeout,
        Self::Points,
        Self::Notification,
        Self::Sms,
        Self::Email,
        Self::InventorySync,
        Self::OrderNotify,
        Self::DayStatistics,
        Self::MerchantSync,
        Self::OrderDataSync,
    ];

    /// Name on the broker and in `message_process_log.consumer_group`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock-consumer-group",
            Self::Order => "order-consumer-group",
            Self::Payment => "payment-consumer-group",
            Self::CallbackSubmit => "callback-submit-consumer-group",
            Self::PaidOrder => "paid-order-success-consumer-group",
            Self::Fulfil => "order-fulfill-consumer-group",
            Self::PayTimeout => "pay-timeout-consumer-group",
            Self::Points => "points-consumer-group",
            Self::Notification => "notification-consumer-group",
            Self::Sms => "sms-consumer-group",
            Self::Email => "email-consumer-group",
            Self::InventorySync => "inventory-sync-consumer-group",
            Self::OrderNotify => "order-notify-consumer-group",
            Self::DayStatistics => "day-statistics-consumer-group",
            Self::MerchantSync => "merchant-sync-consumer-group",
            Self::OrderDataSync => "order-data-sync-consumer-group",
        }
    }

    /// From its name on the broker.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|group| group.name() == name)
    }

    /// The role that runs it.
    #[must_use]
    pub fn role(self) -> Role {
        match self {
            Self::Stock => Role::Stock,
            Self::Order | Self::PaidOrder | Self::Fulfil | Self::PayTimeout | Self::InventorySync => Role::Order,
            Self::Payment | Self::CallbackSubmit | Self::MerchantSync => Role::Payment,
            Self::Points
            | Self::Notification
            | Self::Sms
            | Self::Email
            | Self::OrderNotify
            | Self::DayStatistics
            | Self::OrderDataSync => Role::Notify,
        }
    }

    /// The events that it takes.
    pub fn events(self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(move |kind| kind.groups().contains(&self))
    }
}

/// Who puts an event on its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Producer {
    /// A role of ruyi.
    Role(Role),
    /// Only systems outside, or operators.
    Outside,
    /// Processes that have written, to every process: no group, no inbox, and not through the outbox.
    Broadcast,
}

macro_rules! catalogue {
    ($($kind:ident = $name:literal, $summary:literal, $producer:expr => [$($group:ident),*], [$($field:literal),*];)*) => {
        /// Kind of an event. Its name is also the default name of its topic.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $(#[doc = $summary] $kind,)*
        }

        impl Kind {
            /// Every kind, in catalogue order.
            pub const ALL: [Self; [$(Self::$kind),*].len()] = [$(Self::$kind),*];

            /// Name: TAGS, the property `eventType`, and the topic where no other is configured.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// Who emits it.
            #[must_use]
            pub const fn producer(self) -> Producer {
                match self { $(Self::$kind => $producer,)* }
            }

            /// The groups that each handle it once.
            #[must_use]
            pub const fn groups(self) -> &'static [Group] {
                match self { $(Self::$kind => &[$(Group::$group),*],)* }
            }

            /// Fields of its body, beside `eventId` and `timestamp`.
            #[must_use]
            pub const fn fields(self) -> &'static [&'static str] {
                match self { $(Self::$kind => &[$($field),*],)* }
            }

            /// What it says, for people.
            #[must_use]
            pub const fn summary(self) -> &'static str {
                match self { $(Self::$kind => $summary,)* }
            }
        }
    };
}

catalogue! {
    OrderCreated = "ORDER_CREATED", "An order was accepted.",
        Producer::Role(Role::Order) => [Stock],
        ["orderId", "orderNo", "userId", "totalAmount", "productQuantityMap", "remark", "expireTime", "merchantId", "channelId"];
    StockFrozen = "STOCK_FROZEN", "All lines of an order are held; it may be paid.",
        Producer::Role(Role::Stock) => [Order, Payment],
        ["orderId", "orderNo", "userId", "totalAmount", "expireTime", "merchantId", "channelId"];
    StockFreezeFailed = "STOCK_FREEZE_FAILED", "No line of an order is held; it will be canceled.",
        Producer::Role(Role::Stock) => [Order],
        ["orderId", "orderNo", "reason"];
    PaymentSuccess = "PAYMENT_SUCCESS", "The channel confirmed the money of an order.",
        Producer::Role(Role::Payment) => [Order],
        ["paymentId", "orderId", "orderNo", "userId", "amount", "paymentMethod", "transactionNo", "payTime"];
    PaymentCloseRequested = "PAYMENT_CLOSE_REQUESTED", "An order is to be canceled, unless it is paid: its payment is to be closed. Only where the two roles have databases of their own.",
        Producer::Role(Role::Order) => [Payment],
        ["orderId", "userId", "cancelType", "reason"];
    PaymentCloseResult = "PAYMENT_CLOSE_RESULT", "The payment of an order that is to be canceled is closed, or has its money.",
        Producer::Role(Role::Payment) => [Order],
        ["orderId", "cancelType", "reason", "paymentId", "amount", "payTime"];
    PaidOrderSuccess = "PAID_ORDER_SUCCESS", "An order is paid.",
        Producer::Role(Role::Order) => [PaidOrder, Points, Notification],
        ["orderId", "userId", "payAmount", "payTime", "orderNo", "merchantId"];
    OrderCanceled = "ORDER_CANCELED", "An order is canceled.",
        Producer::Role(Role::Order) => [Payment, Notification],
        ["orderId", "userId", "cancelType", "cancelReason"];
    InventoryDeduct = "INVENTORY_DEDUCT", "Frozen stock of an order is to become sold.",
        Producer::Role(Role::Order) => [Stock],
        ["orderId", "kind"];
    InventoryRelease = "INVENTORY_RELEASE", "Stock of an order is to become available again.",
        Producer::Role(Role::Order) => [Stock],
        ["orderId", "kind"];
    InventorySync = "INVENTORY_SYNC", "The level of a SKU has changed: one per SKU and `stock.sync_interval`.",
        Producer::Role(Role::Stock) => [InventorySync],
        ["sku", "available", "frozen", "sold", "version"];
    OrderDataSync = "ORDER_DATA_SYNC", "What an order has become: one for each of its versions (unless `order.data_sync` is false).",
        Producer::Role(Role::Order) => [OrderDataSync],
        ["orderId", "orderNo", "userId", "status", "outcome", "version", "totalAmount", "currency", "merchantId", "channelId", "remark",
         "cancelReason", "createdAt", "updatedAt", "productQuantityMap"];
    CacheInvalidate = "CACHE_INVALIDATE", "What was read of an order or a SKU is out of date. Sent one-way: a lost one only costs time.",
        Producer::Broadcast => [],
        ["kind", "key", "version"];
    CouponLocked = "COUPON_LOCKED", "An order was accepted with a coupon.",
        Producer::Role(Role::Order) => [],
        ["couponId", "orderId", "userId"];
    CouponUsed = "COUPON_USED", "An order with a coupon is paid.",
        Producer::Role(Role::Order) => [],
        ["couponId", "orderId", "userId"];
    CouponReleased = "COUPON_RELEASED", "An order with a coupon is canceled; the coupon is the user's again.",
        Producer::Role(Role::Order) => [],
        ["couponId", "orderId", "userId"];
    PayTimeoutDelay = "PAY_TIMEOUT_DELAY", "The time to pay an order may be over (with order.timeout.via = \"broker\").",
        Producer::Role(Role::Order) => [PayTimeout],
        ["orderId", "expireTime"];
    OrderAutoCancel = "ORDER_AUTO_CANCEL", "Risk control or an operator wants an order canceled.",
        Producer::Outside => [Order],
        ["orderId", "reason"];
    TriggerOrderFulfill = "TRIGGER_ORDER_FULFILL", "A paid order is to go to the warehouse.",
        Producer::Role(Role::Order) => [Fulfil],
        ["orderId", "userId", "lines", "address"];
    OrderFulfillSuccess = "ORDER_FULFILL_SUCCESS", "The warehouse took an order over.",
        Producer::Role(Role::Order) => [Order, Notification],
        ["orderId", "occurredAt", "carrier", "trackingNo", "userId"];
    OrderFulfillRefused = "ORDER_FULFILL_REFUSED", "The warehouse will not send an order: it is canceled, and its money goes back.",
        Producer::Role(Role::Order) => [Order],
        ["orderId", "occurredAt", "reason"];
    OrderOutStock = "ORDER_OUT_STOCK", "An order left the warehouse.",
        Producer::Role(Role::Order) => [Order, Notification],
        ["orderId", "occurredAt", "carrier", "trackingNo", "userId"];
    OrderDelivery = "ORDER_DELIVERY", "An order is with the carrier.",
        Producer::Role(Role::Order) => [Order, Notification],
        ["orderId", "occurredAt", "carrier", "trackingNo", "userId"];
    OrderSigned = "ORDER_SIGNED", "An order was signed for.",
        Producer::Role(Role::Order) => [Order, Notification],
        ["orderId", "occurredAt", "carrier", "trackingNo", "userId"];
    RefundRequested = "REFUND_REQUESTED", "The money of an order is to go back.",
        Producer::Role(Role::Order) => [Payment],
        ["orderId", "paymentId", "refundId", "amount", "reason"];
    RefundSuccess = "REFUND_SUCCESS", "Money of an order went back.",
        Producer::Role(Role::Payment) => [Order, Points, Notification],
        ["orderId", "refundId", "amount", "kind", "userId", "paidAmount", "allBack", "orderNo", "merchantId"];
    RefundFailed = "REFUND_FAILED", "A part of an order's money could not go back: it may be asked for again.",
        Producer::Role(Role::Payment) => [Order],
        ["orderId", "refundId", "amount", "reason"];
    PointsGrant = "POINTS_GRANT", "Another system grants a user points.",
        Producer::Outside => [Points],
        ["userId", "orderId", "points"];
    PaidOrderSuccessRetry = "PAID_ORDER_SUCCESS_RETRY",
        "An operator wants a paid order handed to fulfilment; one that was handed on before is left as it is.",
        Producer::Outside => [PaidOrder],
        ["orderId", "userId", "payAmount", "payTime", "orderNo", "merchantId"];
    TriggerOrderFulfillRetry = "TRIGGER_ORDER_FULFILL_RETRY",
        "An operator wants an order handed to the warehouse. One that was is left as it is: see `ruyi delivery resend`.",
        Producer::Outside => [Fulfil],
        ["orderId", "userId", "lines", "address"];
    InventoryDeductRetry = "INVENTORY_DEDUCT_RETRY", "An operator wants the frozen stock of an order to become sold.",
        Producer::Outside => [Stock],
        ["orderId", "kind"];
    OrderNotification = "ORDER_NOTIFICATION", "A user is to be told something about an order.",
        Producer::Outside => [Notification],
        ["userId", "orderId", "template", "params"];
    SmsNotification = "SMS_NOTIFICATION", "A user is to be told something by SMS. No event carries a phone number.",
        Producer::Role(Role::Notify) => [Sms],
        ["userId", "orderId", "template", "params"];
    EmailNotification = "EMAIL_NOTIFICATION", "A user is to be told something by e-mail. No event carries an address.",
        Producer::Role(Role::Notify) => [Email],
        ["userId", "orderId", "template", "params"];
    CallbackSubmit = "CALLBACK_SUBMIT", "An open payment is to be submitted to its channel.",
        Producer::Role(Role::Payment) => [CallbackSubmit],
        ["order_no", "out_order_no", "plugin_id", "plugin_type", "money", "product_id", "channel_id", "merchant_id", "tenant_id", "create_datetime"];
    OrderNotify = "ORDER_NOTIFY", "A merchant is to be told what became of the money of an order.",
        Producer::Role(Role::Notify) => [OrderNotify],
        ["order_id", "order_no", "out_order_no", "money", "status", "notify_url", "retry_count", "merchant_id", "refund_id"];
    DayStatistics = "DAY_STATISTICS", "A payment was opened (SUBMIT) or has its money (SUCCESS).",
        Producer::Role(Role::Payment) => [DayStatistics],
        ["product_id", "channel_id", "tenant_id", "money", "date", "statistics_type", "extra_arg"];
    MerchantChanged = "MERCHANT_CHANGED", "What a merchant may do has changed.",
        Producer::Role(Role::Notify) => [MerchantSync],
        ["merchantId", "version", "active", "tenantId", "notifyUrl", "accepts"];
}

impl Kind {
    /// No group of ruyi takes it: it is there for systems outside.
    #[must_use]
    pub fn is_for_outside(self) -> bool {
        matches!(self.producer(), Producer::Role(_)) && self.groups().is_empty()
    }

    /// From its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The event that an inlet for operators repeats, for one group.
    #[must_use]
    pub const fn repeats(self) -> Option<Self> {
        match self {
            Self::PaidOrderSuccessRetry => Some(Self::PaidOrderSuccess),
            Self::TriggerOrderFulfillRetry => Some(Self::TriggerOrderFulfill),
            Self::InventoryDeductRetry => Some(Self::InventoryDeduct),
            _ => None,
        }
    }

    /// The deterministic id of this event of this aggregate: the same in the outbox, in a transaction message, in a
    /// degraded send and in a replay.
    #[must_use]
    pub fn event_id(self, aggregate: impl std::fmt::Display) -> String {
        format!("{aggregate}:{}", self.name())
    }
}

/// Version of the bodies below (property `schemaVersion`).
pub const SCHEMA_VERSION: &str = "1";

/// Body of `ORDER_CREATED`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderCreated {
    /// Order.
    pub order_id: OrderId,
    /// Its number for people.
    #[serde(default)]
    pub order_no: String,
    /// Who ordered.
    pub user_id: UserId,
    /// What is to be paid.
    pub total_amount: Money,
    /// SKU → pieces.
    pub product_quantity_map: super::stock::Lines,
    /// Free text of the user.
    #[serde(default)]
    pub remark: String,
    /// Unpaid by then, it is canceled; epoch ms.
    #[serde(deserialize_with = "epoch_ms")]
    pub expire_time: i64,
    /// Who sells.
    pub merchant_id: MerchantId,
    /// Which channel is to take the money.
    pub channel_id: String,
}

/// Body of `PAYMENT_SUCCESS`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PaymentSuccess {
    /// Payment.
    pub payment_id: PaymentId,
    /// Order that it pays.
    pub order_id: OrderId,
    /// Its number for people.
    #[serde(default)]
    pub order_no: String,
    /// Who paid.
    pub user_id: UserId,
    /// How much.
    pub amount: Money,
    /// Card, wallet, ...: as the channel calls it.
    #[serde(default)]
    pub payment_method: String,
    /// The channel's number.
    #[serde(default, deserialize_with = "unpadded_text")]
    pub transaction_no: String,
    /// Epoch ms.
    #[serde(deserialize_with = "epoch_ms")]
    pub pay_time: i64,
}

/// Body of `PAID_ORDER_SUCCESS`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PaidOrderSuccess {
    /// Order.
    pub order_id: OrderId,
    /// Who paid.
    pub user_id: UserId,
    /// How much.
    pub pay_amount: Money,
    /// Epoch ms.
    #[serde(deserialize_with = "epoch_ms")]
    pub pay_time: i64,
    /// Its number for people.
    #[serde(default)]
    pub order_no: String,
    /// Who sells, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merchant_id: Option<MerchantId>,
}

/// Body of `ORDER_CANCELED`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderCanceled {
    /// Order.
    pub order_id: OrderId,
    /// Whose.
    pub user_id: UserId,
    /// Who canceled.
    pub cancel_type: CancelType,
    /// Why, for the user.
    #[serde(default)]
    pub cancel_reason: String,
}

/// Body of `PAY_TIMEOUT_DELAY`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PayTimeoutDelay {
    /// Order.
    pub order_id: OrderId,
    /// Unpaid by then, it is canceled; epoch ms. The order's own time decides.
    #[serde(default, deserialize_with = "epoch_ms")]
    pub expire_time: i64,
}

/// Body of `ORDER_AUTO_CANCEL`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderAutoCancel {
    /// Order.
    pub order_id: OrderId,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// One line of an order on its way to the warehouse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// SKU.
    pub sku: String,
    /// Pieces.
    pub quantity: i64,
}

/// Body of `TRIGGER_ORDER_FULFILL`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TriggerOrderFulfill {
    /// Order.
    pub order_id: OrderId,
    /// Whose.
    pub user_id: UserId,
    /// What to send.
    pub lines: Vec<Line>,
    /// Where to.
    #[serde(default)]
    pub address: String,
}

/// Body of the four fulfilment events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Fulfilment {
    /// Order.
    pub order_id: OrderId,
    /// When the warehouse saw it, epoch ms.
    #[serde(default, deserialize_with = "epoch_ms")]
    pub occurred_at: i64,
    /// Carrier's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carrier: Option<String>,
    /// Carrier's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracking_no: Option<String>,
    /// Whose order it is, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
}

/// Body of `ORDER_NOTIFICATION`, `SMS_NOTIFICATION` and `EMAIL_NOTIFICATION`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderNotification {
    /// Whom to tell.
    pub user_id: UserId,
    /// About which order.
    pub order_id: OrderId,
    /// Name of the text.
    pub template: String,
    /// What the text is filled with.
    #[serde(default)]
    pub params: serde_json::Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_has_a_consumer_and_every_group_an_event() {
        for kind in Kind::ALL {
            let coupons = [Kind::CouponLocked, Kind::CouponUsed, Kind::CouponReleased];
            assert_eq!(kind.is_for_outside(), coupons.contains(&kind), "{kind:?}");
            let nobody = kind.producer() == Producer::Broadcast || kind.is_for_outside();
            assert_eq!(kind.groups().is_empty(), nobody, "{kind:?}");
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
        }
        for group in Group::ALL {
            assert!(group.events().next().is_some(), "{group:?}");
            assert_eq!(Group::from_name(group.name()), Some(group));
        }
    }

    #[test]
    fn bodies_read_what_other_systems_send() {
        let body = r#"{"paymentId":7,"orderId":"9","userId":3,"amount":59.80,"payTime":5,"extra":{"a":1}}"#;
        let event: PaymentSuccess = serde_json::from_str(body).unwrap();
        assert_eq!((event.payment_id, event.amount.minor()), (PaymentId(7), 5_980));
    }
}
