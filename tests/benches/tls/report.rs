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
    const HEADS: [&'static str; 2] = ["server", "ratio to another"];

    fn basics(&self) -> &Basics<Server, Workload> {
        &self.basics
    }

    /// Fewer rounds for memory, which differs little between rounds.
    fn rounds_of(&self, workload: Workload) -> u32 {
        match workload {
            Workload::Lockstep | Workload::Handshakes | Workload::Upload | Workload::Download => {
                self.basics.rounds
            }
            Workload::Idle => self.basics.rounds.min(3),
        }
    }

    fn measures(workload: Workload, server: Server) -> bool {
        match workload {
            Workload::Lockstep | Workload::Idle => server.echoes(),
            Workload::Handshakes => server.echoes() && !server.has_thread_per_connection(),
            Workload::Upload | Workload::Download => server.relays(),
        }
    }

    fn title(&self, workload: Workload) -> String {
        let (load, connections) = match workload {
            Workload::Lockstep => ("64 bytes there and back", self.connections),
            Workload::Handshakes => ("handshake, one byte there and back, end", 1),
            Workload::Idle => ("silent after one message", self.idle_connections),
            Workload::Upload => ("as many bytes as the proxy decrypts", self.streams),
            Workload::Download => ("as many bytes as the proxy encrypts", self.streams),
        };
        let (workers, rounds) = (self.basics.workers, self.rounds_of(workload));
        format!("{load}; connections: {connections}, workers: {workers}, rounds: {rounds}")
    }

    fn unit(workload: Workload) -> Unit {
        match workload {
            Workload::Lockstep => Unit::microseconds("µs of server CPU a request"),
            Workload::Handshakes => Unit::microseconds("µs of server CPU a connection"),
            Workload::Idle => Unit::bytes("bytes of server memory a connection"),
            Workload::Upload | Workload::Download => Unit::of_a_kib("ns of proxy CPU a KiB"),
        }
    }

    fn max_cost(workload: Workload, server: Server) -> Option<f64> {
        match (workload, server) {
            (Workload::Idle, Server::Tokio | Server::Smol) => Some(12.0 * 1024.0),
            (
                Workload::Lockstep
                | Workload::Handshakes
                | Workload::Idle
                | Workload::Upload
                | Workload::Download,
                _,
            ) => None,
        }
    }

    fn references(&self, workload: Workload, server: Server) -> Vec<(Server, Option<f64>)> {
        let goal = match workload {
            Workload::Lockstep => Some(1.05),
            Workload::Handshakes | Workload::Upload | Workload::Download => Some(1.1),
            Workload::Idle => None,
        };
        let to_hand = |goal| (Server::TokioHand, goal);
        let is_proxy = matches!(workload, Workload::Upload | Workload::Download);
        let mut to = match server {
            Server::Nginx
            | Server::StdHand
            | Server::OtherTokio
            | Server::OtherSmol
            | Server::OtherStd => Vec::new(),
            Server::TokioHand => vec![(Server::Nginx, None)],
            Server::Tokio if is_proxy => vec![(Server::Nginx, goal), to_hand(None)],
            Server::Tokio => vec![to_hand(goal)],
            Server::Smol => vec![(Server::Nginx, None), to_hand(None)],
            Server::Std => vec![(Server::Nginx, None), (Server::StdHand, None)],
        };
        to.extend(server.in_other_build().map(|other| (other, None)));
        to
    }
}
