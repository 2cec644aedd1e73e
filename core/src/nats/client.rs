//! The machine of a client's connection.

use alloc::{
    collections::{BTreeMap, VecDeque},
    format,
};
use core::{task::Context, time::Duration};

use bytes::Bytes;

use super::{
    ClientReason, Config, HeaderBlock, Info, InvalidSubject, Malformed, Message, Publish,
    RequestError, RequestId, SendError, ServerError, StatusCode, Subscription,
    connect::write_connect,
    receiver::{Operation, ReceiveLimits, Receiver},
    requests::Requests,
    subject::{self, Wildcards},
};
use crate::{
    ConfigError, ConnectionError, Direction, Event, Instant, Interest, Machine, Outbound, Status,
    WriteProgress,
    protocol::{FrameTimer, Output},
    teardown::{DiscardBudget, Teardown},
};

/// The connection of a client to a NATS server, for inline use: call its methods between two turns
/// of the driver, and [`take_incoming`](Self::take_incoming) until it returns `None` after each
/// turn.
///
/// Its methods queue output, which the driver's next turn sends. A machine that wraps a client
/// forwards every event to it, and takes what is incoming after each.
///
/// The client is ready at [`Incoming::Connected`]. It ends with its connection: the
/// [module's documentation](super) says how to go on with another server.
///
/// It holds at most
///
/// - a block of [`Config::buffer`], or twice the bytes received of one operation and 4 KiB where
///   that is more; while it grows, the smaller one as well. No operation is longer than
///   [`Config::max_message`] and a line
///   ([`Config::max_control_line`], [`Config::max_info`]). An idle client keeps its block, and a
///   message that was taken keeps its own.
/// - [`Config::max_pending`] bytes and one message of output, as [`Output`] holds it.
/// - [`Config::max_requests`] requests, and as many flushes.
/// - one [`Incoming`] that was not taken, and the errors of requests that have expired. After the
///   end of the input, all of the block's operations.
/// - the subscriptions, as many as the caller makes, and one [`Info`].
#[derive(Debug)]
pub struct Client {
    config: Config,
    mode: Mode,
    info: Info,
    receiver: Receiver,
    output: Output,
    /// The number of bytes written.
    written: u64,
    /// What [`Client::take_incoming`] has not returned. Nothing is parsed while there is any.
    ready: VecDeque<Incoming>,
    subscriptions: BTreeMap<Subscription, Delivered>,
    last_subscription: u64,
    requests: Requests,
    /// The PINGs without a PONG, in their order, each with the position behind it in the output.
    pings: VecDeque<(Ping, u64)>,
    next_flush: u64,
    pongs: Pongs,
    /// The last error with which the server does not end the connection.
    last_error: Option<ServerError>,
    /// Parsing has used up the budget of one call, and continues in `poll_shared`.
    is_paused: bool,
    /// Whether the client read after the last change.
    was_reading: bool,
    /// The number of operations received.
    received: u64,
    /// When a byte was last received, or reading resumed.
    last_received: Instant,
    /// When the wait for the next PONG began, if its PING is written.
    awaited_since: Instant,
    frame_timer: FrameTimer,
    progress: WriteProgress,
    discard_budget: DiscardBudget,
    state: State,
}

/// What a client does after INFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Connect,
    /// It stops for another machine ([`Greeting`](super::Greeting)).
    HandOver,
}

#[derive(Clone, Debug)]
enum State {
    Open(Stage),
    /// INFO was received, and another machine is expected to take the connection before `until`.
    Greeted {
        until: Option<Instant>,
    },
    /// Writing has failed. Input that arrived before the failure is read until `until`.
    Broken {
        reason: ClientReason,
        until: Instant,
    },
    Ending(Teardown<ClientReason>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// INFO is awaited.
    Info {
        since: Instant,
    },
    /// CONNECT and a PING were sent, and the PONG is awaited.
    Connecting,
    Connected,
}

/// A PING that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ping {
    Connect,
    KeepAlive,
    Flush(FlushId),
}

/// The messages that a subscription has received, and how many it may receive.
#[derive(Clone, Copy, Debug, Default)]
struct Delivered {
    count: u64,
    max: Option<u64>,
}

