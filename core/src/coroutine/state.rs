//! What a connection lends to its coroutine for a poll.

use alloc::boxed::Box;
use core::{
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{Config, Error, Factory};
use crate::{
    Instant, WriteProgress,
    buffer::Ring,
    shared::{Lock, Shared},
    teardown::InFlightWait,
};

/// The slot through which a connection lends its state to the [`Io`](super::Io). It is empty except
/// during a poll.
pub(super) type Slot = Shared<Lock<Option<Box<IoState>>>>;

/// The buffers of a connection, and what its coroutine waits for.
#[derive(Debug)]
pub(super) struct IoState {
    pub(super) config: Shared<Config>,
    /// The time of the last poll.
    pub(super) now: Instant,
    /// Bytes that were received and not read by the coroutine.
    pub(super) input: Ring,
    /// Whether a byte was received since the connection was made.
    has_received: bool,
    /// Whether the peer has sent a FIN.
    pub(super) has_eof: bool,
    /// Bytes that the coroutine has written, and the kernel has not.
    pub(super) output: Ring,
    pub(super) fin: Fin,
    pub(super) progress: WriteProgress,
    /// When a byte was last received or sent.
    last_activity: Instant,
    deadline: Option<Deadline>,
    /// The time of the last [`Event::Timeout`](crate::Event::Timeout) that passed a deadline. A
    /// deadline up to here has passed; input that arrived in time was read before.
    last_timeout: Instant,
    /// Set once a shutdown was requested.
    draining: Option<InFlightWait>,
    /// The operation that the coroutine waits for.
    pub(super) waiting: Option<Waiting>,
    /// The waker of that operation, if it is not the driver's: a combinator polls the operation
    /// only after this waker was woken.
    waker: Option<Waker>,
    /// The driver's waker in this poll.
    driver: Option<Waker>,
    /// Operations completed.
    pub(super) operations: u64,
    /// The most operations after this poll.
    max_operations: u64,
    /// The coroutine has used up the operations of the last poll.
    pub(super) has_yielded: bool,
}

/// The FIN that [`Io::finish`](super::Io::finish) sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fin {
    None,
    Requested,
    Sent,
}

/// A time limit of the coroutine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Deadline {
    at: Instant,
    limit: Duration,
    /// Whether an operation has failed because of it.
    is_reported: bool,
}

impl Deadline {
    fn new(now: Instant, limit: Duration) -> Self {
        Self { at: now + limit, limit, is_reported: false }
    }
}

/// What an operation waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Input. `is_new`: it may be the start of something new.
    Input { is_new: bool },
    /// Space in the output buffer, or that it is empty.
    Output,
    /// A time.
    Until(Instant),
}

/// An operation that waits since a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) wait: Wait,
    since: Instant,
}

/// What a poll can change and a driver can see, besides the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Observable {
    operations: u64,
    waiting: Option<Waiting>,
    deadline: Option<Deadline>,
    output: usize,
    fin: Fin,
}

impl IoState {
    pub(super) fn new(factory: &Factory, now: Instant) -> Self {
        Self {
            config: factory.config.clone(),
            now,
            input: Ring::new(factory.pool.clone()),
            has_received: false,
            has_eof: false,
            output: Ring::new(factory.pool.clone()),
            fin: Fin::None,
            progress: WriteProgress::new(now),
            last_activity: now,
            deadline: factory.config.deadline.map(|limit| Deadline::new(now, limit)),
            last_timeout: Instant::EPOCH,
            draining: None,
            waiting: None,
            waker: None,
            driver: None,
            operations: 0,
            max_operations: 0,
            has_yielded: false,
        }
    }
}

