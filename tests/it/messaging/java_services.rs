//! Every role of ruyi among Java services: every topic, by the names that these use.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use ruyi::config::{Config, Sources};
use ruyi::db::Db;
use ruyi::domain::event::{Group, Kind, Role};
use ruyi::mq::rocketmq::{RocketMq, RocketMqConfig};
use ruyi::mq::runtime::MqRuntime;
use ruyi::process::{Plan, Process, Work};
use serde_json::Value;

use super::java_consumer::QUEUES;
use crate::support::event_cases::{Case, PROVIDERS, handled, number, prepare};
use crate::support::servers::java::{Java, Program};
use crate::support::servers::rocketmq::{Cluster, ClusterPlan};
use crate::support::waiting::eventually;

/// Orders of the cases are told apart by so much.
const STEP: i64 = 10;

/// What existing services call the topics.
const ALIASES: [(&str, &str); 4] = [
    ("ORDER_CREATED", "order-created"),
    ("PAYMENT_SUCCESS", "payment_success_topic:pay"),
    ("STOCK_FREEZE_FAILED", "stock-freeze-failed"),
    ("CALLBACK_SUBMIT", "callback-submit"),
];

/// One message for the Java producer.
fn line(topic: &str, tag: &str, key: &str, body: &str) -> String {
    format!("{topic}\t{tag}\t{key}\t{body}")
}

/// The topic and tag by which others know an event; without an alias they send no tag at all.
fn known_as(kind: Kind) -> (&'static str, &'static str) {
    match ALIASES.iter().find(|(name, _)| *name == kind.name()) {
        Some((_, alias)) => alias.split_once(':').unwrap_or((alias, "")),
        None => (kind.name(), ""),
    }
}

struct Sent {
    case: Case,
    kind: Kind,
    /// Id by which it is known in the inbox.
    id: String,
}

/// Every role on a cluster of its own, and the Java programs.
struct JavaNeighbours {
    cluster: Cluster,
    java: &'static Java,
    process: Process,
    _dir: tempfile::TempDir,
}

impl JavaNeighbours {
    async fn start() -> Option<Self> {
        let java = Java::compile()?;
        let cluster = Cluster::start(ClusterPlan::default()).await?;
        let dir = tempfile::tempdir().unwrap();
        let mut sets: Vec<String> = ALIASES.iter().map(|(name, alias)| format!("mq.topics.{name}={alias}")).collect();
        sets.push(format!("data_dir={}", dir.path().display()));
        sets.push(format!("mq.namesrv={}", cluster.namesrv()));
        sets.push("sandbox.warehouse.step_delay=5ms".to_owned());
        sets.push("http.all=127.0.0.1:0".to_owned());
        sets.extend(PROVIDERS.map(str::to_owned));
        let config = Config::load(&Sources { sets, ..Sources::default() }).unwrap();
        // Without the walk over what is due: it would be faster than the messages that say so.
        let work = Work { timeouts: false, ..Work::SERVE };
        let plan = Plan::new(&Role::ALL, work, Some("127.0.0.1:0".parse().unwrap()));
        let process = Process::start(&config, plan).await.unwrap();
        Some(Self { cluster, java, process, _dir: dir })
    }

    fn db(&self) -> &Db {
        self.process.db_of(Role::Order).unwrap()
    }

    /// Sends all lines, in order, and waits until the broker has them.
    async fn produce(&self, lines: &[String]) {
        let mut producer = self.java.start("Produce", &[&self.cluster.namesrv()]);
        producer.give(lines);
        // The client's own words come on the same way.
        let sent = |printed: Vec<String>| printed.iter().filter(|line| *line == "sent").count();
        eventually("the producer sends", async || sent(producer.lines()) == lines.len()).await;
        producer.finish();
    }
}

/// Every topic of the catalogue that has a consumer, as raw messages without any property: three copies each.
async fn raw(neighbours: &JavaNeighbours, first: i64) -> (Vec<Sent>, Vec<String>) {
    let (mut sent, mut lines) = (Vec::new(), Vec::new());
    for (at, kind) in (0_i64..).zip(Kind::ALL) {
        let case = prepare(neighbours.db(), kind, first + at * STEP).await;
        let (topic, tag) = known_as(kind);
        let one = line(topic, tag, &case.key, &case.body.to_string());
        lines.extend([one.clone(), one.clone(), one]);
        let id = kind.repeats().unwrap_or(kind).event_id(&case.key);
        sent.push(Sent { case, kind, id });
    }
    (sent, lines)
}

