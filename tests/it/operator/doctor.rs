//! `ruyi doctor`: each kind of finding, provoked.

use std::time::{Duration, Instant};

use ruyi::db::migrate;
use serde_json::Value;
use sqlx::{AnyConnection, Connection};
use tokio::net::TcpListener;

use crate::support::operators::Operator;
use crate::support::servers::java::Java;
use crate::support::servers::redis::{redis, redis_with};
use crate::support::servers::rocketmq::{Cluster, ClusterPlan, apache};
use crate::support::servers::{mariadb_url, unique};

const BANK: &str = r#"payment.channels.bank={kind="http",secret="b",endpoint="https://bank.example"}"#;

/// The exit code, and the findings.
async fn doctor(operator: &Operator, args: &[&str]) -> (i32, Vec<Value>) {
    let (code, items, stderr) = operator.items_and_code(&[&["doctor"], args].concat()).await;
    assert!(!items.is_empty(), "{stderr}");
    for item in &items {
        let bad = item["severity"] == "error" || item["severity"] == "warning";
        assert!(!bad || item["fix"].is_string(), "nothing to do about it: {item}");
    }
    (code, items)
}

/// "severity check subject" of those about which `of` says so.
fn told(items: &[Value], of: impl Fn(&Value) -> bool) -> Vec<String> {
    let text = |item: &Value, name: &str| item[name].as_str().unwrap().to_owned();
    items
        .iter()
        .filter(|item| of(item))
        .map(|item| format!("{} {} {}", text(item, "severity"), text(item, "check"), text(item, "subject")))
        .collect()
}

