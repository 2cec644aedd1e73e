//! The load generator: the machine of an echo client that sends many messages, verifies every byte
//! that comes back, and measures.
//!
//! ```
//! use wirestate_command_line::load::{Load, LoadConfig, LoadReason};
//! use wirestate_core::{Event, Instant, Machine, buffer::Pool, drive};
//!
//! let now = Instant::EPOCH;
//! let mut load = Load::new(LoadConfig::default(), Pool::new(1024, 1), now, |_| {});
//!
//! let mut output = [0; 64];
//! let n = drive::collect_into(&mut load, &mut output, now);
//! drive::deliver(&mut load, &mut &output[..n], now); // the echo
//! load.handle(now, Event::Finished);
//! load.handle(now, Event::Eof); // the server's FIN
//! assert_eq!(load.reason(), Some(LoadReason::Complete { bytes: n as u64 }));
//! ```

use std::{collections::VecDeque, mem, num::NonZeroUsize, time::Duration};

use bytes::Bytes;
use wirestate_core::{
    ConnectionError, Direction, Event, Fault, Instant, Interest, Machine, Outbound, Reason, Status,
    WriteProgress, buffer::Pool, shared::Shared, teardown::Teardown,
};

/// What one connection sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadConfig {
    /// The messages of one round; empty ones are passed over.
    pub messages: Shared<[Bytes]>,
    /// How many rounds.
    pub rounds: u64,
    /// Whether the next message waits for the last one's echo.
    pub pace: Pace,
    /// The connection is given up when no byte moves for this long; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// How long our FIN may be pending; then the connection is reset. And how long the server's FIN
    /// is awaited behind it; then the connection is closed all the same.
    pub close_timeout: Duration,
}

/// Whether the next message waits for the last one's echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// It does: one message is under way.
    Lockstep,
    /// Messages follow one another until so many are under way.
    Pipelined(NonZeroUsize),
}

impl Default for LoadConfig {
    /// One round of the two messages that a common tutorial's client sends.
    fn default() -> Self {
        Self {
            messages: Shared::new([
                Bytes::from_static(b"Message 1 from client."),
                Bytes::from_static(b"Message 2 from client."),
            ]),
            rounds: 1,
            pace: Pace::Pipelined(const { NonZeroUsize::new(1024).unwrap() }),
            idle_timeout: Some(Duration::from_secs(30)),
            close_timeout: Duration::from_secs(2),
        }
    }
}

/// One connection that sends messages to an echo server, and closes its side when as many bytes
/// have come back as it sent. Each byte is compared with what was sent.
///
/// `on_echo` is called with each message's round-trip time: from the write that held its first
/// byte to the read that held its last.
///
/// It holds one buffer of its pool while it reads, and one [`Instant`] per message under way.
#[derive(Debug)]
pub struct Load<F> {
    config: LoadConfig,
    pool: Pool,
    buffer: Option<Box<[u8]>>,
    on_echo: F,
    /// How many messages there will have been, unless it is asked to stop before.
    total: u64,
    sent: Position,
    received: Position,
    /// When the messages under way were sent.
    under_way: VecDeque<Instant>,
    state: State,
    moved: Instant,
    progress: WriteProgress,
}

/// A place in the stream of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Position {
    /// Whole messages before it.
    messages: u64,
    /// Bytes of the next message before it; fewer than the message has.
    offset: usize,
    /// Bytes before it in all.
    bytes: u64,
}

#[derive(Clone, Debug)]
enum State {
    Open,
    /// All has come back: our FIN, then the server's, unless that one came first.
    Closing {
        until: Instant,
    },
    /// Nothing is sent any more: our FIN is out, or a write has failed (`lost`). Input is still
    /// read.
    Awaiting {
        until: Instant,
        lost: Option<(Direction, ConnectionError)>,
    },
    Ending(Teardown<LoadReason>),
}

