//! The driver: what moves bytes between a [`Machine`](crate::Machine) and a socket. It is free of
//! IO as well.
//!
//! | to drive a machine | take | bring |
//! |---|---|---|
//! | on an async runtime | [`Drive`], a future | [`Source`], [`Sink`] and [`Clock`] |
//! | in an event loop of your own | [`Seat`], which is polled | [`Source`] and [`Sink`] |
//! | with buffers of your own (`io_uring`) | [`deliver`], [`collect_into`], [`collect_owned`] | nothing |
//!
//! A socket that can also [`Splice`] makes a proxy cheaper.
//!
//! A turn is, in this order: shared state, a write, **the machine's interest again**, a read, a
//! flush of the sink; and only when nothing of that moves any more, a deadline that has passed. The
//! interest is asked again because a machine that finished in the write must not be told of an end
//! of input that it did not ask for. Time comes last because a process that was stopped for a
//! minute finds both an expired deadline and the request that had arrived in time. A queue of
//! events may report the first before the second, so the socket is asked once more in between
//! ([`Source::recheck`]). A peer whose input never ends does not escape its deadlines by that: a
//! deadline that stays overdue for 100 ms is handled all the same.

mod buffers;
mod future;
pub(crate) mod seat;
pub(crate) mod session;
mod splice;
pub(crate) mod timer;
mod turn;

use core::task::{Context, Poll};

use bytes::Bytes;

#[cfg(feature = "std")]
pub(crate) use self::turn::{Direct, Readiness, Transfer, Turn, flush, turn};
pub use self::{
    buffers::{collect_into, collect_owned, deliver},
    future::Drive,
    seat::{Next, Seat},
    session::{Budget, Ended},
    splice::Splice,
    turn::MAX_SLICES,
};
use crate::{ConnectionError, Instant};

/// The half of a connection that bytes come from.
pub trait Source {
    /// Receives into `buf`, which is not empty; 0 is the peer's FIN.
    ///
    /// # Errors
    /// [`IoError::Interrupted`] asks for the same call again; anything else ends this half.
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize, IoError>>;

    /// The next read, and where this is a [`Sink`] too the next write, is to ask the kernel itself:
    /// what a queue of events has told so far may be late, and something irrevocable is about to be
    /// done because nothing has come. By default nothing, for sockets that always ask.
    fn recheck(&mut self) {}
}

/// The half of a connection that bytes go to.
pub trait Sink {
    /// Sends from `bufs`, at least one and none of them empty, in order: one vectored write.
    ///
    /// # Errors
    /// [`IoError::Interrupted`] asks for the same call again; anything else ends this half.
    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<Result<usize, IoError>>;

    /// The most bytes that a write takes as buffers of its own, for a sink whose writes complete
    /// later. Default: 0, for a sink that has copied or sent what it takes when
    /// [`poll_write`](Self::poll_write) returns; [`poll_write_owned`](Self::poll_write_owned) is
    /// then not called.
    fn max_owned(&self) -> usize {
        0
    }

    /// Takes `bufs`, at least one and none of them empty, at most [`max_owned`](Self::max_owned)
    /// bytes, in order, and returns how many bytes it has taken: they are the sink's from then on.
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

    /// Sends output that the sink holds (TLS records, queued sends); ready when it holds none.
    ///
    /// It is called at every turn, since a read can cause output as well. A sink that is full takes
    /// no new write before it has room. Pending means that the socket is not writable; it is also
    /// called again after each read. Default: ready, for a sink that holds nothing.
    ///
    /// # Errors
    /// As [`poll_write`](Self::poll_write).
    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        Poll::Ready(Ok(()))
    }

    /// How many bytes [`poll_flush`](Self::poll_flush) has still to send. Once the machine has
    /// ended, the connection is reset when the figure stays the same for too long
    /// ([`Seat::flush_timeout`]). Default: 0.
    fn held(&self) -> usize {
        0
    }

    /// Sends a FIN behind what was written: flushes, then shuts the writing half down
    /// (shutdown(2)).
    ///
    /// # Errors
    /// [`IoError::Interrupted`] asks for the same call again; anything else ends this half.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), IoError>>;

    /// Closes the socket with an RST, although this value still exists (`SO_LINGER` of 0 and the
    /// last descriptor closed; socket(7)). Nothing is called after it.
    ///
    /// The kernel discards what the peer has not acknowledged. A caller whose reset is to follow
    /// its output waits until [`unacknowledged`](Self::unacknowledged) is 0.
    fn reset(&mut self);

    /// The bytes that were written and that the peer has not acknowledged (`SIOCOUTQ`; tcp(7)),
    /// with those that the sink [holds](Self::held).
    ///
    /// No waker is woken when the figure changes. Default: 0, for a sink that does not know it;
    /// deadlines then follow what the sink takes.
    fn unacknowledged(&self) -> usize {
        0
    }
}

/// A clock with one alarm.
pub trait Clock {
    /// Whether an alarm that is set stays set without another call before each sleep, and wakes the
    /// waker that it was set with, not before [`now`](Self::now) has reached it. A driver then
    /// calls again only for another deadline or another waker, or when the time has come.
    const PERSISTENT: bool = false;

    /// The time. One clock's readings all have one epoch.
    fn now(&self) -> Instant;

    /// Ready once `deadline` is reached; until then the alarm is set for it, and wakes `cx`.
    /// A later call with another deadline sets the alarm anew.
    fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()>;

    /// Wakes `cx` after other tasks have run, including those whose sockets became ready meanwhile.
    ///
    /// By default it is woken at once. This is enough for an executor that runs a woken task after
    /// those that are ready, and that polls the sockets often enough.
    fn yield_now(&mut self, cx: &mut Context<'_>) {
        cx.waker().wake_by_ref();
    }
}

/// Why a call on a socket failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// A signal came in between (`EINTR`): the call is made again.
    #[error("interrupted by a signal")]
    Interrupted,
    /// This half of the connection is gone.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
}

#[cfg(feature = "std")]
impl From<std::io::Error> for IoError {
    /// The same classification for all runtimes. `WouldBlock` is not an error at this seam: a
    /// runtime answers it with `Poll::Pending`.
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
