//! The exit codes: 0 success, 1 failure at run time, 2 wrong usage.

use std::{io, process::ExitCode};

use crate::{CommandError, interrupt, log::Reporter};

/// Returns the exit code of a command, and reports its error.
pub(super) fn exit_code(result: Result<(), CommandError>, reporter: Reporter) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of standard output has closed it, as `head` does.
        Err(CommandError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(CommandError::Interrupted(signal)) => interrupt::end_process(signal),
        Err(error) => {
            reporter.error(&error.to_string());
            let is_usage = matches!(error, CommandError::Configuration { .. });
            if is_usage { ExitCode::from(WRONG_USAGE) } else { ExitCode::FAILURE }
        }
    }
}

pub(super) const WRONG_USAGE: u8 = 2;
