//! The runbook's last page: a database is lost, a backup is restored, and the brokers give back what came after it.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::shared_broker::{Listening, SharedBroker};
use crate::support::waiting::eventually;

const DEADLINE: Duration = Duration::from_secs(120);

/// The role's database files, as they are while nobody has them open.
const FILES: [&str; 3] = ["stock.db", "stock.db-wal", "stock.db-shm"];

fn copy(from: &Path, to: &Path) {
    for name in FILES {
        let _ = std::fs::remove_file(to.join(name));
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

/// Runs ruyi; its rows.
#[track_caller]
fn rows(shared: &SharedBroker, args: &[&str]) -> Vec<Value> {
    let done = shared.run(&[args, &["-o", "jsonl"]].concat());
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    let text = String::from_utf8(done.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

struct Shop {
    shared: SharedBroker,
    clients: Vec<String>,
}

impl Shop {
    /// `args` with where the roles listen.
    fn rows(&self, args: &[&str]) -> Vec<Value> {
        let sets: Vec<&str> = self.clients.iter().flat_map(|client| ["--set", client.as_str()]).collect();
        rows(&self.shared, &[args, &sets].concat())
    }

    /// What the audit finds; nothing else is going on, so everything is judged.
    fn audit(&self) -> String {
        let done = self.shared.run(&["audit", "--settle", "0s", "--bound", "1s", "-o", "jsonl"]);
        let found = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        if done.status.success() { String::new() } else { found }
    }

    /// The audit finds nothing but copies that are ahead of their source.
    fn is_whole_but_for_copies(&self) -> bool {
        let found = self.audit();
        let rows = found.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        rows.filter(|row| row["kind"] == "violation").all(|row| row["check"] == "copies")
    }

    /// Orders of `users` that are paid and go to their end, and one that is canceled.
    fn orders(&self, users: std::ops::Range<u32>) {
        let file = self.shared.dir().join("orders.jsonl");
        let line = |user| format!("{{\"userId\":\"{user}\",\"items\":[{{\"sku\":\"A1\",\"quantity\":2}}]}}\n");
        std::fs::write(&file, users.map(line).collect::<String>()).unwrap();
        let placed = self.rows(&["order", "create", file.to_str().unwrap()]);
        let ids: Vec<&str> = placed.iter().map(|row| row["orderId"].as_str().unwrap()).collect();
        let (canceled, paid) = ids.split_first().unwrap();
        self.rows(&["order", "cancel", canceled]);
        self.rows(&[&["payment", "pay"], paid].concat());
        self.rows(&[&["order", "wait", "--status", "SIGNED", "--timeout", "120s"], paid].concat());
    }
}

async fn serve(shared: &SharedBroker, role: &str) -> Listening {
    shared.listening(role, &["serve", role]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restored_database_gets_lost_events_from_the_brokers() {
    let shared = SharedBroker::start(&[]).await;
    let stock = serve(&shared, "stock").await;
    let (order, payment, notify) =
        (serve(&shared, "order").await, serve(&shared, "payment").await, serve(&shared, "notify").await);
    let clients = [("order", &order), ("payment", &payment), ("stock", &stock), ("notify", &notify)];
    let clients = clients.map(|(role, process)| format!("client.{role}={}", process.url)).to_vec();
    let shop = Shop { shared, clients };
    shop.rows(&["product", "set", "A1", "--name", "Tea", "--price", "3"]);
    shop.rows(&["stock", "set", "A1", "1000"]);
    shop.orders(1..6);
    let clean = || shop.audit().is_empty();
    eventually("all is well before the backup", async || clean()).await;

    stock.server.stop_with("TERM");
    let backup = tempfile::tempdir().unwrap();
    copy(shop.shared.dir(), backup.path());
    stock.server.start_again();
    shop.orders(6..14);
    eventually("all is well before the loss", async || clean()).await;

    stock.server.kill();
    copy(backup.path(), shop.shared.dir());
    assert!(!clean(), "the audit sees what is lost");
    // As docs/operations.md has it: each topic of the role's group back to before the backup, then the role again. What
    // it had handled before the backup it drops.
    let group = "stock-consumer-group";
    let topics = rows(&shop.shared, &["mq", "offsets", "lag", group]);
    assert!(topics.len() >= 3, "{topics:?}");
    for topic in &topics {
        let topic = topic["topic"].as_str().unwrap();
        let reset = ["mq", "offsets", "reset", group, "--topic", topic, "--to", "@-1h", "--force", "--yes"];
        rows(&shop.shared, &[&reset[..], &["--reason", "the backup is older"]].concat());
    }
    stock.server.start_again();
    let started = Instant::now();
    while !shop.is_whole_but_for_copies() {
        let lag = rows(&shop.shared, &["mq", "offsets", "show", group]);
        assert!(started.elapsed() < DEADLINE, "{}\n{lag:?}\n{}", shop.audit(), stock.server.log());
    }
    let level = shop.rows(&["stock", "get", "A1"]);
    // Two of each order that was not canceled: 4 before the backup, 7 after it.
    assert_eq!((&level[0]["available"], &level[0]["sold"]), (&Value::from(978), &Value::from(22)), "{level:?}");

    // The order role has heard of later versions than there are now, and hears of the level once these are stepped over.
    rows(&shop.shared, &["audit", "--repair", "--settle", "0s", "--bound", "1s", "--yes", "--reason", "a backup"]);
    let known = || shop.rows(&["product", "get", "A1"])[0]["available"] == 978;
    eventually("the order role knows the level", async || known()).await;
    eventually("all is well after the loss", async || clean()).await;
}
