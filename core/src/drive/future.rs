//! A machine on a socket, as a future.

use core::{
    convert::Infallible,
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
};

use super::{
    Clock, Readiness, Sink, Source, Turn,
    session::{Over, Rest, Session},
    turn,
};
use crate::{
    Event, Fault, Instant, Machine, Outbound, Reason,
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
    line: Readiness,
    session: Session<C>,
}

/// The limits of one poll of a [`Drive`], after which it yields to other tasks. The turn that
/// exceeds one of them is the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Turns; each is at most one read and one write.
    pub turns: u32,
    /// Bytes received and sent.
    pub bytes: u32,
    /// What the machine counts as [work](Machine::work).
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
        Self { machine, socket, line: Readiness::default(), session: Session::new(clock) }
    }

    /// Keeps the connection's line in its table up to date, and does what is asked there.
    pub fn admitted(mut self, admitted: Admitted) -> Self {
        self.session.set_admitted(admitted);
        self
    }

    /// What one poll may do.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.session.set_budget(budget);
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
        let now = self.session.begin_poll();
        let polled = self.take_turns(cx, now, wanted);
        self.session.polled();
        polled
    }

    fn take_turns<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut now: Instant,
        mut wanted: impl FnMut(&mut M, Instant) -> Option<T>,
    ) -> Poll<Result<T, Ended<M::Reason>>> {
        self.line.clear();
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
                        let deadline = self.machine.poll_timeout();
                        match self.session.rest(cx, deadline, || self.machine.status()) {
                            Rest::Recheck(time) => {
                                now = time;
                                self.line.recheck(&mut self.socket);
                                continue;
                            }
                            Rest::Expired(time) => {
                                now = time;
                                self.expire(now);
                                (0, 0)
                            }
                            Rest::Asked => continue,
                            Rest::Sleep => return Poll::Pending,
                        }
                    }
                    Turn::Done => {
                        // What is shared may have brought both the end and what is wanted.
                        let last = wanted(&mut self.machine, now);
                        return Poll::Ready(last.map_or_else(|| Err(self.end(now)), Ok));
                    }
                };
            if !self.session.spend(read, written, self.machine.work(), now) {
                if self.session.is_overdue(self.machine.poll_timeout()) {
                    self.expire(now);
                }
                self.session.yield_now(cx, || self.machine.status());
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

    /// Asks the machine for a graceful end, and drives it to that.
    pub async fn shut_down(&mut self) -> Ended<M::Reason> {
        let shut_down = |machine: &mut M, now| {
            machine.handle(now, Event::ShutDown);
            None::<Infallible>
        };
        match self.until(shut_down).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    /// Does what was asked by way of the table; true if that was the connection's end.
    fn obey(&mut self, now: Instant) -> bool {
        match self.session.news() {
            Asked::Nothing => {}
            Asked::ShutDown => {
                self.machine.handle(now, Event::ShutDown);
                // What the socket was found to hold before that is no news any more.
                self.line.recheck(&mut self.socket);
            }
            Asked::Abort if self.machine.interest().is_done() => {}
            Asked::Abort => {
                // What is owed will not come: a FIN would say that it had.
                self.socket.reset();
                self.session.end(Over::Aborted, &Ended::<M::Reason>::Aborted, false, now);
            }
        }
        self.session.over() == Some(Over::Aborted)
    }

    fn expire(&mut self, now: Instant) {
        self.machine.handle(now, Event::Timeout { unacknowledged: self.socket.unacknowledged() });
        debug_assert!(
            self.machine.poll_timeout().is_none_or(|deadline| deadline > now),
            "a deadline that was handled must lie ahead"
        );
    }

    fn end(&mut self, now: Instant) -> Ended<M::Reason> {
        let reason = self.machine.reason().expect("the contract: a machine that ended knows why");
        self.session.end(Over::Ended, &reason, self.line.peer_has_left(), now);
        Ended::Reason(reason)
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
        if self.session.over().is_some() {
            return;
        }
        let panicked = self.session.panicked();
        let owes = || matches!(self.machine.interest().write, Outbound::Flush | Outbound::Reset);
        if panicked || owes() {
            self.socket.reset();
        }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use alloc::rc::Rc;
    use core::{cell::Cell, num::NonZeroUsize, task::Waker, time::Duration};

    use super::*;
    use crate::{
        admission::{Limits, Peer, Table},
        drive::IoError,
        echo, fanout,
    };

    /// A socket whose queue of events tells nothing: only whoever looks finds what has come.
    #[derive(Default)]
    struct Mute {
        /// Asked to shut down by the first read, behind which `comes` has come.
        table: Option<Table>,
        comes: &'static [u8],
        /// It comes again and again.
        endless: bool,
        looks: bool,
        takes: bool,
        written: usize,
    }

    impl Source for Mute {
        fn poll_read(
            &mut self,
            _cx: &mut Context<'_>,
            buf: &mut [u8],
        ) -> Poll<Result<usize, IoError>> {
            if let Some(table) = self.table.take() {
                table.shut_down();
            }
            if !core::mem::take(&mut self.looks) || self.comes.is_empty() {
                return Poll::Pending;
            }
            let n = self.comes.len();
            buf[..n].copy_from_slice(self.comes);
            if !self.endless {
                self.comes = b"";
            }
            Poll::Ready(Ok(n))
        }

        fn recheck(&mut self) {
            self.looks = true;
        }
    }

    impl Sink for Mute {
        fn poll_write(
            &mut self,
            _cx: &mut Context<'_>,
            bufs: &[&[u8]],
        ) -> Poll<Result<usize, IoError>> {
            if !self.takes {
                return Poll::Pending;
            }
            self.written += bufs[0].len();
            Poll::Ready(Ok(bufs[0].len()))
        }

        fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
            Poll::Ready(Ok(()))
        }

        fn reset(&mut self) {}
    }

    /// A clock that goes on by so much with each reading.
    #[derive(Clone)]
    struct Steps {
        now: Rc<Cell<Instant>>,
        step: Duration,
        yields: Rc<Cell<u64>>,
    }

    impl Clock for Steps {
        fn now(&self) -> Instant {
            let now = self.now.get();
            self.now.set(now + self.step);
            now
        }

        fn poll_until(&mut self, _cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
            if self.now.get() >= deadline { Poll::Ready(()) } else { Poll::Pending }
        }

        fn yield_now(&mut self, _cx: &mut Context<'_>) {
            self.yields.set(self.yields.get() + 1);
        }
    }

    fn clock(step: Duration) -> Steps {
        let now = Rc::new(Cell::new(Instant::EPOCH));
        Steps { now, step, yields: Rc::default() }
    }

    fn poll<M: Machine>(
        drive: &mut Drive<M, Mute, Steps>,
    ) -> Poll<Result<Infallible, Ended<M::Reason>>> {
        drive.poll_until(&mut Context::from_waker(Waker::noop()), |_, _| None)
    }

    #[test]
    fn the_socket_is_asked_once_more_when_the_machine_was_asked_to_shut_down() {
        let table = Table::new(Limits::default());
        let admitted = table.admit(Peer::Local, Instant::EPOCH).unwrap();
        let machine = echo::Server::new(echo::Config::default()).machine(Instant::EPOCH);
        let socket = Mute { table: Some(table), comes: b"hello", takes: true, ..Mute::default() };
        let mut drive = Drive::new(machine, socket, clock(Duration::ZERO)).admitted(admitted);
        assert!(poll(&mut drive).is_pending());
        assert_eq!(drive.socket.written, 5);
    }

    #[test]
    fn the_socket_is_asked_once_more_before_a_deadline_is_believed() {
        let config = echo::Config::default();
        let idle_timeout = config.idle_timeout.unwrap();
        let machine = echo::Server::new(config).machine(Instant::EPOCH);
        let socket = Mute { comes: b"hello", takes: true, ..Mute::default() };
        let clock = clock(Duration::ZERO);
        let mut drive = Drive::new(machine, socket, clock.clone());
        assert!(poll(&mut drive).is_pending());
        for (passed, written) in [(idle_timeout, 5), (idle_timeout * 3 / 2, 5)] {
            clock.now.set(Instant::EPOCH + passed);
            assert!(poll(&mut drive).is_pending());
            assert_eq!(drive.socket.written, written);
        }
        clock.now.set(Instant::EPOCH + idle_timeout * 2);
        let reason = echo::Reason::IdleTimeout { limit: idle_timeout, unsent: 0 };
        assert_eq!(poll(&mut drive), Poll::Ready(Err(Ended::Reason(reason))));
    }

    #[test]
    fn a_peer_that_always_has_something_when_it_is_looked_for_does_not_escape_its_deadline() {
        let feed = fanout::Feed::new(fanout::Config {
            framing: fanout::Framing::Fixed(NonZeroUsize::MIN),
            ..fanout::Config::default()
        });
        let machine = fanout::Subscriber::new(&feed, Instant::EPOCH);
        feed.publish("m".into(), 1, Instant::EPOCH);
        let socket = Mute { comes: b"x", endless: true, ..Mute::default() };
        let mut drive = Drive::new(machine, socket, clock(Duration::from_millis(20)));
        let ended = (0..1000).any(|_| poll(&mut drive).is_ready());
        assert!(ended, "it took no byte for 10 s");
    }

    #[cfg(feature = "message")]
    mod flood {
        use alloc::vec::Vec;

        use super::*;
        use crate::message::{Config, Message, Server, service};

        /// A socket with endless input, one sequence of bytes repeated, that takes all output.
        struct Flood(Vec<u8>);

        impl Source for Flood {
            fn poll_read(
                &mut self,
                _cx: &mut Context<'_>,
                buf: &mut [u8],
            ) -> Poll<Result<usize, IoError>> {
                let n = buf.len().min(self.0.len());
                buf[..n].copy_from_slice(&self.0[..n]);
                self.0.rotate_left(n);
                Poll::Ready(Ok(n))
            }
        }

        impl Sink for Flood {
            fn poll_write(
                &mut self,
                _cx: &mut Context<'_>,
                bufs: &[&[u8]],
            ) -> Poll<Result<usize, IoError>> {
                Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
            }

            fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
                Poll::Ready(Ok(()))
            }

            fn reset(&mut self) {}
        }

        #[test]
        fn a_poll_ends_after_so_much_work_although_there_is_more() {
            let mut frames = Vec::new();
            Message::binary("").encode(&mut frames).unwrap();
            let flood = Flood(frames.repeat(1000));
            let echo = service::function(|request: Message<'_>| request.into_owned());
            let machine = Server::new(Config::default(), echo).machine(Instant::EPOCH);
            let clock = clock(Duration::ZERO);
            let mut drive = Drive::new(machine, flood, clock.clone());
            let work = u64::from(Budget::default().work);
            let mut before = 0;
            for polls in 1..100 {
                let mut cx = Context::from_waker(Waker::noop());
                assert!(drive.poll_until(&mut cx, |_, _| None::<()>).is_pending());
                assert_eq!(clock.yields.get(), polls, "others have their turn");
                let done = drive.machine().work() - before;
                before += done;
                assert!((work..2 * work).contains(&done), "{done} in poll {polls}");
            }
        }
    }
}
