//! What an answer means, and when to try again.

use std::collections::HashMap;

use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;

use crate::config::{self, Millis};
use crate::domain::call::Kind;

/// A target that asks for more than this is asked again after this, ms.
const RETRY_AFTER_MAX_MS: i64 = 3_600_000;

/// What one attempt means for its call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Answered well.
    Delivered,
    /// May work later; the target may have said when, in ms from now.
    Again {
        /// Why it failed.
        error: String,
        /// Not before so many ms.
        retry_after_ms: Option<i64>,
    },
    /// Will never work.
    Refused(String),
    /// Not tried: it is too early for it.
    Wait {
        /// Why.
        why: String,
        /// Until then, epoch ms.
        until_ms: i64,
    },
    /// Not tried, and never to be: there is nobody to be told, or who wants to be.
    Unsent(String),
    /// Not tried: its target has been left alone for too long.
    Expired(String),
}

/// What a status means. RFC 9110: 408, 425 and 429 ask for another attempt, other client errors do not; but merchants
/// mend their servers, so only 410 ends a call to one (Standard Webhooks), and some say "success" in their own way.
pub(super) fn judge(kind: Kind, status: StatusCode, headers: &HeaderMap, now_ms: i64, excerpt: &str) -> Outcome {
    let merchant = kind == Kind::Merchant;
    if status.is_success() || (merchant && !status.is_redirection() && excerpt.eq_ignore_ascii_case("success")) {
        return Outcome::Delivered;
    }
    let redirected = if status.is_redirection() { " (redirects are not followed)" } else { "" };
    let status_text = format!("HTTP {status}{redirected}");
    let error = if excerpt.is_empty() { status_text } else { format!("{status_text}: {excerpt}") };
    let again = status.is_server_error()
        || (merchant && status.is_client_error() && status != StatusCode::GONE)
        || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS);
    if again {
        Outcome::Again { error, retry_after_ms: retry_after(headers, now_ms) }
    } else if status.is_client_error() {
        Outcome::Refused(error)
    } else {
        // Redirects are not followed, they could lead anywhere: the address has to be set right first.
        Outcome::Again { error, retry_after_ms: None }
    }
}

/// Why the warehouse will not send an order: its answer 409 or 422 with `{"refused": true, "reason": ...}`. Any other
/// refusal is of the call, not of the order, and for a person.
pub(super) fn declined(kind: Kind, status: StatusCode, text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        refused: bool,
        #[serde(default)]
        reason: Option<String>,
    }
    if kind != Kind::Warehouse || !matches!(status, StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY) {
        return None;
    }
    let answer: Answer = serde_json::from_str(text).ok()?;
    answer.refused.then(|| answer.reason.unwrap_or_default())
}

/// `Retry-After`, seconds or an HTTP date (RFC 9110, 10.2.3), in ms from now and within bounds.
fn retry_after(headers: &HeaderMap, now_ms: i64) -> Option<i64> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait_ms = match text.parse::<i64>() {
        Ok(seconds) => seconds.saturating_mul(1000),
        Err(_) => jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_millisecond() - now_ms,
    };
    (wait_ms > 0).then(|| wait_ms.min(RETRY_AFTER_MAX_MS))
}

/// The waits between attempts.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    waits_ms: Vec<i64>,
    /// Largest part of a wait that is taken off, in thousandths.
    jitter: u64,
}

impl Schedule {
    /// `jitter` from 0 to 1.
    pub fn new(waits: &[Millis], jitter: f64) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000")]
        let jitter = (jitter.clamp(0.0, 1.0) * 1000.0) as u64;
        Self { waits_ms: waits.iter().map(|wait| wait.ms()).collect(), jitter }
    }

    /// How long to wait after failed attempt number `attempt` (from 1) of call `id`; `None` after the last one.
    ///
    /// The jitter is a hash of both: it spreads calls as well as random numbers would, and tests need none.
    pub fn wait_ms(&self, id: i64, attempt: i64, retry_after_ms: Option<i64>) -> Option<i64> {
        let index = usize::try_from(attempt.checked_sub(1)?).ok()?;
        let wait_ms = *self.waits_ms.get(index)?;
        let share = mix(id.unsigned_abs() ^ attempt.unsigned_abs().rotate_left(48)) % (self.jitter + 1);
        let off_ms = wait_ms / 1000 * i64::try_from(share).unwrap_or(0);
        Some((wait_ms - off_ms).max(retry_after_ms.unwrap_or(0)))
    }
}

/// The schedule of each kind of call.
#[derive(Clone, Debug)]
pub(super) struct Schedules {
    general: Schedule,
    kinds: HashMap<Kind, Schedule>,
}

impl Schedules {
    /// As configured.
    pub fn of(config: &config::Delivery) -> Self {
        let one = |waits: &[Millis]| Schedule::new(waits, config.jitter);
        let own =
            config.kinds.iter().filter_map(|(name, kind)| Some((Kind::from_name(name)?, kind.schedule.as_ref()?)));
        Self { general: one(&config.schedule), kinds: own.map(|(kind, waits)| (kind, one(waits))).collect() }
    }

    /// See [`Schedule::wait_ms`].
    pub fn wait_ms(&self, kind: Kind, id: i64, attempt: i64, retry_after_ms: Option<i64>) -> Option<i64> {
        self.kinds.get(&kind).unwrap_or(&self.general).wait_ms(id, attempt, retry_after_ms)
    }
}

/// The finalizer of splitmix64: every bit of the input moves every bit of the output.
fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_follow_the_schedule_less_their_jitter() {
        let schedule = Schedule::new(&[Millis::new(10_000), Millis::new(30_000)], 0.2);
        for id in 1..500 {
            let wait_ms = schedule.wait_ms(id, 1, None).unwrap();
            assert!((8_000..=10_000).contains(&wait_ms), "{wait_ms}");
        }
        assert_eq!(schedule.wait_ms(1, 3, Some(5)), None);
        assert_eq!(schedule.wait_ms(1, 2, Some(90_000)), Some(90_000));
    }

    #[test]
    fn statuses() {
        let judge =
            |status: u16| judge(Kind::Warehouse, StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), 0, "");
        let merchant = |status: u16, text: &str| {
            super::judge(Kind::Merchant, StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), 0, text)
        };
        assert_eq!(judge(204), Outcome::Delivered);
        for again in [408, 425, 429, 500, 503, 599, 302] {
            assert!(matches!(judge(again), Outcome::Again { .. }), "{again}");
        }
        for refused in [400, 401, 404, 409, 422] {
            assert!(matches!(judge(refused), Outcome::Refused(_)), "{refused}");
        }
        assert_eq!((merchant(200, "whatever"), merchant(500, "SUCCESS")), (Outcome::Delivered, Outcome::Delivered));
        for again in [302, 401, 404, 500] {
            let text = if again == 302 { "success" } else { "" };
            assert!(matches!(merchant(again, text), Outcome::Again { .. }), "{again}");
        }
        assert!(matches!(merchant(410, ""), Outcome::Refused(_)));
    }

    #[test]
    fn retry_after_in_seconds_and_as_a_date() {
        let after = |text: &str, now_ms| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers, now_ms)
        };
        assert_eq!(after("120", 0), Some(120_000));
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT", 1_445_412_470_000), Some(10_000));
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT", 1_445_412_490_000), None);
        assert_eq!(after("99999999999999999", 0), Some(RETRY_AFTER_MAX_MS));
        assert_eq!(after("soon", 0), None);
    }
}
