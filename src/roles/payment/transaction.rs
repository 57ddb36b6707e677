//! `payment.publish = "transaction"`: PAYMENT_SUCCESS is stored by the broker before the payment is written, and
//! delivered once it is.
//!
//! Half message → local transaction (the payment, and that this attempt is committed) → the broker is told. When it is
//! not told it asks any process of this role, which looks the attempt up. A caller whose payment could not be written
//! this way is told to try again: its next call is a new attempt at the same event.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;

use super::callback::{self, Callback, Confirmed, confirm_in, success};
use super::channels::Channels;
use crate::db::outbox;
use crate::db::payments;
use crate::db::tx::Draft;
use crate::db::tx_state::{self, Attempt, TxState};
use crate::db::{Db, DbError, Tx};
use crate::domain::event::Kind;
use crate::domain::order::Decision;
use crate::domain::payment::Effect;
use crate::mq::broker::{Broker, Cluster};
use crate::mq::health::Reach;
use crate::mq::message::{Delay, Outgoing};
use crate::mq::rocketmq::MqError;
use crate::mq::rocketmq::transaction::{Asked, CheckBack, Half, Transactions, Verdict};
use crate::telemetry::Metrics;

/// Producer group of all processes of this role: they answer the broker for each other.
pub const GROUP: &str = "payment-producer-group";
/// Half messages under way at once.
const IN_FLIGHT: usize = 64;
/// How long the broker may take to store the half messages of one batch. Together with [`LOCAL_LIMIT`] less than a
/// request may take (10 s by default), so that the caller hears "try again" and not nothing.
const HALF_LIMIT: Duration = Duration::from_secs(4);
/// How long the caller waits for the local transaction, which takes milliseconds. One that takes longer goes on by
/// itself, and the broker asks how it went.
const LOCAL_LIMIT: Duration = Duration::from_secs(5);

/// How PAYMENT_SUCCESS leaves.
#[derive(Clone)]
pub enum Publish {
    /// Through the outbox, as every other event.
    Outbox,
    /// As a transaction message.
    Transaction(Transactional),
}

/// What it takes to publish by transaction messages.
#[derive(Clone)]
pub struct Transactional {
    transactions: Transactions,
    broker: Broker,
    metrics: Arc<Metrics>,
}

impl Transactional {
    /// Joins the producer group of this role, and answers its check-backs from `db`.
    ///
    /// # Errors
    /// [`MqError`] when the client does not start.
    pub async fn join(cluster: &Cluster, db: &Db, metrics: Arc<Metrics>) -> Result<Self, MqError> {
        let db = db.clone();
        let answer: CheckBack = Arc::new(move |asked| {
            let db = db.clone();
            Box::pin(async move { check(&db, asked).await })
        });
        let topics = [Kind::PaymentSuccess.name().to_owned()];
        let transactions = cluster.mq().transactions(GROUP, &topics, answer).await?;
        Ok(Self { transactions, broker: Broker::Cluster(cluster.clone()), metrics })
    }

    /// Leaves the producer group.
    pub async fn shutdown(&self) {
        self.transactions.shutdown().await;
    }
}

/// One attempt at an event, before its local transaction.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Its name in `message_tx_state`.
    pub attempt: Attempt,
    /// Its message.
    pub message: Outgoing,
}

/// What a local transaction did.
#[derive(Debug)]
pub struct Settled {
    /// The answers, in the order of the callbacks.
    pub answers: Vec<Confirmed>,
    /// The attempts that are committed, by transaction id.
    pub committed: HashSet<String>,
}

