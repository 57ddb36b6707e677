//! Orders that are canceled when all of their money went back before, in parts: nothing is left to give back, so that no
//! refund ends them.

use axum::http::StatusCode;
use ruyi::audit::repair::{Plan, Repair};
use ruyi::audit::{self, RoleDbs};
use ruyi::db::sql;
use ruyi::domain::event::{Group, Kind};
use serde_json::json;

use super::fulfilment::{SOON_MS, handed_over, message};
use crate::support::servers::{mariadb_url, write_tx};
use crate::support::shop::{STRICT, Setup, Shop};

/// Orders and payments believe that they have databases of their own: they talk by events only.
fn apart() -> Setup {
    Setup { settings: vec!["database.roles.payment=sqlite://elsewhere.db".to_owned()], ..Setup::default() }
}

async fn change(shop: &Shop, text: &'static str) {
    write_tx!(shop.db, [], |tx| { sql::execute(tx, text, vec![]).await }).unwrap();
}

/// An order of 59.80 that was handed over, and whose warehouse does not answer yet.
async fn unanswered(shop: &mut Shop) -> String {
    let order = handed_over(shop).await;
    // The sandbox may have taken it by now: its steps wait as well.
    change(shop, "UPDATE delivery SET next_at = 4000000000000 WHERE kind IN (3, 5) AND status = 0").await;
    order
}

async fn give_back(shop: &mut Shop, order: &str, parts: &[i64]) {
    for minor in parts {
        let (status, answer) = shop.refund(order, &format!("of {minor}"), *minor).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    }
}

/// The warehouse says no, twice, and everybody in this process hears of it; no call is made.
async fn refuse(shop: &mut Shop, order: &str) {
    for _ in 0..2 {
        shop.queue(Group::Order).push(message(Kind::OrderFulfillRefused, order));
    }
    shop.deliver(Group::Order, usize::MAX).await;
    shop.relay(0.0).await;
    shop.deliver(Group::Payment, usize::MAX).await;
}

/// The order and its payment are at their end: all is back in so many parts, and each was told once.
async fn is_over(shop: &mut Shop, order: &str, parts: usize) {
    shop.settle_within(SOON_MS).await;
    assert_eq!(shop.violations().await, Vec::<String>::new());
    assert_eq!(shop.outcome(order).await, "REFUNDED");
    assert_eq!(shop.payment(order).await.unwrap()["status"], "REFUNDED");
    assert_eq!(shop.refunds(order).await, vec![("PART".to_owned(), "SUCCESS".to_owned()); parts]);
    let told = shop.told().await.remove(order).unwrap();
    let times = |template: &str| told.iter().filter(|one| *one == template).count();
    assert_eq!((times("ORDER_REFUNDED"), times("ORDER_CANCELED")), (parts, 1), "{told:?}");
    assert_eq!((shop.stock("TEA").await, shop.points(7).await), ((5, 0, 0), 0));
    shop.audit().await;
}

async fn refused_when_all_is_back(mut shop: Shop, parts: &[i64]) {
    let order = unanswered(&mut shop).await;
    give_back(&mut shop, &order, parts).await;
    shop.settle_within(SOON_MS).await;
    assert_eq!((shop.status(&order).await, shop.parked().await), ("PAID".to_owned(), 0));

    refuse(&mut shop, &order).await;
    assert_eq!(shop.outcome(&order).await, "REFUNDED", "nobody has to tell anything");
    assert_eq!(shop.payment(&order).await.unwrap()["status"], "REFUNDED");
    is_over(&mut shop, &order, parts.len()).await;
}

#[tokio::test]
async fn a_refusal_after_all_went_back_ends_the_order() {
    for setup in [Setup::default(), apart()] {
        refused_when_all_is_back(Shop::with(setup, 0).await, &[5_980]).await;
    }
}

