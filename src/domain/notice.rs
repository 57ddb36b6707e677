//! Messages that reach a user outside the application: by which way, about what, in which language, and when not.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::event::Kind;

/// A way to a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Way {
    /// A text message to a phone.
    Sms,
    /// An e-mail.
    Email,
}

impl Way {
    /// Every way.
    pub const ALL: [Self; 2] = [Self::Sms, Self::Email];

    /// The event that asks for a message by it.
    #[must_use]
    pub fn event(self) -> Kind {
        match self {
            Self::Sms => Kind::SmsNotification,
            Self::Email => Kind::EmailNotification,
        }
    }
}

/// What a message is about: users switch a way off by topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Topic {
    /// The order itself: paid, canceled.
    Order,
    /// Its parcel: shipped, signed for.
    Parcel,
    /// Money that goes back.
    Refund,
    /// Anything else.
    #[default]
    Other,
}

impl Topic {
    /// Every topic.
    pub const ALL: [Self; 4] = [Self::Order, Self::Parcel, Self::Refund, Self::Other];

    /// As it is stored.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Order => "ORDER",
            Self::Parcel => "PARCEL",
            Self::Refund => "REFUND",
            Self::Other => "OTHER",
        }
    }

    /// From its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| topic.name() == name)
    }
}

/// A language that every text is there in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// Chinese.
    #[default]
    Zh,
    /// English.
    En,
}

impl Language {
    /// Every language.
    pub const ALL: [Self; 2] = [Self::Zh, Self::En];

    /// As in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Zh => "zh",
            Self::En => "en",
        }
    }

    /// From its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|language| language.name() == name)
    }
}

/// The texts of ruyi's own events, and what each may be filled with besides `orderId`.
pub const OWN_TEXTS: [(&str, &[&str]); 5] = [
    ("ORDER_PAY_SUCCESS", &["amount"]),
    ("ORDER_CANCELED", &["by", "reason"]),
    ("ORDER_REFUNDED", &["amount"]),
    ("ORDER_DELIVERY", &["carrier", "trackingNo"]),
    ("ORDER_SIGNED", &["carrier", "trackingNo"]),
];

/// Minutes of a day.
pub const DAY_MINUTES: i64 = 24 * 60;

/// The hours of each day in which no phone is to ring: from `from` until `to`, over midnight where `to` comes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuietHours {
    /// First minute of the day, 0 to 1439.
    pub from: i64,
    /// First minute after them; never `from`.
    pub to: i64,
    /// IANA name of the time zone of both.
    pub time_zone: String,
}

impl QuietHours {
    /// Whether this minute of a day in the time zone is quiet.
    #[must_use]
    pub fn hold(&self, minute: i64) -> bool {
        if self.from < self.to {
            (self.from..self.to).contains(&minute)
        } else {
            minute >= self.from || minute < self.to
        }
    }
}

/// `HH:MM` as a minute of the day.
#[must_use]
pub fn minute_of(text: &str) -> Option<i64> {
    let (hour, minute) = text.split_once(':')?;
    let digits = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(hour) || !digits(minute) {
        return None;
    }
    let (hour, minute): (i64, i64) = (hour.parse().ok()?, minute.parse().ok()?);
    (hour < 24 && minute < 60).then_some(hour * 60 + minute)
}

/// A minute of the day as `HH:MM`.
#[must_use]
pub fn minute_text(minute: i64) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

/// Whether this is a phone number in the form of E.164: `+`, a country code, at most 15 digits.
#[must_use]
pub fn is_e164(text: &str) -> bool {
    let digits = text.strip_prefix('+').unwrap_or_default();
    (7..=15).contains(&digits.len()) && !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_hours_over_midnight_and_within_a_day() {
        let hours = |from, to| QuietHours { from, to, time_zone: "UTC".to_owned() };
        let night = hours(22 * 60, 8 * 60);
        assert!(night.hold(22 * 60) && night.hold(0) && night.hold(8 * 60 - 1));
        assert!(!night.hold(8 * 60) && !night.hold(22 * 60 - 1));
        let noon = hours(12 * 60, 13 * 60);
        assert!(noon.hold(12 * 60) && !noon.hold(13 * 60) && !noon.hold(0));
    }

    #[test]
    fn times_and_phone_numbers() {
        for (text, minute) in [("00:00", Some(0)), ("23:59", Some(1439)), ("07:05", Some(425))] {
            assert_eq!(minute_of(text), minute, "{text}");
            assert_eq!(minute.map(minute_text).as_deref(), Some(text));
        }
        for bad in ["24:00", "7:05", "07:60", "", "0705", "+1:05", "07:05:00"] {
            assert_eq!(minute_of(bad), None, "{bad}");
        }
        for good in ["+8613800138000", "+15551234567", "+4712345"] {
            assert!(is_e164(good), "{good}");
        }
        for bad in ["13800138000", "+0613800138000", "+86 138", "+", "", "+1234567890123456", "+86138\n00138000"] {
            assert!(!is_e164(bad), "{bad}");
        }
    }
}
