//! The cost of relaying for the proxy: this project's proxy on each runtime, compared with nginx's
//! `stream`, `HAProxy`, and hand-written proxies on tokio and with threads.
//!
//! ```text
//! cargo bench -p wirestate-testkit --bench proxy
//! cargo bench -p wirestate-testkit --bench proxy -- --workloads lockstep --servers nginx,tokio
//! cargo bench -p wirestate-testkit --bench proxy -- --rounds 15 --seconds 2 --json
//! ```
//!
//! # What is measured
//!
//! - `lockstep`: proxy CPU per round trip. Each of 50 connections sends 64 bytes whenever the last
//!   64 are back.
//! - `stream`: proxy CPU per KiB. One connection sends as many bytes as its socket accepts, and
//!   reads them back.
//! - `streams`: the same with 50 connections.
//! - `pairs`: proxy memory per pair of connections. Each of 4,000 connections has sent one message
//!   and is silent; at the end each sends one more.
//!
//! The upstream is the floor of the echo benchmark, on the load's core, so a KiB that comes back
//! has passed the proxy twice. CPU and memory are measured as in the echo benchmark: the first
//! field of `/proc/PID/task/*/schedstat` while no byte is in flight, and the anonymous memory of
//! `/proc/PID/smaps_rollup`. In `lockstep` and `pairs` every byte is compared. In the streams bytes
//! are compared before the measurement and counted during it.
//!
//! The program runs itself again as the proxy (`--serve`): a new process for each round, pinned to
//! one core. Load and upstream are pinned to another core. In each round all proxies run side by
//! side and get the load in turns, in alternating order. A ratio compares two proxies in the same
//! round. The report has the median of the rounds and the extremes. nginx, `HAProxy` and the
//! hand-written proxy on tokio relay on one thread, this project's tokio and smol on `--workers`,
//! and std on one thread for each connection. nginx and `HAProxy` are left out if they are not
//! installed (Debian: `nginx` with `libnginx-mod-stream`, `haproxy`).
//!
//! No time makes the benchmark fail. Under `cargo test` it runs one short round and reports only
//! that the bytes came back. Run nothing else at the same time.

#[path = "../echo/floor.rs"]
mod floor;
mod hand_written;
mod haproxy;
#[path = "../echo/load.rs"]
mod load;
mod machines;
#[path = "../measure/mod.rs"]
mod measure;
mod report;
mod rounds;
mod server;

use std::{io, net::SocketAddr, num::NonZeroUsize, process::ExitCode};

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

/// Measures the cost of relaying for the proxy: CPU per round trip and per KiB, memory per pair.
#[derive(Debug, Parser)]
#[command(mut_arg("serve", |serve| serve.requires("upstream")))]
struct Arguments {
    #[command(flatten)]
    shared: Shared<Server, Workload>,
    /// Connections of `lockstep` and `streams`
    #[arg(long, default_value = "50")]
    connections: NonZeroUsize,
    /// Connections of `pairs` [default: 4000]
    #[arg(long)]
    pairs: Option<NonZeroUsize>,
    /// With `--serve`: the address that connections are relayed to
    #[arg(long, requires = "serve")]
    upstream: Option<SocketAddr>,
    /// Run the upstream: print its port to standard output, and echo until it is killed
    #[arg(long, conflicts_with = "serve")]
    echo: bool,
}

fn main() -> ExitCode {
    arguments::main(run)
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let shared = &arguments.shared;
    if let Some((server, upstream)) = shared.serve.zip(arguments.upstream) {
        return server.serve(upstream, shared.core, shared.workers);
    }
    if arguments.echo {
        return server::echo();
    }
    let pairs = if shared.brief() { 100 } else { 4000 };
    let plan = Plan {
        basics: shared.basics(5, Server::is_installed),
        connections: arguments.connections.get(),
        pairs: arguments.pairs.map_or(pairs, NonZeroUsize::get),
    };
    let cores = Cores::choose()?;
    let results = rounds::run(&plan, cores)?;
    let report = Report::new(&plan, cores, &results);
    shared.show(&report, "proxy: every byte came back through every proxy")
}
