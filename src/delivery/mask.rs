//! What people may see of a call: without secrets and personal data, and not too long.

use http::HeaderMap;
use serde_json::Value;
use url::Url;

use super::target::Targets;
use crate::domain::call::Kind;

/// What stands for a secret.
pub(super) const MASK: &str = "***";

/// So much of a body is kept, in characters.
const BODY_CHARS: usize = 2_000;

/// A number with these last digits of a user's phone is taken for it.
const PHONE_DIGITS: usize = 7;

/// So many headers are kept, and so much of each, in characters.
const HEADERS: usize = 40;
const HEADER_CHARS: usize = 200;

/// Headers whose values are kept. Others may carry anything.
const PLAIN_HEADERS: [&str; 14] = [
    "content-type",
    "content-length",
    "idempotency-key",
    "date",
    "location",
    "retry-after",
    "server",
    "traceparent",
    "user-agent",
    "webhook-id",
    "webhook-timestamp",
    "x-request-id",
    "x-ruyi-timestamp",
    "allow",
];

/// Names of fields whose values are not shown, as parts of the name in lower case without `_` and `-`.
const SECRET_NAMES: [&str; 15] = [
    "secret",
    "password",
    "passwd",
    "token",
    "authorization",
    "signature",
    "apikey",
    "accesskey",
    "privatekey",
    "phone",
    "mobile",
    "email",
    "address",
    "recipient",
    "idcard",
];

/// A request as people may see it.
pub(super) fn request(kind: Kind, address: &str, headers: &HeaderMap, text: &str) -> String {
    format!("POST {}\n{}\n{}", url(kind, address), self::headers(headers), body(text))
}

/// Host and port that a [`request`] on record went to; none where the record does not say.
#[must_use]
pub fn sent_to(request: &str) -> Option<String> {
    let (_, address) = request.lines().next()?.split_once(' ')?;
    Some(Targets::name(address).to_string())
}

/// An answer as people may see it.
pub(super) fn answer(status: http::StatusCode, headers: &HeaderMap, text: &str) -> String {
    format!("{status}\n{}\n{}", self::headers(headers), body(text))
}

/// An address without user, password and the values of its query. The whole path of an alert's address is a secret.
#[must_use]
pub fn url(kind: Kind, text: &str) -> String {
    let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
    let Ok(mut url) = Url::parse(path) else {
        // A path of this process, or nothing that can be called.
        return if query.is_some() { format!("{path}?{MASK}") } else { path.to_owned() };
    };
    if !url.username().is_empty() || url.password().is_some() {
        let _ = url.set_username("").and_then(|()| url.set_password(None));
    }
    url.set_fragment(None);
    if kind == Kind::Alert {
        return format!("{}/{MASK}", url.origin().ascii_serialization());
    }
    let names = query.map(|query| {
        let pairs = url::form_urlencoded::parse(query.as_bytes());
        pairs.map(|(name, _)| format!("{name}={MASK}")).collect::<Vec<_>>().join("&")
    });
    names.map_or_else(|| url.to_string(), |names| format!("{url}?{names}"))
}

fn headers(headers: &HeaderMap) -> String {
    let line = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        let plain = PLAIN_HEADERS.contains(&name.as_str());
        let shown = match value.to_str() {
            // Where a redirect leads may carry a token.
            Ok(text) if plain && name == http::header::LOCATION => url(Kind::Merchant, text),
            Ok(text) if plain => text.to_owned(),
            _ => MASK.to_owned(),
        };
        format!("{name}: {}\n", shown.chars().take(HEADER_CHARS).collect::<String>())
    };
    headers.iter().take(HEADERS).map(line).collect()
}

