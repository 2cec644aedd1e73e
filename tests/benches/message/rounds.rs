//! The plan of a run, and the measurement of each figure.

use std::io;

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    flood::Flood,
    load::Load,
    measure::{
        arguments::Basics,
        costs::{Series, measure, medians, side_by_side},
        cpu::{CpuUsage, RETAKES},
        process::Cores,
    },
    server::Server,
};

/// A load on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// A request whenever the last one is answered
    Lockstep,
    /// Several requests whenever the last ones are answered
    Pipelined,
    /// A request whenever the last one is answered, beside connections that send without pause
    Flood,
}

/// The plan of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    #[serde(flatten)]
    pub(crate) basics: Basics<Server, Workload>,
    pub(crate) connections: usize,
    /// Requests in flight on a connection in `pipelined`.
    pub(crate) in_flight: usize,
    /// Connections that send without pause, in the flood.
    pub(crate) flooding: usize,
}

impl Plan {
    /// Requests in flight on a connection.
    pub(crate) fn in_flight(&self, workload: Workload) -> usize {
        match workload {
            Workload::Lockstep | Workload::Flood => 1,
            Workload::Pipelined => self.in_flight,
        }
    }
}

/// Measures all figures.
pub(crate) fn run(plan: &Plan, cores: Cores) -> io::Result<Vec<Series<Plan>>> {
    let mut retakes = RETAKES;
    measure(plan, cores, |workload, series| {
        let connect = |server: Server| {
            let process = server.start(cores, plan.basics.workers)?;
            let in_flight = plan.in_flight(workload);
            let load = Load::connect(process.address(), plan.connections, in_flight)?;
            Ok((process, load))
        };
        if workload == Workload::Flood {
            let connect = |server| {
                let (process, load) = connect(server)?;
                let flood = Flood::connect(process.address(), plan.flooding)?;
                Ok((process, (load, flood)))
            };
            medians(plan, series, connect, |server, (load, flood), window, latencies| {
                load.request(window, None, &mut |latency| latencies.alone.push(latency))?;
                CpuUsage::on(server, || {
                    load.request(window, Some(flood), &mut |latency| {
                        latencies.with_second_load.push(latency);
                    })
                })
            })
        } else {
            side_by_side(plan, series, connect, |server, load, window| {
                CpuUsage::on_full_core(server, &mut retakes, || {
                    load.request(window, None, &mut |_| ())
                })
            })
        }
    })
}