/// Why a load's connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadReason {
    /// Every byte came back, and both sides are closed.
    #[error("every byte came back: {bytes}")]
    Complete {
        /// Bytes sent, and received.
        bytes: u64,
    },
    /// A byte came back that is not the one that was sent.
    #[error("byte {position} came back as {found:#04x}, {sent:#04x} was sent")]
    Mismatch {
        /// Counted from 0.
        position: u64,
        /// What was sent.
        sent: u8,
        /// What came back.
        found: u8,
    },
    /// More came back than was sent.
    #[error("more came back than was sent; bytes sent: {sent}")]
    Surplus {
        /// Bytes sent.
        sent: u64,
    },
    /// The server closed too early.
    #[error("the server closed; bytes that had come back: {received} of {sent}")]
    Closed {
        /// Bytes sent.
        sent: u64,
        /// Bytes received.
        received: u64,
    },
    /// [`LoadConfig::idle_timeout`] ran out.
    #[error("nothing moved for {limit:?}; bytes that had come back: {received} of {sent}")]
    IdleTimeout {
        /// The limit.
        limit: Duration,
        /// Bytes sent.
        sent: u64,
        /// Bytes received.
        received: u64,
    },
    /// The connection broke.
    #[error("{why} while {way}; bytes that had come back: {received} of {sent}")]
    Lost {
        /// At a read or a write.
        way: Direction,
        /// How.
        why: ConnectionError,
        /// Bytes sent.
        sent: u64,
        /// Bytes received.
        received: u64,
    },
}

impl Reason for LoadReason {
    fn label(&self) -> &'static str {
        match self {
            Self::Complete { .. } => "complete",
            Self::Mismatch { .. } => "mismatch",
            Self::Surplus { .. } => "surplus",
            Self::Closed { .. } => "closed",
            Self::IdleTimeout { .. } => "idle_timeout",
            Self::Lost { why, .. } => why.label(),
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Complete { .. } => Fault::None,
            Self::Mismatch { .. } | Self::Surplus { .. } | Self::Closed { .. } => Fault::Peer,
            Self::IdleTimeout { .. } => Fault::Time,
            Self::Lost { .. } => Fault::Lost,
        }
    }
}

impl<F: FnMut(Duration)> Load<F> {
    /// The machine for a connection that was made `now`, which reads into a buffer of `pool`.
    pub fn new(mut config: LoadConfig, pool: Pool, now: Instant, on_echo: F) -> Self {
        if config.messages.iter().any(Bytes::is_empty) {
            config.messages =
                config.messages.iter().filter(|message| !message.is_empty()).cloned().collect();
        }
        let until = now + config.close_timeout;
        let total = config.rounds.saturating_mul(config.messages.len() as u64);
        Self {
            config,
            pool,
            buffer: None,
            on_echo,
            total,
            sent: Position::default(),
            received: Position::default(),
            under_way: VecDeque::new(),
            state: if total == 0 { State::Closing { until } } else { State::Open },
            moved: now,
            progress: WriteProgress::new(now),
        }
    }

