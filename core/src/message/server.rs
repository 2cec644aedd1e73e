//! The server's machine.

use alloc::collections::VecDeque;
use core::{
    future::Future as _,
    num::NonZeroUsize,
    pin::Pin,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;

use super::{
    DecodeError, FrameTimeouts, Inbox, Limits, Message, Partial,
    inbox::Incoming,
    outbox::Outbox,
    reception::Reception,
    service::{Reply, Service},
};
use crate::{
    ConnectionError, Direction, Event, Fault, Instant, Interest, Linger, Machine, Outbound, Status,
    WriteProgress,
    buffer::{Pool, Quota, QuotaExceeded, Reservation},
    machine::impl_reason,
    shared::{AtomicU64, Shared},
    teardown::{DiscardBudget, Drain, Teardown},
};

/// A server's limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How much a frame may declare.
    pub limits: Limits,
    /// How long a frame may take to come.
    pub frame_timeouts: FrameTimeouts,
    /// The size of a connection's receive buffer while it has bytes in it; where that is less than
    /// the longest header, it is that. Default: 64 KiB.
    pub buffer: NonZeroUsize,
    /// Requests of one connection that may wait for a [`Reply::Later`] at once. All of them are
    /// polled when one is woken. Default: 32.
    pub in_flight: NonZeroUsize,
    /// A reply must be there within this; `None`: no matter when. Default: 60 s.
    pub service_timeout: Option<Duration>,
    /// A connection that asks nothing and is owed nothing for this long is closed; `None`: never.
    /// Default: 60 s.
    pub idle_timeout: Option<Duration>,
    /// A peer that acknowledges no byte for this long, although output or a FIN is pending, is reset
    /// within 1.125 times this; `None`: never. Default: 10 s.
    pub write_timeout: Option<Duration>,
    /// The close that follows an error, or [`Event::ShutDown`](crate::Event::ShutDown).
    pub linger: Linger,
    /// Close the connection after the first reply. Default: no.
    pub one_shot: bool,
    /// Buffers that the server keeps although no connection uses them. Default: 64.
    pub idle_buffers: usize,
    /// How many bytes of large contents all connections may hold together ([`Server`]). A request
    /// or a reply that exceeds it is answered by an error, and its connection closed. While more
    /// than half of it is taken, a content must come within [`FrameTimeouts::content`], however
    /// long it is. Default: 256 MiB.
    pub memory: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            frame_timeouts: FrameTimeouts::default(),
            buffer: const { NonZeroUsize::new(64 * 1024).unwrap() },
            in_flight: const { NonZeroUsize::new(32).unwrap() },
            service_timeout: Some(Duration::from_secs(60)),
            idle_timeout: Some(Duration::from_secs(60)),
            write_timeout: Some(Duration::from_secs(10)),
            linger: Linger::default(),
            one_shot: false,
            idle_buffers: 64,
            memory: 256 * 1024 * 1024,
        }
    }
}

impl Config {
    /// The size of a receive buffer, in bytes.
    pub fn buffer_size(&self) -> usize {
        self.buffer.get().max(super::decoder::PREFIX + usize::from(self.limits.header))
    }
}

/// What the connections of one server share: its configuration, its service, its pool of buffers.
/// Clones are the same server.
///
/// With `n` connections it holds at most `(n + idle_buffers) × buffer_size` bytes of receive
/// buffers, and [`Config::memory`] bytes of large contents, which are
///
/// - of a request that is being received, what does not fit into the receive buffer;
/// - the content of a request of 4 KiB or more that waits for a [`Reply::Later`];
/// - the content of a reply of 4 KiB or more that waits to be sent, unless it is shared ([`Bytes`]
///   of which there is a clone, or that are static).
///
/// (A content whose memory grows may be held twice for a moment, in each thread.) For the other
/// memory of a connection, see [`Connection`].
#[derive(Clone, Debug)]
pub struct Server<S> {
    shared: Shared<Common>,
    service: S,
}

#[derive(Debug)]
struct Common {
    config: Config,
    pool: Pool,
    quota: Quota,
    discards: DiscardBudget,
    requests: AtomicU64,
}