/// What classes of Java services make: decimal amounts, nulls, further fields; with an id in the body, and without.
async fn legacy(neighbours: &JavaNeighbours, first: i64) -> (Vec<Sent>, Vec<String>) {
    let kinds = [
        (Kind::OrderCreated, "@OrderCreated"),
        (Kind::PaymentSuccess, "@PaymentSuccess"),
        (Kind::PaidOrderSuccess, "@PaidOrderSuccess"),
    ];
    let (mut sent, mut lines) = (Vec::new(), Vec::new());
    for (at, (kind, class)) in (0_i64..).zip(kinds.into_iter().chain(kinds)) {
        let mut case = prepare(neighbours.db(), kind, first + at * STEP).await;
        if kind == Kind::PaymentSuccess {
            // Its payTime is a text with a zone.
            case.effects[0].1 = case.effects[0].1.split(" AND pay_time").next().unwrap().to_owned();
            case.effects[0].1 += " AND pay_time = 1769817600000";
        }
        let event_id = if at < 3 { String::new() } else { format!("legacy-{}", case.key) };
        let (topic, tag) = known_as(kind);
        let one = format!("{}\t{event_id}", line(topic, tag, &case.key, class));
        lines.extend([one.clone(), one]);
        let id = if event_id.is_empty() { kind.event_id(&case.key) } else { event_id };
        sent.push(Sent { case, kind, id });
    }
    (sent, lines)
}

/// Each group has done its part.
async fn is_done(db: &Db, sent: &Sent) -> bool {
    let inbox = handled(db, &sent.id).await;
    if inbox.len() < sent.kind.groups().len() {
        return false;
    }
    for (_, text) in &sent.case.effects {
        if number(db, text).await == 0 {
            return false;
        }
    }
    true
}

