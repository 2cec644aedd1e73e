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

use std::{
    collections::VecDeque,
    fmt,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use wirestate_core::{ConnectionError, Direction, Instant, drive::IoError};

use super::{
    Excerpt, Faults, Side, TraceEvent,
    faults::Dice,
    network::{Event, Network},
    trace::digest,
};
use crate::script::Ending;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct EndId {
    pub(super) connection: usize,
    pub(super) side: Side,
}

/// What one end of a connection has sent and received.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// The name of the host that opened the connection.
    pub client: Arc<str>,
    /// The number of the connection, counted from 0 by the host that opened it.
    pub dial: u64,
    /// The end of the connection that this record is of.
    pub side: Side,
    /// This end's address.
    pub local: SocketAddr,
    /// The other end's address.
    pub remote: SocketAddr,
    /// The bytes that reads have returned.
    pub received: Vec<u8>,
    /// How many of them were spliced into a pipe.
    pub piped: usize,
    /// The bytes that writes have taken.
    pub sent: Vec<u8>,
    /// Whether a read has returned the other end's FIN.
    pub received_fin: bool,
    /// How this end has ended its output. Closing the socket may have sent the FIN. An RST may
    /// follow a FIN.
    pub ending: Option<Ending>,
    /// The first error of a call.
    pub error: Option<ConnectionError>,
    /// Whether the socket is closed.
    pub closed: bool,
}

impl Record {
    /// Whether the connection was closed without an RST after a failed call, which is an error of
    /// the driver.
    pub fn hides_failure(&self) -> bool {
        self.closed && self.error.is_some() && self.ending != Some(Ending::Rst)
    }
}

impl fmt::Debug for Record {
    /// Shows the bytes as `b"…"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, dial, side, local, remote, received, piped, sent, .. } = self;
        let Self { received_fin, ending, error, closed, .. } = self;
        f.debug_struct("Record")
            .field("client", client)
            .field("dial", dial)
            .field("side", side)
            .field("local", local)
            .field("remote", remote)
            .field("received", &format_args!("b\"{}\"", received.escape_ascii()))
            .field("piped", piped)
            .field("sent", &format_args!("b\"{}\"", sent.escape_ascii()))
            .field("received_fin", received_fin)
            .field("ending", ending)
            .field("error", error)
            .field("closed", closed)
            .finish()
    }
}

pub(super) struct Connection {
    pub(super) client: Arc<str>,
    pub(super) dial: u64,
    latency: Duration,
    ends: [End; 2],
}

pub(super) struct End {
    pub(super) host: usize,
    /// The task that last called it.
    pub(super) task: Option<u64>,
    pub(super) record: Record,
    dice: Dice,
    /// Received by the kernel, but not read yet.
    inbox: VecDeque<u8>,
    /// Segments on their way to this end.
    in_flight: VecDeque<Segment>,
    /// The bytes of data in `in_flight`.
    in_flight_bytes: usize,
    /// Arrivals that wait for a read to open the window.
    blocked_arrivals: usize,
    /// The bytes by which the send buffer of this end has grown.
    send_buffer_growth: usize,
    /// When the send buffer may grow again.
    may_grow_at: Instant,
    /// Nothing arrives at this end before this time.
    stalled_until: Instant,
    fin_arrived: bool,
    /// The error that the next call reports.
    error: Option<ConnectionError>,
    /// Whether the connection was reset or has timed out.
    broken: bool,
    input: Readiness,
    output: Readiness,
}

enum Segment {
    Data(Vec<u8>),
    Fin,
    Rst,
}

/// The reactor's view of a socket, as in tokio: after a call has blocked, all calls block until the
/// reactor reports a change.
pub(super) struct Readiness {
    ready: bool,
    waker: Option<Waker>,
}

