//! A row that somebody else has locked holds up what needs it, and nothing else.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use ruyi::db::migrate;
use serde_json::json;
use sqlx::{AnyConnection, Connection};

use crate::support::recovery::{Callers, Moment, Readiness, are_all, none_lost_or_doubled};
use crate::support::servers::mariadb::MariaDb;
use crate::support::serving::{Serving, order_of};
use crate::support::waiting::eventually;

/// No request waits for longer, on a machine that is busy.
const BOUND: Duration = Duration::from_secs(30);

/// All roles on MariaDB, with stock; and a session beside them that can lock rows.
async fn shop(server: &MariaDb) -> (Serving, AnyConnection) {
    shop_with(server, r#"mq.retry.schedule=["500ms"]"#).await
}

async fn shop_with(server: &MariaDb, setting: &str) -> (Serving, AnyConnection) {
    let url = server.create("ruyi").await;
    migrate::run(&url).await.unwrap();
    let database = format!("database.url={url}");
    let settings = [database.as_str(), setting, "http.request_timeout=60s", "cache.ttl=0s"];
    let serving = Serving::start(&settings).await;
    serving.fill().await;
    (serving, server.connect("ruyi").await)
}

async fn lock(holder: &mut AnyConnection, text: &str) {
    sqlx::raw_sql("BEGIN").execute(&mut *holder).await.unwrap();
    let text = format!("{text} FOR UPDATE");
    let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(text)).fetch_all(&mut *holder).await.unwrap();
    assert!(!rows.is_empty());
}

/// Nobody was made to wait for ever, or to give up: what was held up is done as well.
async fn all_reserved(serving: &Serving, orders: &[String]) {
    for id in orders {
        serving.until(&format!("/orders/{id}"), "status", "RESERVED").await;
    }
    assert_eq!(serving.number("SELECT COUNT(*) FROM message_process_log WHERE outcome = 3").await, 0, "dead letters");
}

