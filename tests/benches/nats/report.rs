//! The plan of a run, and the texts and goals of the report.

use std::num::NonZeroUsize;

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    measure::{
        arguments::Basics,
        costs::{Costs, Unit},
    },
    server::{Role, Server},
};

/// A load on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// Messages as fast as the subscribers get them
    Saturated,
    /// 1,000 messages a second
    Paced,
    /// Messages into a stream, as fast as the ingest reads them
    Ingest,
}

/// The plan of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    #[serde(flatten)]
    pub(crate) basics: Basics<Server, Workload>,
    pub(crate) saturated_subscribers: usize,
    pub(crate) paced_subscribers: usize,
    /// Each subscriber's receive buffer in bytes.
    pub(crate) receive_buffer: NonZeroUsize,
}

impl Plan {
    /// How many subscribers a server has.
    pub(crate) fn subscribers(&self, workload: Workload) -> usize {
        match workload {
            Workload::Saturated => self.saturated_subscribers,
            Workload::Paced => self.paced_subscribers,
            Workload::Ingest => 0,
        }
    }
}

impl Costs for Plan {
    type Server = Server;
    type Workload = Workload;
    const HEADS: [&'static str; 2] = ["server", "ratio to the raw source"];

    fn basics(&self) -> &Basics<Server, Workload> {
        &self.basics
    }

    fn rounds_of(&self, _workload: Workload) -> u32 {
        self.basics.rounds
    }

    fn measures(workload: Workload, server: Server) -> bool {
        match server.role() {
            Role::Raw | Role::Edge => workload != Workload::Ingest,
            Role::Ingest => workload == Workload::Ingest,
            Role::Broker => false,
        }
    }

    fn title(&self, workload: Workload) -> String {
        let Basics { workers, rounds, .. } = self.basics;
        let load = match workload {
            Workload::Saturated => "1 KiB as fast as the subscribers get it",
            Workload::Paced => "1,000 messages of 1 KiB a second",
            Workload::Ingest => "messages of 1 KiB into a stream in memory",
        };
        let subscribers = self.subscribers(workload);
        format!("{load}; subscribers: {subscribers}, workers: {workers}, rounds: {rounds}")
    }

    fn unit(workload: Workload) -> Unit {
        Unit::microseconds(match workload {
            Workload::Saturated | Workload::Paced => "µs of the server's CPU a delivery",
            Workload::Ingest => "µs of the ingest's CPU a message",
        })
    }

    fn max_cost(workload: Workload, server: Server) -> Option<f64> {
        // 200,000 messages a second.
        (workload == Workload::Ingest && server == Server::IngestTokio).then_some(5.0)
    }

    fn references(&self, _workload: Workload, server: Server) -> Vec<(Server, Option<f64>)> {
        server.raw().map(|raw| (raw, Some(1.05))).into_iter().collect()
    }
}
