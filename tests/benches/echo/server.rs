//! The servers that are measured.

use std::{io, num::NonZeroUsize};

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    floor, hand_written,
    machines::{Echo, RecordedEcho},
    measure::{
        arguments::Choice,
        other_build,
        process::{Cores, Process, become_server},
        runtimes::ProjectServer,
    },
};

/// A server that is measured. Each hand-written server precedes the machine on its runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Server {
    /// One thread, epoll, one buffer
    Floor,
    /// Hand-written on tokio, a task per connection
    TokioHand,
    /// The echo machine on wirestate-tokio
    Tokio,
    /// The same, with a recording of each connection
    TokioRecorded,
    /// Hand-written on smol, a task per connection
    SmolHand,
    /// The echo machine on wirestate-smol
    Smol,
    /// Hand-written, a thread per connection, blocking calls
    StdHand,
    /// The echo machine on wirestate-std
    Std,
    /// The same as `tokio`, from another build
    OtherTokio,
    /// The same as `smol`, from another build
    OtherSmol,
    /// The same as `std`, from another build
    OtherStd,
}

impl Server {
    /// The hand-written server on the same runtime, for a server of this project. For one that
    /// records, the same without recordings.
    pub(crate) fn hand_written(self) -> Option<Self> {
        match self {
            Self::Tokio => Some(Self::TokioHand),
            Self::TokioRecorded => Some(Self::Tokio),
            Self::Smol => Some(Self::SmolHand),
            Self::Std => Some(Self::StdHand),
            Self::Floor
            | Self::TokioHand
            | Self::SmolHand
            | Self::StdHand
            | Self::OtherTokio
            | Self::OtherSmol
            | Self::OtherStd => None,
        }
    }

    /// Starts this program again as this server.
    pub(crate) fn start(self, cores: Cores, workers: NonZeroUsize) -> io::Result<Process> {
        let workers = workers.to_string();
        Process::start(&["--serve", &self.name(), "--workers", &workers], cores)
    }

    /// Runs this server until it is killed.
    pub(crate) fn serve(self, core: Option<usize>, workers: NonZeroUsize) -> io::Result<()> {
        become_server(core)?;
        match self {
            Self::Floor => floor::serve(),
            Self::TokioHand => hand_written::tokio(workers),
            Self::SmolHand => hand_written::smol(workers),
            Self::StdHand => hand_written::threads(),
            Self::Tokio => Echo.on_tokio(workers),
            Self::TokioRecorded => RecordedEcho.on_tokio(workers),
            Self::Smol => Echo.on_smol(workers),
            Self::Std => Echo.on_threads(),
            Self::OtherTokio | Self::OtherSmol | Self::OtherStd => other_build::exec(self),
        }
    }
}
