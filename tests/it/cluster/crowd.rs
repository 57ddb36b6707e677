//! More callers than a process can serve: 3,000 who wait two seconds each, and 250 who ask and never read.
//!
//! Both are parts of `scripts/test soak`, since they want the machine for themselves; they print what they measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::support::clustered_roles::{ROLES, RoleCluster, RolePlan};

pub(super) const SKU: &str = "CROWD-1";
/// A crowd, and how long each of it waits for an answer.
const CALLERS: usize = 3_000;
const PATIENCE: Duration = Duration::from_secs(2);
const CROWDED: Duration = Duration::from_secs(20);
/// Callers whom the process can serve; what it does for them is its capacity.
const FEW: usize = 64;
/// Callers who never read.
const GLUTTONS: usize = 250;
/// After the crowd has gone everything is as before within so long.
pub(super) const RECOVERY: Duration = Duration::from_secs(15);

/// Which server has the tables.
#[derive(Clone, Copy, Debug)]
enum Tables {
    Sqlite,
    MariaDb,
}

/// One process of each role on `tables`, with as many of [`SKU`] as anybody may want.
struct Shop {
    roles: RoleCluster,
    url: String,
    _files: tempfile::TempDir,
}

impl Shop {
    async fn on(tables: Tables, settings: String) -> Option<Self> {
        let files = tempfile::tempdir().unwrap();
        let file = |role: &str| format!("sqlite://{}", files.path().join(format!("{role}.db")).display());
        let plan = match tables {
            Tables::Sqlite => RolePlan::on(ROLES.map(file).to_vec()),
            Tables::MariaDb => RolePlan::on_mariadb().await?,
        };
        let roles = RoleCluster::start(RolePlan { settings, ..plan }).await?;
        let url = roles.urls("order").remove(0);
        stock_up(&url, &roles.urls("stock")[0]).await;
        Some(Self { roles, url, _files: files })
    }
}

/// As many of [`SKU`] as anybody may want.
pub(super) async fn stock_up(order: &str, stock: &str) {
    let client = Client::new();
    let product = json!({"name": "A piece", "price": "1.00", "currency": "CNY"});
    let level = json!({"available": 100_000_000});
    for (url, body) in [(format!("{order}/products/{SKU}"), product), (format!("{stock}/stock/{SKU}"), level)] {
        let answer = client.put(&url).json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{url}: {answer:?}");
    }
}

/// What callers were told.
#[derive(Default)]
pub(super) struct Told {
    stop: AtomicBool,
    pub accepted: AtomicUsize,
    pub refused: AtomicUsize,
    /// Nobody answered in time.
    pub left: AtomicUsize,
    pub otherwise: AtomicUsize,
}

/// Callers who order one after the other, and come again when they are told to.
pub(super) struct Callers {
    pub told: Arc<Told>,
    tasks: Vec<JoinHandle<()>>,
}

impl Callers {
    pub fn start(count: usize, url: &str) -> Self {
        let told = Arc::new(Told::default());
        let addr = url.trim_start_matches("http://");
        let call = |_| tokio::spawn(orders(addr.to_owned(), Arc::clone(&told)));
        Self { tasks: (0..count).map(call).collect(), told }
    }

    pub async fn stop(self) -> Arc<Told> {
        self.told.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.told
    }
}

