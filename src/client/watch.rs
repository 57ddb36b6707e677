//! Waiting for many orders with few requests: one poller asks for all of them together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{Api, CallError, IDS_PER_CALL, Reply};
use crate::domain::id::OrderId;
use crate::domain::order::{CancelType, Outcome, Status};

/// Pause between two rounds while orders move; it doubles while none does.
const SHORTEST_PAUSE: Duration = Duration::from_millis(40);
const LONGEST_PAUSE: Duration = Duration::from_millis(640);

/// What the client looks at in an order.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderView {
    /// Which order.
    pub order_id: OrderId,
    /// State.
    pub status: Status,
    /// End, or open.
    pub outcome: Outcome,
    /// Who canceled it.
    #[serde(default)]
    pub cancel_type: Option<CancelType>,
    /// Why.
    #[serde(default)]
    pub cancel_reason: Option<String>,
    /// All of the answer.
    #[serde(skip)]
    pub raw: Option<Reply>,
}

impl OrderView {
    pub(super) fn of(url: &str, raw: Reply) -> Result<Self, CallError> {
        let garbled = |source| CallError::Garbled { url: url.to_owned(), source };
        let mut view: Self = serde_json::from_str(raw.get()).map_err(garbled)?;
        view.raw = Some(raw);
        Ok(view)
    }

    /// An end has been reached.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.outcome != Outcome::Open
    }

    fn differs(&self, other: &Self) -> bool {
        (self.status, self.outcome) != (other.status, other.outcome)
    }
}

/// Why the wait ended without what was waited for.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// It took too long.
    #[error("still {} after {} s", .last.as_ref().map_or("unseen", |view| view.status.name()), .limit.as_secs_f64())]
    Timeout {
        /// How the order was seen last.
        last: Option<Arc<OrderView>>,
        /// How long was waited.
        limit: Duration,
    },
    /// There is no such order.
    #[error("404 not-found: there is no order {0}")]
    Unknown(OrderId),
    /// The order role could not be asked.
    #[error("{0}")]
    Call(Arc<str>),
}

#[derive(Clone, Debug)]
enum Seen {
    Nothing,
    Order(Arc<OrderView>),
    Unknown,
    Failed(Arc<str>),
}

/// Polls the orders that somebody waits for. Dropping it ends the polling.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    _poller: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    api: Api,
    open: Mutex<HashMap<OrderId, watch::Sender<Seen>>>,
    added: Notify,
}

impl Watch {
    /// Starts the poller; it is idle until somebody waits.
    #[must_use]
    pub fn start(api: Api) -> Self {
        let shared = Arc::new(Shared { api, open: Mutex::default(), added: Notify::new() });
        let poller = tokio::spawn(poll(shared.clone()));
        Self { shared, _poller: AbortOnDropHandle::new(poller) }
    }

    /// Waits until the order is as `accept` wants it, for `limit` at most.
    ///
    /// # Errors
    /// [`WatchError`].
    pub async fn until(
        &self,
        id: OrderId,
        limit: Duration,
        accept: impl Fn(&OrderView) -> bool,
    ) -> Result<Arc<OrderView>, WatchError> {
        let mut seen = self.subscribe(id);
        let deadline = Instant::now() + limit;
        let mut last = None;
        loop {
            match seen.borrow_and_update().clone() {
                Seen::Order(view) if accept(&view) => return Ok(view),
                Seen::Order(view) => last = Some(view),
                Seen::Unknown => return Err(WatchError::Unknown(id)),
                Seen::Failed(why) => return Err(WatchError::Call(why)),
                Seen::Nothing => {}
            }
            let changed = tokio::time::timeout_at(deadline, seen.changed()).await;
            if !matches!(changed, Ok(Ok(()))) {
                return Err(WatchError::Timeout { last, limit });
            }
        }
    }

    fn subscribe(&self, id: OrderId) -> watch::Receiver<Seen> {
        let receiver = self.shared.lock().entry(id).or_insert_with(|| watch::Sender::new(Seen::Nothing)).subscribe();
        self.shared.added.notify_one();
        receiver
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<OrderId, watch::Sender<Seen>>> {
        // Nothing that holds the lock can panic half-way through a change.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The orders that somebody still waits for; the others are forgotten.
    fn wanted(&self) -> Vec<OrderId> {
        let mut open = self.lock();
        open.retain(|_, sender| sender.receiver_count() > 0);
        open.keys().copied().collect()
    }

    /// Asks for these orders; true when one of them has moved.
    async fn ask(&self, ids: &[OrderId]) -> bool {
        let mut found = match self.api.orders_by_id(ids).await {
            Ok(orders) => orders.into_iter().map(|view| (view.order_id, Arc::new(view))).collect::<HashMap<_, _>>(),
            Err(error) => {
                let why: Arc<str> = format!("{:#}", anyhow::Error::new(error)).into();
                self.tell(ids, |_| Seen::Failed(why.clone()));
                return true;
            }
        };
        self.tell(ids, |id| found.remove(&id).map_or(Seen::Unknown, Seen::Order))
    }

    fn tell(&self, ids: &[OrderId], mut news: impl FnMut(OrderId) -> Seen) -> bool {
        let open = self.lock();
        let mut moved = false;
        for id in ids {
            let next = news(*id);
            let Some(sender) = open.get(id) else { continue };
            moved |= sender.send_if_modified(|seen| {
                let changed = match (&*seen, &next) {
                    (Seen::Order(old), Seen::Order(new)) => old.differs(new),
                    _ => true,
                };
                if changed {
                    *seen = next;
                }
                changed
            });
        }
        moved
    }
}

async fn poll(shared: Arc<Shared>) {
    let mut pause = SHORTEST_PAUSE;
    loop {
        let ids = shared.wanted();
        if ids.is_empty() {
            shared.added.notified().await;
            pause = SHORTEST_PAUSE;
            continue;
        }
        let mut moved = false;
        for some in ids.chunks(IDS_PER_CALL) {
            moved |= shared.ask(some).await;
        }
        pause = if moved { SHORTEST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        tokio::time::sleep(pause).await;
    }
}
