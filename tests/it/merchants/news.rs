//! Merchants: what they are told of their money, in which order, and how it is signed.

use axum::http::{Method, StatusCode};
use ruyi::audit::repair::{Plan, Repair};
use ruyi::audit::{self, RoleDbs};
use ruyi::db::delivery::{Kind as Call, Status};
use ruyi::db::sql;
use ruyi::delivery::no_effects;
use ruyi::delivery::webhook::new_secret;
use serde_json::{Value, json};

use crate::support::merchant_accounts::{is_signed, known, merchant, told};
use crate::support::outbound::{Answer, OutboundCalls, OutboundServer, START_MS};
use crate::support::servers::write_tx;
use crate::support::shop::{STRICT, Setup, Shop};

const SOON_MS: i64 = 60_000;

/// The shop's own merchant is told that an order is paid, of a part of its money, and of the rest.
async fn is_told_of_its_money(mut shop: Shop) {
    shop.sell("TEA", 2_990, 10).await;
    merchant(&shop, 1, json!({})).await;
    let order = shop.place_order(7, &[("TEA", 2)], json!({ "holdSeconds": 3_600 })).await;
    let unpaid = shop.place_order(7, &[("TEA", 1)], json!({})).await;
    shop.settle_within(SOON_MS).await;
    shop.pay(&order, json!({ "repeat": 2 })).await;
    shop.settle_within(SOON_MS).await;
    assert_eq!(told(&shop), [("PAID".to_owned(), json!(59.8), order.clone())]);
    assert_eq!(shop.refund(&order, "r1", 980).await.0, StatusCode::ACCEPTED);
    shop.settle_within(SOON_MS).await;
    shop.cancel(&order).await;
    shop.settle().await;
    assert_eq!(shop.outcome(&order).await, "REFUNDED");
    assert_eq!(shop.outcome(&unpaid).await, "CANCELED");
    let wanted = [("PAID", 59.8), ("PART_REFUNDED", 9.8), ("REFUNDED", 50.0)];
    let wanted = wanted.map(|(status, money)| (status.to_owned(), json!(money), order.clone()));
    let seen = told(&shop).into_iter().map(|(status, money, id)| (status, json!(money.as_f64()), id));
    assert_eq!(seen.collect::<Vec<_>>(), wanted);
    shop.audit().await;
}

#[tokio::test]
async fn a_merchant_is_told_of_its_money() {
    is_told_of_its_money(Shop::open().await).await;
}

#[tokio::test]
async fn merchant_told_once_though_all_comes_twice_in_reverse() {
    let mut shop = Shop::open().await;
    (shop.manner.times, shop.manner.reversed) = (2, true);
    is_told_of_its_money(shop).await;
}

#[tokio::test]
async fn nobody_is_told_who_does_not_want_to_know() {
    let mut shop = Shop::with(Setup::default(), 1).await;
    shop.sell("TEA", 2_990, 10).await;
    for more in [json!({ "notifyUrl": "" }), json!({ "active": false })] {
        merchant(&shop, 1, more).await;
        let order = shop.place_order(7, &[("TEA", 2)], json!({})).await;
        shop.settle_within(SOON_MS).await;
        shop.pay(&order, json!({})).await;
        shop.settle().await;
    }
    assert!(told(&shop).is_empty());
    let written = shop.count("SELECT COUNT(*) FROM message_record WHERE topic = 'ORDER_NOTIFY'").await;
    assert_eq!(written, 0);
    shop.audit().await;
}

/// The news that all the money went back is there before the news that it came: the merchant must not send the goods.
#[tokio::test]
async fn what_is_overtaken_is_not_told() {
    let mut shop = Shop::open().await;
    merchant(&shop, 9, json!({})).await;
    let notify = |status: &str| json!({ "order_id": "77", "money": 5, "status": status, "merchant_id": "9" });
    for (id, body) in [("77:ORDER_NOTIFY:REFUNDED", notify("REFUNDED")), ("77:ORDER_NOTIFY:PAID", notify("PAID"))] {
        shop.outside("ORDER_NOTIFY", id, "77", &body);
        shop.settle_within(SOON_MS).await;
    }
    let statuses: Vec<String> = told(&shop).into_iter().map(|(status, ..)| status).collect();
    assert_eq!(statuses, ["REFUNDED"]);
    for (id, body) in [
        ("78:a", json!({ "order_id": "78", "money": 5, "status": "PAID", "merchant_id": "10" })),
        ("78:b", json!({ "order_id": "78", "money": 5, "status": "PAID", "notify_url": "https://other.example" })),
        ("78:c", json!({ "order_id": "78", "money": 5, "status": "", "merchant_id": "9" })),
        ("78:d", json!({ "order_id": "78", "money": 0.001, "status": "PAID", "merchant_id": "9" })),
    ] {
        shop.outside("ORDER_NOTIFY", id, "78", &body);
    }
    shop.settle_within(SOON_MS).await;
    assert_eq!((shop.dead_letters().await, told(&shop).len()), (4, 1));
}