/// Each group has done its part once, and nothing was given up.
async fn check_once(db: &Db, sent: &Sent) {
    for (group, text) in &sent.case.effects {
        assert_eq!(number(db, text).await, 1, "{:?} in {}: {text}", sent.kind, group.name());
    }
    let inbox = handled(db, &sent.id).await;
    let groups: BTreeSet<&str> = inbox.iter().map(|(group, ..)| group.as_str()).collect();
    assert_eq!(groups, sent.kind.groups().iter().map(|group| group.name()).collect(), "{:?}", sent.kind);
    for (group, outcome, reason) in &inbox {
        // 0: done. An inlet is an order to do it again: the second one finds it done.
        let fine = *outcome == 0 || (*outcome == 1 && sent.kind.repeats().is_some());
        assert!(fine, "{:?} in {group}: {outcome} {reason}", sent.kind);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn java_services_on_rocketmq_send_and_receive_every_event() {
    let Some(neighbours) = JavaNeighbours::start().await else { return };
    let db = neighbours.db();
    let filters = ["payment_success_topic", "pay", "PAID_ORDER_SUCCESS", "PAID_ORDER_SUCCESS || OTHER"];
    let others = ["ORDER_CANCELED", "SOME_OTHER_TAG", "TRIGGER_ORDER_FULFILL", "*"];
    let mut args = vec![neighbours.cluster.namesrv(), "java-consumer-group".to_owned()];
    args.extend(filters.into_iter().chain(others).map(str::to_owned));
    let consumer = neighbours.java.start("Consume", &args.iter().map(String::as_str).collect::<Vec<_>>());

    let (mut sent, mut lines) = raw(&neighbours, 7_000_000_000).await;
    let (more, of_classes) = legacy(&neighbours, 7_100_000_000).await;
    sent.extend(more);
    lines.extend(of_classes);
    // On the same topic, but none of ours: the tag says so.
    let foreign = prepare(db, Kind::PaymentSuccess, 7_200_000_000).await;
    lines.push(line("payment_success_topic", "refund", &foreign.key, &foreign.body.to_string()));
    // Ours, and beyond repair.
    let broken = prepare(db, Kind::PaymentSuccess, 7_300_000_000).await;
    let mut body = broken.body.clone();
    body["amount"] = serde_json::json!(59.801);
    lines.push(line("payment_success_topic", "pay", &broken.key, &body.to_string()));
    // The last of each queue: when it is handled, so is what came before it.
    let last = prepare(db, Kind::PaymentSuccess, 7_300_000_000 + 3 * STEP).await;
    lines.push(line("payment_success_topic", "pay", &last.key, &last.body.to_string()));
    neighbours.produce(&lines).await;
    for one in &sent {
        eventually(&format!("{:?} {} has its effects", one.kind, one.id), async || is_done(db, one).await).await;
    }
    let broken_id = Kind::PaymentSuccess.event_id(&broken.key);
    eventually("the broken one is given up", async || handled(db, &broken_id).await.len() == 1).await;
    let (group, outcome, reason) = handled(db, &broken_id).await.remove(0);
    assert_eq!((group.as_str(), outcome), (Group::Order.name(), 3));
    assert!(reason.contains("at most two places"), "{reason}");

    lag_is_gone(&neighbours).await;
    for one in &sent {
        check_once(db, one).await;
    }
    assert_eq!(handled(db, &Kind::PaymentSuccess.event_id(&foreign.key)).await, []);
    assert_eq!(number(db, &foreign.effects[0].1).await, 0, "the tag of another event");

    reads_ours(&consumer, &sent).await;
    consumer.finish();
    neighbours.process.stop().await.unwrap();
}

/// Every group has taken all that there is: copies too.
async fn lag_is_gone(neighbours: &JavaNeighbours) {
    let runtime = MqRuntime::start("interop").unwrap();
    let topics: HashMap<String, String> =
        ALIASES.iter().map(|(name, alias)| ((*name).to_owned(), (*alias).to_owned())).collect();
    let config = RocketMqConfig { namesrv: neighbours.cluster.namesrv(), topics, ..RocketMqConfig::default() };
    let mq = RocketMq::connect(config, &runtime).await.unwrap();
    for group in Group::ALL {
        let topics: Vec<String> = group.events().map(|kind| kind.name().to_owned()).collect();
        eventually(&format!("{} takes everything", group.name()), async || {
            let Ok(lag) = mq.lag(group.name(), &topics).await else { return false };
            // Queues that have never had a message have no offset.
            lag.iter().all(|(_, lag)| lag.lag().unwrap_or(0) == 0)
        })
        .await;
    }
    mq.shutdown().await;
    runtime.shutdown(Duration::from_secs(10)).await;
}

/// The Java consumer has got the events that ruyi sent, by its filters, with keys, tags and properties.
async fn reads_ours(consumer: &Program, sent: &[Sent]) {
    let of = |kind: Kind| sent.iter().find(|one| one.kind == kind).unwrap().case.key.clone();
    // What followed from two of the messages: an order was paid, and the sandbox channel paid a payment.
    let paid = (of(Kind::PaymentSuccess), "PAID_ORDER_SUCCESS", "PAID_ORDER_SUCCESS");
    let confirmed = (of(Kind::CallbackSubmit), "payment_success_topic", "pay");
    let parse = |line: &String| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
    for (key, topic, tag) in [paid, confirmed] {
        let event = if tag == "pay" { "PAYMENT_SUCCESS" } else { tag };
        let id = format!("{key}:{event}");
        eventually(&format!("{topic} {key} is read"), async || {
            consumer.lines().iter().any(|line| line.starts_with(topic) && line.contains(&format!("\t{id}\t")))
        })
        .await;
        let lines: Vec<Vec<String>> = consumer.lines().iter().map(parse).collect();
        let found = lines.iter().find(|line| line.len() == 11 && line[0] == topic && line[6] == id).unwrap();
        assert_eq!((found[4].as_str(), found[5].as_str(), found[7].as_str()), (tag, key.as_str(), event));
        assert_eq!(found[8], "1");
        assert!(found[9].starts_with("ruyi"), "{found:?}");
        let body: Value = serde_json::from_str(&found[10]).unwrap();
        assert_eq!((&body["eventId"], &body["orderId"]), (&id.as_str().into(), &key.as_str().into()));
        assert!(body["timestamp"].as_i64().unwrap() > 1_600_000_000_000, "{body}");
    }
    let mut offsets: BTreeMap<(String, String), i64> = BTreeMap::new();
    for line in consumer.lines().iter().map(parse).filter(|line| line.len() == 11) {
        assert_ne!(line[0], "ORDER_CANCELED", "its filter lets none of them through");
        assert!(line[0] != "payment_success_topic" || line[4] == "pay", "{line:?}");
        let (queue, hash) = (line[1].parse::<i32>().unwrap(), line[3].parse::<i32>().unwrap());
        assert_eq!(queue, hash % QUEUES, "{line:?}");
        let offset: i64 = line[2].parse().unwrap();
        let before = offsets.insert((line[0].clone(), line[1].clone()), offset);
        assert!(before.is_none_or(|before| before < offset), "{line:?} after {before:?}");
    }
}
