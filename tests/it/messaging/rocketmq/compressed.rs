//! Compressed messages of others: whatever compresses them, each message of a pull has an owner.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use ruyi::mq::message::{Incoming, QueueId};
use ruyi::mq::rocketmq::{GroupConsumer, RocketMq, RocketMqConfig};
use ruyi::mq::runtime::MqRuntime;
use serde_json::json;

use crate::support::servers::java::Java;
use crate::support::servers::remoting::ask;
use crate::support::servers::rocketmq::apache;
use crate::support::servers::unique;
use crate::support::waiting::eventually;

/// RocketMQ's request code for sending.
const SEND_MESSAGE: u32 = 10;
const IS_COMPRESSED: i32 = 1;
const LZ4: i32 = 1 << 8;
const ZSTD: i32 = 2 << 8;
const ZLIB: i32 = 3 << 8;

async fn connect(namesrv: String, runtime: &MqRuntime) -> RocketMq {
    RocketMq::connect(RocketMqConfig { namesrv, ..RocketMqConfig::default() }, runtime).await.unwrap()
}

/// Sends a body as it is to queue 0, with these flags, as a client would that has compressed it.
async fn send(broker: &str, topic: &str, flags: i32, body: &[u8]) {
    let fields = json!({"producerGroup": "others", "topic": topic, "defaultTopic": "TBW102", "defaultTopicQueueNums": "1",
        "queueId": "0", "sysFlag": flags.to_string(), "bornTimestamp": "1", "flag": "0", "reconsumeTimes": "0",
        "properties": "KEYS\u{1}k\u{2}", "unitMode": "false", "batch": "false"});
    let (header, _) = ask(broker, SEND_MESSAGE, fields, body).await.unwrap();
    assert_eq!(header["code"], 0, "{header}");
}

/// The first messages of a group, in the order of their queue.
async fn first(consumer: &GroupConsumer, count: usize) -> Vec<Incoming> {
    let mut messages = Vec::new();
    eventually("all messages are there", async || {
        messages.extend(consumer.poll(32, Duration::from_millis(200)).await);
        messages.len() >= count
    })
    .await;
    messages.sort_by_key(|message| message.offset);
    messages
}

#[cfg(feature = "embedded")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_of_a_pull_has_an_owner() {
    let embedded = crate::support::transaction_brokers::LongLivedBroker::start().await;
    let runtime = MqRuntime::start("compressed").unwrap();
    let mq = connect(embedded.namesrv(), &runtime).await;
    let topic = String::from("COMPRESSED");
    mq.ensure_topics(std::slice::from_ref(&topic), 1).await.unwrap();

    let text = "{\"orderId\":7}".repeat(500);
    let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
    lz4.write_all(text.as_bytes()).unwrap();
    let lz4 = lz4.finish().unwrap();
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    zlib.write_all(text.as_bytes()).unwrap();
    let zlib = zlib.finish().unwrap();
    let broker = embedded.broker.broker_addr().to_string();
    for (flags, body) in [
        (IS_COMPRESSED | LZ4, &lz4[..]),
        (IS_COMPRESSED | LZ4, &lz4_flex::block::compress_prepend_size(text.as_bytes())),
        (IS_COMPRESSED | LZ4, b"no LZ4 at all"),
        (0, b"small"),
        (IS_COMPRESSED | ZSTD, &zstd::encode_all(text.as_bytes(), 3).unwrap()),
        (IS_COMPRESSED | ZLIB, &zlib),
        // Clients before 5.0 know Zlib only, and do not say so.
        (IS_COMPRESSED, &zlib),
        (IS_COMPRESSED | 7 << 8, b"of tomorrow"),
        (0, b"last"),
    ] {
        send(&broker, &topic, flags, body).await;
    }

    let consumer = mq.subscribe("readers", std::slice::from_ref(&topic)).await.unwrap();
    let messages = first(&consumer, 9).await;
    let bodies: Vec<&[u8]> = messages.iter().map(|message| &message.body[..]).collect();
    let text = text.as_bytes();
    assert_eq!(bodies, [text, text, b"no LZ4 at all", b"small", text, text, text, b"of tomorrow", b"last"]);
    let unreadable: Vec<usize> = (0..9).filter(|place| messages[*place].unreadable.is_some()).collect();
    assert_eq!(unreadable, [2, 7]);
    assert!(messages[2].unreadable.as_deref().unwrap().contains("(LZ4)"), "{messages:?}");

    // Operators see the same, where it lies and by its key.
    let queue = QueueId { topic: topic.clone(), broker: messages[0].queue.broker.clone(), queue: 0 };
    let page = mq.read_queue(&broker, &queue, 0, 32).await.unwrap();
    let seen: Vec<(&[u8], bool)> = page.messages.iter().map(|m| (&m.body[..], m.unreadable.is_some())).collect();
    assert_eq!(seen, messages.iter().map(|m| (&m.body[..], m.unreadable.is_some())).collect::<Vec<_>>());
    let (of_key, _) = mq.messages_by_key(&topic, "k", 0, i64::MAX, 32).await.unwrap();
    assert_eq!(of_key.iter().filter(|message| message.body == Bytes::copy_from_slice(text)).count(), 5);
    let by_id = mq.message_by_offset_id(&topic, &page.messages[0].offset_id).await.unwrap();
    assert_eq!(by_id.unwrap().body, Bytes::copy_from_slice(text));

    consumer.shutdown().await;
    mq.shutdown().await;
    runtime.shutdown(Duration::from_secs(10)).await;
    embedded.stop().await;
}

/// As a service in Java sends them, with small messages behind the large ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn java_may_compress_by_each_method() {
    let (Some(java), Some(apache)) = (Java::compile(), apache().await) else { return };
    let runtime = MqRuntime::start("compressed").unwrap();
    let mq = connect(apache.namesrv(), &runtime).await;
    let large = "{\"orderId\":7}".repeat(500);
    for method in ["LZ4", "ZSTD", "ZLIB"] {
        let topic = unique("COMPRESSED");
        eventually("the topic is there", async || mq.ensure_topics(std::slice::from_ref(&topic), 1).await.is_ok())
            .await;
        let bodies = [&large, &large, "small", "last"];
        let mut producer = java.start("Produce", &[&apache.namesrv(), method]);
        producer.give(&bodies.map(|body| format!("{topic}\t\tkey\t{body}")));
        producer.finish();

        let consumer = mq.subscribe(&unique("readers"), std::slice::from_ref(&topic)).await.unwrap();
        let messages = first(&consumer, bodies.len()).await;
        let seen: Vec<&[u8]> = messages.iter().map(|message| &message.body[..]).collect();
        assert_eq!(seen, bodies.map(str::as_bytes), "{method}");
        consumer.shutdown().await;
    }
    mq.shutdown().await;
    runtime.shutdown(Duration::from_secs(10)).await;
}
