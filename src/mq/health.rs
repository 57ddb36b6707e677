//! Whether the brokers can be reached and take messages: looked at regularly, and at once when something could not be sent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::rocketmq::{MqError, RocketMq};

/// Pause between two looks while all is well.
const CALM: Duration = Duration::from_secs(5);
/// The first and the longest pause between two looks while the brokers are away.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// For so long brokers may refuse every message before that is more than a moment of too much work.
const REFUSING: Duration = Duration::from_secs(10);
/// Between two messages that are tried on brokers which refuse, while the handlers of this process are fed otherwise.
const TRIAL: Duration = Duration::from_secs(5);

/// How the brokers stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// One of them answers, and takes messages.
    Up,
    /// They answer, and refuse every message, whatever it is: a full disk. What is to be sent is tried again and again.
    Refusing,
    /// None answers: what is to be sent waits.
    Away,
    /// None has answered, or taken a message, for longer than `mq.degrade_after`: the handlers of this process are fed
    /// from the outbox.
    Degraded,
}

impl Reach {
    /// A broker answers: consumers get what it has, and it may be asked to take more.
    #[must_use]
    pub const fn answers(self) -> bool {
        matches!(self, Self::Up | Self::Refusing)
    }
}

/// That brokers refuse every message.
struct Refusal {
    since: Instant,
    /// When one was tried last.
    tried: Instant,
    reason: String,
}

/// What is known at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// How the brokers stand.
    pub reach: Reach,
    /// Grows with each change.
    pub change: u64,
}

/// What is known about the brokers, shared by all that depend on it.
pub struct Health {
    state: watch::Sender<State>,
    /// Looks that were taken: who doubts waits for the next one.
    looks: watch::Sender<u64>,
    /// Grows when a broker answers that did not before: consumers then start anew.
    returns: watch::Sender<u64>,
    doubt: Notify,
    /// When the last broker went away, or began to refuse.
    since: RwLock<Instant>,
    refusal: Mutex<Option<Refusal>>,
    degrade_after: Duration,
}

impl Health {
    /// Before the first look.
    #[must_use]
    pub fn new(up: bool, degrade_after: Duration) -> Self {
        let reach = if up { Reach::Up } else { Reach::Away };
        Self {
            state: watch::Sender::new(State { reach, change: 0 }),
            looks: watch::Sender::new(0),
            returns: watch::Sender::new(0),
            doubt: Notify::new(),
            since: RwLock::new(Instant::now()),
            refusal: Mutex::default(),
            degrade_after,
        }
    }

    /// How the brokers stand.
    #[must_use]
    pub fn now(&self) -> State {
        *self.state.borrow()
    }

    /// How the brokers stand, to be waited for.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Changes when a broker is back.
    #[must_use]
    pub fn returns(&self) -> watch::Receiver<u64> {
        self.returns.subscribe()
    }

    /// Something got no answer: looks at once; what that shows, or what is known after `limit`.
    pub async fn doubt(&self, limit: Duration) -> State {
        let mut looks = self.looks.subscribe();
        looks.mark_unchanged();
        self.doubt.notify_one();
        let _ = tokio::time::timeout(limit, looks.changed()).await;
        self.now()
    }

    /// A message was taken.
    pub fn taken(&self) {
        if self.refusal().take().is_some() {
            self.saw(true);
        }
    }

    /// A round of messages was refused, every one of them, for what the broker is and not for what they are.
    pub fn refused(&self, reason: &str) {
        let now = Instant::now();
        let mut refusal = self.refusal();
        let since = refusal.as_ref().map_or(now, |known| known.since);
        *refusal = Some(Refusal { since, tried: now, reason: reason.to_owned() });
        drop(refusal);
        if since.elapsed() >= REFUSING && self.now().reach == Reach::Up {
            self.saw(true);
        }
    }

    /// What brokers say that refuse every message.
    #[must_use]
    pub fn refusal_reason(&self) -> Option<String> {
        let refusal = self.refusal();
        refusal.as_ref().filter(|known| known.since.elapsed() >= REFUSING).map(|known| known.reason.clone())
    }

