//! `ruyi mq tx`: half messages that the broker has given up asking about.

use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ruyi::db::tx_state::{self, Attempt, TxState};
use ruyi::mq::message::Outgoing;
use ruyi::mq::rocketmq::transaction::{CheckBack, Verdict};
use ruyi::mq::rocketmq::{RocketMq, RocketMqConfig};
use ruyi::mq::runtime::MqRuntime;
use ruyi::roles::payment::transaction::GROUP;
use serde_json::Value;

use crate::support::operators::as_promised;
use crate::support::program::settings_of_tests;
use crate::support::servers::rocketmq::{Cluster, ClusterPlan};
use crate::support::servers::{TestDb, sqlite, write_tx};

const TOPIC: &str = "PAYMENT_SUCCESS";
const DEADLINE: Duration = Duration::from_secs(120);

struct Tool {
    database: String,
    namesrv: String,
    dir: tempfile::TempDir,
}

impl Tool {
    async fn run(&self, args: &[&str]) -> Output {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_ruyi"));
        for name in settings_of_tests() {
            command.env_remove(name);
        }
        command.args(["mq", "tx"]).args(args).args(["--output", "json"]);
        command.arg("--set").arg(format!("database.url={}", self.database));
        command.arg("--set").arg(format!("data_dir={}", self.dir.path().display()));
        command.arg("--set").arg(format!("mq.namesrv={}", self.namesrv)).args(["--set", "mq.namespace=shop"]);
        command.stdin(std::process::Stdio::null()).kill_on_drop(true);
        command.output().await.unwrap()
    }

    /// The fields `event` and `field` of each item, sorted.
    async fn items(&self, args: &[&str], field: &str) -> Vec<(String, String)> {
        let output = self.run(args).await;
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["version"], 1);
        let items = document["items"].as_array().unwrap().iter();
        as_promised(&[&["mq", "tx"], args].concat(), document["items"].as_array().unwrap());
        let text = |item: &Value, name: &str| item[name].as_str().unwrap_or_default().to_owned();
        let mut items: Vec<_> = items.map(|item| (text(item, "eventId"), text(item, field))).collect();
        items.sort();
        items
    }
}

fn attempt(key: &str) -> Attempt {
    Attempt { tx_id: format!("{key}#1"), event_id: format!("{key}:{TOPIC}"), key: key.to_owned() }
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

fn expected(items: &[(&str, &str)]) -> Vec<(String, String)> {
    items.iter().map(|(key, value)| (format!("{key}:{TOPIC}"), (*value).to_owned())).collect()
}

async fn decide(test: &TestDb, key: &str, state: TxState) {
    let one = [attempt(key)];
    write_tx!(test.db, [one], |tx| { tx_state::decide(tx, &one, state).await }).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abandoned_halves_are_listed_committed_ones_delivered_once() {
    let lines = "transactionTimeOut=1000\ntransactionCheckInterval=1000\ntransactionCheckMax=2\n";
    let Some(cluster) = Cluster::start(ClusterPlan::default().broker_conf(lines)).await else { return };
    let test = sqlite().await;
    let tool = Tool { database: test.url.clone(), namesrv: cluster.namesrv(), dir: tempfile::tempdir().unwrap() };
    assert_eq!(tool.items(&["stuck"], "state").await, []);

    let runtime = MqRuntime::start("mq-test").unwrap();
    let config =
        RocketMqConfig { namesrv: cluster.namesrv(), namespace: Some("shop".into()), ..RocketMqConfig::default() };
    let mq = RocketMq::connect(config, &runtime).await.unwrap();
    mq.ensure_topics(&[TOPIC.to_owned()], 4).await.unwrap();
    let consumer = mq.subscribe("order-consumer-group", &[TOPIC.to_owned()]).await.unwrap();
    // Nobody knows anything, for as long as the broker asks.
    let nobody: CheckBack = Arc::new(|_| Box::pin(async { Verdict::Unknown }));
    let ours = mq.transactions(GROUP, &[TOPIC.to_owned()], Arc::clone(&nobody)).await.unwrap();
    let theirs = mq.transactions("another-producer-group", &[TOPIC.to_owned()], nobody).await.unwrap();
    for key in ["yes", "no", "never"] {
        drop(ours.prepare(&message(key), &attempt(key).tx_id).await.unwrap());
    }
    drop(theirs.prepare(&message("other"), "other#1").await.unwrap());
    decide(&test, "yes", TxState::Committed).await;
    decide(&test, "no", TxState::RolledBack).await;

    let started = Instant::now();
    while tool.items(&["stuck", "--all"], "state").await.len() < 4 {
        assert!(started.elapsed() < DEADLINE, "the broker does not give up");
    }
    let open = expected(&[("never", "unknown"), ("no", "rolled_back"), ("yes", "committed")]);
    assert_eq!(tool.items(&["stuck"], "state").await, open);
    let all = tool.items(&["stuck", "--all"], "state").await;
    assert!(all.contains(&expected(&[("other", "foreign")])[0]), "{all:?}");
    assert_eq!(tool.items(&["stuck"], "topic").await[0].1, TOPIC, "as the catalogue names it");

    let unasked = tool.run(&["resume"]).await;
    assert_eq!(unasked.status.code(), Some(2), "{}", String::from_utf8_lossy(&unasked.stderr));
    let planned = expected(&[("never", "would give up"), ("no", "left"), ("yes", "would publish")]);
    assert_eq!(tool.items(&["resume", "--dry-run"], "result").await, planned);
    assert!(consumer.poll(32, Duration::from_millis(500)).await.is_empty());
    let none = tool.run(&["resume", "--event", "none", "--yes"]).await;
    assert_eq!(none.status.code(), Some(1), "{}", String::from_utf8_lossy(&none.stderr));
    let journal = tool.dir.path().join("journal.jsonl");
    assert!(!journal.exists(), "nothing was changed yet");
    let done = expected(&[("never", "left"), ("no", "left"), ("yes", "published")]);
    assert_eq!(tool.items(&["resume", "--yes", "--reason", "a test"], "result").await, done);
    let entry: Value = serde_json::from_str(std::fs::read_to_string(&journal).unwrap().trim()).unwrap();
    assert_eq!((&entry["command"], &entry["reason"]), (&"mq tx resume".into(), &"a test".into()));
    assert!(entry["what"].to_string().contains("yes:PAYMENT_SUCCESS"), "{entry}");

    let started = Instant::now();
    let came = loop {
        let came = consumer.poll(32, Duration::from_millis(200)).await;
        if !came.is_empty() {
            break came;
        }
        assert!(started.elapsed() < DEADLINE, "the event does not come");
    };
    let half = message("yes");
    assert_eq!((came.len(), &came[0].key, &came[0].body, &came[0].tag), (1, &half.key, &half.body, &half.tag));
    assert_eq!(came[0].property("eventId"), Some("yes:PAYMENT_SUCCESS"));
    // Once is enough.
    let left = expected(&[("never", "rolled_back"), ("no", "rolled_back")]);
    assert_eq!(tool.items(&["stuck"], "state").await, left);
    assert_eq!(tool.items(&["resume", "--yes"], "result").await, expected(&[("never", "left"), ("no", "left")]));
    assert!(consumer.poll(32, Duration::from_millis(500)).await.is_empty());

    ours.shutdown().await;
    theirs.shutdown().await;
    consumer.shutdown().await;
    mq.shutdown().await;
    runtime.shutdown(Duration::from_secs(10)).await;
}
