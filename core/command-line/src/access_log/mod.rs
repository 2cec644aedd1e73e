//! The access log: one line for each connection of a server, written when the connection ends.

mod file;
mod line;

use std::{path::PathBuf, sync::Arc};

use clap::{Args, ValueEnum};
use wirestate_core::admission::EndObserver;

pub(crate) use self::file::{AccessLogFile, FlushOnDrop, dropped_lines};
use crate::CommandError;

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Operation")]
pub(crate) struct AccessLogFlags {
    /// Append a line for each connection, when it ends, to this file; `-` is standard output. The
    /// file is created with the mode 0640. SIGHUP opens it again, for logrotate(8)
    #[arg(long, value_name = "FILE", env = "WIRESTATE_ACCESS_LOG")]
    access_log: Option<PathBuf>,
    /// The format of its lines
    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        env = "WIRESTATE_ACCESS_LOG_FORMAT",
        default_value = "text",
        requires = "access_log"
    )]
    access_log_format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The time, and then NAME=VALUE, separated by spaces
    Text,
    /// One JSON object per line
    Json,
}

impl AccessLogFlags {
    /// Opens the file, and creates it if it does not exist. Returns `None` if there is no access
    /// log. Several servers of a process may have the same file.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(crate) fn open(&self) -> Result<Option<(EndObserver, Arc<AccessLogFile>)>, CommandError> {
        let Some(path) = &self.access_log else { return Ok(None) };
        let file = AccessLogFile::open(path)?;
        let (lines, format) = (file.clone(), self.access_log_format);
        let observer = EndObserver::new(move |end| {
            let line = match format {
                Format::Text => line::text(end),
                Format::Json => line::json(end),
            };
            lines.push(&line);
        });
        Ok(Some((observer, file)))
    }
}
