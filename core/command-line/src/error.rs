//! Failures of commands at run time.

use core::ffi::c_int;
use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
};

use wirestate_core::{
    ConfigError,
    runtime::{Address, unix_path},
};

/// Why a command failed at run time. Its text is one line with the address or the file.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    #[error("invalid configuration: {0}")]
    Config(ConfigError),
    #[error("cannot listen on {address}: {}{}", described(error), listen_advice(address, error))]
    Listen { address: String, error: io::Error },
    #[error("--upstream {upstream} is this server itself, which listens on {address}")]
    SelfUpstream { upstream: String, address: Address },
    #[error("cannot connect to {address}: {}", described(error))]
    Connect { address: String, error: io::Error },
    #[error("{address}: {reason}")]
    Ended { address: String, reason: String },
    #[error("{address}: the table has no entry for `{value}`")]
    NoMatch { address: String, value: String },
    #[error("cannot read the table {}: {error}", path.display())]
    Table { path: PathBuf, error: Box<dyn Error + Send + Sync> },
    #[error("cannot open the access log {}: {error}", path.display())]
    AccessLog { path: PathBuf, error: io::Error },
    #[error("{}: {message}", path.display())]
    Replay { path: PathBuf, message: String },
    #[error("cannot record in {}: {error}", path.display())]
    Recordings { path: PathBuf, error: io::Error },
    #[error("cannot use {}: {error}", path.display())]
    Credentials { path: PathBuf, error: Box<dyn Error + Send + Sync> },
    #[error("{address} has no host name that a certificate could have: use --tls-name")]
    NoServerName { address: String },
    #[error("cannot load the certificate authorities of this system: {error}; use --tls-ca")]
    NoAuthorities { error: String },
    #[error("cannot read {}: {error}", path.display())]
    ReadConfiguration { path: PathBuf, error: io::Error },
    #[error("{}:{line}:{column}: {message}", path.display())]
    Configuration { path: PathBuf, line: usize, column: usize, message: String },
    #[error("cannot read standard input: {0}")]
    Input(io::Error),
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    #[error("cannot write {}: {error}", path.display())]
    WritePage { path: PathBuf, error: io::Error },
    #[error("cannot handle signals: {0}")]
    Signals(io::Error),
    #[error("cannot start a task: {0}")]
    Spawn(io::Error),
    #[error(
        "no connection is possible: the limit of open files is {limit} (ulimit -n), and \
         {reserved} are reserved for other uses"
    )]
    NoFilesLeft { limit: u64, reserved: u64 },
    #[error(
        "{connections} connections need {files} open files, and the limit is {limit} (ulimit -n)"
    )]
    TooManyConnections { connections: usize, files: u64, limit: u64 },
    /// A client has reported, and the process ends by this signal.
    #[error("interrupted by signal {0}")]
    Interrupted(c_int),
    #[error(
        "{}{failed} of {connections} connections failed: {first}",
        if first.contains(address) { String::new() } else { format!("{address}: ") }
    )]
    Incomplete { address: String, failed: u64, connections: usize, first: String },
}

impl CommandError {
    pub(super) fn credentials(path: &Path, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Credentials { path: path.into(), error: error.into() }
    }

    pub(super) fn ended(address: &str, reason: &impl ToString) -> Self {
        Self::Ended { address: address.into(), reason: reason.to_string() }
    }
}

/// The text of an error of a socket. For a host name that is not resolved, it says so.
fn described(error: &io::Error) -> String {
    let text = error.to_string();
    match text.strip_prefix(LOOKUP_ERROR) {
        Some(reason) => format!(
            "the host name cannot be resolved ({reason}); write another name or an IP address"
        ),
        None => text,
    }
}

/// What to do after bind(2) has failed on `address`.
fn listen_advice(address: &str, error: &io::Error) -> &'static str {
    let is_unix = unix_path(address).is_some();
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is not ours, and open")]
    match error.kind() {
        io::ErrorKind::AddrInUse if is_unix => {
            "; the file exists, and `ss -lxp` shows whether a process listens there"
        }
        io::ErrorKind::AddrInUse => {
            "; `ss -ltnp` shows which process listens there; port 0 takes a free port"
        }
        io::ErrorKind::AddrNotAvailable => {
            "; `ip address` shows the addresses of this machine, 0.0.0.0 stands for all of IPv4, \
             [::] also for those of IPv6"
        }
        io::ErrorKind::PermissionDenied if !is_unix && port.is_some_and(is_privileged) => {
            "; a port below 1024 needs the capability CAP_NET_BIND_SERVICE (in a systemd unit: \
             AmbientCapabilities=); use a higher port, or `systemd` as the address, with a .socket \
             unit"
        }
        _ => "",
    }
}

/// Whether an unprivileged process may not listen on `port` (`ip_unprivileged_port_start`; ip(7)).
fn is_privileged(port: u16) -> bool {
    port < 1024
}

/// How std begins the error of getaddrinfo(3).
const LOOKUP_ERROR: &str = "failed to lookup address information: ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_listening_says_what_to_do() {
        let message = |address: &str, kind: io::ErrorKind| {
            CommandError::Listen { address: address.into(), error: kind.into() }.to_string()
        };
        for (address, kind, advice) in [
            ("127.0.0.1:80", io::ErrorKind::PermissionDenied, "CAP_NET_BIND_SERVICE"),
            ("localhost:1023", io::ErrorKind::PermissionDenied, "use a higher port"),
            ("127.0.0.1:5000", io::ErrorKind::AddrInUse, "`ss -ltnp`"),
            ("unix:/tmp/x.sock", io::ErrorKind::AddrInUse, "`ss -lxp`"),
            ("192.0.2.1:0", io::ErrorKind::AddrNotAvailable, "`ip address`"),
        ] {
            let message = message(address, kind);
            assert!(message.contains(advice), "{message}");
        }
        for (address, kind) in [
            ("127.0.0.1:1024", io::ErrorKind::PermissionDenied),
            ("unix:/run/x:80", io::ErrorKind::PermissionDenied),
            ("127.0.0.1:80", io::ErrorKind::Other),
        ] {
            let expected = format!("cannot listen on {address}: {}", io::Error::from(kind));
            assert_eq!(message(address, kind), expected);
        }
    }
}
