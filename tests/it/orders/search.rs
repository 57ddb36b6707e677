//! ORDER_DATA_SYNC and the search of orders: in a shop that is driven by hand, and over HTTP.

use reqwest::{Method, StatusCode};
use ruyi::domain::event::{Group, Kind};
use ruyi::mq::message::{Incoming, QueueId};
use serde_json::{Value, json};

use crate::support::serving::{Serving, order_of};
use crate::support::shop::{Setup, Shop};
use crate::support::waiting::eventually;

const SHOWN: &str = "SELECT COUNT(*) FROM order_view v JOIN orders o ON o.id = v.id AND o.version = v.version \
                     AND o.status = v.status";

/// Each version is told of once, and the last one is shown, however the events come.
#[tokio::test]
async fn each_version_is_told_and_the_last_one_shown() {
    for (times, reversed) in [(1, false), (2, false), (2, true)] {
        let mut shop = Shop::open().await;
        shop.manner.times = times;
        shop.manner.reversed = reversed;
        shop.manner.batch = 2;
        shop.sell("TEA", 1_000, 5).await;
        let signed = shop.place_order(1, &[("TEA", 1)], json!({})).await;
        let canceled = shop.place_order(2, &[("TEA", 1)], json!({"remark": "ring twice"})).await;
        shop.settle_within(1_000).await;
        shop.pay(&signed, json!({})).await;
        shop.cancel(&canceled).await;
        shop.settle().await;
        assert_eq!(shop.status(&signed).await, "SIGNED");
        assert_eq!(shop.count(SHOWN).await, 2);
        let told = "SELECT COUNT(*) FROM message_record WHERE topic = 'ORDER_DATA_SYNC'";
        assert_eq!(shop.count(told).await, shop.count("SELECT CAST(SUM(version) AS SIGNED) FROM orders").await);
        assert_eq!(shop.count("SELECT COUNT(*) FROM order_view_term").await, 3);
        shop.audit().await;
    }
}

#[tokio::test]
async fn turned_off_nothing_is_told_and_nothing_is_missed() {
    let change = |config: &mut ruyi::config::Config| config.order.data_sync = false;
    let mut shop = Shop::with(Setup { change, ..Setup::default() }, 0).await;
    shop.sell("TEA", 1_000, 5).await;
    let order = shop.place_order(1, &[("TEA", 1)], json!({})).await;
    shop.settle_within(1_000).await;
    shop.cancel(&order).await;
    shop.settle().await;
    assert_eq!(shop.count("SELECT COUNT(*) FROM message_record WHERE topic = 'ORDER_DATA_SYNC'").await, 0);
    assert_eq!(shop.count("SELECT COUNT(*) FROM order_view").await, 0);
}

fn ids(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|one| one["orderId"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_are_found_over_http() {
    let serving = Serving::start(&[]).await;
    serving.fill().await;
    let order = |user: &str, sku: &str, remark: &str| json!({"userId": user, "items": [{"sku": sku, "quantity": 1}], "remark": remark, "holdSeconds": 3_600});
    let first = serving.place(&order("1", "A1", "Leave it at the door")).await;
    let second = serving.place(&order("2", "A1", "")).await;
    let third = serving.place(&order("2", "B2", "")).await;
    for id in [&first, &third] {
        serving.until(&format!("/orders/{id}"), "status", "RESERVED").await;
    }
    serving.fine(Method::POST, &format!("/orders/{third}/cancel"), &json!({"reason": "no more"})).await;
    serving.settled().await;

    let search = async |query: &str| serving.get(&format!("/orders?{query}")).await;
    assert_eq!(ids(&search("q=a1").await), [&second, &first]);
    assert_eq!(ids(&search("q=leave%20it").await), [&first]);
    assert_eq!(ids(&search(&format!("q=RY{second}")).await), [&second]);
    assert_eq!(ids(&search("q=&userId=2").await), [&third, &second]);
    assert_eq!(ids(&search("q=&status=CANCELED").await), [&third]);
    let page = search("q=a1&limit=1").await;
    assert_eq!(ids(&page), [&second]);
    let next = page["next"].as_str().unwrap();
    assert_eq!(ids(&search(&format!("q=a1&limit=1&before={next}")).await), [&first]);
    assert_eq!(ids(&search("from=0&to=1").await), Vec::<&str>::new());
    assert_eq!(ids(&search("from=0").await), [&third, &second, &first]);
    let shown = search(&format!("q={third}")).await;
    assert_eq!(
        (shown["items"][0]["cancelReason"].as_str(), shown["items"][0]["version"].as_i64()),
        (Some("no more"), Some(3))
    );
    // The orders themselves, where nothing is searched for.
    assert_eq!(search("userId=2").await["items"][0]["refundStatus"], "NONE");

    for query in ["q=a1&limit=0", "q=a1&status=NEW", "q=a1&before=x", "q=a1&userId=x", "from=yesterday", "q=a&x=1"] {
        let (status, ..) = serving.reply(serving.request(Method::GET, &format!("/orders?{query}"))).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
    }
    serving.stop().await;
}

/// What cannot be a version of an order is a dead letter, and harms nothing else.
/// Whoever asks for everything since the beginning of time gets it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_beyond_all_bounds_are_no_fault() {
    let serving = Serving::start(&[]).await;
    serving.fill().await;
    serving.place(&order_of("A1", 1)).await;
    // What is searched is told by events.
    eventually("it is found", async || serving.get("/orders?from=0").await["items"] != json!([])).await;
    for (path, count) in [
        ("/orders?from=-9223372036854775808", 1),
        ("/orders?to=-9223372036854775808", 0),
        ("/orders?from=9223372036854775807", 0),
        ("/orders?to=9223372036854775807", 1),
        ("/deliveries?since=-9223372036854775808", 0),
        ("/deliveries?since=9223372036854775807", 0),
    ] {
        let (status, _, found) = serving.reply(serving.request(Method::GET, path)).await;
        assert_eq!((status, found["items"].as_array().map(Vec::len)), (StatusCode::OK, Some(count)), "{path}: {found}");
    }
    serving.stop().await;
}

#[tokio::test]
async fn what_is_no_version_of_an_order_is_refused() {
    let mut shop = Shop::open().await;
    shop.sell("TEA", 1_000, 5).await;
    let order = shop.place_order(1, &[("TEA", 1)], json!({})).await;
    shop.settle_within(1_000).await;
    let body = |version: i64, remark: String| {
        json!({"orderId": order, "userId": 1, "status": "PAID", "outcome": "OPEN", "version": version,
            "totalAmount": 10, "merchantId": 1, "createdAt": 1, "updatedAt": 1, "remark": remark})
    };
    for (name, body) in [("a", body(0, String::new())), ("b", body(9, "x".repeat(501)))] {
        let message = Incoming {
            queue: QueueId { topic: Kind::OrderDataSync.name().to_owned(), broker: "outside".to_owned(), queue: 0 },
            offset: 0,
            tag: String::new(),
            key: order.clone(),
            body: body.to_string().into(),
            unreadable: None,
            properties: vec![("eventId".to_owned(), name.to_owned())],
            born_ms: 0,
            stored_ms: 0,
        };
        shop.queue(Group::OrderDataSync).push(message);
    }
    shop.settle_within(1_000).await;
    assert_eq!(shop.dead_letters().await, 2);
    assert_eq!(shop.count(SHOWN).await, 1);
}
