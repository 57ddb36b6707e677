//! Signatures of calls and callbacks: `X-Ruyi-Signature` is the hex HMAC-SHA256 of `<timestamp>.<raw body>`, where
//! `X-Ruyi-Timestamp` is in epoch seconds.

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

/// Header with the time of signing, epoch seconds.
pub const TIMESTAMP_HEADER: &str = "x-ruyi-timestamp";

/// Header with the signature, hex.
pub const SIGNATURE_HEADER: &str = "x-ruyi-signature";

/// Why a signature does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// A header is not there, or twice.
    #[error("the header {0} must be there, once")]
    Missing(&'static str),
    /// A header that cannot be read.
    #[error("the header {0} cannot be read")]
    Malformed(&'static str),
    /// Signed too long ago, or in the future.
    #[error("X-Ruyi-Timestamp (epoch seconds) is too far from our time")]
    Time,
    /// Another body, another time or another secret.
    #[error("the signature does not match")]
    Mismatch,
}

/// The signature of `body` at `timestamp_s`, hex.
#[must_use]
pub fn sign(secret: &SecretString, timestamp_s: i64, body: &[u8]) -> String {
    hex::encode(mac(secret, &timestamp_s.to_string(), body).finalize().into_bytes())
}

/// The headers that say who sends `body`, and when.
#[must_use]
pub fn headers(secret: &SecretString, timestamp_s: i64, body: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(TIMESTAMP_HEADER, HeaderValue::from(timestamp_s));
    if let Ok(signature) = HeaderValue::from_str(&sign(secret, timestamp_s, body)) {
        headers.insert(SIGNATURE_HEADER, signature);
    }
    headers
}

/// Checks the signature in `headers` of the raw `body`, in constant time.
///
/// # Errors
/// [`SignatureError`]: nothing in the body may be believed.
pub fn verify(
    secret: &SecretString,
    headers: &HeaderMap,
    body: &[u8],
    now_ms: i64,
    tolerance_ms: i64,
) -> Result<(), SignatureError> {
    let (timestamp, _, signature) = read(headers)?;
    mac(secret, timestamp, body).verify_slice(&signature).map_err(|_| SignatureError::Mismatch)?;
    signed_at(headers, now_ms, tolerance_ms)
}

/// Checks what `headers` alone say: that something is signed, at a time not too far from ours.
///
/// # Errors
/// [`SignatureError`]: there is no body that could be believed.
pub fn signed_at(headers: &HeaderMap, now_ms: i64, tolerance_ms: i64) -> Result<(), SignatureError> {
    let (_, signed_ms, _) = read(headers)?;
    if signed_ms.abs_diff(now_ms) > tolerance_ms.unsigned_abs() { Err(SignatureError::Time) } else { Ok(()) }
}

/// The timestamp as it stands there and in epoch ms, and the signature.
fn read(headers: &HeaderMap) -> Result<(&str, i64, Vec<u8>), SignatureError> {
    let timestamp = only(headers, TIMESTAMP_HEADER)?;
    let signature =
        hex::decode(only(headers, SIGNATURE_HEADER)?).map_err(|_| SignatureError::Malformed(SIGNATURE_HEADER))?;
    let signed_ms = timestamp
        .parse::<i64>()
        .ok()
        .and_then(|seconds| seconds.checked_mul(1000))
        .ok_or(SignatureError::Malformed(TIMESTAMP_HEADER))?;
    Ok((timestamp, signed_ms, signature))
}

/// [`verify`] with whichever of these secrets signed.
///
/// # Errors
/// That of the last one.
pub fn verify_any<'s>(
    secrets: impl Iterator<Item = &'s SecretString>,
    headers: &HeaderMap,
    body: &[u8],
    now_ms: i64,
    tolerance_ms: i64,
) -> Result<(), SignatureError> {
    let mut last = Err(SignatureError::Mismatch);
    for secret in secrets {
        last = verify(secret, headers, body, now_ms, tolerance_ms);
        if last != Err(SignatureError::Mismatch) {
            break;
        }
    }
    last
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
fn mac(secret: &SecretString, timestamp: &str, body: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes()).expect("a key of any length");
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body);
    mac
}

fn only<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<&'h str, SignatureError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().map_err(|_| SignatureError::Malformed(name)),
        _ => Err(SignatureError::Missing(name)),
    }
}