impl<S: Service + Clone> Server<S> {
    /// A server without connections.
    ///
    /// # Panics
    /// If a time in `config` is zero: it would have passed before anything could happen.
    pub fn new(config: Config, service: S) -> Self {
        let FrameTimeouts { header, content, .. } = config.frame_timeouts;
        let Config { service_timeout, idle_timeout, write_timeout, linger, .. } = config;
        let others = [service_timeout, idle_timeout, write_timeout, Some(linger.time)];
        for time in [header, content].into_iter().chain(others) {
            assert!(time != Some(Duration::ZERO), "a timeout must be a time");
        }
        let pool = Pool::new(config.buffer_size(), config.idle_buffers);
        let requests = AtomicU64::new(0);
        let (quota, discards) = (Quota::new(config.memory), DiscardBudget::default());
        let common = Common { config, pool, quota, discards, requests };
        Self { shared: Shared::new(common), service }
    }

    /// The machine for a connection that was made `now`.
    pub fn machine(&self, now: Instant) -> Connection<S> {
        let Common { config, pool, quota, .. } = &*self.shared;
        Connection {
            inbox: Inbox::new(config.limits, pool.clone()).under(quota.clone()),
            shared: self.shared.clone(),
            service: self.service.clone(),
            outbox: Outbox::default(),
            pending: VecDeque::new(),
            more: false,
            work: 0,
            reception: Reception::default(),
            is_scarce: false,
            moved: now,
            progress: WriteProgress::new(now),
            input_over: false,
            state: State::Open,
        }
    }
}

impl<S> Server<S> {
    /// Requests that were handed to the service, on all connections.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Relaxed)
    }

    /// Bytes of large contents that all connections hold now ([`Config::memory`]).
    pub fn memory(&self) -> usize {
        self.shared.quota.reserved()
    }
}

/// One connection of a server: requests may be sent without waiting for replies, and replies come
/// in their order.
///
/// One call answers at most 32 requests, however many were received at once. While more may be
/// waiting it does not read, and goes on at [`Event::Written`] and in
/// [`poll_shared`](Machine::poll_shared).
///
/// What is no frame is answered by one error reply, behind the replies that are owed, and a
/// lingering close; so are an end of the input within a frame and a frame that takes too long.
///
/// It holds one receive buffer while it holds bytes; of a content that is larger, see [`Inbox`];
/// a header; 4 times 64 KiB, one message and an error reply that wait to be sent; and
/// [`Config::in_flight`] pending replies. Large contents of all connections together are bounded by
/// [`Config::memory`]. While nothing comes and nothing is owed it holds none of these.
#[derive(Debug)]
pub struct Connection<S: Service> {
    shared: Shared<Common>,
    service: S,
    inbox: Inbox,
    outbox: Outbox,
    /// The requests that were not answered yet, in their order.
    pending: VecDeque<Pending<S::Pending>>,
    /// The last call took [`MAX_REQUESTS`], and the inbox may hold more.
    more: bool,
    /// Requests passed to the service.
    work: u64,
    reception: Reception,
    /// More than half of [`Config::memory`] was taken at the last call: as a deadline depends on it,
    /// it must not change between calls.
    is_scarce: bool,
    /// When a byte last moved, either way.
    moved: Instant,
    progress: WriteProgress,
    /// The peer sends nothing more.
    input_over: bool,
    state: State,
}

#[derive(Debug)]
struct Pending<P> {
    since: Instant,
    reply: Reply<P>,
    /// The reservation of the request's content, and later of the reply's.
    memory: Reservation,
}

#[derive(Clone, Debug)]
enum State {
    Open,
    /// Asked to stop: what is on its way is still answered.
    Draining(Drain),
    /// Reads no more: the pending replies, then possibly an error reply.
    Answering(MessageReason),
    Ending(Teardown<MessageReason>),
}

