//! Moving bytes from one socket to another inside the kernel (splice(2)).

use core::{
    fmt::Debug,
    task::{Context, Poll},
};

use super::{IoError, Sink, Source};

/// A connected socket that can move bytes into a pipe, and from a pipe, without copying them
/// through memory (splice(2)).
///
/// Filling and draining are separate calls, like a read and a write, and wait for readiness like
/// them. Only [`proxy::serve`](crate::proxy::serve()) needs such sockets.
pub trait Splice: Source + Sink {
    /// A pipe (pipe(7)). Dropping it discards the bytes in it.
    type Pipe: Debug + Send + 'static;

    /// Creates a pipe. `None` if there is no free descriptor.
    fn pipe() -> Option<Self::Pipe>;

    /// Whether this socket can splice. Bytes of one that cannot go through memory, in both
    /// directions. Default: true.
    fn can_splice(&self) -> bool {
        true
    }

    /// Receives up to `max` bytes into `pipe`, which is empty, and returns their number; `max` is
    /// at least 1. `Some(0)` is the peer's FIN. `None` means that this socket cannot splice:
    /// nothing has happened, and the caller reads instead.
    ///
    /// # Errors
    /// As [`poll_read`](Source::poll_read).
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Self::Pipe,
        max: usize,
    ) -> Poll<Result<Option<usize>, IoError>>;

    /// Sends the first of the `held` bytes in `pipe`, at least one, and returns how many were sent.
    ///
    /// # Errors
    /// As [`poll_write`](Sink::poll_write).
    fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Self::Pipe,
        held: usize,
    ) -> Poll<Result<usize, IoError>>;
}
