//! Consumers outlive their brokers: a pair of brokers and name servers on Apache RocketMQ that go and come back.

use std::time::{Duration, Instant};

use ruyi::domain::event::Group;
use ruyi::mq::rocketmq::{RocketMq, RocketMqConfig};
use ruyi::mq::runtime::MqRuntime;
use serde_json::json;

use crate::support::servers::rocketmq::{Cluster, ClusterPlan};
use crate::support::serving::Serving;

const DEADLINE: Duration = Duration::from_secs(90);

/// Orders whose keys spread over all queues of both brokers.
const ORDERS: usize = 24;

async fn reserved(serving: &Serving, what: &str) {
    let started = Instant::now();
    let order = json!({"userId": "7", "items": [{"sku": "A1", "quantity": 1}]});
    let mut ids = Vec::new();
    for _ in 0..ORDERS {
        ids.push(serving.place(&order).await);
    }
    for id in &ids {
        serving.until(&format!("/orders/{id}"), "status", "RESERVED").await;
    }
    println!("{what}: {ORDERS} orders reserved after {:?}", started.elapsed());
}

/// Every queue of both brokers is consumed to its end.
async fn nothing_waits(cluster: &Cluster, what: &str) {
    let started = Instant::now();
    let runtime = MqRuntime::start("rejoin-test").unwrap();
    let config = RocketMqConfig { namesrv: cluster.namesrv(), ..RocketMqConfig::default() };
    let mq = RocketMq::connect(config, &runtime).await.unwrap();
    for group in [Group::Stock, Group::Order, Group::Payment] {
        let topics: Vec<String> = group.events().map(|kind| kind.name().to_owned()).collect();
        loop {
            let lag = mq.lag(group.name(), &topics).await.unwrap_or_default();
            let brokers: std::collections::BTreeSet<&str> =
                lag.iter().map(|(queue, _)| queue.broker.as_str()).collect();
            if brokers.len() == 2 && lag.iter().all(|(_, lag)| lag.lag().unwrap_or(0) == 0) {
                break;
            }
            assert!(started.elapsed() < DEADLINE, "{what}: {}: {lag:?}", group.name());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    println!("{what}: nothing waits after {:?}", started.elapsed());
    mq.shutdown().await;
    runtime.shutdown(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_rejoin_when_broker_or_name_server_is_back() {
    let Some(cluster) = Cluster::start(ClusterPlan::pair()).await else { return };
    let namesrv = format!("mq.namesrv={}", cluster.namesrv());
    let serving =
        Serving::start(&["mq.enabled=true", &namesrv, "mq.outbox.sweep_interval=1s", "mq.degrade_after=1h"]).await;
    serving.fill().await;
    reserved(&serving, "both brokers").await;
    // A broker that was slow to announce itself has got its topics by then.
    nothing_waits(&cluster, "both brokers").await;

    cluster.kill_broker("a");
    reserved(&serving, "only broker b").await;
    cluster.start_broker("a").await;
    reserved(&serving, "broker a is back").await;
    nothing_waits(&cluster, "broker a is back").await;

    cluster.kill_namesrv(0);
    reserved(&serving, "one name server").await;
    // Nobody at all, and then everybody.
    cluster.kill_broker("a");
    cluster.kill_broker("b");
    let order = json!({"userId": "7", "items": [{"sku": "A1", "quantity": 1}]});
    let during = serving.place(&order).await;
    cluster.start_namesrv(0).await;
    cluster.start_broker("b").await;
    cluster.start_broker("a").await;
    reserved(&serving, "everybody is back").await;
    serving.until(&format!("/orders/{during}"), "status", "RESERVED").await;
    nothing_waits(&cluster, "everybody is back").await;
    serving.stop().await;
}
