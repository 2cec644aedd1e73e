//! The rounds, and how each figure is taken.

use std::{io, num::NonZeroUsize, time::Duration};

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    load::Load,
    process::{Cores, Process},
    server::Server,
    spent::Spent,
    turns::back_and_forth,
};

/// What the server is given to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// A request, sent once the last is answered
    Lockstep,
    /// Several requests, sent once the last ones are answered
    Pipelined,
}

/// What is to be measured.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    /// How long one server is under load in a round.
    #[serde(skip)]
    pub(crate) window: Duration,
    pub(crate) connections: usize,
    /// Of one connection, when it is pipelined.
    pub(crate) in_flight: usize,
    pub(crate) workers: NonZeroUsize,
    pub(crate) servers: Vec<Server>,
    pub(crate) workloads: Vec<Workload>,
}

impl Plan {
    /// Requests of one connection that are in flight.
    pub(crate) fn in_flight(&self, workload: Workload) -> usize {
        match workload {
            Workload::Lockstep => 1,
            Workload::Pipelined => self.in_flight,
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
    /// Microseconds of its CPU a request.
    pub(crate) cost: f64,
    /// How much of the time it was on its core.
    pub(crate) busy: f64,
    /// Whether it went on running when no byte was on its way.
    pub(crate) restless: bool,
}

/// Takes all figures.
pub(crate) fn run(plan: &Plan, cores: Cores) -> io::Result<Vec<Series>> {
    cores.pin_load()?;
    let mut retakes = RETAKES;
    let mut all = Vec::new();
    for &workload in &plan.workloads {
        let mut series: Vec<_> = plan
            .servers
            .iter()
            .map(|&server| Series { workload, server, samples: Vec::new() })
            .collect();
        for _ in 0..plan.rounds {
            side_by_side(plan, cores, workload, &mut series, &mut retakes)?;
        }
        all.append(&mut series);
    }
    Ok(all)
}

/// A server that is connected.
struct Running {
    process: Process,
    load: Load,
    spent: Spent,
}

/// One round: all servers run and are connected, and get the load in turns, a slice of the window
/// at a time.
fn side_by_side(
    plan: &Plan,
    cores: Cores,
    workload: Workload,
    series: &mut [Series],
    retakes: &mut u32,
) -> io::Result<()> {
    let start = |server: Server| {
        let process = server.start(cores, plan.workers)?;
        let in_flight = plan.in_flight(workload);
        let load = Load::connect(process.address(), plan.connections, in_flight)?;
        Ok(Running { process, load, spent: Spent::default() })
    };
    let mut all = Vec::new();
    for series in series {
        let running = start(series.server).map_err(series.explain())?;
        all.push((series, running));
    }
    let window = plan.window / SLICES;
    back_and_forth(&mut all, SLICES, |(series, running), turn| {
        if running.spent.restless {
            // It would take the core from the others.
            return Ok(());
        }
        let spent = running.take_turn(window, retakes).map_err(series.explain())?;
        // The first one warms it up.
        if turn > 0 || spent.restless {
            running.spent.add(&spent);
        }
        Ok(())
    })?;
    for (series, Running { spent, .. }) in all {
        let cost = spent.nanoseconds() * 1e-3;
        series.samples.push(Sample { cost, busy: spent.busy(), restless: spent.restless });
    }
    Ok(())
}

impl Running {
    /// A server whose core is not full has waited for the load. On a virtual machine that can tip
    /// over, when waking the other core takes longer than answering: then each request is served
    /// alone, at several times the cost. So it is measured again, as long as there are `retakes`.
    fn take_turn(&mut self, window: Duration, retakes: &mut u32) -> io::Result<Spent> {
        loop {
            let spent = Spent::on(&self.process, || self.load.ask(window))?;
            if spent.busy() >= FULL || *retakes == 0 {
                return Ok(spent);
            }
            *retakes -= 1;
        }
    }
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

/// In so many parts each server gets its load of a round.
const SLICES: u32 = 10;
/// A core that is fuller than that did not wait for the load.
const FULL: f64 = 0.9;
/// How many slices a run measures again at most.
const RETAKES: u32 = 100;
