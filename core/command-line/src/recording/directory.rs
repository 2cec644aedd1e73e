//! A directory of recordings: a bounded queue of blocks, and a thread that writes them.
//!
//! write(2) blocks on a slow disk, so only the thread writes. A block that does not fit into the
//! queue ends its recording, and delays no connection.

use std::{
    collections::VecDeque,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use tracing::warn;
use wirestate_core::{
    record::Stop,
    status::{Metric, MetricValue},
};

use crate::CommandError;

/// A directory of recordings, shared by all servers of the process that have the same one.
///
/// At most 16 MiB of blocks are queued. An open recording takes no open file: each block opens its
/// file.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    state: Mutex<State>,
    /// Notified when there is a job, and when all are done.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<(Arc<Recorded>, Job)>,
    /// The bytes of the blocks that are queued or being written.
    queued: usize,
    /// The bytes of all recordings.
    total: u64,
    max_total: u64,
    has_writer: bool,
    counters: Counters,
    /// When the log last reported a stop of each kind.
    reported: [Option<Instant>; Stop::ALL.len()],
}

#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    kept: u64,
    stopped: [u64; Stop::ALL.len()],
}

/// The file of a recording.
#[derive(Debug)]
pub(super) struct Recorded {
    name: String,
    /// A block could not be written.
    has_failed: AtomicBool,
    /// The file was created.
    exists: AtomicBool,
}

#[derive(Debug)]
enum Job {
    Write(Vec<u8>),
    Remove,
}

impl Recorded {
    pub(super) fn new(name: String) -> Self {
        Self { name, has_failed: AtomicBool::new(false), exists: AtomicBool::new(false) }
    }
}

