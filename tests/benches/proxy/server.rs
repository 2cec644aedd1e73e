//! The proxies, and their upstream.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    num::NonZeroUsize,
    thread,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    floor, hand_written, haproxy,
    machines::Relay,
    measure::{
        arguments::Choice,
        nginx, other_build,
        process::{Cores, Process, become_server, program},
        runtimes::ProjectServer,
    },
};

/// A proxy that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Server {
    /// nginx's stream module
    Nginx,
    /// `HAProxy` in TCP mode
    Haproxy,
    /// Hand-written on tokio
    TokioHand,
    /// Hand-written with threads
    StdHand,
    /// The relay on wirestate-tokio
    Tokio,
    /// The relay on wirestate-smol
    Smol,
    /// The relay on wirestate-std
    Std,
    /// The same as `tokio`, from another build
    OtherTokio,
    /// The same as `smol`, from another build
    OtherSmol,
    /// The same as `std`, from another build
    OtherStd,
}

impl Server {
    /// Whether it is installed.
    pub(crate) fn is_installed(self) -> bool {
        match self {
            Self::Nginx => nginx::is_installed(),
            Self::Haproxy => program("haproxy").is_some(),
            Self::TokioHand
            | Self::StdHand
            | Self::Tokio
            | Self::Smol
            | Self::Std
            | Self::OtherTokio
            | Self::OtherSmol
            | Self::OtherStd => true,
        }
    }

    /// Starts this program again as this proxy to `upstream`, and waits until it listens.
    pub(crate) fn start(
        self,
        upstream: SocketAddr,
        cores: Cores,
        workers: NonZeroUsize,
    ) -> io::Result<Process> {
        let name = self.name();
        let (upstream, workers) = (upstream.to_string(), workers.to_string());
        let arguments = ["--serve", &name, "--workers", &workers, "--upstream", &upstream];
        let process = Process::start(&arguments, cores)?;
        let end = Instant::now() + LISTEN_TIMEOUT;
        while let Err(error) = TcpStream::connect(process.address()) {
            if Instant::now() >= end {
                return Err(io::Error::new(
                    error.kind(),
                    format!("{name} does not listen: {error}"),
                ));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(process)
    }

    /// Runs this proxy until it is killed.
    pub(crate) fn serve(
        self,
        upstream: SocketAddr,
        core: Option<usize>,
        workers: NonZeroUsize,
    ) -> io::Result<()> {
        become_server(core)?;
        match self {
            Self::Nginx => nginx::exec(upstream, None),
            Self::Haproxy => haproxy::exec(upstream),
            Self::TokioHand => hand_written::tokio(upstream, workers),
            Self::StdHand => hand_written::threads(upstream),
            Self::Tokio => Relay(upstream).on_tokio(workers),
            Self::Smol => Relay(upstream).on_smol(workers),
            Self::Std => Relay(upstream).on_threads(),
            Self::OtherTokio | Self::OtherSmol | Self::OtherStd => other_build::exec(self),
        }
    }
}

/// Starts this program again as the upstream. It inherits the core of the load, to which this
/// process is pinned.
pub(crate) fn start_echo(cores: Cores) -> io::Result<Process> {
    Process::start(&["--echo"], cores)
}

/// Runs the upstream until it is killed.
pub(crate) fn echo() -> io::Result<()> {
    become_server(None)?;
    floor::serve()
}

/// The longest wait until a proxy listens.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);
