//! `ruyi mq offsets`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ruyi::clock::Clock;
use ruyi::cmd::journal::rfc3339;
use ruyi::process::LISTENERS;
use serde_json::Value;

use crate::support::broker_bench::{BrokerBench, DEADLINE};
use crate::support::operators::{Operator, masked};
use crate::support::servers::java::{Java, Program};
use crate::support::servers::rocketmq::{Cluster, ClusterPlan, apache};
use crate::support::servers::unique;
use crate::support::waiting::eventually;

/// (broker, queue) → (consumer offset, broker offset).
type Offsets = BTreeMap<(String, i64), (i64, i64)>;

/// As RocketMQ's own administration client reads them.
async fn by_java(services: &mut Program, group: &str, topic: &str, mark: &str) -> Offsets {
    services.give(&[format!("offsets {group} {topic} {mark}")]);
    let lines = services.until(&format!("end {group} {mark}")).await;
    // Only what this question was answered with: other answers end before.
    let start = lines[..lines.len() - 1].iter().rposition(|line| !line.starts_with("offset ")).map_or(0, |at| at + 1);
    let offsets = lines[start..lines.len() - 1].iter().filter(|line| line.starts_with(&format!("offset {group} ")));
    let parsed = offsets.map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<i64>().unwrap();
        ((words[2].to_owned(), number(3)), (number(4), number(5)))
    });
    parsed.collect()
}

fn field(item: &Value, name: &str) -> i64 {
    item[name].as_i64().unwrap_or_else(|| panic!("{name}: {item}"))
}

fn place(item: &Value) -> (String, i64) {
    (item["broker"].as_str().unwrap().to_owned(), field(item, "queue"))
}

/// As ruyi reads them.
async fn by_ruyi(operator: &Operator, group: &str, topic: &str) -> Offsets {
    let items = operator.items(&["mq", "offsets", "show", group, "--topic", topic]).await;
    items.iter().map(|item| (place(item), (field(item, "consumerOffset"), field(item, "brokerOffset")))).collect()
}

fn consumer_offsets(offsets: &Offsets) -> BTreeMap<(String, i64), i64> {
    offsets.iter().map(|(queue, (consumer, _))| (queue.clone(), *consumer)).collect()
}

/// (queue, offset) of every message that `group` got, after the first `skip` lines.
fn got(services: &Program, group: &str, skip: usize) -> Vec<(i64, i64)> {
    let start = format!("got {group} ");
    let lines = services.lines();
    let messages = lines.iter().skip(skip).filter(|line| line.starts_with(&start)).map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        (words[3].parse().unwrap(), words[4].parse().unwrap())
    });
    let mut messages: Vec<(i64, i64)> = messages.collect();
    messages.sort_unstable();
    messages
}

