//! A TCP connection as the two kernels keep it.
//!
//! Modelled on Linux: what arrived before a reset can still be read (tcp(7); `tcp_recvmsg` looks
//! into the queue first); the reset is then reported once, to whichever call comes first; after
//! that a read says 0 and a write `EPIPE`. Closing with unread bytes answers with an RST (RFC 9293,
//! section 3.10.4; RFC 2525, section 2.17), as does data that arrives at a socket that is closed. A reset
//! throws away what was written before and has not arrived.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use wirestate_core::{ConnectionError, Direction, Instant, drive::IoError};

use super::{
    Faults, Side, What,
    faults::Dice,
    network::{Event, Network},
    trace::digest,
};
use crate::script::Sent;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct EndId {
    pub(super) connection: usize,
    pub(super) side: Side,
}

/// What one end of a connection has done and seen, every byte of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The name of the host that asked for the connection.
    pub client: Arc<str>,
    /// Which of that host's connections it is, counted from 0.
    pub dial: u64,
    /// Which end of it this is.
    pub side: Side,
    /// This end's address.
    pub local: SocketAddr,
    /// The other end's address.
    pub remote: SocketAddr,
    /// Bytes that reads have found.
    pub received: Vec<u8>,
    /// How many of them went into a pipe.
    pub piped: usize,
    /// Bytes that writes have taken.
    pub sent: Vec<u8>,
    /// A read has found the other end's FIN.
    pub heard_fin: bool,
    /// How it has ended its output: by a FIN (of its own, or the one that closing sends), or by an
    /// RST, possibly behind a FIN.
    pub ended: Option<Sent>,
    /// A call has failed, the first time in this way.
    pub lost: Option<ConnectionError>,
    /// It is closed: nobody holds the socket any more.
    pub closed: bool,
}

impl Record {
    /// Whether a call has failed and the connection was closed without an RST: no driver may do
    /// that.
    pub fn hides_failure(&self) -> bool {
        self.closed && self.lost.is_some() && self.ended != Some(Sent::Rst)
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
    pub(super) record: Record,
    dice: Dice,
    /// Received by the kernel, and not read yet.
    inbox: VecDeque<u8>,
    /// On its way here.
    coming: VecDeque<Segment>,
    /// Bytes in `coming`.
    coming_bytes: usize,
    /// Arrivals that wait until a read opens the window.
    shut_out: usize,
    /// How many bytes the send buffer of this end has grown by, and when it may grow again.
    grown: usize,
    grows_from: Instant,
    /// Nothing arrives here before that.
    stalled_until: Instant,
    fin_arrived: bool,
    /// The connection is no more; the error is still to be reported.
    error: Option<ConnectionError>,
    /// The connection is no more.
    broken: bool,
    input: Readiness,
    output: Readiness,
}

enum Segment {
    Data(Vec<u8>),
    Fin,
    Rst,
}

/// What the host's reactor believes, as in tokio: once a call would have blocked, it would block
/// until a change is reported.
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
            record: Record {
                client: client.clone(),
                dial,
                side,
                local,
                remote,
                received: Vec::new(),
                piped: 0,
                sent: Vec::new(),
                heard_fin: false,
                ended: None,
                lost: None,
                closed: false,
            },
            dice,
            inbox: VecDeque::new(),
            coming: VecDeque::new(),
            coming_bytes: 0,
            shut_out: 0,
            grown: 0,
            grows_from: Instant::EPOCH,
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

    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.ends.iter().map(|end| &end.record)
    }

    pub(super) fn open_ends(&self, host: usize) -> usize {
        self.ends.iter().filter(|end| end.host == host && !end.record.closed).count()
    }
}

impl End {
    pub(super) fn readiness(&mut self, way: Direction) -> &mut Readiness {
        match way {
            Direction::Read => &mut self.input,
            Direction::Write => &mut self.output,
        }
    }

    pub(super) fn wakers(&self) -> impl Iterator<Item = &Waker> {
        [&self.input, &self.output].into_iter().filter_map(|readiness| readiness.waker.as_ref())
    }
}

