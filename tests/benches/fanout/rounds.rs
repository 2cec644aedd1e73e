//! The plan, the rounds, and how each figure is measured.

use std::{fmt, io, net::TcpListener, num::NonZeroUsize, thread, time::Duration};

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    load::{Check, Extent, Load},
    measure::{
        arguments::{Basics, Choice},
        figures::{percentile, ratio},
        process::{ANY_PORT, Cores},
        spent::Spent,
        turns::{Running, back_and_forth},
    },
    server::Server,
};

/// A load on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// Messages as fast as the server takes them
    Saturated,
    /// 1,000 messages a second
    Paced,
    /// Messages as fast as the server takes them, until the window is full
    Memory,
    /// Messages one by one, until the window is full
    Drip,
}

/// A workload and its number of subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Case {
    pub(crate) workload: Workload,
    pub(crate) subscribers: usize,
}

/// A figure of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Measure {
    /// Microseconds of CPU a delivery.
    Cpu,
    /// The share of the time that the server used its core.
    Busy,
    /// Microseconds from publishing to delivery, the median.
    P50,
    /// Microseconds from publishing to delivery, the 99th percentile.
    P99,
    /// Anonymous memory in MiB.
    Memory,
    /// What was published in the same time, in MiB.
    Published,
}

/// The plan of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    #[serde(flatten)]
    pub(crate) basics: Basics<Server, Workload>,
    pub(crate) saturated_subscribers: Vec<usize>,
    pub(crate) paced_subscribers: usize,
    pub(crate) memory_subscribers: usize,
    pub(crate) drip_subscribers: usize,
    /// The most messages that are published before memory is measured.
    pub(crate) memory_messages: u64,
    /// Each subscriber's receive buffer in bytes; 0: the kernel's default.
    pub(crate) receive_buffer: usize,
}

impl Plan {
    pub(crate) fn cases(&self) -> Vec<Case> {
        let subscribers = |workload| match workload {
            Workload::Saturated => self.saturated_subscribers.clone(),
            Workload::Paced => vec![self.paced_subscribers],
            Workload::Memory => vec![self.memory_subscribers],
            Workload::Drip => vec![self.drip_subscribers],
        };
        let cases = |&workload: &Workload| {
            subscribers(workload).into_iter().map(move |subscribers| Case { workload, subscribers })
        };
        self.basics.workloads.iter().flat_map(cases).collect()
    }

    /// Fewer rounds for memory, which differs little between rounds.
    pub(crate) fn rounds_of(&self, workload: Workload) -> u32 {
        match workload {
            Workload::Saturated | Workload::Paced => self.basics.rounds,
            Workload::Memory | Workload::Drip => 1,
        }
    }
}

/// A figure of a server, one value for each round.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) case: Case,
    pub(crate) server: Server,
    pub(crate) measure: Measure,
    pub(crate) values: Vec<f64>,
    /// Rounds in which the server did not sleep while no byte was in flight.
    pub(crate) restless: usize,
}

/// All series.
#[derive(Debug, Default)]
pub(crate) struct Found(pub(crate) Vec<Series>);

impl Found {
    pub(crate) fn of(&self, case: Case, server: Server, measure: Measure) -> Option<&Series> {
        let is = |one: &&Series| (one.case, one.server, one.measure) == (case, server, measure);
        self.0.iter().find(is)
    }

    fn add(&mut self, case: Case, server: Server, measure: Measure, value: f64, restless: bool) {
        let is = |one: &Series| (one.case, one.server, one.measure) == (case, server, measure);
        let place = self.0.iter().position(is).unwrap_or_else(|| {
            let (values, restless) = (Vec::new(), 0);
            self.0.push(Series { case, server, measure, values, restless });
            self.0.len() - 1
        });
        let series = &mut self.0[place];
        series.values.push(value);
        series.restless += usize::from(restless);
    }
}

/// Measures all figures.
pub(crate) fn run(plan: &Plan, cores: Cores) -> io::Result<Found> {
    cores.pin_load()?;
    let mut found = Found::default();
    for case in plan.cases() {
        for _ in 0..plan.rounds_of(case.workload) {
            match case.workload {
                Workload::Saturated | Workload::Paced => {
                    side_by_side(plan, cores, case, &mut found)?;
                }
                Workload::Memory | Workload::Drip => {
                    for &server in &plan.basics.servers {
                        let explain = explain(case, server);
                        memory(plan, cores, case, server, &mut found).map_err(explain)?;
                    }
                }
            }
        }
    }
    Ok(found)
}

/// A load, and the latencies of its deliveries.
type Timed = (Load, Vec<Duration>);