async fn until_got(services: &Program, group: &str, skip: usize, count: usize) -> Vec<(i64, i64)> {
    let started = Instant::now();
    loop {
        let messages = got(services, group, skip);
        if messages.len() >= count {
            return messages;
        }
        assert!(started.elapsed() < DEADLINE, "{} of {count}", messages.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// (queue, offset) of every message that a group has before it.
fn ahead(offsets: &Offsets) -> Vec<(i64, i64)> {
    let mut ahead: Vec<(i64, i64)> =
        offsets.iter().flat_map(|((_, queue), (from, to))| (*from..*to).map(|offset| (*queue, offset))).collect();
    ahead.sort_unstable();
    ahead
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reset_on_two_brokers_is_undone_as_java_sees() {
    let Some(java) = Java::compile() else { return };
    let Some(cluster) = Cluster::start(ClusterPlan::pair()).await else { return };
    let mut services = java.start("Operate", &[&cluster.namesrv()]);
    let operator = Operator::new(&cluster.namesrv());
    let (topic, group) = ("JAVA_ORDERS", "java-billing");
    services.give(&[format!("topic {topic} 8"), format!("send {topic} 400 first")]);
    services.until(&format!("sent {topic} 400")).await;
    services.give(&[format!("consume {group} {topic} *")]);
    until_got(&services, group, 0, 400).await;
    services.give(&[format!("stop {group}")]);
    services.until(&format!("stopped {group}")).await;
    let between = rfc3339(Clock::system().now_ms());
    services.give(&[format!("send {topic} 160 second")]);
    services.until(&format!("sent {topic} 160")).await;

    // The same numbers on both sides, on all 16 queues.
    let before = by_java(&mut services, group, topic, "before").await;
    assert_eq!(before.len(), 16, "{before:?}");
    assert_eq!(before.values().map(|(consumer, _)| consumer).sum::<i64>(), 400);
    assert_eq!(by_ruyi(&operator, group, topic).await, before);
    let lag = operator.items(&["mq", "offsets", "lag", group]).await;
    assert_eq!(field(&lag[0], "lag"), 160);
    insta::assert_json_snapshot!("offsets_lag", masked(lag[0].clone(), &["lagSeconds"]));
    let listed = operator.items(&["mq", "offsets", "list", "--matching", "billing"]).await;
    insta::assert_json_snapshot!("offsets_list", listed);

    // A snapshot, and what a reset would do: nothing moves.
    let file = operator.dir().join("billing.json").display().to_string();
    let output = operator.run(&["mq", "offsets", "snapshot", group]).await;
    assert_eq!(output.status.code(), Some(0));
    std::fs::write(&file, &output.stdout).unwrap();
    let reset = ["mq", "offsets", "reset", group, "--topic", topic, "--to"];
    let to = |position: &'static str, more: &[&'static str]| [&reset[..], &[position], more].concat();
    let shown = operator.items(&to("start", &["--dry-run"])).await;
    assert_eq!(shown.iter().map(|item| field(item, "again")).sum::<i64>(), 400);
    insta::assert_json_snapshot!("offsets_reset", masked(shown[0].clone(), &["before", "again"]));
    let said = operator.refuses(&to("start", &[]), 2).await;
    assert!(said.contains("--yes"), "{said}");
    assert_eq!(by_java(&mut services, group, topic, "shown").await, before);

    // To the start, and back.
    operator.items(&to("start", &["--yes", "--reason", "incident 42"])).await;
    let start = by_java(&mut services, group, topic, "start").await;
    assert!(start.values().all(|(consumer, _)| *consumer == 0), "{start:?}");
    assert_eq!(by_ruyi(&operator, group, topic).await, start);
    operator.items(&["mq", "offsets", "restore", &file, "--yes"]).await;
    assert_eq!(by_java(&mut services, group, topic, "restored").await, before);
    // What was written before anything was changed.
    let journal = std::fs::read_to_string(operator.data_dir().join("journal.jsonl")).unwrap();
    let first: Value = serde_json::from_str(journal.lines().next().unwrap()).unwrap();
    assert_eq!((&first["command"], &first["reason"]), (&"mq offsets reset".into(), &"incident 42".into()));
    assert_eq!(first["what"]["moves"].as_array().unwrap().len(), 16);
    let own: Value =
        serde_json::from_slice(&std::fs::read(first["what"]["snapshot"].as_str().unwrap()).unwrap()).unwrap();
    let taken: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(own["offsets"], taken["offsets"]);

    positions(&operator, &mut services, &before, &between).await;
    members(&operator, &mut services, &before).await;

    // One broker hangs: what the other one has is shown, and nothing is changed as if there were no other.
    cluster.freeze_broker("b");
    let (code, items, said) = operator.items_and_code(&["mq", "offsets", "show", group, "--topic", topic]).await;
    assert_eq!((code, items.len()), (1, 8), "{said}");
    assert!(said.contains("broker b (") && said.contains("does not answer"), "{said}");
    let (code, items, said) = operator.items_and_code(&["mq", "topics", "list", "--matching", topic]).await;
    assert_eq!((code, field(&items[0], "queues")), (1, 8), "{said}");
    let said = operator.refuses(&to("start", &["--yes", "--force"]), 1).await;
    assert!(said.contains("broker b (") && said.contains("nothing was changed"), "{said}");
    operator.items(&to("end", &["--queue", "a:0", "--yes", "--force"])).await;
    cluster.thaw_broker("b");
}

/// Times, counts, one queue, skip and clone; the group is where it was in the end.
async fn positions(operator: &Operator, services: &mut Program, before: &Offsets, between: &str) {
    let (topic, group) = ("JAVA_ORDERS", "java-billing");
    let reset = ["mq", "offsets", "reset", group, "--topic", topic, "--yes", "--to"];
    let to = |position: &'static str, more: &[&'static str]| [&reset[..], &[position], more].concat();
    // Forty on from the start and five back are clamped to what each queue holds.
    operator.items(&to("start", &[])).await;
    operator.items(&to("+5", &[])).await;
    let now = by_java(services, group, topic, "plus").await;
    assert!(now.values().all(|(consumer, end)| *consumer == 5.min(*end)), "{now:?}");
    operator.items(&to("-3", &[])).await;
    let now = by_java(services, group, topic, "minus").await;
    assert!(now.values().all(|(consumer, end)| *consumer == (5.min(*end) - 3).max(0)), "{now:?}");
    operator.items(&to("-1000", &[])).await;
    operator.items(&to("+100000", &[])).await;
    let now = by_java(services, group, topic, "end").await;
    assert!(now.values().all(|(consumer, end)| consumer == end), "{now:?}");
    let said = operator.refuses(&to("-1", &[]), 2).await;
    assert!(said.contains("a bare -1") && said.contains("end"), "{said}");
    operator.refuses(&to("=3", &[]), 2).await;
    let said = operator.refuses(&["mq", "offsets", "reset", "java-biling", "--topic", topic, "--to", "end"], 1).await;
    assert!(said.contains("did you mean java-billing?"), "{said}");
    let said = operator.refuses(&["mq", "offsets", "reset", group, "--topic", "JAVA_ORDER", "--to", "end"], 1).await;
    assert!(said.contains("did you mean JAVA_ORDERS?"), "{said}");

    // A time between the two waves: the second one was stored after it.
    let at = format!("@{between}");
    operator.items(&[&reset[..], &[&at]].concat()).await;
    let now = by_java(services, group, topic, "time").await;
    assert_eq!(&now, before, "{at}");
    operator.items(&to("@-1h", &[])).await;
    let now = by_java(services, group, topic, "hour").await;
    assert!(now.values().all(|(consumer, _)| *consumer == 0), "{now:?}");

    // One queue, unless it has been moved meanwhile.
    let one = |expected: &'static str| to("=2", &["--queue", "b:3", "--expect-current", expected]);
    let said = operator.refuses(&one("7"), 1).await;
    assert!(said.contains("is 0, not 7"), "{said}");
    operator.refuses(&to("=2", &["--queue", "b:8"]), 1).await;
    let moved = operator.items(&one("0")).await;
    assert_eq!((moved.len(), &moved[0]["done"]), (1, &true.into()));
    let skip = ["mq", "offsets", "skip", group, "--topic", topic, "--queue", "b:3", "--count", "2", "--yes"];
    let skipped = operator.items(&skip).await;
    assert_eq!((field(&skipped[0], "before"), field(&skipped[0], "after")), (2, 4));
    let mut expected = now;
    expected.get_mut(&("b".to_owned(), 3)).unwrap().0 = 4;
    assert_eq!(by_java(services, group, topic, "one").await, expected);

    // Another group goes on where this one is.
    operator.items(&["mq", "offsets", "clone", group, "java-billing-2", "--yes"]).await;
    assert_eq!(by_java(services, "java-billing-2", topic, "clone").await, expected);
    let last = operator.run(&to("end", &[])).await;
    let said = String::from_utf8(last.stderr).unwrap();
    let undo = said.lines().find_map(|line| line.strip_prefix("undo with: ruyi ")).unwrap();
    let undo: Vec<&str> = undo.split(' ').chain(["--yes"]).collect();
    operator.items(&undo).await;
    assert_eq!(by_java(services, group, topic, "undone").await, expected);
}

/// What members of the group see of it.
async fn members(operator: &Operator, services: &mut Program, before: &Offsets) {
    let (topic, group) = ("JAVA_ORDERS", "java-billing");
    let reset = ["mq", "offsets", "reset", group, "--topic", topic, "--to"];
    // A Java consumer goes on exactly there.
    operator.items(&[&reset[..], &["start", "--yes"]].concat()).await;
    operator.items(&[&reset[..], &["+4", "--yes"]].concat()).await;
    let from = by_ruyi(operator, group, topic).await;
    let expected = ahead(&from);
    let skip = services.lines().len();
    services.give(&[format!("consume {group} {topic} * again")]);
    assert_eq!(until_got(services, group, skip, expected.len()).await, expected);
    // While it runs it would commit over a change.
    let started = Instant::now();
    let owned = loop {
        let items = operator.items(&["mq", "offsets", "show", group]).await;
        let owned = items.iter().all(|item| item["owner"].as_str().is_some_and(|owner| owner.contains("again")));
        if owned && items.iter().all(|item| item["lag"] == 0) {
            break items;
        }
        assert!(started.elapsed() < DEADLINE, "{items:?}");
    };
    insta::assert_json_snapshot!(
        "offsets_show",
        masked(owned[0].clone(), &["brokerOffset", "consumerOffset", "lastConsumed", "owner"])
    );
    let said = operator.refuses(&[&reset[..], &["start", "--yes"]].concat(), 1).await;
    assert!(said.contains("online") && said.contains("again") && said.contains("--force"), "{said}");
    let shown = operator.run(&[&reset[..], &["start", "--dry-run"]].concat()).await;
    assert_eq!(shown.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&shown.stderr).contains("would be refused"));
    // Overruled, it is taken there.
    let skip = services.lines().len();
    operator.items(&[&reset[..], &["start", "--yes", "--force"]].concat()).await;
    let all: Offsets = before.iter().map(|(queue, (_, end))| (queue.clone(), (0, *end))).collect();
    let started = Instant::now();
    loop {
        let mut seen = got(services, group, skip);
        // On both brokers a queue has the same number; what was on its way may come twice.
        seen.dedup();
        let mut wanted = ahead(&all);
        wanted.dedup();
        if seen == wanted {
            break;
        }
        assert!(started.elapsed() < DEADLINE, "{} of {}", seen.len(), wanted.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    services.give(&[format!("stop {group} again")]);
    services.until(&format!("stopped {group} again")).await;
    let now = by_java(services, group, topic, "stopped").await;
    assert_eq!(consumer_offsets(&now), all.iter().map(|(queue, (_, end))| (queue.clone(), *end)).collect());
}

/// A member of ruyi's is no reason to refuse: it goes on from where it is put. The group has taken 100 messages.
async fn member_of_ruyi(bench: &BrokerBench, operator: &Operator, topic: &str, group: &str) {
    bench.mq.ensure_topics(&[topic.to_owned()], 4).await.unwrap();
    bench.send(topic, "first", 100).await;
    let consumer = bench.mq.subscribe(group, &[topic.to_owned()]).await.unwrap();
    bench.take(&consumer, 100).await;
    let output = operator.run(&["mq", "offsets", "reset", group, "--topic", topic, "--to", "start", "--yes"]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("ruyi's own"), "{said}");
    let mut keys = BTreeSet::new();
    while keys.len() < 100 {
        keys.extend(bench.take(&consumer, 1).await.into_iter().map(|one| one.key));
    }
    consumer.shutdown().await;
    // The last commit may still be on its way.
    let started = Instant::now();
    while !ahead(&by_ruyi(operator, group, topic).await).is_empty() {
        assert!(started.elapsed() < DEADLINE, "{:?}", by_ruyi(operator, group, topic).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_of_ruyi_follows_on_rocketmq() {
    let Some(apache) = apache().await else { return };
    let bench = BrokerBench::at(apache.namesrv()).await;
    let operator = Operator::new(&bench.namesrv);
    member_of_ruyi(&bench, &operator, &unique("OURS"), &unique("ours-group")).await;
    bench.stop().await;
}

/// What is asked for and cannot be is told, and not done in part.
async fn cannot_be(operator: &Operator, topic: &str, group: &str) {
    let before = by_ruyi(operator, group, topic).await;
    let reset = ["mq", "offsets", "reset", group, "--topic", topic, "--yes", "--to"];
    let said = operator.refuses(&[&reset[..], &["@2199-01-01T00:00"]].concat(), 2).await;
    assert!(said.contains("still to come"), "{said}");
    let output = operator.run(&[&reset[..], &["+1000000", "--queue", "ruyi:0", "--dry-run"]].concat()).await;
    assert_eq!(output.status.code(), Some(2), "--yes and --dry-run exclude one another");
    let far =
        ["mq", "offsets", "skip", group, "--topic", topic, "--queue", "ruyi:0", "--count", "1000000", "--dry-run"];
    let (code, _, said) = operator.items_and_code(&far).await;
    assert!(code == 0 && said.contains("as far as it goes"), "{said}");
    operator.refuses(&["mq", "offsets", "clone", "other-group", "third-group", "--topic", "NONE", "--yes"], 1).await;

    // A snapshot of another topic of this name.
    let file = operator.dir().join("other.json").display().to_string();
    let mut snapshot: Value =
        serde_json::from_slice(&operator.run(&["mq", "offsets", "snapshot", group]).await.stdout).unwrap();
    for wrong in [-5, 1_000_000] {
        snapshot["offsets"][0]["offset"] = wrong.into();
        std::fs::write(&file, snapshot.to_string()).unwrap();
        let said = operator.refuses(&["mq", "offsets", "restore", &file, "--dry-run"], 1).await;
        assert!(said.contains("ends at"), "{said}");
    }
    assert_eq!(by_ruyi(operator, group, topic).await, before);

    // Nothing was committed: brokers cannot take back what a reset sets, and it is said.
    let wanted = operator.dir().join("fresh.toml").display().to_string();
    std::fs::write(&wanted, format!("[groups.fresh-group.subscriptions]\n{topic} = \"*\"\n")).unwrap();
    operator.items(&["mq", "topics", "apply", "--no-catalogue", "--file", &wanted, "--yes"]).await;
    operator.items(&["mq", "offsets", "reset", "fresh-group", "--topic", topic, "--to", "end", "--yes"]).await;
    let snapshots =
        std::fs::read_dir(operator.data_dir().join("snapshots")).unwrap().map(|entry| entry.unwrap().path());
    let own = snapshots.filter(|path| path.to_str().unwrap().contains("fresh-group-")).collect::<Vec<_>>();
    let (code, _, said) =
        operator.items_and_code(&["mq", "offsets", "restore", own[0].to_str().unwrap(), "--yes"]).await;
    assert!(code == 1 && said.contains("4 queues are not as they were"), "{code} {said}");

    // A broker that the name servers have forgotten is missed where it is named.
    let brokers = r#"mq.brokers=["ruyi","gone"]"#;
    let named = |args: &[&str]| [args, &["--set", brokers]].concat().into_iter().map(str::to_owned).collect::<Vec<_>>();
    let shown = named(&["mq", "offsets", "show", group]);
    let (code, items, said) = operator.items_and_code(&shown.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert!(code == 1 && !items.is_empty() && said.contains("broker gone is known to no name server"), "{said}");
    let to_end = named(&[&reset[..], &["end"]].concat());
    let said = operator.refuses(&to_end.iter().map(String::as_str).collect::<Vec<_>>(), 1).await;
    assert!(said.contains("gone") && said.contains("nothing was changed"), "{said}");
    assert_eq!(by_ruyi(operator, group, topic).await, before);
    let checked = operator.run(&["check", "broker", "--set", brokers]).await;
    let text = String::from_utf8(checked.stdout).unwrap();
    assert_eq!(
        (checked.status.code(), text.as_str()),
        (Some(1), "BROKER WARNING - gone is known to no name server | 'brokers'=1;2:;1:;0\n")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_of_the_embedded_broker() {
    let bench = BrokerBench::embedded().await;
    let operator = Operator::new(&bench.namesrv);
    let (topic, group) = ("ORDER_CREATED", "stock-consumer-group");
    member_of_ruyi(&bench, &operator, topic, group).await;
    let reset = ["mq", "offsets", "reset", group, "--topic", topic, "--to"];
    bench.send(topic, "second", 60).await;
    let before = by_ruyi(&operator, group, topic).await;
    assert_eq!((before.len(), ahead(&before).len()), (4, 60));
    let listed = operator.items(&["mq", "offsets", "list"]).await;
    assert!(listed.iter().any(|item| item["group"] == group && item["lag"] == 60), "{listed:?}");
    let lag = operator.items(&["mq", "offsets", "lag", group]).await;
    assert!(field(&lag[0], "lag") == 60 && lag[0]["lagSeconds"].is_number(), "{lag:?}");
    let file = operator.dir().join("snapshot.json").display().to_string();
    std::fs::write(&file, operator.run(&["mq", "offsets", "snapshot", group]).await.stdout).unwrap();
    for (position, expected) in [("start", 160), ("end", 0), ("-2", 8), ("+1", 4), ("@-1h", 160)] {
        operator.items(&[&reset[..], &[position, "--yes"]].concat()).await;
        assert_eq!(ahead(&by_ruyi(&operator, group, topic).await).len(), expected, "{position}");
    }
    operator.items(&["mq", "offsets", "restore", &file, "--yes"]).await;
    assert_eq!(by_ruyi(&operator, group, topic).await, before);
    operator.items(&["mq", "offsets", "clone", group, "other-group", "--yes"]).await;
    assert_eq!(by_ruyi(&operator, "other-group", topic).await, before);
    cannot_be(&operator, topic, group).await;
    // Who comes next gets what was not consumed, and nothing else.
    let consumer = bench.mq.subscribe(group, &[topic.to_owned()]).await.unwrap();
    let rest = bench.take(&consumer, 60).await;
    assert!(rest.iter().all(|message| message.key.starts_with("second-")));
    consumer.shutdown().await;
    bench.stop().await;
}

/// Each listener knows for itself how far it is: what a broker keeps of their group is no lag.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_have_no_lag() {
    let bench = BrokerBench::embedded().await;
    let operator = Operator::new(&bench.namesrv);
    let topic = "CACHE_INVALIDATE";
    bench.mq.ensure_topics(&[topic.to_owned()], 4).await.unwrap();
    bench.send(topic, "change", 40).await;
    let listener = bench.mq.listen_in(LISTENERS, topic).await.unwrap();
    for queue in bench.mq.committed(LISTENERS, topic).await.unwrap().iter().filter(|queue| queue.broker_offset > 1) {
        bench.mq.set_offset(LISTENERS, &queue.queue, 1).await.unwrap();
    }
    let listed = async |members: i64| {
        let items = operator.items(&["mq", "offsets", "list", "--matching", LISTENERS]).await;
        items.into_iter().find(|item| item["group"] == LISTENERS && item["members"] == members)
    };
    let mut row = None;
    eventually("the listener is there", async || {
        row = listed(1).await;
        row.is_some()
    })
    .await;
    assert_eq!(row.unwrap()["lag"], Value::Null);

    listener.shutdown().await;
    let mut row = None;
    eventually("nobody listens", async || {
        row = listed(0).await;
        row.is_some()
    })
    .await;
    let row = row.unwrap();
    assert_eq!((&row["topics"], &row["lag"]), (&Value::from(1), &Value::Null));
    bench.stop().await;
}
