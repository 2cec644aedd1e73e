//! The costs of servers, one figure for each workload: their measurement and the report.

use std::{
    fmt::{self, Debug},
    io,
    time::Duration,
};

use serde::Serialize;

use super::{
    arguments::{Basics, Choice},
    cpu::CpuUsage,
    figures::{Row, Spread, head, percentile},
    process::{Cores, Process},
    turns::{Running, alternate},
};

/// The plan of a benchmark of costs, and the texts of its report.
pub(crate) trait Costs: Serialize {
    type Server: Choice;
    type Workload: Choice + Debug;
    /// The headings of the first column: of the figures, and of the ratios.
    const HEADS: [&'static str; 2];

    fn basics(&self) -> &Basics<Self::Server, Self::Workload>;

    /// The number of rounds for a workload.
    fn rounds_of(&self, workload: Self::Workload) -> u32;

    /// Whether the workload is measured on the server.
    fn measures(_workload: Self::Workload, _server: Self::Server) -> bool {
        true
    }

    /// The heading of the workload's table.
    fn title(&self, workload: Self::Workload) -> String;

    fn unit(workload: Self::Workload) -> Unit;

    /// The goal: the highest acceptable cost of the server, unless the goal is a ratio.
    fn max_cost(_workload: Self::Workload, _server: Self::Server) -> Option<f64> {
        None
    }

    /// The goal of a workload with a second load: the highest acceptable ratio of the figure with
    /// the second load to the figure without it.
    fn max_ratio_to_alone(_workload: Self::Workload, _server: Self::Server) -> Option<f64> {
        None
    }

    /// For a server of this project: the servers that it is compared with, each with the goal, the
    /// highest acceptable ratio.
    fn references(
        &self,
        workload: Self::Workload,
        server: Self::Server,
    ) -> Vec<(Self::Server, Option<f64>)>;
}

/// The unit of a figure.
pub(crate) struct Unit {
    name: &'static str,
    /// Digits behind the decimal point.
    digits: usize,
    /// The figure for one nanosecond of CPU a unit of work.
    scale: f64,
}

impl Unit {
    /// Microseconds of CPU a unit of work.
    pub(crate) fn microseconds(name: &'static str) -> Self {
        Self { name, digits: 2, scale: 1e-3 }
    }

    /// Nanoseconds of CPU a KiB; the unit of work is a byte.
    pub(crate) fn of_a_kib(name: &'static str) -> Self {
        Self { name, digits: 0, scale: 1024.0 }
    }

    /// Microseconds.
    pub(crate) fn latency(name: &'static str) -> Self {
        Self { name, digits: 0, scale: 1.0 }
    }