/// What a server has sent.
#[derive(Debug)]
pub enum Incoming {
    /// The server has accepted CONNECT: from now on the client can send. [`Client::info`] has what
    /// the server says of itself.
    Connected,
    /// A message for a subscription.
    Message(Message),
    /// The reply to a request.
    Reply {
        /// The request.
        request: RequestId,
        /// The reply, or why there is none.
        reply: Result<Message, RequestError>,
    },
    /// The server has processed all that was sent before this flush.
    Flushed(FlushId),
    /// [`Info::connect_urls`] has changed.
    Servers,
    /// The server is about to stop: connect to another one.
    LameDuck,
    /// The server reported an error with which it does not end the connection.
    Error(ServerError),
}

/// A flush of [`Client::flush`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlushId(u64);

/// Limits the PONGs that are pending: a server may send PINGs, and read nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Pongs {
    /// How many were queued up to `until`, since the last time that all were written.
    count: usize,
    /// The position in the output behind the last one.
    until: u64,
}

/// Making a client, and what it sends.
impl Client {
    /// A client on a connection that was made `now`.
    ///
    /// # Errors
    /// A timeout in `config` is zero, or a size is below its minimum.
    pub fn new(config: Config, now: Instant) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self::with_valid(config, Mode::Connect, now))
    }

    /// A client on a connection whose INFO was received before the TLS handshake, by a
    /// [`Greeting`](super::Greeting).
    ///
    /// # Errors
    /// A timeout in `config` is zero, or a size is below its minimum.
    pub fn after_greeting(config: Config, info: Info, now: Instant) -> Result<Self, ConfigError> {
        let mut client = Self::new(config, now)?;
        client.receiver.set_is_nats();
        client.handle_first_info(info, now);
        Ok(client)
    }

    pub(super) fn with_valid(config: Config, mode: Mode, now: Instant) -> Self {
        let limits = ReceiveLimits {
            block: config.buffer.get(),
            max_info: config.max_info.get(),
            max_control_line: config.max_control_line.get(),
            max_message: config.max_message.get(),
        };
        Self {
            mode,
            info: Info::default(),
            receiver: Receiver::new(limits),
            output: Output::default(),
            written: 0,
            ready: VecDeque::new(),
            subscriptions: BTreeMap::new(),
            last_subscription: 0,
            requests: Requests::default(),
            pings: VecDeque::new(),
            next_flush: 0,
            pongs: Pongs::default(),
            last_error: None,
            is_paused: false,
            was_reading: true,
            received: 0,
            last_received: now,
            awaited_since: now,
            frame_timer: FrameTimer::default(),
            progress: WriteProgress::new(now),
            discard_budget: DiscardBudget::default(),
            state: State::Open(Stage::Info { since: now }),
            config,
        }
    }

    /// Publishes a message. The server acknowledges none: use a request, or
    /// [`flush`](Self::flush), to learn that it has arrived.
    ///
    /// # Errors
    /// Nothing was sent: see [`SendError`].
    pub fn publish(&mut self, message: &Publish<'_>, now: Instant) -> Result<(), SendError> {
        self.check_room()?;
        self.check_message(message, message.reply.unwrap_or_default())?;
        self.write_message(message, message.reply.unwrap_or_default(), now);
        Ok(())
    }

    /// Publishes a message with a subject for the reply. [`Incoming::Reply`] has the reply, or
    /// says that there is none. The client subscribes to the subjects of its replies once, with
    /// the first request.
    ///
    /// # Errors
    /// Nothing was sent: see [`SendError`].
    pub fn request(&mut self, message: &Publish<'_>, now: Instant) -> Result<RequestId, SendError> {
        self.check_room()?;
        let limit = self.config.max_requests.get();
        if self.requests.len() >= limit {
            return Err(SendError::Busy { limit });
        }
        let reply = format!("{}.{}", self.requests.inbox(), self.requests.next());
        self.check_message(message, &reply)?;
        if self.requests.subscription().is_none() {
            let subject = format!("{}.*", self.requests.inbox());
            let subscription = self.write_subscribe(&subject, None, now);
            self.requests.set_subscription(subscription);
        }
        self.write_message(message, &reply, now);
        Ok(self.requests.sent(now))
    }

    /// Withdraws the interest in a reply. If it arrives nevertheless, it is dropped.
    pub fn cancel(&mut self, request: RequestId) {
        self.requests.cancel(request);
    }

    /// Subscribes to `subject`, which may have wildcards. Of the subscriptions of one queue
    /// `group`, the server sends each message to one.
    ///
    /// # Errors
    /// Nothing was sent: see [`SendError`].
    pub fn subscribe(
        &mut self,
        subject: &str,
        group: Option<&str>,
        now: Instant,
    ) -> Result<Subscription, SendError> {
        self.check_room()?;
        subject::check(subject, Wildcards::Allowed)?;
        if let Some(group) = group {
            subject::check(group, Wildcards::Forbidden)?;
        }
        self.check_line(subject.len() + group.map_or(0, str::len))?;
        let subscription = self.write_subscribe(subject, group, now);
        self.subscriptions.insert(subscription, Delivered::default());
        Ok(subscription)
    }

    /// Ends a subscription. Messages that are on their way are dropped, except one that waits to be
    /// taken. To get them, use [`unsubscribe_after`](Self::unsubscribe_after).
    ///
    /// # Errors
    /// Nothing was sent: see [`SendError`]. A subscription that has ended is no error.
    pub fn unsubscribe(
        &mut self,
        subscription: Subscription,
        now: Instant,
    ) -> Result<(), SendError> {
        self.check_room()?;
        if self.subscriptions.remove(&subscription).is_some() {
            let id = subscription.0;
            self.write(now, |output| write!(output, "UNSUB {id}\r\n"));
        }
        Ok(())
    }

    /// Ends a subscription once it has received `max` messages in all. If it has received as many,
    /// it ends at once.
    ///
    /// # Errors
    /// Nothing was sent: see [`SendError`]. A subscription that has ended is no error.
    pub fn unsubscribe_after(
        &mut self,
        subscription: Subscription,
        max: u64,
        now: Instant,
    ) -> Result<(), SendError> {
        self.check_room()?;
        let Some(delivered) = self.subscriptions.get_mut(&subscription) else { return Ok(()) };
        if delivered.count >= max {
            return self.unsubscribe(subscription, now);
        }
        delivered.max = Some(max);
        let id = subscription.0;
        self.write(now, |output| write!(output, "UNSUB {id} {max}\r\n"));
        Ok(())
    }

    /// Sends a PING. [`Incoming::Flushed`] says that the server has answered it, and so has
    /// processed all that was sent before.
    ///
    /// # Errors
    /// Nothing was sent: see [`SendError`].
    pub fn flush(&mut self, now: Instant) -> Result<FlushId, SendError> {
        self.check_room()?;
        let limit = self.config.max_requests.get();
        if self.pings.len() >= limit {
            return Err(SendError::Busy { limit });
        }
        let id = FlushId(self.next_flush);
        self.next_flush += 1;
        self.ping(Ping::Flush(id), now);
        Ok(id)
    }

    /// Removes and returns the next of what the server has sent, even after the connection has
    /// ended. While it returns something, the client may read nothing.
    pub fn take_incoming(&mut self, now: Instant) -> Option<Incoming> {
        if self.ready.is_empty() {
            self.advance(now);
        }
        let incoming = self.ready.pop_front()?;
        // The owner may react before the next operation is applied, such as by a subscription. If
        // it takes no more, `poll_shared` goes on.
        self.is_paused = self.ready.is_empty() && self.receiver.len() > 0;
        self.update_reading(now);
        Some(incoming)
    }

    /// What the server has said of itself last. Empty before [`Incoming::Connected`].
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// INFO, if another machine is expected to take the connection.
    pub(super) fn greeted(&self) -> Option<&Info> {
        matches!(self.state, State::Greeted { .. }).then_some(&self.info)
    }

    /// The number of bytes of output that are pending.
    pub fn pending(&self) -> usize {
        self.output.len()
    }

    /// Whether the client can send: see [`SendError`].
    ///
    /// # Errors
    /// It is not connected, has ended, or too much output is pending.
    pub fn check_room(&self) -> Result<(), SendError> {
        match &self.state {
            State::Open(Stage::Connected) => {}
            State::Open(Stage::Info { .. } | Stage::Connecting) | State::Greeted { .. } => {
                return Err(SendError::NotConnected);
            }
            State::Broken { reason, .. } => return Err(SendError::Ended(reason.clone())),
            State::Ending(ending) => return Err(SendError::Ended(ending.cause().clone())),
        }
        let (pending, limit) = (self.output.len(), self.config.max_pending.get());
        if pending < limit { Ok(()) } else { Err(SendError::Full { pending, limit }) }
    }
}

