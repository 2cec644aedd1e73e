//! The command `proxy`.

use core::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use tracing::{info, warn};
use wirestate_core::{
    dial::CheckConfig,
    drive::Splice,
    proxy::{Balance, Config, Proxy, RelayFactory, Relays, UpstreamCounters, Upstreams},
    proxy_protocol::Version,
    runtime::Runtime,
    shared::Shared,
    shutdown::ShutdownHandle,
};
use wirestate_tls::{MaybeTlsStream, TlsRuntime};

use crate::{
    CommandError, CommandRuntime,
    faults::FaultFlags,
    jitter::jitter_seed,
    open_files, self_upstream,
    server::{self, ConnectFn, Prepared, Serving, Share, Stage, Starting, Task, task},
    tls::{self, UpstreamTls},
    values::{self, Timeout},
};

/// Relays connections to an upstream
///
/// A FIN is passed on as a FIN and a reset as a reset. A connection stays open while one direction
/// of it is open. If no upstream can be reached, the client's connection is closed, and the log
/// names each attempt.
#[derive(Args, Clone, Debug)]
pub(super) struct ServerFlags {
    #[arg(long, value_name = "ADDR", env = "WIRESTATE_LISTEN", default_value = "127.0.0.1:9500",
          value_delimiter = ',', value_parser = values::listen, help = values::LISTEN_HELP)]
    listen: Vec<String>,
    /// An upstream's address, HOST:PORT or unix:PATH; can be given several times. A host name
    /// stands for all its addresses, which are balanced. An upstream that is this proxy itself is
    /// detected and not
    /// used. Two proxies that are each other's upstreams are not detected: they pass a connection
    /// on between them until one of them reaches --max-connections
    #[arg(long, value_name = "ADDR", env = "WIRESTATE_UPSTREAM", default_value = "127.0.0.1:9000",
          value_delimiter = ',', value_parser = values::remote)]
    upstream: Vec<String>,
    /// An upstream that is used only while no other one is available; can be given several times
    #[arg(long, value_name = "ADDR", env = "WIRESTATE_BACKUP", value_delimiter = ',',
          value_parser = values::remote)]
    backup: Vec<String>,
    /// How an upstream is chosen for a connection
    #[arg(
        long,
        value_name = "METHOD",
        value_enum,
        env = "WIRESTATE_BALANCE",
        default_value = "round-robin"
    )]
    balance: Balancing,
    /// Reset a connection on which no byte moves, on either side, for this long; or `off`
    #[arg(long, value_name = "TIME", env = "WIRESTATE_IDLE_TIMEOUT", default_value = "10m")]
    idle_timeout: Timeout,
    /// How long connecting may take, for all upstreams together; or `off`
    #[arg(long, value_name = "TIME", env = "WIRESTATE_CONNECT_TIMEOUT", default_value = "10s")]
    connect_timeout: Timeout,
    /// When host names of upstreams are looked up again; or `off`: only when an address has failed,
    /// which counts in any case
    #[arg(long, value_name = "TIME", env = "WIRESTATE_RESOLVE_INTERVAL", default_value = "30s")]
    resolve_interval: Timeout,
    /// Send the upstream a PROXY header of this version, which names the client
    #[arg(long, value_name = "VERSION", value_enum, env = "WIRESTATE_SEND_PROXY")]
    send_proxy: Option<HeaderVersion>,
    /// How many pipes may relay bulk data without copying it (splice(2)); 0: all data is copied. A
    /// pipe takes two open files [default: 256, or one per 32 open files if that is fewer]
    #[arg(long, value_name = "N", env = "WIRESTATE_PIPES", value_parser = values::number)]
    pipes: Option<u64>,
    #[command(flatten)]
    checks: CheckFlags,
    #[command(flatten)]
    faults: FaultFlags,
    #[command(flatten)]
    upstream_tls: tls::UpstreamTlsFlags,
    #[command(flatten)]
    server: server::Flags,
}

/// The flags of active health checks.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Health checks")]
struct CheckFlags {
    /// Check each address of the upstreams after this time, whether it can be connected to; or
    /// `off`
    #[arg(
        long = "check-interval",
        value_name = "TIME",
        env = "WIRESTATE_CHECK_INTERVAL",
        default_value = "off"
    )]
    interval: Timeout,
    /// A check that takes longer has failed
    #[arg(long = "check-timeout", value_name = "TIME", env = "WIRESTATE_CHECK_TIMEOUT",
          default_value = "2s", value_parser = values::nonzero_time)]
    timeout: Duration,
    /// Send this text in a check, with \r, \n, \t, \\ and \xHH (two hexadecimal digits) for bytes
    #[arg(long = "check-send", value_name = "TEXT", env = "WIRESTATE_CHECK_SEND",
          value_parser = values::escaped)]
    send: Option<Bytes>,
    /// What the upstream must send first in a check; written as for --check-send
    #[arg(long = "check-expect", value_name = "TEXT", env = "WIRESTATE_CHECK_EXPECT",
          value_parser = values::escaped)]
    expect: Option<Bytes>,
    /// After this many checks in a row that passed, an address is up again
    #[arg(long = "check-rise", value_name = "N", env = "WIRESTATE_CHECK_RISE", default_value = "2",
          value_parser = values::count::<NonZeroU32>)]
    rise: NonZeroU32,
    /// After this many checks in a row that failed, an address is down
    #[arg(long = "check-fall", value_name = "N", env = "WIRESTATE_CHECK_FALL", default_value = "3",
          value_parser = values::count::<NonZeroU32>)]
    fall: NonZeroU32,
}

