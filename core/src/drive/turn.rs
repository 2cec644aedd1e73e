//! One turn of one machine on one socket.

use alloc::boxed::Box;
use core::{
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;

use super::{IoError, Sink, Source, throttling::Throttling};
use crate::{
    ConnectionError, Direction, Event, Instant, Interest, Machine, Outbound, admission::Throttle,
    machine::MAX_SLICES, shared::Shared,
};

/// What a driver remembers of one connection between turns.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    blocked: Blocked,
    /// Whether nothing more can move until the waker is woken, as of the last turn that moved
    /// something.
    quiescent: bool,
    /// The error of a failed write or read.
    failed: Option<ConnectionError>,
    /// Whether the peer has sent a FIN.
    eof: bool,
    /// Whether a FIN or an RST was sent.
    output: Output,
    /// Boxed, since most connections never need them.
    limits: Option<Box<Limits>>,
}

/// Limits beside those of the machine.
#[derive(Debug, Default)]
struct Limits {
    flush: Flush,
    /// The limits of the connection's bytes, if there are any.
    throttling: Option<Throttling>,
}

/// The flush timeout of a sink whose machine has ended.
#[derive(Clone, Copy, Debug)]
struct Flush {
    timeout: Option<Duration>,
    /// The bytes that the sink held when it last made progress.
    held: usize,
    /// When it must have made progress again. `None`: it holds nothing, or there is no timeout.
    deadline: Option<Instant>,
}

impl Default for Flush {
    fn default() -> Self {
        Self { timeout: Some(FLUSH_TIMEOUT), held: usize::MAX, deadline: None }
    }
}

/// The calls that would block: the socket has a waker for each.
#[derive(Clone, Copy, Debug, Default)]
struct Blocked {
    read: bool,
    /// A write or a FIN.
    write: bool,
    /// The sink still holds output.
    flush: bool,
}

/// Whether the output has ended, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Output {
    #[default]
    Open,
    Finished,
    Reset,
}

impl Readiness {
    /// Sets the flush timeout: see [`Seat::flush_timeout`](super::Seat::flush_timeout).
    pub(crate) fn set_flush_timeout(&mut self, flush_timeout: Option<Duration>) {
        self.limits.get_or_insert_default().flush.timeout = flush_timeout;
    }

    /// Sets the limits of the connection's bytes.
    pub(crate) fn set_throttle(&mut self, throttle: &Shared<Throttle>) {
        self.limits.get_or_insert_default().throttling = Some(Throttling::new(throttle.clone()));
    }

    fn throttling(&self) -> Option<&Throttling> {
        self.limits.as_ref()?.throttling.as_ref()
    }

    fn throttling_mut(&mut self) -> Option<&mut Throttling> {
        self.limits.as_mut()?.throttling.as_mut()
    }

    /// The most bytes that may move in this turn; `None` if none may.
    fn allowance(&mut self, direction: Direction, now: Instant) -> Option<usize> {
        match self.throttling_mut() {
            None => Some(usize::MAX),
            Some(throttling) => throttling.allowance(direction, now),
        }
    }

    /// Records that `bytes` have moved.
    fn charge(&self, direction: Direction, bytes: usize, now: Instant) {
        if let Some(throttling) = self.throttling() {
            throttling.charge(direction, bytes, now);
        }
    }

    /// Forgets what the last turn has held back.
    pub(crate) fn begin_turn(&mut self) {
        if let Some(throttling) = self.throttling_mut() {
            throttling.begin_turn();
        }
    }

    /// The deadline of a machine whose own one is `deadline`, and of the bytes that are held back.
    pub(crate) fn throttled(&self, deadline: Option<Instant>) -> Option<Instant> {
        match self.throttling() {
            None => deadline,
            Some(throttling) => throttling.deadline(deadline),
        }
    }