impl Machine for Client {
    type Reason = ClientReason;

    fn interest(&self) -> Interest {
        let read = self.is_reading();
        let write = match &self.state {
            State::Open(_) if !self.output.is_empty() => Outbound::Flush,
            State::Broken { .. } if read => Outbound::Finished,
            State::Open(_) | State::Greeted { .. } | State::Broken { .. } => Outbound::Idle,
            State::Ending(ending) => return ending.interest(!self.output.is_empty()),
        };
        Interest { read, write }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.receiver.spare()
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        self.output.write_bufs(out)
    }

    fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
        self.output.write_owned(out, max)
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Read(n) => match &mut self.state {
                State::Ending(ending) => ending.handle_read(now, n, &self.discard_budget),
                State::Open(_) | State::Greeted { .. } | State::Broken { .. } => {
                    self.receiver.commit(n);
                    self.last_received = now;
                    self.advance(now);
                }
            },
            Event::Eof => self.handle_eof(now),
            Event::Error(direction, error) => self.handle_error(now, direction, error),
            Event::Written(n) => {
                let was_awaited = self.awaits_pong();
                self.output.consume(n);
                self.written += n as u64;
                self.progress.written(now, n);
                if !was_awaited {
                    self.awaited_since = now;
                }
                // PINGs may have waited until their PONGs have room.
                self.advance(now);
            }
            Event::Finished => {
                if let State::Ending(ending) = &mut self.state {
                    ending.handle_finished(now);
                }
            }
            Event::Timeout { unacknowledged } => self.handle_timeout(now, unacknowledged),
            Event::ShutDown => self.shut_down(now),
            // An idle client keeps its block: if each message had one of its own, an owner that
            // keeps messages would keep a block for each.
            Event::Release => return self.output.release(),
        }
        self.update_reading(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let config = &self.config;
        let write = self.progress.pending_deadline(!self.output.is_empty(), config.write_timeout);
        let stage = match &self.state {
            State::Open(stage) => stage,
            State::Greeted { until } => return *until,
            State::Broken { until, .. } => return Some(*until),
            State::Ending(ending) => return ending.poll_timeout(write),
        };
        let after = |since: Instant, limit: Option<Duration>| limit.map(|limit| since + limit);
        let request = self.requests.deadline(config.request_timeout);
        // While the client does not read, the server cannot be late.
        let peer = self.is_reading().then(|| match stage {
            Stage::Info { since } => after(*since, config.info_timeout),
            Stage::Connecting | Stage::Connected if self.awaits_pong() => {
                after(self.awaited_since, config.pong_timeout)
            }
            // The write deadline applies to a PING that is not written.
            Stage::Connecting | Stage::Connected if !self.pings.is_empty() => None,
            Stage::Connecting | Stage::Connected => after(self.last_received, config.ping_interval),
        });
        let frame = self.receiver.partial().filter(|_| !matches!(stage, Stage::Info { .. }));
        let frame =
            frame.and_then(|frame| self.frame_timer.deadline(config.frame_timeouts.limit(frame)));
        [write, request, peer.flatten(), frame].into_iter().flatten().min()
    }

    fn poll_shared(&mut self, now: Instant, _cx: &mut Context<'_>) -> bool {
        let was_paused = self.is_paused;
        if was_paused {
            self.advance(now);
        }
        was_paused
    }

    fn work(&self) -> u64 {
        self.received / OPERATIONS_PER_MICROSECOND
    }

    fn status(&self) -> Status {
        let state = match &self.state {
            State::Open(Stage::Info { .. } | Stage::Connecting) => "connecting",
            State::Open(Stage::Connected) => "open",
            State::Greeted { .. } => "greeted",
            State::Broken { .. } => "broken",
            State::Ending(ending) => ending.state(),
        };
        Status { state, queued: self.output.len(), lag: self.requests.len() as u64 }
    }

    fn reason(&self) -> Option<ClientReason> {
        let State::Ending(ending) = &self.state else { return None };
        ending.reason()
    }
}

