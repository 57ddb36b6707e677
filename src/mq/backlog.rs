//! How far consumer groups are behind, and what is to be done about it.

use super::message::QueueId;
use super::operate::Standing;
use super::rocketmq::{MqError, RocketMq};
use crate::config::Limit;
use crate::domain::event::Group;

/// How far one group is behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Which group.
    pub group: String,
    /// Where it stands in each queue.
    pub queues: Vec<(QueueId, Standing)>,
}

/// What a reading means for a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Messages that it has not consumed; none when that is not known of every queue: unknown is not 0, nor is a place
    /// beyond the end.
    pub lag: Option<i64>,
    /// Over its threshold; none when it may or may not be. What is known of some queues can be enough.
    pub over: Option<bool>,
    /// Instances that should consume; none where the lag is unknown and what is known is not over the threshold.
    pub wanted: Option<i64>,
    /// Messages that it has not consumed, as far as is known.
    pub known: i64,
    /// Queues of its topic with the most queues: more instances than these would have nothing to do.
    pub queues: i64,
    /// Queues in which it stands beyond the end, and passes messages over.
    pub beyond: usize,
}

/// Where a group stands in each queue: a group of the catalogue by its topics, any other by what its brokers know of it.
///
/// # Errors
/// [`MqError`] when the cluster is away.
pub async fn standings(cluster: &RocketMq, group: &str) -> Result<Vec<(QueueId, Standing)>, MqError> {
    match Group::from_name(group) {
        Some(known) => {
            let topics: Vec<String> = known.events().map(|kind| kind.name().to_owned()).collect();
            cluster.lag(group, &topics).await
        }
        None => cluster.lag_of_group(group).await,
    }
}

impl Reading {
    /// Reads a group. What cannot be read is unknown.
    pub async fn of(cluster: &RocketMq, group: &str) -> Self {
        let queues = standings(cluster, group).await.unwrap_or_else(|error| {
            tracing::debug!(group, %error, "its lag is unknown");
            Vec::new()
        });
        Self { group: group.to_owned(), queues }
    }

    /// What it means.
    #[must_use]
    pub fn judge(&self, limit: &Limit) -> Verdict {
        let known: i64 = self.queues.iter().filter_map(|(_, standing)| standing.lag()).sum();
        let complete = !self.queues.is_empty() && self.queues.iter().all(|(_, standing)| standing.lag().is_some());
        let beyond = self.queues.iter().filter(|(_, standing)| standing.is_beyond()).count();
        let lag = complete.then_some(known);
        let over = if known > limit.threshold { Some(true) } else { lag.map(|_| false) };
        let mut topics: Vec<&str> = self.queues.iter().map(|(queue, _)| queue.topic.as_str()).collect();
        topics.sort_unstable();
        let widest = topics.chunk_by(|a, b| a == b).map(<[_]>::len).max().unwrap_or(0);
        let queues = i64::try_from(widest).unwrap_or(i64::MAX);
        let most = limit.max_replicas.min(queues).max(1);
        let needed = known / limit.per_replica.max(1) + i64::from(known % limit.per_replica.max(1) > 0);
        let wanted = (over == Some(true) || complete).then(|| needed.clamp(1, most));
        Verdict { lag, over, wanted, known, queues, beyond }
    }
}

/// What has to be done now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Todo {
    /// Tell people.
    pub alert: bool,
    /// Tell whoever scales how many instances are wanted.
    pub hook: bool,
    /// It is no longer over its threshold.
    pub recovered: bool,
}

/// What was done about a group so far.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    over: bool,
    /// When people were told, epoch ms.
    told_at: Option<i64>,
    /// What whoever scales was told.
    asked: Option<i64>,
}

impl Memory {
    /// What a verdict calls for. People are told when the threshold is crossed, and again after `repeat_ms`; whoever
    /// scales when it is crossed, when another number is wanted, and once when the group is back. Nothing follows from
    /// what is unknown.
    #[must_use]
    pub fn todo(&self, verdict: &Verdict, now_ms: i64, repeat_ms: i64) -> Todo {
        match verdict.over {
            None => Todo::default(),
            Some(true) => {
                let alert = self.told_at.is_none_or(|at| now_ms - at >= repeat_ms);
                Todo { alert, hook: self.asked != verdict.wanted, recovered: false }
            }
            Some(false) => Todo { alert: false, hook: self.asked.is_some(), recovered: self.over },
        }
    }

