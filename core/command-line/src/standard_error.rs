//! Standard error: a bounded queue, and a thread that writes its lines.
//!
//! write(2) blocks on a full pipe, a stopped terminal or a slow disk. Therefore only the queue's
//! thread writes to standard error.

use std::{
    collections::VecDeque,
    io::{self, Write},
    mem,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tracing::warn;
use tracing_subscriber::fmt::MakeWriter;
use wirestate_core::{
    Instant,
    status::{Metric, MetricValue, MetricsSource},
};

use crate::{access_log, recording};

/// The process' standard error.
pub(super) static STANDARD_ERROR: Queue = Queue::new(|line| io::stderr().write_all(line));

/// A queue of lines to be written, at most 1 MiB.
///
/// A line that does not fit is dropped, and so are all later lines until the queue is empty. Then a
/// log line reports how many were dropped.
///
/// The thread ends after 1 s without a line. A permanent second thread would make every system call
/// slower, because threads share the table of open files.
pub(super) struct Queue<W = fn(&[u8]) -> io::Result<()>> {
    write: W,
    state: Mutex<State>,
    /// Notified when a line is pushed, and when the queue becomes empty.
    changed: Condvar,
}

struct State {
    lines: VecDeque<Vec<u8>>,
    /// Bytes of all queued lines, including the line that is being written.
    bytes: usize,
    has_writer: bool,
    /// Lines dropped since the process started.
    dropped: u64,
    /// Lines dropped since the log last reported them.
    unreported: u64,
}

impl<W: Fn(&[u8]) -> io::Result<()> + Sync> Queue<W> {
    const fn new(write: W) -> Self {
        let lines = VecDeque::new();
        let state = State { lines, bytes: 0, has_writer: false, dropped: 0, unreported: 0 };
        Self { write, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Queues `line`, which is written in one piece, or drops it if it does not fit.
    pub(super) fn push(&'static self, line: impl Into<Vec<u8>>) {
        let line = line.into();
        let mut state = self.lock();
        if state.unreported > 0 || state.bytes + line.len() > MAX_BYTES {
            state.dropped += 1;
            state.unreported += 1;
        } else {
            state.bytes += line.len();
            state.lines.push_back(line);
        }
        self.wake_writer(state);
    }

    /// Waits until all lines are written, for at most 1 s.
    pub(super) fn flush(&'static self) {
        let state = self.lock();
        if state.bytes == 0 {
            return;
        }
        self.wake_writer(state);
        let is_pending = |state: &mut State| state.bytes > 0 || state.unreported > 0;
        drop(self.changed.wait_timeout_while(self.lock(), FLUSH_TIMEOUT, is_pending));
    }

    /// Whether the thread is running.
    pub(super) fn has_writer(&self) -> bool {
        self.lock().has_writer
    }

    fn wake_writer(&'static self, mut state: MutexGuard<'_, State>) {
        if mem::replace(&mut state.has_writer, true) {
            drop(state);
            self.changed.notify_all();
            return;
        }
        drop(state);
        let writer = thread::Builder::new().name("log".into()).spawn(|| self.write_lines());
        if writer.is_err() {
            // The thread could not be started. The next line tries again.
            self.lock().has_writer = false;
        }
    }

    fn write_lines(&'static self) {
        // Failed writes since the last successful one, for example to a full disk.
        let mut failed = 0;
        let mut state = self.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                drop(state);
                let written = (self.write)(&line);
                state = self.lock();
                state.bytes -= line.len();
                if written.is_ok() {
                    state.unreported += mem::take(&mut failed);
                } else {
                    failed += 1;
                    state.dropped += 1;
                }
            } else if state.unreported > 0 {
                let dropped = mem::take(&mut state.unreported);
                drop(state);
                warn!(dropped, "log lines were dropped here: they could not be written in time");
                state = self.lock();
            } else {
                self.changed.notify_all();
                let is_empty = |state: &mut State| state.lines.is_empty() && state.unreported == 0;
                let waited = self.changed.wait_timeout_while(state, IDLE_TIMEOUT, is_empty);
                let (next, waited) = waited.unwrap_or_else(PoisonError::into_inner);
                state = next;
                if waited.timed_out() {
                    state.has_writer = false;
                    return;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes log lines to the queue of standard error.
pub(super) struct LogWriter;

impl MakeWriter<'_> for LogWriter {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        STANDARD_ERROR.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Flushes standard error when it is dropped, at the end of `main` or in a panic.
pub(super) struct FlushOnDrop;

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        STANDARD_ERROR.flush();
    }
}

/// The metrics of the process: of its logs, and of its recordings.
#[derive(Debug)]
pub(super) struct ProcessMetrics;

impl MetricsSource for ProcessMetrics {
    fn metrics(&self, _now: Instant) -> Vec<Metric> {
        let mut metrics = vec![
            Metric::new(
                "wirestate_log_dropped_lines",
                "Log lines dropped: not written in time, or the disk is full.",
                MetricValue::Counter(STANDARD_ERROR.lock().dropped),
            ),
            Metric::new(
                "wirestate_access_log_dropped_lines",
                "Lines of access logs dropped: not written in time, or the file cannot be written.",
                MetricValue::Counter(access_log::dropped_lines()),
            ),
        ];
        metrics.extend(recording::metrics());
        metrics
    }
}

const MAX_BYTES: usize = 1024 * 1024;
/// How long [`Queue::flush`] waits.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the thread waits for a line before it ends.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    };

    use super::*;

    type Written = Arc<(Mutex<Vec<Vec<u8>>>, AtomicBool)>;

    /// A queue that collects its lines, and blocks while its flag is set.
    fn queue() -> (&'static Queue<impl Fn(&[u8]) -> io::Result<()> + Sync>, Written) {
        let written = Written::default();
        let write = {
            let written = written.clone();
            move |line: &[u8]| {
                let (lines, is_stuck) = &*written;
                while is_stuck.load(SeqCst) {
                    thread::yield_now();
                }
                lines.lock().unwrap().push(line.to_vec());
                Ok(())
            }
        };
        (Box::leak(Box::new(Queue::new(write))), written)
    }

    #[test]
    fn lines_are_written_in_order_by_a_thread_that_ends_when_idle() {
        let (queue, written) = queue();
        let lines: Vec<Vec<u8>> = (0..1000).map(|i| format!("{i}\n").into_bytes()).collect();
        for line in &lines {
            queue.push(line.clone());
        }
        queue.flush();
        assert_eq!(*written.0.lock().unwrap(), lines);
        while queue.has_writer() {
            thread::yield_now();
        }
        queue.push("again\n");
        queue.flush();
        assert_eq!(written.0.lock().unwrap().len(), 1001);
    }

    #[test]
    fn lines_that_do_not_fit_are_dropped_and_counted_until_the_queue_is_empty() {
        let (queue, written) = queue();
        written.1.store(true, SeqCst);
        for _ in 0..20 {
            queue.push(vec![b'x'; MAX_BYTES / 16]);
        }
        queue.push("short\n");
        assert_eq!(queue.lock().dropped, 5, "lines after the first gap are dropped");
        written.1.store(false, SeqCst);
        queue.flush();
        assert_eq!(queue.lock().unreported, 0);
        queue.push("after the gap\n");
        queue.flush();
        let written = written.0.lock().unwrap();
        assert_eq!(written.len(), 17);
        assert_eq!(written[16], b"after the gap\n");
    }

    #[test]
    fn a_flush_of_a_stuck_queue_returns_after_a_second() {
        let (queue, written) = queue();
        written.1.store(true, SeqCst);
        queue.push("x");
        queue.flush();
        assert_eq!(queue.lock().bytes, 1, "the flush has returned");
        written.1.store(false, SeqCst);
    }

    #[test]
    fn failed_writes_are_counted_and_not_reported_by_a_log_line() {
        let queue: &Queue<_> =
            Box::leak(Box::new(Queue::new(|_: &[u8]| Err(io::ErrorKind::StorageFull.into()))));
        for _ in 0..10 {
            queue.push("x");
        }
        queue.flush();
        let state = queue.lock();
        assert_eq!((state.dropped, state.unreported, state.bytes), (10, 0, 0));
    }
}