/// For the coroutine's operations.
impl IoState {
    /// Polls an operation: `attempt` completes it, if that is possible now.
    pub(super) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        wait: Wait,
        attempt: impl FnOnce(&mut Self) -> Poll<Result<T, Error>>,
    ) -> Poll<Result<T, Error>> {
        let polled = if self.operations < self.max_operations {
            let failed = |error| Poll::Ready(Err(error));
            match attempt(self) {
                Poll::Pending => self.failure(wait).map_or(Poll::Pending, failed),
                ready @ Poll::Ready(_) => ready,
            }
        } else {
            self.has_yielded = true;
            Poll::Pending
        };
        if polled.is_ready() {
            self.operations += 1;
        } else {
            self.wait(wait);
            let is_driver = self.driver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
            self.waker = (!is_driver).then(|| cx.waker().clone());
        }
        polled
    }

    /// Records that the operation waits.
    fn wait(&mut self, wait: Wait) {
        if self.waiting.is_none() {
            self.waiting = Some(Waiting { wait, since: self.now });
            self.restart_drain(self.now);
        }
    }

    /// Records that the operation has completed or was dropped. Returns its waker, to be dropped
    /// outside of the lock.
    pub(super) fn end_wait(&mut self) -> Option<Waker> {
        self.waiting = None;
        self.waker.take()
    }

    /// Why an operation that waits has failed.
    fn failure(&mut self, wait: Wait) -> Option<Error> {
        if let Some(limit) = self.passed_deadline(Some(wait)) {
            self.deadline = Some(Deadline { is_reported: true, ..self.deadline? });
            Some(Error::Deadline { limit })
        } else if self.has_passed(self.drain_deadline()) {
            Some(Error::ShutDown)
        } else if self.has_passed(self.read_deadline()) {
            self.config.read_timeout.map(|limit| Error::ReadTimeout { limit })
        } else {
            None
        }
    }

    /// Appends as much of `bytes` as there is space for, and returns the rest.
    pub(super) fn queue<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [u8] {
        while !bytes.is_empty() && !self.output.is_full() {
            if self.output.is_empty() {
                self.progress.queued(self.now);
            }
            let spare = self.output.spare();
            let (now, rest) = bytes.split_at(bytes.len().min(spare.len()));
            spare[..now.len()].copy_from_slice(now);
            self.output.commit(now.len());
            bytes = rest;
        }
        bytes
    }

    /// Moves the first bytes of the input to `buf`, as many as there are.
    pub(super) fn take(&mut self, buf: &mut [u8]) -> usize {
        let mut n = 0;
        for slice in self.input.slices() {
            let free = &mut buf[n..];
            let len = slice.len().min(free.len());
            free[..len].copy_from_slice(&slice[..len]);
            n += len;
        }
        self.input.consume(n);
        if self.has_eof {
            // No further read follows, after which the driver would release the buffer.
            self.input.release();
        }
        n
    }

    /// Sets the deadline to `limit` from now.
    pub(super) fn set_deadline(&mut self, limit: Option<Duration>) {
        self.deadline = limit.map(|limit| Deadline::new(self.now, limit));
    }
}

/// For the connection.
impl IoState {
    /// Prepares a poll, which completes at most `max_operations`.
    pub(super) fn begin_poll(&mut self, now: Instant, cx: &Context<'_>, max_operations: u64) {
        self.now = now;
        self.max_operations = self.operations + max_operations;
        if core::mem::take(&mut self.has_yielded) {
            self.wake();
        }
        if self.driver.as_ref().is_none_or(|driver| !driver.will_wake(cx.waker())) {
            self.driver = Some(cx.waker().clone());
        }
    }

    /// Wakes the operation that waits, if a combinator would not poll it otherwise.
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    pub(super) fn observable(&self) -> Observable {
        let Self { operations, waiting, deadline, fin, .. } = *self;
        Observable { operations, waiting, deadline, output: self.output.len(), fin }
    }

    pub(super) fn handle_read(&mut self, now: Instant, n: usize) {
        if self.drain_deadline().is_some()
            && let Some(drain) = &mut self.draining
        {
            drain.handle_read(now);
        }
        self.input.commit(n);
        self.has_received = true;
        self.wake();
        self.last_activity = now;
        self.restart_drain(now);
    }

