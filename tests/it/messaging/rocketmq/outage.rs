//! Brokers that stop, are killed, and come back.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ruyi::mq::embedded::{EmbeddedBroker, EmbeddedConfig};
use ruyi::mq::message::Incoming;
use ruyi::mq::rocketmq::{GroupConsumer, PublishError, RocketMq, RocketMqConfig};
use ruyi::mq::runtime::MqRuntime;

use crate::support::client_bench::{
    ClientBench, DEADLINE, WAIT, bodies, client, collect, embedded, next_offsets, numbered, on_ports_of, runtime,
};
use crate::support::servers::rocketmq::{Cluster, ClusterPlan};
use crate::support::waiting::eventually_or_show;

/// Commits until the broker has it: nobody confirms a commit, and while a member is given its queues anew, as on a busy
/// machine soon after it has joined, none is made.
async fn commit_surely(mq: &RocketMq, consumer: &GroupConsumer, got: &[Incoming]) {
    let next = next_offsets(got);
    let wanted: i64 = next.iter().map(|(_, offset)| *offset).sum();
    let seen = std::sync::Mutex::new(String::new());
    let show = || seen.lock().unwrap().clone();
    eventually_or_show("the broker has the offsets", show, async || {
        consumer.commit(&next).await;
        let queues = mq.committed("g", "T").await.unwrap();
        *seen.lock().unwrap() = format!("{wanted}: {queues:?}, of which it has {:?}", consumer.assignment().await);
        queues.iter().filter_map(|queue| queue.consumer_offset).sum::<i64>() == wanted
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_and_offsets_outlive_an_orderly_stop() {
    let dir = tempfile::tempdir().unwrap();
    let bench = ClientBench::start(dir.path()).await;
    let topics = bench.topics(&["T"]).await;
    bench.send(&numbered("T", 1, 50)).await;
    let consumer = bench.mq.subscribe("g", &topics).await.unwrap();
    let got = collect(&consumer, 50).await;
    commit_surely(&bench.mq, &consumer, &got[..20]).await;
    consumer.shutdown().await;
    let same_ports = on_ports_of(bench.broker.as_ref().unwrap(), dir.path());
    bench.stop().await;

    let bench = ClientBench::start_on(&same_ports, |_| ()).await;
    let consumer = bench.mq.subscribe("g", &topics).await.unwrap();
    let again = collect(&consumer, 30).await;
    assert_eq!(again, &got[20..]);
    consumer.shutdown().await;
    bench.stop().await;
}

/// Not a test by itself: the broker that `messages_outlive_a_killed_broker` below kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broker_process() {
    let Ok(dir) = std::env::var("RUYI_TEST_BROKER_DIR") else { return };
    let runtime = MqRuntime::start("mq-child").unwrap();
    let config = EmbeddedConfig { sync_flush: true, ..embedded(Path::new(&dir)) };
    let broker = EmbeddedBroker::start(&config, &runtime).await.unwrap();
    println!("\nnamesrv={}", broker.namesrv_addr());
    // Until it is killed, or orphaned.
    tokio::task::spawn_blocking(|| std::io::stdin().lines().count()).await.unwrap();
}

fn spawn_broker(dir: &Path) -> (Child, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "messaging::rocketmq::outage::broker_process", "--nocapture"])
        .env("RUYI_TEST_BROKER_DIR", dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let addr = out.lines().find_map(|line| line.unwrap().strip_prefix("namesrv=").map(str::to_owned)).unwrap();
    (child, addr)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_outlive_a_killed_broker() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime();
    let topics = vec![String::from("T")];
    let batch = numbered("T", 5, 100);

    let (mut child, addr) = spawn_broker(dir.path());
    let mq = RocketMq::connect(client(addr), &runtime).await.unwrap();
    mq.ensure_topics(&topics, 4).await.unwrap();
    for result in mq.publish(&batch).await {
        result.unwrap();
    }
    let consumer = mq.subscribe("g", &topics).await.unwrap();
    let got = collect(&consumer, batch.len()).await;
    consumer.commit(&next_offsets(&got[..200])).await;
    child.kill().unwrap();
    child.wait().unwrap();
    consumer.shutdown().await;
    mq.shutdown().await;

    let (mut child, addr) = spawn_broker(dir.path());
    let mq = RocketMq::connect(client(addr), &runtime).await.unwrap();
    let consumer = mq.subscribe("g", &topics).await.unwrap();
    // The commits of the last second may be forgotten: then what they covered comes again too.
    let open = bodies(&got[200..]);
    let mut seen = HashSet::new();
    let started = Instant::now();
    while !open.is_subset(&seen) {
        assert!(started.elapsed() < DEADLINE, "{} of {}", seen.len(), open.len());
        seen.extend(bodies(&consumer.poll(256, WAIT).await));
    }
    consumer.shutdown().await;
    mq.shutdown().await;
    child.kill().unwrap();
    child.wait().unwrap();
    runtime.shutdown(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_and_offsets_outlive_stop_and_kill_of_apache() {
    let Some(cluster) = Cluster::start(ClusterPlan::default()).await else { return };
    let runtime = runtime();
    let topics = vec![String::from("T")];
    let batch = numbered("T", 5, 100);
    let mq = RocketMq::connect(client(cluster.namesrv()), &runtime).await.unwrap();
    mq.ensure_topics(&topics, 4).await.unwrap();
    for result in mq.publish(&batch).await {
        result.unwrap();
    }
    let consumer = mq.subscribe("g", &topics).await.unwrap();
    let got = collect(&consumer, batch.len()).await;
    commit_surely(&mq, &consumer, &got[..200]).await;
    consumer.shutdown().await;
    mq.shutdown().await;
    cluster.stop_broker("a");
    cluster.start_broker("a").await;

    // After an orderly stop exactly what was not committed comes again.
    let open = bodies(&got[200..]);
    let mq = RocketMq::connect(client(cluster.namesrv()), &runtime).await.unwrap();
    let consumer = mq.subscribe("g", &topics).await.unwrap();
    assert_eq!(bodies(&collect(&consumer, open.len()).await), open);
    consumer.shutdown().await;
    mq.shutdown().await;
    cluster.kill_broker("a");
    cluster.start_broker("a").await;

    let mq = RocketMq::connect(client(cluster.namesrv()), &runtime).await.unwrap();
    let consumer = mq.subscribe("g", &topics).await.unwrap();
    let mut seen = HashSet::new();
    let started = Instant::now();
    while !open.is_subset(&seen) {
        assert!(started.elapsed() < DEADLINE, "{} of {}", seen.len(), open.len());
        seen.extend(bodies(&consumer.poll(256, WAIT).await));
    }
    consumer.shutdown().await;
    mq.shutdown().await;
    runtime.shutdown(Duration::from_secs(10)).await;
}

/// A broker that can be away for a while.
enum Breakable {
    Embedded { running: Box<Option<EmbeddedBroker>>, again: EmbeddedConfig, _dir: tempfile::TempDir },
    Apache(Cluster),
}

impl Breakable {
    async fn embedded(runtime: &MqRuntime) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let broker = EmbeddedBroker::start(&embedded(dir.path()), runtime).await.unwrap();
        let again = on_ports_of(&broker, dir.path());
        Self::Embedded { running: Box::new(Some(broker)), again, _dir: dir }
    }

    fn namesrv(&self) -> String {
        match self {
            Self::Embedded { again, .. } => format!("127.0.0.1:{}", again.namesrv_port),
            Self::Apache(cluster) => cluster.namesrv(),
        }
    }

    async fn stop(&mut self) {
        match self {
            Self::Embedded { running, .. } => running.take().unwrap().shutdown().await,
            Self::Apache(cluster) => {
                cluster.stop_broker("a");
                cluster.kill_namesrv(0);
            }
        }
    }

    async fn start(&mut self, runtime: &MqRuntime) {
        match self {
            Self::Embedded { running, again, .. } => {
                **running = Some(EmbeddedBroker::start(again, runtime).await.unwrap());
            }
            Self::Apache(cluster) => {
                cluster.start_namesrv(0).await;
                cluster.start_broker("a").await;
            }
        }
    }
}

async fn away_is_an_error_for_each_message_until_it_is_back(runtime: MqRuntime, mut broker: Breakable) {
    let config = RocketMqConfig { send_timeout_ms: 500, retries: 1, ..client(broker.namesrv()) };
    let mq = RocketMq::connect(config, &runtime).await.unwrap();
    let batch = numbered("T", 20, 10);
    mq.ensure_topics(&[String::from("T")], 4).await.unwrap();
    for result in mq.publish(&batch).await {
        result.unwrap();
    }
    broker.stop().await;
    let started = Instant::now();
    let mut unknown = numbered("NEVER_SEEN", 1, 1);
    unknown.extend(batch);
    let results = mq.publish(&unknown).await;
    assert_eq!(results.len(), 201);
    assert!(results.iter().all(Result::is_err), "{results:?}");
    assert!(results.iter().all(|result| result.as_ref().is_err_and(|error| !error.is_permanent())));
    assert!(matches!(results[0], Err(PublishError::NoRoute { .. })), "{:?}", results[0]);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert!(!mq.is_reachable().await);

    broker.start(&runtime).await;
    let started = Instant::now();
    while !mq.publish(&unknown[1..]).await.iter().all(Result::is_ok) {
        assert!(started.elapsed() < DEADLINE, "the broker is back, but nothing is sent");
    }
    assert!(mq.is_reachable().await);
    mq.shutdown().await;
    if let Breakable::Embedded { .. } = broker {
        broker.stop().await;
    }
    runtime.shutdown(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_broker_that_is_away_errs_until_back() {
    let runtime = runtime();
    let broker = Breakable::embedded(&runtime).await;
    away_is_an_error_for_each_message_until_it_is_back(runtime, broker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apache_broker_that_is_away_errs_until_back() {
    let Some(cluster) = Cluster::start(ClusterPlan::default()).await else { return };
    away_is_an_error_for_each_message_until_it_is_back(runtime(), Breakable::Apache(cluster)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_broker_leaves_the_first_its_ports() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let runtime = runtime();
    let broker = EmbeddedBroker::start(&embedded(dir.path()), &runtime).await.unwrap();
    let same_ports = on_ports_of(&broker, other.path());
    let same_namesrv = EmbeddedConfig { broker_port: 0, ..same_ports.clone() };
    let same_broker = EmbeddedConfig { namesrv_port: 0, ..same_ports.clone() };
    for config in [same_ports, same_namesrv, same_broker] {
        let refused = EmbeddedBroker::start(&config, &runtime).await.err().unwrap().to_string();
        assert!(refused.contains("can not listen on 127.0.0.1:"), "{refused}");
    }
    broker.shutdown().await;
    runtime.shutdown(Duration::from_secs(10)).await;
}
