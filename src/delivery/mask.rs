//! What people may see of a call: without secrets and personal data, and not too long.

use http::HeaderMap;
use serde_json::Value;
use url::Url;

use crate::domain::call::Kind;

/// What stands for a secret.
const MASK: &str = "***";

/// So much of a body is kept, in characters.
const BODY_CHARS: usize = 2_000;

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
    }
}
