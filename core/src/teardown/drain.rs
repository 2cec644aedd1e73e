//! The drain: how long a machine that was asked to end waits for requests that are on their way.

use core::time::Duration;

use crate::Instant;

/// The drain after [`Event::ShutDown`](crate::Event::ShutDown): a request that is on its way is
/// still answered. It ends after 10 ms without input, or after 200 ms of waiting for input in all.
///
/// It does not end for a peer that sends without pause, or does not read: the server's
/// limit for that is its drain timeout ([`serve`](crate::serve)).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drain {
    /// When the wait for input began, while no output is pending.
    since: Instant,
    /// The rest of [`DRAIN_WAIT`].
    remaining: Duration,
}

impl Drain {
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, remaining: DRAIN_WAIT }
    }

    /// Begins to wait for input: no output is pending any more.
    pub(crate) fn wait(&mut self, now: Instant) {
        self.since = now;
    }

    /// Handles input that came during the wait.
    pub(crate) fn handle_read(&mut self, now: Instant) {
        self.remaining = self.remaining.saturating_sub(now.since(self.since));
    }

    /// When the drain ends, unless input comes before.
    pub(crate) fn deadline(&self) -> Instant {
        self.since + self.remaining.min(DRAIN_QUIET)
    }
}

/// Input that takes longer is not expected. (TCP retransmits later: Linux waits for at least 200
/// ms.)
const DRAIN_QUIET: Duration = Duration::from_millis(10);
/// Ends the drain for a peer in lockstep, which always has input on its way. It does not end it for
/// a peer with megabytes on their way, whose input is hardly ever awaited.
const DRAIN_WAIT: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::EPOCH + Duration::from_millis(millis)
    }

    #[test]
    fn a_drain_ends_after_10_ms_without_input_or_200_ms_of_waiting() {
        let mut drain = Drain::new(at(0));
        assert_eq!(drain.deadline(), at(10));
        for round in 0..22 {
            drain.handle_read(at(100 * round + 9)); // 9 ms after it waited
            drain.wait(at(100 * round + 100)); // the answer took long, which does not count
        }
        assert_eq!(drain.deadline(), at(2202), "2 ms of 200 are left");
        drain.handle_read(at(2202));
        drain.wait(at(2300));
        assert_eq!(drain.deadline(), at(2300));
    }
}
