//! Wrong usage: its message and exit code.

use core::{fmt, net::Ipv6Addr};
use std::{ffi::OsString, io, process::ExitCode};

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::{
    environment,
    exit_code::{WRONG_USAGE, exit_code},
    log::{self, Reporter},
    output,
    terminal::has_colours,
    values,
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
    /// Makes the message. `all` is the definition by which `words`, the command line, was parsed.
    /// If `names_variables`, the message names the environment variables that have caused the
    /// error.
    pub(super) fn message(
        self,
        all: &mut clap::Command,
        words: &[OsString],
        names_variables: bool,
    ) -> clap::Error {
        let name = words.iter().find(|word| all.find_subcommand(word).is_some());
        let used = match name {
            Some(name) => all.find_subcommand_mut(name).expect("it is a subcommand"),
            None => all,
        };
        // Parsing has built it only if it got that far.
        used.build();
        match self {
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
                if error.kind() == ErrorKind::UnknownArgument
                    && let Some(tip) = address_tip(&error, used, words)
                {
                    let tip = ContextValue::StyledStrs(vec![tip.into()]);
                    error.insert(ContextKind::Suggested, tip);
                } else if names_variables {
                    environment::name_variables(&mut error, used);
                }
                error
            }
        }
    }
}

/// What to write instead of an argument that `command` does not have, if it is an address, or part
/// of one.
fn address_tip(error: &clap::Error, command: &clap::Command, words: &[OsString]) -> Option<String> {
    let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let is_server = command.get_arguments().any(|flag| flag.get_long() == Some("listen"));
    if is_server {
        let is_of_address = ["--address", "--bind", "--host", "--port", "-b", "-l", "-p"];
        return if is_of_address.contains(&unknown.as_str()) {
            Some("the address to listen on is written --listen HOST:PORT".into())
        } else if unknown.starts_with('-') {
            None
        } else {
            Some(match values::listen(unknown) {
                Ok(address) => format!("the address to listen on is written --listen {address}"),
                Err(error) => format!("the address to listen on is written --listen ADDR: {error}"),
            })
        };
    }
    // `localhost 5000`, as for nc(1).
    let port: u16 = unknown.parse().ok()?;
    let host = words.iter().rev().skip_while(|word| *word != &**unknown).nth(1)?.to_str()?;
    let brackets = if host.parse::<Ipv6Addr>().is_ok() { ["[", "]"] } else { ["", ""] };
    let address = values::remote(&format!("{}{host}{}:{port}", brackets[0], brackets[1])).ok()?;
    Some(format!("an address is one word: {address}"))
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
