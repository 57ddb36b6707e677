//! A role with several addresses: requests are spread, and go on to the next one when one does not serve.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use ruyi::client::{Api, CallError};
use ruyi::config::{Config, Sources};
use ruyi::http::Problem;

/// One instance of the order role: what it was sent, by idempotency key.
#[derive(Clone, Default)]
struct Instance(Arc<Mutex<Vec<String>>>);

impl Instance {
    /// Answers the `n`th request (from 1) as `answer` says; its URL.
    async fn start(&self, answer: impl Fn(usize) -> Response + Clone + Send + Sync + 'static) -> String {
        let keys = Arc::clone(&self.0);
        let route = post(move |headers: HeaderMap| async move {
            let mut keys = keys.lock().unwrap();
            keys.push(headers["idempotency-key"].to_str().unwrap().to_owned());
            answer(keys.len())
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().route("/orders", route);
        tokio::spawn(async move { axum::serve(listener, app).await });
        url
    }

    fn keys(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

fn fine(_: usize) -> Response {
    axum::Json(serde_json::json!({"orderId": "1"})).into_response()
}

fn busy(_: usize) -> Response {
    Problem::unavailable("not now", 0).into_response()
}

/// Nobody listens there.
fn nowhere() -> String {
    format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
}

fn api(urls: &[&str]) -> Api {
    let sets = vec![format!("client.order={}", urls.join(", "))];
    let config = Config::load(&Sources { sets, ..Sources::default() }).unwrap();
    Api::new(&config.client).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_spread() {
    let both = [Instance::default(), Instance::default()];
    let urls = [both[0].start(fine).await, both[1].start(fine).await];
    let api = api(&[&urls[0], &urls[1]]);
    for number in 0..10 {
        api.create_order("{}", &number.to_string()).await.unwrap();
    }
    assert_eq!(both.map(|one| one.keys().len()), [5, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_instance_serves_what_one_does_not() {
    let (sick, well) = (Instance::default(), Instance::default());
    let urls = [nowhere(), sick.start(busy).await, well.start(fine).await];
    let api = api(&[&urls[0], &urls[1], &urls[2]]);
    for number in 0..20 {
        api.create_order("{}", &number.to_string()).await.unwrap();
    }
    let wanted: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    assert_eq!(well.keys(), wanted, "each once, with its own key");
    assert!(!sick.keys().is_empty(), "it was asked");
    assert!(sick.keys().iter().all(|key| wanted.contains(key)));
}

#[tokio::test(flavor = "multi_thread")]
async fn unserved_request_fails_after_set_tries_or_time() {
    let both = [Instance::default(), Instance::default()];
    let urls = [both[0].start(busy).await, both[1].start(busy).await];
    let error = api(&[&urls[0], &urls[1]]).create_order("{}", "k").await.unwrap_err();
    assert_eq!(error.status(), Some(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(both.map(|one| one.keys().len()), [8, 8]);

    // With patience, as often as it takes.
    let slow = Instance::default();
    let url = slow.start(|n| if n <= 20 { busy(n) } else { fine(n) }).await;
    let patient = api(&[&url, &nowhere()]).with_patience(Duration::from_secs(60));
    patient.create_order("{}", "k").await.unwrap();
    assert_eq!(slow.keys().len(), 21);
    let impatient = api(&[&nowhere(), &nowhere()]).with_patience(Duration::ZERO);
    assert!(matches!(impatient.create_order("{}", "k").await, Err(CallError::Unreachable { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_not_taken_elsewhere() {
    let both = [Instance::default(), Instance::default()];
    let refuse = |_: usize| Problem::invalid("no").into_response();
    let urls = [both[0].start(refuse).await, both[1].start(refuse).await];
    let error = api(&[&urls[0], &urls[1]]).create_order("{}", "k").await.unwrap_err();
    assert_eq!(error.status(), Some(StatusCode::UNPROCESSABLE_ENTITY));
    assert_eq!(both.iter().map(|one| one.keys().len()).sum::<usize>(), 1);
}
