//! The machine of a client's connection.

mod ending;
mod receiving;
mod sending;

use alloc::collections::{BTreeMap, VecDeque};
use core::{task::Context, time::Duration};

use bytes::Bytes;

use super::{
    ClientReason, Config, Info, Message, RequestError, RequestId, ServerError, Subscription,
    receiver::{ReceiveLimits, Receiver},
    requests::Requests,
};
use crate::{
    ConfigError, Event, Instant, Interest, Machine, Outbound, Status, WriteProgress,
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
pub(in crate::nats) enum Mode {
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

    /// Whether the connection is open: it has not ended, and is not ending.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// How many bytes of output there were in all, written or pending.
    pub(super) fn queued(&self) -> u64 {
        self.written + self.output.len() as u64
    }

    /// The number of bytes of output that are pending.
    pub fn pending(&self) -> usize {
        self.output.len()
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

/// About how many operations are parsed in a microsecond.
const OPERATIONS_PER_MICROSECOND: u64 = 8;
