//! A limit on log lines that peers can cause without end.

use core::{mem, time::Duration};

use tracing::Level;

use crate::{Instant, token_bucket::TokenBucket};

/// Admits a burst of log lines and then a constant rate, and counts the lines that it leaves out.
///
/// The next line that is admitted has that count in the field `suppressed`. The number of lines
/// plus the sum of these fields is the number of events, but for those left out last.
#[derive(Clone, Debug)]
pub(crate) struct LogLimit {
    burst: u32,
    interval: Duration,
    lines: TokenBucket,
    /// Lines left out since the last one that was admitted.
    suppressed: u64,
}

/// What to do with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is logged, with the number of lines that were left out before it, if any were.
    Log { suppressed: Option<u64> },
    /// It is left out, and counted.
    Suppress,
}

impl LogLimit {
    /// `burst` lines at once, and one more each `interval`.
    pub(crate) const fn new(burst: u32, interval: Duration) -> Self {
        Self { burst, interval, lines: TokenBucket::FULL, suppressed: 0 }
    }

    /// Whether a line is logged now.
    pub(crate) fn check(&mut self, now: Instant) -> Verdict {
        if !self.lines.take(self.interval, self.interval * self.burst, now) {
            self.suppressed += 1;
            return Verdict::Suppress;
        }
        Verdict::Log { suppressed: self.take_suppressed() }
    }

    /// The same, but where debug messages are logged (`-v`) every line is.
    pub(crate) fn check_unless_debugging(&mut self, now: Instant) -> Verdict {
        if tracing::enabled!(Level::DEBUG) {
            return Verdict::Log { suppressed: self.take_suppressed() };
        }
        self.check(now)
    }

    /// How many lines were left out since the last one that was admitted, if any were. They count
    /// as reported then.
    pub(crate) fn take_suppressed(&mut self) -> Option<u64> {
        Some(mem::take(&mut self.suppressed)).filter(|&suppressed| suppressed > 0)
    }
}

impl Default for LogLimit {
    /// 50 lines at once, and 10 a second: all of them, unless there is a flood.
    fn default() -> Self {
        Self::new(50, Duration::from_millis(100))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_epoch(Duration::from_millis(millis))
    }

    #[test]
    fn lines_and_what_was_left_out_are_all_that_has_happened() {
        let mut limit = LogLimit::new(3, Duration::from_millis(500));
        let (mut lines, mut suppressed) = (0, 0);
        for millis in 0..2600 {
            if let Verdict::Log { suppressed: before } = limit.check(at(millis)) {
                lines += 1;
                suppressed += before.unwrap_or_default();
            }
        }
        assert_eq!(lines, 3 + 5, "a burst, and one each half second");
        assert_eq!(lines + suppressed + limit.take_suppressed().unwrap(), 2600);
        assert_eq!(limit.take_suppressed(), None);
    }

    #[test]
    fn what_comes_seldom_is_logged_whole_and_a_burst_is_again_after_a_while() {
        let mut limit = LogLimit::new(2, Duration::from_millis(100));
        let whole = Verdict::Log { suppressed: None };
        for millis in (0..10_000).step_by(100) {
            assert_eq!(limit.check(at(millis)), whole);
        }
        assert_eq!([0; 3].map(|_| limit.check(at(10_200))), [whole, whole, Verdict::Suppress]);
        assert_eq!(limit.check(at(10_300)), Verdict::Log { suppressed: Some(1) });
    }
}
