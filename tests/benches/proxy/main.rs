//! What relaying costs the proxy: ours on each runtime, beside nginx's `stream` and `HAProxy`, which
//! people install, and beside what one would write by hand on tokio and with threads.
//!
//! ```text
//! cargo bench -p wirestate-testkit --bench proxy
//! cargo bench -p wirestate-testkit --bench proxy -- --workloads lockstep --servers nginx,tokio
//! cargo bench -p wirestate-testkit --bench proxy -- --rounds 15 --seconds 2 --json
//! ```
//!
//! # What is measured
//!
//! | workload | load | figure |
//! |---|---|---|
//! | `lockstep` | 50 connections, each sends 64 bytes once the last 64 are back | proxy CPU per round trip |
//! | `stream` | 1 connection that sends as the sockets take it and reads all back | proxy CPU per KiB |
//! | `streams` | 50 of them | proxy CPU per KiB |
//! | `pairs` | 4,000 connections that sent one message each and are silent, then one each again | proxy memory per pair |
//!
//! Behind the proxy is the echo benchmark's floor, on the load's core; so a KiB that comes back has
//! passed the proxy twice. CPU and memory are taken as the echo benchmark takes them: the first field
//! of `/proc/PID/task/*/schedstat` while no byte is on its way, and the anonymous memory of
//! `/proc/PID/smaps_rollup`. Every byte is compared in `lockstep` and `pairs`, and in the streams
//! before the measurement; during it they are counted.
//!
//! The program runs itself again as the proxy (`--serve`), a fresh process for each round, pinned to
//! one core; load and upstream are pinned to another. In each round all proxies run side by side and
//! get the load in turns, back and forth; a ratio is that of two proxies in one round, and what is
//! reported is the median of the rounds with the extremes. All have one thread that relays; of ours
//! tokio and smol have as many as `--workers` says, and std one for each connection. nginx and
//! `HAProxy` are left out where they are not installed (Debian: `nginx` with `libnginx-mod-stream`,
//! `haproxy`).
//!
//! Nothing here fails because of a time. Run by `cargo test`, it makes one short round and reports
//! only that the bytes came back. Let nothing else run meanwhile.

#[path = "../echo/floor.rs"]
mod floor;
mod hand_written;
#[path = "../echo/load.rs"]
mod load;
mod machines;
#[path = "../measure/mod.rs"]
mod measure;
mod others;
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

/// What relaying costs the proxy: CPU per round trip and per KiB, memory per pair.
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
    /// With `--serve`: where connections go
    #[arg(long, requires = "serve")]
    upstream: Option<SocketAddr>,
    /// Be the upstream: says its port on standard output, and echoes until it is killed
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
    let found = rounds::run(&plan, cores)?;
    let report = Report::new(&plan, cores, &found);
    shared.show(&report, "proxy: every byte came back through every proxy")
}
