//! The same in a whole process, with the timer of a real broker.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::servers::rocketmq::{Cluster, ClusterPlan, apache};
use crate::support::serving::Serving;

const DEADLINE: Duration = Duration::from_secs(90);

async fn serve(settings: &[&str]) -> Serving {
    let fixed = ["mq.enabled=true", "mq.embedded.namesrv_port=0", "mq.embedded.broker_port=0"];
    let all: Vec<&str> = fixed.iter().chain(settings).chain(&["order.timeout.via=broker"]).copied().collect();
    let serving = Serving::start(&all).await;
    serving.fill().await;
    serving
}

async fn place(serving: &Serving, seconds: i64) -> String {
    let order = json!({ "userId": "1", "items": [{ "sku": "A1", "quantity": 1 }], "payWithinSeconds": seconds });
    serving.place(&order).await
}

/// Every order is canceled at its time, and its message arrived once, not before it.
async fn the_timer_brings_it(settings: &[&str]) {
    let serving = serve(settings).await;
    let mut orders = Vec::new();
    for seconds in [2, 3, 5] {
        orders.push(place(&serving, seconds).await);
    }
    for order in &orders {
        let seen = serving.until(&format!("/orders/{order}"), "outcome", "CANCELED").await;
        assert_eq!(seen["cancelType"], "TIMEOUT");
        assert!(seen["updatedAt"].as_i64() >= seen["expireTime"].as_i64(), "{seen}");
    }
    let started = Instant::now();
    let came = "SELECT COUNT(*) FROM message_process_log WHERE consumer_group = 'pay-timeout-consumer-group'";
    while serving.number(came).await < 3 {
        assert!(started.elapsed() < DEADLINE, "the broker's timer does not bring the messages");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // A message that had come early would have sent another one.
    let sent = "SELECT COUNT(*) FROM message_record WHERE topic = 'PAY_TIMEOUT_DELAY'";
    assert_eq!((serving.number(sent).await, serving.number(came).await), (3, 3));
    let early = "SELECT COUNT(*) FROM message_process_log l JOIN orders o ON CAST(o.id AS CHAR) = l.msg_key \
                 WHERE l.consumer_group = 'pay-timeout-consumer-group' AND l.consumed_at < o.expire_time";
    assert_eq!(serving.number(early).await, 0);
    serving.stop().await;
}

#[cfg(feature = "embedded")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_rocketmq_broker_brings_it() {
    the_timer_brings_it(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apache_rocketmq_brings_it() {
    let Some(apache) = apache().await else { return };
    the_timer_brings_it(&[&format!("mq.namesrv={}", apache.namesrv())]).await;
}

/// The broker is killed with the message in it, and orders are placed without it: all are canceled at their time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_rocketmq_cluster_the_walk_cancels() {
    let Some(cluster) = Cluster::start(ClusterPlan::default()).await else { return };
    let serving = serve(&[&format!("mq.namesrv={}", cluster.namesrv())]).await;
    let before = place(&serving, 30).await;
    let sent = "SELECT COUNT(*) FROM message_record WHERE topic = 'PAY_TIMEOUT_DELAY' AND status = 1";
    let started = Instant::now();
    while serving.number(sent).await < 1 {
        assert!(started.elapsed() < DEADLINE, "nothing is sent");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.kill_broker("a");
    let without = json!({ "userId": "1", "items": [{ "sku": "A1", "quantity": 1 }], "payWithinSeconds": 3 });
    let (status, _, body) = serving.send(Method::POST, "/orders", &without).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    for order in [body["orderId"].as_str().unwrap(), &before] {
        let seen = serving.until(&format!("/orders/{order}"), "outcome", "CANCELED").await;
        assert_eq!(seen["cancelType"], "TIMEOUT");
        assert!(seen["updatedAt"].as_i64() >= seen["expireTime"].as_i64(), "{seen}");
    }
    let came = "SELECT COUNT(*) FROM message_process_log WHERE topic = 'PAY_TIMEOUT_DELAY'";
    assert_eq!(serving.number(came).await, 0, "the walk did it");
    serving.process.stop().await.unwrap();
}
