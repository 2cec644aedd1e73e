//! The servers that are measured, and those that stand between them and the load.

use std::{io, net::SocketAddr, num::NonZeroUsize};

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    broker,
    machines::{FromStream, RawSource, ToStream},
    measure::{
        arguments::Choice,
        process::{Cores, Process, become_server},
        runtimes::ProjectServer,
    },
};

/// A server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Server {
    /// The fan-out of a raw source on wirestate-tokio
    RawTokio,
    /// The fan-out of a raw source on wirestate-smol
    RawSmol,
    /// The fan-out of a raw source on wirestate-std
    RawStd,
    /// The fan-out of a stream on wirestate-tokio
    EdgeTokio,
    /// The fan-out of a stream on wirestate-smol
    EdgeSmol,
    /// The fan-out of a stream on wirestate-std
    EdgeStd,
    /// The publisher of a raw source on wirestate-tokio
    IngestTokio,
    /// The publisher of a raw source on wirestate-smol
    IngestSmol,
    /// The publisher of a raw source on wirestate-std
    IngestStd,
    /// nats-server, which is not measured
    Broker,
}

/// What a server does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Raw,
    Edge,
    Ingest,
    Broker,
}

/// Where a server connects to.
#[derive(Clone, Copy)]
pub(crate) struct Addresses {
    /// Of the load's listener.
    pub(crate) source: Option<SocketAddr>,
    pub(crate) broker: Option<SocketAddr>,
}

impl Server {
    pub(crate) fn role(self) -> Role {
        match self {
            Self::RawTokio | Self::RawSmol | Self::RawStd => Role::Raw,
            Self::EdgeTokio | Self::EdgeSmol | Self::EdgeStd => Role::Edge,
            Self::IngestTokio | Self::IngestSmol | Self::IngestStd => Role::Ingest,
            Self::Broker => Role::Broker,
        }
    }

    /// For an edge: the fan-out of a raw source on the same runtime.
    pub(crate) fn raw(self) -> Option<Self> {
        match self {
            Self::EdgeTokio => Some(Self::RawTokio),
            Self::EdgeSmol => Some(Self::RawSmol),
            Self::EdgeStd => Some(Self::RawStd),
            Self::RawTokio
            | Self::RawSmol
            | Self::RawStd
            | Self::IngestTokio
            | Self::IngestSmol
            | Self::IngestStd
            | Self::Broker => None,
        }
    }

    /// Starts this program again as this server.
    pub(crate) fn start(
        self,
        addresses: Addresses,
        cores: Cores,
        workers: NonZeroUsize,
    ) -> io::Result<Process> {
        let (name, workers) = (self.name(), workers.to_string());
        let source = addresses.source.map(|address| format!("--source={address}"));
        let broker = addresses.broker.map(|address| format!("--broker={address}"));
        let mut arguments = vec!["--serve", &name, "--workers", &workers];
        arguments.extend(source.as_deref());
        arguments.extend(broker.as_deref());
        Process::start(&arguments, cores)
    }

    /// Runs this server until it is killed.
    pub(crate) fn serve(
        self,
        addresses: Addresses,
        core: Option<usize>,
        workers: NonZeroUsize,
    ) -> io::Result<()> {
        become_server(core)?;
        let missing = || io::Error::new(io::ErrorKind::InvalidInput, "an address is missing");
        let source = || addresses.source.ok_or_else(missing);
        let broker = || addresses.broker.ok_or_else(missing);
        let to_stream = || io::Result::Ok(ToStream { source: source()?, broker: broker()? });
        match self {
            Self::RawTokio => RawSource(source()?).on_tokio(workers),
            Self::RawSmol => RawSource(source()?).on_smol(workers),
            Self::RawStd => RawSource(source()?).on_threads(),
            Self::EdgeTokio => FromStream(broker()?).on_tokio(workers),
            Self::EdgeSmol => FromStream(broker()?).on_smol(workers),
            Self::EdgeStd => FromStream(broker()?).on_threads(),
            Self::IngestTokio => to_stream()?.on_tokio(workers),
            Self::IngestSmol => to_stream()?.on_smol(workers),
            Self::IngestStd => to_stream()?.on_threads(),
            Self::Broker => broker::serve(),
        }
    }
}
