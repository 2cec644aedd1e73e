//! How segments arrive, are lost and are repeated.
//!
//! As on Linux, TCP repeats what was lost until it arrives, at growing intervals, and gives the
//! connection up after a quarter of an hour (tcp(7), `tcp_retries2`). An RST is not repeated: the
//! end learns by a keepalive probe that the other end is gone.

use std::time::Duration;

use wirestate_core::{ConnectionError, Direction, Instant};

use super::{
    Side, Value,
    connection::{EndId, Segment},
    link::latency,
    network::{Event, Network, State},
};

/// What is lost on the way to an end, or on the way back.
#[derive(Default)]
pub(super) struct Loss {
    /// Arrivals of segments that were lost.
    arrivals: usize,
    /// Bytes that have arrived, but whose acknowledgement was lost.
    pub(super) unacknowledged: usize,
    /// Whether the acknowledgement of bytes, or of the space that a read has made, was lost.
    is_unanswered: bool,
    /// The timer of the sender that repeats them.
    timer: Option<Timer>,
    /// Whether this end will probe the other one.
    is_probing: bool,
}

/// The sender's retransmission timer.
#[derive(Clone, Copy)]
struct Timer {
    since: Instant,
    timeout: Duration,
}

impl Network {
    pub(super) fn send(&mut self, to: EndId, segment: Segment) {
        self.send_after(Duration::ZERO, to, segment);
    }

    pub(super) fn send_after(&mut self, delay: Duration, to: EndId, segment: Segment) {
        let (from, host, bytes) = (self.end(to.other()).host, self.end(to).host, segment.len());
        let Self { links, settings, connections, .. } = self;
        let latency = latency(links, settings, from, host);
        let connection = &mut connections[to.connection];
        let of_connection = connection.latency;
        let end = connection.end(to.side);
        end.in_flight_bytes += bytes;
        end.in_flight.push_back(segment);
        let (latency, has_doubled) = latency.of_segment(of_connection, &mut end.dice);
        if has_doubled {
            self.trace_fault(to, "latency_doubles", Some(Value::Time(latency)));
        }
        let queue = self.transmit(from, host, bytes);
        self.after(delay + queue + latency, Event::Arrive(to));
    }

    /// Delivers the next segment to `id`.
    pub(super) fn arrive(&mut self, id: EndId) {
        let (now, window) = (self.now, self.settings.buffer);
        let sender = self.end(id.other()).host;
        let end = self.end(id);
        if end.stalled_until > now {
            let wait = end.stalled_until.since(now);
            self.after(wait, Event::Arrive(id));
            return;
        }
        let host = end.host;
        if self.hosts[host].state == State::Off || !self.passes(sender, host) {
            return self.lose(id);
        }
        let end = self.end(id);
        let Some(segment) = end.next_segment(window) else { return };
        let (closed, broken) = (end.record.closed, end.broken);
        match segment {
            Segment::Rst if broken => return,
            // The connection does not exist any more.
            Segment::Data(_) | Segment::Fin if broken => {
                return self.send(id.other(), Segment::Rst);
            }
            Segment::Data(_) if closed => {
                self.end(id).broken = true;
                return self.send(id.other(), Segment::Rst);
            }
            Segment::Data(data) => {
                self.end(id).inbox.extend(&data);
                if !self.passes(host, sender) {
                    self.end(id).loss.unacknowledged += data.len();
                    self.lose_answer(id);
                }
            }
            Segment::Fin => self.end(id).fin_arrived = true,
            Segment::Rst => return self.break_off(id, ConnectionError::Reset),
        }
        self.report(id, Direction::Read);
    }

    /// Delivers what waits for bandwidth after the latency of its connection.
    pub(super) fn deliver_queued(&mut self) {
        self.events.retain(|_, event| !matches!(event, Event::Arrive(_)));
        for connection in 0..self.connections.len() {
            let latency = self.connections[connection].latency;
            for side in [Side::Client, Side::Server] {
                let id = EndId { connection, side };
                let end = self.end(id);
                let others = end.blocked_arrivals + end.loss.arrivals;
                for _ in others..end.in_flight.len() {
                    self.after(latency, Event::Arrive(id));
                }
            }
        }
    }

    /// Breaks the connection at `id`: the next call reports `error`.
    fn break_off(&mut self, id: EndId, error: ConnectionError) {
        let end = self.end(id);
        end.broken = true;
        end.error = Some(error);
        self.report(id, Direction::Write);
        self.report(id, Direction::Read);
    }

    /// The next segment to `id` is lost.
    fn lose(&mut self, id: EndId) {
        let repeats = !self.end(id.other()).broken;
        let end = self.end(id);
        if end.in_flight.is_empty() {
            return;
        }
        if !repeats {
            // It was an RST, or the power of the sender's host was cut.
            end.in_flight.clear();
            end.in_flight_bytes = 0;
        }
        end.loss.arrivals = if repeats { end.loss.arrivals + 1 } else { 0 };
        self.trace_fault(id, "lost", None);
        if repeats { self.start_timer(id) } else { self.probe_later(id) }
    }

