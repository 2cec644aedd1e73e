//! The servers that are measured.

use std::{io, net::SocketAddr, num::NonZeroUsize};

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    brokers::{self, Broker},
    floor, hand_written,
    machines::FanOut,
    measure::{
        arguments::Choice,
        other_build,
        process::{Cores, Process, become_server},
        runtimes::ProjectServer,
    },
    protocol::Protocol,
};

/// A server that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Server {
    /// One thread, epoll, one ring buffer
    Floor,
    /// Hand-written on tokio, a broadcast channel, a task per subscriber
    TokioHand,
    /// The fan-out machines on wirestate-tokio
    Tokio,
    /// The fan-out machines on wirestate-smol
    Smol,
    /// The fan-out machines on wirestate-std
    Std,
    /// The same as `tokio`, from another build
    OtherTokio,
    /// The same as `smol`, from another build
    OtherSmol,
    /// The same as `std`, from another build
    OtherStd,
    /// nats-server
    Nats,
    /// redis-server, publish and subscribe
    Redis,
}

impl Server {
    /// Whether it is a server of this project, in this build.
    pub(crate) fn is_ours(self) -> bool {
        match self {
            Self::Tokio | Self::Smol | Self::Std => true,
            Self::Floor
            | Self::TokioHand
            | Self::Nats
            | Self::Redis
            | Self::OtherTokio
            | Self::OtherSmol
            | Self::OtherStd => false,
        }
    }

    fn broker(self) -> Option<Broker> {
        match self {
            Self::Nats => Some(Broker::Nats),
            Self::Redis => Some(Broker::Redis),
            Self::Floor
            | Self::TokioHand
            | Self::Tokio
            | Self::Smol
            | Self::Std
            | Self::OtherTokio
            | Self::OtherSmol
            | Self::OtherStd => None,
        }
    }

    /// Whether it is installed.
    pub(crate) fn is_installed(self) -> bool {
        self.broker().is_none_or(|broker| broker.program().is_some())
    }

    /// Its protocol.
    pub(crate) fn protocol(self) -> Protocol {
        self.broker().map_or_else(Protocol::raw, |broker| match broker {
            Broker::Nats => Protocol::nats(),
            Broker::Redis => Protocol::redis(),
        })
    }

    /// The most messages that the load may be ahead of the slowest subscriber. `None` if the server
    /// itself stops reading when that subscriber is a window behind.
    pub(crate) fn max_ahead(self) -> Option<u64> {
        match self {
            Self::Floor
            | Self::Tokio
            | Self::Smol
            | Self::Std
            | Self::OtherTokio
            | Self::OtherSmol
            | Self::OtherStd => None,
            // At about 4 µs a delivery, 1,000 subscribers take a second for 256 messages.
            Self::TokioHand => Some(256),
            Self::Nats | Self::Redis => Some(2048),
        }
    }

    /// Starts this program again as this server, which gets its messages from `upstream`.
    pub(crate) fn start(
        self,
        upstream: SocketAddr,
        cores: Cores,
        workers: NonZeroUsize,
    ) -> io::Result<Process> {
        let (upstream, workers) = (upstream.to_string(), workers.to_string());
        let name = self.name();
        let arguments = ["--serve", &name, "--workers", &workers, "--upstream", &upstream];
        Process::start(&arguments, cores)
    }

    /// Runs this server until it is killed.
    pub(crate) fn serve(
        self,
        upstream: SocketAddr,
        core: Option<usize>,
        workers: NonZeroUsize,
    ) -> io::Result<()> {
        become_server(core)?;
        match self {
            Self::Floor => floor::serve(upstream),
            Self::TokioHand => hand_written::tokio(upstream, workers),
            Self::Tokio => FanOut(upstream).on_tokio(workers),
            Self::Smol => FanOut(upstream).on_smol(workers),
            Self::Std => FanOut(upstream).on_threads(),
            Self::OtherTokio | Self::OtherSmol | Self::OtherStd => other_build::exec(self),
            Self::Nats => brokers::serve(Broker::Nats),
            Self::Redis => brokers::serve(Broker::Redis),
        }
    }
}
