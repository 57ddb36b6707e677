//! The books of a small shop, in order, and their audit.

use std::collections::BTreeMap;

use ruyi::audit::{self, Options, Report, RoleDbs};
use ruyi::db::delivery::{self, Delivery, Kind as Call};
use ruyi::db::merchants::{self, Merchant, Profile};
use ruyi::db::notification::{self, Notification};
use ruyi::db::outbox::Status as OutboxStatus;
use ruyi::db::payments::{PaymentRow, RefundRow, RefundStatus};
use ruyi::db::points::Record;
use ruyi::db::statistics::{self, Key, Sum};
use ruyi::db::stock::{Movement, Reservation};
use ruyi::db::tx::Draft;
use ruyi::db::{Db, DbError, Tx, availability, coupons, gateway, inbox, orders, payments, points, sql, stock};
use ruyi::domain::coupon::{self, Terms};
use ruyi::domain::event::{Group, InventorySync, Kind, RefundKind};
use ruyi::domain::id::PaymentId;
use ruyi::domain::money::Money;
use ruyi::domain::order::{OrderState, RefundState, Status};
use ruyi::domain::statistics::{Type, day_of};
use ruyi::domain::stock::{Kind as Move, Level, Status as Held};
use ruyi::domain::{payment, points as earn};
use ruyi::vals;

use crate::support::servers::{START_MS, TestDb, write_tx};

const USER: i64 = 77;

const TOTAL: i64 = 1_250;

/// One order and all that belongs to it.
pub struct Case {
    id: i64,
    status: Status,
    refund: RefundState,
    cancel: Option<&'static str>,
    held: Held,
    movements: &'static [Move],
    payment: Option<payment::Status>,
    pub events: &'static [Kind],
}

pub const CASES: [Case; 5] = [
    Case {
        id: 1,
        status: Status::Signed,
        refund: RefundState::None,
        cancel: None,
        held: Held::Deducted,
        movements: &[Move::Freeze, Move::Deduct],
        payment: Some(payment::Status::Success),
        events: &[
            Kind::OrderCreated,
            Kind::StockFrozen,
            Kind::PaymentSuccess,
            Kind::PaidOrderSuccess,
            Kind::InventoryDeduct,
            Kind::OrderSigned,
        ],
    },
    Case {
        id: 2,
        status: Status::Canceled,
        refund: RefundState::None,
        cancel: Some("STOCK"),
        held: Held::Refused,
        movements: &[],
        payment: None,
        events: &[Kind::OrderCreated, Kind::StockFreezeFailed, Kind::OrderCanceled],
    },
    Case {
        id: 3,
        status: Status::Canceled,
        refund: RefundState::Done,
        cancel: Some("USER"),
        held: Held::Released,
        movements: &[Move::Freeze, Move::Deduct, Move::PutBack],
        payment: Some(payment::Status::Refunded),
        events: &[
            Kind::OrderCreated,
            Kind::StockFrozen,
            Kind::PaymentSuccess,
            Kind::PaidOrderSuccess,
            Kind::InventoryDeduct,
            Kind::OrderCanceled,
            Kind::InventoryRelease,
            Kind::RefundRequested,
            Kind::RefundSuccess,
        ],
    },
    Case {
        id: 4,
        status: Status::Reserved,
        refund: RefundState::None,
        cancel: None,
        held: Held::Frozen,
        movements: &[Move::Freeze],
        payment: Some(payment::Status::Pending),
        events: &[Kind::OrderCreated, Kind::StockFrozen],
    },
    Case {
        id: 5,
        status: Status::Canceled,
        refund: RefundState::None,
        cancel: Some("TIMEOUT"),
        held: Held::Released,
        movements: &[Move::Freeze, Move::Release],
        payment: Some(payment::Status::Closed),
        events: &[Kind::OrderCreated, Kind::StockFrozen, Kind::OrderCanceled, Kind::InventoryRelease],
    },
];

fn money() -> Money {
    Money::from_minor(TOTAL).unwrap()
}

/// A payment of no order.
const GATEWAY: i64 = 109;

/// Orders with a coupon that takes 0.50 off.
const COUPONS: [i64; 3] = [1, 3, 4];

