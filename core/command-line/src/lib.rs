//! The command line of the three binaries: one set of commands, flags, output and exit codes.
//!
//! Each command is written once, over [`Host`], which a runtime implements; its binary calls
//! [`main`]. A program that embeds the machines does not need this crate.
//!
//! Standard output is for data, standard error for logs and prompts. Exit codes: 0 done, 1 failed
//! at run time (one line says how, with the address), 2 wrong usage.
//!
//! | module | what |
//! |---|---|
//! | [`load`] | the load generator, for `multiconn-client` and the demo |
//! | [`search`] | the service of `app-server`: a search in a table |

#![forbid(unsafe_code)]

mod accept_proxy;
mod app;
mod completions;
mod demo;
mod echo;
mod fanout;
pub mod load;
mod log;
mod multiconn;
mod proxy;
pub mod search;
mod server;
mod standard_error;
mod standard_input;
mod systemd;
mod upstream;
mod values;

use std::{
    error::Error,
    ffi::{OsStr, OsString},
    io::{self, IsTerminal, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    process::ExitCode,
};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};
use wirestate_core::{
    ConfigError,
    drive::Splice,
    runtime::{Address, Runtime},
};

/// A runtime as the command line needs it, which starts the process.
pub trait Host: Runtime<Socket: Splice> {
    /// How many open files a connection takes.
    const FILES_PER_CONNECTION: usize = 1;

    /// Takes over a socket that listens already, as systemd passes it (`sd_listen_fds(3)`).
    ///
    /// # Errors
    /// It is no stream socket that listens.
    fn listen_inherited(&self, socket: OwnedFd) -> io::Result<Self::Listener>;

    /// Takes over a stream that is connected already (socketpair(2)).
    ///
    /// # Errors
    /// The runtime does not take it.
    fn adopt(&self, stream: UnixStream) -> io::Result<Self::Socket>;
}

/// A binary's `main`: reads the command line, and has `host` run the command on a runtime.
///
/// Wrong usage ends the process here, with exit code 2 and the right usage.
pub fn main(name: &'static str, host: impl FnOnce(Command) -> io::Result<ExitCode>) -> ExitCode {
    let mut command =
        Command::parse(name, std::env::args_os()).unwrap_or_else(|error| error.exit());
    command.sockets = systemd::Sockets::from_environment();
    let _flush = standard_error::FlushOnDrop;
    host(command).unwrap_or_else(|error| {
        log::say(&format!("{name}: {error}\n"));
        ExitCode::FAILURE
    })
}

/// A command with its flags.
#[derive(Debug, Parser)]
#[command(
    version,
    about = "Echo, fan-out, request/response and proxy as state machines that never touch a socket",
    propagate_version = true,
    arg_required_else_help = true
)]
pub struct Command {
    #[command(flatten)]
    log: log::Flags,
    #[command(subcommand)]
    name: Name,
    /// The program's name.
    #[arg(skip)]
    program: &'static str,
    #[arg(skip)]
    sockets: systemd::Sockets,
}

/// What a server is started with, besides its own flags.
struct ServerContext {
    log: log::Flags,
    sockets: systemd::Sockets,
}

#[derive(Debug, Subcommand)]
enum Name {
    EchoServer(echo::ServerFlags),
    EchoClient(echo::ClientFlags),
    MulticonnClient(multiconn::Flags),
    AppServer(app::ServerFlags),
    AppClient(app::ClientFlags),
    FanoutSource(fanout::SourceFlags),
    FanoutServer(fanout::ServerFlags),
    FanoutClient(fanout::ClientFlags),
    Proxy(proxy::ServerFlags),
    /// Runs all of it in one process for some seconds, verified, and reports
    Demo,
    Completions(completions::CompletionsFlags),
    Man(completions::ManFlags),
}

impl Name {
    fn is_server(&self) -> bool {
        matches!(
            self,
            Self::EchoServer(_)
                | Self::AppServer(_)
                | Self::FanoutSource(_)
                | Self::FanoutServer(_)
                | Self::Proxy(_)
        )
    }

