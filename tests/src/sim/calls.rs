//! The calls on sockets.

use std::{
    io::Read as _,
    task::{Context, Poll},
    time::Duration,
};

use wirestate_core::{ConnectionError, Direction, drive::IoError};

use super::{
    Excerpt, Faults, TraceEvent, Value,
    connection::{End, EndId, Segment},
    delivery::KEEPALIVE,
    network::{Event, Network},
    trace::digest,
};
use crate::script::Ending;

impl Network {
    pub(super) fn end(&mut self, id: EndId) -> &mut End {
        self.connections[id.connection].end(id.side)
    }

    fn faults(&self, id: EndId) -> &Faults {
        &self.hosts[self.connections[id.connection].peek(id.side).host].faults
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
        if n < available {
            self.trace_fault(id, "short_read", Some(Value::part(n, available)));
        }
        let end = self.end(id);
        end.inbox.read_exact(&mut buf[..n]).expect("the queue has so many bytes");
        // A read that does not fill its buffer has emptied the queue: the next one blocks.
        end.input.ready = !end.inbox.is_empty() || n == buf.len() || end.fin_arrived || end.broken;
        end.record.received.extend_from_slice(&buf[..n]);
        let (bytes, digest, excerpt) = (n as u64, digest(&buf[..n]), Excerpt::of(&buf[..n]));
        self.trace(id, TraceEvent::Received { bytes, digest, excerpt });
        // The other end learns that the window has grown.
        let latency = self.connections[id.connection].latency;
        self.after(latency, Event::WindowUpdate(id.other()));
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
            self.trace_fault(id, "zero_write", None);
            return Poll::Ready(Ok(0));
        }
        let offered: usize = bufs.iter().map(|buf| buf.len()).sum();
        let fits = offered.min(space);
        let is_short = end.dice.strikes("short_write", short);
        let n = if is_short { end.dice.up_to("short_write_len", fits) } else { fits };
        if n < fits {
            self.trace_fault(id, "short_write", Some(Value::part(n, fits)));
        }
        let end = self.end(id);
        let mut data = Vec::with_capacity(n);
        for buf in bufs {
            data.extend_from_slice(&buf[..buf.len().min(n - data.len())]);
        }
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
        if end.record.killed {
            return;
        }
        assert!(!end.record.closed, "the driver resets a closed socket");
        end.record.ending = Some(Ending::Rst);
        self.set_closed(id);
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
        if self.end(id).broken { 0 } else { self.end(id.other()).unacknowledged() }
    }

    /// How many bytes a write of `id` can take: the free space in the buffers of both kernels.
    fn free_space(&mut self, id: EndId) -> usize {
        let receiver = self.end(id.other());
        let used = receiver.inbox.len() + receiver.unacknowledged();
        (self.settings.buffer + self.end(id).send_buffer_growth).saturating_sub(used)
    }

    /// Enlarges the send buffer of `id`, if the plan of faults says so.
    fn grow_send_buffer(&mut self, id: EndId) {
        let (chance, buffer) = (self.faults(id).send_buffer_grows, self.settings.buffer);
        let now = self.now;
        let end = self.end(id);
        if end.may_grow_at <= now && end.dice.strikes("send_buffer_grows", chance) {
            end.may_grow_at = now + GROWTH_INTERVAL;
            let growth = end.dice.up_to("send_buffer_growth", buffer.div_ceil(8));
            end.send_buffer_growth += growth;
            self.trace_fault(id, "send_buffer_grows", Some(Value::Number(growth as u64)));
        }
    }

    pub(super) fn refuses_to_splice(&mut self, id: EndId) -> bool {
        let chance = self.faults(id).no_splice;
        let end = self.end(id);
        // The kernel refuses only if it is called, and the driver calls it only on a ready socket.
        let refuses = end.input.ready && end.dice.strikes("no_splice", chance);
        if refuses {
            self.trace_fault(id, "no_splice", None);
        }
        refuses
    }

    pub(super) fn close(&mut self, id: EndId) {
        if self.end(id).record.closed {
            return;
        }
        self.set_closed(id);
        let end = self.end(id);
        let unread = !end.inbox.is_empty();
        let (broken, finished) = (end.broken, end.record.ending.is_some());
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

    /// The end disappears without a FIN or an RST.
    pub(super) fn vanish(&mut self, id: EndId) {
        if self.end(id).record.closed {
            return;
        }
        self.set_closed(id);
        self.end(id).broken = true;
        self.end(id).inbox.clear();
        self.probe_later(id.other());
    }

    fn set_closed(&mut self, id: EndId) {
        let end = self.end(id);
        end.record.closed = true;
        end.input.waker = None;
        end.output.waker = None;
        let host = end.host;
        self.hosts[host].sockets -= 1;
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
            self.trace_fault(id, "would_block", Some(Value::Time(delay)));
            self.after(delay, Event::Report(id, direction));
            return Some(self.block(id, direction, cx));
        }
        if dice.strikes("interrupted", faults.interrupted) {
            self.trace_fault(id, "interrupted", None);
            return Some(Poll::Ready(Err(IoError::Interrupted)));
        }
        if dice.strikes("stall", faults.stall) {
            let delay = dice.between("stall_delay", &faults.delay);
            let until = self.now + delay;
            let receiver = if direction == Direction::Read { id } else { id.other() };
            let receiver = self.end(receiver);
            receiver.stalled_until = receiver.stalled_until.max(until);
            self.trace_fault(id, "stall", Some(Value::Time(delay)));
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
            self.trace_fault(id, error.label(), None);
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
            let wake = Event::Wake(id, cx.waker().clone());
            self.after(delay, wake);
        }
        Poll::Pending
    }
}

/// The shortest time between two growths of a send buffer. It grows when the peer answers a window
/// probe, and Linux sends one at most once in this time (`TCP_RTO_MIN`).
const GROWTH_INTERVAL: Duration = Duration::from_millis(200);
