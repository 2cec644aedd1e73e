//! The command line of the three binaries: one set of commands, flags, output and exit codes.
//!
//! Each command is written once, over [`Runtime`]. Standard output is for data, standard error for
//! logs and prompts. Exit codes: 0 done, 1 failed at run time (one line says how, with the
//! address), 2 wrong usage.

mod accept_proxy;
mod demo;
mod echo;
mod fanout;
mod log;
mod multiconn;
mod proxy;
mod server;
mod standard_input;
mod upstream;
mod values;

use std::{ffi::OsString, io, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};

use crate::runtime::Runtime;

/// A binary's `main`: reads the command line, and has `host` run the command on a runtime.
///
/// Wrong usage ends the process here, with exit code 2 and the right usage.
pub fn main(name: &'static str, host: impl FnOnce(Command) -> io::Result<ExitCode>) -> ExitCode {
    let command = Command::parse(name, std::env::args_os()).unwrap_or_else(|error| error.exit());
    host(command).unwrap_or_else(|error| {
        log::say(&format!("{name}: {error}\n"));
        ExitCode::FAILURE
    })
}

/// A command with its flags.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true, arg_required_else_help = true)]
pub struct Command {
    #[command(flatten)]
    log: log::Flags,
    #[command(subcommand)]
    name: Name,
}

#[derive(Debug, Subcommand)]
enum Name {
    EchoServer(echo::ServerFlags),
    EchoClient(echo::ClientFlags),
    MulticonnClient(multiconn::Flags),
    FanoutSource(fanout::SourceFlags),
    FanoutServer(fanout::ServerFlags),
    FanoutClient(fanout::ClientFlags),
    Proxy(proxy::ServerFlags),
    /// Runs all of it in one process for some seconds, verified, and reports
    Demo,
}

impl Name {
    fn is_server(&self) -> bool {
        match self {
            Self::EchoServer(_)
            | Self::FanoutSource(_)
            | Self::FanoutServer(_)
            | Self::Proxy(_) => true,
            Self::EchoClient(_) | Self::MulticonnClient(_) | Self::FanoutClient(_) | Self::Demo => {
                false
            }
        }
    }

    /// What does not go together.
    fn check(&self) -> Result<(), String> {
        match self {
            Self::FanoutServer(flags) => flags.check(),
            Self::Proxy(flags) => flags.check(),
            Self::EchoServer(_)
            | Self::EchoClient(_)
            | Self::MulticonnClient(_)
            | Self::FanoutSource(_)
            | Self::FanoutClient(_)
            | Self::Demo => Ok(()),
        }
    }
}

impl Command {
    /// Reads a command line whose first word is the program's name.
    ///
    /// # Errors
    /// Wrong usage, or a call for help: clap's error says all.
    pub fn parse(
        name: &'static str,
        words: impl IntoIterator<Item = OsString>,
    ) -> Result<Self, clap::Error> {
        let matches = Self::command().name(name).bin_name(name).try_get_matches_from(words)?;
        let command = Self::from_arg_matches(&matches)?;
        command.name.check().map_err(|conflict| {
            let mut command = Self::command().name(name).bin_name(name);
            command.error(ErrorKind::ValueValidation, conflict)
        })?;
        Ok(command)
    }

    /// Runs it to its end.
    pub async fn run<R: Runtime>(self, runtime: R) -> ExitCode {
        log::start(&self.log, self.name.is_server());
        let result = match self.name {
            Name::EchoServer(flags) => echo::serve(&runtime, flags, &self.log).await,
            Name::EchoClient(flags) => echo::converse(&runtime, flags).await,
            Name::MulticonnClient(flags) => multiconn::run(&runtime, flags).await,
            Name::FanoutSource(flags) => fanout::source(&runtime, flags, &self.log).await,
            Name::FanoutServer(flags) => fanout::serve(&runtime, flags, &self.log).await,
            Name::FanoutClient(flags) => fanout::subscribe(&runtime, flags, &self.log).await,
            Name::Proxy(flags) => proxy::serve(&runtime, flags, &self.log).await,
            Name::Demo => demo::run(&runtime).await,
        };
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                // Whoever read our output has had enough of it.
                ExitCode::SUCCESS
            }
            Err(failure) => {
                tracing::error!("{failure}");
                ExitCode::FAILURE
            }
        }
    }
}

/// Why a command failed at run time: one line.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot listen on {address}: {error}")]
    Listen { address: String, error: io::Error },
    #[error("cannot connect to {address}: {error}")]
    Connect { address: String, error: io::Error },
    #[error("{address}: {reason}")]
    Ended { address: String, reason: String },
    #[error("cannot read standard input: {0}")]
    Input(io::Error),
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    #[error("cannot handle signals: {0}")]
    Signals(io::Error),
    #[error("cannot start a connection: {0}")]
    Spawn(io::Error),
    #[error("{wanted} connections need {files} open files, and the limit is {limit} (ulimit -n)")]
    OpenFiles { wanted: usize, files: u64, limit: u64 },
    #[error("{address}: {failed} of {connections} connections failed: {first}")]
    Incomplete { address: String, failed: u64, connections: usize, first: String },
}
