//! A limit on log lines that peers can cause in any number.

use core::{mem, time::Duration};

use tracing::Level;

use crate::{Instant, token_bucket::TokenBucket};

/// Admits a burst of log lines and then a constant rate, and counts the lines that it leaves out.
///
/// The next logged line has that count in the field `suppressed`. So the logged lines and these
/// fields add up to the number of events, except for lines that are left out after the last one.
#[derive(Clone, Debug)]
pub(crate) struct LogLimit {
    burst: u32,
    interval: Duration,
    lines: TokenBucket,
    /// Lines left out since the last logged line.
    suppressed: u64,
}

/// Whether to log a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogDecision {
    /// Log it, with the number of lines left out before it, if any were.
    Log { suppressed: Option<u64> },
    /// Leave it out. It is counted.
    Suppress,
}

impl LogLimit {
    /// A limit of `burst` lines at once, and one more each `interval`.
    pub(crate) const fn new(burst: u32, interval: Duration) -> Self {
        Self { burst, interval, lines: TokenBucket::FULL, suppressed: 0 }
    }

    /// Whether to log a line now.
    pub(crate) fn check(&mut self, now: Instant) -> LogDecision {
        if !self.lines.take(self.interval, self.interval * self.burst, now) {
            self.suppressed += 1;
            return LogDecision::Suppress;
        }
        LogDecision::Log { suppressed: self.take_suppressed() }
    }

    /// As [`check`](Self::check), but logs every line where debug messages are logged (`-v`).
    pub(crate) fn check_unless_debugging(&mut self, now: Instant) -> LogDecision {
        if tracing::enabled!(Level::DEBUG) {
            return LogDecision::Log { suppressed: self.take_suppressed() };
        }
        self.check(now)
    }

    /// Returns how many lines were left out since the last logged line, if any were, and resets
    /// that count.
    pub(crate) fn take_suppressed(&mut self) -> Option<u64> {
        Some(mem::take(&mut self.suppressed)).filter(|&suppressed| suppressed > 0)
    }
}

impl Default for LogLimit {
    /// 50 lines at once, and 10 a second.
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
    fn logged_and_suppressed_lines_add_up_to_all_events() {
        let mut limit = LogLimit::new(3, Duration::from_millis(500));
        let (mut lines, mut suppressed) = (0, 0);
        for millis in 0..2600 {
            if let LogDecision::Log { suppressed: before } = limit.check(at(millis)) {
                lines += 1;
                suppressed += before.unwrap_or_default();
            }
        }
        assert_eq!(lines, 3 + 5, "a burst, and one each half second");
        assert_eq!(lines + suppressed + limit.take_suppressed().unwrap(), 2600);
        assert_eq!(limit.take_suppressed(), None);
    }

    #[test]
    fn rare_lines_are_all_logged_and_a_burst_is_limited() {
        let mut limit = LogLimit::new(2, Duration::from_millis(100));
        let logged = LogDecision::Log { suppressed: None };
        for millis in (0..10_000).step_by(100) {
            assert_eq!(limit.check(at(millis)), logged);
        }
        assert_eq!(
            [0; 3].map(|_| limit.check(at(10_200))),
            [logged, logged, LogDecision::Suppress]
        );
        assert_eq!(limit.check(at(10_300)), LogDecision::Log { suppressed: Some(1) });
    }
}
