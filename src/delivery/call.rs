//! One HTTP call.

use std::time::Duration;

use http::{HeaderValue, header};
use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use secrecy::ExposeSecret;
use tokio::time::Instant;

use super::schedule::{Outcome, judge};
use super::sign::{SIGNATURE_HEADER, TIMESTAMP_HEADER, sign};
use super::target::{Prepared, Targets, Unprepared};
use crate::clock::Clock;
use crate::db::delivery::Delivery;

/// Header by which the other side tells a repeated call.
const IDEMPOTENCY_HEADER: &str = "idempotency-key";

/// At most so much of an answer is read.
const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// So much of a refusal is kept for people.
const EXCERPT_CHARS: usize = 200;

/// Makes calls. A cheap clone.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// To this process: no proxy stands in between, whatever the environment says.
    own: Client,
    other: Client,
    targets: Targets,
    clock: Clock,
}

/// A call that was made.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub call: Delivery,
    pub started_at: i64,
    pub duration_ms: i64,
    pub http_status: Option<i64>,
    pub outcome: Outcome,
}

impl Caller {
    pub fn new(timeout: Duration, targets: Targets, clock: Clock) -> Result<Self, reqwest::Error> {
        let builder = || {
            let agent = concat!("ruyi/", env!("CARGO_PKG_VERSION"));
            Client::builder().timeout(timeout).redirect(Policy::none()).user_agent(agent)
        };
        Ok(Self { own: builder().no_proxy().build()?, other: builder().build()?, targets, clock })
    }

    /// Makes one attempt.
    pub async fn make(self, call: Delivery) -> Made {
        let (started_at, started) = (self.clock.now_ms(), Instant::now());
        let (http_status, outcome) = self.attempt(&call).await;
        let duration_ms = i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
        Made { call, started_at, duration_ms, http_status, outcome }
    }

    async fn attempt(&self, call: &Delivery) -> (Option<i64>, Outcome) {
        let prepared = match self.targets.prepare(call) {
            Ok(prepared) => prepared,
            Err(Unprepared::Later(why)) => return (None, again(why.to_owned())),
            Err(Unprepared::Never(why)) => return (None, Outcome::Refused(why)),
        };
        let Ok(key) = HeaderValue::from_str(&call.reference) else {
            return (None, Outcome::Refused("the reference cannot be sent as a header".to_owned()));
        };
        let trace = call.trace.as_deref().and_then(|trace| HeaderValue::from_str(trace).ok());
        match self.send(prepared, key, trace).await {
            Ok(mut response) => {
                let excerpt = read(&mut response).await;
                let status = response.status();
                let outcome = judge(status, response.headers(), self.clock.now_ms(), &excerpt);
                (Some(i64::from(status.as_u16())), outcome)
            }
            Err(error) => (None, again(describe(error))),
        }
    }

    async fn send(
        &self,
        prepared: Prepared,
        key: HeaderValue,
        trace: Option<HeaderValue>,
    ) -> Result<Response, reqwest::Error> {
        let client = if prepared.own { &self.own } else { &self.other };
        let mut request = client
            .post(prepared.url)
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(IDEMPOTENCY_HEADER, key);
        if !prepared.secret.expose_secret().is_empty() {
            let timestamp_s = self.clock.now_ms() / 1000;
            let mut signature = sign(&prepared.secret, timestamp_s, prepared.body.as_bytes());
            if prepared.spoil_signature {
                signature = "0".repeat(signature.len());
            }
            request = request.header(TIMESTAMP_HEADER, timestamp_s).header(SIGNATURE_HEADER, signature);
        }
        if let Some(trace) = trace {
            request = request.header("traceparent", trace);
        }
        request.body(prepared.body).send().await
    }
}

fn again(error: String) -> Outcome {
    Outcome::Again { error, retry_after_ms: None }
}

/// Reads the answer, so that its connection can be used again, and keeps the beginning of a refusal. The status has
/// said all that counts: an answer that breaks off is still an answer.
async fn read(response: &mut Response) -> String {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = ANSWER_MAX_BYTES - body.len();
        if chunk.len() >= room {
            body.extend_from_slice(chunk.get(..room).unwrap_or_default());
            break;
        }
        body.extend_from_slice(&chunk);
    }
    if response.status().is_success() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&body);
    text.trim().chars().take(EXCERPT_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The error with its causes, without the URL: that is in the row, and may carry a password.
fn describe(error: reqwest::Error) -> String {
    let kind = if error.is_timeout() { "timeout: " } else { "" };
    let error = error.without_url();
    let mut text = format!("{kind}{error}");
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
