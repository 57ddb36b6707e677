//! Thresholds as monitoring plugins write them: a range of values that are fine, or, after `@`, that are not.

use std::fmt;
use std::str::FromStr;

/// `10` (0 to 10 is fine), `10:` (10 and more is), `~:10` (10 and less is), `10:20`, `@10:20` (these are not).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    start: f64,
    end: f64,
    inside: bool,
}

impl Range {
    /// 0 to `end` is fine.
    #[must_use]
    pub const fn up_to(end: f64) -> Self {
        Self { start: 0.0, end, inside: false }
    }

    /// `start` and more is fine.
    #[must_use]
    pub const fn from(start: f64) -> Self {
        Self { start, end: f64::INFINITY, inside: false }
    }

    /// True when `value` is not fine.
    #[must_use]
    pub fn alerts(&self, value: f64) -> bool {
        (self.start <= value && value <= self.end) == self.inside
    }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no range: 10, 10:, ~:10, 10:20 or @10:20");
        let (inside, bare) = text.strip_prefix('@').map_or((false, text), |bare| (true, bare));
        let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite()).ok_or_else(wrong);
        let (start, end) = match bare.split_once(':') {
            None => (0.0, number(bare)?),
            Some((start, end)) => {
                let start = if start == "~" { f64::NEG_INFINITY } else { number(start)? };
                (start, if end.is_empty() { f64::INFINITY } else { number(end)? })
            }
        };
        if start > end {
            return Err(format!("{text:?}: its start is over its end"));
        }
        Ok(Self { start, end, inside })
    }
}

/// As in performance data.
impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.inside {
            f.write_str("@")?;
        }
        if self.start == f64::NEG_INFINITY {
            f.write_str("~:")?;
        } else if self.start != 0.0 || self.end == f64::INFINITY {
            write!(f, "{}:", self.start)?;
        }
        if self.end == f64::INFINITY { Ok(()) } else { write!(f, "{}", self.end) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_alert_as_the_guidelines_say() {
        for (text, fine, not) in [
            ("10", &[0.0, 5.5, 10.0][..], &[-0.1, 10.1][..]),
            ("10:", &[10.0, 1e9], &[9.9, -1.0]),
            ("~:10", &[-1e9, 10.0], &[10.5]),
            ("10:20", &[10.0, 20.0], &[9.0, 21.0]),
            ("@10:20", &[9.0, 21.0], &[10.0, 15.0, 20.0]),
            ("@5", &[6.0, -1.0], &[0.0, 5.0]),
            ("0:", &[0.0, 7.0], &[-1.0]),
            ("-5:5", &[-5.0, 0.0], &[-6.0, 6.0]),
        ] {
            let range: Range = text.parse().unwrap();
            assert_eq!(range.to_string(), text);
            assert!(fine.iter().all(|value| !range.alerts(*value)), "{text}");
            assert!(not.iter().all(|value| range.alerts(*value)), "{text}");
        }
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in ["", "x", "10:x", "20:10", ":", "~", "@", "1:2:3", "NaN", "inf", "10 20"] {
            assert!(text.parse::<Range>().is_err(), "{text}");
        }
    }
}
