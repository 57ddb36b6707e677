//! One case for each event of the catalogue: what has to be there before, what an outside system sends, and what each
//! group then has done, once.

use ruyi::db::merchants::{self, Merchant, Profile};
use ruyi::db::notification::{self, Notification};
use ruyi::db::orders::{self, Item, OrderRow};
use ruyi::db::payments::{self, PaymentRow};
use ruyi::db::sql::{self, Columns};
use ruyi::db::stock::{self, Reservation, Stocked};
use ruyi::db::{Db, DbError, Tx};
use ruyi::domain::event::{Group, Kind};
use ruyi::domain::id::PaymentId;
use ruyi::domain::money::Money;
use ruyi::domain::order::{OrderState, RefundState, Status};
use ruyi::domain::payment::{PaymentState, Status as Paid};
use ruyi::domain::stock::{Level, Lines, Status as Held};
use serde_json::{Value, json};

use crate::support::servers::write_tx;

/// SMS and e-mail are wanted: without a contact of the user nothing leaves.
pub const PROVIDERS: [&str; 4] = [
    "notices.sms.endpoint=http://127.0.0.1:9/sms",
    "notices.email.host=127.0.0.1",
    "notices.email.tls=none",
    "notices.email.from=shop@example.com",
];

/// Each order is of 2 TEA at 29.90.
const TOTAL: i64 = 5_980;
const SKU: &str = "TEA";

/// What is sent, and what it does.
pub struct Case {
    /// KEYS.
    pub key: String,
    /// Body: amounts are decimal numbers, ids numbers; no `eventId`.
    pub body: Value,
    /// For each group a statement that counts its effect: 0 before, 1 after.
    pub effects: Vec<(Group, String)>,
}

/// Who an order is of: told apart by the order, so that points and notices are.
fn user_of(order: i64) -> i64 {
    order + 1
}

fn payment_of(order: i64) -> i64 {
    order + 2
}

/// What stands in the database before.
#[derive(Clone, Default)]
struct Before {
    order: Option<Status>,
    handed_over: bool,
    refund: bool,
    payment: Option<Paid>,
    held: Option<Held>,
    /// The user was told that it is paid: that is how the notify role knows whose it is.
    told: bool,
    /// The time to pay is over.
    overdue: bool,
    /// A merchant is told at an address of this order's own.
    merchant: bool,
}

impl Before {
    fn order(status: Status) -> Self {
        Self { order: Some(status), ..Self::default() }
    }
}

/// Writes what has to be there, and says what is to be sent about the order `id`. Every kind has its own arm: a new
/// one does not compile until somebody has thought about it.
pub async fn case(db: &Db, kind: Kind, id: i64) -> Case {
    let (before, fields, effects) = case_of(kind, id, db.clock().now_ms());
    let now_ms = db.clock().now_ms();
    let done = write_tx!(db, [before], |tx| { seed(tx, &before, id, now_ms).await });
    done.unwrap();
    // What an outside system sends beside the fields that are known.
    let mut body = json!({ "orderId": id, "sourceSystem": "legacy", "ext": { "trace": [1, 2] } });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    Case { key: id.to_string(), body, effects }
}

type Parts = (Before, Value, Vec<(Group, String)>);