    /// Marks the socket as possibly ready: the next turn tries again.
    pub(crate) fn ready(&mut self, read: bool, write: bool) {
        self.blocked.read &= !read;
        self.blocked.write &= !write;
        self.blocked.flush &= !write;
    }

    /// Clears all readiness, here and in the socket's runtime: the next turn asks the kernel.
    pub(crate) fn recheck(&mut self, socket: &mut impl Source) {
        if self.output != Output::Reset {
            socket.recheck();
            self.ready(true, true);
        }
    }

    /// After [`Turn::Blocked`]: whether the machine waits for a read, and whether the machine or
    /// its sink waits for a write.
    pub(crate) fn waits(&self, interest: Interest) -> (bool, bool) {
        let writes = matches!(interest.write, Outbound::Flush | Outbound::Finish);
        (interest.read && self.blocked.read, self.blocked.flush || writes && self.blocked.write)
    }

    /// Whether no read is due: the last one would have blocked, or input is held back.
    pub(crate) fn is_read_blocked(&self) -> bool {
        self.blocked.read || self.throttling().is_some_and(Throttling::holds_input)
    }

    /// The deadline of `machine`, or, once it has ended, the deadline of the flush. (Before, bytes
    /// that the sink holds count as unacknowledged, so the machine's own deadlines cover them.)
    pub(crate) fn deadline<M: Machine>(&self, machine: &M) -> Option<Instant> {
        if machine.interest().is_done() {
            return self.flush_deadline();
        }
        self.throttled(machine.poll_timeout())
    }

    /// When the sink of an ended machine must have made progress. `None`: it holds nothing, or
    /// there is no timeout.
    pub(crate) fn flush_deadline(&self) -> Option<Instant> {
        self.limits.as_ref()?.flush.deadline
    }

    /// Handles a passed deadline of the flush, and returns the number of unacknowledged bytes for
    /// [`Event::Timeout`].
    pub(crate) fn handle_timeout(
        &mut self,
        machine: &mut impl Machine,
        socket: &impl Sink,
        now: Instant,
    ) -> usize {
        if machine.interest().is_done() {
            if self.flush_deadline().is_some_and(|deadline| deadline <= now) {
                self.fail(machine, now, ConnectionError::TimedOut);
            }
            return 0;
        }
        let is_excused = self.throttling_mut().is_some_and(Throttling::take_excuse);
        if is_excused { 0 } else { socket.unacknowledged() }
    }

    /// Whether the peer has sent a FIN or a reset.
    pub(crate) fn peer_has_left(&self) -> bool {
        self.eof || self.failed == Some(ConnectionError::Reset)
    }

    /// After [`Turn::Moved`]: whether another turn would find nothing to do.
    #[cfg(feature = "std")]
    pub(crate) fn is_quiescent(&self) -> bool {
        self.quiescent
    }

    /// Whether the sink holds output. False after a reset.
    pub(crate) fn holds(&self, socket: &impl Sink) -> bool {
        self.output != Output::Reset && socket.held() > 0
    }

    /// Whether the connection must end by a reset, because it has failed or its sink holds output.
    pub(crate) fn must_reset(&self, socket: &impl Sink) -> bool {
        self.output != Output::Reset && self.failed.is_some() || self.holds(socket)
    }

    /// Sends an RST, once.
    pub(crate) fn reset(&mut self, socket: &mut impl Sink) {
        if self.output != Output::Reset {
            self.output = Output::Reset;
            socket.reset();
        }
    }

    /// Handles the outcome of a write, flush or FIN. Returns the bytes that it moved; `None` if it
    /// would block.
    fn progress<M: Machine>(
        &mut self,
        machine: &mut M,
        now: Instant,
        outcome: Poll<Result<usize, IoError>>,
    ) -> Option<usize> {
        match outcome {
            Poll::Pending => None,
            Poll::Ready(Ok(n)) => Some(n),
            Poll::Ready(Err(IoError::Interrupted)) => Some(0),
            Poll::Ready(Err(IoError::Connection(error))) => {
                self.fail(machine, now, error);
                Some(0)
            }
        }
    }