/// Events of the connection.
impl Client {
    fn handle_eof(&mut self, now: Instant) {
        match &mut self.state {
            State::Open(_) | State::Greeted { .. } => {
                let reason = self.take_rest().unwrap_or_else(|| match self.receiver.partial() {
                    Some(partial) => ClientReason::Truncated { received: partial.received },
                    None => ClientReason::Closed { last_error: self.last_error.clone() },
                });
                self.close(reason, now);
            }
            State::Broken { .. } => self.end_broken(),
            State::Ending(ending) => ending.handle_eof(),
        }
    }

    fn handle_error(&mut self, now: Instant, direction: Direction, error: ConnectionError) {
        let last_error = self.last_error.clone();
        let lost = ClientReason::Lost { direction, error, last_error };
        match (&mut self.state, direction) {
            // Input that has arrived may be an error that explains the failure.
            (State::Open(_), Direction::Write) => {
                self.output.clear();
                self.state = State::Broken { reason: lost, until: now + FINAL_READ_TIMEOUT };
            }
            (State::Open(_) | State::Greeted { .. }, _) => {
                let reason = self.take_rest().unwrap_or(lost);
                self.end(Teardown::ended(reason));
            }
            (State::Broken { .. }, _) => self.end_broken(),
            (State::Ending(ending), _) => ending.handle_error(lost),
        }
    }

