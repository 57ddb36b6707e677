//! Targets that fail are left alone, those that hang hold up nobody else, and people are told of what was given up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ruyi::config::{Config, DeliveryKind, Millis, Sources};
use ruyi::db::delivery::{Kind, Status};
use ruyi::db::sql::{self, Columns};
use ruyi::delivery::no_effects;
use tokio_util::sync::CancellationToken;

use crate::support::outbound::{Answer, OutboundCalls, OutboundServer, START_MS, counting};

const OPEN_MS: i64 = 30_000;

fn failing(server: &OutboundServer, times: usize) {
    server.script((0..times).map(|_| Answer::status(500)));
}

#[tokio::test]
async fn failing_target_is_left_alone_and_probed_once() {
    let (calls, server, other) =
        (OutboundCalls::new().await, OutboundServer::start().await, OutboundServer::start().await);
    failing(&server, 1_000);
    for n in 0..20 {
        calls.insert(Kind::Warehouse, &format!("{n}"), &server.url("/"), "{}").await;
    }
    let mut engine = calls.engine_with(no_effects(), |config| {
        (config.per_target, config.delivery.breaker.failures) = (1, 3);
        config.delivery.schedule = vec![Millis::new(OPEN_MS); 100];
    });
    engine.drain().await.unwrap();
    assert_eq!(server.seen().len(), 3, "no more after three failures in a row");
    let last = calls.state(Kind::Warehouse, "19").await;
    assert_eq!((last.status, last.attempts), (0, 0), "no attempt is counted");
    let give_up_ms = Config::load(&Sources::default()).unwrap().delivery.give_up_after.ms();
    assert_eq!(last.next_at, Some(START_MS + give_up_ms), "nobody claims it before it is given up, or woken");
    calls.insert(Kind::Warehouse, "late", &server.url("/"), "{}").await;
    calls.insert(Kind::Warehouse, "other", &other.url("/"), "{}").await;
    calls.clock.advance_ms(OPEN_MS - 1);
    engine.drain().await.unwrap();
    assert_eq!((server.seen().len(), other.seen().len()), (3, 1), "another target is not concerned");
    calls.clock.advance_ms(1);
    engine.drain().await.unwrap();
    assert_eq!(server.seen().len(), 4, "one call tries it");
    calls.clock.advance_ms(OPEN_MS);
    server.heal();
    // The one that tries it opens the way; the others wait as long as it may take.
    for _ in 0..3 {
        engine.drain().await.unwrap();
        calls.clock.advance_ms(20_000);
    }
    for n in 0..20 {
        assert_eq!(calls.status(Kind::Warehouse, &format!("{n}")).await, Status::Done as i64, "{n}");
    }
    let made: i64 = calls.attempts().await.len().try_into().unwrap();
    assert_eq!(usize::try_from(made).unwrap(), server.seen().len() + 1, "every attempt on record was a call");
}

/// References of the requests to `/fail`, in the order in which they came.
fn failed(server: &OutboundServer) -> Vec<String> {
    let seen = server.seen();
    let failed = seen.iter().filter(|seen| seen.path == "/fail");
    failed.map(|seen| seen.header("idempotency-key").to_owned()).collect()
}

#[tokio::test]
async fn a_dead_endpoint_starves_no_neighbour_at_its_host() {
    let (calls, server) = (OutboundCalls::new().await, OutboundServer::start().await);
    for n in 0..100 {
        calls.insert(Kind::Warehouse, &format!("bad-{n}"), &server.url("/fail"), "{}").await;
    }
    let good = |n: usize| format!("good-{n}");
    for n in 0..5 {
        calls.insert(Kind::Warehouse, &good(n), &server.url("/"), "{}").await;
    }
    let mut engine = calls.engine_with(no_effects(), |config| {
        (config.per_target, config.delivery.breaker.failures) = (2, 3);
        config.delivery.schedule = vec![Millis::new(100 * OPEN_MS); 100];
    });
    engine.drain().await.unwrap();
    let first = failed(&server).len();
    assert!((3..=4).contains(&first), "{first}");
    for n in 0..5 {
        assert_eq!(calls.status(Kind::Warehouse, &good(n)).await, Status::Done as i64, "{n}");
    }

    // At each pause one call tries it, another one each time, and nobody else's has to wait for that.
    for round in 1..=3 {
        calls.insert(Kind::Warehouse, &good(5 + round), &server.url("/"), "{}").await;
        calls.clock.advance_ms(OPEN_MS);
        assert_eq!(engine.drain().await.unwrap(), 2);
        assert_eq!(calls.status(Kind::Warehouse, &good(5 + round)).await, Status::Done as i64);
        let failed = failed(&server);
        assert_eq!((failed.len(), failed.iter().collect::<BTreeSet<_>>().len()), (first + round, first + round));
    }

    // A process that begins anew knows nothing of it, and tries with one call as well.
    let mut second = calls.engine_with(no_effects(), |config| config.delivery.breaker.failures = 1);
    assert_eq!(second.drain().await.unwrap(), 1);
    assert_eq!(failed(&server).len(), first + 4);
    server.heal();
    calls.clock.advance_ms(100 * OPEN_MS);
    engine.drain().await.unwrap();
    let text = "SELECT COUNT(*) FROM delivery WHERE status <> 1";
    let left = sql::fetch_one(&mut calls.db.read().await.unwrap(), text, vec![]).await.unwrap().unwrap();
    assert_eq!(left.int(0).unwrap(), 0, "one good answer brings all others");
}

