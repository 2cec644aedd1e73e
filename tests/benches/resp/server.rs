//! The servers that are measured.

use std::{
    io,
    num::NonZeroUsize,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use clap::ValueEnum;
use serde::Serialize;
use wirestate_core::{protocol::Config, runtime::Runtime, serve};

use crate::{
    measure::{
        arguments::Choice,
        other_build,
        process::{Cores, Process, announce_a_free_port, become_server, program},
        runtimes::ProjectServer,
    },
    resp::database,
};

/// A server that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Server {
    /// redis-server
    Redis,
    /// The machine on wirestate-tokio
    Tokio,
    /// The machine on wirestate-smol
    Smol,
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
    pub(crate) fn is_installed(self) -> bool {
        self != Self::Redis || program("redis-server").is_some()
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
            Self::Redis => redis(),
            Self::Tokio => Resp.on_tokio(workers),
            Self::Smol => Resp.on_smol(workers),
            Self::Std => Resp.on_threads(),
            Self::OtherTokio | Self::OtherSmol | Self::OtherStd => other_build::exec(self),
        }
    }
}

/// The example's server.
struct Resp;

impl ProjectServer for Resp {
    async fn serve<R: Runtime>(self, runtime: R, listener: R::Listener) -> io::Result<()> {
        let connect = database(Config::default()).map_err(io::Error::other)?;
        serve::Server::new(runtime, listener)
            .serve(move |entry, now| connect(entry.id(), now))
            .await;
        Ok(())
    }
}

/// Replaces this process by `redis-server`. The process keeps its core and its parent-death signal.
fn redis() -> io::Result<()> {
    let program = program("redis-server").ok_or(io::ErrorKind::NotFound)?;
    let address = announce_a_free_port()?;
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.args(["--bind", &address.ip().to_string(), "--port", &address.port().to_string()]);
    command.args(["--save", "", "--appendonly", "no", "--io-threads", "1"]);
    Err(command.exec())
}
