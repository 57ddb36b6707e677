//! Calls made once more, and taken back, by hand.

use ruyi::db::delivery::{Kind, Status, log};
use ruyi::delivery::{cancel, no_effects, resend};

use crate::support::outbound::{Answer, OutboundCalls, OutboundServer, counting};

#[tokio::test]
async fn call_repeated_by_hand_keeps_key_with_new_schedule() {
    let (calls, server) = (OutboundCalls::new().await, OutboundServer::start().await);
    calls.insert(Kind::Warehouse, "done", &server.url("/"), "{}").await;
    calls.insert(Kind::Warehouse, "dead", &server.url("/"), "{}").await;
    server.script([Answer::status(200), Answer::status(400)]);
    let mut engine = calls.engine_with(no_effects(), |config| config.concurrency = 1);
    engine.drain().await.unwrap();
    let (done, dead) = (calls.id("done").await, calls.id("dead").await);
    assert_eq!(resend(&calls.db, vec![dead, done, 7]).await.unwrap(), [done, dead]);
    server.script([Answer::status(500), Answer::status(500)]);
    engine.drain().await.unwrap();
    for (reference, status) in [("done", 200), ("dead", 400)] {
        let state = calls.state(Kind::Warehouse, reference).await;
        let due = calls.clock.now_ms() + 10_000;
        assert_eq!((state.status, state.attempts, state.next_at), (0, 2, Some(due)), "{reference} after {status}");
    }
    calls.clock.advance_ms(10_000);
    engine.drain().await.unwrap();
    let keys: Vec<String> = server.seen().iter().map(|seen| seen.header("idempotency-key").to_owned()).collect();
    assert_eq!(keys.iter().filter(|key| *key == "done").count(), 3);
    assert_eq!(calls.status(Kind::Warehouse, "dead").await, Status::Done as i64);
    let tried = log::attempts(&mut calls.db.read().await.unwrap(), done).await.unwrap();
    assert_eq!(
        tried.iter().map(|one| (one.attempt, one.http_status)).collect::<Vec<_>>(),
        [(1, Some(200)), (2, Some(500)), (3, Some(200))]
    );
}

#[tokio::test]
async fn call_taken_back_ends_but_its_good_answer_counts() {
    let (calls, server) = (OutboundCalls::new().await, OutboundServer::start().await);
    calls.insert(Kind::Warehouse, "flying", &server.url("/hold-first"), "{}").await;
    let (effects, settled) = counting(&calls).await;
    let mut engine = calls.engine(effects.clone());
    engine.step().await.unwrap();
    server.arrived().await;
    calls.insert(Kind::Warehouse, "waiting", &server.url("/"), "{}").await;
    let ids = vec![calls.id("flying").await, calls.id("waiting").await];
    assert_eq!(cancel(&calls.db, ids.clone(), "sent by hand", effects.clone()).await.unwrap(), ids);
    assert!(cancel(&calls.db, ids, "again", effects).await.unwrap().is_empty());
    let state = calls.state(Kind::Warehouse, "waiting").await;
    assert_eq!((state.status, state.next_at), (Status::Canceled as i64, None));
    assert_eq!(state.last_error.as_deref(), Some("taken back: sent by hand"));
    server.open();
    engine.drain().await.unwrap();
    assert_eq!(calls.status(Kind::Warehouse, "flying").await, Status::Done as i64, "the truth wins");
    assert_eq!(settled.texts().await, ["flying Canceled 0", "waiting Canceled 0", "flying Delivered 1"]);
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn failed_or_running_refunds_are_left_alone() {
    let (calls, server) = (OutboundCalls::new().await, OutboundServer::start().await);
    calls.insert(Kind::ChannelRefund, "1", &server.url("/"), "{}").await;
    let refund = calls.id("1").await;
    assert!(cancel(&calls.db, vec![refund], "no", no_effects()).await.unwrap().is_empty(), "it may be paid already");
    server.script([Answer { body: r#"{"refused": true}"#, ..Answer::status(422) }]);
    let mut engine = calls.engine(no_effects());
    engine.drain().await.unwrap();
    assert!(resend(&calls.db, vec![refund]).await.unwrap().is_empty(), "it may have been asked for anew");
    assert_eq!(calls.status(Kind::ChannelRefund, "1").await, Status::Refused as i64);
}
