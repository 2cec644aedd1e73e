//! Bytes that pass from socket to socket through the kernel alone.

use core::{
    fmt::Debug,
    task::{Context, Poll},
};

use super::{IoError, Sink, Source};

/// A connected socket whose bytes can go to another one without being copied into memory and out of
/// it again: into a pipe, and from there into the other socket (splice(2)).
///
/// The two halves of the way are calls of their own, as a read and a write are, and wait for
/// readiness as those do. Only [`proxy::serve`](crate::proxy::serve()) needs such sockets.
pub trait Splice: Source + Sink {
    /// A pipe (pipe(7)). Dropped, it throws away what it holds.
    type Pipe: Debug + Send + 'static;

    /// A new pipe; `None` where none can be made, for want of descriptors.
    fn pipe() -> Option<Self::Pipe>;

    /// Receives into `pipe`, which is empty, up to `most` bytes, which is not 0; a pipe can take
    /// less than there is. `Some(0)` is the peer's FIN. `None`: this socket can't, nothing has
    /// happened, and a read is as good as before.
    ///
    /// # Errors
    /// As [`poll_read`](Source::poll_read).
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Self::Pipe,
        most: usize,
    ) -> Poll<Result<Option<usize>, IoError>>;

    /// Sends the first bytes of the `held` that are in `pipe`, of which there is one at least; as
    /// many as there is room for, and answers how many.
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
