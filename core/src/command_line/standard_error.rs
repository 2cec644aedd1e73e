//! Standard error: a bounded queue, and a thread that writes what is in it.
//!
//! Nobody may be there to read it: a full pipe, a terminal that was stopped and a slow disk block
//! write(2). So nothing in this process writes there but the queue's own thread.

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

use crate::status::{Metric, Subject, Value};

/// The process' standard error.
pub(super) static STANDARD_ERROR: Queue = Queue::new(|line| io::stderr().write_all(line));

/// Lines that wait to be written, 1 MiB of them at most.
///
/// A line that has no room is dropped, and so are those behind it until all that wait have been
/// written: then a line in the log says how many were dropped at this point.
///
/// The thread ends when there has been nothing to write for a second. A thread that stays makes each
/// system call of a process that has no other dearer, for the table of files that they share: by 3 to
/// 4 % of a proxied round trip.
pub(super) struct Queue<W = fn(&[u8]) -> io::Result<()>> {
    write: W,
    state: Mutex<State>,
    /// There is a line to write; or there is none any more.
    changed: Condvar,
}

struct State {
    lines: VecDeque<Vec<u8>>,
    /// In all lines, that which is being written among them.
    bytes: usize,
    has_writer: bool,
    /// Lines dropped in all.
    dropped: u64,
    /// Lines dropped since the log last said how many.
    unreported: u64,
}

impl<W: Fn(&[u8]) -> io::Result<()> + Sync> Queue<W> {
    const fn new(write: W) -> Self {
        let lines = VecDeque::new();
        let state = State { lines, bytes: 0, has_writer: false, dropped: 0, unreported: 0 };
        Self { write, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Has `line` written, with no other in between, if there is room.
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

    /// Waits until all has been written, for a second at most: where nobody reads, nothing will be.
    pub(super) fn flush(&'static self) {
        let state = self.lock();
        if state.bytes == 0 {
            return;
        }
        self.wake_writer(state);
        let is_pending = |state: &mut State| state.bytes > 0 || state.unreported > 0;
        drop(self.changed.wait_timeout_while(self.lock(), FLUSH_TIMEOUT, is_pending));
    }

    /// Whether it has its thread at present.
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
            // There is no room for a thread: the next line tries again.
            self.lock().has_writer = false;
        }
    }

    fn write_lines(&'static self) {
        // Lines that could not be written (the disk is full) since the last one that could.
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

/// Has what is logged written to standard error.
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

/// Flushes standard error when it is dropped: for the end of `main`, by a panic as well.
pub(super) struct FlushOnDrop;

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        STANDARD_ERROR.flush();
    }
}

/// What a server's status says about its log.
#[derive(Debug)]
pub(super) struct LogMetrics;

impl Subject for LogMetrics {
    fn metrics(&self) -> Vec<Metric> {
        vec![Metric::new(
            "wirestate_log_dropped_lines",
            "Log lines dropped: nobody has read them in time, or the disk is full.",
            Value::Counter(STANDARD_ERROR.lock().dropped),
        )]
    }
}

const MAX_BYTES: usize = 1024 * 1024;
/// So long a process stays for its log when it ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// So long the thread stays for the next line.
const LINGER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    };

    use super::*;

    type Written = Arc<(Mutex<Vec<Vec<u8>>>, AtomicBool)>;

    /// A queue to somewhere, where nothing can be written while its flag is set.
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
