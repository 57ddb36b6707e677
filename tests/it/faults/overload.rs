//! More requests than can be written: what nobody waits for any more is not stored, and the others are told early.

use std::sync::Arc;

use reqwest::{Method, StatusCode};
use tokio::sync::{Semaphore, oneshot};

use crate::support::serving::{Serving, order_of};

/// Holds the one connection that writes until the semaphore is closed.
async fn hold_the_writer(serving: &Serving) -> Arc<Semaphore> {
    let (held, is_held) = oneshot::channel();
    let held = Arc::new(std::sync::Mutex::new(Some(held)));
    let until = Arc::new(Semaphore::new(0));
    let (db, waits) = (serving.db().clone(), Arc::clone(&until));
    tokio::spawn(async move {
        db.write("test", move |_| {
            let (held, waits) = (Arc::clone(&held), Arc::clone(&waits));
            Box::pin(async move {
                let _ = held.lock().unwrap().take().map(|held| held.send(()));
                let _ = waits.acquire().await;
                Ok(())
            })
        })
        .await
    });
    is_held.await.unwrap();
    until
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_that_were_given_up_are_not_stored() {
    let serving = Serving::start(&["http.queue_wait=200ms", "http.request_timeout=5s", "order.batch=16"]).await;
    serving.fill().await;
    serving.settled().await;
    let lock = hold_the_writer(&serving).await;
    let place = || tokio::spawn(serving.request(Method::POST, "/orders").json(&order_of("A1", 1)).send());
    // As many as fit into a transaction wait until the server gives them up, as it does when their callers leave. Of
    // those beyond, the oldest are told soon that there are too many.
    let callers: Vec<_> = (0..200).map(|_| place()).collect();
    let (mut told, mut given_up) = (0, 0);
    for caller in callers {
        let response = caller.await.unwrap().unwrap();
        assert_eq!(response.headers()["retry-after"], "1");
        match response.status() {
            StatusCode::SERVICE_UNAVAILABLE => told += 1,
            StatusCode::GATEWAY_TIMEOUT => given_up += 1,
            other => panic!("{other}: {:?}", response.text().await),
        }
    }
    assert!(told > 0 && given_up > 0, "{told} told, {given_up} given up");

    // Who is still there when writing goes on is the only one who gets an order.
    let stays = place();
    lock.close();
    let answer = stays.await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED, "{:?}", answer.text().await);
    let stored = serving.number("SELECT COUNT(*) FROM orders").await;
    assert_eq!(stored, 1, "{told} were told, {given_up} given up");
    serving.stop().await;
}

/// What is changed outside a group of requests waits for the same connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_callers_who_left_are_not_made() {
    let serving = Serving::start(&["http.request_timeout=4s"]).await;
    serving.fill().await;
    serving.settled().await;
    let lock = hold_the_writer(&serving).await;
    let adjust = serde_json::json!({"change": 5, "reason": "found"});
    // The server gives the request up, as it does when the caller leaves.
    let (status, _, problem) = serving.send(Method::POST, "/stock/A1/adjust", &adjust).await;
    assert_eq!((status, &problem["retry_after"]), (StatusCode::GATEWAY_TIMEOUT, &1.into()));
    lock.close();
    serving.fine(Method::POST, "/stock/B2/adjust", &adjust).await;
    assert_eq!(serving.get("/stock/A1").await["available"], 1_000);
    serving.stop().await;
}
