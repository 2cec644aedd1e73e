//! The cost of TLS for the server: the echo machine and the proxy with TLS on each runtime,
//! compared with hand-written servers on rustls and with nginx's `stream`.
//!
//! ```text
//! cargo bench -p wirestate-testkit --bench tls
//! cargo bench -p wirestate-testkit --bench tls -- --workloads lockstep --servers tokio-hand,tokio
//! cargo bench -p wirestate-testkit --bench tls -- --rounds 15 --seconds 2 --json
//! ```
//!
//! # What is measured
//!
//! - `lockstep`: echo server CPU per request. Each of 50 connections sends 64 bytes whenever the
//!   last 64 are back.
//! - `handshakes`: echo server CPU per connection: a full handshake, one byte there and back, and
//!   `close_notify` in both directions. One connection follows the other. Servers with a thread for
//!   each connection are left out, because the CPU of threads that have ended is not counted.
//! - `idle`: echo server memory per connection. Each of 2,000 connections has sent one message and
//!   is silent.
//! - `upload`: proxy CPU per KiB. The proxy decrypts what 4 connections send as fast as the proxy
//!   accepts it, and relays it to an upstream without TLS.
//! - `download`: the same in the other direction: the proxy encrypts.
//!
//! All connections have TLS 1.3, `TLS13_AES_128_GCM_SHA256` and an ECDSA certificate (P-256).
//! No session is resumed, and servers issue no tickets. The client is rustls.
//!
//! CPU and memory are measured as in the benchmark `echo`, whose page explains it: every server is
//! pinned to one core and the load to another, all servers run side by side, and a ratio compares
//! two servers in the same round. Every byte is compared. nginx has its default settings; it is
//! left out if it is not installed (Debian: `nginx` with `libnginx-mod-stream`).
//!
//! No time makes the benchmark fail. Under `cargo test` it runs one short round and reports only
//! that the bytes arrived. Run nothing else at the same time.

mod credentials;
mod hand_written;
mod load;
mod machines;
#[path = "../measure/mod.rs"]
mod measure;
mod report;
mod rounds;
mod server;
mod streams;

use std::{io, net::SocketAddr, num::NonZeroUsize, path::PathBuf, process::ExitCode};

use clap::Parser;

use self::{
    measure::{
        arguments::{self, Shared},
        costs::Report,
        process::Cores,
    },
    rounds::{Plan, Workload},
    server::Server,
};

/// Measures the cost of TLS for the server: CPU per request, per handshake and per KiB, memory per
/// idle connection.
#[derive(Debug, Parser)]
#[command(mut_arg("serve", |serve| serve.requires("credentials")))]
struct Arguments {
    #[command(flatten)]
    shared: Shared<Server, Workload>,
    /// Connections of `lockstep`
    #[arg(long, default_value = "50")]
    connections: NonZeroUsize,
    /// Connections of `upload` and `download`
    #[arg(long, default_value = "4")]
    streams: NonZeroUsize,
    /// Connections of `idle` [default: 2000]
    #[arg(long)]
    idle_connections: Option<NonZeroUsize>,
    /// With `--serve`: the folder with the certificate and the key
    #[arg(long, requires = "serve")]
    credentials: Option<PathBuf>,
    /// With `--serve`: do not echo, relay to this address
    #[arg(long, requires = "serve")]
    upstream: Option<SocketAddr>,
}

fn main() -> ExitCode {
    arguments::main(run)
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let shared = &arguments.shared;
    if let Some((server, credentials)) = shared.serve.zip(arguments.credentials.as_ref()) {
        return server.serve(credentials, arguments.upstream, shared.core, shared.workers);
    }
    let idle_connections = if shared.brief() { 20 } else { 2000 };
    let plan = Plan {
        basics: shared.basics(5, Server::is_installed),
        connections: arguments.connections.get(),
        streams: arguments.streams.get(),
        idle_connections: arguments.idle_connections.map_or(idle_connections, NonZeroUsize::get),
    };
    let cores = Cores::choose()?;
    let results = rounds::run(&plan, cores)?;
    let report = Report::new(&plan, cores, &results);
    shared.show(&report, "tls: every byte arrived, from every server and through every proxy")
}
