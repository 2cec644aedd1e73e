//! The cost of an echo for the server: the echo machine on each runtime, compared with a
//! hand-written echo on the same runtime and with a bare epoll loop, the floor.
//!
//! ```text
//! cargo bench -p wirestate-testkit --bench echo
//! cargo bench -p wirestate-testkit --bench echo -- --workloads lockstep --servers tokio-hand,tokio
//! cargo bench -p wirestate-testkit --bench echo -- --rounds 15 --seconds 2 --json
//! ```
//!
//! # What is measured
//!
//! - `lockstep`: server CPU per request. Each of 50 connections sends 64 bytes whenever the last 64
//!   are back.
//! - `streaming`: server CPU per KiB. Each of 50 connections sends as many bytes as its socket
//!   accepts, and reads them back.
//! - `idle`: server memory per connection. Each of 2,000 connections has sent one message and is
//!   silent.
//!
//! CPU is the sum of the first field of `/proc/PID/task/*/schedstat` (nanoseconds on a core, user
//! and kernel). It is read while no byte is in flight and every connection is open, so no thread of
//! the server has ended, which would remove its time from the sum. Memory is the anonymous memory
//! of `/proc/PID/smaps_rollup`, without the kernel's memory for sockets. It counts pages; the
//! `RssAnon` of `/proc/PID/status` is less exact, because the kernel updates it in batches per
//! core.
//!
//! # How
//!
//! The program runs itself again as the server (`--serve`): a new process for each round, pinned to
//! one core. The load is pinned to another core. In each round all servers run side by side and get
//! the load in turns of a tenth of a second, in alternating order, so a slow minute of the machine
//! hits all of them. A ratio compares two servers in the same round. The report has the median of
//! the rounds and the extremes. All servers have the same number of worker threads (`--workers`, 1)
//! and a buffer of 64 KiB for a connection.
//!
//! In `lockstep` every byte that comes back is compared. In `streaming` bytes are compared before
//! the measurement; during it the load only counts them and discards them without a copy
//! (`MSG_TRUNC`; tcp(7)), so that the server's core is the full one. The column "of its core" shows
//! that.
//!
//! If `WIRESTATE_OTHER_BUILD` is the path of another build of this benchmark (of an earlier commit,
//! for example; `cargo bench --no-run` prints it), this project's servers from that build are
//! measured as well, as `other-tokio` and so on. That holds for all four benchmarks.
//!
//! No time makes the benchmark fail. Under `cargo test` it runs one short round and reports only
//! that the bytes came back.
//!
//! Run nothing else at the same time. In `lockstep` a value below 90 % in the column "of its core"
//! means that other programs took the core, or that waking it took longer than an echo, as on some
//! virtual machines.
//!
//! # Figures of the other servers
//!
//! The figures were measured on a machine with two cores, one of them for the server. Absolute
//! figures differ between machines and from hour to hour; ratios are stable.
//!
//! | server | `lockstep`, a request | `streaming`, a KiB | `idle`, a connection |
//! |---|---|---|---|
//! | floor | 4.3 µs | 330 to 490 ns, depending on the size of a read | 0.7 KB |
//! | tokio, hand-written | 4.4 to 5.8 µs | 331 ns | 9 KB |
//! | smol, hand-written | 6.5 µs | 330 ns | 9 or 49 KB |
//! | threads, hand-written | 6.3 µs | 356 ns | 21 KB |
//!
//! An idle connection with smol takes 9 KB if a worker allocates its buffer, and 49 KB if the main
//! thread does: there calloc(3) clears, and so touches, most of the buffer (`M_TOP_PAD` in
//! mallopt(3)).

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

/// Measures the cost of an echo for the server: CPU per request and per KiB, memory per idle
/// connection. Compares the machine with hand-written servers.
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
    let results = rounds::run(&plan, cores)?;
    let report = Report::new(&plan, cores, &results);
    shared.show(&report, "echo: every byte came back from every server")
}
