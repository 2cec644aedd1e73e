//! The server's side: the limits and the certificates that all connections share.

use std::sync::Arc;

use rustls::{ServerConfig, server::UnbufferedServerConnection};
use wirestate_core::{ConfigError, Instant, Machine, shared::Lock};

use crate::{
    Config, Handshake, Tls,
    config::{Limits, check_fragment_size},
    session::Session,
};

/// Makes the machines of a server with TLS. Clones are the same server.
///
/// ```no_run
/// use std::fs;
/// use wirestate_core::{Instant, Machine, echo};
/// use wirestate_tls::{Clients, Config, Identity, Server, server_config};
///
/// let identity = Identity::from_pem(&fs::read("server.pem")?, &fs::read("server.key")?)?;
/// let credentials = server_config(vec![identity], Clients::Anonymous, &[])?;
/// let tls = Server::new(Config::default(), credentials)?;
///
/// let echo = echo::Server::default();
/// let machine = tls.machine(echo.machine(Instant::EPOCH), Instant::EPOCH);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Server {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limits: Limits,
    credentials: Lock<Arc<ServerConfig>>,
}

impl Server {
    /// A server with the certificates of `credentials`, such as from
    /// [`server_config`](crate::server_config).
    ///
    /// # Errors
    /// [`Config::buffer`] is too small, or a timeout is zero; `credentials` accept early data (RFC
    /// 8446, section 2.3), which an attacker can replay, or divide 16 KiB into several records
    /// (`max_fragment_size`).
    pub fn new(config: Config, credentials: Arc<ServerConfig>) -> Result<Self, ConfigError> {
        let limits = Limits::new(config)?;
        check(&credentials)?;
        Ok(Self { shared: Arc::new(Shared { limits, credentials: Lock::new(credentials) }) })
    }

    /// Replaces the certificates for connections from now on. Open connections keep theirs.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn set_credentials(&self, credentials: Arc<ServerConfig>) -> Result<(), ConfigError> {
        check(&credentials)?;
        self.shared.credentials.with(|current| *current = credentials);
        Ok(())
    }

    /// Puts TLS around the machine of a new connection.
    pub fn machine<M: Machine>(&self, inner: M, now: Instant) -> Tls<M> {
        self.shared.limits.machine(inner, self.session(), now)
    }

    /// The handshake of a new connection alone. Once it is complete, make a
    /// [`Stream`](crate::Stream).
    pub fn handshake(&self, now: Instant) -> Tls<Handshake> {
        self.machine(Handshake::default(), now)
    }

    fn session(&self) -> Session {
        let credentials = self.shared.credentials.with(|credentials| credentials.clone());
        let connection = UnbufferedServerConnection::new(credentials)
            .expect("only a maximum fragment size can be invalid, and is checked");
        Session::server(connection, &self.shared.limits.pool)
    }
}

fn check(credentials: &ServerConfig) -> Result<(), ConfigError> {
    check_fragment_size(credentials.max_fragment_size)?;
    match credentials.max_early_data_size {
        0 => Ok(()),
        size => {
            let setting = "max_early_data_size";
            Err(ConfigError::TooLarge { setting, value: size.into(), max: 0 })
        }
    }
}
