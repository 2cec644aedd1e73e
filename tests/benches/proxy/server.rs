//! The proxies, and what is behind them.

use std::{
    env, io,
    net::{SocketAddr, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    floor, machines, others,
    process::{Cores, Process, become_server},
};

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Server {
    /// nginx's stream module
    Nginx,
    /// `HAProxy` in TCP mode
    Haproxy,
    /// The relay on wirestate-tokio
    Tokio,
    /// The relay on wirestate-smol
    Smol,
    /// The relay on wirestate-std
    Std,
}

impl Server {
    /// Whether it is one of this project's.
    pub(crate) fn is_ours(self) -> bool {
        match self {
            Self::Tokio | Self::Smol | Self::Std => true,
            Self::Nginx | Self::Haproxy => false,
        }
    }

    /// Whether it is on this machine.
    pub(crate) fn is_installed(self) -> bool {
        match self {
            Self::Nginx => others::program("nginx").is_some() && others::stream_module().is_some(),
            Self::Haproxy => others::program("haproxy").is_some(),
            Self::Tokio | Self::Smol | Self::Std => true,
        }
    }

    /// The name on the command line.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value().expect("no server is hidden");
        value.get_name().to_owned()
    }

    /// Starts this program again as that proxy to `upstream`, and waits until it listens.
    pub(crate) fn start(self, upstream: SocketAddr, cores: Cores) -> io::Result<Process> {
        let name = self.name();
        let mut command = Command::new(env::current_exe()?);
        command.args(["--serve", &name, "--upstream", &upstream.to_string()]);
        let process = Process::start(&name, &mut command, cores)?;
        let end = Instant::now() + PATIENCE;
        while let Err(error) = TcpStream::connect(process.address()) {
            if Instant::now() >= end {
                return Err(io::Error::new(error.kind(), format!("{name} does not listen")));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(process)
    }

    /// Is that proxy until it is killed.
    pub(crate) fn serve(self, upstream: SocketAddr, core: Option<usize>) -> io::Result<()> {
        become_server(core)?;
        match self {
            Self::Nginx => others::nginx(upstream),
            Self::Haproxy => others::haproxy(upstream),
            Self::Tokio => machines::tokio(upstream),
            Self::Smol => machines::smol(upstream),
            Self::Std => machines::threads(upstream),
        }
    }
}

/// Starts this program again as the upstream, which stays on the load's core: it has that from the
/// process that starts it, which has pinned itself.
pub(crate) fn start_echo(cores: Cores) -> io::Result<Process> {
    Process::start("echo", Command::new(env::current_exe()?).arg("--echo"), cores)
}

/// Is the upstream until it is killed.
pub(crate) fn echo() -> io::Result<()> {
    become_server(None)?;
    floor::serve()
}

/// How long a proxy may take until it listens.
const PATIENCE: Duration = Duration::from_secs(5);
