//! A sink that buffers output, as TLS and completion queues do.

use std::{
    collections::VecDeque,
    num::NonZeroUsize,
    task::{Context, Poll, ready},
};

use wirestate_core::{
    ConnectionError,
    drive::{IoError, Sink, Source},
};

/// A socket with a write buffer, which [`poll_flush`](Sink::poll_flush) sends.
///
/// A full buffer accepts no write until the socket has taken some of its bytes. Dropping it
/// discards the buffered bytes and drops the socket.
///
/// ```
/// use wirestate_core::{Machine, drive::Drive};
/// use wirestate_testkit::sim::{Buffering, Clock, Socket};
///
/// async fn drive(machine: impl Machine + Unpin, socket: Socket, clock: Clock) {
///     let capacity = 4096.try_into().expect("4096 is not 0");
///     Drive::new(machine, Buffering::new(socket, capacity), clock).await;
/// }
/// ```
#[derive(Debug)]
pub struct Buffering<S> {
    socket: S,
    capacity: usize,
    buffered: VecDeque<u8>,
}

impl<S> Buffering<S> {
    /// Wraps `socket` in a buffer of `capacity` bytes.
    pub fn new(socket: S, capacity: NonZeroUsize) -> Self {
        Self { socket, capacity: capacity.get(), buffered: VecDeque::new() }
    }
}

impl<S: Sink> Buffering<S> {
    /// Writes buffered bytes to the socket, once.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        let (first, second) = self.buffered.as_slices();
        let bufs = if second.is_empty() { &[first][..] } else { &[first, second] };
        let sent = ready!(self.socket.poll_write(cx, bufs))?;
        self.buffered.drain(..sent);
        Poll::Ready(if sent > 0 { Ok(()) } else { Err(ConnectionError::WriteZero.into()) })
    }
}

impl<S: Source> Source for Buffering<S> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize, IoError>> {
        self.socket.poll_read(cx, buf)
    }

    fn recheck(&mut self) {
        self.socket.recheck();
    }
}

impl<S: Sink> Sink for Buffering<S> {
    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<Result<usize, IoError>> {
        if self.buffered.len() == self.capacity {
            ready!(self.poll_send(cx))?;
        }
        let before = self.buffered.len();
        let space = self.capacity - before;
        self.buffered.extend(bufs.iter().copied().flatten().take(space));
        Poll::Ready(Ok(self.buffered.len() - before))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        while !self.buffered.is_empty() {
            ready!(self.poll_send(cx))?;
        }
        self.socket.poll_flush(cx)
    }

    fn held(&self) -> usize {
        self.buffered.len() + self.socket.held()
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        ready!(self.poll_flush(cx))?;
        self.socket.poll_finish(cx)
    }

    fn reset(&mut self) {
        self.socket.reset();
    }

    fn unacknowledged(&self) -> usize {
        self.buffered.len() + self.socket.unacknowledged()
    }
}