/// A body without the values of secret fields. What is no JSON is shown as it is, unless it names a secret.
#[must_use]
pub fn body(text: &str) -> String {
    let shown = match serde_json::from_str::<Value>(text) {
        Ok(mut value) => {
            hide(&mut value);
            value.to_string()
        }
        Err(_) if is_secret(text) => MASK.to_owned(),
        Err(_) => text.to_owned(),
    };
    shown.chars().take(BODY_CHARS).map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

/// A text without a user's phone number or e-mail address, however the other side has written it.
pub(super) fn without(text: &str, to: &str) -> String {
    match to.split_once('@') {
        Some((name, _)) => replace(&replace(text, to), name),
        None => without_phone(text, to),
    }
}

/// Without `word`, in upper or lower case.
fn replace(text: &str, word: &str) -> String {
    let (lower, word) = (text.to_ascii_lowercase(), word.to_ascii_lowercase());
    let (mut shown, mut from) = (String::with_capacity(text.len()), 0);
    while let Some(at) = lower.get(from..).and_then(|rest| rest.find(&word)).filter(|_| !word.is_empty()) {
        shown.push_str(text.get(from..from + at).unwrap_or_default());
        shown.push_str(MASK);
        from += at + word.len();
    }
    shown.push_str(text.get(from..).unwrap_or_default());
    shown
}

/// Without what has the last digits of the number, with or without what people put between them.
fn without_phone(text: &str, phone: &str) -> String {
    let digits = |part: &str| part.chars().filter(char::is_ascii_digit).collect::<String>();
    let all = digits(phone);
    let last = all.get(all.len().saturating_sub(PHONE_DIGITS)..).unwrap_or_default();
    let is_part = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | ' ' | '.' | '(' | ')');
    let (mut shown, mut run) = (String::with_capacity(text.len()), String::new());
    for c in text.chars().map(Some).chain([None]) {
        match c.filter(|c| is_part(*c)) {
            Some(c) => run.push(c),
            None => {
                shown.push_str(if !last.is_empty() && digits(&run).contains(last) { MASK } else { &run });
                run.clear();
                shown.extend(c);
            }
        }
    }
    shown
}

fn hide(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if is_secret(name) && !value.is_null() {
                    *value = Value::from(MASK);
                } else {
                    hide(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide),
        _ => {}
    }
}

fn is_secret(name: &str) -> bool {
    let plain: String = name.chars().filter(|c| !matches!(c, '_' | '-')).collect::<String>().to_lowercase();
    SECRET_NAMES.iter().any(|secret| plain.contains(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lose_what_lets_others_in() {
        let plain = |text| url(Kind::Merchant, text);
        assert_eq!(plain("/sandbox/orders"), "/sandbox/orders");
        assert_eq!(plain("https://u:p@shop.example/n?token=abc&id=7#x"), "https://shop.example/n?token=***&id=***");
        assert_eq!(url(Kind::Alert, "https://hooks.example/T0/B1/abc"), "https://hooks.example/***");
    }

    #[test]
    fn numbers_and_addresses_of_users_are_hidden() {
        for text in ["to +8613800138000", "(138) 0013-8000 is off", r#"{"mobile_no":"13800138000"}"#, "8613800138000"] {
            let shown = without(text, "+8613800138000");
            assert!(shown.contains(MASK) && !shown.contains("8000"), "{shown}");
        }
        assert_eq!(without("id 20260131-77 of 2", "+8613800138000"), "id 20260131-77 of 2");
        let shown = without("550 <Bob.Lee@Example.com> unknown; bob.lee=example.com; é", "bob.lee@example.com");
        assert_eq!(shown, "550 <***> unknown; ***=example.com; é");
    }

    #[test]
    fn bodies_and_headers_lose_their_secrets() {
        let shown = body(r#"{"orderId":"7","lines":[{"apiKey":"k","sku":"A"}],"phone":"138","secret":null}"#);
        let wanted = r#"{"lines":[{"apiKey":"***","sku":"A"}],"orderId":"7","phone":"***","secret":null}"#;
        let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(value(&shown), value(wanted));
        assert_eq!(body("no such SKU"), "no such SKU");
        assert_eq!(body("bad token abc"), MASK);
        assert_eq!(body(&"é".repeat(9_000)).chars().count(), BODY_CHARS);
        let mut sent = HeaderMap::new();
        sent.insert("webhook-signature", "v1,abc".parse().unwrap());
        sent.insert("webhook-id", "m1".parse().unwrap());
        sent.insert("set-cookie", "session=abc".parse().unwrap());
        let text = request(Kind::Merchant, "http://a.example/n", &sent, "{}");
        assert!(text.contains("webhook-id: m1\n") && text.contains("webhook-signature: ***\n"), "{text}");
        assert!(!text.contains("abc"), "{text}");
        assert_eq!(sent_to(&text).as_deref(), Some("a.example:80"));
        assert_eq!(sent_to("MAIL smtp://mail.example:25\nto: ***").as_deref(), Some("mail.example:25"));
        assert_eq!(sent_to(MASK), None);
    }
}
