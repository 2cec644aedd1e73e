//! The pipes that bytes pass through which come in bulk.

use std::{
    fmt,
    task::{Context, Poll, ready},
    vec::Vec,
};

use crate::{
    drive::{Failed, Sink, Source, Splice},
    shared::{Lock, Shared},
};

/// The pipes of one proxy: a bounded number, lent to directions that have bytes in them. Clones are the
/// same ones.
pub(super) struct Pipes<P> {
    stock: Shared<Stock<P>>,
}

struct Stock<P> {
    limit: usize,
    pipes: Lock<Made<P>>,
}

struct Made<P> {
    idle: Vec<P>,
    /// The idle ones included.
    count: usize,
}

/// A pipe that is lent. Dropped, it goes back if it is empty.
struct Lent<P> {
    from: Shared<Stock<P>>,
    pipe: Option<P>,
    /// Bytes in it.
    held: usize,
}

impl<P> Pipes<P> {
    /// At most `limit` of them.
    pub(super) fn new(limit: usize) -> Self {
        let pipes = Lock::new(Made { idle: Vec::new(), count: 0 });
        Self { stock: Shared::new(Stock { limit, pipes }) }
    }

    /// An empty one; `None` where all are lent, or `make` has none.
    fn take(&self, make: impl FnOnce() -> Option<P>) -> Option<Lent<P>> {
        let idle = self.stock.pipes.with(|made| {
            let idle = made.idle.pop();
            if idle.is_none() {
                if made.count == self.stock.limit {
                    return None;
                }
                made.count += 1;
            }
            Some(idle)
        });
        let mut lent = Lent { from: self.stock.clone(), pipe: idle?, held: 0 };
        if lent.pipe.is_none() {
            // Outside the lock, as it is a system call.
            lent.pipe = Some(make()?);
        }
        Some(lent)
    }
}

impl<P> Clone for Pipes<P> {
    fn clone(&self) -> Self {
        Self { stock: self.stock.clone() }
    }
}

impl<P> fmt::Debug for Pipes<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipes").field("limit", &self.stock.limit).finish_non_exhaustive()
    }
}

impl<P> Drop for Lent<P> {
    fn drop(&mut self) {
        let pipe = self.pipe.take();
        let full = self.from.pipes.with(|made| match pipe {
            Some(pipe) if self.held == 0 => {
                made.idle.push(pipe);
                None
            }
            pipe => {
                made.count -= 1;
                pipe
            }
        });
        drop(full); // closed outside the lock
    }
}

/// One direction's way through the kernel: a pipe while bytes are in it.
pub(super) struct Channel<P> {
    lent: Option<Lent<P>>,
}

impl<P> Channel<P> {
    pub(super) const EMPTY: Self = Self { lent: None };
}

impl<P> fmt::Debug for Channel<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.lent.as_ref().map_or(0, |lent| lent.held);
        f.debug_struct("Channel").field("held", &held).finish()
    }
}

/// A socket of a proxied connection, for one turn: what comes in bulk goes through a pipe instead of
/// the memory that the machine offers.
///
/// The machine need not know: it never looks at a byte, and its ring stays the account of how many there
/// are. It only has to have a direction empty before a pipe stands in for its memory, and to fill that again
/// only when it is empty ([`Relay::is_bulk`](super::Relay::is_bulk)): so all bytes of a direction are in one
/// place at any time, and their order is kept.
pub(super) struct Through<'a, S: Splice> {
    pub(super) socket: &'a mut S,
    /// `None` where all goes through memory.
    pub(super) pipes: &'a mut Option<Pipes<S::Pipe>>,
    /// What was received from the socket, and what is to be sent to it.
    pub(super) received: &'a mut Channel<S::Pipe>,
    pub(super) sent: &'a mut Channel<S::Pipe>,
    /// What is received next is one of many.
    pub(super) is_bulk: bool,
}

impl<S: Splice> Source for Through<'_, S> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize, Failed>> {
        if self.is_bulk
            && let Some(pipes) = self.pipes
            && let Some(mut lent) = pipes.take(S::pipe)
            && let Some(pipe) = &mut lent.pipe
        {
            debug_assert!(self.received.lent.is_none(), "it was sent before more is received");
            match ready!(self.socket.poll_fill(cx, pipe, buf.len())) {
                Ok(Some(n)) => {
                    lent.held = n;
                    self.received.lent = (n > 0).then_some(lent);
                    return Poll::Ready(Ok(n));
                }
                Ok(None) => *self.pipes = None,
                Err(failed) => return Poll::Ready(Err(failed)),
            }
        }
        self.socket.poll_read(cx, buf)
    }
}

impl<S: Splice> Sink for Through<'_, S> {
    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<Result<usize, Failed>> {
        let Some(lent) = &mut self.sent.lent else { return self.socket.poll_write(cx, bufs) };
        let Some(pipe) = &mut lent.pipe else { unreachable!("a lent pipe is there") };
        debug_assert_eq!(
            lent.held,
            bufs.iter().map(|buf| buf.len()).sum::<usize>(),
            "the machine's account of what is in the pipe"
        );
        let n = ready!(self.socket.poll_drain(cx, pipe, lent.held))?;
        lent.held -= n;
        if lent.held == 0 {
            self.sent.lent = None;
        }
        Poll::Ready(Ok(n))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        self.socket.poll_finish(cx)
    }

    fn reset(&mut self) {
        self.socket.reset();
    }

    fn is_sent(&self) -> bool {
        self.socket.is_sent()
    }
}

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
    fn without_a_limit_above_0_none_is_made() {
        assert!(Pipes::new(0).take(|| -> Option<u8> { unreachable!() }).is_none());
    }
}
