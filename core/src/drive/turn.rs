//! One turn of one machine on one socket.

use alloc::boxed::Box;
use core::{
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;

use super::{IoError, Sink, Source};
use crate::{ConnectionError, Direction, Event, Instant, Interest, Machine, Outbound};

/// What has to be remembered of one connection between turns.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    blocked: Blocked,
    /// The last turn that has moved something has left nothing that can move before the waker is
    /// woken.
    quiescent: bool,
    /// How a write has failed, or a read.
    failed: Option<ConnectionError>,
    /// The peer has sent a FIN.
    eof: bool,
    /// How the output has ended.
    output: Output,
    /// Apart, since it is seldom needed, and every connection has one of these.
    flush: Option<Box<Flush>>,
}

/// What the sink of an ended machine holds.
#[derive(Clone, Copy, Debug)]
struct Flush {
    timeout: Option<Duration>,
    /// What it held when it last made progress, and until when it has to make more.
    held: usize,
    deadline: Option<Instant>,
}

impl Default for Flush {
    fn default() -> Self {
        Self { timeout: Some(FLUSH_TIMEOUT), held: usize::MAX, deadline: None }
    }
}

/// What would block, and whose waker is with the socket.
#[derive(Clone, Copy, Debug, Default)]
struct Blocked {
    read: bool,
    /// A write or a FIN.
    write: bool,
    /// The sink still holds output.
    flush: bool,
}

/// How the output has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Output {
    #[default]
    Open,
    Finished,
    Reset,
}

impl Readiness {
    /// Limits how long the sink may hold output without progress once the machine has ended.
    pub(crate) fn set_flush_timeout(&mut self, flush_timeout: Option<Duration>) {
        self.flush.get_or_insert_default().timeout = flush_timeout;
    }

    /// The socket may have become ready: turns ask it again.
    pub(crate) fn ready(&mut self, read: bool, write: bool) {
        self.blocked.read &= !read;
        self.blocked.write &= !write;
        self.blocked.flush &= !write;
    }

    /// Turns ask the socket once more, whatever was found before.
    pub(crate) fn recheck(&mut self, socket: &mut impl Source) {
        if self.output != Output::Reset {
            socket.recheck();
            self.ready(true, true);
        }
    }

    /// Whether `machine` waits for a read, and whether it or its sink waits for a write, after
    /// [`Turn::Blocked`].
    pub(crate) fn waits(&self, interest: Interest) -> (bool, bool) {
        let writes = matches!(interest.write, Outbound::Flush | Outbound::Finish);
        (interest.read && self.blocked.read, self.blocked.flush || writes && self.blocked.write)
    }

    /// Whether a read found nothing since the socket was last ready.
    pub(crate) fn is_read_blocked(&self) -> bool {
        self.blocked.read
    }

    /// The earlier deadline of `machine` and, once that has ended, of what its sink holds. (Before,
    /// the machine's own deadlines cover what the sink holds, since that is not acknowledged.)
    pub(crate) fn deadline<M: Machine>(&self, machine: &M) -> Option<Instant> {
        if machine.interest().is_done() { self.flush_deadline() } else { machine.poll_timeout() }
    }

    /// When the sink of an ended machine must have made progress; `None` while it holds nothing.
    pub(crate) fn flush_deadline(&self) -> Option<Instant> {
        self.flush.as_ref()?.deadline
    }

    /// Handles a deadline that has passed. Returns the bytes that are not acknowledged.
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
        socket.unacknowledged()
    }

    /// Whether the peer has sent a FIN or a reset.
    pub(crate) fn peer_has_left(&self) -> bool {
        self.eof || self.failed == Some(ConnectionError::Reset)
    }

    /// Of a turn that has moved something: whether the next one would find nothing to do, unless
    /// the machine is called otherwise meanwhile.
    #[cfg(feature = "std")]
    pub(crate) fn is_quiescent(&self) -> bool {
        self.quiescent
    }

    /// Whether the sink holds output. After a reset it is not asked.
    pub(crate) fn holds(&self, socket: &impl Sink) -> bool {
        self.output != Output::Reset && socket.held() > 0
    }

    /// Whether a FIN would say falsely that all was sent, apart from what the machine wants to
    /// send.
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

    /// Returns what a call on the output has moved; `None` if it would block.
    fn sent<M: Machine>(
        &mut self,
        machine: &mut M,
        now: Instant,
        sent: Poll<Result<usize, IoError>>,
    ) -> Option<usize> {
        match sent {
            Poll::Pending => None,
            Poll::Ready(Ok(n)) => Some(n),
            Poll::Ready(Err(IoError::Interrupted)) => Some(0),
            Poll::Ready(Err(IoError::Connection(why))) => {
                self.fail(machine, now, why);
                Some(0)
            }
        }
    }

    /// Writing has failed.
    fn fail<M: Machine>(&mut self, machine: &mut M, now: Instant, why: ConnectionError) {
        self.failed = Some(why);
        self.blocked.flush = false;
        let wants = machine.interest();
        if self.output == Output::Open && !wants.is_done() && wants.write != Outbound::Reset {
            machine.handle(now, Event::Error(Direction::Write, why));
            debug_assert!(sends_no_more(machine), "nothing can be sent behind a failed write");
        }
    }
}

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Something moved: take another turn. The figures are bytes received and sent.
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

