//! How many orders are in work at once: as many as make the whole go faster.

use std::time::Duration;

use tokio::time::Instant;

/// The run begins with this many, and never has fewer.
pub const FEWEST: usize = 8;

/// More in work are worth it while they end this much faster, and too many where they end this much slower.
const FASTER: f64 = 1.1;
const SLOWER: f64 = 0.7;

/// The window of orders in work. It doubles as long as that makes orders end faster, and halves when they end more
/// slowly than they once did: on a machine that is busy with other work, more orders at once only wait for each other.
#[derive(Debug)]
pub struct Pace {
    window: usize,
    most: usize,
    /// Orders per second in the best round so far.
    best: f64,
    round_began: Instant,
    ended_in_round: usize,
}

impl Pace {
    /// At most `most` at once.
    #[must_use]
    pub fn up_to(most: usize, now: Instant) -> Self {
        let most = most.max(1);
        Self { window: FEWEST.min(most), most, best: 0.0, round_began: now, ended_in_round: 0 }
    }

    /// How many may be in work now.
    #[must_use]
    pub const fn window(&self) -> usize {
        self.window
    }

    /// An order has ended. A round is over when as many have ended as may be in work.
    pub fn ended(&mut self, now: Instant) {
        self.ended_in_round += 1;
        if self.ended_in_round < self.window {
            return;
        }

        let elapsed = now.duration_since(self.round_began).max(Duration::from_millis(1));
        #[expect(clippy::cast_precision_loss, reason = "a rate of at most some thousands")]
        let rate = self.ended_in_round as f64 / elapsed.as_secs_f64();
        if rate > self.best * FASTER {
            self.best = rate;
            self.window = (self.window * 2).min(self.most);
        } else if rate < self.best * SLOWER {
            // What was once possible is forgotten step by step: the machine may have become slower for good.
            self.best = (self.best + rate) / 2.0;
            self.window = (self.window / 2).max(FEWEST.min(self.most));
        }
        self.round_began = now;
        self.ended_in_round = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends `rounds` rounds, in each of which an order ends every `per_order(window)`.
    fn run(pace: &mut Pace, rounds: usize, now: &mut Instant, per_order: impl Fn(usize) -> Duration) {
        for _ in 0..rounds {
            let window = pace.window();
            for _ in 0..window {
                *now += per_order(window);
                pace.ended(*now);
            }
        }
    }

    #[test]
    fn window_doubles_while_orders_end_faster() {
        let mut now = Instant::now();
        let mut pace = Pace::up_to(256, now);
        run(&mut pace, 8, &mut now, |window| Duration::from_millis(1_000 / window as u64));
        assert_eq!(pace.window(), 256);
    }

    #[test]
    fn window_stays_where_more_bring_nothing() {
        let mut now = Instant::now();
        let mut pace = Pace::up_to(256, now);
        run(&mut pace, 8, &mut now, |_| Duration::from_millis(20));
        assert_eq!(pace.window(), 2 * FEWEST);
    }

    #[test]
    fn window_shrinks_with_the_machine_and_grows_again() {
        let mut now = Instant::now();
        let mut pace = Pace::up_to(64, now);
        run(&mut pace, 6, &mut now, |window| Duration::from_millis(1_000 / window as u64));
        assert_eq!(pace.window(), 64);
        run(&mut pace, 6, &mut now, |_| Duration::from_secs(1));
        assert_eq!(pace.window(), FEWEST);
        run(&mut pace, 8, &mut now, |window| Duration::from_millis(1_000 / window as u64));
        assert_eq!(pace.window(), 64);
    }

    #[test]
    fn window_of_one_stays_one() {
        let mut now = Instant::now();
        let mut pace = Pace::up_to(1, now);
        run(&mut pace, 3, &mut now, |_| Duration::from_millis(1));
        assert_eq!(pace.window(), 1);
    }
}