/// Takes the word of channels; the signatures are checked already.
///
/// # Errors
/// The database's. Half messages whose fate is in doubt then are left to the check-back.
pub async fn confirm(
    db: Db,
    channels: Channels,
    via: Transactional,
    callbacks: Arc<Vec<Callback>>,
) -> Result<Vec<Confirmed>, DbError> {
    let planned = plan(&db, &callbacks).await?;
    let (attempts, halves) = via.prepare(planned).await;
    db.fault("transaction", "prepared")?;
    let again = vec![Confirmed::Again; callbacks.len()];
    let settling = settle(db, channels, callbacks, Arc::new(attempts));
    let Ok(settled) = tokio::time::timeout(LOCAL_LIMIT, settling).await else {
        tracing::warn!(halves = halves.len(), "a local transaction is not done in time: the channels are to try again");
        return Ok(again);
    };
    let settled = settled?;
    // What is answered does not depend on it: what the broker does not hear it asks for.
    tokio::spawn(async move {
        for (tx_id, half) in halves {
            let commit = settled.committed.contains(&tx_id);
            via.transactions.end(half, if commit { Verdict::Commit } else { Verdict::Rollback }).await;
        }
    });
    Ok(settled.answers)
}

impl Transactional {
    /// Stores half messages; the attempts that have one, in the order of `planned`, and the halves by transaction id.
    async fn prepare(&self, planned: Vec<Option<Planned>>) -> (Vec<Option<Attempt>>, HashMap<String, Half>) {
        let topic = Kind::PaymentSuccess.name();
        let mut attempts: Vec<Option<Attempt>> = vec![None; planned.len()];
        let mut halves = HashMap::new();
        // Nobody can stand in for the broker here: rather than wait for it, let the channels call again.
        if self.broker.state().reach != Reach::Up {
            return (attempts, halves);
        }
        let wanted = planned.into_iter().enumerate().filter_map(|(index, one)| one.map(|one| (index, one)));
        let mut sends = futures_util::stream::iter(wanted)
            .map(|(index, Planned { attempt, message })| async move {
                let started = Instant::now();
                let sending = Box::pin(self.transactions.prepare(&message, &attempt.tx_id));
                let sent = match tokio::time::timeout(HALF_LIMIT, sending).await {
                    Ok(sent) => sent.map_err(|error| error.to_string()),
                    Err(_) => Err(format!("not within {} ms", HALF_LIMIT.as_millis())),
                };
                (index, attempt, sent, started.elapsed())
            })
            .buffer_unordered(IN_FLIGHT);
        let over = tokio::time::sleep(HALF_LIMIT);
        tokio::pin!(over);
        loop {
            let next = tokio::select! {
                next = sends.next() => next,
                () = &mut over => return (attempts, halves),
            };
            let Some((index, attempt, sent, took)) = next else { return (attempts, halves) };
            self.metrics.sent(topic, if sent.is_ok() { "ok" } else { "error" }, 1, took);
            match sent {
                Ok(half) => {
                    halves.insert(attempt.tx_id.clone(), half);
                    attempts[index] = Some(attempt);
                }
                Err(error) => tracing::warn!(event_id = attempt.event_id, error, "no half message: to be tried again"),
            }
        }
    }
}

/// Finds the callbacks that would make a payment succeed, one per payment, and makes their messages.
///
/// # Errors
/// The database's.
pub async fn plan(db: &Db, callbacks: &[Callback]) -> Result<Vec<Option<Planned>>, DbError> {
    let mut conn = db.read().await?;
    let ids = callbacks.iter().map(|callback| callback.payment_id.0).collect();
    let found = payments::find(&mut conn, ids).await?;
    drop(conn);
    let mut seen = HashSet::new();
    let mut planned = Vec::with_capacity(callbacks.len());
    for callback in callbacks {
        let payment = found
            .get(&callback.payment_id.0)
            // What a merchant's own payment says passes the outbox.
            .filter(|payment| !payment.is_gateway())
            .filter(|payment| succeeds(&callback::decide(payment, callback)) && seen.insert(payment.id));
        let Some(payment) = payment else {
            planned.push(None);
            continue;
        };
        let body = success(payment, callback);
        let trace = callback::trace(payment, callback);
        let draft = Draft::new(Kind::PaymentSuccess, payment.order_id, &body, trace);
        let (event_id, body) = draft.encode(db.clock().now_ms())?;
        let (topic, key) = (Kind::PaymentSuccess.name(), payment.order_id.to_string());
        let message = Outgoing {
            topic: topic.to_owned(),
            tag: topic.to_owned(),
            key: key.clone(),
            body: body.into(),
            properties: outbox::properties(&event_id, topic, trace),
            delay: Delay::None,
        };
        // An id is given out once, by whatever process.
        let tx_id = format!("{event_id}#{}", db.ids().next());
        planned.push(Some(Planned { attempt: Attempt { tx_id, event_id, key }, message }));
    }
    Ok(planned)
}

