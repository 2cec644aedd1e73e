//! The two sides of a relay, and the machine of each.

use core::fmt;

use super::{Input, Over, ProxyReason, Received, Relay, Stage};
use crate::{Event, Instant, Interest, Machine, Status};

/// One of the two connections of a proxied one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The one that the proxy has accepted.
    Client,
    /// The one that it has made.
    Upstream,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Client, Self::Upstream];

    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Upstream,
            Self::Upstream => Self::Client,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
        })
    }
}

/// The machine of one side of a [`Relay`].
///
/// A driver that has pipes (splice(2)) can pass bytes through one, instead of through memory. The
/// driver keeps the pipe, and the relay counts the bytes in it:
///
/// 1. While [`pipe_limit`](Self::pipe_limit) of a side is above 0, the driver may receive into an
///    empty pipe. It then calls [`handle_piped`](Self::handle_piped) in place of [`Event::Read`].
/// 2. While [`in_pipe`](Self::in_pipe) of the other side is above 0, that side wants
///    [`Flush`](crate::Outbound::Flush) but offers no memory: the driver sends from the pipe. It
///    then calls [`handle_drained`](Self::handle_drained) in place of [`Event::Written`].
/// 3. A relay that loses a side discards the bytes for it. `in_pipe` is 0 then, and the driver
///    closes the pipe.
#[derive(Debug)]
pub struct RelaySide<'a> {
    pub(super) relay: &'a mut Relay,
    pub(super) side: Side,
}

impl Machine for RelaySide<'_> {
    type Reason = ProxyReason;

    fn interest(&self) -> Interest {
        self.relay.interest(self.side)
    }

    fn read_buf(&mut self) -> &mut [u8] {
        match self.relay.received.both_mut(self.side) {
            // Most often one of the two is empty, and one buffer serves both.
            (Received::Memory(ring), Received::Memory(other)) => {
                ring.take_over(other);
                ring.spare()
            }
            (Received::Memory(ring), Received::Pipe(_)) => ring.spare(),
            (Received::Pipe(_), _) => &mut [],
        }
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        let Received::Memory(ring) = self.relay.received.of(self.side.other()) else { return 0 };
        match (self.side, self.relay.header.unsent()) {
            (Side::Client, _) | (Side::Upstream, []) => ring.write_bufs(out),
            (Side::Upstream, header) => {
                out[0] = header;
                1 + ring.write_bufs(&mut out[1..])
            }
        }
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Read(n) => self.handle_read(now, n),
            Event::Eof => self.handle_eof(),
            Event::Error(way, why) => {
                self.relay.lost(self.side, way, why);
                self.release_buffer();
            }
            Event::Written(n) => self.handle_written(now, n),
            Event::Finished => {
                self.relay.finished(self.side);
            }
            // The deadline covers both sides, but `unacknowledged` only one: a driver that has both
            // calls [`Relay::handle_timeout`]. Here the other side counts as having acknowledged
            // everything.
            Event::Timeout { unacknowledged } => {
                if self.relay.owes(self.side) {
                    match self.side {
                        Side::Client => self.relay.handle_timeout(now, unacknowledged, 0),
                        Side::Upstream => self.relay.handle_timeout(now, 0, unacknowledged),
                    }
                }
            }
            // [`Relay::shut_down`], by a side that is not over.
            Event::ShutDown => {
                if self.relay.owes(self.side) {
                    self.relay.shut_down(now);
                }
            }
            Event::Release => self.release_buffer(),
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.relay.owes(self.side) { self.relay.poll_timeout() } else { None }
    }

    fn status(&self) -> Status {
        self.relay.status()
    }

    /// This side's own: a side that had all, and was told all, has [`ProxyReason::Finished`], whatever
    /// becomes of the other.
    fn reason(&self) -> Option<ProxyReason> {
        if let (Side::Upstream, Stage::Dialling { lost: Some((way, why)) }) =
            (self.side, self.relay.stage)
        {
            // What waits is owed to the next one.
            return Some(ProxyReason::Lost { side: self.side, way, why, unsent: 0 });
        }
        match self.relay.ends.of(self.side).over? {
            Over::Clean => Some(ProxyReason::Finished),
            Over::Caused => self.relay.cause.clone(),
        }
    }
}

impl RelaySide<'_> {
    /// How many bytes may be received into a pipe now: [`buffer`](super::Config::buffer) if a read
    /// is wanted and bytes come in bulk, otherwise 0.
    ///
    /// They come in bulk once a read has filled the buffer, until one receives less than a quarter
    /// of it or than 8 KiB: copying so few bytes costs less than a pipe.
    pub fn pipe_limit(&self) -> usize {
        let is_bulk = *self.relay.bulk.of(self.side);
        if is_bulk && self.interest().read { self.relay.pool.size() } else { 0 }
    }

    /// `n` bytes were received from this side into a pipe.
    ///
    /// # Panics
    /// If `n` is 0 or above [`pipe_limit`](Self::pipe_limit).
    pub fn handle_piped(&mut self, now: Instant, n: usize) {
        let limit = self.pipe_limit();
        assert!((1..=limit).contains(&n), "received {n} bytes into a pipe, of 1 to {limit}");
        *self.relay.received.of_mut(self.side) = Received::Pipe(n);
        self.relay.has_received(self.side, now, n);
    }

    /// How many bytes wait in a pipe to be sent to this side.
    pub fn in_pipe(&self) -> usize {
        match self.relay.received.of(self.side.other()) {
            Received::Memory(_) => 0,
            Received::Pipe(len) => *len,
        }
    }

    /// `n` bytes were sent to this side from a pipe.
    ///
    /// # Panics
    /// If that is more than are [`in_pipe`](Self::in_pipe).
    pub fn handle_drained(&mut self, now: Instant, n: usize) {
        let len = self.in_pipe();
        assert!(n <= len, "sent {n} bytes from a pipe of {len}");
        if n == len {
            self.relay.clear(self.side.other());
        } else {
            *self.relay.received.of_mut(self.side.other()) = Received::Pipe(len - n);
        }
        self.relay.has_sent(self.side, now, n, true);
    }

    /// Gives the buffer back if it holds nothing.
    fn release_buffer(&mut self) {
        self.relay.received.of_mut(self.side).release();
    }

    fn handle_read(&mut self, now: Instant, n: usize) {
        let relay = &mut *self.relay;
        if let Stage::Refused { discarded, .. } = &mut relay.stage {
            if !relay.discards.discard(relay.config.linger, discarded, n, now) {
                relay.ends.client.input = Input::Cut;
                self.release_buffer();
                self.relay.settle();
            }
            return;
        }
        relay.memory_mut(self.side).commit(n);
        relay.has_received(self.side, now, n);
    }

    fn handle_eof(&mut self) {
        if self.side == Side::Upstream {
            self.relay.engage();
        }
        let end = self.relay.ends.of_mut(self.side);
        if end.input == Input::Open {
            end.input = Input::Fin;
        }
        // The buffer that was taken for the read; no other one will come by to give it back.
        self.release_buffer();
        self.relay.settle();
    }

    fn handle_written(&mut self, now: Instant, n: usize) {
        let relay = &mut *self.relay;
        let relayed = match self.side {
            Side::Client => n,
            Side::Upstream => relay.header.consume(n),
        };
        relay.memory_mut(self.side.other()).consume(relayed);
        relay.has_sent(self.side, now, n, relayed > 0);
    }
}