    /// Handles a failed write.
    fn fail<M: Machine>(&mut self, machine: &mut M, now: Instant, error: ConnectionError) {
        self.failed = Some(error);
        self.blocked.flush = false;
        let interest = machine.interest();
        if self.output == Output::Open && !interest.is_done() && interest.write != Outbound::Reset {
            machine.handle(now, Event::Error(Direction::Write, error));
            debug_assert!(sends_no_more(machine), "a machine must not send after a failed write");
        }
    }
}

/// The outcome of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Something moved: take another turn.
    Moved {
        /// Bytes received in this turn.
        read: usize,
        /// Bytes sent in this turn.
        written: usize,
    },
    /// Nothing can move until the waker is woken or a deadline passes.
    Blocked,
    /// The machine has ended, and the sink holds no output.
    Done,
}

/// A machine, its socket, and how bytes pass between them.
pub(crate) trait Transfer {
    type Machine: Machine;
    type Socket: Source + Sink;

    fn machine(&mut self) -> &mut Self::Machine;

    fn socket(&mut self) -> &mut Self::Socket;

    /// Reads at most `max` bytes once, and reports them to the machine.
    fn read(
        &mut self,
        max: usize,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, IoError>>;

    /// Writes at most `max` bytes once, and reports them to the machine.
    fn write(
        &mut self,
        max: usize,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, IoError>>;
}

/// Reads into the machine's memory and writes from it.
pub(crate) struct Direct<'a, M, S> {
    pub(crate) machine: &'a mut M,
    pub(crate) socket: &'a mut S,
}

impl<M: Machine, S: Source + Sink> Transfer for Direct<'_, M, S> {
    type Machine = M;
    type Socket = S;

    fn machine(&mut self) -> &mut M {
        self.machine
    }

    fn socket(&mut self) -> &mut S {
        self.socket
    }

    fn read(
        &mut self,
        max: usize,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, IoError>> {
        let buf = self.machine.read_buf();
        debug_assert!(!buf.is_empty(), "a machine that wants to read must offer a buffer");
        let len = buf.len().min(max);
        let n = ready!(self.socket.poll_read(cx, &mut buf[..len]))?;
        if n > 0 {
            self.machine.handle(now, Event::Read(n));
        }
        Poll::Ready(Ok(n))
    }

    fn write(
        &mut self,
        max: usize,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, IoError>> {
        let max_owned = self.socket.max_owned();
        let n = if max_owned > 0 {
            let mut bufs = [const { Bytes::new() }; MAX_SLICES];
            let count = self.machine.write_owned(&mut bufs, max_owned.min(max));
            ready!(self.socket.poll_write_owned(cx, &mut bufs[..count]))?
        } else {
            let mut few = [&[][..]; FEW_SLICES];
            let count = self.machine.write_bufs(&mut few);
            if count < FEW_SLICES {
                ready!(poll_write(self.socket, cx, at_most(max, &mut few[..count])))?
            } else {
                let mut many = [&[][..]; MAX_SLICES];
                let count = self.machine.write_bufs(&mut many);
                ready!(poll_write(self.socket, cx, at_most(max, &mut many[..count])))?
            }
        };
        if n > 0 {
            self.machine.handle(now, Event::Written(n));
        }
        Poll::Ready(Ok(n))
    }
}

/// The first `max` bytes of `bufs`.
pub(crate) fn at_most<'a, 'b>(max: usize, bufs: &'b mut [&'a [u8]]) -> &'b [&'a [u8]] {
    if max == usize::MAX {
        return bufs;
    }
    let (mut count, mut remaining) = (0, max);
    while count < bufs.len() && remaining > 0 {
        let buf = bufs[count];
        bufs[count] = &buf[..buf.len().min(remaining)];
        remaining -= bufs[count].len();
        count += 1;
    }
    &bufs[..count]
}

