//! `ruyi mq messages`.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

#[cfg(feature = "embedded")]
use crate::support::operated_broker::OperatedBroker;
use crate::support::operators::{Operator, masked};
use crate::support::servers::java::Java;
use crate::support::servers::rocketmq::{Cluster, ClusterPlan, apache};
use crate::support::servers::unique;

const DEADLINE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_from_stdin_reaches_a_java_consumer() {
    let (Some(java), Some(apache)) = (Java::compile(), apache().await) else { return };
    let (topic, group) = (unique("SENT_BY_HAND"), unique("java-reads"));
    let mut services = java.start("Operate", &[&apache.namesrv()]);
    services.give(&[format!("topic {topic} 2"), format!("consume {group} {topic} B")]);
    services.until(&format!("up {group}")).await;
    let operator = Operator::new(&apache.namesrv());
    let send = ["mq", "messages", "send", &topic, "--stdin", "--tag", "B", "--key", "order-7", "--yes"];
    let output = operator.run_with(&send, b"first\nsecond\n").await;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    // The consumer's threads print them in any order.
    services.until(&format!("got {group} {topic} 0 0")).await;
    services.until(&format!("got {group} {topic} 0 1")).await;
    let got = services.lines();
    let mut bodies: Vec<&str> =
        got.iter().filter_map(|line| line.split_once(" order-7 ")).map(|(_, body)| body).collect();
    bodies.sort_unstable();
    assert_eq!(bodies, ["first", "second"], "{got:?}");
}

fn texts<'a>(items: &'a [Value], field: &str) -> Vec<&'a str> {
    items.iter().map(|item| item[field].as_str().unwrap()).collect()
}

/// Some brokers index what they store a moment later.
async fn until_found(operator: &Operator, args: &[&str], count: usize) -> Vec<Value> {
    let started = Instant::now();
    loop {
        let items = operator.items(args).await;
        if items.len() == count {
            return items;
        }
        assert!(started.elapsed() < DEADLINE, "{args:?}: {items:?}");
    }
}

