//! The one driver loop, for a machine on its socket and for a proxy's pair of them.

use core::{fmt, mem, task::Context, time::Duration};

use super::{Next, turn::Turn};
use crate::{
    Fault, Instant, Reason, Status,
    admission::{Admitted, Command},
};

/// What is driven: it takes turns until its machine has ended.
pub(crate) trait Driven {
    type Reason: Reason;

    /// Takes one turn.
    fn turn(&mut self, now: Instant, cx: &mut Context<'_>) -> Turn;

    /// Of a turn that has moved something: whether the next one would find nothing to do.
    fn is_quiescent(&self) -> bool {
        false
    }

    /// The earliest deadline.
    fn deadline(&self) -> Option<Instant>;

    /// Whether it waits for a read, and for a write.
    fn waits(&self) -> (bool, bool) {
        (true, true)
    }

    /// A deadline has passed.
    fn handle_timeout(&mut self, now: Instant);

    /// Asks for a graceful end.
    fn shut_down(&mut self, now: Instant);

    /// Has the sockets ask the kernel again, whatever was found before.
    fn recheck(&mut self);

    /// Gives buffers back that hold nothing.
    fn release(&mut self, now: Instant);

    /// Whether its machine has ended and the sink holds nothing.
    fn has_ended(&self) -> bool;

    /// Resets the connection, without asking its machine.
    fn reset(&mut self);

    /// Whether a FIN would say falsely that all was sent: output is pending, or the connection has
    /// failed.
    fn must_reset(&self) -> bool;

    /// The machine's [`work`](crate::Machine::work).
    fn work(&self) -> u64;

    fn status(&self) -> Status;

    /// Why it ended, once a turn was [`Turn::Done`].
    fn reason(&self) -> Self::Reason;

    /// Whether the peer has left by itself: by a FIN or a reset.
    fn peer_has_left(&self) -> bool;
}

/// What a driver keeps of a connection besides its machine and its sockets: the budget, and the
/// place in the table of connections.
#[derive(Debug)]
pub(crate) struct Session {
    /// What is left of the budget until it lets others have their turn.
    left: Budget,
    /// The machine's [`work`](crate::Machine::work) as of the last turn.
    work: u64,
    admitted: Option<Admitted>,
    /// The command from the table that was applied last.
    applied: Command,
    /// When input that does not end was first found to hide a deadline that has passed.
    overdue: Option<Instant>,
    /// The time of the last poll.
    now: Instant,
    /// A poll began and has not returned: a panic ended it, wherever that is caught.
    polling: bool,
    ended: Option<How>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// By its machine.
    Done,
    /// By a reset from the table.
    Aborted,
}

/// The limits of one poll of a connection, after which it yields to other tasks. The turn that
/// exceeds one of them is the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Turns; each is at most one read and one write.
    pub turns: u32,
    /// Bytes received and sent.
    pub bytes: u32,
    /// What the machine counts as [work](crate::Machine::work).
    pub work: u32,
}

impl Default for Budget {
    /// 64 turns, 512 KiB or 64 units of work: 0.1 to 0.2 ms of one core.
    fn default() -> Self {
        Self { turns: 64, bytes: 512 * 1024, work: 64 }
    }
}

/// How driving a machine came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended<R> {
    /// The machine ended, for this reason.
    Reason(R),
    /// The connection was aborted and reset before the machine had ended
    /// ([`Conn::abort`](crate::admission::Conn::abort)).
    Aborted,
}

impl<R> Ended<R> {
    /// The same end, with its reason converted.
    pub fn map<Q>(self, convert: impl FnOnce(R) -> Q) -> Ended<Q> {
        match self {
            Self::Reason(reason) => Ended::Reason(convert(reason)),
            Self::Aborted => Ended::Aborted,
        }
    }
}

impl<R: Reason> fmt::Display for Ended<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reason(reason) => fmt::Display::fmt(reason, f),
            Self::Aborted => f.write_str("aborted"),
        }
    }
}

impl<R: Reason> core::error::Error for Ended<R> {}

