//! Flags of servers.

use core::time::Duration;

use clap::Args;
use tracing::warn;
use wirestate_core::serve;

use super::{
    ServerSettings,
    limits::{limits, reserved_files},
    rates::RateFlags,
};
use crate::{
    CommandError, CommandRuntime,
    accept_proxy::AcceptProxyFlags,
    access::AccessFlags,
    access_log::AccessLogFlags,
    recording::RecordFlags,
    tls,
    values::{self, Limit, Timeout},
};

/// The flags of a server of many clients.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Limits")]
pub(crate) struct Flags {
    /// How many connections may be open [default: 10000, or what the limit of open files allows]
    #[arg(long, value_name = "N", env = "WIRESTATE_MAX_CONNECTIONS",
          value_parser = values::count::<u64>)]
    pub(super) max_connections: Option<u64>,
    /// How many connections may be open from one IPv4 address or IPv6 /64, except from loopback; or
    /// `off`
    #[arg(long, value_name = "N", env = "WIRESTATE_MAX_PER_ADDRESS", default_value = "64")]
    pub(super) max_per_address: Limit,
    #[command(flatten)]
    rates: RateFlags,
    #[command(flatten)]
    access: AccessFlags,
    #[command(flatten)]
    accept_proxy: AcceptProxyFlags,
    #[command(flatten)]
    access_log: AccessLogFlags,
    #[command(flatten)]
    common: CommonFlags,
}

/// The flags of every server, including a server of one client at a time (`fanout-source`).
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Limits")]
pub(crate) struct CommonFlags {
    /// How long connections may take to end after SIGTERM or SIGINT; then they are reset; or `off`
    #[arg(long, value_name = "TIME", env = "WIRESTATE_DRAIN_TIMEOUT", default_value = "10s")]
    drain_timeout: Timeout,
    #[command(flatten)]
    record: RecordFlags,
    #[command(flatten)]
    tls: tls::ServerTlsFlags,
}

/// The flags of a process that runs servers.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Operation")]
pub(crate) struct ProcessFlags {
    /// Serve the status by HTTP on this address: /, /healthz, /readyz, /metrics, /connections
    #[arg(long, value_name = "ADDR", env = "WIRESTATE_STATUS",
          value_parser = values::listen)]
    pub(crate) status: Option<String>,
    /// A host name that requests for the status may use, besides localhost and IP addresses; can be
    /// given several times
    #[arg(
        long = "status-host",
        value_name = "HOST",
        env = "WIRESTATE_STATUS_HOST",
        value_delimiter = ',',
        value_parser = values::host,
        requires = "status"
    )]
    pub(super) status_hosts: Vec<String>,
    /// Serve the status with TLS, with the certificate of --tls-cert
    #[arg(long = "status-tls", env = "WIRESTATE_STATUS_TLS", value_parser = values::boolean,
          requires_all = ["status", "certificates"])]
    pub(super) status_has_tls: bool,
    /// After SIGTERM or SIGINT, continue to accept for this long while /readyz fails, so
    /// that load balancers send new connections elsewhere
    #[arg(long, value_name = "TIME", env = "WIRESTATE_LAME_DUCK", default_value = "0s",
          value_parser = values::time)]
    pub(super) lame_duck: Duration,
}

/// The share of one server in the open files of its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// How many servers the process has.
    pub(crate) servers: u64,
    /// Whether the process serves a status.
    pub(crate) has_status: bool,
}

impl Flags {
    /// The settings of a server.
    ///
    /// # Errors
    /// As [`CommonFlags::settings`].
    pub(crate) fn settings<R: CommandRuntime>(
        &self,
        share: Share,
    ) -> Result<ServerSettings, CommandError> {
        self.settings_beside::<R>(share, 0)
    }

    /// The settings of a server beside another one that may have this many `connections`.
    pub(crate) fn settings_beside<R: CommandRuntime>(
        &self,
        share: Share,
        connections: u64,
    ) -> Result<ServerSettings, CommandError> {
        let files = R::FILES_PER_CONNECTION as u64;
        let other = connections.saturating_mul(files);
        let reserved_files = reserved_files::<R>(share).saturating_add(other);
        self.settings_with_files(share, R::FILES_PER_CONNECTION, reserved_files)
    }

    /// The settings of a server that needs `files_per_connection` open files for each connection,
    /// and `shared_files` for all connections together.
    pub(crate) fn proxy_settings<R: CommandRuntime>(
        &self,
        share: Share,
        shared_files: u64,
    ) -> Result<ServerSettings, CommandError> {
        // One more for the socket to the upstream.
        let reserved_files = reserved_files::<R>(share) + shared_files;
        self.settings_with_files(share, R::FILES_PER_CONNECTION + 1, reserved_files)
    }

    fn settings_with_files(
        &self,
        share: Share,
        files_per_connection: usize,
        reserved_files: u64,
    ) -> Result<ServerSettings, CommandError> {
        let config = serve::Config::default()
            .with_limits(limits(self, share, files_per_connection as u64, reserved_files))
            .with_behind_proxies(self.accept_proxy.behind_proxies())
            .with_access(self.access.list())
            .with_rates(self.rates.rates());
        let (accept_proxy, access_log) = (self.accept_proxy.policy(), self.access_log.clone());
        let settings = self.common.settings(config)?;
        Ok(ServerSettings {
            accept_proxy,
            reserved_files,
            access_log: Some(access_log),
            ..settings
        })
    }

    /// The flags of another server, which may have this many connections.
    pub(crate) fn with_max_connections(self, connections: u64) -> Self {
        Self { max_connections: Some(connections), ..self }
    }

    /// Returns an error if flags contradict each other.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.access.check()?;
        self.common.check()
    }

    /// Returns an error if flags contradict each other, for a server that has TLS around all
    /// machines of a connection.
    pub(crate) fn check_tls_after_proxy_header(&self) -> Result<(), String> {
        self.check()?;
        if self.accept_proxy.policy().is_some() && self.has_tls() {
            return Err("the proxy cannot combine --accept-proxy with --tls-cert".into());
        }
        Ok(())
    }

    /// Whether the server has TLS.
    pub(crate) fn has_tls(&self) -> bool {
        self.common.tls.is_enabled()
    }
}

impl CommonFlags {
    /// Returns an error if flags contradict each other.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.tls.check()
    }

    /// The settings of a server with `config`.
    ///
    /// # Errors
    /// A file of a certificate or a key cannot be used.
    pub(crate) fn settings(&self, config: serve::Config) -> Result<ServerSettings, CommandError> {
        if self.drain_timeout.0.is_none() {
            warn!("--drain-timeout off: one open connection can keep the server from ending");
        }
        let config = config.with_drain_timeout(self.drain_timeout.0);
        Ok(ServerSettings::new(config, self.record.clone(), self.tls.load()?))
    }
}

/// Returns the idle timeout of a server's connections. Warns if there is none.
pub(crate) fn idle_timeout(timeout: Timeout) -> Option<Duration> {
    if timeout.0.is_none() {
        warn!("--idle-timeout off: connections whose peer has vanished may stay open");
    }
    timeout.0
}
