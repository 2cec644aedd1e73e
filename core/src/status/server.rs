//! A status server.

use super::{
    Config, Connection, MAX_CONNECTIONS, MetricsSource, StatusProtocol,
    state::{ReadinessHandle, ServerState},
};
use crate::{
    ConfigError, Instant,
    idle::IdleConnections,
    protocol,
    runtime::Runtime,
    serve::{self, DrainReport, ServerHandle},
    shared::Shared,
};

/// A status server. Clones are the same server.
#[derive(Clone, Debug)]
pub struct Server {
    state: Shared<ServerState>,
    /// All connections, in the order in which they are evicted.
    idle: IdleConnections,
    connections: protocol::Server,
}

impl Server {
    /// The status server of the server that has the handle `service` and started at `now`.
    /// `metrics_source` adds metrics to those of that server's table of connections.
    ///
    /// # Errors
    /// A timeout in `config` is zero.
    pub fn new(
        config: Config,
        service: &ServerHandle,
        metrics_source: Option<Shared<dyn MetricsSource>>,
        now: Instant,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        let idle = IdleConnections::new();
        let connections = protocol::Server::with_valid(config.connection())
            .with_idle_connections(idle.clone(), MAX_CONNECTIONS);
        let state = ServerState::new(config, service.clone(), metrics_source, now);
        Ok(Self { state: Shared::new(state), idle, connections })
    }

    /// The handle of the status server itself. It has its own table, of
    /// [`MAX_CONNECTIONS`](super::MAX_CONNECTIONS). Shut the status server down after the service
    /// has ended.
    pub fn handle(&self) -> &ServerHandle {
        &self.state.own_handle
    }

    /// The connections of the status server, in the order of eviction
    /// ([`Activity`](crate::idle::Activity)).
    pub fn idle_connections(&self) -> &IdleConnections {
        &self.idle
    }

    /// Serves the status on `server`, under its own [`handle`](Self::handle).
    pub async fn serve<R: Runtime>(self, server: serve::Server<R>) -> DrainReport {
        let server = server.with_handle(self.handle());
        let server = server.with_idle_connections(self.idle_connections().clone());
        server.serve(|_, now| self.machine(now)).await
    }

    /// The handle that makes `/readyz` fail before the shutdown of the service.
    pub fn readiness(&self) -> ReadinessHandle {
        self.state.readiness.clone()
    }

    /// The machine for a connection that was accepted at `now`.
    pub fn machine(&self, now: Instant) -> Connection {
        self.connections.machine(StatusProtocol::new(self.state.clone()), now)
    }
}
