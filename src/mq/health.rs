//! Whether the brokers can be reached: looked at regularly, and at once when something could not be sent.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::rocketmq::{MqError, RocketMq};

/// Pause between two looks while all is well.
const CALM: Duration = Duration::from_secs(5);
/// The first and the longest pause between two looks while the brokers are away.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// How the brokers stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// One of them answers.
    Up,
    /// None answers: what is to be sent waits.
    Away,
    /// None has answered for longer than `mq.degrade_after`: the handlers of this process are fed from the outbox.
    Degraded,
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
    /// When the last broker went away.
    since: RwLock<Instant>,
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
        let reach = match (answers, old.reach) {
            (true, _) => Reach::Up,
            (false, Reach::Up) => Reach::Away,
            (false, Reach::Away) if self.away_for() >= self.degrade_after => Reach::Degraded,
            (false, same) => same,
        };
        if reach != old.reach {
            let away_s = self.away_for().as_secs();
            match reach {
                Reach::Up => tracing::info!(away_s, "the brokers are back: what has waited is sent"),
                Reach::Away => {
                    *self.since.write().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                    tracing::warn!("no broker answers: what is to be sent waits");
                }
                Reach::Degraded => {
                    tracing::warn!(away_s, "no broker answers: the handlers of this process are fed from the outbox");
                }
            }
            self.state.send_replace(State { reach, change: old.change + 1 });
        }
        self.looks.send_modify(|looks| *looks += 1);
    }
}

/// Looks at the brokers until `token` is cancelled. Topics (with so many queues) are made as soon as a broker answers,
/// also after a start that made them: another broker may have announced itself since. And once more when another one
/// comes, which may have none of them.
pub async fn watch_over(
    health: Arc<Health>,
    cluster: RocketMq,
    (topics, queues): (Vec<String>, i32),
    token: CancellationToken,
) {
    let mut prepared = false;
    let mut known = BTreeMap::new();
    let mut pause = PAUSES.0;
    loop {
        let wait = if health.now().reach == Reach::Up { CALM } else { pause };
        tokio::select! {
            () = token.cancelled() => return,
            () = health.doubt.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
        let look = tokio::select! {
            () = token.cancelled() => return,
            look = cluster.probe() => look,
        };
        let back = came_back(&mut known, &look);
        let answers = look.values().any(|answers| *answers);
        pause = if answers { PAUSES.0 } else { (pause * 2).min(PAUSES.1) };
        if answers && (back || !prepared) {
            prepared = true;
            if let Err(error) = cluster.ensure_topics(&topics, queues).await {
                // A cluster that does not let us make them has them, or the sends say so.
                prepared = matches!(error, MqError::Denied { .. });
                tracing::warn!(%error, "topics could not be checked");
            }
        }
        let returned = back || (answers && health.now().reach != Reach::Up);
        health.saw(answers);
        if returned {
            health.returns.send_modify(|returns| *returns += 1);
        }
    }
}

/// Keeps account of who answers; true when one does that did not before, or was not there.
fn came_back(known: &mut BTreeMap<String, bool>, look: &BTreeMap<String, bool>) -> bool {
    let first = known.is_empty();
    let mut back = false;
    for (broker, answers) in look {
        let before = known.insert(broker.clone(), *answers);
        back |= *answers && before != Some(true);
    }
    back && !first
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

    #[test]
    fn one_broker_of_two_that_comes_back_is_noticed() {
        let mut known = BTreeMap::new();
        let look = |a, b| BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), b)]);
        assert!(!came_back(&mut known, &look(true, true)), "the first look");
        assert!(!came_back(&mut known, &look(false, true)));
        // Name servers forget a broker that is gone.
        assert!(!came_back(&mut known, &BTreeMap::from([("b".to_owned(), true)])));
        assert!(came_back(&mut known, &look(true, true)));
        assert!(!came_back(&mut known, &look(true, true)));
        let third = BTreeMap::from([("b".to_owned(), true), ("c".to_owned(), true)]);
        assert!(came_back(&mut known, &third), "a new one");
        assert!(!came_back(&mut known, &third));
    }
}
