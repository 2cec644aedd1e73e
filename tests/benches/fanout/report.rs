//! The texts and goals of the report.

use std::fmt;

use serde::Serialize;

use crate::{
    measure::{
        arguments::Choice,
        figures::{Row, Spread, head},
        process::Cores,
    },
    rounds::{Case, Measure, Plan, Results, Series, Workload},
    server::Server,
};

/// The result. Its text has tables for each case.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    plan: &'a Plan,
    seconds: f64,
    cores: Cores,
    figures: Vec<Figure>,
    ratios: Vec<Ratio>,
}

/// A figure of a server.
#[derive(Debug, Serialize)]
struct Figure {
    #[serde(flatten)]
    case: Case,
    server: Server,
    measure: Measure,
    unit: &'static str,
    spread: Spread,
    /// Rounds in which the server did not sleep while no byte was in flight. Then its CPU figure is
    /// unreliable.
    spinning_rounds: usize,
    /// The goal: the highest acceptable median, unless the goal is a ratio.
    goal: Option<f64>,
    reached: Option<bool>,
}

/// A figure of a server of this project as a multiple of another server's.
#[derive(Debug, Serialize)]
struct Ratio {
    #[serde(flatten)]
    case: Case,
    server: Server,
    measure: Measure,
    to: Reference,
    times: Spread,
    /// The goal: the highest acceptable median.
    goal: Option<f64>,
    reached: Option<bool>,
}

/// A server that this project's servers are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Reference {
    Floor,
    TokioHand,
    /// The better of NATS and Redis in each round.
    Brokers,
    /// The same server from another build.
    OtherBuild,
}

impl Reference {
    const ALL: [Self; 4] = [Self::Floor, Self::TokioHand, Self::Brokers, Self::OtherBuild];

    fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::TokioHand => "tokio-hand",
            Self::Brokers => "best broker",
            Self::OtherBuild => "other build",
        }
    }

    /// Its figures in the rounds of `ours`. If it is several servers, the smallest of each round.
    fn values(self, results: &Results, ours: &Series) -> Option<Vec<f64>> {
        let &Series { case, server, measure, .. } = ours;
        let servers = match self {
            Self::Floor => vec![Server::Floor],
            Self::TokioHand => vec![Server::TokioHand],
            Self::Brokers => vec![Server::Nats, Server::Redis],
            Self::OtherBuild => server.in_other_build().into_iter().collect(),
        };
        let series = servers.into_iter().filter_map(|server| results.of(case, server, measure));
        series.map(|series| series.values.clone()).reduce(|one, other| {
            one.into_iter().zip(other).map(|(one, other)| one.min(other)).collect()
        })
    }

    /// The goal: the highest acceptable ratio.
    fn goal(self, workload: Workload, measure: Measure, server: Server) -> Option<f64> {
        match (self, workload, measure) {
            (Self::Floor, Workload::Saturated, Measure::Cpu) => {
                Some(if server == Server::Tokio { 1.25 } else { 2.0 })
            }
            (Self::Brokers, Workload::Saturated, Measure::Cpu) => Some(0.4),
            (Self::TokioHand, Workload::Paced, Measure::P50 | Measure::P99) => Some(1.0),
            (Self::Floor | Self::TokioHand | Self::Brokers | Self::OtherBuild, _, _) => None,
        }
    }
}

impl<'a> Report<'a> {
    pub(crate) fn new(plan: &'a Plan, cores: Cores, results: &Results) -> Self {
        let mut ratios = Vec::new();
        for to in Reference::ALL {
            let ours = results.0.iter().filter(|series| series.server.is_ours());
            ratios.extend(ours.filter_map(|series| Ratio::of(series, to, results)));
        }
        Self {
            plan,
            seconds: plan.basics.window.as_secs_f64(),
            cores,
            figures: results.0.iter().filter_map(Figure::of).collect(),
            ratios,
        }
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for case in self.plan.cases() {
            let (rounds, workers) = (self.plan.rounds_of(case.workload), self.plan.basics.workers);
            writeln!(f, "{case}; rounds: {rounds}, workers: {workers}\n")?;
            for &measure in measures(case.workload) {
                writeln!(f, "{}", head(unit(measure), last_column(measure).map_or("", unit)))?;
                let all = self.figures.iter().filter(|figure| figure.case == case);
                for figure in all.clone().filter(|figure| figure.measure == measure) {
                    let &Figure { server, spread, goal, reached, spinning_rounds, .. } = figure;
                    let note = all.clone().find(|other| {
                        other.server == server && Some(other.measure) == last_column(measure)
                    });
                    let note = note.map_or(String::new(), |other| {
                        format!("{:.*}", digits(other.measure), other.spread.median)
                    });
                    let (name, digits) = (server.name(), digits(measure));
                    let row = Row { name, spread, digits, note, goal, reached, spinning_rounds };
                    writeln!(f, "{row}")?;
                }
                for ratio in &self.ratios {
                    if (ratio.case, ratio.measure) == (case, measure) {
                        let &Ratio { server, to, times, goal, reached, .. } = ratio;
                        let name = format!("{} : {}", server.name(), to.name());
                        writeln!(f, "{}", Row::of_ratio(name, times, goal, reached))?;
                    }
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

impl Figure {
    fn of(series: &Series) -> Option<Self> {
        let &Series { case, server, measure, ref values, spinning_rounds } = series;
        let spread = Spread::of(values.iter().copied())?;
        let goal = (measure == Measure::Memory && server.is_ours()).then_some(MAX_MEMORY);
        let reached = goal.map(|goal| spread.median < goal);
        Some(Self {
            case,
            server,
            measure,
            unit: unit(measure),
            spread,
            spinning_rounds,
            goal,
            reached,
        })
    }
}

impl Ratio {
    fn of(ours: &Series, to: Reference, results: &Results) -> Option<Self> {
        let &Series { case, server, measure, ref values, .. } = ours;
        let has_ratio = match measure {
            Measure::Cpu | Measure::P50 | Measure::P99 => true,
            Measure::Busy | Measure::Memory | Measure::Published => false,
        };
        let others = to.values(results, ours).filter(|_| has_ratio)?;
        let times = Spread::of(values.iter().zip(others).map(|(ours, other)| ours / other))?;
        let goal = to.goal(case.workload, measure, server);
        let reached = goal.map(|goal| times.median <= goal);
        Some(Self { case, server, measure, to, times, goal, reached })
    }
}

/// The figures of a workload that have a table of their own.
fn measures(workload: Workload) -> &'static [Measure] {
    match workload {
        Workload::Saturated => &[Measure::Cpu],
        Workload::Paced => &[Measure::Cpu, Measure::P50, Measure::P99],
        Workload::Memory | Workload::Drip => &[Measure::Memory],
    }
}

/// The figure in the last column of a table.
fn last_column(measure: Measure) -> Option<Measure> {
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
        Measure::Published => "published, MiB",
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

/// The goal for memory, in MiB.
const MAX_MEMORY: f64 = 32.0;
