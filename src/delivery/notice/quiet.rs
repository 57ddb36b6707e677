//! When a user's quiet hours end.

use jiff::Timestamp;
use jiff::civil::time;
use jiff::tz::TimeZone;

use crate::domain::notice::QuietHours;

/// The end of the quiet hours in which `now_ms` lies, epoch ms; none outside of them, or where the time zone is not known.
pub(super) fn until(hours: &QuietHours, now_ms: i64) -> Option<i64> {
    let zone = TimeZone::get(&hours.time_zone).ok()?;
    let now = Timestamp::from_millisecond(now_ms).ok()?.to_zoned(zone.clone());
    let minute = i64::from(now.hour()) * 60 + i64::from(now.minute());
    if !hours.hold(minute) {
        return None;
    }
    let (hour, minute_of_hour) = (i8::try_from(hours.to / 60).ok()?, i8::try_from(hours.to % 60).ok()?);
    let today = now.date();
    let day = if minute < hours.to { today } else { today.tomorrow().ok()? };
    // A time that the clocks skip is the same time after the gap.
    let end = day.to_datetime(time(hour, minute_of_hour, 0, 0)).to_zoned(zone).ok()?;
    let end_ms = end.timestamp().as_millisecond();
    (end_ms > now_ms).then_some(end_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn quiet_hours_end_in_the_time_of_the_user() {
        let hours =
            |from: i64, to: i64, zone: &str| QuietHours { from: from * 60, to: to * 60, time_zone: zone.to_owned() };
        let night = hours(22, 8, "Asia/Shanghai");
        let shanghai = |text: &str| until(&night, at(&format!("{text}+08:00")));
        assert_eq!(shanghai("2026-01-31T21:59:59"), None);
        assert_eq!(shanghai("2026-01-31T22:00:00"), Some(at("2026-02-01T08:00:00+08:00")));
        assert_eq!(shanghai("2026-02-01T07:59:59"), Some(at("2026-02-01T08:00:00+08:00")));
        assert_eq!(shanghai("2026-02-01T08:00:00"), None);
        // The clocks go forward at 02:00 on this day: 02:30 is not there.
        let berlin = QuietHours { from: 60, to: 150, time_zone: "Europe/Berlin".to_owned() };
        assert_eq!(until(&berlin, at("2026-03-29T01:30:00+01:00")), Some(at("2026-03-29T03:30:00+02:00")));
        // And back at 03:00: 02:00 to 03:00 is there twice, and quiet twice.
        let berlin = hours(1, 3, "Europe/Berlin");
        assert_eq!(until(&berlin, at("2026-10-25T02:30:00+02:00")), Some(at("2026-10-25T03:00:00+01:00")));
        assert_eq!(until(&berlin, at("2026-10-25T02:30:00+01:00")), Some(at("2026-10-25T03:00:00+01:00")));
        assert_eq!(until(&hours(0, 23, "Nowhere/City"), at("2026-01-01T00:00:00Z")), None);
    }
}
