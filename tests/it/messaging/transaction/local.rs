//! The local transaction and the check-back, in every order, without a broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ruyi::config::{Config, Sources};
use ruyi::db::payments::{self, PaymentRow};
use ruyi::db::tx_state::{self, Attempt, TxState};
use ruyi::db::{Db, sql};
use ruyi::domain::id::{MerchantId, PaymentId};
use ruyi::domain::money::Money;
use ruyi::domain::payment::{PaymentState, Status};
use ruyi::mq::rocketmq::transaction::{Asked, Verdict};
use ruyi::roles::payment::callback::{Callback, Confirmed};
use ruyi::roles::payment::channels::Channels;
use ruyi::roles::payment::transaction::{Planned, Settled, check, decide, plan, settle};
use tokio::sync::oneshot;

use crate::support::servers::{START_MS, TestDb, mariadb, sqlite, write_tx};

fn money(minor: i64) -> Money {
    Money::from_minor(minor).unwrap()
}

fn payment(id: i64) -> PaymentRow {
    PaymentRow {
        id,
        order_id: id + 1_000,
        order_no: format!("NO{id}"),
        user_id: 7,
        state: PaymentState {
            status: Status::Pending,
            amount: money(500),
            currency: "CNY".into(),
            merchant_id: 1,
            transaction_no: None,
        },
        channel_id: "sandbox".into(),
        expire_time: START_MS + 60_000,
        payment_method: None,
        pay_time: None,
        trace: None,
    }
}

fn callback(payment: i64, transaction: &str) -> Callback {
    Callback {
        payment_id: PaymentId(payment),
        transaction_no: transaction.parse().unwrap(),
        amount: money(500),
        currency: "CNY".into(),
        merchant_id: MerchantId(1),
        method: "card".into(),
        pay_time: START_MS,
        channel_id: "sandbox".into(),
        trace: None,
    }
}

fn channels() -> Channels {
    Channels::new(Config::load(&Sources::default()).unwrap().payment.channels)
}

async fn open(db: &Db, ids: &[i64]) {
    let rows: Vec<PaymentRow> = ids.iter().map(|id| payment(*id)).collect();
    write_tx!(db, [rows], |tx| { payments::insert(tx, &rows).await }).unwrap();
}

async fn status(db: &Db, id: i64) -> Status {
    let mut conn = db.read().await.unwrap();
    payments::find(&mut conn, vec![id]).await.unwrap()[&id].state.status
}

async fn outbox_rows(db: &Db) -> usize {
    let mut conn = db.read().await.unwrap();
    sql::fetch(&mut conn, "SELECT id FROM message_record WHERE topic <> 'DAY_STATISTICS'", vec![]).await.unwrap().len()
}

fn attempts(planned: &[Option<Planned>]) -> Vec<Option<Attempt>> {
    planned.iter().map(|one| one.as_ref().map(|one| one.attempt.clone())).collect()
}

async fn settled(db: &Db, callbacks: &[Callback], attempts: Vec<Option<Attempt>>) -> Settled {
    settle(db.clone(), channels(), Arc::new(callbacks.to_vec()), Arc::new(attempts)).await.unwrap()
}

fn asked(attempt: &Attempt) -> Asked {
    let Attempt { tx_id, event_id, key } = attempt.clone();
    Asked { tx_id, event_id, key }
}

async fn a_late_commit_fails_and_the_next_callback_succeeds(test: TestDb) {
    let db = &test.db;
    open(db, &[1]).await;
    let calls = [callback(1, "T1")];
    let first = attempts(&plan(db, &calls).await.unwrap());
    let attempt = first[0].clone().unwrap();
    // The local transaction takes so long that the broker asks.
    assert_eq!(check(db, asked(&attempt)).await, Verdict::Rollback);
    let late = settled(db, &calls, first).await;
    assert_eq!(late.answers, [Confirmed::Again]);
    assert!(late.committed.is_empty());
    assert_eq!(status(db, 1).await, Status::Pending);
    assert_eq!(check(db, asked(&attempt)).await, Verdict::Rollback);

    let second = attempts(&plan(db, &calls).await.unwrap());
    let again = second[0].clone().unwrap();
    assert_eq!(again.event_id, "1001:PAYMENT_SUCCESS");
    assert_eq!(again.event_id, attempt.event_id);
    assert_ne!(again.tx_id, attempt.tx_id);
    let done = settled(db, &calls, second).await;
    assert_eq!(done.answers, [Confirmed::Yes]);
    assert!(done.committed.contains(&again.tx_id));
    assert_eq!(status(db, 1).await, Status::Success);
    assert_eq!(check(db, asked(&again)).await, Verdict::Commit);
    assert_eq!(check(db, asked(&attempt)).await, Verdict::Rollback);
    assert_eq!(outbox_rows(db).await, 0, "the event goes one way only; what is counted, goes the other");
    // Repeated once more, it has nothing to tell.
    assert!(plan(db, &calls).await.unwrap()[0].is_none());
}

