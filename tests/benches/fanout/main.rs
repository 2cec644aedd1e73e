//! The cost of a fan-out for the server: one upstream to many subscribers, on each runtime,
//! compared with a bare epoll loop (the floor), a hand-written fan-out, NATS and Redis.
//!
//! ```text
//! cargo bench -p wirestate-testkit --bench fanout
//! cargo bench -p wirestate-testkit --bench fanout -- --workloads paced --servers tokio-hand,tokio
//! cargo bench -p wirestate-testkit --bench fanout -- --rounds 9 --seconds 2 --json
//! ```
//!
//! # What is measured
//!
//! Messages have 1 KiB. A delivery is one message to one subscriber.
//!
//! - `saturated`: server CPU per delivery. Messages are published as fast as the server reads them,
//!   to 10, 100 and 1,000 subscribers.
//! - `paced`: server CPU per delivery, and latency (p50 and p99), with 1,000 messages a second to
//!   100 subscribers.
//! - `memory`: server memory with 1,000 subscribers. Messages are published as fast as the server
//!   reads them, until the window is full.
//! - `drip`: server memory with 10 subscribers. Each message is published when the last one has
//!   arrived, until the window is full.
//!
//! CPU and memory are measured as in the echo benchmark: the first field of
//! `/proc/PID/task/*/schedstat` while no byte is in flight, and the anonymous memory of
//! `/proc/PID/smaps_rollup`. The report has the maximum during and after the load. Latency
//! is the time from before the write of a message until after the read that returns it, by one
//! clock: publisher and subscribers are one thread.
//!
//! # How
//!
//! The program runs itself again as the server (`--serve`): a new process for each round, pinned to
//! one core. The load is pinned to another core. In each round all servers run side by side and get
//! the load in turns, in alternating order. A ratio compares two servers in the same round. The
//! report has the median of the rounds and the extremes. NATS and Redis are left out if they are
//! not installed (Debian: `nats-server`, `redis-server`).
//!
//! This project's servers, the floor and the hand-written broadcast connect to the load and read
//! from it. This project's servers and the floor stop reading while the slowest subscriber is a
//! window (16 MiB) behind (`LagPolicy::Block`). The others cannot do that, and drop messages or
//! subscribers; so the load publishes at most 2 MiB ahead of the slowest subscriber.
//!
//! Each message carries its number. In `paced` and `drip` every byte is compared. In `saturated`
//! and `memory` bytes are compared before and after the measurement; during it the load only counts
//! them and discards them without a copy (`MSG_TRUNC`; tcp(7)), so that the server's core is the
//! full one. The benchmark fails if at the end of a turn a subscriber has not received exactly what
//! was published since it joined.
//!
//! Run nothing else at the same time, above all for the latencies: another program on one of the
//! two cores adds its time slices to them. The ratios of CPU figures are stable.
//!
//! No time makes the benchmark fail. Under `cargo test` it runs one short round and reports only
//! that the messages arrived.

mod brokers;
mod floor;
mod hand_written;
mod load;
mod machines;
#[path = "../measure/mod.rs"]
mod measure;
mod protocol;
mod report;
mod rounds;
mod server;

use std::{io, net::SocketAddr, num::NonZeroUsize, process::ExitCode};

use clap::Parser;

use self::{
    measure::{
        arguments::{self, Shared},
        process::Cores,
    },
    report::Report,
    rounds::{Plan, Workload},
    server::Server,
};

/// Measures the cost of a fan-out for the server: CPU per delivery, latency, memory.
#[derive(Debug, Parser)]
#[command(mut_arg("serve", |serve| serve.requires("upstream")))]
struct Arguments {
    #[command(flatten)]
    shared: Shared<Server, Workload>,
    /// Subscribers of `saturated`, one figure each [default: 10,100,1000]
    #[arg(long, value_delimiter = ',')]
    subscribers: Vec<NonZeroUsize>,
    /// Each subscriber's receive buffer in bytes; 0: the kernel's default, with which 1,000
    /// subscribers have gigabytes in flight, so that the memory's speed dominates
    #[arg(long, default_value = "131072")]
    receive_buffer: usize,
    /// With `--serve`: the address that the messages come from
    #[arg(long, requires = "serve")]
    upstream: Option<SocketAddr>,
}

fn main() -> ExitCode {
    arguments::main(run)
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let shared = &arguments.shared;
    if let Some((server, upstream)) = shared.serve.zip(arguments.upstream) {
        return server.serve(upstream, shared.core, shared.workers);
    }
    let brief = shared.brief();
    let subscribers: Vec<_> = arguments.subscribers.iter().map(|count| count.get()).collect();
    let (default_subscribers, max_subscribers) =
        if brief { (&[10][..], 50) } else { (&[10, 100, 1000][..], 1000) };
    let plan = Plan {
        basics: shared.basics(3, Server::is_installed),
        saturated_subscribers: if subscribers.is_empty() {
            default_subscribers.to_vec()
        } else {
            subscribers
        },
        paced_subscribers: max_subscribers.min(100),
        memory_subscribers: max_subscribers,
        drip_subscribers: 10,
        memory_messages: if brief { 100 } else { 20 * 1024 },
        receive_buffer: arguments.receive_buffer,
    };
    let cores = Cores::choose()?;
    let results = rounds::run(&plan, cores)?;
    let report = Report::new(&plan, cores, &results);
    shared.show(&report, "fanout: every subscriber of every server received every message")
}