    /// For how long brokers have refused every message.
    #[must_use]
    pub fn refusing_for(&self) -> Duration {
        self.refusal().as_ref().map_or(Duration::ZERO, |known| known.since.elapsed())
    }

    /// Whether somebody is to try one message now on brokers that refuse, while the handlers of this process stand in for
    /// them: once every few seconds.
    #[must_use]
    pub fn take_trial(&self) -> bool {
        let mut refusal = self.refusal();
        let due = refusal.as_mut().filter(|known| known.tried.elapsed() >= TRIAL);
        due.map(|known| known.tried = Instant::now()).is_some()
    }

    /// A panic elsewhere leaves a valid value.
    fn refusal(&self) -> MutexGuard<'_, Option<Refusal>> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the brokers have been away; none while they are there.
    #[must_use]
    pub fn away_for(&self) -> Duration {
        match self.now().reach {
            Reach::Up => Duration::ZERO,
            _ => self.since.read().unwrap_or_else(PoisonError::into_inner).elapsed(),
        }
    }

    /// Takes in what a look showed.
    pub fn saw(&self, answers: bool) {
        let old = self.now();
        let refusal = self.refusal_reason();
        let is_long = old.reach != Reach::Up && self.away_for() >= self.degrade_after;
        let reach = match (answers, old.reach) {
            (true, _) if refusal.is_none() => Reach::Up,
            (_, Reach::Degraded) => Reach::Degraded,
            _ if is_long => Reach::Degraded,
            (true, _) => Reach::Refusing,
            (false, _) => Reach::Away,
        };
        if reach != old.reach {
            let away_s = self.away_for().as_secs();
            if old.reach == Reach::Up {
                *self.since.write().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            }
            let reason = refusal.as_deref().unwrap_or("no broker answers");
            match reach {
                Reach::Up => tracing::info!(away_s, "the brokers are back: what has waited is sent"),
                Reach::Refusing => {
                    tracing::error!(reason, "the brokers refuse every message: what is to be sent waits")
                }
                Reach::Away => tracing::warn!("no broker answers: what is to be sent waits"),
                Reach::Degraded => {
                    tracing::warn!(away_s, reason, "the handlers of this process are fed from the outbox");
                }
            }
            self.state.send_replace(State { reach, change: old.change + 1 });
        }
        self.looks.send_modify(|looks| *looks += 1);
    }
}

