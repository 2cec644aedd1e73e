//! The end of a connection: the drain, the FIN, the lingering close, the reset.

use core::{fmt::Debug, time::Duration};

use crate::{
    Instant, Interest, Outbound, WriteProgress,
    shared::{Lock, Shared},
    token_bucket::TokenBucket,
};

/// How the connection of a machine ends, and why. It is the last state of every machine, which asks
/// it for its interest, deadline and reason.
///
/// A machine that loses its connection is [over](Self::over) at once: the driver sends the RST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Teardown<R> {
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
    /// Pending output that nobody waits for, then a FIN, before `until`.
    Finishing {
        until: Option<Instant>,
    },
    /// The FIN is out, and the peer's is awaited. What it sends before is discarded.
    Lingering {
        since: Instant,
        linger: Linger,
    },
    Resetting,
    Over,
}

impl<R: Clone> Teardown<R> {
    /// Sends the pending output and a FIN. Then it lingers, if there is a `linger`: there is none
    /// behind the peer's FIN.
    ///
    /// The FIN counts as output that is queued at `now`. So the deadline is that of `progress`,
    /// which is to be [observed](WriteProgress::observe) with output queued while this
    /// [`is_closing`](Self::is_closing).
    pub(crate) fn closing(
        reason: R,
        linger: Option<Linger>,
        progress: &mut WriteProgress,
        now: Instant,
    ) -> Self {
        progress.queued(now);
        Self::new(reason, Stage::Closing { linger })
    }

    /// Sends a FIN, with a fixed deadline ([`FIN_TIMEOUT`], or the machine's own), and does not
    /// linger: for a machine that has no output, or whose output does not matter any more.
    pub(crate) fn finishing(reason: R, until: Option<Instant>) -> Self {
        Self::new(reason, Stage::Finishing { until })
    }

    /// Sends an RST.
    pub(crate) fn reset(reason: R) -> Self {
        Self::new(reason, Stage::Resetting)
    }

    /// The connection has ended.
    pub(crate) fn over(reason: R) -> Self {
        Self::new(reason, Stage::Over)
    }

    fn new(reason: R, stage: Stage) -> Self {
        Self { reason, stage, discarded: 0 }
    }

    /// What the machine wants; `has_output`: output is pending.
    pub(crate) fn interest(&self, has_output: bool) -> Interest {
        let write = match self.stage {
            Stage::Closing { .. } | Stage::Finishing { .. } if has_output => Outbound::Flush,
            Stage::Closing { .. } | Stage::Finishing { .. } => Outbound::Finish,
            Stage::Lingering { .. } | Stage::Over => Outbound::Finished,
            Stage::Resetting => Outbound::Reset,
        };
        Interest { read: self.lingers_since().is_some(), write }
    }

    /// Input: it is discarded, up to the limits of the lingering close and of `budget`.
    pub(crate) fn handle_read(&mut self, now: Instant, n: usize, budget: &DiscardBudget) {
        if let Stage::Lingering { linger, .. } = self.stage
            && !budget.discard(linger, &mut self.discarded, n, now)
        {
            self.stage = Stage::Over;
        }
    }

    /// The peer's FIN.
    pub(crate) fn handle_eof(&mut self) {
        if let Stage::Lingering { .. } = self.stage {
            self.stage = Stage::Over;
        }
    }

    /// Reading or writing has failed. While output was pending under the write deadline, that is
    /// the reason: `lost`.
    pub(crate) fn handle_error(&mut self, lost: R) {
        if self.is_closing() {
            self.reason = lost;
        }
        self.stage = Stage::Over;
    }

    /// The FIN or RST is out.
    pub(crate) fn handle_finished(&mut self, now: Instant) {
        self.stage = match self.stage {
            Stage::Closing { linger: Some(linger) } => Stage::Lingering { since: now, linger },
            Stage::Closing { linger: None } | Stage::Finishing { .. } | Stage::Resetting => {
                Stage::Over
            }
            Stage::Lingering { .. } | Stage::Over => return,
        };
    }

    /// Returns the deadline. `write` is the deadline of pending output; a pending FIN is output.
    pub(crate) fn poll_timeout(&self, write: Option<Instant>) -> Option<Instant> {
        match self.stage {
            Stage::Closing { .. } => write,
            Stage::Finishing { until } => until,
            Stage::Lingering { since, linger } => Some(since + linger.time),
            Stage::Resetting | Stage::Over => None,
        }
    }

