//! The client against the embedded broker and against Apache RocketMQ: the same tests on both.

mod backlog;
mod outage;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ruyi::mq::embedded::{EmbeddedBroker, EmbeddedConfig};
use ruyi::mq::message::{Delay, Incoming, Outgoing, QueueId};
use ruyi::mq::rocketmq::{GroupConsumer, PublishError, RocketMq, RocketMqConfig};
use ruyi::mq::runtime::MqRuntime;

use crate::servers::rocketmq::Cluster;
use crate::servers::unique;

/// Far more than anything here takes: only a hang reaches it.
const DEADLINE: Duration = Duration::from_secs(60);
const WAIT: Duration = Duration::from_millis(200);

/// Makes a test for each broker out of a function that takes it.
macro_rules! on_both_brokers {
    ($($name:ident),* $(,)?) => {
        mod embedded_broker {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::Which::Embedded(tempfile::tempdir().unwrap())).await;
            })*
        }
        mod apache_broker {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(apache) = crate::servers::rocketmq::apache().await {
                    super::$name(super::Which::Apache(apache)).await;
                }
            })*
        }
    };
}

on_both_brokers!(
    batches_of_several_topics_arrive_in_order_per_key,
    a_group_goes_on_after_what_it_committed,
    polls_that_are_given_up_lose_nothing,
    members_of_a_group_share_its_queues,
    retry_and_dead_letter_topics_take_messages,
    a_message_that_is_too_large_is_refused_alone,
);

/// The broker of a test.
enum Which {
    /// One of its own, with this directory.
    Embedded(tempfile::TempDir),
    /// The shared one: names on it are made unique.
    Apache(Arc<Cluster>),
}

impl Which {
    /// A topic or group that nobody else uses.
    fn name(&self, name: &str) -> String {
        match self {
            Self::Embedded(_) => name.to_owned(),
            Self::Apache(_) => unique(name),
        }
    }

    async fn bench(self, change: impl FnOnce(&mut RocketMqConfig)) -> Bench {
        match self {
            Self::Embedded(dir) => {
                let bench = Bench::start_on(&embedded(dir.path()), change).await;
                Bench { _dir: Some(dir), ..bench }
            }
            Self::Apache(apache) => Bench::connect(runtime(), None, apache.namesrv(), change).await,
        }
    }
}

/// A client and, if it is the embedded one, its broker, in one process on their own ports.
struct Bench {
    runtime: MqRuntime,
    broker: Option<EmbeddedBroker>,
    mq: RocketMq,
    _dir: Option<tempfile::TempDir>,
}

fn runtime() -> MqRuntime {
    // RUST_LOG shows what the broker says.
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    MqRuntime::start("mq-test").unwrap()
}

fn embedded(dir: &Path) -> EmbeddedConfig {
    EmbeddedConfig {
        data_dir: dir.to_owned(),
        host: IpAddr::V4(Ipv4Addr::LOCALHOST),
        namesrv_port: 0,
        broker_port: 0,
        queues_per_topic: 4,
        sync_flush: false,
    }
}

/// What it takes to start a stopped broker again where its clients look for it.
fn on_ports_of(broker: &EmbeddedBroker, dir: &Path) -> EmbeddedConfig {
    let namesrv: SocketAddr = broker.namesrv_addr().parse().unwrap();
    EmbeddedConfig { namesrv_port: namesrv.port(), broker_port: broker.broker_addr().port(), ..embedded(dir) }
}

fn client(namesrv: String) -> RocketMqConfig {
    RocketMqConfig { namesrv, ..RocketMqConfig::default() }
}

impl Bench {
    async fn start(dir: &Path) -> Self {
        Self::start_on(&embedded(dir), |_| ()).await
    }

    async fn start_on(embedded: &EmbeddedConfig, change: impl FnOnce(&mut RocketMqConfig)) -> Self {
        let runtime = runtime();
        let broker = EmbeddedBroker::start(embedded, &runtime).await.unwrap();
        let namesrv = broker.namesrv_addr();
        Self::connect(runtime, Some(broker), namesrv, change).await
    }