impl<R: Reason> Reason for Ended<R> {
    fn label(&self) -> &'static str {
        match self {
            Self::Reason(reason) => reason.label(),
            Self::Aborted => "aborted",
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Reason(reason) => reason.fault(),
            Self::Aborted => Fault::Requested,
        }
    }
}

impl Session {
    pub(crate) fn new() -> Self {
        Self {
            left: Budget::default(),
            work: 0,
            admitted: None,
            applied: Command::None,
            overdue: None,
            now: Instant::EPOCH,
            polling: false,
            ended: None,
        }
    }

    pub(crate) fn set_admitted(&mut self, admitted: Admitted) {
        self.admitted = Some(admitted);
    }

    /// The connection's line in its table.
    #[cfg(feature = "std")]
    pub(crate) fn admitted(&self) -> Option<&Admitted> {
        self.admitted.as_ref()
    }

    /// Takes turns until `wanted` returns something, which it is asked at the start and after every
    /// turn, or until nothing moves any more. If the task `was_woken` since the last poll, it has
    /// the whole budget.
    pub(crate) fn poll<D: Driven, T>(
        &mut self,
        driven: &mut D,
        now: Instant,
        cx: &mut Context<'_>,
        was_woken: bool,
        wanted: impl FnMut(&mut D, Instant) -> Option<T>,
    ) -> Result<T, Next<D::Reason>> {
        if was_woken {
            self.left = Budget::default();
        }
        self.polling = true;
        // An earlier time counts as equal.
        self.now = self.clamp(now);
        let polled = self.take_turns(driven, cx, wanted);
        self.polling = false;
        polled
    }

    fn take_turns<D: Driven, T>(
        &mut self,
        driven: &mut D,
        cx: &mut Context<'_>,
        mut wanted: impl FnMut(&mut D, Instant) -> Option<T>,
    ) -> Result<T, Next<D::Reason>> {
        let now = self.now;
        // The sockets were asked again, since a deadline has passed, and no byte has moved since.
        let mut rechecked = false;
        loop {
            if self.apply_command(driven) {
                return Err(Next::Done(Ended::Aborted));
            }
            if let Some(value) = wanted(driven, now) {
                return Ok(value);
            }
            match driven.turn(now, cx) {
                Turn::Done => {
                    // Shared state may have brought both the end and what is wanted.
                    let last = wanted(driven, now);
                    return last.ok_or_else(|| Next::Done(Ended::Reason(self.end(driven))));
                }
                Turn::Moved { read, written } => {
                    rechecked &= read + written == 0;
                    if !self.spend(read, written, driven.work()) {
                        return Err(self.yield_now(driven, cx));
                    }
                    if !driven.is_quiescent() {
                        continue;
                    }
                }
                Turn::Blocked => {}
            }
            driven.release(now);
            let deadline = driven.deadline();
            if deadline.is_none_or(|deadline| deadline > now) {
                self.overdue = None;
                if !self.park(cx, || driven.status()) {
                    let until = deadline.filter(|deadline| *deadline < Instant::NEVER);
                    let (read, write) = driven.waits();
                    return Err(Next::Sleep { until, read, write });
                }
            } else if mem::replace(&mut rechecked, true) {
                rechecked = false;
                driven.handle_timeout(now);
                if !self.spend(0, 0, driven.work()) {
                    return Err(self.yield_now(driven, cx));
                }
            } else {
                driven.recheck();
            }
        }
    }

    /// Applies a new command from the table. Returns true if it has ended the connection.
    fn apply_command<D: Driven>(&mut self, driven: &mut D) -> bool {
        if self.ended == Some(How::Aborted) {
            return true;
        }
        let Some(admitted) = &self.admitted else { return false };
        let command = admitted.command();
        if mem::replace(&mut self.applied, command) == command {
            return false;
        }
        match command {
            Command::None => {}
            Command::ShutDown => {
                driven.shut_down(self.now);
                // What the sockets were found to hold before is out of date.
                driven.recheck();
            }
            Command::Abort if driven.has_ended() => {}
            Command::Abort => {
                driven.reset();
                self.ended = Some(How::Aborted);
                if let Some(admitted) = self.admitted.take() {
                    admitted.end(&Ended::<D::Reason>::Aborted, self.now);
                }
                return true;
            }
        }
        false
    }

