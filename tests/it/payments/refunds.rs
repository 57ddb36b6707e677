//! Money that goes back while an order goes on: in parts, through the channel, once, and never more than was paid.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use ruyi::domain::event::Group;
use serde_json::{Value, json};

use crate::support::parties::{Act, Party, body, is_consistent, key, shop_with, signed};
use crate::support::serving::Serving;
use crate::support::shop::{Setup, Shop};

async fn refunded(serving: &Serving, id: &str, number: usize, status: &str) -> Value {
    let look = async {
        loop {
            let found = serving.get(&format!("/orders/{id}/refunds")).await;
            if found["refunds"][number]["status"] == status {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), look).await.unwrap_or_else(|_| panic!("{number} never is {status}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_go_back_through_the_channel_once() {
    let bank = Party::start("/refund", vec![], Act::Do).await;
    let serving = shop_with(&bank, &["delivery.timeout=10s"]).await;
    let id = signed(&serving).await;
    let path = format!("/orders/{id}/refund");
    let ask = async |number: &str, body: Value| {
        let request = serving.request(Method::POST, &path).header("idempotency-key", number).json(&body);
        serving.reply(request).await
    };

    // Refused for good: it may be asked for again, under another number.
    bank.script(&[Act::Say(422, r#"{"refused": true, "reason": "the card is closed"}"#)]);
    let (status, _, first) = ask("one", json!({"amount": 9.9, "reason": "broken"})).await;
    assert_eq!((status, &first["status"], &first["amount"]), (StatusCode::ACCEPTED, &json!("REQUESTED"), &json!(9.9)));
    let seen = refunded(&serving, &id, 0, "FAILED").await;
    assert!(seen["refunds"][0]["error"].as_str().unwrap().contains("the card is closed"), "{seen}");
    assert_eq!((&seen["refundedAmount"], &seen["refundableAmount"]), (&json!(0), &json!(59.8)));

    // Fails twice, and works; asked for twice, it goes back once.
    bank.script(&[Act::Say(500, ""), Act::Say(503, "")]);
    let (_, _, second) = ask("two", json!({"amount": 0.1, "reason": "broken"})).await;
    let (status, _, again) = ask("two", json!({"amount": 0.1, "reason": "broken"})).await;
    assert_eq!((status, &again["refundId"]), (StatusCode::ACCEPTED, &second["refundId"]));
    let other = ask("two", json!({"amount": 0.2, "reason": "broken"})).await;
    assert_eq!(other.0, StatusCode::UNPROCESSABLE_ENTITY, "{}", other.2);
    let seen = refunded(&serving, &id, 1, "SUCCESS").await;
    assert_eq!((&seen["refundedAmount"], &seen["refundableAmount"]), (&json!(0.1), &json!(59.7)));

    // The rest of it, and no more.
    assert_eq!(ask("three", json!({"amount": 59.71})).await.0, StatusCode::CONFLICT);
    assert_eq!(ask("four", json!({"reason": "all of it"})).await.2["amount"], json!(59.7));
    let seen = refunded(&serving, &id, 2, "SUCCESS").await;
    assert_eq!((&seen["refundedAmount"], &seen["refundableAmount"]), (&json!(59.8), &json!(0)));
    assert_eq!(ask("five", json!({})).await.0, StatusCode::CONFLICT);

    is_consistent(&serving).await;
    let asked = bank.asked();
    assert!(asked.iter().all(|seen| body(seen)["refundId"] == key(seen)), "{asked:?}");
    let mut amounts: Vec<Value> = asked.iter().map(|seen| body(seen)["amount"].clone()).collect();
    assert!(amounts.len() >= 5, "{amounts:?}");
    amounts.dedup();
    assert_eq!(amounts, [9.9, 0.1, 59.7]);
    assert_eq!(bank.done().len(), 2);
    // The order went on, its points went back with the money.
    let order = serving.get(&format!("/orders/{id}")).await;
    assert_eq!((&order["status"], &order["outcome"]), (&json!("SIGNED"), &json!("SIGNED")));
    assert_eq!(serving.get("/points/7").await["balance"], 0);
    assert_eq!(serving.get(&format!("/payments/{id}")).await["status"], "SUCCESS");
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_go_back_is_refused() {
    let serving = Serving::start(&[]).await;
    serving.fill().await;
    let order = json!({"userId": "7", "items": [{"sku": "A1", "quantity": 1}], "holdSeconds": 3600});
    let (held, canceled) = (serving.place(&order).await, serving.place(&order).await);
    let ask = async |id: &str, body: Value| {
        let (status, kind, answer) = serving.send(Method::POST, &format!("/orders/{id}/refund"), &body).await;
        assert_eq!(kind, "application/problem+json", "{answer}");
        status.as_u16()
    };
    assert_eq!(ask("1", json!({})).await, 404);
    assert_eq!(ask(&held, json!({"amount": 1})).await, 409, "not paid yet");
    serving.fine(Method::POST, &format!("/orders/{canceled}/cancel"), &json!({})).await;
    assert_eq!(ask(&canceled, json!({"amount": 1})).await, 409, "canceled");
    serving.until(&format!("/payments/{held}"), "status", "PENDING").await;
    serving.fine(Method::POST, &format!("/payments/{held}/pay"), &json!({})).await;
    serving.until(&format!("/orders/{held}"), "status", "PAID").await;
    for wrong in [
        json!({"amount": 0}),
        json!({"amount": -1}),
        json!({"amount": 0.001}),
        json!({"amount": "x"}),
        json!({"reason": "x".repeat(201)}),
        json!({"refundNo": " a"}),
        json!({"refundNo": ""}),
        json!({"money": 1}),
    ] {
        assert_eq!(ask(&held, wrong.clone()).await, 422, "{wrong}");
    }
    // The warehouse does not have it yet: all of its money is a cancel.
    assert_eq!(ask(&held, json!({})).await, 409);
    assert_eq!(ask(&held, json!({"amount": 59.81})).await, 409);
    assert_eq!(ask(&held, json!({"amount": 59.8})).await, 409);
    serving.stop().await;
}

/// An order that is paid and waits before the warehouse gets it.
async fn waiting(shop: &mut Shop) -> String {
    shop.sell("TEA", 2_990, 100).await;
    let order = shop.place_order(1, &[("TEA", 2)], json!({"holdSeconds": 600})).await;
    shop.settle_within(0).await;
    assert_eq!(shop.pay(&order, json!({})).await, StatusCode::ACCEPTED);
    shop.settle_within(0).await;
    assert_eq!(shop.status(&order).await, "PAID");
    order
}

async fn part_and_cancel(overtaken: bool) {
    let mut shop = Shop::with(Setup::default(), 0).await;
    let order = waiting(&mut shop).await;
    assert_eq!(shop.refund(&order, "a", 1_234).await.0, StatusCode::ACCEPTED);
    assert_eq!(shop.cancel(&order).await, StatusCode::OK);
    assert_eq!(shop.refund(&order, "b", 1).await.0, StatusCode::CONFLICT);
    shop.relay(0.0).await;
    assert_eq!(shop.queue(Group::Payment).len(), 3);
    if overtaken {
        shop.queue(Group::Payment).reverse();
    }
    shop.settle().await;
    let done = |kind: &str| (kind.to_owned(), "SUCCESS".to_owned());
    let wanted = if overtaken { vec![done("ORDER")] } else { vec![done("ORDER"), done("PART")] };
    assert_eq!((shop.outcome(&order).await.as_str(), shop.refunds(&order).await), ("REFUNDED", wanted));
    let seen = shop.refunds_of(&order).await;
    assert_eq!((&seen["refundedAmount"], &seen["totalAmount"]), (&json!(59.8), &json!(59.8)), "{seen}");
    let part = if overtaken { "FAILED" } else { "SUCCESS" };
    assert_eq!((&seen["refunds"][0]["status"], &seen["refundableAmount"]), (&json!(part), &json!(0)), "{seen}");
    assert_eq!((shop.points(1).await, shop.stock("TEA").await), (0, (100, 0, 0)));
    shop.audit().await;
}

#[tokio::test]
async fn a_part_and_then_the_rest_with_the_cancel() {
    part_and_cancel(false).await;
}

#[tokio::test]
async fn part_overtaken_by_the_cancel_returns_with_the_rest() {
    part_and_cancel(true).await;
}

/// The news of refunds comes before that of the payment, twice and in reverse: the points end the same.
#[tokio::test]
async fn points_follow_the_money_in_any_order() {
    let mut shop = Shop::with(Setup::default(), 0).await;
    shop.manner.times = 2;
    shop.sell("TEA", 1_001, 100).await;
    let order = shop.place_order(1, &[("TEA", 3)], json!({})).await;
    shop.settle_within(0).await;
    shop.pay(&order, json!({})).await;
    // What would grant the points is held back.
    let mut held = Vec::new();
    while shop.status(&order).await != "SIGNED" {
        shop.relay(0.0).await;
        held.append(shop.queue(Group::Points));
        if !shop.turn().await {
            shop.clock.advance_ms(500);
        }
    }
    for (number, minor) in [("a", 1), ("b", 1_000), ("c", 999)] {
        assert_eq!(shop.refund(&order, number, minor).await.0, StatusCode::ACCEPTED);
    }
    shop.settle().await;
    assert_eq!(shop.points(1).await, 0);
    assert!(!held.is_empty());
    shop.queue(Group::Points).append(&mut held);
    shop.settle().await;
    // 30 points for 30.03; 20.00 went back: 19 of them.
    assert_eq!(shop.points(1).await, 11);
    shop.audit().await;
    assert_eq!(shop.refund(&order, "d", 1_003).await.0, StatusCode::ACCEPTED);
    shop.settle().await;
    assert_eq!(shop.points(1).await, 0);
    shop.audit().await;
}
