//! Whether a peer acknowledges our output, for deadlines of writes.

use core::time::Duration;

use crate::{Instant, Machine};

/// Tracks when a peer last acknowledged output, for a deadline such as "no byte acknowledged for
/// 10 s".
///
/// A successful write is no progress. While the peer's window is closed, the kernel enlarges the
/// socket's send buffer (`net.ipv4.tcp_wmem`; tcp(7)) and accepts more bytes each time. Progress is
/// an acknowledgement by the peer (RFC 9293, section 3.4). The driver passes the number of
/// unacknowledged bytes with each [`Event::Timeout`](crate::Event::Timeout).
///
/// [Observe](Self::observe) that number at each [`deadline`](Self::deadline). While output is
/// outstanding, there is one at least every eighth of `limit`, so a stall of length `limit` is
/// noticed within 1.125 times `limit`.
///
/// ```
/// use core::time::Duration;
/// use wirestate_core::{Instant, WriteProgress};
///
/// let limit = Duration::from_secs(8);
/// let start = Instant::EPOCH;
/// let mut progress = WriteProgress::new(start);
/// progress.queued(start);
/// progress.written(start, 1000);
/// assert_eq!(progress.deadline(limit), start + Duration::from_secs(1));
///
/// // The peer acknowledges 400 of the 1,000 bytes.
/// progress.observe(start + Duration::from_secs(1), true, 600);
/// // It acknowledges no more. The 50 bytes that the kernel accepts are no progress.
/// progress.written(start + Duration::from_secs(5), 50);
/// progress.observe(start + Duration::from_secs(9), true, 650);
/// assert!(progress.is_stalled(start + Duration::from_secs(9), limit));
/// ```
#[derive(Clone, Debug)]
pub struct WriteProgress {
    /// Bytes written since the last observation.
    written: u64,
    /// Bytes that were not acknowledged at the last observation.
    unacknowledged: u64,
    /// Output is queued or not acknowledged, as of the last observation.
    is_outstanding: bool,
    /// When progress was last observed.
    last_progress: Instant,
    /// When a byte was last written, or queued as the first one.
    last_activity: Instant,
    /// The last observation, or when output became outstanding.
    last_observation: Instant,
}

impl WriteProgress {
    /// Progress on a connection without output so far.
    pub fn new(now: Instant) -> Self {
        Self {
            written: 0,
            unacknowledged: 0,
            is_outstanding: false,
            last_progress: now,
            last_activity: now,
            last_observation: now,
        }
    }

    /// Records that output was queued while none was queued.
    ///
    /// Do not call it for output that is queued behind other output: that is no progress.
    pub fn queued(&mut self, now: Instant) {
        self.last_activity = now;
        if !self.is_outstanding {
            self.is_outstanding = true;
            self.last_progress = now;
            self.last_observation = now;
        }
    }

    /// Records that `n` bytes were written to the kernel.
    pub fn written(&mut self, now: Instant, n: usize) {
        self.last_activity = now;
        self.written += n as u64;
    }

    /// Records the number of unacknowledged bytes, from
    /// [`Event::Timeout`](crate::Event::Timeout), and whether output is queued.
    pub fn observe(&mut self, now: Instant, queued: bool, unacknowledged: usize) {
        let unacknowledged = unacknowledged as u64;
        if unacknowledged < self.unacknowledged + self.written {
            // If no byte was unacknowledged before and none is now, all were acknowledged soon
            // after they were written.
            let all_acknowledged = self.unacknowledged == 0 && unacknowledged == 0;
            self.last_progress =
                if all_acknowledged { self.last_progress.max(self.last_activity) } else { now };
        }
        self.is_outstanding = queued || unacknowledged > 0;
        self.written = 0;
        self.unacknowledged = unacknowledged;
        self.last_observation = now;
    }

    /// Whether the deadline of `machine` has passed, at an
    /// [`Event::Timeout`](crate::Event::Timeout).
    ///
    /// If it has, this [observes](Self::observe) the machine's `progress`, which can postpone the
    /// deadline, and checks again.
    pub fn expires<M: Machine>(
        machine: &mut M,
        progress: impl FnOnce(&mut M) -> &mut Self,
        now: Instant,
        queued: bool,
        unacknowledged: usize,
    ) -> bool {
        let is_due = |machine: &M| machine.poll_timeout().is_some_and(|deadline| deadline <= now);
        if is_due(machine) {
            progress(machine).observe(now, queued, unacknowledged);
        }
        is_due(machine)
    }

