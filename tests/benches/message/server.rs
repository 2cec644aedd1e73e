//! The servers that are measured.

use std::{io, num::NonZeroUsize};

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    hand_written,
    machines::App,
    measure::{
        arguments::Choice,
        other_build,
        process::{Cores, Process, become_server},
        runtimes::ProjectServer,
    },
};

/// A server that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Server {
    /// Hand-written on tokio, a task per connection, exact reads, JSON values, a write per reply
    TokioHand,
    /// The machine on wirestate-tokio
    Tokio,
    /// The machine on wirestate-smol
    Smol,
    /// Hand-written, a thread per connection, blocking calls, otherwise like `tokio-hand`
    StdHand,
    /// The machine on wirestate-std
    Std,
    /// The same as `tokio`, from another build
    OtherTokio,
    /// The same as `smol`, from another build
    OtherSmol,
    /// The same as `std`, from another build
    OtherStd,
}

impl Server {
    /// The hand-written servers that a server of this project is compared with.
    pub(crate) fn hand_written(self) -> &'static [Self] {
        match self {
            Self::Tokio | Self::Smol => &[Self::TokioHand],
            Self::Std => &[Self::TokioHand, Self::StdHand],
            Self::TokioHand
            | Self::StdHand
            | Self::OtherTokio
            | Self::OtherSmol
            | Self::OtherStd => &[],
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
            Self::TokioHand => hand_written::tokio(workers),
            Self::Tokio => App.on_tokio(workers),
            Self::Smol => App.on_smol(workers),
            Self::StdHand => hand_written::threads(),
            Self::Std => App.on_threads(),
            Self::OtherTokio | Self::OtherSmol | Self::OtherStd => other_build::exec(self),
        }
    }
}
