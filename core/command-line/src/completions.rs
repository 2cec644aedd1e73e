//! The command `completions`.

use clap::{Args, builder::PossibleValue};
use clap_complete::{Shell, generate};

use crate::{CommandError, definition::definition, output};

/// Writes completions for a shell
///
/// To load them in bash: `source <(PROGRAM completions bash)`.
#[derive(Args, Debug)]
pub(super) struct CompletionsFlags {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn completions(
    program: &'static str,
    flags: &CompletionsFlags,
) -> Result<(), CommandError> {
    let (mut all, mut text) = (definition(program), Vec::new());
    generate(flags.shell, &mut all, program, &mut text);
    if flags.shell == Shell::Fish {
        complete_arguments_in_fish(program, &all, &mut text);
    }
    let text = String::from_utf8_lossy(&text);
    // In bash, `clap_complete` 4.6 sets `a__b__subcmd__c` for `a-b c`, but compares it with
    // `a__subcmd__b__subcmd__c`. (https://github.com/clap-rs/clap/issues/6421)
    let compared = program.replace('-', "__subcmd__") + "__subcmd__";
    let set = program.replace('-', "__") + "__subcmd__";
    output::write(text.replace(&compared, &set).as_bytes())
}

/// Adds the possible values of arguments, which `clap_complete` leaves out for fish.
fn complete_arguments_in_fish(program: &str, all: &clap::Command, text: &mut Vec<u8>) {
    let condition = format!("__fish_{}_using_subcommand", program.replace('-', "_"));
    for command in all.get_subcommands() {
        for argument in command.get_positionals() {
            let values = argument.get_possible_values();
            let names: Vec<_> = values.iter().map(PossibleValue::get_name).collect();
            if !names.is_empty() {
                let (command, names) = (command.get_name(), names.join(" "));
                let line =
                    format!("complete -c {program} -n '{condition} {command}' -f -a '{names}'\n");
                text.extend(line.bytes());
            }
        }
    }
}