    pub(super) fn handle_eof(&mut self) {
        self.has_eof = true;
        self.wake();
        self.input.release();
    }

    pub(super) fn handle_written(&mut self, now: Instant, n: usize) {
        self.output.consume(n);
        // The driver releases buffers only after it has tried to read.
        self.output.release();
        self.progress.written(now, n);
        self.wake();
        self.last_activity = now;
        self.restart_drain(now);
    }

    pub(super) fn handle_finished(&mut self) {
        self.fin = Fin::Sent;
        self.wake();
    }

    /// Handles a deadline that has passed, of the coroutine or of its operation.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.last_timeout = now;
        self.wake();
    }

    pub(super) fn shut_down(&mut self, now: Instant) {
        self.draining.get_or_insert_with(|| InFlightWait::new(now));
    }

    /// Begins the wait for input anew, if there is one after a shutdown was requested.
    fn restart_drain(&mut self, now: Instant) {
        if let Some(drain) = &mut self.draining {
            drain.wait(now);
        }
    }

    /// Whether output or a FIN is pending.
    pub(super) fn has_output(&self) -> bool {
        !self.output.is_empty() || self.fin == Fin::Requested
    }

    /// Whether a read into the input buffer is worth its system call.
    pub(super) fn has_room(&self) -> bool {
        let waits_for_input = || {
            let is_input = |waiting: Waiting| matches!(waiting.wait, Wait::Input { .. });
            self.waiting.is_some_and(is_input) && !self.input.is_full()
        };
        self.input.len() <= self.input.capacity() / 2 || waits_for_input()
    }

    /// The limit of the coroutine's deadline, if that has passed and ends this wait. Once the
    /// coroutine knows, output is sent under the write timeout.
    pub(super) fn passed_deadline(&self, wait: Option<Wait>) -> Option<Duration> {
        let Deadline { at, limit, is_reported } = self.deadline?;
        let replies = is_reported && wait == Some(Wait::Output);
        (self.has_passed(Some(at)) && !replies).then_some(limit)
    }

    fn has_passed(&self, deadline: Option<Instant>) -> bool {
        deadline.is_some_and(|deadline| deadline <= self.last_timeout)
    }

    /// When the waiting read fails, because no byte has moved.
    fn read_deadline(&self) -> Option<Instant> {
        let Waiting { wait: Wait::Input { .. }, since } = self.waiting? else { return None };
        let limit = self.config.read_timeout.filter(|_| self.output.is_empty())?;
        Some(since.max(self.last_activity) + limit)
    }

    /// When the waiting read fails, because a shutdown was requested.
    fn drain_deadline(&self) -> Option<Instant> {
        let Waiting { wait: Wait::Input { is_new }, .. } = self.waiting? else { return None };
        let may_end = self.output.is_empty() && (is_new || !self.has_received);
        self.draining.as_ref().filter(|_| may_end).map(InFlightWait::deadline)
    }

    /// The earliest deadline of the coroutine and its operation that has not passed.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let sleep = match self.waiting {
            Some(Waiting { wait: Wait::Until(deadline), .. }) => Some(deadline),
            Some(_) | None => None,
        };
        let deadline = self.deadline.map(|deadline| deadline.at);
        [deadline, self.read_deadline(), self.drain_deadline(), sleep]
            .into_iter()
            .flatten()
            .filter(|deadline| *deadline > self.last_timeout)
            .min()
    }

    /// When the peer must have acknowledged output; `None` if none is pending.
    pub(super) fn write_deadline(&self) -> Option<Instant> {
        self.progress.pending_deadline(self.has_output(), self.config.write_timeout)
    }

    /// Discards the input.
    pub(super) fn clear_input(&mut self) {
        self.input.consume(self.input.len());
        self.input.release();
    }

    /// Discards the output.
    pub(super) fn clear_output(&mut self) {
        self.output.consume(self.output.len());
        self.output.release();
    }
}
