//! Which dead letters are meant.

use std::collections::BTreeSet;

use serde::Serialize;

use super::letter::{Letter, LetterId};
use super::read::Span;
use crate::cmd::WithHelp;
use crate::config::Millis;
use crate::mq::rocketmq::RocketMq;

/// Options that choose dead letters; all of them must fit.
#[derive(Clone, Debug, Serialize, clap::Args)]
#[command(next_help_heading = "Which dead letters")]
#[serde(rename_all = "camelCase")]
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
            && self.key.as_ref().is_none_or(|key| letter.message.has_key(key))
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
}

impl Chosen {
    /// Where the letters lie; only around those that were named, if some were.
    ///
    /// # Errors
    /// The group has no dead letter topic, or the cluster is away.
    pub async fn span(&self, mq: &RocketMq) -> anyhow::Result<Span> {
        let mut span = Span::all(mq, &self.group).await?;
        let ids = &self.filter.ids;
        if !ids.is_empty() {
            span.queues.retain(|(broker, queue), (from, to)| {
                let here = || ids.iter().filter(|id| id.broker == *broker && id.queue == *queue).map(|id| id.offset);
                let (Some(first), Some(last)) = (here().min(), here().max()) else { return false };
                (*from, *to) = ((*from).max(first), (*to).min(last.saturating_add(1)));
                true
            });
        }
        Ok(span)
    }

    /// The letters that were named, to be crossed off.
    #[must_use]
    pub fn named(&self) -> Named {
        Named(self.filter.ids.iter().cloned().collect())
    }
}

/// Letters that were named and not yet found.
pub struct Named(BTreeSet<LetterId>);

impl Named {
    /// It is there.
    pub fn found(&mut self, letter: &Letter) {
        self.0.remove(&letter.id);
    }

    /// All of them were there.
    ///
    /// # Errors
    /// Some were not.
    pub fn none_missing(&self) -> anyhow::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let missing: Vec<String> = self.0.iter().take(10).map(ToString::to_string).collect();
        let text = anyhow::anyhow!("there is no dead letter {}: it may have expired", missing.join(", "));
        Err(text).help("`ruyi mq dlq browse` prints those that are there")
    }
}