fn off() -> Money {
    Money::from_minor(50).unwrap()
}

/// Issues the coupon of an order; its id.
async fn write_coupon(tx: &mut Tx, case: &Case) -> Result<i64, DbError> {
    let (zero, kind) = (Money::ZERO, coupon::Kind::Amount);
    let template = coupons::Template {
        template: "HALF".into(),
        name: "n".into(),
        terms: Terms { kind, amount_off: off(), basis_points: 0, max_off: None, min_amount: zero },
        stock: 3,
        per_user: 3,
        valid_from: 0,
        valid_until: i64::MAX,
        active: true,
        issued: 0,
    };
    coupons::put(tx, &template).await?.unwrap();
    let coupons::Issued::New(mut held) = coupons::issue(tx, "HALF", USER, None).await? else { panic!() };
    let kind = match case.status {
        Status::Signed => Some(coupon::State::Used),
        Status::Canceled => None,
        _ => Some(coupon::State::Locked),
    };
    if let Some(state) = kind {
        (held.held.state, held.held.order_id) = (state, Some(case.id));
        coupons::update(tx, &[&held]).await?;
    }
    Ok(held.id)
}

fn order(case: &Case) -> orders::OrderRow {
    let payment_id = case.payment.is_some_and(payment::Status::has_money).then_some(PaymentId(100 + case.id));
    orders::OrderRow {
        id: case.id,
        order_no: format!("N{}", case.id),
        user_id: USER,
        state: OrderState {
            status: case.status,
            refund: case.refund,
            handed_over: case.status == Status::Signed,
            total: money(),
            payment_id,
        },
        version: 1,
        coupon: COUPONS.contains(&case.id).then(|| orders::CouponUse { id: 0, discount: off() }),
        currency: "CNY".into(),
        merchant_id: 1,
        channel_id: "sandbox".into(),
        remark: String::new(),
        address: String::new(),
        hold_ms: 0,
        idempotency_key: None,
        request_hash: None,
        expire_time: START_MS + 86_400_000,
        pay_time: None,
        cancel_type: case.cancel.map(str::to_owned),
        cancel_reason: None,
        carrier: None,
        tracking_no: None,
        created_at: START_MS,
        updated_at: START_MS,
    }
}

async fn write_case(tx: &mut Tx, case: &Case) -> Result<(), DbError> {
    let mut row = order(case);
    let mut lines = TOTAL;
    let mut events = case.events.to_vec();
    if let Some(reduced) = &mut row.coupon {
        reduced.id = write_coupon(tx, case).await?;
        lines += off().minor();
        events.push(Kind::CouponLocked);
        events.extend((case.status == Status::Signed).then_some(Kind::CouponUsed));
        events.extend((case.status == Status::Canceled).then_some(Kind::CouponReleased));
    }
    let item = orders::Item { sku: "A".into(), quantity: 2, unit_price: Money::from_minor(lines / 2).unwrap() };
    orders::insert(tx, &[(row.clone(), vec![item])]).await?;
    orders::update(tx, &[&row]).await?;
    let held = Reservation { status: case.held, lines: BTreeMap::from([("A".to_owned(), 2)]), reason: String::new() };
    stock::insert_reservations(tx, &[(case.id, &held)]).await?;
    let movements: Vec<Movement> = case
        .movements
        .iter()
        .map(|kind| Movement {
            sku: "A".into(),
            order_id: case.id,
            kind: *kind,
            change: kind.movement(2),
            reason: String::new(),
            actor: None,
        })
        .collect();
    stock::insert_ledger(tx, &movements).await?;
    if let Some(status) = case.payment {
        write_payment(tx, case, status).await?;
    }
    for kind in &events {
        let body = serde_json::json!({"orderId": case.id.to_string()});
        tx.emit(&Draft::new(*kind, case.id, &body, None))?;
        for group in kind.groups() {
            let (id, key) = (kind.event_id(case.id), case.id.to_string());
            let claim = inbox::Claim { message_id: &id, topic: kind.name(), key: &key, resent: None };
            inbox::claim(tx, group.name(), 1, &[claim], START_MS).await?;
            if *group == Group::Notification {
                let (template, params) = (kind.name().to_owned(), "{}".to_owned());
                let told = Notification { event_id: id, user_id: USER, order_id: case.id, template, params };
                notification::insert(tx, &[told]).await?;
            }
        }
    }
    Ok(())
}

