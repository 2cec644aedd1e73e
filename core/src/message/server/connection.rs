//! The machine of a server's connection.

use alloc::collections::VecDeque;
use core::{
    future::Future as _,
    pin::Pin,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;

use super::{Config, Inner, MessageReason};
use crate::{
    ConnectionError, Direction, Event, Instant, Interest, Machine, Outbound, Status, WriteProgress,
    buffer::Reservation,
    message::{
        DecodeError, Inbox, Incoming, Message, PartialFrame,
        frame_timeouts::FrameTimer,
        outbox::Outbox,
        service::{Reply, Service},
    },
    shared::Shared,
    teardown::{InFlightWait, Teardown},
};

/// One connection of a server.
///
/// The peer may send requests without waiting for replies. Replies are sent in the order of the
/// requests.
///
/// One call of a method answers at most 32 requests, even if more are buffered. While more may be
/// buffered, the connection does not read. [`Event::Written`] and
/// [`poll_shared`](Machine::poll_shared) continue with the next ones.
///
/// Invalid input, an end of the input within a frame, and a frame that does not arrive in time are
/// answered by one error reply, after the replies to earlier requests. A lingering close follows.
///
/// It holds at most
///
/// - one receive buffer, a header, and a content that is larger than the buffer ([`Inbox`]);
/// - 4 × 64 KiB, one message and an error reply of pending output;
/// - [`Config::max_in_flight`] pending replies.
///
/// [`Config::max_memory`] bounds the large contents of all connections together. An idle connection
/// holds none of these.
#[derive(Debug)]
pub struct Connection<S: Service> {
    server: Shared<Inner>,
    service: S,
    inbox: Inbox,
    outbox: Outbox,
    /// Replies that are not in the outbox yet, in the order of their requests.
    replies: VecDeque<QueuedReply<S::Pending>>,
    /// The last call has answered [`MAX_REQUESTS`] requests, and the inbox may hold more.
    may_have_requests: bool,
    /// The number of requests that were passed to the service.
    requests: u64,
    frame_timer: FrameTimer,
    /// More than half of [`Config::max_memory`] was in use at the last call. It is stored because a
    /// deadline depends on it and must not change between calls.
    is_memory_scarce: bool,
    /// When a byte was last received or written.
    last_activity: Instant,
    progress: WriteProgress,
    /// The peer's FIN has arrived.
    has_eof: bool,
    state: State,
}

#[derive(Debug)]
struct QueuedReply<P> {
    /// When the request was passed to the service.
    since: Instant,
    reply: Reply<P>,
    /// The reservation for the request's content or, once the reply is ready, for the reply's.
    reservation: Reservation,
}

#[derive(Clone, Debug)]
enum State {
    Open,
    /// A shutdown was requested. Requests that are already on their way are answered.
    Draining(InFlightWait),
    /// Reading has ended. The pending replies are sent, then an error reply if the reason has one.
    Answering(MessageReason),
    Ending(Teardown<MessageReason>),
}

impl<S: Service> Connection<S> {
    pub(super) fn new(server: Shared<Inner>, service: S, now: Instant) -> Self {
        let inbox = Inbox::with_valid(server.config.frame_limits, server.pool.clone());
        Self {
            inbox: inbox.with_quota(server.quota.clone()),
            server,
            service,
            outbox: Outbox::default(),
            replies: VecDeque::new(),
            may_have_requests: false,
            requests: 0,
            frame_timer: FrameTimer::default(),
            is_memory_scarce: false,
            last_activity: now,
            progress: WriteProgress::new(now),
            has_eof: false,
            state: State::Open,
        }
    }

    /// The connection's clone of the service.
    pub fn service_mut(&mut self) -> &mut S {
        &mut self.service
    }
}

impl<S: Service> Machine for Connection<S> {
    type Reason = MessageReason;

    fn interest(&self) -> Interest {
        if let State::Ending(ending) = &self.state {
            return ending.interest(!self.outbox.is_empty());
        }
        let write = if self.outbox.is_empty() { Outbound::Idle } else { Outbound::Flush };
        Interest { read: self.is_open() && self.is_reading(), write }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.inbox.spare()
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        self.outbox.write_bufs(out)
    }

    fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
        self.outbox.write_owned(out, max)
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Read(n) => self.handle_read(now, n),
            Event::Eof => self.handle_eof(now),
            Event::Error(direction, error) => self.handle_error(direction, error),
            Event::Written(n) => {
                self.outbox.consume(n);
                self.last_activity = now;
                self.progress.written(now, n);
                self.pump(now);
                self.restart_drain(now);
            }
            Event::Finished => {
                if let State::Ending(ending) = &mut self.state {
                    ending.handle_finished(now);
                }
            }
            Event::Timeout { unacknowledged } => self.handle_timeout(now, unacknowledged),
            Event::ShutDown => {
                if let State::Open = self.state {
                    self.state = State::Draining(InFlightWait::new(now));
                }
            }
            Event::Release => {
                self.inbox.release();
                self.outbox.release();
                if self.replies.is_empty() {
                    self.replies = VecDeque::new();
                }
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let write = self.write_deadline();
        let idle = || self.config().idle_timeout.map(|limit| self.last_activity + limit);
        let deadlines = match &self.state {
            State::Open if self.is_idle() => [write, idle(), None],
            State::Draining(drain) if self.is_idle() => [write, idle(), Some(drain.deadline())],
            State::Open | State::Draining(_) | State::Answering(_) => {
                [write, self.frame_deadline(), self.reply_deadline()]
            }
            State::Ending(ending) => return ending.poll_timeout(write),
        };
        deadlines.into_iter().flatten().min()
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let mut has_changed = self.may_have_requests && self.has_room();
        let mut reserved = Ok(());
        for queued in &mut self.replies {
            if let Reply::Pending(future) = &mut queued.reply
                && let Poll::Ready(reply) = Pin::new(future).poll(cx)
            {
                let size = Outbox::reserved_for(&reply.content);
                reserved = reserved.and(self.server.quota.resize(&mut queued.reservation, size));
                queued.reply = Reply::Ready(reply);
                has_changed = true;
            }
        }
        if let Err(exceeded) = reserved {
            self.abandon_replies(exceeded.into());
        }
        if has_changed {
            self.pump(now);
        }
        has_changed
    }

    fn work(&self) -> u64 {
        self.requests
    }

    fn status(&self) -> Status {
        let state = match &self.state {
            State::Open if self.is_idle() => "idle",
            State::Open => "open",
            State::Draining(_) => "draining",
            State::Answering(_) => "answering",
            State::Ending(ending) => ending.state(),
        };
        Status { state, queued: self.outbox.len(), lag: self.replies.len() as u64 }
    }

    fn reason(&self) -> Option<MessageReason> {
        let State::Ending(ending) = &self.state else { return None };
        ending.reason()
    }
}

/// Event handlers.
impl<S: Service> Connection<S> {
    fn handle_read(&mut self, now: Instant, n: usize) {
        if let State::Ending(ending) = &mut self.state {
            return ending.handle_read(now, n, &self.server.discards);
        }
        if self.is_idle()
            && let State::Draining(drain) = &mut self.state
        {
            drain.handle_read(now);
        }
        self.inbox.commit(n);
        self.last_activity = now;
        self.pump(now);
    }

    fn handle_eof(&mut self, now: Instant) {
        if let State::Ending(ending) = &mut self.state {
            return ending.handle_eof();
        }
        self.has_eof = true;
        let reason = match self.inbox.partial() {
            None => MessageReason::Finished,
            Some(PartialFrame { received, expected, .. }) => {
                DecodeError::Truncated { received, expected }.into()
            }
        };
        self.stop_reading(reason);
        self.pump(now);
    }

    fn handle_error(&mut self, direction: Direction, error: ConnectionError) {
        let (unsent, unanswered) = (self.outbox.len(), self.replies.len());
        let lost = MessageReason::Lost { direction, error, unsent, unanswered };
        if let State::Ending(ending) = &mut self.state {
            ending.handle_error(lost);
        } else {
            self.state = State::Ending(Teardown::ended(lost));
        }
        self.clear();
    }

    fn handle_timeout(&mut self, now: Instant, unacknowledged: usize) {
        let is_closing = matches!(&self.state, State::Ending(ending) if ending.is_closing());
        let queued = is_closing || !self.outbox.is_empty();
        if !WriteProgress::expires(self, |m| &mut m.progress, now, queued, unacknowledged) {
            return;
        }
        let unacknowledged = self.outbox.len() + unacknowledged;
        let stalled = |limit| MessageReason::WriteStalled { limit, unacknowledged };
        if let State::Ending(ending) = &mut self.state {
            ending.expire(self.server.config.write_timeout.map(stalled));
            return self.clear();
        }
        let write_timeout = self.config().write_timeout.filter(|limit| {
            self.write_deadline().is_some() && self.progress.is_stalled(now, *limit)
        });
        if let Some(limit) = write_timeout {
            self.state = State::Ending(Teardown::reset(stalled(limit)));
            return self.clear();
        }
        match self.state {
            State::Draining(_) if self.is_idle() => self.stop_reading(MessageReason::ShutDown),
            State::Open if self.is_idle() => {
                let limit = self.config().idle_timeout.unwrap_or_default();
                self.stop_reading(MessageReason::IdleTimeout { limit });
            }
            State::Open | State::Draining(_) | State::Answering(_) | State::Ending(_) => {
                self.expire(now);
            }
        }
        self.pump(now);
    }

    /// Handles the deadline of a reply or a frame.
    fn expire(&mut self, now: Instant) {
        if self.reply_deadline().is_some_and(|deadline| deadline <= now) {
            let limit = self.config().service_timeout.unwrap_or_default();
            let unanswered = self.replies.len();
            self.abandon_replies(MessageReason::ServiceTimeout { limit, unanswered });
        } else if let Some(partial) = self.inbox.partial() {
            let limit = self.frame_limit(partial).unwrap_or_default();
            let PartialFrame { received, expected, has_header } = partial;
            let reason = MessageReason::FrameTimeout { received, expected, has_header, limit };
            self.stop_reading(reason);
        }
    }
}

/// Requests and replies.
impl<S: Service> Connection<S> {
    /// Passes at most [`MAX_REQUESTS`] requests to the service and sends replies, while there is
    /// room. Then updates the state that depends on them. It is called after every event.
    fn pump(&mut self, now: Instant) {
        let max_requests = self.requests + MAX_REQUESTS;
        self.may_have_requests = false;
        loop {
            self.send_ready_replies(now);
            if !self.is_open() || !self.has_room() {
                break;
            }
            if self.requests == max_requests {
                self.may_have_requests = true;
                break;
            }
            let service = &mut self.service;
            match self.inbox.next_incoming(|header| service.delivery(header)) {
                Ok(None) => match self.inbox.reserve() {
                    Ok(()) => break,
                    Err(exceeded) => self.stop_reading(exceeded.into()),
                },
                Ok(Some(Incoming::Chunk(chunk))) => self.service.chunk(chunk),
                Ok(Some(Incoming::Message(request))) => {
                    self.frame_timer.stop();
                    self.requests += 1;
                    self.server.requests.fetch_add(1, Relaxed);
                    let size = Outbox::reserved_for(&request.content);
                    let reply = self.service.call(request);
                    let reservation = self.inbox.take_reservation();
                    match reply {
                        Reply::Ready(reply) if self.replies.is_empty() => {
                            self.send(reply, reservation, now);
                        }
                        reply @ (Reply::Ready(_) | Reply::Pending(_)) => {
                            self.queue(QueuedReply { since: now, reply, reservation }, size);
                        }
                    }
                    if self.config().one_shot && self.is_open() {
                        self.stop_reading(MessageReason::Answered);
                    }
                }
                Err(error) => self.stop_reading(error.into()),
            }
        }
        if let State::Answering(reason) = &self.state
            && self.replies.is_empty()
        {
            let reason = reason.clone();
            if let Some(reply) = reason.error_reply() {
                self.push(reply, Reservation::default(), now);
            }
            let linger = (!self.has_eof).then_some(self.config().linger);
            let closing = Teardown::closing(reason, linger, &mut self.progress, now);
            self.state = State::Ending(closing);
        }
        let is_partial = self.is_open() && self.inbox.partial().is_some();
        self.frame_timer.update(is_partial, self.is_reading(), now);
        self.is_memory_scarce = self.server.quota.reserved() > self.config().max_memory / 2;
        if !self.has_room() {
            // No read follows before output is written or a reply is ready.
            self.inbox.release();
        }
    }

    /// Sends the replies that are ready, up to the first one that is not.
    fn send_ready_replies(&mut self, now: Instant) {
        let is_ready = |queued: &mut QueuedReply<_>| matches!(queued.reply, Reply::Ready(_));
        while self.outbox.has_room()
            && let Some(QueuedReply { reply: Reply::Ready(reply), reservation, .. }) =
                self.replies.pop_front_if(is_ready)
        {
            self.send(reply, reservation, now);
        }
    }

    /// Sends a reply. `reservation` is for the content of its request.
    fn send(&mut self, reply: Message<'_>, mut reservation: Reservation, now: Instant) {
        let size = Outbox::reserved_for(&reply.content);
        match self.server.quota.resize(&mut reservation, size) {
            Ok(()) => self.push(reply, reservation, now),
            Err(exceeded) => self.abandon_replies(exceeded.into()),
        }
    }

    fn push(&mut self, reply: Message<'_>, reservation: Reservation, now: Instant) {
        if self.outbox.is_empty() {
            self.progress.queued(now);
        }
        if let Err(error) = self.outbox.push(reply, reservation) {
            // The service's reply cannot be sent, so its request is answered by an error reply.
            let pushed = self.outbox.push(Message::error(error), Reservation::default());
            debug_assert!(pushed.is_ok(), "the header of an error reply is short");
        }
    }

    /// Queues a reply. Until it is ready, it reserves `size` bytes for the content of its request.
    fn queue(&mut self, mut queued: QueuedReply<S::Pending>, size: usize) {
        let size = match &queued.reply {
            Reply::Ready(reply) => Outbox::reserved_for(&reply.content),
            Reply::Pending(_) => size,
        };
        match self.server.quota.resize(&mut queued.reservation, size) {
            Ok(()) => self.replies.push_back(queued),
            Err(exceeded) => self.abandon_replies(exceeded.into()),
        }
    }

    /// Drops the replies that are not in the outbox, and ends the connection with `reason`.
    fn abandon_replies(&mut self, reason: MessageReason) {
        self.replies.clear();
        // An earlier error of the peer stays the reason, so that the peer is sent that error.
        if !matches!(&self.state, State::Answering(reason) if reason.error_reply().is_some()) {
            self.stop_reading(reason);
        }
    }

    /// Stops reading. Replies to earlier requests are still sent.
    fn stop_reading(&mut self, reason: MessageReason) {
        self.inbox.clear();
        self.inbox.release();
        self.state = State::Answering(reason);
    }

    /// Discards input, output and replies.
    fn clear(&mut self) {
        self.inbox.clear();
        self.outbox.clear();
        self.replies.clear();
    }

    /// Restarts the wait for input if the connection drains and nothing is pending any more.
    fn restart_drain(&mut self, now: Instant) {
        if self.is_idle()
            && let State::Draining(drain) = &mut self.state
        {
            drain.wait(now);
        }
    }
}

/// States and deadlines.
impl<S: Service> Connection<S> {
    fn config(&self) -> &Config {
        &self.server.config
    }

    /// Whether requests are accepted.
    fn is_open(&self) -> bool {
        matches!(self.state, State::Open | State::Draining(_))
    }

    /// Whether another request may be passed to the service.
    fn has_room(&self) -> bool {
        self.outbox.has_room() && self.replies.len() < self.config().max_in_flight.get()
    }

    /// Whether no reply is pending and no request has begun to arrive.
    fn is_idle(&self) -> bool {
        self.outbox.is_empty() && self.replies.is_empty() && self.inbox.partial().is_none()
    }

    /// Whether an open connection reads.
    fn is_reading(&self) -> bool {
        self.has_room() && !self.may_have_requests
    }

    /// When the frame that is being received must be complete.
    fn frame_deadline(&self) -> Option<Instant> {
        self.frame_timer.deadline(self.frame_limit(self.inbox.partial()?))
    }

    /// How long `frame` may take. While memory is scarce, the minimum rate does not extend the time
    /// for a content, so that slow senders do not occupy the memory.
    fn frame_limit(&self, frame: PartialFrame) -> Option<Duration> {
        let timeouts = &self.config().frame_timeouts;
        let limit = timeouts.limit(frame)?;
        let content = timeouts.content.filter(|_| frame.has_header && self.is_memory_scarce);
        Some(content.map_or(limit, |content| content.min(limit)))
    }

    /// When the service must have made the first pending reply.
    fn reply_deadline(&self) -> Option<Instant> {
        match self.replies.front()? {
            QueuedReply { since, reply: Reply::Pending(_), .. } => {
                Some(*since + self.config().service_timeout?)
            }
            QueuedReply { reply: Reply::Ready(_), .. } => None,
        }
    }

    /// When the peer must have acknowledged output; `None` if none is pending.
    fn write_deadline(&self) -> Option<Instant> {
        self.progress.pending_deadline(!self.outbox.is_empty(), self.config().write_timeout)
    }
}

/// The most requests that one call answers. They spread the cost of a write over many replies, and
/// take about 30 µs of CPU time with a quick service.
const MAX_REQUESTS: u64 = 32;
