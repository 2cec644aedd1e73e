//! A machine on a socket, as a future.

use core::{
    convert::Infallible,
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
};

use super::{Clock, Line, Sink, Source, Turn, timer::Timer, turn};
use crate::{
    Fault, Instant, Machine, Outbound, Reason,
    admission::{Admitted, Asked},
};

/// Drives a machine on a socket until the machine has ended.
///
/// As a [`Future`] it answers why the machine ended. [`poll_until`](Self::poll_until) drives until
/// a closure has found what it wants, and can be called again: a client that is used inline, or an
/// interface of events, is that call.
///
/// Dropped before its end, it closes the socket: by a reset if output was owed, so that the peer
/// does not take it for all.
///
/// ```no_run
/// # use wirestate_core::{drive::{Clock, Drive, Sink, Source}, echo, Machine};
/// # async fn example<S: Source + Sink + Unpin, C: Clock + Unpin>(socket: S, clock: C) {
/// let server = echo::Server::new(echo::Config::default());
/// let machine = server.machine(clock.now());
/// println!("{}", Drive::new(machine, socket, clock).await);
/// # }
/// ```
#[derive(Debug)]
pub struct Drive<M: Machine, S: Sink, C: Clock> {
    machine: M,
    socket: S,
    timer: Timer<C>,
    line: Line,
    budget: Budget,
    /// What is left of the budget until it lets others have their turn.
    left: Budget,
    seat: Option<Seat>,
    /// A poll began and has not returned: a panic ended it, wherever that is caught.
    polling: bool,
    /// Nothing is owed any more: the machine has ended, or was left where it stood by a reset.
    over: Option<Over>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Ended,
    Aborted,
}

/// The connection's place in the table of connections.
#[derive(Debug)]
struct Seat {
    admitted: Admitted,
    /// What was asked there and is obeyed.
    asked: Asked,
}

/// What one poll of a [`Drive`] may do before it lets others have their turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Turns; each is at most one read and one write.
    pub turns: u32,
    /// Bytes received and sent. The turn that goes beyond it is the last.
    pub bytes: u32,
}

impl Default for Budget {
    /// 64 turns or 512 KiB: some 0.2 ms of one core.
    fn default() -> Self {
        Self { turns: 64, bytes: 512 * 1024 }
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
            Self::Aborted => Fault::Asked,
        }
    }
}

impl<M: Machine, S: Source + Sink, C: Clock> Drive<M, S, C> {
    /// Joins a machine, a socket and a clock.
    pub fn new(machine: M, socket: S, clock: C) -> Self {
        Self {
            machine,
            socket,
            timer: Timer::new(clock),
            line: Line::default(),
            budget: Budget::default(),
            left: Budget::default(),
            seat: None,
            polling: false,
            over: None,
        }
    }

    /// Keeps the connection's line in its table up to date, and does what is asked there.
    pub fn admitted(mut self, admitted: Admitted) -> Self {
        self.seat = Some(Seat { admitted, asked: Asked::Nothing });
        self
    }

