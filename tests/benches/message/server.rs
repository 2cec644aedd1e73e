//! The servers.

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
        runtimes::Ours,
    },
};

/// A server that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Server {
    /// tokio, a task per connection, exact reads, JSON values, a write per reply
    TokioHand,
    /// The machine on wirestate-tokio
    Tokio,
    /// The machine on wirestate-smol
    Smol,
    /// A thread per connection, blocking calls, and else as by hand on tokio
    StdHand,
    /// The machine on wirestate-std
    Std,
    /// The same from another build
    OtherTokio,
    /// The same from another build
    OtherSmol,
    /// The same from another build
    OtherStd,
}

impl Server {
    /// The server that it is compared with, for a server of this project.
    pub(crate) fn by_hand(self) -> &'static [Self] {
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
            Self::OtherTokio | Self::OtherSmol | Self::OtherStd => other_build::become_its(self),
        }
    }
}
