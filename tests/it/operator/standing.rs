//! Where a group stands: what is not known, and what lies beyond the end of a queue, is never nothing.

use ruyi::mq::rocketmq::GroupConsumer;
use serde_json::{Value, json};

use crate::support::broker_bench::BrokerBench;
use crate::support::operators::Operator;
use crate::support::servers::rocketmq::apache;
use crate::support::servers::unique;
use crate::support::waiting::eventually;

/// An operator, a client, a topic with four queues and a group, all at the shared cluster.
struct Place {
    bench: BrokerBench,
    operator: Operator,
    topic: String,
    group: String,
}

impl Place {
    async fn new() -> Option<Self> {
        let apache = apache().await?;
        let bench = BrokerBench::at(apache.namesrv()).await;
        let (topic, group) = (unique("STANDING"), unique("standing"));
        bench.mq.ensure_topics(std::slice::from_ref(&topic), 4).await.unwrap();
        Some(Self { bench, operator: Operator::new(&apache.namesrv()), topic, group })
    }

    async fn check(&self) -> (Option<i32>, String) {
        let output = self.operator.run(&["check", "backlog", "--group", &self.group]).await;
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    }

    async fn lags(&self) -> Vec<Value> {
        self.operator.items(&["mq", "offsets", "lag", &self.group]).await
    }

    async fn listed(&self) -> Value {
        self.operator.items(&["mq", "offsets", "list", "--matching", &self.group]).await.remove(0)
    }

    /// What `doctor` says of the group.
    async fn findings(&self, check: &str) -> Vec<Value> {
        let (_, items, _) = self.operator.items_and_code(&["doctor", "--only", "group", "--timeout", "60s"]).await;
        let is_ours = |item: &&Value| item["subject"] == self.group.as_str() && item["check"] == check;
        items.iter().filter(is_ours).cloned().collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn group_beyond_the_end_is_named_and_mended() {
    let Some(place) = Place::new().await else { return };
    let Place { bench, topic, group, operator } = &place;
    let consumer = bench.mq.subscribe(group, std::slice::from_ref(topic)).await.unwrap();
    bench.send(topic, "first", 40).await;
    bench.take(&consumer, 40).await;
    consumer.shutdown().await;
    eventually("all is committed", async || place.listed().await["lag"] == 0).await;
    assert_eq!(place.check().await.0, Some(0));

    // As if the store had been lost: the group remembers more than there is.
    for queue in bench.mq.committed(group, topic).await.unwrap() {
        bench.mq.set_offset(group, &queue.queue, queue.broker_offset + 500).await.unwrap();
    }
    bench.send(topic, "second", 40).await;
    let (code, line) = place.check().await;
    assert!(code == Some(2) && line.contains("stands beyond the end") && line.contains(topic.as_str()), "{line}");
    assert_eq!(place.listed().await["lag"], Value::Null);
    assert_eq!((&place.lags().await[0]["lag"], &place.lags().await[0]["lagSeconds"]), (&Value::Null, &Value::Null));
    let shown = operator.items(&["mq", "offsets", "show", group, "--topic", topic]).await;
    assert!(shown.iter().all(|item| item["lag"].is_null()), "{shown:?}");
    let output = operator.run(&["worker", "backlog", "--once", "--group", group, "--output", "jsonl"]).await;
    let row: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &row["lag"], &row["over"]), (Some(3), &Value::Null, &Value::Null), "{row}");
    let found = place.findings("group.beyond").await;
    assert_eq!((found.len(), &found[0]["severity"]), (1, &json!("error")), "{found:?}");
    assert!(found[0]["fix"].as_str().unwrap().contains("--to start"), "{found:?}");

    // As it says: what there is comes again, and no more than that.
    let reset = ["mq", "offsets", "reset", group, "--topic", topic, "--to", "start", "--yes"];
    let moves = operator.items(&reset).await;
    assert_eq!(moves.iter().map(|item| item["again"].as_i64().unwrap()).sum::<i64>(), 80, "{moves:?}");
    assert!(moves.iter().all(|item| item["done"] == true), "{moves:?}");
    assert_eq!(place.listed().await["lag"], 80);
    assert!(place.findings("group.beyond").await.is_empty());
}