#[tokio::test]
async fn a_refusal_after_two_parts_ends_the_order() {
    for setup in [Setup::default(), apart()] {
        refused_when_all_is_back(Shop::with(setup, 0).await, &[1_000, 4_980]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_after_all_went_back_on_mariadb() {
    let Some(url) = mariadb_url().await else { return };
    refused_when_all_is_back(Shop::with(Setup { url: Some(url), ..Setup::default() }, 0).await, &[1_000, 4_980]).await;
}

/// The refusal overtakes the news of the second part, or the answer of the channel: whichever is late ends the order.
#[tokio::test]
async fn a_part_under_way_ends_the_refused_order() {
    for is_paid in [false, true] {
        let mut shop = Shop::with(apart(), 0).await;
        let order = unanswered(&mut shop).await;
        give_back(&mut shop, &order, &[1_000]).await;
        shop.settle_within(SOON_MS).await;
        give_back(&mut shop, &order, &[4_980]).await;
        shop.relay(0.0).await;
        shop.deliver(Group::Payment, usize::MAX).await;
        if is_paid {
            assert_eq!(shop.make_calls(8).await.unwrap(), 1);
        }
        let done = shop.count("SELECT COUNT(*) FROM refund_record WHERE status = 1").await;
        assert_eq!(done, if is_paid { 2 } else { 1 });

        refuse(&mut shop, &order).await;
        assert_eq!(shop.outcome(&order).await, "OPEN");
        let payment = shop.payment(&order).await.unwrap();
        assert_eq!(payment["status"], if is_paid { "REFUNDED" } else { "REFUNDING" });
        is_over(&mut shop, &order, 2).await;
    }
}

/// Another system may give all of it back before the warehouse has the order: then the user's cancel finds nothing left.
#[tokio::test]
async fn a_cancel_after_all_went_back_ends_the_order() {
    for setup in [Setup::default(), apart()] {
        let mut shop = Shop::with(setup, 0).await;
        shop.sell("TEA", 2_990, 5).await;
        let order = shop.place_order(7, &[("TEA", 2)], json!({ "holdSeconds": 600 })).await;
        shop.settle_within(1_000).await;
        shop.pay(&order, json!({})).await;
        shop.settle_within(1_000).await;
        let body = json!({ "orderId": order, "refundId": "77", "amount": 59.8, "reason": "goodwill" });
        shop.outside("REFUND_REQUESTED", "goodwill-1", &order, &body);
        shop.settle_within(1_000).await;
        assert_eq!(shop.status(&order).await, "PAID");

        assert!(shop.cancel(&order).await.is_success());
        is_over(&mut shop, &order, 1).await;
    }
}

async fn repair(shop: &Shop) {
    let dbs = RoleDbs::one(&shop.db);
    let mut found = audit::run(&dbs, &STRICT).await.unwrap().violations;
    Repair::sort(&mut found);
    let mut repair = Repair::new(&dbs, &STRICT);
    for violation in &found {
        match repair.plan(violation).await.unwrap() {
            Plan::Mend(action) => drop(repair.apply(&action).await.unwrap()),
            Plan::Healed => {}
            Plan::Leave(why) => panic!("{violation:?} is left: {why}"),
        }
    }
}

/// As orders of before stand: canceled, asking for money that is back already, and nobody tells them. Their payment waits
/// for a rest, or has not heard of the cancel.
#[tokio::test]
async fn orders_that_wait_for_nothing_are_repaired() {
    for (payment, runs) in [("UPDATE payment_record SET status = 3", 1), ("UPDATE payment_record SET status = 1", 2)] {
        let mut shop = Shop::open().await;
        let order = unanswered(&mut shop).await;
        give_back(&mut shop, &order, &[1_000, 4_980]).await;
        shop.settle_within(SOON_MS).await;
        refuse(&mut shop, &order).await;
        is_over(&mut shop, &order, 2).await;
        change(&shop, "UPDATE orders SET refund_status = 1").await;
        change(&shop, payment).await;

        let found = shop.violations().await;
        assert!(found.iter().any(|one| one.contains("refund asked for, and not done")), "{found:#?}");
        for _ in 0..runs {
            repair(&shop).await;
            shop.settle_within(SOON_MS).await;
        }
        is_over(&mut shop, &order, 2).await;
    }
}
