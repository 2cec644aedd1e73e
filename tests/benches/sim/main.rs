//! The speed of the simulator: events of a world for each second of CPU, on one core.
//!
//! ```text
//! cargo bench -p wirestate-testkit --bench sim
//! cargo bench -p wirestate-testkit --bench sim -- --workloads echo,faults --rounds 9
//! ```
//!
//! # What is measured
//!
//! An event is what [`World::events`] counts: the poll of a woken task, the arrival of a segment or
//! another event of the network, or an alarm. The time includes all that happens for it: the server
//! and its machines, the clients, the faults, the check for lost wake-ups, and the trace. The
//! report also has the entries of the trace: connects, reads, writes, FINs, faults.
//!
//! | workload | the world |
//! |---|---|
//! | `echo` | 50 connections to an echo server, with one message of 64 bytes in flight on each |
//! | `faults` | the same, with harmless faults on both hosts |
//! | `idle` | the same, beside 2,000 connections that wait for their deadlines |
//! | `fanout` | 100 subscribers of a fan-out server, whose upstream sends 1 KiB at a time |
//!
//! The goal is a million events a second. `fanout` has none, since each of its events moves a
//! kilobyte, which the world records at both ends and hashes twice.
//!
//! # How
//!
//! Each round runs each workload once, in a new world, and divides its events by the CPU time of
//! the thread. So other processes disturb a round only through the caches.
//!
//! [`World::events`]: wirestate_testkit::sim::World::events

#[path = "../measure/mod.rs"]
mod measure;
mod workloads;

use std::{
    fmt,
    io::{self, Write as _},
    num::NonZeroUsize,
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use self::{
    measure::{
        arguments,
        figures::{Spread, ratio},
    },
    workloads::Workload,
};

/// Measures the simulator's events for each second of CPU.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rounds; each runs every workload
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Only these workloads
    #[arg(long, value_enum, value_delimiter = ',')]
    workloads: Vec<Workload>,
    /// Messages on each connection
    #[arg(long, default_value = "1000")]
    messages: NonZeroUsize,
    /// The seed of the worlds
    #[arg(long, default_value = "1")]
    seed: u64,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
    /// Set by `cargo bench`, but not by `cargo test`
    #[arg(long, hide = true)]
    bench: bool,
}

/// The result of all rounds.
#[derive(Serialize)]
struct Report {
    seed: u64,
    messages: NonZeroUsize,
    workloads: Vec<Figures>,
}

/// The result of a workload.
#[derive(Serialize)]
struct Figures {
    workload: Workload,
    /// Events in a round.
    events: u64,
    /// Entries of the trace in a round.
    entries: u64,
    /// Events for each second of CPU.
    speed: Spread,
    /// Entries of the trace for each second of CPU.
    entries_speed: Spread,
}

fn main() -> ExitCode {
    arguments::main(run)
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let brief = !arguments.bench;
    let (rounds, messages) =
        if brief { (1, 10) } else { (arguments.rounds, arguments.messages.get()) };
    let mut workloads = <Workload as clap::ValueEnum>::value_variants().to_vec();
    workloads.retain(|one| arguments.workloads.is_empty() || arguments.workloads.contains(one));
    let mut runs = vec![Vec::new(); workloads.len()];
    for _ in 0..rounds {
        for (workload, runs) in workloads.iter().zip(&mut runs) {
            runs.push(measure(*workload, arguments.seed, messages));
        }
    }
    let figures = |(workload, runs): (Workload, &Vec<Run>)| {
        let speed = |count: fn(&Run) -> u64| {
            let of = |run: &Run| ratio(count(run), 1) / run.cpu.as_secs_f64();
            Spread::of(runs.iter().map(of)).expect("there is a round")
        };
        Figures {
            workload,
            events: runs[0].events,
            entries: runs[0].entries,
            speed: speed(|run| run.events),
            entries_speed: speed(|run| run.entries),
        }
    };
    let workloads = workloads.into_iter().zip(&runs).map(figures).collect();
    let report = Report { seed: arguments.seed, messages: arguments.messages, workloads };
    let mut stdout = io::stdout().lock();
    if arguments.json {
        serde_json::to_writer_pretty(&mut stdout, &report)?;
        writeln!(stdout)
    } else if brief {
        writeln!(stdout, "sim: every world has run to its end")
    } else {
        write!(stdout, "{report}")
    }
}

/// One run of a world.
#[derive(Clone)]
struct Run {
    events: u64,
    entries: u64,
    cpu: Duration,
}

fn measure(workload: Workload, seed: u64, messages: usize) -> Run {
    let world = workload.world(seed, messages);
    let before = cpu_time();
    world.run_for(LONG).expect("no task stalls");
    let cpu = cpu_time().saturating_sub(before);
    assert_eq!(world.leftovers().sockets, 0, "every connection has ended");
    let run = Run { events: world.events(), entries: world.trace().entries().len() as u64, cpu };
    world.clear();
    run
}

/// The CPU time of this thread.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("a CPU time is positive")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "sim: simulated events for each second of CPU, in millions")?;
        writeln!(
            f,
            "  {:<10}{:>8}{:>15}{:>11}  goal{:>18}",
            "", "median", "min – max", "events", "trace entries"
        )?;
        for Figures { workload, events, speed, entries_speed, .. } in &self.workloads {
            let name = clap::ValueEnum::to_possible_value(workload).expect("none is skipped");
            let [median, min, max] = [speed.median, speed.min, speed.max].map(|one| one / 1e6);
            let extremes = format!("{min:.2} – {max:.2}");
            let goal = match workload {
                Workload::Fanout => "",
                Workload::Echo | Workload::Faults | Workload::Idle if median >= GOAL => "reached",
                Workload::Echo | Workload::Faults | Workload::Idle => "MISSED",
            };
            let entries = entries_speed.median / 1e6;
            writeln!(
                f,
                "  {:<10}{median:>8.2}{extremes:>15}{events:>11}  {goal:<8}{entries:>14.2}",
                name.get_name()
            )?;
        }
        Ok(())
    }
}

/// The goal, in millions of events a second.
const GOAL: f64 = 1.0;
/// Longer than every deadline of the servers.
const LONG: Duration = Duration::from_secs(100_000);
