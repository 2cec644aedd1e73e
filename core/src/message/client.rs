//! The client's machine.

use alloc::collections::VecDeque;
use core::{mem, num::NonZeroUsize, task::Context, time::Duration};

use bytes::Bytes;

use super::{
    DecodeError, EncodeError, FrameTimeouts, Inbox, Limits, Message,
    handle::{Commands, Handle, Next, Outcome, Slot},
    outbox::{HIGH_WATER, Outbox},
    reception::Reception,
};
use crate::{
    ConnectionError, Direction, Event, Fault, Instant, Interest, Machine, Outbound, Status,
    WriteProgress,
    buffer::{Pool, Reservation},
    machine::impl_reason,
    shared::Shared,
    teardown::Teardown,
};

/// A client's limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// How much a reply may declare.
    pub limits: Limits,
    /// How long a reply may take to come, from its first byte on.
    pub frame_timeouts: FrameTimeouts,
    /// The size of the receive buffer while it has bytes in it; where that is less than the longest
    /// header, it is that. Default: 16 KiB.
    pub buffer: NonZeroUsize,
    /// Requests that may be out at once: sent, and the reply not taken. Default: 32.
    pub in_flight: NonZeroUsize,
    /// The first byte of a reply must come within this after the request, or after the reply
    /// before; `None`: no matter when. Default: 30 s.
    pub reply_timeout: Option<Duration>,
    /// A server that acknowledges no byte for this long, although output or a FIN is pending, is
    /// reset; `None`: never. Default: 10 s.
    pub write_timeout: Option<Duration>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            frame_timeouts: FrameTimeouts::default(),
            buffer: const { NonZeroUsize::new(16 * 1024).unwrap() },
            in_flight: const { NonZeroUsize::new(32).unwrap() },
            reply_timeout: Some(Duration::from_secs(30)),
            write_timeout: Some(Duration::from_secs(10)),
        }
    }
}

/// One connection of a client. Replies come in the order of the requests, of which several may be
/// out at once.
///
/// Inline, it is asked between two turns: [`request`](Self::request), then
/// [`take_reply`](Self::take_reply). To ask from many tasks or threads, have it driven on one and
/// use a [`Handle`].
///
/// It holds one receive buffer while that holds bytes; of a content that is larger, see [`Inbox`];
/// 4 times 64 KiB and one message for requests that wait to be sent; and at most
/// [`ClientConfig::in_flight`] replies that wait to be taken. Requests that wait in a handle belong
/// to the futures that wait for them.
///
/// ```
/// # use wirestate_core::{Instant, drive, message::{self, Client, ClientConfig, Message, service}};
/// # let now = Instant::EPOCH;
/// let mut client = Client::new(ClientConfig::default());
/// client.request(&Message::binary("hello"), now)?;
///
/// let echo = service::function(|request| request.into_owned());
/// let mut server = message::Server::new(message::Config::default(), echo).machine(now);
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
    outbox: Outbox,
    /// Whose replies are owed, in their order.
    asked: VecDeque<Recipient>,
    /// Those that were asked for inline, and not taken yet.
    replies: VecDeque<Message<'static>>,
    commands: Option<Shared<Commands>>,
    /// Replies received.
    work: u64,
    reception: Reception,
    /// Since when the next reply is awaited.
    awaited: Instant,
    progress: WriteProgress,
    link: Link,
}

/// Who gets a reply.
#[derive(Debug)]
enum Recipient {
    Inline,
    Handle(Shared<Slot<Outcome>>),
}

/// Where the connection is.
#[derive(Clone, Debug)]
enum Link {
    Open,
    /// Nothing can be sent any more; what had arrived is still read.
    Broken {
        reason: ClientReason,
        until: Instant,
    },
    /// Nothing more is asked: the replies that are owed, then a FIN. Not the other way round:
    /// proxies and servers in wide use take a FIN for the end of both directions.
    Closing(ClientReason),
    /// No reply will come any more.
    Ending(Teardown<ClientReason>),
}