    /// Ends a connection whose writing has failed.
    fn end_broken(&mut self) {
        let rest = self.take_rest();
        if let State::Broken { reason, .. } = &self.state {
            let reason = rest.unwrap_or_else(|| reason.clone());
            self.end(Teardown::ended(reason));
        }
    }

    fn handle_timeout(&mut self, now: Instant, unacknowledged: usize) {
        let is_closing = matches!(&self.state, State::Ending(ending) if ending.is_closing());
        let queued = is_closing || !self.output.is_empty();
        if !WriteProgress::expires(self, |m| &mut m.progress, now, queued, unacknowledged) {
            return;
        }
        let write_timeout = self.config.write_timeout;
        let unacknowledged = self.output.len() + unacknowledged;
        let stalled = |limit| ClientReason::WriteStalled { limit, unacknowledged };
        let stage = match &mut self.state {
            State::Open(stage) => *stage,
            State::Greeted { .. } => return self.reset(ClientReason::Greeted),
            State::Broken { .. } => return self.end_broken(),
            State::Ending(ending) => return ending.expire(write_timeout.map(stalled)),
        };
        if let Some(limit) = write_timeout.filter(|limit| self.progress.is_stalled(now, *limit))
            && self.progress.is_outstanding()
        {
            return self.reset(stalled(limit));
        }
        while let Some(limit) = self.config.request_timeout
            && let Some(request) = self.requests.take_expired(limit, now)
        {
            let reply = Err(RequestError::Timeout { limit });
            self.ready.push_back(Incoming::Reply { request, reply });
        }
        let is_due =
            |since: Instant, limit: Option<Duration>| limit.filter(|limit| since + *limit <= now);
        if let Some(frame) = self.receiver.partial()
            && !matches!(stage, Stage::Info { .. })
            && let Some(limit) = self.config.frame_timeouts.limit(frame)
            && self.frame_timer.deadline(Some(limit)).is_some_and(|deadline| deadline <= now)
        {
            let (received, expected) = (frame.received, frame.expected);
            return self.reset(ClientReason::FrameTimeout { received, expected, limit });
        }
        if !self.is_reading() {
            return;
        }
        match stage {
            Stage::Info { since } => {
                if let Some(limit) = is_due(since, self.config.info_timeout) {
                    self.reset(ClientReason::InfoTimeout { limit });
                }
            }
            Stage::Connecting | Stage::Connected if self.awaits_pong() => {
                if let Some(limit) = is_due(self.awaited_since, self.config.pong_timeout) {
                    self.reset(ClientReason::PongTimeout { limit });
                }
            }
            Stage::Connecting | Stage::Connected if !self.pings.is_empty() => {}
            Stage::Connecting | Stage::Connected => {
                if is_due(self.last_received, self.config.ping_interval).is_some() {
                    self.ping(Ping::KeepAlive, now);
                }
            }
        }
    }