/// Five messages `o-0` to `o-4` with tags A and B and property number, however they came there.
async fn five_are_found(operator: &Operator, topic: &str) {
    let query = ["mq", "messages", "query", topic, "--from", "start"];
    let all = until_found(operator, &query, 5).await;
    assert_eq!(texts(&all, "body"), ["o-0", "o-1", "o-2", "o-3", "o-4"], "in the order of their times");
    let of = async |more: &[&str]| {
        let items = operator.items(&[&query, more].concat()).await;
        items.iter().map(|item| item["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(of(&["--tag", "A"]).await, ["o-0", "o-2", "o-4"]);
    assert_eq!(of(&["--tag", "A", "--property", "number=2"]).await, ["o-2"]);
    assert_eq!(of(&["--contains", "-3"]).await, ["o-3"]);
    assert!(of(&["--to", "@-1h"]).await.is_empty());
    let limited = operator.run(&[&query[..], &["--limit", "2", "--output", "jsonl"]].concat()).await;
    assert_eq!(limited.stdout.iter().filter(|byte| **byte == b'\n').count(), 2);
    assert!(String::from_utf8_lossy(&limited.stderr).contains("more than 2"));

    let by_key = ["mq", "messages", "query", topic, "--key", "o-3"];
    assert_eq!(texts(&operator.items(&by_key).await, "body"), ["o-3"]);
    assert_eq!(texts(&operator.items(&[&by_key[..], &["--scan"]].concat()).await, "body"), ["o-3"]);
    assert!(operator.items(&["mq", "messages", "query", topic, "--key", "o-9"]).await.is_empty());
    operator.refuses(&[&by_key[..], &["--from", "=4"]].concat(), 2).await;

    let place = all[3]["id"].as_str().unwrap();
    let whole = operator.items(&["mq", "messages", "get", topic, place]).await.remove(0);
    for id in ["uniqueId", "offsetId"] {
        let again = operator.items(&["mq", "messages", "get", topic, whole[id].as_str().unwrap()]).await;
        assert_eq!(again, std::slice::from_ref(&whole), "by its {id}");
    }
    let mut own = masked(whole, &["id", "topic", "uniqueId", "offsetId", "born", "stored", "size"]);
    // Its client's own properties.
    let properties = own["properties"].as_object_mut().unwrap();
    properties.retain(|name, _| ["TAGS", "KEYS", "number"].contains(&name.as_str()));
    insta::assert_json_snapshot!("messages_get", own);
    insta::assert_json_snapshot!("messages_query", masked(all[0].clone(), &["id", "stored"]));

    let away = operator.refuses(&["mq", "messages", "get", topic, "nobody:0:1"], 1).await;
    assert!(away.contains("no broker nobody"), "{away}");
    let id = "7F00000100012A139A550000000F0000";
    let none = operator.refuses(&["mq", "messages", "get", topic, id], 1).await;
    assert!(none.contains(id) && none.contains("help: "), "{none}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_java_service_are_found_on_rocketmq() {
    let (Some(java), Some(apache)) = (Java::compile(), apache().await) else { return };
    let topic = unique("FOUND");
    let mut services = java.start("Operate", &[&apache.namesrv()]);
    services.give(&[format!("topic {topic} 3"), format!("send {topic} 5 o")]);
    services.until(&format!("sent {topic}")).await;
    let operator = Operator::new(&apache.namesrv());
    five_are_found(&operator, &topic).await;

    // More of one key than an index gives at once.
    let lines: String = (0..150).map(|number| format!("m-{number}\n")).collect();
    let send = ["mq", "messages", "send", &topic, "--stdin", "--key", "many", "--yes"];
    assert_eq!(operator.run_with(&send, lines.as_bytes()).await.status.code(), Some(0));
    let query = ["mq", "messages", "query", &topic, "--key", "many", "--limit", "1000"];
    let found = until_found(&operator, &query, 150).await;
    assert_eq!(texts(&found, "body"), lines.lines().collect::<Vec<_>>());

    let none = operator.refuses(&["mq", "messages", "query", &topic[1..]], 1).await;
    assert!(none.contains(&format!("did you mean {topic}")), "{none}");
    operator.refuses(&["mq", "messages", "tail", "no-such-topic"], 1).await;
    operator.refuses(&["mq", "messages", "query", &topic, "--from", "-1"], 2).await;
    let away = Operator::new("127.0.0.1:1").refuses(&["mq", "messages", "tail", &topic], 1).await;
    assert!(away.contains("127.0.0.1:1"), "{away}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_is_what_was_asked_for() {
    let Some(apache) = apache().await else { return };
    let topic = unique("SENT");
    let operator = Operator::new(&apache.namesrv());
    sends(&operator, &topic).await;
    // By an offset of the key's queue: in order.
    let late = ["mq", "messages", "send", &topic, "--body", "late", "--key", "l", "--yes"];
    for when in [["--delay", "1s"], ["--after", "1s"]] {
        let items = operator.items(&[&late[..], &when].concat()).await;
        assert!(items[0]["id"].is_null() && items[0]["sent"] == 1, "{items:?}");
    }
    until_found(&operator, &["mq", "messages", "query", &topic, "--contains", "late"], 2).await;
}

async fn sends(operator: &Operator, topic: &str) {
    let made = operator.run(&["mq", "topics", "create", topic, "--queues", "2", "--yes"]).await;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let send = ["mq", "messages", "send", topic];
    let one = ["--body", r#"{"a":1}"#, "--tag", "T", "--key", "k", "--property", "x=y=z"];
    let unasked = operator.refuses(&[&send[..], &one].concat(), 2).await;
    assert!(unasked.contains("--yes"), "{unasked}");
    let planned = operator.items(&[&send[..], &one, &["--dry-run"]].concat()).await;
    let fields = ["sent", "wouldSend", "id"].map(|name| planned[0][name].clone());
    assert_eq!(fields, [Value::from(0), Value::from(1), Value::Null]);
    for reserved in ["KEYS=k", "UNIQ_KEY=u", "empty="] {
        operator.refuses(&[&send[..], &one, &["--property", reserved, "--yes"]].concat(), 2).await;
    }
    let sent = operator.items(&[&send[..], &one, &["--yes", "--reason", "a test"]].concat()).await.remove(0);
    let place = sent["id"].as_str().unwrap();
    let got = operator.items(&["mq", "messages", "get", topic, place]).await.remove(0);
    assert_eq!(got["body"], serde_json::json!({"a": 1}));
    assert_eq!((&got["tag"], &got["key"], &got["properties"]["x"]), (&"T".into(), &"k".into(), &"y=z".into()));
    assert_eq!(got["uniqueId"], sent["uniqueId"]);
    insta::assert_json_snapshot!("messages_send", masked(sent, &["topic", "id", "uniqueId"]));
    let journal = std::fs::read_to_string(operator.data_dir().join("journal.jsonl")).unwrap();
    let entry: Value = serde_json::from_str(journal.lines().last().unwrap()).unwrap();
    assert_eq!((&entry["command"], &entry["reason"]), (&"mq messages send".into(), &"a test".into()));
    assert_eq!(entry["what"]["key"], "k");

    // Lines: what cannot be sent is told by its number, the others leave, and the bulk has failed.
    let bulk = [&send[..], &["--stdin", "--key", "b", "--yes", "--output", "json"]].concat();
    let output = operator.run_with(&bulk, b"one\n\ntwo\r\n\xff\n").await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("line 2"), "{stderr}");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&summary["items"][0]["sent"], &summary["items"][0]["failed"]), (&3.into(), &1.into()));
    let rest = [&send[..], &["--stdin", "--key", "b", "--skip", "3", "--yes"]].concat();
    assert_eq!(operator.run_with(&rest, b"one\n\ntwo\nthree\n").await.status.code(), Some(0));
    let found = until_found(operator, &["mq", "messages", "query", topic, "--key", "b"], 4).await;
    let bodies: Vec<Value> = found.iter().map(|item| item["body"].clone()).collect();
    let wanted = serde_json::json!(["one", "two", {"$hex": "ff"}, "three"]);
    assert_eq!(Value::from(bodies), wanted, "in their order; bytes are told from text");
    assert_eq!(operator.run_with(&[&send[..], &["--stdin"]].concat(), b"x\n").await.status.code(), Some(2));
    operator.refuses(&[&send[..], &["--body", "x", "--delay", "7s", "--yes"]].concat(), 2).await;
    operator.refuses(&["mq", "messages", "send", "no-such-topic", "--body", "x", "--yes"], 1).await;
}

#[cfg(feature = "embedded")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_sent_found_and_followed_on_embedded_broker() {
    let mut embedded = OperatedBroker::start(&[]).await;
    let operator = &embedded.operator;
    sends(operator, "SENT").await;
    let make = ["mq", "topics", "create", "FOUND", "--queues", "3", "--yes"];
    assert!(operator.run(&make).await.status.success());
    for number in 0..5 {
        let (key, property) = (format!("o-{number}"), format!("number={number}"));
        let tag = if number % 2 == 0 { "A" } else { "B" };
        let send = ["mq", "messages", "send", "FOUND", "--body", &key, "--key", &key, "--tag", tag];
        operator.items(&[&send[..], &["--property", &property, "--yes"]].concat()).await;
    }
    five_are_found(operator, "FOUND").await;
    let beside = Operator::new(&embedded.namesrv());
    assert_eq!(beside.items(&["mq", "messages", "query", "FOUND", "--from", "start"]).await.len(), 5);

    // A body on a topic of the catalogue is what its schema says.
    let make = ["mq", "topics", "create", "ORDER_SIGNED", "--yes"];
    assert!(operator.run(&make).await.status.success());
    let send = ["mq", "messages", "send", "ORDER_SIGNED", "--key", "7", "--yes"];
    let wrong = operator.refuses(&[&send[..], &["--body", r#"{"occurredAt":7}"#]].concat(), 1).await;
    assert!(wrong.contains("ORDER_SIGNED") && wrong.contains("orderId") && wrong.contains("--no-check"), "{wrong}");
    let body = r#"{"orderId":"7","occurredAt":1700000000000}"#;
    operator.items(&[&send[..], &["--body", body]].concat()).await;
    operator.items(&[&send[..], &["--body", "anything", "--no-check"]].concat()).await;
    let lines = [&send[..], &["--stdin"]].concat();
    let output = operator.run_with(&lines, format!("{body}\n{{}}\n").as_bytes()).await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && stderr.contains("line 2") && stderr.contains("orderId"), "{stderr}");
    let other = ["mq", "messages", "send", "FOUND", "--event", "ORDER_SIGNED", "--body", "{}", "--yes"];
    operator.refuses(&other, 1).await;
    operator.refuses(&["mq", "messages", "send", "FOUND", "--event", "ORDER_SINGED", "--body", "{}"], 2).await;

    // It has been asked about nothing that it could have given up.
    assert!(operator.run(&["db", "migrate"]).await.status.success());
    assert!(operator.items(&["mq", "tx", "stuck", "--all"]).await.is_empty());
    assert!(operator.items(&["mq", "tx", "resume", "--yes"]).await.is_empty());

    // Followed over a restart, and over the loss of everything.
    let mut tail = Tail::start(operator, &["FOUND", "--tag", "A", "--from", "@-1h"]);
    // Of different queues, in any order.
    let mut bodies = Vec::new();
    for _ in 0..3 {
        bodies.push(tail.next().await["body"].as_str().unwrap().to_owned());
    }
    bodies.sort_unstable();
    assert_eq!(bodies, ["o-0", "o-2", "o-4"]);
    embedded.kill_broker().await;
    embedded.start_broker().await;
    let send = ["mq", "messages", "send", "FOUND", "--yes", "--tag", "A"];
    embedded.operator.items(&[&send[..], &["--body", "again"]].concat()).await;
    assert_eq!(tail.next().await["body"], "again");
    embedded.kill_broker().await;
    embedded.empty_broker();
    embedded.start_broker().await;
    assert!(embedded.operator.run(&make_found()).await.status.success());
    // More of them than each queue had before: where it is as long as it was, nobody can tell that it is another one.
    let sent = embedded.operator.run_with(&[&send[..], &["--stdin"]].concat(), "anew\n".repeat(24).as_bytes()).await;
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    assert_eq!(tail.next().await["body"], "anew");
    let (code, stderr) = tail.interrupt().await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("does not answer") && stderr.contains("answers again"), "{stderr}");
}

#[cfg(feature = "embedded")]
fn make_found() -> [&'static str; 7] {
    ["mq", "topics", "create", "FOUND", "--queues", "3", "--yes"]
}

/// `ruyi mq messages tail --output jsonl`.
struct Tail {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Tail {
    fn start(operator: &Operator, args: &[&str]) -> Self {
        let command = [&["mq", "messages", "tail"], args, &["--output", "jsonl"]].concat();
        let mut child = operator.command(&command).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    async fn next(&mut self) -> Value {
        let line = tokio::time::timeout(DEADLINE, self.lines.next_line()).await.expect("a line in time");
        serde_json::from_str(&line.unwrap().expect("it goes on")).unwrap()
    }

    /// Ctrl-C; its exit code, and what it said on stderr.
    async fn interrupt(mut self) -> (Option<i32>, String) {
        let id = self.child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args(["-INT", &id]).status().unwrap().success());
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).await.unwrap();
        (self.child.wait().await.unwrap().code(), stderr)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_brokers_read_as_one_missing_one_is_named() {
    let (Some(java), Some(cluster)) = (Java::compile(), Cluster::start(ClusterPlan::pair()).await) else { return };
    let mut services = java.start("Operate", &[&cluster.namesrv()]);
    services.give(&["topic PAIR 2".to_owned(), "send PAIR 20 o".to_owned()]);
    services.until("sent PAIR").await;
    let operator = Operator::new(&cluster.namesrv());
    let query = ["mq", "messages", "query", "PAIR"];
    let all = until_found(&operator, &query, 20).await;
    let expected: Vec<String> = (0..20).map(|number| format!("o-{number}")).collect();
    assert_eq!(texts(&all, "body"), expected, "in the order of their times, over both brokers");
    let on = |broker: &str| all.iter().filter(|item| item["id"].as_str().unwrap().starts_with(broker)).count();
    assert!(on("a:") > 0 && on("b:") > 0, "{all:?}");
    for item in [&all[0], &all[1], &all[2], &all[3]] {
        let key = item["key"].as_str().unwrap();
        assert_eq!(until_found(&operator, &["mq", "messages", "query", "PAIR", "--key", key], 1).await[0], *item);
    }
    let mut tail = Tail::start(&operator, &["PAIR", "--since", "1h"]);
    for _ in 0..20 {
        tail.next().await;
    }
    cluster.kill_broker("b");
    let send = ["mq", "messages", "send", "PAIR", "--stdin", "--key", "p", "--yes"];
    let output = operator.run_with(&send, b"p-0\np-1\np-2\np-3\n").await;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    for _ in 0..4 {
        assert!(tail.next().await["body"].as_str().unwrap().starts_with("p-"));
    }
    let (code, stderr) = tail.interrupt().await;
    assert!(code == Some(0) && stderr.contains("broker b does not answer"), "{stderr}");
}