    /// The deadline has passed. Pending output and a pending FIN lead to a reset, for the reason
    /// `stalled` if it was the write deadline.
    pub(crate) fn expire(&mut self, stalled: Option<R>) {
        if self.is_closing()
            && let Some(stalled) = stalled
        {
            self.reason = stalled;
        }
        self.stage = match self.stage {
            Stage::Closing { .. } | Stage::Finishing { .. } | Stage::Resetting => Stage::Resetting,
            Stage::Lingering { .. } | Stage::Over => Stage::Over,
        };
    }

    /// Whether output, the FIN included, is pending under the machine's write deadline.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.stage, Stage::Closing { .. })
    }

    /// Since when it lingers, if it does.
    pub(crate) fn lingers_since(&self) -> Option<Instant> {
        if let Stage::Lingering { since, .. } = self.stage { Some(since) } else { None }
    }

    /// Bytes discarded while lingering.
    pub(crate) fn discarded(&self) -> usize {
        self.discarded
    }

    /// The name of the state.
    pub(crate) fn state(&self) -> &'static str {
        match self.stage {
            Stage::Closing { .. } | Stage::Finishing { .. } => "closing",
            Stage::Lingering { .. } => "lingering",
            Stage::Resetting => "resetting",
            Stage::Over => "over",
        }
    }

    /// The reason that is known so far.
    pub(crate) fn cause(&self) -> &R {
        &self.reason
    }

    /// The reason, once the connection has ended.
    pub(crate) fn reason(&self) -> Option<R> {
        matches!(self.stage, Stage::Over).then(|| self.reason.clone())
    }
}

/// The drain after [`Event::ShutDown`](crate::Event::ShutDown): a request that is on its way is
/// still answered. It ends when nothing has come for 10 ms, or when input was awaited for 200 ms in
/// all.
///
/// It does not end for a peer that sends without pause, or does not read: for that, the server has
/// a limit ([`Options::drain_timeout`](crate::serve::Options::drain_timeout)).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drain {
    /// Since when input is awaited, while no output is pending.
    since: Instant,
    /// How long input may be awaited yet, in all.
    left: Duration,
}

impl Drain {
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, left: DRAIN_WAIT }
    }

    /// Input is awaited from now on: no output is pending any more.
    pub(crate) fn wait(&mut self, now: Instant) {
        self.since = now;
    }

    /// Input has come while it was awaited.
    pub(crate) fn handle_read(&mut self, now: Instant) {
        self.left = self.left.saturating_sub(now.since(self.since));
    }

    /// When it ends, if no input comes before.
    pub(crate) fn deadline(&self) -> Instant {
        self.since + self.left.min(DRAIN_QUIET)
    }
}

/// A lingering close: behind our FIN, what the peer still sends is read and thrown away for a
/// while. Closing the socket at once would answer those bytes with a reset, and a reset may
/// destroy output that the peer has not read yet (RFC 9112, section 9.6).
///
/// Each connection may discard 64 KiB in any case. Beyond that, all connections of one server, feed
/// or proxy share a budget: they may discard 64 MiB at once and 32 MiB a second in the long run.
/// When it is used up, a connection whose peer goes on sending is closed at once, and the peer may
/// get a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linger {
    /// How many bytes of one connection are discarded at most.
    pub bytes: usize,
    /// How long at most.
    pub time: Duration,
}

impl Default for Linger {
    /// 16 MiB or 2 s.
    fn default() -> Self {
        Self { bytes: 16 * MIB, time: Duration::from_secs(2) }
    }
}

/// How much the lingering connections of one server may discard together. Clones are the same
/// budget.
#[derive(Clone, Debug, Default)]
pub(crate) struct DiscardBudget {
    bytes: Shared<Lock<TokenBucket>>,
}

impl DiscardBudget {
    /// Counts `n` bytes more that were discarded by a connection that lingers under `linger` and
    /// had discarded `discarded` before. Returns whether it may go on.
    pub(crate) fn discard(
        &self,
        linger: Linger,
        discarded: &mut usize,
        n: usize,
        now: Instant,
    ) -> bool {
        let free = OWN.max(*discarded);
        *discarded += n;
        let cost = regained_within(discarded.saturating_sub(free));
        let take = |bytes: &mut TokenBucket| bytes.take(cost, regained_within(AT_ONCE), now);
        *discarded < linger.bytes && (cost.is_zero() || self.bytes.with(take))
    }
}

