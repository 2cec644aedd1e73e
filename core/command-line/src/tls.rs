//! TLS: the flags of servers, of clients, and of servers with an upstream.

use core::time::Duration;
use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use clap::Args;
use tracing::debug;
use wirestate_core::{
    Instant, Machine,
    admission::ConnectionEntry,
    quantity::Time,
    shared::{Lock, Shared},
    status::{Metric, MetricValue, MetricsSource},
};
use wirestate_tls::{
    Authorities, Client, Clients, Config, CredentialsError, Identity, MaybeTls, Server, Tls,
    client_config, peer_certificate,
    rustls::{ClientConfig, ServerConfig, pki_types::ServerName},
    server_config, server_name,
};

use crate::{
    CommandError,
    server::ReloadFiles,
    values::{Timeout, boolean},
};

/// The flags of a server's own TLS.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "TLS")]
pub(crate) struct ServerTlsFlags {
    /// Serve with TLS: a file with a certificate chain in PEM. Given several times, the client's
    /// choice of a host name (SNI) selects one. SIGHUP reads the files again
    #[arg(
        long = "tls-cert",
        value_name = "FILE",
        env = "WIRESTATE_TLS_CERT",
        value_delimiter = ','
    )]
    certificates: Vec<PathBuf>,
    /// The private key of each --tls-cert, in the same order [default: it is in the same file]
    #[arg(
        long = "tls-key",
        value_name = "FILE",
        env = "WIRESTATE_TLS_KEY",
        value_delimiter = ',',
        requires = "certificates"
    )]
    keys: Vec<PathBuf>,
    /// Ask clients for a certificate that one of the authorities in this file has signed
    #[arg(
        long = "tls-client-ca",
        value_name = "FILE",
        env = "WIRESTATE_TLS_CLIENT_CA",
        requires = "certificates"
    )]
    client_authorities: Option<PathBuf>,
    /// Also serve clients that present no certificate
    #[arg(
        long = "tls-client-optional",
        env = "WIRESTATE_TLS_CLIENT_OPTIONAL",
        value_parser = boolean,
        requires = "client_authorities"
    )]
    clients_may_be_anonymous: bool,
    /// How long a TLS handshake may take; or `off`
    #[arg(
        long = "tls-handshake-timeout",
        value_name = "TIME",
        env = "WIRESTATE_TLS_HANDSHAKE_TIMEOUT",
        default_value = "10s"
    )]
    handshake_timeout: Timeout,
}

/// A server's TLS, whose certificates can be loaded again.
#[derive(Clone, Debug)]
pub(crate) struct ServerTls {
    server: Server,
    files: ServerTlsFlags,
    /// When the first certificate expires.
    not_after: Shared<Lock<SystemTime>>,
}

impl ServerTlsFlags {
    /// Returns an error if flags contradict each other.
    pub(crate) fn check(&self) -> Result<(), String> {
        let (certificates, keys) = (self.certificates.len(), self.keys.len());
        if keys > 0 && keys != certificates {
            return Err(format!(
                "--tls-key is given {keys} times and --tls-cert {certificates} times"
            ));
        }
        Ok(())
    }

    /// Whether the server has TLS.
    pub(crate) fn is_enabled(&self) -> bool {
        !self.certificates.is_empty()
    }

    /// Reads the files. Returns `None` if the server has no TLS.
    ///
    /// # Errors
    /// A file cannot be read or used, or a certificate has expired.
    pub(crate) fn load(&self) -> Result<Option<ServerTls>, CommandError> {
        if !self.is_enabled() {
            return Ok(None);
        }
        let (credentials, not_after) = self.credentials()?;
        // The deadlines of the commands' machines apply to what is written.
        let config = Config::default()
            .with_handshake_timeout(self.handshake_timeout.0)
            .with_write_timeout(None);
        let server = Server::new(config, credentials).map_err(CommandError::Config)?;
        let not_after = Shared::new(Lock::new(not_after));
        Ok(Some(ServerTls { server, files: self.clone(), not_after }))
    }