    /// What does not go together, where `all` is the whole command line.
    fn check(&self, all: &clap::Command) -> Result<(), String> {
        match self {
            Self::FanoutServer(flags) => flags.check(),
            Self::Proxy(flags) => flags.check(),
            Self::Man(flags) => flags.check(all),
            Self::AppServer(flags) => flags.check(),
            Self::EchoServer(_)
            | Self::EchoClient(_)
            | Self::MulticonnClient(_)
            | Self::AppClient(_)
            | Self::FanoutSource(_)
            | Self::FanoutClient(_)
            | Self::Demo
            | Self::Completions(_) => Ok(()),
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
        let all = without_empty_variables(Self::command().name(name).bin_name(name));
        let matches = all.try_get_matches_from(words)?;
        let command = Self { program: name, ..Self::from_arg_matches(&matches)? };
        let mut all = Self::command().name(name).bin_name(name);
        let checked = command.name.check(&all);
        checked.map_err(|conflict| all.error(ErrorKind::ValueValidation, conflict))?;
        Ok(command)
    }

    /// Runs it to its end.
    pub async fn run<R: Host>(self, runtime: R) -> ExitCode {
        let Self { log, name, program, sockets } = self;
        log::start(&log, name.is_server());
        let around = ServerContext { log, sockets };
        let result = match name {
            Name::EchoServer(flags) => echo::serve(&runtime, flags, &around).await,
            Name::EchoClient(flags) => echo::converse(&runtime, flags).await,
            Name::MulticonnClient(flags) => multiconn::run(&runtime, flags).await,
            Name::AppServer(flags) => app::serve(&runtime, flags, &around).await,
            Name::AppClient(flags) => app::ask(&runtime, flags).await,
            Name::FanoutSource(flags) => fanout::source(&runtime, flags, &around).await,
            Name::FanoutServer(flags) => fanout::serve(&runtime, flags, &around).await,
            Name::FanoutClient(flags) => fanout::subscribe(&runtime, flags, &around.log).await,
            Name::Proxy(flags) => proxy::serve(&runtime, flags, &around).await,
            Name::Demo => demo::run(&runtime).await,
            Name::Completions(flags) => completions::completions(program, &flags),
            Name::Man(flags) => completions::man(program, &flags),
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

/// An environment variable that is empty counts as one that is not set.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(|flag| if flag.get_env().is_some_and(is_empty) { flag.env(None) } else { flag })
        .mut_subcommands(without_empty_variables)
}

/// Writes a line of data to standard output: as it is, but for a terminal, which might obey it.
fn show(line: &[u8]) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    let written = if output.is_terminal() {
        output.write_all(printable(line).as_bytes())
    } else {
        output.write_all(line)
    };
    let written = written.and_then(|()| output.write_all(b"\n"));
    written.and_then(|()| output.flush()).map_err(Failure::Output)
}

/// A text without what terminals obey: control characters (C0 and C1, ECMA-48, section 5; DEL) but
/// for line feeds and tabs, and bytes that are not UTF-8, are escaped as in Rust's strings.
fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            if char.is_control() && !matches!(char, '\n' | '\t') {
                text.extend(char.escape_default());
            } else {
                text.push(char);
            }
        }
        text.extend(chunk.invalid().escape_ascii().map(char::from));
    }
    text
}

/// Why a command failed at run time: one line.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("invalid configuration: {0}")]
    Config(ConfigError),
    #[error("cannot listen on {address}: {error}")]
    Listen { address: String, error: io::Error },
    #[error("--upstream {upstream} is this server itself, which listens on {address}")]
    Itself { upstream: String, address: Address },
    #[error("cannot connect to {address}: {error}")]
    Connect { address: String, error: io::Error },
    #[error("{address}: {reason}")]
    Ended { address: String, reason: String },
    #[error("cannot read the table {}: {error}", path.display())]
    Table { path: PathBuf, error: Box<dyn Error + Send + Sync> },
    #[error("cannot read standard input: {0}")]
    Input(io::Error),
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    #[error("cannot handle signals: {0}")]
    Signals(io::Error),
    #[error("cannot start a connection: {0}")]
    Spawn(io::Error),
    #[error(
        "no room for a connection: the limit of open files is {files} (ulimit -n), and {kept} are \
         kept for all else"
    )]
    NoRoom { files: u64, kept: u64 },
    #[error("{wanted} connections need {files} open files, and the limit is {limit} (ulimit -n)")]
    OpenFiles { wanted: usize, files: u64, limit: u64 },
    #[error("{address}: {failed} of {connections} connections failed: {first}")]
    Incomplete { address: String, failed: u64, connections: usize, first: String },
}

impl Failure {
    fn ended(address: &str, reason: &impl ToString) -> Self {
        Self::Ended { address: address.into(), reason: reason.to_string() }
    }
}