fn poll_write<S: Sink>(
    socket: &mut S,
    cx: &mut Context<'_>,
    bufs: &[&[u8]],
) -> Poll<Result<usize, IoError>> {
    debug_assert!(!bufs.is_empty(), "a machine that wants to flush must have output");
    debug_assert!(bufs.iter().all(|buf| !buf.is_empty()), "a slice must not be empty");
    socket.poll_write(cx, bufs)
}

/// Takes one turn: at most one write and one read, as the [module](super) describes.
///
/// The caller repeats it until it returns [`Turn::Blocked`], then handles deadlines, sends
/// [`Event::Release`], and sleeps.
///
/// # Panics
/// With debug assertions, if the machine breaks its contract.
pub(crate) fn turn(
    transfer: &mut impl Transfer,
    readiness: &mut Readiness,
    now: Instant,
    cx: &mut Context<'_>,
) -> Turn {
    readiness.begin_turn();
    let shared_changed = transfer.machine().poll_shared(now, cx);
    let before = transfer.machine().interest();
    if before.is_done() {
        return end(transfer, readiness, now, cx);
    }
    let written = match before.write {
        Outbound::Idle | Outbound::Finished => None,
        Outbound::Flush => write(transfer, readiness, now, cx),
        Outbound::Finish if readiness.failed.is_none() => finish(transfer, readiness, now, cx),
        // On a failed connection, a FIN would tell the peer that the output is complete.
        Outbound::Finish | Outbound::Reset => {
            readiness.reset(transfer.socket());
            transfer.machine().handle(now, Event::Finished);
            debug_assert!(
                before.write == Outbound::Finish || transfer.machine().interest().is_done(),
                "a machine must end after a reset"
            );
            Some(0)
        }
    };
    // The write may have ended the machine, or made room for input.
    let after = if written.is_some() { transfer.machine().interest() } else { before };
    let reads = after.read && readiness.output != Output::Reset;
    let read = if reads { read(transfer, readiness, now, cx) } else { None };
    if read.is_some() && transfer.socket().held() > 0 {
        // The sink may have waited for this input, as in a TLS handshake.
        readiness.ready(false, true);
    }
    let failed = flush(transfer, readiness, now, cx);
    if read.is_none() && written.is_none() && !failed && !shared_changed {
        debug_assert_eq!(
            transfer.machine().interest(),
            before,
            "the interest must not change without an event"
        );
        return Turn::Blocked;
    }
    readiness.quiescent =
        !shared_changed && !failed && read.is_none() && after.write == Outbound::Idle;
    Turn::Moved { read: read.unwrap_or(0), written: written.unwrap_or(0) }
}

/// Ends the connection of a machine that has ended: flushes the sink, or resets a connection that
/// has failed.
fn end(
    transfer: &mut impl Transfer,
    readiness: &mut Readiness,
    now: Instant,
    cx: &mut Context<'_>,
) -> Turn {
    if flush(transfer, readiness, now, cx) {
        return Turn::Moved { read: 0, written: 0 };
    }
    if readiness.failed.is_some() {
        readiness.reset(transfer.socket());
    } else if readiness.blocked.flush && readiness.output != Output::Reset {
        let held = transfer.socket().held();
        let flush = &mut readiness.limits.get_or_insert_default().flush;
        if held < flush.held {
            flush.held = held;
            flush.deadline = flush.timeout.map(|limit| now + limit);
        }
        return Turn::Blocked;
    }
    Turn::Done
}

