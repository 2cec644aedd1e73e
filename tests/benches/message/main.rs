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
//! | `flood` | as `lockstep`, without and beside 16 connections that send without pause | median time until the reply |
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
//! A connection of the flood has at most 256 KiB of requests without a reply. All of its replies
//! have arrived before the next turn; their bytes are counted. The load is one thread: it polls the
//! other connections after each step of the flood (16 KiB sent, available replies read).
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

/// What requests with a JSON header cost the server, beside the same by hand: CPU per request.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    shared: Shared<Server, Workload>,
    /// Connections
    #[arg(long, default_value = "50")]
    connections: NonZeroUsize,
    /// Requests of a connection that are in flight in `pipelined`
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
    let found = rounds::run(&plan, cores)?;
    let report = Report::new(&plan, cores, &found);
    shared.show(&report, "message: every reply came from every server, in its order")
}
