//! Why a connection of a status server ended.

use core::time::Duration;

use super::StatusCode;
use crate::{ConnectionError, Direction, Fault, machine::impl_reason};

/// Why a connection of a status server ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StatusReason {
    /// All requests were answered, and the peer closed the connection or requested its close.
    #[error("finished")]
    Finished,
    /// A request was refused in a way that ends the connection.
    #[error("refused: {code}: {message}")]
    Refused {
        /// The response's status code.
        code: StatusCode,
        /// The response's content.
        message: &'static str,
    },
    /// The peer closed its side within the head of a request.
    #[error("the peer closed its side within a request, after {received} bytes")]
    Truncated {
        /// Bytes of the request that were received.
        received: usize,
    },
    /// No request arrived in time.
    #[error("no request for {limit:?}")]
    IdleTimeout {
        /// [`Config::idle_timeout`](super::Config::idle_timeout).
        limit: Duration,
    },
    /// The server was full, and closed this connection for a new one: the first in the order of
    /// [`Activity`](crate::idle::Activity).
    #[error(
        "evicted for a new connection after {waited:.1?} in its last state; the limit of open \
         connections is {limit}"
    )]
    Evicted {
        /// How long the connection had been in its last activity.
        waited: Duration,
        /// [`MAX_CONNECTIONS`](super::MAX_CONNECTIONS).
        limit: usize,
    },
    /// The peer acknowledged neither a byte of a response nor the FIN in time.
    #[error("the peer acknowledged no byte for {limit:?}; bytes of the response pending: {unsent}")]
    WriteTimeout {
        /// [`Config::write_timeout`](super::Config::write_timeout).
        limit: Duration,
        /// Bytes of the response that the peer did not acknowledge.
        unsent: usize,
    },
    /// A shutdown was requested.
    #[error("shutdown requested")]
    ShutDown,
    /// The connection failed.
    #[error("lost while {direction}: {error}; bytes of the response pending: {unsent}")]
    Lost {
        /// Whether a read or a write failed.
        direction: Direction,
        /// The error.
        error: ConnectionError,
        /// Bytes of the response that were not sent.
        unsent: usize,
    },
}

impl_reason!(StatusReason {
    Self::Finished => ("finished", Fault::None),
    Self::Refused { code, .. } => code.reason(),
    Self::Truncated { .. } => ("truncated", Fault::Peer),
    // Clients keep idle connections so that the next request is quicker.
    Self::IdleTimeout { .. } => ("idle_timeout", Fault::None),
    Self::Evicted { .. } => ("evicted", Fault::None),
    Self::WriteTimeout { .. } => ("write_timeout", Fault::Time),
    Self::ShutDown => ("shut_down", Fault::Requested),
    Self::Lost { error, .. } => (error.label(), Fault::Lost),
});