    async fn connect(
        runtime: MqRuntime,
        broker: Option<EmbeddedBroker>,
        namesrv: String,
        change: impl FnOnce(&mut RocketMqConfig),
    ) -> Self {
        let mut config = client(namesrv);
        change(&mut config);
        let mq = RocketMq::connect(config, &runtime).await.unwrap();
        Self { runtime, broker, mq, _dir: None }
    }

    async fn stop(self) {
        self.mq.shutdown().await;
        if let Some(broker) = self.broker {
            broker.shutdown().await;
        }
        self.runtime.shutdown(Duration::from_secs(10)).await;
    }

    async fn topics(&self, topics: &[&str]) -> Vec<String> {
        let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
        self.mq.ensure_topics(&topics, 4).await.unwrap();
        topics
    }

    async fn send(&self, batch: &[Outgoing]) {
        for result in self.mq.publish(batch).await {
            result.unwrap();
        }
    }
}

fn message(topic: &str, key: &str, body: &str) -> Outgoing {
    Outgoing {
        topic: topic.to_owned(),
        tag: topic.to_owned(),
        key: key.to_owned(),
        body: body.to_owned().into(),
        properties: vec![(String::from("eventId"), format!("{key}:{}", body.len()))],
        delay: Delay::None,
    }
}

fn numbered(topic: &str, keys: usize, each: usize) -> Vec<Outgoing> {
    (0..each).flat_map(|n| (0..keys).map(move |key| message(topic, &format!("k{key}"), &n.to_string()))).collect()
}

/// Polls until `count` messages are there.
async fn collect(consumer: &GroupConsumer, count: usize) -> Vec<Incoming> {
    let started = Instant::now();
    let mut all = Vec::new();
    while all.len() < count {
        assert!(started.elapsed() < DEADLINE, "{} of {count} messages came", all.len());
        all.extend(consumer.poll(256, WAIT).await);
    }
    all
}

/// The offsets to commit after `messages`.
fn next_offsets(messages: &[Incoming]) -> Vec<(QueueId, i64)> {
    let mut next: HashMap<QueueId, i64> = HashMap::new();
    for message in messages {
        let offset = next.entry(message.queue.clone()).or_default();
        *offset = (*offset).max(message.offset + 1);
    }
    next.into_iter().collect()
}

fn assert_ordered_per_key(messages: &[Incoming], keys: usize, each: usize) {
    let mut seen: HashMap<(&str, &str), Vec<usize>> = HashMap::new();
    for message in messages {
        let number = std::str::from_utf8(&message.body).unwrap().parse().unwrap();
        seen.entry((&message.queue.topic, &message.key)).or_default().push(number);
    }
    for (key, numbers) in &seen {
        assert!(numbers.iter().copied().eq(0..each), "{key:?}: {numbers:?}");
    }
    assert_eq!(seen.len(), keys);
}

fn bodies(messages: &[Incoming]) -> HashSet<(String, String)> {
    messages.iter().map(|m| (m.key.clone(), String::from_utf8(m.body.to_vec()).unwrap())).collect()
}