impl CheckFlags {
    /// Returns an error if flags contradict each other.
    fn check(&self) -> Result<(), String> {
        if self.interval.0.is_some() {
            return Ok(());
        }
        for (flag, is_given) in
            [("--check-send", self.send.is_some()), ("--check-expect", self.expect.is_some())]
        {
            if is_given {
                return Err(format!("{flag} needs --check-interval"));
            }
        }
        Ok(())
    }

    /// `None`: there are no checks.
    fn config(self) -> Option<CheckConfig> {
        let config = CheckConfig::default()
            .with_interval(self.interval.0?)
            .with_timeout(self.timeout)
            .with_send(self.send.unwrap_or_default())
            .with_expect(self.expect.unwrap_or_default())
            .with_rise(self.rise)
            .with_fall(self.fall);
        Some(config)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum HeaderVersion {
    /// A line of text
    V1,
    /// Binary
    V2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Balancing {
    /// Each upstream in turn
    RoundRobin,
    /// The upstream with the fewest open connections
    LeastConnections,
}

impl ServerFlags {
    /// Returns an error if flags contradict each other.
    pub(super) fn check(&self) -> Result<(), String> {
        server::check_listen(&self.listen)?;
        self.server.check_tls_after_proxy_header()?;
        // The header would be encrypted, and a receiver expects it before the handshake
        // (proxy-protocol.txt, section 2).
        if self.send_proxy.is_some() && self.upstream_tls.is_enabled() {
            return Err("the proxy cannot combine --send-proxy with --upstream-tls".into());
        }
        self.checks.check()?;
        for (i, upstream) in self.upstream.iter().enumerate() {
            self_upstream::check("--upstream", upstream, &self.listen)?;
            if self.upstream[..i].contains(upstream) {
                return Err(format!("--upstream {upstream} is given twice"));
            }
        }
        for (i, backup) in self.backup.iter().enumerate() {
            self_upstream::check("--backup", backup, &self.listen)?;
            if self.backup[..i].contains(backup) {
                return Err(format!("--backup {backup} is given twice"));
            }
            if self.upstream.contains(backup) {
                return Err(format!("--backup {backup} is an --upstream as well"));
            }
        }
        Ok(())
    }

    /// The relays of a replay.
    ///
    /// # Errors
    /// The configuration is invalid.
    pub(super) fn relays(&self) -> Result<RelayFactory, CommandError> {
        let config = Config::default().with_idle_timeout(self.idle_timeout.0);
        RelayFactory::new(config).map_err(CommandError::Config)
    }

    /// The source code that makes a relay.
    pub(super) fn relay_source(&self) -> String {
        let default = Config::default().idle_timeout;
        let idle = self.idle_timeout.setting_source("with_idle_timeout", default);
        format!(
            "proxy::RelayFactory::new(proxy::Config::default(){idle}).unwrap()\
             .relay(Instant::EPOCH)"
        )
    }
}

/// Returns how many pipes there may be, with a limit of `files` open files. Warns if that is fewer
/// than `requested`.
fn pipes(requested: Option<u64>, files: u64) -> u64 {
    let max = files / 8;
    match requested {
        Some(requested) if requested > max => {
            warn!("--pipes {requested}: the limit of {files} open files allows {max}");
            max
        }
        Some(requested) => requested,
        None => (files / 32).min(Config::default().pipes as u64),
    }
}

pub(super) fn prepare<R: CommandRuntime>(
    flags: ServerFlags,
    share: Share,
    name: Option<Shared<str>>,
) -> Result<Prepared<R>, CommandError> {
    let balance = match flags.balance {
        Balancing::RoundRobin => Balance::RoundRobin,
        Balancing::LeastConnections => Balance::LeastConnections,
    };
    let faults = flags.faults.load()?;
    // Encrypted data, and data with faults, does not go through pipes.
    let has_pipes = !flags.server.has_tls() && !flags.upstream_tls.is_enabled() && faults.is_none();
    let files = open_files::raise_limit() / share.servers;
    let pipes = if has_pipes { pipes(flags.pipes, files) } else { 0 };
    let upstreams = Upstreams::new(flags.upstream.clone(), balance, jitter_seed());
    let upstreams = upstreams.with_backups(flags.backup.clone()).with_server(name.clone());
    let settings = flags.server.proxy_settings::<R>(share, 2 * pipes)?;
    let settings = settings.with_metrics(upstreams.clone());
    let send_proxy = flags.send_proxy.map(|version| match version {
        HeaderVersion::V1 => Version::V1,
        HeaderVersion::V2 => Version::V2,
    });
    let config = Config::default()
        .with_idle_timeout(server::idle_timeout(flags.idle_timeout))
        .with_pipes(usize::try_from(pipes).unwrap_or(usize::MAX))
        .with_connect_timeout(flags.connect_timeout.0)
        .with_resolve_interval(flags.resolve_interval.0)
        .with_check(flags.checks.config())
        .with_accept_proxy(settings.accept_proxy.clone())
        .with_send_proxy(send_proxy);
    let mut proxy = Proxy::new(config, upstreams).map_err(CommandError::Config)?;
    let upstream_tls = flags.upstream_tls.load(&flags.upstream[0], flags.connect_timeout)?;
    let settings = settings.with_files_of(upstream_tls.clone());
    let mut settings = settings.with_upstreams([flags.upstream, flags.backup].concat());
    if let Some(faults) = faults.clone() {
        proxy = proxy.with_faults(faults.injector.clone());
        settings = settings.with_recorded_field("seed", faults.injector.seed().into());
        settings = settings.with_metrics(faults.injector.clone()).with_files(faults);
    }
    Ok(settings.start(flags.listen, move |starting| {
        if let Some(faults) = faults {
            let (plan, seed) = (faults.shown(), faults.injector.seed());
            warn!(server = name.as_deref(), plan, seed, "faults are injected into connections");
        }
        proxy.upstreams().continue_from(starting.handle.table());
        let checks = ShutdownHandle::new();
        let serving = serve(starting, proxy.clone(), upstream_tls, &checks)?;
        Ok(serving.on_end(move |stage| {
            checks.drain();
            if stage != Stage::Stopped {
                return;
            }
            for UpstreamCounters { address, connects, failures, .. } in proxy.upstreams().counters()
            {
                info!(server = name.as_deref(), %address, connects, failures, "upstream");
            }
        }))
    }))
}

/// Relays clients: within TLS, and with TLS to the upstream, if they are given. Checks the
/// upstreams until a request to `checks`.
fn serve<R: CommandRuntime>(
    starting: &Starting<'_, R>,
    proxy: Proxy,
    upstream_tls: Option<UpstreamTls>,
    checks: &ShutdownHandle,
) -> Result<Serving<R>, CommandError> {
    let tls = starting.settings.tls.clone();
    let (runtime, listening) = (starting.runtime.clone(), starting.addresses.to_vec());
    if tls.is_none() && upstream_tls.is_none() {
        let checking = checking(starting, &runtime, &proxy, checks)?;
        let relays = recorded(Relays::new(runtime, listening, proxy), starting);
        let connect: Box<ConnectFn<R>> = Box::new(move |socket, admitted, clock| {
            task(relays.connection(socket, admitted, clock))
        });
        return Ok(checking.into_iter().fold(Serving::new(connect), Serving::with_task));
    }
    let is_named = upstream_tls.as_ref().is_some_and(UpstreamTls::has_name);
    let mut runtime = TlsRuntime::new(runtime, upstream_tls.map(|tls| tls.client));
    if !is_named {
        runtime = runtime.named_by_address();
    }
    let checking = checking(starting, &runtime, &proxy, checks)?;
    let relays = recorded(Relays::new(runtime.clone(), listening, proxy), starting);
    let connect: Box<ConnectFn<R>> = Box::new(move |socket, admitted, clock| {
        let (socket, relays) = (MaybeTlsStream::Plain(socket), relays.clone());
        let Some(tls) = &tls else { return task(relays.connection(socket, admitted, clock)) };
        let handshake = runtime.clone().accept(tls.server().clone(), socket, admitted, clock);
        Box::pin(async move {
            if let Some((socket, admitted, clock)) = handshake.await {
                relays.connection(socket, admitted, clock).await;
            }
        })
    });
    Ok(checking.into_iter().fold(Serving::new(connect), Serving::with_task))
}

/// Records the connections of `relays`, if the settings ask for it.
fn recorded<R, C>(relays: Relays<C>, starting: &Starting<'_, R>) -> Relays<C>
where
    R: CommandRuntime,
    C: Runtime<Socket: Splice>,
{
    match starting.settings.recordings.clone() {
        None => relays,
        Some(recordings) => {
            relays.with_recorder(move |entry, now| recordings.of_connection("relay", entry, now))
        }
    }
}

/// Starts to check the upstreams on `runtime`, which may have TLS, until a request to `shutdown`.
/// Returns `None` if there are no checks.
fn checking<R: CommandRuntime, C: Runtime>(
    starting: &Starting<'_, R>,
    runtime: &C,
    proxy: &Proxy,
    shutdown: &ShutdownHandle,
) -> Result<Option<Task>, CommandError> {
    if proxy.relays().config().check.is_none() {
        return Ok(None);
    }
    let (runtime, proxy, requested) = (runtime.clone(), proxy.clone(), shutdown.clone());
    let checks = async move {
        requested.unless_requested(proxy.check_upstreams(&runtime)).await;
    };
    starting.spawn(shutdown, checks).map(Some)
}
