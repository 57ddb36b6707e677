//! One trace from the order to the warehouse: through outbox, messages, handlers and outgoing calls.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use reqwest::Method;
use ruyi::db::sql::{self, Columns};
use serde_json::json;
use tokio::net::TcpListener;

use crate::support::serving::Serving;

const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const DEADLINE: Duration = Duration::from_secs(60);

/// Calls: path, `traceparent`.
type Calls = Arc<Mutex<Vec<(String, Option<String>)>>>;

async fn take(State(calls): State<Calls>, uri: Uri, headers: HeaderMap, _: Bytes) -> (StatusCode, &'static str) {
    let trace = headers.get("traceparent").map(|value| value.to_str().unwrap().to_owned());
    calls.lock().unwrap().push((uri.path().to_owned(), trace));
    (StatusCode::ACCEPTED, "{}")
}

#[cfg(feature = "embedded")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trace_spans_order_to_warehouse_and_the_returned_money() {
    let calls = Calls::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let warehouse = format!("warehouse.endpoint=http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(take).with_state(Arc::clone(&calls));
    tokio::spawn(async move { axum::serve(listener, router).await });
    // Through a broker: the trace is a property of the messages.
    let settings = ["mq.enabled=true", "mq.embedded.namesrv_port=0", "mq.embedded.broker_port=0", &warehouse];
    let serving = Serving::start(&settings).await;
    serving.fill().await;
    let order = json!({"userId": "7", "items": [{"sku": "A1", "quantity": 1}]});
    let traceparent = format!("00-{TRACE_ID}-00f067aa0ba902b7-01");
    let placed = serving.request(Method::POST, "/orders").header("traceparent", &traceparent).json(&order);
    let (status, _, answer) = serving.reply(placed).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    let id = answer["orderId"].as_str().unwrap().to_owned();
    serving.until(&format!("/payments/{id}"), "status", "PENDING").await;
    // Neither the payer nor the channel knows of the trace.
    serving.fine(Method::POST, &format!("/payments/{id}/pay"), &json!({"method": "card"})).await;
    let called = async {
        while calls.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, called).await.expect("the warehouse is called");
    let seen = calls.lock().unwrap().clone();
    assert!(seen.iter().all(|call| *call == ("/orders".to_owned(), Some(traceparent.clone()))), "{seen:?}");

    serving.settled().await;
    let mut conn = serving.db().read().await.unwrap();
    // News of a SKU sums up what many orders did: it belongs to no one's trace.
    let text = "SELECT event_id, properties FROM message_record WHERE topic <> 'INVENTORY_SYNC'";
    let rows = sql::fetch(&mut conn, text, vec![]).await.unwrap();
    assert!(rows.len() > 4);
    for row in rows {
        let properties = row.text(1).unwrap();
        assert!(properties.contains(&traceparent), "{} has lost the trace: {properties}", row.text(0).unwrap());
    }
    drop(conn);
    serving.stop().await;
}
