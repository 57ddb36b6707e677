//! The audit: silent on a world in order, and loud about exactly what was broken.

use std::collections::BTreeMap;

use ruyi::audit::{self, Options, Report, RoleDbs};
use ruyi::clock::Clock;
use ruyi::db::delivery::{self, Delivery, Kind as Call};
use ruyi::db::notification::{self, Notification};
use ruyi::db::outbox::Status as OutboxStatus;
use ruyi::db::payments::{PaymentRow, RefundRow, RefundStatus};
use ruyi::db::points::Record;
use ruyi::db::statistics::{self, Key, Sum};
use ruyi::db::stock::{Movement, Reservation};
use ruyi::db::tx::Draft;
use ruyi::db::{Db, DbError, Tx, coupons, gateway, inbox, orders, payments, points, sql, stock};
use ruyi::domain::coupon::{self, Terms};
use ruyi::domain::event::{Group, Kind, Producer, RefundKind, Role};
use ruyi::domain::id::PaymentId;
use ruyi::domain::money::Money;
use ruyi::domain::order::{OrderState, RefundState, Status};
use ruyi::domain::statistics::{Type, day_of};
use ruyi::domain::stock::{Kind as Move, Level, Status as Held};
use ruyi::domain::{payment, points as earn};
use ruyi::vals;

use crate::servers::{START_MS, TestDb, mariadb, sqlite, write_tx};

const USER: i64 = 77;
const TOTAL: i64 = 1_250;

/// One order and all that belongs to it.
struct Case {
    id: i64,
    status: Status,
    refund: RefundState,
    cancel: Option<&'static str>,
    held: Held,
    movements: &'static [Move],
    payment: Option<payment::Status>,
    events: &'static [Kind],
}

