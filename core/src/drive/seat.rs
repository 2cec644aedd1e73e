//! A machine on a socket, for an event loop of one's own.

use core::{convert::Infallible, task::Context, time::Duration};

use super::{
    Budget, Ended, Readiness, Sink, Source, Turn,
    session::{Driven, Paused, Session},
    turn::{Direct, turn_without_release},
};
use crate::{Event, Instant, Machine, Outbound, Status, admission::Admitted};

/// A machine on its socket, driven without a clock: for an event loop of your own.
///
/// The loop polls it when its socket may be ready, when its waker was woken, and when its deadline
/// has passed, each time with the time. It answers what it waits for: [`Next`]. All that a driver
/// has to do is done here: the [`Budget`], the second look at the socket before a deadline is
/// believed, deadlines that pass during a flood of input, [`Event::Release`], the flush timeout of a
/// sink that buffers, and the reset when it is dropped before its end with output pending.
///
/// ```
/// # use core::task::{Context, Poll, Waker};
/// # use wirestate_core::drive::{IoError, Sink, Source};
/// use wirestate_core::{Instant, drive::{Next, Seat}, echo};
///
/// # struct Socket(&'static [u8], Vec<u8>);
/// # impl Source for Socket {
/// #     fn poll_read(&mut self, _: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize, IoError>> {
/// #         let n = self.0.len();
/// #         if n == 0 { return Poll::Pending }
/// #         buf[..n].copy_from_slice(std::mem::take(&mut self.0));
/// #         Poll::Ready(Ok(n))
/// #     }
/// # }
/// # impl Sink for Socket {
/// #     fn poll_write(&mut self, _: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<Result<usize, IoError>> {
/// #         self.1.extend_from_slice(bufs[0]);
/// #         Poll::Ready(Ok(bufs[0].len()))
/// #     }
/// #     fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), IoError>> {
/// #         Poll::Ready(Ok(()))
/// #     }
/// #     fn reset(&mut self) {}
/// # }
/// # let socket = Socket(b"hello", Vec::new());
/// let now = Instant::EPOCH;
/// let mut seat = Seat::new(echo::Server::new(echo::Config::default()).machine(now), socket);
/// match seat.poll(now, &mut Context::from_waker(Waker::noop())) {
///     Next::Again => { /* poll it again, after the others */ }
///     Next::Sleep { until, read, write } => {
///         // Wait for the socket, unless both are false, and for the time.
///         assert!(read && !write && until.is_some());
///     }
///     Next::Done(ended) => println!("{ended}"),
/// }
/// assert_eq!(seat.socket().1, b"hello");
/// ```
#[derive(Debug)]
pub struct Seat<M: Machine, S: Source + Sink> {
    machine: M,
    socket: S,
    readiness: Readiness,
    session: Session,
    /// What the loop says has become ready; `None`: it does not say.
    known: Option<(bool, bool)>,
}

/// What a [`Seat`] waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next<R> {
    /// Its budget is used up: poll it again after the others, and do not sleep before.
    Again,
    /// Nothing can move before one of these happens, or its waker is woken.
    ///
    /// With neither `read` nor `write`, remove its descriptor from what the loop waits for: `poll(2)`
    /// reports `POLLHUP` and `POLLERR` without being asked, again and again.
    Sleep {
        /// This time has come.
        until: Option<Instant>,
        /// The socket has become readable: a read was tried, and would have blocked.
        read: bool,
        /// The socket has become writable: a write, a flush or a FIN was tried, and would have
        /// blocked.
        write: bool,
    },
    /// It has ended: drop it.
    Done(Ended<R>),
}

impl<M: Machine, S: Source + Sink> Seat<M, S> {
    /// Joins a machine and a socket.
    pub fn new(machine: M, socket: S) -> Self {
        let (readiness, session) = (Readiness::default(), Session::new());
        Self { machine, socket, readiness, session, known: None }
    }

    /// Keeps the connection's line in its table up to date, and applies commands from there. Its
    /// waker is woken by them.
    pub fn admitted(mut self, admitted: Admitted) -> Self {
        self.session.set_admitted(admitted);
        self
    }