/// Writes, if the socket may be writable. `None` if nothing happened.
fn write(
    transfer: &mut impl Transfer,
    readiness: &mut Readiness,
    now: Instant,
    cx: &mut Context<'_>,
) -> Option<usize> {
    if readiness.blocked.write {
        return None;
    }
    let max = readiness.allowance(Direction::Write, now)?;
    if let Some(throttling) = readiness.throttling_mut() {
        throttling.before_write(transfer.socket());
    }
    // A write of 0 bytes must not be repeated: that would spin.
    let non_zero = |n| if n > 0 { Ok(n) } else { Err(ConnectionError::WriteZero.into()) };
    let written = transfer.write(max, now, cx).map(|written| written.and_then(non_zero));
    let written = readiness.progress(transfer.machine(), now, written);
    readiness.blocked.write = written.is_none();
    readiness.charge(Direction::Write, written.unwrap_or(0), now);
    written
}

/// Sends a FIN, if the socket may be writable. `None` if nothing happened.
fn finish(
    transfer: &mut impl Transfer,
    readiness: &mut Readiness,
    now: Instant,
    cx: &mut Context<'_>,
) -> Option<usize> {
    if readiness.blocked.write {
        return None;
    }
    let finished = transfer.socket().poll_finish(cx);
    if let Poll::Ready(Ok(())) = finished {
        readiness.output = Output::Finished;
        let machine = transfer.machine();
        machine.handle(now, Event::Finished);
        debug_assert!(
            sends_no_more(machine) && machine.interest().write != Outbound::Reset,
            "a machine must not send after a FIN"
        );
    }
    let finished = readiness.progress(transfer.machine(), now, finished.map_ok(|()| 0));
    readiness.blocked.write = finished.is_none();
    finished
}

/// Flushes the sink. Returns true if that failed or was interrupted.
pub(crate) fn flush(
    transfer: &mut impl Transfer,
    readiness: &mut Readiness,
    now: Instant,
    cx: &mut Context<'_>,
) -> bool {
    if readiness.blocked.flush || readiness.failed.is_some() || readiness.output == Output::Reset {
        return false;
    }
    let flushed = transfer.socket().poll_flush(cx);
    if let Poll::Ready(Ok(())) = flushed {
        return false;
    }
    let flushed = readiness.progress(transfer.machine(), now, flushed.map_ok(|()| 0));
    readiness.blocked.flush = flushed.is_none();
    flushed.is_some()
}

/// Whether the machine's interest rules out further output.
fn sends_no_more<M: Machine>(machine: &M) -> bool {
    let interest = machine.interest();
    match interest.write {
        Outbound::Finished | Outbound::Reset => true,
        Outbound::Idle => !interest.read,
        Outbound::Flush | Outbound::Finish => false,
    }
}

/// Reads, if the socket may be readable. `None` if nothing happened.
fn read(
    transfer: &mut impl Transfer,
    readiness: &mut Readiness,
    now: Instant,
    cx: &mut Context<'_>,
) -> Option<usize> {
    if readiness.blocked.read {
        return None;
    }
    let max = readiness.allowance(Direction::Read, now)?;
    let error = match transfer.read(max, now, cx) {
        Poll::Pending => {
            readiness.blocked.read = true;
            return None;
        }
        Poll::Ready(Ok(n)) if n > 0 => {
            readiness.charge(Direction::Read, n, now);
            return Some(n);
        }
        // After a failed write, the kernel's end of input is not the peer's FIN.
        Poll::Ready(Ok(_)) => readiness.failed,
        Poll::Ready(Err(IoError::Interrupted)) => return Some(0),
        Poll::Ready(Err(IoError::Connection(error))) => Some(error),
    };
    readiness.eof = error.is_none();
    readiness.failed = readiness.failed.or(error);
    let machine = transfer.machine();
    machine.handle(now, error.map_or(Event::Eof, |error| Event::Error(Direction::Read, error)));
    debug_assert!(!machine.interest().read, "a machine must not read after the end of the input");
    Some(0)
}

/// Most machines write fewer slices than this. A small array is tried first, because clearing one
/// of [`MAX_SLICES`] costs time.
const FEW_SLICES: usize = 4;
/// The default flush timeout.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);
