//! Orders that are paid, and whose role has not heard of it: payment is asked before anything is canceled.

use axum::http::StatusCode;
use ruyi::domain::event::{Group, Kind};
use serde_json::json;

use crate::support::held_news::{AwayBroker, paid_in_silence};
use crate::support::servers::mariadb_url;
use crate::support::shop::{Setup, Shop};

const USER: i64 = 1001;
const SOON_MS: i64 = 60_000;

/// How roles, and their messages, are arranged.
#[derive(Clone, Copy, Debug)]
struct Way {
    /// Each role believes that the other has a database of its own: they talk by events only.
    apart: bool,
    /// What cancels by time: "database" or "broker".
    via: &'static str,
    /// Every message comes so many times.
    times: usize,
    reversed: bool,
}

const PLAIN: Way = Way { apart: false, via: "database", times: 1, reversed: false };

const WAYS: [Way; 6] = [
    PLAIN,
    Way { via: "broker", times: 2, ..PLAIN },
    Way { times: 2, reversed: true, ..PLAIN },
    Way { apart: true, ..PLAIN },
    Way { apart: true, via: "broker", ..PLAIN },
    Way { apart: true, times: 2, reversed: true, ..PLAIN },
];

async fn open(way: Way, url: Option<String>) -> Shop {
    let mut settings = vec![format!("order.timeout.via={}", way.via)];
    settings.extend(way.apart.then(|| "database.roles.payment=sqlite://elsewhere.db".to_owned()));
    let mut shop = Shop::with(Setup { url, settings, ..Setup::default() }, 0).await;
    (shop.manner.times, shop.manner.reversed) = (way.times, way.reversed);
    shop.sell("TEA", 2_990, 10).await;
    shop
}

/// An order of 2 TEA that has ten minutes to be paid.
async fn reserved(shop: &mut Shop, more: serde_json::Value) -> String {
    let mut wish = json!({ "payWithinSeconds": 600 });
    wish.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let order = shop.place_order(USER, &[("TEA", 2)], wish).await;
    shop.settle_within(SOON_MS).await;
    assert_eq!(shop.status(&order).await, "RESERVED");
    order
}

async fn is_paid_though_its_time_is_over(mut shop: Shop) {
    let order = reserved(&mut shop, json!({ "holdSeconds": 86_400 })).await;
    let held = paid_in_silence(&mut shop, &order).await;
    shop.settle_within(3_600_000).await;
    assert_eq!(shop.status(&order).await, "PAID");
    shop.queue(Group::Order).extend(held);
    shop.settle().await;
    assert_eq!((shop.outcome(&order).await.as_str(), shop.refunds(&order).await), ("SIGNED", vec![]));
    assert_eq!((shop.stock("TEA").await, shop.points(USER).await), ((8, 0, 2), 59));
    shop.audit().await;
}

