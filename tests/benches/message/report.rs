//! The texts and goals of the report.

use crate::{
    dialogue::REQUEST,
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

    fn rounds_of(&self, _workload: Workload) -> u32 {
        self.basics.rounds
    }

    fn title(&self, workload: Workload) -> String {
        let Self { basics: Basics { workers, rounds, .. }, connections, .. } = self;
        let in_flight = self.in_flight(workload);
        let flood = match workload {
            Workload::Lockstep | Workload::Pipelined => String::new(),
            Workload::Flood => format!(" beside {} that send without pause", self.flooding),
        };
        format!(
            "{REQUEST} bytes a request, in flight: {in_flight}; {connections} connections{flood}, \
             workers: {workers}, rounds: {rounds}"
        )
    }

    fn unit(workload: Workload) -> Unit {
        match workload {
            Workload::Lockstep | Workload::Pipelined => {
                Unit::microseconds("µs of server CPU a request")
            }
            Workload::Flood => Unit::latency("µs until the reply, median"),
        }
    }

    fn max_ratio_to_alone(workload: Workload, server: Server) -> Option<f64> {
        let is_ours = !server.hand_written().is_empty();
        (workload == Workload::Flood && is_ours).then_some(10.0)
    }

    fn references(&self, workload: Workload, server: Server) -> Vec<(Server, Option<f64>)> {
        if workload == Workload::Flood {
            return Vec::new();
        }
        let goal = |hand_written| match (hand_written, self.in_flight(workload)) {
            (Server::TokioHand, 1) => Some(0.9),
            (Server::TokioHand, 16..) => Some(0.3),
            (_, _) => None,
        };
        let hand_written =
            server.hand_written().iter().map(|&hand_written| (hand_written, goal(hand_written)));
        hand_written.chain(server.in_other_build().map(|other| (other, None))).collect()
    }
}
