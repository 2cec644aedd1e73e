//! What an echo costs the server: each runtime's machine-driven server beside the echo that one
//! would write by hand on that runtime, and beside a bare epoll loop, the floor.
//!
//! ```text
//! cargo bench -p wirestate-testkit --bench echo
//! cargo bench -p wirestate-testkit --bench echo -- --workloads lockstep --servers tokio-hand,tokio
//! cargo bench -p wirestate-testkit --bench echo -- --rounds 15 --seconds 2 --json
//! ```
//!
//! # What is measured
//!
//! | workload | load | figure |
//! |---|---|---|
//! | `lockstep` | 50 connections, each sends 64 bytes once the last 64 are back | server CPU per request |
//! | `streaming` | 50 connections, each sends as the sockets take it and reads all back | server CPU per KiB |
//! | `idle` | 2,000 connections that sent one message each and are silent | server memory per connection |
//!
//! CPU is the sum of the first field of `/proc/PID/task/*/schedstat` (nanoseconds on a core, user
//! and kernel), read while no byte is on its way and every connection is open: no thread of the
//! server has ended and taken its time along. Memory is the anonymous memory of
//! `/proc/PID/smaps_rollup`; it counts pages, where the `RssAnon` of `/proc/PID/status` may be off
//! by the kernel's per-core batches. What the kernel holds for a socket is not in it.
//!
//! # How
//!
//! The program runs itself again as the server (`--serve`), a fresh process for each round,
//! pinned to one core; the load is pinned to another. In each round all servers run side by side
//! and get the load in turns, a tenth of a second each, back and forth, so a slow minute of the
//! machine hits all of them; a ratio is that of two servers in one round, and what is reported is
//! the median of the rounds with the extremes. All servers get the same number of worker threads
//! (`--workers`, 1) and, for a connection, a buffer of 64 KiB.
//!
//! Every byte that comes back is compared in `lockstep`, and in `streaming` before the measurement;
//! during it they are counted, and the load throws them away without a copy (`MSG_TRUNC`; tcp(7)),
//! so that the server's core is the one that is full: see the column that says so.
//!
//! If `WIRESTATE_OTHER_BUILD` names the executable of another build of this benchmark (of an
//! earlier commit, for example; `cargo bench --no-run` prints its path), our servers from that
//! build run beside those from this one, as `other-tokio` and so on. All four benchmarks do so.
//!
//! Nothing here fails because of a time. Run by `cargo test`, it makes one short round and
//! reports only that the bytes came back.
//!
//! Let nothing else run meanwhile. In `lockstep` the column "of its core" says how it went: less
//! than 90 % means that other programs took the core, or that waking it took longer than an echo,
//! which happens on virtual machines.
//!
//! # What others reach
//!
//! On a machine with two cores, one of them for the server: the floor took 4.3 µs a request in
//! lockstep, tokio by hand 4.4 to 5.8, threads 6.3, smol 6.5. Streaming: 330 to 490 ns a KiB for
//! the floor (it is sensitive to the size of a read), 331 tokio, 330 smol, 356 threads. An idle
//! connection took 0.7 KB, 9 KB with tokio, 21 KB with a thread; with smol 9 KB where a worker makes its
//! buffer, and 49 KB where the main thread does, since there calloc(3) clears most of it and so touches
//! it (`M_TOP_PAD` in mallopt(3)). Such figures differ from machine to machine and from hour to
//! hour; the ratios hold.

mod floor;
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

/// What an echo costs the server, beside the same by hand: CPU per request and per KiB, memory per
/// idle connection.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    shared: Shared<Server, Workload>,
    /// Connections of `lockstep` and `streaming`
    #[arg(long, default_value = "50")]
    connections: NonZeroUsize,
    /// Connections of `idle` [default: 2000]
    #[arg(long)]
    idle_connections: Option<NonZeroUsize>,
}

fn main() -> ExitCode {
    arguments::main(run)
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let shared = &arguments.shared;
    if let Some(server) = shared.serve {
        return server.serve(shared.core, shared.workers);
    }
    let idle_connections = if shared.brief() { 100 } else { 2000 };
    let plan = Plan {
        basics: shared.basics(5, |_| true),
        connections: arguments.connections.get(),
        idle_connections: arguments.idle_connections.map_or(idle_connections, NonZeroUsize::get),
    };
    let cores = Cores::choose()?;
    let found = rounds::run(&plan, cores)?;
    let report = Report::new(&plan, cores, &found);
    shared.show(&report, "echo: every byte came back from every server")
}
