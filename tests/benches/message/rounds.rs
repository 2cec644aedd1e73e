//! What is planned, and how each figure is taken.

use std::io;

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    load::Load,
    measure::{
        arguments::Basics,
        costs::{Series, side_by_side, take},
        process::Cores,
        spent::{RETAKES, Spent},
    },
    server::Server,
};

/// What the server is given to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// A request, sent once the last is answered
    Lockstep,
    /// Several requests, sent once the last ones are answered
    Pipelined,
}

/// What is to be measured.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    #[serde(flatten)]
    pub(crate) basics: Basics<Server, Workload>,
    pub(crate) connections: usize,
    /// Of one connection, when it is pipelined.
    pub(crate) in_flight: usize,
}

impl Plan {
    /// Requests of one connection that are in flight.
    pub(crate) fn in_flight(&self, workload: Workload) -> usize {
        match workload {
            Workload::Lockstep => 1,
            Workload::Pipelined => self.in_flight,
        }
    }
}

/// Takes all figures.
pub(crate) fn run(plan: &Plan, cores: Cores) -> io::Result<Vec<Series<Plan>>> {
    let mut retakes = RETAKES;
    take(plan, cores, |workload, series| {
        let connect = |server: Server| {
            let process = server.start(cores, plan.basics.workers)?;
            let in_flight = plan.in_flight(workload);
            let load = Load::connect(process.address(), plan.connections, in_flight)?;
            Ok((process, load))
        };
        side_by_side(plan, series, connect, |server, load, window| {
            Spent::on_full_core(server, &mut retakes, || load.ask(window))
        })
    })
}
