//! Time as `JetStream` writes it.

use std::time::Duration;

use wirestate_core::Instant;

/// Nanoseconds since the Unix epoch.
pub(super) fn unix_nanos(now: Instant) -> u128 {
    (EPOCH + now.since_epoch()).as_nanos()
}

/// RFC 3339, with nanoseconds but without zeros at their end, as Go writes it. `None`: the zero
/// time.
pub(super) fn rfc3339(now: Option<Instant>) -> String {
    let Some(now) = now else { return "0001-01-01T00:00:00Z".to_owned() };
    let nanos = unix_nanos(now);
    let (seconds, nanos) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days from 0000-03-01, in cycles of 400 years:
    // https://howardhinnant.github.io/date_algorithms.html
    let days = days + 719_468;
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = cycle * 400 + year + u128::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let fraction = format!(".{nanos:09}");
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// The beginning of virtual time: 2026-01-01.
const EPOCH: Duration = Duration::from_secs(1_767_225_600);

#[test]
fn times_are_written_as_go_writes_them() {
    let at = |duration| Some(Instant::from_epoch(duration));
    assert_eq!(rfc3339(None), "0001-01-01T00:00:00Z");
    assert_eq!(rfc3339(at(Duration::ZERO)), "2026-01-01T00:00:00Z");
    let later = Duration::from_secs(((31 + 28) * 24 + 13) * 3600 + 61);
    assert_eq!(rfc3339(at(later)), "2026-03-01T13:01:01Z");
    assert_eq!(rfc3339(at(Duration::from_millis(1500))), "2026-01-01T00:00:01.5Z");
}
