//! Points in time as other systems write them; inside they are epoch ms, UTC.

use std::fmt;

use serde::Deserializer;
use serde::de::{self, Visitor};

/// Whole numbers from here (2001 in seconds) ...
const SECONDS_FROM: i64 = 1_000_000_000;
/// ... to here (5138 in seconds, 1973 in ms) are seconds, all others are ms.
const SECONDS_TO: i64 = 100_000_000_000;

/// Reads a point in time: epoch ms, epoch seconds (also with a fraction, as Jackson writes an `Instant`), either of them
/// as a string, or RFC 3339 with its offset. A time without a zone is refused: guessing would be hours off.
///
/// # Errors
/// The deserializer's, with what was expected.
pub fn epoch_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    deserializer.deserialize_newtype_struct(EPOCH_MS, TimeVisitor)
}

/// What [`epoch_ms`] calls its fields, for deserializers that know how to read a time without its zone.
pub const EPOCH_MS: &str = "epoch_ms";

struct TimeVisitor;

impl<'de> Visitor<'de> for TimeVisitor {
    type Value = i64;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("epoch ms, epoch seconds, or a time with its zone like 2026-01-31T08:00:00+08:00")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<i64, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<i64, E> {
        Ok(if (SECONDS_FROM..SECONDS_TO).contains(&number) { number * 1_000 } else { number })
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<i64, E> {
        let number = i64::try_from(number).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))?;
        self.visit_i64(number)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<i64, E> {
        // Exact below 2^53 ms; what is cut off is less than a millisecond.
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "in range, checked")]
        match number {
            seconds if (SECONDS_FROM as f64..SECONDS_TO as f64).contains(&seconds) => Ok((seconds * 1e3) as i64),
            ms if ms.fract() == 0.0 && ms.abs() < 9e15 => Ok(ms as i64),
            _ => Err(E::invalid_value(de::Unexpected::Float(number), &self)),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<i64, E> {
        if let Ok(number) = text.parse::<i64>() {
            return self.visit_i64(number);
        }
        rfc3339_ms(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

/// Epoch ms of a time with its offset, cut to ms (RFC 3339 §5.6, a blank or a small letter between date and time as
/// well).
fn rfc3339_ms(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| -> Option<i64> {
        text.get(from..to).filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
    };
    let is = |at: usize, allowed: &[u8]| text.as_bytes().get(at).is_some_and(|byte| allowed.contains(byte));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":")) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute) = (number(11, 13)?, number(14, 16)?);
    // Java leaves out seconds that are 0.
    let (second, mut at) = if is(16, b":") { (number(17, 19)?, 19) } else { (0, 16) };
    let mut ms = 0;
    if is(at, b".") {
        let digits = text.get(at + 1..)?.bytes().take_while(u8::is_ascii_digit).count();
        let fraction = format!("{:0<3}", text.get(at + 1..at + 1 + digits)?);
        ms = fraction.get(..3).filter(|_| digits > 0)?.parse().ok()?;
        at += 1 + digits;
    }
    let rest = text.get(at..)?;
    let offset_min = if rest.eq_ignore_ascii_case("z") {
        0
    } else {
        let sign = if is(at, b"+") {
            1
        } else if is(at, b"-") {
            -1
        } else {
            return None;
        };
        // +08:00, and +0800 as Java's older formats have it.
        let minutes_at = if is(at + 3, b":") { at + 4 } else { at + 3 };
        if text.len() != minutes_at + 2 {
            return None;
        }
        sign * (number(at + 1, at + 3)? * 60 + number(minutes_at, minutes_at + 2)?)
    };
    let fits = (1..=days_of(year, month)?).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    fits.then(|| {
        (((days_since_epoch(year, month, day) * 24 + hour) * 60 + minute - offset_min) * 60 + second) * 1_000 + ms
    })
}

fn days_of(year: i64, month: i64) -> Option<i64> {
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    match month {
        2 => Some(if leap { 29 } else { 28 }),
        4 | 6 | 9 | 11 => Some(30),
        1..=12 => Some(31),
        _ => None,
    }
}

/// Days from 1970-01-01 in the Gregorian calendar, for years from 0.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March end with the leap day.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (month * 153 + 2) / 5 + day
        - 719_469
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<i64, serde_json::Error> {
        epoch_ms(&mut serde_json::Deserializer::from_str(json))
    }

    #[test]
    fn times_of_other_systems_are_read() {
        const AT: i64 = 1_767_225_600_000;
        for (json, ms) in [
            ("1767225600000", AT),
            ("1767225600", AT),
            ("1767225600.123456789", AT + 123),
            ("1767225600000.0", AT),
            ("\"1767225600000\"", AT),
            ("\"1767225600\"", AT),
            ("\"2026-01-01T00:00:00Z\"", AT),
            ("\"2026-01-01T00:00Z\"", AT),
            ("\"2026-01-01t00:00:00.5z\"", AT + 500),
            ("\"2026-01-01T08:00:00.123456+08:00\"", AT + 123),
            ("\"2026-01-01 08:00:00+0800\"", AT),
            ("\"2025-12-31T19:00:00-05:00\"", AT),
            ("\"2024-02-29T23:59:59Z\"", 1_709_251_199_000),
            ("\"2000-02-29T00:00:00Z\"", 951_782_400_000),
            ("\"1970-01-01T00:00:00Z\"", 0),
            ("\"1969-12-31T23:59:59Z\"", -1_000),
            ("0", 0),
            ("5", 5),
        ] {
            assert_eq!(read(json).unwrap(), ms, "{json}");
        }
    }

    #[test]
    fn times_that_say_too_little_are_refused() {
        for bad in [
            "\"2026-01-01T00:00:00\"",
            "\"2026-01-01 00:00:00\"",
            "\"2026-01-01\"",
            "\"2026-02-29T00:00:00Z\"",
            "\"2026-13-01T00:00:00Z\"",
            "\"2026-01-01T24:00:00Z\"",
            "\"2026-01-01T00:00:00.Z\"",
            "\"2026-01-01T00:00:00+8\"",
            "\"2026-01-01T00:00:00+08:00 \"",
            "\"2026-01-01T00:00:00é\"",
            "\"now\"",
            "\"\"",
            "1.5",
            "1e300",
            "18446744073709551615",
            "[2026,1,1,0,0]",
            "null",
            "true",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn days_count_up() {
        let mut expected = days_since_epoch(1600, 1, 1);
        for year in 1600..2100 {
            for month in 1..=12 {
                for day in 1..=days_of(year, month).unwrap() {
                    assert_eq!(days_since_epoch(year, month, day), expected, "{year}-{month}-{day}");
                    expected += 1;
                }
            }
        }
        assert_eq!(days_since_epoch(1970, 1, 1), 0);
    }
}
