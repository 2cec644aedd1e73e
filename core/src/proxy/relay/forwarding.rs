//! Forwarding: the bytes that were received from one side and are pending for the other.

use alloc::vec::Vec;

use super::{Relay, Side, State, state::WriteState};
use crate::{ConnectionError, Direction, Instant, buffer::Ring};

/// The bytes of one direction that are pending.
#[derive(Debug)]
pub(super) enum Buffered {
    Memory(Ring),
    /// The driver holds this many bytes, at least 1, in a pipe.
    Pipe(usize),
}

impl Buffered {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Memory(ring) => ring.len(),
            Self::Pipe(len) => *len,
        }
    }

    /// Returns the buffer to the pool if it is empty.
    pub(super) fn release(&mut self) {
        match self {
            Self::Memory(ring) => ring.release(),
            Self::Pipe(_) => {}
        }
    }
}

/// The PROXY header that is sent to each upstream before the client's bytes.
#[derive(Debug, Default)]
pub(super) struct PendingHeader {
    pub(super) bytes: Vec<u8>,
    /// How many of its bytes were sent to the current upstream.
    pub(super) sent: usize,
}

impl PendingHeader {
    pub(super) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Records that `n` bytes, from the header on, were sent. Returns how many of them followed the
    /// header.
    pub(super) fn consume(&mut self, n: usize) -> usize {
        let of_header = n.min(self.unsent().len());
        self.sent += of_header;
        n - of_header
    }
}

impl Relay {
    /// Whether there is enough room for a read from `side` to be worth its system call.
    pub(super) fn has_room(&self, side: Side) -> bool {
        match &self.buffered[side] {
            Buffered::Memory(ring) if self.is_bulk[side] => ring.is_empty(),
            Buffered::Memory(ring) => ring.len() <= ring.capacity() / 2,
            Buffered::Pipe(_) => false,
        }
    }

    /// How many bytes are pending for `side`.
    pub(super) fn queued(&self, side: Side) -> usize {
        match side {
            Side::Client => self.buffered.upstream.len(),
            Side::Upstream => self.header.unsent().len() + self.buffered.client.len(),
        }
    }

    /// The memory for bytes that are received from `side`.
    pub(super) fn memory_mut(&mut self, side: Side) -> &mut Ring {
        match &mut self.buffered[side] {
            Buffered::Memory(ring) => ring,
            Buffered::Pipe(len) => panic!("the {side}'s {len} bytes are in a pipe, not in memory"),
        }
    }

    /// Records that `n` bytes were received from `side` and queued.
    pub(super) fn handle_received(&mut self, side: Side, now: Instant, n: usize) {
        if self.queued(side.other()) == n {
            self.progress[side.other()].queued(now);
        }
        let buffered = &self.buffered[side];
        let capacity = self.pool.size();
        let is_bulk = &mut self.is_bulk[side];
        *is_bulk = if *is_bulk {
            n >= MIN_BULK_READ.min(capacity / 4)
        } else {
            buffered.len() == capacity
        };
        self.last_activity = now;
        if side == Side::Upstream {
            self.commit_to_upstream();
        }
    }

    /// Records that `n` bytes were sent to `side` and removed from the queue. `is_header`: all of
    /// them were bytes of the header.
    pub(super) fn handle_sent(&mut self, side: Side, now: Instant, n: usize, is_header: bool) {
        self.last_activity = now;
        self.progress[side].written(now, n);
        if !is_header && side == Side::Upstream {
            self.commit_to_upstream();
        }
        self.settle();
    }

    /// Records that a byte or a FIN has passed between client and upstream: from now on, the
    /// upstream cannot be replaced.
    pub(super) fn commit_to_upstream(&mut self) {
        if self.header.unsent().is_empty() {
            self.header = PendingHeader::default();
        }
        if self.state != State::Replaceable {
            return;
        }
        self.state = State::Relaying;
        if self.sides.upstream.write == WriteState::Closed {
            // The upstream sent bytes or a FIN before it reset the connection. They are forwarded
            // to the client, then the reset.
            self.handle_error(Side::Upstream, Direction::Write, ConnectionError::Reset);
        }
    }

    /// Discards the bytes that were received from `side`, and a header that precedes them.
    pub(super) fn discard(&mut self, side: Side) {
        if side == Side::Client {
            self.header = PendingHeader::default();
        }
        self.is_bulk[side] = false;
        self.clear(side);
    }

    /// Replaces the buffer or pipe with the bytes that were received from `side` by an empty
    /// buffer.
    pub(super) fn clear(&mut self, side: Side) {
        self.buffered[side] = Buffered::Memory(Ring::new(self.pool.clone()));
    }
}

/// The fewest bytes of a read that continues a bulk transfer; a quarter of the buffer, if that is
/// less.
const MIN_BULK_READ: usize = 8 * 1024;
