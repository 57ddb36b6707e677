//! Half messages on real brokers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ruyi::mq::message::Outgoing;
use ruyi::mq::rocketmq::transaction::{Asked, CheckBack, TX_ID, Transactions, Verdict};
use ruyi::mq::rocketmq::{GroupConsumer, RocketMq, RocketMqConfig};
use ruyi::mq::runtime::MqRuntime;

use crate::support::transaction_brokers;

/// Far more than anything here takes: only a hang reaches it.
const DEADLINE: Duration = Duration::from_secs(120);
const TOPIC: &str = "PAYMENT_SUCCESS";

/// What check-backs are told, and what they asked, by transaction id.
#[derive(Clone, Default)]
struct Book {
    verdicts: Arc<Mutex<HashMap<String, Vec<Verdict>>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Book {
    fn tell(&self, tx_id: &str, verdicts: &[Verdict]) {
        let verdicts = verdicts.iter().rev().copied().collect();
        self.verdicts.lock().unwrap().insert(tx_id.to_owned(), verdicts);
    }

    fn answer(&self) -> CheckBack {
        let book = self.clone();
        Arc::new(move |asked| {
            let verdict = book.verdicts.lock().unwrap().get_mut(&asked.tx_id).and_then(Vec::pop);
            book.asked.lock().unwrap().push(asked);
            Box::pin(async move { verdict.unwrap_or(Verdict::Unknown) })
        })
    }

    fn times(&self, tx_id: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| asked.tx_id == tx_id).count()
    }
}

fn message(key: &str) -> Outgoing {
    Outgoing {
        topic: TOPIC.to_owned(),
        tag: TOPIC.to_owned(),
        key: key.to_owned(),
        body: format!("{{\"orderId\":\"{key}\"}}").into(),
        properties: vec![("eventId".to_owned(), format!("{key}:{TOPIC}"))],
        delay: ruyi::mq::message::Delay::None,
    }
}

async fn prepare(transactions: &Transactions, key: &str) -> ruyi::mq::rocketmq::transaction::Half {
    transactions.prepare(&message(key), &format!("{key}#1")).await.unwrap()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < DEADLINE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn keys_that_came(consumer: &GroupConsumer, count: usize) -> Vec<String> {
    let started = Instant::now();
    let mut keys = Vec::new();
    while keys.len() < count {
        assert!(started.elapsed() < DEADLINE, "{keys:?}, of {count}");
        for message in consumer.poll(32, Duration::from_millis(200)).await {
            assert_eq!(message.property(TX_ID), Some(format!("{}#1", message.key).as_str()), "{message:?}");
            assert_eq!(message.property("eventId"), Some(format!("{}:{TOPIC}", message.key).as_str()));
            assert_eq!(message.tag, TOPIC);
            keys.push(message.key);
        }
    }
    keys.sort();
    keys
}

/// What is decided at once, what only the check-back decides, and what another member of the group decides.
async fn half_messages_are_decided(namesrv: String, namespace: Option<&str>) {
    let runtime = MqRuntime::start("mq-test").unwrap();
    let mut config = RocketMqConfig { namesrv, namespace: namespace.map(str::to_owned), ..RocketMqConfig::default() };
    config.topics.insert(TOPIC.to_owned(), "payment-success".to_owned());
    let mq = RocketMq::connect(config.clone(), &runtime).await.unwrap();
    mq.ensure_topics(&[TOPIC.to_owned()], 4).await.unwrap();
    let consumer = mq.subscribe("order-consumer-group", &[TOPIC.to_owned()]).await.unwrap();
    let book = Book::default();
    let topics = [TOPIC.to_owned()];
    let transactions = mq.transactions("payment-producer-group", &topics, book.answer()).await.unwrap();

    // The word that ends one is not confirmed: where it gets lost, the broker asks.
    book.tell("yes#1", &[Verdict::Commit]);
    book.tell("no#1", &[Verdict::Rollback]);
    let (yes, no) = (prepare(&transactions, "yes").await, prepare(&transactions, "no").await);
    transactions.end(no, Verdict::Rollback).await;
    transactions.end(yes, Verdict::Commit).await;
    assert_eq!(keys_that_came(&consumer, 1).await, ["yes"]);

    // Nobody tells the broker: it asks, until it gets an answer.
    book.tell("asked-yes#1", &[Verdict::Commit]);
    book.tell("asked-no#1", &[Verdict::Rollback]);
    book.tell("asked-twice#1", &[Verdict::Unknown, Verdict::Commit]);
    for key in ["asked-yes", "asked-no", "asked-twice"] {
        drop(prepare(&transactions, key).await);
    }
    assert_eq!(keys_that_came(&consumer, 2).await, ["asked-twice", "asked-yes"]);
    until("it asked for the one that was rolled back", || book.times("asked-no#1") > 0).await;
    let asked = book.asked.lock().unwrap().iter().find(|asked| asked.tx_id == "asked-no#1").cloned().unwrap();
    let expected = Asked { tx_id: "asked-no#1".into(), event_id: format!("asked-no:{TOPIC}"), key: "asked-no".into() };
    assert_eq!(asked, expected);

    // The sender is gone: another member of its group answers.
    book.tell("orphan#1", &[Verdict::Commit]);
    drop(prepare(&transactions, "orphan").await);
    transactions.shutdown().await;
    let other = RocketMq::connect(config, &runtime).await.unwrap();
    let transactions = other.transactions("payment-producer-group", &topics, book.answer()).await.unwrap();
    assert_eq!(keys_that_came(&consumer, 1).await, ["orphan"]);
    // What was decided is asked for no more, and nothing else came.
    assert!(book.times("yes#1") <= 1 && book.times("no#1") <= 1);
    assert!(consumer.poll(32, Duration::from_millis(500)).await.is_empty());

    transactions.shutdown().await;
    consumer.shutdown().await;
    other.shutdown().await;
    mq.shutdown().await;
    runtime.shutdown(Duration::from_secs(10)).await;
}

#[cfg(feature = "embedded")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_messages_are_decided_on_the_embedded_broker() {
    let embedded = transaction_brokers::LongLivedBroker::start().await;
    half_messages_are_decided(embedded.namesrv(), Some("shop")).await;
    embedded.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_messages_are_decided_on_rocketmq() {
    if let Some(cluster) = transaction_brokers::apache().await {
        half_messages_are_decided(cluster.namesrv(), None).await;
        half_messages_are_decided(cluster.namesrv(), Some("shop")).await;
    }
}
