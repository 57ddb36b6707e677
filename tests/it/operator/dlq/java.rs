//! Dead letters of Java services on Apache RocketMQ.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ruyi::mq::rocketmq::{RocketMq, RocketMqConfig};
use ruyi::mq::runtime::MqRuntime;
use serde_json::{Value, json};

use crate::support::dead_letters::{exported, journal, keys, properties};
use crate::support::operators::{Operator, masked};
use crate::support::servers::java::{Java, Program};
use crate::support::servers::rocketmq::{Cluster, apache};
use crate::support::servers::unique;
use crate::support::waiting::{eventually, eventually_or_show};

/// A topic, and a group of a Java service that could not handle what came on it.
struct Dead {
    apache: Arc<Cluster>,
    services: Program,
    topic: String,
    group: String,
    operator: Operator,
}

impl Dead {
    /// `count` dead letters with the keys order-0, order-1, ...; the service has stopped.
    async fn letters(count: usize) -> Option<Self> {
        let (java, apache) = (Java::compile()?, apache().await?);
        let (topic, group) = (unique("JAVA_DEAD"), unique("java-dead"));
        let mut services = java.start("Operate", &[&apache.namesrv()]);
        let send = format!("send {topic} {count} order");
        services.give(&[format!("topic {topic} 2"), format!("fail {group} {topic} *"), send]);
        let operator = Operator::new(&apache.namesrv());
        let mut dead = Self { apache, services, topic, group, operator };
        dead.until_depth(count).await;
        dead.stop().await;
        Some(dead)
    }

    async fn until_depth(&self, count: usize) {
        let show = || format!("{:?}", self.services.lines());
        eventually_or_show(&format!("{count} letters are dead"), show, async || {
            let items = self.operator.items(&["mq", "dlq", "list"]).await;
            items.iter().any(|item| item["group"] == self.group.as_str() && item["depth"] == count)
        })
        .await;
    }

    async fn stop(&mut self) {
        self.services.give(&[format!("stop {}", self.group)]);
        self.services.until(&format!("stopped {}", self.group)).await;
    }

