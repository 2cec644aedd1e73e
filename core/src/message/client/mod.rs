//! The machine of a client's connection.

mod config;
#[cfg(feature = "std")]
mod connect;
mod handle;
mod queue;
mod reason;

use alloc::collections::VecDeque;
use core::{mem, task::Context, time::Duration};

use bytes::Bytes;

#[cfg(feature = "std")]
pub use self::connect::connect;
use self::queue::{HandleQueue, NextRequest, ReplyResult};
pub use self::{
    config::ClientConfig,
    handle::{Handle, ReplyFuture},
    reason::{ClientReason, RequestError},
};
use super::{DecodeError, EncodeError, Inbox, Message};
use crate::{
    ConfigError, ConnectionError, Direction, Event, Instant, Interest, Machine, Outbound, Status,
    WriteProgress,
    buffer::Pool,
    protocol::{FrameTimer, HIGH_WATER_MARK, Output, PartialFrame},
    shared::{Promise, Shared},
    teardown::Teardown,
};

/// One connection of a client. Several requests may be in flight. Replies arrive in the order of
/// the requests.
///
/// There are two ways to use a client:
///
/// - inline: call [`request`](Self::request) and [`take_reply`](Self::take_reply) between two turns
///   of the driver;
/// - from several tasks or threads: drive the client on one of them, and use a [`Handle`] on the
///   others.
///
/// It holds at most
///
/// - one receive buffer, a header, and a content that is larger than the buffer ([`Inbox`]);
/// - 4 × 64 KiB and one message of pending output;
/// - [`ClientConfig::max_in_flight`] replies that [`take_reply`](Self::take_reply) has not
///   returned.
///
/// The queue of the handles' requests has no limit: each request belongs to a [`ReplyFuture`] of
/// the caller.
///
/// ```
/// # use wirestate_core::{Instant, drive, message::{self, Client, Message, service}};
/// # let now = Instant::EPOCH;
/// let mut client = Client::default();
/// client.request(&Message::binary("hello"), now)?;
///
/// let echo = service::function(|request| request.into_owned());
/// let mut server = message::Server::with_default_config(echo).machine(now);
/// let mut buffer = [0; 1024];
/// let n = drive::collect_into(&mut client, &mut buffer, now);
/// drive::deliver(&mut server, &mut &buffer[..n], now);
/// let n = drive::collect_into(&mut server, &mut buffer, now);
/// drive::deliver(&mut client, &mut &buffer[..n], now);
/// assert_eq!(&*client.take_reply().unwrap().content, b"hello");
/// # Ok::<(), message::RequestError>(())
/// ```
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    inbox: Inbox,
    outbox: Output,
    /// The receiver of each awaited reply, in the order of the requests.
    in_flight: VecDeque<ReplyTo>,
    /// Replies to inline requests that [`Client::take_reply`] has not returned.
    replies: VecDeque<Message<'static>>,
    /// The queue of the handles' requests. `None` without handles, and once the connection ends.
    queue: Option<Shared<HandleQueue>>,
    /// The number of replies received.
    received: u64,
    frame_timer: FrameTimer,
    /// When the wait for the next reply began.
    awaited_since: Instant,
    progress: WriteProgress,
    state: State,
}

/// The receiver of a reply.
#[derive(Debug)]
enum ReplyTo {
    /// [`Client::replies`], for an inline request.
    Inline,
    /// A [`ReplyFuture`].
    Future(Promise<ReplyResult>),
}

#[derive(Clone, Debug)]
enum State {
    Open,
    /// Writing has failed. Input that arrived before the failure is read until `until`.
    Broken {
        reason: ClientReason,
        until: Instant,
    },
    /// A shutdown was requested: pending replies are awaited before the FIN is sent, because some
    /// proxies and servers take a FIN for the end of both directions.
    Closing(ClientReason),
    Ending(Teardown<ClientReason>),
}

