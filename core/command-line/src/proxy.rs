//! `proxy`.

use clap::{Args, ValueEnum};
use tracing::{info, warn};
use wirestate_core::{
    proxy::{self, Balance, Config, Proxy, UpstreamCounters, Upstreams},
    proxy_protocol::Version,
};

use crate::{
    Failure, Host, ServerContext, server,
    upstream::{self, SelfCheck},
    values::{self, Timeout},
};

/// Relays TCP connections to an upstream
///
/// A FIN and a reset of one side are shown to the other one as what they are, and a connection stays
/// open for as long as one direction of it is. When no upstream can be connected to, the client is
/// told by a close, and the log names each attempt.
#[derive(Args, Debug)]
pub(super) struct ServerFlags {
    /// Where to listen: HOST:PORT (on all addresses of a name; port 0 takes a free one), unix:PATH
    /// (unix:@NAME: an abstract one), or systemd[:NAME], the next socket that the service manager
    /// passes, or all of NAME
    #[arg(long, value_name = "ADDR", env = "WIRESTATE_LISTEN", default_value = "127.0.0.1:9500",
          value_parser = values::listen)]
    listen: String,
    /// Where connections go; can be given several times. A name is looked up for each connection.
    /// An upstream that is this proxy itself is detected, and not used. Two proxies that are each
    /// other's upstreams are not detected: a client's connection is passed on between them until
    /// `--max-connections` of one of them is reached, then closed
    #[arg(long, value_name = "ADDR", env = "WIRESTATE_UPSTREAM", default_value = "127.0.0.1:9000",
          value_delimiter = ',', value_parser = values::remote)]
    upstream: Vec<String>,
    /// Which of several upstreams is next
    #[arg(long, value_enum, env = "WIRESTATE_BALANCE", default_value = "round-robin")]
    balance: Spread,
    /// Reset a connection on which no byte moves, on either side, for this long; or `off`
    #[arg(long, value_name = "TIME", env = "WIRESTATE_IDLE_TIMEOUT", default_value = "600s")]
    idle_timeout: Timeout,
    /// How long to try to connect a client to an upstream, to all of them together; or `off`
    #[arg(long, value_name = "TIME", env = "WIRESTATE_CONNECT_TIMEOUT", default_value = "10s")]
    connect_timeout: Timeout,
    /// Tell the upstream who the client is, by a PROXY header of this version
    #[arg(long, value_enum, env = "WIRESTATE_SEND_PROXY")]
    send_proxy: Option<HeaderVersion>,
    /// Pipes at most for bytes that come in bulk, which pass through them without being copied
    /// (splice(2)); each takes two open files; 0: all are copied [default: 256, or one for 32 of the limit
    /// of open files]
    #[arg(long, value_name = "N", env = "WIRESTATE_PIPES", value_parser = values::number)]
    pipes: Option<u64>,
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
enum Spread {
    /// One after the other
    RoundRobin,
    /// The one with the fewest open connections
    LeastConnections,
}

impl ServerFlags {
    /// What does not go together.
    pub(super) fn check(&self) -> Result<(), String> {
        for (i, upstream) in self.upstream.iter().enumerate() {
            upstream::check(upstream, &self.listen)?;
            if self.upstream[..i].contains(upstream) {
                return Err(format!("--upstream {upstream} is given twice"));
            }
        }
        Ok(())
    }
}

/// How many pipes there may be, of the number that was asked for, with so many open files.
fn pipes(wanted: Option<u64>, files: u64) -> u64 {
    let most = files / 8;
    match wanted {
        Some(wanted) if wanted > most => {
            warn!("--pipes {wanted}: the limit of {files} open files allows {most}");
            most
        }
        Some(wanted) => wanted,
        None => (files / 32).min(Config::default().pipes as u64),
    }
}

pub(super) async fn serve<R: Host>(
    runtime: &R,
    flags: ServerFlags,
    around: &ServerContext,
) -> Result<(), Failure> {
    let balance = match flags.balance {
        Spread::RoundRobin => Balance::RoundRobin,
        Spread::LeastConnections => Balance::LeastConnections,
    };
    let pipes = pipes(flags.pipes, server::open_files());
    let upstreams = Upstreams::new(flags.upstream.clone(), balance, std::process::id().into());
    // The socket to the upstream is one more.
    let files = R::FILES_PER_CONNECTION + 1;
    let setup = flags.server.setup_of::<R>("proxy", files, 2 * pipes);
    let setup = setup.metrics_source(upstreams.clone());
    let send_proxy = flags.send_proxy.map(|version| match version {
        HeaderVersion::V1 => Version::V1,
        HeaderVersion::V2 => Version::V2,
    });
    let config = Config::default()
        .with_idle_timeout(server::idle_timeout(flags.idle_timeout))
        .with_pipes(usize::try_from(pipes).unwrap_or(usize::MAX))
        .with_connect_timeout(flags.connect_timeout.0)
        .with_accept_proxy(setup.accept.clone())
        .with_send_proxy(send_proxy);
    let proxy = Proxy::new(config, upstreams).map_err(Failure::Config)?;
    server::listening(runtime, &flags.listen, &setup, around, async |server| {
        let shutdown = setup.handle.shutdown();
        let check = SelfCheck::start(runtime, &flags.upstream, &flags.listen, &server, shutdown)?;
        let report = proxy::serve(server, proxy.clone()).await;
        for UpstreamCounters { address, connects, failures, .. } in proxy.upstreams().counters() {
            info!(%address, connects, failures, "upstream");
        }
        check.verdict()?;
        Ok(report)
    })
    .await
}
