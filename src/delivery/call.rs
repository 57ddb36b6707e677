//! One HTTP call.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, Version, header};
use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use secrecy::ExposeSecret;
use tokio::time::Instant;

use super::answer::{self, Answer, End, Reading};
use super::mask;
use super::notice::{self, Ready, Sent};
use super::query;
use super::record::Said;
use super::schedule::Outcome;
use super::sign::{self, SIGNATURE_HEADER};
use super::target::{Prepared, Targets, Unprepared, submission_key};
use super::webhook;
use crate::db::Db;
use crate::db::delivery::{Delivery, Kind};
use crate::domain::notice::Way;

/// Header by which the other side tells a repeated call.
const IDEMPOTENCY_HEADER: &str = "idempotency-key";

/// What the sandbox signs wrongly with: of the right length.
const NO_SIGNATURE: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// At most so much of an answer is read.
const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// Makes calls. A cheap clone.
#[derive(Clone)]
pub(super) struct Caller {
    /// To this process: no proxy stands in between, whatever the environment says.
    own: Client,
    other: Client,
    /// To addresses that users give.
    guarded: Client,
    targets: Targets,
    /// Of the kinds that have their own.
    timeouts: Arc<HashMap<Kind, Duration>>,
    /// Of the others.
    timeout: Duration,
    /// Who merchants are, where users are reached, and when it is.
    db: Db,
}

/// A call that was made.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub call: Delivery,
    /// Host and port that it went to.
    pub target: Arc<str>,
    pub started_at: i64,
    pub duration_ms: i64,
    pub http_status: Option<i64>,
    pub outcome: Outcome,
    /// What was sent, as people may see it; none when nothing was.
    pub request: Option<String>,
    /// What was answered, as people may see it.
    pub answer: Option<String>,
    /// What the answer says beyond that.
    pub said: Option<Said>,
    /// It was sent, and nothing that came back says, or proves, whether the other side did what it was asked to.
    pub unsure: bool,
}

impl Caller {
    pub fn new(
        timeout: Duration,
        timeouts: HashMap<Kind, Duration>,
        targets: Targets,
        db: Db,
    ) -> Result<Self, reqwest::Error> {
        let builder = || {
            let agent = concat!("ruyi/", env!("CARGO_PKG_VERSION"));
            Client::builder().timeout(timeout).redirect(Policy::none()).user_agent(agent)
        };
        let timeouts = Arc::new(timeouts);
        Ok(Self {
            own: builder().no_proxy().build()?,
            other: builder().build()?,
            guarded: builder().no_proxy().dns_resolver(Arc::new(targets.guard().clone())).build()?,
            targets,
            timeouts,
            timeout,
            db,
        })
    }

    /// Makes one attempt.
    pub async fn make(self, call: Delivery) -> Made {
        let (started_at, started) = (self.db.clock().now_ms(), Instant::now());
        let target = self.targets.of(&call);
        let attempt = self.attempt(&call).await;
        let duration_ms = i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
        let Attempt { http_status, outcome, request, answer, said, unsure } = attempt;
        Made { call, target, started_at, duration_ms, http_status, outcome, request, answer, said, unsure }
    }

    /// Where it makes them.
    pub fn targets(&self) -> &Targets {
        &self.targets
    }

    async fn attempt(&self, call: &Delivery) -> Attempt {
        if let Some(way) = notice::way(call.kind) {
            return self.tell(call, way).await;
        }
        if matches!(call.kind, Kind::ChannelQuery | Kind::RefundQuery)
            && let Some(outcome) = query::settled(&self.db, call).await
        {
            return Attempt::failed(outcome);
        }
        match self.prepare(call).await {
            Ok((prepared, headers)) => self.post(call, prepared, headers).await,
            Err(Unprepared::Later(why)) => Attempt::failed(again(why.to_owned())),
            Err(Unprepared::Never(why)) => Attempt::failed(Outcome::Refused(why)),
        }
    }

    /// Sends a message to a user.
    async fn tell(&self, call: &Delivery, way: Way) -> Attempt {
        let senders = self.targets.senders();
        match (senders.ready(&self.db, call, way).await, senders.server()) {
            (Err(outcome), _) => Attempt::failed(outcome),
            (Ok(Ready::Sms(post)), _) => {
                let prepared = match Prepared::of(*post) {
                    Ok(prepared) => prepared,
                    Err(why) => return Attempt::failed(Outcome::Refused(why)),
                };
                match self.headers(call, &prepared) {
                    Some(headers) => self.post(call, prepared, headers).await,
                    None => Attempt::failed(Outcome::Refused("its headers cannot be sent".to_owned())),
                }
            }
            (Ok(Ready::Mail(mail)), Some(server)) => {
                let limit = self.timeouts.get(&call.kind).copied().unwrap_or(self.timeout);
                let Sent { outcome, request, answer } = server.send(&mail, limit).await;
                Attempt { request, answer, ..Attempt::failed(outcome) }
            }
            (Ok(Ready::Mail(_)), None) => Attempt::failed(again("there is no mail server".to_owned())),
        }
    }

