//! The machine of an echo client: it sends a message and waits for the reply.

use alloc::vec::Vec;
use core::{mem, time::Duration};

use bytes::Bytes;

use crate::{
    ConnectionError, Direction, Event, Fault, Instant, Interest, Machine, Outbound, Status,
    WriteProgress, config::with_setters, machine::impl_reason, quantity::Time, teardown::Teardown,
};

/// The limits of a [`Client`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientConfig {
    /// The longest reply, in bytes; a longer one ends the connection. Default: 1 MiB.
    pub max_reply: usize,
    /// How long to wait for a reply while no byte is received or acknowledged; `None`: no limit.
    /// Then the bytes received are the reply. Without any, the connection is reset. Default: 30 s.
    pub reply_timeout: Option<Duration>,
    /// A reply that differs from the message is complete when no byte has followed for this long.
    /// Default: 100 ms.
    pub quiet_period: Duration,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            max_reply: 1024 * 1024,
            reply_timeout: Some(Duration::from_secs(30)),
            quiet_period: Duration::from_millis(100),
        }
    }
}

impl ClientConfig {
    with_setters! {
        with_max_reply(max_reply: usize);
        with_reply_timeout(reply_timeout: impl Into<Option<Duration>>);
        with_quiet_period(quiet_period: Duration);
    }
}

/// A client's connection to an echo server: it sends one message at a time and receives its reply.
///
/// An echo has no message boundaries. A reply is complete
///
/// - when it equals the message;
/// - when it differs from the message (from a server that adds a prefix, say) and no byte has
///   followed for [`ClientConfig::quiet_period`];
/// - when the server closes.
///
/// Bytes that are read while no reply is awaited are discarded.
///
/// It holds the message, and a buffer for the reply of at most twice
/// [`ClientConfig::max_reply`] + 4 KiB. While no reply is awaited, it holds no buffer.
///
/// ```
/// # use wirestate_core::{Instant, drive, echo::{Client, ClientConfig}};
/// # let now = Instant::EPOCH;
/// let mut client = Client::new(ClientConfig::default());
/// client.send("hello".into(), now);
///
/// let mut sent = [0; 64];
/// let n = drive::collect_into(&mut client, &mut sent, now);
/// drive::deliver(&mut client, &mut &sent[..n], now); // an echo
/// assert_eq!(client.take_reply().unwrap(), "hello");
/// ```
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    message: Bytes,
    /// How many bytes of the message were sent.
    sent: usize,
    /// The first `received` bytes are the reply; the rest is space for more.
    reply: Vec<u8>,
    received: usize,
    exchange: Exchange,
    progress: WriteProgress,
    state: State,
}

/// The state of a message and its reply.
#[derive(Clone, Copy, Debug)]
enum Exchange {
    /// There is no message.
    Idle,
    /// The reply is not complete.
    Awaiting {
        /// When a byte of the reply was last received; before the first one, when the message was
        /// passed to `send`.
        last_activity: Instant,
        /// Whether the reply so far is a prefix of the message.
        is_echo: bool,
    },
    /// The reply is complete and was not taken.
    Replied,
}

/// The state of the connection.
#[derive(Clone, Debug)]
enum State {
    Open,
    /// A write has failed. Input that arrived before is still read, until `until`.
    Broken {
        reason: ClientReason,
        until: Instant,
    },
    Ending(Teardown<ClientReason>),
}

/// Why a client's connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientReason {
    /// A shutdown was requested.
    #[error("shutdown requested")]
    ShutDown,
    /// The server closed its side.
    #[error("the server closed the connection")]
    Closed,
    /// [`ClientConfig::reply_timeout`] ran out.
    #[error("no reply within {}", Time(*limit))]
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
    /// The connection failed.
    #[error("{error} while {direction}")]
    Lost {
        /// The direction of the operation that failed.
        direction: Direction,
        /// The error.
        error: ConnectionError,
    },
}

