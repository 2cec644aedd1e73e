//! The `nats-server` that the tests run.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// The path of the installed server, or `WIRESTATE_NATS_SERVER`.
pub(crate) fn path() -> PathBuf {
    // Debian installs servers in a folder that is not in every PATH.
    let installed = Path::new("/usr/sbin/nats-server");
    match env::var_os("WIRESTATE_NATS_SERVER") {
        Some(path) => path.into(),
        None if installed.is_file() => installed.into(),
        None => "nats-server".into(),
    }
}

/// A command that runs a server on a port of loopback; -1: any free port.
pub(crate) fn command(port: &str) -> Command {
    let mut command = Command::new(path());
    command.args(["-a", "127.0.0.1", "-p", port]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Starts it. Prints a line and returns `None` if no server is installed.
pub(crate) fn spawn(command: &mut Command) -> Option<Child> {
    match command.spawn() {
        Ok(child) => Some(child),
        Err(error) => {
            eprintln!("NOT TESTED: nats-server: {error}");
            assert!(env::var_os("CI").is_none(), "CI installs nats-server");
            None
        }
    }
}