    /// What `id` answers is lost.
    fn lose_answer(&mut self, id: EndId) {
        self.end(id).loss.is_unanswered = true;
        self.trace_fault(id.other(), "lost", None);
        self.start_timer(id);
    }

    fn start_timer(&mut self, id: EndId) {
        let since = self.now;
        let timer = &mut self.end(id).loss.timer;
        if timer.is_none() {
            *timer = Some(Timer { since, timeout: FIRST_TIMEOUT });
            self.after(FIRST_TIMEOUT, Event::Retransmit(id));
        }
    }

    /// The sender of the segments to `id` repeats what was lost.
    pub(super) fn retransmit(&mut self, id: EndId) {
        let latency = self.connections[id.connection].latency;
        let (sender, host) = (self.end(id.other()).host, self.end(id).host);
        let Some(timer) = self.end(id).loss.timer.take() else { return };
        if self.end(id.other()).broken {
            // Nothing is repeated, but an RST that is not lost still arrives.
            let end = self.end(id);
            end.in_flight.retain(|segment| matches!(segment, Segment::Rst));
            end.in_flight_bytes = 0;
            end.loss.arrivals = 0;
            return self.probe_later(id);
        }
        if self.passes(sender, host) && self.hosts[host].state != State::Off {
            for _ in 0..std::mem::take(&mut self.end(id).loss.arrivals) {
                self.after(latency, Event::Arrive(id));
            }
            if self.passes(host, sender) {
                let loss = &mut self.end(id).loss;
                loss.unacknowledged = 0;
                if std::mem::take(&mut loss.is_unanswered) {
                    self.after(latency, Event::WindowUpdate(id.other()));
                }
                return;
            }
        }
        if self.now.since(timer.since) >= GIVE_UP {
            return self.give_up(id.other());
        }
        let timeout = (2 * timer.timeout).min(LONGEST_TIMEOUT);
        self.end(id).loss.timer = Some(Timer { timeout, ..timer });
        self.after(timeout, Event::Retransmit(id));
    }

    /// `id` learns that the other end has read bytes, if the segment is not lost.
    pub(super) fn update_window(&mut self, id: EndId) {
        let (host, reader) = (self.end(id).host, self.end(id.other()).host);
        if self.passes(reader, host) && self.hosts[host].state != State::Off {
            self.report(id, Direction::Write);
        } else {
            self.lose_answer(id.other());
        }
    }

    /// The kernel of `id` gives the connection up, without a word to the other end.
    fn give_up(&mut self, id: EndId) {
        let receiver = self.end(id.other());
        receiver.in_flight.clear();
        receiver.in_flight_bytes = 0;
        self.trace_fault(id, "gave_up", None);
        self.break_off(id, ConnectionError::TimedOut);
        self.probe_later(id.other());
    }

    /// Makes `id` probe the other end, which may be gone.
    pub(super) fn probe_later(&mut self, id: EndId) {
        let end = self.end(id);
        if !end.record.closed && !end.broken && !end.loss.is_probing {
            end.loss.is_probing = true;
            self.after(KEEPALIVE, Event::Probe(id));
        }
    }

    /// `id` probes the other end. If that is gone, it answers with an RST.
    ///
    /// A probe without an answer does not end the connection, as three in a row do on Linux: that
    /// would hide that a machine lacks a deadline.
    pub(super) fn probe(&mut self, id: EndId) {
        let (host, other) = (self.end(id).host, self.end(id.other()).host);
        let is_gone = self.end(id.other()).broken;
        let end = self.end(id);
        end.loss.is_probing = false;
        if is_gone && !end.record.closed && !end.broken && self.is_connected(host, other) {
            self.break_off(id, ConnectionError::Reset);
        }
    }

    /// Makes the ends of all connections of a host, which can be reached again, probe the other
    /// end.
    pub(super) fn probe_all(&mut self, host: usize) {
        for connection in 0..self.connections.len() {
            let ends = self.connections[connection].ends();
            if ends.iter().any(|end| end.host == host) {
                self.probe_later(EndId { connection, side: Side::Client });
                self.probe_later(EndId { connection, side: Side::Server });
            }
        }
    }
}

/// The first timeout of a retransmission; each is twice the one before (Linux: `TCP_RTO_MIN` and
/// the measured round-trip time; RFC 6298, section 5).
const FIRST_TIMEOUT: Duration = Duration::from_millis(200);
/// The longest timeout of a retransmission (`TCP_RTO_MAX`).
const LONGEST_TIMEOUT: Duration = Duration::from_secs(120);
/// After this time without an acknowledgement, the sender gives the connection up. Linux does after
/// 15 retransmissions, which are 924.6 s (`tcp_retries2`; tcp(7)).
const GIVE_UP: Duration = Duration::from_secs(924);
/// When a silent connection is probed (`TCP_KEEPIDLE` as the runtimes set it; tcp(7)). If the other
/// end has given up, it answers the probe with an RST.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(60);