/// Why a server's connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageReason {
    /// The peer closed its side, and has had every reply.
    #[error("finished")]
    Finished,
    /// The one request was answered ([`Config::one_shot`]).
    #[error("answered")]
    Answered,
    /// We were asked to stop.
    #[error("asked to stop")]
    ShutDown,
    /// [`Config::idle_timeout`] ran out.
    #[error("no request for {limit:?}")]
    IdleTimeout {
        /// The limit.
        limit: Duration,
    },
    /// What was received is no frame, or not all of one.
    #[error("{0}")]
    Malformed(#[from] DecodeError),
    /// A frame did not come in its time ([`FrameTimeouts`]).
    #[error("{have} of a frame's {need} bytes within {limit:?}")]
    FrameTimeout {
        /// Bytes that have come.
        have: u64,
        /// Bytes that it has, as far as that is known.
        need: u64,
        /// The limit, by what had come.
        limit: Duration,
        /// Whether its header had come.
        header: bool,
    },
    /// There is no memory for a content ([`Config::memory`]).
    #[error("no memory for a content: {0}")]
    Memory(#[from] QuotaExceeded),
    /// The service took longer than [`Config::service_timeout`].
    #[error("no reply within {limit:?}; replies owed: {owed}")]
    ServiceTimeout {
        /// The limit.
        limit: Duration,
        /// How many replies the peer will not get.
        owed: usize,
    },
    /// The peer took no byte for too long ([`Config::write_timeout`]).
    #[error("took no byte for {limit:?}; bytes owed: {unsent}")]
    WriteStalled {
        /// The limit.
        limit: Duration,
        /// Bytes of replies that the peer has not acknowledged.
        unsent: usize,
    },
    /// The connection broke.
    #[error("lost while {way}: {why}; bytes owed: {unsent}, replies owed: {owed}")]
    Lost {
        /// At a read or a write.
        way: Direction,
        /// How.
        why: ConnectionError,
        /// Bytes of replies that were not sent.
        unsent: usize,
        /// Replies that were not there yet.
        owed: usize,
    },
}

impl MessageReason {
    /// What the peer is told of it.
    fn error_reply(&self) -> Option<Message<'static>> {
        let is_told = matches!(
            self,
            Self::Malformed(_)
                | Self::FrameTimeout { .. }
                | Self::Memory(_)
                | Self::ServiceTimeout { .. }
        );
        is_told.then(|| Message::error(self))
    }
}

impl_reason!(MessageReason {
    Self::Finished => ("finished", Fault::None),
    Self::Answered => ("answered", Fault::None),
    Self::ShutDown => ("shut_down", Fault::Requested),
    Self::IdleTimeout { .. } => ("idle_timeout", Fault::Time),
    Self::Malformed(error) => (error.label(), error.fault()),
    Self::FrameTimeout { header: false, .. } => ("header_timeout", Fault::Time),
    Self::FrameTimeout { header: true, .. } => ("content_timeout", Fault::Time),
    Self::Memory(_) => ("memory", Fault::Limit),
    Self::ServiceTimeout { .. } => ("service_timeout", Fault::Time),
    Self::WriteStalled { .. } => ("write_stalled", Fault::Time),
    Self::Lost { why, .. } => (why.label(), Fault::Lost),
});

impl<S: Service> Connection<S> {
    /// The service, to take its events or look at its state.
    pub fn service_mut(&mut self) -> &mut S {
        &mut self.service
    }

    fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Whether requests are taken at all.
    fn is_open(&self) -> bool {
        matches!(self.state, State::Open | State::Draining(_))
    }

    /// Whether another request may be begun.
    fn has_room(&self) -> bool {
        self.outbox.has_room() && self.pending.len() < self.config().in_flight.get()
    }

    /// Nothing is owed, and nothing has begun to come.
    fn is_idle(&self) -> bool {
        self.outbox.is_empty() && self.pending.is_empty() && self.inbox.partial().is_none()
    }

    /// Whether input is read.
    fn reads(&self) -> bool {
        self.has_room() && !self.more
    }

