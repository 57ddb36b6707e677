//! Where an operator wants a group to be.

use std::str::FromStr;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::config::Millis;

/// `start`, `end`, `@-1h`, `@2024-01-15T08:00`, `+N`, `-N`, `=N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The oldest message that is still there.
    Start,
    /// After the newest one: nothing of what is there is consumed.
    End,
    /// The first message stored so long ago, milliseconds.
    Ago(i64),
    /// The first message stored at or after this time, epoch ms.
    At(i64),
    /// So many messages on (or back, below 0), in each queue.
    By(i64),
    /// This offset; for one queue only.
    Offset(i64),
}

/// Why a text is no position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PositionError(String);

const FORMS: &str = "say start, end, @-1h (an hour ago), @2024-01-15T08:00 (local time; Z or +02:00 for another), \
                     +N or -N messages, or =N for one offset of one queue";

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let wrong = |why: String| PositionError(format!("{why}; {FORMS}"));
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            let parsed = if plain { digits.parse::<i64>().ok() } else { None };
            parsed.ok_or_else(|| wrong(format!("{text:?} has no whole number")))
        };
        match text {
            "start" => return Ok(Self::Start),
            "end" => return Ok(Self::End),
            // The end in other tools, one message back in this one: too dear a misunderstanding.
            "-1" => {
                return Err(PositionError(String::from(
                    "a bare -1 means the end in other tools: say end for the end, or -1msg for one message back",
                )));
            }
            "-1msg" => return Ok(Self::By(-1)),
            _ => {}
        }
        if let Some(ago) = text.strip_prefix("@-") {
            let ago = ago.parse::<Millis>().map_err(|error| wrong(error.to_string()))?;
            return Ok(Self::Ago(ago.ms()));
        }
        if let Some(time) = text.strip_prefix('@') {
            return time_of(time).map(Self::At).ok_or_else(|| wrong(format!("{time:?} is no time")));
        }
        if let Some(count) = text.strip_prefix('+') {
            return number(count).map(Self::By);
        }
        if let Some(count) = text.strip_prefix('-') {
            return number(count).map(|count| Self::By(-count));
        }
        if let Some(offset) = text.strip_prefix('=') {
            return number(offset).map(Self::Offset);
        }
        Err(wrong(format!("{text:?} is no position")))
    }
}

/// Epoch milliseconds of a time with a zone, or of a local one.
fn time_of(text: &str) -> Option<i64> {
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Some(at.as_millisecond());
    }
    let local = text.parse::<DateTime>().ok()?;
    Some(local.to_zoned(TimeZone::system()).ok()?.timestamp().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_what_they_say() {
        let parse = |text: &str| text.parse::<Position>();
        assert_eq!(parse("start"), Ok(Position::Start));
        assert_eq!(parse("end"), Ok(Position::End));
        assert_eq!(parse("@-1h"), Ok(Position::Ago(3_600_000)));
        assert_eq!(parse("@2024-01-15T08:00:00Z"), Ok(Position::At(1_705_305_600_000)));
        assert_eq!(parse("@2024-01-15T08:00+02:00"), Ok(Position::At(1_705_298_400_000)));
        assert!(matches!(parse("@2024-01-15T08:00"), Ok(Position::At(_))));
        assert!(matches!(parse("@2024-01-15"), Ok(Position::At(_))));
        assert_eq!(parse("+10"), Ok(Position::By(10)));
        assert_eq!(parse("-10"), Ok(Position::By(-10)));
        assert_eq!(parse("-1msg"), Ok(Position::By(-1)));
        assert_eq!(parse("=7"), Ok(Position::Offset(7)));
        for wrong in ["-1", "", "7", "+", "-", "+-1", "@", "@yesterday", "@-", "@-1", "=x", "=-1", "END", "--1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