/// A machine and its socket, and how bytes go from one to the other.
pub(crate) trait Transfer {
    type Machine: Machine;
    type Socket: Source + Sink;

    fn machine(&mut self) -> &mut Self::Machine;

    fn socket(&mut self) -> &mut Self::Socket;

    /// One read, of which the machine is told if it finds bytes.
    fn read(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<Result<usize, IoError>>;

    /// One write, of which the machine is told if it takes bytes.
    fn write(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<Result<usize, IoError>>;
}

/// The kernel reads into the machine's memory and writes from it.
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

    fn read(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<Result<usize, IoError>> {
        let buf = self.machine.read_buf();
        debug_assert!(!buf.is_empty(), "a machine that wants to read must have room");
        let n = ready!(self.socket.poll_read(cx, buf))?;
        if n > 0 {
            self.machine.handle(now, Event::Read(n));
        }
        Poll::Ready(Ok(n))
    }

    fn write(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<Result<usize, IoError>> {
        let most = self.socket.max_owned();
        let n = if most > 0 {
            let mut bufs = [const { Bytes::new() }; MAX_SLICES];
            let count = self.machine.write_owned(&mut bufs, most);
            ready!(self.socket.poll_write_owned(cx, &mut bufs[..count]))?
        } else {
            let mut few = [&[][..]; FEW_SLICES];
            let count = self.machine.write_bufs(&mut few);
            if count < FEW_SLICES {
                ready!(poll_write(self.socket, cx, &few[..count]))?
            } else {
                let mut many = [&[][..]; MAX_SLICES];
                let count = self.machine.write_bufs(&mut many);
                ready!(poll_write(self.socket, cx, &many[..count]))?
            }
        };
        if n > 0 {
            self.machine.handle(now, Event::Written(n));
        }
        Poll::Ready(Ok(n))
    }
}

fn poll_write<S: Sink>(
    socket: &mut S,
    cx: &mut Context<'_>,
    bufs: &[&[u8]],
) -> Poll<Result<usize, IoError>> {
    debug_assert!(!bufs.is_empty(), "a machine that wants to flush must have something to flush");
    debug_assert!(bufs.iter().all(|buf| !buf.is_empty()), "no slice may be empty");
    socket.poll_write(cx, bufs)
}

/// Takes one turn: at most one write and one read, as the [module](super) describes.
///
/// The caller goes on until it returns [`Turn::Blocked`]; then it handles deadlines, sends
/// [`Event::Release`], and sleeps.
///
/// # Panics
/// Under debug assertions, where the machine breaks its contract.
pub(crate) fn turn(
    transfer: &mut impl Transfer,
    readiness: &mut Readiness,
    now: Instant,
    cx: &mut Context<'_>,
) -> Turn {
    let news = transfer.machine().poll_shared(now, cx);
    let before = transfer.machine().interest();
    if before.is_done() {
        return end(transfer, readiness, now, cx);
    }
    let written = match before.write {
        Outbound::Idle | Outbound::Finished => None,
        Outbound::Flush => write(transfer, readiness, now, cx),
        Outbound::Finish if readiness.failed.is_none() => finish(transfer, readiness, now, cx),
        // A FIN on a connection that has failed would say that all was sent.
        Outbound::Finish | Outbound::Reset => {
            readiness.reset(transfer.socket());
            transfer.machine().handle(now, Event::Finished);
            debug_assert!(
                before.write == Outbound::Finish || transfer.machine().interest().is_done(),
                "nothing can follow a reset"
            );
            Some(0)
        }
    };
    // Asked again: the write may have ended it, or made room.
    let after = if written.is_some() { transfer.machine().interest() } else { before };
    let reads = after.read && readiness.output != Output::Reset;
    let read = if reads { read(transfer, readiness, now, cx) } else { None };
    if read.is_some() && transfer.socket().held() > 0 {
        // What the sink has waited for may have been received (the answer in a handshake).
        readiness.ready(false, true);
    }
    let failed = flush(transfer, readiness, now, cx);
    if read.is_none() && written.is_none() && !failed && !news {
        debug_assert_eq!(transfer.machine().interest(), before, "nothing has happened to it");
        return Turn::Blocked;
    }
    readiness.quiescent = !news && !failed && read.is_none() && after.write == Outbound::Idle;
    Turn::Moved { read: read.unwrap_or(0), written: written.unwrap_or(0) }
}

/// The machine has ended: what the sink holds is flushed, or the connection reset where it has
/// failed.
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
        let flush = readiness.flush.get_or_insert_default();
        if held < flush.held {
            flush.held = held;
            flush.deadline = flush.timeout.map(|limit| now + limit);
        }
        return Turn::Blocked;
    }
    Turn::Done
}

/// `None` where nothing happened.
fn write(
    transfer: &mut impl Transfer,
    readiness: &mut Readiness,
    now: Instant,
    cx: &mut Context<'_>,
) -> Option<usize> {
    if readiness.blocked.write {
        return None;
    }
    // Trying again after 0 would spin.
    let some = |n| if n > 0 { Ok(n) } else { Err(ConnectionError::WriteZero.into()) };
    let written = transfer.write(now, cx).map(|written| written.and_then(some));
    let written = readiness.sent(transfer.machine(), now, written);
    readiness.blocked.write = written.is_none();
    written
}

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
            "nothing can be sent behind a FIN"
        );
    }
    let finished = readiness.sent(transfer.machine(), now, finished.map_ok(|()| 0));
    readiness.blocked.write = finished.is_none();
    finished
}

