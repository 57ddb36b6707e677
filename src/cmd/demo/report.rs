//! What the demo says at the end.

use std::fmt::Write;

use serde::Serialize;

use super::cases::End;
use super::drive::{Driven, Failure, Group};
use super::system::Audited;
use super::timeline::Moment;
use crate::output::{Format, Output, VERSION};

/// Unmet expectations and violations that are printed for people.
const SHOWN: usize = 10;

/// The document of `--output json`.
#[derive(Debug, Serialize)]
pub struct Report {
    version: u32,
    orders: u64,
    signed: u64,
    /// Payments of merchants' own orders.
    paid: u64,
    canceled: u64,
    refunded: u64,
    rejected: u64,
    /// Orders that were answered 5xx to the end.
    refused: u64,
    /// Expectations that were not met.
    pub unexpected: u64,
    elapsed_ms: u64,
    orders_per_s: f64,
    /// `null`: not audited.
    pub audit: Option<Audited>,
    cases: Vec<Count>,
    failures: Vec<Failure>,
    timeline: Vec<Moment>,
    /// Stopped by the user before all orders had ended.
    pub interrupted: bool,
}

#[derive(Debug, Serialize)]
struct Count {
    #[serde(flatten)]
    group: Group,
    orders: u64,
}

impl Report {
    /// Puts together what was found.
    #[must_use]
    pub fn new(driven: Driven, audit: Option<Audited>, timeline: Vec<Moment>, interrupted: bool) -> Self {
        let orders = driven.orders();
        let seconds = driven.elapsed.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let orders_per_s = if seconds > 0.0 { (orders as f64 / seconds * 10.0).round() / 10.0 } else { 0.0 };
        Self {
            version: VERSION,
            orders,
            signed: driven.ended(End::Signed),
            paid: driven.ended(End::Paid),
            canceled: driven.ended(End::Canceled),
            refunded: driven.ended(End::Refunded),
            rejected: driven.ended(End::Rejected),
            refused: driven.ended(End::Refused),
            unexpected: driven.unexpected,
            elapsed_ms: u64::try_from(driven.elapsed.as_millis()).unwrap_or(u64::MAX),
            orders_per_s,
            audit,
            cases: driven.groups.into_iter().map(|(group, orders)| Count { group, orders }).collect(),
            failures: driven.failures,
            timeline,
            interrupted,
        }
    }

    /// Every order ended as it should, and nothing was violated.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.unexpected == 0 && !self.interrupted && self.audit.as_ref().is_none_or(|audit| audit.violations == 0)
    }

    /// Writes the report to stdout.
    ///
    /// # Errors
    /// The output fails.
    pub fn print(&self, format: Format) -> anyhow::Result<()> {
        match format {
            Format::Json => document(&serde_json::to_string_pretty(self)?),
            Format::Jsonl => document(&serde_json::to_string(self)?),
            Format::Table => {
                Output::stdout(Format::Table).rows(&self.cases)?;
                if !self.timeline.is_empty() {
                    document("\nOne order:")?;
                    Output::stdout(Format::Table).rows(&self.timeline)?;
                }
                document(&self.summary()?)
            }
        }
    }

    fn summary(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        writeln!(
            text,
            "\n{} orders in {:.1} s ({} per second): {} signed, {} paid, {} canceled, {} refunded, {} rejected",
            self.orders,
            std::time::Duration::from_millis(self.elapsed_ms).as_secs_f64(),
            self.orders_per_s,
            self.signed,
            self.paid,
            self.canceled,
            self.refunded,
            self.rejected
        )?;
        if self.refused > 0 {
            writeln!(text, "{} orders were refused: answered 5xx as often as they were tried.", self.refused)?;
        }
        for failure in self.failures.iter().take(SHOWN) {
            let order = failure.order_id.map(|id| format!(" (order {id})")).unwrap_or_default();
            let Failure { number, expected, ended, why, .. } = failure;
            writeln!(text, "NOT AS EXPECTED: line {number}{order}: {ended} instead of {expected}: {why}")?;
        }
        match self.unexpected {
            0 => writeln!(text, "Every order ended as expected.")?,
            n => writeln!(text, "{n} orders did not end as expected.")?,
        }
        match &self.audit {
            None => write!(text, "Audit: not made.")?,
            Some(audit) => {
                for violation in audit.found.iter().take(SHOWN) {
                    writeln!(text, "VIOLATION: {violation}")?;
                }
                write!(text, "Audit: {} checks, {} violations.", audit.checks, audit.violations)?;
            }
        }
        if self.interrupted {
            write!(text, "\nStopped before all orders had ended.")?;
        }
        Ok(text)
    }
}

fn document(text: &str) -> anyhow::Result<()> {
    let mut output = Output::stdout(Format::Table);
    output.text(text)?;
    output.text("\n")?;
    Ok(output.finish()?)
}
