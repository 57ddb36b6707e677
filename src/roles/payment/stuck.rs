//! Half messages past the broker's check limit: what became of their local transactions, and delivering those that
//! are committed.

use serde::Serialize;
use utoipa::ToSchema;

use super::transaction::{GROUP, decide};
use crate::db::tx_state::{self, TxState};
use crate::db::{Db, DbError};
use crate::mq::rocketmq::transaction::Asked;
use crate::mq::rocketmq::{PublishError, RocketMq, StuckHalf};

/// What `message_tx_state` says about a half message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its payment is written: the event is due.
    Committed,
    /// Its payment was not written by this attempt.
    RolledBack,
    /// Nobody decided it.
    Unknown,
    /// It belongs to another producer group, or to another program.
    Foreign,
}

/// A half message and what is known about it.
#[derive(Clone, Debug)]
pub struct Stuck {
    /// The message.
    pub half: StuckHalf,
    /// What became of its local transaction.
    pub state: State,
    /// When it was published by hand, epoch ms.
    pub resumed_at: Option<i64>,
}

/// Why a half message was not resumed.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// The broker did not take it.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Says of each half message what `db` knows about it.
///
/// # Errors
/// The database's.
pub async fn judge(db: &Db, cluster: &RocketMq, halves: Vec<StuckHalf>) -> Result<Vec<Stuck>, DbError> {
    let group = cluster.producer_group(GROUP);
    let ours = |half: &StuckHalf| half.group == group && !half.tx_id.is_empty() && !half.event_id.is_empty();
    let ids = halves.iter().filter(|half| ours(half)).map(|half| half.tx_id.clone()).collect();
    let mut conn = db.read().await?;
    let rows = tx_state::find(&mut conn, ids).await?;
    let judged = halves.into_iter().map(|half| {
        let row = rows.get(&half.tx_id);
        let state = match row.map(|row| row.state) {
            _ if !ours(&half) => State::Foreign,
            Some(TxState::Committed) => State::Committed,
            Some(TxState::RolledBack) => State::RolledBack,
            None => State::Unknown,
        };
        Stuck { resumed_at: row.and_then(|row| row.resumed_at), half, state }
    });
    Ok(judged.collect())
}

/// Publishes the event of a committed attempt, once more if need be: its consumers drop what they have. An attempt that
/// nobody decided is given up, as a check-back would. What it comes to:
///
/// # Errors
/// [`ResumeError`]; it may be tried again.
pub async fn resume(db: &Db, cluster: &RocketMq, stuck: &Stuck) -> Result<State, ResumeError> {
    let half = &stuck.half;
    let state = if stuck.state == State::Unknown {
        let (tx_id, event_id, key) = (half.tx_id.clone(), half.event_id.clone(), half.message.key.clone());
        match decide(db, Asked { tx_id, event_id, key }).await? {
            TxState::Committed => State::Committed,
            TxState::RolledBack => State::RolledBack,
        }
    } else {
        stuck.state
    };
    if state == State::Committed {
        for result in cluster.publish(std::slice::from_ref(&half.message)).await {
            result?;
        }
        let tx_id = half.tx_id.clone();
        db.write("tx_resume", move |tx| {
            let ids = vec![tx_id.clone()];
            Box::pin(async move { tx_state::mark_resumed(tx, ids).await })
        })
        .await?;
    }
    Ok(state)
}
