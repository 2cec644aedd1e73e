//! The plan of a run, and the texts and goals of the report.

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    measure::{
        arguments::{Basics, Choice},
        costs::{Costs, Unit},
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
}

/// The plan of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    #[serde(flatten)]
    pub(crate) basics: Basics<Server, Workload>,
    pub(crate) connections: usize,
    /// Requests in flight on a connection in `pipelined`.
    pub(crate) in_flight: usize,
}

impl Plan {
    /// Requests in flight on a connection.
    pub(crate) fn in_flight(&self, workload: Workload) -> usize {
        match workload {
            Workload::Lockstep => 1,
            Workload::Pipelined => self.in_flight,
        }
    }
}

impl Costs for Plan {
    type Server = Server;
    type Workload = Workload;
    const HEADS: [&'static str; 2] = ["server", "ratio to redis-server"];

    fn basics(&self) -> &Basics<Server, Workload> {
        &self.basics
    }

    fn rounds_of(&self, _workload: Workload) -> u32 {
        self.basics.rounds
    }

    fn title(&self, workload: Workload) -> String {
        let Self { basics: Basics { workers, rounds, .. }, connections, .. } = self;
        let in_flight = self.in_flight(workload);
        format!(
            "GET and SET of 64 bytes, in flight: {in_flight}; {connections} connections, \
             workers: {workers}, rounds: {rounds}"
        )
    }

    fn unit(_workload: Workload) -> Unit {
        Unit::microseconds("µs of server CPU a request")
    }

    fn references(&self, workload: Workload, server: Server) -> Vec<(Server, Option<f64>)> {
        let goal = match (server, self.in_flight(workload)) {
            (Server::Redis, _) => return Vec::new(),
            (Server::Tokio, 16..) => Some(0.95),
            (_, _) => None,
        };
        let other = server.in_other_build().map(|other| (other, None));
        std::iter::once((Server::Redis, goal)).chain(other).collect()
    }
}
