//! The command line of the three binaries: one set of commands, flags, output and exit codes.
//!
//! Each command is written once, for any [`CommandRuntime`]. A binary implements that trait for its
//! runtime and calls [`main`]. A program that embeds the machines does not need this crate.
//!
//! Data goes to standard output, logs and prompts to standard error. Exit codes: 0 success, 1
//! failure at run time (a line on standard error has the reason and the address), 2 wrong usage.
//!
//! | module | content |
//! |---|---|
//! | [`load`] | the load generator of `multiconn-client` and the demo |
//! | [`search`] | the service of `app-server`: a search in a table |
//!
//! Private modules: one per command (`echo`, `app`, `multiconn`, `fanout`, `proxy`, `serve`,
//! `demo`, `replay`, `completions`, `man`), one per subject (`server`, `signals`, `systemd`, `log`,
//! …), and those of the command line itself: `definition` (all commands and flags), `help` (what a
//! help text ends with), `usage` and `environment` (errors of flags and variables), `values`.

#![forbid(unsafe_code)]

mod accept_proxy;
mod access;
mod access_log;
mod app;
#[cfg(test)]
mod bad_input;
mod completions;
mod connect;
mod definition;
mod demo;
mod echo;
mod environment;
mod error;
mod exit_code;
mod fanout;
mod faults;
mod help;
mod interrupt;
mod jitter;
mod join;
pub mod load;
mod log;
mod man;
mod multiconn;
mod nats;
mod open_files;
mod output;
mod progress_line;
mod proxy;
mod recording;
mod replay;
pub mod search;
mod self_upstream;
mod serve;
mod server;
mod signals;
mod standard_error;
mod standard_input;
mod standard_output;
mod systemd;
mod terminal;
mod tls;
mod toml_file;
mod usage;
mod values;

use std::{
    ffi::OsString,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::ExitCode,
};

use clap::{FromArgMatches, Parser, Subcommand};
use wirestate_core::{drive::Splice, runtime::Runtime};

use self::{
    error::CommandError,
    log::Reporter,
    server::{SingleServer, Source},
    usage::UsageError,
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
    let _flush = (recording::FlushOnDrop, access_log::FlushOnDrop, standard_error::FlushOnDrop);
    let mut command = match Command::parse(name, std::env::args_os()) {
        Ok(command) => command,
        Err(message) => return usage::show(&message, Reporter::without_log(name)),
    };
    command.sockets = systemd::InheritedSockets::from_environment();
    run(command).unwrap_or_else(|error| {
        Reporter::without_log(name).error(&error.to_string());
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
    Replay(replay::Flags),
    Completions(completions::CompletionsFlags),
    Man(man::ManFlags),
}

impl Subcommands {
    /// Whether it runs until a signal, and logs what happens.
    fn is_server(&self) -> bool {
        match self {
            Self::Server(_) => true,
            Self::Serve(flags) => !flags.check_config,
            Self::EchoClient(_)
            | Self::MulticonnClient(_)
            | Self::AppClient(_)
            | Self::FanoutClient(_)
            | Self::Demo
            | Self::Replay(_)
            | Self::Completions(_)
            | Self::Man(_) => false,
        }
    }

    /// Returns an error if flags contradict each other.
    fn check(&self) -> Result<(), String> {
        match self {
            Self::Server(server) => server.command.check(),
            Self::Serve(_)
            | Self::EchoClient(_)
            | Self::MulticonnClient(_)
            | Self::AppClient(_)
            | Self::FanoutClient(_)
            | Self::Demo
            | Self::Replay(_)
            | Self::Completions(_)
            | Self::Man(_) => Ok(()),
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
        let words: Vec<_> = words.into_iter().collect();
        let parsed = Self::parse_by(definition::definition(name), &words);
        parsed.map(|command| Self { program: name, ..command })
    }

    /// Parses a command line by the definition `all`, and explains errors.
    fn parse_by(all: clap::Command, words: &[OsString]) -> Result<Self, clap::Error> {
        let all = environment::without_empty_variables(all);
        let mut parsed = all.clone();
        let error = match Self::try_parse_by(&mut parsed, words) {
            Ok(command) => return Ok(command),
            Err(UsageError::Clap(message)) if !message.use_stderr() => return Err(message),
            Err(error) => error,
        };
        let is_same = |other: &UsageError| other.to_string() == error.to_string();
        let names_variables = environment::has_variables(&all) && {
            let mut without_variables = environment::without_variables(all);
            !Self::try_parse_by(&mut without_variables, words).as_ref().is_err_and(is_same)
        };
        Err(error.message(&mut parsed, words, names_variables))
    }

    /// Parses a command line, and checks whether flags contradict each other.
    fn try_parse_by(all: &mut clap::Command, words: &[OsString]) -> Result<Self, UsageError> {
        let matches = all.try_get_matches_from_mut(words).map_err(UsageError::Clap)?;
        let command = Self::from_arg_matches(&matches).map_err(UsageError::Clap)?;
        command.subcommand.check().map_err(UsageError::Conflict)?;
        Ok(command)
    }

    /// Runs the command, and returns the exit code.
    pub async fn run<R: CommandRuntime>(self, runtime: R) -> ExitCode {
        let Self { log, subcommand, program, sockets } = self;
        log::start(&log, subcommand.is_server());
        let reporter = Reporter::new(program, &log, subcommand.is_server());
        for variable in environment::unknown_variables(|| definition::definition(program)) {
            reporter.warn(&variable.to_string());
        }
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
            Subcommands::Replay(flags) => replay::run(&flags),
            Subcommands::Completions(flags) => completions::completions(program, &flags),
            Subcommands::Man(flags) => man::man(program, &flags),
        };
        exit_code::exit_code(result, reporter)
    }
}
