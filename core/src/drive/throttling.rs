//! How a driver obeys the limits of a connection's bytes.

use core::mem;

use super::Sink;
use crate::{Direction, Instant, admission::Throttle, shared::Shared};

/// The limits of a connection's bytes, and what they hold back.
///
/// A read or write that has no allowance is not tried, as if it would block. The deadline of the
/// connection is then the time of the next try. So the peer is slowed down by backpressure.
///
/// A deadline of the machine that passes meanwhile is handled after the next try, so a peer whose
/// bytes wait here does not run into it. A deadline that had passed before the wait is handled at
/// once. If output waits here while the peer has acknowledged all before it, that is not the peer's
/// delay: the next [`Event::Timeout`](crate::Event::Timeout) reports no unacknowledged bytes.
#[derive(Debug)]
pub(super) struct Throttling {
    throttle: Shared<Throttle>,
    read: Hold,
    write: Hold,
    excuse: Excuse,
}

/// Whether the wait of the output was the peer's delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Excuse {
    None,
    /// Output that has waited is about to be written.
    Possible,
    /// The peer had acknowledged all output before the wait.
    Due,
}

/// The wait of one direction for its allowance.
#[derive(Clone, Copy, Debug, Default)]
struct Hold {
    since: Instant,
    /// When the next try is due. `None`: the last try had an allowance.
    until: Option<Instant>,
    /// Whether this turn has wanted to move bytes in vain, and whether the one before has.
    holds: bool,
    has_held: bool,
}

impl Throttling {
    pub(super) fn new(throttle: Shared<Throttle>) -> Self {
        Self { throttle, read: Hold::default(), write: Hold::default(), excuse: Excuse::None }
    }

    /// A turn begins.
    pub(super) fn begin_turn(&mut self) {
        for hold in [&mut self.read, &mut self.write] {
            hold.has_held = mem::replace(&mut hold.holds, false);
        }
    }

    /// The most bytes that may move in this turn; `None` if none may.
    pub(super) fn allowance(&mut self, direction: Direction, now: Instant) -> Option<usize> {
        let hold = match direction {
            Direction::Read => &mut self.read,
            Direction::Write => &mut self.write,
        };
        if hold.until.is_none_or(|until| until <= now) {
            match self.throttle.allowance(direction, now) {
                Ok(bytes) => {
                    if hold.until.take().is_some() && direction == Direction::Write {
                        self.excuse = Excuse::Possible;
                    }
                    return Some(bytes);
                }
                Err(retry) => hold.until = Some(retry),
            }
        }
        if !hold.has_held {
            hold.since = now;
        }
        hold.holds = true;
        None
    }

    /// Before a write: whether the peer has acknowledged all output matters, if this one has
    /// waited.
    pub(super) fn before_write(&mut self, socket: &impl Sink) {
        if self.excuse == Excuse::Possible {
            let is_due = socket.unacknowledged() == 0;
            self.excuse = if is_due { Excuse::Due } else { Excuse::None };
        }
    }

    /// Whether unacknowledged output is not the peer's delay, once.
    pub(super) fn take_excuse(&mut self) -> bool {
        mem::replace(&mut self.excuse, Excuse::None) == Excuse::Due
    }

    /// Records that `bytes` have moved.
    pub(super) fn charge(&self, direction: Direction, bytes: usize, now: Instant) {
        self.throttle.charge(direction, bytes, now);
    }

    /// Whether input is held back.
    pub(super) fn holds_input(&self) -> bool {
        self.read.holds
    }

    /// The connection's deadline: `deadline` is the one of its machine.
    pub(super) fn deadline(&self, deadline: Option<Instant>) -> Option<Instant> {
        let holds = [self.read, self.write].into_iter().filter(|hold| hold.holds);
        let hold = holds.filter_map(|hold| Some((hold.until?, hold.since))).min();
        let Some((until, since)) = hold else { return deadline };
        match deadline {
            Some(deadline) if deadline <= since => Some(deadline),
            Some(_) | None => Some(until),
        }
    }
}
