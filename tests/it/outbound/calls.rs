//! Outgoing calls against a real local server, with a clock that stands still.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::outbound::{Answer, LEASE_MS, OutboundCalls, OutboundServer, START_MS, counting, secret};
use http::HeaderMap;
use ruyi::config::{DeliveryKind, Millis};
use ruyi::db::DbError;
use ruyi::db::delivery::{Kind, Status};
use ruyi::db::walk::ASIDE_MS;
use ruyi::delivery::sign::{self, SignatureError};
use ruyi::delivery::{Effects, Settled, no_effects};
use ruyi::fault::Faults;
use ruyi::progress::Progress;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn delivered_once_signed_and_with_its_key() {
    let (calls, server) = (OutboundCalls::new().await, OutboundServer::start().await);
    calls.insert(Kind::Warehouse, "7", &server.url("/orders"), r#"{"orderId":"7"}"#).await;
    calls.insert(Kind::Warehouse, "7", &server.url("/orders"), r#"{"again":true}"#).await;
    let mut engine = calls.engine(no_effects());
    assert_eq!(engine.drain().await.unwrap(), 1);
    assert_eq!(engine.drain().await.unwrap(), 0);
    assert_eq!(engine.step().await.unwrap(), Progress::Idle);
    let seen = server.only();
    assert_eq!((seen.path.as_str(), seen.header("idempotency-key")), ("/orders", "7"));
    assert_eq!((seen.header("content-type"), seen.body.as_str()), ("application/json", r#"{"orderId":"7"}"#));
    sign::verify(&secret(), &seen.headers, seen.body.as_bytes(), START_MS, 0).unwrap();
    let state = calls.state(Kind::Warehouse, "7").await;
    assert_eq!((state.status, state.attempts, state.next_at), (Status::Done as i64, 1, None));
    assert_eq!(calls.attempts().await, [(1, Some(200))]);
    let text = calls.metrics.encode().unwrap();
    assert!(text.contains(r#"ruyi_delivery_total{kind="warehouse",result="delivered"} 1"#), "{text}");
}

#[tokio::test]
async fn failures_are_tried_again_by_the_schedule() {
    let (calls, server) = (OutboundCalls::new().await, OutboundServer::start().await);
    server.script([Answer::status(500), Answer::status(429)]);
    calls.insert(Kind::Warehouse, "7", &server.url("/"), "{}").await;
    let mut engine = calls.engine(no_effects());
    for (made, wait_ms) in [(1, 10_000), (2, 30_000)] {
        assert_eq!(engine.drain().await.unwrap(), 1);
        let state = calls.state(Kind::Warehouse, "7").await;
        let due = calls.clock.now_ms() + wait_ms;
        assert_eq!((state.status, state.attempts, state.next_at), (Status::Pending as i64, made, Some(due)));
        assert_eq!(engine.step().await.unwrap(), Progress::WaitUntil(due));
        calls.clock.advance_ms(wait_ms - 1);
        assert_eq!(engine.drain().await.unwrap(), 0);
        calls.clock.advance_ms(1);
    }
    assert_eq!(engine.drain().await.unwrap(), 1);
    assert_eq!(calls.status(Kind::Warehouse, "7").await, Status::Done as i64);
    assert_eq!(calls.attempts().await, [(1, Some(500)), (2, Some(429)), (3, Some(200))]);
    assert!(server.seen().iter().all(|seen| seen.header("idempotency-key") == "7"));
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let (calls, server) = (OutboundCalls::new().await, OutboundServer::start().await);
    server.script([Answer { status: 503, retry_after: Some("120"), location: None, body: "" }]);
    calls.insert(Kind::Warehouse, "7", &server.url("/"), "{}").await;
    calls.engine(no_effects()).drain().await.unwrap();
    assert_eq!(calls.state(Kind::Warehouse, "7").await.next_at, Some(START_MS + 120_000));
}

#[tokio::test]
async fn refusals_and_what_cannot_be_called_end_at_once() {
    let (calls, server) = (OutboundCalls::new().await, OutboundServer::start().await);
    server.script([Answer { status: 422, retry_after: None, location: None, body: "no such SKU" }]);
    calls.insert(Kind::Warehouse, "refused", &server.url("/"), "{}").await;
    calls.insert(Kind::Warehouse, "no-url", "ftp://example.org/", "{}").await;
    let (effects, settled) = counting(&calls).await;
    let mut engine = calls.engine(effects);
    assert_eq!(engine.drain().await.unwrap(), 2);
    for reference in ["refused", "no-url"] {
        assert_eq!(calls.status(Kind::Warehouse, reference).await, Status::Refused as i64);
    }
    let error = calls.state(Kind::Warehouse, "refused").await.last_error.unwrap();
    assert!(error.contains("422") && error.contains("no such SKU"), "{error}");
    assert_eq!(settled.texts().await, ["refused Refused 1", "no-url Refused 1"]);
    assert_eq!(engine.drain().await.unwrap(), 0);
}

#[tokio::test]
async fn dead_after_the_last_attempt() {
    let calls = OutboundCalls::new().await;
    // Nobody listens there: the port was free a moment ago.
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    calls.insert(Kind::Warehouse, "7", &format!("http://{gone}/"), "{}").await;
    let (effects, settled) = counting(&calls).await;
    let mut engine = calls.engine(effects);
    for _ in 0..3 {
        assert_eq!(engine.drain().await.unwrap(), 1);
        calls.clock.advance_ms(30_000);
    }
    assert_eq!(engine.drain().await.unwrap(), 0);
    assert_eq!(calls.status(Kind::Warehouse, "7").await, Status::Dead as i64);
    assert_eq!(settled.texts().await, ["7 Dead 3"]);
    assert_eq!(calls.attempts().await, [(1, None), (2, None), (3, None)]);
}

#[tokio::test]
async fn a_timeout_is_tried_again() {
    let (calls, server) = (OutboundCalls::new().await, OutboundServer::start().await);
    calls.insert(Kind::Warehouse, "7", &server.url("/hold"), "{}").await;
    let mut engine = calls.engine_with(no_effects(), |config| config.delivery.timeout = Millis::new(50));
    assert_eq!(engine.drain().await.unwrap(), 1);
    let state = calls.state(Kind::Warehouse, "7").await;
    assert_eq!((state.status, state.next_at), (Status::Pending as i64, Some(START_MS + 10_000)));
    assert!(state.last_error.unwrap().starts_with("timeout"));
}

#[tokio::test]
async fn only_its_own_kinds() {
    let (calls, server) = (OutboundCalls::new().await, OutboundServer::start().await);
    calls.insert(Kind::Warehouse, "7", &server.url("/"), "{}").await;
    calls.insert(Kind::ChannelRefund, "8", &server.url("/"), "{}").await;
    let mut engine = calls.engine_with(no_effects(), |config| config.kinds = vec![Kind::ChannelRefund]);
    assert_eq!(engine.drain().await.unwrap(), 1);
    assert_eq!(server.only().header("idempotency-key"), "8");
    assert_eq!(engine.step().await.unwrap(), Progress::Idle);
}

#[tokio::test]
async fn a_target_that_hangs_delays_no_other() {
    let (calls, hanging, other) =
        (OutboundCalls::new().await, OutboundServer::start().await, OutboundServer::start().await);
    for n in 0..300 {
        calls.insert(Kind::Warehouse, &format!("hangs-{n}"), &hanging.url("/hold"), "{}").await;
    }
    let engine = calls.engine_with(no_effects(), |config| (config.per_target, config.concurrency) = (2, 8));
    let token = CancellationToken::new();
    let running = tokio::spawn(engine.run(token.clone()));
    hanging.arrived().await;
    calls.insert(Kind::Warehouse, "other", &other.url("/"), "{}").await;
    other.arrived().await;
    assert!(hanging.seen().len() <= 2, "no more than two at once");
    token.cancel();
    hanging.open();
    running.await.unwrap();
    assert_eq!(calls.status(Kind::Warehouse, "other").await, Status::Done as i64);
    // What was not begun was given back, not left to its lease.
    let made = hanging.seen().len();
    let mut next = calls.engine(no_effects());
    calls.clock.advance_ms(1_000);
    assert_eq!(next.drain().await.unwrap(), 300 - made);
}

#[tokio::test]
async fn poisonous_effect_rolls_back_its_own_record_alone() {
    let (calls, server) = (OutboundCalls::new().await, OutboundServer::start().await);
    for reference in ["1", "bad", "3"] {
        calls.insert(Kind::Warehouse, reference, &server.url("/"), "{}").await;
    }
    let (count, _) = counting(&calls).await;
    let fails = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&fails);
    let effects: Effects = Arc::new(move |tx, settled: &[Settled]| {
        let (flag, effect) = (Arc::clone(&flag), count(tx, settled));
        Box::pin(async move {
            effect.await?;
            let bad = settled.iter().any(|one| one.delivery.reference == "bad");
            if bad && flag.load(Ordering::SeqCst) { Err(DbError::Config("poison".into())) } else { Ok(()) }
        })
    });
    let mut engine = calls.engine(effects);
    engine.drain().await.unwrap();
    let state = calls.state(Kind::Warehouse, "bad").await;
    assert_eq!((state.status, state.attempts), (Status::Pending as i64, 0));
    assert_eq!((state.next_at, state.last_error.as_deref()), (Some(START_MS + ASIDE_MS), Some("poison")), "set aside");
    assert_eq!(calls.effects().await, ["1 Delivered 1", "3 Delivered 1"]);
    fails.store(false, Ordering::SeqCst);
    calls.clock.advance_ms(LEASE_MS);
    assert_eq!(engine.drain().await.unwrap(), 0, "not as soon as its lease is over");
    calls.clock.advance_ms(ASIDE_MS - LEASE_MS);
    assert_eq!(engine.drain().await.unwrap(), 1);
    assert_eq!(calls.effects().await, ["1 Delivered 1", "3 Delivered 1", "bad Delivered 1"]);
    let made = server.seen().iter().filter(|seen| seen.header("idempotency-key") == "bad").count();
    assert_eq!(made, 2, "made again, with the same key");
}

#[tokio::test]
async fn crash_at_any_point_repeats_the_call_effect_once() {
    let points = [
        ("delivery_claim", "before_commit", 1),
        ("delivery_claim", "after_commit", 1),
        ("delivery", "called", 2),
        ("delivery_result", "before_commit", 2),
        ("delivery_result", "after_commit", 1),
    ];
    for (name, stage, times) in points {
        let mut armed = true;
        let faults = Faults::plan(Box::new(move |at, when| {
            let fails = armed && (at, when) == (name, stage);
            armed &= !fails;
            fails
        }));
        let (calls, server) = (OutboundCalls::with(faults).await, OutboundServer::start().await);
        calls.insert(Kind::Warehouse, "7", &server.url("/"), "{}").await;
        let (effects, settled) = counting(&calls).await;
        let mut engine = calls.engine(Arc::clone(&effects));
        assert!(matches!(engine.drain().await, Err(DbError::Injected(_))), "{name}.{stage}");
        drop(engine);
        calls.clock.advance_ms(LEASE_MS);
        calls.engine(effects).drain().await.unwrap();
        assert_eq!(calls.status(Kind::Warehouse, "7").await, Status::Done as i64, "{name}.{stage}");
        assert_eq!(settled.texts().await, ["7 Delivered 1"], "{name}.{stage}");
        let keys: Vec<String> = server.seen().iter().map(|seen| seen.header("idempotency-key").to_owned()).collect();
        assert_eq!(keys, vec!["7"; times], "{name}.{stage}");
    }
}

#[tokio::test]
async fn an_outage_at_the_record_keeps_what_was_made() {
    let mut armed = true;
    let faults = Faults::plan(Box::new(move |name, stage| {
        let fails = armed && (name, stage) == ("delivery_result", "before_commit");
        armed &= !fails;
        fails
    }));
    let (calls, server) = (OutboundCalls::with(faults).await, OutboundServer::start().await);
    calls.insert(Kind::Warehouse, "7", &server.url("/"), "{}").await;
    let mut engine = calls.engine(no_effects());
    engine.drain().await.unwrap_err();
    engine.drain().await.unwrap();
    assert_eq!(calls.status(Kind::Warehouse, "7").await, Status::Done as i64);
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn who_comes_after_the_lease_settles_nothing_twice() {
    let (calls, server) = (OutboundCalls::new().await, OutboundServer::start().await);
    calls.insert(Kind::Warehouse, "7", &server.url("/hold-first"), "{}").await;
    let (effects, settled) = counting(&calls).await;
    let (mut slow, mut quick) = (calls.engine(Arc::clone(&effects)), calls.engine(effects));
    assert_eq!(slow.step().await.unwrap(), Progress::Did(1));
    server.arrived().await;
    assert_eq!(quick.drain().await.unwrap(), 0, "the lease holds");
    calls.clock.advance_ms(LEASE_MS);
    assert_eq!(quick.drain().await.unwrap(), 1);
    server.open();
    assert_eq!(slow.drain().await.unwrap(), 1);
    assert_eq!(settled.texts().await, ["7 Delivered 1"]);
    assert_eq!(calls.attempts().await, [(1, Some(200)), (2, Some(200))], "each request is on record");
    assert_eq!(calls.state(Kind::Warehouse, "7").await.attempts, 2);
}

#[tokio::test]
async fn a_lease_follows_the_kinds_of_its_engine_alone() {
    let (calls, server) = (OutboundCalls::new().await, OutboundServer::start().await);
    calls.insert(Kind::Warehouse, "7", &server.url("/hold-first"), "{}").await;
    let engine = || {
        calls.engine_with(no_effects(), |config| {
            config.kinds = vec![Kind::Warehouse];
            config.delivery.lease = Millis::new(5_000);
            config.delivery.timeout = Millis::new(3_000);
            let slow = DeliveryKind { schedule: None, timeout: Some(Millis::new(30_000)) };
            config.delivery.kinds.insert("email".to_owned(), slow);
        })
    };
    let (mut crashed, mut next) = (engine(), engine());
    assert_eq!(crashed.step().await.unwrap(), Progress::Did(1));
    server.arrived().await;
    calls.clock.advance_ms(5_999);
    assert_eq!(next.drain().await.unwrap(), 0, "twice the timeout of its own kind");
    calls.clock.advance_ms(1);
    assert_eq!(next.drain().await.unwrap(), 1);
}

#[tokio::test]
async fn a_late_failure_is_logged_and_shortens_no_schedule() {
    let (calls, server) = (OutboundCalls::new().await, OutboundServer::start().await);
    server.script((0..4).map(|_| Answer::status(500)));
    calls.insert(Kind::Warehouse, "7", &server.url("/hold-first"), "{}").await;
    let (mut slow, mut quick) = (calls.engine(no_effects()), calls.engine(no_effects()));
    assert_eq!(slow.step().await.unwrap(), Progress::Did(1));
    server.arrived().await;
    calls.clock.advance_ms(LEASE_MS);
    assert_eq!(quick.drain().await.unwrap(), 1);
    let next_at = Some(START_MS + LEASE_MS + 10_000);
    assert_eq!(calls.state(Kind::Warehouse, "7").await.next_at, next_at);
    server.open();
    assert_eq!(slow.drain().await.unwrap(), 1);
    let state = calls.state(Kind::Warehouse, "7").await;
    assert_eq!((state.status, state.attempts, state.next_at), (Status::Pending as i64, 2, next_at));
    // The second wait of the schedule, and then its end.
    for wait_ms in [10_000, 30_000] {
        calls.clock.advance_ms(wait_ms);
        assert_eq!(quick.drain().await.unwrap(), 1);
    }
    let state = calls.state(Kind::Warehouse, "7").await;
    assert_eq!((state.status, state.attempts), (Status::Dead as i64, 4));
    assert_eq!(calls.attempts().await, (1..=4).map(|number| (number, Some(500))).collect::<Vec<_>>());
}

#[test]
fn signatures() {
    let body = br#"{"amount":59.8}"#;
    let headers = |timestamp: &str, signature: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(sign::TIMESTAMP_HEADER, timestamp.parse().unwrap());
        headers.insert(sign::SIGNATURE_HEADER, signature.parse().unwrap());
        headers
    };
    let verify = |headers: &HeaderMap, body: &[u8], now_ms| sign::verify(&secret(), headers, body, now_ms, 300_000);
    let signature = sign::sign(&secret(), 1_000, body);
    let good = headers("1000", &signature);
    for now_ms in [700_000, 1_000_000, 1_300_000] {
        assert_eq!(verify(&good, body, now_ms), Ok(()));
    }
    for now_ms in [699_999, 1_300_001, i64::MAX, i64::MIN] {
        assert_eq!(verify(&good, body, now_ms), Err(SignatureError::Time));
    }
    let now_ms = 1_000_000;
    assert_eq!(verify(&good, br#"{"amount":59.9}"#, now_ms), Err(SignatureError::Mismatch));
    assert_eq!(verify(&headers("1001", &signature), body, now_ms), Err(SignatureError::Mismatch));
    assert_eq!(verify(&headers("1000", &"0".repeat(64)), body, now_ms), Err(SignatureError::Mismatch));
    assert_eq!(verify(&headers("1000", &signature[..32]), body, now_ms), Err(SignatureError::Mismatch));
    let other = sign::sign(&"other".to_owned().into(), 1_000, body);
    assert_eq!(verify(&headers("1000", &other), body, now_ms), Err(SignatureError::Mismatch));
    assert_eq!(verify(&headers("1000", "none"), body, now_ms), Err(SignatureError::Malformed(sign::SIGNATURE_HEADER)));
    for timestamp in ["soon", "9223372036854775807"] {
        let headers = headers(timestamp, &signature);
        assert_eq!(verify(&headers, body, now_ms), Err(SignatureError::Malformed(sign::TIMESTAMP_HEADER)));
    }
    assert_eq!(verify(&HeaderMap::new(), body, now_ms), Err(SignatureError::Missing(sign::TIMESTAMP_HEADER)));
    let mut twice = good.clone();
    twice.append(sign::SIGNATURE_HEADER, signature.parse().unwrap());
    assert_eq!(verify(&twice, body, now_ms), Err(SignatureError::Missing(sign::SIGNATURE_HEADER)));
}