impl Client {
    /// A client for inline use, on a new connection.
    ///
    /// # Errors
    /// A timeout in `config` is zero.
    pub fn new(config: ClientConfig) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self::with_valid(config, None))
    }

    /// A client on a new connection, and a handle for other tasks or threads. The client shuts down
    /// when all handles are dropped.
    ///
    /// # Errors
    /// A timeout in `config` is zero.
    pub fn with_handle(config: ClientConfig) -> Result<(Self, Handle), ConfigError> {
        config.check()?;
        let queue = Shared::new(HandleQueue::default());
        let handle = Handle::new(queue.clone());
        Ok((Self::with_valid(config, Some(queue)), handle))
    }

    fn with_valid(config: ClientConfig, queue: Option<Shared<HandleQueue>>) -> Self {
        let pool = Pool::new(config.buffer.get().max(config.frame_limits.max_head()), 0);
        Self {
            inbox: Inbox::with_valid(config.frame_limits, pool),
            config,
            outbox: Output::default(),
            in_flight: VecDeque::new(),
            replies: VecDeque::new(),
            queue,
            received: 0,
            frame_timer: FrameTimer::default(),
            awaited_since: Instant::EPOCH,
            progress: WriteProgress::new(Instant::EPOCH),
            state: State::Open,
        }
    }

    /// Sends a request. [`take_reply`](Self::take_reply) returns the replies in the order of the
    /// requests.
    ///
    /// # Errors
    /// The request was not sent: see [`RequestError`].
    pub fn request(&mut self, request: &Message<'_>, now: Instant) -> Result<(), RequestError> {
        match &self.state {
            State::Open => {}
            State::Broken { reason, .. } | State::Closing(reason) => {
                return Err(RequestError::Ended(reason.clone()));
            }
            State::Ending(ending) => return Err(RequestError::Ended(ending.cause().clone())),
        }
        let limit = self.config.max_in_flight.get();
        if self.unfinished() >= limit {
            return Err(RequestError::Busy { limit });
        }
        if !self.outbox.has_room() {
            let (pending, limit) = (self.outbox.len(), HIGH_WATER_MARK);
            return Err(RequestError::Full { pending, limit });
        }
        self.send(request.clone(), now)?;
        self.in_flight.push_back(ReplyTo::Inline);
        Ok(())
    }

    /// Removes and returns the next reply to an inline request, even after the connection has
    /// ended.
    pub fn take_reply(&mut self) -> Option<Message<'static>> {
        self.replies.pop_front()
    }
}

impl Default for Client {
    /// A client for inline use, with the default [`ClientConfig`].
    fn default() -> Self {
        Self::with_valid(ClientConfig::default(), None)
    }
}

impl Machine for Client {
    type Reason = ClientReason;

