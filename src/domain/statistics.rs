//! Statistics of payments by day.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// What is counted (`day_statistics.statistics_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Type {
    /// A payment was opened.
    Submit,
    /// It has its money.
    Success,
}

impl Type {
    /// As in messages and rows.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Submit => "SUBMIT",
            Self::Success => "SUCCESS",
        }
    }

    /// From its name, however it is written.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Submit, Self::Success].into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name))
    }
}

/// The day on which `at_ms` (epoch ms) lies there, like 2026-01-31. A time that no calendar has counts as the nearest
/// one that has.
#[must_use]
pub fn day_of(at_ms: i64, zone: &TimeZone) -> String {
    let (first, last) = (Timestamp::MIN, Timestamp::MAX);
    let at = Timestamp::from_millisecond(at_ms).unwrap_or(if at_ms < 0 { first } else { last });
    zone.to_datetime(at).date().to_string()
}

/// A day as in messages: only the form 2026-01-31.
#[must_use]
pub fn parse_day(text: &str) -> Option<String> {
    let date: Date = text.parse().ok()?;
    (text.len() == 10 && date.year() >= 0).then(|| date.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_begins_at_midnight_of_its_zone() {
        let shanghai = TimeZone::get("Asia/Shanghai").unwrap();
        // 2026-01-31T16:00:00Z is midnight there.
        let midnight_ms = 1_769_875_200_000;
        assert_eq!(day_of(midnight_ms - 1, &shanghai), "2026-01-31");
        assert_eq!(day_of(midnight_ms, &shanghai), "2026-02-01");
        assert_eq!(day_of(midnight_ms, &TimeZone::UTC), "2026-01-31");
        assert_eq!(day_of(i64::MAX, &shanghai), "9999-12-31");
        // The hour that a clock change repeats belongs to one day only.
        let new_york = TimeZone::get("America/New_York").unwrap();
        assert_eq!(day_of(1_793_509_200_000, &new_york), "2026-11-01");
    }

    #[test]
    fn days_have_one_form() {
        assert_eq!(parse_day("2026-01-31").as_deref(), Some("2026-01-31"));
        for text in ["2026-02-30", "20260131", "2026-1-31", "2026-01-31T00:00", "", "-000001-01-01"] {
            assert_eq!(parse_day(text), None, "{text}");
        }
    }
}
