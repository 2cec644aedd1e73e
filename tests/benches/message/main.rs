//! What requests with a JSON header cost the server: `app-server`'s machine on each runtime, beside
//! a server that one would write by hand on tokio, and the same with threads.
//!
//! ```text
//! cargo bench -p wirestate-testkit --bench message
//! cargo bench -p wirestate-testkit --bench message -- --workloads pipelined --servers tokio-hand,tokio
//! cargo bench -p wirestate-testkit --bench message -- --rounds 15 --seconds 2 --json
//! ```
//!
//! # What is measured
//!
//! | workload | load | figure |
//! |---|---|---|
//! | `lockstep` | 50 connections, each sends a request once the last is answered | server CPU per request |
//! | `pipelined` | 50 connections, each sends sixteen in one write once the last sixteen are answered | server CPU per request |
//!
//! A request is one of 146 bytes, a `search` in a table of sixteen entries; each next one asks for
//! the next entry. The servers by hand read length, header and content by `read_exact`, the latter two
//! as a `serde_json::Value`, and write each reply at once. CPU is taken as the echo
//! benchmark takes it: the first field of `/proc/PID/task/*/schedstat`, read while no byte is on
//! its way and every connection is open.
//!
//! # How
//!
//! The program runs itself again as the server (`--serve`), a fresh process for each round,
//! pinned to one core; the load is pinned to another. In each round all servers run side by side
//! and get the load in turns, a tenth of a second each, back and forth; a ratio is that of two
//! servers in one round, and what is reported is the median of the rounds with the extremes. All
//! servers get the same number of worker threads (`--workers`, 1).
//!
//! Of each server the replies to all sixteen requests are read once, decoded and held against the
//! table; from then on every byte of every reply is compared with these, in their order. The load
//! builds nothing meanwhile.
//!
//! Ours are as `app-server` is, with all deadlines and limits; those by hand have none.
//!
//! Nothing here fails because of a time. Run by `cargo test`, it makes one short round and
//! reports only that the replies came.
//!
//! Let nothing else run meanwhile. The column "of its core" says how it went: less than 90 % means
//! that other programs took the core, or that waking it took longer than an answer, which happens
//! on virtual machines.

#[path = "../measure/arguments.rs"]
mod arguments;
mod dialogue;
#[path = "../measure/figures.rs"]
mod figures;
mod hand_written;
mod load;
mod machines;
mod measure;
#[expect(dead_code, reason = "no memory is measured here")]
#[path = "../measure/process.rs"]
mod process;
mod report;
#[path = "../measure/runtimes.rs"]
mod runtimes;
mod server;
#[path = "../measure/socket.rs"]
mod socket;
#[path = "../measure/spent.rs"]
mod spent;
#[path = "../measure/turns.rs"]
mod turns;

use std::{io, num::NonZeroUsize, process::ExitCode, time::Duration};

use clap::Parser;

use self::{
    arguments::{or_all, seconds},
    measure::{Plan, Workload},
    process::{Cores, raise_open_files},
    report::Report,
    server::Server,
};

/// What requests with a JSON header cost the server, beside the same by hand: CPU per request.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many times each figure is taken [default: 5]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// How long each server is under load in a round, in seconds [default: 1]
    #[arg(long, value_parser = seconds)]
    seconds: Option<Duration>,
    /// Connections
    #[arg(long, default_value = "50")]
    connections: NonZeroUsize,
    /// Requests of a connection that are in flight in `pipelined`
    #[arg(long, default_value = "16", value_parser = clap::value_parser!(u16).range(1..=100))]
    in_flight: u16,
    /// Worker threads of the servers that have a number of them
    #[arg(long, default_value = "1")]
    workers: NonZeroUsize,
    /// Only these servers
    #[arg(long, value_enum, value_delimiter = ',')]
    servers: Vec<Server>,
    /// Only these workloads
    #[arg(long, value_enum, value_delimiter = ',')]
    workloads: Vec<Workload>,
    /// The result as one JSON object
    #[arg(long)]
    json: bool,
    /// Be that server: says its port on standard output, and answers until it is killed
    #[arg(long, value_enum, value_name = "SERVER")]
    serve: Option<Server>,
    /// With `--serve`: the core to stay on
    #[arg(long, requires = "serve")]
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
    if let Some(server) = arguments.serve {
        return server.serve(arguments.core, arguments.workers);
    }
    let brief = !arguments.bench;
    let plan = Plan {
        rounds: arguments.rounds.unwrap_or(if brief { 1 } else { 5 }),
        window: arguments.seconds.unwrap_or(Duration::from_millis(if brief { 50 } else { 1000 })),
        connections: arguments.connections.get(),
        in_flight: arguments.in_flight.into(),
        workers: arguments.workers,
        servers: or_all(&arguments.servers),
        workloads: or_all(&arguments.workloads),
    };
    let cores = Cores::choose()?;
    let series = measure::run(&plan, cores)?;
    let report = Report::new(&plan, cores, &series);
    if arguments.json {
        report.print_json()
    } else if brief {
        // Figures of an unoptimized build would mislead.
        println!("message: every reply came from every server, in its order");
        Ok(())
    } else {
        report.print()
    }
}
