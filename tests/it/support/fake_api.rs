//! A stand-in for the roles: orders move one step each time they are asked for together, so no test waits for time.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use ruyi::http::Problem;
use serde::Deserialize;
use serde_json::{Value, json};

/// Looks at an unpaid order before it times out.
const LOOKS_TO_PAY: u32 = 3;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewOrder {
    user_id: String,
    items: Vec<Item>,
    #[expect(dead_code, reason = "only its type matters")]
    remark: Option<String>,
    address: Option<String>,
    coupon_id: Option<String>,
    hold_seconds: Option<u64>,
    pay_within_seconds: Option<u64>,
}

#[derive(Deserialize)]
struct Item {
    sku: String,
    quantity: i64,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Sandbox {
    silent: bool,
    amount_delta: i64,
    bad_signature: bool,
    transaction_no: Option<String>,
}

#[derive(Default)]
struct Order {
    user: String,
    status: &'static str,
    cancel: Option<&'static str>,
    refund: &'static str,
    sold_out: bool,
    hold: bool,
    times_out: bool,
    /// The warehouse will not send it.
    undeliverable: bool,
    paid: bool,
    transactions: Vec<String>,
    refunds: usize,
    /// What went back by number, minor units.
    parts: HashMap<String, i64>,
    looks: u32,
    coupon: Option<u64>,
}

impl Order {
    fn outcome(&self) -> &'static str {
        match (self.status, self.refund) {
            ("SIGNED", _) => "SIGNED",
            ("CANCELED", "NONE") => "CANCELED",
            ("CANCELED", "DONE") => "REFUNDED",
            _ => "OPEN",
        }
    }

    fn step(&mut self) {
        self.looks += 1;
        match self.status {
            "CREATED" if self.sold_out => self.cancel("STOCK"),
            "CREATED" => self.status = "RESERVED",
            "RESERVED" if self.paid => self.status = "PAID",
            "RESERVED" if self.times_out && self.looks > LOOKS_TO_PAY => self.cancel("TIMEOUT"),
            "PAID" if self.undeliverable => self.cancel("WAREHOUSE"),
            "PAID" if !self.hold => self.status = "DELIVERY",
            "DELIVERY" => self.status = "SIGNED",
            "CANCELED" if self.paid && self.refund == "NONE" => self.refund = "REQUESTED",
            "CANCELED" if self.refund == "REQUESTED" => self.refund = "DONE",
            _ => {}
        }
    }

    fn cancel(&mut self, by: &'static str) {
        self.status = "CANCELED";
        self.cancel = Some(by);
        if self.paid {
            self.refund = "REQUESTED";
        }
    }

    fn json(&self, id: u64) -> Value {
        json!({"orderId": id.to_string(), "userId": self.user, "status": self.status, "outcome": self.outcome(),
            "refundStatus": self.refund, "cancelType": self.cancel, "couponId": self.coupon.map(|id| id.to_string())})
    }
}

#[derive(Default)]
pub struct FakeApi {
    orders: BTreeMap<u64, Order>,
    keys: HashMap<String, u64>,
    pub products: HashMap<String, Value>,
    pub stock: HashMap<String, i64>,
    /// The template of each coupon, and the order that has it.
    coupons: Vec<(String, Option<u64>)>,
    /// Every new key is refused once with 503.
    pub flaky: bool,
    /// A sold-out order goes through: what the driver must notice.
    pub oversells: bool,
    pub refused: usize,
    refused_keys: HashMap<String, ()>,
}

impl FakeApi {
    pub fn placed(&self) -> usize {
        self.orders.len()
    }
}

pub type Shared = Arc<Mutex<FakeApi>>;

