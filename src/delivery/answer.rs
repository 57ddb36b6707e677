//! What an answer means.

use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;

use super::record::Said;
use super::schedule::Outcome;
use super::target::Targets;
use super::{mask, query};
use crate::db::delivery::Delivery;
use crate::domain::call::Kind;

/// A target that asks for more than this is asked again after this, ms.
const RETRY_AFTER_MAX_MS: i64 = 3_600_000;

/// So much of a refusal is kept for people.
const EXCERPT_CHARS: usize = 200;

/// What an answer (its status, headers and text) means for its call, and what it says beyond that.
pub(super) fn read(
    targets: &Targets,
    call: &Delivery,
    (status, headers, text): (StatusCode, &HeaderMap, &str),
    now_ms: i64,
) -> (Outcome, Option<Said>) {
    let declined = declined(call.kind, status, text);
    match (call.kind, judge(call.kind, status, headers, now_ms, &excerpt(text))) {
        (Kind::ChannelQuery | Kind::RefundQuery, Outcome::Delivered) => {
            query::read(targets, call, headers, text, now_ms)
        }
        (Kind::ChannelRefund, outcome) => of_refund(outcome, declined),
        (_, outcome) => (outcome, declined.map(Said::Declined)),
    }
}

/// What an answer means for a refund. Its money is free again once it counts as refused, so only the channel's own word
/// refuses it: what a proxy, a gateway or a missing key answers is no word about the money, and it is asked for again.
fn of_refund(outcome: Outcome, declined: Option<String>) -> (Outcome, Option<Said>) {
    match (outcome, declined) {
        (_, Some(why)) => {
            (Outcome::Refused(format!("the channel refuses it: {}", excerpt(&why))), Some(Said::Declined(why)))
        }
        (Outcome::Refused(error), None) => (Outcome::Again { error, retry_after_ms: None }, None),
        (outcome, None) => (outcome, None),
    }
}

/// An answer with this status leaves open whether the other side did what it was asked to.
pub(super) fn is_unsure(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT
}

/// The beginning of an answer, on one line.
fn excerpt(text: &str) -> String {
    let text = mask::body(text.trim());
    text.chars().take(EXCERPT_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// What a status means. RFC 9110: 408, 425 and 429 ask for another attempt, other client errors do not; but merchants
/// mend their servers, so only 410 ends a call to one (Standard Webhooks), and some say "success" in their own way.
fn judge(kind: Kind, status: StatusCode, headers: &HeaderMap, now_ms: i64, excerpt: &str) -> Outcome {
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

/// Why the warehouse will not send an order, or the channel will not give money back: its answer 409 or 422 (of a channel
/// also 200) with `{"refused": true, "reason": ...}`. Any other refusal is of the call, not of what it asks for.
fn declined(kind: Kind, status: StatusCode, text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        refused: bool,
        #[serde(default)]
        reason: Option<String>,
    }
    let may_refuse = match kind {
        Kind::Warehouse => matches!(status, StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY),
        Kind::ChannelRefund => {
            matches!(status, StatusCode::OK | StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY)
        }
        _ => false,
    };
    if !may_refuse {
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn only_the_word_of_the_channel_refuses_a_refund() {
        let no = r#"{"refused": true, "reason": "the card is closed"}"#;
        let targets = Targets::new(std::collections::BTreeMap::new(), "s".to_owned().into());
        let call = Delivery {
            id: 1,
            kind: Kind::ChannelRefund,
            reference: "2".to_owned(),
            order_id: 3,
            url: "http://bank/refund".to_owned(),
            body: "{}".to_owned(),
            attempts: 0,
            next_at: 0,
            trace: None,
        };
        let read = |status: u16, text: &str| {
            read(&targets, &call, (StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), text), 0)
        };
        for status in [200, 409, 422] {
            assert!(matches!(read(status, no), (Outcome::Refused(_), Some(Said::Declined(_)))), "{status}");
        }
        for (status, text) in
            [(401, no), (404, no), (500, no), (409, "{}"), (422, "closed"), (422, r#"{"refused": false}"#)]
        {
            assert!(matches!(read(status, text), (Outcome::Again { .. }, None)), "{status} {text}");
        }
        assert_eq!(read(200, "{}"), (Outcome::Delivered, None));
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
