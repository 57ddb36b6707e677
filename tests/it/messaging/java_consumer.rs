//! With services in Java, on Apache RocketMQ: what they send is handled once, and they read what ruyi sends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ruyi::mq::message::{Delay, Outgoing};
use ruyi::mq::rocketmq::{RocketMq, RocketMqConfig};
use ruyi::mq::runtime::MqRuntime;

use crate::support::servers::java::Java;
use crate::support::servers::rocketmq::apache;
use crate::support::servers::unique;
use crate::support::waiting::eventually;

const DEADLINE: Duration = Duration::from_secs(120);
pub const QUEUES: i32 = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn java_consumer_on_rocketmq_reads_in_order_by_tag() {
    let (Some(java), Some(apache)) = (Java::compile(), apache().await) else { return };
    let runtime = MqRuntime::start("interop").unwrap();
    let config = RocketMqConfig { namesrv: apache.namesrv(), ..RocketMqConfig::default() };
    let mq = RocketMq::connect(config, &runtime).await.unwrap();
    let (topic, group) = (unique("JAVA_ORDER"), unique("java-order-group"));
    eventually("the topic is there", async || mq.ensure_topics(std::slice::from_ref(&topic), QUEUES).await.is_ok())
        .await;
    let message = |key: usize, number: usize| Outgoing {
        topic: topic.clone(),
        tag: ["A", "B", "C"][number % 3].to_owned(),
        key: format!("order-{key}"),
        body: number.to_string().into(),
        properties: vec![("eventId".to_owned(), format!("{key}:{number}"))],
        delay: Delay::None,
    };
    let (keys, each) = (7, 60);
    let batch: Vec<Outgoing> = (0..each)
        .flat_map(|number| (0..keys).map(move |key| (key, number)))
        .map(|(key, number)| message(key, number))
        .collect();
    for result in mq.publish(&batch).await {
        result.unwrap();
    }
    let consumer = java.start("Consume", &[&apache.namesrv(), &group, &topic, "A || B"]);
    let wanted = keys * each * 2 / 3;
    let own = || consumer.lines().into_iter().filter(|line| line.starts_with(&topic)).collect::<Vec<_>>();
    let started = Instant::now();
    while own().into_iter().collect::<BTreeSet<_>>().len() < wanted {
        assert!(started.elapsed() < DEADLINE, "{wanted} are to come:\n{}", consumer.lines().join("\n"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut seen: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for line in own() {
        let parts: Vec<&str> = line.split('\t').collect();
        let (tag, key, id, body) = (parts[4], parts[5], parts[6], parts[10]);
        assert!(tag == "A" || tag == "B", "{line}");
        assert_eq!(id, format!("{}:{body}", key.trim_start_matches("order-")));
        assert_eq!(parts[1].parse::<i32>().unwrap(), parts[3].parse::<i32>().unwrap() % QUEUES, "{line}");
        let numbers = seen.entry(key.to_owned()).or_default();
        let number = body.parse().unwrap();
        // A queue that it was given a second time may begin again.
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }
    consumer.finish();
    assert_eq!(seen.len(), keys);
    let expected: Vec<usize> = (0..each).filter(|number| number % 3 != 2).collect();
    for (key, numbers) in seen {
        assert_eq!(numbers, expected, "{key}");
    }
    mq.shutdown().await;
    runtime.shutdown(Duration::from_secs(10)).await;
}