/// Why a client's connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientReason {
    /// We were asked to end it, and did.
    #[error("closed")]
    ShutDown,
    /// The server closed, and owed nothing.
    #[error("the server closed the connection")]
    Closed,
    /// The server closed, although it owed replies.
    #[error("the server closed the connection before it had replied (replies owed: {owed})")]
    ClosedEarly {
        /// How many.
        owed: usize,
    },
    /// What the server sent is no reply, or not all of one.
    #[error("the reply is wrong: {0}")]
    Malformed(#[from] DecodeError),
    /// The server sent a reply that nobody had asked for.
    #[error("the server sent a reply to no request")]
    Unasked,
    /// No reply within [`ClientConfig::reply_timeout`].
    #[error("no reply within {limit:?}")]
    NoReply {
        /// The limit.
        limit: Duration,
    },
    /// A reply did not come in its time ([`FrameTimeouts`]).
    #[error("{have} of a reply's {need} bytes within {limit:?}")]
    FrameTimeout {
        /// Bytes that have come.
        have: u64,
        /// Bytes that it has, as far as that is known.
        need: u64,
        /// The limit, by what had come.
        limit: Duration,
    },
    /// The server took no byte for too long ([`ClientConfig::write_timeout`]).
    #[error("the server took no byte for {limit:?}; bytes not sent: {unsent}")]
    WriteStalled {
        /// The limit.
        limit: Duration,
        /// Bytes of requests that were not sent.
        unsent: usize,
    },
    /// The connection broke.
    #[error("{why} while {way}")]
    Lost {
        /// At a read or a write.
        way: Direction,
        /// How.
        why: ConnectionError,
    },
    /// Whoever drove it has stopped doing so.
    #[error("the connection was given up")]
    Dropped,
}

impl_reason!(ClientReason {
    Self::ShutDown => ("shut_down", Fault::Requested),
    Self::Closed => ("closed", Fault::None),
    Self::ClosedEarly { .. } => ("closed_early", Fault::Peer),
    Self::Malformed(error) => (error.label(), error.fault()),
    Self::Unasked => ("unasked", Fault::Peer),
    Self::NoReply { .. } => ("no_reply", Fault::Time),
    Self::FrameTimeout { .. } => ("reply_timeout", Fault::Time),
    Self::WriteStalled { .. } => ("write_stalled", Fault::Time),
    Self::Lost { why, .. } => (why.label(), Fault::Lost),
    Self::Dropped => ("dropped", Fault::Requested),
});

/// Why a request has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It can't be sent at all. The connection goes on.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// [`ClientConfig::in_flight`] requests are out. The connection goes on.
    #[error("requests that are out: {limit}, which is the limit")]
    Busy {
        /// The limit, and thereby the figure.
        limit: usize,
    },
    /// Too much waits to be sent. The connection goes on.
    #[error("bytes that wait to be sent: {unsent}; the limit is {limit}")]
    Full {
        /// What waits, in bytes.
        unsent: usize,
        /// The limit.
        limit: usize,
    },
    /// The connection has ended, or is ending.
    #[error(transparent)]
    Ended(#[from] ClientReason),
}

impl Client {
    /// A client on a new connection, to be used inline.
    ///
    /// # Panics
    /// If a time in `config` is zero: it would have passed before anything could happen.
    pub fn new(config: ClientConfig) -> Self {
        Self::taking(config, None)
    }