fn case_of(kind: Kind, id: i64, now_ms: i64) -> Parts {
    let (user, payment, order_no) = (user_of(id), payment_of(id), format!("N{id}"));
    let far = now_ms + 86_400_000;
    let order_is = |status: Status| {
        let code = status.code();
        (Group::Order, format!("SELECT COUNT(*) FROM orders WHERE id = {id} AND status = {code}"))
    };
    let payment_is = |status: Paid| {
        let code = status.code();
        (Group::Payment, format!("SELECT COUNT(*) FROM payment_record WHERE order_id = {id} AND status = {code}"))
    };
    let held_is = |status: Held| {
        let code = status as i64;
        (Group::Stock, format!("SELECT COUNT(*) FROM stock_reservation WHERE order_id = {id} AND status = {code}"))
    };
    let told = |template: &str| {
        let text = format!("SELECT COUNT(*) FROM notification WHERE order_id = {id} AND template = '{template}'");
        (Group::Notification, format!("{text} AND user_id = {user}"))
    };
    let points = |kind: i64, points: i64| {
        let text = format!("SELECT COUNT(*) FROM points_record WHERE order_id = {id} AND kind = {kind}");
        (Group::Points, format!("{text} AND user_id = {user} AND points = {points}"))
    };
    let points_of = |kind: i64, points: i64| {
        let text = format!("SELECT COUNT(*) FROM points_record WHERE user_id = {user} AND kind = {kind}");
        (Group::Points, format!("{text} AND points = {points}"))
    };
    let parcel = |before: Status, after: Status, kind: Kind| {
        let before = Before { handed_over: true, told: true, ..Before::order(before) };
        let body = json!({ "occurredAt": "2026-01-31T08:00:00+08:00", "carrier": "SF", "trackingNo": "S1" });
        (before, body, vec![order_is(after), told(kind.name())])
    };
    match kind {
        Kind::OrderCreated => (
            Before::default(),
            json!({ "orderNo": order_no, "userId": user, "totalAmount": 59.80, "productQuantityMap": { SKU: 2 },
                "remark": null, "expireTime": far, "merchantId": 1, "channelId": "sandbox" }),
            vec![held_is(Held::Frozen)],
        ),
        Kind::StockFrozen => (
            Before { held: Some(Held::Frozen), ..Before::order(Status::Created) },
            json!({ "orderNo": order_no, "userId": user, "totalAmount": 59.80, "expireTime": far, "merchantId": 1,
                "channelId": "sandbox" }),
            vec![order_is(Status::Reserved), payment_is(Paid::Pending)],
        ),
        Kind::StockFreezeFailed => (
            Before::order(Status::Created),
            json!({ "orderNo": order_no, "reason": "none left" }),
            vec![order_is(Status::Canceled)],
        ),
        Kind::PaymentSuccess => (
            Before { payment: Some(Paid::Success), held: Some(Held::Frozen), ..Before::order(Status::Reserved) },
            json!({ "paymentId": payment, "orderNo": order_no, "userId": user, "amount": 59.80, "paymentMethod": "card",
                "transactionNo": "T1", "payTime": now_ms }),
            vec![(
                Group::Order,
                format!(
                    "SELECT COUNT(*) FROM orders WHERE id = {id} AND payment_id = {payment} AND pay_time = {now_ms}"
                ),
            )],
        ),
        Kind::PaymentCloseRequested => (
            Before { payment: Some(Paid::Pending), ..Before::order(Status::Reserved) },
            json!({ "userId": user, "cancelType": "TIMEOUT", "reason": "not paid in time" }),
            vec![payment_is(Paid::Closed)],
        ),
        Kind::PaymentCloseResult => (
            Before { payment: Some(Paid::Closed), held: Some(Held::Frozen), ..Before::order(Status::Reserved) },
            json!({ "cancelType": "TIMEOUT", "reason": "not paid in time" }),
            vec![order_is(Status::Canceled)],
        ),
        Kind::PaidOrderSuccess => (
            Before { payment: Some(Paid::Success), held: Some(Held::Deducted), ..Before::order(Status::Paid) },
            json!({ "userId": user, "payAmount": 59.80, "payTime": now_ms / 1_000 }),
            vec![(Group::PaidOrder, emitted(id, Kind::TriggerOrderFulfill)), points(1, 59), told("ORDER_PAY_SUCCESS")],
        ),
        Kind::OrderCanceled => (
            Before { payment: Some(Paid::Pending), ..Before::order(Status::Canceled) },
            json!({ "userId": user, "cancelType": "USER", "cancelReason": "changed my mind" }),
            vec![payment_is(Paid::Closed), told("ORDER_CANCELED")],
        ),
        Kind::InventoryDeduct => (
            Before { held: Some(Held::Frozen), ..Before::order(Status::Paid) },
            json!({ "kind": "PAID" }),
            vec![held_is(Held::Deducted)],
        ),
        Kind::InventoryRelease => (
            Before { held: Some(Held::Frozen), ..Before::order(Status::Canceled) },
            json!({ "kind": "USER" }),
            vec![held_is(Held::Released)],
        ),
        Kind::InventorySync => (
            Before::default(),
            json!({ "sku": id.to_string(), "available": 7, "frozen": 2, "sold": 1, "version": 4 }),
            vec![(
                Group::InventorySync,
                format!("SELECT COUNT(*) FROM sku_availability WHERE sku = '{id}' AND available = 7 AND version = 4"),
            )],
        ),
        Kind::OrderDataSync => (
            Before::default(),
            json!({ "orderNo": order_no, "userId": user, "status": "PAID", "outcome": "OPEN", "version": 3, "totalAmount": 59.80,
                "currency": "CNY", "merchantId": 1, "channelId": "sandbox", "remark": null, "createdAt": now_ms,
                "updatedAt": now_ms }),
            vec![(
                Group::OrderDataSync,
                format!(
                    "SELECT COUNT(*) FROM order_view WHERE id = {id} AND user_id = {user} AND status = 20 AND version = 3"
                ),
            )],
        ),
        Kind::PointsGrant => (Before::default(), json!({ "userId": user, "points": 20 }), vec![points_of(4, 20)]),
        // To every process, or to systems outside, and no group.
        Kind::CacheInvalidate | Kind::CouponLocked | Kind::CouponUsed | Kind::CouponReleased => {
            (Before::default(), json!({}), vec![])
        }
        Kind::OrderAutoCancel => (
            Before { held: Some(Held::Frozen), payment: Some(Paid::Pending), ..Before::order(Status::Reserved) },
            json!({ "reason": "risk control" }),
            vec![order_is(Status::Canceled)],
        ),
        Kind::PayTimeoutDelay => (
            Before { overdue: true, payment: Some(Paid::Pending), ..Before::order(Status::Reserved) },
            json!({ "expireTime": now_ms }),
            vec![(Group::PayTimeout, order_is(Status::Canceled).1)],
        ),
        Kind::TriggerOrderFulfill => (
            Before { payment: Some(Paid::Success), held: Some(Held::Deducted), ..Before::order(Status::Paid) },
            json!({ "userId": user, "lines": [{ "sku": SKU, "quantity": 2 }], "address": "1 Bell Street" }),
            vec![(
                Group::Fulfil,
                format!("SELECT COUNT(*) FROM delivery WHERE order_id = {id} AND kind = {}", CALL_WAREHOUSE),
            )],
        ),
        Kind::OrderFulfillSuccess => parcel(Status::Paid, Status::Fulfill, kind),
        Kind::OrderFulfillRefused => (
            Before { handed_over: true, payment: Some(Paid::Success), ..Before::order(Status::Paid) },
            json!({ "occurredAt": "2026-01-31T08:00:00+08:00", "reason": "no such street" }),
            vec![(
                Group::Order,
                format!(
                    "SELECT COUNT(*) FROM orders WHERE id = {id} AND status = 90 AND cancel_type = 'WAREHOUSE' AND refund_status > 0"
                ),
            )],
        ),
        Kind::OrderOutStock => parcel(Status::Fulfill, Status::OutStock, kind),
        Kind::OrderDelivery => parcel(Status::OutStock, Status::Delivery, kind),
        Kind::OrderSigned => parcel(Status::Delivery, Status::Signed, kind),
        Kind::RefundRequested => (
            Before { payment: Some(Paid::Success), refund: true, ..Before::order(Status::Canceled) },
            json!({ "paymentId": payment, "amount": 59.80, "reason": "canceled" }),
            vec![(Group::Payment, format!("SELECT COUNT(*) FROM refund_record WHERE order_id = {id}"))],
        ),
        Kind::RefundSuccess => (
            Before { payment: Some(Paid::Refunded), refund: true, ..Before::order(Status::Canceled) },
            json!({ "refundId": id + 3, "amount": 59.80, "userId": user }),
            vec![
                (
                    Group::Order,
                    format!(
                        "SELECT COUNT(*) FROM orders WHERE id = {id} AND refund_status = {}",
                        RefundState::Done.code()
                    ),
                ),
                // No points were granted: what is left is the mark that none will be.
                (Group::Points, format!("SELECT COUNT(*) FROM points_record WHERE order_id = {id} AND kind = 2")),
                told("ORDER_REFUNDED"),
            ],
        ),
        Kind::RefundFailed => (
            Before { payment: Some(Paid::Success), ..Before::order(Status::Signed) },
            json!({ "refundId": id + 3, "amount": 9.80, "reason": "the card is closed" }),
            vec![(
                Group::Order,
                format!("SELECT COUNT(*) FROM order_refund WHERE order_id = {id} AND status = 2 AND amount = 980"),
            )],
        ),
        // What an operator asks for again, in the one group that the inlet is for.
        Kind::PaidOrderSuccessRetry | Kind::TriggerOrderFulfillRetry | Kind::InventoryDeductRetry => {
            let (before, body, mut effects) = case_of(kind.repeats().unwrap(), id, now_ms);
            effects.retain(|(group, _)| kind.groups().contains(group));
            (before, body, effects)
        }
        Kind::OrderNotification => (
            Before::default(),
            json!({ "userId": user, "template": "PARCEL_LATE", "params": { "days": 2 } }),
            vec![told("PARCEL_LATE")],
        ),
        Kind::OrderNotify => (
            Before { merchant: true, ..Before::default() },
            json!({ "order_id": id, "order_no": order_no, "out_order_no": "M-1", "money": 59.80, "status": "PAID",
                "notify_url": format!("https://shop.example/{id}"), "retry_count": 0 }),
            vec![(
                Group::OrderNotify,
                // Whose order it is, nobody knows here: its number is another system's.
                format!(
                    "SELECT COUNT(*) FROM delivery WHERE url = 'https://shop.example/{id}' AND order_id < 0 \
                     AND kind = {CALL_MERCHANT}"
                ),
            )],
        ),
        Kind::DayStatistics => (
            Before::default(),
            json!({ "product_id": order_no, "channel_id": "sandbox", "tenant_id": null, "money": 59.80,
                "date": "2026-01-31", "statistics_type": "SUCCESS", "extra_arg": "a" }),
            vec![(
                Group::DayStatistics,
                format!(
                    "SELECT COUNT(*) FROM day_statistics WHERE product_id = '{order_no}' AND success_count = 1 \
                     AND success_money = 5980"
                ),
            )],
        ),
        Kind::MerchantChanged => (
            Before::default(),
            json!({ "merchantId": id, "version": 3, "active": true, "accepts":
                [{ "productId": "h5", "channelId": "sandbox", "maxAmount": 59.8 }] }),
            vec![(
                Group::MerchantSync,
                format!("SELECT COUNT(*) FROM merchant_account WHERE merchant_id = {id} AND version = 3"),
            )],
        ),
        Kind::SmsNotification | Kind::EmailNotification => {
            let (group, call) = match kind {
                Kind::SmsNotification => (Group::Sms, ruyi::db::delivery::Kind::Sms),
                _ => (Group::Email, ruyi::db::delivery::Kind::Email),
            };
            let code = call as i64;
            let text = format!("SELECT COUNT(*) FROM delivery WHERE order_id = {id} AND kind = {code}");
            let body = json!({ "userId": user, "template": "ORDER_SIGNED", "params": { "carrier": null } });
            (Before::default(), body, vec![(group, text)])
        }
        Kind::CallbackSubmit => (
            Before { payment: Some(Paid::Pending), ..Before::order(Status::Reserved) },
            json!({ "order_no": payment.to_string(), "out_order_no": order_no, "plugin_id": "sandbox",
                "plugin_type": "sandbox", "money": 59.80, "product_id": null, "channel_id": "sandbox", "merchant_id": 1,
                "tenant_id": null, "create_datetime": now_ms }),
            vec![(
                Group::CallbackSubmit,
                format!("SELECT COUNT(*) FROM delivery WHERE order_id = {id} AND kind = {}", CALL_SUBMIT),
            )],
        ),
    }
}

