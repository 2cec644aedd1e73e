//! The state that the connections of a server share.

use super::{Buffer, Config, Connection, Protocol};
use crate::{
    ConfigError, Instant,
    buffer::{Pool, Quota},
    idle::IdleConnections,
    shared::Shared,
    teardown::DiscardBudget,
};

/// A server of a framed protocol: the limits and the buffers that its connections share. Clones are
/// the same server.
///
/// With `n` connections it holds at most `(n + idle_buffers) × buffer` bytes of receive buffers,
/// and [`Config::max_memory`] bytes of long frames and replies. [`Connection`] lists the other
/// memory of a connection.
#[derive(Clone, Debug)]
pub struct Server {
    pub(super) inner: Shared<Inner>,
}

#[derive(Clone, Debug)]
pub(super) struct Inner {
    pub(super) config: Config,
    pub(super) pool: Pool,
    pub(super) quota: Quota,
    pub(super) discards: DiscardBudget,
    /// The order of eviction, and the limit of open connections.
    pub(super) idle: Option<(IdleConnections, usize)>,
}

impl Server {
    /// A server without connections.
    ///
    /// # Errors
    /// A timeout in `config` is zero.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self::with_valid(config))
    }

    pub(crate) fn with_valid(config: Config) -> Self {
        let inner = Inner {
            pool: Pool::new(config.buffer.get(), config.idle_buffers),
            quota: Quota::new(config.max_memory),
            discards: DiscardBudget::default(),
            idle: None,
            config,
        };
        Self { inner: Shared::new(inner) }
    }

    /// Enters the connections into `idle`, so that a full server can evict one for each new one
    /// ([`serve::Server::with_idle_connections`]). `limit` is the server's limit of open
    /// connections, for [`ProtocolReason::Evicted`]. Default: no connection is evicted.
    ///
    /// An evicted connection first reads the input that has arrived, and stays if that completes a
    /// frame. A new connection has 20 ms for its first byte. A connection with output stays if the
    /// kernel accepts all of it, and otherwise is reset. One whose next reply is pending is closed
    /// at once, unless it is its first reply.
    ///
    /// A connection that is not idle by [`Protocol::is_idle`] is evicted after those that are, as
    /// if it had output.
    ///
    /// [`serve::Server::with_idle_connections`]: crate::serve::Server::with_idle_connections
    /// [`ProtocolReason::Evicted`]: super::ProtocolReason::Evicted
    pub fn with_idle_connections(self, idle: IdleConnections, limit: usize) -> Self {
        let inner = Inner { idle: Some((idle, limit)), ..Inner::clone(&self.inner) };
        Self { inner: Shared::new(inner) }
    }

    /// The machine of `protocol` for a connection that was accepted at `now`.
    pub fn machine<P>(&self, protocol: P, now: Instant) -> Connection<P>
    where
        P: Protocol<Input = Buffer>,
    {
        let Inner { config, pool, quota, .. } = &*self.inner;
        let input = Buffer::new(pool.clone(), quota.clone(), config.max_frame.get());
        self.machine_with(protocol, input, now)
    }

    /// As [`machine`](Self::machine), for a protocol with an [`Input`](super::Input) of its own.
    pub fn machine_with<P>(&self, protocol: P, input: P::Input, now: Instant) -> Connection<P>
    where
        P: Protocol,
    {
        Connection::new(self.clone(), protocol, input, now)
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The pool of the receive buffers.
    pub fn pool(&self) -> &Pool {
        &self.inner.pool
    }

    /// The quota of [`Config::max_memory`].
    pub fn quota(&self) -> &Quota {
        &self.inner.quota
    }
}

impl Default for Server {
    /// A server with the default [`Config`].
    fn default() -> Self {
        Self::with_valid(Config::default())
    }
}