#[tokio::test]
async fn what_waited_too_long_is_given_up_and_told() {
    let (calls, server) = (OutboundCalls::new().await, OutboundServer::start().await);
    calls.db.alert_by("http://127.0.0.1:1/alerts");
    failing(&server, 1_000);
    for n in 0..10 {
        calls.insert(Kind::Warehouse, &format!("{n}"), &server.url("/?token=abc"), "{}").await;
    }
    let (effects, settled) = counting(&calls).await;
    let mut engine = calls.engine_with(effects, |config| {
        (config.per_target, config.delivery.breaker.failures) = (1, 1);
        config.delivery.schedule = vec![Millis::new(1_000_000); 100];
        config.delivery.give_up_after = Millis::new(100_000);
        config.kinds = vec![Kind::Warehouse];
    });
    for _ in 0..5 {
        engine.drain().await.unwrap();
        calls.clock.advance_ms(OPEN_MS);
    }
    // Some have tried the target; the last one never did.
    let last = calls.state(Kind::Warehouse, "9").await;
    assert_eq!((last.status, last.attempts), (Status::Dead as i64, 0));
    assert!(last.last_error.unwrap().contains("has not answered for too long"));
    assert!(settled.texts().await.contains(&"9 Dead 0".to_owned()));
    let text = "SELECT body FROM delivery WHERE kind = 6 ORDER BY id";
    let rows = sql::fetch(&mut calls.db.read().await.unwrap(), text, vec![]).await.unwrap();
    let told: Vec<serde_json::Value> =
        rows.iter().map(|row| serde_json::from_str(&row.text(0).unwrap()).unwrap()).collect();
    let told = told.iter().find(|one| one["reference"] == "9").unwrap();
    assert_eq!((&told["alert"], &told["kind"]), (&"CALL_GIVEN_UP".into(), &"warehouse".into()));
    assert!(!told.to_string().contains("abc"), "{told}");
}

#[tokio::test]
async fn death_after_the_last_attempt_is_one_alert() {
    let (calls, server) = (OutboundCalls::new().await, OutboundServer::start().await);
    calls.db.alert_by("http://127.0.0.1:1/alerts");
    failing(&server, 3);
    calls.insert(Kind::Warehouse, "7", &server.url("/"), "{}").await;
    // An alert that cannot be delivered is no reason for another one.
    let mut engine = calls.engine_with(no_effects(), |config| config.delivery.breaker.failures = 0);
    for _ in 0..8 {
        engine.drain().await.unwrap();
        calls.clock.advance_ms(30_000);
    }
    let text = "SELECT body FROM delivery WHERE kind = 6";
    let rows = sql::fetch(&mut calls.db.read().await.unwrap(), text, vec![]).await.unwrap();
    assert_eq!(rows.len(), 1);
    let alert: serde_json::Value = serde_json::from_str(&rows[0].text(0).unwrap()).unwrap();
    assert_eq!((&alert["retryCount"], &alert["businessId"]), (&3.into(), &"7".into()));
}