    /// Bytes of memory.
    pub(crate) fn bytes(name: &'static str) -> Self {
        Self { name, digits: 0, scale: 1.0 }
    }
}

/// The figures of one server for one workload, one for each round.
pub(crate) struct Series<C: Costs> {
    workload: C::Workload,
    server: C::Server,
    samples: Vec<Sample>,
}

/// The figure of one server in one round.
#[derive(Clone, Copy)]
struct Sample {
    cost: f64,
    /// The share of the time that the server used its core; `None` for an idle server.
    busy: Option<f64>,
    /// The cost without the second load, if the workload has one.
    alone: Option<f64>,
    spins: bool,
}

/// Measures all figures: each `round` adds one to each series.
pub(crate) fn measure<C: Costs>(
    plan: &C,
    cores: Cores,
    mut round: impl FnMut(C::Workload, &mut [Series<C>]) -> io::Result<()>,
) -> io::Result<Vec<Series<C>>> {
    cores.pin_load()?;
    let Basics { servers, workloads, .. } = plan.basics();
    let mut all = Vec::new();
    for &workload in workloads {
        let new = |server| Series { workload, server, samples: Vec::new() };
        let servers = servers.iter().copied().filter(|&server| C::measures(workload, server));
        let mut series: Vec<_> = servers.map(new).collect();
        for _ in 0..plan.rounds_of(workload) {
            round(workload, &mut series)?;
        }
        all.append(&mut series);
    }
    Ok(all)
}

/// Measures one round of CPU. All servers run and are connected; they get the load in turns, one
/// slice of the window at a time.
pub(crate) fn side_by_side<C: Costs, L>(
    plan: &C,
    series: &mut [Series<C>],
    start: impl FnMut(C::Server) -> io::Result<(Process, L)>,
    slice: impl FnMut(&Process, &mut L, Duration) -> io::Result<CpuUsage>,
) -> io::Result<()> {
    for Running { owner: series, usage, .. } in in_slices(plan, series, start, slice)? {
        let cost = usage.nanoseconds() * C::unit(series.workload).scale;
        let busy = Some(usage.busy());
        series.samples.push(Sample { cost, busy, alone: None, spins: usage.spins });
    }
    Ok(())
}

/// Measures one round of median latencies in the same way. `slice` adds the latencies of a server.
pub(crate) fn medians<C: Costs, L>(
    plan: &C,
    series: &mut [Series<C>],
    mut start: impl FnMut(C::Server) -> io::Result<(Process, L)>,
    mut slice: impl FnMut(&Process, &mut L, Duration, &mut Latencies) -> io::Result<CpuUsage>,
) -> io::Result<()> {
    let start = |server| {
        let (process, load) = start(server)?;
        Ok((process, (load, Latencies::default())))
    };
    let slice = |process: &_, (load, latencies): &mut (L, _), window| {
        slice(process, load, window, latencies)
    };
    for Running { owner: series, usage, load, .. } in in_slices(plan, series, start, slice)? {
        let Latencies { alone, with_second_load } = load.1;
        let median = |mut all: Vec<_>| {
            all.sort_unstable();
            percentile(&all, 50) * C::unit(series.workload).scale
        };
        let (cost, alone) = (median(with_second_load), Some(median(alone)));
        series.samples.push(Sample { cost, busy: None, alone, spins: usage.spins });
    }
    Ok(())
}

/// The times until the replies: without the second load, and with it.
#[derive(Default)]
pub(crate) struct Latencies {
    pub(crate) alone: Vec<Duration>,
    pub(crate) with_second_load: Vec<Duration>,
}

/// Gives all servers their load in slices. Returns them with the CPU that they have used.
fn in_slices<'a, C: Costs, L>(
    plan: &C,
    series: &'a mut [Series<C>],
    mut start: impl FnMut(C::Server) -> io::Result<(Process, L)>,
    mut slice: impl FnMut(&Process, &mut L, Duration) -> io::Result<CpuUsage>,
) -> io::Result<Vec<Running<&'a mut Series<C>, L>>> {
    let window = plan.basics().window / SLICES;
    let mut all = Vec::new();
    for series in series {
        let (process, load) = start(series.server).map_err(series.explain())?;
        all.push(Running::new(series, process, load));
    }
    alternate(&mut all, SLICES, |running, _| {
        slice(&running.process, &mut running.load, window).map_err(running.owner.explain())
    })?;
    Ok(all)
}

/// Measures one round of memory, one server after the other. `memory` returns the bytes for
/// each connection, and whether the server then sleeps.
pub(crate) fn one_by_one<C: Costs>(
    series: &mut [Series<C>],
    mut start: impl FnMut(C::Server) -> io::Result<Process>,
    mut memory: impl FnMut(&Process) -> io::Result<(f64, bool)>,
) -> io::Result<()> {
    for series in series {
        let process = start(series.server).map_err(series.explain())?;
        let (cost, asleep) = memory(&process).map_err(series.explain())?;
        series.samples.push(Sample { cost, busy: None, alone: None, spins: !asleep });
    }
    Ok(())
}

impl<C: Costs> Series<C> {
    /// Adds the server and the workload to an error.
    fn explain(&self) -> impl FnOnce(io::Error) -> io::Error + use<C> {
        let Self { workload, server, .. } = *self;
        move |error| {
            let name = server.name();
            io::Error::new(error.kind(), format!("{workload:?} with {name}: {error}"))
        }
    }
}

/// The result. Its text has a table for each workload.
#[derive(Serialize)]
#[serde(bound = "")]
pub(crate) struct Report<'a, C: Costs> {
    plan: &'a C,
    seconds: f64,
    cores: Cores,
    figures: Vec<Figure<C>>,
    ratios: Vec<Ratio<C>>,
}

/// The cost of a server.
#[derive(Serialize)]
#[serde(bound = "")]
struct Figure<C: Costs> {
    workload: C::Workload,
    server: C::Server,
    unit: &'static str,
    cost: Spread,
    /// The share of the time that it used its core, from 0 to 1.
    busy: Option<Spread>,
    /// The cost without the second load, in the same unit.
    alone: Option<Spread>,
    /// Rounds in which the server did not sleep while no byte was in flight. Then its cost is
    /// unreliable.
    spinning_rounds: usize,
    /// The goal: the highest acceptable median, in the same unit.
    goal: Option<f64>,
    reached: Option<bool>,
}