#[tokio::test]
async fn time_over_with_late_news_pays_the_order() {
    for way in WAYS {
        is_paid_though_its_time_is_over(open(way, None).await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_over_with_late_news_on_mariadb() {
    for way in [WAYS[0], WAYS[3]] {
        let Some(url) = mariadb_url().await else { return };
        is_paid_though_its_time_is_over(open(way, Some(url)).await).await;
    }
}

/// The user cancels what is paid: the money goes back without the news that it came.
#[tokio::test]
async fn a_cancel_with_late_news_gives_money_back() {
    for way in WAYS {
        let mut shop = open(way, None).await;
        let order = reserved(&mut shop, json!({})).await;
        let held = paid_in_silence(&mut shop, &order).await;
        let wanted = if way.apart { StatusCode::ACCEPTED } else { StatusCode::OK };
        assert_eq!(shop.cancel(&order).await, wanted, "{way:?}");
        shop.settle_within(SOON_MS).await;
        assert_eq!(shop.outcome(&order).await, "REFUNDED", "{way:?}");
        assert_eq!(shop.order(&order).await["cancelReason"], "changed my mind");

        shop.queue(Group::Order).extend(held);
        shop.settle().await;
        assert_eq!(shop.refunds(&order).await.len(), 1, "{way:?}");
        assert_eq!((shop.stock("TEA").await, shop.points(USER).await), ((10, 0, 0), 0), "{way:?}");
        shop.audit().await;
    }
}

/// Whatever is asked, by whomever, an unpaid order is canceled once; money that comes later goes back once.
#[tokio::test]
async fn what_nobody_paid_is_canceled_once() {
    for way in WAYS {
        let mut shop = open(way, None).await;
        let late = reserved(&mut shop, json!({})).await;
        let by_user = reserved(&mut shop, json!({})).await;
        let at_once = shop.place_order(USER, &[("TEA", 1)], json!({})).await;
        shop.pay(&late, json!({ "delayMs": 900_000 })).await;
        for _ in 0..2 {
            assert!(shop.cancel(&by_user).await.is_success(), "{way:?}");
            assert!(shop.cancel(&at_once).await.is_success(), "{way:?}");
        }
        shop.settle().await;
        for (order, outcome, by) in
            [(&late, "REFUNDED", "TIMEOUT"), (&by_user, "CANCELED", "USER"), (&at_once, "CANCELED", "USER")]
        {
            let seen = shop.order(order).await;
            assert_eq!((&seen["outcome"], &seen["cancelType"]), (&json!(outcome), &json!(by)), "{way:?}");
        }
        assert_eq!(shop.refunds(&late).await.len(), 1, "{way:?}");
        assert_eq!(shop.stock("TEA").await, (10, 0, 0), "{way:?}");
        let told = "SELECT COUNT(*) FROM message_record WHERE topic = 'ORDER_CANCELED'";
        assert_eq!(shop.count(told).await, 3, "{way:?}");
        shop.audit().await;
    }
}

/// The answer, the news of the money, and a second wish come in any order.
#[tokio::test]
async fn the_answer_and_the_news_meet_in_any_order() {
    for news_first in [true, false] {
        let mut shop = open(WAYS[3], None).await;
        let order = reserved(&mut shop, json!({ "holdSeconds": 86_400 })).await;
        // Asked, and not answered yet.
        shop.clock.advance_ms(600_000);
        shop.turn().await;
        shop.relay(0.0).await;
        assert_eq!(shop.queue(Group::Payment).len(), 1);
        let question = std::mem::take(shop.queue(Group::Payment));
        let mut held = paid_in_silence(&mut shop, &order).await;

        shop.queue(Group::Payment).extend(question);
        shop.deliver(Group::Payment, 9).await;
        shop.relay(0.0).await;
        if news_first {
            shop.queue(Group::Order).splice(0..0, held.drain(..));
        } else {
            shop.queue(Group::Order).append(&mut held);
        }
        shop.settle_within(SOON_MS).await;
        assert_eq!(shop.status(&order).await, "PAID");
        shop.settle().await;
        assert_eq!((shop.outcome(&order).await.as_str(), shop.refunds(&order).await), ("SIGNED", vec![]));
        shop.audit().await;
    }
}

/// Payment is away: orders past their time wait for it, are asked about once in a while, and are named by the audit.
#[tokio::test]
async fn without_payment_orders_wait_and_are_named() {
    let mut shop = open(WAYS[3], None).await;
    let order = reserved(&mut shop, json!({})).await;
    let mut questions = Vec::new();
    for _ in 0..4 {
        shop.clock.advance_ms(600_000);
        shop.turn().await;
        shop.relay(0.0).await;
        questions.append(shop.queue(Group::Payment));
    }
    assert_eq!(shop.status(&order).await, "RESERVED");
    assert!((2..=4).contains(&questions.len()), "{}", questions.len());
    let found = shop.violations().await;
    assert!(found.iter().any(|one| one.contains("past its time to pay")), "{found:?}");

    // It is back, and answers all of them.
    shop.queue(Group::Payment).extend(questions);
    shop.settle().await;
    assert_eq!(shop.order(&order).await["cancelType"], "TIMEOUT");
    shop.audit().await;
}

/// Nothing reaches anybody for longer than the orders have to be paid. All of them have their money: when the broker is
/// back they are paid orders, whether the news of it or the questions about them come first.
#[tokio::test]
async fn no_broker_until_the_time_is_over() {
    const ORDERS: usize = 20;
    for reversed in [false, true] {
        let mut shop = open(WAYS[3], None).await;
        shop.sell("TEA", 2_990, 50).await;
        let mut orders = Vec::new();
        for _ in 0..ORDERS {
            let wish = json!({ "payWithinSeconds": 600 });
            orders.push(shop.place_order(USER, &[("TEA", 2)], wish).await);
        }
        shop.settle_within(SOON_MS).await;
        let mut broker = AwayBroker::default();
        for order in &orders {
            assert_eq!(shop.status(order).await, "RESERVED");
            assert_eq!(shop.pay(order, json!({})).await, StatusCode::ACCEPTED);
        }
        while broker.waiting(Kind::PaymentSuccess) < ORDERS {
            if !broker.turn(&mut shop).await {
                shop.clock.advance_ms(100);
            }
        }

        for _ in 0..3 {
            shop.clock.advance_ms(600_000);
            while broker.turn(&mut shop).await {}
        }
        assert!(broker.waiting(Kind::PaymentCloseRequested) >= ORDERS, "payment is asked");
        for order in &orders {
            assert_eq!(shop.status(order).await, "RESERVED");
        }

        broker.returns(&mut shop, reversed).await;
        shop.settle().await;
        for order in &orders {
            assert_eq!((shop.outcome(order).await.as_str(), shop.refunds(order).await), ("SIGNED", vec![]));
        }
        assert_eq!(shop.count("SELECT COUNT(*) FROM message_record WHERE topic = 'ORDER_CANCELED'").await, 0);
        assert_eq!(shop.stock("TEA").await, (10, 0, 40));
        shop.audit().await;
    }
}