/// The time in which `n` bytes are regained.
fn regained_within(n: usize) -> Duration {
    Duration::from_nanos((n as u64).saturating_mul(1_000_000_000) / PER_SECOND as u64)
}

/// How long a FIN may be pending where a machine has no write deadline of its own.
pub(crate) const FIN_TIMEOUT: Duration = Duration::from_secs(10);
/// After this long without input, none is expected. (What TCP retransmits comes later: Linux
/// waits at least 200 ms.)
const DRAIN_QUIET: Duration = Duration::from_millis(10);
/// A peer in lockstep always has input on its way, and is ended by this. A peer that has megabytes
/// on their way is not, since its input is hardly ever awaited.
const DRAIN_WAIT: Duration = Duration::from_millis(200);
const MIB: usize = 1024 * 1024;
/// The bytes that each connection may discard, whatever the others do.
const OWN: usize = 64 * 1024;
const AT_ONCE: usize = 64 * MIB;
const PER_SECOND: usize = 32 * MIB;

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads 64 KiB at a time until it has to close; returns the bytes discarded.
    fn flood(budget: &DiscardBudget, now: Instant) -> usize {
        let mut discarded = 0;
        while budget.discard(Linger::default(), &mut discarded, OWN, now) {}
        discarded
    }

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
    fn pending_output_comes_before_the_fin_and_lingering_behind_it() {
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
    fn lingering_ends_by_the_peers_fin_by_an_error_in_time_or_by_its_bytes_and_for_the_reason_known()
     {
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
            assert!(teardown.discarded() >= LINGER.bytes - 1, "it goes on counting");
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
    fn a_fin_counts_as_output_behind_what_is_pending() {
        // Nothing was pending: its time begins with it.
        let mut progress = WriteProgress::new(at(0));
        let _ = Teardown::closing("known", None, &mut progress, at(7000));
        progress.observe(at(7999), true, 0);
        assert!(progress.is_outstanding() && !progress.is_stalled(at(14_999), LIMIT));
        assert!(progress.is_stalled(at(15_000), LIMIT));

        // The peer stalls: the FIN is no progress.
        let mut progress = WriteProgress::new(at(0));
        progress.queued(at(0));
        progress.written(at(0), 10);
        progress.observe(at(1000), false, 10);
        let _ = Teardown::closing("known", None, &mut progress, at(7000));
        progress.observe(at(8000), true, 10);
        assert!(progress.is_stalled(at(8000), LIMIT));
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

    #[test]
    fn connections_throw_so_much_away_each_and_so_much_together() {
        let (budget, begin) = (DiscardBudget::default(), Instant::EPOCH);
        for _ in 0..4 {
            assert_eq!(flood(&budget, begin), 16 * MIB, "as long as there is enough for all");
        }
        let rest: usize = (0..100).map(|_| flood(&budget, begin) - 2 * OWN).sum();
        assert!(rest <= 8 * OWN, "{rest} bytes more, besides what each may in any case");
        let mut discarded = 0;
        assert!(budget.discard(Linger::default(), &mut discarded, OWN, begin), "64 KiB each");

        let later = begin + Duration::from_millis(250);
        assert_eq!(flood(&budget, later), 8 * MIB + 2 * OWN);
        assert_eq!(flood(&budget, begin), 2 * OWN, "time that goes backwards gives nothing");
        let later = later + Duration::from_secs(3600);
        let all: usize = (0..100).map(|_| flood(&budget, later)).sum();
        assert!(all <= 64 * MIB + 100 * 2 * OWN, "{all} bytes: no more than at once");
    }

    #[test]
    fn a_smaller_limit_is_held_to_the_byte() {
        let (budget, now) = (DiscardBudget::default(), Instant::EPOCH);
        let (linger, mut discarded) = (Linger { bytes: 100, ..Linger::default() }, 0);
        assert!(budget.discard(linger, &mut discarded, 99, now));
        assert!(!budget.discard(linger, &mut discarded, 1, now));
        assert_eq!(discarded, 100);
    }
}
