//! The end of a connection: where a machine decides on a FIN, a lingering close or a reset.
//!
//! In its last state, a machine delegates to a [`Teardown`]:
//!
//! ```
//! use wirestate_core::{Instant, Interest, Linger, Outbound, WriteProgress};
//! use wirestate_core::teardown::{DiscardBudget, Teardown};
//!
//! let now = Instant::EPOCH;
//! let mut progress = WriteProgress::new(now);
//! let budget = DiscardBudget::default(); // one for all connections of a server
//!
//! // An error reply is pending. It is sent, then a FIN.
//! let linger = Some(Linger::default());
//! let mut teardown = Teardown::closing("malformed request", linger, &mut progress, now);
//! assert_eq!(teardown.interest(true).write, Outbound::Flush);
//! assert_eq!(teardown.interest(false).write, Outbound::Finish);
//! teardown.handle_finished(now);
//!
//! // Further input is discarded until the peer's FIN.
//! assert_eq!(teardown.interest(false), Interest { read: true, write: Outbound::Finished });
//! teardown.handle_read(now, 1000, &budget);
//! teardown.handle_eof();
//! assert_eq!(teardown.reason(), Some("malformed request"));
//! ```

mod in_flight_wait;
mod linger;

use core::{fmt::Debug, time::Duration};

pub(crate) use self::in_flight_wait::InFlightWait;
pub use self::linger::{DiscardBudget, Linger};
use crate::{Instant, Interest, Outbound, WriteProgress};

/// How a machine's connection ends, and why: the last state of every machine, which takes interest,
/// deadline and reason from it.
///
/// A machine that loses its connection has [ended](Self::ended) at once: the driver sends the RST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Teardown<R> {
    reason: R,
    stage: Stage,
    /// Bytes discarded while lingering.
    discarded: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Pending output, then a FIN, under the machine's write deadline.
    Closing {
        linger: Option<Linger>,
    },
    /// Pending output, then a FIN, before `until`.
    Finishing {
        until: Option<Instant>,
    },
    /// The FIN is sent, and the peer's FIN is awaited. Its input is discarded.
    Lingering {
        since: Instant,
        linger: Linger,
    },
    Resetting,
    Ended,
}

impl<R: Clone> Teardown<R> {
    /// Sends the pending output and a FIN, then lingers under `linger`. Pass `None` if the peer has
    /// sent its FIN: there is no more input to discard.
    ///
    /// The FIN counts as output queued at `now`, so the deadline is that of `progress`. While this
    /// [`is_closing`](Self::is_closing), [observe](WriteProgress::observe) `progress` with output
    /// queued.
    pub fn closing(
        reason: R,
        linger: Option<Linger>,
        progress: &mut WriteProgress,
        now: Instant,
    ) -> Self {
        progress.queued(now);
        Self::new(reason, Stage::Closing { linger })
    }

    /// Sends the pending output and a FIN before a fixed deadline ([`FIN_TIMEOUT`], or the
    /// machine's own), and does not linger: a peer that still sends may lose output by a reset. For
    /// a machine whose output can be lost.
    pub fn finishing(reason: R, until: Option<Instant>) -> Self {
        Self::new(reason, Stage::Finishing { until })
    }

    /// Sends an RST.
    pub fn reset(reason: R) -> Self {
        Self::new(reason, Stage::Resetting)
    }

    /// A connection that has ended.
    pub fn ended(reason: R) -> Self {
        Self::new(reason, Stage::Ended)
    }

    fn new(reason: R, stage: Stage) -> Self {
        Self { reason, stage, discarded: 0 }
    }

    /// The machine's interest. `has_output` says whether output is pending.
    pub fn interest(&self, has_output: bool) -> Interest {
        let write = match self.stage {
            Stage::Closing { .. } | Stage::Finishing { .. } if has_output => Outbound::Flush,
            Stage::Closing { .. } | Stage::Finishing { .. } => Outbound::Finish,
            Stage::Lingering { .. } | Stage::Ended => Outbound::Finished,
            Stage::Resetting => Outbound::Reset,
        };
        Interest { read: self.lingers_since().is_some(), write }
    }