    /// Takes up to [`MAX_REQUESTS`] and sends replies, as far as there is room; then updates the
    /// state that depends on them. Called after every event.
    fn pump(&mut self, now: Instant) {
        let most = self.work + MAX_REQUESTS;
        self.more = false;
        loop {
            self.send_replies(now);
            if !self.is_open() || !self.has_room() {
                break;
            }
            if self.work == most {
                self.more = true;
                break;
            }
            let service = &mut self.service;
            match self.inbox.take_by(|header| service.delivery(header)) {
                Ok(None) => match self.inbox.reserve() {
                    Ok(()) => break,
                    Err(exceeded) => self.answer(exceeded.into()),
                },
                Ok(Some(Incoming::Piece(piece))) => self.service.piece(piece),
                Ok(Some(Incoming::Message(request))) => {
                    self.reception.end();
                    self.work += 1;
                    self.shared.requests.fetch_add(1, Relaxed);
                    let size = Outbox::counts(&request.content);
                    let reply = self.service.call(request);
                    let memory = self.inbox.take_memory();
                    match reply {
                        Reply::Now(reply) if self.pending.is_empty() => {
                            self.send(reply, memory, now);
                        }
                        reply @ (Reply::Now(_) | Reply::Later(_)) => {
                            self.wait_for(Pending { since: now, reply, memory }, size);
                        }
                    }
                    if self.config().one_shot && self.is_open() {
                        self.answer(MessageReason::Answered);
                    }
                }
                Err(error) => self.answer(error.into()),
            }
        }
        if let State::Answering(reason) = &self.state
            && self.pending.is_empty()
        {
            let reason = reason.clone();
            if let Some(reply) = reason.error_reply() {
                self.push(reply, Reservation::default(), now);
            }
            let linger = (!self.input_over).then_some(self.config().linger);
            let closing = Teardown::closing(reason, linger, &mut self.progress, now);
            self.state = State::Ending(closing);
        }
        let partial = self.is_open() && self.inbox.partial().is_some();
        self.reception.update(partial, self.reads(), now);
        self.is_scarce = self.shared.quota.reserved() > self.config().memory / 2;
        if !self.has_room() {
            // Nothing is read for a while.
            self.inbox.release();
        }
    }

    /// Sends the replies that are there, up to the first that is not.
    fn send_replies(&mut self, now: Instant) {
        let is_there = |pending: &mut Pending<_>| matches!(pending.reply, Reply::Now(_));
        while self.outbox.has_room()
            && let Some(Pending { reply: Reply::Now(reply), memory, .. }) =
                self.pending.pop_front_if(is_there)
        {
            self.send(reply, memory, now);
        }
    }

    /// Sends a reply. `memory` is the reservation of its request's content.
    fn send(&mut self, reply: Message<'_>, mut memory: Reservation, now: Instant) {
        match self.shared.quota.resize(&mut memory, Outbox::counts(&reply.content)) {
            Ok(()) => self.push(reply, memory, now),
            Err(exceeded) => self.abandon(exceeded.into()),
        }
    }

    fn push(&mut self, reply: Message<'_>, memory: Reservation, now: Instant) {
        if self.outbox.is_empty() {
            self.progress.queued(now);
        }
        if let Err(error) = self.outbox.push(reply, memory) {
            // The service's mistake; the request is answered all the same.
            let sent = self.outbox.push(Message::error(error), Reservation::default());
            debug_assert!(sent.is_ok(), "an error's header is short");
        }
    }

    /// Queues a reply that is pending; its request's content counts as `size`.
    fn wait_for(&mut self, mut pending: Pending<S::Pending>, size: usize) {
        let size = match &pending.reply {
            Reply::Now(reply) => Outbox::counts(&reply.content),
            Reply::Later(_) => size,
        };
        match self.shared.quota.resize(&mut pending.memory, size) {
            Ok(()) => self.pending.push_back(pending),
            Err(exceeded) => self.abandon(exceeded.into()),
        }
    }

    /// Drops the pending replies, for a reason that is sent to the peer.
    fn abandon(&mut self, reason: MessageReason) {
        self.pending.clear();
        // A peer that broke the protocol is told that error, not that the server was slow or had no
        // room.
        if !matches!(&self.state, State::Answering(reason) if reason.error_reply().is_some()) {
            self.answer(reason);
        }
    }

