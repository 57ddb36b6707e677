//! Requests that are repeated because their answer was lost.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::serving::Serving;

/// POSTs whose repetition changes nothing more, and why no key is needed for that.
const REPEATABLE: [(&str, &str); 14] = [
    ("/deliveries/{id}/cancel", "the call is canceled then"),
    ("/deliveries/{id}/resend", "the call is made once more with the key that it has"),
    ("/fulfil/callback", "a step of a parcel is an event with an id of its own"),
    ("/merchants/{merchantId}/payments/{outOrderNo}/close", "the payment is closed then"),
    ("/message/retry/{retryId}", "the message is due then"),
    ("/orders/{id}/cancel", "the order is canceled then"),
    ("/payments", "outOrderNo is the key"),
    ("/payments/callback/{channel}", "transactionNo is the key"),
    ("/payments/{orderId}/pay", "a payment has one submission"),
    ("/sandbox/channel/pay", "the payment is the key"),
    ("/sandbox/channel/payments/{paymentId}/callback", "the call back is due then"),
    ("/sandbox/channel/query", "it changes nothing"),
    ("/sandbox/channel/refund", "it changes nothing"),
    ("/sandbox/warehouse/orders", "the order is the key"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_post_has_a_key_or_needs_none() {
    let serving = Serving::start(&[]).await;
    let api = serving.get("/openapi.json").await;
    let mut without = Vec::new();
    for (path, methods) in api["paths"].as_object().unwrap() {
        let Some(post) = methods.get("post") else { continue };
        let parameters = post["parameters"].as_array().cloned().unwrap_or_default();
        if !parameters.iter().any(|parameter| parameter["name"] == "Idempotency-Key") {
            without.push(path.as_str());
        }
    }
    let named = REPEATABLE.map(|(path, _)| path);
    assert_eq!(without, named);
    serving.stop().await;
}

async fn keyed(serving: &Serving, path: &str, key: &str, body: &Value) -> (StatusCode, bool, Value) {
    let request = serving.request(Method::POST, path).header("idempotency-key", key).json(body);
    let response = request.send().await.unwrap();
    let replayed = response.headers().get("idempotency-replayed").is_some_and(|value| value == "true");
    (response.status(), replayed, response.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_adjustment_counts_once() {
    let serving = Serving::start(&[]).await;
    serving.fill().await;
    let (path, five) = ("/stock/A1/adjust", json!({"change": 5, "reason": "found"}));
    let first = keyed(&serving, path, "a", &five).await;
    assert_eq!((first.0, first.1, &first.2["available"]), (StatusCode::OK, false, &json!(1_005)));
    let second = keyed(&serving, path, "b", &five).await;
    assert_eq!((second.1, &second.2["available"]), (false, &json!(1_010)));
    // The first answer again, as it was then.
    assert_eq!(keyed(&serving, path, "a", &five).await, (StatusCode::OK, true, first.2));
    for (path, body) in [(path, json!({"change": 6, "reason": "found"})), ("/stock/B2/adjust", five.clone())] {
        let (status, _, problem) = keyed(&serving, path, "a", &body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    }
    assert_eq!(keyed(&serving, path, &"k".repeat(129), &five).await.0, StatusCode::BAD_REQUEST);

    // What was refused may be asked for again with the same key, when there is enough.
    let many = json!({"change": -2_000, "reason": "sold elsewhere"});
    assert_eq!(keyed(&serving, path, "c", &many).await.0, StatusCode::CONFLICT);
    serving.fine(Method::PUT, "/stock/A1", &json!({"available": 3_000})).await;
    let done = keyed(&serving, path, "c", &many).await;
    assert_eq!((done.0, done.1, &done.2["available"]), (StatusCode::OK, false, &json!(1_000)));

    // At once, too.
    let both = tokio::join!(keyed(&serving, path, "d", &five), keyed(&serving, path, "d", &five));
    assert_eq!((both.0.0, both.1.0), (StatusCode::OK, StatusCode::OK));
    assert!(both.0.1 != both.1.1, "{both:?}");
    assert_eq!(serving.get("/stock/A1").await["available"], 1_005);
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_rotation_shows_the_same_secret() {
    let serving = Serving::start(&[]).await;
    let first = serving.fine(Method::PUT, "/merchants/7", &json!({"name": "Tea"})).await["secret"].clone();
    let path = "/merchants/7/secret";
    let rotated = keyed(&serving, path, "a", &json!({})).await;
    assert_eq!((rotated.0, rotated.1), (StatusCode::OK, false));
    assert!(rotated.2["secret"].is_string() && rotated.2["secret"] != first);
    let again = keyed(&serving, path, "a", &json!({})).await;
    assert_eq!(
        (again.1, &again.2["secret"], &again.2["oldSecretUntil"]),
        (true, &rotated.2["secret"], &rotated.2["oldSecretUntil"])
    );
    let other = keyed(&serving, path, "a", &json!({"keepOldForSeconds": 5})).await;
    assert_eq!(other.0, StatusCode::UNPROCESSABLE_ENTITY);
    // Once it was replaced, nobody is told a secret that signs nothing new.
    assert_eq!(keyed(&serving, path, "b", &json!({})).await.0, StatusCode::OK);
    assert_eq!(keyed(&serving, path, "a", &json!({})).await.0, StatusCode::CONFLICT);
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_rotation_keeps_what_the_first_promised() {
    let serving = Serving::start(&[]).await;
    let made = serving.fine(Method::PUT, "/merchants/7", &json!({"name": "Tea"})).await;
    let rotate = async |keep_s: i64| {
        serving.fine(Method::POST, "/merchants/7/secret", &json!({"keepOldForSeconds": keep_s})).await
    };
    let (first, second) = (rotate(86_400).await, rotate(7_200).await);
    assert_eq!(first["oldSecretUntil"], second["oldSecretUntil"], "the first secret signs until then");
    let secrets = async || {
        let mut conn = serving.db().read().await.unwrap();
        let known = ruyi::db::merchants::get(&mut conn, vec![7]).await.unwrap().remove(&7).unwrap();
        let secrets = known.secrets(serving.db().clock().now_ms());
        secrets.iter().map(|one| secrecy::ExposeSecret::expose_secret(one).to_owned()).collect::<Vec<_>>()
    };
    let text = |view: &Value| view["secret"].as_str().unwrap().to_owned();
    assert_eq!(secrets().await, [text(&second), text(&first), text(&made)]);
    // A secret that is given up at once is, and those before it stay.
    let third = rotate(0).await;
    assert_eq!(secrets().await, [text(&third), text(&first), text(&made)]);
    for _ in 0..6 {
        rotate(86_400).await;
    }
    let refused = serving.send(Method::POST, "/merchants/7/secret", &json!({})).await;
    assert_eq!(refused.0, StatusCode::CONFLICT, "{}", refused.2);
    serving.stop().await;
}
