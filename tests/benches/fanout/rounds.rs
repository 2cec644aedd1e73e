//! The plan of a run, its rounds, and the measurement of each figure.

use std::{fmt, io, net::TcpListener, num::NonZeroUsize, thread, time::Duration};

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    load::{Check, Extent, Load},
    measure::{
        arguments::{Basics, Choice},
        cpu::CpuUsage,
        figures::{percentile, ratio},
        process::{ANY_PORT, Cores},
        turns::{Running, alternate},
    },
    server::Server,
};

/// A load on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// Messages as fast as the server reads them
    Saturated,
    /// 1,000 messages a second
    Paced,
    /// Messages as fast as the server reads them, until the window is full
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
    /// The messages that were published in the same time, in MiB.
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
    pub(crate) spinning_rounds: usize,
}

/// All series.
#[derive(Debug, Default)]
pub(crate) struct Results(pub(crate) Vec<Series>);

impl Results {
    pub(crate) fn of(&self, case: Case, server: Server, measure: Measure) -> Option<&Series> {
        let is = |one: &&Series| (one.case, one.server, one.measure) == (case, server, measure);
        self.0.iter().find(is)
    }

    fn add(&mut self, case: Case, server: Server, measure: Measure, value: f64, spins: bool) {
        let is = |one: &Series| (one.case, one.server, one.measure) == (case, server, measure);
        let index = self.0.iter().position(is).unwrap_or_else(|| {
            let (values, spinning_rounds) = (Vec::new(), 0);
            self.0.push(Series { case, server, measure, values, spinning_rounds });
            self.0.len() - 1
        });
        let series = &mut self.0[index];
        series.values.push(value);
        series.spinning_rounds += usize::from(spins);
    }
}

/// Measures all figures.
pub(crate) fn run(plan: &Plan, cores: Cores) -> io::Result<Results> {
    cores.pin_load()?;
    let mut results = Results::default();
    for case in plan.cases() {
        for _ in 0..plan.rounds_of(case.workload) {
            match case.workload {
                Workload::Saturated | Workload::Paced => {
                    side_by_side(plan, cores, case, &mut results)?;
                }
                Workload::Memory | Workload::Drip => {
                    for &server in &plan.basics.servers {
                        let explain = explain(case, server);
                        memory(plan, cores, case, server, &mut results).map_err(explain)?;
                    }
                }
            }
        }
    }
    Ok(results)
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
) -> io::Result<CpuUsage> {
    let Running { owner: server, process, load: (load, latencies), .. } = running;
    match workload {
        Workload::Saturated | Workload::Memory | Workload::Drip => {
            let max_ahead = server.max_ahead();
            let compared = Extent { time: window / 10, messages: COMPARED, max_ahead };
            load.saturate(compared, Check::Bytes, || ())?;
            let extent = Extent { time: window, messages: u64::MAX / 2, max_ahead };
            let usage = CpuUsage::on(process, || load.saturate(extent, Check::Count, || ()))?;
            load.saturate(compared, Check::Bytes, || ())?;
            Ok(usage)
        }
        Workload::Paced => CpuUsage::on(process, || load.pace(window, EVERY, latencies)),
    }
}

/// Measures one round. All servers run and are connected; they get the load in turns, one slice of
/// the window at a time.
fn side_by_side(plan: &Plan, cores: Cores, case: Case, results: &mut Results) -> io::Result<()> {
    let slices = if case.subscribers > MANY { SLICES / 2 } else { SLICES };
    let window = plan.basics.window / slices;
    let mut all = Vec::new();
    for &server in &plan.basics.servers {
        all.push(start(plan, cores, case, server).map_err(explain(case, server))?);
    }
    alternate(&mut all, slices, |running, turn| {
        // The first turn only warms up the server.
        let length = if turn == 0 { window / 4 } else { window };
        if turn == 1 {
            running.load.1.clear();
        }
        take_turn(running, case.workload, length).map_err(explain(case, running.owner))
    })?;
    for Running { owner: server, usage, load: (_, mut latencies), .. } in all {
        let spins = usage.spins;
        let mut add = |measure, value| results.add(case, server, measure, value, spins);
        add(Measure::Cpu, usage.nanoseconds() * 1e-3);
        add(Measure::Busy, usage.busy());
        if case.workload == Workload::Paced {
            latencies.sort_unstable();
            add(Measure::P50, percentile(&latencies, 50));
            add(Measure::P99, percentile(&latencies, 99));
        }
    }
    Ok(())
}

/// Measures the server's memory after it has sent more than the window to each subscriber.
fn memory(
    plan: &Plan,
    cores: Cores,
    case: Case,
    server: Server,
    results: &mut Results,
) -> io::Result<()> {
    let Running { process, load: (mut load, _), .. } = start(plan, cores, case, server)?;
    let mut peak = Ok(0);
    let deliveries = if case.workload == Workload::Drip {
        load.drip(plan.memory_messages, plan.basics.window * 12)?
    } else {
        let max_ahead = server.max_ahead();
        // A server that waits for the slowest subscriber stops reading when the window is full.
        let time = plan.basics.window * if max_ahead.is_some() { 2 } else { 12 };
        let extent = Extent { time, messages: plan.memory_messages, max_ahead };
        let deliveries = load.saturate(extent, Check::Count, || peak = process.memory())?;
        load.saturate(Extent { messages: COMPARED, ..extent }, Check::Bytes, || ())?;
        deliveries
    };
    thread::sleep(SETTLE);
    let (_, asleep) = process.wait_until_asleep()?;
    let peak = peak?.max(process.memory()?);
    let messages = deliveries / case.subscribers as u64;
    results.add(case, server, Measure::Memory, ratio(peak, MIB), !asleep);
    results.add(case, server, Measure::Published, ratio(messages, 1024), !asleep);
    // End the server before its upstream, whose end it would report.
    drop(process);
    Ok(())
}

/// Adds the server and the case to an error.
fn explain(case: Case, server: Server) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{case} with {}: {error}", server.name()))
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workload, subscribers } = self;
        write!(f, "{workload:?}, {subscribers} subscribers")
    }
}

/// The interval of the messages of `paced`.
const EVERY: Duration = Duration::from_millis(1);
/// The number of slices of a server's load in a round. With more than [`MANY`] subscribers it is
/// half of that, because more bytes are in flight at the end of each slice.
const SLICES: u32 = 4;
const MANY: usize = 100;
/// Messages that are compared before and after the others are counted.
const COMPARED: u64 = 16;
/// The time without load before the server's memory is measured.
const SETTLE: Duration = Duration::from_millis(200);
const MIB: u64 = 1024 * 1024;
