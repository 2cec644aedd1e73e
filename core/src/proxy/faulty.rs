//! A proxied connection with faults: what its gates decide is done to its sockets.

use std::{
    mem,
    task::{Context, Poll, ready},
};

use tracing::{debug, trace};

use super::{
    Side,
    relay::{PerSide, Relay},
};
use crate::{
    Instant,
    admission::Admitted,
    drive::{IoError, MAX_SLICES, Sink, Source, Turn, at_most},
    faults::{Decision, Ending, Gate, Injector, Kind, Strike, Wanted},
    quantity::Seconds,
};

/// The faults of one connection.
#[derive(Debug)]
pub(super) struct ConnectionFaults {
    injector: Injector,
    /// The gate of the bytes to each side.
    gates: PerSide<Gate>,
    /// Bytes that were discarded in this turn.
    discarded: usize,
}

/// What passes by the gate of a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exempt {
    /// All output, since no upstream is connected.
    All,
    /// This many bytes, of a PROXY header.
    Bytes(usize),
}

impl ConnectionFaults {
    /// The faults of a connection without a number, which counts as 0.
    pub(super) fn new(injector: Injector) -> Self {
        Self { gates: gates(&injector, 0), injector, discarded: 0 }
    }

    /// Sets the connection's number, before anything has passed.
    pub(super) fn set_number(&mut self, connection: u64) {
        self.gates = gates(&self.injector, connection);
    }

    /// The socket of `side` for one turn.
    pub(super) fn socket<'a, S>(
        &'a mut self,
        side: Side,
        socket: &'a mut S,
        exempt: Exempt,
        now: Instant,
    ) -> FaultySocket<'a, S> {
        let (output, input) = self.gates.both_mut(side);
        FaultySocket { socket, output, input, discarded: &mut self.discarded, exempt, now }
    }

    /// A turn of a faulty socket, whose written bytes include those that were discarded.
    pub(super) fn without_discarded(&mut self, turn: Turn) -> Turn {
        let discarded = mem::take(&mut self.discarded);
        match turn {
            Turn::Moved { read, written } => Turn::Moved { read, written: written - discarded },
            Turn::Blocked | Turn::Done => turn,
        }
    }

    /// Records bytes that were received from `side`.
    pub(super) fn received(&mut self, side: Side, n: usize, now: Instant) {
        if n > 0 {
            self.gates[side.other()].received(n, now);
        }
    }

    /// If a reset in the direction to a side is due, returns after how many bytes, once.
    pub(super) fn take_reset(&mut self, to: Side, now: Instant) -> Option<u64> {
        let gate = &mut self.gates[to];
        if gate.next(Wanted::Nothing, now) != Decision::End(Ending::Reset) {
            return None;
        }
        gate.ended();
        Some(gate.position())
    }

    /// Counts, logs and records what has struck.
    pub(super) fn report(&mut self, relay: &mut Relay, admitted: Option<&Admitted>, now: Instant) {
        let id = admitted.map(|admitted| admitted.id());
        let server = admitted.and_then(|admitted| admitted.table().name());
        for to in Side::BOTH {
            for strike in self.gates[to].take_strikes() {
                let Strike { kind, at, bytes, time, is_first } = strike;
                let (fault, seconds) = (kind.label(), time.map(|time| Seconds(time).to_field()));
                if is_first {
                    self.injector.count(to, kind);
                    // The relay has recorded a reset.
                    if kind != Kind::Reset {
                        relay.record_fault(to, &strike, now);
                    }
                    debug!(id, %to, fault, at, bytes, seconds, server, "fault injected");
                } else {
                    trace!(id, %to, fault, at, bytes, seconds, server, "fault injected");
                }
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let PerSide { client, upstream } = &self.gates;
        [client.poll_timeout(), upstream.poll_timeout()].into_iter().flatten().min()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for side in Side::BOTH {
            self.gates[side].handle_timeout(now);
        }
    }
}

fn gates(injector: &Injector, connection: u64) -> PerSide<Gate> {
    let gate = |to| injector.gate(connection, to);
    PerSide { client: gate(Side::Client), upstream: gate(Side::Upstream) }
}

/// A socket whose output passes a gate, and whose input is reported to another.
pub(super) struct FaultySocket<'a, S> {
    socket: &'a mut S,
    /// The gate of the bytes to this side.
    output: &'a mut Gate,
    /// The gate of the bytes from this side.
    input: &'a mut Gate,
    discarded: &'a mut usize,
    exempt: Exempt,
    now: Instant,
}

