//! Events as services of other houses write them, by the frameworks that these use: each is handled once, as it stands.

use ruyi::db::migrate;
use ruyi::domain::event::Group;
use serde_json::{Value, json};

use crate::support::failing_handler::FailingHandler;
use crate::support::held_news::paid_in_silence;
use crate::support::merchant_accounts::{merchant, told};
use crate::support::servers::mariadb::{MariaDb, mariadb_url};
use crate::support::shop::{Fault, Setup, Shop};

const SOON_MS: i64 = 60_000;

/// Ends of the groups with a message, beside what followed from it.
async fn ends(shop: &Shop, outcome: i64) -> i64 {
    let text = match outcome {
        0 => "SELECT COUNT(*) FROM message_process_log WHERE outcome = 0",
        1 => "SELECT COUNT(*) FROM message_process_log WHERE outcome = 1",
        _ => "SELECT COUNT(*) FROM message_process_log WHERE outcome = 3",
    };
    shop.count(text).await
}

/// Spring Cloud Stream with fastjson: keys that are no text, a time of its own name, fields that go without saying.
#[tokio::test]
async fn an_order_of_a_spring_service_is_frozen_once() {
    let mut shop = Shop::open().await;
    shop.sell("1001", 4_950, 10).await;
    let now_ms = shop.clock.now_ms();
    let body = format!(
        r#"{{"orderId":1,"orderNo":"O1","userId":1,"totalAmount":99.00,"productQuantityMap":{{1001:2}},"remark":"",
            "timestamp":{now_ms},"eventId":"e-1"}}"#
    );
    for _ in 0..2 {
        shop.outside_text("ORDER_CREATED", "O1", &body);
        shop.settle_within(SOON_MS).await;
    }
    assert_eq!(shop.stock("1001").await, (8, 2, 0));
    let of_event = "SELECT COUNT(*) FROM message_process_log WHERE message_id = 'e-1' AND outcome = 0";
    assert_eq!(shop.count(of_event).await, 1);
}

/// Its news of the money: the time has a name of its own, and ids are numbers. A time without a zone is one of the zone
/// that is set for the topic.
#[tokio::test]
async fn a_payment_of_a_spring_service_pays_once() {
    for (timestamp, zone, paid_at) in [
        ("1795978754346", "UTC", 1_795_978_754_346_i64),
        ("\"2026-01-01 08:00:00\"", "Asia/Shanghai", 1_767_225_600_000),
    ] {
        let settings = vec![format!("mq.zones.PAYMENT_SUCCESS={zone}")];
        let mut shop = Shop::with(Setup { settings, ..Setup::default() }, 0).await;
        shop.sell("1001", 4_950, 10).await;
        let order = shop.place_order(1, &[("1001", 2)], json!({ "holdSeconds": 86_400 })).await;
        shop.settle_within(SOON_MS).await;
        let own = paid_in_silence(&mut shop, &order).await;
        let payment = shop.payment(&order).await.unwrap()["paymentId"].as_str().unwrap().to_owned();

        let body = format!(
            r#"{{"paymentId":{payment},"orderId":{order},"orderNo":"O1","userId":1,"amount":99.00,
                "paymentMethod":"ALIPAY","transactionNo":"TXN1","timestamp":{timestamp},"eventId":"e-2"}}"#
        );
        for _ in 0..2 {
            shop.outside_text("PAYMENT_SUCCESS", "O1", &body);
            shop.settle_within(0).await;
        }
        let paid = shop.order(&order).await;
        assert_eq!((&paid["status"], &paid["payTime"]), (&json!("PAID"), &json!(paid_at)), "{paid}");
        let of_event = "SELECT COUNT(*) FROM message_process_log WHERE message_id = 'e-2' AND outcome = 0";
        assert_eq!((shop.count(of_event).await, shop.dead_letters().await), (1, 0));

        // What the payment role says of the same money makes no second payment of it.
        shop.queue(Group::Order).extend(own);
        shop.settle().await;
        assert_eq!(shop.count("SELECT COUNT(*) FROM message_record WHERE topic = 'PAID_ORDER_SUCCESS'").await, 1);
        assert_eq!((shop.outcome(&order).await.as_str(), shop.refunds(&order).await), ("SIGNED", vec![]));
        assert_eq!(shop.points(1).await, 99);
        shop.audit().await;
    }
}

