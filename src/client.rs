//! HTTP client of the roles: one method per call, with the retries that are safe.
//!
//! Every call may be repeated: orders carry an idempotency key, the other calls end in the same state when they are made
//! twice. So what did not arrive, or was refused for load, is tried again, a bounded number of times, and where a role
//! has several addresses, on the next one first.

mod error;
mod gateway;
mod pool;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

pub use error::CallError;
pub use watch::{OrderView, Watch, WatchError};

use crate::config;
use crate::domain::event::Role;
use crate::domain::id::{OrderId, Sku};
use crate::http::Problem;
use pool::Pool;

/// An answer as it came: fields that this version does not know stay in it, in the order of the server.
pub type Reply = Box<RawValue>;

/// Ids that one `GET /orders?ids=` takes.
pub const IDS_PER_CALL: usize = 100;

/// One request and its answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Tries of one call at each address, the first one included: with the waits below about ten seconds.
const ATTEMPTS: u32 = 8;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Of an error that is no problem document, this much is shown.
const SHOWN_CHARS: usize = 200;

/// The roles, as seen from outside. A cheap clone.
#[derive(Clone, Debug)]
pub struct Api {
    http: reqwest::Client,
    at: Arc<Addresses>,
    /// A role could not be reached at all: until one answers again, calls are not retried.
    down: Arc<AtomicBool>,
    /// How long a call is tried again, instead of a number of times.
    patience: Option<Duration>,
}

#[derive(Debug)]
struct Addresses {
    order: Pool,
    payment: Pool,
    stock: Pool,
    notify: Pool,
}

impl Addresses {
    fn of(&self, role: Role) -> &Pool {
        match role {
            Role::Order => &self.order,
            Role::Payment => &self.payment,
            Role::Stock => &self.stock,
            Role::Notify => &self.notify,
        }
    }
}

/// One page of orders, the newest first.
#[derive(Debug, Deserialize)]
pub struct Page {
    /// The orders, without their lines.
    pub items: Vec<Reply>,
    /// The id to give as `before` for the next page.
    pub next: Option<OrderId>,
}

struct Call<'a> {
    method: Method,
    role: Role,
    path: String,
    body: Option<Bytes>,
    key: Option<&'a str>,
}

impl<'a> Call<'a> {
    fn get(role: Role, path: String) -> Self {
        Self { method: Method::GET, role, path, body: None, key: None }
    }

    fn post(role: Role, path: String, body: impl Into<Bytes>) -> Self {
        Self { method: Method::POST, role, path, body: Some(body.into()), key: None }
    }

    fn put(role: Role, path: String, body: impl Into<Bytes>) -> Self {
        Self { method: Method::PUT, role, path, body: Some(body.into()), key: None }
    }

    fn key(mut self, key: &'a str) -> Self {
        self.key = Some(key);
        self
    }
}

impl Api {
    /// The roles where `[client]` says they are.
    ///
    /// # Errors
    /// [`CallError::Setup`] when the key cannot be a header, or there is no TLS.
    pub fn new(client: &config::Client) -> Result<Self, CallError> {
        let at = Addresses {
            order: Pool::new(&client.order),
            payment: Pool::new(&client.payment),
            stock: Pool::new(&client.stock),
            notify: Pool::new(&client.notify),
        };
        Self::build(at, client.key.expose_secret())
    }

    /// All roles at one address, as `ruyi serve all` offers them.
    ///
    /// # Errors
    /// As [`Api::new`].
    pub fn at(base_url: &str) -> Result<Self, CallError> {
        let pool = || Pool::new(base_url);
        Self::build(Addresses { order: pool(), payment: pool(), stock: pool(), notify: pool() }, "")
    }

    fn build(at: Addresses, key: &str) -> Result<Self, CallError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, application/problem+json"));
        if !key.is_empty() {
            let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
                .map_err(|_| CallError::Setup("client.key cannot be sent as a header".to_owned()))?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        let http = reqwest::Client::builder()
            .default_headers(headers)
            .timeout(CALL_TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            // The roles are neighbours; a proxy of the environment is for the world outside.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| CallError::Setup(error.to_string()))?;
        Ok(Self { http, at: Arc::new(at), down: Arc::default(), patience: None })
    }

    /// Calls that fail are tried again for so long, instead of a number of times: roles may be away meanwhile.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience: Some(patience), ..self }
    }

