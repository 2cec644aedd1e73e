//! The two sides of a relay, and the machine of each.

use core::fmt;

use super::{Buffered, Outcome, ProxyReason, ReadState, Relay, State};
use crate::{Event, Instant, Interest, Machine, Status};

/// One of the two connections of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The connection that the proxy has accepted.
    Client,
    /// The connection that the proxy has made.
    Upstream,
}

impl Side {
    /// Both sides, the client first.
    pub const BOTH: [Self; 2] = [Self::Client, Self::Upstream];

    /// The other side.
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
/// A driver that has pipes (splice(2)) can pass bytes through a pipe instead of through memory. The
/// driver holds the pipe; the relay counts the bytes in it.
///
/// 1. While [`pipe_limit`](Self::pipe_limit) of a side is above 0, the driver may receive into an
///    empty pipe. It then calls [`handle_piped`](Self::handle_piped) in place of [`Event::Read`].
/// 2. While [`in_pipe`](Self::in_pipe) of the other side is above 0, the interest of that side is
///    [`Flush`](crate::Outbound::Flush), but it offers no memory. The driver sends from the pipe,
///    and calls [`handle_drained`](Self::handle_drained) in place of [`Event::Written`].
/// 3. When a side is lost, the relay discards the bytes that are pending for it. Its `in_pipe` is
///    then 0, and the driver closes the pipe.
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
        match self.relay.buffered.both_mut(self.side) {
            // If the buffer of the other direction is empty, which is the usual case, this
            // direction takes it over. So both need only one.
            (Buffered::Memory(ring), Buffered::Memory(other)) => {
                ring.take_over(other);
                ring.spare()
            }
            (Buffered::Memory(ring), Buffered::Pipe(_)) => ring.spare(),
            (Buffered::Pipe(_), _) => &mut [],
        }
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        let Buffered::Memory(ring) = &self.relay.buffered[self.side.other()] else { return 0 };
        match (self.side, self.relay.header.unsent()) {
            (Side::Client, _) | (Side::Upstream, []) => ring.write_bufs(out),
            (Side::Upstream, header) => {
                out[0] = header;
                1 + ring.write_bufs(&mut out[1..])
            }
        }
    }

    fn handle(&mut self, now: Instant, event: Event) {
        self.relay.record_event(now, self.side, event);
        match event {
            Event::Read(n) => self.handle_read(now, n),
            Event::Eof => self.relay.handle_eof(self.side),
            Event::Error(direction, error) => {
                self.relay.handle_error(self.side, direction, error);
            }
            Event::Written(n) => self.handle_written(now, n),
            Event::Finished => self.relay.handle_finished(self.side),
            // The deadline covers both sides, but `unacknowledged` counts the bytes of one. The
            // other side counts as having acknowledged everything. A driver of both sides calls
            // `Relay::handle_timeout` with both counts.
            Event::Timeout { unacknowledged } => {
                if self.relay.is_open(self.side) {
                    match self.side {
                        Side::Client => self.relay.handle_deadline(now, unacknowledged, 0),
                        Side::Upstream => self.relay.handle_deadline(now, 0, unacknowledged),
                    }
                }
            }
            Event::ShutDown => {
                if self.relay.is_open(self.side) {
                    self.relay.begin_drain(now);
                }
            }
            Event::Release => self.relay.buffered[self.side].release(),
        }
        self.relay.record_returned();
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.relay.is_open(self.side) { self.relay.poll_timeout() } else { None }
    }

    fn status(&self) -> Status {
        self.relay.status()
    }

    /// Why this side ended. A side that ended by a FIN each way has [`ProxyReason::Finished`],
    /// even if the other side is lost later.
    fn reason(&self) -> Option<ProxyReason> {
        if let (Side::Upstream, State::Dialling { lost: Some((direction, error)) }) =
            (self.side, self.relay.state)
        {
            // The pending bytes are not lost: they are sent to the next upstream.
            return Some(ProxyReason::Lost { side: self.side, direction, error, unsent: 0 });
        }
        match self.relay.sides[self.side].outcome? {
            Outcome::Finished => Some(ProxyReason::Finished),
            Outcome::Caused => self.relay.cause.clone(),
        }
    }
}

impl RelaySide<'_> {
    /// How many bytes may be received into a pipe now: [`Config::buffer`](super::Config::buffer) if
    /// the side reads and a bulk transfer is in progress, otherwise 0.
    ///
    /// A bulk transfer begins with a read that fills the buffer. It ends with a read of less than
    /// 8 KiB and less than a quarter of the buffer: copying so few bytes costs less than a pipe.
    pub fn pipe_limit(&self) -> usize {
        let is_bulk = self.relay.is_bulk[self.side];
        if is_bulk && self.interest().read { self.relay.pool.size() } else { 0 }
    }

    /// Records that `n` bytes were received from this side into a pipe.
    ///
    /// # Panics
    /// If `n` is 0 or above [`pipe_limit`](Self::pipe_limit).
    pub fn handle_piped(&mut self, now: Instant, n: usize) {
        let limit = self.pipe_limit();
        assert!(
            (1..=limit).contains(&n),
            "{n} bytes were received into a pipe, but must be at least 1 and at most {limit}"
        );
        self.relay.buffered[self.side] = Buffered::Pipe(n);
        self.relay.handle_received(self.side, now, n);
    }

    /// How many bytes in a pipe are pending for this side.
    pub fn in_pipe(&self) -> usize {
        match &self.relay.buffered[self.side.other()] {
            Buffered::Memory(_) => 0,
            Buffered::Pipe(len) => *len,
        }
    }

    /// Records that `n` bytes were sent to this side from a pipe.
    ///
    /// # Panics
    /// If `n` is above [`in_pipe`](Self::in_pipe).
    pub fn handle_drained(&mut self, now: Instant, n: usize) {
        let len = self.in_pipe();
        assert!(n <= len, "{n} bytes were sent from a pipe, but it held {len}");
        if n == len {
            self.relay.clear(self.side.other());
        } else {
            self.relay.buffered[self.side.other()] = Buffered::Pipe(len - n);
        }
        self.relay.handle_sent(self.side, now, n, false);
    }

    fn handle_read(&mut self, now: Instant, n: usize) {
        let relay = &mut *self.relay;
        if let State::Refused { discarded, .. } = &mut relay.state {
            if !relay.discards.discard(relay.config.linger, discarded, n, now) {
                relay.sides.client.read = ReadState::Aborted;
                relay.settle();
            }
            return;
        }
        relay.memory_mut(self.side).commit(n);
        relay.handle_received(self.side, now, n);
    }

    fn handle_written(&mut self, now: Instant, n: usize) {
        let relay = &mut *self.relay;
        let forwarded = match self.side {
            Side::Client => n,
            Side::Upstream => relay.header.consume(n),
        };
        relay.memory_mut(self.side.other()).consume(forwarded);
        relay.handle_sent(self.side, now, n, forwarded == 0);
    }
}