impl Readiness {
    pub(super) fn report(&mut self) {
        self.ready = true;
        if let Some(waker) = self.waker.take() {
            waker.wake();
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

    pub(super) fn open_ends(&self, host: usize) -> usize {
        self.ends.iter().filter(|end| end.host == host && !end.record.closed).count()
    }
}

impl End {
    pub(super) fn readiness(&mut self, direction: Direction) -> &mut Readiness {
        match direction {
            Direction::Read => &mut self.input,
            Direction::Write => &mut self.output,
        }
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
    fn next_segment(&mut self, window: usize) -> Option<Segment> {
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
    fn other(self) -> Self {
        Self { side: self.side.other(), ..self }
    }
}

impl Network {
    pub(super) fn end(&mut self, id: EndId) -> &mut End {
        self.connections[id.connection].end(id.side)
    }

    fn faults(&self, id: EndId) -> &Faults {
        &self.hosts[self.connections[id.connection].ends[id.side as usize].host].faults
    }

    /// Makes the next calls on `id` try again, whatever the reactor has reported.
    pub(super) fn recheck(&mut self, id: EndId) {
        for direction in [Direction::Read, Direction::Write] {
            self.end(id).readiness(direction).ready = true;
        }
    }

    pub(super) fn read(
        &mut self,
        id: EndId,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<Result<usize, IoError>> {
        assert!(!buf.is_empty(), "the driver reads into an empty buffer");
        if let Some(result) = self.inject_fault(id, Direction::Read, cx) {
            return result.map_ok(|()| 0);
        }
        let short = self.faults(id).short_read;
        let end = self.end(id);
        if end.inbox.is_empty() {
            if let Some(error) = end.error.take() {
                return Poll::Ready(Err(self.fail(id, error)));
            }
            if end.fin_arrived || end.broken {
                end.record.received_fin |= !end.broken;
                self.trace(id, TraceEvent::Eof);
                return Poll::Ready(Ok(0));
            }
            return self.block(id, Direction::Read, cx);
        }
        let available = end.inbox.len().min(buf.len());
        let is_short = end.dice.strikes("short_read", short);
        let n = if is_short { end.dice.up_to("short_read_len", available) } else { available };
        for (to, byte) in buf.iter_mut().zip(end.inbox.drain(..n)) {
            *to = byte;
        }
        // A read that does not fill its buffer has emptied the queue: the next one blocks.
        end.input.ready = !end.inbox.is_empty() || n == buf.len() || end.fin_arrived || end.broken;
        end.record.received.extend_from_slice(&buf[..n]);
        let (bytes, digest, excerpt) = (n as u64, digest(&buf[..n]), Excerpt::of(&buf[..n]));
        self.trace(id, TraceEvent::Received { bytes, digest, excerpt });
        // The other end learns that the window has grown.
        let latency = self.connections[id.connection].latency;
        self.after(latency, Event::Report(id.other(), Direction::Write));
        for _ in 0..std::mem::take(&mut self.end(id).blocked_arrivals) {
            self.after(latency, Event::Arrive(id));
        }
        Poll::Ready(Ok(n))
    }

    pub(super) fn write(
        &mut self,
        id: EndId,
        cx: &mut Context<'_>,
        bufs: &[&[u8]],
    ) -> Poll<Result<usize, IoError>> {
        assert!(!bufs.is_empty(), "the driver writes nothing");
        assert!(bufs.iter().all(|buf| !buf.is_empty()), "the driver writes an empty slice");
        assert!(self.end(id).record.ending.is_none(), "the driver writes after its FIN");
        if let Some(result) = self.inject_fault(id, Direction::Write, cx) {
            return result.map_ok(|()| 0);
        }
        if let Some(error) = self.take_write_error(id) {
            return Poll::Ready(Err(self.fail(id, error)));
        }
        let faults = self.faults(id);
        let (zero, short) = (faults.zero_write, faults.short_write);
        let mut space = self.free_space(id);
        if space == 0 {
            self.grow_send_buffer(id);
            space = self.free_space(id);
        }
        if space == 0 {
            return self.block(id, Direction::Write, cx);
        }
        let end = self.end(id);
        if end.dice.strikes("zero_write", zero) {
            self.trace(id, TraceEvent::Fault("zero_write"));
            return Poll::Ready(Ok(0));
        }
        let offered: usize = bufs.iter().map(|buf| buf.len()).sum();
        let fits = offered.min(space);
        let is_short = end.dice.strikes("short_write", short);
        let n = if is_short { end.dice.up_to("short_write_len", fits) } else { fits };
        let data: Vec<u8> = bufs.iter().copied().flatten().copied().take(n).collect();
        end.output.ready = space > n;
        end.record.sent.extend_from_slice(&data);
        let (bytes, digest, excerpt) = (n as u64, digest(&data), Excerpt::of(&data));
        self.trace(id, TraceEvent::Sent { bytes, digest, excerpt });
        self.send(id.other(), Segment::Data(data));
        Poll::Ready(Ok(n))
    }

    pub(super) fn finish(&mut self, id: EndId, cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        assert!(self.end(id).record.ending.is_none(), "the driver sends a second FIN");
        if let Some(result) = self.inject_fault(id, Direction::Write, cx) {
            return result;
        }
        if let Some(error) = self.take_write_error(id) {
            return Poll::Ready(Err(self.fail(id, error)));
        }
        self.end(id).record.ending = Some(Ending::Fin);
        self.trace(id, TraceEvent::Finished);
        self.send(id.other(), Segment::Fin);
        Poll::Ready(Ok(()))
    }

    pub(super) fn reset(&mut self, id: EndId) {
        let end = self.end(id);
        assert!(!end.record.closed, "the driver resets a closed socket");
        end.record.ending = Some(Ending::Rst);
        end.record.closed = true;
        // Data in flight stands for unsent data in the kernel's send buffer.
        let receiver = self.end(id.other());
        receiver.in_flight.retain(|segment| !matches!(segment, Segment::Data(_)));
        receiver.in_flight_bytes = 0;
        self.trace(id, TraceEvent::Reset);
        if !std::mem::replace(&mut self.end(id).broken, true) {
            self.send(id.other(), Segment::Rst);
        }
    }

    pub(super) fn unacknowledged(&mut self, id: EndId) -> usize {
        // Linux reports no figure for a failed connection.
        if self.end(id).broken { 0 } else { self.end(id.other()).in_flight_bytes }
    }

    /// How many bytes a write of `id` can take: the free space in the buffers of both kernels.
    fn free_space(&mut self, id: EndId) -> usize {
        let receiver = self.end(id.other());
        let used = receiver.inbox.len() + receiver.in_flight_bytes;
        (self.settings.buffer + self.end(id).send_buffer_growth).saturating_sub(used)
    }

    /// Enlarges the send buffer of `id`, if the plan of faults says so.
    fn grow_send_buffer(&mut self, id: EndId) {
        let (chance, buffer) = (self.faults(id).send_buffer_grows, self.settings.buffer);
        let now = self.now;
        let end = self.end(id);
        if end.may_grow_at <= now && end.dice.strikes("send_buffer_grows", chance) {
            end.may_grow_at = now + GROWTH_INTERVAL;
            end.send_buffer_growth += end.dice.up_to("send_buffer_growth", buffer.div_ceil(8));
            self.trace(id, TraceEvent::Fault("send_buffer_grows"));
        }
    }

    pub(super) fn refuses_to_splice(&mut self, id: EndId) -> bool {
        let chance = self.faults(id).no_splice;
        let end = self.end(id);
        // The kernel refuses only if it is called, and the driver calls it only on a ready socket.
        let refuses = end.input.ready && end.dice.strikes("no_splice", chance);
        if refuses {
            self.trace(id, TraceEvent::Fault("no_splice"));
        }
        refuses
    }

    pub(super) fn close(&mut self, id: EndId) {
        let end = self.end(id);
        if std::mem::replace(&mut end.record.closed, true) {
            return;
        }
        let unread = !end.inbox.is_empty();
        let (broken, finished) = (end.broken, end.record.ending.is_some());
        end.input.waker = None;
        end.output.waker = None;
        if !broken && unread {
            end.broken = true;
            end.record.ending = Some(Ending::Rst);
            self.send(id.other(), Segment::Rst);
        } else if !broken && !finished {
            end.record.ending = Some(Ending::Fin);
            self.send(id.other(), Segment::Fin);
        }
        self.trace(id, TraceEvent::Closed);
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
        let Some(segment) = end.next_segment(window) else { return };
        let (closed, broken, host) = (end.record.closed, end.broken, end.host);
        if self.hosts[host].unplugged || self.hosts[sender].unplugged {
            return;
        }
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
            Segment::Data(data) => self.end(id).inbox.extend(data),
            Segment::Fin => self.end(id).fin_arrived = true,
            Segment::Rst => {
                let end = self.end(id);
                end.broken = true;
                end.error = Some(ConnectionError::Reset);
                self.report(id, Direction::Write);
            }
        }
        self.report(id, Direction::Read);
    }

    fn send(&mut self, to: EndId, segment: Segment) {
        self.send_after(Duration::ZERO, to, segment);
    }

    fn send_after(&mut self, delay: Duration, to: EndId, segment: Segment) {
        let latency = self.connections[to.connection].latency;
        let end = self.end(to);
        if let Segment::Data(data) = &segment {
            end.in_flight_bytes += data.len();
        }
        end.in_flight.push_back(segment);
        let jitter = end.dice.between("jitter", &(Duration::ZERO..=latency));
        self.after(delay + latency + jitter, Event::Arrive(to));
    }

    /// The error of a write on a broken connection.
    fn take_write_error(&mut self, id: EndId) -> Option<ConnectionError> {
        let end = self.end(id);
        // If the error was reported before, this is EPIPE.
        end.broken.then(|| end.error.take().unwrap_or(ConnectionError::Reset))
    }

    fn fail(&mut self, id: EndId, error: ConnectionError) -> IoError {
        self.end(id).record.error.get_or_insert(error);
        self.trace(id, TraceEvent::Error(error.label()));
        error.into()
    }

    /// Applies the plan of faults to a call. Returns its result if a fault replaces it.
    fn inject_fault(
        &mut self,
        id: EndId,
        direction: Direction,
        cx: &mut Context<'_>,
    ) -> Option<Poll<Result<(), IoError>>> {
        assert!(!self.end(id).record.closed, "the driver uses a closed socket");
        self.end(id).task = self.running;
        if !self.end(id).readiness(direction).ready {
            self.end(id).readiness(direction).waker = Some(cx.waker().clone());
            return Some(Poll::Pending);
        }
        let faults = self.faults(id).clone();
        let dice = &mut self.end(id).dice;
        if dice.strikes("would_block", faults.would_block) {
            let delay = dice.between("would_block_delay", &faults.delay);
            self.trace(id, TraceEvent::Fault("would_block"));
            self.after(delay, Event::Report(id, direction));
            return Some(self.block(id, direction, cx));
        }
        if dice.strikes("interrupted", faults.interrupted) {
            self.trace(id, TraceEvent::Fault("interrupted"));
            return Some(Poll::Ready(Err(IoError::Interrupted)));
        }
        if dice.strikes("stall", faults.stall) {
            let until = dice.between("stall_delay", &faults.delay);
            let until = self.now + until;
            let receiver = if direction == Direction::Read { id } else { id.other() };
            let receiver = self.end(receiver);
            receiver.stalled_until = receiver.stalled_until.max(until);
            self.trace(id, TraceEvent::Fault("stall"));
        }
        let dice = &mut self.end(id).dice;
        let broken =
            [dice.strikes("reset", faults.reset), dice.strikes("timed_out", faults.timed_out)];
        let error = match broken.into() {
            (true, _) => ConnectionError::Reset,
            (false, true) => ConnectionError::TimedOut,
            (false, false) => return None,
        };
        if !std::mem::replace(&mut self.end(id).broken, true) {
            self.end(id).error = Some(error);
            self.trace(id, TraceEvent::Fault(error.label()));
            let delay = if error == ConnectionError::Reset { Duration::ZERO } else { KEEPALIVE };
            self.send_after(delay, id.other(), Segment::Rst);
        }
        None
    }

    /// Blocks a call until a change is reported.
    fn block<T>(&mut self, id: EndId, direction: Direction, cx: &mut Context<'_>) -> Poll<T> {
        let faults = self.faults(id).clone();
        let end = self.end(id);
        let readiness = end.readiness(direction);
        readiness.ready = false;
        readiness.waker = Some(cx.waker().clone());
        if end.dice.strikes("spurious_wake", faults.spurious_wake) {
            let delay = end.dice.between("spurious_wake_delay", &faults.delay);
            let wake = Event::Wake(end.host, cx.waker().clone());
            self.after(delay, wake);
        }
        Poll::Pending
    }
}

/// The shortest time between two growths of a send buffer. It grows when the peer answers a window
/// probe, and Linux sends one at most once in this time (`TCP_RTO_MIN`).
const GROWTH_INTERVAL: Duration = Duration::from_millis(200);
/// When a silent connection is probed (`TCP_KEEPIDLE` as the runtimes set it; tcp(7)). If the other
/// end has given up, it answers the probe with an RST.
const KEEPALIVE: Duration = Duration::from_secs(60);
