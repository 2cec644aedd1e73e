//! A server: the state that its connections share.

mod config;
mod protocol;

use core::sync::atomic::Ordering::Relaxed;

pub use self::{
    config::Config,
    protocol::{Connection, MessageReason, PendingReply, ServiceProtocol},
};
use super::{FrameLimits, Inbox, service::Service};
use crate::{
    ConfigError, Instant, protocol as framed,
    shared::{AtomicU64, Shared},
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
    inner: framed::Server,
    shared: Shared<ServerState>,
    service: S,
}

#[derive(Debug)]
struct ServerState {
    frame_limits: FrameLimits,
    one_shot: bool,
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
        let Config { frame_limits, one_shot, .. } = config;
        let state = ServerState { frame_limits, one_shot, requests: AtomicU64::new(0) };
        let inner = framed::Server::with_valid(config.into_connection());
        Self { inner, shared: Shared::new(state), service }
    }

    /// The machine for a connection that was accepted at `now`.
    pub fn machine(&self, now: Instant) -> Connection<S> {
        let inbox = Inbox::with_valid(self.shared.frame_limits, self.inner.pool().clone());
        let inbox = inbox.with_quota(self.inner.quota().clone());
        let protocol = ServiceProtocol::new(self.shared.clone(), self.service.clone());
        self.inner.machine_with(protocol, inbox, now)
    }
}

impl<S> Server<S> {
    /// The number of requests, on all connections, that were passed to the service.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Relaxed)
    }

    /// Bytes of large contents that all connections hold now ([`Config::max_memory`]).
    pub fn memory(&self) -> usize {
        self.inner.quota().reserved()
    }
}
