//! A status server.

use super::{
    Config, Connection, MAX_CONNECTIONS, MetricsSource, Services, StatusProtocol,
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
    /// The status server of a process that started at `now`. `services` are the servers that it
    /// shows, and `metrics_source` adds metrics of the whole process.
    ///
    /// # Errors
    /// A timeout in `config` is zero.
    pub fn new(
        config: Config,
        services: Services,
        metrics_source: Option<Shared<dyn MetricsSource>>,
        now: Instant,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        let idle = IdleConnections::new();
        let connections = protocol::Server::with_valid(config.connection())
            .with_idle_connections(idle.clone(), MAX_CONNECTIONS);
        let state = ServerState::new(config, services, metrics_source, now);
        Ok(Self { state: Shared::new(state), idle, connections })
    }

    /// The handle of the status server itself. It has its own table, of
    /// [`MAX_CONNECTIONS`](super::MAX_CONNECTIONS). Shut the status server down after the
    /// services have ended.
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

    /// The handle that makes `/readyz` fail before the shutdown of the services.
    pub fn readiness(&self) -> ReadinessHandle {
        self.state.readiness.clone()
    }

    /// The machine for a connection that was accepted at `now`.
    pub fn machine(&self, now: Instant) -> Connection {
        self.connections.machine(StatusProtocol::new(self.state.clone()), now)
    }
}
