//! Callers who order as fast as they are served, in this process or in one of their own, and what they are told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::{Client, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Connection, Row};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::support::clustered_roles::RoleCluster;
use crate::support::waiting::eventually_or_show;

const SKU: &str = "CROWD-1";
/// Whoever orders [`SKU`].
const USER: &str = "1";
/// How long a caller waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Before a caller whom nobody listens to tries again.
const PAUSE: Duration = Duration::from_millis(100);
/// After the cause of a fault has ended everything is as before within so long.
pub const RECOVERY: Duration = Duration::from_secs(15);
/// Holds the [`Errand`] of the process that [`in_their_own_process`] starts.
const ERRAND: &str = "RUYI_TEST_CALLERS";

/// As many pieces as anybody may want.
pub async fn stock_up(order: &str, stock: &str) {
    let client = Client::new();
    let product = json!({"name": "A piece", "price": "1.00", "currency": "CNY"});
    let level = json!({"available": 100_000_000});
    for (url, body) in [(format!("{order}/products/{SKU}"), product), (format!("{stock}/stock/{SKU}"), level)] {
        let answer = client.put(&url).json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{url}: {answer:?}");
    }
}

/// The body of an order.
fn one_piece() -> Value {
    json!({"userId": USER, "items": [{"sku": SKU, "quantity": 1}]})
}

/// What callers were told.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Told {
    /// The order of each key that was accepted.
    pub accepted: BTreeMap<String, String>,
    /// Keys that nobody sends any more: of each there may be an order that nobody was told of.
    pub given_up: BTreeSet<String>,
    /// How often a caller was told to come again.
    pub refused: usize,
    /// How often nobody answered in time.
    pub left: usize,
    /// Whatever else they were told.
    pub otherwise: Vec<String>,
}

impl Told {
    /// Takes in the orders of others.
    pub fn extend(&mut self, other: Self) {
        self.accepted.extend(other.accepted);
        self.given_up.extend(other.given_up);
    }

    /// Each accepted order is stored and is the only one of its key, and each other one has a key that was given up:
    /// the keys of these others.
    pub fn nobodys<'s>(&self, stored: &'s [(String, String)]) -> Vec<&'s str> {
        let order_of: BTreeMap<&str, &str> = stored.iter().map(|(key, order)| (key.as_str(), order.as_str())).collect();
        assert_eq!(order_of.len(), stored.len(), "a key has more than one order");
        for (key, order) in &self.accepted {
            assert_eq!(order_of.get(key.as_str()), Some(&order.as_str()), "{key}: what was accepted is stored");
        }
        let others: Vec<&str> = order_of.into_keys().filter(|key| !self.accepted.contains_key(*key)).collect();
        let unknown: Vec<&&str> = others.iter().filter(|key| !self.given_up.contains(**key)).collect();
        assert!(unknown.is_empty(), "stored orders that nobody has sent: {unknown:?}");
        others
    }
}