/// A call that is gone is named, recorded once more, and the merchant told.
#[tokio::test]
async fn a_lost_call_is_found_and_made() {
    let mut shop = Shop::open().await;
    shop.sell("TEA", 2_990, 10).await;
    merchant(&shop, 1, json!({})).await;
    let order = shop.place_order(7, &[("TEA", 1)], json!({})).await;
    shop.settle_within(SOON_MS).await;
    shop.pay(&order, json!({})).await;
    shop.settle().await;
    write_tx!(shop.db, [], |tx| { sql::execute(tx, "DELETE FROM delivery WHERE kind = 7", vec![]).await }).unwrap();
    let dbs = RoleDbs::one(&shop.db);
    let lost = audit::run(&dbs, &STRICT).await.unwrap().violations;
    let named: Vec<(&str, &str)> = lost.iter().map(|one| (one.check, one.key.as_str())).collect();
    assert_eq!(named, [("deliveries", format!("{order}:ORDER_NOTIFY:PAID").as_str())]);
    let mut repair = Repair::new(&dbs, &STRICT);
    let Plan::Mend(action) = repair.plan(&lost[0]).await.unwrap() else { panic!("{lost:?} is left") };
    repair.apply(&action).await.unwrap();
    shop.settle().await;
    let paid = ("PAID".to_owned(), json!(29.9), order.clone());
    assert_eq!(told(&shop), [paid.clone(), paid]);
    shop.audit().await;
}

#[tokio::test]
async fn the_secret_is_shown_when_it_is_new() {
    let shop = Shop::open().await;
    let made = merchant(&shop, 9, json!({})).await;
    let first = made["secret"].as_str().unwrap().to_owned();
    assert!(first.starts_with("whsec_"), "{first}");
    assert_eq!((&made["version"], &made["oldSecretUntil"]), (&json!(1), &Value::Null));
    let same = merchant(&shop, 9, json!({})).await;
    assert_eq!((&same["version"], same.get("secret")), (&json!(1), None));
    let changed = merchant(&shop, 9, json!({ "name": "Tea" })).await;
    assert_eq!((&changed["version"], changed.get("secret")), (&json!(2), None));
    let body = Some(json!({ "keepOldForSeconds": 60 }));
    let (status, rotated) = shop.insist(Method::POST, "/merchants/9/secret", None, body).await;
    assert_eq!(status, StatusCode::OK);
    assert_ne!(rotated["secret"], first.as_str());
    assert_eq!(rotated["oldSecretUntil"], shop.clock.now_ms() + 60_000);
    shop.clock.advance_ms(60_000);
    let (_, seen) = shop.request(Method::GET, "/merchants/9", None, None).await;
    assert_eq!((&seen["oldSecretUntil"], seen.get("secret")), (&Value::Null, None));
    merchant(&shop, 3, json!({})).await;
    let (_, page) = shop.request(Method::GET, "/merchants?limit=1", None, None).await;
    assert_eq!((&page["items"][0]["merchantId"], &page["next"]), (&json!("3"), &json!("3")));
    let (_, page) = shop.request(Method::GET, "/merchants?after=3", None, None).await;
    assert_eq!((&page["items"][0]["merchantId"], &page["next"]), (&json!("9"), &Value::Null));
    let (status, _) = shop.request(Method::GET, "/merchants/4", None, None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, _) = shop.request(Method::POST, "/merchants/4/secret", None, Some(json!({}))).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    // Two changes of the profile were told, and no secret is in any message.
    let texts = shop.rows("SELECT CAST(body AS CHAR), event_id FROM message_record ORDER BY id").await;
    let ids: Vec<&str> = texts.iter().map(|row| row[1].as_str()).collect();
    assert_eq!(ids, ["9:MERCHANT_CHANGED:1", "9:MERCHANT_CHANGED:2", "3:MERCHANT_CHANGED:1"]);
    assert!(texts.iter().all(|row| !row[0].contains("whsec_")));
}

