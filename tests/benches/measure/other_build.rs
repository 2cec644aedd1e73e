//! Servers from another build of the benchmark, of an earlier commit for example, to measure them
//! side by side with this build's.

use std::{env, io, os::unix::process::CommandExt, process::Command};

use super::arguments::Choice;

/// The environment variable with the path of the other build's executable.
const VARIABLE: &str = "WIRESTATE_OTHER_BUILD";

/// Whether the environment names another build.
pub(crate) fn is_given() -> bool {
    env::var_os(VARIABLE).is_some()
}

/// Replaces this process by `server` of the other build, with the same arguments. The process keeps
/// its core and its parent-death signal.
pub(crate) fn exec(server: impl Choice) -> io::Result<()> {
    let server = server.name_in_other_build().ok_or(io::ErrorKind::InvalidInput)?;
    let missing = || io::Error::other(format!("{VARIABLE} is not set"));
    let mut command = Command::new(env::var_os(VARIABLE).ok_or_else(missing)?);
    let mut arguments = env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        let is_server = argument == "--serve";
        command.arg(argument);
        if is_server {
            arguments.next();
            command.arg(&server);
        }
    }
    Err(command.exec())
}
