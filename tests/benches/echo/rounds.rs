//! The plan of a run, and the measurement of each figure.

use std::io;

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    load::{Load, Pattern},
    measure::{
        arguments::Basics,
        costs::{Series, measure, one_by_one, side_by_side},
        cpu::{CpuUsage, RETAKES},
        process::Cores,
    },
    server::Server,
};

/// A load on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// 64 bytes whenever the last 64 are back
    Lockstep,
    /// As many bytes as the sockets accept
    Streaming,
    /// Silence, after one message
    Idle,
}

/// The plan of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    #[serde(flatten)]
    pub(crate) basics: Basics<Server, Workload>,
    pub(crate) connections: usize,
    pub(crate) idle_connections: usize,
}

/// Measures all figures.
pub(crate) fn run(plan: &Plan, cores: Cores) -> io::Result<Vec<Series<Plan>>> {
    let pattern = Pattern::new();
    let mut retakes = RETAKES;
    let start = |server: Server| server.start(cores, plan.basics.workers);
    let connect = |server: Server| {
        let process = start(server)?;
        let load = Load::connect(process.address(), plan.connections)?;
        Ok((process, load))
    };
    measure(plan, cores, |workload, series| match workload {
        Workload::Lockstep => side_by_side(plan, series, connect, |server, load, window| {
            CpuUsage::on_full_core(server, &mut retakes, || load.lockstep(window))
        }),
        Workload::Streaming => side_by_side(plan, series, connect, |server, load, window| {
            load.stream(server, window, &pattern)
        }),
        Workload::Idle => one_by_one(series, start, |server| {
            Load::memory_per_connection(server, plan.idle_connections)
        }),
    })
}