    /// Bytes sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.bytes
    }

    /// Bytes that have come back so far.
    pub fn received(&self) -> u64 {
        self.received.bytes
    }

    /// Messages that have come back whole so far.
    pub fn echoed(&self) -> u64 {
        self.received.messages
    }

    fn message(&self, index: u64) -> &Bytes {
        let round = self.config.messages.len() as u64;
        let index = usize::try_from(index % round).expect("below a length, which is a usize");
        &self.config.messages[index]
    }

    /// Up to which message may be sent now.
    fn horizon(&self) -> u64 {
        let under_way = match self.config.pace {
            Pace::Lockstep => 1,
            Pace::Pipelined(messages) => messages.get() as u64,
        };
        self.total.min(self.received.messages.saturating_add(under_way))
    }

    fn advance(&self, position: &mut Position, bytes: usize) {
        position.offset += bytes;
        position.bytes += bytes as u64;
        if position.offset == self.message(position.messages).len() {
            position.messages += 1;
            position.offset = 0;
        }
    }

    /// Compares `n` bytes of `buffer` with what was sent.
    fn verify(&mut self, now: Instant, buffer: &[u8]) -> Result<(), LoadReason> {
        let mut found = buffer;
        while !found.is_empty() {
            let mut position = self.received;
            let unanswered = self.sent.bytes - position.bytes;
            if unanswered == 0 {
                return Err(LoadReason::Surplus { sent: self.sent.bytes });
            }
            let message = &self.message(position.messages)[position.offset..];
            let n = message
                .len()
                .min(found.len())
                .min(usize::try_from(unanswered).unwrap_or(usize::MAX));
            if message[..n] != found[..n] {
                let differs = message.iter().zip(found).take_while(|(a, b)| a == b).count();
                return Err(LoadReason::Mismatch {
                    position: position.bytes + differs as u64,
                    sent: message[differs],
                    found: found[differs],
                });
            }
            found = &found[n..];
            self.advance(&mut position, n);
            if position.messages > self.received.messages
                && let Some(sent) = self.under_way.pop_front()
            {
                (self.on_echo)(now.since(sent));
            }
            self.received = position;
        }
        Ok(())
    }

    fn closed(&self) -> LoadReason {
        LoadReason::Closed { sent: self.sent.bytes, received: self.received.bytes }
    }

    /// The reason where nothing is sent any more.
    fn outcome(&self, lost: Option<(Direction, ConnectionError)>) -> LoadReason {
        let (sent, received) = (self.sent.bytes, self.received.bytes);
        match lost {
            None => LoadReason::Complete { bytes: received },
            Some((way, why)) => LoadReason::Lost { way, why, sent, received },
        }
    }

    fn close_if_complete(&mut self, now: Instant) {
        if matches!(self.state, State::Open) && self.received.messages == self.total {
            self.state = State::Closing { until: now + self.config.close_timeout };
        }
    }
}

impl<F: FnMut(Duration)> Machine for Load<F> {
    type Reason = LoadReason;

    fn interest(&self) -> Interest {
        match &self.state {
            State::Open => Interest {
                read: true,
                write: if self.sent.messages < self.horizon() {
                    Outbound::Flush
                } else {
                    Outbound::Idle
                },
            },
            State::Closing { .. } => Interest { read: true, write: Outbound::Finish },
            State::Awaiting { .. } => Interest { read: true, write: Outbound::Finished },
            State::Ending(ending) => ending.interest(false),
        }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.buffer.get_or_insert_with(|| self.pool.take())
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        let unsent = self.sent.messages..self.horizon();
        let mut offset = self.sent.offset;
        out.iter_mut()
            .zip(unsent)
            .map(|(out, index)| *out = &self.message(index)[mem::take(&mut offset)..])
            .count()
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Read(n) => self.handle_read(now, n),
            Event::Eof => match &mut self.state {
                State::Open => self.state = State::Ending(Teardown::reset(self.closed())),
                &mut State::Closing { until } => {
                    let ending = Teardown::finishing(self.outcome(None), Some(until));
                    self.state = State::Ending(ending);
                }
                &mut State::Awaiting { lost, .. } => self.end(self.outcome(lost)),
                State::Ending(ending) => ending.handle_eof(),
            },
            Event::Error(way, why) => self.handle_lost(now, way, why),
            Event::Written(all) => self.handle_written(now, all),
            Event::Finished => match &mut self.state {
                State::Closing { .. } => {
                    let until = now + self.config.close_timeout;
                    self.state = State::Awaiting { until, lost: None };
                }
                State::Ending(ending) => ending.handle_finished(now),
                State::Open | State::Awaiting { .. } => {}
            },
            Event::Timeout { unacknowledged } => self.handle_timeout(now, unacknowledged),
            // Begins no further message; those under way are finished and awaited.
            Event::ShutDown => {
                if let State::Open = self.state {
                    self.total = self.sent.messages + u64::from(self.sent.offset > 0);
                    self.close_if_complete(now);
                }
            }
            Event::Release => {
                if let Some(buffer) = self.buffer.take() {
                    self.pool.give(buffer);
                }
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Open => {
                self.config.idle_timeout.map(|limit| self.progress.idle_deadline(self.moved, limit))
            }
            State::Closing { until } | State::Awaiting { until, .. } => Some(*until),
            State::Ending(ending) => ending.poll_timeout(None),
        }
    }

