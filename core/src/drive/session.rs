//! The driver loop, for a machine on its socket and for a proxy's pair of sockets.

use core::{fmt, mem, task::Context, time::Duration};

use tracing::trace;

use super::turn::Turn;
use crate::{
    Fault, Instant, Reason, Status,
    admission::{Admitted, Command},
    machine::impl_reason,
};

/// A connection that the loop drives until its machine has ended.
pub(crate) trait Driven {
    type Reason: Reason;

    /// Takes one turn. `admitted` is its entry in the table of connections.
    fn turn(&mut self, admitted: Option<&Admitted>, now: Instant, cx: &mut Context<'_>) -> Turn;

    /// After [`Turn::Moved`]: whether another turn would find nothing to do.
    fn is_quiescent(&self) -> bool {
        false
    }

    /// The earliest deadline.
    fn deadline(&self) -> Option<Instant>;

    /// Whether it waits until its sockets are readable, and until they are writable.
    fn waits(&self) -> (bool, bool) {
        (true, true)
    }

    /// Handles a deadline that has passed.
    fn handle_timeout(&mut self, now: Instant);

    /// Requests a graceful end.
    fn shut_down(&mut self, now: Instant);

    /// Clears all readiness, so that the next turn asks the kernel.
    fn recheck(&mut self);

    /// Returns empty buffers.
    fn release(&mut self, now: Instant);

    /// Whether its machine has ended and the sink holds no output.
    fn has_ended(&self) -> bool;

    /// Resets the connection, whatever its machine wants.
    fn reset(&mut self);

    /// Whether the connection must end by a reset: output is pending, or it has failed.
    fn must_reset(&self) -> bool;

    /// The machine's [`work`](crate::Machine::work).
    fn work(&self) -> u64;

    fn status(&self) -> Status;

    /// Why it ended, once a turn was [`Turn::Done`].
    fn reason(&self) -> Self::Reason;

    /// Whether the peer has sent a FIN or a reset.
    fn peer_has_left(&self) -> bool;
}

/// The state of a driven connection besides its machine and sockets: the budget, and its entry in
/// the table of connections.
#[derive(Debug)]
pub(crate) struct Session {
    /// The unused part of the budget, after which the connection yields to others.
    remaining: Budget,
    /// The machine's [`work`](crate::Machine::work) as of the last turn.
    work: u64,
    admitted: Option<Admitted>,
    /// The command from the table that was applied last.
    applied: Command,
    /// Since when a deadline is overdue although input still arrives.
    overdue: Option<Instant>,
    /// The time of the last poll.
    now: Instant,
    /// Whether a poll is running. If it still is when the driver is dropped, the poll has panicked.
    polling: bool,
    ended: Option<EndedBy>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndedBy {
    Machine,
    /// A command of the table.
    Abort,
    /// Another driver, which has taken the socket over.
    HandOver,
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

/// What a [`Seat`](super::Seat) waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next<R> {
    /// Nothing: its budget is used up. Poll it again after the other connections, without sleeping.
    Again,
    /// One of these. Poll it again once one happens, or its waker is woken.
    ///
    /// If both `read` and `write` are false, remove its descriptor from the set that the loop waits
    /// for: `poll(2)` reports `POLLHUP` and `POLLERR` even if no event is requested.
    Sleep {
        /// This deadline passes. `None`: there is no deadline.
        until: Option<Instant>,
        /// The socket becomes readable: a read was tried and would have blocked.
        read: bool,
        /// The socket becomes writable: a write, a flush or a FIN was tried and would have blocked.
        write: bool,
    },
    /// Nothing: the connection has ended. Drop the seat.
    Done(Ended<R>),
}

/// The end of a driven machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended<R> {
    /// The machine ended, for this reason.
    Reason(R),
    /// The connection was aborted and reset before the machine had ended
    /// ([`ConnectionEntry::abort`](crate::admission::ConnectionEntry::abort)).
    Aborted,
}

impl<R> Ended<R> {
    /// Converts the reason.
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

impl_reason!(<R> Ended<R> {
    Self::Reason(reason) => (R: reason),
    Self::Aborted => ("aborted", Fault::Requested),
});

impl Session {
    pub(crate) fn new() -> Self {
        Self {
            remaining: Budget::default(),
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

    /// Leaves the connection to another driver, and returns its entry in the table.
    pub(crate) fn hand_over(&mut self) -> Option<Admitted> {
        self.ended = Some(EndedBy::HandOver);
        self.admitted.take()
    }

    /// The connection's entry in its table.
    #[cfg(feature = "std")]
    pub(crate) fn admitted(&self) -> Option<&Admitted> {
        self.admitted.as_ref()
    }

    /// Takes turns until `wanted` returns something, or nothing moves any more. `wanted` is called
    /// at the start and after every turn. If the task `was_woken` since the last poll, the budget
    /// starts anew.
    pub(crate) fn poll<D: Driven, T>(
        &mut self,
        driven: &mut D,
        now: Instant,
        cx: &mut Context<'_>,
        was_woken: bool,
        wanted: impl FnMut(&mut D, Instant) -> Option<T>,
    ) -> Result<T, Next<D::Reason>> {
        if was_woken {
            self.remaining = Budget::default();
        }
        self.polling = true;
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
        // A deadline has passed, readiness was cleared, and no byte has moved since.
        let mut rechecked = false;
        loop {
            if self.apply_command(driven) {
                return Err(Next::Done(Ended::Aborted));
            }
            if let Some(value) = wanted(driven, now) {
                return Ok(value);
            }
            match driven.turn(self.admitted.as_ref(), now, cx) {
                Turn::Done => {
                    // One turn may have brought both the wanted value and the end.
                    let last = wanted(driven, now);
                    return last.ok_or_else(|| Next::Done(Ended::Reason(self.end(driven))));
                }
                Turn::Moved { read, written } => {
                    trace!(
                        id = self.id(),
                        server = self.server(),
                        received = read,
                        sent = written,
                        state = driven.status().state,
                        "turn"
                    );
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
                trace!(
                    id = self.id(),
                    server = self.server(),
                    state = driven.status().state,
                    "deadline"
                );
                driven.handle_timeout(now);
                if !self.spend(0, 0, driven.work()) {
                    return Err(self.yield_now(driven, cx));
                }
            } else {
                driven.recheck();
            }
        }
    }

    /// The connection's number in its table, for the log.
    fn id(&self) -> Option<u64> {
        self.admitted.as_ref().map(|admitted| admitted.id())
    }

    /// The server's name, for the log.
    fn server(&self) -> Option<&str> {
        self.admitted.as_ref().and_then(|admitted| admitted.table().name())
    }

    /// Applies a new command of the table. Returns true if it ended the connection.
    fn apply_command<D: Driven>(&mut self, driven: &mut D) -> bool {
        if self.ended == Some(EndedBy::Abort) {
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
                trace!(
                    id = self.id(),
                    server = self.server(),
                    state = driven.status().state,
                    "shutdown requested"
                );
                driven.shut_down(self.now);
                driven.recheck();
            }
            Command::Abort if driven.has_ended() => {}
            Command::Abort => {
                driven.reset();
                self.ended = Some(EndedBy::Abort);
                if let Some(admitted) = self.admitted.take() {
                    admitted.end(&Ended::<D::Reason>::Aborted, self.now);
                }
                return true;
            }
        }
        false
    }

    /// Counts bytes and work against the budget; `work` is the machine's total. Returns false once
    /// the budget is used up.
    fn spend(&mut self, read: usize, written: usize, work: u64) -> bool {
        if let Some(admitted) = &self.admitted {
            admitted.count(read, written, self.now);
        }
        let added = work.saturating_sub(self.work);
        self.work = work;
        self.remaining.spend(read + written, added)
    }

    /// Yields to other connections, because the budget is used up. Handles a deadline that has been
    /// overdue for [`MAX_OVERDUE`] although input still arrives.
    fn yield_now<D: Driven>(&mut self, driven: &mut D, cx: &mut Context<'_>) -> Next<D::Reason> {
        if driven.deadline().is_none_or(|deadline| deadline > self.now) {
            self.overdue = None;
        } else if self.now.since(*self.overdue.get_or_insert(self.now)) > MAX_OVERDUE {
            self.overdue = None;
            trace!(
                id = self.id(),
                server = self.server(),
                state = driven.status().state,
                "deadline, overdue"
            );
            driven.handle_timeout(self.now);
        }
        self.park(cx, || driven.status());
        Next::Again
    }

    /// Publishes the status, and registers the waker for commands. Returns true if a command is
    /// pending.
    fn park(&self, cx: &mut Context<'_>, status: impl FnOnce() -> Status) -> bool {
        self.admitted.as_ref().is_some_and(|admitted| admitted.publish(status(), cx, self.applied))
    }

    /// Records the end of the machine. If the peer sent a FIN or a reset and no byte was
    /// transferred (except for a PROXY header), the end counts as a health check.
    fn end<D: Driven>(&mut self, driven: &D) -> D::Reason {
        let reason = driven.reason();
        trace!(
            id = self.id(),
            server = self.server(),
            reason = reason.label(),
            "machine ended: {reason}"
        );
        self.ended = Some(EndedBy::Machine);
        if let Some(admitted) = self.admitted.take() {
            let may_be_health_check = match reason.fault() {
                // Without a byte, the only protocol error is the FIN itself.
                Fault::None | Fault::Lost | Fault::Peer => driven.peer_has_left(),
                Fault::Limit | Fault::Time | Fault::Requested | Fault::Bug => false,
            };
            if may_be_health_check && admitted.is_untouched() {
                admitted.end(&DriverReason::HealthCheck, self.now);
            } else {
                admitted.end(&reason, self.now);
            }
        }
        reason
    }

    /// `now`, or the time of the last poll if that is later.
    pub(crate) fn clamp(&self, now: Instant) -> Instant {
        self.now.max(now)
    }

    /// Handles the drop of the driver: resets the connection unless it has ended or all output was
    /// sent. After a panic it resets in any case, because the machine's state may be inconsistent.
    pub(crate) fn dropped(&mut self, driven: &mut impl Driven) {
        if self.ended.is_some() {
            return;
        }
        if self.polling
            && let Some(admitted) = self.admitted.take()
        {
            admitted.end(&DriverReason::Panicked, self.now);
        }
        if self.polling || driven.must_reset() {
            driven.reset();
        }
    }
}

impl Budget {
    /// Subtracts one turn, these bytes and this work. Returns false once the budget is used up.
    fn spend(&mut self, bytes: usize, work: u64) -> bool {
        self.turns = self.turns.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.work = self.work.saturating_sub(u32::try_from(work).unwrap_or(u32::MAX));
        self.turns > 0 && self.bytes > 0 && self.work > 0
    }
}

/// A reason that the driver gives instead of the machine.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum DriverReason {
    /// The peer connected and closed, as load balancers and probes do.
    #[error("health check: the peer closed the connection without a byte sent or received")]
    HealthCheck,
    /// A bug in the machine or in what it calls.
    #[error("its machine panicked")]
    Panicked,
}

impl_reason!(DriverReason {
    Self::HealthCheck => ("health_check", Fault::None),
    Self::Panicked => ("panicked", Fault::Bug),
});

/// How long a deadline may be overdue while input still arrives.
const MAX_OVERDUE: Duration = Duration::from_millis(100);
