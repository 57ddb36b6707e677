//! Which dead letters are meant.

use super::letter::{Letter, LetterId};
use super::state::{Mark, State};
use crate::cmd::mq::cluster::Where;
use crate::config::Millis;

/// Options that choose dead letters; all of them must fit.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Which dead letters")]
pub struct Filter {
    /// Only of this event (or tag)
    #[arg(long, value_name = "EVENT")]
    pub event: Option<String>,
    /// Only of this key (order id, SKU, ...)
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Only with this text in the reason
    #[arg(long = "because", value_name = "TEXT")]
    pub because: Option<String>,
    /// Only with this fingerprint, as `group` prints it
    #[arg(long, value_name = "HEX")]
    pub fingerprint: Option<String>,
    /// Only given up at most so long ago
    #[arg(long, value_name = "DURATION")]
    pub since: Option<Millis>,
    /// Only given up at least so long ago
    #[arg(long, value_name = "DURATION")]
    pub until: Option<Millis>,
    /// Only these
    #[arg(long = "id", value_name = "ID")]
    pub ids: Vec<LetterId>,
}

impl Filter {
    /// The letter is meant.
    #[must_use]
    pub fn takes(&self, letter: &Letter, now_ms: i64) -> bool {
        let age_ms = now_ms - letter.message.stored_ms;
        self.event.as_ref().is_none_or(|event| letter.event() == event)
            && self.key.as_ref().is_none_or(|key| letter.message.key.split(' ').any(|one| one == key))
            && self.because.as_ref().is_none_or(|text| letter.reason().unwrap_or_default().contains(text.as_str()))
            && self.fingerprint.as_ref().is_none_or(|print| letter.fingerprint().short() == *print)
            && self.since.is_none_or(|span| age_ms <= span.ms())
            && self.until.is_none_or(|span| age_ms >= span.ms())
            && (self.ids.is_empty() || self.ids.contains(&letter.id))
    }
}

/// A group, a cluster, and which of its dead letters.
#[derive(Clone, Debug, clap::Args)]
pub struct Chosen {
    /// Consumer group whose dead letters are meant
    pub group: String,
    #[command(flatten)]
    pub filter: Filter,
    #[command(flatten)]
    pub place: Where,
}

impl Chosen {
    /// The letter is meant, and was neither discarded nor replayed from where it lies.
    #[must_use]
    pub fn takes_open(&self, letter: &Letter, state: &State, now_ms: i64) -> bool {
        !matches!(state.mark(letter), Some(Mark::Discarded | Mark::Replayed)) && self.filter.takes(letter, now_ms)
    }
}
