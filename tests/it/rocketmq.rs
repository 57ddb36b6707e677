//! The client against the embedded broker.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
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
        Self::start_with(dir, |_| ()).await
    }

    async fn start_with(dir: &Path, change: impl FnOnce(&mut RocketMqConfig)) -> Self {
        Self::start_on(&embedded(dir), change).await
    }

    async fn start_on(embedded: &EmbeddedConfig, change: impl FnOnce(&mut RocketMqConfig)) -> Self {
        let runtime = runtime();
        let broker = EmbeddedBroker::start(embedded, &runtime).await.unwrap();
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
        properties: vec![(String::from("eventId"), format!("{key}:{}", body.len()))],
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
    assert_eq!(first.properties, [(String::from("eventId"), format!("{}:1", first.key))]);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_goes_on_after_what_it_committed() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::start(dir.path()).await;
    let topics = bench.topics(&["ORDER_CREATED"]).await;
    bench.send(&numbered("ORDER_CREATED", 1, 100)).await;

    let consumer = bench.mq.subscribe("g", &topics).await.unwrap();
    let got = collect(&consumer, 100).await;
    // The first 40 are done, the others are not.
    let (done, open) = got.split_at(40);
    consumer.commit(&next_offsets(done)).await;
    consumer.shutdown().await;

    let consumer = bench.mq.subscribe("g", &topics).await.unwrap();
    let again = collect(&consumer, 60).await;
    assert_eq!(again, open);
    // What was committed does not come back, what is new comes.
    bench.send(&[message("ORDER_CREATED", "k0", "last")]).await;
    let last = collect(&consumer, 1).await;
    assert_eq!(last.len(), 1);
    assert_eq!(&last[0].body[..], b"last");
    consumer.shutdown().await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polls_that_are_given_up_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::start(dir.path()).await;
    let topics = bench.topics(&["T"]).await;
    let consumer = bench.mq.subscribe("g", &topics).await.unwrap();
    let batch = numbered("T", 20, 50);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_a_group_share_its_queues() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::start(dir.path()).await;
    let topics = bench.topics(&["T"]).await;
    let first = bench.mq.subscribe("g", &topics).await.unwrap();
    let second = bench.mq.subscribe("g", &topics).await.unwrap();
    let started = Instant::now();
    loop {
        let (a, b) = (first.assignment().await.unwrap(), second.assignment().await.unwrap());
        if a.len() == 2 && b.len() == 2 && a.iter().all(|queue| !b.contains(queue)) {
            break;
        }
        assert!(started.elapsed() < DEADLINE, "{a:?} {b:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let batch = numbered("T", 40, 5);
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
    let third = bench.mq.subscribe("g", &topics).await.unwrap();
    let more = numbered("T", 40, 6).split_off(40 * 5);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_and_offsets_outlive_an_orderly_stop() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::start(dir.path()).await;
    let topics = bench.topics(&["T"]).await;
    bench.send(&numbered("T", 1, 50)).await;
    let consumer = bench.mq.subscribe("g", &topics).await.unwrap();
    let got = collect(&consumer, 50).await;
    consumer.commit(&next_offsets(&got[..20])).await;
    consumer.shutdown().await;
    let same_ports = on_ports_of(&bench.broker, dir.path());
    bench.stop().await;

    let bench = Bench::start_on(&same_ports, |_| ()).await;
    let consumer = bench.mq.subscribe("g", &topics).await.unwrap();
    let again = collect(&consumer, 30).await;
    assert_eq!(again, &got[20..]);
    consumer.shutdown().await;
    bench.stop().await;
}

/// Not a test by itself: the broker that `messages_outlive_a_killed_broker` kills.
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
        .args(["--exact", "rocketmq::broker_process", "--nocapture"])
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
async fn retry_and_dead_letter_topics_take_messages() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::start(dir.path()).await;
    let batch = [
        message("%DLQ%stock-consumer-group", "k1", "dead"),
        message("%DLQ%stock-consumer-group", "k2", "dead too"),
        message("%RETRY%stock-consumer-group", "k3", "again"),
    ];
    bench.send(&batch).await;
    let topics = vec![batch[0].topic.clone(), batch[2].topic.clone()];
    let consumer = bench.mq.subscribe("operator", &topics).await.unwrap();
    let got = collect(&consumer, 3).await;
    assert_eq!(got.len(), 3);
    for sent in &batch {
        let same = got.iter().find(|message| message.body == sent.body).unwrap();
        assert_eq!((&same.key, &same.tag, &same.properties), (&sent.key, &sent.tag, &sent.properties));
        // The embedded broker takes every group for an ordered one, and those get no retry: it stores what is sent to
        // %RETRY% in %DLQ% (Apache RocketMQ does not).
        assert_eq!(same.queue.topic, "%DLQ%stock-consumer-group");
    }
    consumer.shutdown().await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_too_large_is_refused_alone() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::start_with(dir.path(), |config| config.max_message_bytes = 100_000).await;
    let topics = bench.topics(&["T"]).await;
    let large = "x".repeat(90_000);
    let batch = [
        message("T", "k", "before"),
        message("T", "k", &large),
        message("T", "k", &"y".repeat(100_000)),
        message("T", "k", "after"),
    ];
    let results = bench.mq.publish(&batch).await;
    assert!(matches!(results[2], Err(PublishError::TooLarge { max_bytes: 100_000, .. })), "{results:?}");
    assert!(results.iter().enumerate().all(|(index, result)| index == 2 || result.is_ok()), "{results:?}");
    let consumer = bench.mq.subscribe("g", &topics).await.unwrap();
    let got = collect(&consumer, 3).await;
    let bodies: Vec<_> = got.iter().map(|message| message.body.clone()).collect();
    assert_eq!(bodies, ["before", large.as_str(), "after"]);
    consumer.shutdown().await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_away_is_an_error_for_each_message_until_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime();
    let broker = EmbeddedBroker::start(&embedded(dir.path()), &runtime).await.unwrap();
    let config = RocketMqConfig { send_timeout_ms: 500, retries: 1, ..client(broker.namesrv_addr()) };
    let mq = RocketMq::connect(config, &runtime).await.unwrap();
    let batch = numbered("T", 20, 10);
    mq.ensure_topics(&[String::from("T")], 4).await.unwrap();
    for result in mq.publish(&batch).await {
        result.unwrap();
    }
    let same_ports = on_ports_of(&broker, dir.path());
    broker.shutdown().await;
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

    let broker = EmbeddedBroker::start(&same_ports, &runtime).await.unwrap();
    while !mq.publish(&unknown[1..]).await.iter().all(Result::is_ok) {
        assert!(started.elapsed() < DEADLINE, "the broker is back, but nothing is sent");
    }
    assert!(mq.is_reachable().await);
    mq.shutdown().await;
    broker.shutdown().await;
    runtime.shutdown(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_broker_does_not_take_the_ports_of_the_first() {
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
