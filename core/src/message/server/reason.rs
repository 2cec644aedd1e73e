//! Why a server's connection ended.

use core::time::Duration;

use crate::{
    ConnectionError, Direction, Fault,
    buffer::QuotaExceeded,
    machine::impl_reason,
    message::{DecodeError, Message},
};

/// Why a server's connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageReason {
    /// The peer sent a FIN, and was sent all replies.
    #[error("finished")]
    Finished,
    /// The only request was answered ([`Config::one_shot`](super::Config::one_shot)).
    #[error("answered")]
    Answered,
    /// A shutdown was requested.
    #[error("shutdown requested")]
    ShutDown,
    /// There was no request within [`Config::idle_timeout`](super::Config::idle_timeout).
    #[error("no request for {limit:?}")]
    IdleTimeout {
        /// The limit.
        limit: Duration,
    },
    /// The input is not a sequence of frames.
    #[error("{0}")]
    Malformed(#[from] DecodeError),
    /// A frame did not arrive in time ([`FrameTimeouts`](super::super::FrameTimeouts)).
    #[error("received {received} of a frame's {expected} bytes within {limit:?}")]
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
    /// A content exceeds [`Config::max_memory`](super::Config::max_memory).
    #[error("no memory for a content: {0}")]
    Memory(#[from] QuotaExceeded),
    /// The service did not reply within
    /// [`Config::service_timeout`](super::Config::service_timeout).
    #[error("no reply within {limit:?}; requests not answered: {unanswered}")]
    ServiceTimeout {
        /// The limit.
        limit: Duration,
        /// The number of requests without a reply.
        unanswered: usize,
    },
    /// The peer acknowledged no output within
    /// [`Config::write_timeout`](super::Config::write_timeout).
    #[error("no byte acknowledged for {limit:?}; bytes not acknowledged: {unacknowledged}")]
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

impl_reason!(MessageReason {
    Self::Finished => ("finished", Fault::None),
    Self::Answered => ("answered", Fault::None),
    Self::ShutDown => ("shut_down", Fault::Requested),
    Self::IdleTimeout { .. } => ("idle_timeout", Fault::Time),
    Self::Malformed(error) => (error.label(), error.fault()),
    Self::FrameTimeout { has_header: false, .. } => ("header_timeout", Fault::Time),
    Self::FrameTimeout { has_header: true, .. } => ("content_timeout", Fault::Time),
    Self::Memory(_) => ("memory", Fault::Limit),
    Self::ServiceTimeout { .. } => ("service_timeout", Fault::Time),
    Self::WriteStalled { .. } => ("write_stalled", Fault::Time),
    Self::Lost { error, .. } => (error.label(), Fault::Lost),
});

impl MessageReason {
    /// The error reply for the peer; `None` if this reason has none.
    pub(super) fn error_reply(&self) -> Option<Message<'static>> {
        let is_sent = matches!(
            self,
            Self::Malformed(_)
                | Self::FrameTimeout { .. }
                | Self::Memory(_)
                | Self::ServiceTimeout { .. }
        );
        is_sent.then(|| Message::error(self))
    }
}