async fn orders(addr: String, told: Arc<Told>) {
    let body = json!({"userId": "1", "items": [{"sku": SKU, "quantity": 1}]}).to_string();
    let length = body.len();
    let request = format!(
        "POST /orders HTTP/1.1\r\nhost: {addr}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    let mut connection = None;
    while !told.stop.load(Ordering::SeqCst) {
        let call = tokio::time::timeout(PATIENCE, answer(&mut connection, &addr, request.as_bytes()));
        let Ok(Ok(head)) = call.await else {
            connection = None;
            told.left.fetch_add(1, Ordering::SeqCst);
            continue;
        };
        match head.split(' ').nth(1) {
            Some("201") => {
                told.accepted.fetch_add(1, Ordering::SeqCst);
            }
            Some("503") => {
                told.refused.fetch_add(1, Ordering::SeqCst);
                let after = field(&head, "retry-after").expect("a refusal says when to come again");
                if field::<String>(&head, "connection").is_some_and(|word| word == "close") {
                    connection = None;
                }
                tokio::time::sleep(Duration::from_secs(after)).await;
            }
            _ => {
                told.otherwise.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

/// The head of an answer, in lower case, whose body has been read as well. A client as small as this leaves the
/// processors to whom it asks.
async fn answer(connection: &mut Option<TcpStream>, addr: &str, request: &[u8]) -> std::io::Result<String> {
    let broken = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => TcpStream::connect(addr).await?,
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
            *connection = Some(stream);
            return Ok(head);
        }
    }
}

/// A header of a head in lower case.
fn field<T: std::str::FromStr>(head: &str, name: &str) -> Option<T> {
    let line = head.lines().find(|line| line.split_once(':').is_some_and(|(field, _)| field == name))?;
    line.split_once(':')?.1.trim().parse().ok()
}

/// Asks the probes twice a second; the slowest answer, and every one that was not 200.
async fn probe(url: String, until: Duration) -> (Duration, Vec<String>) {
    let client =
        Client::builder().timeout(Duration::from_secs(10)).pool_max_idle_per_host(0).no_proxy().build().unwrap();
    let (started, mut slowest, mut wrong) = (Instant::now(), Duration::ZERO, Vec::new());
    while started.elapsed() < until {
        for path in ["/healthz", "/readyz"] {
            let asked = Instant::now();
            match client.get(format!("{url}{path}")).send().await {
                Ok(reply) if reply.status() == StatusCode::OK => {}
                Ok(reply) => {
                    wrong.push(format!("{path}: {} {}", reply.status(), reply.text().await.unwrap_or_default()))
                }
                Err(error) => wrong.push(format!("{path}: {error:?}")),
            }
            slowest = slowest.max(asked.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    (slowest, wrong)
}

/// How long it takes until three orders in a row are accepted, each within a second.
pub(super) async fn recovery(url: &str) -> Duration {
    let client = Client::builder().timeout(Duration::from_secs(1)).no_proxy().build().unwrap();
    let body = json!({"userId": "1", "items": [{"sku": SKU, "quantity": 1}]});
    let (started, mut row) = (Instant::now(), 0);
    while row < 3 {
        assert!(started.elapsed() < RECOVERY, "orders are not accepted");
        let answer = client.post(format!("{url}/orders")).json(&body).send().await;
        row = if answer.is_ok_and(|answer| answer.status() == StatusCode::CREATED) { row + 1 } else { 0 };
    }
    started.elapsed()
}

async fn crowd(tables: Tables) {
    let Some(shop) = Shop::on(tables, String::new()).await else { return };
    let few = Callers::start(FEW, &shop.url);
    tokio::time::sleep(CROWDED / 2).await;
    let told = few.stop().await;
    let capacity = told.accepted.load(Ordering::SeqCst) as f64 / (CROWDED / 2).as_secs_f64();

    let before = shop.roles.orders().await.unwrap();
    let crowd = Callers::start(CALLERS, &shop.url);
    let (slowest, wrong) = probe(shop.url.clone(), CROWDED).await;
    let told = crowd.stop().await;
    let recovery = recovery(&shop.url).await;
    let stored = usize::try_from(shop.roles.orders().await.unwrap() - before).unwrap() - 3;
    let accepted = told.accepted.load(Ordering::SeqCst);
    let goodput = accepted as f64 / CROWDED.as_secs_f64();
    let nobodys = stored.saturating_sub(accepted);
    eprintln!(
        "{tables:?}: {capacity:.0} orders/s of {FEW} callers; of {CALLERS} callers {goodput:.0}/s, {} refused, \
         {} left, {} otherwise; {nobodys} of {stored} stored orders are nobody's; the slowest probe took \
         {slowest:.1?}; as before after {recovery:.1?}",
        told.refused.load(Ordering::SeqCst),
        told.left.load(Ordering::SeqCst),
        told.otherwise.load(Ordering::SeqCst),
    );
    assert!(accepted <= stored, "{accepted} accepted, {stored} stored");
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(nobodys * 4 < stored, "{nobodys} of {stored} belong to callers who had left");
    // The crowd itself takes a part of the machine that this test runs on.
    assert!(goodput > capacity * 0.5, "{goodput:.0} of {capacity:.0} orders/s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "wants the machine for itself: a part of scripts/test soak"]
async fn three_thousand_callers_on_sqlite() {
    crowd(Tables::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "wants the machine for itself: a part of scripts/test soak"]
async fn three_thousand_callers_on_mariadb() {
    crowd(Tables::MariaDb).await;
}

/// Each asks for much, again and again, and takes nothing; those who were given up come back.
async fn never_read(url: String, stop: Arc<AtomicBool>) {
    let addr = url.trim_start_matches("http://").to_owned();
    let asked = "GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(64);
    while !stop.load(Ordering::SeqCst) {
        let Ok(mut stream) = TcpStream::connect(&addr).await else { continue };
        let writes = async { while stream.write_all(asked.as_bytes()).await.is_ok() {} };
        let _ = tokio::time::timeout(CROWDED, writes).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "wants the machine for itself: a part of scripts/test soak"]
async fn two_hundred_fifty_who_never_read() {
    // As many as they are have a place.
    let places = format!("\n[http]\nconnections = {GLUTTONS}\n");
    let Some(shop) = Shop::on(Tables::Sqlite, places).await else { return };
    let stop = Arc::new(AtomicBool::new(false));
    let gluttons: Vec<_> =
        (0..GLUTTONS).map(|_| tokio::spawn(never_read(shop.url.clone(), Arc::clone(&stop)))).collect();
    let few = Callers::start(4, &shop.url);
    let (slowest, wrong) = probe(shop.url.clone(), CROWDED).await;
    let told = few.stop().await;
    stop.store(true, Ordering::SeqCst);
    let recovery = recovery(&shop.url).await;
    for glutton in gluttons {
        glutton.abort();
    }
    eprintln!(
        "beside {GLUTTONS} who never read: {} orders accepted, {} refused, {} left; the slowest probe took \
         {slowest:.1?}; as before after {recovery:.1?}",
        told.accepted.load(Ordering::SeqCst),
        told.refused.load(Ordering::SeqCst),
        told.left.load(Ordering::SeqCst),
    );
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(told.accepted.load(Ordering::SeqCst) > 0, "others were served as well");
    let ready: Value = Client::new().get(format!("{}/readyz", shop.url)).send().await.unwrap().json().await.unwrap();
    assert_eq!(ready["status"], "ready", "{ready}");
}
