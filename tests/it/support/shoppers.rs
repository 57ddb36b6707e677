//! What the shoppers do.

use reqwest::{Method, StatusCode};
use ruyi::clock::Clock;
use ruyi::delivery::sign;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::support::crashed_process::{CrashedProcess, eventually};

/// What is left in the end.
#[derive(Debug, PartialEq)]
pub struct Totals {
    stock: Vec<Value>,
    points: Vec<Value>,
    coupons: Vec<Value>,
}

/// Products and stock.
pub async fn fill(process: &CrashedProcess) {
    for (sku, price, available) in [("A1", json!(59.8), 100_000), ("B2", json!(3), 1)] {
        process.send(Method::PUT, &format!("/products/{sku}"), &json!({"name": "Tea", "price": price})).await;
        process.send(Method::PUT, &format!("/stock/{sku}"), &json!({"available": available})).await;
    }
}

/// Places an order, however often that takes; its id.
pub async fn place(process: &CrashedProcess, key: &str, order: &Value) -> String {
    let body = order.to_string();
    let (status, answer) =
        process.request(Method::POST, "/orders", &[("idempotency-key", key)], Some(body.as_bytes())).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    answer["orderId"].as_str().unwrap().to_owned()
}

/// Pays an order as soon as that is possible.
pub async fn pay(process: &CrashedProcess, order: &str) {
    pay_so(process, order, &json!({})).await;
}

async fn pay_so(process: &CrashedProcess, order: &str, how: &Value) {
    let body = how.to_string();
    let path = format!("/payments/{order}/pay");
    eventually("the payment is open", || async {
        match process.request(Method::POST, &path, &[], Some(body.as_bytes())).await {
            (StatusCode::NOT_FOUND, _) => None,
            (StatusCode::ACCEPTED, _) => Some(()),
            other => panic!("{other:?}"),
        }
    })
    .await;
}

async fn reaches(process: &CrashedProcess, order: &str, field: &str, value: &str) -> Value {
    let path = format!("/orders/{order}");
    eventually(&format!("order {order}: {field} {value}\n{}", process.logged()), || async {
        let found = process.get(&path).await;
        (found[field] == value).then_some(found)
    })
    .await
}

pub async fn ends(process: &CrashedProcess, order: &str, outcome: &str) {
    reaches(process, order, "outcome", outcome).await;
}