    /// What came of it: an alert or a hook that failed is due again at the next reading.
    pub fn done(&mut self, verdict: &Verdict, told: bool, asked: bool, now_ms: i64) {
        let Some(over) = verdict.over else { return };
        self.over = over;
        if told {
            self.told_at = Some(now_ms);
        }
        if asked {
            self.asked = verdict.wanted.filter(|_| over);
        }
        if !over {
            self.told_at = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit { threshold: 10_000, per_replica: 5_000, max_replicas: 6 };

    fn reading(queues: &[(&str, Option<i64>)]) -> Reading {
        let queue = |(index, (topic, lag)): (usize, &(&str, Option<i64>))| {
            let queue = i32::try_from(index).unwrap();
            let standing = lag.map_or(Standing::Unknown, Standing::Behind);
            (QueueId { topic: (*topic).to_owned(), broker: "a".to_owned(), queue }, standing)
        };
        Reading { group: "g".to_owned(), queues: queues.iter().enumerate().map(queue).collect() }
    }

    #[test]
    fn what_is_unknown_is_not_nothing() {
        let verdict = |queues: &[_]| {
            let Verdict { lag, over, wanted, .. } = reading(queues).judge(&LIMIT);
            (lag, over, wanted)
        };
        assert_eq!(verdict(&[]), (None, None, None));
        assert_eq!(verdict(&[("T", Some(5)), ("T", None)]), (None, None, None));
        assert_eq!(verdict(&[("T", Some(5)), ("T", Some(0))]), (Some(5), Some(false), Some(1)));
        // What is known is enough.
        assert_eq!(verdict(&[("T", Some(10_001)), ("T", None), ("T", None)]), (None, Some(true), Some(3)));
    }

    #[test]
    fn beyond_the_end_nothing_is_known() {
        let mut reading = reading(&[("T", Some(5)), ("T", Some(0))]);
        reading.queues[1].1 = Standing::Beyond(490);
        let Verdict { lag, over, wanted, known, beyond, .. } = reading.judge(&LIMIT);
        assert_eq!((lag, over, wanted, known, beyond), (None, None, None, 5, 1));
    }

    #[test]
    fn wanted_is_what_the_lag_needs_between_one_and_what_can_work() {
        let wanted = |lag, queues: usize| {
            let mut all = vec![("T", Some(0)); queues - 1];
            all.extend([("T", Some(lag)), ("U", Some(0))]);
            reading(&all).judge(&LIMIT).wanted.unwrap()
        };
        assert_eq!([wanted(0, 8), wanted(5_000, 8), wanted(5_001, 8), wanted(29_999, 8)], [1, 1, 2, 6]);
        assert_eq!([wanted(1_000_000, 8), wanted(1_000_000, 4)], [6, 4]);
    }

    #[test]
    fn people_are_told_once_per_crossing_and_again_after_a_while() {
        let (high, low) = (reading(&[("T", Some(20_000)); 8]), reading(&[("T", Some(1)); 8]));
        let (high, low) = (high.judge(&LIMIT), low.judge(&LIMIT));
        let unknown = reading(&[]).judge(&LIMIT);
        let mut memory = Memory::default();
        let mut step = |verdict: &Verdict, now_ms: i64, works: bool| {
            let todo = memory.todo(verdict, now_ms, 1_000);
            memory.done(verdict, todo.alert && works, todo.hook && works, now_ms);
            (todo.alert, todo.hook, todo.recovered)
        };
        assert_eq!(step(&low, 0, true), (false, false, false));
        assert_eq!(step(&high, 100, false), (true, true, false));
        assert_eq!(step(&high, 200, true), (true, true, false), "what failed is done again");
        assert_eq!(step(&high, 300, true), (false, false, false));
        assert_eq!(step(&unknown, 2_000, true), (false, false, false));
        assert_eq!(step(&high, 1_199, true), (false, false, false));
        assert_eq!(step(&high, 1_200, true), (true, false, false));
        assert_eq!(step(&Verdict { wanted: Some(2), ..high }, 1_300, true), (false, true, false));
        assert_eq!(step(&low, 1_400, true), (false, true, true));
        assert_eq!(step(&low, 1_500, true), (false, false, false));
        assert_eq!(step(&high, 1_600, true), (true, true, false), "another crossing");
    }
}