    /// Restarts the deadlines at `now`, as if there was progress.
    pub fn restart(&mut self, now: Instant) {
        self.last_progress = now;
        self.last_activity = now;
        self.last_observation = now;
    }

    /// Whether a byte is queued or not acknowledged, as of the last observation.
    pub fn is_outstanding(&self) -> bool {
        self.is_outstanding
    }

    /// When progress was last observed. If all bytes were acknowledged at once, this is when the
    /// last one was written.
    pub fn last_progress(&self) -> Instant {
        self.last_progress
    }

    /// When to observe next, for a deadline of `limit` without progress; `None` if no output is
    /// outstanding.
    pub fn next_observation(&self, limit: Duration) -> Option<Instant> {
        self.is_outstanding.then(|| self.last_observation + limit / OBSERVATIONS)
    }

    /// When `limit` without progress has passed, or when the next observation is due, if that is
    /// earlier.
    pub fn deadline(&self, limit: Duration) -> Instant {
        self.idle_deadline(self.last_progress, limit)
    }

    /// As [`deadline`](Self::deadline), for output that is `queued` or not acknowledged; `None` if
    /// there is none.
    pub(crate) fn pending_deadline(
        &self,
        queued: bool,
        limit: Option<Duration>,
    ) -> Option<Instant> {
        limit.filter(|_| queued || self.is_outstanding).map(|limit| self.deadline(limit))
    }

    /// As [`deadline`](Self::deadline), for a limit without a byte in either direction. `received`
    /// is when a byte was last received.
    pub fn idle_deadline(&self, received: Instant, limit: Duration) -> Instant {
        let idle = self.last_progress.max(received) + limit;
        self.next_observation(limit).map_or(idle, |observation| observation.min(idle))
    }

    /// Whether there was no progress for `limit`, as of the last observation.
    pub fn is_stalled(&self, now: Instant, limit: Duration) -> bool {
        self.last_progress + limit <= now
    }
}

/// How often outstanding output is observed within the limit of a deadline.
const OBSERVATIONS: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(8);

    fn at(secs: u64) -> Instant {
        Instant::EPOCH + Duration::from_secs(secs)
    }

    #[test]
    fn bytes_that_only_the_kernel_accepts_are_no_progress() {
        let mut progress = WriteProgress::new(at(0));
        progress.queued(at(1));
        for second in 1..9 {
            progress.written(at(second), 10);
            progress.observe(at(second), true, 10 * usize::try_from(second).unwrap());
            assert!(!progress.is_stalled(at(second), LIMIT), "at {second}");
        }
        progress.observe(at(9), true, 80);
        assert!(progress.is_stalled(at(9), LIMIT));
    }

    #[test]
    fn an_acknowledged_byte_is_progress_while_none_can_be_written() {
        let mut progress = WriteProgress::new(at(0));
        progress.queued(at(0));
        progress.written(at(0), 100);
        for second in 1..20 {
            progress.observe(at(second), true, 100 - usize::try_from(second).unwrap());
            assert!(!progress.is_stalled(at(second), LIMIT), "at {second}");
        }
    }

    #[test]
    fn an_acknowledgement_between_observations_is_progress_at_the_next_one() {
        let mut progress = WriteProgress::new(at(0));
        progress.queued(at(0));
        progress.written(at(0), 100);
        // A day later output is queued again. There was no observation since.
        progress.queued(at(86_400));
        progress.written(at(86_400), 100);
        assert!(progress.deadline(LIMIT) <= at(86_400));
        progress.observe(at(86_400), true, 100);
        assert!(!progress.is_stalled(at(86_400), LIMIT));
    }

    #[test]
    fn after_the_last_acknowledgement_time_runs_from_the_last_write_and_observations_stop() {
        let mut progress = WriteProgress::new(at(0));
        progress.queued(at(3));
        progress.written(at(3), 100);
        assert_eq!(progress.deadline(LIMIT), at(4));
        progress.observe(at(4), false, 0);
        assert_eq!((progress.last_progress(), progress.deadline(LIMIT)), (at(3), at(11)));
        assert!(!progress.is_outstanding());
    }
}
