//! The texts and goals of the report.

use crate::{
    measure::{
        arguments::{Basics, Choice},
        costs::{Costs, Unit},
    },
    rounds::{Plan, Workload},
    server::Server,
};

impl Costs for Plan {
    type Server = Server;
    type Workload = Workload;
    const HEADS: [&'static str; 2] = ["server", "ratio to hand-written"];

    fn basics(&self) -> &Basics<Server, Workload> {
        &self.basics
    }

    /// Fewer rounds for memory, which differs little between rounds.
    fn rounds_of(&self, workload: Workload) -> u32 {
        match workload {
            Workload::Lockstep | Workload::Streaming => self.basics.rounds,
            Workload::Idle => self.basics.rounds.min(3),
        }
    }

    fn title(&self, workload: Workload) -> String {
        let (load, connections) = match workload {
            Workload::Lockstep => ("64 bytes there and back", self.connections),
            Workload::Streaming => ("as many bytes as the sockets accept", self.connections),
            Workload::Idle => ("silent after one message", self.idle_connections),
        };
        let (workers, rounds) = (self.basics.workers, self.rounds_of(workload));
        format!("{load}; {connections} connections, workers: {workers}, rounds: {rounds}")
    }

    fn unit(workload: Workload) -> Unit {
        match workload {
            Workload::Lockstep => Unit::microseconds("µs of server CPU a request"),
            Workload::Streaming => Unit::of_a_kib("ns of server CPU a KiB"),
            Workload::Idle => Unit::bytes("bytes of server memory a connection"),
        }
    }

    fn max_cost(workload: Workload, server: Server) -> Option<f64> {
        match (workload, server) {
            (Workload::Idle, Server::Tokio | Server::Smol) => Some(1.2 * 1024.0),
            (Workload::Lockstep | Workload::Streaming | Workload::Idle, _) => None,
        }
    }

    fn references(&self, workload: Workload, server: Server) -> Vec<(Server, Option<f64>)> {
        let goal = match (workload, server) {
            (Workload::Lockstep, Server::Std) => Some(1.2),
            (Workload::Lockstep, Server::TokioRecorded) => Some(1.1),
            (Workload::Lockstep, _) => Some(1.05),
            (Workload::Streaming, _) => Some(1.0),
            (Workload::Idle, _) => None,
        };
        let hand_written = server.hand_written().map(|hand_written| (hand_written, goal));
        hand_written.into_iter().chain(server.in_other_build().map(|other| (other, None))).collect()
    }
}