/// "severity subject" of one kind, sorted.
fn of_kind(items: &[Value], check: &str) -> Vec<String> {
    let mut all: Vec<String> =
        told(items, |item| item["check"] == check).iter().map(|line| line.replace(&format!(" {check}"), "")).collect();
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_are_dangerous_together() {
    let only = ["--only", "config"];
    let (code, items) = doctor(&Operator::with(&[]), &only).await;
    assert_eq!((code, of_kind(&items, "config.retention")), (0, vec!["ok retention.inbox".to_owned()]), "{items:?}");
    for (sets, code, wanted) in [
        (&["warehouse.endpoint=http://warehouse.example"][..], 1, "error config.secret warehouse.secret"),
        (&["warehouse.endpoint=http://warehouse.example"], 1, "warning config.plaintext warehouse.endpoint"),
        (&["mq.namesrv=127.0.0.1:1"], 0, "warning config.secret payment.channels.sandbox.secret"),
        (&["mq.namesrv=127.0.0.1:1"], 0, "warning config.sandbox sandbox.enabled"),
        (&[BANK, "sandbox.beside_channels=true"], 0, "warning config.sandbox sandbox.beside_channels"),
        (&["mq.namesrv=127.0.0.1:1"], 0, "info config.alerts alerts.webhook"),
        (&["mq.namesrv=127.0.0.1:1"], 0, "info config.database database.url"),
        (&["http.all=0.0.0.0:8080"], 1, "error config.exposed http.all"),
        (&["retention.inbox=1d"], 1, "error config.retention retention.inbox"),
        (&["mq.enabled=false"], 0, "info config.broker mq.enabled"),
        (&["mq.tls=true", "mq.tls_verify=false"], 0, "warning config.plaintext mq.tls_verify"),
        (&["cache.url=redis://:p@cache.example:6379"], 0, "warning config.plaintext cache.url"),
        (&["mq.enabled=false", "database.url=mysql://a:b@db.example/r"], 0, "warning config.broker mq.enabled"),
        (&["database.roles.stock=mysql://a:b@db.example/r"], 0, "warning config.plaintext database.roles.stock"),
        (&["client.key=k", "client.order=http://orders.example"], 0, "warning config.plaintext client.order"),
    ] {
        let (got, items) = doctor(&Operator::with(sets), &only).await;
        assert!(told(&items, |_| true).contains(&wanted.to_owned()), "{wanted}: {items:#?}");
        assert_eq!(got, code, "{sets:?}: {items:#?}");
    }
    let refused = Operator::with(&[]).refuses(&["doctor", "--only", "everything"], 2).await;
    assert!(refused.contains("possible values: config, database"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_with_missing_or_unknown_migrations_is_named() {
    let operator = Operator::with(&[]);
    let only = ["--only", "database,clock"];
    let file = operator.data_dir().join("ruyi.db");
    let (code, items) = doctor(&operator, &only).await;
    assert_eq!((code, told(&items, |_| true).len(), items[0]["severity"].as_str()), (0, 1, Some("info")));
    assert!(!file.exists(), "a look makes no file");
    std::fs::create_dir_all(operator.data_dir()).unwrap();
    std::fs::write(&file, b"").unwrap();
    let (code, items) = doctor(&operator, &only).await;
    assert_eq!(
        (code, items[0]["check"].as_str(), items[0]["severity"].as_str()),
        (0, Some("database.schema"), Some("warning"))
    );
    let url = format!("sqlite://{}", file.display());
    migrate::run(&url).await.unwrap();
    let (code, items) = doctor(&operator, &only).await;
    let kinds = told(&items, |item| item["severity"] == "ok").len();
    assert_eq!((code, kinds, items.len()), (0, 3, 3), "{items:#?}");
    let mut conn = AnyConnection::connect(&url).await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations (version, description, installed_on, success, checksum, execution_time) \
                 SELECT 9999, 'later', installed_on, success, checksum, 0 FROM _sqlx_migrations LIMIT 1";
    sqlx::raw_sql(newer).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    let (code, items) = doctor(&operator, &only).await;
    assert_eq!(
        (code, items[0]["check"].as_str(), items[0]["severity"].as_str()),
        (1, Some("database.newer"), Some("error"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_server_that_cannot_be_used() {
    let Some(url) = mariadb_url().await else { return };
    let only = ["--only", "database,clock"];
    let at = |url: &str, more: &[&str]| {
        let url = format!("database.url={url}");
        Operator::with(&[&[url.as_str()], more].concat())
    };
    let (code, items) = doctor(&at("mysql://root:secret@127.0.0.1:1/r", &[]), &only).await;
    assert_eq!((code, of_kind(&items, "database.connect").len()), (1, 1), "{items:#?}");
    assert!(!items[0].to_string().contains("secret"), "{items:?}");
    let (code, items) = doctor(&at(&url, &[]), &only).await;
    assert_eq!((code, of_kind(&items, "database.schema")), (1, vec![format!("error {url}")]), "{items:#?}");
    migrate::run(&url).await.unwrap();
    let (code, items) = doctor(&at(&url, &[]), &only).await;
    // The server of these tests writes its log to the disk once a second.
    let wanted = [
        "ok database.schema",
        "ok database.connect",
        "ok clock.skew",
        "ok database.permission",
        "warning database.durability",
    ];
    assert_eq!((code, told(&items, |_| true)), (0, wanted.map(|kind| format!("{kind} {url}")).to_vec()));
    let (code, items) =
        doctor(&at(&url, &["mq.producer.max_message=1GiB", "database.max_connections=100000"]), &only).await;
    let errors = told(&items, |item| item["severity"] == "error");
    assert_eq!(
        (code, errors),
        (1, vec![format!("error database.packet {url}"), format!("error database.connections {url}")])
    );

    // Somebody who may only read, and whose server is years behind.
    let (root, name) = url.rsplit_once('/').unwrap();
    let mut conn = AnyConnection::connect(&url).await.unwrap();
    for text in [
        "CREATE USER onlooker@'%' IDENTIFIED BY 'see'".to_owned(),
        format!("GRANT SELECT ON {name}.* TO onlooker@'%'"),
        // For those without the rights of root only.
        "SET GLOBAL init_connect = 'SET timestamp = 1000000000'".to_owned(),
    ] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&mut conn).await.unwrap();
    }
    let onlooker = url.replace("root@", "onlooker:see@");
    let (code, items) = doctor(&at(&onlooker, &[]), &only).await;
    sqlx::raw_sql("SET GLOBAL init_connect = ''").execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    let shown = format!("{}/{name}", root.replace("root@", "onlooker:********@"));
    let mut errors = told(&items, |item| item["severity"] == "error");
    errors.sort();
    assert_eq!(
        (code, errors),
        (1, vec![format!("error clock.skew {shown}"), format!("error database.permission {shown}")])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_never_an_error() {
    let only = ["--only", "redis"];
    let at = |url: &str| Operator::with(&[&format!("cache.url={url}"), "cache.timeout=30s"]);
    let (code, items) = doctor(&Operator::with(&[]), &only).await;
    assert_eq!((code, told(&items, |_| true)), (0, vec!["info redis.none cache.url".to_owned()]));
    let (code, items) = doctor(&at("redis://127.0.0.1:1"), &only).await;
    assert_eq!((code, of_kind(&items, "redis.connect")), (0, vec!["warning redis://127.0.0.1:1".to_owned()]));
    let Some(plain) = redis().await else { return };
    let (code, items) = doctor(&at(&plain.url()), &only).await;
    assert_eq!((code, told(&items, |_| true)), (0, vec![format!("ok redis.connect {}", plain.url())]));
    plain.ask("ACL SETUSER other on >pw ~other:* +@all").await.unwrap();
    let other = plain.url().replace("redis://", "redis://other:pw@");
    let (code, items) = doctor(&at(&other), &only).await;
    assert_eq!((code, of_kind(&items, "redis.permission").len()), (0, 1), "{items:#?}");
    let full = redis_with(&["--maxmemory", "2mb"]).await.unwrap();
    full.ask("REPLICAOF 127.0.0.1 1").await.unwrap();
    let (code, items) = doctor(&at(&full.url()), &only).await;
    let warnings = told(&items, |item| item["severity"] == "warning");
    let wanted = ["redis.replica", "redis.eviction"].map(|kind| format!("warning {kind} {}", full.url()));
    assert_eq!((code, warnings), (0, wanted.to_vec()), "{items:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_broker_the_rest_is_looked_at() {
    let (code, items) = doctor(&Operator::new("127.0.0.1:1"), &[]).await;
    assert_eq!((code, of_kind(&items, "broker.connect")), (1, vec!["error 127.0.0.1:1".to_owned()]));
    assert_eq!(of_kind(&items, "redis.none").len() + of_kind(&items, "database.schema").len(), 2, "{items:#?}");
    let (code, items) = doctor(&Operator::with(&[]), &["--only", "broker"]).await;
    assert_eq!((code, told(&items, |_| true)), (0, vec!["warning broker.none mq.namesrv".to_owned()]));
    // It takes connections and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((socket, _)) = listener.accept().await {
            open.push(socket);
        }
    });
    let started = Instant::now();
    let (code, items) = doctor(&Operator::new(&addr), &["--timeout", "500ms"]).await;
    assert_eq!((code, of_kind(&items, "broker.late")), (1, vec!["error cluster".to_owned()]));
    assert!(started.elapsed() < Duration::from_secs(60));
}

/// A cluster that is wrong in every way that its operator can make it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_cluster_is_told() {
    let Some(java) = Java::compile() else { return };
    let conf =
        "timerMaxDelaySec=600\nmessageDelayLevel=1s 2s\nautoCreateSubscriptionGroup=false\nfileReservedTime=1000\n";
    let Some(cluster) = Cluster::start(ClusterPlan::pair().broker_conf(conf)).await else { return };
    let namesrv = format!("{};127.0.0.1:1", cluster.namesrv());
    let operator = Operator::with(&[
        &format!("mq.namesrv={namesrv}"),
        "order.timeout.via=broker",
        "mq.topics.ORDER_CANCELED=order-canceled",
    ]);
    let only = ["--only", "broker,topic,group,dlq,clock,config", "--timeout", "60s"];
    let (code, items) = doctor(&operator, &only).await;
    assert_eq!((code, of_kind(&items, "topic.none")), (1, vec!["info topics".to_owned()]), "{items:#?}");
    assert_eq!(of_kind(&items, "broker.namesrv"), [format!("warning {namesrv}")]);
    let labels = ["a", "b"].map(|name| format!("{name} ({})", cluster.broker_addr(name)));
    let both = |severity: &str| labels.clone().map(|label| format!("{severity} {label}"));
    assert_eq!(of_kind(&items, "broker.delay"), both("error"));
    assert_eq!(of_kind(&items, "broker.levels"), both("warning"));
    assert_eq!(of_kind(&items, "broker.answers"), both("ok"));
    assert_eq!(of_kind(&items, "clock.skew"), both("ok"), "its time is known by how long it has run");
    assert_eq!(of_kind(&items, "config.retention"), ["error retention.inbox"]);

    let mut services = java.start("Operate", &[&cluster.namesrv()]);
    let (a, b) = (cluster.broker_addr("a"), cluster.broker_addr("b"));
    let mut lines = Vec::new();
    for (topic, on_a, on_b) in [
        ("ORDER_CREATED", "4 4 6", "8 8 6"),
        ("STOCK_FROZEN", "2 4 6", "2 4 6"),
        ("PAYMENT_SUCCESS", "4 4 6", "4 4 4"),
        ("order-canceled", "4 4 6 FIFO", "4 4 6 FIFO"),
        ("%DLQ%java-group", "1 1 2", "1 1 6"),
        ("%DLQ%other-group", "1 1 6", "1 1 6"),
    ] {
        lines.extend([format!("on {a} {topic} {on_a}"), format!("on {b} {topic} {on_b}")]);
    }
    lines.push(format!("group {a} stock-consumer-group"));
    lines.push(format!("set {b} brokerPermission 4"));
    services.give(&lines);
    services.until(&format!("set {b} brokerPermission")).await;
    // The name servers hear of topics a moment later.
    let deadline = Instant::now() + Duration::from_secs(120);
    let (code, items) = loop {
        let (code, items) = doctor(&operator, &only).await;
        if of_kind(&items, "dlq.unreadable").len() == 1 && of_kind(&items, "topic.type").len() == 1 {
            break (code, items);
        }
        assert!(Instant::now() < deadline, "{items:#?}");
    };
    assert_eq!(code, 1);
    assert_eq!(of_kind(&items, "topic.queues"), ["warning ORDER_CREATED"]);
    assert_eq!(of_kind(&items, "topic.unread"), ["error STOCK_FROZEN"]);
    assert_eq!(of_kind(&items, "topic.permission"), ["error PAYMENT_SUCCESS"]);
    assert_eq!(of_kind(&items, "topic.type"), ["warning order-canceled"]);
    assert!(of_kind(&items, "topic.missing").contains(&"error REFUND_SUCCESS".to_owned()), "{items:#?}");
    assert_eq!(of_kind(&items, "dlq.unreadable"), ["error %DLQ%java-group"]);
    assert_eq!(of_kind(&items, "group.missing"), ["error groups"]);
    assert_eq!(of_kind(&items, "group.offline"), ["info groups"]);
    assert_eq!(of_kind(&items, "broker.refuses"), [format!("error {}", labels[1])]);

    drop(services);
    cluster.freeze_broker("b");
    let (code, items) = doctor(&operator, &only).await;
    let silent = format!("error {}", labels[1]);
    assert!(code == 1 && of_kind(&items, "broker.answers").contains(&silent), "{items:#?}");
    assert_eq!(of_kind(&items, "dlq.unreadable"), ["error %DLQ%java-group"], "the other one was looked at");
    let output = operator.run(&["check", "broker", "--timeout", "60s"]).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with("BROKER WARNING - b (") && text.contains("'brokers'=1;2:;1:;0"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn differing_or_idle_java_members_show_on_rocketmq() {
    let (Some(java), Some(apache)) = (Java::compile(), apache().await) else { return };
    let (topic, differ, same) = (unique("DOCTORED"), unique("java-differ"), unique("java-same"));
    let mut services = java.start("Operate", &[&apache.namesrv()]);
    services.give(&[format!("topic {topic} 1")]);
    services.until(&format!("topic {topic}")).await;
    for (group, filter, number) in [(&differ, "A", 1), (&differ, "B", 2), (&same, "A||B", 1), (&same, "B||A", 2)] {
        services.give(&[format!("consume {group} {topic} {filter} {number}")]);
        services.until(&format!("up {group} {number}")).await;
    }
    let operator = Operator::new(&apache.namesrv());
    let about = |items: &[Value], group: &str| told(items, |item| item["subject"] == group);
    let deadline = Instant::now() + Duration::from_secs(120);
    let (code, items) = loop {
        let (code, items) = doctor(&operator, &["--only", "group", "--timeout", "60s"]).await;
        if about(&items, &differ).len() == 2 && about(&items, &same).len() == 2 {
            break (code, items);
        }
        assert!(Instant::now() < deadline, "{items:#?}");
    };
    assert_eq!(code, 1);
    let wanted = |severity: &str, group: &str| {
        let mut lines = vec![format!("{severity} group.subscription {group}"), format!("warning group.idle {group}")];
        lines.sort();
        lines
    };
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    assert_eq!(sorted(about(&items, &differ)), wanted("error", &differ), "{items:#?}");
    assert_eq!(sorted(about(&items, &same)), wanted("ok", &same), "{items:#?}");
    let finding = items.iter().find(|item| item["subject"] == differ.as_str() && item["severity"] == "error").unwrap();
    let seen = finding["evidence"].as_str().unwrap();
    assert!(seen.contains(&format!("{topic} [A]")) && seen.contains(&format!("{topic} [B]")), "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_ruyi_on_the_embedded_broker_is_well() {
    let operator = Operator::with(&["mq.embedded.namesrv_port=0", "mq.embedded.broker_port=0", "http.all=127.0.0.1:0"]);
    let mut broker = operator.embedded_broker().await;
    let (code, items) = doctor(&operator, &[]).await;
    assert_eq!((code, of_kind(&items, "topic.none")), (0, vec!["info topics".to_owned()]), "{items:#?}");
    assert_eq!(told(&items, |item| item["severity"] == "error"), Vec::<String>::new());
    let text = operator.run(&["doctor", "--output", "table"]).await;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.lines().last().unwrap().starts_with("0 errors, "), "{text}");
    // Waits for its end: until then it holds the data directory.
    broker.kill().await.unwrap();

    std::fs::remove_file(operator.data_dir().join("broker.addr")).unwrap();
    let mut command = operator.command(&["serve", "all"]);
    let mut shop = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    let items = loop {
        let (code, items) = doctor(&operator, &["--timeout", "60s"]).await;
        // Every group has its member, and every topic is there.
        let alive = of_kind(&items, "group.subscription").len() >= 10;
        if code == 0 && alive && of_kind(&items, "group.offline").is_empty() {
            break items;
        }
        assert_eq!(shop.try_wait().unwrap(), None, "it has ended");
        assert!(Instant::now() < deadline, "{items:#?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    assert_eq!(told(&items, |item| item["severity"] == "warning"), Vec::<String>::new(), "{items:#?}");
    assert!(of_kind(&items, "topic.missing").is_empty() && of_kind(&items, "group.missing").is_empty(), "{items:#?}");
}
