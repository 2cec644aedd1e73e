//! Pipes, through which the kernel moves bulk transfers.

use std::{
    boxed::Box,
    task::{Context, Poll, ready},
    vec::Vec,
};

use super::{Relay, RelaySide, Side, relay::PerSide};
use crate::{
    Instant,
    drive::{Direct, IoError, Sink, Source, Splice, Transfer},
    shared::{Lock, Shared},
};

/// A pool of a bounded number of pipes for sockets of type `S`. A direction borrows one while its
/// bytes are in it. Clones are the same pool.
pub(super) struct Pipes<S> {
    inner: Shared<Inner<S>>,
}

struct Inner<S> {
    make: fn() -> Option<BoxedPipe<S>>,
    /// [`Splice::can_splice`].
    can_splice: fn(&S) -> bool,
    limit: usize,
    state: Lock<State<S>>,
}

struct State<S> {
    idle: Vec<BoxedPipe<S>>,
    lent: usize,
}

type BoxedPipe<S> = Box<dyn Pipe<S>>;

/// A pipe for sockets of type `S`. Only [`Pipes::new`] requires that they are [`Splice`].
trait Pipe<S>: Send {
    /// Calls [`Splice::poll_fill`].
    fn poll_fill(
        &mut self,
        socket: &mut S,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<usize>, IoError>>;

    /// Calls [`Splice::poll_drain`].
    fn poll_drain(
        &mut self,
        socket: &mut S,
        cx: &mut Context<'_>,
        held: usize,
    ) -> Poll<Result<usize, IoError>>;
}

impl<S: Splice> Pipe<S> for S::Pipe {
    fn poll_fill(
        &mut self,
        socket: &mut S,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<usize>, IoError>> {
        socket.poll_fill(cx, self, max)
    }

    fn poll_drain(
        &mut self,
        socket: &mut S,
        cx: &mut Context<'_>,
        held: usize,
    ) -> Poll<Result<usize, IoError>> {
        socket.poll_drain(cx, self, held)
    }
}

/// A pipe that is lent. It is closed on drop.
struct Lent<S> {
    pipe: BoxedPipe<S>,
    permit: Permit<S>,
}

/// Counts one pipe as lent, until it is dropped.
struct Permit<S>(Shared<Inner<S>>);

impl<S> Pipes<S> {
    /// A pool of at most `limit` pipes.
    pub(super) fn new(limit: usize) -> Self
    where
        S: Splice,
    {
        let make = || S::pipe().map(|pipe| -> BoxedPipe<S> { Box::new(pipe) });
        let state = Lock::new(State { idle: Vec::new(), lent: 0 });
        Self { inner: Shared::new(Inner { make, can_splice: S::can_splice, limit, state }) }
    }

    /// An empty pipe; `None` if all are lent, or none can be made.
    fn borrow(&self) -> Option<Lent<S>> {
        let idle = self.inner.state.with(|state| {
            let idle = state.idle.pop();
            if idle.is_none() && state.lent >= self.inner.limit {
                return None;
            }
            state.lent += 1;
            Some(idle)
        })?;
        let permit = Permit(self.inner.clone());
        // This is a system call, so it is outside the lock.
        let pipe = idle.or_else(self.inner.make)?;
        Some(Lent { pipe, permit })
    }
}

impl<S> Clone for Pipes<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<S> Lent<S> {
    /// Returns the pipe to the pool. It must be empty.
    fn give_back(self) {
        let Self { pipe, permit } = self;
        let surplus = permit.0.state.with(|state| {
            if state.idle.len() == MAX_IDLE {
                return Some(pipe);
            }
            state.idle.push(pipe);
            None
        });
        drop(surplus); // closed outside the lock
    }
}

impl<S> Drop for Permit<S> {
    fn drop(&mut self) {
        self.0.state.with(|state| state.lent -= 1);
    }
}

/// The pipes of one proxied connection's two directions.
pub(super) struct Directions<S> {
    /// `None` if all bytes go through memory.
    pipes: Option<Pipes<S>>,
    /// The pipe with bytes that were received from each side.
    received: PerSide<Option<Lent<S>>>,
}

impl<S> Directions<S> {
    pub(super) fn new(pipes: Option<Pipes<S>>) -> Self {
        Self { pipes, received: PerSide { client: None, upstream: None } }
    }