    async fn post(&self, call: &Delivery, prepared: Prepared, headers: HeaderMap) -> Attempt {
        let shown = prepared.shown.as_deref().unwrap_or(&prepared.body);
        let request = Some(mask::request(call.kind, prepared.url.as_str(), &headers, shown));
        let client = match (prepared.own, prepared.guarded) {
            (_, true) => &self.guarded,
            (true, false) => &self.own,
            (false, false) => &self.other,
        };
        let mut sending = client.post(prepared.url).headers(headers).body(prepared.body);
        if let Some(timeout) = self.timeouts.get(&call.kind) {
            sending = sending.timeout(*timeout);
        }
        match sending.send().await {
            Ok(mut response) => {
                let (text, end) = read(&mut response).await;
                let hide = |text: String| match &prepared.hidden {
                    Some(hidden) => mask::without(&text, hidden),
                    None => text,
                };
                let (text, status, headers) = (hide(text), response.status(), response.headers());
                let now_ms = self.db.clock().now_ms();
                let came = Answer { status, headers, text: &text, end };
                let Reading { outcome, said, unsure } = answer::read(&self.targets, call, came, now_ms);
                let answer = Some(hide(mask::answer(status, headers, &text)));
                Attempt { http_status: Some(i64::from(status.as_u16())), outcome, request, answer, said, unsure }
            }
            // Without a connection nothing was sent.
            Err(error) => {
                let unsure = !error.is_connect();
                Attempt { request, unsure, ..Attempt::failed(again(describe(error))) }
            }
        }
    }

    async fn prepare(&self, call: &Delivery) -> Result<(Prepared, HeaderMap), Unprepared> {
        let prepared = self.targets.prepare(call)?;
        let headers = self.headers(call, &prepared);
        let mut headers =
            headers.ok_or_else(|| Unprepared::Never("the reference cannot be sent as a header".to_owned()))?;
        if call.kind == Kind::Merchant {
            headers.extend(webhook::headers(&self.db, &call.reference, &prepared.body).await?);
        }
        Ok((prepared, headers))
    }

    /// All that is sent besides the body; none when the reference cannot be.
    fn headers(&self, call: &Delivery, prepared: &Prepared) -> Option<HeaderMap> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let key = match call.kind {
            // A reference of messages to users is an event's id, which may come from outside.
            Kind::Sms => call.id.to_string(),
            Kind::ChannelSubmit => submission_key(&call.reference, &call.body),
            _ => call.reference.clone(),
        };
        headers.insert(IDEMPOTENCY_HEADER, HeaderValue::from_str(&key).ok()?);
        if !prepared.secret.expose_secret().is_empty() {
            let timestamp_s = self.db.clock().now_ms() / 1000;
            headers.extend(sign::headers(&prepared.secret, timestamp_s, prepared.body.as_bytes()));
            if prepared.spoil_signature {
                headers.insert(SIGNATURE_HEADER, HeaderValue::from_static(NO_SIGNATURE));
            }
        }
        if let Some(trace) = call.trace.as_deref().and_then(|trace| HeaderValue::from_str(trace).ok()) {
            headers.insert("traceparent", trace);
        }
        Some(headers)
    }
}

/// What came of an attempt.
struct Attempt {
    http_status: Option<i64>,
    outcome: Outcome,
    request: Option<String>,
    answer: Option<String>,
    said: Option<Said>,
    unsure: bool,
}

impl Attempt {
    fn failed(outcome: Outcome) -> Self {
        Self { http_status: None, outcome, request: None, answer: None, said: None, unsure: false }
    }
}

fn again(error: String) -> Outcome {
    Outcome::Again { error, retry_after_ms: None }
}

/// Reads the answer, so that its connection can be used again, and how it ended. Where the status says all that counts,
/// an answer that breaks off is still an answer.
async fn read(response: &mut Response) -> (String, End) {
    let mut body = Vec::new();
    let end = loop {
        match response.chunk().await {
            Ok(None) if is_measured(response) => break End::Whole,
            Ok(None) => break End::Connection,
            Err(_) => break End::Torn,
            Ok(Some(chunk)) => {
                let room = ANSWER_MAX_BYTES - body.len();
                body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
                if chunk.len() > room {
                    break End::Torn;
                }
            }
        }
    };
    (String::from_utf8_lossy(&body).into_owned(), end)
}

/// Whether an answer says where its body ends (RFC 9112, 6.3). If not, the end of the connection is its end, and cannot be
/// told from a connection that breaks off.
fn is_measured(response: &Response) -> bool {
    let chunked = response.headers().get_all(header::TRANSFER_ENCODING).iter().next_back();
    let chunked = chunked.and_then(|value| value.to_str().ok()?.rsplit(',').next());
    response.status() == StatusCode::NO_CONTENT
        || response.headers().contains_key(header::CONTENT_LENGTH)
        || chunked.is_some_and(|last| last.trim().eq_ignore_ascii_case("chunked"))
        || response.version() > Version::HTTP_11
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
