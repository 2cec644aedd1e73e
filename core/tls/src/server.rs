//! The server's side: the limits and the certificates that all connections share.

use std::sync::Arc;

use rustls::{ServerConfig, server::UnbufferedServerConnection};
use wirestate_core::{
    ConfigError, Instant, Machine, buffer::Pool, shared::Lock, teardown::DiscardBudget,
};

use crate::{Config, Handshake, Tls, session::Session};

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
    config: Config,
    credentials: Lock<Arc<ServerConfig>>,
    pool: Pool,
    discards: DiscardBudget,
}

impl Server {
    /// A server with the certificates of `credentials`, such as from
    /// [`server_config`](crate::server_config).
    ///
    /// # Errors
    /// [`Config::buffer`] is too small, or a timeout is zero; or `credentials` accept early data
    /// (RFC 8446, section 2.3), which an attacker can replay.
    pub fn new(config: Config, credentials: Arc<ServerConfig>) -> Result<Self, ConfigError> {
        config.check()?;
        check_early_data(&credentials)?;
        let pool = Pool::new(config.buffer, config.idle_buffers);
        let (credentials, discards) = (Lock::new(credentials), DiscardBudget::default());
        Ok(Self { shared: Arc::new(Shared { config, credentials, pool, discards }) })
    }

    /// Replaces the certificates for connections from now on. Open connections keep theirs.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn set_credentials(&self, credentials: Arc<ServerConfig>) -> Result<(), ConfigError> {
        check_early_data(&credentials)?;
        self.shared.credentials.with(|current| *current = credentials);
        Ok(())
    }

    /// Puts TLS around the machine of a new connection.
    pub fn machine<M: Machine>(&self, inner: M, now: Instant) -> Tls<M> {
        let Shared { config, discards, .. } = &*self.shared;
        Tls::new(inner, self.session(), config.clone(), discards.clone(), now)
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
        Session::server(connection, &self.shared.pool)
    }
}

fn check_early_data(credentials: &ServerConfig) -> Result<(), ConfigError> {
    match credentials.max_early_data_size {
        0 => Ok(()),
        size => {
            let setting = "max_early_data_size";
            Err(ConfigError::TooLarge { setting, value: size.into(), max: 0 })
        }
    }
}
