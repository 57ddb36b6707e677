//! A server of the tables that does not answer, answers slowly, or answers that it cannot: behind a proxy of the tests.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use ruyi::db::sql::{self, Columns};
use ruyi::db::{Db, DbError, Options, migrate, products};
use ruyi::domain::money::Money;
use ruyi::fault::Faults;
use ruyi::vals;
use serde_json::json;

use crate::support::proxy::{Flow, Proxy};
use crate::support::recovery::{Callers, Moment, Readiness, are_all, none_lost_or_doubled};
use crate::support::servers::mariadb::MariaDb;
use crate::support::servers::write_tx;
use crate::support::serving::{Serving, order_of};
use crate::support::waiting::eventually;

/// No request waits for longer: a wait for a connection and one for an answer, on a machine that is busy.
const BOUND: Duration = Duration::from_secs(30);

/// A server that hangs does so for longer than anybody waits for it.
const HANGS: Duration = Duration::from_secs(10);

/// `/readyz` says within so long that a server hangs.
const TOLD: Duration = Duration::from_secs(10);

const SETTINGS: [&str; 3] = [r#"mq.retry.schedule=["100ms"]"#, "http.request_timeout=60s", "cache.ttl=0s"];

/// All roles on MariaDB behind a proxy, with stock.
async fn shop(server: &MariaDb) -> (Serving, Proxy) {
    let url = server.create("ruyi").await;
    migrate::run(&url).await.unwrap();
    let proxy = Proxy::to(server.port()).await;
    let database = format!("database.url={}", proxy.url(&url));
    let serving = Serving::start(&[&[database.as_str()], SETTINGS.as_slice()].concat()).await;
    serving.fill().await;
    (serving, proxy)
}

/// A database on `url` with a product to write to.
async fn open(url: &str) -> Db {
    migrate::run(url).await.unwrap();
    let options = Options {
        url: url.to_owned(),
        max_connections: 4,
        clock: ruyi::clock::Clock::system(),
        faults: Faults::none(),
    };
    Db::open(&options).await.unwrap()
}

/// Writes the product `sku`.
async fn put(db: &Db, sku: &str) -> Result<(), DbError> {
    let product = products::Product {
        sku: sku.to_owned(),
        name: "Tea".into(),
        price: Money::from_minor(1).unwrap(),
        currency: "CNY".into(),
        active: true,
    };
    let product = vec![product];
    write_tx!(db, [product], |tx| { products::put(tx, &product, 1).await })
}

/// Asks until it is done: every other answer comes in time, is 503, and says when to ask again.
async fn until_done(serving: &Serving, method: Method, path: &str, body: &serde_json::Value) -> serde_json::Value {
    let started = Instant::now();
    loop {
        let asked = Instant::now();
        let answer = serving.request(method.clone(), path).json(body).send().await.unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        assert!(asked.elapsed() < BOUND, "{path}: {status} after {:?}", asked.elapsed());
        let text = answer.text().await.unwrap();
        if status.is_success() {
            return serde_json::from_str(&text).unwrap();
        }
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{path}: {text}");
        assert!(headers.contains_key("retry-after"), "{path}: {text}");
        assert!(started.elapsed() < 4 * BOUND, "{path} is never done");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_hang_are_replaced_within_seconds() {
    let Some(server) = MariaDb::start() else { return };
    let (serving, proxy) = shop(&server).await;
    let before = serving.place(&order_of("A1", 1)).await;
    serving.until(&format!("/orders/{before}"), "status", "RESERVED").await;

    for flow in [Flow::Frozen, Flow::Mute, Flow::HalfOpen] {
        assert!(proxy.set_present(flow) > 0);
        let order = until_done(&serving, Method::POST, "/orders", &order_of("A1", 1)).await;
        let path = format!("/orders/{}", order["orderId"].as_str().unwrap());
        until_done(&serving, Method::GET, &path, &json!(null)).await;
        serving.until(&path, "status", "RESERVED").await;
    }
    serving.until("/readyz", "status", "ready").await;
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_put_off_while_server_hangs() {
    let Some(server) = MariaDb::start() else { return };
    let (serving, proxy) = shop(&server).await;
    proxy.set_all(Flow::Frozen);
    let asked = (0..12).map(|number| {
        let request = match number % 3 {
            0 => serving.request(Method::POST, "/orders").json(&order_of("A1", 1)),
            1 => serving.request(Method::GET, "/products/A1"),
            _ => serving.request(Method::PUT, "/stock/B2").json(&json!({"available": 7})),
        };
        async move {
            let started = Instant::now();
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert!(answer.headers().contains_key("retry-after"));
            assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
        }
    });
    futures_util::future::join_all(asked).await;
    let (status, _, ready) = serving.reply(serving.request(Method::GET, "/readyz")).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{ready}");

    proxy.set_all(Flow::Open);
    serving.until("/readyz", "status", "ready").await;
    let after = until_done(&serving, Method::POST, "/orders", &order_of("A1", 1)).await;
    serving.until(&format!("/orders/{}", after["orderId"].as_str().unwrap()), "status", "RESERVED").await;
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_session_has_locked_is_freed() {
    let Some(server) = MariaDb::start() else { return };
    let url = server.create("ruyi").await;
    let direct = open(&url).await;
    let proxy = Proxy::to(server.port()).await;
    let hanging = open(&proxy.url(&url)).await;
    for sku in ["A1", "B2"] {
        put(&direct, sku).await.unwrap();
    }

    let freeze = proxy.clone();
    let started = Instant::now();
    let hung = write_tx!(hanging, [freeze], |tx| {
        sql::fetch(tx, "SELECT sku FROM product WHERE sku = ? FOR UPDATE", vals!["A1"]).await?;
        freeze.set_present(Flow::Frozen);
        sql::execute(tx, "UPDATE product SET name = 'x' WHERE sku = ?", vals!["A1"]).await
    });
    let error = hung.unwrap_err();
    assert!(error.is_outage() && error.is_silence(), "{error}");
    assert!(started.elapsed() < BOUND);

    // The server has not heard of the end: its session has the row, until it has been idle for too long.
    put(&direct, "B2").await.unwrap();
    put(&hanging, "B2").await.unwrap();
    eventually("the row of the dead session is free", async || match put(&direct, "A1").await {
        Ok(()) => true,
        Err(error) => {
            assert!(error.is_locked() && !error.is_outage(), "{error}");
            false
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_connections_do_not_mean_an_outage() {
    let Some(server) = MariaDb::start() else { return };
    let db = open(&server.create("ruyi").await).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(db.read().await.unwrap());
    }
    let refused = db.read().await.err().unwrap();
    assert!(matches!(refused, DbError::Busy) && refused.is_outage(), "{refused}");
    held.pop();
    db.ping().await.unwrap();
    assert_eq!(db.writes_fail(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_can_only_read_are_replaced() {
    let Some(server) = MariaDb::start() else { return };
    let (serving, proxy) = shop(&server).await;
    let before = serving.place(&order_of("A1", 1)).await;
    serving.until(&format!("/orders/{before}"), "status", "RESERVED").await;

    let mut admin = server.connect("mysql").await;
    sqlx::raw_sql("SET GLOBAL tx_read_only = 1").execute(&mut admin).await.unwrap();
    proxy.set_present(Flow::Cut);
    // The event of an order that was paid for meets such sessions as well.
    for _ in 0..3 {
        let request = serving.request(Method::POST, "/orders").json(&order_of("A1", 1));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.headers().contains_key("retry-after"));
        let (status, _, answer) = serving.send(Method::PUT, "/stock/A1", &json!({"available": 9})).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    }
    eventually("/readyz tells", async || {
        let (status, _, _) = serving.reply(serving.request(Method::GET, "/readyz")).await;
        status == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    assert_eq!(serving.get(&format!("/orders/{before}")).await["status"], "RESERVED", "it can still be read");

    sqlx::raw_sql("SET GLOBAL tx_read_only = 0").execute(&mut admin).await.unwrap();
    serving.until("/readyz", "status", "ready").await;
    let after = serving.place(&order_of("A1", 1)).await;
    serving.until(&format!("/orders/{after}"), "status", "RESERVED").await;
    assert_eq!(serving.number("SELECT COUNT(*) FROM message_retry_log").await, 0, "nothing was parked");
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn address_that_moves_is_followed_at_first_write() {
    let (Some(old), Some(new)) = (MariaDb::start(), MariaDb::start()) else { return };
    let url = old.create("ruyi").await;
    let mut admin = old.connect("mysql").await;
    // The administrator may write to a server that is read-only.
    for text in ["CREATE USER shop@'127.0.0.1'", "GRANT ALL ON ruyi.* TO shop@'127.0.0.1'"] {
        sqlx::raw_sql(text).execute(&mut admin).await.unwrap();
    }
    let url_of_new = new.create("ruyi").await;
    migrate::run(&url_of_new).await.unwrap();
    let proxy = Proxy::to(old.port()).await;
    let mut to_new = new.connect("mysql").await;
    for text in ["CREATE USER shop@'127.0.0.1'", "GRANT ALL ON ruyi.* TO shop@'127.0.0.1'"] {
        sqlx::raw_sql(text).execute(&mut to_new).await.unwrap();
    }
    let db = open(&proxy.url(&url).replace("root@", "shop@")).await;
    put(&db, "A1").await.unwrap();

    sqlx::raw_sql("SET GLOBAL read_only = 1").execute(&mut admin).await.unwrap();
    let refused = put(&db, "B2").await.unwrap_err();
    assert!(refused.is_outage(), "{refused}");
    assert!(db.writes_fail().is_some_and(|why| why.contains("1290")));
    // Connections that were idle while the address moved lead to the old server still.
    db.ping().await.unwrap();
    proxy.lead_to(new.port());
    put(&db, "C3").await.unwrap();
    let mut conn = db.read().await.unwrap();
    let text = "SELECT CAST(@@port AS SIGNED)";
    let port = sql::fetch_one(&mut conn, text, vec![]).await.unwrap().unwrap().int(0).unwrap();
    assert_eq!(port, i64::from(new.port()), "what is read comes from the new one as well");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_sessions_are_replaced_without_an_error() {
    let Some(server) = MariaDb::start() else { return };
    let url = server.create("ruyi").await;
    let proxy = Proxy::to(server.port()).await;
    let db = open(&proxy.url(&url)).await;
    for round in 0..3 {
        put(&db, "A1").await.unwrap();
        proxy.set_present(Flow::Cut);
        db.ping().await.unwrap_or_else(|error| panic!("{round}: {error}"));
        put(&db, "A1").await.unwrap();
        // In the middle of a transaction, which is run again as a whole.
        let (proxy, runs) = (proxy.clone(), std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0)));
        let write = write_tx!(db, [proxy, runs], |tx| {
            sql::execute(tx, "UPDATE product SET name = 'y' WHERE sku = ?", vals!["A1"]).await?;
            if runs.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 {
                proxy.set_present(Flow::Cut);
            }
            sql::execute(tx, "UPDATE product SET name = 'z' WHERE sku = ?", vals!["A1"]).await
        });
        assert_eq!(write.unwrap(), 1);
        assert_eq!(runs.load(std::sync::atomic::Ordering::SeqCst), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_hung_or_slow_connection_stops_no_other() {
    let Some(server) = MariaDb::start() else { return };
    let url = server.create("ruyi").await;
    let proxy = Proxy::to(server.port()).await;
    let db = open(&proxy.url(&url)).await;
    put(&db, "A1").await.unwrap();
    for index in 0..proxy.connections() {
        proxy.set_one(index, Flow::Frozen);
        put(&db, "A1").await.unwrap();
    }
    // Slow is not away.
    proxy.set_all(Flow::Slow(Duration::from_millis(100)));
    put(&db, "A1").await.unwrap();
    assert_eq!(db.writes_fail(), None);
}

/// That of the stock role. The others have a database that answers, and do what they can do without stock.
#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole_ends_within_fifteen_seconds() {
    let Some(server) = MariaDb::start() else { return };
    let (orders, stock) = (server.create("ruyi").await, server.create("ruyi_stock").await);
    for url in [&orders, &stock] {
        migrate::run(url).await.unwrap();
    }
    let proxy = Proxy::to(server.port()).await;
    let (orders, stock) = (format!("database.url={orders}"), format!("database.roles.stock={}", proxy.url(&stock)));
    let serving = Serving::start(&[&[orders.as_str(), &stock], SETTINGS.as_slice()].concat()).await;
    serving.fill().await;
    let bought = serving.place(&order_of("B2", 1)).await;
    serving.until(&format!("/payments/{bought}"), "status", "PENDING").await;
    let (readiness, callers) = (Readiness::watch(&serving), Callers::start(2, &[&serving]));
    callers.until_accepted(2).await;

    // Its connections are dead, and new ones are served: nobody need end the cause.
    let began = Moment::now();
    assert!(proxy.set_present(Flow::Frozen) > 0);
    let placed = [serving.place(&order_of("A1", 1)).await];
    let has_pieces = async || are_all(&serving, &placed, "status", "RESERVED").await;
    began.as_before("stock is frozen over new connections", has_pieces).await;

    let hung = Moment::now();
    proxy.set_all(Flow::Frozen);
    serving.fine(Method::POST, &format!("/payments/{bought}/pay"), &json!({"method": "card"})).await;
    let is_paid = async || !serving.get(&format!("/orders/{bought}")).await["payTime"].is_null();
    let of_stock = |checks: &serde_json::Value| checks["database"].as_str().unwrap().starts_with("stock: ");
    tokio::join!(
        hung.within(TOLD, "/readyz names the role", async || readiness.has_told_since(hung, of_stock)),
        eventually("what is in stock already is paid for", is_paid),
        callers.until_accepted(4),
        tokio::time::sleep(HANGS),
    );

    proxy.set_all(Flow::Open);
    let (ended, accepted) = (Moment::now(), callers.orders());
    ended.as_before("it is ready", async || readiness.is_ready_since(ended)).await;
    let have_pieces = async || are_all(&serving, &accepted, "status", "RESERVED").await;
    ended.as_before("all orders have their pieces", have_pieces).await;
    serving.until(&format!("/orders/{bought}"), "outcome", "SIGNED").await;

    assert_eq!(callers.refused(), 0, "the order role has its database");
    let accepted = callers.stop().await;
    readiness.stop().await.named_alone(began, ended, of_stock);
    none_lost_or_doubled(&serving, &accepted).await;
    serving.stop().await;
}
