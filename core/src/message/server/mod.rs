//! A server: the state that its connections share.

mod config;
mod connection;
mod reason;

use core::sync::atomic::Ordering::Relaxed;

pub use self::{config::Config, connection::Connection, reason::MessageReason};
use super::service::Service;
use crate::{
    ConfigError, Instant,
    buffer::{Pool, Quota},
    shared::{AtomicU64, Shared},
    teardown::DiscardBudget,
};

/// A server: the configuration, the service and the buffers that its connections share. Clones are
/// the same server.
///
/// With `n` connections it holds at most `(n + idle_buffers) × buffer_size` bytes of receive
/// buffers, and [`Config::max_memory`] bytes of large contents. Large contents are
///
/// - the content of a request that is larger than the receive buffer, while it is being received;
/// - the content of a request of 4 KiB or more that waits for a
///   [`Reply::Pending`](super::service::Reply::Pending);
/// - the content of a reply of 4 KiB or more that is pending, unless it is shared
///   ([`Bytes`](bytes::Bytes) that are static or have a clone).
///
/// While the allocation of a content grows, each thread may hold the old and the new one for a
/// moment. [`Connection`] lists the other memory of a connection.
#[derive(Clone, Debug)]
pub struct Server<S> {
    inner: Shared<Inner>,
    service: S,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    pool: Pool,
    quota: Quota,
    discards: DiscardBudget,
    requests: AtomicU64,
}

impl<S: Service + Clone> Server<S> {
    /// A server without connections. Each connection gets a clone of `service`.
    ///
    /// # Errors
    /// A timeout in `config` is zero.
    pub fn new(config: Config, service: S) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self::with_valid(config, service))
    }

    /// A server with the default [`Config`].
    pub fn with_default_config(service: S) -> Self {
        Self::with_valid(Config::default(), service)
    }

    fn with_valid(config: Config, service: S) -> Self {
        let inner = Inner {
            pool: Pool::new(config.buffer_size(), config.idle_buffers),
            quota: Quota::new(config.max_memory),
            discards: DiscardBudget::default(),
            requests: AtomicU64::new(0),
            config,
        };
        Self { inner: Shared::new(inner), service }
    }

    /// The machine for a connection that was accepted at `now`.
    pub fn machine(&self, now: Instant) -> Connection<S> {
        Connection::new(self.inner.clone(), self.service.clone(), now)
    }
}

impl<S> Server<S> {
    /// The number of requests, on all connections, that were passed to the service.
    pub fn requests(&self) -> u64 {
        self.inner.requests.load(Relaxed)
    }

    /// Bytes of large contents that all connections hold now ([`Config::max_memory`]).
    pub fn memory(&self) -> usize {
        self.inner.quota.reserved()
    }
}
