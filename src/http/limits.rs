//! Overload is answered at once, before memory grows: body size, rate, concurrency, time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::error_handling::HandleErrorLayer;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{BoxError, Router};
use futures_util::StreamExt;
use tokio::time::Instant;
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;

use super::json::too_large;
use super::problem::Problem;
use crate::cache::SharedRate;
use crate::config::Http;

/// Seconds that a refused caller is asked to wait.
const RETRY_AFTER_SECONDS: u32 = 1;

/// A body over the limit is read and dropped up to this many times the limit, so that its sender, who writes before it
/// reads, sees the answer instead of a reset connection.
const DRAIN_FACTOR: usize = 4;

/// The limits of one server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest request body, bytes.
    pub body_bytes: usize,
    /// Requests in work at once.
    pub concurrency: usize,
    /// Requests per second; 0 is no limit.
    pub per_second: u32,
    /// One request.
    pub timeout: Duration,
    /// Open connections; more wait in the kernel's queue.
    pub connections: usize,
    /// How long a connection may take to send the head of its next request.
    pub idle: Duration,
}

impl From<&Http> for Limits {
    fn from(http: &Http) -> Self {
        Self {
            body_bytes: http.body_limit.as_usize(),
            concurrency: http.concurrency,
            per_second: http.rate_limit,
            timeout: http.request_timeout.duration(),
            connections: http.connections,
            idle: http.idle_timeout.duration(),
        }
    }
}

impl Limits {
    /// Puts the limits around every route of `router`; they are shared by all of them.
    /// `shared` is asked first where there is one, and the limit of this process where that does not answer.
    pub(super) fn around(self, router: Router, shared: Option<SharedRate>) -> Router {
        let shed = ServiceBuilder::new()
            .layer(HandleErrorLayer::new(overloaded))
            .load_shed()
            .layer(GlobalConcurrencyLimitLayer::new(self.concurrency));
        let limited = router
            .layer(DefaultBodyLimit::disable())
            .layer(RequestBodyLimitLayer::new(self.body_bytes))
            .layer(middleware::from_fn_with_state(self.body_bytes, refuse_large))
            .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, self.timeout))
            .layer(shed);
        if self.per_second == 0 {
            return limited;
        }
        let rate = Rate { shared, own: Bucket::new(self.per_second) };
        limited.layer(middleware::from_fn_with_state(Arc::new(rate), refuse_fast))
    }
}

async fn overloaded(_: BoxError) -> Problem {
    Problem::unavailable("too many requests in work (http.concurrency)", RETRY_AFTER_SECONDS)
}

/// The rate limit: of all processes of the role while Redis answers, else of this one.
struct Rate {
    shared: Option<SharedRate>,
    own: Bucket,
}

impl Rate {
    async fn take(&self) -> bool {
        if let Some(shared) = &self.shared
            && let Some(granted) = shared.take().await
        {
            return granted;
        }
        self.own.take(Instant::now())
    }
}

async fn refuse_fast(State(rate): State<Arc<Rate>>, request: Request, next: Next) -> Response {
    if rate.take().await {
        next.run(request).await
    } else {
        Problem::too_many("more requests per second than allowed (http.rate_limit)", RETRY_AFTER_SECONDS)
            .into_response()
    }
}

async fn refuse_large(State(limit): State<usize>, request: Request, next: Next) -> Response {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    match length.and_then(|text| text.parse::<usize>().ok()) {
        Some(length) if length > limit => {
            // A caller that waits for "100 Continue" sends nothing until we read: it gets its answer right away.
            if !request.headers().contains_key(header::EXPECT) {
                drain(request.into_body(), limit.saturating_mul(DRAIN_FACTOR)).await;
            }
            too_large().into_response()
        }
        _ => next.run(request).await,
    }
}

async fn drain(body: Body, most: usize) {
    let mut stream = body.into_data_stream();
    let mut seen = 0_usize;
    while let Some(Ok(chunk)) = stream.next().await {
        seen = seen.saturating_add(chunk.len());
        if seen > most {
            break;
        }
    }
}

/// A token bucket that holds one second's worth.
struct Bucket {
    per_second: f64,
    state: Mutex<(f64, Option<Instant>)>,
}

impl Bucket {
    fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second);
        Self { per_second, state: Mutex::new((per_second, None)) }
    }

    fn take(&self, now: Instant) -> bool {
        // The two numbers are always a valid state, also after a panic elsewhere.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let since = state.1.map_or(0.0, |then| now.saturating_duration_since(then).as_secs_f64());
        let tokens = (state.0 + since * self.per_second).min(self.per_second);
        let granted = tokens >= 1.0;
        *state = (if granted { tokens - 1.0 } else { tokens }, Some(now));
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_one_second() {
        let (bucket, start) = (Bucket::new(2), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert!(bucket.take(at(0)) && bucket.take(at(0)) && !bucket.take(at(0)));
        assert!(!bucket.take(at(400)) && bucket.take(at(500)) && !bucket.take(at(500)));
        assert!(
            bucket.take(at(9_000)) && bucket.take(at(9_000)) && !bucket.take(at(9_000)),
            "not more than one second"
        );
        assert!(!bucket.take(at(0)), "time that runs backwards grants nothing");
    }
}
