//! What the API refuses: with the right status, a problem document that helps, and nothing written.

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::role_books::execute;
use crate::support::serving::{Reply, Serving};

/// The reply is a problem with this status, and its words contain `hint`.
#[track_caller]
fn refused(what: &str, reply: &Reply, status: u16, hint: &str) {
    let (found, kind, body) = reply;
    assert_eq!(found.as_u16(), status, "{what}: {body}");
    assert_eq!(kind, "application/problem+json", "{what}: {body}");
    assert_eq!(body["status"], status, "{what}: {body}");
    assert!(body["type"].as_str().unwrap().starts_with("urn:ruyi:problem:"), "{what}: {body}");
    let detail = body["detail"].as_str().unwrap();
    assert!(detail.len() > 5 && detail.len() < 500, "{what}: {body}");
    assert!(body.to_string().contains(hint), "{what}: {hint:?} is not in {body}");
}

async fn ready() -> Serving {
    let serving = Serving::start(&[]).await;
    serving.fill().await;
    serving.settled().await;
    serving
}

fn order() -> Value {
    json!({"userId": "1001", "items": [{"sku": "A1", "quantity": 2}]})
}

/// The order with one field replaced.
fn with(path: &str, value: Value) -> Value {
    let mut order = order();
    match path {
        "sku" | "quantity" => order["items"][0][path] = value,
        _ => order[path] = value,
    }
    order
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_orders_are_refused() {
    let serving = ready().await;
    let before = serving.rows().await;
    let lines = |count: usize| (0..count).map(|n| json!({"sku": format!("S{n}"), "quantity": 1})).collect::<Vec<_>>();
    let long = "x".repeat(501);
    let cases = [
        ("unknown SKU", with("sku", json!("NOPE")), "NOPE is not sold here"),
        ("illegal SKU", with("sku", json!("a b")), "1 to 64 characters"),
        ("empty SKU", with("sku", json!("")), "1 to 64 characters"),
        ("no quantity", with("quantity", json!(0)), "1 to 9999"),
        ("negative", with("quantity", json!(-1)), "1 to 9999"),
        ("too many pieces", with("quantity", json!(10_000)), "1 to 9999"),
        ("far too many pieces", with("quantity", json!(u64::MAX)), "items[0].quantity"),
        ("half a piece", with("quantity", json!(1.5)), "items[0].quantity"),
        ("a word", with("quantity", json!("two")), "items[0].quantity"),
        ("a number in quotes", with("quantity", json!("2")), "items[0].quantity"),
        ("null", with("quantity", json!(null)), "items[0].quantity"),
        ("65 lines", with("items", json!(lines(65))), "1 to 64 lines, this one has 65"),
        ("no lines", with("items", json!([])), "1 to 64 lines"),
        (
            "one SKU twice",
            with("items", json!([{"sku": "A1", "quantity": 1}, {"sku": "A1", "quantity": 2}])),
            "A1 stands in two lines",
        ),
        ("lines that are none", with("items", json!("A1")), "items"),
        ("a line that is none", with("items", json!([7])), "items[0]"),
        ("unknown field of a line", with("items", json!([{"sku": "A1", "quantity": 1, "price": 0.01}])), "price"),
        ("unknown field", with("totalAmount", json!(0.01)), "totalAmount"),
        ("no user", json!({"items": [{"sku": "A1", "quantity": 1}]}), "userId"),
        ("no items", json!({"userId": "1"}), "items"),
        ("user as a word", with("userId", json!("bob")), "userId"),
        ("user 0", with("userId", json!(0)), "userId"),
        ("user below 0", with("userId", json!("-5")), "userId"),
        ("user as a list", with("userId", json!([1])), "userId"),
        ("user too long", with("userId", json!("99999999999999999999")), "userId"),
        ("remark as a number", with("remark", json!(1)), "remark"),
        ("long remark", with("remark", json!(long)), "500 characters"),
        ("U+0000", with("remark", json!("a\u{0}b")), "U+0000, which no database keeps"),
        ("address as a list", with("address", json!([])), "address"),
        ("long address", with("address", json!(long)), "500 characters"),
        ("unknown channel", with("channelId", json!("paypal")), "sandbox"),
        ("channel as a number", with("channelId", json!(3)), "channelId"),
        ("hold as a word", with("holdSeconds", json!("1")), "holdSeconds"),
        ("hold below 0", with("holdSeconds", json!(-1)), "holdSeconds"),
        ("hold for ages", with("holdSeconds", json!(i64::MAX)), "holdSeconds"),
        ("no time to pay", with("payWithinSeconds", json!(0)), "payWithinSeconds"),
        ("all the time", with("payWithinSeconds", json!(i64::MAX)), "payWithinSeconds"),
        ("part of a second", with("payWithinSeconds", json!(0.5)), "payWithinSeconds"),
        ("a list", json!([]), "line 1"),
        ("null", json!(null), "line 1"),
    ];
    for (what, body, hint) in &cases {
        refused(what, &serving.send(Method::POST, "/orders", body).await, 422, hint);
    }
    let post =
        |body: Vec<u8>| serving.request(Method::POST, "/orders").header("content-type", "application/json").body(body);
    for cut in ["", "{", "{\"userId\":", "not json", "{} {}", "{\"userId\": \"1\",}"] {
        let reply = serving.reply(post(cut.into())).await;
        refused(cut, &reply, if cut == "{} {}" { 422 } else { 400 }, "line 1");
    }
    refused("not UTF-8", &serving.reply(post(b"{\"userId\": \"\xff\"}".to_vec())).await, 400, "line 1");
    refused("2 MiB", &serving.reply(post(vec![b' '; 2 << 20])).await, 413, "http.body_limit");
    let plain = serving.request(Method::POST, "/orders").body(order().to_string());
    refused("no content type", &serving.reply(plain).await, 415, "application/json");
    for key in [" ".to_owned(), "k".repeat(129)] {
        let request = serving.request(Method::POST, "/orders").header("idempotency-key", &key).json(&order());
        refused("bad key", &serving.reply(request).await, 400, "1 to 128");
    }
    assert_eq!(serving.rows().await, before);
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_key_gets_the_same_reply() {
    let serving = ready().await;
    let post = |body: Value| serving.request(Method::POST, "/orders").header("idempotency-key", "once").json(&body);
    let first = serving.reply(post(order())).await;
    assert_eq!(first.0, StatusCode::CREATED);
    serving.until(&format!("/orders/{}", first.2["orderId"].as_str().unwrap()), "status", "RESERVED").await;
    serving.settled().await;
    let before = serving.rows().await;
    let again = post(order()).send().await.unwrap();
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    assert_eq!((again.status(), again.json::<Value>().await.unwrap()), (StatusCode::CREATED, first.2));
    for other in [with("quantity", json!(3)), with("remark", json!("x")), with("sku", json!("B2"))] {
        refused("key reused", &serving.reply(post(other)).await, 422, "used for another request");
    }
    assert_eq!(serving.rows().await, before);
    // Another user's key is another key.
    let other = serving.reply(post(with("userId", json!("1002")))).await;
    assert_eq!(other.0, StatusCode::CREATED);
    serving.stop().await;
}

/// A row that nobody can read is no fault of the caller's, and asking again does not help.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_our_fault() {
    let serving = ready().await;
    let (broken, sound) = (serving.place(&order()).await, serving.place(&order()).await);
    serving.settled().await;
    let text = format!("UPDATE orders SET status = 7 WHERE id = {broken}");
    assert_eq!(execute(serving.db(), text).await, 1);
    let path = format!("/orders/{broken}");
    refused("an unknown state", &serving.reply(serving.request(Method::GET, &path)).await, 500, "internal");
    let answer = serving.request(Method::GET, &path).send().await.unwrap();
    assert!(!answer.headers().contains_key("retry-after"), "{answer:?}");
    assert_eq!(serving.get(&format!("/orders/{sound}")).await["status"], "RESERVED");
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_exist_is_not_found() {
    let serving = ready().await;
    let before = serving.rows().await;
    let id = "382372336566796288";
    for (method, path) in [
        (Method::GET, format!("/orders/{id}")),
        (Method::POST, format!("/orders/{id}/cancel")),
        (Method::GET, format!("/payments/{id}")),
        (Method::POST, format!("/payments/{id}/pay")),
    ] {
        refused(&path, &serving.reply(serving.request(method, &path)).await, 404, id);
    }
    for (method, path) in [(Method::GET, "/products/NOPE"), (Method::GET, "/stock/NOPE"), (Method::GET, "/nothing")] {
        refused(path, &serving.reply(serving.request(method, path)).await, 404, "there is no");
    }
    for bad in ["abc", "0", "-1", "1.5", "99999999999999999999", "1e3", "%20", "+5"] {
        for (method, path) in [
            (Method::GET, format!("/orders/{bad}")),
            (Method::POST, format!("/orders/{bad}/cancel")),
            (Method::GET, format!("/payments/{bad}")),
            (Method::POST, format!("/payments/{bad}/pay")),
            (Method::GET, format!("/points/{bad}")),
        ] {
            refused(&path, &serving.reply(serving.request(method, &path)).await, 400, "positive integer");
        }
    }
    for query in ["status=NOPE", "limit=0", "limit=101", "limit=x", "userId=bob", "before=x", "ids=1,x", "color=red"] {
        let path = format!("/orders?{query}");
        refused(&path, &serving.reply(serving.request(Method::GET, &path)).await, 400, "");
    }
    refused("PATCH", &serving.reply(serving.request(Method::PATCH, "/orders")).await, 405, "method");
    assert_eq!(serving.rows().await, before);
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_products_and_stock_are_refused() {
    let serving = ready().await;
    let before = serving.rows().await;
    for (what, body, hint) in [
        ("no name", json!({"price": 1}), "name"),
        ("empty name", json!({"name": " ", "price": 1}), "1 to 200 characters"),
        ("three places", json!({"name": "x", "price": 1.234}), "price"),
        ("price below 0", json!({"name": "x", "price": -1}), "price"),
        ("price as a word", json!({"name": "x", "price": "cheap"}), "price"),
        ("huge price", json!({"name": "x", "price": 1e30}), "price"),
        ("other currency", json!({"name": "x", "price": 1, "currency": "USD"}), "CNY"),
        ("unknown field", json!({"name": "x", "price": 1, "colour": "red"}), "colour"),
        ("active as a word", json!({"name": "x", "price": 1, "active": "yes"}), "active"),
    ] {
        refused(what, &serving.send(Method::PUT, "/products/C3", &body).await, 422, hint);
    }
    for available in [json!(-1), json!(1_000_000_001), json!(1.5), json!("5"), json!(null)] {
        let body = json!({"available": available});
        refused("available", &serving.send(Method::PUT, "/stock/C3", &body).await, 422, "available");
    }
    for (body, status, hint) in [
        (json!({"change": 0, "reason": "x"}), 422, "change"),
        (json!({"change": 1}), 422, "reason"),
        (json!({"change": 1, "reason": " "}), 422, "reason"),
        (json!({"change": -1_001, "reason": "x"}), 409, "below 0"),
    ] {
        refused("adjust", &serving.send(Method::POST, "/stock/A1/adjust", &body).await, status, hint);
    }
    for path in ["/products/a%20b", "/stock/a%20b"] {
        refused(path, &serving.reply(serving.request(Method::GET, path)).await, 400, "SKU");
    }
    assert_eq!(serving.rows().await, before);
    serving.stop().await;
}

/// An order whose payment is open, and the body of the callback that would be right.
async fn open_payment(serving: &Serving) -> (String, Value) {
    let id = serving.place(&order()).await;
    serving.until(&format!("/orders/{id}"), "status", "RESERVED").await;
    let payment = serving.until(&format!("/payments/{id}"), "status", "PENDING").await;
    serving.settled().await;
    let callback = json!({
        "paymentId": payment["paymentId"], "orderId": id, "transactionNo": "T1", "amount": payment["amount"],
        "currency": "CNY", "merchantId": payment["merchantId"], "method": "card", "payTime": 1_700_000_000_000_i64,
    });
    (id, callback)
}

/// A callback to `path` that is not signed as it should be.
async fn badly_signed(serving: &Serving, path: &str, body: &str) {
    let now_s = serving.now_s();
    refused("wrong secret", &serving.reply(serving.signed(path, "guess", now_s, body)).await, 401, "does not match");
    refused(
        "too old",
        &serving.reply(serving.signed(path, "sandbox", now_s - 400, body)).await,
        401,
        "X-Ruyi-Timestamp",
    );
    refused(
        "in the future",
        &serving.reply(serving.signed(path, "sandbox", now_s + 400, body)).await,
        401,
        "X-Ruyi-Timestamp",
    );
    let other = serving.signed(path, "sandbox", now_s, body).body(format!("{body} "));
    refused("another body", &serving.reply(other).await, 401, "does not match");
    let bare = || serving.request(Method::POST, path).body(body.to_owned());
    refused("no signature", &serving.reply(bare()).await, 401, "x-ruyi");
    let half = |request: RequestBuilder| request.header("x-ruyi-timestamp", now_s.to_string());
    refused("half of it", &serving.reply(half(bare())).await, 401, "x-ruyi-signature");
    refused("no hex", &serving.reply(half(bare()).header("x-ruyi-signature", "zz")).await, 401, "x-ruyi-signature");
    for text in ["{", "", "{\"a\": 1"] {
        refused(text, &serving.reply(serving.signed(path, "sandbox", now_s, text)).await, 400, "line 1");
    }
    for text in ["{}", "[]", "null", "7"] {
        refused(text, &serving.reply(serving.signed(path, "sandbox", now_s, text)).await, 422, "line 1");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_callbacks_of_channels_are_refused() {
    let serving = ready().await;
    let (id, right) = open_payment(&serving).await;
    let before = serving.rows().await;
    let path = "/payments/callback/sandbox";
    badly_signed(&serving, path, &right.to_string()).await;
    let wrong = |field: &str, value: Value| {
        let mut body = right.clone();
        body[field] = value;
        serving.signed(path, "sandbox", serving.now_s(), &body.to_string())
    };
    for (field, value, status, hint) in [
        ("amount", json!(119.59), 422, "amount"),
        ("amount", json!(0), 422, "amount"),
        ("amount", json!(119.601), 422, "amount"),
        ("amount", json!(-119.6), 422, "amount"),
        ("currency", json!("USD"), 422, "currency"),
        ("merchantId", json!("2"), 422, "merchant"),
        ("merchantId", json!("shop"), 422, "merchantId"),
        ("paymentId", json!("382372336566796288"), 404, "there is no payment"),
        ("paymentId", json!("x"), 422, "paymentId"),
        ("transactionNo", json!(""), 422, "transactionNo"),
        ("transactionNo", json!("t".repeat(65)), 422, "transactionNo"),
        ("transactionNo", json!("  "), 422, "transactionNo"),
        ("transactionNo", json!("T\n1"), 422, "transactionNo"),
        ("payTime", json!("now"), 422, "payTime"),
        ("payTime", json!(1_700_000_000), 422, "milliseconds"),
    ] {
        refused(field, &serving.reply(wrong(field, value)).await, status, hint);
    }
    let elsewhere = serving.signed("/payments/callback/paypal", "sandbox", serving.now_s(), &right.to_string());
    refused("unknown channel", &serving.reply(elsewhere).await, 404, "paypal");
    assert_eq!(serving.rows().await, before);
    assert_eq!(serving.get(&format!("/payments/{id}")).await["status"], "PENDING");

    // The right one counts, and however often it comes, once.
    for _ in 0..3 {
        let (status, _, body) = serving.reply(wrong("method", json!("card"))).await;
        assert_eq!((status, body), (StatusCode::OK, json!({"result": "success"})));
    }
    serving.until(&format!("/orders/{id}"), "status", "SIGNED").await;
    serving.settled().await;
    let after = serving.rows().await;
    assert_eq!(serving.reply(wrong("method", json!("card"))).await.0, StatusCode::OK);
    let (status, _, _) = serving.send(Method::POST, &format!("/orders/{id}/cancel"), &json!({})).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(serving.rows().await, after);
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_reports_of_the_warehouse_are_refused() {
    let serving = ready().await;
    let (id, _) = open_payment(&serving).await;
    let before = serving.rows().await;
    let path = "/fulfil/callback";
    let right = json!({"orderId": id, "event": "ORDER_DELIVERY", "occurredAt": 1, "carrier": "c", "trackingNo": "n"});
    badly_signed(&serving, path, &right.to_string()).await;
    for (field, value, status, hint) in [
        ("orderId", json!("382372336566796288"), 404, "there is no order"),
        ("orderId", json!("x"), 422, "orderId"),
        ("event", json!("ORDER_LOST"), 422, "event"),
        ("event", json!("ORDER_CREATED"), 422, "event"),
        ("occurredAt", json!("yesterday"), 422, "occurredAt"),
        ("carrier", json!(5), 422, "carrier"),
    ] {
        let mut body = right.clone();
        body[field] = value;
        let request = serving.signed(path, "sandbox", serving.now_s(), &body.to_string());
        refused(field, &serving.reply(request).await, status, hint);
    }
    assert_eq!(serving.rows().await, before);
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paying_and_canceling() {
    let serving = ready().await;
    let (id, _) = open_payment(&serving).await;
    let before = serving.rows().await;
    let pay = format!("/payments/{id}/pay");
    for (what, body, hint) in [
        ("long method", json!({"method": "m".repeat(33)}), "32 characters"),
        ("method as a number", json!({"method": 1}), "method"),
        ("unknown field", json!({"amount": 0.01}), "amount"),
        ("unknown wish", json!({"sandbox": {"explode": true}}), "explode"),
        ("wish of a wrong type", json!({"sandbox": {"repeat": "x"}}), "sandbox.repeat"),
        ("transaction without a number", json!({"sandbox": {"transactionNo": ""}}), "transactionNo"),
    ] {
        refused(what, &serving.send(Method::POST, &pay, &body).await, 422, hint);
    }
    let cancel = format!("/orders/{id}/cancel");
    for (what, body, hint) in [
        ("long reason", json!({"reason": "r".repeat(501)}), "500 characters"),
        ("reason as a number", json!({"reason": 1}), "reason"),
        ("unknown field", json!({"why": "x"}), "why"),
    ] {
        refused(what, &serving.send(Method::POST, &cancel, &body).await, 422, hint);
    }
    assert_eq!(serving.rows().await, before);
    serving.fine(Method::POST, &cancel, &json!({"reason": "changed my mind"})).await;
    serving.until(&format!("/payments/{id}"), "status", "CLOSED").await;
    serving.settled().await;
    let before = serving.rows().await;
    refused("closed", &serving.send(Method::POST, &pay, &json!({})).await, 409, "canceled");
    // Canceling again changes nothing, and says so with the order.
    assert_eq!(serving.fine(Method::POST, &cancel, &json!({})).await["status"], "CANCELED");
    assert_eq!(serving.rows().await, before);
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_key() {
    let hash = |key: &str| hex::encode(Sha256::digest(key));
    let keys = format!(
        r#"http.keys=[{{name="reader",sha256="{}",scopes=["order:read"]}},{{name="boss",sha256="{}",scopes=["admin"]}}]"#,
        hash("r"),
        hash("b")
    );
    let serving = Serving::start(&[&keys]).await;
    let before = serving.rows().await;
    let requests = [
        (Method::POST, "/orders"),
        (Method::POST, "/orders/5/cancel"),
        (Method::PUT, "/products/A1"),
        (Method::PUT, "/stock/A1"),
        (Method::GET, "/stock/A1"),
        (Method::POST, "/stock/A1/adjust"),
        (Method::GET, "/payments/5"),
        (Method::POST, "/payments/5/pay"),
        (Method::GET, "/points/5"),
    ];
    for (method, path) in requests {
        let request = || serving.request(method.clone(), path).json(&order());
        refused(path, &serving.reply(request()).await, 401, "API key");
        refused(path, &serving.reply(request().bearer_auth("guess")).await, 401, "not known");
        refused(path, &serving.reply(request().bearer_auth("r")).await, 403, "lacks the scope");
    }
    assert_eq!(serving.rows().await, before);
    let (status, _, _) = serving.reply(serving.request(Method::GET, "/orders/5").bearer_auth("r")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let product = serving.request(Method::PUT, "/products/A1").header("x-api-key", "b");
    assert_eq!(serving.reply(product.json(&json!({"name": "Tea", "price": 1}))).await.0, StatusCode::OK);
    serving.stop().await;
}
