//! Credentials from a file.

use std::{fs, path::PathBuf};

use wirestate_core::{
    nats::Credentials,
    shared::{Lock, Shared},
};

use crate::{CommandError, server::ReloadFiles};

/// A file with credentials.
#[derive(Clone, Debug)]
pub(super) enum CredentialsFile {
    /// A JWT and the seed of an nkey.
    Creds(PathBuf),
    /// The seed of an nkey.
    Nkey(PathBuf),
}

impl CredentialsFile {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, or has no credentials.
    pub(super) fn read(&self) -> Result<Credentials, CommandError> {
        let (Self::Creds(path) | Self::Nkey(path)) = self;
        let content = fs::read_to_string(path);
        let content = content.map_err(|error| CommandError::credentials(path, error))?;
        let credentials = match self {
            Self::Creds(_) => wirestate_nats_credentials::creds(&content),
            Self::Nkey(_) => wirestate_nats_credentials::nkey(&content),
        };
        credentials.map_err(|error| CommandError::credentials(path, error))
    }
}

/// Credentials from a file, which can be loaded again.
#[derive(Clone, Debug)]
pub(super) struct LoadedCredentials {
    pub(super) file: CredentialsFile,
    /// Those of the next connection.
    pub(super) current: Shared<Lock<Credentials>>,
}

impl ReloadFiles for LoadedCredentials {
    fn description(&self) -> &'static str {
        "credentials for NATS"
    }

    fn read(&self) -> Result<Box<dyn FnOnce() + Send>, CommandError> {
        let (credentials, current) = (self.file.read()?, self.current.clone());
        Ok(Box::new(move || current.with(|current| *current = credentials)))
    }
}