/// `delivery.kind` of a call to the warehouse, and of one that submits a payment.
const CALL_WAREHOUSE: i64 = ruyi::db::delivery::Kind::Warehouse as i64;
const CALL_MERCHANT: i64 = ruyi::db::delivery::Kind::Merchant as i64;
const CALL_SUBMIT: i64 = ruyi::db::delivery::Kind::ChannelSubmit as i64;

fn emitted(id: i64, kind: Kind) -> String {
    format!("SELECT COUNT(*) FROM message_record WHERE event_id = '{}'", kind.event_id(id))
}

async fn seed(tx: &mut Tx, before: &Before, id: i64, now_ms: i64) -> Result<(), DbError> {
    let total = Money::from_minor(TOTAL).unwrap();
    stock::create(tx, &[SKU.to_owned()], now_ms).await?;
    stock::update(tx, &[(SKU, Stocked { level: Level { available: 100, frozen: 50, sold: 50 }, version: 0 })].into())
        .await?;
    if let Some(status) = before.order {
        let state = OrderState {
            status,
            refund: if before.refund { RefundState::Requested } else { RefundState::None },
            handed_over: before.handed_over,
            total,
            payment_id: (status.is_paid() || before.refund).then(|| PaymentId(payment_of(id))),
        };
        let item = Item { sku: SKU.to_owned(), quantity: 2, unit_price: Money::from_minor(TOTAL / 2).unwrap() };
        let mut order = order(id, state, now_ms);
        if before.overdue {
            order.expire_time = now_ms;
        }
        orders::insert(tx, &[(order, vec![item])]).await?;
    }
    if let Some(status) = before.payment {
        payments::insert(tx, &[payment(id, status, total, now_ms)]).await?;
    }
    if before.merchant {
        let profile = Profile {
            name: "M".to_owned(),
            tenant_id: String::new(),
            notify_url: format!("https://shop.example/{id}"),
            active: true,
            accepts: vec![],
        };
        let secret = ruyi::delivery::webhook::new_secret();
        let (created_at, updated_at) = (now_ms, now_ms);
        let merchant = Merchant { id, profile, secret, old: vec![], version: 1, created_at, updated_at };
        merchants::put(tx, &merchant).await?;
    }
    if before.told {
        let notice = Notification {
            event_id: Kind::PaidOrderSuccess.event_id(id),
            user_id: user_of(id),
            order_id: id,
            template: "ORDER_PAY_SUCCESS".to_owned(),
            params: "{}".to_owned(),
        };
        notification::insert(tx, &[notice]).await?;
    }
    if let Some(status) = before.held {
        let held = Reservation { status, lines: Lines::from([(SKU.to_owned(), 2)]), reason: String::new() };
        stock::insert_reservations(tx, &[(id, &held)]).await?;
    }
    Ok(())
}