    fn credentials(&self) -> Result<(Shared<ServerConfig>, SystemTime), CommandError> {
        let now = SystemTime::now();
        let keys = self.keys.iter().chain(self.certificates.iter().skip(self.keys.len()));
        let identities = self.certificates.iter().zip(keys);
        let identities = identities
            .map(|(certificate, key)| identity(certificate, key, now))
            .collect::<Result<Vec<_>, _>>()?;
        let expirations = identities.iter().map(|identity| identity.certificate().not_after);
        let not_after = expirations.min().expect("there is a certificate");
        let clients = match &self.client_authorities {
            None => Clients::Anonymous,
            Some(path) if self.clients_may_be_anonymous => {
                Clients::MayAuthenticate(authorities(path)?)
            }
            Some(path) => Clients::MustAuthenticate(authorities(path)?),
        };
        let credentials = server_config(identities, clients, &[])
            .map_err(|error| CommandError::credentials(&self.certificates[0], error))?;
        Ok((credentials, not_after))
    }
}

impl ServerTls {
    /// Puts TLS around the machine of a new connection.
    pub(crate) fn machine<M: Machine>(
        &self,
        inner: M,
        entry: &Shared<ConnectionEntry>,
        now: Instant,
    ) -> Tls<M> {
        let entry = entry.clone();
        self.server.machine(inner, now).on_handshake(move |connection| {
            let certificate = peer_certificate(connection);
            if let Some(certificate) = &certificate {
                entry.set_identity(&certificate.subject);
            }
            let suite = connection.negotiated_cipher_suite();
            debug!(
                id = entry.id(),
                version = connection.protocol_version().and_then(|version| version.as_str()),
                cipher_suite = suite.and_then(|suite| suite.suite().as_str()),
                subject = certificate.map(|certificate| certificate.subject),
                "TLS handshake complete"
            );
        })
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }
}

impl ReloadFiles for ServerTls {
    fn description(&self) -> &'static str {
        "certificates"
    }

    fn read(&self) -> Result<Box<dyn FnOnce() + Send>, CommandError> {
        let (credentials, not_after) = self.files.credentials()?;
        let tls = self.clone();
        Ok(Box::new(move || {
            let set = tls.server.set_credentials(credentials);
            set.expect("the configuration of `server_config` is valid");
            tls.not_after.with(|current| *current = not_after);
        }))
    }
}

impl MetricsSource for ServerTls {
    fn metrics(&self, _now: Instant) -> Vec<Metric> {
        let not_after = self.not_after.with(|not_after| *not_after);
        let seconds = not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        vec![Metric::new(
            "wirestate_tls_certificate_expiry_timestamp_seconds",
            "When the first of the server's certificates expires, in seconds since 1970",
            MetricValue::GaugeSeconds(seconds),
        )]
    }
}

/// The flags of a client's TLS.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "TLS")]
pub(crate) struct ClientTlsFlags {
    /// Use TLS
    #[arg(long = "tls")]
    enabled: bool,
    /// The authorities that may have signed the server's certificate, in PEM [default: those of
    /// this system]
    #[arg(long = "tls-ca", value_name = "FILE", requires = "enabled")]
    authorities: Option<PathBuf>,
    /// The host name or IP address in the server's certificate [default: that of ADDR]
    #[arg(long = "tls-name", value_name = "NAME", requires = "enabled", value_parser = name)]
    name: Option<ServerName<'static>>,
    /// The certificate chain of this client, in PEM, for a server that asks for one
    #[arg(long = "tls-cert", value_name = "FILE", requires = "enabled")]
    certificate: Option<PathBuf>,
    /// The private key of --tls-cert [default: it is in the same file]
    #[arg(long = "tls-key", value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
}