/// Starts a server and connects to it.
fn start(
    plan: &Plan,
    cores: Cores,
    case: Case,
    server: Server,
) -> io::Result<Running<Server, Timed>> {
    let upstream = TcpListener::bind(ANY_PORT)?;
    let process = server.start(upstream.local_addr()?, cores, plan.basics.workers)?;
    let address = process.address();
    let (protocol, buffer) = (server.protocol(), NonZeroUsize::new(plan.receive_buffer));
    let load = Load::connect(protocol, &upstream, address, case.subscribers, buffer)?;
    Ok(Running::new(server, process, (load, Vec::new())))
}

fn take_turn(
    running: &mut Running<Server, Timed>,
    workload: Workload,
    window: Duration,
) -> io::Result<Spent> {
    let Running { owner: server, process, load: (load, latencies), .. } = running;
    match workload {
        Workload::Saturated | Workload::Memory | Workload::Drip => {
            let most_ahead = server.most_ahead();
            let few = Extent { time: window / 10, messages: COMPARED, most_ahead };
            load.saturate(few, Check::Bytes, || ())?;
            let extent = Extent { time: window, messages: u64::MAX / 2, most_ahead };
            let spent = Spent::on(process, || load.saturate(extent, Check::Count, || ()))?;
            load.saturate(few, Check::Bytes, || ())?;
            Ok(spent)
        }
        Workload::Paced => Spent::on(process, || load.pace(window, EVERY, latencies)),
    }
}

/// Measures one round. All servers run and are connected; they get the load in turns, one slice of
/// the window at a time.
fn side_by_side(plan: &Plan, cores: Cores, case: Case, found: &mut Found) -> io::Result<()> {
    let slices = if case.subscribers > MANY { SLICES / 2 } else { SLICES };
    let window = plan.basics.window / slices;
    let mut all = Vec::new();
    for &server in &plan.basics.servers {
        all.push(start(plan, cores, case, server).map_err(explain(case, server))?);
    }
    back_and_forth(&mut all, slices, |running, turn| {
        // The first turn only warms up the server.
        let length = if turn == 0 { window / 4 } else { window };
        if turn == 1 {
            running.load.1.clear();
        }
        take_turn(running, case.workload, length).map_err(explain(case, running.owner))
    })?;
    for Running { owner: server, spent, load: (_, mut latencies), .. } in all {
        let restless = spent.restless;
        let mut add = |measure, value| found.add(case, server, measure, value, restless);
        add(Measure::Cpu, spent.nanoseconds() * 1e-3);
        add(Measure::Busy, spent.busy());
        if case.workload == Workload::Paced {
            latencies.sort_unstable();
            add(Measure::P50, percentile(&latencies, 50));
            add(Measure::P99, percentile(&latencies, 99));
        }
    }
    Ok(())
}

/// Measures the server's memory after each subscriber was sent more than the window.
fn memory(
    plan: &Plan,
    cores: Cores,
    case: Case,
    server: Server,
    found: &mut Found,
) -> io::Result<()> {
    let Running { process, load: (mut load, _), .. } = start(plan, cores, case, server)?;
    let mut most = Ok(0);
    let deliveries = if case.workload == Workload::Drip {
        load.drip(plan.memory_messages, plan.basics.window * 12)?
    } else {
        let most_ahead = server.most_ahead();
        // Who waits for the slowest by themselves are done when the window is full.
        let time = plan.basics.window * if most_ahead.is_some() { 2 } else { 12 };
        let extent = Extent { time, messages: plan.memory_messages, most_ahead };
        let deliveries = load.saturate(extent, Check::Count, || most = process.memory())?;
        load.saturate(Extent { messages: COMPARED, ..extent }, Check::Bytes, || ())?;
        deliveries
    };
    thread::sleep(SETTLE);
    let (_, asleep) = process.asleep()?;
    let most = most?.max(process.memory()?);
    let messages = deliveries / case.subscribers as u64;
    found.add(case, server, Measure::Memory, ratio(most, MIB), !asleep);
    found.add(case, server, Measure::Published, ratio(messages, 1024), !asleep);
    // Before its upstream is gone, of which it would complain.
    drop(process);
    Ok(())
}

/// Says what an error belongs to.
fn explain(case: Case, server: Server) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{case} with {}: {error}", server.name()))
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workload, subscribers } = self;
        write!(f, "{workload:?}, {subscribers} subscribers")
    }
}

/// Between two messages of `paced`.
const EVERY: Duration = Duration::from_millis(1);
/// In so many parts each server gets its load of a round; in half as many with more than [`MANY`]
/// subscribers, where what is on its way at the end of each part is more.
const SLICES: u32 = 4;
const MANY: usize = 100;
/// Messages that are compared before and after the others are counted.
const COMPARED: u64 = 16;
/// How long the server is idle before its memory is measured.
const SETTLE: Duration = Duration::from_millis(200);
const MIB: u64 = 1024 * 1024;