fn succeeds<S>(decision: &Decision<S, Effect>) -> bool {
    matches!(decision, Decision::Apply(_, effects) if effects.contains(&Effect::TellSuccess))
}

/// The local transaction: everything that the callbacks change, and which attempts are committed with it. A payment
/// without a half message, or whose attempt was given up by a check-back, is left as it is.
///
/// # Errors
/// The database's.
pub async fn settle(
    db: Db,
    channels: Channels,
    callbacks: Arc<Vec<Callback>>,
    attempts: Arc<Vec<Option<Attempt>>>,
) -> Result<Settled, DbError> {
    db.write("pay_callback", move |tx| {
        let (channels, callbacks, attempts) = (channels.clone(), Arc::clone(&callbacks), Arc::clone(&attempts));
        Box::pin(async move { settle_in(tx, &channels, &callbacks, &attempts).await })
    })
    .await
}

async fn settle_in(
    tx: &mut Tx,
    channels: &Channels,
    callbacks: &[Callback],
    attempts: &[Option<Attempt>],
) -> Result<Settled, DbError> {
    let ids = callbacks.iter().map(|callback| callback.payment_id.0).collect();
    let found = payments::lock_by_id(tx, ids).await?;
    // Another callback may have been faster since the half message: then this attempt has nothing to tell.
    let wanted = callbacks.iter().zip(attempts).filter(|(callback, _)| {
        found.get(&callback.payment_id.0).is_some_and(|payment| succeeds(&callback::decide(payment, callback)))
    });
    let wanted: Vec<Attempt> = wanted.filter_map(|(_, attempt)| attempt.clone()).collect();
    let decided = tx_state::decide(tx, &wanted, TxState::Committed).await?;
    let mut committed = HashSet::new();
    let answers = confirm_in(tx, channels, callbacks, found, |_, index, _, _| {
        let attempt = attempts.get(index).and_then(Option::as_ref);
        let Some(attempt) = attempt.filter(|one| decided.get(&one.tx_id) == Some(&TxState::Committed)) else {
            return Ok(false);
        };
        committed.insert(attempt.tx_id.clone());
        Ok(true)
    })
    .await?;
    callback::report_refused(tx, callbacks, &answers);
    Ok(Settled { answers, committed })
}

/// Answers the broker: how did this attempt go? One that nobody decided is given up here and now, so that its local
/// transaction, if it is only late, fails.
pub async fn check(db: &Db, asked: Asked) -> Verdict {
    let decided = decide(db, asked).await;
    if db.fault("transaction", "checked").is_err() {
        return Verdict::Unknown;
    }
    match decided {
        Ok(TxState::Committed) => Verdict::Commit,
        Ok(TxState::RolledBack) => Verdict::Rollback,
        Err(error) => {
            tracing::warn!(%error, "the broker asks about a payment, and the database does not say");
            Verdict::Unknown
        }
    }
}

/// How an attempt went; it is given up if nobody has decided it.
///
/// # Errors
/// The database's: nothing is known then.
pub async fn decide(db: &Db, asked: Asked) -> Result<TxState, DbError> {
    let Asked { tx_id, event_id, key } = asked;
    let mut conn = db.read().await?;
    let found = tx_state::find(&mut conn, vec![tx_id.clone()]).await?;
    drop(conn);
    if let Some(row) = found.get(&tx_id) {
        return Ok(row.state);
    }
    let attempt = Attempt { tx_id: tx_id.clone(), event_id, key };
    let decided = db
        .write("check_back", move |tx| {
            let attempt = attempt.clone();
            Box::pin(async move { tx_state::decide(tx, &[attempt], TxState::RolledBack).await })
        })
        .await?;
    let missing = || DbError::Row { table: "message_tx_state", key: tx_id.clone(), what: "it vanished".to_owned() };
    decided.get(&tx_id).copied().ok_or_else(missing)
}
