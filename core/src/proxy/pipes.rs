//! The pipes that bytes pass through which come in bulk.

use std::{
    task::{Context, Poll, ready},
    vec::Vec,
};

use super::Side;
use crate::{
    drive::{IoError, Sink, Source, Splice},
    shared::{Lock, Shared},
};

/// A bounded number of pipes, lent to directions that have bytes in them. Clones are the same ones.
#[derive(Debug)]
pub(super) struct Pipes<P> {
    inner: Shared<Inner<P>>,
}

#[derive(Debug)]
struct Inner<P> {
    limit: usize,
    state: Lock<State<P>>,
}

#[derive(Debug)]
struct State<P> {
    idle: Vec<P>,
    /// All that there are, the idle ones included.
    count: usize,
}

/// A pipe that is lent. Dropped, it goes back if it is empty, and is closed otherwise.
#[derive(Debug)]
struct PipeGuard<P> {
    inner: Shared<Inner<P>>,
    pipe: Option<P>,
    /// Bytes in it.
    held: usize,
}

impl<P> Pipes<P> {
    /// At most `limit` of them.
    pub(super) fn new(limit: usize) -> Self {
        let state = Lock::new(State { idle: Vec::new(), count: 0 });
        Self { inner: Shared::new(Inner { limit, state }) }
    }

    /// An empty one; `None` where all are lent, or `make` has none.
    fn take(&self, make: impl FnOnce() -> Option<P>) -> Option<PipeGuard<P>> {
        let idle = self.inner.state.with(|state| {
            let idle = state.idle.pop();
            if idle.is_none() {
                if state.count == self.inner.limit {
                    return None;
                }
                state.count += 1;
            }
            Some(idle)
        });
        let mut guard = PipeGuard { inner: self.inner.clone(), pipe: idle?, held: 0 };
        if guard.pipe.is_none() {
            // Outside the lock, as it is a system call.
            guard.pipe = Some(make()?);
        }
        Some(guard)
    }
}

impl<P> Clone for Pipes<P> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<P> Drop for PipeGuard<P> {
    fn drop(&mut self) {
        let pipe = self.pipe.take();
        let surplus = self.inner.state.with(|state| match pipe {
            Some(pipe) if self.held == 0 && state.idle.len() < KEPT => {
                state.idle.push(pipe);
                None
            }
            pipe => {
                state.count -= 1;
                pipe
            }
        });
        drop(surplus); // closed outside the lock
    }
}

/// The pipes of one proxied connection's two directions.
#[derive(Debug)]
pub(super) struct Directions<P> {
    /// `None` where all goes through memory.
    pipes: Option<Pipes<P>>,
    /// The first of what was received from the client, and from the upstream, as far as that is in a pipe.
    from_client: Option<PipeGuard<P>>,
    from_upstream: Option<PipeGuard<P>>,
}

impl<P> Directions<P> {
    pub(super) fn new(pipes: Option<Pipes<P>>) -> Self {
        Self { pipes, from_client: None, from_upstream: None }
    }

    /// The socket of `side` for one turn, in which what is received there is bulk or not.
    pub(super) fn through<'a, S>(
        &'a mut self,
        side: Side,
        is_bulk: bool,
        socket: &'a mut S,
    ) -> Spliced<'a, S>
    where
        S: Splice<Pipe = P>,
    {
        let Self { pipes, from_client, from_upstream } = self;
        let (received, sent) = match side {
            Side::Client => (from_client, from_upstream),
            Side::Upstream => (from_upstream, from_client),
        };
        Spliced { socket, pipes, received, sent, is_bulk }
    }
}