/// Serves until the test ends; the base URL, and what is behind it.
pub async fn start() -> (String, Shared) {
    let fake = Shared::default();
    let app = Router::new()
        .route("/readyz", get(|| async { Json(json!({"status": "ready"})) }))
        .route("/orders", post(create).get(list))
        .route("/orders/{id}", get(one))
        .route("/orders/{id}/address", put(address))
        .route("/orders/{id}/cancel", post(cancel))
        .route("/orders/{id}/refund", post(refund))
        .route("/orders/{id}/refunds", get(refunds))
        .route("/coupons", get(coupons))
        .route("/coupons/{template}", put(|Json(body): Json<Value>| async { Json(body) }))
        .route("/coupons/{template}/issue", post(issue))
        .route("/products/{sku}", put(product))
        .route("/stock/{sku}", put(set_stock))
        .route("/payments/{id}", get(payment))
        .route("/payments/{id}/pay", post(pay))
        .route("/sandbox/channel/payments/{id}/callback", post(callback))
        .with_state(fake.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (base, fake)
}

async fn create(State(fake): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let mut fake = fake.lock().unwrap();
    let Some(key) = headers.get("idempotency-key").map(|key| key.to_str().unwrap().to_owned()) else {
        return Problem::bad_request("the client always sends a key").into_response();
    };
    if fake.flaky && fake.refused_keys.insert(key.clone(), ()).is_none() {
        fake.refused += 1;
        return Problem::unavailable("busy", 0).into_response();
    }
    let order: NewOrder = match serde_json::from_slice(&body) {
        Ok(order) => order,
        Err(error) => return Problem::bad_request(error.to_string()).into_response(),
    };
    if order.items.is_empty() || order.items.len() > 64 {
        return Problem::invalid("1 to 64 lines").into_response();
    }
    for item in &order.items {
        if !(1..=9999).contains(&item.quantity) {
            return Problem::invalid("no").field("items[0].quantity", "1 to 9999").into_response();
        }
        if !fake.products.is_empty() && !fake.products.contains_key(&item.sku) {
            return Problem::invalid(format!("no product {}", item.sku)).into_response();
        }
    }
    if let Some(id) = fake.keys.get(&key) {
        return (StatusCode::CREATED, Json(json!({"orderId": id.to_string(), "status": "CREATED"}))).into_response();
    }
    let id = fake.orders.len() as u64 + 1;
    let coupon: Option<u64> = order.coupon_id.map(|id| id.parse().unwrap());
    if let Some(number) = coupon {
        let (template, held) = fake.coupons[number as usize - 1].clone();
        if template == "DEMO-HUGE" {
            return Problem::invalid("too small").into_response();
        }
        if held.is_some_and(|other| fake.orders[&other].status != "CANCELED") {
            return Problem::new(StatusCode::CONFLICT, "coupon-taken", "taken").into_response();
        }
        fake.coupons[number as usize - 1].1 = Some(id);
    }
    let sold_out = order.items.iter().any(|item| fake.stock.get(&item.sku) == Some(&0));
    let oversold = sold_out && fake.oversells;
    fake.orders.insert(
        id,
        Order {
            user: order.user_id,
            status: "CREATED",
            refund: "NONE",
            sold_out: sold_out && !oversold,
            paid: oversold,
            hold: order.hold_seconds.is_some(),
            times_out: order.pay_within_seconds.is_some(),
            undeliverable: order.address.is_some_and(|address| address.starts_with("sandbox:refuse")),
            coupon,
            ..Order::default()
        },
    );
    fake.keys.insert(key, id);
    (StatusCode::CREATED, Json(json!({"orderId": id.to_string(), "status": "CREATED"}))).into_response()
}

#[derive(Deserialize)]
struct Listing {
    ids: Option<String>,
    limit: Option<usize>,
    before: Option<u64>,
}

async fn list(State(fake): State<Shared>, Query(query): Query<Listing>) -> Json<Value> {
    let mut fake = fake.lock().unwrap();
    if let Some(ids) = query.ids {
        let ids: Vec<u64> = ids.split(',').map(|id| id.parse().unwrap()).collect();
        assert!(ids.len() <= 100);
        let mut items = Vec::new();
        for id in ids {
            if let Some(order) = fake.orders.get_mut(&id) {
                order.step();
                items.push(order.json(id));
            }
        }
        return Json(json!({"items": items, "next": null}));
    }
    let before = query.before.unwrap_or(u64::MAX);
    let page: Vec<(&u64, &Order)> = fake.orders.range(..before).rev().take(query.limit.unwrap_or(100)).collect();
    let next = page.last().filter(|(id, _)| **id > 1).map(|(id, _)| id.to_string());
    Json(json!({"items": page.iter().map(|(id, order)| order.json(**id)).collect::<Vec<_>>(), "next": next}))
}

async fn one(State(fake): State<Shared>, Path(id): Path<u64>) -> Response {
    let mut fake = fake.lock().unwrap();
    let Some(order) = fake.orders.get_mut(&id) else { return Problem::not_found("no such order").into_response() };
    order.step();
    Json(order.json(id)).into_response()
}

async fn cancel(State(fake): State<Shared>, Path(id): Path<u64>, body: Bytes) -> Response {
    let _: Value = serde_json::from_slice(&body).unwrap();
    let mut fake = fake.lock().unwrap();
    let Some(order) = fake.orders.get_mut(&id) else { return Problem::not_found("no such order").into_response() };
    match order.status {
        "CREATED" | "RESERVED" | "PAID" => order.cancel("USER"),
        "CANCELED" => {}
        _ => return Problem::conflict("the warehouse has it").into_response(),
    }
    Json(order.json(id)).into_response()
}

async fn address(State(fake): State<Shared>, Path(id): Path<u64>, Json(body): Json<Value>) -> Json<Value> {
    let mut fake = fake.lock().unwrap();
    let order = fake.orders.get_mut(&id).unwrap();
    order.undeliverable = body["address"].as_str().unwrap().starts_with("sandbox:refuse");
    Json(order.json(id))
}

/// What every order costs here, minor units.
const TOTAL: i64 = 10_000;

async fn refund(
    State(fake): State<Shared>,
    Path(id): Path<u64>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    let number = headers["idempotency-key"].to_str().unwrap().to_owned();
    let mut fake = fake.lock().unwrap();
    let Some(order) = fake.orders.get_mut(&id).filter(|order| order.status == "SIGNED") else {
        return Problem::conflict("not signed for").into_response();
    };
    let left = TOTAL - order.parts.values().sum::<i64>();
    #[expect(clippy::cast_possible_truncation, reason = "a few cents")]
    let part = body["amount"].as_f64().map_or(left, |amount| (amount * 100.0).round() as i64);
    order.parts.entry(number).or_insert(part);
    (StatusCode::ACCEPTED, Json(json!({}))).into_response()
}

async fn refunds(State(fake): State<Shared>, Path(id): Path<u64>) -> Json<Value> {
    let back: i64 = fake.lock().unwrap().orders[&id].parts.values().sum();
    #[expect(clippy::cast_precision_loss, reason = "a few cents")]
    let money = |minor: i64| minor as f64 / 100.0;
    Json(json!({"refundedAmount": money(back), "totalAmount": money(TOTAL)}))
}

async fn issue(State(fake): State<Shared>, Path(template): Path<String>, Json(body): Json<Value>) -> Response {
    assert!(body["userId"].is_string());
    let mut fake = fake.lock().unwrap();
    fake.coupons.push((template, None));
    let id = fake.coupons.len().to_string();
    (StatusCode::CREATED, Json(json!({"couponId": id, "state": "AVAILABLE"}))).into_response()
}

async fn coupons(State(fake): State<Shared>, Query(query): Query<HashMap<String, String>>) -> Json<Value> {
    let fake = fake.lock().unwrap();
    let id = query["before"].parse::<u64>().unwrap() - 1;
    let held = fake.coupons[id as usize - 1].1.filter(|order| fake.orders[order].status != "CANCELED");
    let state = if held.is_some() { "USED" } else { "AVAILABLE" };
    let order = held.map(|order| order.to_string());
    Json(json!({"items": [{"couponId": id.to_string(), "state": state, "orderId": order}], "next": null}))
}

async fn product(State(fake): State<Shared>, Path(sku): Path<String>, Json(body): Json<Value>) -> Json<Value> {
    fake.lock().unwrap().products.insert(sku, body.clone());
    Json(body)
}

async fn set_stock(State(fake): State<Shared>, Path(sku): Path<String>, Json(body): Json<Value>) -> Json<Value> {
    let available = body["available"].as_i64().unwrap();
    fake.lock().unwrap().stock.insert(sku.clone(), available);
    Json(json!({"sku": sku, "available": available, "frozen": 0, "sold": 0}))
}

async fn payment(State(fake): State<Shared>, Path(id): Path<u64>) -> Response {
    let fake = fake.lock().unwrap();
    match fake.orders.get(&id) {
        Some(order) => {
            Json(json!({"paymentId": id.to_string(), "refunds": vec![json!({}); order.refunds]})).into_response()
        }
        None => Problem::not_found("no payment").into_response(),
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Pay {
    #[serde(default)]
    sandbox: Sandbox,
    #[serde(rename = "method")]
    _method: Option<String>,
}

async fn pay(State(fake): State<Shared>, Path(id): Path<u64>, Json(body): Json<Pay>) -> Response {
    let mut fake = fake.lock().unwrap();
    let Some(order) = fake.orders.get_mut(&id).filter(|order| order.status != "CREATED") else {
        return Problem::not_found("not opened yet").into_response();
    };
    if order.status == "CANCELED" {
        return Problem::conflict("the payment is closed").into_response();
    }
    if !body.sandbox.silent && !body.sandbox.bad_signature && body.sandbox.amount_delta == 0 {
        order.paid = true;
        let transaction = body.sandbox.transaction_no.unwrap_or_default();
        order.refunds += usize::from(!order.transactions.is_empty() && !order.transactions.contains(&transaction));
        order.transactions.push(transaction);
    }
    let reply = json!({"paymentId": id.to_string(), "orderId": id.to_string(), "status": "PENDING", "amount": 1});
    (StatusCode::ACCEPTED, Json(reply)).into_response()
}

async fn callback(State(fake): State<Shared>, Path(id): Path<u64>) -> Json<Value> {
    fake.lock().unwrap().orders.get_mut(&id).unwrap().paid = true;
    Json(json!({}))
}
