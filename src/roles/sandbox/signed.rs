//! Signed JSON bodies.

use axum::http::HeaderMap;
use secrecy::SecretString;
use serde::de::DeserializeOwned;

use crate::delivery::sign;
use crate::http::Problem;

/// The JSON in a signed body; times in epoch ms.
///
/// # Errors
/// 401 when the signature does not count, 422 when the body is not what it should be.
pub fn read_signed<T: DeserializeOwned>(
    secret: &SecretString,
    headers: &HeaderMap,
    body: &[u8],
    now_ms: i64,
    tolerance_ms: i64,
) -> Result<T, Problem> {
    sign::verify(secret, headers, body, now_ms, tolerance_ms)
        .map_err(|error| Problem::unauthorized(error.to_string()))?;
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        Problem::invalid("the body is not what it should be").field(path, error.inner().to_string())
    })?;
    reader.end().map_err(|error| Problem::bad_request(error.to_string()))?;
    Ok(value)
}
