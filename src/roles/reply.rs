//! What the APIs of all roles share: reading ids, and answering what a group writer came back with.

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;

use crate::config::Config;
use crate::db::group::{Bounds, GroupError};
use crate::db::requests::RequestKey;
use crate::db::{Db, DbError};
use crate::delivery::sign;
use crate::domain::event::CacheKind;
use crate::domain::id::{ParseError, parse_id, unpadded};
use crate::http::{Caller, Problem, read_body};

/// Requests that may wait for a group writer before it refuses.
const WAITING: usize = 4_096;

/// What a group writer of an API takes on, `batch` requests in a transaction.
#[must_use]
pub fn bounds(config: &Config, batch: usize) -> Bounds {
    Bounds { waiting: WAITING, batch, patience: config.http.queue_wait.duration(), writers: 1 }
}

/// Reads a path parameter.
///
/// # Errors
/// A 400 problem that names the field.
pub fn path<T: std::str::FromStr<Err = ParseError>>(field: &'static str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|error: ParseError| Problem::bad_request(error.to_string()).field(field, error.to_string()))
}

/// How many rows a page is to have: what was asked for, 1 to `most`, else 20.
///
/// # Errors
/// A 400 problem.
pub fn limit(asked: Option<i64>, most: i64) -> Result<i64, Problem> {
    match asked.unwrap_or(20) {
        limit if (1..=most).contains(&limit) => Ok(limit),
        _ => Err(Problem::bad_request(format!("limit must be 1 to {most}")).field("limit", "out of range")),
    }
}

/// The row that a page begins behind, newest first; without one it begins with the newest.
///
/// # Errors
/// A 400 problem.
pub fn before(text: Option<&str>) -> Result<i64, Problem> {
    let before = text.map(|text| parse_id("before", text)).transpose();
    let before = before.map_err(|error| Problem::bad_request(error.to_string()).field("before", error.to_string()))?;
    Ok(before.unwrap_or(i64::MAX))
}

/// What the page after this one begins behind; none when this was the last.
pub fn next<T>(rows: &[T], limit: i64, place: impl FnOnce(&T) -> String) -> Option<String> {
    let is_full = i64::try_from(rows.len()) == Ok(limit);
    rows.last().filter(|_| is_full).map(place)
}

/// The JSON of something in its version, for [`cached`].
///
/// # Errors
/// None in practice.
pub fn versioned(version: i64, view: &impl Serialize) -> Result<(i64, Bytes), Problem> {
    let body = serde_json::to_vec(view).map_err(|error| Problem::internal(&error))?;
    Ok((version, body.into()))
}

/// The answer with a thing's JSON, from the cache of `db` where it has one; `None` when there is no such thing.
///
/// # Errors
/// What `load` says.
pub async fn cached<F>(db: &Db, kind: CacheKind, key: &str, load: F) -> Result<Option<Response>, Problem>
where
    F: Future<Output = Result<Option<(i64, Bytes)>, Problem>>,
{
    let body = match db.cache() {
        Some(cache) => cache.read(kind, key, load).await?,
        None => load.await?.map(|(_, body)| body),
    };
    Ok(body.map(|body| ([(header::CONTENT_TYPE, "application/json")], body).into_response()))
}

/// The trace of a request: its `traceparent`, if it has the form of W3C Trace Context.
#[must_use]
pub fn trace(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |part: &str, length| part.len() == length && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    match parts.as_slice() {
        [version, trace, parent, flags, ..]
            if hex(version, 2) && hex(trace, 32) && hex(parent, 16) && hex(flags, 2) && text.len() <= 128 =>
        {
            Some(text.to_owned())
        }
        _ => None,
    }
}

/// The `Idempotency-Key` of a request, if it has one.
///
/// # Errors
/// A 400 problem for one that is none.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = unpadded(value.to_str().unwrap_or_default());
    if key.is_empty() || key.len() > 128 {
        let detail = "Idempotency-Key must have 1 to 128 visible ASCII characters";
        return Err(Problem::bad_request(detail).field("Idempotency-Key", detail));
    }
    Ok(Some(key.to_owned()))
}

/// Tells that the answer is that of an earlier request.
pub const REPLAYED: [(&str, &str); 1] = [("idempotency-replayed", "true")];

/// The key of a request that does `action`, if it has one; `request` is all that it asks for.
///
/// # Errors
/// A 400 problem for one that is none.
pub fn request_key(
    action: &str,
    caller: &Caller,
    headers: &HeaderMap,
    request: &str,
) -> Result<Option<RequestKey>, Problem> {
    let key = idempotency_key(headers)?;
    Ok(key.map(|key| RequestKey::new(action, &caller.name, &key, request)))
}

/// The answer to a request whose key belongs to another one.
#[must_use]
pub fn key_reused() -> Problem {
    Problem::invalid("this Idempotency-Key was used for another request")
        .field("Idempotency-Key", "belongs to another request")
}

/// The body of a request that is signed. What is not signed at all, or too long ago, is refused before it is read.
///
/// # Errors
/// 401 for headers of no signature; 400, 408 or 413 for a body that cannot be read.
pub async fn signed_body(request: Request, now_ms: i64, tolerance_ms: i64) -> Result<(HeaderMap, Bytes), Problem> {
    sign::signed_at(request.headers(), now_ms, tolerance_ms)
        .map_err(|error| Problem::unauthorized(error.to_string()))?;
    let headers = request.headers().clone();
    Ok((headers, read_body(request).await?))
}

/// The answer to a request that could not be written.
#[must_use]
pub fn not_written(error: &GroupError) -> Problem {
    match error {
        GroupError::Full => Problem::unavailable("too many requests are waiting: try again", 1),
        GroupError::Late => {
            Problem::unavailable("more requests come than can be written (http.queue_wait): try again", 1)
        }
        GroupError::Stopped => Problem::unavailable("this process is stopping: try again", 1),
        GroupError::Db(error) => from_db(error),
    }
}

/// The answer to a request that met an error of the database.
#[must_use]
pub fn from_db(error: &DbError) -> Problem {
    if error.is_outage() {
        tracing::warn!(%error, "request refused: the database is away");
        Problem::unavailable("the database cannot be reached: try again", 1)
    } else if error.is_locked() {
        tracing::warn!(%error, "request refused: a row that it needs is locked");
        Problem::unavailable("somebody else is changing the same: try again", 1)
    } else if error.is_passing() {
        tracing::error!(%error, "request refused: the database cannot do what it is asked to");
        Problem::unavailable("the database cannot do this now: try again", 5)
    } else if let DbError::TooLarge { bytes, max_bytes, .. } = error {
        let detail = format!("its message would be {bytes} bytes, {max_bytes} fit (mq.producer.max_message)");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
    } else {
        Problem::internal(error)
    }
}