    fn shut_down(&mut self, now: Instant) {
        match self.state {
            State::Open(_) | State::Greeted { .. } => {
                let linger = Some(self.config.linger);
                let reason = ClientReason::ShutDown;
                let ending = Teardown::closing(reason, linger, &mut self.progress, now);
                self.receiver.clear();
                self.state = State::Ending(ending);
            }
            State::Broken { .. } | State::Ending(_) => {}
        }
    }

    /// Sends a FIN, or an RST if output is pending: a FIN would mean that it is complete.
    fn close(&mut self, reason: ClientReason, now: Instant) {
        if self.output.is_empty() {
            let until = self.config.write_timeout.map(|limit| now + limit);
            self.end(Teardown::finishing(reason, until));
        } else {
            self.reset(reason);
        }
    }

    fn reset(&mut self, reason: ClientReason) {
        self.end(Teardown::reset(reason));
    }

    fn end(&mut self, ending: Teardown<ClientReason>) {
        self.output.clear();
        self.receiver.clear();
        self.is_paused = false;
        self.state = State::Ending(ending);
    }
}

/// What the server sends.
impl Client {
    /// Whether the client accepts input. It does not while something waits to be taken.
    fn is_reading(&self) -> bool {
        let is_open = match &self.state {
            State::Open(_) | State::Broken { .. } => true,
            State::Greeted { .. } | State::Ending(_) => false,
        };
        is_open && self.ready.is_empty() && !self.is_paused && !self.is_full_of_pongs()
    }

    /// Applies the operations that were received, up to one that the owner has to take.
    fn advance(&mut self, now: Instant) {
        self.is_paused = false;
        let mut budget = MAX_OPERATIONS;
        while self.is_reading() {
            if budget == 0 {
                self.is_paused = true;
                break;
            }
            budget -= 1;
            match self.receiver.next() {
                Ok(None) => break,
                Ok(Some(operation)) => {
                    self.received += 1;
                    self.frame_timer.stop();
                    self.apply(operation, now);
                }
                Err(reason) => match self.state {
                    State::Broken { .. } => self.end_broken(),
                    State::Open(_) | State::Greeted { .. } | State::Ending(_) => {
                        self.reset(reason);
                    }
                },
            }
        }
        self.update_reading(now);
    }

    /// Starts, pauses and resumes what depends on whether the client reads.
    fn update_reading(&mut self, now: Instant) {
        let is_reading = self.is_reading();
        if is_reading && !self.was_reading {
            self.last_received = now;
            self.awaited_since = now;
        }
        self.was_reading = is_reading;
        self.frame_timer.update(self.receiver.len() > 0, is_reading, now);
    }

    fn apply(&mut self, operation: Operation, now: Instant) {
        let stage = match &self.state {
            State::Open(stage) => Some(*stage),
            // Nothing is answered any more.
            State::Broken { .. } => None,
            State::Greeted { .. } | State::Ending(_) => return,
        };
        let is_first = matches!(stage, Some(Stage::Info { .. }));
        match operation {
            Operation::Error(text) => self.handle_server_error(ServerError::new(text), now),
            Operation::Info(info) if is_first => self.handle_first_info(info, now),
            Operation::Message(_) | Operation::Ping | Operation::Pong | Operation::Ok
                if is_first =>
            {
                self.reset(Malformed::BeforeInfo.into());
            }
            Operation::Info(info) => self.handle_info(info),
            Operation::Message(message) => self.deliver(message),
            Operation::Ping if stage.is_some() => {
                self.write(now, |output| output.extend(b"PONG\r\n"));
                self.pongs.count += 1;
                self.pongs.until = self.written + self.output.len() as u64;
            }
            Operation::Pong if stage.is_some() => self.handle_pong(),
            Operation::Ping | Operation::Pong | Operation::Ok => {}
        }
    }