/// The warehouse's word, before its time.
async fn early_report(process: &CrashedProcess, order: &str) {
    let body = json!({"orderId": order, "event": "ORDER_SIGNED", "occurredAt": 1}).to_string();
    let now_s = Clock::system().now_ms() / 1_000;
    let signature = sign::sign(&SecretString::from("sandbox"), now_s, body.as_bytes());
    let now_s = now_s.to_string();
    let headers = [(sign::TIMESTAMP_HEADER, now_s.as_str()), (sign::SIGNATURE_HEADER, signature.as_str())];
    let (status, answer) = process.request(Method::POST, "/fulfil/callback", &headers, Some(body.as_bytes())).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

fn one(user: &str, sku: &str, quantity: i64, more: Value) -> Value {
    let mut order = json!({"userId": user, "items": [{"sku": sku, "quantity": quantity}]});
    order.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    order
}

/// Gives a user a coupon, however often that takes; the field of an order that is to have it.
async fn coupon(process: &CrashedProcess, user: &str) -> Value {
    let (key, body) = (format!("coupon-{user}"), json!({"userId": user}).to_string());
    let headers = [("idempotency-key", key.as_str())];
    let (status, answer) = process.request(Method::POST, "/coupons/ONE/issue", &headers, Some(body.as_bytes())).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    json!({"couponId": answer["couponId"]})
}

/// An order of every kind, side by side.
pub async fn script(process: &CrashedProcess) -> Totals {
    fill(process).await;
    let template = json!({"name": "One off", "kind": "AMOUNT", "amountOff": 1, "stock": 3,
        "validUntil": "2099-01-01T00:00:00Z"});
    process.send(Method::PUT, "/coupons/ONE", &template).await;
    let bought = |key: &'static str, quantity| async move {
        let order = place(process, key, &one("1", "A1", quantity, json!({}))).await;
        pay(process, &order).await;
        ends(process, &order, "SIGNED").await;
    };
    let canceled = async {
        let order = place(process, "canceled", &one("2", "A1", 1, coupon(process, "2").await)).await;
        process.send(Method::POST, &format!("/orders/{order}/cancel"), &json!({"reason": "changed my mind"})).await;
        ends(process, &order, "CANCELED").await;
    };
    let refunded = async {
        let order = place(process, "refunded", &one("3", "A1", 1, json!({"holdSeconds": 3_600}))).await;
        pay(process, &order).await;
        reaches(process, &order, "status", "PAID").await;
        process.send(Method::POST, &format!("/orders/{order}/cancel"), &json!({})).await;
        ends(process, &order, "REFUNDED").await;
    };
    let timed_out = async {
        let order = place(process, "timed-out", &one("4", "A1", 1, json!({"payWithinSeconds": 1}))).await;
        ends(process, &order, "CANCELED").await;
    };
    let sold_out = async {
        let order = place(process, "sold-out", &one("5", "B2", 2, json!({}))).await;
        ends(process, &order, "CANCELED").await;
    };
    let early = async {
        let order = place(process, "early", &one("6", "A1", 1, coupon(process, "6").await)).await;
        early_report(process, &order).await;
        let parked = format!("/payments/{order}");
        eventually("it is open", || async {
            (process.request(Method::GET, &parked, &[], None).await.0 == StatusCode::OK).then_some(())
        })
        .await;
        pay(process, &order).await;
        ends(process, &order, "SIGNED").await;
    };
    let not_sent = async {
        let order = place(process, "not-sent", &one("19", "A1", 1, json!({"address": "sandbox:refuse-later"}))).await;
        pay(process, &order).await;
        ends(process, &order, "REFUNDED").await;
    };
    let elsewhere = async {
        let order = place(process, "elsewhere", &one("20", "A1", 1, json!({"address": "sandbox:refuse"}))).await;
        let body = json!({"address": "5 Bell Street"});
        process.send(Method::PUT, &format!("/orders/{order}/address"), &body).await;
        pay(process, &order).await;
        ends(process, &order, "SIGNED").await;
    };
    let gives_back = async {
        let order = place(process, "gives-back", &one("8", "A1", 1, json!({}))).await;
        pay(process, &order).await;
        ends(process, &order, "SIGNED").await;
        for (number, amount) in [("r1", json!(9.8)), ("r2", json!(0.01)), ("r3", json!(49.99))] {
            let body = json!({"amount": amount, "reason": "broken"}).to_string();
            let path = format!("/orders/{order}/refund");
            let headers = [("idempotency-key", number)];
            let (status, answer) = process.request(Method::POST, &path, &headers, Some(body.as_bytes())).await;
            assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
        }
        let path = format!("/orders/{order}/refunds");
        eventually("the money is back", || async {
            (process.get(&path).await["refundedAmount"] == json!(59.8)).then_some(())
        })
        .await;
    };
    let unheard = async {
        let order = place(process, "unheard", &one("21", "A1", 1, json!({}))).await;
        pay_so(process, &order, &json!({"sandbox": {"silent": true}})).await;
        ends(process, &order, "SIGNED").await;
    };
    let of_merchant = async {
        let accepts = json!([{"productId": "h5", "channelId": "sandbox"}]);
        let merchant = json!({"name": "Tea House", "accepts": accepts});
        process.send(Method::PUT, "/merchants/9", &merchant).await;
        let wish = json!({"merchantId": "9", "outOrderNo": "M-1", "amount": 59.8, "productId": "h5",
            "channelId": "sandbox"});
        eventually("the merchant is known, and its payment open", || async {
            let body = wish.to_string();
            match process.request(Method::POST, "/payments", &[], Some(body.as_bytes())).await {
                (StatusCode::CREATED, _) => Some(()),
                (StatusCode::NOT_FOUND, _) => None,
                other => panic!("{other:?}"),
            }
        })
        .await;
        let path = "/merchants/9/payments/M-1";
        eventually("it is paid", || async { (process.get(path).await["status"] == "SUCCESS").then_some(()) }).await;
        let headers = [("idempotency-key", "r1")];
        let (status, answer) = process.request(Method::POST, &format!("{path}/refund"), &headers, Some(b"{}")).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
        eventually("it is refunded", || async { (process.get(path).await["status"] == "REFUNDED").then_some(()) })
            .await;
    };
    tokio::join!(
        of_merchant,
        unheard,
        gives_back,
        not_sent,
        elsewhere,
        bought("bought-1", 1),
        bought("bought-2", 2),
        canceled,
        refunded,
        timed_out,
        sold_out,
        early
    );
    process.send(Method::PUT, "/contacts/1", &json!({"phone": "+8613800138000", "language": "en"})).await;
    // The order was signed, and so its points are on their way.
    let spend = json!({"points": 10}).to_string();
    eventually("there are points", || async {
        let headers = [("idempotency-key", "spend-1")];
        let answer = process.request(Method::POST, "/points/1/spend", &headers, Some(spend.as_bytes())).await;
        match answer.0 {
            StatusCode::CREATED => Some(()),
            StatusCode::CONFLICT => None,
            _ => panic!("{answer:?}"),
        }
    })
    .await;
    // What has no end that an order shows: stock and points follow.
    process.audit().await;
    let mut totals = Totals { stock: vec![], points: vec![], coupons: vec![] };
    for sku in ["A1", "B2"] {
        totals.stock.push(process.get(&format!("/stock/{sku}")).await);
    }
    for user in [1, 2, 3, 4, 5, 6, 8, 19, 20, 21] {
        totals.points.push(process.get(&format!("/points/{user}")).await["balance"].clone());
    }
    for user in [2, 6] {
        let page = process.get(&format!("/coupons?userId={user}")).await;
        totals.coupons.extend(page["items"].as_array().unwrap().iter().map(|one| one["state"].clone()));
    }
    assert_eq!(totals.coupons, ["AVAILABLE", "USED"].map(Value::from));
    assert_eq!(totals.stock[0], json!({"sku": "A1", "available": 99_993, "frozen": 0, "sold": 7}));
    assert_eq!(totals.points, [168, 0, 0, 0, 0, 58, 0, 0, 59, 59].map(Value::from));
    totals
}

/// One round of one user; the pieces that were sold.
pub async fn shop_at_random(process: &CrashedProcess, user: u64, round: u64) -> u64 {
    let user_id = (user + 1).to_string();
    let key = format!("{user}-{round}");
    let order = place(process, &key, &one(&user_id, "A1", 2, json!({"payWithinSeconds": 600}))).await;
    match (user + round) % 4 {
        0 => {
            process.send(Method::POST, &format!("/orders/{order}/cancel"), &json!({})).await;
            ends(process, &order, "CANCELED").await;
            0
        }
        _ => {
            pay(process, &order).await;
            ends(process, &order, "SIGNED").await;
            2
        }
    }
}
