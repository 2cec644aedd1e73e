//! How long a machine waits for requests in flight after a shutdown was requested.

use core::time::Duration;

use crate::Instant;

/// The wait after [`Event::ShutDown`](crate::Event::ShutDown): requests in flight are still
/// answered. It ends after 10 ms without input, or after 200 ms of waiting for input in total.
///
/// A peer that sends without pause, or that does not read, can prolong it. The server's drain
/// timeout limits that ([`serve`](crate::serve)).
#[derive(Clone, Copy, Debug)]
pub(crate) struct InFlightWait {
    /// When the wait for input began, while no output is pending.
    since: Instant,
    /// The rest of [`MAX_WAIT`].
    remaining: Duration,
}

impl InFlightWait {
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, remaining: MAX_WAIT }
    }

    /// Begins to wait for input: no output is pending any more.
    pub(crate) fn wait(&mut self, now: Instant) {
        self.since = now;
    }

    /// Handles input that arrived during the wait.
    pub(crate) fn handle_read(&mut self, now: Instant) {
        self.remaining = self.remaining.saturating_sub(now.since(self.since));
    }

    /// When the wait ends, unless input arrives before.
    pub(crate) fn deadline(&self) -> Instant {
        self.since + self.remaining.min(QUIET_PERIOD)
    }
}

/// How long without input ends the wait. (It does not wait for a lost segment, which Linux
/// retransmits after 200 ms or more.)
const QUIET_PERIOD: Duration = Duration::from_millis(10);
/// The longest wait for input in total. It ends the wait for a peer that sends a request after
/// each reply. It hardly counts for a peer with megabytes in flight, whose input is already there.
const MAX_WAIT: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::EPOCH + Duration::from_millis(millis)
    }

    #[test]
    fn it_ends_after_10_ms_without_input_or_200_ms_of_waiting() {
        let mut wait = InFlightWait::new(at(0));
        assert_eq!(wait.deadline(), at(10));
        for round in 0..22 {
            wait.handle_read(at(100 * round + 9)); // after 9 ms of waiting
            wait.wait(at(100 * round + 100)); // the time for the reply does not count
        }
        assert_eq!(wait.deadline(), at(2202), "2 ms of 200 remain");
        wait.handle_read(at(2202));
        wait.wait(at(2300));
        assert_eq!(wait.deadline(), at(2300));
    }
}
