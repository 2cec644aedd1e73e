//! Why a client's connection ended, and why a request failed.

use core::time::Duration;

use crate::{
    ConnectionError, Direction, Fault,
    machine::impl_reason,
    message::{DecodeError, EncodeError},
    quantity::Time,
};

/// Why a client's connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientReason {
    /// A shutdown was requested, and all requests that were sent have replies.
    #[error("closed")]
    ShutDown,
    /// The server closed the connection while no request was in flight.
    #[error("the server closed the connection")]
    Closed,
    /// The server closed the connection while requests were in flight.
    #[error(
        "the server closed the connection before it replied (requests not answered: {unanswered})"
    )]
    ClosedEarly {
        /// The number of requests without a reply.
        unanswered: usize,
    },
    /// The input is not a sequence of frames.
    #[error("malformed reply: {0}")]
    Malformed(#[from] DecodeError),
    /// The server sent a reply while no request was in flight.
    #[error("the server sent a reply to no request")]
    UnexpectedReply,
    /// No reply began within [`ClientConfig::reply_timeout`](super::ClientConfig::reply_timeout).
    #[error("no reply within {limit}", limit = Time(*limit))]
    ReplyTimeout {
        /// The limit.
        limit: Duration,
    },
    /// A reply did not arrive in time ([`FrameTimeouts`](super::super::FrameTimeouts)).
    #[error(
        "received {received} of a reply's {expected} bytes within {limit}",
        limit = Time(*limit)
    )]
    FrameTimeout {
        /// Bytes of the frame that have arrived.
        received: u64,
        /// The length of the frame in bytes, as far as it is known
        /// ([`DecodeError::Truncated::expected`]).
        expected: u64,
        /// Whether the whole header has arrived.
        has_header: bool,
        /// The limit, which depends on the bytes received
        /// ([`FrameTimeouts::min_rate`](crate::message::FrameTimeouts::min_rate)).
        limit: Duration,
    },
    /// The server acknowledged no output within
    /// [`ClientConfig::write_timeout`](super::ClientConfig::write_timeout).
    #[error(
        "the server acknowledged no byte for {limit}; bytes not acknowledged: {unacknowledged}",
        limit = Time(*limit)
    )]
    WriteStalled {
        /// The limit.
        limit: Duration,
        /// Bytes of output that the server has not acknowledged.
        unacknowledged: usize,
    },
    /// The connection failed.
    #[error("{error} while {direction}")]
    Lost {
        /// Whether a read or a write failed.
        direction: Direction,
        /// The error.
        error: ConnectionError,
    },
    /// The [`Client`](super::Client) was dropped.
    #[error("the client was dropped")]
    Dropped,
}

impl_reason!(ClientReason {
    Self::ShutDown => ("shut_down", Fault::Requested),
    Self::Closed => ("closed", Fault::None),
    Self::ClosedEarly { .. } => ("closed_early", Fault::Peer),
    Self::Malformed(error) => (DecodeError: error),
    Self::UnexpectedReply => ("unexpected_reply", Fault::Peer),
    Self::ReplyTimeout { .. } => ("reply_timeout", Fault::Time),
    Self::FrameTimeout { has_header: false, .. } => ("header_timeout", Fault::Time),
    Self::FrameTimeout { has_header: true, .. } => ("content_timeout", Fault::Time),
    Self::WriteStalled { .. } => ("write_stalled", Fault::Time),
    Self::Lost { error, .. } => (ConnectionError: error, Fault::Lost),
    Self::Dropped => ("dropped", Fault::Requested),
});

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The request cannot be encoded. The connection continues.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// [`ClientConfig::max_in_flight`](super::ClientConfig::max_in_flight) requests are in flight.
    /// The connection continues.
    #[error("{limit} requests are in flight, which is the limit")]
    Busy {
        /// The limit.
        limit: usize,
    },
    /// Too much output is pending. The connection continues.
    #[error("{pending} bytes of requests are pending; the limit is {limit}")]
    Full {
        /// Bytes of output that are pending.
        pending: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The connection has ended, or is ending.
    #[error(transparent)]
    Ended(#[from] ClientReason),
}
