//! What a fan-out costs the server: one upstream to many subscribers, on each runtime, beside a
//! bare epoll loop (the floor), what people write by hand, and the brokers that they install.
//!
//! ```text
//! cargo bench -p wirestate-testkit --bench fanout
//! cargo bench -p wirestate-testkit --bench fanout -- --workloads paced --servers tokio-hand,tokio
//! cargo bench -p wirestate-testkit --bench fanout -- --rounds 9 --seconds 2 --json
//! ```
//!
//! # What is measured
//!
//! | workload | load, messages of 1 KiB | figures |
//! |---|---|---|
//! | `saturated` | as fast as they are taken, to 10, 100 and 1,000 subscribers | server CPU per delivery |
//! | `paced` | 1,000 a second, to 100 subscribers | server CPU per delivery; latency, p50 and p99 |
//! | `memory` | as fast as they are taken, to 1,000 subscribers, until the window is full | server memory |
//! | `drip` | each once the last has come, to 10 subscribers, until the window is full | server memory |
//!
//! A delivery is one message at one subscriber. CPU and memory are taken as the echo benchmark
//! takes them: the first field of `/proc/PID/task/*/schedstat` while no byte is on its way, and the
//! anonymous memory of `/proc/PID/smaps_rollup`; of memory, the most that was seen, under load and
//! after it. Latency is from before the write of a message to behind the read that brought it, by
//! one clock: the load is publisher and subscribers in one thread.
//!
//! # How
//!
//! The program runs itself again as the server (`--serve`), a fresh process for each round, pinned
//! to one core; the load is pinned to another. In each round all servers run side by side and get
//! the load in turns, back and forth; a ratio is that of two servers in one round, and what is
//! reported is the median of the rounds with the extremes. NATS and Redis are left out where they
//! are not installed (Debian: `nats-server`, `redis-server`).
//!
//! Ours, the floor and the broadcast by hand connect to the load and read from it: ours and the
//! floor hold it up themselves once the slowest subscriber is a window (16 MiB) behind
//! (`LagPolicy::Block`). The others have no such way, and drop messages or subscribers; so the load
//! waits for the slowest subscriber itself, and publishes at most 2 MiB ahead of it.
//!
//! Each message carries its number. Every byte is compared in `paced` and `drip`, and in `saturated`
//! and `memory` before and after the measurement; during it bytes are counted, and thrown away
//! without a copy (`MSG_TRUNC`; tcp(7)), so that the server's core is the one that is full. At the
//! end of each turn every subscriber must have been sent exactly what was published since it
//! joined, or the benchmark fails.
//!
//! Let nothing else run meanwhile, above all for the latencies: with another program on one of the
//! two cores they are its time slices. Of the CPU figures the ratios hold.
//!
//! Nothing here fails because of a time. Run by `cargo test`, it makes one short round and reports
//! only that the messages came.

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

/// What a fan-out costs the server: CPU per delivery, latency, memory.
#[derive(Debug, Parser)]
#[command(mut_arg("serve", |serve| serve.requires("upstream")))]
struct Arguments {
    #[command(flatten)]
    shared: Shared<Server, Workload>,
    /// Subscribers of `saturated`, one figure each [default: 10,100,1000]
    #[arg(long, value_delimiter = ',')]
    subscribers: Vec<NonZeroUsize>,
    /// Each subscriber's receive buffer, in bytes; 0: what the kernel chooses. It chooses so much
    /// that 1,000 subscribers have gigabytes on their way, which measures the memory's speed
    #[arg(long, default_value = "131072")]
    receive_buffer: usize,
    /// With `--serve`: where the messages come from
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
    let (fewest, most) = if brief { (&[10][..], 50) } else { (&[10, 100, 1000][..], 1000) };
    let plan = Plan {
        basics: shared.basics(3, Server::is_installed),
        saturated_subscribers: if subscribers.is_empty() { fewest.to_vec() } else { subscribers },
        paced_subscribers: most.min(100),
        memory_subscribers: most,
        drip_subscribers: 10,
        memory_messages: if brief { 100 } else { 20 * 1024 },
        receive_buffer: arguments.receive_buffer,
    };
    let cores = Cores::choose()?;
    let found = rounds::run(&plan, cores)?;
    let report = Report::new(&plan, cores, &found);
    shared.show(&report, "fanout: every message came to every subscriber of every server")
}
