//! The client's side: the limits and the authorities that all connections share.

use std::sync::Arc;

use rustls::{ClientConfig, client::UnbufferedClientConnection, pki_types::ServerName};
use wirestate_core::{
    ConfigError, Instant, Machine, dial::Layer, runtime::unix_path, shared::Lock,
};

use crate::{
    Config, Handshake, Tls,
    config::{Limits, check_fragment_size},
    session::Session,
};

/// Makes the machines of clients with TLS. Clones are the same client.
///
/// ```no_run
/// use std::fs;
/// use wirestate_core::{Instant, echo};
/// use wirestate_tls::{Authorities, Client, Config, client_config};
///
/// let authorities = Authorities::from_pem(&fs::read("authorities.pem")?)?;
/// let credentials = client_config(authorities, None, &[])?;
/// let tls = Client::new(Config::default(), credentials, "example.org".try_into()?)?;
///
/// let echo = echo::Client::new(echo::ClientConfig::default());
/// let machine = tls.machine(echo, Instant::EPOCH);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    name: ServerName<'static>,
}

#[derive(Debug)]
struct Shared {
    limits: Limits,
    credentials: Lock<Arc<ClientConfig>>,
}

impl Client {
    /// A client of the server that has a certificate for `name`, a host name or an IP address.
    /// `credentials` are those of [`client_config`](crate::client_config), for example.
    ///
    /// # Errors
    /// [`Config::buffer`] is too small, or a timeout is zero; `credentials` send early data (RFC
    /// 8446, section 2.3), or divide 16 KiB into several records (`max_fragment_size`).
    pub fn new(
        config: Config,
        credentials: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, ConfigError> {
        let limits = Limits::new(config)?;
        check(&credentials)?;
        let credentials = Lock::new(credentials);
        Ok(Self { shared: Arc::new(Shared { limits, credentials }), name })
    }

    /// Replaces the authorities and the client's certificate for connections from now on, also of
    /// clones under other names. Open connections keep theirs.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn set_credentials(&self, credentials: Arc<ClientConfig>) -> Result<(), ConfigError> {
        check(&credentials)?;
        self.shared.credentials.with(|current| *current = credentials);
        Ok(())
    }

    /// This client, for another name.
    #[must_use]
    pub fn with_name(&self, name: ServerName<'static>) -> Self {
        Self { shared: self.shared.clone(), name }
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
        let Shared { limits, credentials } = &*self.shared;
        let credentials = credentials.with(|credentials| credentials.clone());
        let connection = UnbufferedClientConnection::new(credentials, self.name.clone())
            .expect("only a maximum fragment size can be invalid, and is checked");
        Session::client(connection, &limits.pool)
    }
}

/// TLS around each connection. The server must have a certificate for the client's name, whatever
/// its address.
impl Layer for Client {
    type Machine<M: Machine> = Tls<M>;

    fn is_encrypted(&self) -> bool {
        true
    }

    fn wrap<M: Machine>(&self, _address: &str, inner: M, now: Instant) -> Tls<M> {
        self.machine(inner, now)
    }

    fn inner_mut<M: Machine>(machine: &mut Tls<M>) -> &mut M {
        machine.inner_mut()
    }
}

fn check(credentials: &ClientConfig) -> Result<(), ConfigError> {
    check_fragment_size(credentials.max_fragment_size)?;
    if credentials.enable_early_data {
        let (setting, with) = ("enable_early_data", "a machine that sends no early data");
        return Err(ConfigError::Conflict { setting, with });
    }
    Ok(())
}

/// The host of an address `HOST:PORT`, as the name in its certificate; `None` for another kind of
/// address.
///
/// ```
/// assert_eq!(wirestate_tls::server_name("example.org:443"), "example.org".try_into().ok());
/// assert_eq!(wirestate_tls::server_name("[::1]:443"), "::1".try_into().ok());
/// assert_eq!(wirestate_tls::server_name("unix:/run/echo.sock"), None);
/// ```
pub fn server_name(address: &str) -> Option<ServerName<'static>> {
    let (host, _) = address.rsplit_once(':').filter(|_| unix_path(address).is_none())?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(host.to_owned()).ok()
}
