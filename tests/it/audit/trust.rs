//! `ruyi audit --repair` on orders whose row lies: nothing that would follow from it is done.

use std::collections::BTreeMap;

use reqwest::Method;
use ruyi::audit::{self, RoleDbs};
use ruyi::db::Db;
use serde_json::{Value, json};

use crate::support::operators::Operator;
use crate::support::role_books::{STRICT, execute, until_only};
use crate::support::servers::count;
use crate::support::serving::Serving;

/// A row that is not as it should be.
struct Lie {
    name: &'static str,
    /// Of an order that was signed, or of one that waits to be paid.
    signed: bool,
    /// `$` is the order.
    tells: &'static str,
    /// Takes it back.
    undone: &'static str,
    /// What the audit says of it.
    evidence: &'static str,
}

const SIGNED: &str = "UPDATE orders SET status = 60, cancel_type = NULL WHERE id = $";

const LIES: [Lie; 8] = [
    Lie {
        name: "delivered, said to be canceled",
        signed: true,
        tells: "UPDATE orders SET status = 90 WHERE id = $",
        undone: SIGNED,
        evidence: "CANCELED, but ORDER_SIGNED of it was handled",
    },
    Lie {
        name: "delivered, said to be canceled by its user",
        signed: true,
        tells: "UPDATE orders SET status = 90, cancel_type = 'USER' WHERE id = $",
        undone: SIGNED,
        evidence: "CANCELED, but ORDER_SIGNED of it was handled",
    },
    Lie {
        name: "delivered, said to be new",
        signed: true,
        tells: "UPDATE orders SET status = 0 WHERE id = $",
        undone: SIGNED,
        evidence: "CREATED, but ORDER_SIGNED of it was handled",
    },
    Lie {
        name: "delivered, said to be waiting",
        signed: true,
        tells: "UPDATE orders SET status = 20 WHERE id = $",
        undone: SIGNED,
        evidence: "PAID, but ORDER_SIGNED of it was handled",
    },
    Lie {
        name: "of an amount that nobody paid",
        signed: true,
        tells: "UPDATE orders SET total_amount = 1 WHERE id = $",
        undone: "UPDATE orders SET total_amount = 11960 WHERE id = $",
        evidence: "of 0.01 CNY paid by",
    },
    Lie {
        name: "of a state that nobody knows",
        signed: true,
        tells: "UPDATE orders SET status = 55 WHERE id = $",
        undone: SIGNED,
        evidence: "unknown status 55",
    },
    Lie {
        name: "not paid, said to be paid",
        signed: false,
        tells: "UPDATE orders SET status = 20 WHERE id = $",
        undone: "UPDATE orders SET status = 10 WHERE id = $",
        evidence: "order PAID, no successful payment",
    },
    Lie {
        name: "reserved, said to be canceled",
        signed: false,
        tells: "UPDATE orders SET status = 90 WHERE id = $",
        undone: "UPDATE orders SET status = 10 WHERE id = $",
        evidence: "CANCELED, but by nobody",
    },
];

async fn set(db: &Db, text: &str, id: &str) {
    assert!(execute(db, text.replace('$', id)).await > 0, "{text}");
}

/// An order of two pieces of A1 for user 7, through to the end or up to its payment.
async fn order(serving: &Serving, signed: bool) -> String {
    let id = serving.place(&json!({"userId": "7", "items": [{"sku": "A1", "quantity": 2}]})).await;
    serving.until(&format!("/payments/{id}"), "status", "PENDING").await;
    serving.until(&format!("/orders/{id}"), "status", "RESERVED").await;
    if signed {
        serving.fine(Method::POST, &format!("/payments/{id}/pay"), &json!({"method": "card"})).await;
        serving.until(&format!("/orders/{id}"), "outcome", "SIGNED").await;
    }
    id
}

