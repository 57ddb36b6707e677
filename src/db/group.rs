//! Group commit: requests from many tasks become one multi-row transaction.
//!
//! A writer takes what is queued, up to a cap, once its transaction has begun, and never waits for more. Until then a
//! caller may leave, and takes its request along. A request that makes the whole batch fail is found by halving the
//! batch; one that waits for a lock of somebody else does not hold up the others.
//!
//! When more come than can be written, the queue stands: then the newest are written, because the callers of the oldest
//! are about to give up, and whoever was passed over for too long is told so.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout};

use super::DbError;
use super::pace::Hurry;
use crate::watchdog::Part;

/// Why a request was not written.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The queue is full: nothing was written, try again later.
    #[error("too many requests are waiting to be written")]
    Full,
    /// Others were written all the time: nothing was written, try again later.
    #[error("more requests come than can be written")]
    Late,
    /// The writer is gone: the process is stopping.
    #[error("the process is stopping")]
    Stopped,
    /// The database refused.
    #[error("{0}")]
    Db(Arc<DbError>),
}

/// How much a group takes on.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Requests that may wait.
    pub waiting: usize,
    /// Requests of one transaction.
    pub batch: usize,
    /// How long a request waits at most while more wait than fit into one transaction.
    pub patience: Duration,
    /// Transactions at once.
    pub writers: usize,
}

/// The requests of one transaction. A cheap clone.
pub struct Batch<Q>(Arc<Lazy<Q>>);

type Take<Q> = Box<dyn Fn() -> Vec<Q> + Send + Sync>;

struct Lazy<Q> {
    requests: OnceLock<Arc<Vec<Q>>>,
    take: Take<Q>,
}

impl<Q> Clone for Batch<Q> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<Q> Batch<Q> {
    fn new(take: impl Fn() -> Vec<Q> + Send + Sync + 'static) -> Self {
        Self(Arc::new(Lazy { requests: OnceLock::new(), take: Box::new(take) }))
    }

    /// The requests; the first call takes them off the queue, so it is made once the transaction has begun. There may
    /// be none by then.
    #[must_use]
    pub fn requests(&self) -> Arc<Vec<Q>> {
        Arc::clone(self.0.requests.get_or_init(|| Arc::new((self.0.take)())))
    }
}

impl<Q: 'static> From<Vec<Q>> for Batch<Q> {
    fn from(requests: Vec<Q>) -> Self {
        Self(Arc::new(Lazy { requests: OnceLock::from(Arc::new(requests)), take: Box::new(Vec::new) }))
    }
}

type Reply<A> = oneshot::Sender<Result<A, GroupError>>;

struct Ticket<Q, A> {
    number: u64,
    since: Instant,
    request: Q,
    reply: Reply<A>,
}

/// Those who wait, in the order of arrival, which is that of their numbers.
struct Line<Q, A> {
    waiting: VecDeque<Ticket<Q, A>>,
    last_number: u64,
    /// Places at the end of the line that transactions which are just beginning will take.
    promised: usize,
    is_closed: bool,
}

impl<Q, A> Line<Q, A> {
    fn place(&self, number: u64) -> Option<usize> {
        self.waiting.binary_search_by_key(&number, |ticket| ticket.number).ok()
    }
}

struct Queue<Q, A> {
    bounds: Bounds,
    line: Mutex<Line<Q, A>>,
    arrived: Notify,
}

impl<Q, A> Queue<Q, A> {
    /// A panic elsewhere leaves a valid line.
    fn line(&self) -> MutexGuard<'_, Line<Q, A>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, request: Q, reply: Reply<A>) -> Result<Place<'_, Q, A>, GroupError> {
        let mut line = self.line();
        if line.is_closed {
            return Err(GroupError::Stopped);
        }
        if line.waiting.len() >= self.bounds.waiting {
            return Err(GroupError::Full);
        }
        line.last_number += 1;
        let number = line.last_number;
        line.waiting.push_back(Ticket { number, since: Instant::now(), request, reply });
        drop(line);
        self.arrived.notify_one();
        Ok(Place { queue: self, number })
    }

    /// Waits until a transaction is worth beginning; false at the end.
    async fn arrival(&self) -> bool {
        loop {
            let arrived = self.arrived.notified();
            {
                let mut line = self.line();
                if line.waiting.len() > line.promised {
                    line.promised += self.bounds.batch;
                    return true;
                }
                if line.is_closed {
                    return false;
                }
            }
            arrived.await;
        }
    }

    /// Takes a batch, in the order of arrival.
    fn take(&self) -> Vec<Ticket<Q, A>> {
        let mut line = self.line();
        line.promised = line.promised.saturating_sub(self.bounds.batch);
        let count = line.waiting.len().min(self.bounds.batch);
        let stands = line.waiting.front().is_some_and(|oldest| oldest.since.elapsed() * 2 > self.bounds.patience);
        let first = if stands { line.waiting.len() - count } else { 0 };
        let taken = line.waiting.drain(first..first + count).collect();
        if !line.waiting.is_empty() {
            self.arrived.notify_one();
        }
        taken
    }

    fn close(&self) {
        self.line().is_closed = true;
        self.arrived.notify_waiters();
    }
}

/// A place in the queue; whoever leaves it before the request was taken takes the request along.
struct Place<'q, Q, A> {
    queue: &'q Queue<Q, A>,
    number: u64,
}

impl<Q, A> Place<'_, Q, A> {
    /// Leaves when others are written first; false when the turn is near, or there.
    fn leave(&self) -> bool {
        let mut line = self.queue.line();
        let passed_over = line.waiting.len().saturating_sub(self.queue.bounds.batch);
        match line.place(self.number) {
            Some(place) if place < passed_over => line.waiting.remove(place).is_some(),
            _ => false,
        }
    }
}

