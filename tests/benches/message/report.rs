//! What the report says of the figures, and the goals.

use crate::{
    dialogue::REQUEST,
    measure::{
        arguments::Basics,
        costs::{Costs, Unit},
    },
    rounds::{Plan, Workload},
    server::Server,
};

impl Costs for Plan {
    type Server = Server;
    type Workload = Workload;
    const HEADS: [&'static str; 2] = ["server", "ours to by hand"];

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
            "{REQUEST} bytes a request, in flight: {in_flight}; {connections} connections, \
             workers: {workers}, rounds: {rounds}"
        )
    }

    fn unit(_workload: Workload) -> Unit {
        Unit::microseconds("µs of server CPU a request")
    }

    fn yardsticks(&self, workload: Workload, server: Server) -> Vec<(Server, Option<f64>)> {
        let goal = |by_hand| match (by_hand, self.in_flight(workload)) {
            (Server::TokioHand, 1) => Some(0.9),
            (Server::TokioHand, 16..) => Some(0.3),
            (_, _) => None,
        };
        let by_hand = server.by_hand().iter().map(|&by_hand| (by_hand, goal(by_hand)));
        by_hand.chain(server.in_other_build().map(|other| (other, None))).collect()
    }
}