/// Looks at the brokers until `token` is cancelled. Topics (with so many queues) are made as soon as a broker answers,
/// also after a start that made them: another broker may have announced itself since. And once more when another one
/// comes, which may have none of them. Where consumers may have joined before all topics were there (`too_early` at the
/// start), they join anew when these are: a client hears of a new topic late, and then of its queues later still.
pub async fn watch_over(
    health: Arc<Health>,
    cluster: RocketMq,
    (topics, queues): (Vec<String>, i32),
    mut too_early: bool,
    token: CancellationToken,
) {
    let (mut prepared, mut answered) = (false, health.now().reach == Reach::Up);
    let mut known = BTreeMap::new();
    let mut pause = PAUSES.0;
    loop {
        let wait = if answered { CALM } else { pause };
        tokio::select! {
            () = token.cancelled() => return,
            () = health.doubt.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
        let look = tokio::select! {
            () = token.cancelled() => return,
            look = cluster.probe() => look,
        };
        let answers = look.values().any(|answers| *answers);
        let back = came_back(&mut known, look);
        pause = if answers { PAUSES.0 } else { (pause * 2).min(PAUSES.1) };
        let mut are_late = false;
        if answers && (back || !prepared) {
            match cluster.ensure_topics(&topics, queues).await {
                Ok(()) => {
                    prepared = true;
                    are_late = std::mem::take(&mut too_early);
                }
                Err(error) => {
                    // A cluster that does not let us make them has them, or the sends say so.
                    prepared = matches!(error, MqError::Denied { .. });
                    too_early |= !prepared;
                    tracing::warn!(%error, "topics could not be checked");
                }
            }
        }
        let returned = back || are_late || (answers && !answered);
        answered = answers;
        health.saw(answers);
        if returned {
            health.returns.send_modify(|returns| *returns += 1);
        }
    }
}

/// Keeps account of who answers; true when one does that did not before, or was not there: name servers forget a broker
/// as soon as its connection to them ends.
fn came_back(known: &mut BTreeMap<String, bool>, look: BTreeMap<String, bool>) -> bool {
    let is_first = known.is_empty();
    let back = look.iter().any(|(broker, answers)| *answers && known.get(broker) != Some(&true));
    *known = look;
    back && !is_first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_degrades_only_after_the_time_set_and_returns_by_itself() {
        let health = Health::new(true, Duration::from_secs(3_600));
        health.saw(true);
        assert_eq!(health.now(), State { reach: Reach::Up, change: 0 });
        for _ in 0..3 {
            health.saw(false);
            assert_eq!(health.now(), State { reach: Reach::Away, change: 1 });
        }
        let health = Health::new(true, Duration::ZERO);
        let seen: Vec<Reach> = [false, false, false, true, false]
            .map(|answers| {
                health.saw(answers);
                health.now().reach
            })
            .to_vec();
        assert_eq!(seen, [Reach::Away, Reach::Degraded, Reach::Degraded, Reach::Up, Reach::Away]);
        assert_eq!(health.now().change, 4);
        // A process that starts without a broker.
        let health = Health::new(false, Duration::ZERO);
        assert_eq!(health.now().reach, Reach::Away);
        health.saw(false);
        assert_eq!(health.now().reach, Reach::Degraded);
    }

    #[tokio::test]
    async fn brokers_that_answer_and_refuse_are_not_up() {
        let health = Health::new(true, Duration::from_secs(3_600));
        health.refused("disk full");
        health.saw(true);
        assert_eq!(health.now().reach, Reach::Up, "too much work for a moment");
        let long_ago = Instant::now().checked_sub(REFUSING).unwrap();
        health.refusal().as_mut().unwrap().since = long_ago;
        health.refused("disk full");
        assert_eq!((health.now().reach, health.refusal_reason().as_deref()), (Reach::Refusing, Some("disk full")));
        assert!(health.refusing_for() >= REFUSING);
        health.saw(false);
        assert_eq!(health.now().reach, Reach::Away);
        health.saw(true);
        assert_eq!(health.now().reach, Reach::Refusing);
        health.taken();
        assert_eq!((health.now().reach, health.refusal_reason()), (Reach::Up, None));
        assert_eq!(health.refusing_for(), Duration::ZERO);

        // The handlers of the process are fed; one message is tried from time to time, and ends that.
        let health = Health::new(true, Duration::ZERO);
        health.refused("disk full");
        health.refusal().as_mut().unwrap().since = long_ago;
        health.saw(true);
        health.saw(true);
        assert_eq!((health.now().reach, health.take_trial()), (Reach::Degraded, false));
        health.refusal().as_mut().unwrap().tried = long_ago;
        assert_eq!((health.take_trial(), health.take_trial()), (true, false));
        health.taken();
        assert_eq!(health.now().reach, Reach::Up);
    }

    #[test]
    fn a_broker_is_back_that_did_not_answer_or_was_forgotten() {
        let look = |brokers: &[(&str, bool)]| -> BTreeMap<String, bool> {
            brokers.iter().map(|(name, answers)| ((*name).to_owned(), *answers)).collect()
        };
        let (both, only_b) = (look(&[("a", true), ("b", true)]), look(&[("b", true)]));
        let another = look(&[("b", true), ("c", true)]);
        let mut known = BTreeMap::new();
        for (seen, is_back) in [
            (&both, false),
            (&both, false),
            (&look(&[("a", false), ("b", true)]), false),
            (&both, true),
            (&only_b, false),
            (&only_b, false),
            (&both, true),
            (&both, false),
            (&another, true),
            (&another, false),
        ] {
            assert_eq!(came_back(&mut known, seen.clone()), is_back, "{seen:?}");
        }
    }

    #[tokio::test]
    async fn who_doubts_hears_the_next_look() {
        let health = Arc::new(Health::new(true, Duration::from_secs(30)));
        let doubting = tokio::spawn({
            let health = Arc::clone(&health);
            async move { health.doubt(Duration::from_secs(60)).await }
        });
        health.doubt.notified().await;
        health.saw(false);
        assert_eq!(doubting.await.unwrap().reach, Reach::Away);
    }
}