impl_reason!(ClientReason {
    Self::ShutDown => ("shut_down", Fault::Requested),
    Self::Closed => ("closed", Fault::Peer),
    Self::NoReply { .. } => ("no_reply", Fault::Time),
    Self::ReplyTooLong { .. } => ("reply_too_long", Fault::Limit),
    Self::Lost { error, .. } => (ConnectionError: error, Fault::Lost),
});

impl Client {
    /// The machine for a new connection.
    pub fn new(config: ClientConfig) -> Self {
        Self {
            config,
            message: Bytes::new(),
            sent: 0,
            reply: Vec::new(),
            received: 0,
            exchange: Exchange::Idle,
            progress: WriteProgress::new(Instant::EPOCH),
            state: State::Open,
        }
    }

    /// Sends a message. Returns false, and sends nothing, if the message is empty (it would have no
    /// reply), the last reply was not taken yet, or the connection is ending.
    pub fn send(&mut self, message: Bytes, now: Instant) -> bool {
        if message.is_empty()
            || !matches!((self.exchange, &self.state), (Exchange::Idle, State::Open))
        {
            return false;
        }
        self.message = message;
        self.sent = 0;
        self.received = 0;
        self.exchange = Exchange::Awaiting { last_activity: now, is_echo: true };
        self.progress.queued(now);
        true
    }

    /// The reply, once it is complete; also after the connection has ended.
    pub fn take_reply(&mut self) -> Option<Bytes> {
        let Exchange::Replied = self.exchange else { return None };
        self.exchange = Exchange::Idle;
        self.message.clear();
        self.sent = 0;
        let mut reply = mem::take(&mut self.reply);
        reply.truncate(mem::take(&mut self.received));
        Some(reply.into())
    }

    fn unsent(&self) -> usize {
        self.message.len() - self.sent
    }

    /// Completes the reply if it equals the message and the whole message was sent.
    fn complete_echo(&mut self) {
        if let Exchange::Awaiting { is_echo: true, .. } = self.exchange
            && self.unsent() == 0
            && self.received == self.message.len()
        {
            self.exchange = Exchange::Replied;
        }
    }

    /// Completes the reply with the bytes that were received: no more will arrive.
    fn complete_partial(&mut self) {
        if let Exchange::Awaiting { .. } = self.exchange {
            self.exchange = if self.received > 0 { Exchange::Replied } else { Exchange::Idle };
        }
    }

    /// Sends the rest of the message, and a FIN.
    fn close(&mut self, reason: ClientReason, now: Instant) {
        self.state = State::Ending(Teardown::finishing(reason, Some(now + FINAL_READ_TIMEOUT)));
    }

    fn handle_read(&mut self, now: Instant, n: usize) {
        let Exchange::Awaiting { is_echo, .. } = self.exchange else { return };
        let new = self.received..self.received + n;
        self.received = new.end;
        let is_echo = is_echo && self.message.get(new.clone()) == Some(&self.reply[new]);
        self.exchange = Exchange::Awaiting { last_activity: now, is_echo };
        self.complete_echo();
        if self.received > self.config.max_reply {
            self.exchange = Exchange::Idle;
            let too_long = ClientReason::ReplyTooLong { limit: self.config.max_reply };
            self.state = State::Ending(Teardown::reset(too_long));
        }
    }

    fn handle_eof(&mut self, now: Instant) {
        self.complete_partial();
        let unsent = self.unsent();
        match &mut self.state {
            // A FIN inside the message would mean that the message is complete.
            State::Open if self.sent > 0 && unsent > 0 => {
                self.state = State::Ending(Teardown::reset(ClientReason::Closed));
            }
            State::Open => {
                self.message.clear();
                self.sent = 0;
                self.close(ClientReason::Closed, now);
            }
            State::Broken { reason, .. } => {
                self.state = State::Ending(Teardown::ended(reason.clone()));
            }
            State::Ending(teardown) => teardown.handle_eof(),
        }
    }

