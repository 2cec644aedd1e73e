//! The commands `completions` and `man`.

use std::io::{self, Write};

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};
use clap_mangen::Man;

use crate::{Command, CommandError};

/// Writes completions for a shell
///
/// To load them in bash: `source <(wirestate-tokio completions bash)`.
#[derive(Args, Debug)]
pub(super) struct CompletionsFlags {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Writes the manual page of a command
///
/// To read it: `wirestate-tokio man echo-server | man -l -`.
#[derive(Args, Debug)]
pub(super) struct ManFlags {
    /// The command [default: the page lists all commands]
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

impl ManFlags {
    /// Returns an error if there is no such command.
    pub(super) fn check(&self, all: &clap::Command) -> Result<(), String> {
        match &self.command {
            Some(name) if all.find_subcommand(name).is_none() => {
                Err(format!("there is no command `{name}`"))
            }
            Some(_) | None => Ok(()),
        }
    }
}

pub(super) fn completions(
    program: &'static str,
    flags: &CompletionsFlags,
) -> Result<(), CommandError> {
    let mut text = Vec::new();
    generate(flags.shell, &mut Command::command().name(program), program, &mut text);
    write(&text)
}

pub(super) fn man(program: &'static str, flags: &ManFlags) -> Result<(), CommandError> {
    let mut all = Command::command().name(program);
    // Gives each command its full name, and the flags that all commands have.
    all.build();
    let named = flags.command.as_ref().and_then(|name| all.find_subcommand(name));
    let page = named.unwrap_or(&all).clone();
    let mut text = Vec::new();
    Man::new(page).render(&mut text).map_err(CommandError::Output)?;
    // `clap_mangen` puts the help on signals under the title EXTRA.
    let text = String::from_utf8_lossy(&text).replace(".SH EXTRA\nSignals: on", ".SH SIGNALS\nOn");
    write(text.as_bytes())
}

fn write(text: &[u8]) -> Result<(), CommandError> {
    let mut output = io::stdout().lock();
    output.write_all(text).and_then(|()| output.flush()).map_err(CommandError::Output)
}