    /// A client on a new connection, to be driven by one task or thread, and the handle by which
    /// others use it. When all handles are dropped, it shuts down.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn with_handle(config: ClientConfig) -> (Self, Handle) {
        let commands = Shared::new(Commands::default());
        let handle = Handle::new(commands.clone());
        (Self::taking(config, Some(commands)), handle)
    }

    fn taking(config: ClientConfig, commands: Option<Shared<Commands>>) -> Self {
        let ClientConfig { frame_timeouts, reply_timeout, write_timeout, .. } = config;
        for time in [frame_timeouts.header, frame_timeouts.content, reply_timeout, write_timeout] {
            assert!(time != Some(Duration::ZERO), "a timeout must be a time");
        }
        let longest = super::decoder::PREFIX + usize::from(config.limits.header);
        let pool = Pool::new(config.buffer.get().max(longest), 0);
        Self {
            inbox: Inbox::new(config.limits, pool),
            config,
            outbox: Outbox::default(),
            asked: VecDeque::new(),
            replies: VecDeque::new(),
            commands,
            work: 0,
            reception: Reception::default(),
            awaited: Instant::EPOCH,
            progress: WriteProgress::new(Instant::EPOCH),
            link: Link::Open,
        }
    }

    /// Sends a request. Its reply is [taken](Self::take_reply) in its order.
    ///
    /// # Errors
    /// It was not sent: see [`RequestError`].
    pub fn request(&mut self, request: &Message<'_>, now: Instant) -> Result<(), RequestError> {
        match &self.link {
            Link::Open => {}
            Link::Broken { reason, .. } | Link::Closing(reason) => {
                return Err(RequestError::Ended(reason.clone()));
            }
            Link::Ending(ending) => return Err(RequestError::Ended(ending.cause().clone())),
        }
        if self.out() >= self.config.in_flight.get() {
            return Err(RequestError::Busy { limit: self.config.in_flight.get() });
        }
        if !self.outbox.has_room() {
            return Err(RequestError::Full { unsent: self.outbox.len(), limit: HIGH_WATER });
        }
        self.send(request.clone(), Recipient::Inline, now)?;
        Ok(())
    }

    /// The next reply to a request that was made inline; also after the connection has ended.
    pub fn take_reply(&mut self) -> Option<Message<'static>> {
        self.replies.pop_front()
    }

    /// Requests whose replies were not taken yet.
    fn out(&self) -> usize {
        self.asked.len() + self.replies.len()
    }

    fn send(
        &mut self,
        request: Message<'_>,
        recipient: Recipient,
        now: Instant,
    ) -> Result<(), EncodeError> {
        let was_empty = self.outbox.is_empty();
        self.outbox.push(request, Reservation::default())?;
        if was_empty {
            self.progress.queued(now);
        }
        if self.asked.is_empty() {
            self.awaited = now;
        }
        self.asked.push_back(recipient);
        Ok(())
    }

    /// Hands the replies out that have come whole.
    fn hand_out(&mut self, now: Instant) {
        loop {
            let reply = match self.inbox.take() {
                Ok(Some(reply)) => reply.into_owned(),
                Ok(None) => break,
                Err(error) => return self.reset(error.into()),
            };
            self.reception.end();
            self.work += 1;
            self.awaited = now;
            match self.asked.pop_front() {
                None => return self.reset(ClientReason::Unasked),
                Some(Recipient::Inline) => self.replies.push_back(reply),
                Some(Recipient::Handle(slot)) => slot.fulfil(Ok(reply)),
            }
        }
        self.reception.update(self.inbox.partial().is_some(), true, now);
    }

    fn reset(&mut self, reason: ClientReason) {
        self.end(Teardown::reset(reason));
    }

    fn end(&mut self, ending: Teardown<ClientReason>) {
        let reason = ending.cause();
        for recipient in mem::take(&mut self.asked) {
            if let Recipient::Handle(slot) = recipient {
                slot.fulfil(Err(RequestError::Ended(reason.clone())));
            }
        }
        if let Some(commands) = self.commands.take() {
            commands.end(reason);
        }
        self.outbox.clear();
        self.inbox.clear();
        self.link = Link::Ending(ending);
    }
}

impl Machine for Client {
    type Reason = ClientReason;

    fn interest(&self) -> Interest {
        match &self.link {
            Link::Broken { .. } => Interest { read: true, write: Outbound::Finished },
            // Also while nothing is asked: a server that closes is noticed at once.
            Link::Open | Link::Closing(_) => {
                let write = if self.outbox.is_empty() { Outbound::Idle } else { Outbound::Flush };
                Interest { read: true, write }
            }
            Link::Ending(ending) => ending.interest(false),
        }
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
            Event::Read(n) => {
                self.inbox.commit(n);
                self.hand_out(now);
            }
            Event::Eof => self.handle_eof(now),
            Event::Error(way, why) => self.handle_lost(now, way, why),
            Event::Written(n) => {
                self.outbox.consume(n);
                self.progress.written(now, n);
                // It has not been asked yet.
                self.awaited = now;
            }
            Event::Finished => {
                if let Link::Ending(ending) = &mut self.link {
                    ending.handle_finished(now);
                }
            }
            Event::Timeout { unacknowledged } => self.handle_timeout(now, unacknowledged),
            // The requests that were made are sent, and their replies awaited; those that still wait in a
            // handle are not, and fail.
            Event::ShutDown => {
                if let Link::Open = self.link {
                    self.link = Link::Closing(ClientReason::ShutDown);
                    if let Some(commands) = self.commands.take() {
                        commands.end(&ClientReason::ShutDown);
                    }
                }
            }
            Event::Release => {
                self.inbox.release();
                self.outbox.release();
            }
        }
        if let Link::Closing(reason) = &self.link
            && self.asked.is_empty()
            && self.outbox.is_empty()
        {
            let ending = Teardown::closing(reason.clone(), None, &mut self.progress, now);
            self.end(ending);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let write =
            self.progress.pending_deadline(!self.outbox.is_empty(), self.config.write_timeout);
        match &self.link {
            Link::Open | Link::Closing(_) => {}
            Link::Broken { until, .. } => return Some(*until),
            Link::Ending(ending) => return ending.poll_timeout(write),
        }
        let reply = match self.inbox.partial() {
            Some(partial) => self.reception.deadline(self.config.frame_timeouts.limit(partial)),
            None if self.asked.is_empty() => None,
            None => self.config.reply_timeout.map(|limit| self.awaited + limit),
        };
        [write, reply].into_iter().flatten().min()
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let mut news = false;
        while let Link::Open = self.link
            && self.out() < self.config.in_flight.get()
            && self.outbox.has_room()
            && let Some(commands) = &self.commands
        {
            match commands.poll_next(cx) {
                Next::Command(request, slot) => {
                    if let Err(error) = self.send(request, Recipient::Handle(slot.clone()), now) {
                        slot.fulfil(Err(error.into()));
                    }
                }
                Next::Nothing => break,
                Next::Deserted => self.handle(now, Event::ShutDown),
            }
            news = true;
        }
        news
    }

