//! The plan of a run, and the measurement of each figure.

use std::io;

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    load::{Load, Pattern},
    measure::{
        arguments::Basics,
        costs::{Series, measure, one_by_one, side_by_side},
        cpu::CpuUsage,
        process::Cores,
    },
    server::{Server, start_echo},
};

/// A load on the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// 64 bytes whenever the last 64 are back
    Lockstep,
    /// As many bytes as the sockets accept, on one connection
    Stream,
    /// As many bytes as the sockets accept, on many connections
    Streams,
    /// Many connections, silent after one message
    Pairs,
}

/// The plan of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    #[serde(flatten)]
    pub(crate) basics: Basics<Server, Workload>,
    pub(crate) connections: usize,
    pub(crate) pairs: usize,
}

impl Plan {
    pub(crate) fn connections_of(&self, workload: Workload) -> usize {
        match workload {
            Workload::Lockstep | Workload::Streams => self.connections,
            Workload::Stream => 1,
            Workload::Pairs => self.pairs,
        }
    }
}

/// Measures all figures.
pub(crate) fn run(plan: &Plan, cores: Cores) -> io::Result<Vec<Series<Plan>>> {
    let pattern = Pattern::new();
    measure(plan, cores, |workload, series| {
        let echo = start_echo(cores)?;
        let connections = plan.connections_of(workload);
        let start = |server: Server| server.start(echo.address(), cores, plan.basics.workers);
        let connect = |server: Server| {
            let proxy = start(server)?;
            let load = Load::connect(proxy.address(), connections)?;
            Ok((proxy, load))
        };
        match workload {
            Workload::Lockstep => side_by_side(plan, series, connect, |proxy, load, window| {
                CpuUsage::on(proxy, || load.lockstep(window))
            }),
            Workload::Stream | Workload::Streams => {
                side_by_side(plan, series, connect, |proxy, load, window| {
                    load.stream(proxy, window, &pattern)
                })
            }
            Workload::Pairs => {
                one_by_one(series, start, |proxy| Load::memory_per_connection(proxy, connections))
            }
        }
    })
}
