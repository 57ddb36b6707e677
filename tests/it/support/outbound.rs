//! A database with a manual clock, and a server that answers as it is told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use ruyi::clock::Clock;
use ruyi::config::{Config, Millis, Sources};
use ruyi::db::delivery::{self, Delivery, Kind};
use ruyi::db::sql::{self, Columns};
use ruyi::db::{Db, Options, migrate};
use ruyi::delivery::{Effects, Engine, EngineConfig, Settled, Targets};
use ruyi::fault::Faults;
use ruyi::telemetry::Metrics;
use ruyi::vals;
use secrecy::SecretString;
use tokio::sync::Semaphore;

/// When every test begins, epoch ms; a whole second.
pub const START_MS: i64 = 1_700_000_000_000;

/// How long a claim on a call holds.
pub const LEASE_MS: i64 = 60_000;

/// How long an answer from `/slow` takes.
const SLOW: Duration = Duration::from_millis(100);

/// The secret of the channel and of the warehouse.
pub fn secret() -> SecretString {
    "sandbox".to_owned().into()
}

/// A database with a manual clock, and the engines of outgoing calls that work on it.
pub struct OutboundCalls {
    pub db: Db,
    pub clock: Clock,
    pub targets: Targets,
    pub metrics: Arc<Metrics>,
    _dir: tempfile::TempDir,
}

impl OutboundCalls {
    pub async fn new() -> Self {
        Self::with(Faults::none()).await
    }

    pub async fn with(faults: Faults) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", dir.path().join("ruyi.db").display());
        migrate::run(&url).await.unwrap();
        let clock = Clock::manual(START_MS);
        let db = Db::open(&Options { url, max_connections: 2, clock: clock.clone(), faults }).await.unwrap();
        let targets = Targets::new(BTreeMap::from([("sandbox".to_owned(), secret())]), secret());
        Self { db, clock, targets, metrics: Arc::new(Metrics::new().unwrap()), _dir: dir }
    }

    pub fn engine(&self, effects: Effects) -> Engine {
        self.engine_with(effects, |_| {})
    }

    pub fn engine_with(&self, effects: Effects, change: impl FnOnce(&mut EngineConfig)) -> Engine {
        let mut config =
            EngineConfig { concurrency: 32, per_target: 4, delivery: settings(), kinds: Kind::ALL.to_vec() };
        change(&mut config);
        Engine::new(self.db.clone(), config, self.targets.clone(), effects, Arc::clone(&self.metrics)).unwrap()
    }

    /// Records a call that is due.
    pub async fn insert(&self, kind: Kind, reference: &str, url: &str, body: &str) {
        let call = Delivery {
            id: self.db.ids().next(),
            kind,
            reference: reference.to_owned(),
            order_id: 7,
            url: url.to_owned(),
            body: body.to_owned(),
            attempts: 0,
            next_at: START_MS,
            trace: Some(format!("trace of {reference}")),
        };
        let record = self.db.write("create_order", move |tx| {
            let call = call.clone();
            Box::pin(async move { delivery::insert(tx, &[call]).await.map(|inserted| inserted.or_known()) })
        });
        record.await.unwrap();
    }

    /// The row of a call.
    pub async fn id(&self, reference: &str) -> i64 {
        let mut conn = self.db.read().await.unwrap();
        let all = delivery::log::newest(&mut conn, &delivery::log::Filter::default(), i64::MAX, 100).await.unwrap();
        all.iter().find(|call| call.reference == reference).unwrap().id
    }

    pub async fn state(&self, kind: Kind, reference: &str) -> delivery::State {
        delivery::find(&mut self.db.read().await.unwrap(), kind, reference).await.unwrap().unwrap()
    }

    pub async fn status(&self, kind: Kind, reference: &str) -> i64 {
        self.state(kind, reference).await.status
    }

    /// (number, HTTP status) of every attempt on record.
    pub async fn attempts(&self) -> Vec<(i64, Option<i64>)> {
        let text = "SELECT attempt, http_status FROM delivery_attempt ORDER BY delivery_id, attempt";
        let rows = sql::fetch(&mut self.db.read().await.unwrap(), text, vec![]).await.unwrap();
        rows.iter().map(|row| (row.int(0).unwrap(), row.maybe_int(1).unwrap())).collect()
    }

    /// What the effects of [`counting`] have written.
    pub async fn effects(&self) -> Vec<String> {
        let text = "SELECT what FROM effect ORDER BY what";
        let rows = sql::fetch(&mut self.db.read().await.unwrap(), text, vec![]).await.unwrap();
        rows.iter().map(|row| row.text(0).unwrap()).collect()
    }
}

/// What [`counting`] wrote, in the order of writing.
pub struct Counted(Db);

