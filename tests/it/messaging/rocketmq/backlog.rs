//! `ruyi worker backlog` against brokers.

use std::process::Stdio;
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::client_bench::{ClientBench, DEADLINE, EitherBroker, WAIT, collect, next_offsets, numbered};
use crate::support::outbound::OutboundServer;

/// The program, with the name servers of `bench`.
fn ruyi(bench: &ClientBench, args: &[&str], sets: &[String]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(assert_cmd::cargo::cargo_bin!("ruyi"));
    command.args(args).args(["--set", &format!("mq.namesrv={}", bench.mq.config().namesrv)]);
    for set in sets {
        command.args(["--set", set]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Exit code and rows of `--once`.
async fn once(bench: &ClientBench, groups: &[&str], threshold: i64) -> (i32, Vec<Value>) {
    let mut args = vec!["worker", "backlog", "--once", "--output", "json"];
    for group in groups {
        args.extend(["--group", group]);
    }
    let limits = format!("backlog.groups.default.threshold={threshold}");
    let sets = [limits, "backlog.groups.default.per_replica=100".to_owned()];
    let output = ruyi(bench, &args, &sets).output().await.unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{error}"));
    (output.status.code().unwrap(), rows["items"].as_array().unwrap().clone())
}

/// `group` has consumed 20 of 520 messages of the first topic, and has left.
async fn behind(bench: &ClientBench, group: &str, topics: &[String]) {
    bench.send(&numbered(&topics[0], 8, 65)).await;
    let consumer = bench.mq.subscribe(group, topics).await.unwrap();
    let got = collect(&consumer, 520).await;
    // Each queue is committed, as far as its first messages.
    let mut first = got.clone();
    first.retain(|message| message.offset < 3);
    consumer.commit(&next_offsets(&first)).await;
    let started = Instant::now();
    while lag(bench, group, topics).await != Some(520 - i64::try_from(first.len()).unwrap()) {
        assert!(started.elapsed() < DEADLINE);
        tokio::time::sleep(WAIT).await;
    }
    consumer.shutdown().await;
}

async fn lag(bench: &ClientBench, group: &str, topics: &[String]) -> Option<i64> {
    let lags = bench.mq.lag(group, &topics[..1]).await.ok()?;
    Some(lags.iter().filter_map(|(_, lag)| lag.lag()).sum())
}

/// What the group is told to have before it is what it has, and every limit does what it says.
async fn is_read(bench: &ClientBench, group: &str) {
    let (code, rows) = once(bench, &[group], 10_000).await;
    let known = rows[0]["lag"].as_i64();
    assert_eq!((code, &rows[0]["group"]), (i32::from(known.is_none()) * 3, &json!(group)), "{rows:?}");
    let (code, rows) = once(bench, &[group, "nobody-knows-me"], 300).await;
    assert_eq!((code, &rows[0]["over"]), (1, &json!(true)), "{rows:?}");
    // Some 500 messages, 100 for each instance, and four queues.
    assert_eq!((&rows[0]["wanted"], &rows[0]["queues"]), (&json!(4), &json!(4)), "{rows:?}");
    let unknown =
        json!({"group": "nobody-knows-me", "lag": null, "threshold": 300, "over": null, "wanted": null, "queues": 0});
    assert_eq!(rows[1], unknown);
    let (code, rows) = once(bench, &["nobody-knows-me"], 300).await;
    assert_eq!((code, rows.len()), (3, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backlog_of_ruyi_group_is_read_told_and_asked() {
    let bench = EitherBroker::Embedded(tempfile::tempdir().unwrap()).bench(|_| ()).await;
    let group = ruyi::domain::event::Group::Stock;
    let names: Vec<&str> = group.events().map(|kind| kind.name()).collect();
    let topics = bench.topics(&names).await;
    behind(&bench, group.name(), &topics).await;
    is_read(&bench, group.name()).await;

    let (server, dir) = (OutboundServer::start().await, tempfile::tempdir().unwrap());
    let file = dir.path().join("asked");
    let hook = format!("echo $RUYI_GROUP $RUYI_WANTED >> {}", file.display());
    let sets = [
        "backlog.interval=1s".to_owned(),
        "backlog.groups.default.threshold=300".to_owned(),
        "backlog.groups.default.per_replica=200".to_owned(),
        format!("backlog.hook_command=[\"sh\", \"-c\", \"{hook}\"]"),
        format!("backlog.hook_url={}", server.url("/scale")),
        format!("alerts.webhook={}", server.url("/alerts")),
    ];
    let mut child = ruyi(&bench, &["worker", "backlog", "--group", group.name()], &sets).spawn().unwrap();
    server.arrived().await;
    server.arrived().await;
    let seen = server.seen();
    let alert: Value = serde_json::from_str(&seen[0].body).unwrap();
    assert_eq!((seen[0].path.as_str(), &alert["alert"]), ("/alerts", &json!("BACKLOG")));
    assert_eq!((&alert["consumerGroup"], &alert["threshold"]), (&json!(group.name()), &json!(300)));
    let ask: Value = serde_json::from_str(&seen[1].body).unwrap();
    assert_eq!((seen[1].path.as_str(), &ask["wanted"]), ("/scale", &json!(3)));
    let started = Instant::now();
    while std::fs::read_to_string(&file).unwrap_or_default() != format!("{} 3\n", group.name()) {
        assert!(started.elapsed() < DEADLINE);
        tokio::time::sleep(WAIT).await;
    }
    child.kill().await.unwrap();
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backlog_of_any_group_is_read_on_apache() {
    let Some(apache) = crate::support::servers::rocketmq::apache().await else { return };
    let which = EitherBroker::Apache(apache);
    let (group, topic) = (which.name("somebody"), which.name("BACKLOG"));
    let bench = which.bench(|_| ()).await;
    let topics = bench.topics(&[&topic]).await;
    behind(&bench, &group, &topics).await;
    is_read(&bench, &group).await;
    bench.stop().await;
}