    /// Limits what one poll may do.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.session.set_budget(budget);
        self
    }

    /// Limits how long the sink may hold output without progress ([`Sink::held`]); then the
    /// connection is reset. `None`: no limit. Default: 10 s.
    pub fn flush_timeout(mut self, flush_timeout: Option<Duration>) -> Self {
        self.readiness = self.readiness.with_flush_timeout(flush_timeout);
        self
    }

    /// The machine.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// The machine, for calls beyond [`Machine`] that change it. Poll the seat afterwards.
    pub fn machine_mut(&mut self) -> &mut M {
        &mut self.machine
    }

    /// The socket.
    pub fn socket(&self) -> &S {
        &self.socket
    }

    /// Says what has become ready, for a loop that knows: the next poll asks the socket for nothing
    /// else. `POLLHUP` and `POLLERR` count as both. Without this call, a poll asks for all that the
    /// machine wants.
    pub fn ready(&mut self, read: bool, write: bool) {
        let (reads, writes) = self.known.unwrap_or_default();
        self.known = Some((reads || read, writes || write));
    }

    /// Takes turns until nothing moves any more or the budget is used up.
    pub fn poll(&mut self, now: Instant, cx: &mut Context<'_>) -> Next<M::Reason> {
        match self.poll_until(now, cx, |_, _| None::<Infallible>) {
            Ok(never) => match never {},
            Err(next) => next,
        }
    }

    /// As [`poll`](Self::poll), until `wanted` returns something, which it is asked at the start and
    /// after every turn. It may change the machine: queue a request, take a reply.
    ///
    /// # Errors
    /// There is nothing yet: what it waits for.
    pub fn poll_until<T>(
        &mut self,
        now: Instant,
        cx: &mut Context<'_>,
        mut wanted: impl FnMut(&mut M, Instant) -> Option<T>,
    ) -> Result<T, Next<M::Reason>> {
        self.take_turns(now, cx, &mut wanted).map_err(|paused| match paused {
            Paused::Again => Next::Again,
            Paused::Sleep(until) => {
                let (read, write) = self.readiness.waits(self.machine.interest());
                Next::Sleep { until, read, write }
            }
            Paused::Done(ended) => Next::Done(ended),
        })
    }

    pub(super) fn take_turns<T>(
        &mut self,
        now: Instant,
        cx: &mut Context<'_>,
        wanted: &mut impl FnMut(&mut M, Instant) -> Option<T>,
    ) -> Result<T, Paused<M::Reason>> {
        let Self { machine, socket, readiness, session, known } = self;
        let (read, write) = known.take().unwrap_or((true, true));
        readiness.ready(read, write);
        let wanted = |seated: &mut Seated<'_, M, S>, now| wanted(seated.machine, now);
        session.poll(&mut Seated { machine, socket, readiness }, now, cx, wanted)
    }

    /// Asks the machine for a graceful end. Poll the seat afterwards.
    pub fn shut_down(&mut self, now: Instant) {
        self.machine.handle(now, Event::ShutDown);
        self.readiness.recheck(&mut self.socket);
    }
}

impl<M: Machine, S: Source + Sink> Drop for Seat<M, S> {
    fn drop(&mut self) {
        let Self { machine, socket, readiness, session, .. } = self;
        session.dropped(&mut Seated { machine, socket, readiness });
    }
}

/// A machine on its socket.
#[derive(Debug)]
pub(crate) struct Seated<'a, M, S> {
    pub(crate) machine: &'a mut M,
    pub(crate) socket: &'a mut S,
    pub(crate) readiness: &'a mut Readiness,
}

impl<M: Machine, S: Source + Sink> Driven for Seated<'_, M, S> {
    type Reason = M::Reason;

    fn turn(&mut self, now: Instant, cx: &mut Context<'_>) -> Turn {
        let mut direct = Direct { machine: &mut *self.machine, socket: &mut *self.socket };
        turn_without_release(&mut direct, self.readiness, now, cx)
    }

    fn deadline(&self) -> Option<Instant> {
        let flush = self.readiness.flush_deadline();
        self.machine.poll_timeout().into_iter().chain(flush).min()
    }

    fn handle_timeout(&mut self, now: Instant) {
        let Self { machine, socket, readiness } = self;
        if readiness.flush_deadline().is_some_and(|deadline| deadline <= now) {
            readiness.flush_timed_out(machine, now);
        }
        machine.handle(now, Event::Timeout { unacknowledged: socket.unacknowledged() });
        debug_assert!(
            machine.poll_timeout().is_none_or(|deadline| deadline > now),
            "after a timeout, the deadline must lie ahead"
        );
    }

    fn shut_down(&mut self, now: Instant) {
        self.machine.handle(now, Event::ShutDown);
    }

    fn recheck(&mut self) {
        self.readiness.recheck(self.socket);
    }

    fn release(&mut self, now: Instant) {
        if self.readiness.is_read_blocked() {
            self.machine.handle(now, Event::Release);
        }
    }

    fn has_ended(&self) -> bool {
        self.machine.interest().is_done()
    }

    fn reset(&mut self) {
        self.readiness.reset(self.socket);
    }

    fn must_reset(&self) -> bool {
        matches!(self.machine.interest().write, Outbound::Flush | Outbound::Reset)
            || self.readiness.has_failed()
            || self.socket.held() > 0
    }

    fn work(&self) -> u64 {
        self.machine.work()
    }

    fn status(&self) -> Status {
        self.machine.status()
    }

    fn reason(&self) -> M::Reason {
        self.machine.reason().expect("the contract: a machine that has ended knows why")
    }

    fn peer_has_left(&self) -> bool {
        self.readiness.peer_has_left()
    }
}
