//! One turn of one machine on one socket.

use core::task::{Context, Poll};

use super::{IoError, Sink, Source};
use crate::{ConnectionError, Direction, Event, Instant, Machine, Outbound};

/// What has to be remembered of one connection between turns.
#[derive(Clone, Copy, Debug, Default)]
pub struct Readiness {
    /// A read found nothing, and the waker is with the socket.
    read_blocked: bool,
    /// A write found no room, and the waker is with the socket.
    write_blocked: bool,
    /// The last turn that has moved something has left nothing that can move before the waker is woken.
    quiescent: bool,
    /// A write failed. What the kernel then calls the end of the input is not the peer's FIN.
    broken: Option<ConnectionError>,
    /// How the input has ended: by the peer's FIN, or by an error.
    end: Option<Result<(), ConnectionError>>,
}

impl Readiness {
    /// The socket may have become ready: turns may ask it again. Call it whenever the waker that
    /// the turns were given has been woken, and after calling
    /// [`Event::ShutDown`](crate::Event::ShutDown) on the machine.
    pub fn clear(&mut self) {
        self.read_blocked = false;
        self.write_blocked = false;
    }

    /// Turns ask the socket once more, whatever was found before.
    pub(crate) fn recheck(&mut self, socket: &mut impl Source) {
        socket.recheck();
        self.clear();
    }

    /// Whether the peer has sent a FIN or a reset.
    pub(crate) fn peer_has_left(&self) -> bool {
        matches!(self.end, Some(Ok(()) | Err(ConnectionError::Reset)))
            || self.broken == Some(ConnectionError::Reset)
    }

    /// Of a turn that has moved something: whether the next one would find nothing to do, unless the
    /// machine is called otherwise meanwhile.
    #[cfg(feature = "std")]
    pub(crate) fn is_quiescent(&self) -> bool {
        self.quiescent
    }
}

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Something moved: take another turn. The figures are bytes received and sent.
    Moved {
        /// Bytes received in this turn.
        read: usize,
        /// Bytes sent in this turn.
        written: usize,
    },
    /// Nothing can move until the waker is woken or the machine's deadline passes.
    Blocked,
    /// The machine has ended.
    Done,
}

/// Takes one turn: at most one write and one read, as the [module](super) describes.
///
/// The caller goes on until it is [`Turn::Blocked`], then sees to the machine's deadline (which is to be believed
/// only where these turns have asked the kernel, not a queue of events that may be late), then waits to be
/// woken and calls [`Readiness::clear`]. It bounds the number of turns that it takes in a
/// row, and the [work](Machine::work) that is done in them, so that a flood on one connection does
/// not starve the others.
///
/// # Panics
/// Under debug assertions, where the machine breaks its contract.
pub fn turn<M: Machine, S: Source + Sink>(
    machine: &mut M,
    socket: &mut S,
    line: &mut Readiness,
    now: Instant,
    cx: &mut Context<'_>,
) -> Turn {
    let turn = turn_keeping(machine, socket, line, now, cx);
    if turn == Turn::Blocked && line.read_blocked {
        machine.handle(now, Event::Release);
    }
    turn
}

/// A [`turn`] without [`Machine::release`], for a driver of several machines: it calls that itself,
/// before it sleeps.
pub(crate) fn turn_keeping<M: Machine, S: Source + Sink>(
    machine: &mut M,
    socket: &mut S,
    line: &mut Readiness,
    now: Instant,
    cx: &mut Context<'_>,
) -> Turn {
    let news = machine.poll_shared(now, cx);
    let before = machine.interest();
    if before.is_done() {
        return Turn::Done;
    }
    let written = match before.write {
        Outbound::Idle | Outbound::Finished => None,
        Outbound::Flush => write(machine, socket, line, now, cx),
        Outbound::Finish => finish(machine, socket, line, now, cx),
        Outbound::Reset => {
            socket.reset();
            machine.handle(now, Event::Finished);
            debug_assert!(machine.interest().is_done(), "nothing can follow a reset");
            Some(0)
        }
    };
    // Asked again: the write may have ended it, or made room.
    let after = if written.is_some() { machine.interest() } else { before };
    let read = if after.read { read(machine, socket, line, now, cx) } else { None };
    if read.is_none() && written.is_none() && !news {
        debug_assert_eq!(machine.interest(), before, "nothing has happened to it");
        return Turn::Blocked;
    }
    line.quiescent = !news && read.is_none() && after.write == Outbound::Idle;
    Turn::Moved { read: read.unwrap_or(0), written: written.unwrap_or(0) }
}