/// The flags of TLS to an upstream.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "TLS")]
pub(crate) struct UpstreamTlsFlags {
    /// Use TLS to the upstream
    #[arg(long = "upstream-tls", env = "WIRESTATE_UPSTREAM_TLS", value_parser = boolean)]
    enabled: bool,
    /// The authorities that may have signed the upstream's certificate, in PEM [default: those of
    /// this system]
    #[arg(
        long = "upstream-tls-ca",
        value_name = "FILE",
        env = "WIRESTATE_UPSTREAM_TLS_CA",
        requires = "enabled"
    )]
    authorities: Option<PathBuf>,
    /// The host name or IP address in the upstream's certificate [default: that of --upstream]
    #[arg(long = "upstream-tls-name", value_name = "NAME", env = "WIRESTATE_UPSTREAM_TLS_NAME",
          requires = "enabled", value_parser = name)]
    name: Option<ServerName<'static>>,
    /// The certificate chain that is presented to the upstream, in PEM
    #[arg(
        long = "upstream-tls-cert",
        value_name = "FILE",
        env = "WIRESTATE_UPSTREAM_TLS_CERT",
        requires = "enabled"
    )]
    certificate: Option<PathBuf>,
    /// The private key of --upstream-tls-cert [default: it is in the same file]
    #[arg(
        long = "upstream-tls-key",
        value_name = "FILE",
        env = "WIRESTATE_UPSTREAM_TLS_KEY",
        requires = "certificate"
    )]
    key: Option<PathBuf>,
}

impl UpstreamTlsFlags {
    /// Whether connections to the upstream have TLS.
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// As [`ClientTlsFlags::load`].
    pub(crate) fn load(
        self,
        address: &str,
        handshake_timeout: Timeout,
    ) -> Result<Option<UpstreamTls>, CommandError> {
        let Self { enabled, authorities, name, certificate, key } = self;
        let flags = ClientTlsFlags { enabled, authorities, name, certificate, key };
        flags.load_for_upstream(address, handshake_timeout, "certificates for the upstream")
    }
}

/// The flags of TLS to the servers of NATS, for addresses that begin with `tls://`.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "TLS")]
pub(crate) struct NatsTlsFlags {
    /// The authorities that may have signed the certificates of NATS servers, in PEM [default:
    /// those of this system]
    #[arg(
        id = "nats_tls_ca",
        long = "nats-tls-ca",
        value_name = "FILE",
        env = "WIRESTATE_NATS_TLS_CA"
    )]
    authorities: Option<PathBuf>,
    /// The host name or IP address in the certificates of NATS servers [default: that of the
    /// address; for servers that another one has named, that of the first address]
    #[arg(id = "nats_tls_name", long = "nats-tls-name", value_name = "NAME",
          env = "WIRESTATE_NATS_TLS_NAME", value_parser = name)]
    name: Option<ServerName<'static>>,
    /// The certificate chain that is presented to NATS servers, in PEM
    #[arg(
        id = "nats_tls_cert",
        long = "nats-tls-cert",
        value_name = "FILE",
        env = "WIRESTATE_NATS_TLS_CERT"
    )]
    certificate: Option<PathBuf>,
    /// The private key of --nats-tls-cert [default: it is in the same file]
    #[arg(
        id = "nats_tls_key",
        long = "nats-tls-key",
        value_name = "FILE",
        env = "WIRESTATE_NATS_TLS_KEY",
        requires = "nats_tls_cert"
    )]
    key: Option<PathBuf>,
}

impl NatsTlsFlags {
    /// The first flag that is given.
    pub(crate) fn given(&self) -> Option<&'static str> {
        let Self { authorities, name, certificate, key } = self;
        let flags = [
            (authorities.is_some(), "--nats-tls-ca"),
            (name.is_some(), "--nats-tls-name"),
            (certificate.is_some(), "--nats-tls-cert"),
            (key.is_some(), "--nats-tls-key"),
        ];
        flags.into_iter().find_map(|(is_given, flag)| is_given.then_some(flag))
    }

    /// Reads the files. `address` is that of the first server.
    ///
    /// # Errors
    /// As [`ClientTlsFlags::load`].
    pub(crate) fn load(
        self,
        address: &str,
        handshake_timeout: Timeout,
    ) -> Result<Option<UpstreamTls>, CommandError> {
        let Self { authorities, name, certificate, key } = self;
        let flags = ClientTlsFlags { enabled: true, authorities, name, certificate, key };
        flags.load_for_upstream(address, handshake_timeout, "certificates for NATS")
    }
}

/// TLS to an upstream, whose files can be loaded again.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamTls {
    pub(crate) client: Client,
    flags: ClientTlsFlags,
    description: &'static str,
}

