//! Every way a request can go wrong, over a real listener.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::routing::{get, post};
use reqwest::{Client, Response, StatusCode};
use ruyi::config::{ApiKey, Config, Http, Scope, Sources};
use ruyi::http::{ApiJson, App, Auth, Caller, Limits, ListenError, Problem, ReadyCheck, bind, guarded, require};
use ruyi::shutdown::Shutdown;
use ruyi::telemetry::Metrics;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    lines: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    sku: String,
    quantity: u32,
}

/// Described in OpenAPI, and with a scope of its own.
#[utoipa::path(get, path = "/described", responses((status = 200, body = String), (status = 403, body = Problem)))]
async fn described() -> &'static str {
    "described"
}

/// Lets a test hold requests inside the handler.
#[derive(Clone)]
struct Gate {
    arrived: Arc<Semaphore>,
    open: Arc<Notify>,
}

struct Server {
    base: String,
    client: Client,
    gate: Gate,
    shutdown: Shutdown,
    ready: Arc<AtomicBool>,
    alive: Arc<AtomicBool>,
}

const LIMITS: Limits = Limits {
    body_bytes: 1 << 20,
    concurrency: 64,
    timeout: Duration::from_secs(30),
    body: Duration::from_secs(30),
    connections: 64,
    idle: Duration::from_secs(100),
    head: Duration::from_secs(100),
    write: Duration::from_secs(100),
};

fn api(auth: &Auth, gate: &Gate) -> OpenApiRouter {
    let orders = OpenApiRouter::new()
        .route(
            "/orders",
            post(|ApiJson(order): ApiJson<Order>| async move {
                let total: u32 = order.lines.iter().map(|line| line.quantity).sum();
                format!("{total} of {}", order.lines.len() + order.lines.iter().map(|l| l.sku.len()).sum::<usize>())
            }),
        )
        .route(
            "/whoami",
            get(|axum::Extension(caller): axum::Extension<Caller>| async move { caller.name.to_string() }),
        );
    let orders = guarded(orders, require(Scope::OrderWrite, auth));
    let described = guarded(OpenApiRouter::new().routes(routes!(described)), require(Scope::StockRead, auth));
    OpenApiRouter::new()
        .route(
            "/orders/{id}",
            get(|Path(id): Path<i64>| async move {
                if id == 404 { Err(Problem::not_found("no order 404")) } else { Ok(id.to_string()) }
            }),
        )
        .route(
            "/wait",
            get(|State(gate): State<Gate>| async move {
                gate.arrived.add_permits(1);
                gate.open.notified().await;
            }),
        )
        .route(
            "/panic",
            get(|| async {
                if true {
                    panic!("boom")
                }
            }),
        )
        .with_state(gate.clone())
        .merge(orders)
        .merge(described)
}

async fn start(limits: Limits, keys: &[ApiKey]) -> Server {
    let http = Http { keys: keys.to_vec(), ..Config::example().unwrap().http };
    start_with(limits, &http).await
}

async fn start_with(limits: Limits, http: &Http) -> Server {
    let gate = Gate { arrived: Arc::new(Semaphore::new(0)), open: Arc::new(Notify::new()) };
    let (ready, alive) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
    let check = |name, flag: &Arc<AtomicBool>| {
        let asked = Arc::clone(flag);
        ReadyCheck::new(name, move || {
            let fine = asked.load(Ordering::SeqCst);
            async move { if fine { Ok(()) } else { Err("gone".to_owned()) } }
        })
    };
    let app = App {
        title: "test".into(),
        api: api(&Auth::new(http, None).unwrap(), &gate),
        checks: vec![check("database", &ready)],
        live: vec![check("broker", &alive)],
        metrics: Arc::new(Metrics::new().unwrap()),
        scale: None,
        limits,
    };
    let bound = bind("127.0.0.1:0".parse().unwrap(), &Config::example().unwrap()).await.unwrap();
    assert_ne!(bound.addr().port(), 0);
    let base = format!("http://{}", bound.addr());
    let shutdown = Shutdown::new();
    let running = shutdown.clone();
    shutdown.run("http", async move { bound.serve(app, &running).await });
    let client = Client::builder().timeout(Duration::from_secs(30)).build().unwrap();
    Server { base, client, gate, shutdown, ready, alive }
}

impl Server {
    async fn get(&self, path: &str) -> Response {
        self.client.get(format!("{}{path}", self.base)).send().await.unwrap()
    }

