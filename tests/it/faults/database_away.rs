//! What callers are told while the database is away, and what happens when it is back.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use ruyi::audit::{self, RoleDbs};
use ruyi::db::migrate;
use serde_json::json;

use crate::support::documented::is_documented;
use crate::support::servers::mariadb::MariaDb;
use crate::support::serving::Serving;

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_put_off_while_database_is_away() {
    let Some(server) = MariaDb::start() else { return };
    let url = server.create("ruyi").await;
    migrate::run(&url).await.unwrap();
    let database = format!("database.url={url}");
    // A request may take longer than any refusal does, on however slow a machine.
    let serving =
        Serving::start(&[&database, r#"mq.retry.schedule=["100ms"]"#, "http.request_timeout=60s", "cache.ttl=0s"])
            .await;
    serving.fill().await;
    let order = json!({"userId": "7", "items": [{"sku": "A1", "quantity": 2}]});
    let before = serving.place(&order).await;
    serving.until(&format!("/orders/{before}"), "status", "RESERVED").await;

    server.kill();
    let callback = json!({"orderId": before, "event": "ORDER_OUT_STOCK", "occurredAt": 1}).to_string();
    let mut requests = Vec::new();
    for _ in 0..3 {
        for path in [
            format!("/orders/{before}"),
            format!("/orders?ids={before}"),
            "/orders?userId=7".to_owned(),
            format!("/payments/{before}"),
            "/products/A1".to_owned(),
            "/stock/A1".to_owned(),
            "/points/7".to_owned(),
            "/notifications?userId=7".to_owned(),
        ] {
            requests.push((path.clone(), serving.request(Method::GET, &path)));
        }
        for (method, path, body) in [
            (Method::POST, "/orders".to_owned(), order.clone()),
            (Method::POST, format!("/orders/{before}/cancel"), json!({"reason": "no"})),
            (Method::POST, format!("/payments/{before}/pay"), json!({"method": "card"})),
            (Method::PUT, "/products/A1".to_owned(), json!({"name": "Tea", "price": 3})),
            (Method::PUT, "/stock/A1".to_owned(), json!({"available": 1})),
            (Method::POST, "/stock/A1/adjust".to_owned(), json!({"change": 1, "reason": "found"})),
        ] {
            requests.push((path.clone(), serving.request(method, &path).json(&body)));
        }
        let path = "/fulfil/callback";
        requests.push((path.to_owned(), serving.signed(path, "sandbox", serving.now_s(), &callback)));
    }
    let asked = requests.into_iter().map(|(path, request)| async move {
        let (client, request) = request.build_split();
        let request = request.unwrap();
        let (method, place) = (request.method().clone(), request.url().path().to_owned());
        let answer = client.execute(request).await.unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        let text = answer.text().await.unwrap();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{path}: {text}");
        is_documented(&method, &place, status);
        assert!(headers.contains_key("retry-after"), "{path}: {text}");
        assert_eq!(headers["content-type"], "application/problem+json", "{path}");
    });
    futures_util::future::join_all(asked).await;
    let (status, _, ready) = serving.reply(serving.request(Method::GET, "/readyz")).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{ready}");
    assert_eq!(serving.get("/healthz").await["status"], "ok", "it lives");

    server.start_again().await;
    serving.until("/readyz", "status", "ready").await;
    let after = serving.place(&order).await;
    for id in [&before, &after] {
        serving.until(&format!("/orders/{id}"), "status", "RESERVED").await;
        serving.fine(Method::POST, &format!("/payments/{id}/pay"), &json!({"method": "card"})).await;
        serving.until(&format!("/orders/{id}"), "outcome", "SIGNED").await;
    }
    let dbs = RoleDbs::one(serving.db());
    let options = audit::Options {
        settle_ms: 0,
        bound_ms: 0,
        parcel_bound_ms: 1_000_000_000,
        zone: jiff::tz::TimeZone::UTC,
        page: 100,
        evidence: 10,
        events_kept_ms: 1_000_000_000,
        data_sync: true,
    };
    let clean = async {
        while !audit::run(&dbs, &options).await.unwrap().is_clean() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), clean).await.expect("nothing is wrong");
    serving.stop().await;
}
