//! The rounds, and how each figure is taken.

use std::{
    io,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    figures::ratio,
    load::{Check, Load, Pattern},
    process::{Cores, Process},
    server::{self, Server},
};

/// What the proxy is given to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// 64 bytes, sent once the last 64 are back
    Lockstep,
    /// As many bytes as the sockets take, on one connection
    Stream,
    /// The same on many
    Streams,
    /// Many connections, silent after one message
    Pairs,
}

/// What is to be measured.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    /// How long one proxy is under load in a round.
    #[serde(skip)]
    pub(crate) window: Duration,
    pub(crate) connections: usize,
    pub(crate) pairs: usize,
    pub(crate) servers: Vec<Server>,
    pub(crate) workloads: Vec<Workload>,
}

impl Plan {
    /// Memory differs little from run to run.
    pub(crate) fn rounds_of(&self, workload: Workload) -> u32 {
        match workload {
            Workload::Lockstep | Workload::Stream | Workload::Streams => self.rounds,
            Workload::Pairs => 1,
        }
    }

    pub(crate) fn connections_of(&self, workload: Workload) -> usize {
        match workload {
            Workload::Lockstep | Workload::Streams => self.connections,
            Workload::Stream => 1,
            Workload::Pairs => self.pairs,
        }
    }
}

/// One proxy's figures for one workload, by round.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) workload: Workload,
    pub(crate) server: Server,
    pub(crate) samples: Vec<Sample>,
}

/// What one proxy came to in one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// The figure, in the unit of the workload.
    pub(crate) cost: f64,
    /// How much of the time the proxy was on its core; nothing when it was to be idle.
    pub(crate) busy: Option<f64>,
}

/// Takes all figures.
pub(crate) fn run(plan: &Plan, cores: Cores) -> io::Result<Vec<Series>> {
    cores.pin_load()?;
    let pattern = Pattern::new();
    let mut all = Vec::new();
    for &workload in &plan.workloads {
        let mut series: Vec<_> = plan
            .servers
            .iter()
            .map(|&server| Series { workload, server, samples: Vec::new() })
            .collect();
        for _ in 0..plan.rounds_of(workload) {
            let echo = server::start_echo(cores)?;
            match workload {
                Workload::Lockstep | Workload::Stream | Workload::Streams => {
                    side_by_side(plan, cores, echo.address(), &mut series, &pattern)?;
                }
                Workload::Pairs => {
                    for series in &mut series {
                        let proxy = series.server.start(echo.address(), cores)?;
                        let sample = pairs(&proxy, plan).map_err(series.explain())?;
                        series.samples.push(sample);
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
            io::Error::new(error.kind(), format!("{workload:?} through {name}: {error}"))
        }
    }
}

/// One round: all proxies run and are connected, and get the load in turns, a slice of the window at a
/// time, back and forth.
fn side_by_side(
    plan: &Plan,
    cores: Cores,
    echo: SocketAddr,
    series: &mut [Series],
    pattern: &Pattern,
) -> io::Result<()> {
    let window = plan.window / SLICES;
    let mut all = Vec::new();
    for series in series {
        let proxy = series.server.start(echo, cores)?;
        let load = Load::connect(proxy.address(), plan.connections_of(series.workload))?;
        all.push((series, proxy, load, Spent::default()));
    }
    for turn in 0..=SLICES {
        let mut order: Vec<_> = all.iter_mut().collect();
        if turn % 2 == 1 {
            order.reverse();
        }
        for (series, proxy, load, sum) in order {
            let workload = series.workload;
            let spent = slice(workload, proxy, load, window, pattern).map_err(series.explain())?;
            // The first one warms it up.
            if turn > 0 {
                sum.add(&spent);
            }
        }
    }
    for (series, _, _, spent) in all {
        series.samples.push(spent.sample(series.workload));
    }
    Ok(())
}

fn slice(
    workload: Workload,
    proxy: &Process,
    load: &mut Load,
    window: Duration,
    pattern: &Pattern,
) -> io::Result<Spent> {
    if workload == Workload::Lockstep {
        return Spent::on(proxy, || load.lockstep(window));
    }
    // Comparing is dear, so it happens first and by itself.
    load.streaming(window / 10, Check::Bytes, pattern)?;
    Spent::on(proxy, || load.streaming(window, Check::Count, pattern))
}

/// Bytes a pair; all of them are held, and alive at the end.
fn pairs(proxy: &Process, plan: &Plan) -> io::Result<Sample> {
    // What only the first connection takes is the proxy's, not the pair's.
    let mut load = Load::connect(proxy.address(), 1)?;
    load.lockstep(Duration::ZERO)?;
    thread::sleep(SETTLE);
    let before = proxy.memory()?;
    let mut left = plan.pairs;
    while left > 0 {
        let count = left.min(BACKLOG);
        load.add(proxy.address(), count)?;
        load.lockstep(Duration::ZERO)?;
        left -= count;
    }
    thread::sleep(SETTLE);
    let grown = proxy.memory()?.saturating_sub(before);
    load.lockstep(Duration::ZERO)?;
    Ok(Sample { cost: ratio(grown, plan.pairs as u64), busy: None })
}

/// What a proxy spent.
#[derive(Default)]
struct Spent {
    /// On how many round trips, or bytes.
    work: u64,
    cpu: Duration,
    time: Duration,
}

impl Spent {
    /// On the work that `load` gives it, and answers the amount of.
    fn on(proxy: &Process, load: impl FnOnce() -> io::Result<u64>) -> io::Result<Self> {
        let (before, _) = proxy.asleep()?;
        let start = Instant::now();
        let work = load()?;
        let time = start.elapsed();
        let (after, _) = proxy.asleep()?;
        Ok(Self { work, cpu: after.saturating_sub(before), time })
    }

    fn add(&mut self, other: &Self) {
        self.work += other.work;
        self.cpu += other.cpu;
        self.time += other.time;
    }

    fn sample(&self, workload: Workload) -> Sample {
        let nanoseconds = u64::try_from(self.cpu.as_nanos()).expect("less than centuries");
        let scale = match workload {
            // Microseconds a round trip.
            Workload::Lockstep | Workload::Pairs => 1e-3,
            // Nanoseconds a KiB.
            Workload::Stream | Workload::Streams => 1024.0,
        };
        let cost = ratio(nanoseconds, self.work) * scale;
        Sample { cost, busy: Some(self.cpu.as_secs_f64() / self.time.as_secs_f64()) }
    }
}

/// In so many parts each proxy gets its load of a round.
const SLICES: u32 = 10;
/// So long the proxy is left alone before its memory is looked at.
const SETTLE: Duration = Duration::from_millis(200);
/// Connections that are opened at once; the upstream listens with a backlog of 128.
const BACKLOG: usize = 100;
