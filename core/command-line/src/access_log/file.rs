//! The file of an access log: a bounded queue of lines, and a thread that writes them.
//!
//! write(2) blocks on a slow disk or a full pipe. So only the thread writes. It gathers lines for
//! 50 ms and writes them at once, because a wake and a call for each line would cost more than the
//! line.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    mem,
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use tracing::{info, warn};

use crate::{CommandError, server::ReloadFiles};

/// The file of an access log, shared by all servers of the process that have the same one.
///
/// At most 1 MiB of lines are queued, and as much is being written. A line that does not fit, or
/// cannot be written, is dropped and counted. The log reports it at once, and then every 10 s.
///
/// The thread ends after 1 s without a line, as the thread of standard error does.
#[derive(Debug)]
pub(crate) struct AccessLogFile {
    path: PathBuf,
    state: Mutex<State>,
    /// Notified when the thread must write, and when it has written everything.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<u8>,
    /// The file to write to from now on; `None` while the thread has it.
    file: Option<Target>,
    has_writer: bool,
    /// The thread waits for a line.
    is_idle: bool,
    /// A flush waits: the thread gathers no further lines.
    is_flushing: bool,
    /// Lines that did not fit, and are not reported yet.
    overflown: u64,
}

#[derive(Debug)]
enum Target {
    File(File),
    StandardOutput,
}

impl Target {
    fn open(path: &Path) -> io::Result<Self> {
        if path == Path::new(STANDARD_OUTPUT) {
            return Ok(Self::StandardOutput);
        }
        // Opening one waits until a process reads it (fifo(7)).
        if fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo()) {
            let advice = "it is a named pipe; use `-`, and a pipe at standard output";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, advice));
        }
        OpenOptions::new().append(true).create(true).mode(MODE).open(path).map(Self::File)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::StandardOutput => {
                // The buffer of `Stdout` holds nothing after the flush.
                let mut output = io::stdout().lock();
                output.write_all(bytes)?;
                output.flush()?;
                Ok(bytes.len())
            }
        }
    }
}

impl AccessLogFile {
    /// Opens the file at `path`. If the process has it open already, opens it again.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(super) fn open(path: &Path) -> Result<Arc<Self>, CommandError> {
        let file = open_target(path)?;
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|file| file.strong_count() > 0);
        if let Some(shared) = open.iter().filter_map(Weak::upgrade).find(|log| log.path == path) {
            shared.replace(file);
            return Ok(shared);
        }
        let state = State { file: Some(file), ..State::default() };
        let log = Self { path: path.into(), state: Mutex::new(state), changed: Condvar::new() };
        let log = Arc::new(log);
        open.push(Arc::downgrade(&log));
        Ok(log)
    }

    /// Queues `line`, or drops it if it does not fit.
    pub(super) fn push(self: &Arc<Self>, line: &[u8]) {
        let mut state = self.lock();
        if state.lines.len() + line.len() > MAX_BYTES {
            state.overflown += 1;
            DROPPED.fetch_add(1, Relaxed);
            return;
        }
        state.lines.extend_from_slice(line);
        if mem::replace(&mut state.has_writer, true) {
            if mem::take(&mut state.is_idle) {
                drop(state);
                self.changed.notify_all();
            }
            return;
        }
        drop(state);
        let log = self.clone();
        let writer = thread::Builder::new().name("access-log".into()).spawn(move || {
            Writer { log: &log, failure: None }.run();
        });
        if writer.is_err() {
            // The thread could not be started. The next line tries again.
            self.lock().has_writer = false;
        }
    }

    /// Waits until all lines are written, for at most 1 s.
    fn flush(&self) {
        let mut state = self.lock();
        state.is_flushing = true;
        self.changed.notify_all();
        let is_pending = |state: &mut State| state.has_writer && state.is_flushing;
        drop(self.changed.wait_timeout_while(state, FLUSH_TIMEOUT, is_pending));
    }

    fn replace(&self, file: Target) {
        let previous = self.lock().file.replace(file);
        drop(previous); // outside the lock: closing can block
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_target(path: &Path) -> Result<Target, CommandError> {
    Target::open(path).map_err(|error| CommandError::AccessLog { path: path.into(), error })
}

impl ReloadFiles for Arc<AccessLogFile> {
    fn description(&self) -> &'static str {
        "access log"
    }

    fn read(&self) -> Result<Box<dyn FnOnce() + Send>, CommandError> {
        let (file, log) = (open_target(&self.path)?, self.clone());
        Ok(Box::new(move || log.replace(file)))
    }
}

/// The thread of a file.
struct Writer<'a> {
    log: &'a AccessLogFile,
    /// Set while lines cannot be written.
    failure: Option<Failure>,
}

struct Failure {
    /// Lines dropped since the log last reported them.
    unreported: u64,
    reported: Instant,
}

