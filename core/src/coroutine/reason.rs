//! Why an operation failed, and why a coroutine's connection ended.

use core::time::Duration;

use crate::{ConnectionError, Direction, Fault, machine::impl_reason, quantity::Time};

/// Why an operation of [`Io`](super::Io) failed. The connection still works: the coroutine may
/// write an error reply.
///
/// It is a [`Reason`](crate::Reason), so a coroutine that has no errors of its own returns it.
/// Otherwise give your error a variant for it, with `#[from]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The peer has sent a FIN before the bytes that were waited for.
    #[error("the input ended after {received} of {expected} bytes")]
    Truncated {
        /// How many of the bytes have arrived.
        received: usize,
        /// The number of bytes; one more than received if it depends on a delimiter.
        expected: usize,
    },
    /// There is no delimiter within the limit of [`read_until`](super::Io::read_until).
    #[error("no delimiter within {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// A read waited for [`Config::read_timeout`](super::Config::read_timeout).
    #[error("no byte received for {limit}", limit = Time(*limit))]
    ReadTimeout {
        /// The limit.
        limit: Duration,
    },
    /// The deadline of the coroutine has passed ([`Config::deadline`](super::Config::deadline),
    /// [`Io::set_deadline`](super::Io::set_deadline)).
    #[error("not finished within {limit}", limit = Time(*limit))]
    Deadline {
        /// The limit.
        limit: Duration,
    },
    /// A shutdown was requested, and no more input is on its way.
    #[error("shutdown requested")]
    ShutDown,
}

impl_reason!(Error {
    Self::Truncated { .. } => ("truncated", Fault::Peer),
    Self::TooLong { .. } => ("too_long", Fault::Limit),
    Self::ReadTimeout { .. } => ("read_timeout", Fault::Time),
    Self::Deadline { .. } => ("deadline", Fault::Time),
    Self::ShutDown => ("shut_down", Fault::Requested),
});

/// Why a coroutine's connection ended. `E` is the coroutine's error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CoroutineReason<E> {
    /// The coroutine returned `Ok`.
    #[error("finished")]
    Finished,
    /// The coroutine returned this error.
    #[error("{0}")]
    Failed(E),
    /// The coroutine has not returned although its deadline has passed ([`Error::Deadline`]).
    #[error("not finished within {limit}", limit = Time(*limit))]
    Deadline {
        /// The limit.
        limit: Duration,
    },
    /// The peer acknowledged no output within
    /// [`Config::write_timeout`](super::Config::write_timeout).
    #[error(
        "no byte acknowledged for {limit}; bytes not acknowledged: {unacknowledged}",
        limit = Time(*limit)
    )]
    WriteStalled {
        /// The limit.
        limit: Duration,
        /// Bytes of output that the peer has not acknowledged.
        unacknowledged: usize,
    },
    /// The connection failed.
    #[error("lost while {direction}: {error}; unsent bytes: {unsent}")]
    Lost {
        /// Whether a read or a write failed.
        direction: Direction,
        /// The error.
        error: ConnectionError,
        /// Bytes of output that were not written.
        unsent: usize,
    },
}

impl_reason!(<E> CoroutineReason<E> {
    Self::Finished => ("finished", Fault::None),
    Self::Failed(error) => (E: error),
    Self::Deadline { .. } => ("deadline", Fault::Time),
    Self::WriteStalled { .. } => ("write_stalled", Fault::Time),
    Self::Lost { error, .. } => (ConnectionError: error, Fault::Lost),
});