    /// Takes all operations that were received, at the end of the input. Returns the error with
    /// which the server has ended the connection, or how it broke the protocol.
    fn take_rest(&mut self) -> Option<ClientReason> {
        loop {
            match self.receiver.next() {
                Ok(None) => return self.receiver.is_other_protocol().map(ClientReason::from),
                Ok(Some(Operation::Error(text))) => {
                    let error = ServerError::new(text);
                    if error.kind.ends_connection() {
                        return Some(ClientReason::Refused(error));
                    }
                    self.last_error = Some(error.clone());
                    self.ready.push_back(Incoming::Error(error));
                }
                Ok(Some(Operation::Message(message))) => self.deliver(message),
                Ok(Some(
                    Operation::Info(_) | Operation::Ping | Operation::Pong | Operation::Ok,
                )) => {}
                Err(reason) => return Some(reason),
            }
        }
    }

    fn handle_first_info(&mut self, info: Info, now: Instant) {
        if self.mode == Mode::HandOver {
            let bytes = self.receiver.len();
            self.info = info;
            if bytes > 0 {
                return self.reset(ClientReason::InputBeforeTls { bytes });
            }
            let until = self.config.info_timeout.map(|limit| now + limit);
            self.state = State::Greeted { until };
            return;
        }
        if info.tls_required && !self.config.encrypted {
            return self.close(ClientReason::TlsRequired, now);
        }
        let inbox = self.config.inbox.clone().unwrap_or_else(|| info.inbox());
        self.requests.set_inbox(inbox);
        self.info = info;
        let mut connect = Output::default();
        match write_connect(&mut connect, &self.config, &self.info) {
            Ok(()) => {}
            Err(error) => return self.close(ClientReason::Signing(error), now),
        }
        self.progress.queued(now);
        self.output = connect;
        self.state = State::Open(Stage::Connecting);
        self.ping(Ping::Connect, now);
    }

    fn handle_info(&mut self, info: Info) {
        if info.connect_urls != self.info.connect_urls {
            self.ready.push_back(Incoming::Servers);
        }
        if info.lame_duck && !self.info.lame_duck {
            self.ready.push_back(Incoming::LameDuck);
        }
        self.info = info;
    }

    fn handle_pong(&mut self) {
        match self.pings.pop_front().map(|(ping, _)| ping) {
            None => self.reset(Malformed::UnexpectedPong.into()),
            Some(Ping::Connect) => {
                self.state = State::Open(Stage::Connected);
                self.ready.push_back(Incoming::Connected);
            }
            Some(Ping::KeepAlive) => {}
            Some(Ping::Flush(id)) => self.ready.push_back(Incoming::Flushed(id)),
        }
        self.awaited_since = self.last_received;
    }

    fn handle_server_error(&mut self, error: ServerError, now: Instant) {
        if !error.kind.ends_connection() {
            self.last_error = Some(error.clone());
            // A greeting has no owner that takes it.
            if !matches!(self.state, State::Open(Stage::Info { .. })) {
                self.ready.push_back(Incoming::Error(error));
            }
            return;
        }
        let refused = ClientReason::Refused(error);
        match &mut self.state {
            State::Broken { .. } => self.end(Teardown::ended(refused)),
            State::Open(_) | State::Greeted { .. } | State::Ending(_) => self.close(refused, now),
        }
    }

    fn deliver(&mut self, message: Message) {
        let subscription = message.subscription();
        if self.requests.subscription() == Some(subscription) {
            let Some(request) = self.requests.take(message.subject_bytes()) else { return };
            let has_no_responders =
                message.payload().is_empty() && message.status() == Some(StatusCode::NO_RESPONDERS);
            let reply =
                if has_no_responders { Err(RequestError::NoResponders) } else { Ok(message) };
            self.ready.push_back(Incoming::Reply { request, reply });
            return;
        }
        // Of a subscription that has ended, messages may still be on their way.
        let Some(delivered) = self.subscriptions.get_mut(&subscription) else { return };
        delivered.count += 1;
        if delivered.max == Some(delivered.count) {
            self.subscriptions.remove(&subscription);
        }
        self.ready.push_back(Incoming::Message(message));
    }