    /// One side of `relay` and its socket, for one turn.
    pub(super) fn side<'a>(
        &'a mut self,
        side: Side,
        relay: &'a mut Relay,
        socket: &'a mut S,
    ) -> Spliced<'a, S> {
        // A pipe is filled by one side and drained by the other.
        if self.pipes.as_ref().is_some_and(|pipes| !(pipes.inner.can_splice)(socket)) {
            self.pipes = None;
        }
        let (received, pending) = self.received.both_mut(side);
        Spliced { machine: relay.side(side), socket, pipes: &mut self.pipes, received, pending }
    }
}

/// A side of a relay and its socket, for one turn. Bulk transfers go through a pipe.
pub(super) struct Spliced<'a, S> {
    machine: RelaySide<'a>,
    socket: &'a mut S,
    pipes: &'a mut Option<Pipes<S>>,
    /// The pipe with bytes that were received from the socket.
    received: &'a mut Option<Lent<S>>,
    /// The pipe with bytes that are pending for the socket.
    pending: &'a mut Option<Lent<S>>,
}

impl<'a, S: Source + Sink> Spliced<'a, S> {
    fn memory(&mut self) -> Direct<'_, RelaySide<'a>, S> {
        Direct { machine: &mut self.machine, socket: self.socket }
    }
}

impl<'a, S: Source + Sink> Transfer for Spliced<'a, S> {
    type Machine = RelaySide<'a>;
    type Socket = S;

