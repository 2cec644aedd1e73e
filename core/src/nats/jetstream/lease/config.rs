//! The configuration of a lease.

use alloc::{format, string::String};
use core::time::Duration;

use crate::{
    ConfigError,
    config::with_setters,
    nats::jetstream::{Discard, Storage, StreamConfig},
};

/// The bucket of a lease, and who wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseConfig {
    /// The bucket's name: letters, digits, `-` and `_`.
    pub bucket: String,
    /// The name of this process, for people: others log it.
    pub holder: String,
    /// How long the lease outlives its holder, at least 1 s. A bucket that exists keeps its own.
    /// Default: 10 s.
    pub ttl: Duration,
    /// Where a new bucket is. Default: in files.
    pub storage: Storage,
    /// On how many servers a new bucket is. Default: 1.
    pub replicas: usize,
}

impl LeaseConfig {
    /// The lease in a bucket.
    pub fn new(bucket: impl Into<String>, holder: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            holder: holder.into(),
            ttl: Duration::from_secs(10),
            storage: Storage::File,
            replicas: 1,
        }
    }

    with_setters! {
        with_ttl(ttl: Duration);
        with_storage(storage: Storage);
        with_replicas(replicas: usize);
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.ttl >= MIN_TTL {
            return Ok(());
        }
        let [value, min] =
            [self.ttl, MIN_TTL].map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        Err(ConfigError::TooSmall { setting: "ttl in ms", value, min })
    }

    /// The stream of the bucket, as ADR-8 defines it.
    pub(super) fn stream(&self) -> StreamConfig {
        let Self { bucket, ttl, storage, replicas, .. } = self;
        let mut stream = StreamConfig::new(format!("KV_{bucket}"), format!("$KV.{bucket}.>"));
        stream.storage = *storage;
        stream.replicas = *replicas;
        stream.max_age = Some(*ttl);
        stream.duplicate_window = Some(*ttl);
        stream.max_messages_per_subject = Some(1);
        stream.discard = Discard::New;
        stream.allow_rollup = true;
        stream.deny_delete = true;
        stream
    }

    pub(super) fn key(&self) -> String {
        format!("$KV.{}.lease", self.bucket)
    }
}

const MIN_TTL: Duration = Duration::from_secs(1);