    async fn post(&self, body: impl Into<reqwest::Body>) -> Response {
        let request = self.client.post(format!("{}/orders", self.base)).header("content-type", "application/json");
        request.body(body).send().await.unwrap()
    }
}

async fn problem(response: Response, status: u16) -> Value {
    assert_eq!(response.status().as_u16(), status);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let retry = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["status"], status);
    assert!(body["type"].as_str().unwrap().starts_with("urn:ruyi:problem:"), "{body}");
    assert!(!body["title"].as_str().unwrap().is_empty() && !body["detail"].as_str().unwrap().is_empty(), "{body}");
    assert_eq!(body.get("retry_after").map(ToString::to_string), retry);
    body
}

#[tokio::test]
async fn wrong_bodies_are_refused() {
    let server = start(LIMITS, &[]).await;
    assert_eq!(server.post(r#"{"lines":[{"sku":"a","quantity":2}]}"#).await.status(), StatusCode::OK);

    let body = problem(server.post("{\"lines\":\n [}").await, 400).await;
    assert!(body["detail"].as_str().unwrap().contains("line 2, column 3"), "{body}");
    assert_eq!(body["instance"], "/orders");
    for cut in ["", "{\"lines\":[", "{} trailing", "\"\\ud800\"", "\u{0}"] {
        let response = server.post(cut).await;
        assert!(matches!(response.status().as_u16(), 400 | 422), "{cut:?}");
        let status = response.status().as_u16();
        problem(response, status).await;
    }

    let body = problem(server.post(r#"{"lines":[{"sku":"a","quantity":"two"}]}"#).await, 422).await;
    assert_eq!(body["errors"][0]["field"], "lines[0].quantity");
    assert!(body["errors"][0]["detail"].as_str().unwrap().contains("expected u32"), "{body}");
    assert!(body["detail"].as_str().unwrap().contains("line 1, column"), "{body}");
    let body = problem(server.post(r#"{"lines":[{"sku":"a","quantity":-1}]}"#).await, 422).await;
    assert_eq!(body["errors"][0]["field"], "lines[0].quantity");
    let body = problem(server.post(r#"{"lines":[{"sku":"a"}]}"#).await, 422).await;
    assert!(body["detail"].as_str().unwrap().contains("missing field `quantity`"), "{body}");
    let body = problem(server.post(r#"{"line":[]}"#).await, 422).await;
    assert!(body["detail"].as_str().unwrap().contains("unknown field `line`"), "{body}");
    let deep = server.post("[".repeat(100_000)).await;
    assert!(deep.status().is_client_error());

    let url = format!("{}/orders", server.base);
    problem(server.client.post(&url).body("{}").send().await.unwrap(), 415).await;
    problem(server.client.post(&url).header("content-type", "text/plain").body("{}").send().await.unwrap(), 415).await;
}

#[tokio::test]
async fn too_large_bodies_are_refused() {
    let server = start(LIMITS, &[]).await;
    let large = vec![b' '; 2 << 20];
    problem(server.post(large.clone()).await, 413).await;
    // Without a Content-Length the limit is noticed while reading.
    let chunks = futures_util::stream::iter(
        large.chunks(64 << 10).map(|c| Ok::<_, std::io::Error>(c.to_vec())).collect::<Vec<_>>(),
    );
    problem(server.post(reqwest::Body::wrap_stream(chunks)).await, 413).await;
    assert_eq!(server.get("/healthz").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn wrong_paths_methods_and_parameters_are_refused() {
    let server = start(LIMITS, &[]).await;
    let body = problem(server.get("/nothing").await, 404).await;
    assert_eq!(body["instance"], "/nothing");
    let body = problem(server.get("/orders/404").await, 404).await;
    assert_eq!(body["detail"], "no order 404");
    let response = server.get("/orders").await;
    assert_eq!(response.headers()["allow"], "POST");
    problem(response, 405).await;
    let body = problem(server.get("/orders/abc").await, 400).await;
    assert!(body["detail"].as_str().unwrap().contains("abc"), "{body}");
}

#[tokio::test]
async fn a_panic_is_an_answer() {
    let server = start(LIMITS, &[]).await;
    let body = problem(server.get("/panic").await, 500).await;
    assert!(!body.to_string().contains("boom"), "{body}");
    assert_eq!(server.get("/healthz").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_slow_request_is_given_up() {
    let server = start(Limits { timeout: Duration::from_millis(50), ..LIMITS }, &[]).await;
    let body = problem(server.get("/wait").await, 504).await;
    assert_eq!(body["type"], "urn:ruyi:problem:timeout");
}

#[tokio::test]
async fn a_body_that_never_comes_is_answered_408() {
    let server = start(Limits { body: Duration::from_millis(50), ..LIMITS }, &[]).await;
    for (head, status) in [
        ("content-length: 90", 408),
        ("transfer-encoding: chunked", 408),
        // What is too large is that, whether it comes or not.
        ("content-length: 9000000", 413),
    ] {
        let mut stream = TcpStream::connect(server.base.trim_start_matches("http://")).await.unwrap();
        let begin = "POST /orders HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
        stream.write_all(format!("{begin}{head}\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // It ends only when the server closes.
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap().to_ascii_lowercase();
        assert!(answer.starts_with(&format!("http/1.1 {status} ")), "{head}: {answer}");
        assert!(answer.contains("content-type: application/problem+json"), "{head}: {answer}");
        assert!(!answer.contains("retry-after"), "{head}: {answer}");
        assert!(status != 408 || answer.contains("connection: close"), "{head}: {answer}");
    }
}

#[tokio::test]
async fn load_is_shed_while_probes_answer() {
    let server = start(Limits { concurrency: 1, ..LIMITS }, &[]).await;
    let (client, url) = (server.client.clone(), format!("{}/wait", server.base));
    let first = tokio::spawn(async move { client.get(url).send().await.unwrap().status() });
    let _ = server.gate.arrived.acquire().await.unwrap();
    problem(server.get("/orders/1").await, 503).await;
    for path in ["/healthz", "/readyz", "/metrics", "/openapi.json"] {
        assert_eq!(server.get(path).await.status(), StatusCode::OK, "{path}");
    }
    server.gate.open.notify_one();
    assert_eq!(first.await.unwrap(), StatusCode::OK);
    assert_eq!(server.get("/orders/1").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn each_key_has_a_rate_of_its_own() {
    let keys = [key("eager", "e-key", &[Scope::OrderWrite]), key("calm", "c-key", &[Scope::OrderWrite])];
    let http = Http { keys: keys.to_vec(), rate_limit: 1, ..Config::example().unwrap().http };
    let server = start_with(LIMITS, &http).await;
    let ask = async |name: &str| {
        let request = server.client.get(format!("{}/whoami", server.base)).header("x-api-key", name);
        request.send().await.unwrap()
    };
    // Whoever has no key takes nothing from those who have one. Only a machine that takes a second for each of these
    // requests would see none refused.
    for _ in 0..50 {
        problem(ask("unknown").await, 401).await;
    }
    let mut refused = None;
    for _ in 0..200 {
        let response = ask("e-key").await;
        assert_eq!(server.get("/healthz").await.status(), StatusCode::OK);
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            refused = Some(response);
            break;
        }
    }
    let body = problem(refused.expect("one is refused"), 429).await;
    assert_eq!(body["retry_after"], 1);
    assert_eq!(ask("c-key").await.text().await.unwrap(), "calm");
}

fn key(name: &str, secret: &str, scopes: &[Scope]) -> ApiKey {
    ApiKey { name: name.into(), sha256: hex::encode(Sha256::digest(secret)), scopes: scopes.to_vec(), merchant: None }
}

#[tokio::test]
async fn keys_and_scopes() {
    let keys = [
        key("reader", "r-key", &[Scope::OrderRead]),
        key("writer", "w-key", &[Scope::OrderWrite]),
        key("boss", "a-key", &[Scope::Admin]),
    ];
    let server = start(LIMITS, &keys).await;
    let ask = |name: &'static str, value: &'static str| {
        server.client.get(format!("{}/whoami", server.base)).header(name, value).send()
    };
    let response = server.get("/whoami").await;
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
    problem(response, 401).await;
    problem(ask("authorization", "Bearer wrong").await.unwrap(), 401).await;
    problem(ask("authorization", "Basic w-key").await.unwrap(), 401).await;
    problem(ask("x-api-key", "").await.unwrap(), 401).await;
    let body = problem(ask("x-api-key", "r-key").await.unwrap(), 403).await;
    assert!(body["detail"].as_str().unwrap().contains("order:write"), "{body}");
    let other = server.client.get(format!("{}/described", server.base)).header("x-api-key", "w-key");
    problem(other.send().await.unwrap(), 403).await;
    for (name, value, who) in [
        ("authorization", "Bearer w-key", "writer"),
        ("x-api-key", "w-key", "writer"),
        ("authorization", "bearer a-key", "boss"),
    ] {
        assert_eq!(ask(name, value).await.unwrap().text().await.unwrap(), who);
    }
    assert_eq!(server.get("/orders/1").await.status(), StatusCode::OK, "no scope asked for");
}

#[tokio::test]
async fn without_keys_this_machine_may_but_no_web_page() {
    let server = start(LIMITS, &[]).await;
    assert_eq!(server.get("/whoami").await.text().await.unwrap(), "local");
    let from = |origin: String| server.client.get(format!("{}/whoami", server.base)).header("origin", origin).send();
    problem(from("https://evil.example".into()).await.unwrap(), 403).await;
    assert_eq!(from(server.base.clone()).await.unwrap().status(), StatusCode::OK);
    let named = |host: &'static str| server.client.get(format!("{}/whoami", server.base)).header("host", host).send();
    problem(named("rebound.example:8080").await.unwrap(), 403).await;
    for host in ["localhost", "localhost:8080", "[::1]:8080", "127.0.0.1"] {
        assert_eq!(named(host).await.unwrap().status(), StatusCode::OK, "{host}");
    }
}

/// Sends a request byte by byte as it is; the status of the answer.
async fn raw(server: &Server, request: &str) -> u16 {
    let mut stream = TcpStream::connect(server.base.trim_start_matches("http://")).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    answer.split_whitespace().nth(1).unwrap_or_else(|| panic!("{answer:?}")).parse().unwrap()
}

#[tokio::test]
async fn without_keys_nothing_comes_through_a_proxy() {
    let server = start(LIMITS, &[]).await;
    let ask = |head: &str| format!("GET /whoami HTTP/1.1\r\n{head}connection: close\r\n\r\n");
    assert_eq!(raw(&server, &ask("host: localhost\r\n")).await, 200);
    for (head, status) in [
        ("", 400),
        ("host: localhost\r\nhost: evil.example\r\n", 400),
        ("host:\r\n", 403),
        ("host: localhost\r\nx-forwarded-for: 203.0.113.7\r\n", 403),
        ("host: localhost\r\nX-Forwarded-Host: shop.example\r\n", 403),
        ("host: localhost\r\nForwarded: for=203.0.113.7\r\n", 403),
        ("host: localhost\r\nvia: 1.1 proxy\r\n", 403),
    ] {
        assert_eq!(raw(&server, &ask(head)).await, status, "{head:?}");
    }
    // HTTP/1.0 may do without a host, and another one may stand in the target.
    assert_eq!(raw(&server, "GET /whoami HTTP/1.0\r\n\r\n").await, 403);
    let target = "GET http://evil.example/whoami HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    assert_eq!(raw(&server, target).await, 403);

    // Behind a proxy with keys, all of that is as it should be.
    let server = start(LIMITS, &[key("boss", "a-key", &[Scope::Admin])]).await;
    let proxied = ask("host: shop.example\r\nx-forwarded-for: 203.0.113.7\r\nx-api-key: a-key\r\n");
    assert_eq!(raw(&server, &proxied).await, 200);
    assert_eq!(raw(&server, &ask("host: a\r\nhost: b\r\nx-api-key: a-key\r\n")).await, 400);
}

#[tokio::test]
async fn the_nul_character_is_refused_everywhere() {
    let server = start(LIMITS, &[]).await;
    let body = problem(server.post("{\"lines\":\n[{\"sku\":\"a\\u0000\",\"quantity\":2}]}").await, 422).await;
    assert!(body["detail"].as_str().unwrap().contains("U+0000, which no database keeps (line 2)"), "{body}");
    // A backslash before it is a backslash and four digits.
    assert_eq!(server.post(r#"{"lines":[{"sku":"a\\u0000","quantity":2}]}"#).await.status(), StatusCode::OK);
    problem(server.get("/orders/7?q=a%00b").await, 400).await;
    problem(server.get("/orders/%00").await, 400).await;
}

#[tokio::test]
async fn no_listening_beyond_loopback_without_keys() {
    let error = bind("0.0.0.0:0".parse().unwrap(), &Config::load(&Sources::default()).unwrap()).await.unwrap_err();
    assert!(matches!(error, ListenError::NotExposable(_)), "{error}");
    assert!(error.to_string().contains("no API keys"), "{error}");
}

#[tokio::test]
async fn probes_metrics_and_documentation() {
    let server = start(LIMITS, &[]).await;
    assert_eq!(
        server.get("/readyz").await.json::<Value>().await.unwrap(),
        json!({"status": "ready", "checks": {"database": "ok"}})
    );
    server.ready.store(false, Ordering::SeqCst);
    let response = server.get("/readyz").await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.json::<Value>().await.unwrap(), json!({"status": "not ready", "checks": {"database": "gone"}}));
    assert_eq!(server.get("/healthz").await.json::<Value>().await.unwrap(), json!({"status": "ok"}));
    server.alive.store(false, Ordering::SeqCst);
    let response = server.get("/healthz").await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.json::<Value>().await.unwrap(), json!({"status": "restart", "checks": {"broker": "gone"}}));

    server.get("/orders/7").await;
    let text = server.get("/metrics").await.text().await.unwrap();
    assert!(text.contains(r#"ruyi_http_requests_total{method="GET",route="/orders/{id}",status="200"} 1"#), "{text}");

    let api: Value = server.get("/openapi.json").await.json().await.unwrap();
    assert!(
        api["components"]["schemas"]["Problem"].is_object()
            && api["components"]["securitySchemes"]["bearer"].is_object(),
        "{api}"
    );
    assert!(api["paths"]["/described"]["get"].is_object(), "{api}");
    let page = server.get("/docs/").await;
    assert_eq!(page.status(), StatusCode::OK);
    let page = page.text().await.unwrap();
    for file in page.split(['"']).filter(|text| text.ends_with(".js") || text.ends_with(".css")) {
        let file = server.get(&format!("/docs/{file}")).await;
        assert_eq!(file.status(), StatusCode::OK, "{file:?}");
        assert!(file.content_length().is_none_or(|bytes| bytes > 100), "{file:?}");
    }
    assert_eq!(page.matches("<script").count(), 2, "{page}");
}

#[tokio::test]
async fn a_connection_that_dawdles_is_closed() {
    let server = start(Limits { idle: Duration::from_millis(20), connections: 1, ..LIMITS }, &[]).await;
    let mut stream = TcpStream::connect(server.base.trim_start_matches("http://")).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: loc").await.unwrap();
    let mut answer = Vec::new();
    // Ends only when the server closes; a reset is fine, too.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!String::from_utf8_lossy(&answer).contains(" 200 "), "{answer:?}");
    assert_eq!(server.get("/healthz").await.status(), StatusCode::OK, "its place is free again");
}

#[tokio::test]
async fn the_first_head_has_less_time_than_the_next() {
    let server = start(Limits { head: Duration::from_millis(20), ..LIMITS }, &[]).await;
    let addr = server.base.trim_start_matches("http://");
    for first in ["", "GET /healthz HT"] {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(first.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!String::from_utf8_lossy(&answer).contains(" 200 "), "{answer:?}");
    }
}

/// A connection that asks for much and takes nothing.
async fn glutton(addr: &str) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let asked = "GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(64);
    stream.write_all(asked.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn probes_answer_beside_clients_that_never_read() {
    let server = start(Limits { connections: 4, write: Duration::from_secs(1), ..LIMITS }, &[]).await;
    let addr = server.base.trim_start_matches("http://");
    let mut gluttons = Vec::new();
    for _ in 0..4 {
        gluttons.push(glutton(addr).await);
    }
    let probe = async |path: &str| {
        // Each by a connection of its own.
        let client = Client::builder().timeout(Duration::from_secs(20)).pool_max_idle_per_host(0).build().unwrap();
        client.get(format!("{}{path}", server.base)).send().await.unwrap()
    };
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(probe(path).await.status(), StatusCode::OK, "{path}");
    }
    // What is no probe waits a moment for a place, and is told when there is none; until those who take nothing are
    // given up.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let response = probe("/orders/1").await;
        if response.status() == StatusCode::OK {
            break;
        }
        assert_eq!(response.headers()["connection"], "close");
        problem(response, 503).await;
        assert!(tokio::time::Instant::now() < deadline, "no place is free");
    }
}

#[tokio::test]
async fn shutdown_finishes_what_is_in_hand() {
    let server = start(LIMITS, &[]).await;
    let (client, url) = (server.client.clone(), format!("{}/wait", server.base));
    let first = tokio::spawn(async move { client.get(url).send().await.unwrap().status() });
    let _ = server.gate.arrived.acquire().await.unwrap();
    server.shutdown.cancel();
    server.gate.open.notify_one();
    assert_eq!(first.await.unwrap(), StatusCode::OK);
    server.shutdown.drain(Duration::from_secs(30)).await.unwrap();
}