impl End {
    /// The next segment that arrives; `None` where there is none, or the window is closed to it.
    fn next_segment(&mut self, window: usize) -> Option<Segment> {
        let window = window.saturating_sub(self.inbox.len());
        let first = match self.coming.front()? {
            Segment::Data(data) => data.len(),
            Segment::Fin | Segment::Rst => return self.coming.pop_front(),
        };
        // A socket that was closed has no window, and answers by an RST.
        if first <= window || self.broken || self.record.closed {
            self.coming_bytes -= first;
            return self.coming.pop_front();
        }
        // An RST needs no window, and discards the data that is on its way before it.
        if let Some(rst) = self.coming.iter().position(|next| matches!(next, Segment::Rst)) {
            self.coming.drain(..rst);
            self.coming_bytes = 0;
            return self.coming.pop_front();
        }
        self.shut_out += 1;
        if window == 0 {
            return None;
        }
        let Some(Segment::Data(data)) = self.coming.front_mut() else { return None };
        self.coming_bytes -= window;
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

    /// The next calls on `id` ask the kernel, whatever the reactor has reported.
    pub(super) fn recheck(&mut self, id: EndId) {
        for way in [Direction::Read, Direction::Write] {
            self.end(id).readiness(way).ready = true;
        }
    }

    pub(super) fn read(
        &mut self,
        id: EndId,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<Result<usize, IoError>> {
        assert!(!buf.is_empty(), "the driver reads into an empty buffer");
        if let Some(answer) = self.interfere(id, Direction::Read, cx) {
            return answer.map_ok(|()| 0);
        }
        let short = self.faults(id).short_read;
        let end = self.end(id);
        if end.inbox.is_empty() {
            if let Some(why) = end.error.take() {
                return Poll::Ready(Err(self.lose(id, why)));
            }
            if end.fin_arrived || end.broken {
                end.record.heard_fin |= !end.broken;
                self.note(id, What::Ended);
                return Poll::Ready(Ok(0));
            }
            return self.block(id, Direction::Read, cx);
        }
        let found = end.inbox.len().min(buf.len());
        let cut = end.dice.strikes(short);
        let n = if cut { end.dice.up_to(found) } else { found };
        for (to, byte) in buf.iter_mut().zip(end.inbox.drain(..n)) {
            *to = byte;
        }
        // A read that does not fill its buffer has emptied the queue.
        end.input.ready = !end.inbox.is_empty() || n == buf.len() || end.fin_arrived || end.broken;
        end.record.received.extend_from_slice(&buf[..n]);
        self.note(id, What::Received { bytes: n as u64, digest: digest(&buf[..n]) });
        // The other end hears that there is room.
        let latency = self.connections[id.connection].latency;
        self.after(latency, Event::Report(id.other(), Direction::Write));
        for _ in 0..std::mem::take(&mut self.end(id).shut_out) {
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
        assert!(self.end(id).record.ended.is_none(), "the driver writes behind its FIN");
        if let Some(answer) = self.interfere(id, Direction::Write, cx) {
            return answer.map_ok(|()| 0);
        }
        if let Some(why) = self.failure(id) {
            return Poll::Ready(Err(self.lose(id, why)));
        }
        let faults = self.faults(id);
        let (zero, short) = (faults.zero_write, faults.short_write);
        let mut room = self.room(id);
        if room == 0 {
            self.grow(id);
            room = self.room(id);
        }
        if room == 0 {
            return self.block(id, Direction::Write, cx);
        }
        let end = self.end(id);
        if end.dice.strikes(zero) {
            self.note(id, What::Fault("zero_write"));
            return Poll::Ready(Ok(0));
        }
        let offered: usize = bufs.iter().map(|buf| buf.len()).sum();
        let fits = offered.min(room);
        let cut = end.dice.strikes(short);
        let n = if cut { end.dice.up_to(fits) } else { fits };
        let data: Vec<u8> = bufs.iter().copied().flatten().copied().take(n).collect();
        end.output.ready = room > n;
        end.record.sent.extend_from_slice(&data);
        self.note(id, What::Sent { bytes: n as u64, digest: digest(&data) });
        self.send(id.other(), Segment::Data(data));
        Poll::Ready(Ok(n))
    }

    pub(super) fn finish(&mut self, id: EndId, cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        assert!(self.end(id).record.ended.is_none(), "the driver sends a second FIN");
        if let Some(answer) = self.interfere(id, Direction::Write, cx) {
            return answer;
        }
        if let Some(why) = self.failure(id) {
            return Poll::Ready(Err(self.lose(id, why)));
        }
        self.end(id).record.ended = Some(Sent::Fin);
        self.note(id, What::Finished);
        self.send(id.other(), Segment::Fin);
        Poll::Ready(Ok(()))
    }

    pub(super) fn reset(&mut self, id: EndId) {
        let end = self.end(id);
        assert!(!end.record.closed, "the driver resets a socket that is closed");
        end.record.ended = Some(Sent::Rst);
        end.record.closed = true;
        // What is on its way stands for what the kernel still keeps.
        let receiver = self.end(id.other());
        receiver.coming.retain(|segment| !matches!(segment, Segment::Data(_)));
        receiver.coming_bytes = 0;
        self.note(id, What::Reset);
        if !std::mem::replace(&mut self.end(id).broken, true) {
            self.send(id.other(), Segment::Rst);
        }
    }

    pub(super) fn unacknowledged(&mut self, id: EndId) -> usize {
        // A lost connection has no figure.
        if self.end(id).broken { 0 } else { self.end(id.other()).coming_bytes }
    }

    /// How many bytes fit into a write of `id`, in the buffers of both kernels.
    fn room(&mut self, id: EndId) -> usize {
        let receiver = self.end(id.other());
        let taken = receiver.inbox.len() + receiver.coming_bytes;
        (self.settings.buffer + self.end(id).grown).saturating_sub(taken)
    }

    /// The kernel enlarges the send buffer of `id`, if the plan of faults says so.
    fn grow(&mut self, id: EndId) {
        let (chance, buffer) = (self.faults(id).send_buffer_grows, self.settings.buffer);
        let now = self.now;
        let end = self.end(id);
        if end.grows_from <= now && end.dice.strikes(chance) {
            end.grows_from = now + GROWTH_INTERVAL;
            end.grown += end.dice.up_to(buffer.div_ceil(8));
            self.note(id, What::Fault("send_buffer_grows"));
        }
    }

    pub(super) fn refuses_to_splice(&mut self, id: EndId) -> bool {
        let chance = self.faults(id).no_splice;
        let end = self.end(id);
        // Only the kernel refuses, and it is asked only where the socket is ready.
        let refuses = end.input.ready && end.dice.strikes(chance);
        if refuses {
            self.note(id, What::Fault("no_splice"));
        }
        refuses
    }

    pub(super) fn close(&mut self, id: EndId) {
        let end = self.end(id);
        if std::mem::replace(&mut end.record.closed, true) {
            return;
        }
        let unread = !end.inbox.is_empty();
        let (broken, finished) = (end.broken, end.record.ended.is_some());
        end.input.waker = None;
        end.output.waker = None;
        if !broken && unread {
            end.broken = true;
            end.record.ended = Some(Sent::Rst);
            self.send(id.other(), Segment::Rst);
        } else if !broken && !finished {
            end.record.ended = Some(Sent::Fin);
            self.send(id.other(), Segment::Fin);
        }
        self.note(id, What::Closed);
    }

    /// The next segment arrives at `id`.
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
            // There is nobody any more who would read it.
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
            end.coming_bytes += data.len();
        }
        end.coming.push_back(segment);
        let jitter = end.dice.between(&(Duration::ZERO..=latency));
        self.after(delay + latency + jitter, Event::Arrive(to));
    }

    /// Why a write fails, if it does.
    fn failure(&mut self, id: EndId) -> Option<ConnectionError> {
        let end = self.end(id);
        // Without an error that is still to be reported, it is EPIPE.
        end.broken.then(|| end.error.take().unwrap_or(ConnectionError::Reset))
    }

    fn lose(&mut self, id: EndId, why: ConnectionError) -> IoError {
        self.end(id).record.lost.get_or_insert(why);
        self.note(id, What::Lost(why.label()));
        why.into()
    }

    /// What the plan of faults makes of a call, instead of what it would come to.
    fn interfere(
        &mut self,
        id: EndId,
        way: Direction,
        cx: &mut Context<'_>,
    ) -> Option<Poll<Result<(), IoError>>> {
        assert!(!self.end(id).record.closed, "the driver uses a socket that is closed");
        if !self.end(id).readiness(way).ready {
            self.end(id).readiness(way).waker = Some(cx.waker().clone());
            return Some(Poll::Pending);
        }
        let faults = self.faults(id).clone();
        let dice = &mut self.end(id).dice;
        if dice.strikes(faults.would_block) {
            let delay = dice.between(&faults.delay);
            self.note(id, What::Fault("would_block"));
            self.after(delay, Event::Report(id, way));
            return Some(self.block(id, way, cx));
        }
        if dice.strikes(faults.interrupted) {
            self.note(id, What::Fault("interrupted"));
            return Some(Poll::Ready(Err(IoError::Interrupted)));
        }
        if dice.strikes(faults.stall) {
            let until = dice.between(&faults.delay);
            let until = self.now + until;
            let receiver = if way == Direction::Read { id } else { id.other() };
            let receiver = self.end(receiver);
            receiver.stalled_until = receiver.stalled_until.max(until);
            self.note(id, What::Fault("stall"));
        }
        let dice = &mut self.end(id).dice;
        let why = match (dice.strikes(faults.reset), dice.strikes(faults.timed_out)) {
            (true, _) => ConnectionError::Reset,
            (false, true) => ConnectionError::TimedOut,
            (false, false) => return None,
        };
        if !std::mem::replace(&mut self.end(id).broken, true) {
            self.end(id).error = Some(why);
            self.note(id, What::Fault(why.label()));
            let silence = if why == ConnectionError::Reset { Duration::ZERO } else { KEEPALIVE };
            self.send_after(silence, id.other(), Segment::Rst);
        }
        None
    }

    /// The call would block; a change will be reported.
    fn block<T>(&mut self, id: EndId, way: Direction, cx: &mut Context<'_>) -> Poll<T> {
        let faults = self.faults(id).clone();
        let end = self.end(id);
        let readiness = end.readiness(way);
        readiness.ready = false;
        readiness.waker = Some(cx.waker().clone());
        if end.dice.strikes(faults.spurious_wake) {
            let delay = end.dice.between(&faults.delay);
            let wake = Event::Wake(end.host, cx.waker().clone());
            self.after(delay, wake);
        }
        Poll::Pending
    }
}

/// A send buffer grows when the peer answers a probe of its window, which is sent at most this
/// often (`TCP_RTO_MIN` of Linux).
const GROWTH_INTERVAL: Duration = Duration::from_millis(200);
/// When a silent connection is probed (`TCP_KEEPIDLE` as this project sets it; tcp(7)): where the
/// other end is gone, an RST comes back.
const KEEPALIVE: Duration = Duration::from_secs(60);
