//! Points: spent, taken back after they were spent, and granted from outside.

use axum::http::{Method, StatusCode};
use bytes::Bytes;
use ruyi::domain::event::{Group, Kind};
use ruyi::mq::message::{Incoming, QueueId};
use serde_json::{Value, json};

use crate::support::shop::Shop;

const USER: i64 = 1001;
const SOON_MS: i64 = 60_000;

async fn spend(shop: &Shop, key: Option<&str>, body: Value) -> (StatusCode, Value) {
    shop.insist(Method::POST, &format!("/points/{USER}/spend"), key, Some(body)).await
}

async fn standing(shop: &Shop) -> (i64, i64) {
    let (_, points) = shop.request(Method::GET, &format!("/points/{USER}"), None, None).await;
    (points["balance"].as_i64().unwrap(), points["shortfall"].as_i64().unwrap())
}

/// Paid, its points spent, and then canceled: what is missing is owed, and the next order pays it back first.
#[tokio::test]
async fn points_that_were_spent_are_owed() {
    let mut shop = Shop::open().await;
    shop.sell("TEA", 2_990, 10).await;
    let paid = async |shop: &mut Shop, more: Value| {
        let order = shop.place_order(USER, &[("TEA", 2)], more).await;
        shop.settle_within(SOON_MS).await;
        shop.pay(&order, json!({})).await;
        shop.settle_within(SOON_MS).await;
        order
    };
    let order = paid(&mut shop, json!({ "holdSeconds": 3_600 })).await;
    assert_eq!(standing(&shop).await, (59, 0));
    for _ in 0..2 {
        let (status, spent) = spend(&shop, Some("mug"), json!({ "points": 40, "reason": "a mug" })).await;
        assert_eq!((status, &spent["balance"], &spent["points"]), (StatusCode::CREATED, &json!(19), &json!(40)));
    }
    // The book is in order of time.
    shop.clock.advance_ms(1);
    assert_eq!(shop.cancel(&order).await, StatusCode::OK);
    shop.settle().await;
    assert_eq!(shop.outcome(&order).await, "REFUNDED");
    assert_eq!(standing(&shop).await, (0, 40));
    let (status, problem) = spend(&shop, Some("cup"), json!({ "points": 1 })).await;
    assert_eq!((status, &problem["type"]), (StatusCode::CONFLICT, &json!("urn:ruyi:problem:too-few-points")));
    shop.audit().await;
    paid(&mut shop, json!({})).await;
    shop.settle().await;
    assert_eq!(standing(&shop).await, (19, 0));
    shop.audit().await;
    let (_, page) = shop.request(Method::GET, &format!("/points/{USER}/records?limit=3"), None, None).await;
    let seen: Vec<_> = page["items"].as_array().unwrap().iter().map(|one| (&one["kind"], &one["points"])).collect();
    let wanted = [("GRANT", 59), ("REVERSE", -59), ("SPEND", -40)].map(|(kind, points)| (json!(kind), json!(points)));
    assert_eq!(seen, wanted.iter().map(|(kind, points)| (kind, points)).collect::<Vec<_>>());
    let path = format!("/points/{USER}/records?limit=3&before={}", page["next"].as_str().unwrap());
    let (_, last) = shop.request(Method::GET, &path, None, None).await;
    assert_eq!((&last["items"][0]["orderId"], &last["next"]), (&json!(order), &Value::Null));
}

#[tokio::test]
async fn what_cannot_be_spent_is_refused() {
    let shop = Shop::open().await;
    for (key, body, status) in [
        (None, json!({ "points": 1 }), StatusCode::BAD_REQUEST),
        (Some("k"), json!({ "points": 0 }), StatusCode::UNPROCESSABLE_ENTITY),
        (Some("k"), json!({ "points": -5 }), StatusCode::UNPROCESSABLE_ENTITY),
        (Some("k"), json!({ "points": 1, "reason": "x".repeat(201) }), StatusCode::UNPROCESSABLE_ENTITY),
        (Some("k"), json!({ "points": 1 }), StatusCode::CONFLICT),
    ] {
        assert_eq!(spend(&shop, key, body.clone()).await.0, status, "{body}");
    }
    for before in ["x", "1-2", "1-2-3-4"] {
        let path = format!("/points/1/records?before={before}");
        assert_eq!(shop.request(Method::GET, &path, None, None).await.0, StatusCode::BAD_REQUEST);
    }
    assert_eq!(shop.count("SELECT COUNT(*) FROM points_record").await, 0);
}

fn grant(event_id: &str, body: &Value, offset: i64) -> Incoming {
    let mut body = body.clone();
    body["eventId"] = json!(event_id);
    Incoming {
        queue: QueueId { topic: Kind::PointsGrant.name().to_owned(), broker: "outside".to_owned(), queue: 0 },
        offset,
        tag: String::new(),
        key: "7".to_owned(),
        body: Bytes::from(body.to_string()),
        unreadable: None,
        properties: vec![],
        born_ms: 0,
        stored_ms: 0,
    }
}

/// Each event of another system counts once, also when the inbox has forgotten it.
#[tokio::test]
async fn grants_from_outside_count_once() {
    let mut shop = Shop::open().await;
    let body = json!({ "userId": USER, "orderId": 7, "points": 25 });
    let deliver = async |shop: &mut Shop, messages: Vec<Incoming>| {
        shop.queue(Group::Points).extend(messages);
        shop.deliver(Group::Points, usize::MAX).await;
    };
    deliver(&mut shop, vec![grant("a", &body, 1), grant("a", &body, 2), grant("b", &body, 3)]).await;
    deliver(&mut shop, vec![grant("b", &body, 4)]).await;
    assert_eq!(standing(&shop).await, (50, 0));
    let mut conn = shop.db.read().await.unwrap();
    ruyi::db::sql::execute(&mut conn, "DELETE FROM message_process_log", vec![]).await.unwrap();
    drop(conn);
    deliver(&mut shop, vec![grant("a", &body, 5)]).await;
    assert_eq!(standing(&shop).await, (50, 0));
    let (_, page) = shop.request(Method::GET, &format!("/points/{USER}/records"), None, None).await;
    assert_eq!((&page["items"][0]["kind"], &page["items"][0]["orderId"]), (&json!("GIFT"), &json!("7")));
    shop.audit().await;
    for points in [json!(0), json!(-1), json!(1_000_000_001_i64)] {
        deliver(&mut shop, vec![grant(&format!("bad{points}"), &json!({ "userId": USER, "points": points }), 6)]).await;
    }
    assert_eq!((standing(&shop).await, shop.dead_letters().await), ((50, 0), 3));
}