impl<S: Sink> FaultySocket<'_, S> {
    /// How many bytes may be sent; `None` if they are to be discarded. Ends the output if that is
    /// due.
    fn poll_gate(
        &mut self,
        cx: &mut Context<'_>,
        wanted: Wanted,
    ) -> Poll<Result<Option<usize>, IoError>> {
        match self.output.next(wanted, self.now) {
            Decision::Pass(max) => return Poll::Ready(Ok(Some(max))),
            // The connection does the reset at the end of the turn, since it concerns both sides.
            Decision::Hold(_) | Decision::End(Ending::Reset) => return Poll::Pending,
            Decision::End(Ending::HalfClose) => {
                ready!(self.socket.poll_finish(cx))?;
                self.output.ended();
            }
            Decision::End(Ending::BlackHole) => self.output.ended(),
            Decision::Discard => {}
        }
        Poll::Ready(Ok(None))
    }
}

#[deny(clippy::missing_trait_methods, reason = "a default method would hide the socket's own")]
impl<S: Source> Source for FaultySocket<'_, S> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize, IoError>> {
        let n = ready!(self.socket.poll_read(cx, buf))?;
        match n {
            0 => self.input.received_fin(self.now),
            _ => self.input.received(n, self.now),
        }
        Poll::Ready(Ok(n))
    }

    fn recheck(&mut self) {
        self.socket.recheck();
    }
}

/// It does not take owned output, which it would have to divide.
impl<S: Sink> Sink for FaultySocket<'_, S> {
    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<Result<usize, IoError>> {
        let len = bufs.iter().map(|buf| buf.len()).sum();
        let is_exempt = self.exempt != Exempt::Bytes(0);
        let max = match self.exempt {
            Exempt::All => Some(len),
            Exempt::Bytes(0) => ready!(self.poll_gate(cx, Wanted::Bytes(len)))?,
            Exempt::Bytes(header) => Some(header),
        };
        let Some(max) = max else {
            *self.discarded += len;
            return Poll::Ready(Ok(len));
        };
        let (mut first, count) = ([&[][..]; MAX_SLICES], bufs.len().min(MAX_SLICES));
        first[..count].copy_from_slice(&bufs[..count]);
        let n = ready!(self.socket.poll_write(cx, at_most(max, &mut first[..count])))?;
        if !is_exempt {
            self.output.passed(n, self.now);
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        ready!(self.socket.poll_flush(cx))?;
        // An ending does not wait for further output.
        if self.exempt == Exempt::Bytes(0)
            && let Decision::End(Ending::HalfClose | Ending::BlackHole) =
                self.output.next(Wanted::Nothing, self.now)
        {
            ready!(self.poll_gate(cx, Wanted::Nothing))?;
        }
        Poll::Ready(Ok(()))
    }

    fn held(&self) -> usize {
        self.socket.held()
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        if self.exempt == Exempt::Bytes(0) && ready!(self.poll_gate(cx, Wanted::Fin))?.is_none() {
            return Poll::Ready(Ok(()));
        }
        self.socket.poll_finish(cx)
    }

    fn reset(&mut self) {
        self.socket.reset();
    }

    fn unacknowledged(&self) -> usize {
        self.socket.unacknowledged()
    }
}
