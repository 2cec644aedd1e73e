//! The figures as tables, or as JSON.

use std::{
    fmt,
    io::{self, Write},
};

use serde::Serialize;

use crate::{
    dialogue::REQUEST,
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
    busy: Spread,
    /// Rounds in which it went on running when no byte was on its way. Its cost means little then.
    restless: usize,
}

/// What a server of ours cost, in terms of one by hand.
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
        let mut ratios = Vec::new();
        for ours in series {
            for &by_hand in ours.server.by_hand() {
                let is = |one: &&Series| (one.workload, one.server) == (ours.workload, by_hand);
                ratios.extend(series.iter().find(is).and_then(|hand| Ratio::of(plan, ours, hand)));
            }
        }
        Self {
            plan,
            seconds: plan.window.as_secs_f64(),
            cores,
            figures: series.iter().filter_map(Figure::of).collect(),
            ratios,
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
            writeln!(stdout, "{}", head("server", "of its core"))?;
            for figure in self.figures.iter().filter(|figure| figure.workload == workload) {
                let busy = format!("{:.0} %", figure.busy.median * 100.0);
                let (name, columns) = (figure.server.name(), Columns(figure.cost, 2));
                writeln!(stdout, "  {name:<22}{columns}{busy:>13}  {}", Restless(figure))?;
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
        let Plan { connections, workers, rounds, .. } = self.plan;
        let in_flight = self.plan.in_flight(workload);
        format!(
            "{workload:?}: {REQUEST} bytes a request, in flight: {in_flight}; {connections} \
             connections, workers: {workers}, rounds: {rounds}; {UNIT}"
        )
    }
}

impl Figure {
    fn of(series: &Series) -> Option<Self> {
        let &Series { workload, server, ref samples } = series;
        Some(Self {
            workload,
            server,
            unit: UNIT,
            cost: Spread::of(samples.iter().map(|sample| sample.cost))?,
            busy: Spread::of(samples.iter().map(|sample| sample.busy))?,
            restless: samples.iter().filter(|sample| sample.restless).count(),
        })
    }
}

impl Ratio {
    fn of(plan: &Plan, ours: &Series, hand: &Series) -> Option<Self> {
        let &Series { workload, server, ref samples } = ours;
        let cost = |sample: &Sample| sample.cost;
        let pairs = samples.iter().map(cost).zip(hand.samples.iter().map(cost));
        let times = Spread::of(pairs.map(|(ours, hand)| ours / hand))?;
        let goal = highest_ratio(plan.in_flight(workload), hand.server);
        let reached = goal.map(|goal| times.median <= goal);
        Some(Self { workload, server, by_hand: hand.server, times, goal, reached })
    }
}

/// The goal for a server of ours, in terms of one by hand, with so many requests in flight.
fn highest_ratio(in_flight: usize, by_hand: Server) -> Option<f64> {
    match (by_hand, in_flight) {
        (Server::TokioHand, 1) => Some(0.9),
        (Server::TokioHand, 16..) => Some(0.3),
        (Server::TokioHand | Server::StdHand | Server::Tokio | Server::Smol | Server::Std, _) => {
            None
        }
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

const UNIT: &str = "µs of server CPU a request";
