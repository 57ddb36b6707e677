//! JSON bodies in, with every way to get one wrong answered by a problem document.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, OptionalFromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// A JSON body. 415 for another or no content type, 413 when it is too large, 408 when it does not come, 400 when it is
/// not JSON (with line and column), 422 when a field has the wrong type or is missing (with the field).
#[derive(Clone, Copy, Debug)]
pub struct ApiJson<T>(pub T);

impl<T, S> FromRequest<S> for ApiJson<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "send JSON, with the header Content-Type: application/json",
            ));
        }
        parse(&read_body(request).await?).map(Self)
    }
}

/// A body that may be left out: `None` where there is neither a content type nor a body.
impl<T, S> OptionalFromRequest<S> for ApiJson<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, Problem> {
        let empty = request.headers().get(header::CONTENT_LENGTH).is_none_or(|length| length.as_bytes() == b"0");
        if empty && !request.headers().contains_key(header::TRANSFER_ENCODING) {
            return Ok(None);
        }
        <Self as FromRequest<S>>::from_request(request, state).await.map(Some)
    }
}

/// How long the body of a request may take; set by the limits of the server.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyTime(pub Duration);

/// The whole body of a request.
///
/// # Errors
/// 413 when it is too large, 408 when it does not come in time, 400 when it cannot be read.
pub async fn read_body(request: Request) -> Result<Bytes, Problem> {
    let limit = request.extensions().get().map_or(Duration::MAX, |BodyTime(limit)| *limit);
    let read = tokio::time::timeout(limit, Bytes::from_request(request, &())).await.map_err(|_| too_late())?;
    read.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large(),
        _ => Problem::bad_request(format!("the body cannot be read: {}", rejection.body_text())),
    })
}

/// 408.
fn too_late() -> Problem {
    Problem::new(
        StatusCode::REQUEST_TIMEOUT,
        "request-timeout",
        "the body did not come within half of http.request_timeout, and nothing was done: send all of it, and sooner",
    )
}

/// 413.
pub(super) fn too_large() -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too-large",
        "the body is larger than this server takes (http.body_limit)",
    )
}

/// Reads one JSON value, and nothing after it.
///
/// # Errors
/// 400 when it is not JSON, 422 when a field has the wrong type or is missing.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    // serde would take the values of an array for the fields of an object, in their order.
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        return Err(Problem::invalid("the body must be a JSON object, not an array (line 1)"));
    }
    if let Some(at) = nul(body) {
        let line = body.iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
        return Err(Problem::invalid(format!(
            "a text has the character U+0000, which no database keeps (line {line})"
        )));
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let problem = describe(error.inner());
        if path == "." || error.inner().is_syntax() || error.inner().is_eof() {
            return problem;
        }
        let detail = without_position(error.inner());
        problem.field(path, detail)
    })?;
    reader.end().map_err(|error| describe(&error))?;
    Ok(value)
}

/// Where a JSON text has the character U+0000, which stands there in one way only: `\\u0000`.
fn nul(body: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'\\', body.get(at..)?) {
        at += found;
        if body.get(at + 1..at + 6) == Some(b"u0000".as_slice()) {
            return Some(at);
        }
        // Past what it escapes, which may be another backslash.
        at += 2;
    }
    None
}

fn describe(error: &serde_json::Error) -> Problem {
    let at = format!("line {}, column {}", error.line(), error.column());
    match error.classify() {
        serde_json::error::Category::Data => Problem::invalid(format!("{} ({at})", without_position(error))),
        _ => Problem::bad_request(format!("not valid JSON: {} ({at})", without_position(error))),
    }
}

/// `serde_json` ends its messages with the position, which is told once already.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(message, _)| message.to_owned())
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}
