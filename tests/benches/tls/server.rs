//! The servers that are measured.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    num::NonZeroUsize,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    credentials, hand_written,
    machines::{Echo, Relay},
    measure::{
        arguments::Choice,
        nginx, other_build,
        process::{Cores, Process, become_server},
        runtimes::ProjectServer,
    },
};

/// A server that is measured: it echoes, or relays to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Server {
    /// nginx's stream module, which only relays
    Nginx,
    /// Hand-written on tokio with tokio-rustls, a task per connection
    TokioHand,
    /// The machine on wirestate-tokio
    Tokio,
    /// The machine on wirestate-smol
    Smol,
    /// Hand-written with rustls, a thread per connection, blocking calls; it only echoes
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
    pub(crate) fn is_installed(self) -> bool {
        self != Self::Nginx || nginx::is_installed()
    }

    pub(crate) fn echoes(self) -> bool {
        self != Self::Nginx
    }

    pub(crate) fn relays(self) -> bool {
        self != Self::StdHand
    }

    pub(crate) fn has_thread_per_connection(self) -> bool {
        matches!(self, Self::StdHand | Self::Std | Self::OtherStd)
    }

    /// Starts this program again as this server, and waits until it listens.
    pub(crate) fn start(
        self,
        folder: &Path,
        upstream: Option<SocketAddr>,
        cores: Cores,
        workers: NonZeroUsize,
    ) -> io::Result<Process> {
        let name = self.name();
        let (workers, upstream) =
            (workers.to_string(), upstream.map(|address| address.to_string()));
        let folder = folder.to_str().ok_or(io::ErrorKind::InvalidFilename)?;
        let mut arguments = vec!["--serve", &name, "--workers", &workers, "--credentials", folder];
        if let Some(upstream) = &upstream {
            arguments.extend(["--upstream", upstream]);
        }
        let process = Process::start(&arguments, cores)?;
        // nginx announces its port before it listens.
        let end = Instant::now() + LISTEN_TIMEOUT;
        while let Err(error) = TcpStream::connect(process.address()) {
            if Instant::now() >= end {
                let message = format!("{name} does not listen: {error}");
                return Err(io::Error::new(error.kind(), message));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(process)
    }

    /// Runs this server until it is killed.
    pub(crate) fn serve(
        self,
        folder: &Path,
        upstream: Option<SocketAddr>,
        core: Option<usize>,
        workers: NonZeroUsize,
    ) -> io::Result<()> {
        become_server(core)?;
        let credentials = credentials::server(folder)?;
        match (self, upstream) {
            (Self::Nginx, Some(upstream)) => {
                nginx::exec(upstream, Some(&credentials::nginx(folder)))
            }
            (Self::TokioHand, upstream) => hand_written::tokio(credentials, upstream, workers),
            (Self::Tokio, None) => Echo(credentials).on_tokio(workers),
            (Self::Tokio, Some(upstream)) => Relay { credentials, upstream }.on_tokio(workers),
            (Self::Smol, None) => Echo(credentials).on_smol(workers),
            (Self::Smol, Some(upstream)) => Relay { credentials, upstream }.on_smol(workers),
            (Self::StdHand, None) => hand_written::threads(&credentials),
            (Self::Std, None) => Echo(credentials).on_threads(),
            (Self::Std, Some(upstream)) => Relay { credentials, upstream }.on_threads(),
            (Self::OtherTokio | Self::OtherSmol | Self::OtherStd, _) => other_build::exec(self),
            (Self::Nginx, None) | (Self::StdHand, Some(_)) => {
                Err(io::ErrorKind::Unsupported.into())
            }
        }
    }
}

/// The longest wait until a server listens.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);
