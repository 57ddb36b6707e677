//! What a campaign has measured, and what was wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::fault::Kind;

/// What one strike did.
pub struct Outcome {
    /// How long something was broken.
    pub broken: Duration,
    /// How long it took from then on until all was as before.
    pub recovery: Duration,
    /// Orders that were accepted while something was broken.
    pub accepted: usize,
    /// Answers of `/readyz` that were wrong.
    pub wrong_answers: Vec<String>,
}

/// All strikes of one kind.
#[derive(Default)]
struct Total {
    recoveries: Vec<Duration>,
    accepted: usize,
    wrong_answers: usize,
}

/// It is printed in the end, whatever the end is.
#[derive(Default)]
pub struct Report {
    /// By kind; those of two faults at once together.
    totals: BTreeMap<Option<Kind>, Total>,
    wrong: Vec<String>,
}

impl Report {
    pub fn add(&mut self, kind: Option<Kind>, outcome: &Outcome) {
        let total = self.totals.entry(kind).or_default();
        total.recoveries.push(outcome.recovery);
        total.accepted += outcome.accepted;
        total.wrong_answers += outcome.wrong_answers.len();
    }

    /// Something is not as it must be: it is told now, and fails the campaign in the end.
    pub fn wrong(&mut self, text: String) {
        eprintln!("WRONG: {text}");
        self.wrong.push(text);
    }

    /// Fails where anything was wrong.
    pub fn judge(&self) {
        assert!(self.wrong.is_empty(), "{} things were wrong:\n{}", self.wrong.len(), self.wrong.join("\n"));
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        eprintln!("{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let titles = ("kind", "times", "median", "longest", "orders meanwhile", "wrong answers of /readyz");
        let (kind, times, median, longest, orders, wrong) = titles;
        write!(formatter, "{kind:<18} {times:>6} {median:>8} {longest:>8} {orders:>17} {wrong:>25}")?;
        for (kind, total) in &self.totals {
            let mut recoveries = total.recoveries.clone();
            recoveries.sort_unstable();
            let name = kind.map_or_else(|| "two at once".to_owned(), |kind| format!("{kind:?}"));
            let (times, median) = (recoveries.len(), format!("{:.1?}", recoveries[recoveries.len() / 2]));
            let longest = format!("{:.1?}", recoveries[recoveries.len() - 1]);
            let Total { accepted, wrong_answers, .. } = total;
            write!(formatter, "\n{name:<18} {times:>6} {median:>8} {longest:>8} {accepted:>17} {wrong_answers:>25}")?;
        }
        Ok(())
    }
}
