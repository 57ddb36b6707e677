//! The steps of a story, in their order, with the time between them.

use std::fmt::Write as _;

use serde::Serialize;
use utoipa::ToSchema;

use crate::cmd::journal::rfc3339;
use crate::output::printable;

/// Where a step was read. Of one moment, those above come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) enum Source {
    /// The order's row.
    Order,
    /// The payment's row.
    Payment,
    /// A refund's row.
    Refund,
    /// The stock ledger.
    Stock,
    /// The points.
    Points,
    /// What the user was told.
    Notice,
    /// The transaction behind a transaction message.
    Transaction,
    /// A group's inbox.
    Inbox,
    /// A group's retry log.
    Retry,
    /// The outbox.
    Outbox,
    /// A copy on a broker.
    Broker,
    /// An outgoing call.
    Call,
}

/// Something that happened, or that should have.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub at_ms: i64,
    pub took_ms: Option<i64>,
    pub source: Source,
    pub who: String,
    pub what: String,
    pub event: Option<String>,
    pub place: Option<String>,
}

/// A step as it is printed.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct Row {
    /// When; of what is missing: since when it is due.
    at: String,
    /// Since the step before.
    after_ms: Option<i64>,
    /// How long it took: a send from the write, a handling from the send, a call.
    took_ms: Option<i64>,
    /// Where it was read.
    source: Source,
    /// Role, group, or broker.
    who: String,
    /// In words.
    what: String,
    /// Id of the event.
    event: Option<String>,
    /// Of a copy: TOPIC BROKER:QUEUE:OFFSET, for `ruyi mq messages get`.
    place: Option<String>,
    /// The longest wait lies before this step.
    longest: bool,
    /// It should have happened, and has not.
    missing: bool,
}

/// What happened, and what did not.
#[derive(Default)]
pub(super) struct Story {
    pub title: String,
    pub steps: Vec<Step>,
    pub missing: Vec<Step>,
    /// What was sent, and not handled by all of its groups: is it lost?
    pub doubtful: Vec<Doubtful>,
}

/// An event that was sent, and not handled.
pub(super) struct Doubtful {
    pub event: String,
    pub topic: String,
    pub sent_ms: i64,
}

impl Story {
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.missing.is_empty()
    }

    /// In the order of their times, what is missing at the end.
    pub fn rows(&mut self) -> Vec<Row> {
        self.steps.sort_by_key(|step| (step.at_ms, step.source));
        self.missing.sort_by_key(|step| step.at_ms);
        let gaps: Vec<i64> = self.steps.windows(2).map(|pair| pair[1].at_ms - pair[0].at_ms).collect();
        let longest = gaps.iter().copied().enumerate().max_by_key(|(_, gap)| *gap).filter(|(_, gap)| *gap > 0);
        let row = |step: &Step, after_ms, longest, missing| Row {
            at: rfc3339(step.at_ms),
            after_ms,
            took_ms: step.took_ms,
            source: step.source,
            who: step.who.clone(),
            what: step.what.clone(),
            event: step.event.clone(),
            place: step.place.clone(),
            longest,
            missing,
        };
        let happened = self.steps.iter().enumerate().map(|(index, step)| {
            let before = index.checked_sub(1);
            let after_ms = before.and_then(|before| gaps.get(before).copied());
            row(step, after_ms, before.is_some() && before == longest.map(|(at, _)| at), false)
        });
        happened.chain(self.missing.iter().map(|step| row(step, None, false, true))).collect()
    }

    /// For people.
    pub fn text(&mut self) -> String {
        let rows = self.rows();
        let mut text = format!("{}\n\n", printable(&self.title));
        let who = rows.iter().map(|row| row.who.chars().count()).max().unwrap_or(0);
        for row in rows.iter().filter(|row| !row.missing) {
            let after = row.after_ms.map_or_else(String::new, |ms| format!("+{}", span(ms)));
            let _ = write!(text, "{}  {after:>12}  {:<who$}  {}", row.at, row.who, printable(&row.what));
            if let Some(ms) = row.took_ms {
                let _ = write!(text, ", {}", span(ms));
            }
            if let Some(place) = &row.place {
                let _ = write!(text, "  [{place}]");
            }
            text.push_str(if row.longest { "   <- longest wait\n" } else { "\n" });
        }
        if let (Some(first), Some(last)) = (self.steps.first(), self.steps.last()) {
            let _ = writeln!(text, "\n{} from the first to the last step", span(last.at_ms - first.at_ms));
        }
        if rows.iter().any(|row| row.missing) {
            text.push_str("\nmissing:\n");
        }
        for row in rows.iter().filter(|row| row.missing) {
            let _ = writeln!(text, "  {:<who$}  {} (since {})", row.who, printable(&row.what), row.at);
        }
        text
    }
}

/// A duration for people.
pub(super) fn span(ms: i64) -> String {
    match ms {
        i64::MIN..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{:03} s", ms / 1_000, ms % 1_000),
        60_000..3_600_000 => format!("{} m {} s", ms / 60_000, ms / 1_000 % 60),
        _ => format!("{} h {} m", ms / 3_600_000, ms / 60_000 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(at_ms: i64, source: Source) -> Step {
        let (who, what) = ("order".to_owned(), "moves".to_owned());
        Step { at_ms, took_ms: None, source, who, what, event: None, place: None }
    }

    #[test]
    fn steps_are_in_order_and_the_longest_wait_is_marked() {
        let steps = vec![
            step(900, Source::Outbox),
            step(100, Source::Outbox),
            step(100, Source::Order),
            step(901, Source::Inbox),
        ];
        let missing = vec![step(5, Source::Inbox)];
        let mut story = Story { title: "order 1".to_owned(), steps, missing, ..Story::default() };
        let rows = story.rows();
        let told: Vec<_> = rows.iter().map(|row| (row.source, row.after_ms, row.longest, row.missing)).collect();
        assert_eq!(
            told,
            [
                (Source::Order, None, false, false),
                (Source::Outbox, Some(0), false, false),
                (Source::Outbox, Some(800), true, false),
                (Source::Inbox, Some(1), false, false),
                (Source::Inbox, None, false, true),
            ]
        );
        let text = story.text();
        assert!(text.contains("+800 ms") && text.contains("<- longest wait") && text.contains("missing:"), "{text}");
        assert!(
            Story { steps: vec![step(1, Source::Order)], ..Story::default() }.rows().iter().all(|row| !row.longest)
        );
        for (ms, text) in [(7, "7 ms"), (1_234, "1.234 s"), (200_000, "3 m 20 s"), (7_500_000, "2 h 5 m")] {
            assert_eq!(span(ms), text);
        }
    }
}