fn order(id: i64, state: OrderState, now_ms: i64) -> OrderRow {
    OrderRow {
        id,
        order_no: format!("N{id}"),
        user_id: user_of(id),
        state,
        version: 1,
        coupon: None,
        currency: "CNY".to_owned(),
        merchant_id: 1,
        channel_id: "sandbox".to_owned(),
        remark: String::new(),
        address: "1 Bell Street".to_owned(),
        hold_ms: 0,
        idempotency_key: None,
        request_hash: None,
        // Nothing times out here.
        expire_time: now_ms + 86_400_000,
        pay_time: None,
        cancel_type: None,
        cancel_reason: None,
        carrier: None,
        tracking_no: None,
        created_at: now_ms,
        updated_at: now_ms,
    }
}

fn payment(id: i64, status: Paid, amount: Money, now_ms: i64) -> PaymentRow {
    let state = PaymentState {
        status,
        amount,
        currency: "CNY".to_owned(),
        merchant_id: 1,
        transaction_no: status.has_money().then(|| "T1".to_owned()),
    };
    PaymentRow {
        id: payment_of(id),
        order_id: id,
        order_no: format!("N{id}"),
        user_id: user_of(id),
        state,
        channel_id: "sandbox".to_owned(),
        expire_time: now_ms + 86_400_000,
        payment_method: None,
        pay_time: None,
        trace: None,
    }
}

