//! Calls to merchants, in the form of Standard Webhooks: `webhook-id`, `webhook-timestamp` and `webhook-signature`, one
//! signature for each secret that is valid now. The secrets are read when the call is made: no row, message or log has
//! them, and a rotation counts from its commit.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use standardwebhooks::{HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP, Webhook};

use super::target::Unprepared;
use crate::db::{Db, merchants};
use crate::domain::event::OrderNotify;
use crate::domain::id::{MerchantId, RefundId};
use crate::domain::money::Money;

/// Bytes of a secret: what Standard Webhooks allows is 24 to 64.
const SECRET_BYTES: usize = 32;

/// A new secret, as merchants are shown it (`whsec_...`).
#[must_use]
#[expect(clippy::disallowed_methods, reason = "a secret is chance, in tests as well")]
pub fn new_secret() -> SecretString {
    format!("whsec_{}", STANDARD.encode(rand::random::<[u8; SECRET_BYTES]>())).into()
}

/// Body of a call to a merchant.
#[derive(Serialize)]
struct Payload<'a> {
    #[serde(rename = "type")]
    what: String,
    timestamp: String,
    data: Data<'a>,
}

/// The event's fields; where it is told is the merchant's own affair.
#[derive(Serialize)]
struct Data<'a> {
    merchant_id: MerchantId,
    order_id: &'a str,
    order_no: &'a str,
    out_order_no: &'a str,
    money: Money,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    refund_id: Option<RefundId>,
}

/// What a merchant is told of `event`, which happened at `at_ms` (epoch ms): its type is `order.paid`, `order.refunded` or
/// `order.part_refunded`, its data the event's fields.
///
/// # Errors
/// None in practice.
pub fn payload(event: &OrderNotify, merchant_id: MerchantId, at_ms: i64) -> Result<String, serde_json::Error> {
    let data = Data {
        merchant_id,
        order_id: &event.order_id,
        order_no: &event.order_no,
        out_order_no: &event.out_order_no,
        money: event.money,
        status: &event.status,
        refund_id: event.refund_id,
    };
    let timestamp = Timestamp::from_millisecond(at_ms).unwrap_or(Timestamp::UNIX_EPOCH);
    let what = format!("order.{}", event.status.to_lowercase());
    serde_json::to_string(&Payload { what, timestamp: timestamp.to_string(), data })
}

#[derive(Deserialize)]
struct NamesMerchant {
    data: MerchantOf,
}

#[derive(Deserialize)]
struct MerchantOf {
    merchant_id: MerchantId,
}

/// The merchant that a body is for.
///
/// # Errors
/// It names none.
pub(super) fn merchant_of(body: &str) -> Result<MerchantId, serde_json::Error> {
    Ok(serde_json::from_str::<NamesMerchant>(body)?.data.merchant_id)
}

/// The headers that sign a call to a merchant, with the secrets that it has now.
pub(super) async fn headers(db: &Db, id: &str, body: &str) -> Result<HeaderMap, Unprepared> {
    let never = |why: String| Unprepared::Never(why);
    let merchant_id = merchant_of(body).map_err(|error| never(format!("the body names no merchant: {error}")))?.0;
    let later = |_| Unprepared::Later("the merchant's secrets cannot be read now");
    let mut conn = db.read().await.map_err(later)?;
    let found = merchants::get(&mut conn, vec![merchant_id]).await.map_err(later)?;
    drop(conn);
    let merchant = found.get(&merchant_id).ok_or_else(|| never(format!("there is no merchant {merchant_id}")))?;
    let now_ms = db.clock().now_ms();
    signed(&merchant.secrets(now_ms), id, now_ms / 1_000, body).map_err(never)
}

fn signed(secrets: &[SecretString], id: &str, at_s: i64, body: &str) -> Result<HeaderMap, String> {
    let sign = |secret: &SecretString| Webhook::new(secret.expose_secret())?.sign(id, at_s, body.as_bytes());
    let signatures: Result<Vec<String>, _> = secrets.iter().map(sign).collect();
    let signatures = signatures.map_err(|error| format!("the merchant's secret cannot sign: {error}"))?.join(" ");
    let mut headers = HeaderMap::new();
    let at = at_s.to_string();
    for (name, value) in
        [(HEADER_WEBHOOK_ID, id), (HEADER_WEBHOOK_TIMESTAMP, &at), (HEADER_WEBHOOK_SIGNATURE, &signatures)]
    {
        let value = HeaderValue::from_str(value).map_err(|_| format!("{name} cannot be sent as a header"))?;
        headers.insert(HeaderName::from_static(name), value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn both_secrets_sign_what_is_sent() {
        let (new, old) = (new_secret(), new_secret());
        let body = r#"{"type":"order.paid"}"#;
        let now_s = Clock::system().now_ms() / 1_000;
        let headers = signed(&[new.clone(), old.clone()], "9:ORDER_NOTIFY:PAID", now_s, body).unwrap();
        for secret in [&new, &old] {
            let verifier = Webhook::new(secret.expose_secret()).unwrap();
            verifier.verify(body.as_bytes(), &headers).unwrap();
            assert!(verifier.verify(b"{}", &headers).is_err());
        }
        assert!(Webhook::new(new_secret().expose_secret()).unwrap().verify(body.as_bytes(), &headers).is_err());
        assert!(signed(&["whsec_?".to_owned().into()], "1", 1, body).is_err());
        assert!(signed(&[new], "a\nb", 1, body).is_err());
    }
}
