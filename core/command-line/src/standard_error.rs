//! Standard error: a bounded queue, and a thread that writes its lines.
//!
//! write(2) blocks on a full pipe, a stopped terminal or a slow disk. So only the queue's own
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
use wirestate_core::status::{Metric, MetricValue, MetricsSource};

/// The process' standard error.
pub(super) static STANDARD_ERROR: Queue = Queue::new(|line| io::stderr().write_all(line));

/// Lines that wait to be written, 1 MiB at most.
///
/// A line for which there is no room is dropped, and so are all others until the queue is empty.
/// Then a line in the log says how many were dropped at this point.
///
/// The thread ends after a second without a line. A permanent thread would make each system call of
/// a process with a single other thread slower, since they share the table of files: by 3 to 4 % of
/// a proxied round trip.
pub(super) struct Queue<W = fn(&[u8]) -> io::Result<()>> {
    write: W,
    state: Mutex<State>,
    /// Signalled when a line is pushed, and when the queue has become empty.
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

    /// Queues `line` to be written without another in between, or drops it if there is no room.
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

    /// Waits until all lines are written, for 1 s at most: if nobody reads, none will be.
    pub(super) fn flush(&'static self) {
        let state = self.lock();
        if state.bytes == 0 {
            return;
        }
        self.wake_writer(state);
        let is_pending = |state: &mut State| state.bytes > 0 || state.unreported > 0;
        drop(self.changed.wait_timeout_while(self.lock(), FLUSH_TIMEOUT, is_pending));
    }

    /// Whether the thread runs now.
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
            // No thread could be started: the next line tries again.
            self.lock().has_writer = false;
        }
    }

    fn write_lines(&'static self) {
        // Lines that could not be written (the disk is full) since the last line that could.
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
                let waited = self.changed.wait_timeout_while(state, LINGER, is_empty);
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
pub(super) struct Log;

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        STANDARD_ERROR.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Flushes standard error when it is dropped, at the end of `main` or by a panic.
pub(super) struct FlushOnDrop;

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        STANDARD_ERROR.flush();
    }
}

/// The metrics of the log.
#[derive(Debug)]
pub(super) struct LogMetrics;

impl MetricsSource for LogMetrics {
    fn metrics(&self) -> Vec<Metric> {
        vec![Metric::new(
            "wirestate_log_dropped_lines",
            "Log lines dropped: not written in time, or the disk is full.",
            MetricValue::Counter(STANDARD_ERROR.lock().dropped),
        )]
    }
}

const MAX_BYTES: usize = 1024 * 1024;
/// How long a process waits at its end for its log to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the thread waits for the next line.
const LINGER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    };

    use super::*;

    type Written = Arc<(Mutex<Vec<Vec<u8>>>, AtomicBool)>;

    /// A queue whose lines are collected, and which blocks while its flag is set.
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
    fn lines_are_written_in_order_by_a_thread_that_does_not_stay() {
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
    fn what_has_no_room_is_dropped_and_counted_until_all_is_written() {
        let (queue, written) = queue();
        written.1.store(true, SeqCst);
        for _ in 0..20 {
            queue.push(vec![b'x'; MAX_BYTES / 16]);
        }
        queue.push("short\n");
        assert_eq!(queue.lock().dropped, 5, "the gap is one");
        written.1.store(false, SeqCst);
        queue.flush();
        assert_eq!(queue.lock().unreported, 0);
        queue.push("behind the gap\n");
        queue.flush();
        let written = written.0.lock().unwrap();
        assert_eq!(written.len(), 17);
        assert_eq!(written[16], b"behind the gap\n");
    }

    #[test]
    fn a_queue_that_is_stuck_holds_an_end_for_a_second_at_most() {
        let (queue, written) = queue();
        written.1.store(true, SeqCst);
        queue.push("x");
        queue.flush();
        assert_eq!(queue.lock().bytes, 1, "it has come back all the same");
        written.1.store(false, SeqCst);
    }

    #[test]
    fn a_full_disk_is_counted_and_no_reason_to_write_more() {
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
