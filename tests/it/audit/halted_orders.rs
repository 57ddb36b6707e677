//! Paid orders that come no further: `ruyi audit` names what is missing, `--repair` sets them going, `ruyi trace` tells.

use reqwest::Method;
use ruyi::audit::{self, RoleDbs};
use serde_json::{Value, json};

use crate::support::operators::Operator;
use crate::support::role_books::{STRICT, execute, until_only};
use crate::support::serving::Serving;

/// What is done to an order that was signed, so that it stands where it would have stopped; `$` is the order.
const STOPS: [(&str, &[&str]); 5] = [
    (
        "TRIGGER_ORDER_FULFILL was handled, but the order was never handed to the warehouse",
        &["UPDATE orders SET status = 20, handed_over = 0 WHERE id = $", "DELETE FROM delivery WHERE order_id = $"],
    ),
    (
        "TRIGGER_ORDER_FULFILL was given up by order-fulfill-consumer-group",
        &[
            "UPDATE orders SET status = 20, handed_over = 0 WHERE id = $",
            "DELETE FROM delivery WHERE order_id = $",
            "UPDATE message_process_log SET outcome = 3 WHERE message_id = '$:TRIGGER_ORDER_FULFILL'",
        ],
    ),
    (
        "it was handed over, but there is no call to the warehouse",
        &["UPDATE orders SET status = 20 WHERE id = $", "DELETE FROM delivery WHERE order_id = $"],
    ),
    ("the warehouse has not told ORDER_FULFILL_SUCCESS", &["UPDATE orders SET status = 20 WHERE id = $"]),
    ("the carrier has not told ORDER_SIGNED", &["UPDATE orders SET status = 50 WHERE id = $"]),
];

/// Nothing of what came after it.
const FORGET: [&str; 3] = [
    "DELETE FROM message_record WHERE msg_key = '$' AND topic IN ('ORDER_FULFILL_SUCCESS', 'ORDER_OUT_STOCK', \
     'ORDER_DELIVERY', 'ORDER_SIGNED')",
    "DELETE FROM message_process_log WHERE msg_key = '$' AND topic IN ('ORDER_FULFILL_SUCCESS', 'ORDER_OUT_STOCK', \
     'ORDER_DELIVERY', 'ORDER_SIGNED')",
    "DELETE FROM delivery WHERE order_id = $ AND kind = 5",
];

fn missing(items: &[Value]) -> Vec<&str> {
    items.iter().filter(|item| item["missing"] == true).map(|item| item["what"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn halted_orders_are_named_and_set_going() {
    let dir = tempfile::tempdir().unwrap();
    let database = format!("database.url=sqlite://{}", dir.path().join("ruyi.db").display());
    let fast = [r#"mq.retry.schedule=["100ms"]"#, "mq.outbox.sweep_interval=200ms", &database];
    let serving = Serving::start(&fast).await;
    serving.fill().await;
    let place = async |hold: i64| {
        let order = json!({"userId": "7", "items": [{"sku": "A1", "quantity": 2}], "holdSeconds": hold});
        let id = serving.place(&order).await;
        serving.until(&format!("/payments/{id}"), "status", "PENDING").await;
        serving.fine(Method::POST, &format!("/payments/{id}/pay"), &json!({"method": "card"})).await;
        id
    };
    // On hold for an hour: it waits as it should.
    let held = place(3_600).await;
    let mut ids = Vec::new();
    for _ in &STOPS {
        ids.push(place(0).await);
    }
    for id in &ids {
        serving.until(&format!("/orders/{id}"), "outcome", "SIGNED").await;
    }
    serving.until(&format!("/orders/{held}"), "status", "PAID").await;
    let dbs = RoleDbs::one(serving.db());
    until_only(&dbs, &[]).await;
    for ((_, breaks), id) in STOPS.iter().zip(&ids) {
        for text in breaks.iter().chain(&FORGET) {
            execute(&dbs.order, text.replace('$', id)).await;
        }
        if *id == ids[4] {
            // It came as far as the carrier.
            let text = "INSERT INTO message_process_log (consumer_group, message_id, batch_id, topic, msg_key, outcome, \
                        consumed_at) VALUES ('order-consumer-group', '$:ORDER_DELIVERY', 1, 'ORDER_DELIVERY', '$', 0, 1)";
            execute(&dbs.order, text.replace('$', id)).await;
        }
    }

    // Those that nothing will bring further are violations, those that somebody outside has are warnings after a time.
    let report = audit::run(&dbs, &STRICT).await.unwrap();
    let found: Vec<_> =
        report.violations.iter().map(|one| (one.check, one.key.as_str(), one.evidence.as_str())).collect();
    // And a dead letter that nobody wrote.
    assert_eq!(found.len(), 4, "{found:#?}");
    for ((what, _), id) in STOPS.iter().zip(&ids).take(3) {
        let named = |one: &&(&str, &str, &str)| {
            one.0 == "nothing_stuck" && one.1 == id && one.2.starts_with("order PAID since 20") && one.2.ends_with(what)
        };
        assert!(found.iter().any(|one| named(&one)), "{what}: {found:#?}");
    }
    let slow = |report: &audit::Report| {
        let found = report.warnings.iter().find(|one| one.what.contains("audit.parcel_bound"));
        found.map(|one| (one.count, one.evidence.clone().unwrap()))
    };
    assert_eq!(slow(&report), None);
    let report = audit::run(&dbs, &audit::Options { parcel_bound_ms: 0, ..STRICT }).await.unwrap();
    let (count, evidence) = slow(&report).unwrap();
    assert_eq!(count, 2);
    for ((what, _), id) in STOPS.iter().zip(&ids).skip(3) {
        assert!(evidence.contains(id.as_str()) && evidence.contains(what), "{evidence}");
    }

    let operator = Operator::with(&[&database, "audit.settle=0s", "audit.bound=0s"]);
    for ((what, _), id) in STOPS.iter().zip(&ids) {
        let items = operator.items(&["trace", "order", id, "--no-broker"]).await;
        assert!(missing(&items).contains(what), "{what}: {items:#?}");
    }
    let items = operator.items(&["trace", "order", &held, "--no-broker"]).await;
    assert!(missing(&items).iter().all(|what| what.contains("is not sent")), "{items:#?}");

    let (code, rows, said) = operator.items_and_code(&["audit", "--repair", "--yes"]).await;
    assert_eq!(code, 1, "{said}");
    let results: Vec<_> = ids[..3]
        .iter()
        .map(|id| rows.iter().find(|row| row["key"] == id.as_str()).unwrap()["result"].as_str().unwrap())
        .collect();
    assert_eq!(results, ["mended", "left", "left"], "{rows:#?}");
    // Its event was handed to its group again: the warehouse gets it, and sends it.
    serving.until(&format!("/orders/{}", ids[0]), "outcome", "SIGNED").await;
    serving.stop().await;
}