/// A pay gateway in Python: numbers where ruyi writes texts, times without a zone, numbers of its own for its orders.
#[tokio::test]
async fn messages_of_a_pay_gateway_are_handled_once() {
    let mut shop = Shop::open().await;
    merchant(&shop, 9, json!({ "notifyUrl": "https://example.com/notify" })).await;
    let submit = r#"{"order_no":"PAY1","out_order_no":"MCH1","plugin_id":1,"plugin_type":"alipay_phone","money":10000,
        "product_id":"123","channel_id":1,"merchant_id":1,"tenant_id":1,"create_datetime":"2024-01-01 12:00:00"}"#;
    let notify = r#"{"order_id":"x","order_no":"PAY1","out_order_no":"MCH1","money":10000,"status":2,
        "notify_url":"https://example.com/notify","retry_count":0}"#;
    let day = r#"{"product_id":"123","channel_id":1,"tenant_id":1,"money":10000,"date":"2024-01-01",
        "statistics_type":"success","extra_arg":0}"#;
    for _ in 0..2 {
        for (topic, key, body) in
            [("CALLBACK_SUBMIT", "PAY1", submit), ("ORDER_NOTIFY", "PAY1", notify), ("DAY_STATISTICS", "d1", day)]
        {
            shop.outside_text(topic, key, body);
        }
        shop.settle_within(SOON_MS).await;
    }
    assert_eq!(told(&shop), [("2".to_owned(), json!(10_000), "MCH1".to_owned())]);
    assert_eq!(shop.count("SELECT CAST(SUM(success_count) AS SIGNED) FROM day_statistics").await, 1);
    // The payment is another system's.
    assert_eq!((ends(&shop, 1).await, ends(&shop, 3).await), (1, 0));
}

/// KEYS is a list between blanks, and old Go clients write a blank behind each. Databases do not agree on whether
/// blanks at the end of a text count.
async fn takes_blanks_for_nothing(mut shop: Shop) {
    let grant = json!({ "userId": "1001", "points": 5 });
    let known = "SELECT COUNT(*) FROM message_process_log WHERE consumer_group = 'points-consumer-group'";
    for keys in ["G1", "G1 ", "G1 X", " G1"] {
        shop.outside_text("POINTS_GRANT", keys, &grant.to_string());
        shop.settle_within(SOON_MS).await;
    }
    assert_eq!((shop.points(1001).await, shop.count(known).await), (5, 1));

    // The same of an eventId, as a property and in the body; small letters are others.
    for (id, balance, events) in [("E1", 10, 2), ("e1", 15, 3)] {
        for padded in [format!("{id} "), id.to_owned(), format!(" {id}")] {
            grant_known_as(&mut shop, "", &padded).await;
            shop.outside("POINTS_GRANT", &padded, "", &grant);
            shop.settle_within(SOON_MS).await;
        }
        assert_eq!((shop.points(1001).await, shop.count(known).await), (balance, events), "{id}");
    }
    assert_eq!((ends(&shop, 3).await, shop.parked().await), (0, 0));
}

#[tokio::test]
async fn blanks_around_a_name_make_no_other_event() {
    takes_blanks_for_nothing(Shop::open().await).await;
}

#[tokio::test]
async fn blanks_make_no_other_event_on_mariadb() {
    let Some(url) = mariadb_url().await else { return };
    takes_blanks_for_nothing(Shop::with(Setup { url: Some(url), ..Setup::default() }, 0).await).await;
}

/// Names and properties that no column holds: the message is a dead letter or handled, and those behind it go on.
async fn goes_on_behind_what_no_column_holds(mut shop: Shop) {
    let grant = json!({ "eventId": "g", "userId": "1001", "points": 5 }).to_string();
    let keys = format!("order-{0} {0} {0}", "4bf92f35-77b3-4da6-a3ce-929d0e0e4736");
    shop.outside_text("POINTS_GRANT", &keys, "no JSON at all");
    let long = [("note".to_owned(), "x".repeat(70_000))];
    shop.queue(Group::Points).last_mut().unwrap().properties.extend(long);
    // More than one packet of the server, where there is one that is asked over a network.
    shop.outside_text("POINTS_GRANT", "too-large", &json!({ "userId": "x".repeat(1_500_000) }).to_string());
    shop.outside_text("POINTS_GRANT", &"k".repeat(90), &grant);
    shop.settle_within(SOON_MS).await;
    let (_, points) = shop.request(axum::http::Method::GET, "/points/1001", None, None).await;
    assert_eq!((&points["balance"], ends(&shop, 3).await), (&Value::from(5), 2));
}

