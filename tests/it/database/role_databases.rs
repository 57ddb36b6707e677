//! A database for each role: one process that serves them all, and the audit over them.

use reqwest::{Method, StatusCode};
use ruyi::audit::{self, RoleDbs};
use ruyi::db::sql::{self, Columns};
use ruyi::db::{Db, migrate};
use ruyi::domain::event::Role;
use serde_json::json;

use crate::support::role_books::by_role;
use crate::support::servers::mariadb_url;
use crate::support::serving::Serving;

const STRICT: audit::Options = audit::Options {
    settle_ms: 0,
    bound_ms: 0,
    parcel_bound_ms: 1_000_000_000,
    zone: jiff::tz::TimeZone::UTC,
    page: 100,
    evidence: 10,
    events_kept_ms: 1_000_000_000,
    data_sync: true,
};

async fn count(db: &Db, text: &'static str) -> i64 {
    let mut conn = db.read().await.unwrap();
    sql::fetch_one(&mut conn, text, vec![]).await.unwrap().unwrap().int(0).unwrap()
}

/// Orders that are paid, canceled and refunded, with each role in the database of that place.
async fn orders_end(urls: [String; 4]) {
    let mut settings = by_role(&urls);
    settings.extend([r#"mq.retry.schedule=["100ms"]"#, "mq.outbox.sweep_interval=200ms"].map(str::to_owned));
    let serving = Serving::start(&settings.iter().map(String::as_str).collect::<Vec<_>>()).await;
    serving.fill().await;
    let order = json!({"userId": "7", "items": [{"sku": "A1", "quantity": 2}]});
    let held = json!({"userId": "7", "items": [{"sku": "B2", "quantity": 1}], "holdSeconds": 3600});
    let (paid, refunded, canceled) =
        (serving.place(&order).await, serving.place(&held).await, serving.place(&order).await);
    serving.fine(Method::POST, &format!("/orders/{canceled}/cancel"), &json!({"reason": "no"})).await;
    for id in [&paid, &refunded] {
        serving.until(&format!("/payments/{id}"), "status", "PENDING").await;
        serving.fine(Method::POST, &format!("/payments/{id}/pay"), &json!({"method": "card"})).await;
    }
    serving.until(&format!("/orders/{refunded}"), "status", "PAID").await;
    serving.fine(Method::POST, &format!("/orders/{refunded}/cancel"), &json!({"reason": "no"})).await;
    paid_at_the_gateway(&serving).await;
    for (id, outcome) in [(&paid, "SIGNED"), (&refunded, "REFUNDED"), (&canceled, "CANCELED")] {
        serving.until(&format!("/orders/{id}"), "outcome", outcome).await;
    }

    let dbs = RoleDbs::each(|role| serving.process.db_of(role).cloned().ok_or(())).unwrap();
    assert_eq!(dbs.distinct().len(), 4);
    let tables = [
        (Role::Order, "SELECT COUNT(*) FROM orders"),
        (Role::Payment, "SELECT COUNT(*) FROM payment_record"),
        (Role::Stock, "SELECT COUNT(*) FROM stock_reservation"),
        (Role::Notify, "SELECT COUNT(*) FROM points_record"),
    ];
    for role in Role::ALL {
        for (owner, text) in tables {
            assert_eq!(count(dbs.of(role), text).await > 0, role == owner, "{text} of {}", role.name());
        }
        let open = "SELECT COUNT(*) FROM message_record WHERE status = 0";
        let sent = async {
            while count(dbs.of(role), open).await > 0 {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), sent).await.expect("all events leave");
        // Ids of different databases differ.
        let (number, _) = dbs.of(role).ids().lease();
        assert_eq!(number / 256, Role::ALL.iter().position(|one| *one == role).unwrap() as i64);
    }
    let report = audit::run(&dbs, &STRICT).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
    assert!(
        report
            .checks
            .iter()
            // Nobody is told: there is no merchant's address, and no provider.
            .all(|check| check.checked > 0 || ["duplicates", "nothing_stuck", "deliveries"].contains(&check.name))
    );

    // What is wrong in one of them is found.
    let spoil = "UPDATE stock SET frozen = frozen + 1";
    let spoiled = dbs.stock.write("test", move |tx| Box::pin(async move { sql::execute(tx, spoil, vec![]).await }));
    assert!(spoiled.await.unwrap() > 0);
    assert!(!audit::run(&dbs, &STRICT).await.unwrap().is_clean());
    serving.stop().await;
}

/// A merchant's own payment: the notify role tells the payment role of the merchant first.
async fn paid_at_the_gateway(serving: &Serving) {
    let merchant = json!({"name": "Tea House", "accepts": [{"productId": "h5", "channelId": "sandbox"}]});
    serving.fine(Method::PUT, "/merchants/9", &merchant).await;
    let wish = json!({"merchantId": "9", "outOrderNo": "G-1", "amount": 5, "productId": "h5", "channelId": "sandbox"});
    let opened = async {
        while serving.send(Method::POST, "/payments", &wish).await.0 != StatusCode::CREATED {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), opened).await.expect("the merchant becomes known");
    serving.until("/merchants/9/payments/G-1", "status", "SUCCESS").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_end_on_four_sqlite_files() {
    let dir = tempfile::tempdir().unwrap();
    let url = |name: &str| format!("sqlite://{}", dir.path().join(name).display());
    orders_end([url("order.db"), url("payment.db"), url("stock.db"), url("notify.db")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_end_on_four_mariadb_databases() {
    let mut urls = Vec::new();
    for _ in 0..4 {
        let Some(url) = mariadb_url().await else { return };
        migrate::run(&url).await.unwrap();
        urls.push(url);
    }
    orders_end(urls.try_into().unwrap()).await;
}
