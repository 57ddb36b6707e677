//! Requests of users, and the calls that the shop makes: both go straight into the routers.

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use ruyi::db::delivery::{self, Delivery, Kind};
use ruyi::db::{DbError, delivery as calls};
use ruyi::delivery::sign::{self, SIGNATURE_HEADER, TIMESTAMP_HEADER};
use ruyi::delivery::{Answered, SandboxCall, record_answers};
use ruyi::domain::event::Kind as Event;
use ruyi::mq::message::{Incoming, QueueId};
use ruyi::process;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{LEASE_MS, Shop};

/// The calls that a shop carries itself.
pub fn carried() -> Vec<Kind> {
    Kind::ALL.into_iter().filter(|kind| !matches!(kind, Kind::Sms | Kind::Email)).collect()
}

/// An answer: its status and its JSON.
pub type Answer = (StatusCode, Value);

impl Shop {
    pub async fn request(&self, method: Method, path: &str, key: Option<&str>, body: Option<Value>) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let body = body.map_or_else(String::new, |body| body.to_string());
        let request = request.header("content-length", body.len());
        let body = Body::from(body);
        let (status, _, text) = self.send(request.body(body).unwrap()).await;
        (status, serde_json::from_slice(&text).unwrap_or(Value::Null))
    }

    async fn send(&self, mut request: Request<Body>) -> (StatusCode, HeaderMap, Vec<u8>) {
        // As every client does.
        request.headers_mut().insert("host", HeaderValue::from_static("localhost"));
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        (parts.status, parts.headers, to_bytes(body, usize::MAX).await.unwrap().to_vec())
    }

    /// Repeats a request for as long as the shop says that it is in doubt.
    pub async fn insist(&self, method: Method, path: &str, key: Option<&str>, body: Option<Value>) -> Answer {
        loop {
            let answer = self.request(method.clone(), path, key, body.clone()).await;
            if answer.0 != StatusCode::SERVICE_UNAVAILABLE {
                return answer;
            }
        }
    }

    /// Puts a SKU on sale: price in minor units, pieces.
    pub async fn sell(&self, sku: &str, price_minor: i64, pieces: i64) {
        #[expect(clippy::cast_precision_loss, reason = "small prices")]
        let price = price_minor as f64 / 100.0;
        let product = json!({ "name": sku, "price": price });
        let (status, _) = self.insist(Method::PUT, &format!("/products/{sku}"), None, Some(product)).await;
        assert_eq!(status, StatusCode::OK);
        let level = json!({ "available": pieces });
        let (status, _) = self.insist(Method::PUT, &format!("/stock/{sku}"), None, Some(level)).await;
        assert_eq!(status, StatusCode::OK);
    }

    /// Places an order; its id.
    pub async fn place_order(&self, user: i64, items: &[(&str, i64)], more: Value) -> String {
        let items: Vec<Value> = items.iter().map(|(sku, pieces)| json!({"sku": sku, "quantity": pieces})).collect();
        let mut body = json!({ "userId": user.to_string(), "items": items, "address": "1 Bell Street" });
        if let (Some(body), Some(more)) = (body.as_object_mut(), more.as_object()) {
            body.extend(more.clone());
        }
        let key = format!("order-{}", self.db.ids().next());
        let (status, order) = self.insist(Method::POST, "/orders", Some(&key), Some(body)).await;
        assert_eq!(status, StatusCode::CREATED, "{order}");
        order["orderId"].as_str().unwrap().to_owned()
    }

    /// Makes a template of coupons that take 5.00 off, or changes it.
    pub async fn template(&self, name: &str, more: Value) {
        let mut body = json!({ "name": "Five off", "kind": "AMOUNT", "amountOff": 5, "stock": 1_000, "perUser": 1_000,
            "validUntil": "2099-01-01T00:00:00Z" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, answer) = self.insist(Method::PUT, &format!("/coupons/{name}"), None, Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }

    /// Gives a user a coupon; its id.
    pub async fn coupon(&self, user: i64, template: &str) -> String {
        let key = format!("coupon-{}", self.db.ids().next());
        let (path, body) = (format!("/coupons/{template}/issue"), json!({ "userId": user.to_string() }));
        let (status, coupon) = self.insist(Method::POST, &path, Some(&key), Some(body)).await;
        assert_eq!(status, StatusCode::CREATED, "{coupon}");
        coupon["couponId"].as_str().unwrap().to_owned()
    }

    /// Pays; `sandbox` says how the channel is to behave. 202 when it was submitted.
    pub async fn pay(&self, order: &str, sandbox: Value) -> StatusCode {
        let body = json!({ "method": "card", "sandbox": sandbox });
        self.insist(Method::POST, &format!("/payments/{order}/pay"), None, Some(body)).await.0
    }

    /// Cancels for the user. 200 when it is canceled, 409 when it is too late.
    pub async fn cancel(&self, order: &str) -> StatusCode {
        let body = json!({ "reason": "changed my mind" });
        self.insist(Method::POST, &format!("/orders/{order}/cancel"), None, Some(body)).await.0
    }

    /// Asks for so much of an order's money to go back, minor units, under this number.
    pub async fn refund(&self, order: &str, number: &str, minor: i64) -> Answer {
        #[expect(clippy::cast_precision_loss, reason = "small amounts")]
        let body = json!({ "amount": minor as f64 / 100.0, "reason": "too little tea" });
        self.insist(Method::POST, &format!("/orders/{order}/refund"), Some(number), Some(body)).await
    }

    /// An event of another system comes to each of its groups.
    pub fn outside(&mut self, topic: &str, id: &str, key: &str, body: &Value) {
        let mut body = body.clone();
        body.as_object_mut().unwrap().insert("eventId".to_owned(), json!(id));
        self.outside_text(topic, key, &body.to_string());
    }

    /// The same with these KEYS, and whatever its body is.
    pub fn outside_text(&mut self, topic: &str, key: &str, body: &str) {
        self.offset += 1;
        let message = Incoming {
            queue: QueueId { topic: topic.to_owned(), broker: "outside".to_owned(), queue: 0 },
            offset: self.offset,
            tag: String::new(),
            key: key.to_owned(),
            body: body.to_owned().into(),
            unreadable: None,
            properties: vec![],
            born_ms: self.clock.now_ms(),
            stored_ms: self.clock.now_ms(),
        };
        for group in Event::from_name(topic).unwrap().groups() {
            self.queue(*group).push(message.clone());
        }
    }

    /// A request signed with `secret` at `at_s`, epoch seconds.
    pub async fn signed(&self, path: &str, secret: &str, at_s: i64, body: &str) -> StatusCode {
        let signature = sign::sign(&secrecy::SecretString::from(secret), at_s, body.as_bytes());
        let request = Request::post(path)
            .header("content-type", "application/json")
            .header(TIMESTAMP_HEADER, at_s)
            .header(SIGNATURE_HEADER, signature)
            .body(Body::from(body.to_owned()));
        self.send(request.unwrap()).await.0
    }

    /// Wants an order to go to another address.
    pub async fn send_to(&self, order: &str, address: &str) -> StatusCode {
        let body = json!({ "address": address });
        self.insist(Method::PUT, &format!("/orders/{order}/address"), None, Some(body)).await.0
    }

    /// The warehouse reports a step of a parcel.
    pub async fn report(&self, order: &str, step: &str) -> StatusCode {
        let now_ms = self.clock.now_ms();
        let body = json!({ "orderId": order, "event": step, "occurredAt": now_ms }).to_string();
        let secret = self.targets.warehouse_secret().expose_secret().to_owned();
        self.signed("/fulfil/callback", &secret, now_ms / 1_000, &body).await
    }

    /// Makes the calls that are due, up to `limit`, one after the other; how many were claimed.
    pub async fn make_calls(&mut self, limit: i64) -> Result<usize, DbError> {
        let claim = self
            .db
            .write("delivery_claim", move |tx| {
                Box::pin(async move { calls::claim(tx, &carried(), limit, LEASE_MS).await })
            })
            .await?;
        let count = claim.len();
        let mut answers = Vec::with_capacity(count);
        for call in claim {
            answers.push(self.call(call).await);
        }
        if !answers.is_empty() {
            self.db.fault("delivery", "called")?;
            let delivery = ruyi::config::Delivery { jitter: 0.0, ..self.config.delivery.clone() };
            record_answers(&self.db, answers, &delivery, &self.targets, process::effects(&self.config)).await?;
        }
        Ok(count)
    }

    async fn call(&self, call: delivery::Delivery) -> Answered {
        let (body, secret, spoiled) = self.sealed(&call);
        let now_ms = self.clock.now_ms();
        if call.kind == Kind::Merchant {
            self.news.lock().unwrap().push((call.reference.clone(), serde_json::from_str(&body).unwrap()));
            let (status, headers) = (StatusCode::OK, HeaderMap::new());
            return Answered { call, started_at: now_ms, status, headers, text: String::new() };
        }
        let timestamp_s = now_ms / 1_000;
        let mut signature = sign::sign(&secret, timestamp_s, body.as_bytes());
        if spoiled {
            signature = "0".repeat(signature.len());
        }
        let request = Request::post(&call.url)
            .header("content-type", "application/json")
            .header(TIMESTAMP_HEADER, timestamp_s)
            .header(SIGNATURE_HEADER, signature)
            .body(Body::from(body))
            .unwrap();
        let (status, headers, text) = self.send(request).await;
        let text = String::from_utf8_lossy(&text).into_owned();
        Answered { call, started_at: now_ms, status, headers, text }
    }

    /// What goes over the wire: the body, what it is signed with, and whether the signature is to be wrong.
    fn sealed(&self, call: &Delivery) -> (String, secrecy::SecretString, bool) {
        match call.kind {
            Kind::Warehouse | Kind::SandboxFulfilment | Kind::Alert | Kind::Merchant | Kind::Sms | Kind::Email => {
                (call.body.clone(), self.targets.warehouse_secret().clone(), false)
            }
            Kind::ChannelSubmit | Kind::ChannelRefund | Kind::ChannelQuery | Kind::RefundQuery => {
                let body: Value = serde_json::from_str(&call.body).unwrap();
                let channel = body["channelId"].as_str().unwrap();
                (call.body.clone(), self.targets.channel_secret(channel).unwrap().clone(), false)
            }
            Kind::SandboxPayment => {
                let wrapped: SandboxCall = serde_json::from_str(&call.body).unwrap();
                let secret = self.targets.channel_secret(&wrapped.channel_id).unwrap().clone();
                (wrapped.send.to_string(), secret, wrapped.bad_signature)
            }
        }
    }
}
