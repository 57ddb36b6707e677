//! The store of the embedded broker, over a stop in which it did not come to its end.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use ruyi::mq::embedded::{EmbeddedBroker, EmbeddedConfig};
use ruyi::mq::message::{Delay, Outgoing};
use ruyi::mq::rocketmq::{RocketMq, RocketMqConfig};
use ruyi::mq::runtime::MqRuntime;

const TOPIC: &str = "STORE_TAIL";
const DEADLINE: Duration = Duration::from_secs(90);
/// Bytes of an entry of a consume queue: offset, size, tag.
const ENTRY: usize = 20;

fn message(number: usize) -> Outgoing {
    Outgoing {
        topic: TOPIC.to_owned(),
        tag: TOPIC.to_owned(),
        key: number.to_string(),
        body: number.to_string().into(),
        properties: vec![("eventId".to_owned(), number.to_string())],
        delay: Delay::None,
    }
}

async fn send(mq: &RocketMq, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let started = Instant::now();
        while let Err(error) = mq.send(&message(number)).await {
            assert!(started.elapsed() < DEADLINE, "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Takes the last entry out of the queue of the topic, as if the broker had ended before it wrote it.
fn forget_the_last_entry(store: &Path) {
    let file = store.join("consumequeue").join(TOPIC).join("0/00000000000000000000");
    let mut entries = fs::read(&file).unwrap();
    let last = entries.chunks(ENTRY).rposition(|entry| entry.iter().any(|byte| *byte != 0)).unwrap();
    entries[last * ENTRY..(last + 1) * ENTRY].fill(0);
    fs::write(&file, entries).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unfinished_stop_costs_no_message() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = MqRuntime::start("store").unwrap();
    let mut config = EmbeddedConfig {
        data_dir: dir.path().to_owned(),
        host: "127.0.0.1".parse().unwrap(),
        namesrv_port: 0,
        broker_port: 0,
        queues_per_topic: 1,
        sync_flush: false,
    };
    let broker = EmbeddedBroker::start(&config, &runtime).await.unwrap();
    config.broker_port = broker.broker_addr().port();
    config.namesrv_port = broker.namesrv_addr().rsplit(':').next().unwrap().parse().unwrap();
    let client = RocketMqConfig { namesrv: broker.namesrv_addr(), ..RocketMqConfig::default() };
    let mq = RocketMq::connect(client, &runtime).await.unwrap();
    mq.ensure_topics(&[TOPIC.to_owned()], 1).await.unwrap();
    send(&mq, 0..3).await;
    broker.shutdown().await;
    forget_the_last_entry(&dir.path().join("store"));

    let broker = EmbeddedBroker::start(&config, &runtime).await.unwrap();
    send(&mq, 3..5).await;
    let consumer = mq.subscribe("readers", &[TOPIC.to_owned()]).await.unwrap();
    let started = Instant::now();
    let mut keys = Vec::new();
    while keys.len() < 5 {
        assert!(started.elapsed() < DEADLINE, "{keys:?}");
        keys.extend(consumer.poll(32, Duration::from_millis(200)).await.into_iter().map(|message| message.key));
    }
    assert_eq!(keys, ["0", "1", "2", "3", "4"]);
    consumer.shutdown().await;
    mq.shutdown().await;
    broker.shutdown().await;
    runtime.shutdown(Duration::from_secs(10)).await;
}
