//! The machine of an echo client that is used inline: say something, wait for the reply.

use alloc::vec::Vec;
use core::{mem, time::Duration};

use bytes::Bytes;

use crate::{
    ConnectionError, Direction, Event, Fault, Instant, Interest, Machine, Outbound, Status,
    WriteProgress, config::with_setters, machine::impl_reason, teardown::Teardown,
};

/// A client's limits.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientConfig {
    /// A reply longer than this ends the connection. Default: 1 MiB.
    pub max_reply: usize,
    /// While a reply is owed, no byte may be awaited for longer; `None`: for ever. Default: 30 s.
    pub reply_timeout: Option<Duration>,
    /// A reply other than the message itself is complete when nothing has followed for this long.
    /// Default: 100 ms.
    pub quiet: Duration,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            max_reply: 1024 * 1024,
            reply_timeout: Some(Duration::from_secs(30)),
            quiet: Duration::from_millis(100),
        }
    }
}

impl ClientConfig {
    with_setters! {
        with_max_reply(max_reply: usize);
        with_reply_timeout(reply_timeout: impl Into<Option<Duration>>);
        with_quiet(quiet: Duration);
    }
}

/// One connection of a client that sends a message and waits for the reply, over and over.
///
/// An echo has no message boundaries, so what is a reply? Bytes equal to the message are, at once;
/// while they are only how it begins, the rest is awaited. Other bytes (a server that puts a text
/// in front, say) are when nothing has followed them for [`ClientConfig::quiet`]. And whatever has
/// come is when the server closes.
///
/// It is driven only while it is asked something. Bytes that nobody asked for are thrown away, if
/// they have arrived by the time that the next message is said.
///
/// It holds the message, and of the reply at most [`ClientConfig::max_reply`] + 4 KiB, in a buffer
/// of at most twice that; between a reply and the next message, nothing.
///
/// ```
/// # use wirestate_core::{Instant, drive, echo::{Client, ClientConfig}};
/// # let now = Instant::EPOCH;
/// let mut client = Client::new(ClientConfig::default());
/// client.say("hello".into(), now);
///
/// let mut sent = [0; 64];
/// let n = drive::collect_into(&mut client, &mut sent, now);
/// drive::deliver(&mut client, &mut &sent[..n], now); // an echo
/// assert_eq!(client.take_reply().unwrap(), "hello");
/// ```
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    /// The message, whole.
    message: Bytes,
    /// How much of it is sent.
    sent: usize,
    /// What has come back, and behind `received` the room for more.
    reply: Vec<u8>,
    received: usize,
    exchange: Exchange,
    progress: WriteProgress,
    link: Link,
}

/// Where a message and its reply are.
#[derive(Clone, Copy, Debug)]
enum Exchange {
    /// Nothing is asked.
    Quiet,
    /// A message is said, and the reply not complete.
    Waiting {
        /// When the connection began, or a byte was last received.
        moved: Instant,
        /// What has come back is how the message begins, or nothing.
        echoing: bool,
    },
    /// The reply is complete, and waits to be taken.
    Replied,
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
    Ending(Teardown<ClientReason>),
}

/// Why a client's connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientReason {
    /// We were asked to end it, and did.
    #[error("closed")]
    ShutDown,
    /// The server closed.
    #[error("the server closed the connection")]
    Closed,
    /// [`ClientConfig::reply_timeout`] ran out.
    #[error("no reply within {limit:?}")]
    NoReply {
        /// The limit.
        limit: Duration,
    },
    /// The reply was longer than [`ClientConfig::max_reply`].
    #[error("the reply is longer than the limit of {limit} bytes")]
    ReplyTooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The connection broke.
    #[error("{why} while {way}")]
    Lost {
        /// At a read or a write.
        way: Direction,
        /// How.
        why: ConnectionError,
    },
}

impl_reason!(ClientReason {
    Self::ShutDown => ("shut_down", Fault::Requested),
    Self::Closed => ("closed", Fault::Peer),
    Self::NoReply { .. } => ("no_reply", Fault::Time),
    Self::ReplyTooLong { .. } => ("reply_too_long", Fault::Limit),
    Self::Lost { why, .. } => (why.label(), Fault::Lost),
});

