//! The figures as tables, or as JSON.

use std::io::{self, Write};

use serde::Serialize;

use crate::{
    figures::{Columns, Goal, Spread, head},
    measure::{Case, Found, Measure, Plan, Series, Workload},
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

/// What a server came to.
#[derive(Debug, Serialize)]
struct Figure {
    #[serde(flatten)]
    case: Case,
    server: Server,
    measure: Measure,
    unit: &'static str,
    spread: Spread,
    /// Rounds in which it went on running when no byte was on its way. Its CPU means little then.
    restless: usize,
    /// The most that it should be, where the goal is no ratio.
    goal: Option<f64>,
    reached: Option<bool>,
}

/// What a server of ours came to, in terms of others.
#[derive(Debug, Serialize)]
struct Ratio {
    #[serde(flatten)]
    case: Case,
    server: Server,
    measure: Measure,
    to: Yardstick,
    times: Spread,
    /// The most that it should be.
    goal: Option<f64>,
    reached: Option<bool>,
}

/// What ours are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Yardstick {
    Floor,
    TokioHand,
    /// The better of NATS and Redis, in each round.
    Brokers,
}

impl Yardstick {
    const ALL: [Self; 3] = [Self::Floor, Self::TokioHand, Self::Brokers];

    fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::TokioHand => "tokio-hand",
            Self::Brokers => "best broker",
        }
    }

    /// Its figures by round; of several servers the least of each.
    fn values(self, found: &Found, case: Case, measure: Measure) -> Option<Vec<f64>> {
        let servers: &[_] = match self {
            Self::Floor => &[Server::Floor],
            Self::TokioHand => &[Server::TokioHand],
            Self::Brokers => &[Server::Nats, Server::Redis],
        };
        let series = servers.iter().filter_map(|&server| found.of(case, server, measure));
        series.map(|series| series.values.clone()).reduce(|one, other| {
            one.into_iter().zip(other).map(|(one, other)| one.min(other)).collect()
        })
    }

    /// The most that ours may be of it.
    fn goal(self, workload: Workload, measure: Measure, server: Server) -> Option<f64> {
        match (self, workload, measure) {
            (Self::Floor, Workload::Saturated, Measure::Cpu) => {
                Some(if server == Server::Tokio { 1.25 } else { 2.0 })
            }
            (Self::Brokers, Workload::Saturated, Measure::Cpu) => Some(0.4),
            (Self::TokioHand, Workload::Paced, Measure::P50 | Measure::P99) => Some(1.0),
            (Self::Floor | Self::TokioHand | Self::Brokers, _, _) => None,
        }
    }
}

impl<'a> Report<'a> {
    pub(crate) fn new(plan: &'a Plan, cores: Cores, found: &Found) -> Self {
        let mut ratios = Vec::new();
        for to in Yardstick::ALL {
            let ours = found.0.iter().filter(|series| series.server.is_ours());
            ratios.extend(ours.filter_map(|series| Ratio::of(series, to, found)));
        }
        Self {
            plan,
            seconds: plan.window.as_secs_f64(),
            cores,
            figures: found.0.iter().filter_map(Figure::of).collect(),
            ratios,
        }
    }

    /// One JSON object.
    pub(crate) fn print_json(&self) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        serde_json::to_writer_pretty(&mut stdout, self)?;
        writeln!(stdout)
    }

    /// Tables for each case.
    pub(crate) fn print(&self) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        for case in self.plan.cases() {
            let (rounds, workers) = (self.plan.rounds_of(case.workload), self.plan.workers);
            writeln!(stdout, "{case}; rounds: {rounds}, workers: {workers}\n")?;
            for &measure in measures(case.workload) {
                writeln!(stdout, "{}", head(unit(measure), second(measure).map_or("", unit)))?;
                let all = self.figures.iter().filter(|figure| figure.case == case);
                for figure in all.clone().filter(|figure| figure.measure == measure) {
                    let beside = all.clone().find(|other| {
                        other.server == figure.server && Some(other.measure) == second(measure)
                    });
                    let beside = beside.map_or(String::new(), |other| {
                        format!("{:.*}", digits(other.measure), other.spread.median)
                    });
                    let digits = digits(measure);
                    let goal = Goal { most: figure.goal, reached: figure.reached, digits };
                    let name = figure.server.name();
                    let columns = Columns(figure.spread, digits);
                    let restless = match figure.restless {
                        0 => String::new(),
                        rounds => format!("RUNS ON with nothing to do, rounds: {rounds}"),
                    };
                    writeln!(stdout, "  {name:<22}{columns}{beside:>13}  {goal}{restless}")?;
                }
                for ratio in &self.ratios {
                    if (ratio.case, ratio.measure) == (case, measure) {
                        let goal = Goal { most: ratio.goal, reached: ratio.reached, digits: 2 };
                        let name = format!("{} : {}", ratio.server.name(), ratio.to.name());
                        let columns = Columns(ratio.times, 2);
                        writeln!(stdout, "  {name:<22}{columns}{:13}  {goal}", "")?;
                    }
                }
                writeln!(stdout)?;
            }
        }
        Ok(())
    }
}

impl Figure {
    fn of(series: &Series) -> Option<Self> {
        let &Series { case, server, measure, ref values, restless } = series;
        let spread = Spread::of(values.iter().copied())?;
        let goal = (measure == Measure::Memory && server.is_ours()).then_some(MOST_MEMORY);
        let reached = goal.map(|goal| spread.median < goal);
        Some(Self { case, server, measure, unit: unit(measure), spread, restless, goal, reached })
    }
}

impl Ratio {
    fn of(ours: &Series, to: Yardstick, found: &Found) -> Option<Self> {
        let &Series { case, server, measure, ref values, .. } = ours;
        let interesting = match measure {
            Measure::Cpu | Measure::P50 | Measure::P99 => true,
            Measure::Busy | Measure::Memory | Measure::Published => false,
        };
        let others = to.values(found, case, measure).filter(|_| interesting)?;
        let times = Spread::of(values.iter().zip(others).map(|(ours, other)| ours / other))?;
        let goal = to.goal(case.workload, measure, server);
        let reached = goal.map(|goal| times.median <= goal);
        Some(Self { case, server, measure, to, times, goal, reached })
    }
}

/// What has a table.
fn measures(workload: Workload) -> &'static [Measure] {
    match workload {
        Workload::Saturated => &[Measure::Cpu],
        Workload::Paced => &[Measure::Cpu, Measure::P50, Measure::P99],
        Workload::Memory | Workload::Drip => &[Measure::Memory],
    }
}

/// What stands beside it in the same table.
fn second(measure: Measure) -> Option<Measure> {
    match measure {
        Measure::Cpu => Some(Measure::Busy),
        Measure::Memory => Some(Measure::Published),
        Measure::Busy | Measure::P50 | Measure::P99 | Measure::Published => None,
    }
}

fn unit(measure: Measure) -> &'static str {
    match measure {
        Measure::Cpu => "CPU a delivery, µs",
        Measure::Busy => "of its core",
        Measure::P50 => "latency p50, µs",
        Measure::P99 => "latency p99, µs",
        Measure::Memory => "memory, MiB",
        Measure::Published => "of so many",
    }
}

fn digits(measure: Measure) -> usize {
    match measure {
        Measure::Cpu => 3,
        Measure::Busy => 2,
        Measure::P50 | Measure::P99 | Measure::Published => 0,
        Measure::Memory => 1,
    }
}

/// In MiB.
const MOST_MEMORY: f64 = 32.0;
