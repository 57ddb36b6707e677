//! How letters go out: few at first, then evenly, and the letters of a key one after the other.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::time::Instant;

use crate::mq::message::Outgoing;
use crate::mq::rocketmq::{PublishError, RocketMq};

/// Keys whose letters are on their way to a broker at the same time.
const IN_FLIGHT: usize = 16;

/// Rounds a second: 2,000 a second are 20 times 100, and not 2,000 timers.
const ROUNDS_PER_SECOND: f64 = 20.0;

/// The rate that is asked for.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Rate {
    /// Messages per second at most
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rps: u32,
}

/// Turns a rate into rounds.
pub struct Pace {
    rps: u32,
    ramp: Duration,
    started: Instant,
    due: Instant,
}

impl Pace {
    /// From now on; the rate grows from a tenth to all of it in `ramp`.
    #[must_use]
    pub fn new(rate: Rate, ramp: Duration) -> Self {
        let now = Instant::now();
        Self { rps: rate.rps, ramp, started: now, due: now }
    }

    /// Waits until the next round may begin; how many it may send.
    pub async fn round(&mut self) -> usize {
        tokio::time::sleep_until(self.due).await;
        self.round_at(Instant::now())
    }

    /// The round that begins now, and when the next one may.
    fn round_at(&mut self, now: Instant) -> usize {
        let (size, span) = round_at(self.rps, self.ramp, now - self.started);
        // What was late is made up for by one round at most: no burst after a pause.
        self.due = self.due.max(now.checked_sub(span).unwrap_or(now)) + span;
        size
    }
}

/// Size of a round and how long it may take, so long after the start.
fn round_at(rps: u32, ramp: Duration, elapsed: Duration) -> (usize, Duration) {
    let share = if ramp.is_zero() { 1.0 } else { (elapsed.as_secs_f64() / ramp.as_secs_f64()).min(1.0) };
    let rate = f64::from(rps) * (0.1 + 0.9 * share);
    let size = (rate / ROUNDS_PER_SECOND).ceil().max(1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 5,000")]
    let count = size as usize;
    (count, Duration::from_secs_f64(size / rate))
}

/// Sends messages, and tells what came of each (its index) as soon as it is known. A group's own topics take no
/// batches: with `one_by_one` the messages of different keys go side by side. To other topics all go at once, in
/// batches that keep the order of a key as well.
pub fn send<'a>(
    mq: &'a RocketMq,
    messages: &'a [Outgoing],
    one_by_one: bool,
) -> impl Stream<Item = Vec<(usize, Result<(), PublishError>)>> + 'a {
    futures_util::stream::iter(parts(messages, one_by_one))
        .map(move |part| async move {
            let batch: Vec<Outgoing> = part.iter().map(|index| messages[*index].clone()).collect();
            part.into_iter().zip(mq.publish(&batch).await).collect()
        })
        .buffer_unordered(IN_FLIGHT)
}

/// The indexes of what has to be sent in order, for each thing that has.
fn parts(messages: &[Outgoing], one_by_one: bool) -> Vec<Vec<usize>> {
    if !one_by_one {
        return vec![(0..messages.len()).collect()];
    }
    let mut parts: Vec<Vec<usize>> = Vec::new();
    let mut of_key: HashMap<&str, usize> = HashMap::new();
    for (index, message) in messages.iter().enumerate() {
        match of_key.get(message.key.as_str()) {
            Some(part) if !message.key.is_empty() => parts[*part].push(index),
            _ => {
                of_key.insert(&message.key, parts.len());
                parts.push(vec![index]);
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_ramps_up_and_then_holds() {
        let per_second = |rps, ramp, after| {
            let (size, span) = round_at(rps, Duration::from_secs(ramp), Duration::from_secs(after));
            #[expect(clippy::cast_precision_loss, reason = "a test")]
            let size = size as f64;
            size / span.as_secs_f64()
        };
        for rps in [1, 100, 2_000, 100_000] {
            let near = |is: f64, should: f64| (is - should).abs() < should * 0.001;
            assert!(near(per_second(rps, 10, 0), f64::from(rps) * 0.1), "{rps}");
            assert!(near(per_second(rps, 10, 5), f64::from(rps) * 0.55), "{rps}");
            assert!(near(per_second(rps, 10, 60), f64::from(rps)), "{rps}");
            assert!(near(per_second(rps, 0, 0), f64::from(rps)), "{rps}");
        }
        assert_eq!(round_at(1, Duration::ZERO, Duration::ZERO).0, 1);
        assert_eq!(round_at(2_000, Duration::ZERO, Duration::ZERO).0, 100);
    }

    #[test]
    fn letters_of_a_key_go_one_after_the_other() {
        let messages: Vec<Outgoing> = ["a", "", "b", "a", "", "b", "a"]
            .map(|key| Outgoing {
                topic: "%RETRY%g".to_owned(),
                tag: String::new(),
                key: key.to_owned(),
                body: bytes::Bytes::from_static(b"x"),
                properties: vec![],
                delay: crate::mq::message::Delay::None,
            })
            .into();
        assert_eq!(parts(&messages, true), [vec![0, 3, 6], vec![1], vec![2, 5], vec![4]]);
        assert_eq!(parts(&messages, false), [vec![0, 1, 2, 3, 4, 5, 6]]);
    }

    #[test]
    fn rounds_are_even_and_a_pause_is_no_reason_for_a_burst() {
        let mut pace = Pace::new(Rate { rps: 2_000 }, Duration::ZERO);
        let start = pace.started;
        // How many go out in so long, where each round is `late`.
        let mut sent = |mut now: Instant, span: Duration, late: Duration| {
            let end = now + span;
            let mut sent = 0;
            while now < end {
                sent += pace.round_at(now);
                now = now.max(pace.due) + late;
            }
            sent
        };
        let second = Duration::from_secs(1);
        assert_eq!(sent(start, second, Duration::ZERO), 2_000);
        // Timers that are late by some ms do not make it slower.
        let even = sent(start + second, second, Duration::from_millis(7));
        assert!((1_800..=2_100).contains(&even), "{even}");
        // The broker has kept us waiting for 10 s.
        let burst = sent(start + 12 * second, second, Duration::ZERO);
        assert!((2_000..=2_100).contains(&burst), "{burst}");
    }
}