async fn batches_of_several_topics_arrive_in_order_per_key(which: Which) {
    let (created, physical) = (which.name("ORDER_CREATED"), which.name("order-created"));
    let (frozen, group) = (which.name("STOCK_FROZEN"), which.name("stock-consumer-group"));
    let bench = which.bench(|config| drop(config.topics.insert(created.clone(), physical))).await;
    let topics = bench.topics(&[&created, &frozen]).await;
    assert!(bench.mq.is_reachable().await);
    let mut batch = numbered(&created, 7, 60);
    batch.extend(numbered(&frozen, 7, 60));
    bench.send(&batch).await;

    let consumer = bench.mq.subscribe(&group, &topics).await.unwrap();
    let got = collect(&consumer, batch.len()).await;
    assert_eq!(got.len(), batch.len());
    assert_ordered_per_key(&got, 14, 60);
    let first = &got[0];
    assert!(topics.contains(&first.queue.topic), "{first:?}");
    assert_eq!(first.tag, first.queue.topic);
    assert_eq!(first.properties, [(String::from("eventId"), format!("{}:1", first.key))]);
    assert!(first.born_ms > 1_600_000_000_000, "{first:?}");

    consumer.commit(&next_offsets(&got)).await;
    let started = Instant::now();
    loop {
        let lag = bench.mq.lag(&group, &topics).await.unwrap();
        assert_eq!(lag.len(), 8, "{lag:?}");
        // Queues that no key chose have nothing committed, and may be unknown.
        if lag.iter().all(|(_, lag)| lag.unwrap_or(0) == 0) && lag.iter().any(|(_, lag)| *lag == Some(0)) {
            break;
        }
        assert!(started.elapsed() < DEADLINE, "{lag:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    consumer.shutdown().await;
    assert!(consumer.poll(1, Duration::ZERO).await.is_empty());
    bench.stop().await;
}

async fn a_group_goes_on_after_what_it_committed(which: Which) {
    let (topic, group) = (which.name("ORDER_CREATED"), which.name("g"));
    let bench = which.bench(|_| ()).await;
    let topics = bench.topics(&[&topic]).await;
    bench.send(&numbered(&topic, 1, 100)).await;

    let consumer = bench.mq.subscribe(&group, &topics).await.unwrap();
    let got = collect(&consumer, 100).await;
    // The first 40 are done, the others are not.
    let (done, open) = got.split_at(40);
    consumer.commit(&next_offsets(done)).await;
    consumer.shutdown().await;

    let consumer = bench.mq.subscribe(&group, &topics).await.unwrap();
    let again = collect(&consumer, 60).await;
    assert_eq!(again, open);
    // What was committed does not come back, what is new comes.
    bench.send(&[message(&topic, "k0", "last")]).await;
    let last = collect(&consumer, 1).await;
    assert_eq!(last.len(), 1);
    assert_eq!(&last[0].body[..], b"last");
    consumer.shutdown().await;
    bench.stop().await;
}

async fn polls_that_are_given_up_lose_nothing(which: Which) {
    let (topic, group) = (which.name("T"), which.name("g"));
    let bench = which.bench(|_| ()).await;
    let topics = bench.topics(&[&topic]).await;
    let consumer = bench.mq.subscribe(&group, &topics).await.unwrap();
    let batch = numbered(&topic, 20, 50);
    let started = Instant::now();
    let mut got = Vec::new();
    let mut sent = batch.chunks(100);
    while got.len() < batch.len() {
        assert!(started.elapsed() < DEADLINE, "{} of {} messages came", got.len(), batch.len());
        if let Some(chunk) = sent.next() {
            bench.send(chunk).await;
        }
        // Most of these are dropped while they wait.
        let poll = consumer.poll(7, Duration::from_millis(50));
        if let Ok(messages) = tokio::time::timeout(Duration::from_millis(1), poll).await {
            assert!(messages.len() <= 7);
            got.extend(messages);
        }
    }
    assert_ordered_per_key(&got, 20, 50);
    consumer.shutdown().await;
    bench.stop().await;
}

async fn members_of_a_group_share_its_queues(which: Which) {
    let (topic, group) = (which.name("T"), which.name("g"));
    let bench = which.bench(|_| ()).await;
    let topics = bench.topics(&[&topic]).await;
    let first = bench.mq.subscribe(&group, &topics).await.unwrap();
    let second = bench.mq.subscribe(&group, &topics).await.unwrap();
    let started = Instant::now();
    loop {
        let (a, b) = (first.assignment().await.unwrap(), second.assignment().await.unwrap());
        if a.len() == 2 && b.len() == 2 && a.iter().all(|queue| !b.contains(queue)) {
            break;
        }
        assert!(started.elapsed() < DEADLINE, "{a:?} {b:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let batch = numbered(&topic, 40, 5);
    bench.send(&batch).await;
    let (mut a, mut b) = (Vec::new(), Vec::new());
    while a.len() + b.len() < batch.len() {
        assert!(started.elapsed() < DEADLINE, "{} and {} of {}", a.len(), b.len(), batch.len());
        a.extend(first.poll(64, WAIT).await);
        b.extend(second.poll(64, WAIT).await);
    }
    assert!(!a.is_empty() && !b.is_empty());
    first.commit(&next_offsets(&a)).await;
    second.commit(&next_offsets(&b)).await;
    // Who stays takes over where the first stopped. The embedded broker tells members of one that joins, but not of one
    // that leaves (they would see it at their next look, every 20 s).
    first.shutdown().await;
    let third = bench.mq.subscribe(&group, &topics).await.unwrap();
    let more = numbered(&topic, 40, 6).split_off(40 * 5);
    bench.send(&more).await;
    let mut taken = Vec::new();
    // Queues may pass through the second one, uncommitted, on their way to the third: then they come twice.
    while bodies(&taken).len() < more.len() {
        assert!(started.elapsed() < DEADLINE, "{} of {}", taken.len(), more.len());
        taken.extend(second.poll(64, WAIT).await);
        taken.extend(third.poll(64, WAIT).await);
    }
    assert!(taken.iter().all(|message| &message.body[..] == b"5"));
    third.shutdown().await;
    second.shutdown().await;
    bench.stop().await;
}

async fn retry_and_dead_letter_topics_take_messages(which: Which) {
    let is_embedded = matches!(which, Which::Embedded(_));
    let (group, operator) = (which.name("stock-consumer-group"), which.name("operator"));
    let (dead, again) = (format!("%DLQ%{group}"), format!("%RETRY%{group}"));
    let bench = which.bench(|_| ()).await;
    let batch = [message(&dead, "k1", "dead"), message(&dead, "k2", "dead too"), message(&again, "k3", "again")];
    bench.send(&batch).await;
    let topics = vec![batch[0].topic.clone(), batch[2].topic.clone()];
    let consumer = bench.mq.subscribe(&operator, &topics).await.unwrap();
    let got = collect(&consumer, 3).await;
    assert_eq!(got.len(), 3);
    for sent in &batch {
        let same = got.iter().find(|message| message.body == sent.body).unwrap();
        assert_eq!((&same.key, &same.tag, &same.properties), (&sent.key, &sent.tag, &sent.properties));
        // The embedded broker takes every group for an ordered one, and those get no retry: it stores what is sent to
        // %RETRY% in %DLQ% (Apache RocketMQ does not).
        assert_eq!(same.queue.topic, if is_embedded { &dead } else { &sent.topic }.as_str());
    }
    consumer.shutdown().await;
    bench.stop().await;
}

async fn a_message_that_is_too_large_is_refused_alone(which: Which) {
    let (topic, group) = (which.name("T"), which.name("g"));
    let bench = which.bench(|config| config.max_message_bytes = 100_000).await;
    let topics = bench.topics(&[&topic]).await;
    let large = "x".repeat(90_000);
    let batch = [
        message(&topic, "k", "before"),
        message(&topic, "k", &large),
        message(&topic, "k", &"y".repeat(100_000)),
        message(&topic, "k", "after"),
    ];
    let results = bench.mq.publish(&batch).await;
    assert!(matches!(results[2], Err(PublishError::TooLarge { max_bytes: 100_000, .. })), "{results:?}");
    assert!(results.iter().enumerate().all(|(index, result)| index == 2 || result.is_ok()), "{results:?}");
    let consumer = bench.mq.subscribe(&group, &topics).await.unwrap();
    let got = collect(&consumer, 3).await;
    let bodies: Vec<_> = got.iter().map(|message| message.body.clone()).collect();
    assert_eq!(bodies, ["before", large.as_str(), "after"]);
    consumer.shutdown().await;
    bench.stop().await;
}
