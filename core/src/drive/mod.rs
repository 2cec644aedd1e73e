//! The driver: moves bytes between a [`Machine`](crate::Machine) and a socket. It does no IO
//! itself: the socket is a [`Source`] and a [`Sink`].
//!
//! | to drive a machine | use | provide |
//! |---|---|---|
//! | on an async runtime | [`Drive`], a future | [`Source`], [`Sink`] and [`Clock`] |
//! | in an event loop of your own | `Seats`, or each [`Seat`] alone | [`Source`] and [`Sink`] |
//! | with your own buffers | [`deliver`], [`collect_into`], [`collect_owned`] | |
//!
//! A socket that can also [`Splice`] makes a proxy cheaper.
//!
//! # A turn
//!
//! A driver takes turns until nothing moves any more. A turn has these steps, in this order:
//!
//! 1. `poll_shared`;
//! 2. a write;
//! 3. the machine's interest once more, because the write may have ended the machine;
//! 4. a read;
//! 5. a flush of the sink.
//!
//! Deadlines come after the last turn. A process that was suspended for a minute finds both an
//! expired deadline and the request that arrived in time, and a queue of events may report the
//! deadline first. So the driver tries to read again before it handles a deadline
//! ([`Source::recheck`]). A deadline that has been overdue for 100 ms is handled although input
//! still arrives, so a peer cannot escape it by a flood of input.

mod buffers;
mod future;
pub(crate) mod seat;
#[cfg(feature = "std")]
mod seats;
pub(crate) mod session;
mod splice;
mod throttling;
pub(crate) mod timer;
mod turn;

use core::task::{Context, Poll};

use bytes::Bytes;

#[cfg(feature = "std")]
pub use self::seats::Seats;
#[cfg(feature = "std")]
pub(crate) use self::turn::{Direct, Readiness, Transfer, Turn, at_most, flush, turn};
pub use self::{
    buffers::{collect_into, collect_owned, deliver},
    future::Drive,
    seat::Seat,
    session::{Budget, Ended, Next},
    splice::Splice,
};
pub use crate::machine::MAX_SLICES;
use crate::{ConnectionError, Instant};

/// The readable half of a connection.
pub trait Source {
    /// Receives into `buf`, which is not empty, and returns the number of bytes; 0 is the peer's
    /// FIN.
    ///
    /// # Errors
    /// After [`IoError::Interrupted`], the driver repeats the call. Any other error ends this half.
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize, IoError>>;

    /// Clears cached readiness: the next read and the next write ask the kernel. A driver calls
    /// this before it handles a deadline, because a runtime's queue of events may be late. Default:
    /// does nothing, for sockets that always ask the kernel.
    fn recheck(&mut self) {}
}

/// The writable half of a connection.
pub trait Sink {
    /// Sends from `bufs` in order, in one vectored write, and returns the number of bytes. There is
    /// at least one buffer, and none is empty.
    ///
    /// # Errors
    /// After [`IoError::Interrupted`], the driver repeats the call. Any other error ends this half.
    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<Result<usize, IoError>>;

    /// The most bytes that [`poll_write_owned`](Self::poll_write_owned) accepts, for a sink whose
    /// writes complete later. Default: 0, for a sink that is written to by
    /// [`poll_write`](Self::poll_write) only.
    fn max_owned(&self) -> usize {
        0
    }

    /// Accepts `bufs` in order and returns the number of bytes, which the sink owns from then on.
    /// There is at least one buffer, none is empty, and together they have at most
    /// [`max_owned`](Self::max_owned) bytes. Default: writes the first buffer with
    /// [`poll_write`](Self::poll_write).
    ///
    /// # Errors
    /// As [`poll_write`](Self::poll_write).
    fn poll_write_owned(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [Bytes],
    ) -> Poll<Result<usize, IoError>> {
        self.poll_write(cx, &[&bufs[0]])
    }

