//! A machine on a socket, for your own event loop.

use core::{convert::Infallible, task::Context, time::Duration};

use super::{
    Sink, Source,
    session::{Driven, Next, Session},
    turn::{Direct, Readiness, Turn, turn},
};
use crate::{Event, Instant, Machine, Outbound, Status, admission::Admitted};

/// A machine on its socket, driven without a clock, for your own event loop.
///
/// The loop passes the time and polls the seat when its socket may be ready, when its waker was
/// woken, and when its deadline has passed. [`Next`] says what the seat waits for. The seat does
/// all that a driver must do: it respects the [`Budget`](super::Budget), tries to read again
/// before it handles a deadline, handles deadlines during a flood of input, sends
/// [`Event::Release`], and limits the time of a flush. If it is dropped while output is pending, it
/// resets the connection.
///
/// ```
/// # use core::task::{Context, Poll, Waker};
/// # use wirestate_core::drive::{IoError, Sink, Source};
/// use wirestate_core::{Instant, drive::{Next, Seat}, echo};
///
/// # struct Socket(&'static [u8], Vec<u8>);
/// # impl Source for Socket {
/// #     fn poll_read(
/// #         &mut self, _: &mut Context<'_>, buf: &mut [u8],
/// #     ) -> Poll<Result<usize, IoError>> {
/// #         let n = self.0.len();
/// #         if n == 0 { return Poll::Pending }
/// #         buf[..n].copy_from_slice(std::mem::take(&mut self.0));
/// #         Poll::Ready(Ok(n))
/// #     }
/// # }
/// # impl Sink for Socket {
/// #     fn poll_write(
/// #         &mut self, _: &mut Context<'_>, bufs: &[&[u8]],
/// #     ) -> Poll<Result<usize, IoError>> {
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
/// let mut seat = Seat::new(echo::Server::default().machine(now), socket);
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
    /// Readiness that the loop has reported. `None`: the loop has not called
    /// [`ready`](Self::ready).
    reported: Option<(bool, bool)>,
}

impl<M: Machine, S: Source + Sink> Seat<M, S> {
    /// Joins a machine and a socket.
    pub fn new(machine: M, socket: S) -> Self {
        let (readiness, session) = (Readiness::default(), Session::new());
        Self { machine, socket, readiness, session, reported: None }
    }

    /// Keeps the connection's entry in its table up to date, and applies the table's commands and
    /// its limits of bytes a second ([`Rates`](crate::admission::Rates)). A command wakes the waker
    /// of the last poll.
    pub fn admitted(mut self, admitted: Admitted) -> Self {
        if let Some(throttle) = admitted.throttle() {
            self.readiness.set_throttle(throttle);
        }
        self.session.set_admitted(admitted);
        self
    }