#[tokio::test]
async fn bad_merchants_are_refused() {
    let shop = Shop::open().await;
    let entry =
        |product: &str, max: f64| json!({ "productId": product, "channelId": "c", "minAmount": 1, "maxAmount": max });
    for (wrong, field) in [
        (json!({ "name": "" }), "name"),
        (json!({ "tenantId": "a b" }), "tenantId"),
        (json!({ "notifyUrl": "http://127.0.0.1/x" }), "notifyUrl"),
        (json!({ "notifyUrl": "http://2130706433/x" }), "notifyUrl"),
        (json!({ "notifyUrl": "http://[::ffff:10.0.0.1]/x" }), "notifyUrl"),
        (json!({ "notifyUrl": "http://localhost/x" }), "notifyUrl"),
        (json!({ "notifyUrl": "ftp://shop.example" }), "notifyUrl"),
        (json!({ "notifyUrl": "/told" }), "notifyUrl"),
        (json!({ "notifyUrl": format!("https://shop.example/{}", "x".repeat(500)) }), "notifyUrl"),
        (json!({ "accepts": [entry("a", 0.5)] }), "accepts[0]"),
        (json!({ "accepts": [entry("a", 5.0), entry("a", 6.0)] }), "accepts[0]"),
        (json!({ "accepts": [entry("a", 5.0), entry(" ", 6.0)] }), "accepts[1]"),
    ] {
        let mut body = json!({ "name": "Tea House" });
        body.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        let (status, answer) = shop.request(Method::PUT, "/merchants/9", None, Some(body)).await;
        assert_eq!(
            (status, &answer["errors"][0]["field"]),
            (StatusCode::UNPROCESSABLE_ENTITY, &json!(field)),
            "{answer}"
        );
    }
    let (status, _) =
        shop.request(Method::POST, "/merchants/9/secret", None, Some(json!({ "keepOldForSeconds": -1 }))).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(shop.count("SELECT COUNT(*) FROM merchant").await, 0);
}

/// A real server: it fails, and is called again with the same id, the time of that call, and the secrets of then.
#[tokio::test]
async fn calls_are_signed_with_secrets_valid_when_made() {
    let (mut calls, server) = (OutboundCalls::new().await, OutboundServer::start().await);
    calls.targets = calls.targets.guarded(true, std::sync::Arc::new(|_| unreachable!()));
    let (old, new) = (new_secret(), new_secret());
    known(&calls, &old, None).await;
    let body = json!({ "type": "order.paid", "data": { "merchant_id": "9", "status": "PAID" } }).to_string();
    let kind = Call::Merchant;
    calls.insert(kind, "7:ORDER_NOTIFY:PAID", &server.url("/told"), &body).await;
    server.script([Answer::status(500), Answer::status(404)]);
    let mut engine = calls.engine(no_effects());
    assert_eq!(engine.drain().await.unwrap(), 1);
    known(&calls, &new, Some((&old, START_MS + 60_000))).await;
    for _ in 0..2 {
        calls.clock.advance_ms(30_000);
        assert_eq!(engine.drain().await.unwrap(), 1);
    }
    assert_eq!(calls.status(kind, "7:ORDER_NOTIFY:PAID").await, Status::Done as i64);
    let seen = server.seen();
    let by: Vec<(bool, bool)> = seen.iter().map(|one| (is_signed(one, &old), is_signed(one, &new))).collect();
    assert_eq!(by, [(true, false), (true, true), (false, true)]);
    let times: Vec<&str> = seen.iter().map(|one| one.header("webhook-timestamp")).collect();
    assert_eq!(times, ["1700000000", "1700000030", "1700000060"]);
    for one in &seen {
        assert_eq!((one.header("webhook-id"), &one.body), ("7:ORDER_NOTIFY:PAID", &body));
    }
    // Whoever reads the log can neither sign nor replay.
    let mut conn = calls.db.read().await.unwrap();
    let text = "SELECT CAST(request AS CHAR) FROM delivery_attempt";
    let logged = ruyi::db::sql::fetch(&mut conn, text, vec![]).await.unwrap();
    for row in &logged {
        let text = ruyi::db::sql::Columns::text(row, 0).unwrap();
        assert!(text.contains("webhook-signature: ***") && !text.contains("v1,"), "{text}");
    }
    assert_eq!(logged.len(), 3);
}

#[tokio::test]
async fn a_merchant_that_is_gone_is_not_called() {
    let (mut calls, server) = (OutboundCalls::new().await, OutboundServer::start().await);
    calls.targets = calls.targets.guarded(true, std::sync::Arc::new(|_| unreachable!()));
    for (reference, body) in [("1", json!({ "data": { "merchant_id": "9" } })), ("2", json!({}))] {
        calls.insert(Call::Merchant, reference, &server.url("/told"), &body.to_string()).await;
    }
    // One order's calls keep their order: the second follows when the first has ended.
    let mut engine = calls.engine(no_effects());
    engine.drain().await.unwrap();
    for reference in ["1", "2"] {
        assert_eq!(calls.status(Call::Merchant, reference).await, Status::Refused as i64, "{reference}");
    }
    assert!(server.seen().is_empty());
}
