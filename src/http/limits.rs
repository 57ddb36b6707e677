//! Overload is answered at once, before memory grows: body size, concurrency, time.

use std::time::Duration;

use axum::body::Body;
use axum::error_handling::HandleErrorLayer;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::uri::PathAndQuery;
use axum::http::{StatusCode, Version, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{BoxError, Extension, Router};
use futures_util::StreamExt;
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;

use super::json::{BodyTime, too_large};
use super::problem::{Problem, RETRY_AFTER_SECONDS};
use crate::config::Http;

/// A body over the limit is read and dropped up to this many times the limit, so that its sender, who writes before it
/// reads, sees the answer instead of a reset connection.
const DRAIN_FACTOR: usize = 4;

/// The body of a request has this part of its time: what is left is for the work.
const BODY_SHARE: u32 = 2;

/// The limits of one server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest request body, bytes.
    pub body_bytes: usize,
    /// Requests in work at once.
    pub concurrency: usize,
    /// One request.
    pub timeout: Duration,
    /// Its body, from when it is read: shorter than `timeout`, so that its sender is told whose fault it is.
    pub body: Duration,
    /// Open connections, beside a few for probes.
    pub connections: usize,
    /// How long a connection may wait for its next request.
    pub idle: Duration,
    /// How long it may take to send the head of one.
    pub head: Duration,
    /// How long it may take to take an answer.
    pub write: Duration,
}

impl From<&Http> for Limits {
    fn from(http: &Http) -> Self {
        Self {
            body_bytes: http.body_limit.as_usize(),
            concurrency: http.concurrency,
            timeout: http.request_timeout.duration(),
            body: http.request_timeout.duration() / BODY_SHARE,
            connections: http.connections,
            idle: http.idle_timeout.duration(),
            head: http.head_timeout.duration(),
            write: http.write_timeout.duration(),
        }
    }
}

impl Limits {
    /// Puts the limits around every route of `router`; they are shared by all of them.
    pub(super) fn around(self, router: Router) -> Router {
        let shed = ServiceBuilder::new()
            .layer(HandleErrorLayer::new(overloaded))
            .load_shed()
            .layer(GlobalConcurrencyLimitLayer::new(self.concurrency));
        router
            .layer(middleware::from_fn(refuse_odd))
            .layer(DefaultBodyLimit::disable())
            .layer(RequestBodyLimitLayer::new(self.body_bytes))
            .layer(middleware::from_fn_with_state(self, refuse_large))
            .layer(Extension(BodyTime(self.body)))
            .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, self.timeout))
            .layer(shed)
    }
}

async fn overloaded(_: BoxError) -> Problem {
    Problem::unavailable("too many requests in work (http.concurrency)", RETRY_AFTER_SECONDS)
}

/// Two hosts are two opinions of who is asked, and the character U+0000 is in nothing that is kept here.
async fn refuse_odd(request: Request, next: Next) -> Response {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return Problem::bad_request(format!("a request needs one Host header, this one has {hosts}")).into_response();
    }
    let target = request.uri().path_and_query().map_or("", PathAndQuery::as_str);
    if target.contains("%00") {
        return Problem::bad_request("the path or the query has the character U+0000 (%00)").into_response();
    }
    next.run(request).await
}

async fn refuse_large(State(limits): State<Limits>, request: Request, next: Next) -> Response {
    let limit = limits.body_bytes;
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    match length.and_then(|text| text.parse::<usize>().ok()) {
        Some(length) if length > limit => {
            // A caller that waits for "100 Continue" sends nothing until we read: it gets its answer right away.
            if !request.headers().contains_key(header::EXPECT) {
                let drained = drain(request.into_body(), limit.saturating_mul(DRAIN_FACTOR));
                // Whether the rest comes or not, the answer is the same.
                let _ = tokio::time::timeout(limits.body, drained).await;
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
