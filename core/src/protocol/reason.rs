//! Why a connection of a framed protocol ended.

use alloc::{borrow::Cow, format, string::String};
use core::time::Duration;

use super::NoSpace;
use crate::{
    ConnectionError, Direction, Fault, Reason, buffer::QuotaExceeded, machine::impl_reason,
    quantity::Time,
};

/// Why a connection of a framed protocol ended. `E` is the protocol's own
/// [`Error`](super::Protocol::Error).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolReason<E: Reason = Malformed> {
    /// The peer sent a FIN, or the protocol closed the connection
    /// ([`Replies::close`](super::Replies::close)). The peer was sent all replies.
    #[error("finished")]
    Finished,
    /// The only request was answered (`one_shot` of the message server).
    #[error("answered")]
    Answered,
    /// A shutdown was requested.
    #[error("shutdown requested")]
    ShutDown,
    /// There was no frame within [`Config::idle_timeout`](super::Config::idle_timeout).
    #[error("no request for {limit}", limit = Time(*limit))]
    IdleTimeout {
        /// The limit.
        limit: Duration,
        /// [`Config::idle_fault`](super::Config::idle_fault).
        fault: Fault,
    },
    /// The server was full, and closed this connection for a new one
    /// ([`Server::with_idle_connections`](super::Server::with_idle_connections)).
    #[error(
        "evicted for a new connection after {waited} in its last state; the limit of open \
         connections is {limit}",
        waited = Time(*waited)
    )]
    Evicted {
        /// How long the connection had been in its last [`Activity`](crate::idle::Activity).
        waited: Duration,
        /// The limit of open connections.
        limit: usize,
    },
    /// The protocol refused a frame, or an answer or the news failed.
    #[error("{0}")]
    Malformed(E),
    /// The input ended within a frame.
    #[error("the input ended after {}", of_frame(*received, *expected))]
    Truncated {
        /// Bytes of the frame that have arrived.
        received: u64,
        /// The length of the frame in bytes, as far as it is known; 0 if it is not.
        expected: u64,
    },
    /// A frame exceeds [`Config::max_frame`](super::Config::max_frame).
    #[error("a frame of {length} bytes or more, above the limit of {limit}")]
    FrameTooLong {
        /// The length in bytes, or a lower bound of it.
        length: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// A frame did not arrive in time ([`FrameTimeouts`](super::FrameTimeouts)).
    #[error("received {} within {limit}", of_frame(*received, *expected), limit = Time(*limit))]
    FrameTimeout {
        /// Bytes of the frame that have arrived.
        received: u64,
        /// The length of the frame in bytes, as far as it is known; 0 if it is not.
        expected: u64,
        /// Whether the whole header has arrived.
        has_header: bool,
        /// The limit, which depends on the bytes received
        /// ([`FrameTimeouts::min_rate`](super::FrameTimeouts::min_rate)).
        limit: Duration,
    },
    /// A frame or reply exceeds [`Config::max_memory`](super::Config::max_memory).
    #[error("no memory for a frame or reply: {0}")]
    Memory(#[from] QuotaExceeded),
    /// An answer was not ready within
    /// [`Config::service_timeout`](super::Config::service_timeout).
    #[error("no reply within {limit}; requests not answered: {unanswered}", limit = Time(*limit))]
    ServiceTimeout {
        /// The limit.
        limit: Duration,
        /// The number of requests without a reply.
        unanswered: usize,
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
    #[error(
        "lost while {direction}: {error}; unsent bytes: {unsent}, requests not answered: \
         {unanswered}"
    )]
    Lost {
        /// Whether a read or a write failed.
        direction: Direction,
        /// The error.
        error: ConnectionError,
        /// Bytes of output that were not written.
        unsent: usize,
        /// The number of requests without a reply.
        unanswered: usize,
    },
}

impl<E: Reason> ProtocolReason<E> {
    /// Whether the input, the service or a deadline failed, so that a protocol with error replies
    /// sends one: [`Malformed`](Self::Malformed), [`Truncated`](Self::Truncated),
    /// [`FrameTooLong`](Self::FrameTooLong), [`FrameTimeout`](Self::FrameTimeout),
    /// [`Memory`](Self::Memory), [`ServiceTimeout`](Self::ServiceTimeout).
    pub fn is_error(&self) -> bool {
        match self {
            Self::Malformed(_)
            | Self::Truncated { .. }
            | Self::FrameTooLong { .. }
            | Self::FrameTimeout { .. }
            | Self::Memory(_)
            | Self::ServiceTimeout { .. } => true,
            Self::Finished
            | Self::Answered
            | Self::ShutDown
            | Self::IdleTimeout { .. }
            | Self::Evicted { .. }
            | Self::WriteStalled { .. }
            | Self::Lost { .. } => false,
        }
    }
}

impl_reason!(<E> ProtocolReason<E> {
    Self::Finished => ("finished", Fault::None),
    Self::Answered => ("answered", Fault::None),
    Self::ShutDown => ("shut_down", Fault::Requested),
    Self::IdleTimeout { fault, .. } => ("idle_timeout", *fault),
    Self::Evicted { .. } => ("evicted", Fault::None),
    Self::Malformed(error) => (E: error),
    Self::Truncated { .. } => ("truncated", Fault::Peer),
    Self::FrameTooLong { .. } => ("frame_too_long", Fault::Limit),
    Self::FrameTimeout { has_header: false, .. } => ("header_timeout", Fault::Time),
    Self::FrameTimeout { has_header: true, .. } => ("content_timeout", Fault::Time),
    Self::Memory(_) => ("memory", Fault::Limit),
    Self::ServiceTimeout { .. } => ("service_timeout", Fault::Time),
    Self::WriteStalled { .. } => ("write_stalled", Fault::Time),
    Self::Lost { error, .. } => (ConnectionError: error, Fault::Lost),
});

impl<E: Reason> From<NoSpace> for ProtocolReason<E> {
    fn from(error: NoSpace) -> Self {
        match error {
            NoSpace::TooLong { length, limit } => Self::FrameTooLong { length, limit },
            NoSpace::Memory(exceeded) => Self::Memory(exceeded),
        }
    }
}

/// The text for a frame that is incomplete.
fn of_frame(received: u64, expected: u64) -> String {
    if expected == 0 {
        format!("{received} bytes of a frame")
    } else {
        format!("{received} of a frame's {expected} bytes")
    }
}

/// An error of a protocol that needs no more than a text: the peer broke the protocol.
///
/// `?` and `into` convert a text to it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub Cow<'static, str>);

impl<T: Into<Cow<'static, str>>> From<T> for Malformed {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl_reason!(Malformed {
    Self(_) => ("malformed", Fault::Peer),
});