async fn while_it_is_being_committed_nobody_knows(test: TestDb) {
    let db = test.db.clone();
    let attempt = Attempt { tx_id: "1:E#1".into(), event_id: "1:E".into(), key: "1".into() };
    let (started, has_started) = oneshot::channel();
    let (finish, may_finish) = oneshot::channel::<()>();
    let gates = Arc::new(tokio::sync::Mutex::new(Some((started, may_finish))));
    let (writing, one) = (db.clone(), attempt.clone());
    let local = tokio::spawn(async move {
        write_tx!(writing, [one, gates], |tx| {
            let decided = tx_state::decide(tx, &[one], TxState::Committed).await?;
            if let Some((started, may_finish)) = gates.lock().await.take() {
                started.send(()).unwrap();
                may_finish.await.unwrap();
            }
            Ok(decided)
        })
    });
    has_started.await.unwrap();
    let (asking, one) = (db.clone(), attempt.clone());
    let mut answer = tokio::spawn(async move { check(&asking, asked(&one)).await });
    let early = tokio::time::timeout(Duration::from_millis(300), &mut answer).await;
    assert!(early.is_err(), "it must wait for the transaction: {early:?}");
    finish.send(()).unwrap();
    assert_eq!(local.await.unwrap().unwrap()[&attempt.tx_id], TxState::Committed);
    assert_eq!(answer.await.unwrap(), Verdict::Commit);
}

async fn two_attempts_at_one_payment(test: TestDb) {
    let db = &test.db;
    open(db, &[1, 2]).await;
    let calls = [callback(1, "T1"), callback(1, "T1"), callback(2, "T2"), callback(9, "T9"), callback(1, "T3")];
    // Two processes got the same callback and stored a half message each.
    let (ours, theirs) = (plan(db, &calls).await.unwrap(), plan(db, &calls).await.unwrap());
    let which: Vec<bool> = ours.iter().map(Option::is_some).collect();
    assert_eq!(which, [true, false, true, false, false]);
    let (ours, theirs) = (attempts(&ours), attempts(&theirs));
    let (a, b) = tokio::join!(settled(db, &calls, ours.clone()), settled(db, &calls, theirs.clone()));
    for answers in [&a.answers, &b.answers] {
        let expected = [Confirmed::Yes, Confirmed::Yes, Confirmed::Yes, Confirmed::Unknown, Confirmed::Yes];
        assert_eq!(answers, &expected);
    }
    let mut verdicts = BTreeMap::new();
    for attempt in ours.iter().chain(&theirs).flatten() {
        let told = a.committed.contains(&attempt.tx_id) || b.committed.contains(&attempt.tx_id);
        let verdict = check(db, asked(attempt)).await;
        assert_eq!(verdict, if told { Verdict::Commit } else { Verdict::Rollback });
        *verdicts.entry(format!("{} {verdict:?}", attempt.event_id)).or_insert(0) += 1;
    }
    let expected = ["1001:PAYMENT_SUCCESS Commit", "1001:PAYMENT_SUCCESS Rollback"].map(str::to_owned);
    let expected =
        expected.into_iter().chain(["1002:PAYMENT_SUCCESS Commit", "1002:PAYMENT_SUCCESS Rollback"].map(str::to_owned));
    assert_eq!(verdicts, expected.map(|line| (line, 1)).collect());
    // T3 paid a second time: that money goes back, through the outbox as always.
    let mut conn = db.read().await.unwrap();
    let refunds = payments::refunds_of_order(&mut conn, 1_001).await.unwrap();
    assert_eq!(refunds.iter().map(|refund| refund.transaction_no.as_str()).collect::<Vec<_>>(), ["T3"]);
}

async fn without_a_half_message_nothing_is_written(test: TestDb) {
    let db = &test.db;
    open(db, &[1]).await;
    let done = settled(db, &[callback(1, "T1")], vec![None]).await;
    assert_eq!(done.answers, [Confirmed::Again]);
    assert_eq!(status(db, 1).await, Status::Pending);
    assert_eq!(outbox_rows(db).await, 0);
    // What does not fit is refused, with or without a broker.
    let wrong = Callback { amount: money(499), ..callback(1, "T1") };
    assert!(plan(db, std::slice::from_ref(&wrong)).await.unwrap()[0].is_none());
    assert!(matches!(settled(db, &[wrong], vec![None]).await.answers[..], [Confirmed::Refused(_)]));
}

async fn without_a_database_nobody_knows(test: TestDb) {
    let attempt = Attempt { tx_id: "1:E#1".into(), event_id: "1:E".into(), key: "1".into() };
    test.db.close().await;
    assert_eq!(check(&test.db, asked(&attempt)).await, Verdict::Unknown);
    let again = TestDb::open(test.url.clone(), tempfile::tempdir().unwrap()).await;
    assert_eq!(decide(&again.db, asked(&attempt)).await.unwrap(), TxState::RolledBack);
}

macro_rules! on_both {
    ($($name:ident,)*) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::sqlite().await).await })*
        }
        mod on_mariadb {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(test) = super::mariadb().await { super::$name(test).await }
            })*
        }
    };
}

on_both! {
    a_late_commit_fails_and_the_next_callback_succeeds,
    while_it_is_being_committed_nobody_knows,
    two_attempts_at_one_payment,
    without_a_half_message_nothing_is_written,
    without_a_database_nobody_knows,
}
