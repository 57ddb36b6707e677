//! Orders, products, stock, payments, points, notices.

use std::collections::BTreeMap;

use ruyi::db::notification::{self, Notification};
use ruyi::db::orders::{self, Filter, Item, OrderRow};
use ruyi::db::payments::{self, PaymentRow, RefundRow, RefundStatus};
use ruyi::db::points::{self, Place, Record};
use ruyi::db::products::{self, Product};
use ruyi::db::stock::{self, Movement, Reservation, Stocked};
use ruyi::domain::event::RefundKind;
use ruyi::domain::id::PaymentId;
use ruyi::domain::money::Money;
use ruyi::domain::order::{OrderState, RefundState, Status};
use ruyi::domain::payment::{PaymentState, Status as PaymentStatus};
use ruyi::domain::points::{Kind as PointsKind, Standing};
use ruyi::domain::stock::{Kind, Level, Status as Held};

use crate::support::servers::{START_MS, TestDb, count, write_tx};

fn money(minor: i64) -> Money {
    Money::from_minor(minor).unwrap()
}

pub(super) fn order(id: i64) -> OrderRow {
    OrderRow {
        id,
        order_no: format!("N{id}"),
        user_id: 7,
        state: OrderState {
            status: Status::Created,
            refund: RefundState::None,
            handed_over: false,
            total: money(500),
            payment_id: None,
        },
        version: 1,
        coupon: None,
        currency: "CNY".into(),
        merchant_id: 1,
        channel_id: "sandbox".into(),
        remark: "größe 😀".into(),
        address: String::new(),
        hold_ms: 5,
        idempotency_key: Some(format!("7:k{id}")),
        request_hash: Some("h".into()),
        expire_time: START_MS + id,
        pay_time: None,
        cancel_type: None,
        cancel_reason: None,
        carrier: None,
        tracking_no: None,
        created_at: START_MS,
        updated_at: START_MS,
    }
}

pub(super) async fn orders_(test: TestDb) {
    let items = vec![
        Item { sku: "B".into(), quantity: 2, unit_price: money(100) },
        Item { sku: "A".into(), quantity: 3, unit_price: money(100) },
    ];
    let rows: Vec<_> = (1..=5).map(|id| (order(id), items.clone())).collect();
    write_tx!(test.db, [rows], |tx| { orders::insert(tx, &rows).await }).unwrap();
    let done = write_tx!(test.db, [], |tx| {
        let mut found = orders::lock(tx, vec![3, 1, 3, 99]).await?;
        assert_eq!(found.len(), 2);
        let mut one = found.remove(&1).unwrap();
        assert_eq!(one, order(1));
        one.state = OrderState {
            status: Status::Paid,
            payment_id: Some(PaymentId(9)),
            handed_over: true,
            refund: RefundState::Requested,
            ..one.state
        };
        one.carrier = Some("c".into());
        orders::update(tx, &[&one]).await
    });
    done.unwrap();
    let mut conn = test.db.read().await.unwrap();
    let paid = orders::get(&mut conn, 1).await.unwrap().unwrap();
    assert_eq!((paid.state.status, paid.state.payment_id, paid.version), (Status::Paid, Some(PaymentId(9)), 2));
    assert_eq!((paid.state.handed_over, paid.state.refund), (true, RefundState::Requested));
    assert_eq!(orders::get(&mut conn, 99).await.unwrap(), None);
    let keys = vec!["7:k2".to_owned(), "7:none".to_owned()];
    let found = orders::by_idempotency_keys(&mut conn, keys).await.unwrap();
    assert_eq!(found.iter().map(|order| order.id).collect::<Vec<_>>(), [2]);
    assert_eq!(orders::items(&mut conn, &[2, 99]).await.unwrap()[&2], items);
    // Order 1 is paid and no longer timed.
    assert_eq!(orders::next_due(&mut conn).await.unwrap(), Some(START_MS + 2));
    test.clock.advance_ms(4);
    let due = async |before_ms| write_tx!(test.db, [], |tx| { orders::due(tx, before_ms, 10, "").await }).unwrap();
    assert_eq!((due(START_MS + 4).await, due(START_MS + 3).await), (vec![2, 3, 4], vec![2, 3]));
    let filter = Filter { user_id: Some(7), status: Some(Status::Created), before_id: Some(5), limit: 2 };
    let listed = orders::list(&mut conn, &filter).await.unwrap();
    assert_eq!(listed.iter().map(|order| order.id).collect::<Vec<_>>(), [4, 3]);
    let all = orders::list(&mut conn, &Filter { limit: 100, ..Filter::default() }).await.unwrap();
    assert_eq!(all.len(), 5);
}