#[tokio::test(flavor = "multi_thread")]
async fn locked_stock_holds_up_orders_of_its_sku_alone() {
    let Some(server) = MariaDb::start() else { return };
    let (serving, mut holder) = shop(&server).await;
    lock(&mut holder, "SELECT sku FROM stock WHERE sku = 'A1'").await;
    let (mut held_up, mut others) = (Vec::new(), Vec::new());
    for _ in 0..12 {
        held_up.push(serving.place(&order_of("A1", 1)).await);
        others.push(serving.place(&order_of("B2", 1)).await);
    }

    all_reserved(&serving, &others).await;
    // Longer than all attempts would take: none is counted.
    tokio::time::sleep(Duration::from_secs(4)).await;
    for id in &held_up {
        assert_eq!(serving.get(&format!("/orders/{id}")).await["status"], "CREATED");
    }
    let (status, _, ready) = serving.reply(serving.request(Method::GET, "/readyz")).await;
    assert_eq!(status, StatusCode::OK, "the database is there: {ready}");

    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    all_reserved(&serving, &held_up).await;
    holder.close().await.unwrap();
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn locked_order_holds_up_no_other() {
    let Some(server) = MariaDb::start() else { return };
    let (serving, mut holder) = shop(&server).await;
    let mut orders = Vec::new();
    for _ in 0..6 {
        orders.push(serving.place(&order_of("A1", 1)).await);
    }
    all_reserved(&serving, &orders).await;
    lock(&mut holder, &format!("SELECT id FROM orders WHERE id = {}", orders[0])).await;

    let asked = orders.iter().map(|id| {
        let request = serving.request(Method::POST, &format!("/orders/{id}/cancel"));
        let request = request.json(&json!({"reason": "no"}));
        async {
            let started = Instant::now();
            let answer = request.send().await.unwrap();
            assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
            (answer.status(), answer.headers().contains_key("retry-after"))
        }
    });
    let answers = futures_util::future::join_all(asked).await;
    assert_eq!(answers[0], (StatusCode::SERVICE_UNAVAILABLE, true), "somebody has it");
    assert!(answers[1..].iter().all(|(status, _)| status.is_success()), "{answers:?}");
    let placed = serving.place(&order_of("B2", 1)).await;
    serving.until(&format!("/orders/{placed}"), "status", "RESERVED").await;

    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    let path = format!("/orders/{}/cancel", orders[0]);
    serving.fine(Method::POST, &path, &json!({"reason": "no"})).await;
    holder.close().await.unwrap();
    serving.stop().await;
}

/// What waits for a lock comes up again soon enough with the schedule of failed attempts that everybody has.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_locked_order_hold_up_no_other() {
    let Some(server) = MariaDb::start() else { return };
    let (serving, mut holder) = shop_with(&server, r#"mq.retry.schedule=["10s", "30s"]"#).await;
    let mut orders = Vec::new();
    for _ in 0..12 {
        orders.push(serving.place(&order_of("A1", 1)).await);
    }
    for id in &orders {
        serving.until(&format!("/payments/{id}"), "status", "PENDING").await;
        serving.until(&format!("/orders/{id}"), "status", "RESERVED").await;
    }
    let (held_up, others) = orders.split_at(1);
    let (readiness, callers) = (Readiness::watch(&serving), Callers::start(2, &[&serving]));

    lock(&mut holder, &format!("SELECT id FROM orders WHERE id = {}", held_up[0])).await;
    let struck = Moment::now();
    let paid = orders.iter().map(|id| {
        let request = serving.request(Method::POST, &format!("/payments/{id}/pay"));
        request.json(&json!({"method": "card"})).send()
    });
    for answer in futures_util::future::join_all(paid).await {
        assert_eq!(answer.unwrap().status(), StatusCode::ACCEPTED);
    }
    struck.as_before("the others go on", async || are_all(&serving, others, "outcome", "SIGNED").await).await;
    callers.until_accepted(2).await;
    let parked = "SELECT COUNT(*) FROM message_retry_log WHERE status = 0 AND blocks = 1";
    eventually("the event of the locked order waits", async || serving.number(parked).await > 0).await;
    assert!(are_all(&serving, held_up, "status", "RESERVED").await);

    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    let ended = Moment::now();
    ended.as_before("the locked order goes on", async || are_all(&serving, held_up, "outcome", "SIGNED").await).await;
    assert_eq!(callers.refused(), 0, "nobody needs that row");
    let accepted = callers.stop().await;
    readiness.stop().await.all_ready();
    none_lost_or_doubled(&serving, &accepted).await;
    holder.close().await.unwrap();
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn locked_coupon_holds_up_no_order_without_it() {
    let Some(server) = MariaDb::start() else { return };
    let (serving, mut holder) = shop(&server).await;
    let template = json!({ "name": "Five off", "kind": "AMOUNT", "amountOff": 5, "stock": 1_000, "perUser": 1_000,
        "validUntil": "2099-01-01T00:00:00Z" });
    serving.fine(Method::PUT, "/coupons/FIVE", &template).await;
    let issue = serving.request(Method::POST, "/coupons/FIVE/issue").header("idempotency-key", "one");
    let (status, _, coupon) = serving.reply(issue.json(&json!({"userId": "7"}))).await;
    assert_eq!(status, StatusCode::CREATED, "{coupon}");
    let coupon = coupon["couponId"].as_str().unwrap().to_owned();
    lock(&mut holder, &format!("SELECT id FROM coupon WHERE id = {coupon}")).await;

    let mut with_coupon = order_of("A1", 1);
    with_coupon["couponId"] = json!(coupon);
    let asked = (0..24).map(|number| {
        let body = if number % 4 == 0 { with_coupon.clone() } else { order_of("B2", 1) };
        let request = serving.request(Method::POST, "/orders").json(&body);
        async move {
            let started = Instant::now();
            let answer = request.send().await.unwrap();
            assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
            let expected = if number % 4 == 0 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::CREATED };
            assert_eq!(answer.status(), expected, "{number}");
        }
    });
    futures_util::future::join_all(asked).await;

    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    serving.fine(Method::POST, "/orders", &with_coupon).await;
    holder.close().await.unwrap();
    serving.stop().await;
}
