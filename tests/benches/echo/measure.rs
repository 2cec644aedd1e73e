//! The rounds, and how each figure is taken.

use std::{io, num::NonZeroUsize, thread, time::Duration};

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    figures::ratio,
    load::{Check, Load, Pattern},
    process::{Cores, Process},
    server::Server,
    spent::Spent,
    turns::back_and_forth,
};

/// What the server is given to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// 64 bytes, sent once the last 64 are back
    Lockstep,
    /// As many bytes as the sockets take
    Streaming,
    /// Silence, after one message
    Idle,
}

/// What is to be measured.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    /// How long one server is under load in a round.
    #[serde(skip)]
    pub(crate) window: Duration,
    pub(crate) connections: usize,
    pub(crate) idle_connections: usize,
    pub(crate) workers: NonZeroUsize,
    pub(crate) servers: Vec<Server>,
    pub(crate) workloads: Vec<Workload>,
}

impl Plan {
    /// Memory differs little from run to run.
    pub(crate) fn rounds_of(&self, workload: Workload) -> u32 {
        match workload {
            Workload::Lockstep | Workload::Streaming => self.rounds,
            Workload::Idle => self.rounds.min(3),
        }
    }
}

/// One server's figures for one workload, by round.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) workload: Workload,
    pub(crate) server: Server,
    pub(crate) samples: Vec<Sample>,
}

/// What one server came to in one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// The figure, in the unit of the workload.
    pub(crate) cost: f64,
    /// How much of the time the server was on its core; nothing when it was to be idle.
    pub(crate) busy: Option<f64>,
    /// Whether the server went on running when no byte was on its way.
    pub(crate) restless: bool,
}

/// Takes all figures.
pub(crate) fn run(plan: &Plan, cores: Cores) -> io::Result<Vec<Series>> {
    cores.pin_load()?;
    let pattern = Pattern::new();
    let mut retakes = RETAKES;
    let mut all = Vec::new();
    for &workload in &plan.workloads {
        let mut series: Vec<_> = plan
            .servers
            .iter()
            .map(|&server| Series { workload, server, samples: Vec::new() })
            .collect();
        for _ in 0..plan.rounds_of(workload) {
            match workload {
                Workload::Lockstep => {
                    side_by_side(plan, cores, &mut series, |server, load, window| {
                        lockstep(server, load, window, &mut retakes)
                    })?;
                }
                Workload::Streaming => {
                    side_by_side(plan, cores, &mut series, |server, load, window| {
                        streaming(server, load, window, &pattern)
                    })?;
                }
                Workload::Idle => {
                    for series in &mut series {
                        let server = series.server.start(cores, plan.workers)?;
                        series.samples.push(idle(&server, plan).map_err(series.explain())?);
                    }
                }
            }
        }
        all.append(&mut series);
    }
    Ok(all)
}

impl Series {
    /// Says what an error belongs to.
    fn explain(&self) -> impl FnOnce(io::Error) -> io::Error {
        let Self { workload, server, .. } = *self;
        move |error| {
            let name = server.name();
            io::Error::new(error.kind(), format!("{workload:?} with {name}: {error}"))
        }
    }
}

/// One round: all servers run and are connected, and get the load in turns, a slice of the window
/// at a time.
fn side_by_side(
    plan: &Plan,
    cores: Cores,
    series: &mut [Series],
    mut slice: impl FnMut(&Process, &mut Load, Duration) -> io::Result<Spent>,
) -> io::Result<()> {
    let window = plan.window / SLICES;
    let mut all = Vec::new();
    for series in series {
        let server = series.server.start(cores, plan.workers)?;
        let load = Load::connect(server.address(), plan.connections)?;
        all.push((series, Some((server, load)), Spent::default()));
    }
    back_and_forth(&mut all, SLICES, |(series, running, sum), turn| {
        let Some((server, load)) = running else { return Ok(()) };
        let spent = slice(server, load, window).map_err(series.explain())?;
        let restless = spent.restless;
        // The first one warms it up.
        if turn > 0 || restless {
            sum.add(&spent);
        }
        if restless {
            // It would take the core from the others.
            *running = None;
        }
        Ok(())
    })?;
    for (series, _, spent) in all {
        series.samples.push(sample(&spent, series.workload));
    }
    Ok(())
}

/// A server whose core is not full in lockstep has waited for the load. On a virtual machine that
/// can tip over, when waking the other core takes longer than serving a request: then each request
/// is served alone, at several times the cost. So it is measured again, as long as there are
/// `retakes`.
fn lockstep(
    server: &Process,
    load: &mut Load,
    window: Duration,
    retakes: &mut u32,
) -> io::Result<Spent> {
    loop {
        let spent = Spent::on(server, || load.lockstep(window))?;
        if spent.busy() >= FULL || *retakes == 0 {
            return Ok(spent);
        }
        *retakes -= 1;
    }
}

fn streaming(
    server: &Process,
    load: &mut Load,
    window: Duration,
    pattern: &Pattern,
) -> io::Result<Spent> {
    // Comparing is dear, so it happens first and by itself.
    load.streaming(window / 10, Check::Bytes, pattern)?;
    Spent::on(server, || load.streaming(window, Check::Count, pattern))
}

/// Bytes a connection.
fn idle(server: &Process, plan: &Plan) -> io::Result<Sample> {
    // What only the first connection takes is the server's, not the connection's.
    let mut load = Load::connect(server.address(), 1)?;
    load.lockstep(Duration::ZERO)?;
    thread::sleep(SETTLE);
    let before = server.memory()?;
    let mut left = plan.idle_connections;
    while left > 0 {
        let count = left.min(BACKLOG);
        load.add(server.address(), count)?;
        load.lockstep(Duration::ZERO)?;
        left -= count;
    }
    thread::sleep(SETTLE);
    let grown = server.memory()?.saturating_sub(before);
    let (_, asleep) = server.asleep()?;
    let cost = ratio(grown, plan.idle_connections as u64);
    Ok(Sample { cost, busy: None, restless: !asleep })
}

fn sample(spent: &Spent, workload: Workload) -> Sample {
    let scale = match workload {
        // Microseconds a request.
        Workload::Lockstep | Workload::Idle => 1e-3,
        // Nanoseconds a KiB.
        Workload::Streaming => 1024.0,
    };
    let cost = spent.nanoseconds() * scale;
    Sample { cost, busy: Some(spent.busy()), restless: spent.restless }
}

/// In so many parts each server gets its load of a round.
const SLICES: u32 = 10;
/// A core that is fuller than that did not wait for the load.
const FULL: f64 = 0.9;
/// How many slices a run measures again at most.
const RETAKES: u32 = 100;
/// So long the server is left alone before its memory is looked at.
const SETTLE: Duration = Duration::from_millis(200);
/// Connections that are opened at once; std listens with a backlog of 128 at least.
const BACKLOG: usize = 100;
