//! The client against the embedded broker.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use ruyi::mq::embedded::{EmbeddedBroker, EmbeddedConfig};
use ruyi::mq::message::{Incoming, Outgoing, QueueId};
use ruyi::mq::rocketmq::{GroupConsumer, PublishError, RocketMq, RocketMqConfig};
use ruyi::mq::runtime::MqRuntime;

/// Far more than anything here takes: only a hang reaches it.
const DEADLINE: Duration = Duration::from_secs(60);
const WAIT: Duration = Duration::from_millis(200);

/// Broker and client in one process on their own ports.
struct Bench {
    runtime: MqRuntime,
    broker: EmbeddedBroker,
    mq: RocketMq,
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

fn client(namesrv: String) -> RocketMqConfig {
    RocketMqConfig { namesrv, ..RocketMqConfig::default() }
}

impl Bench {
    async fn start(dir: &Path) -> Self {
        Self::start_with(dir, |_| ()).await
    }

    async fn start_with(dir: &Path, change: impl FnOnce(&mut RocketMqConfig)) -> Self {
        // RUST_LOG shows what the broker says.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let runtime = MqRuntime::start("mq-test").unwrap();
        let broker = EmbeddedBroker::start(&embedded(dir), &runtime).await.unwrap();
        let mut config = client(broker.namesrv_addr());
        change(&mut config);
        let mq = RocketMq::connect(config, &runtime).await.unwrap();
        Self { runtime, broker, mq }
    }

    async fn stop(self) {
        self.mq.shutdown().await;
        self.broker.shutdown().await;
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
        properties: vec![(String::from("eventId"), format!("{key}:{body}"))],
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_several_topics_arrive_in_order_per_key() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::start_with(dir.path(), |config| {
        config.topics.insert(String::from("ORDER_CREATED"), String::from("order-created"));
    })
    .await;
    let topics = bench.topics(&["ORDER_CREATED", "STOCK_FROZEN"]).await;
    assert!(bench.mq.is_reachable().await);
    let mut batch = numbered("ORDER_CREATED", 7, 60);
    batch.extend(numbered("STOCK_FROZEN", 7, 60));
    bench.send(&batch).await;

    let consumer = bench.mq.subscribe("stock-consumer-group", &topics).await.unwrap();
    let got = collect(&consumer, batch.len()).await;
    assert_eq!(got.len(), batch.len());
    assert_ordered_per_key(&got, 14, 60);
    let first = &got[0];
    assert!(topics.contains(&first.queue.topic), "{first:?}");
    assert_eq!(first.tag, first.queue.topic);
    assert_eq!(first.properties, [(String::from("eventId"), format!("{}:0", first.key))]);
    assert!(first.born_ms > 1_600_000_000_000, "{first:?}");

    consumer.commit(&next_offsets(&got)).await;
    let started = Instant::now();
    loop {
        let lag = bench.mq.lag("stock-consumer-group", &topics).await.unwrap();
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
