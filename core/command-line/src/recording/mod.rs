//! Recordings of a server's sessions: the flags, and the files.

mod directory;

use std::{
    fmt, mem,
    path::PathBuf,
    process,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

use clap::{Args, ValueEnum};
use wirestate_core::{
    Instant,
    admission::ConnectionEntry,
    record::{BlockSink, Ended, Header, Recorder, Stop},
};

use self::directory::{Directory, Recorded};
pub(crate) use self::directory::{FlushOnDrop, metrics};
use crate::{CommandError, values};

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Recording")]
pub(crate) struct RecordFlags {
    /// Record each connection in a file of its own in this directory, for the command `replay`
    ///
    /// A recording has all bytes that the server has received, in plain text, even if they came by
    /// TLS. Only the owner can read it. The directory is created if it does not exist.
    #[arg(long, value_name = "FOLDER", env = "WIRESTATE_RECORD")]
    record: Option<PathBuf>,
    /// Which recordings are kept
    #[arg(
        long,
        value_name = "SESSIONS",
        value_enum,
        env = "WIRESTATE_RECORD_SESSIONS",
        default_value = "all",
        requires = "record"
    )]
    record_sessions: Sessions,
    /// Record lengths and digests of the bytes, and not the bytes. Such a recording shows what
    /// happened, and cannot be replayed
    #[arg(long, env = "WIRESTATE_RECORD_WITHOUT_PAYLOADS", value_parser = values::boolean,
          requires = "record")]
    record_without_payloads: bool,
    /// The size at which a recording stops; the connection continues
    #[arg(long, value_name = "BYTES", env = "WIRESTATE_RECORD_LIMIT", default_value = "16MiB",
          value_parser = values::bytes, requires = "record")]
    record_limit: usize,
    /// The size of all recordings of this process in the directory at which they stop
    #[arg(long, value_name = "BYTES", env = "WIRESTATE_RECORD_TOTAL", default_value = "1GiB",
          value_parser = values::bytes, requires = "record")]
    record_total: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sessions {
    /// All
    All,
    /// Those that did not end cleanly or as requested
    Errors,
}

impl RecordFlags {
    /// Opens the directory, and creates it if it does not exist. `None`: nothing is recorded.
    ///
    /// `fields` say which server it is.
    ///
    /// # Errors
    /// No file can be written in the directory.
    pub(crate) fn open(
        &self,
        server: &str,
        fields: Vec<(String, String)>,
    ) -> Result<Option<Recordings>, CommandError> {
        let Some(path) = &self.record else { return Ok(None) };
        let directory = Directory::open(path, self.record_total as u64)?;
        Ok(Some(Recordings {
            directory,
            server: server.into(),
            fields: fields.into(),
            keeps_all: self.record_sessions == Sessions::All,
            has_payloads: !self.record_without_payloads,
            limit: self.record_limit as u64,
        }))
    }
}

/// Makes the recorders of a server. Clones are the same.
#[derive(Clone)]
pub(crate) struct Recordings {
    directory: Arc<Directory>,
    server: Arc<str>,
    fields: Arc<[(String, String)]>,
    keeps_all: bool,
    has_payloads: bool,
    limit: u64,
}

impl Recordings {
    /// A recorder for the machine of a connection.
    pub(crate) fn of_connection(
        &self,
        machine: &str,
        entry: &ConnectionEntry,
        now: Instant,
    ) -> Recorder {
        let peer = ("peer".to_owned(), entry.peer().to_string());
        self.recorder(machine, entry.id(), now, [peer])
    }

    /// A recorder for a machine that has no connection in the table. Its number is the next one of
    /// the process.
    pub(crate) fn of_other(&self, machine: &str, now: Instant) -> Recorder {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        self.recorder(machine, NEXT.fetch_add(1, Relaxed), now, [])
    }

    fn recorder(
        &self,
        machine: &str,
        number: u64,
        now: Instant,
        more: impl IntoIterator<Item = (String, String)>,
    ) -> Recorder {
        let mut header = Header::new(now)
            .with_field("machine", machine)
            .with_field("server", &*self.server)
            .with_field("process", process_name())
            .with_field("connection", number.to_string());
        header.has_payloads = self.has_payloads;
        header.fields.extend(more);
        header.fields.extend(self.fields.iter().cloned());
        let name = format!("{}-{}-{machine}-{number}.wsr", self.server, process_name());
        let sink =
            FileSink { recordings: self.clone(), file: Arc::new(Recorded::new(name)), bytes: 0 };
        Recorder::new(&header, Box::new(sink))
    }
}

impl fmt::Debug for Recordings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recordings").field("server", &self.server).finish_non_exhaustive()
    }
}

/// When the process has first recorded something, and its number.
fn process_name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        format!("{}-{}", time.replace(['-', ':'], ""), process::id())
    })
}

/// Queues the blocks of one recording.
#[derive(Debug)]
struct FileSink {
    recordings: Recordings,
    file: Arc<Recorded>,
    /// How many bytes were queued.
    bytes: u64,
}

impl BlockSink for FileSink {
    fn write(&mut self, block: Vec<u8>) -> Result<(), Stop> {
        let (directory, len) = (&self.recordings.directory, block.len() as u64);
        let written = if self.bytes + len > self.recordings.limit {
            Err(Stop::Limit)
        } else {
            directory.write(&self.file, block)
        };
        match written {
            Ok(()) => self.bytes += len,
            Err(stop) => directory.count_stop(stop),
        }
        written
    }

    fn end(&mut self, block: Vec<u8>, ended: Ended) {
        let Recordings { directory, keeps_all, .. } = &self.recordings;
        let bytes = mem::take(&mut self.bytes);
        if *keeps_all || ended.is_error() {
            directory.end(&self.file, block);
        } else if bytes > 0 {
            directory.remove(&self.file, bytes);
        }
    }
}