    /// `POST /orders` with this body, as it is. The key makes a repetition harmless.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn create_order(&self, body: impl Into<Bytes>, key: &str) -> Result<Reply, CallError> {
        self.call(Call::post(Role::Order, "/orders".to_owned(), body).key(key)).await
    }

    /// `PUT /coupons/{template}`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn put_template(&self, template: &str, body: impl Into<Bytes>) -> Result<Reply, CallError> {
        self.call(Call::put(Role::Order, format!("/coupons/{template}"), body)).await
    }

    /// `POST /coupons/{template}/issue`. The key makes a repetition harmless.
    ///
    /// # Errors
    /// [`CallError`]; 409 when there are none left.
    pub async fn issue_coupon(&self, template: &str, body: impl Into<Bytes>, key: &str) -> Result<Reply, CallError> {
        self.call(Call::post(Role::Order, format!("/coupons/{template}/issue"), body).key(key)).await
    }

    /// `GET /coupons` of a user: the newest one older than `before`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn coupon_before(&self, user_id: &str, before: i64) -> Result<Reply, CallError> {
        self.call(Call::get(Role::Order, format!("/coupons?userId={user_id}&before={before}&limit=1"))).await
    }

    /// `GET /orders/{id}`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn order(&self, id: OrderId) -> Result<Reply, CallError> {
        self.call(Call::get(Role::Order, format!("/orders/{id}"))).await
    }

    /// `GET /orders?ids=`: those of up to [`IDS_PER_CALL`] ids that exist.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn orders_by_id(&self, ids: &[OrderId]) -> Result<Vec<OrderView>, CallError> {
        let ids: Vec<String> = ids.iter().map(OrderId::to_string).collect();
        let path = format!("/orders?ids={}", ids.join(","));
        let page: Page = self.call_as(Call::get(Role::Order, path.clone())).await?;
        page.items.into_iter().map(|raw| OrderView::of(&path, raw)).collect()
    }

    /// `GET /orders` with these parameters, already safe in a URL.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn orders(&self, parameters: &[(&str, String)]) -> Result<Page, CallError> {
        let text: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
        self.call_as(Call::get(Role::Order, format!("/orders?{}", text.join("&")))).await
    }

    /// `GET /orders?q=` of the notify role.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn search(&self, parameters: &[(&str, String)]) -> Result<Page, CallError> {
        let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        self.call_as(Call::get(Role::Notify, format!("/orders?{query}"))).await
    }

    /// `POST /orders/{id}/cancel`.
    ///
    /// # Errors
    /// [`CallError`]; 409 when the warehouse has it.
    pub async fn cancel(&self, id: OrderId, body: impl Into<Bytes>) -> Result<Reply, CallError> {
        self.call(Call::post(Role::Order, format!("/orders/{id}/cancel"), body)).await
    }

    /// `PUT /orders/{id}/address`.
    ///
    /// # Errors
    /// [`CallError`]; 409 when the warehouse has it.
    pub async fn put_address(&self, id: OrderId, body: impl Into<Bytes>) -> Result<Reply, CallError> {
        self.call(Call::put(Role::Order, format!("/orders/{id}/address"), body)).await
    }

    /// `POST /orders/{id}/refund`, under this number.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn refund(&self, id: OrderId, body: impl Into<Bytes>, key: &str) -> Result<Reply, CallError> {
        self.call(Call::post(Role::Order, format!("/orders/{id}/refund"), body).key(key)).await
    }

    /// `GET /orders/{id}/refunds`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn refunds(&self, id: OrderId) -> Result<Reply, CallError> {
        self.call(Call::get(Role::Order, format!("/orders/{id}/refunds"))).await
    }

    /// `PUT /products/{sku}`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn put_product(&self, sku: &Sku, body: impl Into<Bytes>) -> Result<Reply, CallError> {
        self.call(Call::put(Role::Order, format!("/products/{sku}"), body)).await
    }

    /// `GET /products/{sku}`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn product(&self, sku: &Sku) -> Result<Reply, CallError> {
        self.call(Call::get(Role::Order, format!("/products/{sku}"))).await
    }

    /// `PUT /products`: several.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn put_products(&self, body: impl Into<Bytes>) -> Result<Reply, CallError> {
        self.call(Call::put(Role::Order, "/products".to_owned(), body)).await
    }

    /// `PUT /stock`: several SKUs.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn put_stocks(&self, body: impl Into<Bytes>) -> Result<Reply, CallError> {
        self.call(Call::put(Role::Stock, "/stock".to_owned(), body)).await
    }

    /// `POST /stock/{sku}/adjust`. Not tried again when the answer is in doubt: it is no repetition.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn adjust_stock(&self, sku: &Sku, body: impl Into<Bytes>) -> Result<Reply, CallError> {
        let call = Call::post(Role::Stock, format!("/stock/{sku}/adjust"), body);
        let pool = self.at.of(Role::Stock).round();
        let member = pool.first().ok_or_else(|| CallError::Setup("a role has no address".to_owned()))?;
        self.once(&call, member.base()).await
    }

    /// `GET /stock/{sku}/ledger` with these parameters.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn ledger(&self, sku: &Sku, limit: usize, before: Option<&str>) -> Result<Reply, CallError> {
        let before = before.map(|id| format!("&before={id}")).unwrap_or_default();
        self.call(Call::get(Role::Stock, format!("/stock/{sku}/ledger?limit={limit}{before}"))).await
    }

    /// `PUT /stock/{sku}`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn put_stock(&self, sku: &Sku, body: impl Into<Bytes>) -> Result<Reply, CallError> {
        self.call(Call::put(Role::Stock, format!("/stock/{sku}"), body)).await
    }

    /// `GET /stock/{sku}`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn stock(&self, sku: &Sku) -> Result<Reply, CallError> {
        self.call(Call::get(Role::Stock, format!("/stock/{sku}"))).await
    }

    /// `GET /payments/{orderId}`.
    ///
    /// # Errors
    /// [`CallError`]; 404 while the payment is not opened.
    pub async fn payment(&self, order: OrderId) -> Result<Reply, CallError> {
        self.call(Call::get(Role::Payment, format!("/payments/{order}"))).await
    }

    /// `POST /payments/{orderId}/pay`.
    ///
    /// # Errors
    /// [`CallError`]; 404 while the payment is not opened, 409 when it is closed, or submitted by another method.
    pub async fn pay(&self, order: OrderId, body: impl Into<Bytes>) -> Result<Reply, CallError> {
        self.call(Call::post(Role::Payment, format!("/payments/{order}/pay"), body)).await
    }

    /// Makes the sandbox channel call back for a payment it kept silent about.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn sandbox_callback(&self, payment_id: &str) -> Result<Reply, CallError> {
        let path = format!("/sandbox/channel/payments/{payment_id}/callback");
        self.call(Call::post(Role::Payment, path, Bytes::from_static(b"{}"))).await
    }

    /// `GET /notifications` of a user, the newest first.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn notifications(&self, user_id: &str) -> Result<Reply, CallError> {
        self.call(Call::get(Role::Notify, format!("/notifications?userId={user_id}&limit=100"))).await
    }

    /// `GET /readyz` of each role, as long as it takes within the usual retries: one instance of each is enough.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn ready(&self) -> Result<(), CallError> {
        for role in Role::ALL {
            self.call(Call::get(role, "/readyz".to_owned())).await?;
        }
        Ok(())
    }

    async fn call_as<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T, CallError> {
        let url = call.path.clone();
        let reply = self.call(call).await?;
        serde_json::from_str(reply.get()).map_err(|source| CallError::Garbled { url, source })
    }

    async fn call(&self, call: Call<'_>) -> Result<Reply, CallError> {
        let (started, mut attempt) = (Instant::now(), 1);
        loop {
            let error = match self.round(&call).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            let wait = retry_wait(&error, attempt).filter(|wait| match self.patience {
                Some(patience) => started.elapsed() + *wait < patience,
                None => attempt < if self.down.load(Ordering::Relaxed) { 1 } else { ATTEMPTS },
            });
            let Some(wait) = wait else {
                if matches!(error, CallError::Unreachable { .. }) {
                    self.down.store(true, Ordering::Relaxed);
                }
                return Err(error);
            };
            tracing::debug!(path = call.path, attempt, wait_ms = wait.as_millis(), %error, "trying again");
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    /// Tries each address of the role once, as a load balancer would; the most telling error.
    async fn round(&self, call: &Call<'_>) -> Result<Reply, CallError> {
        let pool = self.at.of(call.role);
        let mut told: Option<CallError> = None;
        for member in pool.round() {
            let error = match self.once(call, member.base()).await {
                Err(error) if is_elsewhere(&error) => error,
                done => {
                    pool.back(member);
                    return done;
                }
            };
            tracing::debug!(path = call.path, address = member.base(), %error, "does not serve");
            pool.away(member);
            // What a role says tells more than that another one says nothing.
            told = match (told, error) {
                (Some(refusal @ CallError::Refused(_)), CallError::Unreachable { .. }) => Some(refusal),
                (_, error) => Some(error),
            };
        }
        Err(told.unwrap_or_else(|| CallError::Setup("a role has no address".to_owned())))
    }

    async fn once(&self, call: &Call<'_>, base: &str) -> Result<Reply, CallError> {
        let url = format!("{base}{}", call.path);
        let mut request = self.http.request(call.method.clone(), &url);
        if let Some(body) = &call.body {
            request = request.header(header::CONTENT_TYPE, "application/json").body(body.clone());
        }
        if let Some(key) = call.key {
            request = request.header("idempotency-key", key);
        }
        let lost = |error: reqwest::Error| CallError::unreachable(&url, error);
        let response = request.send().await.map_err(lost)?;
        let (status, retry_after) = (response.status(), retry_after(response.headers()));
        let body = response.bytes().await.map_err(lost)?;
        self.down.store(false, Ordering::Relaxed);
        if status.is_success() {
            let garbled = |source| CallError::Garbled { url: url.clone(), source };
            return serde_json::from_slice(&body).map_err(garbled);
        }
        let mut problem: Problem = serde_json::from_slice(&body).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(&body).chars().take(SHOWN_CHARS).collect::<String>();
            Problem::new(status, "http", text)
        });
        problem.status = status.as_u16();
        problem.retry_after = problem.retry_after.or(retry_after);
        Err(CallError::Refused(Box::new(problem)))
    }
}

/// Another instance may serve what this one does not.
fn is_elsewhere(error: &CallError) -> bool {
    match error {
        CallError::Unreachable { .. } => true,
        CallError::Refused(problem) => matches!(
            problem.status_code(),
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
        ),
        CallError::Garbled { .. } | CallError::Setup(_) => false,
    }
}

/// Seconds; the form with a date is not used by any role.
fn retry_after(headers: &HeaderMap) -> Option<u32> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
}

/// How long to wait before the next attempt, if another one can help.
fn retry_wait(error: &CallError, attempt: u32) -> Option<Duration> {
    let backoff = FIRST_WAIT.saturating_mul(1_u32.checked_shl(attempt - 1).unwrap_or(u32::MAX)).min(LONGEST_WAIT);
    match error {
        CallError::Unreachable { .. } => Some(backoff),
        CallError::Refused(problem) => match problem.status_code() {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                let asked = problem.retry_after.map(|seconds| Duration::from_secs(seconds.into()));
                Some(asked.unwrap_or(backoff).min(LONGEST_WAIT))
            }
            _ => None,
        },
        CallError::Garbled { .. } | CallError::Setup(_) => None,
    }
}
