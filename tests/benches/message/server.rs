//! The servers.

use std::{env, io, num::NonZeroUsize, process::Command};

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    hand_written, machines,
    process::{Cores, Process, become_server},
};

/// What is compared.
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
}

impl Server {
    /// What it is compared with, if it is one of this project's.
    pub(crate) fn by_hand(self) -> &'static [Self] {
        match self {
            Self::Tokio | Self::Smol => &[Self::TokioHand],
            Self::Std => &[Self::TokioHand, Self::StdHand],
            Self::TokioHand | Self::StdHand => &[],
        }
    }

    /// The name on the command line.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value().expect("no server is hidden");
        value.get_name().to_owned()
    }

    /// Starts this program again as that server.
    pub(crate) fn start(self, cores: Cores, workers: NonZeroUsize) -> io::Result<Process> {
        let name = self.name();
        let mut command = Command::new(env::current_exe()?);
        command.args(["--serve", &name, "--workers", &workers.to_string()]);
        Process::start(&name, &mut command, cores)
    }

    /// Is that server until it is killed.
    pub(crate) fn serve(self, core: Option<usize>, workers: NonZeroUsize) -> io::Result<()> {
        become_server(core)?;
        match self {
            Self::TokioHand => hand_written::tokio(workers),
            Self::Tokio => machines::tokio(workers),
            Self::Smol => machines::smol(workers),
            Self::StdHand => hand_written::threads(),
            Self::Std => machines::threads(),
        }
    }
}
