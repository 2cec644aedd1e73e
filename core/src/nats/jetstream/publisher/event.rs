//! What happens to a publisher.

use crate::nats::{
    SendError,
    jetstream::{ApiError, Refusal, StreamError},
};

/// What has happened to a [`Publisher`](super::Publisher).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublisherEvent {
    /// The stream did not exist, and was created.
    StreamCreated,
    /// The stream has the messages below this position: they are not needed any more.
    Acknowledged {
        /// The first position that is not acknowledged.
        before: u64,
    },
    /// The stream's last message was read: offer the messages from this position on, also those
    /// that were offered before.
    Resumed {
        /// The first position.
        from: u64,
    },
    /// A request has failed. It is tried again, and then [`Resumed`](Self::Resumed) follows.
    Waiting(PublisherProblem),
    /// The epoch has ended: begin another one ([`Publisher::begin_epoch`](super::Publisher)).
    EpochEnded(EpochEnd),
}

/// Why nothing is published at present.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublisherProblem {
    /// The stream cannot be used.
    #[error(transparent)]
    Stream(StreamError),
    /// The last message of the stream cannot be read.
    #[error("reading the last message: {0}")]
    Read(ApiError),
    /// A message was not acknowledged.
    #[error("message {position}: {error}")]
    Publish {
        /// Its position.
        position: u64,
        /// Why.
        error: ApiError,
    },
    /// An acknowledgement has another sequence than the next one, or another stream.
    #[error("message {position} was acknowledged with sequence {found}, expected {expected}")]
    Acknowledgement {
        /// The position of the message.
        position: u64,
        /// The sequence.
        found: u64,
        /// The sequence that follows the last one.
        expected: u64,
    },
    /// A message was acknowledged, or refused, before message `position`.
    #[error("a later message was acknowledged or refused before message {position}")]
    Order {
        /// The first position that is not acknowledged.
        position: u64,
    },
    /// A request cannot be sent.
    #[error(transparent)]
    Send(SendError),
}

/// Why an epoch has ended. Messages may be missing between it and the next one, or come twice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EpochEnd {
    /// The stream has lost acknowledged messages.
    #[error("sequence {acknowledged} was acknowledged, but the stream ends with {last}")]
    Lost {
        /// The sequence of the last acknowledged message.
        acknowledged: u64,
        /// The last sequence of the stream.
        last: u64,
    },
    /// The stream has lost acknowledged messages, and has others instead.
    #[error("sequence {acknowledged} was acknowledged, but the stream has other messages")]
    Changed {
        /// The sequence of the last acknowledged message.
        acknowledged: u64,
    },
    /// The stream was deleted, and created again.
    #[error("the stream was created anew")]
    Replaced,
    /// Behind the last acknowledged message, the stream has one of somebody else, or had one that
    /// was removed. So it is unknown which messages it has of those that were offered since, and
    /// whether another process has held the lease.
    #[error("sequence {sequence} is not of this publisher")]
    Foreign {
        /// The last sequence.
        sequence: u64,
    },
    /// The stream's last message has a higher epoch, or a position of this epoch that was never
    /// offered. It is another holder's of the lease, or of a lease in an earlier bucket: to renew
    /// the lease shows which.
    #[error("sequence {sequence} has epoch {found}")]
    HigherEpoch {
        /// The last sequence.
        sequence: u64,
        /// Its epoch.
        found: u64,
    },
    /// A message was refused because of its length, and is dropped.
    #[error("message {position}: {reason}")]
    Refused {
        /// Its position.
        position: u64,
        /// Why.
        reason: MessageRefused,
    },
}

impl EpochEnd {
    /// The epoch that the next one must exceed, for [`Lease::renew`](super::super::Lease::renew);
    /// 0 if any will do.
    pub fn above(&self) -> u64 {
        match self {
            Self::HigherEpoch { found, .. } => *found,
            Self::Lost { .. }
            | Self::Changed { .. }
            | Self::Replaced
            | Self::Foreign { .. }
            | Self::Refused { .. } => 0,
        }
    }
}

/// Why a message was refused: it is too long.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageRefused {
    /// For the server: [`SendError::TooLong`]. It was not sent.
    #[error(transparent)]
    Server(SendError),
    /// For the stream: [`ErrorCode::MESSAGE_TOO_LONG`](super::super::ErrorCode::MESSAGE_TOO_LONG).
    #[error(transparent)]
    Stream(Refusal),
}

/// Why [`Publisher::publish`](super::Publisher::publish) has sent nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The message is not the next one: see
    /// [`Publisher::next_position`](super::Publisher::next_position).
    #[error("message {position} is not the next one ({next:?})")]
    NotNext {
        /// The position that was given.
        position: u64,
        /// The position of the next message, if one can be published at all.
        next: Option<u64>,
    },
    /// The client cannot send it. Unless this is [temporary](SendError::is_temporary), an event
    /// follows.
    #[error(transparent)]
    Send(#[from] SendError),
}