    /// Discards input, up to the limits of the lingering close and of `budget`.
    pub fn handle_read(&mut self, now: Instant, n: usize, budget: &DiscardBudget) {
        if let Stage::Lingering { linger, .. } = self.stage
            && !budget.discard(linger, &mut self.discarded, n, now)
        {
            self.stage = Stage::Ended;
        }
    }

    /// Handles the peer's FIN, which ends the lingering close.
    pub fn handle_eof(&mut self) {
        if let Stage::Lingering { .. } = self.stage {
            self.stage = Stage::Ended;
        }
    }

    /// Handles an error of reading or writing. If output was pending under the write deadline, the
    /// reason becomes `lost`.
    pub fn handle_error(&mut self, lost: R) {
        if self.is_closing() {
            self.reason = lost;
        }
        self.stage = Stage::Ended;
    }

    /// Handles [`Event::Finished`](crate::Event::Finished): the FIN or RST was sent.
    pub fn handle_finished(&mut self, now: Instant) {
        self.stage = match self.stage {
            Stage::Closing { linger: Some(linger) } => Stage::Lingering { since: now, linger },
            Stage::Closing { linger: None } | Stage::Finishing { .. } | Stage::Resetting => {
                Stage::Ended
            }
            Stage::Lingering { .. } | Stage::Ended => return,
        };
    }

    /// Returns the deadline. `write` is the deadline of pending output; a pending FIN is output.
    pub fn poll_timeout(&self, write: Option<Instant>) -> Option<Instant> {
        match self.stage {
            Stage::Closing { .. } => write,
            Stage::Finishing { until } => until,
            Stage::Lingering { since, linger } => Some(since + linger.time),
            Stage::Resetting | Stage::Ended => None,
        }
    }

    /// Handles a deadline that has passed. Pending output and a pending FIN lead to a reset, with
    /// the reason `stalled` if it was the write deadline.
    pub fn expire(&mut self, stalled: Option<R>) {
        if self.is_closing()
            && let Some(stalled) = stalled
        {
            self.reason = stalled;
        }
        self.stage = match self.stage {
            Stage::Closing { .. } | Stage::Finishing { .. } | Stage::Resetting => Stage::Resetting,
            Stage::Lingering { .. } | Stage::Ended => Stage::Ended,
        };
    }

    /// Whether output, the FIN included, is pending under the machine's write deadline.
    pub fn is_closing(&self) -> bool {
        matches!(self.stage, Stage::Closing { .. })
    }

    /// When the lingering close began; `None` if there is none now.
    pub fn lingers_since(&self) -> Option<Instant> {
        if let Stage::Lingering { since, .. } = self.stage { Some(since) } else { None }
    }

    /// Bytes discarded while lingering.
    pub fn discarded(&self) -> usize {
        self.discarded
    }

    /// The name of the state.
    pub fn state(&self) -> &'static str {
        match self.stage {
            Stage::Closing { .. } | Stage::Finishing { .. } => "closing",
            Stage::Lingering { .. } => "lingering",
            Stage::Resetting => "resetting",
            Stage::Ended => "ended",
        }
    }

    /// The reason as known so far. An error of pending output can replace it.
    pub fn cause(&self) -> &R {
        &self.reason
    }

    /// The reason, once the connection has ended.
    pub fn reason(&self) -> Option<R> {
        matches!(self.stage, Stage::Ended).then(|| self.reason.clone())
    }
}

