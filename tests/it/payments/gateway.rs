//! The pay gateway: merchants open payments under their own numbers.

use axum::http::{Method, StatusCode};
use ruyi::config::Config;
use serde_json::{Value, json};

use crate::support::merchant_accounts::{merchant, told};
use crate::support::servers::{mariadb_url, write_tx};
use crate::support::shop::{Setup, Shop};

const SOON_MS: i64 = 60_000;

async fn wish(shop: &Shop, number: &str, more: Value) -> (StatusCode, Value) {
    let mut body = json!({ "merchantId": "9", "outOrderNo": number, "amount": 59.8, "productId": "h5",
        "channelId": "sandbox", "extraArg": "spring" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    shop.insist(Method::POST, "/payments", None, Some(body)).await
}

async fn act(shop: &Shop, number: &str, what: &str, key: Option<&str>, body: Value) -> (StatusCode, Value) {
    shop.insist(Method::POST, &format!("/merchants/9/payments/{number}/{what}"), key, Some(body)).await
}

async fn look(shop: &Shop, number: &str) -> Value {
    shop.request(Method::GET, &format!("/merchants/9/payments/{number}"), None, None).await.1
}

async fn with_merchant(mut shop: Shop) -> Shop {
    merchant(&shop, 9, json!({})).await;
    shop.settle_within(SOON_MS).await;
    shop
}

fn statuses(shop: &Shop, number: &str) -> Vec<String> {
    told(shop).into_iter().filter(|(.., of)| of == number).map(|(status, ..)| status).collect()
}

async fn day(shop: &Shop) -> Value {
    let (_, page) = shop.request(Method::GET, "/statistics/day?from=2000-01-01&to=2099-12-31", None, None).await;
    page["items"].clone()
}

/// Opened, asked for at the channel, paid, told, counted; then all of it goes back in two parts.
async fn is_paid_and_refunded(shop: Shop) {
    let mut shop = with_merchant(shop).await;
    let (status, opened) = wish(&shop, "M-1", json!({})).await;
    assert_eq!((status, &opened["status"]), (StatusCode::CREATED, &json!("PENDING")), "{opened}");
    let (status, again) = wish(&shop, "M-1", json!({})).await;
    assert_eq!((status, &again["paymentId"]), (StatusCode::CREATED, &opened["paymentId"]));
    for other in [json!({ "amount": 59.81 }), json!({ "extraArg": "" }), json!({ "userId": "4" })] {
        assert_eq!(wish(&shop, "M-1", other).await.0, StatusCode::CONFLICT);
    }
    shop.settle_within(SOON_MS).await;
    let paid = look(&shop, "M-1").await;
    assert_eq!((&paid["status"], &paid["tenantId"]), (&json!("SUCCESS"), &json!("t1")));
    assert_eq!(statuses(&shop, "M-1"), ["PAID"]);
    let line = json!([{ "date": "2027-01-15", "productId": "h5", "channelId": "sandbox", "tenantId": "t1",
        "submitCount": 1, "successCount": 1, "successMoney": 59.8, "extraArg": "spring" }]);
    assert_eq!(day(&shop).await, line);

    assert_eq!(act(&shop, "M-1", "close", None, json!({})).await.0, StatusCode::CONFLICT);
    assert_eq!(act(&shop, "M-1", "refund", None, json!({})).await.0, StatusCode::BAD_REQUEST);
    let part = json!({ "amount": 9.8, "reason": "cold" });
    for _ in 0..2 {
        let (status, view) = act(&shop, "M-1", "refund", Some("r1"), part.clone()).await;
        assert_eq!((status, view["refunds"].as_array().unwrap().len()), (StatusCode::ACCEPTED, 1), "{view}");
    }
    assert_eq!(act(&shop, "M-1", "refund", Some("r1"), json!({ "amount": 9 })).await.0, StatusCode::CONFLICT);
    assert_eq!(act(&shop, "M-1", "refund", Some("r2"), json!({ "amount": 50.01 })).await.0, StatusCode::CONFLICT);
    shop.settle_within(SOON_MS).await;
    assert_eq!(act(&shop, "M-1", "refund", Some("r3"), json!({})).await.0, StatusCode::ACCEPTED);
    shop.settle().await;
    let back = look(&shop, "M-1").await;
    assert_eq!(back["status"], "REFUNDED", "{back}");
    assert_eq!(act(&shop, "M-1", "refund", Some("r4"), json!({})).await.0, StatusCode::CONFLICT);
    assert_eq!(statuses(&shop, "M-1"), ["PAID", "PART_REFUNDED", "REFUNDED"]);
    // What went back was a success of its day all the same; and no order heard of any of it.
    assert_eq!(day(&shop).await, line);
    let others = "SELECT COUNT(*) FROM message_record WHERE topic IN ('PAYMENT_SUCCESS', 'REFUND_SUCCESS')";
    assert_eq!(shop.count(others).await, 0);
    shop.audit().await;
}

#[tokio::test]
async fn paid_and_refunded() {
    is_paid_and_refunded(Shop::open().await).await;
}

#[tokio::test]
async fn paid_and_refunded_though_all_comes_twice_in_reverse() {
    let mut shop = Shop::open().await;
    (shop.manner.times, shop.manner.reversed) = (2, true);
    is_paid_and_refunded(shop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paid_and_refunded_on_mariadb() {
    let Some(url) = mariadb_url().await else { return };
    is_paid_and_refunded(Shop::with(Setup { url: Some(url), ..Setup::default() }, 1).await).await;
}

/// A callback of the channel, signed with `secret`.
async fn callback(shop: &Shop, payment: &Value, number: &str, secret: &str) -> StatusCode {
    let now_ms = shop.clock.now_ms();
    let body = json!({ "paymentId": payment["paymentId"], "transactionNo": number, "amount": payment["amount"],
        "currency": "CNY", "merchantId": payment["merchantId"], "payTime": now_ms });
    shop.signed("/payments/callback/bank", secret, now_ms / 1_000, &body.to_string()).await
}

fn bank() -> Setup {
    let change = |config: &mut Config| {
        let text = "kind = \"sandbox\"\nsecret = \"new\"\nold_secret = \"old\"\n";
        config.payment.channels.insert("bank".to_owned(), toml::from_str(text).unwrap());
    };
    Setup { change, ..Setup::default() }
}

/// Whoever has the secret of one channel has no say over the payments of another, and a callback whose time makes no
/// sense is not counted on that day.
#[tokio::test]
async fn channel_speaks_only_of_its_payments_in_time() {
    let mut shop = Shop::with(bank(), 1).await;
    merchant(&shop, 9, json!({ "accepts": [{ "productId": "h5", "channelId": "bank" }] })).await;
    shop.settle_within(SOON_MS).await;
    // Not asked for at the channel yet.
    let (_, payment) = wish(&shop, "mine", json!({ "channelId": "bank" })).await;
    let now_ms = shop.clock.now_ms();
    let body = |pay_time: i64, number: &str| {
        json!({ "paymentId": payment["paymentId"], "transactionNo": number, "amount": payment["amount"],
            "currency": "CNY", "merchantId": payment["merchantId"], "payTime": pay_time })
        .to_string()
    };
    let other = shop.signed("/payments/callback/sandbox", "sandbox", now_ms / 1_000, &body(now_ms, "T1")).await;
    assert_eq!(other, StatusCode::UNPROCESSABLE_ENTITY);
    for (pay_time, number) in [
        (-5, "T1"),
        (0, "T1"),
        (now_ms / 1_000, "T1"),
        (now_ms + 2 * 86_400_000, "T1"),
        (i64::MAX, "T1"),
        (now_ms, " "),
        (now_ms, "T\u{0}1"),
    ] {
        let answer = shop.signed("/payments/callback/bank", "new", now_ms / 1_000, &body(pay_time, number)).await;
        assert_eq!(answer, StatusCode::UNPROCESSABLE_ENTITY, "{pay_time} {number:?}");
    }
    assert_eq!(look(&shop, "mine").await["status"], "PENDING");
    let right = shop.signed("/payments/callback/bank", "new", now_ms / 1_000, &body(now_ms, "T1")).await;
    assert_eq!((right, &look(&shop, "mine").await["status"]), (StatusCode::OK, &json!("SUCCESS")));
}

/// Money after the close, money twice, and a channel that changes its secret.
#[tokio::test]
async fn money_that_comes_late_or_twice_goes_back_once() {
    let mut shop = Shop::with(bank(), 1).await;
    let accepts = json!({ "accepts": [{ "productId": "h5", "channelId": "bank" }] });
    merchant(&shop, 9, accepts).await;
    shop.settle_within(SOON_MS).await;
    let of_bank = json!({ "channelId": "bank" });
    let (_, closed) = wish(&shop, "late", of_bank.clone()).await;
    let (_, twice) = wish(&shop, "twice", of_bank).await;
    for _ in 0..2 {
        assert_eq!(act(&shop, "late", "close", None, json!({})).await.1["status"], "CLOSED");
    }
    for (payment, number, secret) in [
        (&closed, "T1", "new"),
        (&closed, "T1", "old"),
        (&twice, "T2", "old"),
        (&twice, "T3", "new"),
        (&twice, "T3", "new"),
    ] {
        assert_eq!(callback(&shop, payment, number, secret).await, StatusCode::OK, "{number}");
    }
    assert_eq!(callback(&shop, &twice, "T4", "other").await, StatusCode::UNAUTHORIZED);
    shop.settle().await;
    let (late, twice) = (look(&shop, "late").await, look(&shop, "twice").await);
    assert_eq!((&late["status"], &late["refunds"][0]["amount"]), (&json!("REFUNDED"), &json!(59.8)));
    assert_eq!((&twice["status"], &twice["transactionNo"]), (&json!("SUCCESS"), &json!("T2")));
    let refunds = |seen: &Value| {
        let all = seen["refunds"].as_array().unwrap().iter();
        all.map(|one| format!("{} {}", one["transactionNo"].as_str().unwrap(), one["kind"].as_str().unwrap())).collect()
    };
    let (late, twice): (Vec<String>, Vec<String>) = (refunds(&late), refunds(&twice));
    assert_eq!((late, twice), (vec!["T1 ORDER".to_owned()], vec!["T3 EXTRA".to_owned()]));
    assert_eq!(
        (statuses(&shop, "late"), statuses(&shop, "twice")),
        (vec!["REFUNDED".to_owned()], vec!["PAID".to_owned()])
    );
    shop.audit().await;
}

#[tokio::test]
async fn requests_beyond_the_limits_are_refused() {
    let mut shop = with_merchant(Shop::open().await).await;
    let unprocessable = StatusCode::UNPROCESSABLE_ENTITY;
    for (more, status) in [
        (json!({ "merchantId": "8" }), StatusCode::NOT_FOUND),
        (json!({ "productId": "qr" }), unprocessable),
        (json!({ "channelId": "bank" }), unprocessable),
        (json!({ "amount": 0.99 }), unprocessable),
        (json!({ "amount": 1_000.01 }), unprocessable),
        (json!({ "amount": 0 }), unprocessable),
        (json!({ "amount": 1.001 }), unprocessable),
        (json!({ "outOrderNo": "a b" }), unprocessable),
        (json!({ "notifyUrl": "http://10.0.0.1/" }), unprocessable),
        (json!({ "extraArg": "x".repeat(201) }), unprocessable),
        (json!({ "price": 1 }), unprocessable),
    ] {
        let (got, answer) = wish(&shop, "M-1", more.clone()).await;
        assert!(got == status || (got.is_client_error() && status == unprocessable), "{more}: {got} {answer}");
    }
    merchant(&shop, 9, json!({ "active": false })).await;
    shop.settle_within(SOON_MS).await;
    assert_eq!(wish(&shop, "M-1", json!({})).await.0, StatusCode::CONFLICT);
    assert_eq!(shop.count("SELECT COUNT(*) FROM payment_record").await, 0);
    assert_eq!(shop.count("SELECT COUNT(*) FROM gateway_payment").await, 0);
    assert_eq!(act(&shop, "M-1", "close", None, json!({})).await.0, StatusCode::NOT_FOUND);
}

/// Late and repeated news of a merchant change nothing.
#[tokio::test]
async fn the_latest_state_of_a_merchant_counts() {
    let mut shop = Shop::open().await;
    for version in [2, 3, 1, 3] {
        let body = json!({ "merchantId": "9", "version": version, "active": version == 3, "accepts": [] });
        shop.outside("MERCHANT_CHANGED", &format!("9:MERCHANT_CHANGED:{version}:{version}"), "9", &body);
        shop.settle_within(SOON_MS).await;
    }
    assert_eq!(shop.count("SELECT version FROM merchant_account WHERE active = 1").await, 3);
}

#[tokio::test]
async fn statistics_refuse_what_they_cannot_count() {
    let mut shop = Shop::open().await;
    let fine = json!({ "product_id": "p", "channel_id": "c", "tenant_id": "t", "money": 0.1, "date": "2026-01-31",
        "statistics_type": "success", "extra_arg": "a" });
    for (n, wrong) in [
        json!({ "date": "2026-02-30" }),
        json!({ "statistics_type": "REFUND" }),
        json!({ "money": 0.001 }),
        json!({ "product_id": "p ".to_owned() }),
        json!({ "extra_arg": "x".repeat(201) }),
    ]
    .into_iter()
    .enumerate()
    {
        let mut body = fine.clone();
        body.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        shop.outside("DAY_STATISTICS", &format!("bad-{n}"), "1", &body);
    }
    shop.settle_within(SOON_MS).await;
    assert_eq!((shop.dead_letters().await, day(&shop).await), (5, json!([])));
    for (id, money, extra) in [("a", json!(0.1), "a"), ("b", json!(0.2), "b"), ("a", json!(0.1), "a")] {
        let mut body = fine.clone();
        body.as_object_mut().unwrap().extend([("money".to_owned(), money), ("extra_arg".to_owned(), json!(extra))]);
        shop.outside("DAY_STATISTICS", id, "1", &body);
        shop.settle_within(SOON_MS).await;
    }
    let line = &day(&shop).await[0];
    assert_eq!((&line["successCount"], &line["successMoney"]), (&json!(2), &json!(0.3)), "0.1 + 0.2 is 0.3");
    assert_eq!((&line["submitCount"], &line["extraArg"]), (&json!(0), &json!("b")));
    // A sum may be more than any amount.
    for id in ["c", "d"] {
        let mut body = fine.clone();
        body.as_object_mut().unwrap().insert("money".to_owned(), json!(10_000_000_000_i64));
        shop.outside("DAY_STATISTICS", id, "1", &body);
    }
    shop.settle_within(SOON_MS).await;
    assert_eq!(day(&shop).await[0]["successMoney"], json!(20_000_000_000.3));
    let (status, _) = shop.request(Method::GET, "/statistics/day?from=yesterday", None, None).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (_, page) = shop.request(Method::GET, "/statistics/day?from=2026-01-30", None, None).await;
    assert_eq!(page["items"], json!([]));
}

/// The day of the setting, page by page.
#[tokio::test]
async fn days_begin_where_the_setting_says() {
    let change = |config: &mut Config| "Asia/Shanghai".clone_into(&mut config.statistics.time_zone);
    let mut shop = with_merchant(Shop::with(Setup { change, ..Setup::default() }, 1).await).await;
    // 2027-01-15T17:00:00Z is the next day there.
    shop.clock.advance_ms(9 * 3_600_000);
    for number in ["M-1", "M-2"] {
        wish(&shop, number, json!({})).await;
    }
    shop.sell("TEA", 2_990, 10).await;
    let order = shop.place_order(7, &[("TEA", 2)], json!({})).await;
    shop.settle_within(SOON_MS).await;
    shop.pay(&order, json!({})).await;
    shop.settle().await;
    let (_, first) = shop.request(Method::GET, "/statistics/day?from=2027-01-16&limit=1", None, None).await;
    assert_eq!((&first["items"][0]["productId"], &first["items"][0]["successMoney"]), (&json!(""), &json!(59.8)));
    let after: String = url::form_urlencoded::byte_serialize(first["next"].as_str().unwrap().as_bytes()).collect();
    let path = format!("/statistics/day?from=2027-01-16&limit=1&after={after}");
    let (_, second) = shop.request(Method::GET, &path, None, None).await;
    assert_eq!((&second["items"][0]["productId"], &second["items"][0]["submitCount"]), (&json!("h5"), &json!(2)));
}

/// What the audit says of statistics and payments that do not fit.
#[tokio::test]
async fn the_audit_recounts() {
    let mut shop = with_merchant(Shop::open().await).await;
    for number in ["M-1", "M-2"] {
        wish(&shop, number, json!({})).await;
    }
    shop.settle().await;
    shop.audit().await;
    let spoil = async |text: &'static str| {
        write_tx!(shop.db, [], |tx| { ruyi::db::sql::execute(tx, text, vec![]).await }).unwrap();
    };
    spoil("UPDATE day_statistics SET success_money = success_money + 1 WHERE statistics_type = 'SUCCESS'").await;
    let found = shop.violations().await;
    let wanted = "statistics 2027-01-15 h5 sandbox t1: SUCCESS: counted 2 of 119.61, payments 2 of 119.60";
    assert_eq!(found, [wanted]);
    spoil("UPDATE day_statistics SET success_money = success_money - 1 WHERE statistics_type = 'SUCCESS'").await;
    spoil("UPDATE payment_record SET status = 4").await;
    let found = shop.violations().await;
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|one| one.contains("REFUNDED, but 0.00 CNY of 59.80 CNY went back")), "{found:?}");
    spoil("UPDATE payment_record SET status = 1").await;
    spoil("DELETE FROM message_record WHERE topic = 'ORDER_NOTIFY'").await;
    let found = shop.violations().await;
    assert!(found.iter().any(|one| one.contains("its merchant not told")), "{found:?}");
}