/// A socket of a proxied connection, for one turn: what comes in bulk goes through a pipe instead of
/// the memory that the machine offers.
///
/// The machine need not know: it never looks at a byte, and its ring stays the account of how many there
/// are. A pipe is filled only while the ring is empty ([`Relay::is_bulk`](super::Relay::is_bulk) has the
/// machine wait for that), so what is in it comes before all that is in memory, and order is kept.
pub(super) struct Spliced<'a, S: Splice> {
    socket: &'a mut S,
    pipes: &'a mut Option<Pipes<S::Pipe>>,
    /// Of what was received from the socket, and of what is to be sent to it.
    received: &'a mut Option<PipeGuard<S::Pipe>>,
    sent: &'a mut Option<PipeGuard<S::Pipe>>,
    /// What is received next is one of many.
    is_bulk: bool,
}

impl<S: Splice> Source for Spliced<'_, S> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize, IoError>> {
        if self.is_bulk
            && let Some(pipes) = self.pipes
            && let Some(mut guard) = pipes.take(S::pipe)
            && let Some(pipe) = &mut guard.pipe
        {
            debug_assert!(self.received.is_none(), "bulk is sent before more is received");
            let filled = self.socket.poll_fill(cx, pipe, buf.len());
            // Where it has failed, nobody knows what is in it.
            guard.held = match &filled {
                Poll::Ready(Ok(Some(n))) => *n,
                Poll::Ready(Ok(None) | Err(IoError::Interrupted)) | Poll::Pending => 0,
                Poll::Ready(Err(IoError::Connection(_))) => buf.len(),
            };
            match ready!(filled)? {
                Some(n) => {
                    *self.received = (n > 0).then_some(guard);
                    return Poll::Ready(Ok(n));
                }
                None => *self.pipes = None,
            }
        }
        self.socket.poll_read(cx, buf)
    }
}

impl<S: Splice> Sink for Spliced<'_, S> {
    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<Result<usize, IoError>> {
        let Some(PipeGuard { pipe: Some(pipe), held, .. }) = self.sent else {
            return self.socket.poll_write(cx, bufs);
        };
        debug_assert!(
            *held <= bufs.iter().map(|buf| buf.len()).sum::<usize>(),
            "the machine has account of what is in the pipe"
        );
        let n = ready!(self.socket.poll_drain(cx, pipe, *held))?;
        *held -= n;
        if *held == 0 {
            *self.sent = None;
        }
        Poll::Ready(Ok(n))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        self.socket.poll_finish(cx)
    }

    fn reset(&mut self) {
        self.socket.reset();
    }

    fn unacknowledged(&self) -> usize {
        self.socket.unacknowledged()
    }
}

/// So many pipes are kept open although no byte is in them.
const KEPT: usize = 16;

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_pipe_that_was_given_back_is_lent_again_and_one_with_bytes_in_it_is_not() {
        let count = Cell::new(0);
        let number = || Some(count.replace(count.get() + 1));
        let pipes = Pipes::new(1);
        let take = || pipes.take(number).map(|lent| (lent.pipe, lent));
        let (first, lent) = take().unwrap();
        assert_eq!(first, Some(0));
        assert!(take().is_none(), "it is lent, and there may be one only");
        drop(lent);
        let (again, mut lent) = take().unwrap();
        assert_eq!(again, Some(0));
        lent.held = 7;
        drop(lent);
        assert_eq!(take().unwrap().0, Some(1));
    }

    #[test]
    fn a_pipe_that_could_not_be_made_leaves_room_for_the_next() {
        let pipes = Pipes::new(1);
        assert!(pipes.take(|| None::<u8>).is_none());
        assert!(pipes.take(|| Some(1)).is_some());
    }

    #[test]
    fn sixteen_stay_open_when_idle() {
        let pipes = Pipes::new(20);
        let lent: Vec<_> = (0..20).filter_map(|number| pipes.take(|| Some(number))).collect();
        assert_eq!(lent.len(), 20);
        drop(lent);
        let kept = pipes.inner.state.with(|state| (state.idle.len(), state.count));
        assert_eq!(kept, (16, 16));
    }

    #[test]
    fn without_a_limit_above_0_none_is_made() {
        assert!(Pipes::new(0).take(|| -> Option<u8> { unreachable!() }).is_none());
    }
}