    fn machine(&mut self) -> &mut RelaySide<'a> {
        &mut self.machine
    }

    fn socket(&mut self) -> &mut S {
        self.socket
    }

    fn read(
        &mut self,
        max: usize,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, IoError>> {
        let limit = self.machine.pipe_limit();
        if limit > 0
            && let Some(pipes) = self.pipes
            && let Some(mut lent) = pipes.borrow()
        {
            let filled = (*lent.pipe).poll_fill(self.socket, cx, limit);
            match filled {
                Poll::Ready(Ok(Some(n))) if n > 0 => {
                    *self.received = Some(lent);
                    self.machine.handle_piped(now, n);
                }
                // The pipe may hold bytes.
                Poll::Ready(Err(IoError::Connection(_))) => drop(lent),
                Poll::Ready(Ok(_) | Err(IoError::Interrupted)) | Poll::Pending => lent.give_back(),
            }
            match ready!(filled)? {
                Some(n) => return Poll::Ready(Ok(n)),
                None => *self.pipes = None,
            }
        }
        self.memory().read(max, now, cx)
    }

    fn write(
        &mut self,
        max: usize,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, IoError>> {
        let held = self.machine.in_pipe();
        let Some(mut lent) = self.pending.take().filter(|_| held > 0) else {
            return self.memory().write(max, now, cx);
        };
        let drained = (*lent.pipe).poll_drain(self.socket, cx, held);
        if matches!(drained, Poll::Ready(Ok(n)) if n == held) {
            lent.give_back();
        } else {
            *self.pending = Some(lent);
        }
        let n = ready!(drained)?;
        if n > 0 {
            self.machine.handle_drained(now, n);
        }
        Poll::Ready(Ok(n))
    }
}

/// The most empty pipes that stay open.
const MAX_IDLE: usize = 16;

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        num::NonZeroUsize,
        panic::{AssertUnwindSafe, catch_unwind},
        task::Waker,
    };

    use super::*;
    use crate::{
        Event, Machine, Outbound,
        drive::{self, Readiness, collect_into, deliver},
        proxy::{Config, RelayFactory},
    };

    const NOW: Instant = Instant::EPOCH;

    /// A socket that always has input, and records its output.
    #[derive(Debug, Default)]
    struct Endless {
        sent: Vec<u8>,
    }

    impl Source for Endless {
        fn poll_read(
            &mut self,
            _: &mut Context<'_>,
            buf: &mut [u8],
        ) -> Poll<Result<usize, IoError>> {
            buf.fill(b'.');
            Poll::Ready(Ok(buf.len()))
        }
    }

    impl Sink for Endless {
        fn poll_write(
            &mut self,
            _: &mut Context<'_>,
            bufs: &[&[u8]],
        ) -> Poll<Result<usize, IoError>> {
            self.sent.extend_from_slice(bufs[0]);
            Poll::Ready(Ok(bufs[0].len()))
        }

        fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), IoError>> {
            Poll::Ready(Ok(()))
        }

        fn reset(&mut self) {}
    }

    impl Splice for Endless {
        type Pipe = VecDeque<u8>;

        fn pipe() -> Option<VecDeque<u8>> {
            Some(VecDeque::new())
        }

        fn poll_fill(
            &mut self,
            _: &mut Context<'_>,
            pipe: &mut VecDeque<u8>,
            max: usize,
        ) -> Poll<Result<Option<usize>, IoError>> {
            pipe.resize(max, b'.');
            Poll::Ready(Ok(Some(max)))
        }

        fn poll_drain(
            &mut self,
            _: &mut Context<'_>,
            pipe: &mut VecDeque<u8>,
            held: usize,
        ) -> Poll<Result<usize, IoError>> {
            self.sent.extend(pipe.drain(..held));
            Poll::Ready(Ok(held))
        }
    }

    /// Buffers are not cleared between connections, so they must not be offered by mistake.
    #[test]
    fn memory_of_other_connections_is_not_offered_for_bytes_in_a_pipe() {
        let buffer = NonZeroUsize::new(8).unwrap();
        let relays = RelayFactory::new(Config::default().with_buffer(buffer)).unwrap();
        let mut relay = relays.relay(NOW);
        relay.handle_connected(NOW, false);
        deliver(&mut relay.side(Side::Client), &mut &b"12345678"[..], NOW);
        collect_into(&mut relay.side(Side::Upstream), &mut [0; 8], NOW);
        relay.side(Side::Client).handle(NOW, Event::Release);

        let mut other = relays.relay(NOW);
        other.handle_connected(NOW, false);
        deliver(&mut other.side(Side::Client), &mut &b"a secret"[..], NOW);
        drop(other);

        let mut directions = Directions::new(Some(Pipes::new(1)));
        let mut turn = |relay: &mut Relay, side| {
            let mut socket = Endless::default();
            let mut transfer = directions.side(side, relay, &mut socket);
            let cx = &mut Context::from_waker(Waker::noop());
            drive::turn(&mut transfer, &mut Readiness::default(), NOW, cx);
            socket.sent
        };
        turn(&mut relay, Side::Client);
        assert_eq!((relay.status().queued, relays.buffers_in_use()), (8, 0));
        let mut side = relay.side(Side::Upstream);
        assert_eq!(side.interest().write, Outbound::Flush);
        assert_eq!(side.write_bufs(&mut [&[][..]; 2]), 0);
        // `Written` is for memory, so here it is the bug of a driver. It must panic.
        let written = catch_unwind(AssertUnwindSafe(|| side.handle(NOW, Event::Written(8))));
        assert!(written.is_err());
        assert_eq!(turn(&mut relay, Side::Upstream), b"........");
    }

    fn idle_and_lent(pipes: &Pipes<Endless>) -> (usize, usize) {
        pipes.inner.state.with(|state| (state.idle.len(), state.lent))
    }

    #[test]
    fn a_returned_pipe_is_lent_again_and_a_dropped_pipe_is_closed() {
        let pipes = Pipes::new(1);
        let lent = pipes.borrow().unwrap();
        assert!(pipes.borrow().is_none(), "the only pipe is lent");
        lent.give_back();
        assert_eq!(idle_and_lent(&pipes), (1, 0));
        let lent = pipes.borrow().unwrap();
        assert_eq!(idle_and_lent(&pipes), (0, 1));
        drop(lent);
        assert_eq!(idle_and_lent(&pipes), (0, 0));
        assert!(pipes.borrow().is_some());
    }

    #[test]
    fn a_pipe_that_cannot_be_made_does_not_count_as_lent() {
        let state = Lock::new(State { idle: Vec::new(), lent: 0 });
        let pipes = Pipes {
            inner: Shared::new(Inner { make: || None, can_splice: |_| true, limit: 1, state }),
        };
        assert!(pipes.borrow().is_none());
        assert_eq!(idle_and_lent(&pipes), (0, 0));
    }

    #[test]
    fn sixteen_idle_pipes_stay_open() {
        let pipes = Pipes::new(20);
        let lent: Vec<_> = (0..21).filter_map(|_| pipes.borrow()).collect();
        assert_eq!(lent.len(), 20);
        lent.into_iter().for_each(Lent::give_back);
        assert_eq!(idle_and_lent(&pipes), (16, 0));
    }

    #[test]
    fn with_a_limit_of_0_no_pipe_is_made() {
        assert!(Pipes::<Endless>::new(0).borrow().is_none());
    }
}
