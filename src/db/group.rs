//! Group commit: requests from many tasks become one multi-row transaction.
//!
//! The writer takes all that is queued, up to a cap, and never waits for more. A request that makes the whole batch
//! fail is found by halving the batch; one that waits for a lock of somebody else does not hold up the others.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::DbError;
use super::pace::Hurry;

/// Why a request was not written.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The queue is full: nothing was written, try again later.
    #[error("too many requests are waiting to be written")]
    Full,
    /// The writer is gone: the process is stopping.
    #[error("the process is stopping")]
    Stopped,
    /// The database refused.
    #[error("{0}")]
    Db(Arc<DbError>),
}

struct Ticket<Q, A> {
    request: Q,
    reply: oneshot::Sender<Result<A, GroupError>>,
}

/// Hands requests to a writer. A cheap clone; when the last one is dropped, the writer ends.
pub struct Group<Q, A>(mpsc::Sender<Ticket<Q, A>>);

impl<Q, A> Clone for Group<Q, A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<Q: Clone + Send + Sync + 'static, A: Send + 'static> Group<Q, A> {
    /// A queue of `capacity` requests, and the writer that empties it, to be spawned: `write` gets up to `cap`
    /// requests and answers each.
    pub fn new<W, F>(capacity: usize, cap: usize, write: W) -> (Self, impl Future<Output = ()> + Send + 'static)
    where
        W: Fn(Arc<Vec<Q>>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Vec<A>, DbError>> + Send + 'static,
    {
        let (sender, mut queue) = mpsc::channel(capacity);
        let writer = async move {
            let (mut batch, hurry) = (Vec::with_capacity(cap), Hurry::default());
            while queue.recv_many(&mut batch, cap).await > 0 {
                write_batch(&write, &hurry, std::mem::take(&mut batch)).await;
            }
        };
        (Self(sender), writer)
    }

    /// Queues a request and waits until it is committed.
    ///
    /// # Errors
    /// [`GroupError`]; after [`GroupError::Db`] it may, rarely, be written all the same (a commit in doubt).
    pub async fn submit(&self, request: Q) -> Result<A, GroupError> {
        let (reply, answer) = oneshot::channel();
        self.0.try_send(Ticket { request, reply }).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => GroupError::Full,
            mpsc::error::TrySendError::Closed(_) => GroupError::Stopped,
        })?;
        answer.await.unwrap_or(Err(GroupError::Stopped))
    }
}

async fn write_batch<Q, A, W, F>(write: &W, hurry: &Hurry, batch: Vec<Ticket<Q, A>>)
where
    Q: Clone,
    W: Fn(Arc<Vec<Q>>) -> F,
    F: Future<Output = Result<Vec<A>, DbError>>,
{
    let mut todo = vec![batch];
    while let Some(mut batch) = todo.pop() {
        let requests = Arc::new(batch.iter().map(|ticket| ticket.request.clone()).collect());
        match hurry.run(batch.len() == 1, || write(Arc::clone(&requests))).await {
            Ok(answers) => {
                for (ticket, answer) in batch.into_iter().zip(answers) {
                    // A caller that went away has lost its answer, not its effect.
                    let _ = ticket.reply.send(Ok(answer));
                }
            }
            Err(error) if batch.len() == 1 || error.is_outage() => {
                let error = Arc::new(error);
                for ticket in batch {
                    let _ = ticket.reply.send(Err(GroupError::Db(Arc::clone(&error))));
                }
            }
            Err(_) => {
                let second = batch.split_off(batch.len() / 2);
                todo.push(second);
                todo.push(batch);
            }
        }
    }
}