impl UpstreamTls {
    /// Whether the name in the server's certificate is given.
    pub(crate) fn has_name(&self) -> bool {
        self.flags.name.is_some()
    }
}

impl ReloadFiles for UpstreamTls {
    fn description(&self) -> &'static str {
        self.description
    }

    fn read(&self) -> Result<Box<dyn FnOnce() + Send>, CommandError> {
        let (credentials, client) = (self.flags.credentials()?, self.client.clone());
        Ok(Box::new(move || {
            let set = client.set_credentials(credentials);
            set.expect("the configuration of `client_config` is valid");
        }))
    }
}

impl ClientTlsFlags {
    /// Reads the files. Returns `None` if the client has no TLS. `address` is the server's.
    ///
    /// # Errors
    /// A file cannot be read or used, a certificate has expired, or the server has no name.
    pub(crate) fn load(
        &self,
        address: &str,
        handshake_timeout: Option<Duration>,
    ) -> Result<Option<Client>, CommandError> {
        if !self.enabled {
            return Ok(None);
        }
        let name = match &self.name {
            Some(name) => name.clone(),
            None => server_name(address)
                .ok_or_else(|| CommandError::NoServerName { address: address.to_owned() })?,
        };
        let credentials = self.credentials()?;
        // As for a server.
        let config =
            Config::default().with_handshake_timeout(handshake_timeout).with_write_timeout(None);
        Client::new(config, credentials, name).map(Some).map_err(CommandError::Config)
    }

    fn load_for_upstream(
        self,
        address: &str,
        handshake_timeout: Timeout,
        description: &'static str,
    ) -> Result<Option<UpstreamTls>, CommandError> {
        let client = self.load(address, handshake_timeout.0)?;
        Ok(client.map(|client| UpstreamTls { client, flags: self, description }))
    }

    fn credentials(&self) -> Result<Shared<ClientConfig>, CommandError> {
        let trusted = match &self.authorities {
            Some(path) => authorities(path)?,
            None => system_authorities()?,
        };
        let identity = match &self.certificate {
            Some(path) => {
                let key = self.key.as_ref().unwrap_or(path);
                Some(identity(path, key, SystemTime::now())?)
            }
            None => None,
        };
        let path = self.certificate.as_deref().unwrap_or(Path::new(""));
        client_config(trusted, identity, &[])
            .map_err(|error| CommandError::credentials(path, error))
    }
}

/// Puts TLS around the machine of a connection, if there is a `client`.
pub(crate) fn around<M: Machine>(client: Option<&Client>, inner: M, now: Instant) -> MaybeTls<M> {
    match client {
        None => MaybeTls::Plain(inner),
        Some(client) => MaybeTls::Tls(Box::new(client.machine(inner, now))),
    }
}

fn name(text: &str) -> Result<ServerName<'static>, String> {
    let expected = |_| "expected a host name or an IP address".into();
    ServerName::try_from(text.to_owned()).map_err(expected)
}

fn read(path: &Path) -> Result<Vec<u8>, CommandError> {
    fs::read(path).map_err(|error| CommandError::credentials(path, error))
}

fn authorities(path: &Path) -> Result<Authorities, CommandError> {
    Authorities::from_pem(&read(path)?).map_err(|error| CommandError::credentials(path, error))
}

/// The authorities that this system trusts.
fn system_authorities() -> Result<Authorities, CommandError> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = wirestate_tls::rustls::RootCertStore::empty();
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        let error = found.errors.first().map_or("there is none".into(), ToString::to_string);
        return Err(CommandError::NoAuthorities { error });
    }
    Ok(store.into())
}

fn identity(certificate: &Path, key: &Path, now: SystemTime) -> Result<Identity, CommandError> {
    let (chain, key_pem) = (read(certificate)?, read(key)?);
    let identity = Identity::from_pem(&chain, &key_pem).map_err(|error| {
        let is_of_key = matches!(error, CredentialsError::NoKey | CredentialsError::OtherKey);
        CommandError::credentials(if is_of_key { key } else { certificate }, error)
    })?;
    if let Some(ago) = identity.certificate().expired(now) {
        return Err(CommandError::credentials(
            certificate,
            format!("it expired {} ago", Time(ago)),
        ));
    }
    Ok(identity)
}
