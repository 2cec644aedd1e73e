//! Wrong usage: its message and exit code.

use core::fmt;
use std::{ffi::OsString, io, process::ExitCode};

use clap::error::ErrorKind;

use crate::{
    environment,
    exit_code::{WRONG_USAGE, exit_code},
    log::{self, Reporter},
    output,
    terminal::has_colours,
};

/// Why a command line was not accepted.
pub(super) enum UsageError {
    /// It cannot be parsed; or it asks for help or the version.
    Clap(clap::Error),
    /// Flags contradict each other.
    Conflict(String),
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clap(error) => error.fmt(f),
            Self::Conflict(error) => f.write_str(error),
        }
    }
}

impl UsageError {
    /// Makes the message. `all` is the definition of the command line, `words` the command line.
    /// If `names_variables`, the message names the environment variables that have caused the
    /// error.
    pub(super) fn message(
        self,
        mut all: clap::Command,
        words: &[OsString],
        names_variables: bool,
    ) -> clap::Error {
        let error = match self {
            Self::Clap(error) if error.kind() != ErrorKind::InvalidUtf8 && !names_variables => {
                return error;
            }
            error @ (Self::Clap(_) | Self::Conflict(_)) => error,
        };
        // Gives each command its full name, and the flags that all commands have.
        all.build();
        let names: Vec<_> =
            all.get_subcommands().map(|known| known.get_name().to_owned()).collect();
        let used = names.iter().find(|name| words.iter().any(|word| *word == ***name));
        let used = match used {
            Some(name) => all.find_subcommand_mut(name).expect("it is a subcommand"),
            None => &mut all,
        };
        match error {
            Self::Conflict(conflict) if names_variables => {
                let conflict = format!("{conflict}; {}", environment::variables_in_use(used));
                used.error(ErrorKind::ValueValidation, conflict)
            }
            Self::Conflict(conflict) => used.error(ErrorKind::ValueValidation, conflict),
            Self::Clap(error) if error.kind() == ErrorKind::InvalidUtf8 => {
                let invalid = words.iter().find(|word| word.to_str().is_none());
                let invalid = invalid.map(|word| word.display().to_string());
                let invalid = invalid.or_else(|| environment::invalid_variable(used));
                let error = format!("expected UTF-8, not {}", invalid.unwrap_or_default());
                used.error(ErrorKind::InvalidUtf8, error)
            }
            Self::Clap(mut error) => {
                environment::name_variables(&mut error, used);
                error
            }
        }
    }
}

/// Shows what clap says instead of a command: help or the version on standard output, wrong usage
/// on standard error. Returns the exit code.
pub(super) fn show(message: &clap::Error, reporter: Reporter) -> ExitCode {
    let text = message.render();
    let text = |has_colours| if has_colours { text.ansi().to_string() } else { text.to_string() };
    if message.use_stderr() {
        log::write(&text(has_colours(&io::stderr())));
        return ExitCode::from(WRONG_USAGE);
    }
    exit_code(output::write(text(has_colours(&io::stdout())).as_bytes()), reporter)
}