/// A broker keeps the subscription of the last heartbeat, and says nothing of topics that are not in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_that_no_heartbeat_names_are_counted() {
    let Some(place) = Place::new().await else { return };
    let Place { bench, topic, group, .. } = &place;
    let other = unique("STANDING_OTHER");
    bench.mq.ensure_topics(std::slice::from_ref(&other), 4).await.unwrap();
    bench.send(topic, "first", 8).await;
    let first = bench.mq.subscribe(group, std::slice::from_ref(topic)).await.unwrap();
    bench.take(&first, 8).await;
    first.shutdown().await;
    bench.send(topic, "second", 12).await;

    let second = bench.mq.subscribe(group, std::slice::from_ref(&other)).await.unwrap();
    bench.send(&other, "third", 4).await;
    bench.take(&second, 4).await;
    eventually("what nobody takes is counted", async || {
        let lags = place.lags().await;
        let of = |name: &str| lags.iter().find(|item| item["topic"] == name).map(|item| item["lag"].clone());
        (of(topic), of(&other)) == (Some(json!(12)), Some(json!(0)))
    })
    .await;
    assert_eq!((&place.listed().await["lag"], &place.listed().await["topics"]), (&json!(12), &json!(2)));
    let (_, line) = place.check().await;
    assert!(line.contains(&format!("'{group}'=12;")), "{line}");
    let found = place.findings("group.left").await;
    assert!(found[0]["message"].as_str().unwrap().starts_with(&format!("12 messages of {topic}")), "{found:?}");
    second.shutdown().await;
}

/// Of two members that subscribe to different topics each is given half of the queues of both, and takes those of its
/// own topic only: nobody comes for the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_queues_of_a_group_with_members_are_named() {
    let Some(place) = Place::new().await else { return };
    let Place { bench, operator, topic, group } = &place;
    let other = unique("STANDING_OTHER");
    bench.mq.ensure_topics(std::slice::from_ref(&other), 4).await.unwrap();
    let first = bench.mq.subscribe(group, std::slice::from_ref(topic)).await.unwrap();
    let second = bench.mq.subscribe(group, std::slice::from_ref(&other)).await.unwrap();
    bench.send(topic, "first", 40).await;
    let owned = async || {
        let queues = first.assignment().await.unwrap();
        queues.iter().filter(|queue| queue.topic == *topic).count()
    };
    eventually("the queues are shared out", async || owned().await == 2).await;

    // What has come just now may find its owner.
    let patient = ["check", "backlog", "--group", group, "--unowned-after", "1h"];
    assert!(!says_unowned(operator, &patient).await);
    let check = ["check", "backlog", "--group", group, "--unowned-after", "1s"];
    eventually("the check is critical", async || says_unowned(operator, &check).await).await;
    assert_eq!(operator.run(&check).await.status.code(), Some(2));
    let doctor = ["doctor", "--only", "group", "--timeout", "60s", "--unowned-after", "1s"];
    let (_, items, _) = operator.items_and_code(&doctor).await;
    let is_ours = |item: &&Value| item["subject"] == group.as_str() && item["check"] == "group.unowned";
    let found: Vec<&Value> = items.iter().filter(is_ours).collect();
    assert_eq!((found.len(), &found[0]["severity"]), (1, &json!("error")), "{found:?}");
    assert_eq!(found[0]["evidence"].as_str().unwrap().matches(topic.as_str()).count(), 2, "{found:?}");

    // A member knows by itself that it has less than its share; brokers may take too long to say who else there is.
    let lacks = async |member: &GroupConsumer, wanted: bool| {
        member.lacks(std::slice::from_ref(topic)).await.is_ok_and(|lacking| lacking.contains(topic) == wanted)
    };
    eventually("the first has its share", async || lacks(&first, false).await).await;
    eventually("the second has not", async || lacks(&second, true).await).await;

    second.shutdown().await;
    eventually("the first has all of them", async || owned().await == 4).await;
    assert!(!says_unowned(operator, &check).await);
    first.shutdown().await;
}

async fn says_unowned(operator: &Operator, check: &[&str]) -> bool {
    let output = operator.run(check).await;
    String::from_utf8(output.stdout).unwrap().contains("queues that none of its 2 members has")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_are_no_name_servers_are_told() {
    let Some(apache) = apache().await else { return };
    let broker = Operator::new(&apache.broker_addr("a"));
    let said = broker.refuses(&["mq", "topics", "list"], 1).await;
    assert!(said.contains("is no name server") && said.contains("help: "), "{said}");

    let operator = Operator::new(&apache.namesrv());
    let topic = unique("MIXED");
    let create = ["mq", "topics", "create", &topic, "--type", "mixed", "--yes"];
    let (code, _, stderr) = operator.items_and_code(&create).await;
    assert!(code == 1 && stderr.contains("enableMixedMessageType=true"), "{stderr}");
}