    /// What one poll may do.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self.left = budget;
        self
    }

    /// The machine.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// Drives until `wanted` answers something, which it is asked at the start and after every
    /// turn. It may change the machine: queue a request, take a reply.
    ///
    /// # Errors
    /// The machine ended before, or was aborted.
    pub fn poll_until<T>(
        &mut self,
        cx: &mut Context<'_>,
        wanted: impl FnMut(&mut M, Instant) -> Option<T>,
    ) -> Poll<Result<T, Ended<M::Reason>>> {
        self.polling = true;
        let polled = self.take_turns(cx, wanted);
        self.polling = false;
        polled
    }

    fn take_turns<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut wanted: impl FnMut(&mut M, Instant) -> Option<T>,
    ) -> Poll<Result<T, Ended<M::Reason>>> {
        let mut now = self.timer.refresh();
        self.line.unblock();
        loop {
            if self.obey(now) {
                return Poll::Ready(Err(Ended::Aborted));
            }
            if let Some(value) = wanted(&mut self.machine, now) {
                return Poll::Ready(Ok(value));
            }
            let (read, written) =
                match turn(&mut self.machine, &mut self.socket, &mut self.line, now, cx) {
                    Turn::Moved { read, written } => (read, written),
                    Turn::Blocked => {
                        if let Some(deadline) = self.machine.poll_timeout()
                            && let Poll::Ready(time) = self.timer.poll(cx, deadline)
                        {
                            now = time;
                            self.expire(now);
                            (0, 0)
                        } else if self.park(cx) {
                            self.left = self.budget;
                            return Poll::Pending;
                        } else {
                            continue;
                        }
                    }
                    Turn::Done => {
                        // What is shared may have brought both the end and what is wanted.
                        let last = wanted(&mut self.machine, now);
                        return Poll::Ready(last.map_or_else(|| Err(self.end(now)), Ok));
                    }
                };
            if let Some(seat) = &self.seat {
                seat.admitted.count(read, written, now);
            }
            if !self.left.spend(read + written) {
                if self.timer.is_overdue(self.machine.poll_timeout()) {
                    self.expire(now);
                }
                self.park(cx);
                cx.waker().wake_by_ref();
                self.left = self.budget;
                return Poll::Pending;
            }
        }
    }

    /// [`poll_until`](Self::poll_until) as a future.
    ///
    /// # Errors
    /// The machine ended before, or was aborted.
    pub async fn until<T>(
        &mut self,
        mut wanted: impl FnMut(&mut M, Instant) -> Option<T>,
    ) -> Result<T, Ended<M::Reason>> {
        poll_fn(|cx| self.poll_until(cx, &mut wanted)).await
    }

    /// Does what was asked by way of the table; true if that was the connection's end.
    fn obey(&mut self, now: Instant) -> bool {
        if let Some(seat) = &mut self.seat
            && seat.admitted.asked() != seat.asked
        {
            seat.asked = seat.admitted.asked();
            match seat.asked {
                Asked::Nothing => {}
                Asked::ShutDown => self.machine.shut_down(now),
                Asked::Abort if self.machine.interest().is_done() => {}
                Asked::Abort => {
                    // What is owed will not come: a FIN would say that it had.
                    self.socket.reset();
                    self.over = Some(Over::Aborted);
                    self.leave(&Ended::<M::Reason>::Aborted, now);
                }
            }
        }
        self.over == Some(Over::Aborted)
    }

    fn expire(&mut self, now: Instant) {
        self.machine.handle_timeout(now);
        debug_assert!(
            self.machine.poll_timeout().is_none_or(|deadline| deadline > now),
            "a deadline that was handled must lie ahead"
        );
    }

    /// True where the driver can sleep.
    fn park(&self, cx: &mut Context<'_>) -> bool {
        let Some(seat) = &self.seat else { return true };
        !seat.admitted.park(self.machine.status(), cx, seat.asked)
    }

    fn end(&mut self, now: Instant) -> Ended<M::Reason> {
        self.over = Some(Over::Ended);
        let reason = self.machine.reason().expect("the contract: a machine that ended knows why");
        self.leave(&reason, now);
        Ended::Reason(reason)
    }

    fn leave(&mut self, reason: &impl Reason, now: Instant) {
        if let Some(seat) = self.seat.take() {
            seat.admitted.end(reason, now);
        }
    }
}

impl<M, S, C> Future for Drive<M, S, C>
where
    M: Machine + Unpin,
    S: Source + Sink + Unpin,
    C: Clock + Unpin,
{
    type Output = Ended<M::Reason>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let never = |_: &mut M, _| None::<Infallible>;
        self.get_mut().poll_until(cx, never).map(|ended| match ended {
            Ok(never) => match never {},
            Err(ended) => ended,
        })
    }
}

impl<M: Machine, S: Sink, C: Clock> Drop for Drive<M, S, C> {
    fn drop(&mut self) {
        if self.over.is_some() {
            return;
        }
        // A panic may have left the machine half-way: it is not asked any more.
        if self.polling {
            if let Some(seat) = self.seat.take() {
                seat.admitted.end(&Panicked, self.timer.now());
            }
            self.socket.reset();
        } else if matches!(self.machine.interest().write, Outbound::Flush | Outbound::Reset) {
            self.socket.reset();
        }
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

impl Budget {
    /// False once it is used up.
    fn spend(&mut self, bytes: usize) -> bool {
        self.turns = self.turns.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.turns > 0 && self.bytes > 0
    }
}