    /// While it drains, quiet begins when nothing is owed any more.
    fn begin_to_wait(&mut self, now: Instant) {
        if self.is_idle()
            && let State::Draining(drain) = &mut self.state
        {
            drain.wait(now);
        }
    }

    /// Reads no more; what is owed is still answered.
    fn answer(&mut self, reason: MessageReason) {
        self.inbox.clear();
        self.inbox.release();
        self.state = State::Answering(reason);
    }

    /// Nothing is pending any more.
    fn give_up(&mut self) {
        self.inbox.clear();
        self.outbox.clear();
        self.pending.clear();
    }

    /// When the frame that is coming must have come.
    fn frame_deadline(&self) -> Option<Instant> {
        self.reception.deadline(self.frame_limit(self.inbox.partial()?))
    }

    /// When the service must have made the first pending reply.
    fn reply_deadline(&self) -> Option<Instant> {
        match self.pending.front()? {
            Pending { since, reply: Reply::Later(_), .. } => {
                Some(*since + self.config().service_timeout?)
            }
            Pending { reply: Reply::Now(_), .. } => None,
        }
    }

    /// The deadline for the peer to acknowledge output, while there is some here or in the kernel.
    fn write_deadline(&self) -> Option<Instant> {
        self.progress.pending_deadline(!self.outbox.is_empty(), self.config().write_timeout)
    }

    /// How long a frame of which `partial` has come may take. While more than half of
    /// [`Config::memory`] is taken, slow senders must not keep it: the least rate does not extend
    /// the time for a content.
    fn frame_limit(&self, partial: Partial) -> Option<Duration> {
        let timeouts = &self.config().frame_timeouts;
        let limit = timeouts.limit(partial)?;
        let content = timeouts.content.filter(|_| partial.header && self.is_scarce);
        Some(content.map_or(limit, |content| content.min(limit)))
    }

    /// The deadline of a reply or a frame has passed.
    fn expire(&mut self, now: Instant) {
        if self.reply_deadline().is_some_and(|deadline| deadline <= now) {
            let limit = self.config().service_timeout.unwrap_or_default();
            let owed = self.pending.len();
            self.abandon(MessageReason::ServiceTimeout { limit, owed });
        } else if let Some(partial) = self.inbox.partial() {
            let limit = self.frame_limit(partial).unwrap_or_default();
            let (have, need, header) = (partial.have, partial.need, partial.header);
            self.answer(MessageReason::FrameTimeout { have, need, limit, header });
        }
    }
}

impl<S: Service> Machine for Connection<S> {
    type Reason = MessageReason;

    fn interest(&self) -> Interest {
        if let State::Ending(ending) = &self.state {
            return ending.interest(!self.outbox.is_empty());
        }
        let write = if self.outbox.is_empty() { Outbound::Idle } else { Outbound::Flush };
        Interest { read: self.is_open() && self.reads(), write }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.inbox.spare()
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        self.outbox.write_bufs(out)
    }

