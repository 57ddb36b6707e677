//! `ruyi healthcheck`.

use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::support::operators::Operator;
use crate::support::servers::child::free_port;

/// A server that is well, ill, elsewhere, and slow.
async fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new()
        .route("/readyz", get(async || "fine"))
        .route("/created", get(async || StatusCode::NO_CONTENT))
        .route("/ill", get(async || (StatusCode::SERVICE_UNAVAILABLE, "the database\u{1b}[31m is away")))
        .route("/moved", get(async || (StatusCode::FOUND, [(header::LOCATION, "/readyz")])))
        .route("/slow", get(async || std::future::pending::<()>().await));
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_2xx_is_well() {
    let url = serve().await;
    let operator = Operator::with(&[]);
    for path in ["/readyz", "/created"] {
        let output = operator.run(&["healthcheck", &format!("{url}{path}")]).await;
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.is_empty() && output.stderr.is_empty());
    }
    let said = operator.refuses(&["healthcheck", &format!("{url}/ill")], 1).await;
    assert!(said.contains("503") && said.contains(r"the database\u{1b}[31m is away"), "{said}");
    let said = operator.refuses(&["healthcheck", &format!("{url}/moved")], 1).await;
    assert!(said.contains("302"), "{said}");
    let said = operator.refuses(&["healthcheck", "--timeout", "200ms", &format!("{url}/slow")], 1).await;
    assert!(said.contains("no answer within 200 ms"), "{said}");
    let said = operator.refuses(&["healthcheck", &format!("http://127.0.0.1:{}/", free_port())], 1).await;
    assert!(said.contains("not well"), "{said}");
    let said = operator.refuses(&["healthcheck", "127.0.0.1:8080"], 2).await;
    assert!(said.contains("not an http:// or https:// URL"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_is_read_only_without_a_url() {
    let url = serve().await;
    let broken = Operator::with(&["mq.queues=none"]);
    assert_eq!(broken.run(&["healthcheck", &format!("{url}/readyz")]).await.status.code(), Some(0));
    broken.refuses(&["healthcheck"], 2).await;
    let configured = Operator::with(&[&format!("http.all={}", url.trim_start_matches("http://"))]);
    assert_eq!(configured.run(&["healthcheck"]).await.status.code(), Some(0));
    // A proxy of the container's environment has no part in it.
    let mut command = broken.command(&["healthcheck", &format!("{url}/readyz")]);
    let started = Instant::now();
    let output = command.env("http_proxy", "http://127.0.0.1:1").output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    // It takes some 20 ms; a start that does other work would take longer than its own time to answer.
    assert!(started.elapsed() < Duration::from_secs(60));
}
