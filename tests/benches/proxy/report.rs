//! The figures as tables, or as JSON.

use std::io::{self, Write};

use serde::Serialize;

use crate::{
    figures::{Columns, Goal, Spread, head},
    measure::{Plan, Sample, Series, Workload},
    process::Cores,
    server::Server,
};

/// All that was found.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    plan: &'a Plan,
    seconds: f64,
    cores: Cores,
    figures: Vec<Figure>,
    ratios: Vec<Ratio>,
}

/// What a proxy cost.
#[derive(Debug, Serialize)]
struct Figure {
    workload: Workload,
    server: Server,
    unit: &'static str,
    cost: Spread,
    /// How full its core was, from 0 to 1.
    busy: Option<Spread>,
}

/// What a proxy of ours cost, in terms of nginx.
#[derive(Debug, Serialize)]
struct Ratio {
    workload: Workload,
    server: Server,
    times: Spread,
    /// The most that it should be.
    goal: Option<f64>,
    reached: Option<bool>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(plan: &'a Plan, cores: Cores, series: &[Series]) -> Self {
        let nginx = |ours: &Series| {
            let same = |one: &&Series| one.workload == ours.workload && one.server == Server::Nginx;
            series.iter().find(same)
        };
        let ours = series.iter().filter(|series| series.server.is_ours());
        Self {
            plan,
            seconds: plan.window.as_secs_f64(),
            cores,
            figures: series.iter().filter_map(Figure::of).collect(),
            ratios: ours.filter_map(|ours| Ratio::of(ours, nginx(ours)?)).collect(),
        }
    }

    /// One JSON object.
    pub(crate) fn print_json(&self) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        serde_json::to_writer_pretty(&mut stdout, self)?;
        writeln!(stdout)
    }

    /// A table for each workload.
    pub(crate) fn print(&self) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        for &workload in &self.plan.workloads {
            writeln!(
                stdout,
                "{workload:?}: {}; connections: {}, rounds: {}; {}\n",
                describe(workload),
                self.plan.connections_of(workload),
                self.plan.rounds_of(workload),
                unit(workload),
            )?;
            let digits = if workload == Workload::Lockstep { 2 } else { 0 };
            writeln!(stdout, "{}", head("proxy", "of its core"))?;
            for figure in self.figures.iter().filter(|figure| figure.workload == workload) {
                let busy = figure.busy.map(|busy| format!("{:.0} %", busy.median * 100.0));
                let name = figure.server.name();
                let (spread, busy) = (Columns(figure.cost, digits), busy.unwrap_or_default());
                writeln!(stdout, "  {name:<22}{spread}{busy:>13}")?;
            }
            writeln!(stdout, "{}", head("ours to nginx", ""))?;
            for ratio in self.ratios.iter().filter(|ratio| ratio.workload == workload) {
                let goal = Goal { most: ratio.goal, reached: ratio.reached, digits: 2 };
                let name = format!("{} : nginx", ratio.server.name());
                writeln!(stdout, "  {name:<22}{}{:13}  {goal}", Columns(ratio.times, 2), "")?;
            }
            writeln!(stdout)?;
        }
        Ok(())
    }
}

impl Figure {
    fn of(series: &Series) -> Option<Self> {
        let &Series { workload, server, ref samples } = series;
        Some(Self {
            workload,
            server,
            unit: unit(workload),
            cost: Spread::of(samples.iter().map(|sample| sample.cost))?,
            busy: Spread::of(samples.iter().filter_map(|sample| sample.busy)),
        })
    }
}

impl Ratio {
    fn of(ours: &Series, nginx: &Series) -> Option<Self> {
        let &Series { workload, server, ref samples } = ours;
        let cost = |sample: &Sample| sample.cost;
        let pairs = samples.iter().map(cost).zip(nginx.samples.iter().map(cost));
        let times = Spread::of(pairs.map(|(ours, nginx)| ours / nginx))?;
        let goal = highest_ratio(workload);
        let reached = goal.map(|goal| times.median <= goal);
        Some(Self { workload, server, times, goal, reached })
    }
}

/// The goal for a proxy of ours, in terms of nginx.
fn highest_ratio(workload: Workload) -> Option<f64> {
    match workload {
        Workload::Lockstep => Some(1.0),
        Workload::Stream | Workload::Streams => Some(0.6),
        Workload::Pairs => None,
    }
}

fn describe(workload: Workload) -> &'static str {
    match workload {
        Workload::Lockstep => "64 bytes there and back",
        Workload::Stream | Workload::Streams => "as many bytes as the sockets take, and back",
        Workload::Pairs => "silent after one message, and all alive",
    }
}

fn unit(workload: Workload) -> &'static str {
    match workload {
        Workload::Lockstep => "µs of proxy CPU a round trip",
        Workload::Stream | Workload::Streams => "ns of proxy CPU a KiB",
        Workload::Pairs => "bytes of proxy memory a pair",
    }
}
