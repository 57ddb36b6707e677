//! Every role in this process, on SQLite and without a broker, behind real HTTP.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, StatusCode};
use ruyi::config::{Config, Sources};
use ruyi::db::Db;
use ruyi::db::sql::{self, Columns};
use ruyi::delivery::sign;
use ruyi::domain::event::Role;
use ruyi::process::{Plan, Process, Work};
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::support::documented::is_documented;

/// Nothing here takes so long.
const DEADLINE: Duration = Duration::from_secs(60);

pub struct Serving {
    pub process: Process,
    pub client: Client,
    /// Of the database of all roles.
    pub database_url: String,
    _dir: tempfile::TempDir,
}

/// A reply: status, content type, body.
pub type Reply = (StatusCode, String, Value);

impl Serving {
    pub async fn start(settings: &[&str]) -> Self {
        Self::listening("127.0.0.1:0", settings).await
    }

    pub async fn listening(listen: &str, settings: &[&str]) -> Self {
        Self::planned(listen, settings, |_| {}).await
    }

    /// As `change` has it.
    pub async fn planned(listen: &str, settings: &[&str], change: impl FnOnce(&mut Plan)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut sets = vec![format!("data_dir={}", dir.path().display())];
        let fixed = [
            "mq.enabled=false",
            "sandbox.warehouse.step_delay=5ms",
            "http.all=127.0.0.1:0",
            "stock.sync_interval=20ms",
        ];
        sets.extend(fixed.iter().chain(settings).map(|one| (*one).to_owned()));
        let config = Config::load(&Sources { sets, ..Sources::default() }).unwrap();
        let database_url = config.databases(&Role::ALL)[0].0.expose().to_owned();
        let mut plan = Plan::new(&Role::ALL, Work::SERVE, Some(listen.parse().unwrap()));
        change(&mut plan);
        let process = Process::start(&config, plan).await.unwrap();
        let client = Client::builder().timeout(Duration::from_secs(30)).build().unwrap();
        Self { process, client, database_url, _dir: dir }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.process.base_url()))
    }

    /// What it is answered; a refusal has to be one that the description of the API names.
    pub async fn reply(&self, request: RequestBuilder) -> Reply {
        let (client, request) = request.build_split();
        let request = request.unwrap();
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let response = client.execute(request).await.unwrap();
        let status = response.status();
        let kind = response.headers().get("content-type").map_or("", |value| value.to_str().unwrap()).to_owned();
        if kind == "application/problem+json" {
            is_documented(&method, &path, status);
        }
        let text = response.text().await.unwrap();
        (status, kind, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub async fn send(&self, method: Method, path: &str, body: &Value) -> Reply {
        self.reply(self.request(method, path).json(body)).await
    }

    /// A request that works.
    pub async fn fine(&self, method: Method, path: &str, body: &Value) -> Value {
        let (status, _, answer) = self.send(method, path, body).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, _, answer) = self.reply(self.request(Method::GET, path)).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }

    /// A request signed at `at_s`, epoch seconds.
    pub fn signed(&self, path: &str, secret: &str, at_s: i64, body: &str) -> RequestBuilder {
        let signature = sign::sign(&SecretString::from(secret), at_s, body.as_bytes());
        self.request(Method::POST, path)
            .header(sign::TIMESTAMP_HEADER, at_s.to_string())
            .header(sign::SIGNATURE_HEADER, signature)
            .body(body.to_owned())
    }

    /// The database of all roles.
    pub fn db(&self) -> &Db {
        self.process.db_of(Role::Order).unwrap()
    }

    pub fn now_s(&self) -> i64 {
        self.db().clock().now_ms() / 1_000
    }

    pub async fn fill(&self) {
        for (sku, price) in [("A1", json!(59.8)), ("B2", json!(3))] {
            self.fine(Method::PUT, &format!("/products/{sku}"), &json!({"name": "Tea", "price": price})).await;
            self.fine(Method::PUT, &format!("/stock/{sku}"), &json!({"available": 1_000})).await;
        }
    }

    /// Places an order; its id.
    pub async fn place(&self, order: &Value) -> String {
        self.fine(Method::POST, "/orders", order).await["orderId"].as_str().unwrap().to_owned()
    }

    /// Looks at `path` until `field` is `value`.
    pub async fn until(&self, path: &str, field: &str, value: &str) -> Value {
        let look = async {
            loop {
                let (_, _, found) = self.reply(self.request(Method::GET, path)).await;
                if found[field] == value {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(DEADLINE, look).await.unwrap_or_else(|_| panic!("{path}: {field} never is {value}"))
    }

    pub async fn number(&self, text: &'static str) -> i64 {
        let mut conn = self.db().read().await.unwrap();
        sql::fetch_one(&mut conn, text, vec![]).await.unwrap().unwrap().int(0).unwrap()
    }

    /// Nothing is under way any more: what was written is all that will be.
    pub async fn settled(&self) {
        // A reminder of the time to pay waits for longer than any test, and so do questions asked twice a day.
        let open = "SELECT (SELECT COUNT(*) FROM message_record WHERE status = 0 AND topic <> 'PAY_TIMEOUT_DELAY') \
                    + (SELECT COUNT(*) FROM message_retry_log WHERE open_key IS NOT NULL) \
                    + (SELECT COUNT(*) FROM stock WHERE sync_due = 1) \
                    + (SELECT COUNT(*) FROM delivery WHERE status = 0 AND next_at < 4000000000000 \
                       AND NOT (kind IN (10, 11) AND held_by IS NULL AND next_at - updated_at > 40000000))";
        let look = async {
            while self.number(open).await > 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(DEADLINE, look).await.expect("it settles");
    }

    /// Rows of every table.
    pub async fn rows(&self) -> BTreeMap<String, i64> {
        let mut conn = self.db().read().await.unwrap();
        let tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
        let mut counts = BTreeMap::new();
        for row in sql::fetch(&mut conn, tables, vec![]).await.unwrap() {
            let table = row.text(0).unwrap();
            let text = format!("SELECT COUNT(*) FROM {table}");
            let count = sql::fetch_one(&mut conn, text, vec![]).await.unwrap().unwrap().int(0).unwrap();
            counts.insert(table, count);
        }
        assert!(counts.len() > 15, "{counts:?}");
        counts
    }

    pub async fn stop(self) {
        self.process.stop().await.expect("it stops in order");
    }
}

/// The body of an order of one item.
pub fn order_of(sku: &str, quantity: i64) -> Value {
    json!({"userId": "7", "items": [{"sku": sku, "quantity": quantity}]})
}