/// How long a FIN may be pending for a machine without a write deadline: 10 s.
pub const FIN_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    const LINGER: Linger = Linger { bytes: 100, time: Duration::from_secs(2) };
    const LIMIT: Duration = Duration::from_secs(8);

    fn at(millis: u64) -> Instant {
        Instant::EPOCH + Duration::from_millis(millis)
    }

    fn closing(linger: Option<Linger>) -> Teardown<&'static str> {
        Teardown::closing("known", linger, &mut WriteProgress::new(at(0)), at(0))
    }

    fn finishing() -> Teardown<&'static str> {
        Teardown::finishing("known", Some(at(0) + FIN_TIMEOUT))
    }

    fn lingering() -> Teardown<&'static str> {
        let mut teardown = closing(Some(LINGER));
        teardown.handle_finished(at(0));
        teardown
    }

    #[test]
    fn pending_output_comes_before_the_fin_and_lingering_after_it() {
        for mut teardown in [closing(Some(LINGER)), closing(None), finishing()] {
            let lingers = matches!(teardown.stage, Stage::Closing { linger: Some(_) });
            let flush = Interest { read: false, write: Outbound::Flush };
            assert_eq!(teardown.interest(true), flush);
            let finish = Interest { read: false, write: Outbound::Finish };
            assert_eq!(teardown.interest(false), finish);
            assert_eq!((teardown.state(), teardown.reason()), ("closing", None));
            teardown.handle_finished(at(3));
            assert_eq!(teardown.lingers_since(), lingers.then(|| at(3)));
            let lingering = Interest { read: true, write: Outbound::Finished };
            let expected = if lingers { lingering } else { Interest::DONE };
            assert_eq!(teardown.interest(false), expected);
            assert_eq!(teardown.reason(), (!lingers).then_some("known"));
        }
    }

    #[test]
    fn lingering_ends_by_a_fin_an_error_a_deadline_or_a_limit_of_bytes_for_the_known_reason() {
        let budget = DiscardBudget::default();
        let ends: [fn(&mut Teardown<_>, &DiscardBudget); 4] = [
            |teardown, _| teardown.handle_eof(),
            |teardown, _| teardown.handle_error("lost"),
            |teardown, _| teardown.expire(Some("stalled")),
            |teardown, budget| teardown.handle_read(at(1), 1, budget),
        ];
        for end in ends {
            let mut teardown = lingering();
            teardown.handle_read(at(0), LINGER.bytes - 1, &budget);
            assert_eq!(teardown.poll_timeout(Some(at(0))), Some(at(2000)));
            assert_eq!(teardown.reason(), None);
            end(&mut teardown, &budget);
            assert_eq!(teardown.interest(false), Interest::DONE);
            assert_eq!(teardown.reason(), Some("known"));
            assert!(teardown.discarded() >= LINGER.bytes - 1, "bytes are still counted");
        }
    }

    #[test]
    fn an_error_ends_it_at_once_and_is_the_reason_where_output_was_pending() {
        let cases = [(closing(None), "lost"), (finishing(), "known"), (lingering(), "known")];
        for (mut teardown, reason) in cases {
            teardown.handle_error("lost");
            assert_eq!(teardown.interest(true), Interest::DONE);
            assert_eq!(teardown.reason(), Some(reason));
        }
    }

    #[test]
    fn a_deadline_before_the_fin_leads_to_a_reset() {
        let write = Some(at(1));
        assert_eq!(closing(None).poll_timeout(write), write);
        assert_eq!(finishing().poll_timeout(write), Some(at(0) + FIN_TIMEOUT));
        for (mut teardown, reason) in [(closing(None), "stalled"), (finishing(), "known")] {
            teardown.expire(Some("stalled"));
            let reset = Interest { read: false, write: Outbound::Reset };
            assert_eq!(teardown.interest(false), reset);
            assert_eq!((teardown.poll_timeout(write), teardown.reason()), (None, None));
            teardown.handle_finished(at(2));
            assert_eq!(teardown.interest(false), Interest::DONE);
            assert_eq!(teardown.reason(), Some(reason));
        }
    }

    #[test]
    fn a_fin_counts_as_output_after_pending_output() {
        // Nothing was pending: the deadline counts from the FIN.
        let mut progress = WriteProgress::new(at(0));
        let _ = Teardown::closing("known", None, &mut progress, at(7000));
        progress.observe(at(7999), true, 0);
        assert!(progress.is_outstanding() && !progress.is_stalled(at(14_999), LIMIT));
        assert!(progress.is_stalled(at(15_000), LIMIT));

        // Output is pending and the peer stalls: the FIN is no progress.
        let mut progress = WriteProgress::new(at(0));
        progress.queued(at(0));
        progress.written(at(0), 10);
        progress.observe(at(1000), false, 10);
        let _ = Teardown::closing("known", None, &mut progress, at(7000));
        progress.observe(at(8000), true, 10);
        assert!(progress.is_stalled(at(8000), LIMIT));
    }
}
