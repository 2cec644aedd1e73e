//! What a driver keeps of a connection besides its machine and its sockets.

use core::task::{Context, Poll};

use super::{Budget, Clock, timer::Timer};
use crate::{
    Fault, Instant, Reason, Status,
    admission::{Admitted, Asked},
};

/// A connection's time, what is left of its budget, and its place in the table of connections: the
/// same for every driver, whether it has one socket ([`Drive`](super::Drive)) or two (a proxy's).
#[derive(Debug)]
pub(crate) struct Session<C> {
    timer: Timer<C>,
    budget: Budget,
    /// What is left of the budget until it lets others have their turn.
    left: Budget,
    /// The machine's [`work`](crate::Machine::work) as of the last turn.
    work: u64,
    admitted: Option<Admitted>,
    /// What was asked in the table and is obeyed.
    asked: Asked,
    /// The sockets were asked once more in this poll, since a deadline has passed, and had nothing.
    looked: bool,
    /// A poll began and has not returned: a panic ended it, wherever that is caught.
    polling: bool,
    over: Option<Over>,
}

/// Why nothing is owed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// All was done.
    Ended,
    /// It was left where it stood, by a reset.
    Aborted,
}

/// What comes when nothing moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// The deadline has passed, at this time: the sockets are to be asked once more
    /// ([`Readiness::recheck`](super::Readiness::recheck)) before that is believed.
    Recheck(Instant),
    /// The deadline has passed, and nothing has come: this is the time.
    Expired(Instant),
    /// Something was asked in the table meanwhile.
    Asked,
    /// Sleep.
    Sleep,
}

impl<C: Clock> Session<C> {
    pub(crate) fn new(clock: C) -> Self {
        Self {
            timer: Timer::new(clock),
            budget: Budget::default(),
            left: Budget::default(),
            work: 0,
            admitted: None,
            asked: Asked::Nothing,
            looked: false,
            polling: false,
            over: None,
        }
    }

    pub(crate) fn set_admitted(&mut self, admitted: Admitted) {
        self.admitted = Some(admitted);
    }

    pub(crate) fn set_budget(&mut self, budget: Budget) {
        self.budget = budget;
        self.left = budget;
    }

    /// A poll begins: the time. It ends by [`polled`](Self::polled).
    pub(crate) fn begin_poll(&mut self) -> Instant {
        self.polling = true;
        self.looked = false;
        self.timer.refresh()
    }

    /// The poll has come to its end, and not to a panic.
    pub(crate) fn polled(&mut self) {
        self.polling = false;
    }

    /// What was asked in the table and is not obeyed yet.
    pub(crate) fn news(&mut self) -> Asked {
        let Some(admitted) = &self.admitted else { return Asked::Nothing };
        let asked = admitted.asked();
        if asked == self.asked {
            return Asked::Nothing;
        }
        self.asked = asked;
        asked
    }

    /// Counts the bytes that moved, and the work: `work` is the machine's total so far. Returns
    /// false once the budget is used up: the caller then yields to other tasks.
    pub(crate) fn spend(&mut self, read: usize, written: usize, work: u64, now: Instant) -> bool {
        if let Some(admitted) = &self.admitted {
            admitted.count(read, written, now);
        }
        if read + written > 0 {
            self.looked = false;
        }
        let new = work.saturating_sub(self.work);
        self.work = work;
        self.left.spend(read + written, new)
    }

    /// Whether `deadline` is to be acted on although input still comes.
    pub(crate) fn is_overdue(&mut self, deadline: Option<Instant>) -> bool {
        self.timer.is_overdue(deadline)
    }

    /// The budget is used up: others have their turn, then this one again.
    pub(crate) fn yield_now(&mut self, cx: &mut Context<'_>, status: impl FnOnce() -> Status) {
        self.park(cx, status);
        self.left = self.budget;
        self.timer.yield_now(cx);
    }

    /// Nothing moves until something wakes `cx`, or the deadline passes.
    pub(crate) fn rest(
        &mut self,
        cx: &mut Context<'_>,
        deadline: Option<Instant>,
        status: impl FnOnce() -> Status,
    ) -> Rest {
        if let Some(deadline) = deadline
            && let Poll::Ready(now) = self.timer.poll(cx, deadline)
        {
            self.looked = !self.looked;
            return if self.looked { Rest::Recheck(now) } else { Rest::Expired(now) };
        }
        if !self.park(cx, status) {
            return Rest::Asked;
        }
        self.left = self.budget;
        Rest::Sleep
    }

    /// True where the driver can sleep.
    fn park(&self, cx: &mut Context<'_>, status: impl FnOnce() -> Status) -> bool {
        let Some(admitted) = &self.admitted else { return true };
        !admitted.park(status(), cx, self.asked)
    }

    /// Ends the session for `reason`. If the peer `left`, by a FIN or a reset, and no byte was
    /// received or sent (except for a PROXY header), the end counts as a health check.
    pub(crate) fn end(&mut self, over: Over, reason: &impl Reason, left: bool, now: Instant) {
        self.over = Some(over);
        let Some(admitted) = self.admitted.take() else { return };
        let is_check = match reason.fault() {
            // Without a byte, a peer can break a protocol only by leaving.
            Fault::None | Fault::Lost | Fault::Peer => left && admitted.is_untouched(),
            Fault::Limit | Fault::Time | Fault::Asked | Fault::Bug => false,
        };
        if is_check {
            admitted.end(&HealthCheck, now);
        } else {
            admitted.end(reason, now);
        }
    }
}

impl<C> Session<C> {
    /// The connection's line in its table.
    #[cfg(feature = "std")]
    pub(crate) fn admitted(&self) -> Option<&Admitted> {
        self.admitted.as_ref()
    }

    pub(crate) fn over(&self) -> Option<Over> {
        self.over
    }

    /// For a driver that is dropped: true if a panic has ended its last poll, so that the machine
    /// may have been left half-way and is not to be asked any more.
    pub(crate) fn panicked(&mut self) -> bool {
        if self.polling
            && let Some(admitted) = self.admitted.take()
        {
            let now = self.timer.now();
            admitted.end(&Panicked, now);
        }
        self.polling
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

/// The peer has checked that a server listens: load balancers and probes do so all the time.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("health check: the peer left, and no byte was received or sent")]
struct HealthCheck;

impl Reason for HealthCheck {
    fn label(&self) -> &'static str {
        "health_check"
    }

    fn fault(&self) -> Fault {
        Fault::None
    }
}

/// A bug, in a machine or in what it calls.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a panic in its machine")]
struct Panicked;

impl Reason for Panicked {
    fn label(&self) -> &'static str {
        "panicked"
    }

    fn fault(&self) -> Fault {
        Fault::Bug
    }
}