    fn handle_error(&mut self, now: Instant, direction: Direction, error: ConnectionError) {
        let lost = ClientReason::Lost { direction, error };
        let reason = match (&mut self.state, direction) {
            (State::Open, Direction::Write) => {
                self.state = State::Broken { reason: lost, until: now + FINAL_READ_TIMEOUT };
                return;
            }
            (State::Open, Direction::Read) => lost,
            (State::Broken { reason, .. }, _) => reason.clone(),
            (State::Ending(teardown), _) => return teardown.handle_error(lost),
        };
        self.state = State::Ending(Teardown::ended(reason));
        self.complete_partial();
    }

    fn handle_timeout(&mut self, now: Instant, unacknowledged: usize) {
        let queued = self.unsent() > 0;
        if !WriteProgress::expires(self, |m| &mut m.progress, now, queued, unacknowledged) {
            return;
        }
        let unsent = self.unsent();
        match &mut self.state {
            State::Open if self.received > 0 && unsent == 0 => self.exchange = Exchange::Replied,
            State::Open => {
                self.exchange = Exchange::Idle;
                let limit = self.config.reply_timeout.unwrap_or_default();
                self.state = State::Ending(Teardown::reset(ClientReason::NoReply { limit }));
            }
            State::Broken { reason, .. } => {
                self.state = State::Ending(Teardown::ended(reason.clone()));
                self.complete_partial();
            }
            State::Ending(teardown) => teardown.expire(None),
        }
    }
}

impl Machine for Client {
    type Reason = ClientReason;

    fn interest(&self) -> Interest {
        let has_output = self.unsent() > 0;
        match &self.state {
            // It also reads without a message, to notice at once when the server closes.
            State::Open => Interest {
                read: !matches!(self.exchange, Exchange::Replied),
                write: if has_output { Outbound::Flush } else { Outbound::Idle },
            },
            State::Broken { .. } => Interest { read: true, write: Outbound::Finished },
            State::Ending(teardown) => teardown.interest(has_output),
        }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.reply.resize(self.received + READ_SIZE, 0);
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
            Event::Error(direction, error) => self.handle_error(now, direction, error),
            Event::Written(n) => {
                self.sent += n;
                self.progress.queued(now);
                self.progress.written(now, n);
                self.complete_echo();
            }
            Event::Finished => {
                if let State::Ending(teardown) = &mut self.state {
                    teardown.handle_finished(now);
                }
            }
            Event::Timeout { unacknowledged } => self.handle_timeout(now, unacknowledged),
            // The rest of the message is sent, but its reply is not awaited.
            Event::ShutDown => {
                if let State::Open = self.state {
                    self.complete_partial();
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
        match (&self.state, self.exchange) {
            (State::Open, Exchange::Awaiting { last_activity, is_echo }) => {
                if is_echo || self.unsent() > 0 {
                    let limit = self.config.reply_timeout;
                    limit.map(|limit| self.progress.idle_deadline(last_activity, limit))
                } else {
                    Some(last_activity + self.config.quiet_period)
                }
            }
            (State::Open, Exchange::Idle | Exchange::Replied) => None,
            (State::Broken { until, .. }, _) => Some(*until),
            (State::Ending(teardown), _) => teardown.poll_timeout(None),
        }
    }

    fn status(&self) -> Status {
        let state = match (&self.state, self.exchange) {
            (State::Open, Exchange::Idle) => "idle",
            (State::Open, Exchange::Awaiting { .. }) => "waiting",
            (State::Open, Exchange::Replied) => "replied",
            (State::Broken { .. }, _) => "broken",
            (State::Ending(teardown), _) => teardown.state(),
        };
        Status { state, queued: self.unsent(), lag: 0 }
    }

    fn reason(&self) -> Option<ClientReason> {
        match &self.state {
            State::Ending(teardown) => teardown.reason(),
            State::Open | State::Broken { .. } => None,
        }
    }
}

/// The space for one read, in bytes.
const READ_SIZE: usize = 4096;
/// How long an ending connection may take to receive a reply that is on its way, or to send the
/// rest of a message.
const FINAL_READ_TIMEOUT: Duration = Duration::from_secs(1);
