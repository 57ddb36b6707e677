//! What came of an attempt, and when to try again.

use std::collections::HashMap;

use crate::config::{self, Millis};
use crate::db::DbError;
use crate::domain::call::Kind;

/// What one attempt means for its call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Answered well.
    Delivered,
    /// May work later; the target may have said when, in ms from now.
    Again {
        /// Why it failed.
        error: String,
        /// Not before so many ms.
        retry_after_ms: Option<i64>,
    },
    /// Answered well, and the answer is that there is no answer yet; why. After the last attempt that is the answer.
    NotYet(String),
    /// Will never work.
    Refused(String),
    /// Not tried: it is too early for it.
    Wait {
        /// Why.
        why: String,
        /// Until then, epoch ms.
        until_ms: i64,
    },
    /// Not tried, and never to be: there is nobody to be told, or who wants to be.
    Unsent(String),
    /// Not tried: its target has been left alone for too long.
    Expired(String),
}

impl Outcome {
    /// Why it was not done.
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Delivered => None,
            Self::Again { error: why, .. }
            | Self::NotYet(why)
            | Self::Refused(why)
            | Self::Wait { why, .. }
            | Self::Unsent(why)
            | Self::Expired(why) => Some(why),
        }
    }

    /// The other side has answered: it is there, and was not only asked in vain.
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Delivered | Self::NotYet(_) | Self::Refused(_))
    }

    /// What the call needs (`what`) cannot be read from the database now.
    pub fn unread(what: &str, error: &DbError, now_ms: i64) -> Self {
        let why = format!("{what} cannot be looked up: {error}");
        Self::Wait { why, until_ms: now_ms.saturating_add(DATABASE_PAUSE_MS) }
    }
}

/// While the database cannot be read, a call waits this long, ms.
const DATABASE_PAUSE_MS: i64 = 1_000;

/// The waits between attempts.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    waits_ms: Vec<i64>,
    /// Largest part of a wait that is taken off, in thousandths.
    jitter: u64,
}

impl Schedule {
    /// `jitter` from 0 to 1.
    pub fn new(waits: &[Millis], jitter: f64) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000")]
        let jitter = (jitter.clamp(0.0, 1.0) * 1000.0) as u64;
        Self { waits_ms: waits.iter().map(|wait| wait.ms()).collect(), jitter }
    }

    /// How long to wait after failed attempt number `attempt` (from 1) of call `id`; `None` after the last one.
    ///
    /// The jitter is a hash of both: it spreads calls as well as random numbers would, and tests need none.
    pub fn wait_ms(&self, id: i64, attempt: i64, retry_after_ms: Option<i64>) -> Option<i64> {
        let index = usize::try_from(attempt.checked_sub(1)?).ok()?;
        let wait_ms = *self.waits_ms.get(index)?;
        let share = mix(id.unsigned_abs() ^ attempt.unsigned_abs().rotate_left(48)) % (self.jitter + 1);
        let off_ms = wait_ms / 1000 * i64::try_from(share).unwrap_or(0);
        Some((wait_ms - off_ms).max(retry_after_ms.unwrap_or(0)))
    }
}

/// The schedule of each kind of call.
#[derive(Clone, Debug)]
pub(super) struct Schedules {
    general: Schedule,
    kinds: HashMap<Kind, Schedule>,
}

impl Schedules {
    /// As configured.
    pub fn of(config: &config::Delivery) -> Self {
        let one = |waits: &[Millis]| Schedule::new(waits, config.jitter);
        let own =
            config.kinds.iter().filter_map(|(name, kind)| Some((Kind::from_name(name)?, kind.schedule.as_ref()?)));
        Self { general: one(&config.schedule), kinds: own.map(|(kind, waits)| (kind, one(waits))).collect() }
    }

    /// See [`Schedule::wait_ms`].
    pub fn wait_ms(&self, kind: Kind, id: i64, attempt: i64, retry_after_ms: Option<i64>) -> Option<i64> {
        self.kinds.get(&kind).unwrap_or(&self.general).wait_ms(id, attempt, retry_after_ms)
    }
}

/// The finalizer of splitmix64: every bit of the input moves every bit of the output.
fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_follow_the_schedule_less_their_jitter() {
        let schedule = Schedule::new(&[Millis::new(10_000), Millis::new(30_000)], 0.2);
        for id in 1..500 {
            let wait_ms = schedule.wait_ms(id, 1, None).unwrap();
            assert!((8_000..=10_000).contains(&wait_ms), "{wait_ms}");
        }
        assert_eq!(schedule.wait_ms(1, 3, Some(5)), None);
        assert_eq!(schedule.wait_ms(1, 2, Some(90_000)), Some(90_000));
    }
}