impl<Q, A> Drop for Place<'_, Q, A> {
    fn drop(&mut self) {
        let mut line = self.queue.line();
        if let Some(place) = line.place(self.number) {
            line.waiting.remove(place);
        }
    }
}

/// Hands requests to a writer. A cheap clone; when the last one is dropped, the writer ends.
pub struct Group<Q, A>(Arc<Entrance<Q, A>>);

struct Entrance<Q, A>(Arc<Queue<Q, A>>);

impl<Q, A> Drop for Entrance<Q, A> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl<Q, A> Clone for Group<Q, A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Tells those who wait when the writer goes.
struct Writing<Q, A>(Arc<Queue<Q, A>>);

impl<Q, A> Drop for Writing<Q, A> {
    fn drop(&mut self) {
        self.0.close();
        self.0.line().waiting.clear();
    }
}

impl<Q: Clone + Send + Sync + 'static, A: Send + 'static> Group<Q, A> {
    /// A queue, and the writer that empties it, to be spawned: `write` gets a batch and answers each of its requests,
    /// in their order. `part` tells when it does not go forward.
    pub fn new<W, F>(part: Arc<Part>, bounds: Bounds, write: W) -> (Self, impl Future<Output = ()> + Send + 'static)
    where
        W: Fn(Batch<Q>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Vec<A>, DbError>> + Send + 'static,
    {
        let line = Line { waiting: VecDeque::new(), last_number: 0, promised: 0, is_closed: false };
        let queue = Arc::new(Queue { bounds, line: Mutex::new(line), arrived: Notify::new() });
        let writing = Writing(Arc::clone(&queue));
        let writer = async move {
            let hurry = Hurry::default();
            join_all((0..bounds.writers.max(1)).map(|_| write_all(&writing.0, &part, &hurry, &write))).await;
        };
        (Self(Arc::new(Entrance(queue))), writer)
    }

    /// Queues a request and waits until it is committed. Dropped before a transaction took the request, it is not
    /// written.
    ///
    /// # Errors
    /// [`GroupError`]; after [`GroupError::Db`] it may, rarely, be written all the same (a commit in doubt).
    pub async fn submit(&self, request: Q) -> Result<A, GroupError> {
        let queue = &*self.0.0;
        let (reply, mut answer) = oneshot::channel();
        let place = queue.join(request, reply)?;
        loop {
            match timeout(queue.bounds.patience, &mut answer).await {
                Ok(answered) => return answered.unwrap_or(Err(GroupError::Stopped)),
                Err(_) if place.leave() => return Err(GroupError::Late),
                Err(_) => {}
            }
        }
    }
}

/// Requests, and who waits for the answers to them.
type Share<Q, A> = (Arc<Vec<Q>>, Vec<Reply<A>>);

async fn write_all<Q, A, W, F>(queue: &Arc<Queue<Q, A>>, part: &Part, hurry: &Hurry, write: &W)
where
    Q: Clone + Send + Sync + 'static,
    A: Send + 'static,
    W: Fn(Batch<Q>) -> F,
    F: Future<Output = Result<Vec<A>, DbError>>,
{
    while queue.arrival().await {
        part.during(write_next(queue, hurry, write)).await;
    }
}

async fn write_next<Q, A, W, F>(queue: &Arc<Queue<Q, A>>, hurry: &Hurry, write: &W)
where
    Q: Clone + Send + Sync + 'static,
    A: Send + 'static,
    W: Fn(Batch<Q>) -> F,
    F: Future<Output = Result<Vec<A>, DbError>>,
{
    let replies: Arc<Mutex<Vec<Reply<A>>>> = Arc::default();
    let (source, waiting) = (Arc::clone(queue), Arc::clone(&replies));
    let batch = Batch::new(move || {
        let (requests, senders) = source.take().into_iter().map(|ticket| (ticket.request, ticket.reply)).unzip();
        *waiting.lock().unwrap_or_else(PoisonError::into_inner) = senders;
        requests
    });

    let written = hurry.run(true, || write(batch.clone())).await;

    // A transaction that failed before it looked who waits fails for those who wait now.
    let requests = batch.requests();
    let replies = std::mem::take(&mut *replies.lock().unwrap_or_else(PoisonError::into_inner));
    let mut todo: Vec<Share<Q, A>> = answer(written, (requests, replies));
    while let Some((requests, replies)) = todo.pop() {
        let written = hurry.run(requests.len() == 1, || write(Batch::from(requests.to_vec()))).await;
        todo.extend(answer(written, (requests, replies)));
    }
}

/// Answers a part that was written, or cannot be; else the halves of it that are to be tried, the first one last.
fn answer<Q: Clone, A>(written: Result<Vec<A>, DbError>, (requests, mut replies): Share<Q, A>) -> Vec<Share<Q, A>> {
    match written {
        Ok(answers) => {
            for (reply, answer) in replies.into_iter().zip(answers) {
                // A caller that went away has lost its answer, not its effect.
                let _ = reply.send(Ok(answer));
            }
            Vec::new()
        }
        Err(error) if requests.len() <= 1 || error.is_outage() => {
            let error = Arc::new(error);
            for reply in replies {
                let _ = reply.send(Err(GroupError::Db(Arc::clone(&error))));
            }
            Vec::new()
        }
        Err(_) => {
            let (first, second) = requests.split_at(requests.len() / 2);
            let rest = replies.split_off(first.len());
            vec![(Arc::new(second.to_vec()), rest), (Arc::new(first.to_vec()), replies)]
        }
    }
}
