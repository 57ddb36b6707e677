//! The outermost layer: counts requests by route, and makes a problem document of every error answer.

use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, to_bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::{MEDIA_TYPE, Problem};
use crate::telemetry::Metrics;

/// How much of a plain-text error (of axum or a layer) is taken over as the detail.
const DETAIL_MAX_BYTES: usize = 4096;

/// The route label of requests that no route took.
const UNMATCHED: &str = "unmatched";

pub(super) async fn observe(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = as_problem(next.run(request).await, &path).await;
    let route = route.as_ref().map_or(UNMATCHED, MatchedPath::as_str);
    let took = started.elapsed();
    metrics.request(route, method_label(method.as_str()), response.status().as_u16(), took);
    tracing::debug!(route, %method, status = response.status().as_u16(), took_us = took.as_micros(), "request");
    response
}

/// A caller may invent methods; label values must not grow with them.
fn method_label(method: &str) -> &'static str {
    ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]
        .into_iter()
        .find(|known| *known == method)
        .unwrap_or("other")
}

async fn as_problem(mut response: Response, path: &str) -> Response {
    if let Some(mut problem) = response.extensions_mut().remove::<Problem>() {
        problem.instance.get_or_insert_with(|| path.into());
        return with_body(response, timed(problem));
    }
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    // JSON errors of handlers (readyz) say what they mean.
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if !is_error || content_type.is_some_and(|kind| kind.starts_with("application/")) {
        return response;
    }
    let body = std::mem::take(response.body_mut());
    let text = to_bytes(body, DETAIL_MAX_BYTES).await.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let mut problem = plain(status, text.unwrap_or_default());
    problem.instance = Some(path.into());
    with_body(response, timed(problem))
}

/// Whoever is to come again is told when.
fn timed(problem: Problem) -> Problem {
    match problem.status {
        429 | 503 | 504 if problem.retry_after.is_none() => problem.retry_after(1),
        _ => problem,
    }
}

/// Keeps the headers that layers added, such as `Allow`.
fn with_body(mut response: Response, problem: Problem) -> Response {
    let fresh = problem.into_response();
    let (parts, body) = fresh.into_parts();
    *response.body_mut() = body;
    *response.status_mut() = parts.status;
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.extend(parts.headers);
    response
}

/// The problem for an answer that axum or a layer gave as plain text, or with no body.
fn plain(status: StatusCode, text: String) -> Problem {
    let (word, default) = match status {
        StatusCode::NOT_FOUND => ("not-found", "there is nothing at this path; /docs shows what there is"),
        StatusCode::METHOD_NOT_ALLOWED => ("method-not-allowed", "this path does not take this method; see Allow"),
        StatusCode::PAYLOAD_TOO_LARGE => return super::json::too_large(),
        StatusCode::GATEWAY_TIMEOUT => return timed_out(),
        StatusCode::BAD_REQUEST => ("bad-request", "the request cannot be read"),
        _ if status.is_server_error() => ("internal", "something went wrong here"),
        _ => ("refused", "the request was refused"),
    };
    Problem::new(status, word, if text.is_empty() { default.to_owned() } else { text })
}

fn timed_out() -> Problem {
    let detail = "the request took too long (http.request_timeout); it may still have happened: repeat it with the same Idempotency-Key";
    Problem::new(StatusCode::GATEWAY_TIMEOUT, "timeout", detail).retry_after(1)
}

/// The answer of a handler that panicked.
pub(super) fn panicked(cause: Box<dyn std::any::Any + Send + 'static>) -> Response<Body> {
    let text = cause.downcast_ref::<&str>().copied().or_else(|| cause.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = text.unwrap_or("(no text)"), "a request handler panicked");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "something went wrong here; it has been logged")
        .into_response()
}