impl Directory {
    /// Opens the directory at `path`. If the process has it open already, only its limit changes.
    ///
    /// # Errors
    /// It cannot be created, or no file can be written in it.
    pub(super) fn open(path: &Path, max_total: u64) -> Result<Arc<Self>, CommandError> {
        let failed = |error| CommandError::Recordings { path: path.into(), error };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let probe = path.join(format!(".wirestate-{}", process::id()));
        let created = append(&probe, &[], false);
        created.map_err(failed)?;
        fs::remove_file(&probe).map_err(failed)?;
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|directory| directory.strong_count() > 0);
        let shared = open.iter().filter_map(Weak::upgrade).find(|other| other.path == path);
        let directory = shared.unwrap_or_else(|| {
            let (state, changed) = (Mutex::default(), Condvar::new());
            let directory = Arc::new(Self { path: path.into(), state, changed });
            open.push(Arc::downgrade(&directory));
            directory
        });
        directory.lock().max_total = max_total;
        Ok(directory)
    }

    /// Queues a block of `file`.
    ///
    /// # Errors
    /// It is not queued.
    pub(super) fn write(
        self: &Arc<Self>,
        file: &Arc<Recorded>,
        block: Vec<u8>,
    ) -> Result<(), Stop> {
        let len = block.len();
        let mut state = self.lock();
        if file.has_failed.load(Relaxed) {
            return Err(Stop::Failed);
        }
        if state.queued + len > MAX_QUEUED {
            return Err(Stop::Slow);
        }
        if state.total + len as u64 > state.max_total {
            return Err(Stop::TotalLimit);
        }
        state.total += len as u64;
        self.push(state, file, Job::Write(block));
        Ok(())
    }

    /// Queues the last block of `file`. It is small, so only the queue limits it.
    pub(super) fn end(self: &Arc<Self>, file: &Arc<Recorded>, block: Vec<u8>) {
        let mut state = self.lock();
        if file.has_failed.load(Relaxed) {
            return;
        }
        let is_over = state.total >= state.max_total;
        if is_over || state.queued + block.len() > MAX_QUEUED {
            drop(state);
            return self.count_stop(if is_over { Stop::TotalLimit } else { Stop::Slow });
        }
        state.total += block.len() as u64;
        state.counters.kept += 1;
        self.push(state, file, Job::Write(block));
    }

    /// Removes `file`, of which `bytes` were queued.
    pub(super) fn remove(self: &Arc<Self>, file: &Arc<Recorded>, bytes: u64) {
        let mut state = self.lock();
        state.total = state.total.saturating_sub(bytes);
        self.push(state, file, Job::Remove);
    }

    /// Counts a recording that has stopped. The log reports each kind every 10 s at most.
    pub(super) fn count_stop(&self, stop: Stop) {
        let (index, now) = (stop as usize, Instant::now());
        let mut state = self.lock();
        state.counters.stopped[index] += 1;
        let is_due = state.reported[index].is_none_or(|at| now - at >= REPORT_INTERVAL);
        if is_due {
            state.reported[index] = Some(now);
            let stopped = state.counters.stopped[index];
            drop(state);
            warn!(stopped, "a recording in {} has stopped: {stop}", self.path.display());
        }
    }

    fn push(self: &Arc<Self>, mut state: MutexGuard<'_, State>, file: &Arc<Recorded>, job: Job) {
        state.queued += job.len();
        state.jobs.push_back((file.clone(), job));
        if state.has_writer {
            drop(state);
            return self.changed.notify_all();
        }
        state.has_writer = true;
        drop(state);
        let directory = self.clone();
        let name = "recordings".to_owned();
        if thread::Builder::new().name(name).spawn(move || directory.write_jobs()).is_err() {
            // The thread could not be started. The next block tries again.
            self.lock().has_writer = false;
        }
    }

    /// Does all jobs, and ends after 1 s without one.
    fn write_jobs(&self) {
        let mut state = self.lock();
        loop {
            let Some((file, job)) = state.jobs.pop_front() else {
                self.changed.notify_all();
                let is_idle = |state: &mut State| state.jobs.is_empty();
                let waited = self.changed.wait_timeout_while(state, IDLE_TIMEOUT, is_idle);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                if state.jobs.is_empty() {
                    state.has_writer = false;
                    return;
                }
                continue;
            };
            drop(state);
            let path = self.path.join(&file.name);
            let done = match &job {
                Job::Write(_) if file.has_failed.load(Relaxed) => Ok(()),
                Job::Write(block) => append(&path, block, file.exists.swap(true, Relaxed)),
                Job::Remove => fs::remove_file(&path),
            };
            if let Err(error) = done
                && !file.has_failed.swap(true, Relaxed)
            {
                warn!("cannot write the recording {}: {error}", path.display());
                self.lock().counters.stopped[Stop::Failed as usize] += 1;
            }
            state = self.lock();
            state.queued -= job.len();
        }
    }

    /// Waits until everything is written, for at most 1 s.
    fn flush(&self) {
        let is_pending = |state: &mut State| state.queued > 0 || !state.jobs.is_empty();
        drop(self.changed.wait_timeout_while(self.lock(), FLUSH_TIMEOUT, is_pending));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job {
    fn len(&self) -> usize {
        match self {
            Self::Write(block) => block.len(),
            Self::Remove => 0,
        }
    }
}

/// Appends to a file that only its owner can read. Creates it, unless it `exists`: what stands
/// there otherwise, such as a symbolic link, is not written to.
fn append(path: &Path, block: &[u8], exists: bool) -> io::Result<()> {
    let file = OpenOptions::new().append(true).create_new(!exists).mode(0o600).open(path);
    file?.write_all(block)
}

/// The metrics of all directories. There are none if nothing is recorded.
pub(crate) fn metrics() -> Vec<Metric> {
    let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let directories: Vec<_> = open.iter().filter_map(Weak::upgrade).collect();
    drop(open);
    if directories.is_empty() {
        return Vec::new();
    }
    let (mut kept, mut total, mut stopped) = (0, 0, [0; Stop::ALL.len()]);
    for directory in directories {
        let state = directory.lock();
        kept += state.counters.kept;
        total += state.total;
        for (sum, count) in stopped.iter_mut().zip(state.counters.stopped) {
            *sum += count;
        }
    }
    let stopped = Stop::ALL.iter().zip(stopped);
    vec![
        Metric::new(
            "wirestate_recordings",
            "Recordings of sessions that have ended.",
            MetricValue::Counter(kept),
        ),
        Metric::new(
            "wirestate_recordings_stopped",
            "Recordings that have stopped before their session ended, by reason.",
            MetricValue::Counters {
                label: "reason",
                counts: stopped.map(|(stop, count)| (stop.label().into(), count)).collect(),
            },
        ),
        Metric::new(
            "wirestate_recorded_bytes",
            "Bytes of the recordings.",
            MetricValue::Gauge(total),
        ),
    ]
}

/// Writes all blocks that are queued when it is dropped, at the end of `main` or in a panic.
pub(crate) struct FlushOnDrop;

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        let open = std::mem::take(&mut *OPEN.lock().unwrap_or_else(PoisonError::into_inner));
        for directory in open.iter().filter_map(Weak::upgrade) {
            directory.flush();
        }
    }
}

/// The directories that are open.
static OPEN: Mutex<Vec<Weak<Directory>>> = Mutex::new(Vec::new());
/// The most bytes of blocks in memory, apart from those that recorders fill.
const MAX_QUEUED: usize = 16 * 1024 * 1024;
/// How long the thread waits for a block before it ends.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a flush waits.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the log reports that recordings stop.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