/// A number that `text` selects.
pub async fn number(db: &Db, text: &str) -> i64 {
    let mut conn = db.read().await.unwrap();
    sql::fetch_one(&mut conn, text.to_owned(), vec![]).await.unwrap().unwrap().int(0).unwrap()
}

/// (outcome, reason) of the message in each group's inbox.
pub async fn handled(db: &Db, id: &str) -> Vec<(String, i64, String)> {
    let mut conn = db.read().await.unwrap();
    let text =
        "SELECT consumer_group, outcome, reason FROM message_process_log WHERE message_id = ? ORDER BY consumer_group";
    let rows = sql::fetch(&mut conn, text, ruyi::vals![id]).await.unwrap();
    let read = |row: &sqlx::any::AnyRow| {
        (row.text(0).unwrap(), row.int(1).unwrap(), row.maybe_text(2).unwrap().unwrap_or_default())
    };
    rows.iter().map(read).collect()
}

/// The case covers the groups that the catalogue names, and nothing of it has happened yet.
pub async fn prepare(db: &Db, kind: Kind, id: i64) -> Case {
    let case = case(db, kind, id).await;
    let groups: Vec<Group> = case.effects.iter().map(|(group, _)| *group).collect();
    assert_eq!(groups, kind.groups(), "{kind:?}: each group of the catalogue needs an effect here");
    for (group, text) in &case.effects {
        assert_eq!(number(db, text).await, 0, "{kind:?} in {} before: {text}", group.name());
    }
    case
}