    fn status(&self) -> Status {
        let state = match &self.state {
            State::Open => "open",
            State::Closing { .. } => "closing",
            State::Awaiting { lost: None, .. } => "awaiting",
            State::Awaiting { lost: Some(_), .. } => "broken",
            State::Ending(ending) => ending.state(),
        };
        Status { state, queued: 0, lag: self.sent.messages - self.received.messages }
    }

    fn reason(&self) -> Option<LoadReason> {
        match &self.state {
            State::Ending(ending) => ending.reason(),
            State::Open | State::Closing { .. } | State::Awaiting { .. } => None,
        }
    }
}

impl<F: FnMut(Duration)> Load<F> {
    fn handle_read(&mut self, now: Instant, n: usize) {
        let Some(buffer) = self.buffer.take() else { return };
        let verified = self.verify(now, &buffer[..n]);
        self.buffer = Some(buffer);
        self.moved = now;
        match verified {
            Ok(()) => self.close_if_complete(now),
            Err(reason) => self.state = State::Ending(Teardown::reset(reason)),
        }
    }

    fn end(&mut self, reason: LoadReason) {
        self.state = State::Ending(Teardown::ended(reason));
    }

    fn handle_lost(&mut self, now: Instant, way: Direction, why: ConnectionError) {
        let lost = Some((way, why));
        let reason = self.outcome(lost);
        match (&mut self.state, way) {
            (State::Open, Direction::Write) => {
                self.state = State::Awaiting { until: now + self.config.close_timeout, lost };
            }
            (State::Open, Direction::Read) => self.end(reason),
            // Every byte had come back.
            (State::Closing { .. }, _) => self.end(self.outcome(None)),
            (&mut State::Awaiting { lost, .. }, _) => self.end(self.outcome(lost)),
            (State::Ending(ending), _) => ending.handle_error(reason),
        }
    }

    fn handle_written(&mut self, now: Instant, all: usize) {
        let mut n = all;
        let mut position = self.sent;
        while n > 0 {
            if position.offset == 0 {
                self.under_way.push_back(now);
            }
            let bytes = n.min(self.message(position.messages).len() - position.offset);
            self.advance(&mut position, bytes);
            n -= bytes;
        }
        self.sent = position;
        self.progress.queued(now);
        self.progress.written(now, all);
    }

    fn handle_timeout(&mut self, now: Instant, unacknowledged: usize) {
        let queued = self.interest().write == Outbound::Flush;
        if !WriteProgress::expires(self, |m| &mut m.progress, now, queued, unacknowledged) {
            return;
        }
        match &mut self.state {
            State::Open => {
                let limit = self.config.idle_timeout.unwrap_or_default();
                let (sent, received) = (self.sent.bytes, self.received.bytes);
                let idle = LoadReason::IdleTimeout { limit, sent, received };
                self.state = State::Ending(Teardown::reset(idle));
            }
            State::Closing { .. } => {
                self.state = State::Ending(Teardown::reset(self.outcome(None)));
            }
            &mut State::Awaiting { lost, .. } => self.end(self.outcome(lost)),
            State::Ending(ending) => ending.expire(None),
        }
    }
}

impl<F> Drop for Load<F> {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.pool.give(buffer);
        }
    }
}
