//! The commands `completions` and `man`.

use clap::Args;
use clap_complete::{Shell, generate};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use crate::{
    CommandError,
    definition::definition,
    help::{self, Section},
    output,
};

/// Writes completions for a shell
///
/// To load them in bash: `source <(PROGRAM completions bash)`.
#[derive(Args, Debug)]
pub(super) struct CompletionsFlags {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Writes the manual page of a command
///
/// To read it: `PROGRAM man echo-server | man -l -`.
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
    generate(flags.shell, &mut definition(program), program, &mut text);
    let text = String::from_utf8_lossy(&text);
    // In bash, `clap_complete` 4.6 sets `a__b__subcmd__c` for `a-b c`, but compares it with
    // `a__subcmd__b__subcmd__c`. (https://github.com/clap-rs/clap/issues/6421)
    let compared = program.replace('-', "__subcmd__") + "__subcmd__";
    let set = program.replace('-', "__") + "__subcmd__";
    output::write(text.replace(&compared, &set).as_bytes())
}

pub(super) fn man(program: &'static str, flags: &ManFlags) -> Result<(), CommandError> {
    let mut all = definition(program);
    // Gives each command its full name, and the flags that all commands have.
    all.build();
    let named = flags.command.as_ref().and_then(|name| all.find_subcommand(name));
    let page = named.unwrap_or(&all).clone();
    let sections = help::sections(program, flags.command.as_deref().unwrap_or_default());
    let mut text = Vec::new();
    Man::new(page.after_long_help(None::<&str>)).render(&mut text).map_err(CommandError::Output)?;
    let mut end = Roff::new();
    for Section { title, entries } in sections {
        end.control("SH", [title.to_uppercase().as_str()]);
        for (term, explanation) in entries {
            end.control("TP", []).text([bold(term)]).text([roman(explanation)]);
        }
    }
    end.to_writer(&mut text).map_err(CommandError::Output)?;
    output::write(&text)
}
