//! What a plugin says: one line with performance data, more below it, and an exit code.

use std::fmt;

use serde::Serialize;
use utoipa::ToSchema;

use super::range::Range;

/// How something is. The later, the more it matters when several things are told at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::cmd) enum Status {
    /// Fine.
    Ok,
    /// It could not be found out.
    Unknown,
    /// Somebody should look.
    Warning,
    /// Somebody has to act.
    Critical,
}

impl Status {
    /// What monitoring systems read.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warning => 1,
            Self::Critical => 2,
            Self::Unknown => 3,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "OK",
            Self::Unknown => "UNKNOWN",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
        })
    }
}

/// What is measured against two ranges.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Limits {
    pub warn: Option<Range>,
    pub crit: Option<Range>,
}

impl Limits {
    pub fn judge(&self, value: f64) -> Status {
        let over = |range: Option<Range>| range.is_some_and(|range| range.alerts(value));
        match (over(self.crit), over(self.warn)) {
            (true, _) => Status::Critical,
            (false, true) => Status::Warning,
            (false, false) => Status::Ok,
        }
    }
}

/// One thing that was measured, or could not be.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct Row {
    /// BACKLOG, DLQ, ...
    check: &'static str,
    /// Of this row.
    pub(super) status: Status,
    /// What was measured; null where nothing could be.
    name: Option<String>,
    value: Option<f64>,
    /// s: seconds, %: percent, empty: a count.
    unit: &'static str,
    /// Range that is fine.
    warn: Option<String>,
    /// Range that is fine or a warning.
    crit: Option<String>,
    /// What is to be said about it.
    pub(super) message: Option<String>,
}

/// All that one plugin found out.
#[derive(Debug)]
pub(super) struct Report {
    check: &'static str,
    /// Of the first line, when all is fine.
    pub summary: String,
    pub rows: Vec<Row>,
}

impl Report {
    pub fn new(check: &'static str) -> Self {
        Self { check, summary: String::new(), rows: Vec::new() }
    }

    /// A plugin that could not do its work.
    pub fn failed(check: &'static str, status: Status, why: &str) -> Self {
        let mut report = Self::new(check);
        report.trouble(status, None, why);
        report
    }

    /// Something was measured; `about` is said when it is not fine.
    pub fn measured(&mut self, name: &str, value: f64, unit: &'static str, limits: &Limits, about: &str) {
        let status = limits.judge(value);
        self.rows.push(Row {
            check: self.check,
            status,
            name: Some(name.to_owned()),
            value: Some(value),
            unit,
            warn: limits.warn.map(|range| range.to_string()),
            crit: limits.crit.map(|range| range.to_string()),
            message: (status != Status::Ok).then(|| about.to_owned()),
        });
    }

    /// Something could not be measured, or is wrong without a measure.
    pub fn trouble(&mut self, status: Status, name: Option<&str>, why: &str) {
        self.rows.push(Row {
            check: self.check,
            status,
            name: name.map(str::to_owned),
            value: None,
            unit: "",
            warn: None,
            crit: None,
            message: Some(why.to_owned()),
        });
    }

    pub fn status(&self) -> Status {
        self.rows.iter().map(|row| row.status).max().unwrap_or(Status::Unknown)
    }

    /// As the Monitoring Plugins guidelines want it: the state and what it is about, `|`, performance data; then a line
    /// for each thing that is not fine, the worst first.
    pub fn text(&self) -> String {
        let mut bad: Vec<&Row> = self.rows.iter().filter(|row| row.status != Status::Ok).collect();
        bad.sort_by_key(|row| std::cmp::Reverse(row.status));
        let said = match bad.as_slice() {
            [] if self.rows.is_empty() => "nothing was measured".to_owned(),
            [] => self.summary.clone(),
            [one] => one.message.clone().unwrap_or_default(),
            [first, rest @ ..] => format!("{} (and {} more)", first.message.as_deref().unwrap_or(""), rest.len()),
        };
        let data: Vec<String> = self.rows.iter().filter_map(Row::performance).collect();
        let mut text = format!("{} {} - {}", self.check, self.status(), plain(&said));
        if !data.is_empty() {
            text.push_str(" | ");
            text.push_str(&data.join(" "));
        }
        text.push('\n');
        if bad.len() > 1 {
            for row in bad {
                text.push_str(&format!("{}: {}\n", row.status, plain(row.message.as_deref().unwrap_or(""))));
            }
        }
        text
    }
}

impl Row {
    /// `'label'=value[unit];[warn];[crit];[min]`; everything measured here is 0 or more.
    fn performance(&self) -> Option<String> {
        let (name, value) = (self.name.as_ref()?, self.value?);
        let label = name.replace('=', "_").replace('\'', "''");
        let range = |range: &Option<String>| range.clone().unwrap_or_default();
        Some(format!("'{}'={value}{};{};{};0", plain(&label), self.unit, range(&self.warn), range(&self.crit)))
    }
}

/// `|` would begin performance data, and a line break the next line.
fn plain(text: &str) -> String {
    let text: String = text.chars().map(|c| if c == '|' { '/' } else { c }).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(warn: &str, crit: &str) -> Limits {
        Limits { warn: warn.parse().ok(), crit: crit.parse().ok() }
    }

    #[test]
    fn the_line_is_what_the_guidelines_want() {
        let mut report = Report::new("BACKLOG");
        "12 messages behind in 2 groups".clone_into(&mut report.summary);
        report.measured("order-group", 12.0, "", &limits("1000", "5000"), "");
        report.measured("o'neil=s", 1.5, "s", &limits("~:2", ""), "");
        let line =
            "BACKLOG OK - 12 messages behind in 2 groups | 'order-group'=12;1000;5000;0 'o''neil_s'=1.5s;~:2;;0\n";
        assert_eq!((report.text().as_str(), report.status().code()), (line, 0));
        report.trouble(Status::Unknown, Some("x"), "x: no |\nanswer");
        let text = report.text();
        assert!(text.starts_with("BACKLOG UNKNOWN - x: no / answer | 'order-group'=12;"), "{text}");
        report.measured("b", 2.0, "", &limits("1", "5"), "b has 2");
        report.measured("c", 6.0, "", &limits("1", "5"), "c has 6");
        let text = report.text();
        assert!(text.starts_with("BACKLOG CRITICAL - c has 6 (and 2 more) | "), "{text}");
        let below: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(below, ["CRITICAL: c has 6", "WARNING: b has 2", "UNKNOWN: x: no / answer"]);
        assert_eq!(report.status().code(), 2);
    }

    #[test]
    fn nothing_at_all_is_unknown() {
        assert_eq!(Report::new("DLQ").text(), "DLQ UNKNOWN - nothing was measured\n");
        assert_eq!(Report::failed("DLQ", Status::Critical, "gone").text(), "DLQ CRITICAL - gone\n");
    }
}
