//! The definition of the command line, with the name of the binary.

use clap::CommandFactory;

use crate::{
    Command,
    help::{self, PROGRAM},
};

/// All commands and flags of the binary called `program`.
pub(super) fn definition(program: &'static str) -> clap::Command {
    let all = Command::command().name(program).bin_name(program);
    with_notes(all, program, "").mut_subcommands(|command| {
        let name = command.get_name().to_owned();
        with_notes(command, program, &name)
    })
}

/// Adds the sections at the end of the help of the command called `name`.
fn with_notes(command: clap::Command, program: &str, name: &str) -> clap::Command {
    let end = help::text(&help::sections(program, name), command.get_styles());
    let about = command.get_long_about().map(|about| about.to_string().replace(PROGRAM, program));
    let command = command.after_long_help(end);
    if let Some(about) = about { command.long_about(about) } else { command }
}