async fn write_payment(tx: &mut Tx, case: &Case, status: payment::Status) -> Result<(), DbError> {
    let has_money = status.has_money();
    let row = PaymentRow {
        id: 100 + case.id,
        order_id: case.id,
        order_no: format!("N{}", case.id),
        user_id: USER,
        state: payment::PaymentState {
            status,
            amount: money(),
            currency: "CNY".into(),
            merchant_id: 1,
            transaction_no: has_money.then(|| format!("T{}", case.id)),
        },
        channel_id: "sandbox".into(),
        expire_time: START_MS,
        payment_method: None,
        pay_time: has_money.then_some(START_MS),
        trace: None,
    };
    payments::insert(tx, std::slice::from_ref(&row)).await?;
    payments::update(tx, &[&row]).await?;
    let record = |kind, points| Record { order_id: case.id, kind, user_id: USER, points };
    let earned = earn::earned(money());
    if has_money {
        points::apply(tx, &[record(earn::Kind::Grant, earned)]).await?;
    }
    if status == payment::Status::Refunded {
        points::apply(tx, &[record(earn::Kind::Reverse, -earned)]).await?;
        let refund = RefundRow {
            id: 200 + case.id,
            payment_id: row.id,
            order_id: case.id,
            kind: RefundKind::Order,
            amount: money(),
            reason: String::new(),
            status: RefundStatus::Success,
            transaction_no: format!("T{}", case.id),
            error: None,
        };
        payments::insert_refunds(tx, &[refund]).await?.all()?;
    }
    Ok(())
}

/// The merchant's money is there: the event, and the call that it becomes.
async fn tell_merchant(tx: &mut Tx) -> Result<(), DbError> {
    let (kind, key) = (Kind::OrderNotify, GATEWAY.to_string());
    let body = serde_json::json!({"order_id": key});
    let draft = Draft::new(kind, GATEWAY, &body, None);
    tx.emit(&Draft { discriminator: "PAID", ..draft })?;
    let id = format!("{}:PAID", kind.event_id(GATEWAY));
    let claim = inbox::Claim { message_id: &id, topic: kind.name(), key: &key, resent: None };
    inbox::claim(tx, Group::OrderNotify.name(), 1, &[claim], START_MS).await?;
    let call = Delivery {
        id: 900,
        kind: Call::Merchant,
        reference: id,
        order_id: GATEWAY,
        url: "https://shop.example/told".into(),
        body: "{}".into(),
        attempts: 0,
        next_at: START_MS,
        trace: None,
    };
    delivery::insert(tx, &[call]).await?.all()
}

/// A merchant's own payment, and the statistics of it and of the others.
async fn write_gateway(tx: &mut Tx) -> Result<(), DbError> {
    let row = PaymentRow {
        id: GATEWAY,
        order_id: PaymentRow::without_order(GATEWAY),
        order_no: String::new(),
        user_id: 0,
        state: payment::PaymentState {
            status: payment::Status::Success,
            amount: money(),
            currency: "CNY".into(),
            merchant_id: 9,
            transaction_no: Some("T109".into()),
        },
        channel_id: "sandbox".into(),
        expire_time: 0,
        payment_method: None,
        pay_time: Some(START_MS),
        trace: None,
    };
    payments::insert(tx, std::slice::from_ref(&row)).await?;
    payments::update(tx, &[&row]).await?;
    let empty = String::new;
    gateway::take(
        tx,
        &[gateway::GatewayRow {
            payment_id: GATEWAY,
            merchant_id: 9,
            out_order_no: "M-1".into(),
            product_id: "h5".into(),
            tenant_id: empty(),
            notify_url: empty(),
            extra_arg: empty(),
        }],
    )
    .await?
    .all()?;
    tell_merchant(tx).await?;
    let mut sums = BTreeMap::new();
    for (product, kind, count) in
        [("", Type::Submit, 4), ("", Type::Success, 2), ("h5", Type::Submit, 1), ("h5", Type::Success, 1)]
    {
        let (date, product_id) = (day_of(START_MS, &jiff::tz::TimeZone::UTC), product.to_owned());
        let key = Key { date, product_id, channel_id: "sandbox".into(), tenant_id: empty(), kind };
        let mut sum = Sum::default();
        (0..count).for_each(|_| sum.add(kind, TOTAL, ""));
        sums.insert(key, sum);
    }
    statistics::add(tx, &sums).await
}

