//! Calls to addresses that users give: to the public internet, and nowhere behind it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ruyi::config::Millis;
use ruyi::db::delivery::{Kind, Status};
use ruyi::delivery::webhook::new_secret;
use ruyi::delivery::{Resolve, no_effects};

use crate::support::merchant_accounts::known;
use crate::support::outbound::{Answer, OutboundCalls, OutboundServer};

/// A public address at which nobody is.
const NOBODY: &str = "2a00::dead";

/// Resolves every name to the next of `answers` (the last one repeats), and counts.
fn resolver(answers: &[&[&str]]) -> (Resolve, Arc<AtomicUsize>) {
    let parse = |list: &&[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
    let answers: Arc<Vec<Vec<IpAddr>>> = Arc::new(answers.iter().map(parse).collect());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let resolve: Resolve = Arc::new(move |_| {
        let answer = answers[count.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1)].clone();
        Box::pin(async move { Ok(answer) })
    });
    (resolve, asked)
}

async fn guarded(allow_private: bool, answers: &[&[&str]]) -> (OutboundCalls, Arc<AtomicUsize>) {
    let (resolve, asked) = resolver(answers);
    let mut calls = OutboundCalls::new().await;
    calls.targets = calls.targets.guarded(allow_private, resolve);
    known(&calls, &new_secret(), None).await;
    (calls, asked)
}

/// One attempt at `url`; how it ended.
async fn tell(calls: &OutboundCalls, reference: &str, url: &str) -> (i64, String) {
    calls.insert(Kind::Merchant, reference, url, r#"{"data":{"merchant_id":"9"}}"#).await;
    attempt(calls, reference).await
}

async fn attempt(calls: &OutboundCalls, reference: &str) -> (i64, String) {
    let mut engine = calls.engine_with(no_effects(), |config| {
        config.delivery.timeout = Millis::new(300);
        config.delivery.kinds.clear();
        config.delivery.breaker.failures = 0;
    });
    engine.drain().await.unwrap();
    let state = calls.state(Kind::Merchant, reference).await;
    (state.status, state.last_error.unwrap_or_default())
}

#[tokio::test]
async fn no_spelling_of_this_machine_is_called() {
    let ((calls, asked), server) = (guarded(false, &[&["127.0.0.1"]]).await, OutboundServer::start().await);
    let port = server.url("").rsplit_once(':').unwrap().1.to_owned();
    let hosts = [
        "127.0.0.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "localhost",
        "shop.example@127.0.0.1",
        "u:p@shop.example",
    ];
    for (n, host) in hosts.iter().enumerate() {
        let (status, error) = tell(&calls, &format!("{n}"), &format!("http://{host}:{port}/n")).await;
        assert_eq!(status, Status::Refused as i64, "{host}: {error}");
    }
    // A path is what a process calls itself with.
    assert_eq!(tell(&calls, "path", "/merchants").await.0, Status::Refused as i64);
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    // Only the name's addresses tell.
    let (status, error) = tell(&calls, "name", &format!("http://shop.example:{port}/n")).await;
    assert_eq!(status, Status::Pending as i64, "it may lead elsewhere one day");
    assert!(error.contains("127.0.0.1 is not a public address"), "{error}");
    assert_eq!((server.seen().len(), asked.load(Ordering::SeqCst)), (0, 1));
}

#[tokio::test]
async fn a_name_that_changes_its_address_gains_nothing() {
    // Checked as a public address, then here: a second question would be answered with this machine.
    let ((calls, asked), server) = (guarded(false, &[&[NOBODY], &["127.0.0.1"]]).await, OutboundServer::start().await);
    let port = server.url("").rsplit_once(':').unwrap().1.to_owned();
    let url = format!("http://rebind.example:{port}/n");
    let (status, _) = tell(&calls, "1", &url).await;
    assert_eq!((status, asked.load(Ordering::SeqCst)), (Status::Pending as i64, 1), "asked once for one connection");
    calls.clock.advance_ms(10_000);
    let (_, error) = attempt(&calls, "1").await;
    assert!(error.contains("not a public address"), "{error}");
    // One bad address among good ones is enough.
    let (mixed, _) = guarded(false, &[&[NOBODY, "10.0.0.7"]]).await;
    let (_, error) = tell(&mixed, "1", &url).await;
    assert!(error.contains("10.0.0.7 is not a public address"), "{error}");
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn checked_address_is_the_one_called() {
    let ((calls, asked), server) = (guarded(true, &[&["127.0.0.1"]]).await, OutboundServer::start().await);
    let port = server.url("").rsplit_once(':').unwrap().1.to_owned();
    // No other resolver knows this name.
    let (status, error) = tell(&calls, "1", &format!("http://shop.invalid:{port}/n")).await;
    assert_eq!(status, Status::Done as i64, "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert_eq!(server.only().header("host"), format!("shop.invalid:{port}"));
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let ((calls, _), server) = (guarded(true, &[&["127.0.0.1"]]).await, OutboundServer::start().await);
    server.script([Answer { location: Some("http://169.254.169.254/latest"), ..Answer::status(307) }]);
    let (status, error) = tell(&calls, "1", &server.url("/n")).await;
    assert_eq!(status, Status::Pending as i64);
    assert!(error.contains("307") && error.contains("redirects are not followed"), "{error}");
    assert_eq!(server.seen().len(), 1);
}