/// `None` where nothing happened.
fn write<M: Machine, S: Sink>(
    machine: &mut M,
    socket: &mut S,
    line: &mut Readiness,
    now: Instant,
    cx: &mut Context<'_>,
) -> Option<usize> {
    if line.write_blocked {
        return None;
    }
    let mut few = [&[][..]; FEW_SLICES];
    let n = machine.write_bufs(&mut few);
    let written = if n < FEW_SLICES {
        poll_write(socket, cx, &few[..n])
    } else {
        let mut many = [&[][..]; MAX_SLICES];
        let n = machine.write_bufs(&mut many);
        poll_write(socket, cx, &many[..n])
    };
    match written {
        Poll::Pending => {
            line.write_blocked = true;
            return None;
        }
        Poll::Ready(Ok(n)) if n > 0 => {
            machine.handle(now, Event::Written(n));
            return Some(n);
        }
        // Trying again would spin.
        Poll::Ready(Ok(_)) => lose_output(machine, line, now, ConnectionError::WriteZero),
        Poll::Ready(Err(IoError::Interrupted)) => {}
        Poll::Ready(Err(IoError::Connection(why))) => lose_output(machine, line, now, why),
    }
    Some(0)
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

fn finish<M: Machine, S: Sink>(
    machine: &mut M,
    socket: &mut S,
    line: &mut Readiness,
    now: Instant,
    cx: &mut Context<'_>,
) -> Option<usize> {
    if line.write_blocked {
        return None;
    }
    match socket.poll_finish(cx) {
        Poll::Pending => {
            line.write_blocked = true;
            return None;
        }
        Poll::Ready(Ok(())) => {
            machine.handle(now, Event::Finished);
            debug_assert!(
                sends_no_more(machine) && machine.interest().write != Outbound::Reset,
                "nothing can be sent behind a FIN"
            );
        }
        Poll::Ready(Err(IoError::Interrupted)) => {}
        Poll::Ready(Err(IoError::Connection(why))) => lose_output(machine, line, now, why),
    }
    Some(0)
}

fn lose_output<M: Machine>(
    machine: &mut M,
    line: &mut Readiness,
    now: Instant,
    why: ConnectionError,
) {
    line.broken = Some(why);
    machine.handle(now, Event::Error(Direction::Write, why));
    debug_assert!(sends_no_more(machine), "nothing can be sent on a connection that is lost");
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
fn read<M: Machine, S: Source>(
    machine: &mut M,
    socket: &mut S,
    line: &mut Readiness,
    now: Instant,
    cx: &mut Context<'_>,
) -> Option<usize> {
    if line.read_blocked {
        return None;
    }
    let buf = machine.read_buf();
    debug_assert!(!buf.is_empty(), "a machine that wants to read must have room");
    let why = match socket.poll_read(cx, buf) {
        Poll::Pending => {
            line.read_blocked = true;
            return None;
        }
        Poll::Ready(Ok(n)) if n > 0 => {
            machine.handle(now, Event::Read(n));
            return Some(n);
        }
        Poll::Ready(Ok(_)) => line.broken,
        Poll::Ready(Err(IoError::Interrupted)) => return Some(0),
        Poll::Ready(Err(IoError::Connection(why))) => Some(why),
    };
    line.end = Some(why.map_or(Ok(()), Err));
    match why {
        Some(why) => machine.handle(now, Event::Error(Direction::Read, why)),
        None => machine.handle(now, Event::Eof),
    }
    debug_assert!(!machine.interest().read, "nothing can be read behind the end of the input");
    Some(0)
}

/// How many slices go into one vectored write at most. (Linux takes 1,024, `IOV_MAX`; with 64 of
/// them the call's own cost is already spread thin.)
pub const MAX_SLICES: usize = 64;
/// Most machines have fewer slices than this to write. To ask for as many first saves clearing an
/// array of [`MAX_SLICES`].
const FEW_SLICES: usize = 4;
