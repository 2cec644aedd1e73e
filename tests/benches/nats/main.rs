//! The cost of a fan-out over a NATS server: of an edge for each delivery, compared with the same
//! fan-out of a raw source, and of an ingest for each message.
//!
//! ```text
//! cargo bench -p wirestate-testkit --bench nats
//! cargo bench -p wirestate-testkit --bench nats -- --workloads ingest --servers ingest-tokio
//! cargo bench -p wirestate-testkit --bench nats -- --rounds 9 --seconds 2 --json
//! ```
//!
//! # What is measured
//!
//! Messages have 1 KiB. A delivery is one message to one subscriber.
//!
//! - `saturated`: CPU of the edge per delivery. Messages are published as fast as 1,000 subscribers
//!   get them.
//! - `paced`: CPU of the edge per delivery, with 1,000 messages a second to 100 subscribers.
//! - `ingest`: CPU of the ingest per message. Messages are sent to it as fast as it reads them, and
//!   a slice ends when the stream has all of them.
//!
//! # How
//!
//! As the benchmark `fanout`, whose page explains it: the measured server is pinned to one core.
//! The load and all other processes are pinned to another one. All servers run and are connected;
//! they get the load in turns, and a ratio compares two servers in the same round.
//!
//! An edge gets its messages from the load through an ingest on tokio and a `nats-server` with a
//! stream in memory. The fan-out of the raw source is connected to the load. Both subscribers and
//! messages are the same, and the load publishes at most 2 MiB ahead of the slowest subscriber.
//!
//! Without `nats-server` (Debian: `nats-server`) nothing is measured.

mod broker;
#[expect(dead_code, reason = "another benchmark uses the rest")]
#[path = "../fanout/load.rs"]
mod load;
mod machines;
#[path = "../measure/mod.rs"]
mod measure;
#[expect(dead_code, reason = "another benchmark uses the rest")]
#[path = "../fanout/protocol.rs"]
mod protocol;
mod report;
mod rounds;
mod server;

use std::{io, net::SocketAddr, num::NonZeroUsize, process::ExitCode};

use clap::Parser;

use self::{
    measure::{
        arguments::{self, Shared},
        costs::Report,
        process::{Cores, program},
    },
    report::{Plan, Workload},
    server::{Addresses, Server},
};

/// Measures the CPU of an edge per delivery, and of an ingest per message.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    shared: Shared<Server, Workload>,
    /// Subscribers of `saturated`
    #[arg(long, default_value = "1000")]
    subscribers: NonZeroUsize,
    /// Each subscriber's receive buffer in bytes, as in the benchmark `fanout`
    #[arg(long, default_value = "131072")]
    receive_buffer: NonZeroUsize,
    /// With `--serve`: the address that the messages come from
    #[arg(long, requires = "serve")]
    source: Option<SocketAddr>,
    /// With `--serve`: the address of the NATS server
    #[arg(long, requires = "serve")]
    broker: Option<SocketAddr>,
}

fn main() -> ExitCode {
    arguments::main(run)
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let shared = &arguments.shared;
    if let Some(server) = shared.serve {
        let addresses = Addresses { source: arguments.source, broker: arguments.broker };
        return server.serve(addresses, shared.core, shared.workers);
    }
    if program("nats-server").is_none() {
        println!("NOT TESTED: nats-server is not installed");
        return Ok(());
    }
    let subscribers = arguments.subscribers.get().min(if shared.brief() { 10 } else { usize::MAX });
    let plan = Plan {
        basics: shared.basics(5, |_| true),
        saturated_subscribers: subscribers,
        paced_subscribers: subscribers.min(100),
        receive_buffer: arguments.receive_buffer,
    };
    let cores = Cores::choose()?;
    let results = rounds::run(&plan, cores)?;
    let report = Report::new(&plan, cores, &results);
    shared.show(&report, "nats: every subscriber got every message, and the stream has them all")
}