    fn dlq<'a>(&'a self, command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        [&["mq", "dlq", command, &self.group], more].concat()
    }

    /// What every group has committed on the group's topics, as the broker says it.
    async fn offsets(&self) -> Vec<String> {
        let runtime = MqRuntime::start("dlq-offsets").unwrap();
        let config = RocketMqConfig { namesrv: self.apache.namesrv(), ..RocketMqConfig::default() };
        let mq = RocketMq::connect(config, &runtime).await.unwrap();
        let mut all = Vec::new();
        let mut groups = mq.groups().await.unwrap();
        // Other tests share the broker.
        groups.retain(|group| !group.starts_with("java") || *group == self.group);
        for topic in [self.topic.clone(), format!("%DLQ%{}", self.group)] {
            for group in &groups {
                let offsets = mq.committed(group, &topic).await.unwrap_or_default();
                let some = offsets.into_iter().filter_map(|one| Some((one.queue, one.consumer_offset?)));
                all.extend(some.map(|(queue, offset)| format!("{group} {queue:?} {offset}")));
            }
        }
        mq.shutdown().await;
        runtime.shutdown(Duration::from_secs(10)).await;
        all
    }

    /// Waits until the service has handled the messages with the keys order-n. Others may come as well: what the
    /// failing service had given up comes to its group again where the broker did not hear of it in time.
    async fn until_got(&self, numbers: &[usize]) {
        let wanted: BTreeSet<String> = numbers.iter().map(|number| format!("order-{number}")).collect();
        let what = format!("{wanted:?} are handled");
        let show = || format!("{:?}", self.services.lines());
        eventually_or_show(&what, show, async || self.got().is_superset(&wanted)).await;
    }

    /// The keys of what the service got so far.
    fn got(&self) -> BTreeSet<String> {
        let start = format!("got {} {} ", self.group, self.topic);
        let lines = self.services.lines();
        lines.iter().filter_map(|line| Some(line.strip_prefix(&start)?.split(' ').nth(2)?.to_owned())).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn java_letters_go_back_exactly_as_they_were() {
    let Some(mut dead) = Dead::letters(6).await else { return };
    let offsets = dead.offsets().await;
    assert_eq!(offsets.len(), 2, "{offsets:?}");
    looks(&dead).await;
    assert_eq!(dead.offsets().await, offsets, "whoever looks takes nothing");

    let letters = exported(&dead.operator, &dead.group).await;
    let dry = dead.operator.items(&dead.dlq("replay", &["--event", "A", "--dry-run"])).await;
    assert_eq!((&dry[0]["due"], &dry[0]["sent"]), (&json!(3), &json!(0)));
    dead.services.give(&[format!("consume {} {} *", dead.group, dead.topic)]);
    dead.services.until(&format!("up {}", dead.group)).await;
    let some = dead.operator.items(&dead.dlq("replay", &["--event", "A", "--yes", "--watch", "0s"])).await;
    let mut some = some[0].clone();
    some["group"] = json!("<group>");
    insta::assert_json_snapshot!("dlq_replay", some);
    dead.until_got(&[0, 2, 4]).await;
    let again = ["--in-order", "--yes", "--watch", "0s", "--reason", "fixed"];
    let rest = dead.operator.items(&dead.dlq("replay", &again)).await;
    assert_eq!((&rest[0]["already"], &rest[0]["sent"]), (&json!(3), &json!(3)));
    // Java's client shows the topic of origin, whatever topic it came by.
    dead.until_got(&[0, 1, 2, 3, 4, 5]).await;
    let list = dead.operator.items(&["mq", "dlq", "list"]).await;
    let own = list.iter().find(|item| item["group"] == dead.group.as_str()).unwrap();
    assert_eq!((&own["depth"], &own["open"]), (&json!(6), &json!(0)));
    came_as_they_were(&dead, &letters).await;
    round_trip(&dead, &letters).await;

    let lines = journal(&dead.operator);
    let said: Vec<&str> = lines.iter().map(|line| line["command"].as_str().unwrap()).collect();
    assert_eq!(said, ["mq dlq replay", "mq dlq replay", "mq dlq import", "mq dlq import", "mq dlq discard"]);
    assert_eq!(lines[1]["reason"], "fixed");
    assert_eq!((&lines[0]["what"]["filter"]["event"], &lines[0]["what"]["letters"]), (&json!("A"), &json!(3)));
}

/// Every way to look.
async fn looks(dead: &Dead) {
    let list = dead.operator.items(&["mq", "dlq", "list"]).await;
    let own = list.into_iter().find(|item| item["group"] == dead.group.as_str()).unwrap();
    insta::assert_json_snapshot!("dlq_list", masked(own, &["group", "oldest", "oldestSeconds", "newest"]));
    let items = dead.operator.items(&dead.dlq("browse", &[])).await;
    assert_eq!(keys(&items), ["order-0", "order-1", "order-2", "order-3", "order-4", "order-5"]);
    let first = items.iter().find(|item| item["key"] == "order-0").unwrap().clone();
    let id = first["id"].as_str().unwrap().to_owned();
    insta::assert_json_snapshot!("dlq_browse", masked(first, &["id", "eventId", "failed", "died"]));
    let output = dead.operator.run(&dead.dlq("browse", &["--limit", "2"])).await;
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 2);
    assert!(String::from_utf8(output.stderr).unwrap().contains("--limit"));
    let only = dead.operator.items(&dead.dlq("browse", &["--key", "order-3", "--event", "B"])).await;
    assert_eq!(keys(&only), ["order-3"]);
    let groups = dead.operator.items(&dead.dlq("group", &[])).await;
    assert_eq!(groups.len(), 2, "{groups:?}");
    let group = groups.into_iter().find(|group| group["event"] == "A").unwrap();
    insta::assert_json_snapshot!("dlq_group", masked(group, &["first", "last", "example"]));
    let whole = dead.operator.items(&dead.dlq("show", &[&id])).await.remove(0);
    assert_eq!((&whole["originTopic"], &whole["body"]), (&json!(dead.topic), &json!("order-0")));
    let changing = ["group", "id", "eventId", "uniqueId", "originTopic", "born", "failed", "died"];
    let mut whole = masked(whole, &changing);
    whole["properties"] =
        masked(whole["properties"].take(), &["ORIGIN_MESSAGE_ID", "UNIQ_KEY", "RETRY_TOPIC", "CLUSTER"]);
    insta::assert_json_snapshot!("dlq_show", whole);
    let none = dead.operator.items(&dead.dlq("browse", &["--event", "NONE"])).await;
    assert!(none.is_empty(), "{none:?}");
}

/// What the group's retry topic has is what was in the dead letters, and what tells of the replay.
async fn came_as_they_were(dead: &Dead, letters: &[Value]) {
    let runtime = MqRuntime::start("dlq-copies").unwrap();
    let config = RocketMqConfig { namesrv: dead.apache.namesrv(), ..RocketMqConfig::default() };
    let mq = RocketMq::connect(config, &runtime).await.unwrap();
    let topic = format!("%RETRY%{}", dead.group);
    for letter in letters {
        let key = letter["key"].as_str().unwrap();
        let mut copy = None;
        // A broker's index by key comes a little later than the message.
        eventually("the copy is found", async || {
            let copies = mq.messages_by_key(&topic, key, 0, i64::MAX, 8).await.unwrap_or_default();
            copy = copies.0.into_iter().find(|copy| copy.property("dlqLetter") == letter["id"].as_str());
            copy.is_some()
        })
        .await;
        let copy = copy.unwrap();
        assert_eq!((copy.key.as_str(), copy.tag.as_str()), (key, letter["tag"].as_str().unwrap()));
        assert_eq!(copy.body, letter["body"].as_str().unwrap().as_bytes());
        assert_eq!((copy.property("dlqReplays"), copy.property("dlqReplayId")), (Some("1"), None));
        assert_eq!(copy.property("dlqBorn"), Some(letter["bornMs"].to_string().as_str()));
        for name in ["number", "UNIQ_KEY", "RETRY_TOPIC", "ORIGIN_MESSAGE_ID"] {
            assert_eq!(copy.property(name), properties(letter).get(name).map(String::as_str), "{name}");
        }
    }
    mq.shutdown().await;
    runtime.shutdown(Duration::from_secs(10)).await;
}

