//! The broker goes away and comes back: orders go on where their handlers are, nothing is refused, and nothing happens
//! twice.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::Method;
use ruyi::config::{Config, Sources};
use ruyi::db::Db;
use ruyi::db::sql::{self, Columns};
use ruyi::domain::event::{Group, Role};
use ruyi::mq::rocketmq::{RocketMq, RocketMqConfig};
use ruyi::mq::runtime::MqRuntime;
use ruyi::process::{Plan, Process, Work};
use serde_json::{Value, json};

use crate::support::crashed_process::{CrashedProcess, eventually};
use crate::support::servers::child::{free_port, free_ports};
use crate::support::shoppers::{ends, fill, pay, place, script};

/// A name server and a broker in a process of their own, on ports that stay the same.
struct FarBroker {
    dir: tempfile::TempDir,
    ports: [u16; 2],
    child: Option<Child>,
}

impl FarBroker {
    /// Ports, and nobody there yet.
    fn absent() -> Self {
        // The broker takes one port above its own and two below as well.
        let ports = [free_port(), free_ports(4) + 2];
        Self { dir: tempfile::tempdir().unwrap(), ports, child: None }
    }

    fn started() -> Self {
        let mut broker = Self::absent();
        broker.start();
        broker
    }

    fn namesrv(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    fn start(&mut self) {
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ruyi"));
        command.current_dir(self.dir.path()).args(["mq", "broker"]);
        for setting in [
            format!("data_dir={}", self.dir.path().display()),
            format!("mq.embedded.namesrv_port={}", self.ports[0]),
            format!("mq.embedded.broker_port={}", self.ports[1]),
        ] {
            command.args(["--set", &setting]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for FarBroker {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn told(process: &CrashedProcess) -> String {
    let url = format!("{}/readyz", process.serving().await);
    match reqwest::get(url).await {
        Ok(answer) => {
            let text = answer.text().await.unwrap_or_default();
            serde_json::from_str::<Value>(&text).map_or(text, |body| {
                format!(
                    "{}: {}",
                    body["status"].as_str().unwrap_or(""),
                    body["checks"]["broker"].as_str().unwrap_or("")
                )
            })
        }
        Err(error) => error.to_string(),
    }
}

async fn until_told(process: &CrashedProcess, what: &str) {
    eventually(&format!("/readyz tells {what:?}"), || async { told(process).await.contains(what).then_some(()) }).await;
}

/// Every copy that the broker has was taken by the groups, and dropped where it was one too many.
async fn nothing_is_left_with(broker: &FarBroker) {
    let runtime = MqRuntime::start("far-test").unwrap();
    let config = RocketMqConfig { namesrv: broker.namesrv(), ..RocketMqConfig::default() };
    let mq = RocketMq::connect(config, &runtime).await.unwrap();
    for group in [Group::Stock, Group::Order, Group::Payment, Group::Points] {
        let topics: Vec<String> = group.events().map(|kind| kind.name().to_owned()).collect();
        eventually(&format!("{} has taken everything", group.name()), || async {
            let lag = mq.lag(group.name(), &topics).await.ok()?;
            (!lag.is_empty() && lag.iter().all(|(_, lag)| lag.lag().unwrap_or(0) == 0)).then_some(())
        })
        .await;
    }
    mq.shutdown().await;
    runtime.shutdown(Duration::from_secs(10)).await;
}

/// Nobody was told to come back later.
async fn nothing_was_refused(process: &CrashedProcess) {
    let url = format!("{}/metrics", process.serving().await);
    let text = reqwest::get(url).await.unwrap().text().await.unwrap();
    let failed = |line: &&str| line.starts_with("ruyi_http_requests_total") && line.contains("status=\"5");
    assert_eq!(text.lines().filter(failed).collect::<Vec<_>>(), Vec::<&str>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_go_on_without_broker_and_late_copies_drop() {
    let mut broker = FarBroker::started();
    let namesrv = format!("mq.namesrv={}", broker.namesrv());
    let process = CrashedProcess::start(&[&namesrv, "mq.degrade_after=1s"], &[]).await;
    fill(&process).await;
    process.send(Method::PUT, "/products/C3", &json!({"name": "Cup", "price": 5})).await;
    process.send(Method::PUT, "/stock/C3", &json!({"available": 10})).await;
    let item = json!({"userId": "9", "items": [{"sku": "C3", "quantity": 1}]});
    until_told(&process, "ready: ok").await;
    let before = place(&process, "before", &item).await;
    pay(&process, &before).await;
    ends(&process, &before, "SIGNED").await;
    // All of it was handled: what the broker has and nobody has read would wait until it is back.
    process.audit().await;

    broker.kill();
    let during = place(&process, "during", &item).await;
    until_told(&process, "ready: away: degraded").await;
    pay(&process, &during).await;
    ends(&process, &during, "SIGNED").await;
    // An order of every kind: paid, canceled, refunded, sold out.
    script(&process).await;
    nothing_was_refused(&process).await;

    // The process dies, and starts while nobody answers.
    let survivor = place(&process, "survivor", &item).await;
    process.signal("KILL");
    eventually("it has ended", || async { (process.exits() == 1).then_some(()) }).await;
    pay(&process, &survivor).await;
    ends(&process, &survivor, "SIGNED").await;
    until_told(&process, "ready: away: degraded").await;

    broker.start();
    until_told(&process, "ready: ok").await;
    process.audit().await;
    let after = place(&process, "after", &item).await;
    pay(&process, &after).await;
    ends(&process, &after, "SIGNED").await;
    nothing_is_left_with(&broker).await;
    process.audit().await;
    let stock = process.get("/stock/C3").await;
    assert_eq!(stock, json!({"sku": "C3", "available": 6, "frozen": 0, "sold": 4}));
    nothing_was_refused(&process).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broker_that_comes_and_goes_loses_and_doubles_nothing() {
    let mut broker = FarBroker::started();
    let namesrv = format!("mq.namesrv={}", broker.namesrv());
    let process = CrashedProcess::start(&[&namesrv, "mq.degrade_after=300ms"], &[]).await;
    fill(&process).await;
    let item = json!({"userId": "9", "items": [{"sku": "A1", "quantity": 1}]});
    let mut orders = Vec::new();
    for round in 0..3 {
        broker.kill();
        for each in 0..5 {
            let order = place(&process, &format!("away{round}-{each}"), &item).await;
            if round > 0 || each > 2 {
                pay(&process, &order).await;
            }
            orders.push(order);
        }
        broker.start();
        for each in 0..5 {
            orders.push(place(&process, &format!("back{round}-{each}"), &item).await);
        }
        until_told(&process, "ready: ok").await;
    }
    for order in &orders {
        pay_once(&process, order).await;
        ends(&process, order, "SIGNED").await;
    }
    process.audit().await;
    let stock = process.get("/stock/A1").await;
    assert_eq!(stock, json!({"sku": "A1", "available": 100_000 - orders.len(), "frozen": 0, "sold": orders.len()}));
    nothing_is_left_with(&broker).await;
    nothing_was_refused(&process).await;
    process.stop().await;
}

/// Pays an order that is perhaps paid already.
async fn pay_once(process: &CrashedProcess, order: &str) {
    let path = format!("/payments/{order}/pay");
    eventually("it is paid", || async {
        let (status, _) = process.request(Method::POST, &path, &[], Some(b"{}")).await;
        (status.as_u16() != 404).then_some(())
    })
    .await;
}

async fn process(namesrv: &str, dir: &Path, role: Role) -> Process {
    let sets = [
        format!("data_dir={}", dir.join(role.name()).display()),
        format!("mq.namesrv={namesrv}"),
        "mq.degrade_after=200ms".to_owned(),
        "mq.outbox.sweep_interval=100ms".to_owned(),
        "mq.outbox.max_attempts=1".to_owned(),
    ];
    let config = Config::load(&Sources { sets: sets.to_vec(), ..Sources::default() }).unwrap();
    let plan = Plan::new(&[role], Work::SERVE, Some("127.0.0.1:0".parse().unwrap()));
    Process::start(&config, plan).await.unwrap()
}

async fn outbox(db: &Db) -> Vec<(i64, i64, i64)> {
    let mut conn = db.read().await.unwrap();
    let text = "SELECT status, attempts, next_at FROM message_record ORDER BY id";
    let rows = sql::fetch(&mut conn, text, vec![]).await.unwrap();
    let row =
        |row: &sqlx::any::AnyRow| (row.int(0).unwrap(), row.int(1).unwrap(), row.maybe_int(2).unwrap().unwrap_or(0));
    rows.iter().map(row).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_started_without_broker_wait_for_each_other() {
    let mut broker = FarBroker::absent();
    let dir = tempfile::tempdir().unwrap();
    // Their databases differ, so that only a broker can bring them together.
    let order = process(&broker.namesrv(), dir.path(), Role::Order).await;
    let stock = process(&broker.namesrv(), dir.path(), Role::Stock).await;
    let client = reqwest::Client::new();
    let put = |url: String, body: Value| client.put(url).json(&body).send();
    put(format!("{}/products/A1", order.base_url()), json!({"name": "Tea", "price": 3})).await.unwrap();
    put(format!("{}/stock/A1", stock.base_url()), json!({"available": 5})).await.unwrap();
    let wish = json!({"userId": "9", "items": [{"sku": "A1", "quantity": 1}]});
    let answer = client.post(format!("{}/orders", order.base_url())).json(&wish).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let id = answer.json::<Value>().await.unwrap()["orderId"].as_str().unwrap().to_owned();
    let status = || async {
        let answer = client.get(format!("{}/orders/{id}", order.base_url())).send().await.unwrap();
        answer.json::<Value>().await.unwrap()["status"].as_str().unwrap().to_owned()
    };
    let db = order.db_of(Role::Order).unwrap().clone();
    // Nobody here handles it: it is put aside, and no attempt is counted, though one is all that it has.
    eventually("the events are held", || async {
        let rows = outbox(&db).await;
        // ORDER_CREATED and ORDER_DATA_SYNC.
        (rows == [(0, 0, ruyi::db::outbox::HELD); 2]).then_some(())
    })
    .await;
    assert_eq!(status().await, "CREATED");

    broker.start();
    eventually("the stock is frozen", || async { (status().await == "RESERVED").then_some(()) }).await;
    order.stop().await.unwrap();
    stock.stop().await.unwrap();
}
