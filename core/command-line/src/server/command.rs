//! The commands that run a server.

use clap::{ArgAction, ArgMatches, Args, FromArgMatches, Subcommand, parser::ValueSource};
use wirestate_core::shared::Shared;

use super::{Prepared, ProcessFlags, Share};
use crate::{CommandError, CommandRuntime, app, echo, fanout, nats::redacted, proxy};

/// A server of one kind, with its flags.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum ServerCommand {
    EchoServer(echo::ServerFlags),
    AppServer(app::ServerFlags),
    FanoutSource(fanout::source::Flags),
    FanoutServer(Box<fanout::server::ServerFlags>),
    Proxy(Box<proxy::ServerFlags>),
    /// The listener for the publishers of a fan-out server.
    #[command(skip)]
    FanoutPublishers(Box<fanout::server::ServerFlags>),
}

impl ServerCommand {
    /// Returns an error if flags contradict each other.
    pub(crate) fn check(&self) -> Result<(), String> {
        match self {
            Self::EchoServer(flags) => flags.check(),
            Self::AppServer(flags) => flags.check(),
            Self::FanoutSource(flags) => flags.check(),
            Self::FanoutServer(flags) | Self::FanoutPublishers(flags) => flags.check(),
            Self::Proxy(flags) => flags.check(),
        }
    }

    /// Whether the server reads standard input, which a process has only once.
    pub(crate) fn reads_standard_input(&self) -> bool {
        match self {
            Self::FanoutServer(flags) => flags.reads_standard_input(),
            Self::EchoServer(_)
            | Self::AppServer(_)
            | Self::FanoutSource(_)
            | Self::FanoutPublishers(_)
            | Self::Proxy(_) => false,
        }
    }

    /// The server that listens for the publishers of this one, if it has publishers.
    pub(crate) fn publishers(&self) -> Option<Self> {
        match self {
            Self::FanoutServer(flags) if flags.has_publishers() => {
                Some(Self::FanoutPublishers(flags.clone()))
            }
            Self::EchoServer(_)
            | Self::AppServer(_)
            | Self::FanoutSource(_)
            | Self::FanoutServer(_)
            | Self::FanoutPublishers(_)
            | Self::Proxy(_) => None,
        }
    }

    /// Reads the server's files. The server gets a share of the process's open files. Its log lines
    /// have its `name`.
    ///
    /// # Errors
    /// A file cannot be read or used, or a setting is invalid.
    pub(crate) fn prepare<R: CommandRuntime>(
        self,
        runtime: &R,
        share: Share,
        name: Option<Shared<str>>,
    ) -> Result<Prepared<R>, CommandError> {
        match self {
            Self::EchoServer(flags) => echo::prepare(flags, share),
            Self::AppServer(flags) => app::prepare(flags, share),
            Self::FanoutSource(flags) => fanout::source::prepare(runtime, flags),
            Self::FanoutServer(flags) => fanout::server::prepare(*flags, share, name),
            Self::FanoutPublishers(flags) => fanout::publishers::prepare(&flags, share),
            Self::Proxy(flags) => proxy::prepare(*flags, share, name),
        }
    }
}

/// The command of a process that runs one server: the flags of both.
#[derive(Clone, Debug)]
pub(crate) struct SingleServer {
    /// The name of the command. The server has the same name.
    pub(crate) name: String,
    pub(crate) command: ServerCommand,
    pub(crate) process: ProcessFlags,
    /// The command and the flags of the server.
    pub(crate) words: Vec<String>,
}

impl Subcommand for SingleServer {
    fn augment_subcommands(all: clap::Command) -> clap::Command {
        let servers = ServerCommand::augment_subcommands(clap::Command::new(""));
        all.subcommands(servers.get_subcommands().map(|server| {
            let about = server.get_about().cloned().unwrap_or_default();
            let long_about = server.get_long_about().cloned().unwrap_or_else(|| about.clone());
            // `augment_args` replaces both.
            ProcessFlags::augment_args(server.clone()).about(about).long_about(long_about)
        }))
    }

    fn augment_subcommands_for_update(all: clap::Command) -> clap::Command {
        Self::augment_subcommands(all)
    }

    fn has_subcommand(name: &str) -> bool {
        ServerCommand::has_subcommand(name)
    }
}

impl FromArgMatches for SingleServer {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let command = ServerCommand::from_arg_matches(matches)?;
        let (name, flags) = matches.subcommand().expect("a server's command is a subcommand");
        let process = ProcessFlags::from_arg_matches(flags)?;
        let commands = ServerCommand::augment_subcommands(clap::Command::new(""));
        let words = recorded_words(&commands, matches);
        Ok(Self { name: name.to_owned(), command, process, words })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// A command whose words do not come from a command line: without its name, environment and help.
pub(crate) fn for_words(command: clap::Command) -> clap::Command {
    command
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .color(clap::ColorChoice::Never)
        .mut_args(|flag| flag.env(None))
        .mut_subcommands(for_words)
}

/// The command line of a server of `commands` that `matches`, without defaults and passwords.
pub(crate) fn recorded_words(commands: &clap::Command, matches: &ArgMatches) -> Vec<String> {
    let Some((name, matches)) = matches.subcommand() else { return Vec::new() };
    let mut words = vec![name.to_owned()];
    let flags = commands.find_subcommand(name).into_iter().flat_map(clap::Command::get_arguments);
    for flag in flags {
        let (id, Some(long)) = (flag.get_id().as_str(), flag.get_long()) else { continue };
        if matches!(matches.value_source(id), None | Some(ValueSource::DefaultValue)) {
            continue;
        }
        if matches!(flag.get_action(), ArgAction::SetTrue) {
            words.extend(matches.get_flag(id).then(|| format!("--{long}")));
            continue;
        }
        for value in matches.get_raw(id).into_iter().flatten() {
            let value = value.to_string_lossy();
            // The value of such a flag can have a password.
            let is_hidden = flag.is_hide_env_values_set();
            let value = if is_hidden { redacted(&value).into() } else { value };
            words.push(format!("--{long}={value}"));
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[String]) -> Vec<String> {
        let commands = ServerCommand::augment_subcommands(clap::Command::new(""));
        let matches = for_words(commands.clone()).try_get_matches_from(words);
        recorded_words(&commands, &matches.unwrap_or_else(|error| panic!("{error}")))
    }

    #[test]
    fn recorded_words_have_no_password_and_are_accepted_again() {
        let line = "fanout-server --publish=nats://user:secret@localhost/feed --frame=lines \
                    --listen=127.0.0.1:0 --listen=unix:/a";
        let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
        let recorded = parse(&words);
        assert!(!recorded.concat().contains("secret"), "{recorded:?}");
        assert!(recorded.contains(&"--publish=nats://***@localhost/feed".to_owned()));
        assert!(recorded.contains(&"--listen=unix:/a".to_owned()), "{recorded:?}");
        assert_eq!(parse(&recorded), recorded);
    }
}