    /// Whether a PING was written that has no PONG.
    fn awaits_pong(&self) -> bool {
        self.pings.front().is_some_and(|(_, end)| *end <= self.written)
    }

    fn is_full_of_pongs(&self) -> bool {
        self.pongs.count >= MAX_PONGS && self.written < self.pongs.until
    }
}

/// What the client sends.
impl Client {
    fn write(&mut self, now: Instant, append: impl FnOnce(&mut Output)) {
        if self.output.is_empty() {
            self.progress.queued(now);
        }
        if self.written >= self.pongs.until {
            self.pongs.count = 0;
        }
        append(&mut self.output);
    }

    fn ping(&mut self, ping: Ping, now: Instant) {
        self.write(now, |output| output.extend(b"PING\r\n"));
        self.pings.push_back((ping, self.written + self.output.len() as u64));
    }

    fn write_subscribe(
        &mut self,
        subject: &str,
        group: Option<&str>,
        now: Instant,
    ) -> Subscription {
        self.last_subscription += 1;
        let id = self.last_subscription;
        self.write(now, |output| match group {
            Some(group) => write!(output, "SUB {subject} {group} {id}\r\n"),
            None => write!(output, "SUB {subject} {id}\r\n"),
        });
        Subscription(id)
    }

    /// Checks a message whose reply goes to `reply`, if that is not empty.
    fn check_message(&self, message: &Publish<'_>, reply: &str) -> Result<(), SendError> {
        subject::check(message.subject, Wildcards::Forbidden)?;
        if message.reply.is_some() || !reply.is_empty() {
            subject::check(reply, Wildcards::Forbidden)?;
        }
        self.check_line(message.subject.len() + reply.len())?;
        let headers = message.headers.filter(|headers| !headers.is_empty());
        if headers.is_some() && !self.info.headers {
            return Err(SendError::NoHeaders);
        }
        let length = (headers.map_or(0, HeaderBlock::len) + message.payload.len()) as u64;
        match self.info.max_payload.filter(|limit| length > *limit) {
            Some(limit) => Err(SendError::TooLong { length, limit }),
            None => Ok(()),
        }
    }

    /// Checks the length of a line that has `subjects` bytes of subjects.
    fn check_line(&self, subjects: usize) -> Result<(), InvalidSubject> {
        let (length, limit) = (subjects + MAX_LINE_REST, self.config.max_control_line.get());
        if length > limit { Err(InvalidSubject::TooLong { length, limit }) } else { Ok(()) }
    }

    fn write_message(&mut self, message: &Publish<'_>, reply: &str, now: Instant) {
        let Publish { subject, payload, .. } = message;
        let headers = message.headers.filter(|headers| !headers.is_empty());
        self.write(now, |output| {
            output.extend(if headers.is_some() { b"HPUB " } else { b"PUB " });
            output.extend(subject.as_bytes());
            output.extend(b" ");
            if !reply.is_empty() {
                output.extend(reply.as_bytes());
                output.extend(b" ");
            }
            let mut total = payload.len();
            if let Some(headers) = headers {
                total += headers.len();
                write_number(output, headers.len());
                output.extend(b" ");
            }
            write_number(output, total);
            output.extend(b"\r\n");
            for part in headers.iter().flat_map(|headers| headers.parts()) {
                output.extend(part);
            }
            output.push_shared(payload);
            output.extend(b"\r\n");
        });
    }
}

fn write_number(output: &mut Output, number: usize) {
    output.extend(itoa::Buffer::new().format(number).as_bytes());
}

/// How long the client continues to read after a write has failed.
const FINAL_READ_TIMEOUT: Duration = Duration::from_secs(1);
/// The most operations that one call applies, about 50 µs.
const MAX_OPERATIONS: usize = 512;
/// About how many operations are parsed in a microsecond.
const OPERATIONS_PER_MICROSECOND: u64 = 8;
/// The most PONGs that are queued before all of them must be written. At most twice as many are
/// pending.
const MAX_PONGS: usize = 64;
/// The most bytes of a line beside its subjects: a name, two numbers, blanks and the line end.
const MAX_LINE_REST: usize = 52;