    fn work(&self) -> u64 {
        self.work
    }

    fn status(&self) -> Status {
        let state = match &self.link {
            Link::Open if self.asked.is_empty() => "idle",
            Link::Open => "waiting",
            Link::Broken { .. } => "broken",
            Link::Closing(_) => "closing",
            Link::Ending(ending) => ending.state(),
        };
        Status { state, queued: self.outbox.len(), lag: self.asked.len() as u64 }
    }

    fn reason(&self) -> Option<ClientReason> {
        let Link::Ending(ending) = &self.link else { return None };
        ending.reason()
    }
}

impl Client {
    fn handle_eof(&mut self, now: Instant) {
        let reason = match (self.inbox.partial(), self.asked.len()) {
            (Some(partial), _) => {
                DecodeError::Truncated { have: partial.have, need: partial.need }.into()
            }
            (None, 0) => ClientReason::Closed,
            (None, owed) => ClientReason::ClosedEarly { owed },
        };
        match &mut self.link {
            // A FIN in the middle of a request would say that it was whole.
            Link::Open | Link::Closing(_) if !self.outbox.is_empty() => self.reset(reason),
            Link::Open | Link::Closing(_) => {
                let until = self.config.write_timeout.map(|limit| now + limit);
                self.end(Teardown::finishing(reason, until));
            }
            Link::Broken { reason, .. } => {
                let ending = Teardown::over(reason.clone());
                self.end(ending);
            }
            Link::Ending(ending) => ending.handle_eof(),
        }
    }

    fn handle_lost(&mut self, now: Instant, way: Direction, why: ConnectionError) {
        let lost = ClientReason::Lost { way, why };
        match (&mut self.link, way) {
            // What had arrived may be the reply that says why.
            (Link::Open | Link::Closing(_), Direction::Write) => {
                self.link = Link::Broken { reason: lost, until: now + FINAL_READ_TIMEOUT };
            }
            (Link::Open | Link::Closing(_), Direction::Read) => self.end(Teardown::over(lost)),
            (Link::Broken { reason, .. }, _) => {
                let ending = Teardown::over(reason.clone());
                self.end(ending);
            }
            (Link::Ending(ending), _) => ending.handle_error(lost),
        }
    }

    fn handle_timeout(&mut self, now: Instant, unacknowledged: usize) {
        let closing = matches!(&self.link, Link::Ending(ending) if ending.is_closing());
        let queued = closing || !self.outbox.is_empty();
        if !WriteProgress::expires(self, |m| &mut m.progress, now, queued, unacknowledged) {
            return;
        }
        let ClientConfig { frame_timeouts, reply_timeout, write_timeout, .. } = self.config;
        let unsent = self.outbox.len() + unacknowledged;
        let stalled = |limit| ClientReason::WriteStalled { limit, unsent };
        match &mut self.link {
            Link::Open | Link::Closing(_) => {}
            Link::Broken { reason, .. } => {
                let ending = Teardown::over(reason.clone());
                return self.end(ending);
            }
            Link::Ending(ending) => return ending.expire(write_timeout.map(stalled)),
        }
        let write_timeout = write_timeout.filter(|limit| self.progress.is_stalled(now, *limit));
        self.reset(match (write_timeout, self.inbox.partial()) {
            (Some(limit), _) if self.progress.is_outstanding() => stalled(limit),
            (_, Some(partial)) => ClientReason::FrameTimeout {
                have: partial.have,
                need: partial.need,
                limit: frame_timeouts.limit(partial).unwrap_or_default(),
            },
            (_, None) => ClientReason::NoReply { limit: reply_timeout.unwrap_or_default() },
        });
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.end(Teardown::over(ClientReason::Dropped));
    }
}

/// How long, once sending has failed, what had arrived is looked for.
const FINAL_READ_TIMEOUT: Duration = Duration::from_secs(1);
