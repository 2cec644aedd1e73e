//! Failures of commands at run time.

use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
};

use wirestate_core::{ConfigError, runtime::Address};

/// Why a command failed at run time. Its text is one line with the address or the file.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    #[error("invalid configuration: {0}")]
    Config(ConfigError),
    #[error("cannot listen on {address}: {error}")]
    Listen { address: String, error: io::Error },
    #[error("--upstream {upstream} is this server itself, which listens on {address}")]
    SelfUpstream { upstream: String, address: Address },
    #[error("cannot connect to {address}: {error}")]
    Connect { address: String, error: io::Error },
    #[error("{address}: {reason}")]
    Ended { address: String, reason: String },
    #[error("cannot read the table {}: {error}", path.display())]
    Table { path: PathBuf, error: Box<dyn Error + Send + Sync> },
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
    #[error("{address}: {failed} of {connections} connections failed: {first}")]
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
