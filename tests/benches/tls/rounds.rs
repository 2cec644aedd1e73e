//! The plan of a run, and the measurement of each figure.

use std::{io, net::TcpListener};

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    credentials::{self, Credentials},
    load::{Load, handshakes},
    measure::{
        arguments::Basics,
        costs::{Series, measure, one_by_one, side_by_side},
        cpu::{CpuUsage, RETAKES},
        process::{ANY_PORT, Cores},
    },
    server::Server,
    streams::Streams,
};

/// A load on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// An echo of 64 bytes whenever the last 64 are back
    Lockstep,
    /// A full handshake, an echo of one byte, and the end of the connection
    Handshakes,
    /// Silence, after one message
    Idle,
    /// As many bytes as the proxy accepts from its clients
    Upload,
    /// As many bytes as the proxy accepts from its upstream
    Download,
}

/// The plan of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    #[serde(flatten)]
    pub(crate) basics: Basics<Server, Workload>,
    pub(crate) connections: usize,
    pub(crate) streams: usize,
    pub(crate) idle_connections: usize,
}

/// Measures all figures.
pub(crate) fn run(plan: &Plan, cores: Cores) -> io::Result<Vec<Series<Plan>>> {
    let credentials = Credentials::create()?;
    let config = credentials::client(credentials.folder())?;
    let upstream = TcpListener::bind(ANY_PORT)?;
    let mut retakes = RETAKES;
    let echo =
        |server: Server| server.start(credentials.folder(), None, cores, plan.basics.workers);
    let connect = |server: Server| {
        let process = echo(server)?;
        let load = Load::connect(process.address(), config.clone(), plan.connections)?;
        Ok((process, load))
    };
    let relay = |server: Server| {
        let address = upstream.local_addr()?;
        let process =
            server.start(credentials.folder(), Some(address), cores, plan.basics.workers)?;
        let load = Streams::connect(process.address(), &config, &upstream, plan.streams)?;
        Ok((process, load))
    };
    measure(plan, cores, |workload, series| match workload {
        Workload::Lockstep => side_by_side(plan, series, connect, |server, load, window| {
            CpuUsage::on_full_core(server, &mut retakes, || load.lockstep(window))
        }),
        Workload::Handshakes => {
            let start = |server| Ok((echo(server)?, ()));
            side_by_side(plan, series, start, |server, (), window| {
                CpuUsage::on(server, || handshakes(server.address(), &config, window))
            })
        }
        Workload::Idle => one_by_one(series, echo, |server| {
            Load::memory_per_connection(server, config.clone(), plan.idle_connections)
        }),
        Workload::Upload => side_by_side(plan, series, relay, |proxy, load, window| {
            CpuUsage::on(proxy, || load.upload(window))
        }),
        Workload::Download => side_by_side(plan, series, relay, |proxy, load, window| {
            CpuUsage::on(proxy, || load.download(window))
        }),
    })
}
