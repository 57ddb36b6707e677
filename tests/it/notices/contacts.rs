//! `/contacts`.

use http::{Method, StatusCode};
use reqwest::header::AUTHORIZATION;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::notice_shop::{EMAIL, PHONE};
use crate::support::serving::Serving;
use crate::support::shop::Shop;

#[tokio::test]
async fn what_is_wrong_is_refused_without_repeating_it() {
    let shop = Shop::open().await;
    let put = |body: Value| shop.request(Method::PUT, "/contacts/7", None, Some(body));
    let quiet =
        |from: &str, to: &str, zone: &str| json!({ "quietHours": { "from": from, "to": to, "timeZone": zone } });
    for (body, field) in [
        (json!({ "phone": "13912345678" }), "phone"),
        (json!({ "phone": "+86 138" }), "phone"),
        (json!({ "email": "bob" }), "email"),
        (json!({ "email": "bob@example.com\r\nBcc: eve@evil.example" }), "email"),
        (json!({ "email": "鲍勃@example.com" }), "email"),
        (quiet("22:00", "22:00", "UTC"), "quietHours.to"),
        (quiet("22", "08:00", "UTC"), "quietHours.from"),
        (quiet("22:00", "08:00", "Mars/Base"), "quietHours.timeZone"),
    ] {
        let (status, answer) = put(body.clone()).await;
        assert_eq!(
            (status, answer["errors"][0]["field"].as_str()),
            (StatusCode::UNPROCESSABLE_ENTITY, Some(field)),
            "{body}"
        );
        assert!(!answer.to_string().contains("bob@") && !answer.to_string().contains("13912345678"), "{answer}");
    }
    for body in [json!({ "sms": { "NEWS": true } }), json!({ "language": "fr" }), json!({ "fax": "1" })] {
        assert!(put(body.clone()).await.0.is_client_error(), "{body}");
    }
    assert_eq!(shop.request(Method::GET, "/contacts/7", None, None).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_last_one_counts_and_topics_are_on() {
    let shop = Shop::open().await;
    let quiet = json!({ "from": "22:30", "to": "07:00", "timeZone": "Europe/Berlin" });
    let body =
        json!({ "phone": PHONE, "email": EMAIL, "language": "en", "sms": { "PARCEL": false }, "quietHours": quiet });
    let (_, shown) = shop.request(Method::PUT, "/contacts/7", None, Some(body)).await;
    let topics = |parcel: bool| json!({ "ORDER": true, "PARCEL": parcel, "REFUND": true, "OTHER": true });
    let masked = json!({ "userId": "7", "phone": "+86*********00", "email": "B***@example.com", "language": "en",
        "sms": topics(false), "emailTopics": topics(true), "quietHours": quiet });
    assert_eq!(shown, masked);
    assert_eq!(shop.request(Method::GET, "/contacts/7", None, None).await, (StatusCode::OK, masked));
    let full = shop.request(Method::GET, "/contacts/7?full=true", None, None).await.1;
    assert_eq!((full["phone"].as_str(), full["email"].as_str()), (Some(PHONE), Some(EMAIL)));
    let forgotten = shop.request(Method::PUT, "/contacts/7", None, Some(json!({}))).await.1;
    assert_eq!(
        (&forgotten["phone"], &forgotten["sms"], &forgotten["quietHours"]),
        (&Value::Null, &topics(true), &Value::Null)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scopes_say_who_sees_what() {
    let key = |name: &str, scope: &str| {
        let hash = hex::encode(Sha256::digest(name.as_bytes()));
        format!(r#"{{ name = "{name}", sha256 = "{hash}", scopes = ["{scope}"] }}"#)
    };
    let keys = [key("reader", "notify:read"), key("writer", "notify:write"), key("boss", "admin")].join(", ");
    let serving = Serving::start(&[format!("http.keys=[{keys}]").as_str()]).await;
    let ask = async |key: &str, method: Method, path: &str| {
        let mut request = serving.request(method.clone(), path).header(AUTHORIZATION, format!("Bearer {key}"));
        if method == Method::PUT {
            request = request.json(&json!({ "phone": PHONE }));
        }
        let (status, _, answer) = serving.reply(request).await;
        (status, answer["phone"].as_str().unwrap_or_default().to_owned())
    };
    let masked = "+86*********00".to_owned();
    assert_eq!(ask("reader", Method::PUT, "/contacts/7").await.0, StatusCode::FORBIDDEN);
    assert_eq!(ask("writer", Method::PUT, "/contacts/7").await, (StatusCode::OK, masked.clone()));
    assert_eq!(ask("writer", Method::GET, "/contacts/7").await.0, StatusCode::FORBIDDEN);
    assert_eq!(ask("reader", Method::GET, "/contacts/7").await, (StatusCode::OK, masked));
    assert_eq!(ask("reader", Method::GET, "/contacts/7?full=true").await.0, StatusCode::FORBIDDEN);
    assert_eq!(ask("boss", Method::GET, "/contacts/7?full=true").await, (StatusCode::OK, PHONE.to_owned()));
    serving.stop().await;
}
