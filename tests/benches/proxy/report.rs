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
    const HEADS: [&'static str; 2] = ["proxy", "ratio to another"];

    fn basics(&self) -> &Basics<Server, Workload> {
        &self.basics
    }

    /// Fewer rounds for memory, which differs little between rounds.
    fn rounds_of(&self, workload: Workload) -> u32 {
        match workload {
            Workload::Lockstep | Workload::Stream | Workload::Streams => self.basics.rounds,
            Workload::Pairs => 1,
        }
    }

    fn title(&self, workload: Workload) -> String {
        let load = match workload {
            Workload::Lockstep => "64 bytes there and back",
            Workload::Stream | Workload::Streams => "as many bytes as the sockets accept, and back",
            Workload::Pairs => "silent after one message",
        };
        let (connections, rounds) = (self.connections_of(workload), self.rounds_of(workload));
        format!("{load}; connections: {connections}, rounds: {rounds}")
    }

    fn unit(workload: Workload) -> Unit {
        match workload {
            Workload::Lockstep => Unit::microseconds("µs of proxy CPU a round trip"),
            Workload::Stream | Workload::Streams => Unit::of_a_kib("ns of proxy CPU a KiB"),
            Workload::Pairs => Unit::bytes("bytes of proxy memory a pair"),
        }
    }

    fn references(&self, workload: Workload, server: Server) -> Vec<(Server, Option<f64>)> {
        let goal = match workload {
            Workload::Lockstep => Some(1.0),
            Workload::Stream | Workload::Streams => Some(0.6),
            Workload::Pairs => None,
        };
        let to_nginx = |goal| (Server::Nginx, goal);
        let mut to = match server {
            Server::Nginx | Server::OtherTokio | Server::OtherSmol | Server::OtherStd => Vec::new(),
            Server::Haproxy | Server::TokioHand | Server::StdHand => vec![to_nginx(None)],
            Server::Tokio => vec![to_nginx(goal), (Server::TokioHand, None)],
            Server::Smol => vec![to_nginx(goal)],
            Server::Std => vec![to_nginx(goal), (Server::StdHand, None)],
        };
        to.extend(server.in_other_build().map(|other| (other, None)));
        to
    }
}