const CASES: [Case; 5] = [
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
            let claim = inbox::Claim { message_id: &id, topic: kind.name(), key: &key, resent_at: None };
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
        payments::insert_refunds(tx, &[refund]).await?;
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
    let claim = inbox::Claim { message_id: &id, topic: kind.name(), key: &key, resent_at: None };
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
    delivery::insert(tx, &[call]).await.map(drop)
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
    .await?;
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

/// A small shop, in order, ten minutes ago.
pub async fn world(test: &TestDb) {
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

fn options() -> Options {
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

/// What is broken, and the one check that has to see it.
const BROKEN: [(&str, &[&str]); 49] = [
    ("stock_ledger", &["UPDATE stock SET available = available - 1 WHERE sku = 'A'"]),
    ("stock_ledger", &["UPDATE stock_ledger SET sku = 'B' WHERE order_id = 0", "UPDATE stock SET available = -4"]),
    ("stock_reservations", &["UPDATE stock_reservation SET items = '{\"A\":3}' WHERE order_id = 4"]),
    ("stock_reservations", &["UPDATE stock_reservation SET items = 'x' WHERE order_id = 5"]),
    ("order_rows reservations_match_orders", &["UPDATE orders SET status = 0 WHERE id = 4"]),
    (
        "reservations_match_orders",
        &[
            "UPDATE stock_reservation SET status = 3 WHERE order_id = 1",
            "DELETE FROM stock_ledger WHERE order_id = 1",
            "UPDATE stock SET available = available + 2, sold = sold - 2",
        ],
    ),
    (
        "reservations_match_orders",
        &[
            "UPDATE stock_reservation SET status = 1 WHERE order_id = 5",
            "DELETE FROM stock_ledger WHERE order_id = 5 AND kind = 4",
            "UPDATE stock SET available = available - 2, frozen = frozen + 2",
        ],
    ),
    ("paid_orders_have_payment statistics", &["UPDATE payment_record SET amount = amount - 1 WHERE order_id = 1"]),
    ("paid_orders_have_payment", &["UPDATE payment_record SET currency = 'USD' WHERE order_id = 1"]),
    ("paid_orders_have_payment", &["UPDATE orders SET payment_id = 5 WHERE id = 1"]),
    ("payments_have_order", &["UPDATE payment_record SET status = 0 WHERE order_id = 5"]),
    ("payments_have_order", &["UPDATE orders SET refund_status = 1 WHERE id = 3"]),
    ("payments_have_order", &["UPDATE refund_record SET amount = amount + 1 WHERE order_id = 3"]),
    ("payments_have_order", &["DELETE FROM refund_record WHERE order_id = 3"]),
    ("points", &["UPDATE user_points SET balance = balance + 1"]),
    (
        "points",
        &[
            "UPDATE points_record SET points = points + 5 WHERE order_id = 1",
            "UPDATE user_points SET balance = balance + 5",
        ],
    ),
    ("points", &["UPDATE user_points SET balance = balance + 1, shortfall = shortfall + 1"]),
    ("points", &["INSERT INTO points_source (record_id, source, reason) VALUES (1, 's', '')"]),
    ("events_of_states", &["DELETE FROM message_record WHERE event_id = '1:PAID_ORDER_SUCCESS'"]),
    ("events_of_states", &["DELETE FROM message_record WHERE event_id = '2:STOCK_FREEZE_FAILED'"]),
    ("events_of_states", &["DELETE FROM message_record WHERE event_id = '1:PAYMENT_SUCCESS'"]),
    (
        "events_of_states",
        &[
            "DELETE FROM message_record WHERE event_id = '3:PAYMENT_SUCCESS'",
            "INSERT INTO message_tx_state (tx_id, event_id, msg_key, state, created_at) \
             VALUES ('3:PAYMENT_SUCCESS#1', '3:PAYMENT_SUCCESS', '3', 2, 1)",
        ],
    ),
    ("coupons", &["UPDATE coupon SET state = 1 WHERE order_id = 1"]),
    ("coupons", &["UPDATE coupon SET state = 0, order_id = NULL WHERE order_id = 4"]),
    ("coupons", &["UPDATE coupon SET state = 1, order_id = 3 WHERE id = (SELECT coupon_id FROM orders WHERE id = 3)"]),
    ("coupons", &["UPDATE coupon SET state = 2 WHERE order_id = 4"]),
    ("coupons", &["DELETE FROM coupon WHERE order_id = 4"]),
    ("coupons", &["UPDATE orders SET coupon_id = (SELECT id FROM coupon WHERE order_id = 1) WHERE id = 4"]),
    ("coupons", &["UPDATE orders SET discount = discount + 1 WHERE id = 1"]),
    ("coupons", &["UPDATE coupon SET state = 1, order_id = 2 WHERE id = (SELECT coupon_id FROM orders WHERE id = 3)"]),
    ("coupons", &["UPDATE coupon_template SET issued = issued + 1"]),
    ("coupons", &["UPDATE coupon_template SET stock = 2"]),
    ("gateway_payments", &["UPDATE payment_record SET status = 4 WHERE id = 109"]),
    ("statistics", &["UPDATE day_statistics SET submit_count = 5 WHERE submit_count = 4"]),
    ("statistics", &["DELETE FROM day_statistics WHERE product_id = 'h5' AND success_count = 1"]),
    ("events_of_states", &["DELETE FROM message_record WHERE event_id = '1:COUPON_USED'"]),
    ("events_of_states", &["DELETE FROM message_record WHERE event_id = '3:COUPON_RELEASED'"]),
    ("events_consumed", &["DELETE FROM message_process_log WHERE message_id = '1:ORDER_CREATED'"]),
    ("events_consumed", &["DELETE FROM notification WHERE event_id = '1:ORDER_SIGNED'"]),
    ("events_consumed", &["UPDATE message_process_log SET outcome = 3 WHERE message_id = '1:ORDER_CREATED'"]),
    ("deliveries", &["DELETE FROM delivery WHERE kind = 7"]),
    ("order_view", &["DELETE FROM order_view WHERE id = 1"]),
    ("order_view", &["UPDATE order_view SET version = version - 1 WHERE id = 3"]),
    ("order_view", &["UPDATE order_view SET version = version + 1 WHERE id = 3"]),
    ("nothing_stuck", &["UPDATE message_record SET status = 0, next_at = 1 WHERE event_id = '1:ORDER_CREATED'"]),
    ("nothing_stuck", &["UPDATE orders SET due_at = 1 WHERE id = 4"]),
    ("nothing_stuck", &["UPDATE orders SET due_at = NULL WHERE id = 4"]),
    ("nothing_stuck", &["UPDATE message_record SET status = 2 WHERE event_id = '1:ORDER_CREATED'"]),
    (
        "duplicates",
        &["INSERT INTO stock_ledger (id, sku, order_id, kind, d_available, d_frozen, d_sold, reason, created_at) \
            SELECT id + 1000000, sku, order_id, kind, 0, 0, 0, reason, created_at FROM stock_ledger \
            WHERE order_id = 4"],
    ),
];

#[tokio::test]
async fn a_world_in_order_is_clean_and_each_corruption_is_seen_by_its_check() {
    let test = sqlite().await;
    world(&test).await;
    let report = audit(&test.db).await;
    assert!(report.is_clean(), "{report:#?}");
    assert!(report.checks.iter().all(|check| check.checked > 0 || check.name == "nothing_stuck"), "{report:#?}");
    assert!(report.warnings.is_empty(), "{report:#?}");
    test.db.close().await;
    for (number, (check, statements)) in BROKEN.iter().enumerate() {
        let file = test.dir.path().join(format!("{number}.db"));
        std::fs::copy(test.dir.path().join("ruyi.db"), &file).unwrap();
        let db = reopen(&file, &test.clock).await;
        execute(&db, statements).await;
        let report = audit(&db).await;
        let seen: Vec<_> = report.checks.iter().filter(|one| one.violations > 0).map(|one| one.name).collect();
        assert_eq!(seen.join(" "), *check, "{statements:?}: {:#?}", report.violations);
        assert!(report.violations.iter().all(|one| !one.evidence.is_empty()));
        db.close().await;
    }
}

/// `payment.publish = "transaction"`: the event is in no outbox, and the committed attempt stands for it.
#[tokio::test]
async fn a_committed_transaction_message_is_an_event() {
    let test = sqlite().await;
    world(&test).await;
    execute(&test.db, &["DELETE FROM message_record WHERE event_id = '1:PAYMENT_SUCCESS'"]).await;
    assert!(!audit(&test.db).await.is_clean());
    let insert = "INSERT INTO message_tx_state (tx_id, event_id, msg_key, state, created_at) \
                  VALUES ('1:PAYMENT_SUCCESS#1', '1:PAYMENT_SUCCESS', '1', 1, 1)";
    execute(&test.db, &[insert]).await;
    let report = audit(&test.db).await;
    assert!(report.is_clean(), "{report:#?}");
}

async fn reopen(file: &std::path::Path, clock: &Clock) -> Db {
    let url = format!("sqlite://{}", file.display());
    let faults = ruyi::fault::Faults::none();
    let options = ruyi::db::Options { url, max_connections: 2, clock: clock.clone(), faults };
    Db::open(&options).await.unwrap()
}

/// Takes away what is not a role's own.
async fn keep_only(db: &Db, role: Role) {
    let tables: [(Role, &[&str]); 4] = [
        (Role::Order, &["orders", "order_item", "coupon", "coupon_template"]),
        (Role::Payment, &["payment_record", "refund_record"]),
        (Role::Stock, &["stock", "stock_reservation", "stock_ledger"]),
        (Role::Notify, &["user_points", "points_record", "points_source", "order_view"]),
    ];
    let mut conn = db.read().await.unwrap();
    for table in tables.iter().filter(|(owner, _)| *owner != role).flat_map(|(_, tables)| *tables) {
        sql::execute(&mut conn, format!("DELETE FROM {table}"), vec![]).await.unwrap();
    }
    for kind in Kind::ALL.into_iter().filter(|kind| kind.producer() != Producer::Role(role)) {
        sql::execute(&mut conn, "DELETE FROM message_record WHERE topic = ?", vals![kind.name()]).await.unwrap();
    }
    for group in Group::ALL.into_iter().filter(|group| group.role() != role) {
        let text = "DELETE FROM message_process_log WHERE consumer_group = ?";
        sql::execute(&mut conn, text, vals![group.name()]).await.unwrap();
    }
}

#[tokio::test]
async fn roles_in_four_databases() {
    let test = sqlite().await;
    world(&test).await;
    test.db.close().await;
    let mut all = Vec::new();
    for role in Role::ALL {
        let file = test.dir.path().join(format!("{}.db", role.name()));
        std::fs::copy(test.dir.path().join("ruyi.db"), &file).unwrap();
        let db = reopen(&file, &test.clock).await;
        keep_only(&db, role).await;
        all.push(db);
    }
    let [order, payment, stock, notify] = <[Db; 4]>::try_from(all).unwrap();
    let dbs = RoleDbs { order, payment, stock, notify };
    let report = audit::run(&dbs, &options()).await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
    execute(&dbs.payment, &["DELETE FROM message_process_log WHERE message_id = '4:STOCK_FROZEN'"]).await;
    let report = audit::run(&dbs, &options()).await.unwrap();
    assert_eq!(report.violations.len(), 1, "{report:#?}");
    assert!(report.violations[0].evidence.contains("payment-consumer-group"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_on_mariadb() {
    let Some(test) = mariadb().await else { return };
    world(&test).await;
    let report = audit(&test.db).await;
    assert!(report.is_clean(), "{report:#?}");
    for (check, statements) in BROKEN {
        execute(&test.db, statements).await;
        let report = audit(&test.db).await;
        assert!(
            report.violations.iter().any(|one| check.split(' ').any(|name| one.check == name)),
            "{statements:?}: {report:#?}"
        );
    }
}

#[tokio::test]
async fn what_just_changed_is_not_judged_and_what_was_given_up_is_a_warning() {
    let test = sqlite().await;
    world(&test).await;
    let mut conn = test.db.read().await.unwrap();
    let now_ms = test.clock.now_ms();
    sql::execute(&mut conn, "UPDATE orders SET status = 0, updated_at = ? WHERE id = 4", vals![now_ms]).await.unwrap();
    let text = "INSERT INTO delivery (id, kind, ref, order_id, url, body, status, attempts, created_at, updated_at) \
                VALUES (1, 6, 'alert', 0, 'u', 'b', 2, 3, 1, 1)";
    sql::execute(&mut conn, text, vec![]).await.unwrap();
    // Its time has come, but not long ago.
    let text = "UPDATE message_record SET status = 0, next_at = ? WHERE event_id = '1:ORDER_CREATED'";
    sql::execute(&mut conn, text, vals![now_ms - 1_000]).await.unwrap();
    drop(conn);
    let report = audit(&test.db).await;
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!(report.warnings.iter().map(|one| one.count).collect::<Vec<_>>(), [1]);
    test.clock.advance_ms(400_000);
    let report = audit(&test.db).await;
    let seen: Vec<_> = report.violations.iter().map(|one| (one.check, one.key.as_str())).collect();
    assert_eq!(seen, [("order_rows", "4"), ("reservations_match_orders", "4"), ("nothing_stuck", "1:ORDER_CREATED")]);
}

#[tokio::test]
async fn evidence_is_bounded_and_all_is_counted() {
    let test = sqlite().await;
    world(&test).await;
    execute(&test.db, &["DELETE FROM message_process_log"]).await;
    let report = audit(&test.db).await;
    let slot = report.checks.iter().find(|one| one.name == "events_consumed").unwrap();
    let expected: usize = CASES.iter().flat_map(|case| case.events).map(|kind| kind.groups().len()).sum();
    // And the event of the merchant's own payment.
    assert_eq!(slot.violations, expected as u64 + 1);
    assert_eq!(report.violations.len(), options().evidence);
}

#[test]
fn the_command_prints_and_exits_by_what_it_finds() {
    let dir = tempfile::tempdir().unwrap();
    let ruyi = |args: &[&str]| {
        let mut command = assert_cmd::cargo::cargo_bin_cmd!("ruyi");
        command.current_dir(&dir).args(args);
        command.assert()
    };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let refused = ruyi(&["audit"]).code(1);
    let said = text(&refused.get_output().stderr);
    assert!(said.contains("there is no database file") && said.contains("`ruyi db migrate`"), "{said}");
    ruyi(&["db", "migrate"]).code(0);
    let clean = ruyi(&["audit", "--output", "json", "--settle", "0s", "--bound", "1s"]).code(0);
    let shown: serde_json::Value = serde_json::from_slice(&clean.get_output().stdout).unwrap();
    assert_eq!((shown["version"].as_i64(), shown["ok"].as_bool()), (Some(1), Some(true)));
    assert_eq!(shown["checks"].as_array().unwrap().len(), audit::Check::ALL.len());
    let url = format!("sqlite://{}", dir.path().join("data/ruyi.db").display());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        sqlx::any::install_default_drivers();
        let mut conn = <sqlx::AnyConnection as sqlx::Connection>::connect(&url).await.unwrap();
        let text = "INSERT INTO stock (sku, available, frozen, sold, version, updated_at) VALUES ('A', 1, 0, 0, 1, 1)";
        sql::execute(&mut conn, text, vec![]).await.unwrap();
    });
    let broken = ruyi(&["audit", "--output", "table"]).code(1);
    let shown = text(&broken.get_output().stdout);
    assert!(shown.contains("level available 1 frozen 0 sold 0, ledger available 0"), "{shown}");
}
