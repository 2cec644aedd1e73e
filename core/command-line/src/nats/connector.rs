//! Connections to the servers of a stream.

use wirestate_core::{
    Instant, Machine,
    dial::{Layer, Servers},
    drive::Clock,
    nats::{Config, Connection, Credentials, Dial, DialEvent, Session},
    shared::{Lock, Shared},
    shutdown::ShutdownHandle,
};
use wirestate_tls::{MaybeTls, server_name};

use super::{
    LinkState, StreamAddress,
    credentials::{CredentialsFile, LoadedCredentials},
};
use crate::{
    CommandError, CommandRuntime,
    jitter::jitter_seed,
    server::ServerSettings,
    tls::{self, UpstreamTls},
    values::Timeout,
};

/// How a server connects to the servers of a stream.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    address: StreamAddress,
    tls: Option<UpstreamTls>,
    file: Option<CredentialsFile>,
    credentials: Shared<Lock<Credentials>>,
    connect_timeout: Timeout,
}

impl Connector {
    /// Reads the file of credentials, if there is one.
    ///
    /// # Errors
    /// It cannot be used.
    pub(super) fn new(
        address: StreamAddress,
        tls: Option<UpstreamTls>,
        file: Option<CredentialsFile>,
        connect_timeout: Timeout,
    ) -> Result<Self, CommandError> {
        let credentials = match &file {
            None => address.credentials.clone(),
            Some(file) => file.read()?,
        };
        let credentials = Shared::new(Lock::new(credentials));
        Ok(Self { address, tls, file, credentials, connect_timeout })
    }

    pub(crate) fn address(&self) -> &StreamAddress {
        &self.address
    }

    /// Adds the files, which a reload reads again.
    pub(crate) fn add_files(&self, settings: ServerSettings) -> ServerSettings {
        let settings = settings.with_files_of(self.tls.clone());
        let Some(file) = self.file.clone() else { return settings };
        settings.with_files(LoadedCredentials { file, current: self.credentials.clone() })
    }

    /// Keeps a session connected until a shutdown is requested and the session needs no further
    /// connection. Returns the session. `server` is the name of the server, for the log.
    ///
    /// # Errors
    /// `config` is invalid.
    pub(crate) fn keep_connected<R: CommandRuntime, S: Session + Send + 'static>(
        self,
        runtime: &R,
        config: Config,
        session: S,
        shutdown: ShutdownHandle,
        server: Option<Shared<str>>,
        state: LinkState,
    ) -> Result<impl Future<Output = Connection<S>> + Send + use<R, S>, CommandError> {
        let Self { address, tls, credentials, connect_timeout, .. } = self;
        let servers = Servers::new(address.servers.clone(), jitter_seed());
        let servers = servers.expect("an address has a server");
        let dial = Dial::new(servers, config).map_err(CommandError::Config)?;
        let dial = dial
            .with_credentials(credentials)
            .with_connect_timeout(connect_timeout.0)
            .with_tls_first(address.is_tls_first)
            .with_shutdown(shutdown)
            .with_server(server);
        let layer = NatsTls { servers: address.servers, tls };
        let runtime = runtime.clone();
        Ok(async move {
            let mut connection = Connection::new(session);
            let clock = runtime.clock();
            let observe = move |event: DialEvent<'_>| state.observe(event, clock.now());
            dial.keep_connected(&runtime, &layer, &mut connection, observe).await;
            connection
        })
    }
}

/// TLS to the servers of NATS, or none.
struct NatsTls {
    /// The servers that are given.
    servers: Vec<String>,
    tls: Option<UpstreamTls>,
}

impl Layer for NatsTls {
    type Machine<M: Machine> = MaybeTls<M>;

    fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    fn wrap<M: Machine>(&self, address: &str, inner: M, now: Instant) -> MaybeTls<M> {
        let client = self.tls.as_ref().map(|tls| {
            // INFO names other servers in plain text. An attacker who changes it must not choose
            // the name in the certificate as well.
            let is_given = self.servers.iter().any(|server| server == address);
            match server_name(address).filter(|_| is_given && !tls.has_name()) {
                Some(name) => tls.client.with_name(name),
                None => tls.client.clone(),
            }
        });
        tls::around(client.as_ref(), inner, now)
    }

    fn inner_mut<M: Machine>(machine: &mut MaybeTls<M>) -> &mut M {
        machine.inner_mut()
    }
}
