//! Stock that is held for orders that nobody knows: `ruyi audit` names it, and `--repair` gives it back.

use reqwest::Method;
use ruyi::audit::{self, RoleDbs};
use ruyi::db::inbox::{self, Claim, Outcome};
use ruyi::db::migrate;
use ruyi::db::retry::{self, Parked};
use ruyi::domain::event::{Group, Kind};
use serde_json::json;

use crate::support::operators::Operator;
use crate::support::role_books::{STRICT, by_role, execute, until_only};
use crate::support::servers::{count, mariadb_url, write_tx};
use crate::support::serving::Serving;
use crate::support::waiting::eventually;

/// Below and above all orders that there are.
const UNKNOWN: [i64; 2] = [12_345, 777_000_111_222_333_444];

/// An ORDER_CREATED that no order wrote, in the hands of the stock role.
async fn send(dbs: &RoleDbs, id: i64) {
    let now_ms = dbs.stock.clock().now_ms();
    let body = json!({"eventId": Kind::OrderCreated.event_id(id), "timestamp": now_ms, "orderId": id.to_string(),
        "orderNo": "N", "userId": "7", "totalAmount": 3, "productQuantityMap": {"B2": 2}, "remark": "",
        "expireTime": now_ms + 600_000, "merchantId": "1", "channelId": "sandbox"});
    let parked = Parked {
        id: now_ms + id % 1_000,
        message_id: Kind::OrderCreated.event_id(id),
        topic: Kind::OrderCreated.name().to_owned(),
        tag: String::new(),
        key: id.to_string(),
        body: body.to_string().into_bytes(),
        properties: vec![],
        blocks: false,
        attempts: 0,
        next_at: Some(now_ms),
        first_failed_at: now_ms,
        last_error: String::new(),
    };
    let done = write_tx!(dbs.stock, [parked], |tx| {
        let group = Group::Stock.name();
        let claim = Claim { message_id: &parked.message_id, topic: &parked.topic, key: &parked.key, resent: None };
        inbox::claim(tx, group, 1, &[claim], now_ms).await?;
        retry::park(tx, group, std::slice::from_ref(&parked), now_ms).await?;
        inbox::set_outcome(tx, group, vec![parked.message_id.clone()], Outcome::Parked, None).await?;
        tx.wake_retries();
        Ok(())
    });
    done.unwrap();
}

async fn stock_of_nobody(databases: &[String]) {
    let fast = [r#"mq.retry.schedule=["100ms"]"#, "mq.outbox.sweep_interval=200ms"];
    let settings: Vec<&str> = databases.iter().map(String::as_str).chain(fast).collect();
    let serving = Serving::start(&settings).await;
    serving.fill().await;
    // An order that is there, and two whose rows will be gone.
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = serving.place(&json!({"userId": "7", "items": [{"sku": "A1", "quantity": 2}]})).await;
        serving.until(&format!("/payments/{id}"), "status", "PENDING").await;
        serving.until(&format!("/orders/{id}"), "status", "RESERVED").await;
        ids.push(id);
    }
    serving.fine(Method::POST, &format!("/payments/{}/pay", ids[2]), &json!({"method": "card"})).await;
    serving.until(&format!("/orders/{}", ids[2]), "outcome", "SIGNED").await;
    let dbs = RoleDbs::each(|role| serving.process.db_of(role).cloned().ok_or(())).unwrap();
    until_only(&dbs, &[]).await;
    for id in UNKNOWN {
        send(&dbs, id).await;
    }
    eventually("two reservations", async || serving.get("/stock/B2").await["frozen"] == 4).await;
    for id in &ids[1..] {
        assert_eq!(execute(&dbs.order, format!("DELETE FROM orders WHERE id = {id}")).await, 1);
    }
    let named = [UNKNOWN[0].to_string(), UNKNOWN[1].to_string(), ids[1].clone(), ids[2].clone()];
    until_only(&dbs, &named.iter().collect::<Vec<_>>()).await;
    let report = audit::run(&dbs, &STRICT).await.unwrap();
    for (id, state) in named.iter().zip(["FROZEN of 2 B2", "FROZEN of 2 B2", "FROZEN of 2 A1", "DEDUCTED of 2 A1"]) {
        let known = |one: &audit::Violation| {
            one.check == "reservations_match_orders"
                && one.key == *id
                && one.evidence.contains(state)
                && one.evidence.contains("there is no such order")
        };
        assert!(report.violations.iter().any(known), "{id}: {:#?}", report.violations);
    }
    // What is younger than the bound may still get its order.
    let patient = audit::Options { bound_ms: 3_600_000, ..STRICT };
    let report = audit::run(&dbs, &patient).await.unwrap();
    assert!(report.violations.iter().all(|one| one.check != "reservations_match_orders"), "{report:#?}");

    let mut settings: Vec<&str> = databases.iter().map(String::as_str).collect();
    settings.extend(["audit.settle=0s", "audit.bound=0s"]);
    let operator = Operator::with(&settings);
    for mended in ["mended", ""] {
        let (code, rows, said) = operator.items_and_code(&["audit", "--repair", "--yes"]).await;
        assert_eq!(code, 1, "{said}");
        for id in &named {
            let of =
                |row: &&serde_json::Value| row["key"] == id.as_str() && row["check"] == "reservations_match_orders";
            let result = rows.iter().find(of).map_or("", |row| row["result"].as_str().unwrap());
            let wanted = if UNKNOWN.iter().any(|unknown| unknown.to_string() == *id) { mended } else { "left" };
            assert_eq!(result, wanted, "{id}: {rows:#?}");
        }
        // As they are: what the role serves may come from its cache.
        let level = async |text| count(&dbs.stock, text).await;
        assert_eq!(level("SELECT available FROM stock WHERE sku = 'B2'").await, 1_000);
        assert_eq!(level("SELECT frozen FROM stock WHERE sku = 'B2'").await, 0);
        assert_eq!(level("SELECT available FROM stock WHERE sku = 'A1'").await, 994);
        assert_eq!(level("SELECT frozen FROM stock WHERE sku = 'A1'").await, 4);
    }
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_of_unknown_orders_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let url = |name: &str| format!("sqlite://{}", dir.path().join(name).display());
    stock_of_nobody(&[format!("database.url={}", url("one.db"))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_of_unknown_orders_comes_back_from_four_databases() {
    let dir = tempfile::tempdir().unwrap();
    let url = |name: &str| format!("sqlite://{}", dir.path().join(name).display());
    stock_of_nobody(&by_role(&[url("order.db"), url("payment.db"), url("stock.db"), url("notify.db")])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_of_unknown_orders_comes_back_on_mariadb() {
    let Some(url) = mariadb_url().await else { return };
    migrate::run(&url).await.unwrap();
    stock_of_nobody(&[format!("database.url={url}")]).await;
}
