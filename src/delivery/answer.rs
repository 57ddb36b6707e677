//! What an answer means.

use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::Value;

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

/// What came of a call, by its answer.
#[derive(Debug, PartialEq)]
pub(super) struct Reading {
    pub outcome: Outcome,
    /// What the answer says beyond that.
    pub said: Option<Said>,
    /// It leaves open whether the other side did what it was asked to: it neither says so, nor proves that it did not.
    pub unsure: bool,
}

/// How the body of an answer came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Where its length, or its last chunk, says so.
    Whole,
    /// With the connection, which may have broken off before.
    Connection,
    /// Before that, or behind all that is read of a body.
    Torn,
}

/// An answer as it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer<'a> {
    pub status: StatusCode,
    pub headers: &'a HeaderMap,
    /// What came of its body.
    pub text: &'a str,
    pub end: End,
}

/// What an answer means for its call.
pub(super) fn read(targets: &Targets, call: &Delivery, answer: Answer<'_>, now_ms: i64) -> Reading {
    let Answer { status, headers, text, .. } = answer;
    let outcome = judge(call.kind, status, headers, now_ms, &excerpt(text));
    // No payer is sent to pay by a submission that was refused, so no money comes of it. A refund needs nobody's hand.
    let is_turned_down = call.kind == Kind::ChannelSubmit && matches!(outcome, Outcome::Refused(_));
    let unsure = outcome != Outcome::Delivered && !is_turned_down && !is_proof_of_nothing(status);
    if matches!(call.kind, Kind::ChannelQuery | Kind::RefundQuery) && outcome == Outcome::Delivered {
        let (outcome, said) = query::read(targets, call, headers, text, now_ms);
        return Reading { outcome, said, unsure };
    }
    match word(call.kind, answer) {
        None => Reading { outcome, said: None, unsure },
        // What a proxy, a gateway or a missing key answers is no word about the money: it is asked for again.
        Some(Word::None) => {
            let outcome = match outcome {
                Outcome::Refused(error) => Outcome::Again { error, retry_after_ms: None },
                outcome => outcome,
            };
            Reading { outcome, said: None, unsure }
        }
        Some(Word::No(why)) => {
            let who = if call.kind.is_refund() { "channel" } else { "warehouse" };
            let outcome = Outcome::Refused(format!("the {who} refuses it: {}", excerpt(&why)));
            Reading { outcome, said: Some(Said::Declined(why)), unsure: false }
        }
        Some(Word::Unclear(what)) => {
            let error = format!("HTTP {status} and {what}, which is neither a yes nor a no: {}", excerpt(text));
            Reading { outcome: Outcome::Again { error, retry_after_ms: None }, said: None, unsure: true }
        }
    }
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

/// Whether a status says by itself that nothing was done: whoever answers with it has looked at the request, and did not
/// take it in. These few are given before a request is passed on, and for every repetition of it: 401 (RFC 9110, 15.5.2:
/// the request "has not been applied"), 407, 425 (RFC 8470: "unwilling to risk processing") and 429.
///
/// Others may come from between, after the other side has done it: a proxy turns its timeout into a redirect or an error
/// page (3xx, 404, 405, 5xx), a filter looks at the answer and gives a 403, a gateway repeats the request and passes on
/// what is said to the repetition (400, 409 and 422 without the other side's own word).
fn is_proof_of_nothing(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::UNAUTHORIZED
            | StatusCode::PROXY_AUTHENTICATION_REQUIRED
            | StatusCode::TOO_EARLY
            | StatusCode::TOO_MANY_REQUESTS
    )
}

/// The other side's own word about what it was asked for.
enum Word {
    /// Nothing in it speaks of that, so the status alone counts.
    None,
    /// It will not do it: why.
    No(String),
    /// What stands in the way of reading it.
    Unclear(String),
}

