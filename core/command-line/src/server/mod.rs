//! Servers: their flags, and the process that runs them.

mod command;
mod flags;
mod limits;
mod listening;
mod prepared;
mod process;
mod rates;
mod reload;
mod running;
mod tasks;

use core::{any, iter};

use wirestate_core::shared::Shared;

pub(super) use self::{
    command::{ServerCommand, SingleServer, for_words, recorded_words},
    flags::{CommonFlags, Flags, ProcessFlags, Share, idle_timeout},
    listening::{Bound, check_listen, is_free_socket},
    prepared::{ConnectFn, Prepared, ReloadFiles, ServerSettings, Serving, Stage, Starting, task},
    process::run,
    tasks::Task,
};
use crate::{
    CommandError, CommandRuntime, access_log::AccessLogFlags, open_files, serve::ConfigurationFile,
    tls::ServerTlsFlags,
};

/// Where the configuration of a process comes from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// The command of one server.
    Command(Box<SingleServer>),
    /// A file.
    File(ConfigurationFile),
}

/// What a process serves.
#[derive(Debug)]
pub(crate) struct Configuration {
    pub(crate) process: ProcessFlags,
    /// The flags of the status's TLS. `None`: the status has the TLS of the server.
    pub(crate) status_tls: Option<ServerTlsFlags>,
    /// The flags of the process, as a command line.
    pub(crate) process_words: Vec<String>,
    /// At least one.
    pub(crate) servers: Vec<Definition>,
}

/// One server of a process.
#[derive(Debug)]
pub(crate) struct Definition {
    pub(crate) name: Shared<str>,
    pub(crate) command: ServerCommand,
    /// The command line that defines it in a file; empty for the server of a command.
    pub(crate) words: Vec<String>,
    /// The command line that defines it, for its recordings.
    pub(crate) recorded_words: Vec<String>,
}

impl Source {
    /// Whether its servers have names of their own, which the log shows.
    pub(crate) fn has_names(&self) -> bool {
        matches!(self, Self::File(_))
    }

    /// Reads the configuration.
    ///
    /// # Errors
    /// The file cannot be read, or an entry is wrong.
    pub(crate) fn load(&self) -> Result<Configuration, CommandError> {
        match self {
            Self::File(file) => file.load(),
            Self::Command(server) => {
                let SingleServer { name, command, process, words } = (**server).clone();
                let definition = Definition {
                    name: name.into(),
                    command,
                    words: Vec::new(),
                    recorded_words: words,
                };
                Ok(Configuration {
                    process,
                    status_tls: None,
                    process_words: Vec::new(),
                    servers: definition.with_publishers().collect(),
                })
            }
        }
    }
}

impl Definition {
    /// This server, and another one that listens for its publishers, if it has any.
    pub(crate) fn with_publishers(self) -> impl Iterator<Item = Self> {
        let publishers = self.command.publishers().map(|command| Self {
            name: format!("{}-publishers", self.name).into(),
            command,
            words: self.words.clone(),
            recorded_words: self.recorded_words.clone(),
        });
        iter::once(self).chain(publishers)
    }

    /// Whether it listens for the publishers of another server. It has no share of its own in the
    /// open files.
    fn is_for_publishers(&self) -> bool {
        matches!(self.command, ServerCommand::FanoutPublishers(_))
    }

    /// Its name for the log, where the process has several servers.
    fn shown_name(&self) -> Option<&str> {
        (self.is_for_publishers() || !self.words.is_empty()).then_some(&*self.name)
    }

    /// Reads the server's files.
    ///
    /// # Errors
    /// A file cannot be used, or the limit of open files allows no connection.
    fn prepare<R: CommandRuntime>(
        &self,
        runtime: &R,
        share: Share,
    ) -> Result<Prepared<R>, CommandError> {
        let name = (!self.words.is_empty()).then(|| self.name.clone());
        let prepared = self.command.clone().prepare(runtime, share, name)?;
        if prepared.settings.config.limits.connections == 0 {
            let (limit, reserved) = (open_files::raise_limit(), prepared.settings.reserved_files);
            return Err(CommandError::NoFilesLeft { limit, reserved });
        }
        Ok(prepared)
    }

    /// As [`prepare`](Self::prepare), and opens the access log and the recordings. (A check of the
    /// configuration does not: it would create the files, perhaps as another user.)
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare), or the access log or the recordings cannot be opened.
    fn prepare_to_serve<R: CommandRuntime>(
        &self,
        runtime: &R,
        share: Share,
    ) -> Result<Prepared<R>, CommandError> {
        let mut prepared = self.prepare(runtime, share)?;
        let settings = &mut prepared.settings;
        let access_log = settings.access_log.as_ref().map(AccessLogFlags::open).transpose()?;
        if let Some((observer, file)) = access_log.flatten() {
            settings.config.on_end = Some(observer);
            settings.files.push(Shared::new(file));
        }
        settings.open_recordings(&self.name, &self.recorded_words, any::type_name::<R>())?;
        Ok(prepared)
    }
}

/// Reads the configuration and the files that it names. Returns the number of servers.
///
/// # Errors
/// Something is wrong.
pub(crate) fn check<R: CommandRuntime>(
    runtime: &R,
    source: &Source,
) -> Result<usize, CommandError> {
    let configuration = source.load()?;
    if let Some(tls) = &configuration.status_tls {
        tls.load()?;
    }
    for definition in &configuration.servers {
        definition.prepare(runtime, configuration.share())?;
    }
    Ok(configuration.servers.len())
}

impl Configuration {
    /// The share of each server in the open files of the process.
    pub(crate) fn share(&self) -> Share {
        let with_share = self.servers.iter().filter(|server| !server.is_for_publishers());
        Share { servers: with_share.count() as u64, has_status: self.process.status.is_some() }
    }
}