/// The cost of a server of this project as a multiple of another server's.
#[derive(Serialize)]
#[serde(bound = "")]
struct Ratio<C: Costs> {
    workload: C::Workload,
    server: C::Server,
    /// `None`: the same server, without the second load.
    to: Option<C::Server>,
    times: Spread,
    /// The goal: the highest acceptable median.
    goal: Option<f64>,
    reached: Option<bool>,
}

impl<'a, C: Costs> Report<'a, C> {
    pub(crate) fn new(plan: &'a C, cores: Cores, all: &[Series<C>]) -> Self {
        let mut ratios = Vec::new();
        for ours in all {
            for (to, goal) in plan.references(ours.workload, ours.server) {
                let is = |one: &&Series<C>| one.workload == ours.workload && one.server == to;
                ratios.extend(all.iter().find(is).and_then(|other| Ratio::of(ours, other, goal)));
            }
            ratios.extend(Ratio::to_alone(ours));
        }
        let seconds = plan.basics().window.as_secs_f64();
        Self { plan, seconds, cores, figures: all.iter().filter_map(Figure::of).collect(), ratios }
    }
}

impl<C: Costs> Figure<C> {
    fn of(series: &Series<C>) -> Option<Self> {
        let &Series { workload, server, ref samples } = series;
        let cost = Spread::of(samples.iter().map(|sample| sample.cost))?;
        let goal = C::max_cost(workload, server);
        Some(Self {
            workload,
            server,
            unit: C::unit(workload).name,
            cost,
            busy: Spread::of(samples.iter().filter_map(|sample| sample.busy)),
            alone: Spread::of(samples.iter().filter_map(|sample| sample.alone)),
            spinning_rounds: samples.iter().filter(|sample| sample.spins).count(),
            goal,
            reached: goal.map(|goal| cost.median <= goal),
        })
    }
}

impl<C: Costs> Ratio<C> {
    fn of(ours: &Series<C>, other: &Series<C>, goal: Option<f64>) -> Option<Self> {
        let &Series { workload, server, ref samples } = ours;
        let pairs = samples.iter().zip(&other.samples);
        let times = Spread::of(pairs.map(|(ours, other)| ours.cost / other.cost))?;
        Some(Self::new(workload, server, Some(other.server), times, goal))
    }

    /// `None` for a workload without a second load.
    fn to_alone(series: &Series<C>) -> Option<Self> {
        let &Series { workload, server, ref samples } = series;
        let times = |sample: &Sample| Some(sample.cost / sample.alone?);
        let times = Spread::of(samples.iter().filter_map(times))?;
        Some(Self::new(workload, server, None, times, C::max_ratio_to_alone(workload, server)))
    }

    fn new(
        workload: C::Workload,
        server: C::Server,
        to: Option<C::Server>,
        times: Spread,
        goal: Option<f64>,
    ) -> Self {
        let reached = goal.map(|goal| times.median <= goal);
        Self { workload, server, to, times, goal, reached }
    }
}

impl<C: Costs> fmt::Display for Report<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [compared, ours] = C::HEADS;
        for &workload in &self.plan.basics().workloads {
            let Unit { name, digits, .. } = C::unit(workload);
            writeln!(f, "{workload:?}: {}; {name}\n", self.plan.title(workload))?;
            let figures = || self.figures.iter().filter(|figure| figure.workload == workload);
            let has_second_load = figures().any(|figure| figure.alone.is_some());
            let last = if has_second_load { "alone" } else { "of its core" };
            writeln!(f, "{}", head(compared, last))?;
            for figure in figures() {
                let &Figure { server, cost, busy, alone, spinning_rounds, goal, reached, .. } =
                    figure;
                let busy = busy.map(|busy| format!("{:.0} %", busy.median * 100.0));
                let alone = alone.map(|alone| format!("{:.digits$}", alone.median));
                let (name, note) = (server.name(), busy.or(alone).unwrap_or_default());
                let row = Row { name, spread: cost, digits, note, goal, reached, spinning_rounds };
                writeln!(f, "{row}")?;
            }
            writeln!(f, "{}", head(ours, ""))?;
            for ratio in self.ratios.iter().filter(|ratio| ratio.workload == workload) {
                let &Ratio { server, to, times, goal, reached, .. } = ratio;
                let to = to.map_or_else(|| "alone".to_owned(), Choice::name);
                let name = format!("{} : {to}", server.name());
                writeln!(f, "{}", Row::of_ratio(name, times, goal, reached))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// The number of slices of a server's load in a round.
const SLICES: u32 = 10;
