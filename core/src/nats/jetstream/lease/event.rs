//! What happens to a lease.

use alloc::string::String;
use core::time::Duration;

use crate::{
    nats::{
        SendError,
        jetstream::{ApiError, StreamError},
    },
    quantity::Time,
};

/// What has happened to a [`Lease`](super::Lease).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseEvent {
    /// The bucket did not exist, and was created.
    BucketCreated,
    /// Another process holds the lease. It comes once for each holder.
    Taken {
        /// Its name.
        holder: String,
    },
    /// This process holds the lease.
    Acquired {
        /// The epoch.
        epoch: u64,
    },
    /// The answer to [`Lease::renew`](super::Lease::renew).
    Renewed {
        /// The new epoch.
        epoch: u64,
    },
    /// This process no longer holds the lease: publish nothing more. It tries to acquire it again.
    Lost(LeaseLost),
    /// A request has failed. It is tried again.
    Waiting(LeaseProblem),
    /// The answer to [`Lease::release`](super::Lease::release).
    Released,
}

/// Why a lease was lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseLost {
    /// Another process has it.
    #[error("{holder} holds the lease")]
    Taken {
        /// Its name.
        holder: String,
    },
    /// The key was removed, or the whole bucket.
    #[error("the key of the lease was removed")]
    Removed,
    /// It could not be renewed in time.
    #[error("the lease was not renewed within {}", Time(*ttl))]
    Expired {
        /// The age of a key in the bucket.
        ttl: Duration,
    },
}

/// Why a lease cannot be acquired or renewed at present.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseProblem {
    /// The bucket cannot be used.
    #[error("the bucket of the lease: {0}")]
    Bucket(StreamError),
    /// The keys of the bucket have no age, so the lease of a dead holder would never be free.
    #[error("stream {stream} of the lease's bucket has no `max_age`")]
    NoAge {
        /// The bucket's stream.
        stream: String,
    },
    /// The key cannot be read.
    #[error("reading the lease: {0}")]
    Read(ApiError),
    /// The key cannot be written.
    #[error("writing the lease: {0}")]
    Write(ApiError),
    /// The acknowledgement of a write has a sequence that was used before.
    #[error("the lease was written with sequence {found}, expected one above {expected}")]
    Acknowledgement {
        /// The sequence.
        found: u64,
        /// The last one before.
        expected: u64,
    },
    /// The server has not replied in time.
    #[error("the lease: no reply within {}", Time(*limit))]
    NoReply {
        /// The limit: a third of the bucket's age.
        limit: Duration,
    },
    /// A request cannot be sent.
    #[error("the lease: {0}")]
    Send(SendError),
}