/// What the warehouse says about an order, and the channel about a refund; none of other calls, and of the warehouse
/// where it says nothing.
///
/// A no is `{"refused": true, "reason": ...}` with 409, 422 or a 2xx. Money that counts as given back is told to
/// everybody, and money that counts as refused may be asked for again. So a channel's 2xx is a yes only where it says so:
/// an empty body, `ok` or `success`, or an object in which nothing says otherwise. A body that did not come whole says
/// nothing: what is missing may be the no.
fn word(kind: Kind, answer: Answer<'_>) -> Option<Word> {
    let Answer { status, text, end, .. } = answer;
    let is_refund = match kind {
        Kind::ChannelRefund => true,
        Kind::Warehouse => false,
        _ => return None,
    };
    let nothing = is_refund.then_some(Word::None);
    let may_refuse = matches!(status, StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY);
    if !may_refuse && !status.is_success() {
        return nothing;
    }

    let text = text.trim_start_matches('\u{feff}').trim();
    let said = text.starts_with('{').then(|| serde_json::from_str::<Own>(text));
    // An object has an end of its own.
    if end == End::Torn || (end == End::Connection && !matches!(said, Some(Ok(_)))) {
        return Some(Word::Unclear("a body that may not have come whole".to_owned()));
    }
    let word = match said {
        Some(Ok(own)) if own.refused == Some(Value::Bool(true)) => return Some(Word::No(own.why())),
        _ if may_refuse => return nothing,
        Some(Ok(own)) => own.doubt(is_refund).map_or(nothing, |what| Some(Word::Unclear(what))),
        Some(Err(error)) => Some(Word::Unclear(format!("a body that cannot be read ({error})"))),
        None if text.starts_with('<') => Some(Word::Unclear("a page".to_owned())),
        None if is_refund && !["", "ok", "success"].contains(&text.to_ascii_lowercase().as_str()) => {
            Some(Word::Unclear("no JSON object".to_owned()))
        }
        None => nothing,
    };
    word.map(|word| match word {
        // It has been taken in, and that is all.
        Word::None if status == StatusCode::ACCEPTED => Word::Unclear("no word of its end".to_owned()),
        word => word,
    })
}

/// What an answer may say about what it was asked for; a name that is there twice says nothing.
#[derive(Deserialize)]
struct Own {
    refused: Option<Value>,
    reason: Option<Value>,
    refunded: Option<Value>,
    status: Option<Value>,
}

impl Own {
    fn why(self) -> String {
        match self.reason {
            None => String::new(),
            Some(Value::String(why)) => why,
            Some(other) => other.to_string(),
        }
    }

    /// What in it is no yes, and no clear no either.
    fn doubt(&self, is_refund: bool) -> Option<String> {
        let is_yes = |status: &Value| status.as_str().is_some_and(|text| text.eq_ignore_ascii_case("success"));
        let wrong = |name: &str, value: Option<&Value>, fine: &dyn Fn(&Value) -> bool| {
            let found = value.filter(|value| !fine(value))?;
            Some(format!("{name} {}", excerpt(&found.to_string())))
        };
        let refused = wrong("refused", self.refused.as_ref(), &|value| *value == Value::Bool(false));
        if !is_refund {
            return refused;
        }
        refused
            .or_else(|| wrong("refunded", self.refunded.as_ref(), &|value| *value == Value::Bool(true)))
            .or_else(|| wrong("status", self.status.as_ref(), &is_yes))
    }
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

    static NO_HEADERS: std::sync::LazyLock<HeaderMap> = std::sync::LazyLock::new(HeaderMap::new);