    /// Sends output that the sink holds (TLS records, queued sends). Ready when it holds none,
    /// pending while the socket is not writable. Default: ready.
    ///
    /// The driver calls it in every turn and after every read, since a read can create output too.
    /// A sink whose buffer is full must not accept new writes.
    ///
    /// # Errors
    /// As [`poll_write`](Self::poll_write).
    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        Poll::Ready(Ok(()))
    }

    /// The number of bytes that [`poll_flush`](Self::poll_flush) has not sent yet. Once the machine
    /// has ended, the driver resets the connection if the number does not fall for
    /// [`Seat::flush_timeout`]. Default: 0.
    fn held(&self) -> usize {
        0
    }

    /// Flushes, then sends a FIN (shutdown(2) with `SHUT_WR`).
    ///
    /// # Errors
    /// After [`IoError::Interrupted`], the driver repeats the call. Any other error ends this half.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), IoError>>;

    /// Closes the socket with an RST: sets `SO_LINGER` to 0 and closes the last descriptor
    /// (socket(7)). The driver calls nothing after it.
    ///
    /// The kernel discards output that the peer has not acknowledged. To send all output before the
    /// reset, wait until [`unacknowledged`](Self::unacknowledged) is 0.
    fn reset(&mut self);

    /// The number of bytes written that the peer has not acknowledged (`SIOCOUTQ`; tcp(7)),
    /// including those that the sink [holds](Self::held).
    ///
    /// No waker is woken when the number changes. Default: 0; deadlines then count the bytes that
    /// the sink accepts as progress.
    fn unacknowledged(&self) -> usize {
        0
    }
}

#[deny(clippy::missing_trait_methods, reason = "a default method would hide the source's own")]
impl<S: Source + ?Sized> Source for &mut S {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize, IoError>> {
        (**self).poll_read(cx, buf)
    }

    fn recheck(&mut self) {
        (**self).recheck();
    }
}

#[deny(clippy::missing_trait_methods, reason = "a default method would hide the sink's own")]
impl<S: Sink + ?Sized> Sink for &mut S {
    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<Result<usize, IoError>> {
        (**self).poll_write(cx, bufs)
    }

    fn max_owned(&self) -> usize {
        (**self).max_owned()
    }

    fn poll_write_owned(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [Bytes],
    ) -> Poll<Result<usize, IoError>> {
        (**self).poll_write_owned(cx, bufs)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        (**self).poll_flush(cx)
    }

    fn held(&self) -> usize {
        (**self).held()
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        (**self).poll_finish(cx)
    }

    fn reset(&mut self) {
        (**self).reset();
    }

    fn unacknowledged(&self) -> usize {
        (**self).unacknowledged()
    }
}

/// A clock with one alarm.
pub trait Clock {
    /// Whether an alarm stays set until it fires or is replaced. Default: false.
    ///
    /// If true, the alarm wakes the waker that it was set with, and not before [`now`](Self::now)
    /// reaches the deadline. A driver sets such an alarm again only for another deadline or another
    /// waker.
    const PERSISTENT: bool = false;

    /// The current time. All readings of one clock have the same epoch.
    fn now(&self) -> Instant;

    /// Ready once `deadline` is reached. Until then, sets the alarm for `deadline`, which wakes
    /// `cx`. It replaces an alarm that was set before.
    fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()>;

    /// Wakes `cx` after other tasks have run, including those whose sockets became ready meanwhile.
    ///
    /// Default: wakes `cx` at once, which is enough on an executor that runs a woken task after all
    /// ready ones and polls the sockets in between.
    fn yield_now(&mut self, cx: &mut Context<'_>) {
        cx.waker().wake_by_ref();
    }
}

/// Why a call on a socket failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// A signal interrupted the call (`EINTR`): the driver repeats it.
    #[error("interrupted by a signal")]
    Interrupted,
    /// This half of the connection has failed.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
}

#[cfg(feature = "std")]
impl From<std::io::Error> for IoError {
    /// Classifies the error, for all runtimes alike. A runtime must turn `WouldBlock` into
    /// `Poll::Pending` before.
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind;
        #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is not ours, and open")]
        Self::Connection(match error.kind() {
            ErrorKind::Interrupted => return Self::Interrupted,
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::NotConnected => ConnectionError::Reset,
            ErrorKind::TimedOut => ConnectionError::TimedOut,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => {
                ConnectionError::Unreachable
            }
            ErrorKind::WriteZero => ConnectionError::WriteZero,
            _ => ConnectionError::Other { errno: error.raw_os_error().unwrap_or(0) },
        })
    }
}
