//! Whether a peer acknowledges its output.

use core::time::Duration;

use crate::{Instant, Machine};

/// When a peer last acknowledged output, for a deadline "no byte taken for this long".
///
/// A successful write does not show that the peer takes anything: the kernel enlarges a socket's
/// send buffer while the peer's window is closed (`net.ipv4.tcp_wmem`; tcp(7)), and takes more
/// bytes each time. Progress is what the peer has acknowledged (RFC 9293, section 3.4). The driver
/// passes the number of unacknowledged bytes to each call of
/// [`Event::Timeout`](crate::Event::Timeout).
///
/// To notice a stall of length `limit` within 1.125 times `limit`, the figure is observed every
/// eighth of `limit` while output is outstanding, and never otherwise.
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
/// // The peer has acknowledged 400 of the 1,000 bytes.
/// progress.observe(start + Duration::from_secs(1), true, 600);
/// // It acknowledges nothing more. Another 50 bytes in the kernel's buffer are no progress.
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
    outstanding: bool,
    /// The last progress that was observed.
    since: Instant,
    /// When a byte was last written, or queued behind nothing.
    moved: Instant,
    /// The last observation, or when output became outstanding.
    observed: Instant,
}

impl WriteProgress {
    /// No output yet.
    pub fn new(now: Instant) -> Self {
        Self {
            written: 0,
            unacknowledged: 0,
            outstanding: false,
            since: now,
            moved: now,
            observed: now,
        }
    }

    /// Output is queued where there was none. (Output that is queued behind other output is no
    /// progress.)
    pub fn queued(&mut self, now: Instant) {
        self.moved = now;
        if !self.outstanding {
            self.outstanding = true;
            self.since = now;
            self.observed = now;
        }
    }

    /// `n` bytes were written to the kernel.
    pub fn written(&mut self, now: Instant, n: usize) {
        self.moved = now;
        self.written += n as u64;
    }

    /// Records the figure of [`Event::Timeout`](crate::Event::Timeout), and whether output
    /// is still queued.
    pub fn observe(&mut self, now: Instant, queued: bool, unacknowledged: usize) {
        let unacknowledged = unacknowledged as u64;
        if unacknowledged < self.unacknowledged + self.written {
            // Bytes acknowledged within one interval were acknowledged when they were written, or
            // soon after.
            let at_once = self.unacknowledged == 0 && unacknowledged == 0;
            self.since = if at_once { self.since.max(self.moved) } else { now };
        }
        self.outstanding = queued || unacknowledged > 0;
        self.written = 0;
        self.unacknowledged = unacknowledged;
        self.observed = now;
    }

    /// Whether a deadline of `machine` has passed, at an [`Event::Timeout`](crate::Event::Timeout).
    /// If it has, the machine's `progress` is [observed](Self::observe) first, which can put the
    /// deadline off.
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

    /// Restarts the time at `now`.
    pub fn restart(&mut self, now: Instant) {
        self.since = now;
        self.moved = now;
        self.observed = now;
    }

    /// Whether a byte is queued or not acknowledged, as of the last observation.
    pub fn is_outstanding(&self) -> bool {
        self.outstanding
    }

    /// The last progress that was observed: an acknowledgement, or, where all was acknowledged at
    /// once, the write.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// When the figure is to be observed next, for a deadline of `limit` without progress; `None`
    /// where nothing is outstanding.
    pub fn observation(&self, limit: Duration) -> Option<Instant> {
        self.outstanding.then(|| self.observed + limit / OBSERVATIONS)
    }

    /// When `limit` without progress is over, or the figure is to be observed before that.
    pub fn deadline(&self, limit: Duration) -> Instant {
        self.idle_deadline(self.since, limit)
    }

    /// The same for output that is `queued` or not acknowledged; `None` where there is none.
    pub(crate) fn pending_deadline(
        &self,
        queued: bool,
        limit: Option<Duration>,
    ) -> Option<Instant> {
        limit.filter(|_| queued || self.outstanding).map(|limit| self.deadline(limit))
    }

    /// The same for a deadline that a byte received, at `received`, puts off as well.
    pub fn idle_deadline(&self, received: Instant, limit: Duration) -> Instant {
        let idle = self.since.max(received) + limit;
        self.observation(limit).map_or(idle, |observation| observation.min(idle))
    }

    /// Whether there was no progress for `limit`, as of the last observation.
    pub fn is_stalled(&self, now: Instant, limit: Duration) -> bool {
        self.since + limit <= now
    }
}

/// How often output that is outstanding is observed in the time that it may be so.
const OBSERVATIONS: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(8);

    fn at(secs: u64) -> Instant {
        Instant::EPOCH + Duration::from_secs(secs)
    }

    #[test]
    fn bytes_that_only_the_kernel_takes_are_no_progress() {
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
    fn an_acknowledged_byte_is_progress_although_none_can_be_written() {
        let mut progress = WriteProgress::new(at(0));
        progress.queued(at(0));
        progress.written(at(0), 100);
        for second in 1..20 {
            progress.observe(at(second), true, 100 - usize::try_from(second).unwrap());
            assert!(!progress.is_stalled(at(second), LIMIT), "at {second}");
        }
    }

    #[test]
    fn what_was_acknowledged_unobserved_is_progress_of_the_next_observation() {
        let mut progress = WriteProgress::new(at(0));
        progress.queued(at(0));
        progress.written(at(0), 100);
        // A day later there is output again, and nobody has looked since.
        progress.queued(at(86_400));
        progress.written(at(86_400), 100);
        assert!(progress.deadline(LIMIT) <= at(86_400));
        progress.observe(at(86_400), true, 100);
        assert!(!progress.is_stalled(at(86_400), LIMIT));
    }

    #[test]
    fn once_all_is_acknowledged_the_time_runs_from_the_last_byte_and_nothing_is_observed() {
        let mut progress = WriteProgress::new(at(0));
        progress.queued(at(3));
        progress.written(at(3), 100);
        assert_eq!(progress.deadline(LIMIT), at(4));
        progress.observe(at(4), false, 0);
        assert_eq!((progress.since(), progress.deadline(LIMIT)), (at(3), at(11)));
        assert!(!progress.is_outstanding());
    }
}
