//! `ruyi check`: the line, the performance data, the exit codes.

use std::time::{Duration, Instant};

use ruyi::clock::Clock;
use ruyi::db::delivery::{self, Attempt, Delivery, Kind, Status};
use ruyi::db::outbox::{self, Failure, OutboxRow};
use ruyi::db::retry::{self, Parked};
use ruyi::db::{Db, Options, migrate};
use ruyi::domain::id::first_id_of;
use ruyi::fault::Faults;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::message_rows::outbox_row;
use crate::support::operators::{Operator, masked};
use crate::support::servers::java::{Java, Program};
use crate::support::servers::rocketmq::apache;
use crate::support::servers::{unique, write_tx};

/// What it prints, and its exit code.
async fn check(operator: &Operator, args: &[&str]) -> (i32, String) {
    let output = operator.run(&[&["check"], args].concat()).await;
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

/// Checks until it says `wanted`.
async fn until(operator: &Operator, args: &[&str], wanted: &str) -> (i32, String) {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let (code, text) = check(operator, args).await;
        if text.contains(wanted) {
            return (code, text);
        }
        assert!(Instant::now() < deadline, "not {wanted:?}: {text}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_found_out_is_unknown() {
    let away = Operator::new("127.0.0.1:1");
    for (args, code, begins) in [
        (&["backlog", "--warn", "20:10"][..], 3, "CHECK UNKNOWN - wrong usage: invalid value '20:10'"),
        (&["nonsense"], 3, "CHECK UNKNOWN - wrong usage: unrecognized subcommand 'nonsense'"),
        (&["backlog"], 3, "BACKLOG UNKNOWN - the cluster at 127.0.0.1:1 cannot be read"),
        (&["dlq"], 3, "DLQ UNKNOWN - the cluster at 127.0.0.1:1 cannot be read"),
        (&["broker"], 2, "BROKER CRITICAL - the cluster at 127.0.0.1:1 cannot be read"),
        (&["outbox"], 3, "OUTBOX UNKNOWN - "),
        (&["retry", "--group", "nobody"], 3, "RETRY UNKNOWN - nobody is not a group of ruyi"),
        (&["delivery"], 3, "DELIVERY UNKNOWN - "),
        (&["outbox", "--set", "mq.queues=none"], 3, "OUTBOX UNKNOWN - "),
    ] {
        let (got, text) = check(&away, args).await;
        assert!(got == code && text.starts_with(begins), "{args:?}: {got}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    assert!(!away.data_dir().join("ruyi.db").exists(), "a look makes no database");
    let (code, text) = check(&away, &["--help"]).await;
    assert!(code == 0 && text.contains("Exit codes: 0 OK"), "{text}");
    // Another command that is asked for wrongly keeps its code.
    away.refuses(&["mq", "messages", "send", "check"], 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_hangs_is_given_up() {
    // It takes connections and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((socket, _)) = listener.accept().await {
            open.push(socket);
        }
    });
    let operator = Operator::new(&addr);
    let started = Instant::now();
    let (code, text) = check(&operator, &["broker", "--timeout", "300ms"]).await;
    assert_eq!((code, text.as_str()), (3, "BROKER UNKNOWN - not done within 300ms\n"));
    assert!(started.elapsed() < Duration::from_secs(60));
}

/// Java services that have made a topic.
async fn services(java: &Java, namesrv: &str, topic: &str) -> Program {
    let mut services = java.start("Operate", &[namesrv]);
    services.give(&[format!("topic {topic} 2")]);
    services.until(&format!("topic {topic}")).await;
    services
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn java_group_that_is_behind_shows_on_rocketmq() {
    let (Some(java), Some(apache)) = (Java::compile(), apache().await) else { return };
    let (topic, group) = (unique("CHECKED"), unique("java-checked"));
    let mut services = services(java, &apache.namesrv(), &topic).await;
    services.give(&[format!("send {topic} 4 order"), format!("consume {group} {topic} *")]);
    services.until(&format!("got {group} ")).await;
    let operator = Operator::new(&apache.namesrv());
    let consumed = format!("'{group}'=0;");
    until(&operator, &["backlog", "--group", &group], &consumed).await;
    services.give(&[format!("stop {group}"), format!("send {topic} 7 later")]);
    services.until(&format!("sent {topic} 7")).await;
    let behind = |limits: &[&str]| {
        let args: Vec<String> =
            ["backlog", "--group", &group].iter().chain(limits).map(|arg| (*arg).to_owned()).collect();
        let operator = &operator;
        async move { check(operator, &args.iter().map(String::as_str).collect::<Vec<_>>()).await }
    };
    let line = |status: &str, said: &str, warn: &str, crit: &str| {
        format!("BACKLOG {status} - {said} | '{group}'=7;{warn};{crit};0\n")
    };
    let told = format!("{group} is 7 messages behind");
    assert_eq!(behind(&[]).await, (0, line("OK", "7 messages behind in 1 groups", "1000", "10000")));
    assert_eq!(behind(&["--warn", "5"]).await, (1, line("WARNING", &told, "5", "10000")));
    assert_eq!(behind(&["--warn", "5", "--crit", "@7:9"]).await, (2, line("CRITICAL", &told, "5", "@7:9")));
    assert_eq!(behind(&["--warn", "~:7", "--crit", "0:7"]).await.0, 0);
    let (code, text) = behind(&["--crit-age", "0"]).await;
    assert!(
        code == 2 && text.contains("the oldest message that") && text.contains(&format!("'{group} age'=")),
        "{text}"
    );
    let (code, text) = behind(&["--group", "nobody-at-all"]).await;
    assert!(code == 3 && text.starts_with("BACKLOG UNKNOWN - lag of nobody-at-all unknown"), "{text}");
    let (code, rows, _) = operator.items_and_code(&["check", "backlog", "--group", &group, "--warn", "5"]).await;
    assert_eq!(code, 1);
    let rows: Vec<Value> = rows.into_iter().map(|row| masked(row, &["name", "message"])).collect();
    insta::assert_json_snapshot!("check_backlog", rows);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_of_java_group_are_counted_on_rocketmq() {
    let (Some(java), Some(apache)) = (Java::compile(), apache().await) else { return };
    let (topic, group) = (unique("CHECKED"), unique("java-dies"));
    let mut services = services(java, &apache.namesrv(), &topic).await;
    services.give(&[format!("send {topic} 3 order"), format!("fail {group} {topic} *")]);
    let operator = Operator::new(&apache.namesrv());
    let dead = ["dlq", "--group", &group];
    let (code, text) = until(&operator, &dead, "=3;").await;
    let about = format!("{group} has 3 dead letters: `ruyi mq dlq browse {group}`");
    assert_eq!((code, text), (1, format!("DLQ WARNING - {about} | '{group}'=3;0;100;0\n")));
    let (code, text) = check(&operator, &["dlq", "--crit", "2"]).await;
    assert!(code == 2 && text.contains(&format!("'{group}'=3;0;2;0")), "{text}");
    let (code, text) = check(&operator, &[&dead[..], &["--since", "0s"]].concat()).await;
    assert_eq!((code, text), (0, format!("DLQ OK - 0 dead letters in 1 groups | '{group}'=0;0;100;0\n")));
    let (code, text) = check(&operator, &["dlq", "--group", "nobody-at-all"]).await;
    assert_eq!((code, text.as_str()), (3, "DLQ UNKNOWN - there is no group nobody-at-all\n"));
    let (code, text) = check(&operator, &["broker"]).await;
    assert_eq!(
        (code, text.as_str()),
        (0, "BROKER OK - 1 of 1 brokers answer and take messages | 'brokers'=1;1:;1:;0\n")
    );
    let (code, text) = check(&operator, &["broker", "--warn", "2:"]).await;
    assert_eq!((code, text.as_str()), (1, "BROKER WARNING - only 1 brokers are known | 'brokers'=1;2:;1:;0\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_embedded_broker_as_well() {
    let operator = Operator::with(&["mq.embedded.namesrv_port=0", "mq.embedded.broker_port=0"]);
    let broker = operator.embedded_broker().await;
    let (code, text) = check(&operator, &["broker"]).await;
    assert_eq!(
        (code, text.as_str()),
        (0, "BROKER OK - 1 of 1 brokers answer and take messages | 'brokers'=1;1:;1:;0\n")
    );
    let (code, text) = check(&operator, &["dlq"]).await;
    assert_eq!((code, text.as_str()), (0, "DLQ OK - 0 dead letters in 0 groups | 'all'=0;0;100;0\n"));
    let (code, text) = check(&operator, &["backlog"]).await;
    assert!(
        code == 3
            && text.starts_with(
                "BACKLOG UNKNOWN - lag of stock-consumer-group unknown: the cluster has no topic ORDER_CREATED"
            ),
        "{text}"
    );
    drop(broker);
}

fn row(id: i64) -> OutboxRow {
    OutboxRow { key: id.to_string(), ..outbox_row(id) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_and_lost_rows_are_told() {
    let operator = Operator::with(&[]);
    let url = format!("sqlite://{}", operator.data_dir().join("ruyi.db").display());
    migrate::run(&url).await.unwrap();
    // Two minutes ago, for whoever writes.
    let now_ms = Clock::system().now_ms() - 120_000;
    let clock = Clock::manual(now_ms);
    let db = Db::open(&Options { url, max_connections: 2, clock, faults: Faults::none() }).await.unwrap();
    for (args, line) in [
        ("outbox", "OUTBOX OK - 0 events wait, 0 were given up | 'age'=0s;60;300;0 'failed'=0;0;10;0\n"),
        (
            "delivery",
            "DELIVERY OK - 0 calls are due, 0 of the last 1d were given up | 'late'=0s;60;300;0 'failed'=0;0;100;0\n",
        ),
    ] {
        assert_eq!(check(&operator, &[args]).await, (0, line.to_owned()));
    }
    let (code, text) = check(&operator, &["retry"]).await;
    assert!(
        code == 0
            && text.starts_with("RETRY OK - 0 messages of 16 groups are parked | 'stock-consumer-group'=0;100;1000;0 "),
        "{text}"
    );

    let parked = Parked {
        id: 1,
        message_id: "1:E".into(),
        topic: "E".into(),
        tag: "E".into(),
        key: "k".into(),
        body: b"{}".to_vec(),
        properties: Vec::new(),
        blocks: true,
        attempts: 1,
        next_at: Some(now_ms),
        first_failed_at: now_ms,
        last_error: "no".into(),
    };
    let call = |id| Delivery {
        id,
        kind: Kind::Warehouse,
        reference: id.to_string(),
        order_id: 1,
        url: "http://127.0.0.1:1/".into(),
        body: "{}".into(),
        attempts: 0,
        next_at: now_ms,
        trace: None,
    };
    let ids = [first_id_of(now_ms, 1), first_id_of(now_ms, 2)];
    let calls = ids.map(call);
    let dead = Attempt {
        delivery_id: ids[1],
        attempt: 1,
        started_at: now_ms,
        duration_ms: 1,
        http_status: None,
        error: Some("no".into()),
        request: None,
        answer: None,
        status: Status::Dead,
        next_at: None,
        unanswered: 0,
    };
    let lost = Failure { id: 2, attempts: 16, next_at: None, error: "refused".into() };
    let written = write_tx!(db, [parked, calls, dead, lost], |tx| {
        outbox::insert(tx, &[row(1), row(2)], now_ms).await?;
        outbox::mark_failed(tx, vec![lost]).await?;
        retry::park(tx, "stock-consumer-group", &[parked], now_ms).await?;
        delivery::insert(tx, &calls).await?.all()?;
        delivery::record(tx, &[dead]).await
    });
    written.unwrap();
    db.close().await;

    let (code, text) = check(&operator, &["outbox"]).await;
    let first = text.lines().next().unwrap();
    assert!(code == 1 && first.starts_with("OUTBOX WARNING - ") && first.contains("(and 1 more) | 'age'=1"), "{text}");
    assert!(
        text.contains("WARNING: 1 events were given up") && text.contains("WARNING: the oldest of 1 unsent"),
        "{text}"
    );
    assert_eq!(check(&operator, &["outbox", "--crit", "60"]).await.0, 2);
    assert_eq!(check(&operator, &["outbox", "--warn", "100000", "--crit", "100000", "--warn-failed", "1"]).await.0, 0);
    let (code, text) = check(&operator, &["retry", "--group", "stock-consumer-group"]).await;
    assert!(
        code == 1 && text.contains("should have tried again") && text.contains("'stock-consumer-group'=1;100;1000;0"),
        "{text}"
    );
    let (code, text) = check(&operator, &["delivery", "--crit-failed", "0"]).await;
    assert!(
        code == 2
            && text.starts_with("DELIVERY CRITICAL - 1 calls of the last 1d were given up or refused (and 1 more)"),
        "{text}"
    );
    let (code, rows, _) = operator.items_and_code(&["check", "outbox"]).await;
    assert_eq!((code, rows.len(), &rows[1]["value"], &rows[0]["unit"]), (1, 2, &json!(1.0), &json!("s")));
}
