//! The exit code: 0 done, 1 failed at run time. Wrong usage is clap's, with 2.

use std::{io, process::ExitCode};

use crate::CommandError;

/// The exit code of a command that has returned `result`. Logs an error.
pub(super) fn exit_code(result: Result<(), CommandError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of standard output has closed it, as `head` does.
        Err(CommandError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