/// All orders in the database at `url`, with the keys that callers gave them.
pub async fn stored(url: &str) -> Vec<(String, String)> {
    sqlx::any::install_default_drivers();
    let mut conn = AnyConnection::connect(url).await.unwrap();
    let rows = sqlx::query("SELECT idempotency_key, id FROM orders").fetch_all(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    let order_of = |row: &AnyRow| (row.get::<Option<String>, _>(0), row.get::<i64, _>(1));
    rows.iter().map(order_of).map(|(key, order)| (key_of(key), order.to_string())).collect()
}

/// The key as it was sent: it is stored behind its user.
pub fn key_of(stored_key: Option<String>) -> String {
    let key = stored_key.unwrap_or_default();
    key.strip_prefix(&format!("{USER}:")).unwrap_or(&key).to_owned()
}

/// What has waited is handled in the end, and nothing is missing then.
pub async fn audit_finds_nothing(roles: &RoleCluster) {
    let found = Mutex::new(String::new());
    let show = || found.lock().unwrap().clone();
    eventually_or_show("the audit finds nothing", show, async || {
        let audit = roles.ruyi(&["audit", "--settle", "0s", "--output", "json"]).await;
        *found.lock().unwrap() = audit.text();
        audit.ok && audit.json()["ok"] == true
    })
    .await;
}

/// Callers who order one after the other, and come again when they are told to. Whoever gets no answer sends the same
/// key again, but for every other caller, who has left and wants another order next.
pub struct Callers {
    told: Arc<Mutex<Told>>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Callers {
    /// `name` makes their keys their own.
    pub fn start(name: &str, count: usize, url: &str) -> Self {
        Self::unhurried(name, count, url, Duration::ZERO)
    }

    /// Each of them waits for so long between two orders.
    pub fn unhurried(name: &str, count: usize, url: &str, pause: Duration) -> Self {
        let (told, stop) = (Arc::<Mutex<Told>>::default(), Arc::<AtomicBool>::default());
        let mut tasks = Vec::new();
        for number in 0..count {
            let caller = Caller {
                name: format!("{name}-{number}"),
                comes_back: number.is_multiple_of(2),
                addr: url.trim_start_matches("http://").to_owned(),
                pause,
                connection: None,
            };
            tasks.push(tokio::spawn(caller.orders(Arc::clone(&told), Arc::clone(&stop))));
        }
        Self { told, stop, tasks }
    }

    /// Orders so far.
    pub fn accepted(&self) -> usize {
        self.told.lock().unwrap().accepted.len()
    }

    pub async fn stop(self) -> Told {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
        Arc::into_inner(self.told).expect("the tasks have ended").into_inner().unwrap()
    }
}

/// What one call came to.
enum Answer {
    /// The id of the order.
    Accepted(String),
    /// In so many seconds.
    ComeAgain(u64),
    Other(String),
}

struct Caller {
    name: String,
    /// With the same key, after it got no answer.
    comes_back: bool,
    addr: String,
    pause: Duration,
    connection: Option<TcpStream>,
}

impl Caller {
    async fn orders(mut self, told: Arc<Mutex<Told>>, stop: Arc<AtomicBool>) {
        let mut number = 0;
        while !stop.load(Ordering::SeqCst) {
            let key = format!("{}-{number}", self.name);
            let answer = tokio::time::timeout(PATIENCE, self.call(&key)).await;
            let wait = match answer {
                Ok(Ok(Answer::Accepted(order))) => {
                    number += 1;
                    told.lock().unwrap().accepted.insert(key, order);
                    self.pause
                }
                Ok(Ok(Answer::ComeAgain(seconds))) => {
                    told.lock().unwrap().refused += 1;
                    Duration::from_secs(seconds)
                }
                Ok(Ok(Answer::Other(text))) => {
                    told.lock().unwrap().otherwise.push(text);
                    PAUSE
                }
                no_answer => {
                    self.connection = None;
                    let mut told = told.lock().unwrap();
                    told.left += 1;
                    if !self.comes_back {
                        number += 1;
                        told.given_up.insert(key);
                    }
                    // Who has waited in vain has waited enough.
                    if no_answer.is_err() { Duration::ZERO } else { PAUSE }
                }
            };
            // A timer that is due at once costs a millisecond all the same.
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
        }
        told.lock().unwrap().given_up.insert(format!("{}-{number}", self.name));
    }

    /// A client as small as this leaves the processors to whom it asks.
    async fn call(&mut self, key: &str) -> std::io::Result<Answer> {
        let (addr, body) = (&self.addr, one_piece().to_string());
        let length = body.len();
        let request = format!(
            "POST /orders HTTP/1.1\r\nhost: {addr}\r\nidempotency-key: {key}\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        let (head, body) = self.exchange(request.as_bytes()).await?;

        let order: Option<Value> = serde_json::from_str(&body).ok();
        let id = order.and_then(|order| order["orderId"].as_str().map(str::to_owned));
        Ok(match (head.split(' ').nth(1), id, field(&head, "retry-after")) {
            (Some("201"), Some(id), _) => Answer::Accepted(id),
            (Some("503"), _, Some(seconds)) => Answer::ComeAgain(seconds),
            _ => Answer::Other(format!("{} {body}", head.lines().next().unwrap_or_default())),
        })
    }

    /// The head of the answer, in lower case, and its body. The connection is kept where the answer lets it be.
    async fn exchange(&mut self, request: &[u8]) -> std::io::Result<(String, String)> {
        let broken = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let mut stream = match self.connection.take() {
            Some(stream) => stream,
            None => TcpStream::connect(&self.addr).await?,
        };
        stream.write_all(request).await?;
        let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let count = stream.read(&mut buffer).await?;
            bytes.extend_from_slice(buffer.get(..count).filter(|part| !part.is_empty()).ok_or_else(broken)?);
            let Some(end) = bytes.windows(4).position(|part| part == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length: usize = field(&head, "content-length").ok_or_else(broken)?;
            if bytes.len() == end + 4 + length {
                if field::<String>(&head, "connection").is_none_or(|word| word != "close") {
                    self.connection = Some(stream);
                }
                return Ok((head, String::from_utf8_lossy(&bytes[end + 4..]).into_owned()));
            }
        }
    }
}

/// A header of a head in lower case.
fn field<T: std::str::FromStr>(head: &str, name: &str) -> Option<T> {
    let line = head.lines().find(|line| line.split_once(':').is_some_and(|(field, _)| field == name))?;
    line.split_once(':')?.1.trim().parse().ok()
}

/// What a process of callers is to do.
#[derive(Serialize, Deserialize)]
struct Errand {
    name: String,
    count: usize,
    url: String,
    lasts: Duration,
    /// Where to write the [`Measured`].
    file: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Measured {
    /// Orders until it was time to stop.
    in_time: usize,
    told: Told,
}

/// Orders a second of so many callers, and what they were told. They have a process of their own, which takes of the
/// processors what all others leave: what is measured is not theirs.
pub async fn in_their_own_process(name: &str, count: usize, url: &str, lasts: Duration) -> (f64, Told) {
    let dir = tempfile::tempdir().unwrap();
    let (name, url) = (name.to_owned(), url.to_owned());
    let errand = Errand { name, count, url, lasts, file: dir.path().join("told.json") };
    let (_, module) = module_path!().split_once("::").expect("the crate and its module");
    let test = format!("{module}::callers_of_a_crowd");

    let mut nice = tokio::process::Command::new("nice");
    nice.args(["-n", "19"]).arg(std::env::current_exe().unwrap());
    nice.args(["--exact", &test, "--ignored", "--nocapture"]).env(ERRAND, serde_json::to_string(&errand).unwrap());
    let status = nice.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).status().await.unwrap();
    assert!(status.success(), "the callers {}: {status}", errand.name);

    let measured = std::fs::read(&errand.file).expect("the callers say what they were told");
    let Measured { in_time, told } = serde_json::from_slice(&measured).unwrap();
    (in_time as f64 / lasts.as_secs_f64(), told)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "crowds start it, in a process of its own"]
async fn callers_of_a_crowd() {
    let Ok(errand) = std::env::var(ERRAND) else { return };
    let errand: Errand = serde_json::from_str(&errand).unwrap();
    let callers = Callers::start(&errand.name, errand.count, &errand.url);
    tokio::time::sleep(errand.lasts).await;
    let in_time = callers.accepted();
    let measured = Measured { in_time, told: callers.stop().await };
    std::fs::write(&errand.file, serde_json::to_vec(&measured).unwrap()).unwrap();
}

/// How long it takes until three orders in a row are accepted, each within a second. They are among what was told then.
pub async fn recovery(name: &str, url: &str, told: &mut Told) -> Duration {
    let client = Client::builder().timeout(Duration::from_secs(1)).no_proxy().build().unwrap();
    let (started, mut number, mut row) = (Instant::now(), 0, 0);
    while row < 3 {
        assert!(started.elapsed() < RECOVERY, "{name}: orders are not accepted");
        let key = format!("{name}-{number}");
        match place(&client, url, &key).await {
            Some(order) => {
                told.accepted.insert(key, order);
                number += 1;
                row += 1;
            }
            None => row = 0,
        }
    }
    started.elapsed()
}

/// The order of `key`, if it is accepted.
pub async fn place(client: &Client, url: &str, key: &str) -> Option<String> {
    let request = client.post(format!("{url}/orders")).header("idempotency-key", key).json(&one_piece());
    let answer = request.send().await.ok().filter(|answer| answer.status() == StatusCode::CREATED)?;
    let order: Value = answer.json().await.ok()?;
    order["orderId"].as_str().map(str::to_owned)
}

/// Asks for `/healthz` and `/readyz` twice a second.
pub struct Probes {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Probed>,
}

/// What probes were told.
pub struct Probed {
    /// The slowest answer.
    pub slowest: Duration,
    /// Every answer that was not 200.
    pub wrong: Vec<String>,
}

impl Probes {
    pub fn start(url: &str) -> Self {
        let stop = Arc::<AtomicBool>::default();
        Self { task: tokio::spawn(probe(url.to_owned(), Arc::clone(&stop))), stop }
    }

    pub async fn stop(self) -> Probed {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap()
    }
}

async fn probe(url: String, stop: Arc<AtomicBool>) -> Probed {
    let client =
        Client::builder().timeout(Duration::from_secs(10)).pool_max_idle_per_host(0).no_proxy().build().unwrap();
    let mut probed = Probed { slowest: Duration::ZERO, wrong: Vec::new() };
    while !stop.load(Ordering::SeqCst) {
        for path in ["/healthz", "/readyz"] {
            let asked = Instant::now();
            match client.get(format!("{url}{path}")).send().await {
                Ok(reply) if reply.status() == StatusCode::OK => {}
                Ok(reply) => {
                    let (status, text) = (reply.status(), reply.text().await.unwrap_or_default());
                    probed.wrong.push(format!("{path}: {status} {text}"));
                }
                Err(error) => probed.wrong.push(format!("{path}: {error:?}")),
            }
            probed.slowest = probed.slowest.max(asked.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    probed
}
