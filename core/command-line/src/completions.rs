//! `completions` and `man`: the command line for shells and for readers.

use std::io::{self, Write};

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};
use clap_mangen::Man;

use crate::{Command, Failure};

/// Writes a shell's completions of this command line
///
/// For bash: `source <(wirestate-tokio completions bash)`.
#[derive(Args, Debug)]
pub(super) struct CompletionsFlags {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Writes a manual page
///
/// To read it: `man <(wirestate-tokio man echo-server)`, or `… | man -l -`.
#[derive(Args, Debug)]
pub(super) struct ManFlags {
    /// The command that it is about; without one, about all of it
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

impl ManFlags {
    /// What does not go together.
    pub(super) fn check(&self, all: &clap::Command) -> Result<(), String> {
        match &self.command {
            Some(name) if all.find_subcommand(name).is_none() => {
                Err(format!("there is no command `{name}`"))
            }
            Some(_) | None => Ok(()),
        }
    }
}

pub(super) fn completions(program: &'static str, flags: &CompletionsFlags) -> Result<(), Failure> {
    let mut text = Vec::new();
    generate(flags.shell, &mut Command::command().name(program), program, &mut text);
    write(&text)
}

pub(super) fn man(program: &'static str, flags: &ManFlags) -> Result<(), Failure> {
    let mut all = Command::command().name(program);
    // Gives each command the flags that are common to all, and its full name.
    all.build();
    let named = flags.command.as_ref().and_then(|name| all.find_subcommand(name));
    let page = named.unwrap_or(&all).clone();
    let mut text = Vec::new();
    Man::new(page).render(&mut text).map_err(Failure::Output)?;
    write(&text)
}

fn write(text: &[u8]) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    output.write_all(text).and_then(|()| output.flush()).map_err(Failure::Output)
}