impl Client {
    /// A client on a new connection.
    pub fn new(config: ClientConfig) -> Self {
        Self {
            config,
            message: Bytes::new(),
            sent: 0,
            reply: Vec::new(),
            received: 0,
            exchange: Exchange::Quiet,
            progress: WriteProgress::new(Instant::EPOCH),
            link: Link::Open,
        }
    }

    /// Sends a message. False, and nothing is sent, where the message is empty (it could have no
    /// reply), the reply to the last one was not taken yet, or the connection is ending.
    pub fn say(&mut self, message: Bytes, now: Instant) -> bool {
        if message.is_empty()
            || !matches!((self.exchange, &self.link), (Exchange::Quiet, Link::Open))
        {
            return false;
        }
        self.message = message;
        self.sent = 0;
        self.received = 0;
        self.exchange = Exchange::Waiting { moved: now, echoing: true };
        self.progress.queued(now);
        true
    }

    /// The reply, once it is complete; also after the connection has ended.
    pub fn take_reply(&mut self) -> Option<Bytes> {
        let Exchange::Replied = self.exchange else { return None };
        self.exchange = Exchange::Quiet;
        self.message.clear();
        self.sent = 0;
        let mut reply = mem::take(&mut self.reply);
        reply.truncate(mem::take(&mut self.received));
        Some(reply.into())
    }

    fn unsent(&self) -> usize {
        self.message.len() - self.sent
    }

    /// The reply to a message that is out may be complete.
    fn settle(&mut self) {
        if let Exchange::Waiting { echoing: true, .. } = self.exchange
            && self.unsent() == 0
            && self.received == self.message.len()
        {
            self.exchange = Exchange::Replied;
        }
    }

    /// Nothing more will come: what has come is the reply.
    fn end_reply(&mut self) {
        if let Exchange::Waiting { .. } = self.exchange {
            self.exchange = if self.received > 0 { Exchange::Replied } else { Exchange::Quiet };
        }
    }
}

impl Machine for Client {
    type Reason = ClientReason;

    fn interest(&self) -> Interest {
        let has_output = self.unsent() > 0;
        match &self.link {
            // Also while nothing is asked: a server that closes is noticed at once.
            Link::Open => Interest {
                read: !matches!(self.exchange, Exchange::Replied),
                write: if has_output { Outbound::Flush } else { Outbound::Idle },
            },
            Link::Broken { .. } => Interest { read: true, write: Outbound::Finished },
            Link::Ending(ending) => ending.interest(has_output),
        }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        let room = self.received + READ;
        self.reply.resize(room, 0);
        &mut self.reply[self.received..]
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        out[0] = &self.message[self.sent..];
        1
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Read(n) => self.handle_read(now, n),
            Event::Eof => self.handle_eof(now),
            Event::Error(way, why) => self.handle_lost(now, way, why),
            Event::Written(n) => {
                self.sent += n;
                self.progress.queued(now);
                self.progress.written(now, n);
                self.settle();
            }
            Event::Finished => {
                if let Link::Ending(ending) = &mut self.link {
                    ending.handle_finished(now);
                }
            }
            Event::Timeout { unacknowledged } => self.handle_timeout(now, unacknowledged),
            // What is left of the message is sent; its reply is not awaited.
            Event::ShutDown => {
                if let Link::Open = self.link {
                    self.end_reply();
                    self.close(ClientReason::ShutDown, now);
                }
            }
            Event::Release => {
                if self.received == 0 {
                    self.reply = Vec::new();
                }
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match (&self.link, self.exchange) {
            (Link::Open, Exchange::Waiting { moved, echoing }) => {
                if echoing || self.unsent() > 0 {
                    self.config.reply_timeout.map(|limit| self.progress.idle_deadline(moved, limit))
                } else {
                    Some(moved + self.config.quiet)
                }
            }
            (Link::Open, Exchange::Quiet | Exchange::Replied) => None,
            (Link::Broken { until, .. }, _) => Some(*until),
            (Link::Ending(ending), _) => ending.poll_timeout(None),
        }
    }

    fn status(&self) -> Status {
        let state = match (&self.link, self.exchange) {
            (Link::Open, Exchange::Quiet) => "quiet",
            (Link::Open, Exchange::Waiting { .. }) => "waiting",
            (Link::Open, Exchange::Replied) => "replied",
            (Link::Broken { .. }, _) => "broken",
            (Link::Ending(ending), _) => ending.state(),
        };
        Status { state, queued: self.unsent(), lag: 0 }
    }

    fn reason(&self) -> Option<ClientReason> {
        match &self.link {
            Link::Ending(ending) => ending.reason(),
            Link::Open | Link::Broken { .. } => None,
        }
    }
}

impl Client {
    fn handle_read(&mut self, now: Instant, n: usize) {
        // What nobody asked for is no reply to what will be asked.
        let Exchange::Waiting { echoing, .. } = self.exchange else { return };
        let news = self.received..self.received + n;
        self.received = news.end;
        let echoing = echoing && self.message.get(news.clone()) == Some(&self.reply[news]);
        self.exchange = Exchange::Waiting { moved: now, echoing };
        self.settle();
        if self.received > self.config.max_reply {
            self.exchange = Exchange::Quiet;
            let too_long = ClientReason::ReplyTooLong { limit: self.config.max_reply };
            self.link = Link::Ending(Teardown::reset(too_long));
        }
    }