/// SKUs without pieces, beside that of the orders.
const EMPTY: [&str; 2] = ["C", "D"];

/// What the order role knows of stock, and the payment role of merchants. Of the SKU of the orders and of merchant 8 the
/// last change is on its way, which is no fault.
async fn write_copies(tx: &mut Tx) -> Result<(), DbError> {
    stock::create(tx, &EMPTY.map(str::to_owned), START_MS).await?;
    let told = |sku: &str| InventorySync { sku: sku.to_owned(), available: 0, frozen: 0, sold: 0, version: 0 };
    availability::learn(tx, &["A", "C", "D"].map(told)).await?;

    for id in [7, 8, 9] {
        let (name, tenant_id, notify_url) = ("M".to_owned(), String::new(), String::new());
        let mut merchant = Merchant {
            id,
            profile: Profile { name, tenant_id, notify_url, active: true, accepts: vec![] },
            secret: "whsec_s".into(),
            old: vec![],
            version: 3,
            created_at: START_MS,
            updated_at: START_MS,
        };
        merchants::put_accounts(tx, &[&merchant.changed()]).await?;
        if id == 8 {
            (merchant.version, merchant.profile.active) = (4, false);
        }
        merchants::put(tx, &merchant).await?;
    }
    Ok(())
}

/// A small shop, in order, ten minutes ago.
pub async fn small_shop(test: &TestDb) {
    let done = write_tx!(test.db, [], |tx| {
        let change = Move::Set.movement(100);
        let reason = "first".to_owned();
        stock::create(tx, &["A".to_owned()], START_MS).await?;
        stock::insert_ledger(
            tx,
            &[Movement { sku: "A".into(), order_id: 0, kind: Move::Set, change, reason, actor: None }],
        )
        .await?;
        let mut level = change;
        for case in &CASES {
            write_case(tx, case).await?;
            case.movements.iter().for_each(|kind| level.apply(kind.movement(2)));
        }
        write_gateway(tx).await?;
        write_copies(tx).await?;
        assert_eq!(level, Level { available: 96, frozen: 2, sold: 2 });
        stock::update(tx, &BTreeMap::from([("A", stock::Stocked { level, version: 0 })])).await
    });
    done.unwrap();
    let text = format!("UPDATE message_record SET status = {}, next_at = NULL, sent_at = ?", OutboxStatus::Sent as i64);
    let mut conn = test.db.read().await.unwrap();
    sql::execute(&mut conn, text, vals![START_MS]).await.unwrap();
    let shown = "INSERT INTO order_view SELECT id, order_no, user_id, status, 'OPEN', version, total_amount, currency, \
                 merchant_id, channel_id, remark, '', created_at, updated_at FROM orders";
    sql::execute(&mut conn, shown, vec![]).await.unwrap();
    sql::execute(&mut conn, "UPDATE delivery SET status = 1, next_at = NULL", vec![]).await.unwrap();
    test.clock.advance_ms(600_000);
}

pub fn options() -> Options {
    Options {
        settle_ms: 10_000,
        bound_ms: 300_000,
        parcel_bound_ms: 1_000_000_000,
        zone: jiff::tz::TimeZone::UTC,
        page: 2,
        evidence: 10,
        events_kept_ms: 86_400_000,
        data_sync: true,
    }
}

pub async fn audit(db: &Db) -> Report {
    audit::run(&RoleDbs::one(db), &options()).await.unwrap()
}

pub async fn execute(db: &Db, statements: &[&'static str]) {
    let mut conn = db.read().await.unwrap();
    for text in statements {
        sql::execute(&mut conn, *text, vec![]).await.unwrap();
    }
}