/// A shop on one database, and somebody who audits it with these settings on top.
async fn shop(dir: &tempfile::TempDir, settings: &[&str]) -> (Serving, Operator) {
    let database = format!("database.url=sqlite://{}", dir.path().join("ruyi.db").display());
    let fast = [r#"mq.retry.schedule=["100ms"]"#, "mq.outbox.sweep_interval=200ms", &database];
    let serving = Serving::start(&fast).await;
    serving.fill().await;
    let strict = [&database, "audit.settle=0s", "audit.bound=0s"];
    (serving, Operator::with(&[&strict, settings].concat()))
}

/// What money, stock and points there are, and all that could change them.
async fn world(serving: &Serving) -> (BTreeMap<String, i64>, Value, [i64; 4]) {
    let sums = [
        "SELECT CAST(SUM(status * (order_id % 1000003)) AS SIGNED) FROM stock_reservation",
        "SELECT CAST(SUM(status * (id % 1000003)) AS SIGNED) FROM payment_record",
        "SELECT CAST(SUM(balance) AS SIGNED) FROM user_points",
        "SELECT COUNT(*) FROM message_record WHERE status <> 1",
    ];
    let mut numbers = [0; 4];
    for (number, text) in numbers.iter_mut().zip(sums) {
        *number = serving.number(text).await;
    }
    (serving.rows().await, serving.get("/stock/A1").await["available"].clone(), numbers)
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_contradict_themselves_are_left_to_people() {
    let dir = tempfile::tempdir().unwrap();
    let (serving, operator) = shop(&dir, &[]).await;
    let mut ids = Vec::new();
    for lie in &LIES {
        ids.push(order(&serving, lie.signed).await);
    }
    let moved = order(&serving, true).await;
    let dbs = RoleDbs::one(serving.db());
    until_only(&dbs, &[]).await;
    serving.settled().await;
    for (lie, id) in LIES.iter().zip(&ids) {
        set(&dbs.order, lie.tells, id).await;
    }
    // A reservation that neither its ledger nor its order knows of; and something that has nothing to do with it.
    set(&dbs.order, "UPDATE stock_reservation SET status = 3 WHERE order_id = $", &moved).await;
    let before = world(&serving).await;
    set(&dbs.order, "UPDATE user_points SET balance = balance + 5 WHERE user_id = 7", "").await;
    let report = audit::run(&dbs, &STRICT).await.unwrap();
    for (lie, id) in LIES.iter().zip(&ids) {
        let named = |one: &&audit::Violation| one.key == *id && one.evidence.contains(lie.evidence);
        assert!(report.violations.iter().any(|one| named(&one)), "{}: {:#?}", lie.name, report.violations);
    }

    let (code, rows, said) = operator.items_and_code(&["audit", "--repair", "--yes"]).await;
    assert_eq!(code, 1, "{said}");
    for row in &rows {
        let wanted = if row["key"] == "7" { "mended" } else { "left" };
        assert_eq!(row["result"], wanted, "{row}");
        assert!(wanted == "mended" || row["action"].is_null(), "{row}");
    }
    for (lie, id) in LIES.iter().zip(&ids) {
        let why =
            |row: &&Value| row["detail"].as_str().is_some_and(|why| why.contains("contradicts what else is known"));
        assert!(rows.iter().filter(|row| row["key"] == id.as_str()).any(|row| why(&row)), "{}: {rows:#?}", lie.name);
    }
    assert!(rows.iter().any(|row| row["key"] == moved.as_str()) && rows.iter().any(|row| row["key"] == "7"));
    // Nobody does anything later, either: there is nothing that anybody could.
    assert_eq!(world(&serving).await, before);

    for (lie, id) in LIES.iter().zip(&ids) {
        set(&dbs.order, lie.undone, id).await;
    }
    set(&dbs.order, "UPDATE stock_reservation SET status = 2 WHERE order_id = $", &moved).await;
    let report = audit::run(&dbs, &STRICT).await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
    serving.stop().await;
}

/// A correction is right as long as what it was made from is: a later one is added to it.
#[tokio::test(flavor = "multi_thread")]
async fn points_are_corrected_as_often_as_they_are_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let (serving, operator) = shop(&dir, &[]).await;
    let id = order(&serving, true).await;
    let dbs = RoleDbs::one(serving.db());
    until_only(&dbs, &[]).await;
    serving.settled().await;
    for change in [7, -11, 4] {
        let text = format!("UPDATE points_record SET points = points + {change} WHERE kind = 1 AND order_id = $");
        set(&dbs.notify, &text, &id).await;
        set(&dbs.notify, &format!("UPDATE user_points SET balance = balance + {change} WHERE user_id = 7"), &id).await;
        let rows = operator.items(&["audit", "--repair", "--yes"]).await;
        assert_eq!(rows.iter().map(|row| row["result"].as_str().unwrap()).collect::<Vec<_>>(), ["mended"], "{rows:?}");
        assert_eq!(count(&dbs.notify, "SELECT balance FROM user_points WHERE user_id = 7").await, 119);
        assert!(operator.items(&["audit", "--repair", "--yes"]).await.is_empty());
    }
    assert_eq!(count(&dbs.notify, "SELECT COUNT(*) FROM points_record").await, 2);
    serving.stop().await;
}
