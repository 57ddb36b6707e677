//! Every kind of message through the one producer, received exactly as it was sent.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use ruyi::clock::Clock;
use ruyi::mq::message::{Delay, Incoming, Outgoing};
use ruyi::mq::rocketmq::{PublishError, RocketMq, RocketMqConfig};
use ruyi::mq::runtime::MqRuntime;

use crate::support::servers::rocketmq::{Cluster, ClusterPlan, apache};

/// Far more than anything here takes: only a hang reaches it.
const DEADLINE: Duration = Duration::from_secs(90);
const WAIT: Duration = Duration::from_millis(100);

/// A message that uses all of it, with characters of one to four bytes.
fn message(topic: &str, key: &str, body: &str) -> Outgoing {
    Outgoing {
        topic: topic.to_owned(),
        tag: "tag-\u{e9}".to_owned(),
        key: key.to_owned(),
        body: body.to_owned().into(),
        properties: vec![
            ("eventId".to_owned(), format!("{key}:{topic}")),
            ("traceparent".to_owned(), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
            ("word".to_owned(), "\u{8336}\u{1f375}".to_owned()),
        ],
        delay: Delay::None,
    }
}

fn assert_same(got: &Incoming, sent: &Outgoing) {
    assert_eq!((&got.queue.topic, &got.tag, &got.key), (&sent.topic, &sent.tag, &sent.key));
    assert!(got.body == sent.body, "{}: the body changed", sent.key);
    let sorted = |all: &[(String, String)]| all.iter().cloned().collect::<BTreeMap<_, _>>();
    assert_eq!(sorted(&got.properties), sorted(&sent.properties), "{}", sent.key);
}

/// A new topic, and what a new group gets of it until `count` messages are there, with the time at which each came.
struct Reader {
    consumer: ruyi::mq::rocketmq::GroupConsumer,
    got: Vec<(Incoming, Instant, i64)>,
}

impl Reader {
    async fn of(mq: &RocketMq, topic: &str) -> Self {
        let topics = [topic.to_owned()];
        let started = Instant::now();
        // A busy machine answers late.
        while let Err(error) = mq.ensure_topics(&topics, 4).await {
            assert!(started.elapsed() < DEADLINE, "{topic}: {error}");
        }
        Self { consumer: mq.subscribe(&format!("{topic}-readers"), &topics).await.unwrap(), got: Vec::new() }
    }

    async fn until(&mut self, count: usize) -> &[(Incoming, Instant, i64)] {
        let started = Instant::now();
        while self.got.len() < count {
            assert!(started.elapsed() < DEADLINE, "{} of {count} messages came", self.got.len());
            self.poll().await;
        }
        let places: Vec<_> = self.got.iter().map(|(one, ..)| (&one.key, &one.queue, one.offset)).collect();
        assert_eq!(self.got.len(), count, "{places:?}");
        &self.got
    }

    async fn poll(&mut self) {
        let messages = self.consumer.poll(256, WAIT).await;
        let (at, now_ms) = (Instant::now(), Clock::system().now_ms());
        for message in messages {
            // A queue that it was given a second time may begin again.
            let known = |(one, ..): &(Incoming, _, _)| (&one.queue, one.offset) == (&message.queue, message.offset);
            if !self.got.iter().any(known) {
                self.got.push((message, at, now_ms));
            }
        }
    }

    /// The messages of a key, in the order in which they came.
    fn of_key(&self, key: &str) -> Vec<&(Incoming, Instant, i64)> {
        self.got.iter().filter(|(message, ..)| message.key == key).collect()
    }

    async fn close(self) {
        self.consumer.shutdown().await;
    }
}

/// Waits for the answer: where the message is.
async fn sync(mq: &RocketMq) {
    let mut reader = Reader::of(mq, "KIND_SYNC").await;
    let sent = message("KIND_SYNC", "o-1", "{\"\u{5b57}\":\"\u{1f375}\"}");
    let receipt = mq.send(&sent).await.unwrap();
    let (got, ..) = &reader.until(1).await[0];
    assert_same(got, &sent);
    assert_eq!((&got.queue, got.offset), (&receipt.queue, receipt.offset));
    assert!(!receipt.message_id.is_empty());
    // Another copy is another message to the broker, and the same event to its consumers.
    assert_ne!(mq.send(&sent).await.unwrap().message_id, receipt.message_id);
    assert_same(&reader.until(2).await[1].0, &sent);
    let empty = Outgoing { body: "".into(), ..sent };
    assert!(matches!(mq.send(&empty).await, Err(PublishError::Illegal(_))));
    reader.close().await;
}

/// More at once than are let through at once; each has its answer.
async fn asynchronous(mq: &RocketMq) {
    let mut reader = Reader::of(mq, "KIND_ASYNC").await;
    let all: Vec<Outgoing> = (0..300).map(|n| message("KIND_ASYNC", &format!("o-{n}"), &n.to_string())).collect();
    let mut sending = Vec::new();
    for one in &all {
        sending.push(mq.send_async(one.clone()).await);
    }
    let mut places = HashMap::new();
    for (one, sent) in all.iter().zip(sending) {
        let receipt = sent.await.unwrap();
        places.insert(one.key.clone(), (receipt.queue, receipt.offset));
    }
    for (got, ..) in reader.until(all.len()).await {
        assert_same(got, all.iter().find(|one| one.key == got.key).unwrap());
        assert_eq!(places.remove(&got.key).unwrap(), (got.queue.clone(), got.offset));
    }
    assert!(places.is_empty());
    let refused = mq.send_async(Outgoing { topic: String::new(), ..all[0].clone() }).await.await;
    assert!(matches!(refused, Err(PublishError::Illegal(_))), "{refused:?}");
    reader.close().await;
}

async fn one_way(mq: &RocketMq) {
    let mut reader = Reader::of(mq, "KIND_ONE_WAY").await;
    let sent = message("KIND_ONE_WAY", "o-1", "{}");
    mq.send_one_way(&sent).await.unwrap();
    assert_same(&reader.until(1).await[0].0, &sent);
    let large = Outgoing { body: vec![b'x'; mq.config().max_message_bytes].into(), ..sent };
    assert!(matches!(mq.send_one_way(&large).await, Err(PublishError::TooLarge { .. })));
    reader.close().await;
}

/// All of a key in one queue and in order; keys and what has no key in more than one queue.
async fn ordered(mq: &RocketMq) {
    let mut reader = Reader::of(mq, "KIND_ORDERED").await;
    let mut count = 0;
    for round in 0..10 {
        let part: Vec<Outgoing> =
            (0..20).map(|key| message("KIND_ORDERED", &format!("o-{key}"), &round.to_string())).collect();
        count += part.len();
        for result in mq.publish(&part).await {
            result.unwrap();
        }
    }
    for _ in 0..8 {
        mq.send(&Outgoing { key: String::new(), ..message("KIND_ORDERED", "", "none") }).await.unwrap();
    }
    reader.until(count + 8).await;
    let mut queues = BTreeMap::new();
    for key in 0..20 {
        let key = format!("o-{key}");
        let of_key = reader.of_key(&key);
        let bodies: Vec<_> = of_key.iter().map(|(message, ..)| message.body.clone()).collect();
        assert!(
            bodies.iter().map(|body| &body[..]).eq((0..10)
                .map(|n| n.to_string())
                .collect::<Vec<_>>()
                .iter()
                .map(String::as_bytes))
        );
        assert!(of_key.iter().all(|(message, ..)| message.queue == of_key[0].0.queue), "{key} is in two queues");
        queues.insert(of_key[0].0.queue.clone(), key);
    }
    assert!(queues.len() > 1, "{queues:?}");
    let keyless: BTreeMap<_, _> = reader.of_key("").iter().map(|(message, ..)| (message.queue.clone(), ())).collect();
    assert_eq!(keyless.len(), 4, "what has no key is spread");
    reader.close().await;
}

/// Batches of one queue that are over the broker's limit unless bytes are counted: three bytes a character.
async fn batch(mq: &RocketMq) {
    let mut reader = Reader::of(mq, "KIND_BATCH").await;
    let body = "\u{5b57}".repeat(4_000);
    let all: Vec<Outgoing> = (0..500).map(|n| message("KIND_BATCH", "one", &format!("{n}{body}"))).collect();
    let characters: usize = all.iter().map(|one| std::str::from_utf8(&one.body).unwrap().chars().count()).sum();
    let bytes: usize = all.iter().map(|one| one.body.len()).sum();
    assert!(characters < mq.config().batch_max_bytes && bytes > mq.config().batch_max_bytes, "{characters} {bytes}");
    for result in mq.publish(&all).await {
        result.unwrap();
    }
    for ((got, ..), sent) in reader.until(all.len()).await.iter().zip(&all) {
        assert_same(got, sent);
    }
    reader.close().await;
}

/// Level by level, alone and in the middle of others.
async fn delay_level(mq: &RocketMq) {
    let mut reader = Reader::of(mq, "KIND_LEVEL").await;
    let at = |key: &str, level: &str| Outgoing {
        delay: Delay::Level(level.parse().unwrap()),
        ..message("KIND_LEVEL", key, "{}")
    };
    let batch = [at("5s", "5s"), message("KIND_LEVEL", "now", "{}"), at("1s", "1"), at("also 1s", "1s")];
    let started = Instant::now();
    for result in mq.publish(&batch).await {
        result.unwrap();
    }
    for (got, came, _) in reader.until(batch.len()).await {
        let sent = batch.iter().find(|one| one.key == got.key).unwrap();
        assert_same(got, sent);
        let least = if let Delay::Level(level) = sent.delay { level.ms() } else { 0 };
        let took = i64::try_from((*came - started).as_millis()).unwrap();
        assert!(took >= least, "{} came after {took} ms", got.key);
    }
    assert_eq!(reader.got[0].0.key, "now");
    assert_eq!(reader.got[3].0.key, "5s");
    reader.close().await;
}

/// Never before its time; refused beyond the brokers' limit.
async fn timer(mq: &RocketMq) {
    let mut reader = Reader::of(mq, "KIND_TIMER").await;
    let now_ms = Clock::system().now_ms();
    let at = |key: &str, after_ms: i64| Outgoing {
        delay: Delay::Until(now_ms + after_ms),
        ..message("KIND_TIMER", key, "{\"\u{8336}\":1}")
    };
    // On a full second, which brokers round differently, and between two; so late that a busy machine has sent all of them
    // before: a time that is past is refused.
    let full = 11_000 - now_ms % 1_000;
    let batch = [at("later", 10_321), message("KIND_TIMER", "now", "{}"), at("full", full), at("soon", 8_500)];
    for result in mq.publish(&batch).await {
        result.unwrap();
    }
    for (got, _, came_ms) in reader.until(batch.len()).await {
        let sent = batch.iter().find(|one| one.key == got.key).unwrap();
        assert_same(got, sent);
        let due_ms = if let Delay::Until(at_ms) = sent.delay { at_ms } else { 0 };
        assert!(*came_ms >= due_ms, "{} came {} ms early", got.key, due_ms - came_ms);
    }
    assert_eq!(reader.got[0].0.key, "now");
    // The limit that `mq.producer.max_delay` says by default.
    let limit_ms = 3 * 86_400_000;
    mq.send(&at("in three days", limit_ms - 60_000)).await.unwrap();
    let refused = mq.send(&at("in four days", limit_ms + 86_400_000)).await;
    assert!(refused.is_err(), "{refused:?}");
    reader.close().await;
}

async fn every_kind(namesrv: String) {
    let runtime = MqRuntime::start("kinds").unwrap();
    let config = RocketMqConfig {
        namesrv,
        // Bodies stay as they are, so that batches are full.
        compress_over_bytes: 1 << 20,
        batch_max_bytes: 4 << 20,
        batch_max_messages: 10_000,
        // A broker that is slow on a busy machine has taken the message all the same, and the next attempt is a copy.
        send_timeout_ms: 60_000,
        ..RocketMqConfig::default()
    };
    let mq = RocketMq::connect(config, &runtime).await.unwrap();
    tokio::join!(sync(&mq), asynchronous(&mq), one_way(&mq), ordered(&mq), batch(&mq), delay_level(&mq), timer(&mq),);
    mq.shutdown().await;
    runtime.shutdown(Duration::from_secs(10)).await;
}

#[cfg(feature = "embedded")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_on_the_embedded_broker() {
    use ruyi::mq::embedded::{EmbeddedBroker, EmbeddedConfig};
    let dir = tempfile::tempdir().unwrap();
    let runtime = MqRuntime::start("kinds-broker").unwrap();
    let config = EmbeddedConfig {
        data_dir: dir.path().to_owned(),
        host: "127.0.0.1".parse().unwrap(),
        namesrv_port: 0,
        broker_port: 0,
        queues_per_topic: 4,
        sync_flush: false,
    };
    let broker = EmbeddedBroker::start(&config, &runtime).await.unwrap();
    every_kind(broker.namesrv_addr()).await;
    broker.shutdown().await;
    runtime.shutdown(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_on_apache_rocketmq() {
    let Some(apache) = apache().await else { return };
    every_kind(apache.namesrv()).await;
}

/// Brokers to which 40 sends of as many keys go; every one of them has to land.
async fn brokers_of(mq: &RocketMq, round: &str) -> BTreeMap<String, usize> {
    let mut brokers = BTreeMap::new();
    for key in 0..40 {
        let receipt = mq.send(&message("KIND_FAILOVER", &format!("o-{key}"), round)).await.unwrap();
        *brokers.entry(receipt.queue.broker).or_default() += 1;
    }
    brokers
}

/// Kills one of two brokers: what would have gone to it goes to the other, and comes back when it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_broker_takes_over_in_a_rocketmq_cluster() {
    let Some(cluster) = Cluster::start(ClusterPlan::pair()).await else { return };
    let runtime = MqRuntime::start("kinds").unwrap();
    let config = RocketMqConfig { namesrv: cluster.namesrv(), ..RocketMqConfig::default() };
    let mq = RocketMq::connect(config, &runtime).await.unwrap();
    mq.ensure_topics(&["KIND_FAILOVER".to_owned()], 4).await.unwrap();
    // Each name server learns of a new topic in its own time.
    let started = Instant::now();
    while mq.send(&message("KIND_FAILOVER", "first", "before")).await.is_err() {
        assert!(started.elapsed() < DEADLINE, "there is no route");
    }
    assert_eq!(brokers_of(&mq, "before").await.keys().collect::<Vec<_>>(), ["a", "b"]);
    cluster.kill_broker("a");
    assert_eq!(brokers_of(&mq, "without").await, BTreeMap::from([("b".to_owned(), 40)]));
    let batch: Vec<Outgoing> = (0..40).map(|key| message("KIND_FAILOVER", &format!("o-{key}"), "as a batch")).collect();
    for result in mq.publish(&batch).await {
        result.unwrap();
    }
    let mut reader = Reader::of(&mq, "KIND_FAILOVER").await;
    let started = Instant::now();
    let after = |reader: &Reader| reader.got.iter().filter(|(message, ..)| &message.body[..] != b"before").count();
    while after(&reader) < 80 {
        assert!(started.elapsed() < DEADLINE, "{} of 80 came", after(&reader));
        reader.poll().await;
    }
    assert_eq!(after(&reader), 80, "each landed once");
    cluster.start_broker("a").await;
    while !brokers_of(&mq, "again").await.contains_key("a") {
        assert!(started.elapsed() < DEADLINE, "the broker is back, but gets nothing");
    }
    reader.close().await;
    mq.shutdown().await;
    runtime.shutdown(Duration::from_secs(10)).await;
}
