//! What the warehouse may say and do: refusals by its answer, by call back and by message; late, twice, out of order;
//! and addresses that change while it is being told.

use std::time::Duration;

use axum::http::StatusCode;
use reqwest::Method;
use ruyi::domain::event::{Group, Kind};
use ruyi::mq::message::{Incoming, QueueId};
use serde_json::json;

use crate::support::parties::{Act, LOST, Party, WRONGS, body, impatient, is_consistent, key, scripts};
use crate::support::serving::Serving;
use crate::support::shop::Shop;

pub(super) const SOON_MS: i64 = 60_000;

/// A no to the order.
const NO: Act = Act::Say(422, r#"{"refused": true, "reason": "no road leads there"}"#);

/// A warehouse, and a shop that hands its orders over to it.
async fn with_warehouse(scripts: Vec<Vec<Act>>, then: Act) -> (Party, Serving) {
    let warehouse = Party::start("/orders", scripts, then).await;
    let serving = impatient(&[format!("warehouse.endpoint={}", warehouse.url(""))]).await;
    (warehouse, serving)
}

/// An order of one A1 that is paid; its id.
async fn paid(serving: &Serving) -> String {
    let id = serving.place(&json!({"userId": "7", "items": [{"sku": "A1", "quantity": 1}], "address": "there"})).await;
    serving.until(&format!("/payments/{id}"), "status", "PENDING").await;
    serving.fine(Method::POST, &format!("/payments/{id}/pay"), &json!({})).await;
    id
}

async fn report(serving: &Serving, id: &str, event: &str) -> StatusCode {
    let body = json!({"orderId": id, "event": event, "occurredAt": 1, "reason": "the roof fell in"}).to_string();
    let call = serving.signed("/fulfil/callback", "sandbox", serving.now_s(), &body);
    serving.reply(call.header("content-type", "application/json")).await.0
}

/// All of the money is back, once; the stock too, and the user knows why.
async fn is_refunded(serving: &Serving, id: &str, reason: &str) {
    let order = serving.until(&format!("/orders/{id}"), "outcome", "REFUNDED").await;
    assert_eq!((&order["cancelType"], &order["cancelReason"]), (&json!("WAREHOUSE"), &json!(reason)));
    serving.settled().await;
    let refunds = serving.get(&format!("/orders/{id}/refunds")).await;
    assert_eq!(refunds["refunds"].as_array().unwrap().len(), 1, "{refunds}");
    assert_eq!(refunds["refundedAmount"], json!(59.8));
    assert_eq!(serving.get("/stock/A1").await, json!({"sku": "A1", "available": 1_000, "frozen": 0, "sold": 0}));
    let told = serving.get("/notifications?userId=7").await;
    let canceled = told["items"].as_array().unwrap().iter().find(|one| one["template"] == "ORDER_CANCELED").unwrap();
    assert_eq!(canceled["params"], json!({"by": "WAREHOUSE", "reason": reason}));
    assert_eq!(serving.get("/points/7").await["balance"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_refuses_the_order() {
    // Whatever came before it, also a no of which only the head came.
    let acts: Vec<Act> = WRONGS.into_iter().chain(LOST).filter(|act| *act != Act::Twice).collect();
    let (warehouse, serving) = with_warehouse(vec![acts], NO).await;
    let id = paid(&serving).await;
    is_refunded(&serving, &id, "no road leads there").await;
    warehouse.is_asked_for(1);
    let asked = warehouse.asked();
    assert!(asked.iter().all(|seen| key(seen) == id && body(seen)["address"] == "there"), "{asked:?}");
    // The warehouse says it again, by call back, and then the contrary.
    assert_eq!(report(&serving, &id, "REFUSED").await, StatusCode::OK);
    assert_eq!(report(&serving, &id, "ORDER_FULFILL_REFUSED").await, StatusCode::OK);
    assert_eq!(serving.number("SELECT COUNT(*) FROM message_record WHERE topic = 'ORDER_FULFILL_REFUSED'").await, 1);
    // Nobody is to be told of a call that was answered in order.
    assert_eq!(serving.number("SELECT COUNT(*) FROM delivery WHERE status = 3 AND kind = 3").await, 1);
    serving.stop().await;
}

/// Its steps are reported as soon as it has the order, whatever it has answered, each twice at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_handed_over_once() {
    let scripts = scripts();
    let count = scripts.len();
    let (warehouse, serving) = with_warehouse(scripts, Act::Do).await;
    let mut orders = Vec::new();
    for _ in 0..count {
        orders.push(paid(&serving).await);
    }
    warehouse.has_done(count).await;
    for id in &orders {
        for step in ["ORDER_FULFILL_SUCCESS", "ORDER_OUT_STOCK", "ORDER_DELIVERY", "ORDER_SIGNED"] {
            let both = tokio::join!(report(&serving, id, step), report(&serving, id, step));
            assert_eq!(both, (StatusCode::OK, StatusCode::OK));
        }
    }
    for id in &orders {
        serving.until(&format!("/orders/{id}"), "status", "SIGNED").await;
    }
    is_consistent(&serving).await;
    warehouse.is_asked_for(count);
    assert_eq!(warehouse.keys(), orders.into_iter().collect());
    let steps = "SELECT COUNT(*) FROM message_record WHERE topic IN \
                 ('ORDER_FULFILL_SUCCESS', 'ORDER_OUT_STOCK', 'ORDER_DELIVERY', 'ORDER_SIGNED')";
    assert_eq!(serving.number(steps).await, i64::try_from(4 * count).unwrap());
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_no_to_the_order_cancels_it() {
    for status in [409, 422, 401, 404] {
        // The call is wrong, not the order.
        let (_, serving) = with_warehouse(vec![], Act::Say(status, r#"{"refused": false}"#)).await;
        let id = paid(&serving).await;
        serving.until(&format!("/orders/{id}"), "status", "PAID").await;
        let refused = async {
            while serving.number("SELECT COUNT(*) FROM delivery WHERE kind = 3 AND status = 3").await == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), refused).await.unwrap();
        serving.settled().await;
        assert_eq!(serving.get(&format!("/orders/{id}")).await["status"], "PAID", "{status}");
        serving.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_back_refuses_the_order() {
    let (warehouse, serving) = with_warehouse(vec![], Act::Do).await;
    let id = paid(&serving).await;
    warehouse.has_done(1).await;
    let (one, two) = tokio::join!(report(&serving, &id, "REFUSED"), report(&serving, &id, "REFUSED"));
    assert_eq!((one, two), (StatusCode::OK, StatusCode::OK));
    is_refunded(&serving, &id, "the roof fell in").await;
    serving.stop().await;
}

/// A paid order that was handed over, in a shop that is driven by hand.
pub(super) async fn handed_over(shop: &mut Shop) -> String {
    shop.sell("TEA", 2_990, 5).await;
    let order = shop.place_order(7, &[("TEA", 2)], json!({"address": "there"})).await;
    shop.settle_within(1_000).await;
    shop.pay(&order, json!({})).await;
    let handed = "SELECT COUNT(*) FROM orders WHERE handed_over = 1";
    while shop.count(handed).await == 0 {
        assert!(shop.turn().await || shop.make_calls(1).await.unwrap() > 0);
    }
    order
}

/// As the warehouse itself publishes it.
pub(super) fn message(kind: Kind, order: &str) -> Incoming {
    Incoming {
        queue: QueueId { topic: kind.name().to_owned(), broker: "outside".to_owned(), queue: 0 },
        offset: 0,
        tag: String::new(),
        key: order.to_owned(),
        body: json!({"orderId": order, "reason": "burnt"}).to_string().into(),
        unreadable: None,
        properties: vec![],
        born_ms: 0,
        stored_ms: 0,
    }
}

/// A refusal and a step of the parcel contradict each other: what comes first counts, the other is a dead letter.
#[tokio::test]
async fn of_a_refusal_and_a_step_the_first_counts() {
    for refused_first in [true, false] {
        let mut shop = Shop::open().await;
        let order = handed_over(&mut shop).await;
        let mut kinds = [Kind::OrderFulfillRefused, Kind::OrderFulfillSuccess];
        if !refused_first {
            kinds.reverse();
        }
        for kind in kinds {
            // Each of them twice.
            for _ in 0..2 {
                shop.queue(Group::Order).push(message(kind, &order));
                shop.deliver(Group::Order, usize::MAX).await;
            }
        }
        shop.settle_within(SOON_MS).await;
        let wanted = if refused_first { "REFUNDED" } else { "SIGNED" };
        assert_eq!(shop.outcome(&order).await, wanted);
        let dead = shop.rows("SELECT msg_key FROM message_record WHERE topic LIKE '%DLQ%'").await;
        assert!(!dead.is_empty() && dead.iter().all(|row| row[0] == order), "{dead:?}");
        let (stock, points) = if refused_first { ((5, 0, 0), 0) } else { ((3, 0, 2), 59) };
        assert_eq!((shop.stock("TEA").await, shop.points(7).await), (stock, points));
        assert_eq!(shop.violations().await, Vec::<String>::new());
    }
}

/// A refusal that is known before the payment waits for it; and a call that is still to be made is not made.
#[tokio::test]
async fn a_refusal_that_comes_early_waits() {
    let mut shop = Shop::open().await;
    shop.sell("TEA", 2_990, 5).await;
    let order = shop.place_order(7, &[("TEA", 2)], json!({})).await;
    shop.queue(Group::Order).push(message(Kind::OrderFulfillRefused, &order));
    shop.settle_within(1_000).await;
    assert_eq!((shop.status(&order).await, shop.parked().await), ("RESERVED".to_owned(), 1));
    shop.pay(&order, json!({})).await;
    shop.settle_within(SOON_MS).await;
    assert_eq!(shop.outcome(&order).await, "REFUNDED");
    shop.audit().await;
    assert_eq!(shop.stock("TEA").await, (5, 0, 0));
}

#[tokio::test]
async fn a_refused_order_is_not_offered_again() {
    let mut shop = Shop::open().await;
    shop.sell("TEA", 2_990, 5).await;
    let order = shop.place_order(7, &[("TEA", 2)], json!({"address": "there"})).await;
    shop.settle_within(1_000).await;
    shop.pay(&order, json!({})).await;
    let waiting = "SELECT COUNT(*) FROM delivery WHERE kind = 3 AND status = 0";
    // The payment's calls are made, the warehouse's is not.
    while shop.count(waiting).await == 0 {
        let mut did = shop.relay(0.0).await;
        for group in shop.groups() {
            did += shop.deliver(group, usize::MAX).await;
        }
        assert!(did > 0 || shop.make_calls(1).await.unwrap() > 0);
    }
    shop.queue(Group::Order).push(message(Kind::OrderFulfillRefused, &order));
    shop.deliver(Group::Order, usize::MAX).await;
    assert_eq!(shop.count("SELECT COUNT(*) FROM delivery WHERE kind = 3 AND status = 4").await, 1);
    shop.settle_within(SOON_MS).await;
    assert_eq!(shop.outcome(&order).await, "REFUNDED");
    assert_eq!(shop.count("SELECT COUNT(*) FROM delivery WHERE kind = 5").await, 0, "the warehouse never heard of it");
    shop.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_warehouse_gets_the_address_of_the_hand_over() {
    let (warehouse, serving) = with_warehouse(vec![], Act::Do).await;
    let order = json!({"userId": "7", "items": [{"sku": "A1", "quantity": 1}], "address": "there"});
    let id = serving.place(&order).await;
    let path = format!("/orders/{id}/address");
    serving.until(&format!("/payments/{id}"), "status", "PENDING").await;
    let version = serving.until(&format!("/orders/{id}"), "status", "RESERVED").await["version"].as_i64().unwrap();
    // Another version than the one that was read; then a change, repeated as if its answer had been lost.
    let stale = json!({"address": "nowhere", "version": version - 1});
    assert_eq!(serving.send(Method::PUT, &path, &stale).await.0, StatusCode::PRECONDITION_FAILED);
    for _ in 0..2 {
        let body = json!({"address": " 5 Bell Street", "version": version});
        let changed = serving.fine(Method::PUT, &path, &body).await;
        assert_eq!((&changed["address"], &changed["version"]), (&json!("5 Bell Street"), &json!(version + 1)));
    }
    let changes = serving.get(&format!("/orders/{id}/addresses")).await;
    assert_eq!(changes["items"].as_array().unwrap().len(), 1, "{changes}");
    let change = &changes["items"][0];
    assert_eq!((&change["before"], &change["after"]), (&json!("there"), &json!("5 Bell Street")));
    assert_eq!((&change["changedBy"], &change["version"]), (&json!("local"), &json!(version + 1)));
    assert_eq!(serving.get(&format!("/orders/{id}")).await["address"], "5 Bell Street");

    serving.fine(Method::POST, &format!("/payments/{id}/pay"), &json!({})).await;
    assert_eq!(body(&warehouse.has_done(1).await[0])["address"], "5 Bell Street");
    // From now on it is too late.
    let late = serving.send(Method::PUT, &path, &json!({"address": "elsewhere"})).await;
    assert_eq!(late.0, StatusCode::CONFLICT, "{late:?}");
    for (body, status) in [(json!({"address": " "}), 422), (json!({"address": "x".repeat(501)}), 422), (json!({}), 422)]
    {
        assert_eq!(serving.send(Method::PUT, &path, &body).await.0.as_u16(), status, "{body}");
    }
    let unknown = serving.send(Method::PUT, "/orders/77/address", &json!({"address": "x"})).await;
    assert_eq!(unknown.0, StatusCode::NOT_FOUND);
    serving.stop().await;
}

/// What triggers the fulfilment was written with the old address.
#[tokio::test]
async fn an_order_on_hold_goes_to_its_new_address() {
    let mut shop = Shop::open().await;
    shop.sell("TEA", 2_990, 5).await;
    let more = json!({"address": "sandbox:refuse", "holdSeconds": 600});
    let order = shop.place_order(7, &[("TEA", 2)], more).await;
    shop.settle_within(1_000).await;
    shop.pay(&order, json!({})).await;
    shop.settle_within(SOON_MS).await;
    assert_eq!(shop.status(&order).await, "PAID");
    assert_eq!(shop.send_to(&order, "5 Bell Street").await, StatusCode::OK);
    shop.settle().await;
    assert_eq!(shop.outcome(&order).await, "SIGNED");
    assert_eq!(shop.send_to(&order, "6 Bell Street").await, StatusCode::CONFLICT);
    shop.audit().await;
}

/// The change and the hand-over race: the warehouse is told the address that the order has in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_and_the_hand_over_have_one_winner() {
    let (warehouse, serving) = with_warehouse(vec![], Act::Do).await;
    let mut orders = Vec::new();
    for _ in 0..8 {
        orders.push(paid(&serving).await);
    }
    let change = json!({"address": "5 Bell Street"});
    let mut answers = Vec::new();
    for id in &orders {
        answers.push(serving.send(Method::PUT, &format!("/orders/{id}/address"), &change).await.0);
    }
    let done = warehouse.has_done(orders.len()).await;
    for (id, answer) in orders.iter().zip(answers) {
        let told = body(done.iter().find(|seen| key(seen) == id).unwrap());
        let wanted = if answer == StatusCode::OK { "5 Bell Street" } else { "there" };
        assert!(matches!(answer, StatusCode::OK | StatusCode::CONFLICT), "{answer}");
        assert_eq!(told["address"], wanted, "{id} {answer}");
        assert_eq!(serving.get(&format!("/orders/{id}")).await["address"], wanted);
    }
    serving.stop().await;
}
