//! What a consumer tells its owner.

use alloc::string::String;
use core::time::Duration;

use super::{
    super::{ApiError, StreamError, StreamState},
    Delivery,
};
use crate::{
    nats::{SendError, StatusCode},
    quantity::{Size, Time},
};

/// What a [`Consumer`](super::Consumer) tells its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsumerEvent {
    /// The next message.
    Message(Delivery),
    /// The next message does not follow the previous one.
    Gap(StreamGap),
    /// A consumer was made, and messages are asked for.
    Reading {
        /// The sequence of the first message that it may deliver.
        next: u64,
        /// What the stream had then.
        stream: StreamState,
    },
    /// Nothing is read at the moment.
    Waiting {
        /// Why.
        reason: ConsumerError,
        /// How long until the next attempt.
        retry: Duration,
    },
}

/// A place where messages of a stream are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamGap {
    /// The sequence that was expected next.
    pub expected: u64,
    /// The sequence with which it goes on. For [`GapKind::Replaced`] and [`GapKind::Truncated`],
    /// the first message may have a higher one, which is a gap of its own.
    pub found: u64,
    /// What has happened.
    pub kind: GapKind,
}

/// Why messages of a stream are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapKind {
    /// They were removed before they were read: by a purge, a limit of the stream, or one by one.
    Missing,
    /// The stream was deleted and created again.
    Replaced,
    /// The stream has lost messages at its end, and gives their sequences to others.
    Truncated,
}

impl StreamGap {
    /// How many messages are missing, if it is known.
    pub fn missing(&self) -> Option<u64> {
        match self.kind {
            GapKind::Missing => Some(self.found - self.expected),
            GapKind::Replaced | GapKind::Truncated => None,
        }
    }
}

/// Why a [`Consumer`](super::Consumer) reads nothing at the moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumerError {
    /// The stream does not exist, has other subjects, or cannot be asked for.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A consumer could not be made.
    #[error("no consumer could be made: {0}")]
    Create(#[source] ApiError),
    /// A request could not be sent.
    #[error("a request could not be sent: {0}")]
    Send(#[source] SendError),
    /// The stream ends before the next sequence. If that lasts for 2 s, it has lost messages
    /// ([`GapKind::Truncated`]).
    #[error("the stream ends at sequence {last}, before the expected {expected}")]
    Behind {
        /// The last sequence of the stream.
        last: u64,
        /// The next sequence that was expected.
        expected: u64,
    },
    /// The server's consumer was deleted.
    #[error("the consumer was deleted")]
    Deleted,
    /// The server's consumer does not exist any more.
    #[error("the consumer does not exist any more")]
    NoResponders,
    /// Another server has become responsible for the consumer.
    #[error("another server has become responsible for the consumer")]
    LeadershipChange,
    /// Neither a message nor a heartbeat has arrived.
    #[error("no message and no heartbeat within {}", Time(*limit))]
    HeartbeatMissed {
        /// The limit.
        limit: Duration,
    },
    /// A request for messages ended with another status.
    #[error("a request for messages ended with status {code} {description:?}")]
    Status {
        /// The status.
        code: StatusCode,
        /// Its text, at most 64 characters.
        description: String,
    },
    /// A delivery was lost on its way, or the server's consumer has started again.
    #[error("delivery {found} of the consumer, expected {expected}")]
    Delivery {
        /// The number that was expected.
        expected: u64,
        /// The number that was found.
        found: u64,
    },
    /// The message is before the position.
    #[error("message {found} of the stream, expected {expected} or later")]
    Sequence {
        /// The sequence that was expected.
        expected: u64,
        /// The sequence that was found.
        found: u64,
    },
    /// The server sends more than it was asked for.
    #[error("more messages than were asked for: {} wait to be taken, above the limit of {}",
        Size(*queued as u64), Size(*limit as u64))]
    TooMany {
        /// Bytes that were received and not taken.
        queued: usize,
        /// The limit in bytes ([`ConsumerConfig::max_bytes`](super::ConsumerConfig::max_bytes)).
        limit: usize,
    },
    /// The reply subject of a message says nothing of its place in the stream.
    #[error("a message with the reply subject {reply:?}")]
    Malformed {
        /// The reply subject, at most 64 characters.
        reply: String,
    },
}
