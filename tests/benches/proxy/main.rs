//! What relaying costs the proxy: ours on each runtime, beside nginx's `stream` and `HAProxy`, which
//! people install.
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
//! reported is the median of the rounds with the extremes. All have one thread that relays. nginx and
//! `HAProxy` are left out where they are not installed (Debian: `nginx` with `libnginx-mod-stream`,
//! `haproxy`).
//!
//! Nothing here fails because of a time. Run by `cargo test`, it makes one short round and reports
//! only that the bytes came back. Let nothing else run meanwhile.

#[path = "../measure/arguments.rs"]
mod arguments;
#[path = "../measure/figures.rs"]
mod figures;
#[path = "../echo/floor.rs"]
mod floor;
#[path = "../echo/load.rs"]
mod load;
mod machines;
mod measure;
mod others;
#[path = "../measure/process.rs"]
mod process;
mod report;
#[path = "../measure/runtimes.rs"]
mod runtimes;
mod server;
#[path = "../measure/socket.rs"]
mod socket;

/// What the floor goes by, as in the echo benchmark.
mod hand_written {
    /// The size of its buffer, in bytes.
    pub(crate) const BUFFER: usize = 64 * 1024;
}

use std::{io, net::SocketAddr, num::NonZeroUsize, process::ExitCode, time::Duration};

use clap::Parser;

use self::{
    arguments::{or_all, seconds},
    measure::{Plan, Workload},
    process::{Cores, raise_open_files},
    report::Report,
    server::Server,
};

/// What relaying costs the proxy: CPU per round trip and per KiB, memory per pair.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many times each figure is taken; memory once only [default: 5]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// How long each proxy is under load in a round, in seconds [default: 1]
    #[arg(long, value_parser = seconds)]
    seconds: Option<Duration>,
    /// Connections of `lockstep` and `streams`
    #[arg(long, default_value = "50")]
    connections: NonZeroUsize,
    /// Connections of `pairs` [default: 4000]
    #[arg(long)]
    pairs: Option<NonZeroUsize>,
    /// Only these proxies
    #[arg(long, value_enum, value_delimiter = ',')]
    servers: Vec<Server>,
    /// Only these workloads
    #[arg(long, value_enum, value_delimiter = ',')]
    workloads: Vec<Workload>,
    /// The result as one JSON object
    #[arg(long)]
    json: bool,
    /// Be that proxy until it is killed
    #[arg(long, value_enum, value_name = "SERVER", requires = "upstream")]
    serve: Option<Server>,
    /// With `--serve`: where connections go
    #[arg(long, requires = "serve")]
    upstream: Option<SocketAddr>,
    /// Be the upstream: says its port on standard output, and echoes until it is killed
    #[arg(long, conflicts_with = "serve")]
    echo: bool,
    /// With `--serve`: the core to stay on
    #[arg(long)]
    core: Option<usize>,
    /// What cargo adds when it benchmarks, and does not when it tests
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    raise_open_files()?;
    if let Some((server, upstream)) = arguments.serve.zip(arguments.upstream) {
        return server.serve(upstream, arguments.core);
    }
    if arguments.echo {
        return server::echo();
    }
    let brief = !arguments.bench;
    let mut servers = or_all(&arguments.servers);
    servers.retain(|server| {
        let installed = server.is_installed();
        if !installed {
            eprintln!("{}: not installed, and left out", server.name());
        }
        installed
    });
    let plan = Plan {
        rounds: arguments.rounds.unwrap_or(if brief { 1 } else { 5 }),
        window: arguments.seconds.unwrap_or(Duration::from_millis(if brief { 50 } else { 1000 })),
        connections: arguments.connections.get(),
        pairs: arguments.pairs.map_or(if brief { 100 } else { 4000 }, NonZeroUsize::get),
        servers,
        workloads: or_all(&arguments.workloads),
    };
    let cores = Cores::choose()?;
    let series = measure::run(&plan, cores)?;
    let report = Report::new(&plan, cores, &series);
    if arguments.json {
        report.print_json()
    } else if brief {
        // Figures of an unoptimized build would mislead.
        println!("proxy: every byte came back through every proxy");
        Ok(())
    } else {
        report.print()
    }
}