/// Has the sink send what it holds, which a read may have caused as well as a write. Returns
/// whether that has failed or was interrupted.
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
    let flushed = readiness.sent(transfer.machine(), now, flushed.map_ok(|()| 0));
    readiness.blocked.flush = flushed.is_none();
    flushed.is_some()
}

/// Whether it wants what a machine can want that will send no byte any more.
fn sends_no_more<M: Machine>(machine: &M) -> bool {
    let interest = machine.interest();
    match interest.write {
        Outbound::Finished | Outbound::Reset => true,
        Outbound::Idle => !interest.read,
        Outbound::Flush | Outbound::Finish => false,
    }
}

/// `None` where nothing happened.
fn read(
    transfer: &mut impl Transfer,
    readiness: &mut Readiness,
    now: Instant,
    cx: &mut Context<'_>,
) -> Option<usize> {
    if readiness.blocked.read {
        return None;
    }
    let why = match transfer.read(now, cx) {
        Poll::Pending => {
            readiness.blocked.read = true;
            return None;
        }
        Poll::Ready(Ok(n)) if n > 0 => return Some(n),
        // After a failed write, what the kernel calls the end of the input is not the peer's FIN.
        Poll::Ready(Ok(_)) => readiness.failed,
        Poll::Ready(Err(IoError::Interrupted)) => return Some(0),
        Poll::Ready(Err(IoError::Connection(why))) => Some(why),
    };
    readiness.eof = why.is_none();
    readiness.failed = readiness.failed.or(why);
    let machine = transfer.machine();
    machine.handle(now, why.map_or(Event::Eof, |why| Event::Error(Direction::Read, why)));
    debug_assert!(!machine.interest().read, "nothing can be read behind the end of the input");
    Some(0)
}

/// How many slices go into one vectored write at most. (Linux takes 1,024, `IOV_MAX`; with 64 of
/// them the call's own cost is already spread thin.)
pub const MAX_SLICES: usize = 64;
/// Most machines have fewer slices than this to write. To ask for as many first saves clearing an
/// array of [`MAX_SLICES`].
const FEW_SLICES: usize = 4;
/// The flush timeout, unless it is set otherwise.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);
