//! The figures as tables, or as JSON.

use std::{
    fmt,
    io::{self, Write},
};

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

/// What a server cost.
#[derive(Debug, Serialize)]
struct Figure {
    workload: Workload,
    server: Server,
    unit: &'static str,
    cost: Spread,
    /// How full its core was, from 0 to 1.
    busy: Option<Spread>,
    /// Rounds in which it went on running when no byte was on its way. Its cost means little then.
    restless: usize,
    /// The most that it should be, in the same unit, where the goal is no ratio.
    goal: Option<f64>,
    reached: Option<bool>,
}

/// What a server of ours cost, in terms of the same by hand.
#[derive(Debug, Serialize)]
struct Ratio {
    workload: Workload,
    server: Server,
    by_hand: Server,
    times: Spread,
    /// The most that it should be.
    goal: Option<f64>,
    reached: Option<bool>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(plan: &'a Plan, cores: Cores, series: &[Series]) -> Self {
        let by_hand = |ours: &Series| {
            let by_hand = ours.server.by_hand()?;
            series.iter().find(|one| one.workload == ours.workload && one.server == by_hand)
        };
        Self {
            plan,
            seconds: plan.window.as_secs_f64(),
            cores,
            figures: series.iter().filter_map(Figure::of).collect(),
            ratios: series.iter().filter_map(|ours| Ratio::of(ours, by_hand(ours)?)).collect(),
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
            writeln!(stdout, "{}\n", self.title(workload))?;
            let digits = digits(workload);
            writeln!(stdout, "{}", head("server", "of its core"))?;
            for figure in self.figures.iter().filter(|figure| figure.workload == workload) {
                let busy = figure.busy.map(|busy| format!("{:.0} %", busy.median * 100.0));
                let goal = Goal { most: figure.goal, reached: figure.reached, digits };
                let spread = Columns(figure.cost, digits);
                let name = figure.server.name();
                let busy = busy.unwrap_or_default();
                writeln!(stdout, "  {name:<22}{spread}{busy:>13}  {goal}{}", Restless(figure))?;
            }
            writeln!(stdout, "{}", head("ours to by hand", ""))?;
            for ratio in self.ratios.iter().filter(|ratio| ratio.workload == workload) {
                let goal = Goal { most: ratio.goal, reached: ratio.reached, digits: 2 };
                let name = format!("{} : {}", ratio.server.name(), ratio.by_hand.name());
                writeln!(stdout, "  {name:<22}{}{:13}  {goal}", Columns(ratio.times, 2), "")?;
            }
            writeln!(stdout)?;
        }
        Ok(())
    }

    fn title(&self, workload: Workload) -> String {
        let Plan { connections, idle_connections, workers, .. } = self.plan;
        let rounds = self.plan.rounds_of(workload);
        let (what, unit) = (describe(workload), unit(workload));
        let connections = match workload {
            Workload::Lockstep | Workload::Streaming => connections,
            Workload::Idle => idle_connections,
        };
        format!(
            "{workload:?}: {what}; {connections} connections, workers: {workers}, \
             rounds: {rounds}; {unit}"
        )
    }
}

impl Figure {
    fn of(series: &Series) -> Option<Self> {
        let &Series { workload, server, ref samples } = series;
        let cost = Spread::of(samples.iter().map(|sample| sample.cost))?;
        let goal = most_memory(workload, server);
        Some(Self {
            workload,
            server,
            unit: unit(workload),
            cost,
            busy: Spread::of(samples.iter().filter_map(|sample| sample.busy)),
            restless: samples.iter().filter(|sample| sample.restless).count(),
            goal,
            reached: goal.map(|goal| cost.median <= goal),
        })
    }
}

impl Ratio {
    fn of(ours: &Series, hand: &Series) -> Option<Self> {
        let &Series { workload, server, ref samples } = ours;
        let cost = |sample: &Sample| sample.cost;
        let pairs = samples.iter().map(cost).zip(hand.samples.iter().map(cost));
        let times = Spread::of(pairs.map(|(ours, hand)| ours / hand))?;
        let goal = highest_ratio(workload, server);
        let reached = goal.map(|goal| times.median <= goal);
        Some(Self { workload, server, by_hand: hand.server, times, goal, reached })
    }
}

/// The goal for a server of ours, in terms of the same by hand.
fn highest_ratio(workload: Workload, server: Server) -> Option<f64> {
    match (workload, server) {
        (Workload::Lockstep, Server::Tokio | Server::Smol) => Some(1.05),
        (Workload::Lockstep, Server::Std) => Some(1.2),
        (Workload::Streaming, Server::Tokio | Server::Smol | Server::Std) => Some(1.0),
        (Workload::Lockstep | Workload::Streaming | Workload::Idle, _) => None,
    }
}

/// The goal for a server of ours, in bytes a connection.
fn most_memory(workload: Workload, server: Server) -> Option<f64> {
    match (workload, server) {
        (Workload::Idle, Server::Tokio | Server::Smol) => Some(1.2 * 1024.0),
        (Workload::Lockstep | Workload::Streaming | Workload::Idle, _) => None,
    }
}

fn describe(workload: Workload) -> &'static str {
    match workload {
        Workload::Lockstep => "64 bytes there and back",
        Workload::Streaming => "as many bytes as the sockets take",
        Workload::Idle => "silent after one message",
    }
}

fn unit(workload: Workload) -> &'static str {
    match workload {
        Workload::Lockstep => "µs of server CPU a request",
        Workload::Streaming => "ns of server CPU a KiB",
        Workload::Idle => "bytes of server memory a connection",
    }
}

fn digits(workload: Workload) -> usize {
    match workload {
        Workload::Lockstep => 2,
        Workload::Streaming | Workload::Idle => 0,
    }
}

/// Says so of a server that does not sleep.
struct Restless<'a>(&'a Figure);

impl fmt::Display for Restless<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.restless {
            0 => Ok(()),
            rounds => write!(f, "RUNS ON with nothing to do, rounds: {rounds}"),
        }
    }
}
