//! Coupon templates and coupons.

use ruyi::db::coupons::{self, Issued, Template};
use ruyi::db::orders::{self, CouponUse};
use ruyi::domain::coupon::{Kind, State, Terms};
use ruyi::domain::money::Money;

use super::business;
use crate::support::servers::{START_MS, TestDb, count, write_tx};

fn money(minor: i64) -> Money {
    Money::from_minor(minor).unwrap()
}

fn template() -> Template {
    let (max_off, min_amount) = (Some(money(700)), money(100));
    Template {
        template: "P".into(),
        name: "größe 😀".into(),
        terms: Terms { kind: Kind::Percent, amount_off: Money::ZERO, basis_points: 1_250, max_off, min_amount },
        stock: 3,
        per_user: 2,
        valid_from: 5,
        valid_until: START_MS + 1_000,
        active: true,
        issued: 0,
    }
}

pub(super) async fn coupons_(test: TestDb) {
    let put = async |template: Template| write_tx!(test.db, [template], |tx| { coupons::put(tx, &template).await });
    let issue = async |user, key| write_tx!(test.db, [], |tx| { coupons::issue(tx, "P", user, key).await }).unwrap();
    assert_eq!(issue(7, None).await, Issued::Unknown);
    assert_eq!(put(template()).await.unwrap(), Ok(template()));
    let Issued::New(first) = issue(7, Some("k")).await else { panic!() };
    assert_eq!(issue(7, Some("k")).await, Issued::Replayed(first.clone()));
    assert_eq!((first.held.terms, first.held.valid_until), (template().terms, START_MS + 1_000));
    let Issued::New(second) = issue(7, None).await else { panic!() };
    assert_eq!(issue(7, None).await, Issued::UserLimit);
    assert!(matches!(issue(8, Some("k")).await, Issued::New(_)));
    assert_eq!(issue(9, None).await, Issued::OutOfStock);

    // Terms change for those that come later; fewer than were issued there cannot be.
    let terms = Terms { kind: Kind::Amount, amount_off: money(1), basis_points: 0, max_off: None, ..template().terms };
    let changed = Template { terms, stock: 5, per_user: 9, issued: 3, ..template() };
    assert_eq!(put(Template { issued: 0, ..changed.clone() }).await.unwrap(), Ok(changed.clone()));
    assert_eq!(put(Template { stock: 2, ..changed.clone() }).await.unwrap(), Err(3));
    let Issued::New(third) = issue(7, None).await else { panic!() };
    assert_eq!((third.held.terms, second.held.terms), (terms, template().terms));
    put(Template { active: false, ..changed.clone() }).await.unwrap().unwrap();
    assert_eq!(issue(7, None).await, Issued::Closed);
    put(changed).await.unwrap().unwrap();
    test.clock.advance_ms(1_000);
    assert_eq!(issue(7, None).await, Issued::Closed);
    assert_eq!(count(&test.db, "SELECT version FROM coupon_template").await, 4);

    let ids = vec![second.id, first.id, second.id, 99];
    let done = write_tx!(test.db, [ids], |tx| {
        let mut found = coupons::lock(tx, ids).await?;
        assert_eq!(found.len(), 2);
        for (order_id, coupon) in (1..).zip(found.values_mut()) {
            (coupon.held.state, coupon.held.order_id) = (State::Locked, Some(order_id));
        }
        coupons::update(tx, &found.values().collect::<Vec<_>>()).await
    });
    done.unwrap();
    let mut conn = test.db.read().await.unwrap();
    let listed = coupons::of_user(&mut conn, 7, third.id, 10).await.unwrap();
    assert_eq!(listed.iter().map(|coupon| coupon.id).collect::<Vec<_>>(), [second.id, first.id]);
    assert!(listed.iter().all(|coupon| coupon.held.state == State::Locked && coupon.updated_at == START_MS + 1_000));
    assert_eq!(coupons::of_user(&mut conn, 7, i64::MAX, 1).await.unwrap(), std::slice::from_ref(&third));
    assert_eq!(coupons::get(&mut conn, third.id).await.unwrap(), Some(third.clone()));
    drop(conn);

    // Two coupons for one order cannot be written.
    let twice = write_tx!(test.db, [third], |tx| {
        let mut coupon = coupons::lock(tx, vec![third.id]).await?.remove(&third.id).unwrap();
        (coupon.held.state, coupon.held.order_id) = (State::Locked, Some(1));
        coupons::update(tx, &[&coupon]).await
    });
    assert!(twice.is_err());
}

pub(super) async fn orders_keep_their_coupon(test: TestDb) {
    let coupon = Some(CouponUse { id: 77, discount: money(45) });
    let with = orders::OrderRow { coupon: coupon.clone(), ..business::order(1) };
    let rows = vec![(with.clone(), vec![]), (business::order(2), vec![])];
    write_tx!(test.db, [rows], |tx| { orders::insert(tx, &rows).await }).unwrap();
    let mut conn = test.db.read().await.unwrap();
    assert_eq!(orders::get(&mut conn, 1).await.unwrap(), Some(with));
    assert_eq!(orders::get(&mut conn, 2).await.unwrap().unwrap().coupon, None);
}
