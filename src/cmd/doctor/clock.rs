//! Clocks: what one host writes as a time, another one reads.

use super::Finding;

/// Time of timeouts, delays and signatures is good to about this.
const WARN_MS: i64 = 2_000;
/// Signed callbacks and timeouts go wrong.
const ERROR_MS: i64 = 60_000;

/// `theirs` was read somewhere between `before` and `after` here (epoch ms), and is good to `precision_ms`.
pub(super) fn compare(subject: &str, theirs: i64, before: i64, after: i64, precision_ms: i64) -> Finding {
    // Whatever cannot be told from the time that the question took is no skew.
    let skew = if theirs > after { theirs - after } else { (theirs + precision_ms - before).min(0) };
    let direction = if skew > 0 { "ahead of" } else { "behind" };
    let seen = format!("{} here, {} there", crate::cmd::journal::rfc3339(before), crate::cmd::journal::rfc3339(theirs));
    let message = format!("its clock is {:.1} s {direction} that of this host", seconds(skew.abs()));
    let fix = "run a time service (chrony, systemd-timesyncd) on both hosts, against the same servers";
    match skew.abs() {
        0..WARN_MS => Finding::ok("clock.skew", subject, "its clock and that of this host agree"),
        WARN_MS..ERROR_MS => Finding::warning("clock.skew", subject, message).seen(seen).fix(fix),
        _ => Finding::error("clock.skew", subject, message).seen(seen).fix(fix),
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds, for people")]
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

/// A broker's clock: when it was started, and how long ago it says that was, "[ 0 days, 0 hours, 2 minutes, 13 seconds ]".
pub(super) fn of_broker(boot_ms: &str, runtime: &str) -> Option<i64> {
    let mut numbers = runtime.split(|c: char| !c.is_ascii_digit()).filter(|text| !text.is_empty());
    let mut elapsed = 0_i64;
    for unit in [24, 60, 60, 1] {
        elapsed = (elapsed + numbers.next()?.parse::<i64>().ok()?) * unit;
    }
    boot_ms.parse::<i64>().ok()?.checked_add(elapsed.checked_mul(1_000)?)
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    #[test]
    fn a_skew_is_what_the_question_itself_does_not_explain() {
        let severity = |theirs, precision| compare("x", theirs, 100_000, 103_000, precision).severity;
        assert_eq!(severity(101_000, 0), Severity::Ok);
        assert_eq!(severity(104_999, 0), Severity::Ok);
        assert_eq!(severity(105_000, 0), Severity::Warning);
        assert_eq!(severity(98_100, 0), Severity::Ok);
        assert_eq!(severity(98_000, 0), Severity::Warning);
        assert_eq!(severity(98_000, 1_000), Severity::Ok);
        assert_eq!(severity(163_000, 0), Severity::Error);
        assert_eq!(severity(40_000, 0), Severity::Error);
        let finding = compare("x", 40_000, 100_000, 103_000, 0);
        assert_eq!(finding.message, "its clock is 60.0 s behind that of this host");
    }

    #[test]
    fn a_broker_tells_its_time_by_how_long_it_has_run() {
        let runtime = "[ 1 days, 2 hours, 3 minutes, 4 seconds ]";
        let elapsed = ((24 + 2) * 3_600 + 3 * 60 + 4) * 1_000;
        assert_eq!(of_broker("1000", runtime), Some(1_000 + elapsed));
        assert_eq!(of_broker("x", runtime), None);
        assert_eq!(of_broker("1000", "[ 1 days ]"), None);
    }
}
