//! A TCP connection, as the kernels of its two ends see it.
//!
//! It behaves as on Linux:
//!
//! - Bytes that arrived before a reset can still be read (tcp(7); `tcp_recvmsg` first reads the
//!   queue).
//! - A reset is reported once, to the first call. After that a read returns 0, and a write fails
//!   with `EPIPE`.
//! - Closing a socket with unread bytes sends an RST (RFC 9293, section 3.10.4; RFC 2525, section
//!   2.17), as does data that arrives at a closed socket.
//! - A reset discards bytes that were written before it and have not arrived.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, task::Waker, time::Duration};

use wirestate_core::{ConnectionError, Direction, Instant};

use super::{Record, Side, delivery::Loss, faults::Dice};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct EndId {
    pub(super) connection: usize,
    pub(super) side: Side,
}

pub(super) struct Connection {
    pub(super) client: Arc<str>,
    pub(super) dial: u64,
    pub(super) latency: Duration,
    ends: [End; 2],
}

pub(super) struct End {
    pub(super) host: usize,
    /// The task that last called it.
    pub(super) task: Option<u64>,
    pub(super) record: Record,
    pub(super) dice: Dice,
    /// Received by the kernel, but not read yet.
    pub(super) inbox: VecDeque<u8>,
    /// Segments on their way to this end.
    pub(super) in_flight: VecDeque<Segment>,
    /// The bytes of data in `in_flight`.
    pub(super) in_flight_bytes: usize,
    /// Arrivals that wait for a read to open the window.
    pub(super) blocked_arrivals: usize,
    /// The bytes by which the send buffer of this end has grown.
    pub(super) send_buffer_growth: usize,
    /// When the send buffer may grow again.
    pub(super) may_grow_at: Instant,
    /// Nothing arrives at this end before this time.
    pub(super) stalled_until: Instant,
    pub(super) fin_arrived: bool,
    /// The error that the next call reports.
    pub(super) error: Option<ConnectionError>,
    /// Whether the connection was reset or has timed out.
    pub(super) broken: bool,
    pub(super) loss: Loss,
    pub(super) input: Readiness,
    pub(super) output: Readiness,
}

pub(super) enum Segment {
    Data(Vec<u8>),
    Fin,
    Rst,
}

/// The reactor's view of a socket, as in tokio: after a call has blocked, all calls block until the
/// reactor reports a change.
pub(super) struct Readiness {
    pub(super) ready: bool,
    pub(super) waker: Option<Waker>,
}

impl Readiness {
    pub(super) fn report(&mut self) {
        self.ready = true;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Segment {
    /// The number of bytes.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Fin | Self::Rst => 0,
        }
    }
}

impl Connection {
    pub(super) fn new(
        (client, dial): (Arc<str>, u64),
        [from, to]: [(usize, SocketAddr); 2],
        latency: Duration,
        [client_dice, server_dice]: [Dice; 2],
    ) -> Self {
        let end = |side, (host, local): (usize, SocketAddr), remote, dice| End {
            host,
            task: None,
            record: Record {
                client: client.clone(),
                dial,
                side,
                local,
                remote,
                received: Vec::new(),
                piped: 0,
                sent: Vec::new(),
                received_fin: false,
                ending: None,
                error: None,
                closed: false,
                killed: false,
            },
            dice,
            inbox: VecDeque::new(),
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            blocked_arrivals: 0,
            send_buffer_growth: 0,
            may_grow_at: Instant::EPOCH,
            stalled_until: Instant::EPOCH,
            fin_arrived: false,
            error: None,
            broken: false,
            loss: Loss::default(),
            input: Readiness { ready: true, waker: None },
            output: Readiness { ready: true, waker: None },
        };
        let ends = [
            end(Side::Client, from, to.1, client_dice),
            end(Side::Server, to, from.1, server_dice),
        ];
        Self { client, dial, latency, ends }
    }

    pub(super) fn end(&mut self, side: Side) -> &mut End {
        &mut self.ends[side as usize]
    }

    pub(super) fn peek(&self, side: Side) -> &End {
        &self.ends[side as usize]
    }

    /// The decisions of one end.
    pub(super) fn dice(&mut self, side: Side) -> &mut Dice {
        &mut self.end(side).dice
    }

    pub(super) fn ends(&self) -> &[End; 2] {
        &self.ends
    }

    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.ends.iter().map(|end| &end.record)
    }
}

impl End {
    pub(super) fn readiness(&mut self, direction: Direction) -> &mut Readiness {
        match direction {
            Direction::Read => &mut self.input,
            Direction::Write => &mut self.output,
        }
    }

    /// The bytes on their way to this end that the other end does not know to have arrived.
    pub(super) fn unacknowledged(&self) -> usize {
        self.in_flight_bytes + self.loss.unacknowledged
    }

    pub(super) fn wakers(&self) -> impl Iterator<Item = &Waker> {
        [&self.input, &self.output].into_iter().filter_map(|readiness| readiness.waker.as_ref())
    }

    /// How many bytes of the queue complete `delimiter`, of which `before` may have the first
    /// bytes. All of the queue if they do not.
    pub(super) fn len_until(&self, delimiter: &[u8], before: &[u8]) -> usize {
        let begun = before.len().min(delimiter.len().saturating_sub(1));
        let before = &before[before.len() - begun..];
        let bytes: Vec<u8> = before.iter().chain(&self.inbox).copied().collect();
        let ends = bytes.windows(delimiter.len()).position(|window| window == delimiter);
        ends.map_or(self.inbox.len(), |start| start + delimiter.len() - begun)
    }

    /// The next segment that arrives. `None` if there is none, or if the window is full.
    pub(super) fn next_segment(&mut self, window: usize) -> Option<Segment> {
        let window = window.saturating_sub(self.inbox.len());
        let first = match self.in_flight.front()? {
            Segment::Data(data) => data.len(),
            Segment::Fin | Segment::Rst => return self.in_flight.pop_front(),
        };
        // A closed socket has no window: it answers data with an RST.
        if first <= window || self.broken || self.record.closed {
            self.in_flight_bytes -= first;
            return self.in_flight.pop_front();
        }
        // An RST needs no window, and discards the data before it.
        if let Some(rst) = self.in_flight.iter().position(|next| matches!(next, Segment::Rst)) {
            self.in_flight.drain(..rst);
            self.in_flight_bytes = 0;
            return self.in_flight.pop_front();
        }
        self.blocked_arrivals += 1;
        if window == 0 {
            return None;
        }
        let Some(Segment::Data(data)) = self.in_flight.front_mut() else { return None };
        self.in_flight_bytes -= window;
        Some(Segment::Data(data.drain(..window).collect()))
    }
}

impl EndId {
    /// The other end of the connection.
    pub(super) fn other(self) -> Self {
        Self { side: self.side.other(), ..self }
    }
}
