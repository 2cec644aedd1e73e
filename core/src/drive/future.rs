//! A machine on a socket, as a future.

use core::{
    convert::Infallible,
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
};

use super::{
    Clock, Line, Sink, Source, Turn,
    session::{Over, Rest, Session},
    turn,
};
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
    line: Line,
    session: Session<C>,
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
        Self { machine, socket, line: Line::default(), session: Session::new(clock) }
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
                        let deadline = self.machine.poll_timeout();
                        match self.session.rest(cx, deadline, || self.machine.status()) {
                            Rest::LookAgain(time) => {
                                now = time;
                                self.line.look_again(&mut self.socket);
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
            if !self.session.spend(read, written, now) {
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
            machine.shut_down(now);
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
                self.machine.shut_down(now);
                // What the socket was found to hold before that is no news any more.
                self.line.look_again(&mut self.socket);
            }
            Asked::Abort if self.machine.interest().is_done() => {}
            Asked::Abort => {
                // What is owed will not come: a FIN would say that it had.
                self.socket.reset();
                self.session.end(Over::Aborted, &Ended::<M::Reason>::Aborted, now);
            }
        }
        self.session.over() == Some(Over::Aborted)
    }

    fn expire(&mut self, now: Instant) {
        self.machine.handle_timeout(now);
        debug_assert!(
            self.machine.poll_timeout().is_none_or(|deadline| deadline > now),
            "a deadline that was handled must lie ahead"
        );
    }

    fn end(&mut self, now: Instant) -> Ended<M::Reason> {
        let reason = self.machine.reason().expect("the contract: a machine that ended knows why");
        self.session.end(Over::Ended, &reason, now);
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
    use core::task::Waker;

    use super::*;
    use crate::{
        admission::{Limits, Peer, Table},
        drive::Failed,
        echo::{Config, Server},
    };

    /// Input comes, and then the server is asked to stop, right behind a read that has found nothing.
    struct Behind {
        table: Table,
        reads: u32,
        written: usize,
    }

    impl Source for Behind {
        fn poll_read(
            &mut self,
            _cx: &mut Context<'_>,
            buf: &mut [u8],
        ) -> Poll<Result<usize, Failed>> {
            self.reads += 1;
            match self.reads {
                1 => {
                    self.table.shut_down();
                    Poll::Pending
                }
                2 => {
                    buf[..5].copy_from_slice(b"hello");
                    Poll::Ready(Ok(5))
                }
                _ => Poll::Pending,
            }
        }
    }

    impl Sink for Behind {
        fn poll_write(
            &mut self,
            _cx: &mut Context<'_>,
            bufs: &[&[u8]],
        ) -> Poll<Result<usize, Failed>> {
            self.written += bufs[0].len();
            Poll::Ready(Ok(bufs[0].len()))
        }

        fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
            Poll::Ready(Ok(()))
        }

        fn reset(&mut self) {}
    }

    /// A machine so busy that 11 ms pass between two looks at the clock.
    struct Busy(core::cell::Cell<u64>);

    impl Clock for Busy {
        fn now(&self) -> Instant {
            self.0.set(self.0.get() + 11_000_000);
            Instant::from_nanos(self.0.get())
        }

        fn poll_until(&mut self, _cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
            if self.now() >= deadline { Poll::Ready(()) } else { Poll::Pending }
        }
    }

    #[test]
    fn the_socket_is_asked_once_more_after_the_machine_was_asked_to_shut_down() {
        let table = Table::new(Limits::default());
        let admitted = table.admit(Peer::Local, Instant::EPOCH).unwrap();
        let machine = Server::new(Config::default()).machine(Instant::EPOCH);
        let socket = Behind { table, reads: 0, written: 0 };
        let mut drive = Drive::new(machine, socket, Busy(0.into())).admitted(admitted);
        let mut cx = Context::from_waker(Waker::noop());
        let never = |_: &mut _, _| None::<Infallible>;
        let _ = drive.poll_until(&mut cx, never);
        assert_eq!(drive.socket.written, 5);
    }
}