    fn write_owned(&self, out: &mut [Bytes], most: usize) -> usize {
        self.outbox.write_owned(out, most)
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Read(n) => self.handle_read(now, n),
            Event::Eof => self.handle_eof(now),
            Event::Error(way, why) => self.handle_lost(way, why),
            Event::Written(n) => {
                self.outbox.consume(n);
                self.moved = now;
                self.progress.written(now, n);
                self.pump(now);
                self.begin_to_wait(now);
            }
            Event::Finished => {
                if let State::Ending(ending) = &mut self.state {
                    ending.handle_finished(now);
                }
            }
            Event::Timeout { unacknowledged } => self.handle_timeout(now, unacknowledged),
            Event::ShutDown => {
                if let State::Open = self.state {
                    self.state = State::Draining(Drain::new(now));
                }
            }
            Event::Release => {
                self.inbox.release();
                self.outbox.release();
                if self.pending.is_empty() {
                    self.pending = VecDeque::new();
                }
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let write = self.write_deadline();
        let idle = || self.config().idle_timeout.map(|limit| self.moved + limit);
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
        let mut news = self.more && self.has_room();
        let mut room = Ok(());
        for pending in &mut self.pending {
            if let Reply::Later(reply) = &mut pending.reply
                && let Poll::Ready(reply) = Pin::new(reply).poll(cx)
            {
                let size = Outbox::counts(&reply.content);
                room = room.and(self.shared.quota.resize(&mut pending.memory, size));
                pending.reply = Reply::Now(reply);
                news = true;
            }
        }
        if let Err(exceeded) = room {
            self.abandon(exceeded.into());
        }
        if news {
            self.pump(now);
        }
        news
    }

    fn work(&self) -> u64 {
        self.work
    }

    fn status(&self) -> Status {
        let state = match &self.state {
            State::Open if self.is_idle() => "idle",
            State::Open => "open",
            State::Draining(_) => "draining",
            State::Answering(_) => "answering",
            State::Ending(ending) => ending.state(),
        };
        Status { state, queued: self.outbox.len(), lag: self.pending.len() as u64 }
    }

    fn reason(&self) -> Option<MessageReason> {
        let State::Ending(ending) = &self.state else { return None };
        ending.reason()
    }
}

impl<S: Service> Connection<S> {
    fn handle_read(&mut self, now: Instant, n: usize) {
        if let State::Ending(ending) = &mut self.state {
            return ending.handle_read(now, n, &self.shared.discards);
        }
        if self.is_idle()
            && let State::Draining(drain) = &mut self.state
        {
            drain.handle_read(now);
        }
        self.inbox.commit(n);
        self.moved = now;
        self.pump(now);
    }

    fn handle_eof(&mut self, now: Instant) {
        if let State::Ending(ending) = &mut self.state {
            return ending.handle_eof();
        }
        self.input_over = true;
        let reason = match self.inbox.partial() {
            None => MessageReason::Finished,
            Some(partial) => {
                DecodeError::Truncated { have: partial.have, need: partial.need }.into()
            }
        };
        self.answer(reason);
        self.pump(now);
    }

    fn handle_lost(&mut self, way: Direction, why: ConnectionError) {
        let (unsent, owed) = (self.outbox.len(), self.pending.len());
        let lost = MessageReason::Lost { way, why, unsent, owed };
        if let State::Ending(ending) = &mut self.state {
            ending.handle_error(lost);
        } else {
            self.state = State::Ending(Teardown::over(lost));
        }
        self.give_up();
    }

    fn handle_timeout(&mut self, now: Instant, unacknowledged: usize) {
        let closing = matches!(&self.state, State::Ending(ending) if ending.is_closing());
        let queued = closing || !self.outbox.is_empty();
        if !WriteProgress::expires(self, |m| &mut m.progress, now, queued, unacknowledged) {
            return;
        }
        let unsent = self.outbox.len() + unacknowledged;
        let stalled = |limit| MessageReason::WriteStalled { limit, unsent };
        if let State::Ending(ending) = &mut self.state {
            ending.expire(self.shared.config.write_timeout.map(stalled));
            return self.give_up();
        }
        let write_timeout = self.config().write_timeout.filter(|limit| {
            self.write_deadline().is_some() && self.progress.is_stalled(now, *limit)
        });
        if let Some(limit) = write_timeout {
            self.state = State::Ending(Teardown::reset(stalled(limit)));
            return self.give_up();
        }
        match self.state {
            State::Draining(_) if self.is_idle() => self.answer(MessageReason::ShutDown),
            State::Open if self.is_idle() => {
                let limit = self.config().idle_timeout.unwrap_or_default();
                self.answer(MessageReason::IdleTimeout { limit });
            }
            State::Open | State::Draining(_) | State::Answering(_) | State::Ending(_) => {
                self.expire(now);
            }
        }
        self.pump(now);
    }
}

/// The number of requests that one call answers: enough that the cost of writing is spread over
/// many replies, some 30 µs of a core where the service is quick.
const MAX_REQUESTS: u64 = 32;
