//! Compressed messages of others: whatever compresses them, each message of a pull has an owner.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use ruyi::mq::message::{Incoming, QueueId};
use ruyi::mq::rocketmq::{GroupConsumer, RocketMq, RocketMqConfig};
use ruyi::mq::runtime::MqRuntime;
use serde_json::{Value, json};

use crate::support::broker_bench::BrokerBench;
use crate::support::dead_letters::{exported, import, letter, properties};
use crate::support::operators::Operator;
use crate::support::servers::java::Java;
use crate::support::servers::remoting::ask;
use crate::support::servers::rocketmq::apache;
use crate::support::servers::unique;
use crate::support::serving::Serving;
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
    send_known(broker, topic, "k", flags, body).await;
}

/// The same under this key, by which its event is known as well.
async fn send_known(broker: &str, topic: &str, key: &str, flags: i32, body: &[u8]) {
    let properties = format!("KEYS\u{1}{key}\u{2}eventId\u{1}{key}\u{2}");
    let fields = json!({"producerGroup": "others", "topic": topic, "defaultTopic": "TBW102", "defaultTopicQueueNums": "1",
        "queueId": "0", "sysFlag": flags.to_string(), "bornTimestamp": "1", "flag": "0", "reconsumeTimes": "0",
        "properties": properties, "unitMode": "false", "batch": "false"});
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

/// A role and its embedded broker, an operator, and a message whose body nobody can decompress.
#[cfg(feature = "embedded")]
struct Unreadable {
    serving: Serving,
    bench: BrokerBench,
    operator: Operator,
    broker: String,
}

#[cfg(feature = "embedded")]
impl Unreadable {
    const GROUP: &str = "points-consumer-group";
    const TOPIC: &str = "POINTS_GRANT";
    const BYTES: &[u8] = b"no LZ4 at all\xff";

    async fn start() -> Self {
        let settings = ["mq.enabled=true", "mq.embedded.namesrv_port=0", "mq.embedded.broker_port=0"];
        let serving = Serving::start(&settings).await;
        let namesrv = serving.process.namesrv().unwrap().to_owned();
        let operator = Operator::new(&namesrv);
        let bench = BrokerBench::at(namesrv).await;
        bench.mq.ensure_topics(&[Self::TOPIC.to_owned()], 4).await.unwrap();
        let broker = bench.mq.master_addrs().await.unwrap().into_values().next().unwrap();
        Self { serving, bench, operator, broker }
    }

    async fn found(&self) -> Vec<Value> {
        self.operator.items(&["mq", "messages", "query", Self::TOPIC]).await
    }

    async fn whole(&self, message: &Value) -> Value {
        let get = ["mq", "messages", "get", Self::TOPIC, message["id"].as_str().unwrap()];
        self.operator.items(&get).await.remove(0)
    }

    /// The letter of this id as `show` has it.
    async fn shown(&self, id: &str) -> Value {
        self.operator.items(&["mq", "dlq", "show", Self::GROUP, id]).await.remove(0)
    }

    /// Both messages lie where they were stored, and one has a letter: its id.
    async fn is_given_up(&self) -> String {
        let dead = "SELECT COUNT(*) FROM message_process_log WHERE message_id = 'packed' AND outcome = 3";
        assert_eq!(self.serving.number(dead).await, 1);
        let mut rows = Vec::new();
        eventually("its letter is listed", async || {
            rows = self.operator.items_and_code(&["mq", "dlq", "browse", Self::GROUP]).await.1;
            rows.len() == 1
        })
        .await;
        let id = rows[0]["id"].as_str().unwrap().to_owned();
        let packed = json!({ "$hex": hex::encode(Self::BYTES) });
        let shown = self.shown(&id).await;
        let is_told = |text: &Value| text.as_str().is_some_and(|text| text.contains("(LZ4)"));
        assert!(is_told(&shown["reason"]) && is_told(&shown["fault"]), "{shown}");
        assert_eq!((&shown["body"], &rows[0]["body"]), (&packed, &packed));
        let line = exported(&self.operator, Self::GROUP).await.remove(0);
        assert_eq!(line["bodyHex"], hex::encode(Self::BYTES));
        assert!(properties(&line)["dlqBodyCompressed"].contains("(LZ4)"), "{line}");

        let found = self.found().await;
        let keys: Vec<&Value> = found.iter().map(|message| &message["key"]).collect();
        assert_eq!(keys, ["packed", "plain"]);
        let tail = ["mq", "messages", "tail", Self::TOPIC, "--from", "start", "--limit", "2"];
        assert_eq!(self.operator.items(&tail).await, found);
        let whole = self.whole(&found[0]).await;
        assert!(is_told(&whole["unreadable"]) && whole["body"] == packed, "{whole}");
        id
    }

    /// The letter stays where it is, and open, until somebody has replaced its body.
    async fn is_replayed_once_replaced(&self, id: &str, body: &Value) {
        let replay = ["mq", "dlq", "replay", Self::GROUP, "--yes", "--watch", "0s"];
        let (code, items, stderr) = self.operator.items_and_code(&replay).await;
        let counts = ["matched", "due", "sent", "failed", "refusedCompressed"].map(|name| items[0][name].clone());
        assert_eq!((code, json!(counts)), (1, json!([1, 0, 0, 0, 1])), "{stderr}");
        assert!(stderr.contains(id) && stderr.contains("send it anew") && stderr.contains("dlq export"), "{stderr}");
        assert_eq!(self.found().await.len(), 2, "nothing was sent");

        let edit = ["mq", "dlq", "edit", Self::GROUP, id, "--yes"];
        let said = self.operator.refuses(&[&edit[..], &["--field", "points=5"]].concat(), 1).await;
        assert!(said.contains("(LZ4)") && said.contains("--body"), "{said}");
        let text = body.to_string();
        let output = self.operator.run_with(&[&edit[..], &["--body", "-"]].concat(), text.as_bytes()).await;
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let shown = self.shown(id).await;
        assert_eq!((&shown["fault"], &shown["editedBody"]), (&Value::Null, body), "{shown}");
        let (code, items, stderr) = self.operator.items_and_code(&replay).await;
        assert_eq!((code, &items[0]["sent"]), (0, &json!(1)), "{stderr}");
        eventually("it is handled", async || self.serving.get("/points/1001").await["balance"] == 10).await;

        let copy = self.whole(&self.found().await[2]).await;
        assert_eq!((&copy["properties"]["dlqReplays"], &copy["unreadable"]), (&json!("1"), &Value::Null), "{copy}");
        assert_eq!(copy["properties"]["dlqBodyCompressed"], Value::Null);
    }

    /// The letter of another program has the broker's sign itself, which the line of a file cannot have.
    async fn is_refused_for_other_programs(&self) {
        import(&self.operator, &letter("their-group", 1, "one")).await;
        send_known(&self.broker, "%DLQ%their-group", "theirs", IS_COMPRESSED | ZSTD, Self::BYTES).await;
        let replay = ["mq", "dlq", "replay", "their-group", "--key", "theirs", "--dry-run"];
        let mut refused = (0, Vec::new(), String::new());
        eventually("their letter is found", async || {
            refused = self.operator.items_and_code(&replay).await;
            refused.1.first().is_some_and(|summary: &Value| summary["matched"] == 1)
        })
        .await;
        assert_eq!((refused.0, &refused.1[0]["refusedCompressed"]), (1, &json!(1)), "{}", refused.2);
        let lines = exported(&self.operator, "their-group").await;
        let line = lines.iter().find(|line| line["key"] == "theirs").unwrap();
        assert!(properties(line)["dlqBodyCompressed"].contains("(ZSTD)"), "{line}");
    }
}

/// What nobody can decompress is given up with the bytes of its producer. Nothing says of a copy of these bytes that
/// they are compressed, so none is made.
#[cfg(feature = "embedded")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_body_is_a_letter_with_its_bytes() {
    let unreadable = Unreadable::start().await;
    let grant = json!({ "userId": "1001", "points": 5 });
    send_known(&unreadable.broker, Unreadable::TOPIC, "packed", IS_COMPRESSED | LZ4, Unreadable::BYTES).await;
    send_known(&unreadable.broker, Unreadable::TOPIC, "plain", 0, grant.to_string().as_bytes()).await;
    let handled = "SELECT COUNT(*) FROM message_process_log WHERE message_id = 'plain' AND outcome = 0";
    eventually("the other one is handled", async || unreadable.serving.number(handled).await == 1).await;

    let id = unreadable.is_given_up().await;
    unreadable.is_replayed_once_replaced(&id, &grant).await;
    unreadable.is_refused_for_other_programs().await;
    unreadable.bench.stop().await;
    unreadable.serving.stop().await;
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
