//! The cost of requests with a JSON header for the server: `app-server`'s machine on each runtime,
//! compared with hand-written servers on tokio and with threads.
//!
//! ```text
//! cargo bench -p wirestate-testkit --bench message
//! cargo bench -p wirestate-testkit --bench message -- --workloads pipelined --servers tokio
//! cargo bench -p wirestate-testkit --bench message -- --rounds 15 --seconds 2 --json
//! ```
//!
//! # What is measured
//!
//! - `lockstep`: server CPU per request. Each of 50 connections sends a request whenever the last
//!   one is answered.
//! - `pipelined`: server CPU per request. Each of 50 connections sends sixteen requests in one
//!   write whenever the last sixteen are answered.
//! - `flood`: median time until the reply, in `lockstep` alone and beside 16 connections that send
//!   without pause.
//!
//! A request has 146 bytes. It is a `search` in a table of sixteen entries, which are requested in
//! turn.
//! The hand-written servers read length, header and content with `read_exact`, parse header and
//! content into a `serde_json::Value`, and write each reply at once. CPU is measured as in the echo
//! benchmark: the first field of `/proc/PID/task/*/schedstat`, read while no byte is in flight and
//! every connection is open.
//!
//! # How
//!
//! The program runs itself again as the server (`--serve`): a new process for each round, pinned to
//! one core. The load is pinned to another core. In each round all servers run side by side and get
//! the load in turns of a tenth of a second, in alternating order. A ratio compares two servers in
//! the same round. The report has the median of the rounds and the extremes. All servers have the
//! same number of worker threads (`--workers`, 1).
//!
//! A connection of the flood has at most 256 KiB of requests without a reply. All of its replies
//! have arrived before the next turn; their bytes are counted. The load is one thread: it polls the
//! other connections after each step of the flood (16 KiB sent, available replies read).
//!
//! The load first requests all sixteen entries from each server, decodes the replies and compares
//! them with the table. Then it compares every byte of every reply with these, and builds nothing.
//!
//! This project's servers have all deadlines and limits of `app-server`; the hand-written ones have
//! none.
//!
//! No time makes the benchmark fail. Under `cargo test` it runs one short round and reports only
//! that the replies arrived.
//!
//! Run nothing else at the same time. A value below 90 % in the column "of its core" means that
//! other programs took the core, or that waking it took longer than a reply, as on some virtual
//! machines.

mod dialogue;
mod flood;
mod hand_written;
mod load;
mod machines;
#[path = "../measure/mod.rs"]
mod measure;
mod report;
mod rounds;
mod server;

use std::{io, num::NonZeroUsize, process::ExitCode};

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

/// Measures the CPU of a server per request with a JSON header. Compares the machine with
/// hand-written servers.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    shared: Shared<Server, Workload>,
    /// Connections of all workloads, without those of `--flooding`
    #[arg(long, default_value = "50")]
    connections: NonZeroUsize,
    /// Requests in flight on a connection in `pipelined`
    #[arg(long, default_value = "16", value_parser = clap::value_parser!(u16).range(1..=100))]
    in_flight: u16,
    /// Connections that send without pause in `flood`
    #[arg(long, default_value = "16")]
    flooding: NonZeroUsize,
}

fn main() -> ExitCode {
    arguments::main(run)
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let shared = &arguments.shared;
    if let Some(server) = shared.serve {
        return server.serve(shared.core, shared.workers);
    }
    let plan = Plan {
        basics: shared.basics(5, |_| true),
        connections: arguments.connections.get(),
        in_flight: arguments.in_flight.into(),
        flooding: arguments.flooding.get(),
    };
    let cores = Cores::choose()?;
    let results = rounds::run(&plan, cores)?;
    let report = Report::new(&plan, cores, &results);
    shared.show(&report, "message: every server sent every reply, in order")
}
