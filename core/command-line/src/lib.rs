//! The command line of the three binaries: one set of commands, flags, output and exit codes.
//!
//! Each command is written once, for any [`CommandRuntime`]. A binary implements that trait for its
//! runtime and calls [`main`]. A program that embeds the machines does not need this crate.
//!
//! Data goes to standard output, logs and prompts to standard error. Exit codes: 0 success, 1
//! failure at run time (a log line has the reason and the address), 2 wrong usage.
//!
//! | module | content |
//! |---|---|
//! | [`load`] | the load generator of `multiconn-client` and the demo |
//! | [`search`] | the service of `app-server`: a search in a table |
//!
//! Private modules: one per command (`echo`, `app`, `multiconn`, `fanout`, `proxy`, `serve`, `demo`,
//! `completions`), and one per subject (`server`, `signals`, `systemd`, `open_files`, `log`,
//! `exit_code`, …).

#![forbid(unsafe_code)]

mod accept_proxy;
mod app;
mod completions;
mod demo;
mod echo;
mod error;
mod exit_code;
mod fanout;
mod join;
pub mod load;
mod log;
mod multiconn;
mod open_files;
mod output;
mod progress_line;
mod proxy;
pub mod search;
mod self_upstream;
mod serve;
mod server;
mod signals;
mod standard_error;
mod standard_input;
mod systemd;
mod terminal;
mod tls;
mod values;

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::ExitCode,
};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};
use wirestate_core::{drive::Splice, runtime::Runtime};

use self::{
    error::CommandError,
    server::{SingleServer, Source},
};

/// A runtime that commands can run on.
pub trait CommandRuntime: Runtime<Socket: Splice> {
    /// How many open files a connection takes. Default: 1.
    const FILES_PER_CONNECTION: usize = 1;

    /// Makes a listener from a listening socket that was inherited, for example from systemd
    /// (`sd_listen_fds(3)`).
    ///
    /// # Errors
    /// `socket` is not a listening stream socket.
    fn listen_inherited(&self, socket: OwnedFd) -> io::Result<Self::Listener>;

    /// Makes a socket from a connected stream (socketpair(2)).
    ///
    /// # Errors
    /// The runtime cannot register `stream`.
    fn adopt(&self, stream: UnixStream) -> io::Result<Self::Socket>;
}

/// A binary's `main` function: parses the command line, and calls `run` with the command. `run`
/// starts a runtime and calls [`Command::run`] on it.
///
/// Wrong usage ends the process with exit code 2 and a message that shows the correct usage. If
/// `run` returns an error, it is written to standard error, and the exit code is 1.
pub fn main(name: &'static str, run: impl FnOnce(Command) -> io::Result<ExitCode>) -> ExitCode {
    let mut command =
        Command::parse(name, std::env::args_os()).unwrap_or_else(|error| error.exit());
    command.sockets = systemd::InheritedSockets::from_environment();
    let _flush = standard_error::FlushOnDrop;
    run(command).unwrap_or_else(|error| {
        log::write(&format!("{name}: {error}\n"));
        ExitCode::FAILURE
    })
}

/// A command with its flags.
#[derive(Debug, Parser)]
#[command(
    version,
    about = "Servers and clients: echo, fan-out, request/response, and a proxy",
    propagate_version = true,
    arg_required_else_help = true
)]
pub struct Command {
    #[command(flatten)]
    log: log::Flags,
    #[command(subcommand)]
    subcommand: Subcommands,
    /// The binary's name.
    #[arg(skip)]
    program: &'static str,
    #[arg(skip)]
    sockets: systemd::InheritedSockets,
}

/// What a server needs besides its own flags.
struct ServerContext {
    log: log::Flags,
    sockets: systemd::InheritedSockets,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    #[command(flatten)]
    Server(Box<SingleServer>),
    Serve(serve::Flags),
    EchoClient(echo::ClientFlags),
    MulticonnClient(multiconn::Flags),
    AppClient(app::ClientFlags),
    FanoutClient(fanout::client::Flags),
    /// Runs all servers and clients in one process for about ten seconds, and verifies every byte
    Demo,
    Completions(completions::CompletionsFlags),
    Man(completions::ManFlags),
}

impl Subcommands {
    fn is_server(&self) -> bool {
        matches!(self, Self::Server(_) | Self::Serve(_))
    }

    /// Returns an error if flags contradict each other. `all` is the whole command line.
    fn check(&self, all: &clap::Command) -> Result<(), String> {
        match self {
            Self::Server(server) => server.command.check(),
            Self::Man(flags) => flags.check(all),
            Self::Serve(_)
            | Self::EchoClient(_)
            | Self::MulticonnClient(_)
            | Self::AppClient(_)
            | Self::FanoutClient(_)
            | Self::Demo
            | Self::Completions(_) => Ok(()),
        }
    }
}

impl Command {
    /// Parses a command line whose first word is the program's name.
    ///
    /// # Errors
    /// Wrong usage, or a request for help or the version. `error.exit()` prints it.
    pub fn parse(
        name: &'static str,
        words: impl IntoIterator<Item = OsString>,
    ) -> Result<Self, clap::Error> {
        let all = without_empty_variables(Self::command().name(name).bin_name(name));
        let matches = all.try_get_matches_from(words)?;
        let command = Self { program: name, ..Self::from_arg_matches(&matches)? };
        let mut all = Self::command().name(name).bin_name(name);
        let checked = command.subcommand.check(&all);
        checked.map_err(|conflict| all.error(ErrorKind::ValueValidation, conflict))?;
        Ok(command)
    }

    /// Runs the command, and returns the exit code.
    pub async fn run<R: CommandRuntime>(self, runtime: R) -> ExitCode {
        let Self { log, subcommand, program, sockets } = self;
        log::start(&log, subcommand.is_server());
        let context = ServerContext { log, sockets };
        let result = match subcommand {
            Subcommands::Server(server) => {
                server::run(&runtime, &Source::Command(server), &context).await
            }
            Subcommands::Serve(flags) => serve::run(&runtime, flags, &context).await,
            Subcommands::EchoClient(flags) => echo::run_client(&runtime, flags).await,
            Subcommands::MulticonnClient(flags) => multiconn::run(&runtime, flags).await,
            Subcommands::AppClient(flags) => app::run_client(&runtime, flags).await,
            Subcommands::FanoutClient(flags) => {
                fanout::client::run(&runtime, flags, &context.log).await
            }
            Subcommands::Demo => demo::run(&runtime).await,
            Subcommands::Completions(flags) => completions::completions(program, &flags),
            Subcommands::Man(flags) => completions::man(program, &flags),
        };
        exit_code::exit_code(result)
    }
}

/// Makes an empty environment variable count as unset.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(|flag| if flag.get_env().is_some_and(is_empty) { flag.env(None) } else { flag })
        .mut_subcommands(without_empty_variables)
}