/// Exported, imported and exported they are the same, a binary one as well; then they are discarded.
async fn round_trip(dead: &Dead, letters: &[Value]) {
    let mut lines: Vec<Value> = letters.to_vec();
    let binary = lines[0].as_object_mut().unwrap();
    binary.remove("body");
    binary.insert("bodyHex".to_owned(), json!("00ff80c3"));
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let file = dead.operator.dir().join("letters.jsonl");
    std::fs::write(&file, text).unwrap();
    let import = ["mq", "dlq", "import", file.to_str().unwrap(), "--yes"];
    let imported = dead.operator.items(&import).await;
    assert_eq!(imported, [json!({"read": 6, "already": 0, "sent": 6, "failed": 0})]);
    // Once more by mistake: they are there.
    let repeated = dead.operator.items(&import).await;
    assert_eq!(repeated, [json!({"read": 6, "already": 6, "sent": 0, "failed": 0})]);
    // What brokers write into each message that they store.
    let plain = |letter: &Value| {
        let mut all = properties(letter);
        for name in ["CLUSTER", "MSG_REGION", "TRACE_ON", "WAIT", "DELAY"] {
            all.remove(name);
        }
        let rest = ["tag", "key", "bornMs", "body", "bodyHex"].map(|name| letter[name].clone());
        (rest.map(|field| field.to_string()), all)
    };
    let mut back: Vec<_> = exported(&dead.operator, &dead.group).await[6..].iter().map(plain).collect();
    let mut wanted: Vec<_> = lines.iter().map(plain).collect();
    back.sort();
    wanted.sort();
    assert_eq!(back, wanted);
    let key = lines[0]["key"].as_str().unwrap();
    let args = ["--key", key, "--reason", "a test", "--yes"];
    let discarded = dead.operator.items(&dead.dlq("discard", &args)).await;
    assert_eq!(discarded, [json!({"group": dead.group, "matched": 1, "discarded": 1})]);
    assert_eq!(dead.operator.items(&dead.dlq("browse", &[])).await.len(), 5);
    // What was dealt with raises no alarm any more.
    let checked = dead.operator.run(&["check", "dlq", "--group", &dead.group]).await;
    let checked = String::from_utf8(checked.stdout).unwrap();
    assert!(checked.contains(&format!("'{}'=5;", dead.group)), "{checked}");
    let all = dead.operator.items(&dead.dlq("browse", &["--all"])).await;
    let marks = |mark: &str| all.iter().filter(|item| item["mark"] == mark).count();
    assert_eq!((all.len(), marks("replayed"), marks("discarded")), (12, 6, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_to_failing_java_service_stops() {
    let Some(mut dead) = Dead::letters(80).await else { return };
    dead.services.give(&[format!("fail {} {} *", dead.group, dead.topic)]);
    let up = format!("up {}", dead.group);
    eventually("it is up again", async || dead.services.lines().iter().filter(|line| **line == up).count() == 2).await;
    let replay = dead.dlq("replay", &["--rps", "10", "--ramp", "0s", "--max-fail", "20", "--yes"]);
    let (code, items, stderr) = dead.operator.items_and_code(&replay).await;
    let summary = &items[0];
    let (sent, back) = (summary["sent"].as_u64().unwrap(), summary["cameBack"].as_u64().unwrap());
    assert_eq!(code, 1, "{summary} {stderr}");
    assert!(summary["stopped"].as_str().unwrap().ends_with("--max-fail 20 %"), "{summary}");
    assert!((20..80).contains(&sent) && back * 5 > sent && back <= sent, "{summary}");
    // What came back says so, and is not replayed for ever.
    let count = usize::try_from(sent).unwrap();
    dead.until_depth(80 + count).await;
    dead.stop().await;
    let dry = dead.dlq("replay", &["--max-replays", "1", "--dry-run"]);
    let (code, items, _) = dead.operator.items_and_code(&dry).await;
    assert_eq!((code, &items[0]["refusedReplays"], &items[0]["already"]), (1, &json!(sent), &json!(sent)));
    let old = dead.dlq("replay", &["--max-age", "1ms", "--dry-run"]);
    let (code, items, _) = dead.operator.items_and_code(&old).await;
    assert_eq!((code, &items[0]["refusedAge"], &items[0]["due"]), (1, &json!(80), &json!(0)));
}
