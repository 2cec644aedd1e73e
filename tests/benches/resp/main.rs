//! The cost of GET and SET for the server: the machine of the example `resp` on each runtime,
//! compared with `redis-server`.
//!
//! ```text
//! cargo bench -p wirestate-testkit --bench resp
//! cargo bench -p wirestate-testkit --bench resp -- --workloads pipelined --servers tokio,redis
//! ```
//!
//! # What is measured
//!
//! - `lockstep`: server CPU per request. Each of 50 connections sends a request whenever the last
//!   one is answered.
//! - `pipelined`: server CPU per request. Each of 50 connections sends sixteen requests in one
//!   write whenever the last sixteen are answered.
//!
//! The store has 10,000 keys of 16 bytes with values of 64 bytes. Requests are SET and GET in turn,
//! of keys all over the store. `redis-server` has one thread for IO and commands, and writes no
//! file. The example has all of its deadlines and limits.
//!
//! # How
//!
//! As the benchmark `message`, whose page explains it: every server is pinned to one core and the
//! load to another, all servers run side by side, and a ratio compares two servers in the same
//! round. Every byte of every reply is compared.

mod load;
#[path = "../measure/mod.rs"]
mod measure;
mod report;
#[allow(dead_code, reason = "its `main` is not called")]
#[path = "../../examples/resp.rs"]
mod resp;
mod server;

use std::{io, num::NonZeroUsize, process::ExitCode};

use clap::Parser;

use self::{
    load::Load,
    measure::{
        arguments::{self, Shared},
        costs::{Report, measure, side_by_side},
        cpu::{CpuUsage, RETAKES},
        process::Cores,
    },
    report::{Plan, Workload},
    server::Server,
};

/// Measures the CPU of a key-value server per request. Compares the example with redis-server.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    shared: Shared<Server, Workload>,
    /// Connections
    #[arg(long, default_value = "50")]
    connections: NonZeroUsize,
    /// Requests in flight on a connection in `pipelined`
    #[arg(long, default_value = "16", value_parser = clap::value_parser!(u16).range(1..=100))]
    in_flight: u16,
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
        basics: shared.basics(5, Server::is_installed),
        connections: arguments.connections.get(),
        in_flight: arguments.in_flight.into(),
    };
    let cores = Cores::choose()?;
    let mut retakes = RETAKES;
    let results = measure(&plan, cores, |workload, series| {
        let start = |server: Server| {
            let process = server.start(cores, plan.basics.workers)?;
            let in_flight = plan.in_flight(workload);
            let load = Load::connect(process.address(), plan.connections, in_flight)?;
            Ok((process, load))
        };
        side_by_side(&plan, series, start, |server, load, window| {
            CpuUsage::on_full_core(server, &mut retakes, || load.request(window))
        })
    })?;
    let report = Report::new(&plan, cores, &results);
    shared.show(&report, "resp: every server sent every reply, in order")
}
