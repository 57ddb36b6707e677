//! Merchants of a shop, and what they are told of their money.

use axum::http::Method;
use ruyi::db::merchants::{self, Merchant, OldSecret, Profile};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use standardwebhooks::Webhook;

use crate::support::outbound::{OutboundCalls, Seen};
use crate::support::servers::write_tx;
use crate::support::shop::Shop;

/// Where merchants are told.
pub const URL: &str = "https://shop.example/told";

/// Creates a merchant; the answer.
pub async fn merchant(shop: &Shop, id: i64, more: Value) -> Value {
    let mut body = json!({ "name": "Tea House", "notifyUrl": URL, "tenantId": "t1",
        "accepts": [{ "productId": "h5", "channelId": "sandbox", "minAmount": 1, "maxAmount": 1_000 }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let (status, answer) = shop.insist(Method::PUT, &format!("/merchants/{id}"), None, Some(body)).await;
    assert!(status.is_success(), "{status} {answer}");
    answer
}

/// (status, money, order or number) of what merchants were told, in this order.
pub fn told(shop: &Shop) -> Vec<(String, Value, String)> {
    let told = shop.news.lock().unwrap();
    let one = |(_, body): &(String, Value)| {
        let data = &body["data"];
        let number = [&data["out_order_no"], &data["order_id"]].into_iter().find(|text| **text != "").unwrap();
        (data["status"].as_str().unwrap().to_owned(), data["money"].clone(), number.as_str().unwrap().to_owned())
    };
    told.iter().map(one).collect()
}

/// Merchant 9, with these secrets.
pub async fn known(calls: &OutboundCalls, secret: &SecretString, old: Option<(&SecretString, i64)>) {
    let profile = Profile {
        name: "M".to_owned(),
        tenant_id: String::new(),
        notify_url: URL.to_owned(),
        active: true,
        accepts: vec![],
    };
    let merchant = Merchant {
        id: 9,
        profile,
        secret: secret.clone(),
        old: old.map(|(secret, until)| OldSecret { secret: secret.clone(), until }).into_iter().collect(),
        version: 1,
        created_at: 0,
        updated_at: 0,
    };
    write_tx!(calls.db, [merchant], |tx| { merchants::put(tx, &merchant).await }).unwrap();
}

/// The signatures of a request, checked with the crate that merchants use, at the time of the request.
pub fn is_signed(seen: &Seen, secret: &SecretString) -> bool {
    let signer = Webhook::new(secret.expose_secret()).unwrap();
    let at_s: i64 = seen.header("webhook-timestamp").parse().unwrap();
    let wanted = signer.sign(seen.header("webhook-id"), at_s, seen.body.as_bytes()).unwrap();
    seen.header("webhook-signature").split(' ').any(|one| one == wanted)
}