    /// Sends what is left of the message, and a FIN.
    fn close(&mut self, reason: ClientReason, now: Instant) {
        self.link = Link::Ending(Teardown::finishing(reason, Some(now + FINAL_READ_TIMEOUT)));
    }

    fn handle_eof(&mut self, now: Instant) {
        self.end_reply();
        let unsent = self.unsent();
        match &mut self.link {
            // A FIN in the middle of a message would say that it was whole.
            Link::Open if self.sent > 0 && unsent > 0 => {
                self.link = Link::Ending(Teardown::reset(ClientReason::Closed));
            }
            Link::Open => {
                self.message.clear();
                self.sent = 0;
                self.close(ClientReason::Closed, now);
            }
            Link::Broken { reason, .. } => self.link = Link::Ending(Teardown::over(reason.clone())),
            Link::Ending(ending) => ending.handle_eof(),
        }
    }

    fn handle_lost(&mut self, now: Instant, way: Direction, why: ConnectionError) {
        let lost = ClientReason::Lost { way, why };
        let reason = match (&mut self.link, way) {
            (Link::Open, Direction::Write) => {
                self.link = Link::Broken { reason: lost, until: now + FINAL_READ_TIMEOUT };
                return;
            }
            (Link::Open, Direction::Read) => lost,
            (Link::Broken { reason, .. }, _) => reason.clone(),
            (Link::Ending(ending), _) => return ending.handle_error(lost),
        };
        self.link = Link::Ending(Teardown::over(reason));
        self.end_reply();
    }

    fn handle_timeout(&mut self, now: Instant, unacknowledged: usize) {
        let queued = self.unsent() > 0;
        if !WriteProgress::expires(self, |m| &mut m.progress, now, queued, unacknowledged) {
            return;
        }
        let unsent = self.unsent();
        match &mut self.link {
            Link::Open if self.received > 0 && unsent == 0 => {
                self.exchange = Exchange::Replied;
            }
            Link::Open => {
                self.exchange = Exchange::Quiet;
                let limit = self.config.reply_timeout.unwrap_or_default();
                self.link = Link::Ending(Teardown::reset(ClientReason::NoReply { limit }));
            }
            Link::Broken { reason, .. } => {
                self.link = Link::Ending(Teardown::over(reason.clone()));
                self.end_reply();
            }
            Link::Ending(ending) => ending.expire(None),
        }
    }
}

/// The room that a read is offered, in bytes.
const READ: usize = 4096;
/// How long a connection that is ending is waited for: for a reply that is on its way, or for the
/// rest of a message to be taken.
const FINAL_READ_TIMEOUT: Duration = Duration::from_secs(1);