#[tokio::test]
async fn hanging_target_slows_none_of_the_healthy_ones() {
    let (calls, hanging) = (OutboundCalls::new().await, OutboundServer::start().await);
    let healthy = [OutboundServer::start().await, OutboundServer::start().await];
    for n in 0..200 {
        calls.insert(Kind::Warehouse, &format!("hangs-{n}"), &hanging.url("/hold"), "{}").await;
        for (name, server) in healthy.iter().enumerate() {
            calls.insert(Kind::Warehouse, &format!("{name}-{n}"), &server.url("/"), "{}").await;
        }
    }
    let engine = calls.engine_with(no_effects(), |config| (config.per_target, config.concurrency) = (2, 8));
    let token = CancellationToken::new();
    let running = tokio::spawn(engine.run(token.clone()));
    // The hanging ones hold their places until the end, so only these can arrive.
    for server in &healthy {
        for _ in 0..200 {
            tokio::time::timeout(Duration::from_secs(60), server.arrived()).await.expect("held up by the hanging one");
        }
    }
    assert!(hanging.seen().len() <= 2, "no more than its own places: {}", hanging.seen().len());
    token.cancel();
    hanging.open();
    running.await.unwrap();
    let text = "SELECT COUNT(*) FROM delivery WHERE status = 1 AND ref NOT LIKE 'hangs%'";
    let done = sql::fetch_one(&mut calls.db.read().await.unwrap(), text, vec![]).await.unwrap().unwrap();
    assert_eq!(done.int(0).unwrap(), 400);
}

#[tokio::test]
async fn each_kind_has_its_own_schedule_and_timeout() {
    let merchant = Config::load(&Sources::default()).unwrap().delivery.kinds.remove("merchant").unwrap();
    let s = 1_000;
    let (m, h) = (60 * s, 3_600 * s);
    let wanted =
        [15 * s, 15 * s, 30 * s, 3 * m, 10 * m, 20 * m, 30 * m, 30 * m, 30 * m, h, 3 * h, 3 * h, 3 * h, 6 * h, 6 * h];
    assert_eq!(merchant.schedule.unwrap().iter().map(|wait| wait.ms()).collect::<Vec<_>>(), wanted);

    let (calls, server) = (OutboundCalls::new().await, OutboundServer::start().await);
    failing(&server, 2);
    calls.insert(Kind::Warehouse, "own", &server.url("/"), "{}").await;
    calls.insert(Kind::ChannelRefund, "general", &server.url("/"), "{}").await;
    calls.insert(Kind::Warehouse, "hangs", &server.url("/hold"), "{}").await;
    let mut engine = calls.engine_with(no_effects(), |config| {
        let own = DeliveryKind { schedule: Some(vec![Millis::new(77_000)]), timeout: Some(Millis::new(50)) };
        config.delivery.kinds = BTreeMap::from([("warehouse".to_owned(), own)]);
        (config.delivery.breaker.failures, config.concurrency) = (0, 1);
    });
    engine.drain().await.unwrap();
    assert_eq!(calls.state(Kind::Warehouse, "own").await.next_at, Some(START_MS + 77_000));
    assert_eq!(calls.state(Kind::ChannelRefund, "general").await.next_at, Some(START_MS + 10_000));
    assert!(calls.state(Kind::Warehouse, "hangs").await.last_error.unwrap().starts_with("timeout"));
    calls.clock.advance_ms(10_000);
    engine.drain().await.unwrap();
    assert_eq!(calls.status(Kind::ChannelRefund, "general").await, Status::Done as i64);
}

#[tokio::test]
async fn attempts_keep_what_was_said_without_its_secrets() {
    let (calls, server) = (OutboundCalls::new().await, OutboundServer::start().await);
    server.script([Answer {
        status: 503,
        retry_after: Some("1"),
        location: None,
        body: r#"{"error":"later","token":"t0p"}"#,
    }]);
    calls.insert(Kind::Warehouse, "7", &server.url("/orders?key=t0p"), r#"{"orderId":"7","phone":"138001"}"#).await;
    calls.engine(no_effects()).drain().await.unwrap();
    let text = "SELECT request, answer, error FROM delivery_attempt";
    let row = sql::fetch_one(&mut calls.db.read().await.unwrap(), text, vec![]).await.unwrap().unwrap();
    let (request, answer, error) = (row.text(0).unwrap(), row.text(1).unwrap(), row.text(2).unwrap());
    for part in ["POST http://127.0.0.1", "/orders?key=***", "idempotency-key: 7", r#""orderId":"7""#] {
        assert!(request.contains(part), "{part}: {request}");
    }
    for part in ["503", "retry-after: 1", r#""error":"later""#] {
        assert!(answer.contains(part), "{part}: {answer}");
    }
    let sent = server.only();
    for secret in ["t0p", "138001", sent.header("x-ruyi-signature")] {
        assert!(!format!("{request}{answer}{error}").contains(secret), "{secret}: {request}{answer}{error}");
    }
    assert!(sent.body.contains("138001"), "only what people see is masked");
}
