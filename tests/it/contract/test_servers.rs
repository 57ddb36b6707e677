//! The servers themselves: what the tests that use them rely on.

use std::time::{Duration, Instant};

use ruyi::mq::message::Outgoing;
use ruyi::mq::rocketmq::{RocketMq, RocketMqConfig};
use ruyi::mq::runtime::MqRuntime;
use sqlx::{AnyConnection, Connection};

use crate::support::servers::mariadb::MariaDb;
use crate::support::servers::redis::redis;
use crate::support::servers::rocketmq::{Cluster, ClusterPlan, apache};
use crate::support::servers::unique;

const DEADLINE: Duration = Duration::from_secs(90);

fn message(topic: &str, body: &str) -> Outgoing {
    let topic = topic.to_owned();
    let properties = vec![(String::from("eventId"), body.to_owned())];
    let delay = ruyi::mq::message::Delay::None;
    Outgoing { tag: topic.clone(), key: body.to_owned(), body: body.to_owned().into(), properties, topic, delay }
}

async fn connect(namesrv: String, runtime: &MqRuntime) -> RocketMq {
    RocketMq::connect(RocketMqConfig { namesrv, ..RocketMqConfig::default() }, runtime).await.unwrap()
}

/// Sends `body` until it is stored, and reads until it has come.
async fn round_trip(mq: &RocketMq, topic: &str, body: &str) {
    let started = Instant::now();
    let topics = [topic.to_owned()];
    while mq.ensure_topics(&topics, 4).await.is_err() || mq.publish(&[message(topic, body)]).await[0].is_err() {
        assert!(started.elapsed() < DEADLINE, "nothing can be sent");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let consumer = mq.subscribe(&unique("group"), &topics).await.unwrap();
    loop {
        assert!(started.elapsed() < DEADLINE, "{body} does not come");
        if consumer.poll(32, Duration::from_millis(200)).await.iter().any(|got| got.key == body) {
            break;
        }
    }
    consumer.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rocketmq_shared_broker_takes_and_gives_messages() {
    let Some(apache) = apache().await else { return };
    let runtime = MqRuntime::start("smoke").unwrap();
    let mq = connect(apache.namesrv(), &runtime).await;
    round_trip(&mq, &unique("SMOKE"), "1").await;
    let clusters = apache.mqadmin(&["clusterList"]).await;
    assert!(clusters.contains(&apache.name) && clusters.contains(&apache.broker_addr("a")), "{clusters}");
    mq.shutdown().await;
    runtime.shutdown(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rocketmq_cluster_loses_and_regains_its_members() {
    let Some(cluster) = Cluster::start(ClusterPlan::pair()).await else { return };
    let runtime = MqRuntime::start("smoke").unwrap();
    let mq = connect(cluster.namesrv(), &runtime).await;
    round_trip(&mq, "T", "both").await;
    cluster.kill_broker("a");
    cluster.kill_namesrv(0);
    round_trip(&mq, "T", "without-a").await;
    cluster.start_namesrv(0).await;
    cluster.start_broker("a").await;
    cluster.stop_broker("b");
    cluster.kill_namesrv(1);
    round_trip(&mq, "T", "without-b").await;
    mq.shutdown().await;
    runtime.shutdown(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn own_mariadb_keeps_its_data_over_a_kill() {
    let Some(mariadb) = MariaDb::start() else { return };
    let url = mariadb.create("shop").await;
    let mut conn = AnyConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("CREATE TABLE t (a BIGINT PRIMARY KEY)").execute(&mut conn).await.unwrap();
    sqlx::raw_sql("INSERT INTO t VALUES (7)").execute(&mut conn).await.unwrap();
    mariadb.kill();
    assert!(sqlx::raw_sql("SELECT a FROM t").execute(&mut conn).await.is_err());
    mariadb.start_again().await;
    mariadb.stop();
    mariadb.start_again().await;
    let mut conn = AnyConnection::connect(&url).await.unwrap();
    let row: (i64,) = sqlx::query_as("SELECT a FROM t").fetch_one(&mut conn).await.unwrap();
    assert_eq!(row.0, 7);
    conn.close().await.unwrap();
}

#[tokio::test]
async fn redis_can_be_wiped_frozen_and_killed() {
    let Some(redis) = redis().await else { return };
    assert!(redis.url().starts_with("redis://127.0.0.1:"));
    redis.ask("SET a 1").await.unwrap();
    assert_eq!(redis.ask("GET a").await.unwrap(), "$1\r\n1\r\n");
    redis.flush().await;
    assert_eq!(redis.ask("GET a").await.unwrap(), "$-1\r\n");
    redis.freeze();
    redis.go_on();
    redis.kill();
    assert!(redis.ask("PING").await.is_none());
    redis.start_again().await;
    assert!(redis.ask("PING").await.is_some());
}
