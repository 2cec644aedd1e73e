//! The trait by which a runtime waits until a descriptor is ready.

use std::{
    io,
    os::fd::OwnedFd,
    task::{Context, Poll},
};

use wirestate_core::Direction;

use crate::stream::{receive, send};

/// A non-blocking socket that is registered with a runtime, which reports when it is ready.
///
/// On tokio it wraps an `AsyncFd`, on smol an `Async`. The sockets of the runtimes differ only in
/// this.
pub trait RegisteredFd: Sized {
    /// Registers a non-blocking socket.
    ///
    /// # Errors
    /// The runtime does not accept the socket.
    ///
    /// # Panics
    /// If the caller does not run on the runtime (tokio).
    fn register(fd: OwnedFd) -> io::Result<Self>;

    /// The socket.
    fn get_ref(&self) -> &OwnedFd;

    /// Makes a non-blocking call, and repeats it whenever the socket becomes ready, until it
    /// returns anything except [`WouldBlock`](io::ErrorKind::WouldBlock).
    ///
    /// # Errors
    /// The error of `call`.
    fn poll_io<T>(
        &mut self,
        cx: &mut Context<'_>,
        direction: Direction,
        call: impl FnMut(&OwnedFd) -> io::Result<T>,
    ) -> Poll<io::Result<T>>;

    /// [Receives](receive) into `buf`. Override it to save system calls: a read that fills less
    /// than `buf` has emptied the socket, so the next read can wait for readiness first.
    ///
    /// # Errors
    /// The operating system's (recv(2)).
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_io(cx, Direction::Read, |socket| receive(socket, buf))
    }

    /// [Sends](send) from `bufs`.
    ///
    /// # Errors
    /// The operating system's (send(2)).
    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<io::Result<usize>> {
        self.poll_io(cx, Direction::Write, |socket| send(socket, bufs))
    }

    /// Makes the next call in each direction ask the kernel, regardless of the readiness that the
    /// runtime has stored: see [`Source::recheck`](wirestate_core::drive::Source::recheck).
    fn recheck(&mut self);
}