    fn interest(&self) -> Interest {
        match &self.state {
            State::Broken { .. } => Interest { read: true, write: Outbound::Finished },
            // The client reads even while no request is in flight, so that it notices at once that
            // the server closes the connection.
            State::Open | State::Closing(_) => {
                let write = if self.outbox.is_empty() { Outbound::Idle } else { Outbound::Flush };
                Interest { read: true, write }
            }
            State::Ending(ending) => ending.interest(false),
        }
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
            Event::Read(n) => {
                self.inbox.commit(n);
                self.deliver_replies(now);
            }
            Event::Eof => self.handle_eof(now),
            Event::Error(direction, error) => self.handle_error(now, direction, error),
            Event::Written(n) => {
                self.outbox.consume(n);
                self.progress.written(now, n);
                // A reply cannot be expected before its request is written.
                self.awaited_since = now;
            }
            Event::Finished => {
                if let State::Ending(ending) = &mut self.state {
                    ending.handle_finished(now);
                }
            }
            Event::Timeout { unacknowledged } => self.handle_timeout(now, unacknowledged),
            // Requests in flight are sent, and their replies are awaited. Requests in the queue of
            // the handles fail.
            Event::ShutDown => {
                if let State::Open = self.state {
                    self.state = State::Closing(ClientReason::ShutDown);
                    if let Some(queue) = self.queue.take() {
                        queue.end(&ClientReason::ShutDown);
                    }
                }
            }
            Event::Release => {
                self.inbox.release();
                self.outbox.release();
            }
        }
        if let State::Closing(reason) = &self.state
            && self.in_flight.is_empty()
            && self.outbox.is_empty()
        {
            let ending = Teardown::closing(reason.clone(), None, &mut self.progress, now);
            self.end(ending);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let write =
            self.progress.pending_deadline(!self.outbox.is_empty(), self.config.write_timeout);
        match &self.state {
            State::Open | State::Closing(_) => {}
            State::Broken { until, .. } => return Some(*until),
            State::Ending(ending) => return ending.poll_timeout(write),
        }
        let reply = match self.inbox.partial() {
            Some(frame) => self.frame_timer.deadline(self.config.frame_timeouts.limit(frame)),
            None if self.in_flight.is_empty() => None,
            None => self.config.reply_timeout.map(|limit| self.awaited_since + limit),
        };
        [write, reply].into_iter().flatten().min()
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let mut has_changed = false;
        while let State::Open = self.state
            && self.unfinished() < self.config.max_in_flight.get()
            && self.outbox.has_room()
            && let Some(queue) = &self.queue
        {
            match queue.poll_next(cx) {
                NextRequest::Request((request, promise)) => match self.send(request, now) {
                    Ok(()) => self.in_flight.push_back(ReplyTo::Future(promise)),
                    Err(error) => drop(promise.fulfil(Err(error.into()))),
                },
                NextRequest::Empty => break,
                NextRequest::NoHandles => self.handle(now, Event::ShutDown),
            }
            has_changed = true;
        }
        has_changed
    }

    fn work(&self) -> u64 {
        self.received
    }

    fn status(&self) -> Status {
        let state = match &self.state {
            State::Open if self.in_flight.is_empty() => "idle",
            State::Open => "waiting",
            State::Broken { .. } => "broken",
            State::Closing(_) => "closing",
            State::Ending(ending) => ending.state(),
        };
        Status { state, queued: self.outbox.len(), lag: self.in_flight.len() as u64 }
    }

    fn reason(&self) -> Option<ClientReason> {
        let State::Ending(ending) = &self.state else { return None };
        ending.reason()
    }
}

/// Event handlers.
impl Client {
    fn handle_eof(&mut self, now: Instant) {
        let reason = match (self.inbox.partial(), self.in_flight.len()) {
            (Some(PartialFrame { received, expected, .. }), _) => {
                DecodeError::Truncated { received, expected }.into()
            }
            (None, 0) => ClientReason::Closed,
            (None, unanswered) => ClientReason::ClosedEarly { unanswered },
        };
        match &mut self.state {
            // A FIN after a part of a request would mark the request as complete.
            State::Open | State::Closing(_) if !self.outbox.is_empty() => self.reset(reason),
            State::Open | State::Closing(_) => {
                let until = self.config.write_timeout.map(|limit| now + limit);
                self.end(Teardown::finishing(reason, until));
            }
            State::Broken { reason, .. } => {
                let ending = Teardown::ended(reason.clone());
                self.end(ending);
            }
            State::Ending(ending) => ending.handle_eof(),
        }
    }

    fn handle_error(&mut self, now: Instant, direction: Direction, error: ConnectionError) {
        let lost = ClientReason::Lost { direction, error };
        match (&mut self.state, direction) {
            // Input that has arrived may be an error reply that explains the failure.
            (State::Open | State::Closing(_), Direction::Write) => {
                self.state = State::Broken { reason: lost, until: now + FINAL_READ_TIMEOUT };
            }
            (State::Open | State::Closing(_), Direction::Read) => self.end(Teardown::ended(lost)),
            (State::Broken { reason, .. }, _) => {
                let ending = Teardown::ended(reason.clone());
                self.end(ending);
            }
            (State::Ending(ending), _) => ending.handle_error(lost),
        }
    }

