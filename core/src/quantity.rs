//! Times and sizes as text: one form for messages, logs, reports and status pages.
//!
//! ```
//! use core::time::Duration;
//! use wirestate_core::quantity::{Seconds, Size, Time};
//!
//! assert_eq!(Time(Duration::from_secs(90)).to_string(), "1m 30s");
//! assert_eq!(Time(Duration::from_nanos(1_999_998_729)).to_string(), "2s");
//! assert_eq!(Seconds(Duration::from_millis(12)).to_string(), "0.012");
//! assert_eq!(Size(1_500_000).to_string(), "1.43MiB");
//! ```

use core::{fmt, time::Duration};

/// A time for people, in the syntax that the flags of the command line accept: `250ms`, `30s`,
/// `1m 30s`.
///
/// A time under a minute is rounded to three significant digits, and a longer one to a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = round_to_three_digits(self.0.as_nanos());
        if nanos >= MINUTE_NANOS {
            let rounds_up = self.0.subsec_nanos() >= 500_000_000;
            return write_whole_seconds(f, self.0.as_secs().saturating_add(rounds_up.into()));
        }
        let units = [(1_000_000_000, "s"), (1_000_000, "ms"), (1000, "us"), (1, "ns")];
        let (size, unit) = units.into_iter().find(|&(size, _)| nanos >= size).unwrap_or((1, "s"));
        write_decimal(f, nanos, size)?;
        f.write_str(unit)
    }
}

/// A time in seconds, as a decimal number for fields of logs: `0.012`, `30`. It is rounded to a
/// microsecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(pub Duration);

impl Seconds {
    /// The number, for JSON. Its shortest text has at most six decimals, up to 285 years, and no
    /// exponent: a time below 10 us is rounded to 0 or 10 us. At most 2^64 us.
    pub fn to_f64(self) -> f64 {
        self.rounded(10)
    }

    /// The number, for a field of a log line. As [`to_f64`](Self::to_f64), but a time below 100 us
    /// is rounded to 0 or 100 us, since a field is written by `Debug`, which has an exponent below
    /// that.
    pub fn to_field(self) -> f64 {
        self.rounded(100)
    }

    /// The number; a time below `step`, in microseconds, is rounded to a multiple of it.
    #[expect(clippy::cast_precision_loss, reason = "the nearest number has the shortest text")]
    fn rounded(self, step: u64) -> f64 {
        let mut micros = u64::try_from(self.micros()).unwrap_or(u64::MAX);
        if micros < step {
            micros = (micros + step / 2) / step * step;
        }
        // `Duration::as_secs_f64` adds seconds and a fraction: its result can be one bit off.
        micros as f64 / 1e6
    }

    fn micros(self) -> u128 {
        (self.0.as_nanos() + 500) / 1000
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_decimal(f, self.micros(), 1_000_000)
    }
}

/// A number of bytes, in the syntax that the flags of the command line accept: `100B`, `64KiB`,
/// `1.43MiB`. From 1 KiB on, it is rounded to three significant digits, or to a whole unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = u128::from(self.0);
        for (unit, shift) in UNITS {
            let size = 1_u128 << shift;
            // Below the unit, a size that rounds to it: 1,048,575 bytes are 1 MiB.
            if 2 * bytes < 2 * size - (size >> 10) {
                continue;
            }
            let decimals = match bytes / size {
                0..10 => 100,
                10..100 => 10,
                _ => 1,
            };
            write_decimal(f, (bytes * decimals + size / 2) / size, decimals)?;
            return f.write_str(unit);
        }
        write!(f, "{bytes}B")
    }
}

fn round_to_three_digits(number: u128) -> u128 {
    let step = 10_u128.pow(number.checked_ilog10().unwrap_or(0).saturating_sub(2));
    (number + step / 2) / step * step
}

/// Writes `number / scale`, where `scale` is a power of ten, without trailing zeros.
fn write_decimal(f: &mut fmt::Formatter<'_>, number: u128, scale: u128) -> fmt::Result {
    write!(f, "{}", number / scale)?;
    let (mut fraction, mut digits) = (number % scale, scale.ilog10() as usize);
    if fraction == 0 {
        return Ok(());
    }
    while fraction.is_multiple_of(10) {
        (fraction, digits) = (fraction / 10, digits - 1);
    }
    write!(f, ".{fraction:0digits$}")
}

/// Writes, for example, `1h 30s`.
fn write_whole_seconds(f: &mut fmt::Formatter<'_>, mut seconds: u64) -> fmt::Result {
    let mut separator = "";
    for (size, unit) in [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")] {
        let count = seconds / size;
        seconds %= size;
        if count > 0 {
            write!(f, "{separator}{count}{unit}")?;
            separator = " ";
        }
    }
    Ok(())
}

/// The units of [`Size`], as powers of two.
const UNITS: [(&str, u32); 6] =
    [("EiB", 60), ("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
const MINUTE_NANOS: u128 = 60_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_three_digits_below_a_minute_and_whole_seconds_above() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (34_000, "34us"),
            (1_234_567, "1.23ms"),
            (12_000_000, "12ms"),
            (999_499_999, "999ms"),
            (999_500_000, "1s"),
            (1_050_000_000, "1.05s"),
            (1_999_998_729, "2s"),
            (59_949_999_999, "59.9s"),
            (59_960_000_000, "1m"),
            (60_000_000_000, "1m"),
            (90_400_000_000, "1m 30s"),
            (3_600_500_000_000, "1h 1s"),
            (86_400_000_000_000, "1d"),
        ] {
            assert_eq!(Time(Duration::from_nanos(nanos)).to_string(), text, "{nanos} ns");
        }
        assert_eq!(Time(Duration::MAX).to_string(), "213503982334601d 7h 15s");
    }

    #[test]
    fn seconds_have_at_most_six_decimals_and_no_exponent() {
        for (nanos, text) in [
            (0, "0"),
            (1, "0"),
            (500, "0.000001"),
            (340_000, "0.00034"),
            (12_000_000, "0.012"),
            (30_000_000_000, "30"),
            (1_999_998_729, "1.999999"),
            (1_999_999_999, "2"),
        ] {
            let seconds = Seconds(Duration::from_nanos(nanos));
            assert_eq!(seconds.to_string(), text, "{nanos} ns");
            let rounded = if text == "0.000001" { "0" } else { text };
            assert_eq!(seconds.to_f64().to_string(), rounded, "{nanos} ns");
            assert_eq!(seconds.to_field().to_string(), rounded, "{nanos} ns");
        }
        assert_eq!(Seconds(Duration::from_micros(34)).to_f64().to_string(), "0.000034");
        for micros in [49, 51, 99, u64::MAX] {
            let number = format!("{:?}", Seconds(Duration::from_micros(micros)).to_field());
            assert!(!number.contains('e'), "{number}");
        }
        assert_eq!(Seconds(Duration::MAX).to_string(), "18446744073709551616");
    }

    #[test]
    fn a_size_has_the_unit_that_makes_it_short() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1KiB"),
            (1536, "1.5KiB"),
            (65_536, "64KiB"),
            (102_401, "100KiB"),
            (1_048_063, "1023KiB"),
            (1_048_064, "1MiB"),
            (1_500_000, "1.43MiB"),
            (16 << 20, "16MiB"),
            (u64::MAX, "16EiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text, "{bytes}");
        }
    }
}
