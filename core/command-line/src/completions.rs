//! The command `completions`.

use clap::Args;
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
    let mut text = Vec::new();
    generate(flags.shell, &mut definition(program), program, &mut text);
    let text = String::from_utf8_lossy(&text);
    // In bash, `clap_complete` 4.6 sets `a__b__subcmd__c` for `a-b c`, but compares it with
    // `a__subcmd__b__subcmd__c`. (https://github.com/clap-rs/clap/issues/6421)
    let compared = program.replace('-', "__subcmd__") + "__subcmd__";
    let set = program.replace('-', "__") + "__subcmd__";
    output::write(text.replace(&compared, &set).as_bytes())
}
