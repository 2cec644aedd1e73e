//! The command `proxy`.

use clap::{Args, ValueEnum};
use tracing::{info, warn};
use wirestate_core::{
    proxy::{self, Balance, Config, Proxy, UpstreamCounters, Upstreams},
    proxy_protocol::Version,
    serve::{DrainReport, Server},
};
use wirestate_tls::TlsRuntime;

use crate::{
    CommandError, CommandRuntime, ServerContext, open_files,
    self_upstream::{self, SelfUpstreamCheck},
    server::{self, ServerSettings},
    tls,
    values::{self, Timeout},
};

/// Relays connections to an upstream
///
/// A FIN is passed on as a FIN and a reset as a reset. A connection stays open while one direction
/// of it is open. If no upstream can be reached, the client's connection is closed, and the log
/// names each attempt.
#[derive(Args, Debug)]
pub(super) struct ServerFlags {
    #[arg(long, value_name = "ADDR", env = "WIRESTATE_LISTEN", default_value = "127.0.0.1:9500",
          value_parser = values::listen, help = values::LISTEN_HELP)]
    listen: String,
    /// An upstream's address, HOST:PORT or unix:PATH; can be given several times. A host name is
    /// resolved for each connection. An upstream that is this proxy itself is detected and not
    /// used. Two proxies that are each other's upstreams are not detected: they pass a connection
    /// on between them until one of them reaches --max-connections
    #[arg(long, value_name = "ADDR", env = "WIRESTATE_UPSTREAM", default_value = "127.0.0.1:9000",
          value_delimiter = ',', value_parser = values::remote)]
    upstream: Vec<String>,
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
    /// Send the upstream a PROXY header of this version, which names the client
    #[arg(long, value_name = "VERSION", value_enum, env = "WIRESTATE_SEND_PROXY")]
    send_proxy: Option<HeaderVersion>,
    /// How many pipes may relay bulk data without copying it (splice(2)); 0: all data is copied. A
    /// pipe takes two open files [default: 256, or one per 32 open files if that is fewer]
    #[arg(long, value_name = "N", env = "WIRESTATE_PIPES", value_parser = values::number)]
    pipes: Option<u64>,
    #[command(flatten)]
    upstream_tls: tls::UpstreamTlsFlags,
    #[command(flatten)]
    server: server::Flags,
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
        self.server.check_tls_after_proxy_header()?;
        // The header would be encrypted, and a receiver expects it before the handshake
        // (proxy-protocol.txt, section 2).
        if self.send_proxy.is_some() && self.upstream_tls.is_enabled() {
            return Err("the proxy cannot combine --send-proxy with --upstream-tls".into());
        }
        for (i, upstream) in self.upstream.iter().enumerate() {
            self_upstream::check(upstream, &self.listen)?;
            if self.upstream[..i].contains(upstream) {
                return Err(format!("--upstream {upstream} is given twice"));
            }
        }
        Ok(())
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

pub(super) async fn serve<R: CommandRuntime>(
    runtime: &R,
    flags: ServerFlags,
    context: &ServerContext,
) -> Result<(), CommandError> {
    let balance = match flags.balance {
        Balancing::RoundRobin => Balance::RoundRobin,
        Balancing::LeastConnections => Balance::LeastConnections,
    };
    let upstream_tls = tls::ClientTlsFlags::from(flags.upstream_tls.clone());
    // Encrypted data does not go through pipes.
    let has_tls = flags.server.has_tls() || flags.upstream_tls.is_enabled();
    let pipes = if has_tls { 0 } else { pipes(flags.pipes, open_files::raise_limit()) };
    let upstreams = Upstreams::new(flags.upstream.clone(), balance, std::process::id().into());
    // One more for the socket to the upstream.
    let files = R::FILES_PER_CONNECTION + 1;
    let settings = flags.server.settings_with_files::<R>("proxy", files, 2 * pipes)?;
    let settings = settings.with_metrics(upstreams.clone());
    let send_proxy = flags.send_proxy.map(|version| match version {
        HeaderVersion::V1 => Version::V1,
        HeaderVersion::V2 => Version::V2,
    });
    let config = Config::default()
        .with_idle_timeout(server::idle_timeout(flags.idle_timeout))
        .with_pipes(usize::try_from(pipes).unwrap_or(usize::MAX))
        .with_connect_timeout(flags.connect_timeout.0)
        .with_accept_proxy(settings.accept_proxy.clone())
        .with_send_proxy(send_proxy);
    let proxy = Proxy::new(config, upstreams).map_err(CommandError::Config)?;
    let client = upstream_tls.load(&flags.upstream[0], flags.connect_timeout.0)?;
    if !has_tls {
        return run(runtime, &flags, &settings, context, &proxy, proxy::serve).await;
    }
    let mut runtime = TlsRuntime::new(runtime.clone(), client);
    if !upstream_tls.has_name() {
        runtime = runtime.named_by_address();
    }
    run(&runtime, &flags, &settings, context, &proxy, async |server, proxy| {
        let Some(tls) = &settings.tls else { return proxy::serve(server, proxy).await };
        let handshake = |socket, admitted, clock| {
            runtime.clone().accept(tls.server().clone(), socket, admitted, clock)
        };
        proxy::serve_after(server, proxy, handshake).await
    })
    .await
}

/// Listens, and calls `serve` until a signal shuts the proxy down.
async fn run<R: CommandRuntime>(
    runtime: &R,
    flags: &ServerFlags,
    settings: &ServerSettings,
    context: &ServerContext,
    proxy: &Proxy,
    serve: impl AsyncFnOnce(Server<R>, Proxy) -> DrainReport,
) -> Result<(), CommandError> {
    server::listen_and_serve(runtime, &flags.listen, settings, context, async |server| {
        let shutdown = settings.handle.shutdown();
        let check =
            SelfUpstreamCheck::start(runtime, &flags.upstream, &flags.listen, &server, shutdown)?;
        let report = serve(server, proxy.clone()).await;
        for UpstreamCounters { address, connects, failures, .. } in proxy.upstreams().counters() {
            info!(%address, connects, failures, "upstream");
        }
        check.finish()?;
        Ok(report)
    })
    .await
}