    /// One that came whole.
    fn answer(status: u16, text: &str) -> Answer<'_> {
        Answer { status: StatusCode::from_u16(status).unwrap(), headers: &NO_HEADERS, text, end: End::Whole }
    }

    fn to_bank() -> (Targets, Delivery) {
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
        (targets, call)
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
    fn only_the_word_of_the_channel_refuses_a_refund() {
        let no = r#"{"refused": true, "reason": "the card is closed"}"#;
        let (targets, call) = to_bank();
        let read = |status: u16, text: &str| read(&targets, &call, answer(status, text), 0);
        for status in [200, 409, 422] {
            let read = read(status, no);
            assert!(matches!((read.outcome, read.said), (Outcome::Refused(_), Some(Said::Declined(_)))), "{status}");
        }
        for (status, text) in
            [(401, no), (404, no), (500, no), (409, "{}"), (422, "closed"), (422, r#"{"refused": false}"#)]
        {
            let read = read(status, text);
            assert!(matches!((read.outcome, read.said), (Outcome::Again { .. }, None)), "{status} {text}");
        }
        for (status, text) in [(200, "{}"), (201, r#"{"refunded": true}"#), (204, ""), (200, "OK"), (200, "\u{feff}{}")]
        {
            assert_eq!(
                read(status, text),
                Reading { outcome: Outcome::Delivered, said: None, unsure: false },
                "{text}"
            );
        }
        for (status, text) in [
            (200, r#"{"refused": "true"}"#),
            (200, r#"{"refused": true, "reason": "a", "reason": "b"}"#),
            (200, r#"{"refused": true, "reason": "#),
            (200, r#"[{"refused": true}]"#),
            (200, r#"{"refunded": false}"#),
            (200, r#"{"status": "CLOSED"}"#),
            (202, r#"{"status": "PENDING"}"#),
            (202, ""),
            (200, "<html>login</html>"),
            (200, "no"),
        ] {
            let read = read(status, text);
            assert!(matches!(read.outcome, Outcome::Again { .. }) && read.unsure, "{status} {text}");
        }
        let why = r#"{"refused": true, "reason": {"code": "E1"}}"#;
        for (status, text) in [(200, why.to_owned()), (202, why.to_owned()), (200, format!("\u{feff}{why}"))] {
            assert_eq!(read(status, &text).said, Some(Said::Declined(r#"{"code":"E1"}"#.to_owned())), "{status}");
        }
    }

    #[test]
    fn only_few_statuses_prove_that_nothing_was_done() {
        let (targets, call) = to_bank();
        let is_unsure = |status: &u16| read(&targets, &call, answer(*status, ""), 0).unsure;
        let sure: Vec<u16> = (300..600).filter(|status| !is_unsure(status)).collect();
        assert_eq!(sure, [401, 407, 425, 429]);
        assert!(!is_unsure(&200) && is_unsure(&202));
        for status in [200, 409, 422] {
            assert!(!read(&targets, &call, answer(status, r#"{"refused": true}"#), 0).unsure, "{status}");
        }
    }

    #[test]
    fn a_refused_submission_is_in_no_doubt() {
        let (targets, call) = to_bank();
        let call = Delivery { kind: Kind::ChannelSubmit, ..call };
        let is_unsure = |status: &u16| read(&targets, &call, answer(*status, ""), 0).unsure;
        let unsure: Vec<u16> = (200..600).filter(is_unsure).collect();
        let wanted: Vec<u16> = (300..600).filter(|status| matches!(*status, 300..400 | 408 | 500..)).collect();
        assert_eq!(unsure, wanted);
    }

    #[test]
    fn a_warehouse_refuses_with_any_of_three_statuses() {
        let own = |status: u16, text: &str| word(Kind::Warehouse, answer(status, text));
        for status in [200, 202, 409, 422] {
            assert!(matches!(own(status, r#"{"refused": true}"#), Some(Word::No(_))), "{status}");
        }
        for (status, text) in [(200, ""), (202, "taken"), (200, r#"{"status": "PACKED"}"#), (409, "{}")] {
            assert!(own(status, text).is_none(), "{status} {text}");
        }
        for text in [r#"{"refused": 1}"#, "<html>", "{"] {
            assert!(matches!(own(200, text), Some(Word::Unclear(_))), "{text}");
        }
    }

    #[test]
    fn what_did_not_come_whole_says_nothing() {
        let (targets, call) = to_bank();
        let no = r#"{"refused": true}"#;
        for kind in [Kind::ChannelRefund, Kind::Warehouse] {
            let call = Delivery { kind, ..call.clone() };
            let read = |status: u16, text: &str, end| read(&targets, &call, Answer { end, ..answer(status, text) }, 0);
            for (status, text, end) in [
                (200, "", End::Torn),
                (200, "", End::Connection),
                (200, "\u{feff} ", End::Connection),
                (200, "ok", End::Connection),
                (200, "{}", End::Torn),
                (200, no, End::Torn),
                (422, no, End::Torn),
                (422, "{", End::Connection),
                (409, "", End::Torn),
            ] {
                let read = read(status, text, end);
                assert!(
                    matches!(read.outcome, Outcome::Again { .. }) && read.unsure,
                    "{kind:?} {status} {text} {end:?}"
                );
            }
            // An object ends by itself.
            assert!(matches!(read(422, no, End::Connection).said, Some(Said::Declined(_))), "{kind:?}");
            assert_eq!(read(200, "{}", End::Connection).outcome, Outcome::Delivered, "{kind:?}");
            // What is no word does not need its body.
            assert_eq!(read(503, "", End::Torn), read(503, "", End::Whole), "{kind:?}");
        }

        let merchant = Delivery { kind: Kind::Merchant, ..call };
        let torn = Answer { end: End::Torn, ..answer(200, "") };
        assert_eq!(super::read(&targets, &merchant, torn, 0).outcome, Outcome::Delivered);
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