impl Writer<'_> {
    fn run(&mut self) {
        let log = self.log;
        let (mut batch, mut file) = (Vec::new(), None);
        let mut is_cut = false;
        let mut state = log.lock();
        loop {
            if state.lines.is_empty() && state.overflown == 0 {
                state.is_flushing = false;
                state.is_idle = true;
                log.changed.notify_all();
                let is_idle = |state: &mut State| state.is_idle && !state.is_flushing;
                let waited = log.changed.wait_timeout_while(state, IDLE_TIMEOUT, is_idle);
                let waited = waited.unwrap_or_else(PoisonError::into_inner);
                state = waited.0;
                if waited.1.timed_out() && state.lines.is_empty() {
                    state.has_writer = false;
                    state.is_idle = false;
                    state.file = state.file.take().or(file);
                    return;
                }
            }
            let gathers = |state: &mut State| !state.is_flushing;
            let waited = log.changed.wait_timeout_while(state, GATHER_TIME, gathers);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            mem::swap(&mut state.lines, &mut batch);
            let overflown = mem::take(&mut state.overflown);
            let reopened = state.file.take();
            drop(state);
            if reopened.is_some() {
                (file, is_cut) = (reopened, false);
            }
            let target = file.as_mut().expect("the thread has the file, or takes it");
            let written = write_lines(|bytes| target.write(bytes), &batch, &mut is_cut);
            self.report(overflown, written);
            batch.clear();
            state = log.lock();
        }
    }

    /// Counts and reports lines that were dropped: `overflown` ones did not fit.
    fn report(&mut self, overflown: u64, written: Result<(), (u64, io::Error)>) {
        let path = self.log.path.display();
        let (lines, error) = match written {
            Ok(()) if overflown == 0 => {
                if let Some(Failure { unreported, .. }) = self.failure.take() {
                    info!(dropped = unreported, "the access log {path} is written again");
                }
                return;
            }
            Ok(()) => (overflown, "the disk, or the reader, is too slow".to_owned()),
            Err((lines, error)) => {
                DROPPED.fetch_add(lines, Relaxed);
                (lines + overflown, error.to_string())
            }
        };
        let now = Instant::now();
        let failure = self.failure.get_or_insert(Failure {
            unreported: 0,
            reported: now.checked_sub(REPORT_INTERVAL).unwrap_or(now),
        });
        failure.unreported += lines;
        if now.duration_since(failure.reported) >= REPORT_INTERVAL {
            failure.reported = now;
            let dropped = mem::take(&mut failure.unreported);
            warn!(dropped, "cannot write the access log {path}: {error}");
        }
    }
}

/// Writes whole lines. `is_cut`: the file ends with a part of a line, which is ended first.
///
/// # Errors
/// Some lines are not written. Returns their number, and why.
fn write_lines(
    mut write: impl FnMut(&[u8]) -> io::Result<usize>,
    lines: &[u8],
    is_cut: &mut bool,
) -> Result<(), (u64, io::Error)> {
    let mut rest = lines;
    let failed = loop {
        if rest.is_empty() {
            return Ok(());
        }
        let written = if *is_cut { write(b"\n") } else { write(rest) };
        match written {
            Ok(0) => break io::ErrorKind::WriteZero.into(),
            Ok(_) if *is_cut => *is_cut = false,
            Ok(n) => rest = &rest[n..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break error,
        }
    };
    *is_cut |= rest.len() < lines.len() && lines[..lines.len() - rest.len()].last() != Some(&b'\n');
    Err((rest.split_inclusive(|&byte| byte == b'\n').count() as u64, failed))
}

/// Flushes all access logs when it is dropped, at the end of `main` or in a panic.
pub(crate) struct FlushOnDrop;

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        let open = mem::take(&mut *OPEN.lock().unwrap_or_else(PoisonError::into_inner));
        for log in open.iter().filter_map(Weak::upgrade) {
            log.flush();
        }
    }
}

/// How many lines of all access logs were dropped since the process started.
pub(crate) fn dropped_lines() -> u64 {
    DROPPED.load(Relaxed)
}

/// The files that are open.
static OPEN: Mutex<Vec<Weak<AccessLogFile>>> = Mutex::new(Vec::new());
/// Lines dropped since the process started.
static DROPPED: AtomicU64 = AtomicU64::new(0);
/// The path that stands for standard output.
const STANDARD_OUTPUT: &str = "-";
/// The owner writes, the group reads. The umask applies.
const MODE: u32 = 0o640;
const MAX_BYTES: usize = 1024 * 1024;
/// How long lines are gathered before they are written.
const GATHER_TIME: Duration = Duration::from_millis(50);
/// How long the thread waits for a line before it ends.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a flush waits.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the log reports that lines cannot be written.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_cut_by_an_error_is_ended_before_the_next_one() {
        let (mut written, mut is_cut) = (Vec::new(), false);
        // Each write takes at most 5 bytes; the disk is full after `room` bytes.
        let mut write_all = |lines: &[u8], mut room: usize| {
            let write = |bytes: &[u8]| {
                let n = bytes.len().min(5).min(room);
                if n == 0 {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                room -= n;
                written.extend_from_slice(&bytes[..n]);
                Ok(n)
            };
            write_lines(write, lines, &mut is_cut).map_err(|(lines, _)| lines)
        };
        assert_eq!(write_all(b"first\nsecond\nthird\n", 9), Err(2));
        assert_eq!(write_all(b"lost\n", 0), Err(1));
        assert_eq!(write_all(b"4\n5\n", 100), Ok(()));
        assert_eq!(write_all(b"6\n7\n", 2), Err(1));
        assert_eq!(write_all(b"8\n", 100), Ok(()));
        assert_eq!(String::from_utf8(written).unwrap(), "first\nsec\n4\n5\n6\n8\n");
    }

    #[test]
    fn lines_that_do_not_fit_are_dropped_and_counted() {
        let path = std::env::temp_dir().join(format!("wirestate-{}-queue", std::process::id()));
        let log = AccessLogFile::open(&path).unwrap();
        assert!(Arc::ptr_eq(&log, &AccessLogFile::open(&path).unwrap()), "it is shared");
        // The thread gathers lines meanwhile.
        for _ in 0..17 {
            log.push(&vec![b'x'; MAX_BYTES / 16]);
        }
        assert_eq!((log.lock().overflown, dropped_lines()), (1, 1));
        log.flush();
        assert_eq!(fs::metadata(&path).unwrap().len(), MAX_BYTES as u64);
        fs::remove_file(&path).unwrap();
    }
}
