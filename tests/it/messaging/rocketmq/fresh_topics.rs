//! Topics and groups that nobody has used before: two processes make them at the same moment, and read all of their
//! queues.

use futures_util::future::join_all;
use reqwest::Method;
use ruyi::db::migrate;
use serde_json::json;

use crate::support::servers::rocketmq::apache;
use crate::support::servers::{mariadb_url, unique};
use crate::support::serving::Serving;

/// Orders whose keys spread over all queues.
const ORDERS: usize = 24;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_queue_of_new_topics_is_read() {
    let Some(apache) = apache().await else { return };
    let Some(url) = mariadb_url().await else { return };
    migrate::run(&url).await.unwrap();
    let (namesrv, database) = (format!("mq.namesrv={}", apache.namesrv()), format!("database.url={url}"));
    let namespace = format!("mq.namespace={}", unique("fresh"));
    let settings = [
        "mq.enabled=true",
        &namesrv,
        &namespace,
        &database,
        "payment.publish=transaction",
        "mq.outbox.sweep_interval=1s",
        "mq.degrade_after=1h",
    ];
    let (one, other) = tokio::join!(Serving::start(&settings), Serving::start(&settings));
    one.fill().await;
    let both = [&one, &other];
    let order = json!({"userId": "7", "items": [{"sku": "A1", "quantity": 1}]});
    let ids = join_all((0..ORDERS).map(|number| both[number % 2].place(&order))).await;
    for id in &ids {
        one.until(&format!("/orders/{id}"), "status", "RESERVED").await;
    }
    for (number, id) in ids.iter().enumerate() {
        both[number % 2].fine(Method::POST, &format!("/payments/{id}/pay"), &json!({"method": "card"})).await;
    }
    for id in &ids {
        other.until(&format!("/orders/{id}"), "outcome", "SIGNED").await;
    }
    for serving in [one, other] {
        assert_eq!(serving.get("/readyz").await["status"], "ready");
        serving.stop().await;
    }
}