pub(super) async fn products_(test: TestDb) {
    let product = |sku: &str, price| Product {
        sku: sku.into(),
        name: "n".into(),
        price: money(price),
        currency: "CNY".into(),
        active: true,
    };
    let first = vec![product("b", 1), product("a", 2)];
    write_tx!(test.db, [first], |tx| { products::put(tx, &first, 1).await }).unwrap();
    let second = vec![Product { active: false, ..product("a", 3) }, product("A", 4)];
    write_tx!(test.db, [second], |tx| { products::put(tx, &second, 2).await }).unwrap();
    let mut conn = test.db.read().await.unwrap();
    let found = products::get(&mut conn, vec!["a".into(), "b".into(), "A".into(), "c".into()]).await.unwrap();
    assert_eq!(found.len(), 3);
    assert_eq!((found["a"].price, found["a"].active), (money(3), false));
    assert_eq!(count(&test.db, "SELECT version FROM product WHERE sku = 'a'").await, 2);
}

pub(super) async fn stock_(test: TestDb) {
    let done = write_tx!(test.db, [], |tx| {
        stock::create(tx, &["a".to_owned(), "b".to_owned()], 1).await?;
        stock::create(tx, &["a".to_owned()], 2).await?;
        let levels = stock::lock(tx, vec!["b".into(), "a".into(), "a".into(), "none".into()]).await?;
        assert_eq!(levels.keys().collect::<Vec<_>>(), ["a", "b"]);
        let level = Level { available: 7, frozen: 2, sold: 1 };
        stock::update(tx, &BTreeMap::from([("a", Stocked { level, version: 0 })])).await?;
        let held =
            Reservation { status: Held::Frozen, lines: BTreeMap::from([("a".to_owned(), 2)]), reason: "x".repeat(600) };
        stock::insert_reservations(tx, &[(1, &held), (2, &held)]).await?;
        stock::update_reservations(tx, &[(2, Held::Deducted)]).await?;
        let change = Kind::Freeze.movement(2);
        let reason = String::new();
        stock::insert_ledger(
            tx,
            &[Movement { sku: "a".into(), order_id: 1, kind: Kind::Freeze, change, reason, actor: None }],
        )
        .await?;
        let found = stock::lock_reservations(tx, vec![2, 1, 2, 9]).await?;
        assert_eq!((found.len(), found[&1].status, found[&2].status), (2, Held::Frozen, Held::Deducted));
        assert_eq!(found[&1].lines, held.lines);
        Ok(())
    });
    done.unwrap();
    let mut conn = test.db.read().await.unwrap();
    let levels = stock::get(&mut conn, vec!["a".into()]).await.unwrap();
    assert_eq!(levels["a"], Stocked { level: Level { available: 7, frozen: 2, sold: 1 }, version: 1 });
    assert_eq!(count(&test.db, "SELECT version FROM stock WHERE sku = 'a'").await, 1);
    assert_eq!(count(&test.db, "SELECT d_available FROM stock_ledger").await, -2);
}

pub(super) async fn payments_and_refunds(test: TestDb) {
    let row = |id: i64| PaymentRow {
        id,
        order_id: id + 100,
        order_no: "N".into(),
        user_id: 7,
        state: PaymentState {
            status: PaymentStatus::Pending,
            amount: money(500),
            currency: "CNY".into(),
            merchant_id: 1,
            transaction_no: None,
        },
        channel_id: "sandbox".into(),
        expire_time: 5,
        payment_method: None,
        pay_time: None,
        trace: (id == 1).then(|| "00-a-b-01".to_owned()),
    };
    let refund = |id: i64, transaction_no: &str| RefundRow {
        id,
        payment_id: 1,
        order_id: 101,
        kind: if transaction_no == "T1" { RefundKind::Order } else { RefundKind::Extra },
        amount: money(500),
        reason: "r".into(),
        status: RefundStatus::Pending,
        transaction_no: transaction_no.into(),
        error: None,
    };
    let refunds = vec![refund(1, "T1"), refund(2, "T2")];
    let again = vec![refund(3, "T1"), refund(4, "T3")];
    let done = write_tx!(test.db, [refunds, again], |tx| {
        payments::insert(tx, &[row(1), row(2)]).await?;
        let by_order = payments::lock_by_order(tx, vec![102, 101, 101, 5]).await?;
        assert_eq!((by_order.len(), by_order[&101].id), (2, 1));
        let mut one = payments::lock_by_id(tx, vec![1]).await?.remove(&1).unwrap();
        assert_eq!(one, row(1));
        one.state.status = PaymentStatus::Success;
        one.state.transaction_no = Some("T1".into());
        one.payment_method = Some("card".into());
        one.pay_time = Some(3);
        payments::update(tx, &[&one]).await?;
        assert_eq!(payments::insert_refunds(tx, &refunds).await?.count(), 2);
        assert_eq!(payments::insert_refunds(tx, &again).await?.count(), 1);
        payments::set_refund_status(tx, &[1, 4], RefundStatus::Success).await?;
        let locked = payments::lock_refunds(tx, vec![4, 2, 3]).await?;
        assert_eq!(
            (locked.len(), locked[&4].status, locked[&2].status),
            (2, RefundStatus::Success, RefundStatus::Pending)
        );
        Ok(())
    });
    done.unwrap();
    let mut conn = test.db.read().await.unwrap();
    let paid = payments::of_order(&mut conn, 101).await.unwrap().unwrap();
    assert_eq!((paid.state.status, paid.pay_time), (PaymentStatus::Success, Some(3)));
    assert_eq!(payments::of_order(&mut conn, 5).await.unwrap(), None);
    assert!(payments::has_refund(&mut conn, 1, "T3").await.unwrap());
    assert!(!payments::has_refund(&mut conn, 2, "T3").await.unwrap());
    let all = payments::refunds_of_order(&mut conn, 101).await.unwrap();
    assert_eq!(all.iter().map(|one| one.id).collect::<Vec<_>>(), [1, 2, 4]);
    assert_eq!(all[1].kind, RefundKind::Extra);
}

