//! The exit codes: 0 success, 1 failure at run time. clap exits with 2 after wrong usage.

use std::{io, process::ExitCode};

use crate::CommandError;

/// Returns the exit code of a command, and logs its error.
pub(super) fn exit_code(result: Result<(), CommandError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of standard output has closed it, as `head` does.
        Err(CommandError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error @ CommandError::Configuration { .. }) => {
            tracing::error!("{error}");
            ExitCode::from(WRONG_USAGE)
        }
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// As clap's.
const WRONG_USAGE: u8 = 2;