impl Counted {
    pub async fn texts(&self) -> Vec<String> {
        let text = "SELECT what FROM effect ORDER BY rowid";
        let rows = sql::fetch(&mut self.0.read().await.unwrap(), text, vec![]).await.unwrap();
        rows.iter().map(|row| row.text(0).unwrap()).collect()
    }
}

/// Effects that write a row each time: a second one would show.
pub async fn counting(calls: &OutboundCalls) -> (Effects, Counted) {
    let create = calls.db.write("create_order", |tx| {
        Box::pin(async move { sql::execute(tx, "CREATE TABLE effect (what TEXT NOT NULL)", vec![]).await })
    });
    create.await.unwrap();
    let effects: Effects = Arc::new(|tx, settled: &[Settled]| {
        let rows = settled
            .iter()
            .map(|one| vals![format!("{} {:?} {}", one.delivery.reference, one.verdict, one.delivery.attempts)])
            .collect();
        Box::pin(async move { sql::insert(tx, "INSERT INTO effect (what)", rows, "").await.map(|_| ()) })
    });
    (effects, Counted(calls.db.clone()))
}

/// How one request is answered.
#[derive(Clone, Copy)]
pub struct Answer {
    pub status: u16,
    pub retry_after: Option<&'static str>,
    pub location: Option<&'static str>,
    pub body: &'static str,
}

impl Answer {
    pub fn status(status: u16) -> Self {
        Self { status, retry_after: None, location: None, body: "" }
    }
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub headers: HeaderMap,
    pub body: String,
}

impl Seen {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// Answers 200, or as scripted. Requests to `/hold` and the first one to `/hold-first` wait for
/// [`OutboundServer::open`], those to `/fail` are answered 500 before [`OutboundServer::heal`], and those to `/slow` only
/// after a while.
#[derive(Clone)]
pub struct OutboundServer {
    base: String,
    inner: Arc<Inner>,
}

struct Inner {
    script: Mutex<VecDeque<Answer>>,
    healed: AtomicBool,
    seen: Mutex<Vec<Seen>>,
    arrived: Semaphore,
    gate: Semaphore,
}

impl OutboundServer {
    pub async fn start() -> Self {
        let server = Self::unbound();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let router = server.routes();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { base, ..server }
    }

    /// Without a listener of its own: its routes are served with others.
    pub fn unbound() -> Self {
        let inner = Inner {
            script: Mutex::default(),
            healed: AtomicBool::new(false),
            seen: Mutex::default(),
            arrived: Semaphore::new(0),
            gate: Semaphore::new(0),
        };
        Self { base: String::new(), inner: Arc::new(inner) }
    }

    pub fn routes(&self) -> Router {
        Router::new().fallback(answer).with_state(self.clone())
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub fn script(&self, answers: impl IntoIterator<Item = Answer>) {
        self.inner.script.lock().unwrap().extend(answers);
    }

    /// Forgets what was scripted: from now on it answers well.
    pub fn heal(&self) {
        self.inner.script.lock().unwrap().clear();
        self.inner.healed.store(true, Ordering::SeqCst);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.inner.seen.lock().unwrap().clone()
    }

    /// The one request that came.
    pub fn only(&self) -> Seen {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen[0].clone()
    }

    /// Waits for one more request.
    pub async fn arrived(&self) {
        self.inner.arrived.acquire().await.unwrap().forget();
    }

    /// Lets the held requests, and later ones, be answered.
    pub fn open(&self) {
        self.inner.gate.close();
    }
}

async fn answer(State(server): State<OutboundServer>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let path = uri.path().to_owned();
    let first = {
        let mut seen = server.inner.seen.lock().unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        seen.push(Seen { path: path.clone(), headers, body });
        seen.len() == 1
    };
    server.inner.arrived.add_permits(1);
    if path == "/hold" || (path == "/hold-first" && first) {
        // Never given out, only closed.
        let _ = server.inner.gate.acquire().await;
    }
    if path == "/slow" {
        tokio::time::sleep(SLOW).await;
    }
    let fails = path == "/fail" && !server.inner.healed.load(Ordering::SeqCst);
    let usual = Answer::status(if fails { 500 } else { 200 });
    let answer = server.inner.script.lock().unwrap().pop_front().unwrap_or(usual);
    let mut response = (StatusCode::from_u16(answer.status).unwrap(), answer.body).into_response();
    if let Some(text) = answer.location {
        response.headers_mut().insert("location", text.parse().unwrap());
    }
    if let Some(text) = answer.retry_after {
        response.headers_mut().insert("retry-after", text.parse().unwrap());
    }
    response
}

/// The settings of every engine here.
fn settings() -> ruyi::config::Delivery {
    let config = Config::load(&Sources::default()).unwrap();
    ruyi::config::Delivery {
        timeout: Millis::new(20_000),
        schedule: vec![Millis::new(10_000), Millis::new(30_000)],
        jitter: 0.0,
        lease: Millis::new(LEASE_MS),
        ..config.delivery
    }
}
