//! Those outside who are told: a merchant and a provider of text messages, played by the demo on a port of this process.
//! They check every signature, and keep what they were told.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::Context as _;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use standardwebhooks::Webhook;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::config::Config;
use crate::delivery::sign;

/// How far the time of a signature may be from ours.
const TOLERANCE_MS: i64 = 300_000;
/// Signs what the provider is sent.
const SMS_SECRET: &str = "demo";

/// The merchant and the provider; they are gone with it.
pub struct Outside {
    base: String,
    told: Arc<Told>,
    serving: JoinHandle<()>,
}

struct Told {
    clock: Clock,
    merchant: OnceLock<Webhook>,
    /// What the merchant was told about each of its numbers, each call once.
    news: Mutex<BTreeMap<String, Vec<(String, String)>>>,
    /// Texts by idempotency key.
    texts: Mutex<BTreeMap<String, Text>>,
}

#[derive(Deserialize)]
struct News {
    data: NewsOf,
}

#[derive(Deserialize)]
struct NewsOf {
    out_order_no: String,
    status: String,
}

/// A text message.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Text {
    template: String,
    text: String,
    idempotency_key: String,
}

impl Outside {
    /// Listens on a free port of this machine.
    ///
    /// # Errors
    /// There is none.
    pub async fn open(clock: Clock) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await;
        let listener = listener.context("nobody can be told: there is no free port")?;
        let base = format!("http://{}", listener.local_addr()?);
        let told = Told { clock, merchant: OnceLock::new(), news: Mutex::default(), texts: Mutex::default() };
        let told = Arc::new(told);
        let routes = Router::new().route("/merchant", post(merchant)).route("/sms", post(sms));
        let serve = axum::serve(listener, routes.with_state(Arc::clone(&told)));
        let serving = tokio::spawn(async move {
            if let Err(error) = serve.await {
                tracing::warn!(%error, "nobody listens for what merchants and users are told");
            }
        });
        Ok(Self { base, told, serving })
    }

    /// What a process has to be told to find them.
    pub fn configure(&self, config: &mut Config) {
        // The merchant of the demo is on this machine.
        config.delivery.allow_private = true;
        config.notices.sms.endpoint = format!("{}/sms", self.base);
        config.notices.sms.secret = SecretString::from(SMS_SECRET);
    }

    /// Where the merchant is told.
    #[must_use]
    pub fn notify_url(&self) -> String {
        format!("{}/merchant", self.base)
    }

    /// The secret that the merchant checks with; only the first one counts.
    ///
    /// # Errors
    /// It is none.
    pub fn set_secret(&self, secret: &SecretString) -> anyhow::Result<()> {
        let webhook = Webhook::new(secret.expose_secret()).context("the merchant's secret")?;
        self.told.merchant.get_or_init(|| webhook);
        Ok(())
    }

    /// What the merchant was told about one of its numbers.
    #[must_use]
    pub fn news(&self, number: &str) -> Vec<String> {
        let news = self.told.news.lock().unwrap_or_else(PoisonError::into_inner);
        news.get(number).into_iter().flatten().map(|(_, status)| status.clone()).collect()
    }

    /// Names of the texts that were sent about an order.
    #[must_use]
    pub fn texts(&self, order_id: &str) -> Vec<String> {
        let texts = self.told.texts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut named: Vec<String> =
            texts.values().filter(|one| one.text.contains(order_id)).map(|one| one.template.clone()).collect();
        named.sort_unstable();
        named
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn merchant(State(told): State<Arc<Told>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let signed = told.merchant.get().is_some_and(|secret| secret.verify(&body, &headers).is_ok());
    if !signed {
        return StatusCode::UNAUTHORIZED;
    }
    let id = headers.get("webhook-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
    let Ok(News { data }) = serde_json::from_slice::<News>(&body) else { return StatusCode::BAD_REQUEST };
    let mut news = told.news.lock().unwrap_or_else(PoisonError::into_inner);
    let known = news.entry(data.out_order_no).or_default();
    // The same call may come twice; its id says so.
    if !known.iter().any(|(known, _)| *known == id) {
        known.push((id, data.status));
    }
    StatusCode::OK
}

async fn sms(State(told): State<Arc<Told>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let secret = SecretString::from(SMS_SECRET);
    if sign::verify(&secret, &headers, &body, told.clock.now_ms(), TOLERANCE_MS).is_err() {
        return StatusCode::UNAUTHORIZED;
    }
    let Ok(text) = serde_json::from_slice::<Text>(&body) else { return StatusCode::BAD_REQUEST };
    let mut texts = told.texts.lock().unwrap_or_else(PoisonError::into_inner);
    texts.insert(text.idempotency_key.clone(), text);
    StatusCode::OK
}