    /// Limits how long the sink may hold output without progress ([`Sink::held`]) after the machine
    /// has ended. Then the connection is reset. `None`: no limit. Default: 10 s.
    ///
    /// Before that, bytes that the sink holds count as unacknowledged, and the machine's own
    /// deadlines apply.
    pub fn flush_timeout(mut self, flush_timeout: Option<Duration>) -> Self {
        self.readiness.set_flush_timeout(flush_timeout);
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

    /// The socket, to be registered with an event loop.
    pub fn socket_mut(&mut self) -> &mut S {
        &mut self.socket
    }

    /// Reports readiness, which saves system calls: the next poll tries again only the calls that
    /// are ready here. Without this call, a poll tries all that the machine wants.
    ///
    /// Report every event, also one that [`Next::Sleep`] did not request, because an edge-triggered
    /// loop gets it only once. `POLLHUP` and `POLLERR` count as both. If only the waker was woken
    /// or a deadline has passed, report neither. Reports add up until the next poll.
    pub fn ready(&mut self, read: bool, write: bool) {
        let (reads, writes) = self.reported.unwrap_or_default();
        self.reported = Some((reads || read, writes || write));
    }

    /// Drives the machine until nothing moves any more or the budget is used up.
    pub fn poll(&mut self, now: Instant, cx: &mut Context<'_>) -> Next<M::Reason> {
        let Err(next) = self.poll_until(now, cx, |_, _| None::<Infallible>);
        next
    }

    /// Drives the machine until `wanted` returns a value. `wanted` is called at the start and after
    /// every turn, and may change the machine: queue a request, take a reply.
    ///
    /// # Errors
    /// There is no value yet. The error says what the seat waits for.
    pub fn poll_until<T>(
        &mut self,
        now: Instant,
        cx: &mut Context<'_>,
        mut wanted: impl FnMut(&mut M, Instant) -> Option<T>,
    ) -> Result<T, Next<M::Reason>> {
        self.take_turns(now, cx, true, &mut wanted)
    }

    pub(super) fn take_turns<T>(
        &mut self,
        now: Instant,
        cx: &mut Context<'_>,
        was_woken: bool,
        wanted: &mut impl FnMut(&mut M, Instant) -> Option<T>,
    ) -> Result<T, Next<M::Reason>> {
        let Self { machine, socket, readiness, session, reported } = self;
        if was_woken {
            let (read, write) = reported.take().unwrap_or((true, true));
            readiness.ready(read, write);
        }
        let wanted = |seated: &mut Seated<'_, M, S>, now| wanted(seated.machine, now);
        session.poll(&mut Seated { machine, socket, readiness }, now, cx, was_woken, wanted)
    }

    /// Drops the machine and leaves its connection as it is, for another driver of the same socket.
    /// Returns the entry of [`admitted`](Self::admitted). Take the machine's result before.
    ///
    /// The socket is dropped too, which closes it if the seat owns it. So make the seat with a
    /// borrowed socket (`&mut S`), or with a handle that shares it, as a loop that keeps its seats
    /// in a collection must.
    pub fn hand_over(mut self) -> Option<Admitted> {
        self.session.hand_over()
    }

    /// Requests a graceful end of the machine. Poll the seat afterwards.
    pub fn shut_down(&mut self, now: Instant) {
        self.machine.handle(self.session.clamp(now), Event::ShutDown);
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

    fn turn(&mut self, _: Option<&Admitted>, now: Instant, cx: &mut Context<'_>) -> Turn {
        let mut direct = Direct { machine: &mut *self.machine, socket: &mut *self.socket };
        turn(&mut direct, self.readiness, now, cx)
    }

    fn deadline(&self) -> Option<Instant> {
        self.readiness.deadline(self.machine)
    }

    fn waits(&self) -> (bool, bool) {
        self.readiness.waits(self.machine.interest())
    }

    fn handle_timeout(&mut self, now: Instant) {
        let Self { machine, socket, readiness } = self;
        let unacknowledged = readiness.handle_timeout(*machine, *socket, now);
        machine.handle(now, Event::Timeout { unacknowledged });
        debug_assert!(
            machine.poll_timeout().is_none_or(|deadline| deadline > now),
            "after Event::Timeout, the deadline must lie beyond now"
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
        self.machine.interest().is_done() && !self.readiness.holds(self.socket)
    }

    fn reset(&mut self) {
        self.readiness.reset(self.socket);
    }

    fn must_reset(&self) -> bool {
        matches!(self.machine.interest().write, Outbound::Flush | Outbound::Reset)
            || self.readiness.must_reset(self.socket)
    }

    fn work(&self) -> u64 {
        self.machine.work()
    }

    fn status(&self) -> Status {
        self.machine.status()
    }

    fn reason(&self) -> M::Reason {
        self.machine.reason().expect("a machine that has ended has a reason (rule 10)")
    }

    fn peer_has_left(&self) -> bool {
        self.readiness.peer_has_left()
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use alloc::{rc::Rc, sync::Arc, vec::Vec};
    use core::{
        cell::RefCell,
        sync::atomic::{AtomicBool, Ordering},
        task::{Poll, Waker},
    };

    use super::*;
    use crate::{
        ConnectionError, Direction, Fault, Interest, Reason,
        admission::{ConnectionTable, Limits, Peer},
        drive::{Ended, IoError},
        echo,
    };

    /// The state of a socket whose sink holds the output that it accepts.
    #[derive(Default)]
    struct Kernel {
        /// The results of the next reads. Further reads would block.
        input: Vec<Result<&'static [u8], IoError>>,
        /// How many of the held bytes can be sent now.
        window: usize,
        /// Whether a flush fails.
        flush_fails: bool,
        writes_block: bool,
        held: usize,
        calls: Vec<Call>,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Call {
        Read,
        Write,
        Finish,
        Reset,
    }

    #[derive(Clone, Default)]
    struct Socket(Rc<RefCell<Kernel>>);

    impl Socket {
        /// The calls since the last call of this function, except for flushes.
        fn calls(&self) -> Vec<Call> {
            core::mem::take(&mut self.0.borrow_mut().calls)
        }
    }

    impl Source for Socket {
        fn poll_read(
            &mut self,
            _: &mut Context<'_>,
            buf: &mut [u8],
        ) -> Poll<Result<usize, IoError>> {
            let mut kernel = self.0.borrow_mut();
            kernel.calls.push(Call::Read);
            if kernel.input.is_empty() {
                return Poll::Pending;
            }
            let bytes = kernel.input.remove(0)?;
            buf[..bytes.len()].copy_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        }
    }

    impl Sink for Socket {
        fn poll_write(
            &mut self,
            _: &mut Context<'_>,
            bufs: &[&[u8]],
        ) -> Poll<Result<usize, IoError>> {
            let mut kernel = self.0.borrow_mut();
            kernel.calls.push(Call::Write);
            if kernel.writes_block {
                return Poll::Pending;
            }
            kernel.held += bufs[0].len();
            Poll::Ready(Ok(bufs[0].len()))
        }

        fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), IoError>> {
            let mut kernel = self.0.borrow_mut();
            if kernel.flush_fails {
                return Poll::Ready(Err(ConnectionError::Reset.into()));
            }
            let sent = kernel.held.min(kernel.window);
            kernel.held -= sent;
            kernel.window -= sent;
            if kernel.held > 0 { Poll::Pending } else { Poll::Ready(Ok(())) }
        }

        fn held(&self) -> usize {
            self.0.borrow().held
        }

        fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
            if self.poll_flush(cx)?.is_pending() {
                return Poll::Pending;
            }
            self.0.borrow_mut().calls.push(Call::Finish);
            Poll::Ready(Ok(()))
        }

        fn reset(&mut self) {
            self.0.borrow_mut().calls.push(Call::Reset);
        }
    }

    /// Sends back what it receives, and records its events, except for [`Event::Release`].
    #[derive(Default)]
    struct Repeater {
        interest: Option<Interest>,
        output: usize,
        events: Rc<RefCell<Vec<Event>>>,
        /// Whether it sends a FIN after the end of its input, also after an error.
        finishes: bool,
        buffer: [u8; 16],
    }

    #[derive(Clone, Debug, PartialEq, thiserror::Error)]
    #[error("ended")]
    struct RepeaterReason;

    impl Reason for RepeaterReason {
        fn label(&self) -> &'static str {
            "ended"
        }

        fn fault(&self) -> Fault {
            Fault::None
        }
    }

    impl Machine for Repeater {
        type Reason = RepeaterReason;

        fn interest(&self) -> Interest {
            let write = if self.output > 0 { Outbound::Flush } else { Outbound::Idle };
            self.interest.unwrap_or(Interest { read: true, write })
        }

        fn read_buf(&mut self) -> &mut [u8] {
            &mut self.buffer
        }

        fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
            out[0] = &self.buffer[..self.output];
            1
        }

        fn handle(&mut self, _now: Instant, event: Event) {
            match event {
                Event::Read(n) => self.output = n,
                Event::Written(n) => self.output -= n,
                Event::Eof | Event::Error(Direction::Read, _) if self.finishes => {
                    self.interest = Some(Interest { read: false, write: Outbound::Finish });
                }
                Event::Eof | Event::Finished | Event::Error(..) => {
                    self.interest = Some(Interest::DONE);
                }
                Event::ShutDown => {
                    self.interest = Some(Interest { read: false, write: Outbound::Finish });
                }
                Event::Timeout { .. } => {}
                Event::Release => return,
            }
            self.events.borrow_mut().push(event);
        }

        fn reason(&self) -> Option<RepeaterReason> {
            (self.interest == Some(Interest::DONE)).then_some(RepeaterReason)
        }
    }

    fn seat(socket: &Socket) -> (Seat<Repeater, Socket>, Rc<RefCell<Vec<Event>>>) {
        let machine = Repeater { finishes: true, ..Repeater::default() };
        let events = machine.events.clone();
        (Seat::new(machine, socket.clone()), events)
    }

    fn poll<M: Machine>(seat: &mut Seat<M, Socket>, seconds: u64) -> Next<M::Reason> {
        seat.poll(at(seconds), &mut Context::from_waker(Waker::noop()))
    }

    fn at(seconds: u64) -> Instant {
        Instant::EPOCH + Duration::from_secs(seconds)
    }

    fn sleep<R>(until: Option<u64>, read: bool, write: bool) -> Next<R> {
        Next::Sleep { until: until.map(at), read, write }
    }

    /// A seat whose machine ends at its first poll, without a FIN, while the sink holds five bytes.
    fn ended(socket: &Socket) -> Seat<Repeater, Socket> {
        socket.0.borrow_mut().input.extend([Ok(&b"hello"[..]), Ok(b"")]);
        Seat::new(Repeater::default(), socket.clone())
    }

    #[test]
    fn an_ended_connection_is_reset_if_its_sink_holds_output_for_too_long() {
        let socket = Socket::default();
        let mut seat = ended(&socket).flush_timeout(Some(Duration::from_secs(3)));
        assert_eq!(poll(&mut seat, 1), sleep(Some(4), false, true));
        // After progress, the timeout starts again.
        socket.0.borrow_mut().window = 2;
        assert_eq!(poll(&mut seat, 3), sleep(Some(6), false, true));
        assert_eq!(poll(&mut seat, 5), sleep(Some(6), false, true));
        socket.calls();
        assert_eq!(poll(&mut seat, 6), Next::Done(Ended::Reason(RepeaterReason)));
        assert_eq!(socket.calls(), [Call::Reset]);
    }

    #[test]
    fn without_a_flush_timeout_the_sink_of_an_ended_machine_holds_output_forever() {
        let socket = Socket::default();
        let mut seat = ended(&socket).flush_timeout(None);
        assert_eq!(poll(&mut seat, 1), sleep(None, false, true));
        assert_eq!(poll(&mut seat, 1_000_000), sleep(None, false, true));
    }

    #[test]
    fn an_abort_resets_an_ended_connection_whose_sink_holds_output() {
        let table = ConnectionTable::new(Limits::default());
        let socket = Socket::default();
        let admitted = table.admit(Peer::Local, Instant::EPOCH).unwrap();
        let mut seat = ended(&socket).flush_timeout(None).admitted(admitted);
        assert_eq!(poll(&mut seat, 1), sleep(None, false, true));
        table.abort();
        assert_eq!(poll(&mut seat, 1), Next::Done(Ended::Aborted));
        assert_eq!(socket.calls().last(), Some(&Call::Reset));
    }

    #[test]
    fn a_sink_is_flushed_again_after_a_read_because_it_may_have_waited_for_input() {
        let socket = Socket::default();
        let (mut seat, _) = seat(&socket);
        socket.0.borrow_mut().input.push(Ok(b"hello"));
        assert_eq!(poll(&mut seat, 1), sleep(None, true, true));
        socket.0.borrow_mut().window = 10;
        socket.0.borrow_mut().input.push(Ok(b"again"));
        seat.ready(true, false);
        assert_eq!(poll(&mut seat, 1), sleep(None, true, false));
        assert_eq!(socket.held(), 0);
    }

    #[test]
    fn the_end_waits_until_the_sink_holds_nothing() {
        let socket = Socket::default();
        let mut seat = ended(&socket);
        assert_eq!(poll(&mut seat, 1), sleep(Some(11), false, true));
        assert!(seat.machine().interest().is_done());
        socket.0.borrow_mut().window = 5;
        seat.ready(false, true);
        assert_eq!(poll(&mut seat, 2), Next::Done(Ended::Reason(RepeaterReason)));
        drop(seat);
        assert!(!socket.calls().contains(&Call::Reset), "all output was sent");
    }

    #[test]
    fn a_failed_flush_is_an_error_although_the_machine_has_no_output() {
        let socket = Socket::default();
        let (mut seat, events) = seat(&socket);
        socket.0.borrow_mut().input.push(Ok(b"hello"));
        assert_eq!(poll(&mut seat, 1), sleep(None, true, true));
        assert_eq!(seat.machine().interest().write, Outbound::Idle);
        socket.0.borrow_mut().flush_fails = true;
        seat.ready(false, true);
        assert_eq!(poll(&mut seat, 2), Next::Done(Ended::Reason(RepeaterReason)));
        let failed = Event::Error(Direction::Write, ConnectionError::Reset);
        assert_eq!(events.borrow().last(), Some(&failed));
        assert_eq!(socket.calls().last(), Some(&Call::Reset));
    }

    #[test]
    fn a_fin_after_a_failed_read_is_sent_as_a_reset() {
        let socket = Socket::default();
        let (mut seat, events) = seat(&socket);
        socket.0.borrow_mut().input.push(Err(ConnectionError::TimedOut.into()));
        assert_eq!(poll(&mut seat, 1), Next::Done(Ended::Reason(RepeaterReason)));
        let failed = Event::Error(Direction::Read, ConnectionError::TimedOut);
        assert_eq!(*events.borrow(), [failed, Event::Finished]);
        assert_eq!(socket.calls(), [Call::Read, Call::Reset]);
    }

    #[test]
    fn only_calls_that_are_reported_as_ready_are_tried() {
        let socket = Socket::default();
        let (mut seat, _) = seat(&socket);
        socket.0.borrow_mut().writes_block = true;
        socket.0.borrow_mut().input.push(Ok(b"hello"));
        let blocked = sleep(None, true, true);
        assert_eq!(poll(&mut seat, 1), blocked);
        assert_eq!(socket.calls(), [Call::Read, Call::Write, Call::Read]);
        for (read, write, calls) in [
            (false, false, &[][..]),
            (true, false, &[Call::Read]),
            (false, true, &[Call::Write]),
            (true, true, &[Call::Write, Call::Read]),
        ] {
            seat.ready(read, write);
            assert_eq!(poll(&mut seat, 1), blocked);
            assert_eq!(socket.calls(), calls, "{read} {write}");
        }
        // Reports add up until the next poll. Without a report, all calls are tried.
        seat.ready(true, false);
        seat.ready(false, true);
        poll(&mut seat, 1);
        assert_eq!(socket.calls(), [Call::Write, Call::Read]);
        poll(&mut seat, 1);
        assert_eq!(socket.calls(), [Call::Write, Call::Read]);
    }

    #[test]
    fn a_seat_does_not_wait_for_what_its_machine_does_not_want() {
        let socket = Socket::default();
        let (mut seat, _) = seat(&socket);
        assert_eq!(poll(&mut seat, 1), sleep(None, true, false));
        seat.machine_mut().interest = Some(Interest { read: false, write: Outbound::Idle });
        assert_eq!(poll(&mut seat, 1), sleep(None, false, false));
    }

    #[test]
    fn a_shutdown_is_handled_although_no_readiness_is_reported() {
        let socket = Socket::default();
        let (mut seat, events) = seat(&socket);
        poll(&mut seat, 1);
        seat.shut_down(at(1));
        seat.ready(false, false);
        assert_eq!(poll(&mut seat, 1), Next::Done(Ended::Reason(RepeaterReason)));
        assert_eq!(*events.borrow(), [Event::ShutDown, Event::Finished]);
        assert_eq!(socket.calls(), [Call::Read, Call::Finish]);
    }

    #[test]
    fn a_dropped_seat_resets_the_connection_only_if_it_has_output() {
        // Nothing to send, pending output, and output that the sink holds.
        for (input, writes_block, resets) in
            [(&b""[..], false, false), (b"hello", true, true), (b"hello", false, true)]
        {
            let socket = Socket::default();
            let (mut seat, _) = seat(&socket);
            socket.0.borrow_mut().writes_block = writes_block;
            if !input.is_empty() {
                socket.0.borrow_mut().input.push(Ok(input));
            }
            poll(&mut seat, 1);
            drop(seat);
            assert_eq!(socket.calls().contains(&Call::Reset), resets, "{writes_block}");
        }
    }

    #[test]
    fn a_command_from_the_table_wakes_the_seat_and_is_applied() {
        struct Flag(AtomicBool);
        impl alloc::task::Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::Relaxed);
            }
        }

        let table = ConnectionTable::new(Limits::default());
        let admitted = table.admit(Peer::Local, Instant::EPOCH).unwrap();
        let socket = Socket::default();
        let machine = echo::Server::default().machine(Instant::EPOCH);
        let mut seat = Seat::new(machine, socket.clone()).admitted(admitted);
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        let waker = Waker::from(flag.clone());
        let cx = &mut Context::from_waker(&waker);
        assert!(matches!(seat.poll(at(0), cx), Next::Sleep { read: true, write: false, .. }));
        assert!(!flag.0.load(Ordering::Relaxed));
        table.abort();
        assert!(flag.0.load(Ordering::Relaxed));
        seat.ready(false, false);
        assert_eq!(seat.poll(at(0), cx), Next::Done(Ended::Aborted));
        assert_eq!(socket.calls(), [Call::Read, Call::Reset]);
    }
}