    fn handle_timeout(&mut self, now: Instant, unacknowledged: usize) {
        let is_closing = matches!(&self.state, State::Ending(ending) if ending.is_closing());
        let queued = is_closing || !self.outbox.is_empty();
        if !WriteProgress::expires(self, |m| &mut m.progress, now, queued, unacknowledged) {
            return;
        }
        let ClientConfig { frame_timeouts, reply_timeout, write_timeout, .. } = self.config;
        let unacknowledged = self.outbox.len() + unacknowledged;
        let stalled = |limit| ClientReason::WriteStalled { limit, unacknowledged };
        match &mut self.state {
            State::Open | State::Closing(_) => {}
            State::Broken { reason, .. } => {
                let ending = Teardown::ended(reason.clone());
                return self.end(ending);
            }
            State::Ending(ending) => return ending.expire(write_timeout.map(stalled)),
        }
        let write_timeout = write_timeout.filter(|limit| self.progress.is_stalled(now, *limit));
        self.reset(match (write_timeout, self.inbox.partial()) {
            (Some(limit), _) if self.progress.is_outstanding() => stalled(limit),
            (_, Some(frame)) => {
                let limit = frame_timeouts.limit(frame).unwrap_or_default();
                let PartialFrame { received, expected, has_header } = frame;
                ClientReason::FrameTimeout { received, expected, has_header, limit }
            }
            (_, None) => ClientReason::ReplyTimeout { limit: reply_timeout.unwrap_or_default() },
        });
    }
}

/// Requests, replies and the end of the connection.
impl Client {
    /// The number of requests in flight and of replies that `take_reply` has not returned.
    fn unfinished(&self) -> usize {
        self.in_flight.len() + self.replies.len()
    }

    /// Sends a request. The caller appends it to the requests in flight.
    fn send(&mut self, request: Message<'_>, now: Instant) -> Result<(), EncodeError> {
        let was_empty = self.outbox.is_empty();
        request.append_to(&mut self.outbox)?;
        if was_empty {
            self.progress.queued(now);
        }
        if self.in_flight.is_empty() {
            self.awaited_since = now;
        }
        Ok(())
    }

    /// Delivers the complete replies in the inbox.
    fn deliver_replies(&mut self, now: Instant) {
        loop {
            let reply = match self.inbox.next_message() {
                Ok(Some(reply)) => reply.into_owned(),
                Ok(None) => break,
                Err(error) => return self.reset(error.into()),
            };
            self.frame_timer.stop();
            self.received += 1;
            self.awaited_since = now;
            match self.in_flight.pop_front() {
                None => return self.reset(ClientReason::UnexpectedReply),
                Some(ReplyTo::Inline) => self.replies.push_back(reply),
                Some(ReplyTo::Future(promise)) => drop(promise.fulfil(Ok(reply))),
            }
        }
        self.frame_timer.update(self.inbox.partial().is_some(), true, now);
    }

    fn reset(&mut self, reason: ClientReason) {
        self.end(Teardown::reset(reason));
    }

    /// Fails all requests that have no reply, and ends the connection as `ending` specifies.
    fn end(&mut self, ending: Teardown<ClientReason>) {
        let reason = ending.cause();
        for reply_to in mem::take(&mut self.in_flight) {
            if let ReplyTo::Future(promise) = reply_to {
                let _ = promise.fulfil(Err(RequestError::Ended(reason.clone())));
            }
        }
        if let Some(queue) = self.queue.take() {
            queue.end(reason);
        }
        self.outbox.clear();
        self.inbox.clear();
        self.state = State::Ending(ending);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.end(Teardown::ended(ClientReason::Dropped));
    }
}

/// How long the client continues to read after a write has failed.
const FINAL_READ_TIMEOUT: Duration = Duration::from_secs(1);