pub(super) async fn points_and_notices(test: TestDb) {
    let record = |order_id, kind, user_id, points| Record { order_id, kind, user_id, points };
    let done = write_tx!(test.db, [], |tx| {
        points::apply(tx, &[record(1, PointsKind::Grant, 7, 5), record(2, PointsKind::Grant, 7, 6)]).await?;
        points::apply(tx, &[record(1, PointsKind::Reverse, 7, -5), record(3, PointsKind::Reverse, 0, 0)]).await?;
        let found = points::lock_of_orders(tx, vec![1, 2, 9]).await?;
        assert_eq!((found.len(), found[&1].len()), (2, 2));
        assert_eq!(found[&1][1], record(1, PointsKind::Reverse, 7, -5));
        let notice = |event_id: &str, order_id| Notification {
            event_id: event_id.into(),
            user_id: 7,
            order_id,
            template: "ORDER_SIGNED".into(),
            params: "{}".into(),
        };
        notification::insert(tx, &[notice("1:A", 1), notice("2:A", 2)]).await?;
        notification::insert(tx, &[notice("1:A", 1), notice("3:A", 3)]).await
    });
    done.unwrap();
    let twice = write_tx!(test.db, [], |tx| { points::apply(tx, &[record(1, PointsKind::Grant, 7, 5)]).await });
    assert!(twice.unwrap_err().is_unique_violation());
    let mut conn = test.db.read().await.unwrap();
    assert_eq!(points::standing(&mut conn, 7).await.unwrap().balance, 6);
    assert_eq!(points::standing(&mut conn, 8).await.unwrap(), Standing::default());
    assert_eq!(points::history(&mut conn, 7, Place::NEWEST, 2).await.unwrap().len(), 2);
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM user_points").await, 1);
    let users = notification::users_of_orders(&mut conn, vec![1, 2, 9]).await.unwrap();
    assert_eq!((users.len(), users[&1]), (2, 7));
    let listed = notification::of_user(&mut conn, 7, i64::MAX, 2).await.unwrap();
    assert_eq!(listed.iter().map(|one| one.order_id).collect::<Vec<_>>(), [3, 2]);
    assert_eq!(notification::of_user(&mut conn, 7, listed[1].id, 9).await.unwrap().len(), 1);
}

/// An order is of whom ruyi told first, whatever others have told somebody about it.
pub(super) async fn an_order_is_its_own_users(test: TestDb) {
    let told = |event_id: &str, user_id: i64, order_id: i64, template: &str| Notification {
        event_id: event_id.into(),
        user_id,
        order_id,
        template: template.into(),
        params: "{}".into(),
    };
    let rows = [
        told("1:GIFT", 8, 1, "GIFT_WRAPPED"),
        told("1:PAID_ORDER_SUCCESS", 7, 1, "ORDER_PAY_SUCCESS"),
        told("1:WATCH", 9, 1, "ORDER_SIGNED"),
        told("1:GIFT:2", 8, 1, "GIFT_WRAPPED"),
        told("2:GIFT", 8, 2, "GIFT_WRAPPED"),
        told("3:ORDER_OUT_STOCK", 6, 3, "ORDER_OUT_STOCK"),
    ];
    write_tx!(test.db, [rows], |tx| { notification::insert(tx, &rows).await }).unwrap();
    let mut conn = test.db.read().await.unwrap();
    let users = notification::users_of_orders(&mut conn, vec![1, 2, 3, 9]).await.unwrap();
    assert_eq!(users, std::collections::HashMap::from([(1, 7), (3, 6)]));
}

/// A payment of this order that has its money.
pub(super) fn payment(id: i64, order_id: i64, amount: Money) -> PaymentRow {
    PaymentRow {
        id,
        order_id,
        order_no: format!("N{order_id}"),
        user_id: 7,
        state: PaymentState {
            status: PaymentStatus::Success,
            amount,
            currency: "CNY".into(),
            merchant_id: 1,
            transaction_no: Some("T1".into()),
        },
        channel_id: "sandbox".into(),
        expire_time: 5,
        payment_method: None,
        pay_time: None,
        trace: None,
    }
}