    /// Counts the bytes that moved, and the work: `work` is the machine's total so far. Returns
    /// false once the budget is used up.
    fn spend(&mut self, read: usize, written: usize, work: u64) -> bool {
        if let Some(admitted) = &self.admitted {
            admitted.count(read, written, self.now);
        }
        let new = work.saturating_sub(self.work);
        self.work = work;
        self.left.spend(read + written, new)
    }

    /// The budget is used up: others have their turn, then this one again. A deadline is handled
    /// although input still comes if that has hidden it for [`MAX_OVERDUE`].
    fn yield_now<D: Driven>(&mut self, driven: &mut D, cx: &mut Context<'_>) -> Next<D::Reason> {
        if driven.deadline().is_none_or(|deadline| deadline > self.now) {
            self.overdue = None;
        } else if self.now.since(*self.overdue.get_or_insert(self.now)) > MAX_OVERDUE {
            self.overdue = None;
            driven.handle_timeout(self.now);
        }
        self.park(cx, || driven.status());
        Next::Again
    }

    /// Publishes the status, and leaves the waker for commands. Returns true if there is one.
    fn park(&self, cx: &mut Context<'_>, status: impl FnOnce() -> Status) -> bool {
        self.admitted.as_ref().is_some_and(|admitted| admitted.park(status(), cx, self.applied))
    }

    /// The machine has ended. If the peer left, by a FIN or a reset, and no byte was received or
    /// sent (except for a PROXY header), the end counts as a health check.
    fn end<D: Driven>(&mut self, driven: &D) -> D::Reason {
        let reason = driven.reason();
        self.ended = Some(How::Done);
        if let Some(admitted) = self.admitted.take() {
            let may_be_check = match reason.fault() {
                // Without a byte, a peer can break a protocol only by leaving.
                Fault::None | Fault::Lost | Fault::Peer => driven.peer_has_left(),
                Fault::Limit | Fault::Time | Fault::Requested | Fault::Bug => false,
            };
            if may_be_check && admitted.is_untouched() {
                admitted.end(&Outside::HealthCheck, self.now);
            } else {
                admitted.end(&reason, self.now);
            }
        }
        reason
    }

    /// The time, of which an earlier one counts as equal to the last.
    pub(crate) fn clamp(&self, now: Instant) -> Instant {
        self.now.max(now)
    }

    /// For a driver that is dropped: resets the connection unless it has ended or all was sent. If
    /// a panic has ended the last poll, the machine may have been left half-way and is not asked.
    pub(crate) fn dropped(&mut self, driven: &mut impl Driven) {
        if self.ended.is_some() {
            return;
        }
        if self.polling
            && let Some(admitted) = self.admitted.take()
        {
            admitted.end(&Outside::Panicked, self.now);
        }
        if self.polling || driven.must_reset() {
            driven.reset();
        }
    }
}

impl Budget {
    /// False once it is used up.
    fn spend(&mut self, bytes: usize, work: u64) -> bool {
        self.turns = self.turns.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.work = self.work.saturating_sub(u32::try_from(work).unwrap_or(u32::MAX));
        self.turns > 0 && self.bytes > 0 && self.work > 0
    }
}

/// An end that is not the machine's.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Outside {
    /// The peer has checked that a server listens: load balancers and probes do so all the time.
    #[error("health check: the peer left, and no byte was received or sent")]
    HealthCheck,
    /// A bug, in a machine or in what it calls.
    #[error("a panic in its machine")]
    Panicked,
}

impl Reason for Outside {
    fn label(&self) -> &'static str {
        match self {
            Self::HealthCheck => "health_check",
            Self::Panicked => "panicked",
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::HealthCheck => Fault::None,
            Self::Panicked => Fault::Bug,
        }
    }
}

/// How long input that does not end may hide a deadline.
const MAX_OVERDUE: Duration = Duration::from_millis(100);
