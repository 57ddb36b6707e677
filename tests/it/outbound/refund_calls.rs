//! Calls that give money back: when a no of the channel ends them, and when it leaves the money in doubt.

use ruyi::config::Millis;
use ruyi::db::delivery::{Kind, Status};
use ruyi::delivery::{no_effects, resend};
use ruyi::fault::Faults;

use crate::support::outbound::{Answer, LEASE_MS, OutboundCalls, OutboundServer};

const NO: Answer = Answer { status: 422, retry_after: None, location: None, body: r#"{"refused": true}"# };

/// Makes the refund's call until it comes to its end; how that is.
async fn end_of(calls: &OutboundCalls) -> i64 {
    let mut engine = calls.engine(no_effects());
    for _ in 0..3 {
        // What fails to be recorded is made again after its lease.
        let _ = engine.drain().await;
        calls.clock.advance_ms(LEASE_MS);
    }
    calls.status(Kind::ChannelRefund, "1").await
}

async fn answered(faults: Faults, answers: &[Answer]) -> (OutboundCalls, i64) {
    let (calls, server) = (OutboundCalls::with(faults).await, OutboundServer::start().await);
    calls.insert(Kind::ChannelRefund, "1", &server.url("/"), "{}").await;
    server.script(answers.iter().copied());
    let end = end_of(&calls).await;
    assert_eq!(server.seen().len(), answers.len());
    (calls, end)
}

#[tokio::test]
async fn only_an_answered_history_ends_a_refund() {
    let (refused, dead) = (Status::Refused as i64, Status::Dead as i64);
    for (answers, wanted) in [
        (vec![NO], refused),
        (vec![Answer::status(429), NO], refused),
        (vec![Answer::status(401), NO], refused),
        (vec![Answer::status(401), Answer::status(429), NO], refused),
        // A proxy may have said this after the channel had paid.
        (vec![Answer::status(302), NO], dead),
        (vec![Answer::status(303), NO], dead),
        (vec![Answer::status(400), NO], dead),
        (vec![Answer::status(403), NO], dead),
        (vec![Answer::status(404), NO], dead),
        (vec![Answer::status(409), NO], dead),
        (vec![Answer::status(500), NO], dead),
        (vec![Answer::status(408), NO], dead),
        (vec![Answer::status(404), Answer::status(401), Answer::status(409)], dead),
    ] {
        let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        assert_eq!(answered(Faults::none(), &answers).await.1, wanted, "{statuses:?}");
    }
}

/// What is read of an answer is blank, and behind that it says no.
#[tokio::test]
async fn the_beginning_of_a_long_answer_is_no_yes() {
    let body: &'static str = format!("{}{}", " ".repeat(64 * 1024), NO.body).leak();
    let long = Answer { body, ..Answer::status(200) };
    assert_eq!(answered(Faults::none(), &[long, NO]).await.1, Status::Dead as i64);
}

/// The process dies after the call, and before it has recorded what was answered.
#[tokio::test]
async fn an_answer_lost_with_its_process_leaves_doubt() {
    let mut times = 0;
    let once = Faults::plan(Box::new(move |name, stage| {
        let here = (name, stage) == ("delivery", "called");
        times += u32::from(here);
        here && times == 1
    }));
    let (calls, end) = answered(once, &[Answer::status(200), NO]).await;
    assert_eq!(end, Status::Dead as i64);
    // What is in doubt can be sent again, under its number.
    let id = calls.id("1").await;
    assert_eq!(resend(&calls.db, vec![id]).await.unwrap(), [id]);
}

/// A claim that was put back made no request, so it leaves no doubt.
#[tokio::test]
async fn waiting_for_the_endpoint_leaves_no_doubt() {
    let (calls, server) = (OutboundCalls::new().await, OutboundServer::start().await);
    for reference in ["0", "1"] {
        calls.insert(Kind::ChannelRefund, reference, &server.url("/"), "{}").await;
    }
    server.script([Answer::status(401), NO]);
    let mut engine = calls.engine_with(no_effects(), |config| {
        (config.per_target, config.delivery.breaker.failures) = (1, 1);
        config.delivery.schedule = vec![Millis::new(100 * LEASE_MS); 3];
    });
    engine.drain().await.unwrap();
    assert_eq!((server.seen().len(), calls.status(Kind::ChannelRefund, "1").await), (1, Status::Pending as i64));
    calls.clock.advance_ms(LEASE_MS);
    engine.drain().await.unwrap();
    assert_eq!((server.seen().len(), calls.status(Kind::ChannelRefund, "1").await), (2, Status::Refused as i64));
}