#[tokio::test]
async fn what_no_column_holds_stops_nobody() {
    goes_on_behind_what_no_column_holds(Shop::open().await).await;
}

/// SQLite takes whatever it is given; MariaDB refuses.
#[tokio::test]
async fn what_no_column_holds_stops_nobody_on_mariadb() {
    let Some(server) = MariaDb::start_with("--max-allowed-packet=1M") else { return };
    let url = server.create("ruyi").await;
    migrate::run(&url).await.unwrap();
    let setup = Setup { url: Some(url), ..Setup::default() };
    goes_on_behind_what_no_column_holds(Shop::with(setup, 0).await).await;
}

/// POINTS_GRANT of five points without an id in its body, with this property `eventId`.
async fn grant_known_as(shop: &mut Shop, keys: &str, event_id: &str) {
    shop.outside_text("POINTS_GRANT", keys, &json!({ "userId": "1001", "points": 5 }).to_string());
    let message = shop.queue(Group::Points).last_mut().unwrap();
    message.properties.push(("eventId".to_owned(), event_id.to_owned()));
    shop.settle_within(SOON_MS).await;
}

/// What is too long to be told apart by its beginning is told apart all the same.
#[tokio::test]
async fn long_ids_that_differ_late_are_two_letters() {
    let mut shop = Shop::open().await;
    let [one, other] = ["a", "b"].map(|end| format!("{}{end}", "e".repeat(96)));
    for id in [one.as_str(), &other, &one, &format!(" {other} ")] {
        grant_known_as(&mut shop, "7", id).await;
    }
    assert_eq!((ends(&shop, 3).await, shop.dead_letters().await), (2, 2));

    // Without an id they are known by their places: those of a topic with a long name as well.
    for _ in 0..2 {
        shop.outside_text("POINTS_GRANT", "7", "{}");
        shop.queue(Group::Points).last_mut().unwrap().queue.topic = "T".repeat(120);
        shop.settle_within(SOON_MS).await;
    }
    assert_eq!((ends(&shop, 3).await, shop.dead_letters().await), (4, 4));
}

#[tokio::test]
async fn long_keys_that_differ_late_are_two_keys() {
    let mut shop = Shop::open().await;
    for end in ["a", "b"] {
        let keys = format!("{}{end} second", "k".repeat(64));
        grant_known_as(&mut shop, &keys, end).await;
    }
    let keys = "SELECT COUNT(DISTINCT msg_key) FROM message_process_log WHERE topic = 'POINTS_GRANT' AND outcome = 0";
    assert_eq!(shop.count(keys).await, 2);
}

/// Events that the group knows, with a tag or properties that no column holds: handled at once, and after a retry.
async fn handles_known_events_that_no_column_holds(mut setup: Setup) {
    let bad = FailingHandler::default();
    setup.wrap = bad.setup().wrap;
    let mut shop = Shop::with(setup, 0).await;
    for (key, fails) in [("1", false), ("2", true)] {
        shop.outside_text("POINTS_GRANT", key, &json!({ "userId": "1001", "points": 5 }).to_string());
        shop.queue(Group::Points).last_mut().unwrap().tag = "t".repeat(100);
        let key = format!("{key}-properties");
        shop.outside_text("POINTS_GRANT", &key, &json!({ "userId": "1001", "points": 7 }).to_string());
        let properties = (0..70).map(|number| (format!("note{number}"), "é".repeat(500)));
        shop.queue(Group::Points).last_mut().unwrap().properties.extend(properties);
        if fails {
            bad.set(Group::Points, &key, Fault::Error);
        }
        shop.settle_within(0).await;
    }
    let (_, points) = shop.request(axum::http::Method::GET, "/points/1001", None, None).await;
    assert_eq!((&points["balance"], shop.parked().await), (&Value::from(17), 1));
    bad.heal();
    shop.settle_within(SOON_MS).await;
    let (_, points) = shop.request(axum::http::Method::GET, "/points/1001", None, None).await;
    assert_eq!((&points["balance"], shop.parked().await, ends(&shop, 3).await), (&Value::from(24), 0, 0));
}

#[tokio::test]
async fn known_events_no_column_holds_are_handled_on_mariadb() {
    let Some(url) = mariadb_url().await else { return };
    handles_known_events_that_no_column_holds(Setup { url: Some(url), ..Setup::default() }).await;
}

#[tokio::test]
async fn known_events_no_column_holds_are_handled() {
    handles_known_events_that_no_column_holds(Setup::default()).await;
}
