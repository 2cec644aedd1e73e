//! The machine of one connection of the load generator.

use std::{collections::VecDeque, mem, time::Duration};

use bytes::Bytes;
use wirestate_core::{
    ConfigError, ConnectionError, Direction, Event, Fault, Instant, Interest, Machine, Outbound,
    Reason, Status, WriteProgress, buffer::Pool, quantity::Time, teardown::Teardown,
};

use super::{LoadConfig, Pace};

/// One connection of an echo client: it sends messages, compares each byte that comes back with the
/// byte that it sent, and sends its FIN when all bytes have come back.
///
/// With a [`Schedule`](super::Schedule), it sends each message when that is due (an open loop).
/// Without, it sends as many as its [`Pace`] allows (a closed loop).
///
/// After [`Event::ShutDown`] it begins no further message, and completes those in flight.
///
/// It holds one buffer of its pool while it reads, and in a closed loop one [`Instant`] per message
/// in flight.
#[derive(Debug)]
pub struct Load<F> {
    config: LoadConfig,
    pool: Pool,
    buffer: Option<Box<[u8]>>,
    on_echo: F,
    /// How many messages the connection sends in all.
    total: u64,
    /// How many messages were due when the connection was last polled; in a closed loop, all.
    due: u64,
    /// When the connection was made.
    made: Instant,
    sent: Position,
    received: Position,
    /// In a closed loop: when the messages in flight were sent.
    in_flight: VecDeque<Instant>,
    state: State,
    /// When bytes were last received, or a message became due while none was due or in flight.
    last_activity: Instant,
    progress: WriteProgress,
}

/// A position in the stream of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Position {
    /// Complete messages before this position.
    messages: u64,
    /// The offset in the next message, less than the message's length.
    offset: usize,
    /// All bytes before this position.
    bytes: u64,
}

#[derive(Clone, Debug)]
enum State {
    Open,
    /// All bytes have come back. The FIN is pending.
    Closing {
        until: Instant,
    },
    /// The FIN was sent, or a write has failed (`error`). Input is still read, up to the server's
    /// FIN.
    Awaiting {
        until: Instant,
        error: Option<(Direction, ConnectionError)>,
    },
    Ending(Teardown<LoadReason>),
}

/// Why a connection of the load generator ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadReason {
    /// All bytes came back, and both sides are closed.
    #[error("all bytes came back: {bytes}")]
    Complete {
        /// Bytes sent, which are as many as were received.
        bytes: u64,
    },
    /// A byte that came back differs from the byte that was sent.
    #[error("byte {position} came back as {received:#04x}, {sent:#04x} was sent")]
    Mismatch {
        /// The byte's position in the stream, counted from 0.
        position: u64,
        /// The byte that was sent.
        sent: u8,
        /// The byte that came back.
        received: u8,
    },
    /// More bytes came back than were sent.
    #[error("more bytes came back than were sent; sent: {sent}")]
    Surplus {
        /// Bytes sent.
        sent: u64,
    },
    /// The server closed before all bytes had come back.
    #[error("the server closed; bytes echoed: {received} of {sent}")]
    Closed {
        /// Bytes sent.
        sent: u64,
        /// Bytes received.
        received: u64,
    },
    /// [`LoadConfig::idle_timeout`] elapsed.
    #[error("no byte moved for {}; bytes echoed: {received} of {sent}", Time(*limit))]
    IdleTimeout {
        /// The limit.
        limit: Duration,
        /// Bytes sent.
        sent: u64,
        /// Bytes received.
        received: u64,
    },
    /// A read or a write failed.
    #[error("{error} while {direction}; bytes echoed: {received} of {sent}")]
    Lost {
        /// Whether a read or a write failed.
        direction: Direction,
        /// The error.
        error: ConnectionError,
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
            Self::Lost { error, .. } => error.label(),
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
    /// Creates the machine of a connection that was made `now` and reads into a buffer of `pool`.
    ///
    /// It calls `on_echo` with each message's round-trip time, from the write of its first byte (in
    /// an open loop: from when it was due) to the read of its last.
    ///
    /// # Errors
    /// A timeout of `config` is zero.
    pub fn new(
        mut config: LoadConfig,
        pool: Pool,
        now: Instant,
        on_echo: F,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        if config.messages.iter().any(Bytes::is_empty) {
            config.messages =
                config.messages.iter().filter(|message| !message.is_empty()).cloned().collect();
        }
        let until = now + config.close_timeout;
        let total = config.rounds.saturating_mul(config.messages.len() as u64);
        let mut load = Self {
            config,
            pool,
            buffer: None,
            on_echo,
            total,
            due: u64::MAX,
            made: now,
            sent: Position::default(),
            received: Position::default(),
            in_flight: VecDeque::new(),
            state: if total == 0 { State::Closing { until } } else { State::Open },
            last_activity: now,
            progress: WriteProgress::new(now),
        };
        if load.config.schedule.is_some() {
            load.due = 0;
            load.update_due(now);
        }
        Ok(load)
    }

    /// Bytes sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.bytes
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.received.bytes
    }

    /// Messages that have come back completely so far.
    pub fn echoed(&self) -> u64 {
        self.received.messages
    }

    /// Messages of which at least one byte was sent so far.
    fn begun(&self) -> u64 {
        self.sent.messages + u64::from(self.sent.offset > 0)
    }

    /// Messages that have not come back completely: those in flight and, in an open loop, those
    /// that are due and were not sent. After [`Event::ShutDown`], the latter are those that were
    /// due by then.
    pub fn unanswered(&self) -> u64 {
        let due = if self.config.schedule.is_some() { self.due } else { 0 };
        self.begun().max(due) - self.received.messages
    }

    /// In an open loop, counts the messages that are due.
    fn update_due(&mut self, now: Instant) {
        let (Some(schedule), State::Open) = (self.config.schedule, &self.state) else { return };
        let due = schedule.due(now.since(self.made)).min(self.total);
        if due > self.due {
            if !self.awaits_server() {
                self.last_activity = now;
                self.progress.queued(now);
            }
            self.due = due;
        }
    }

    /// Whether a byte can be sent or is in flight.
    fn awaits_server(&self) -> bool {
        self.received.bytes < self.sent.bytes || self.sent.messages < self.send_limit()
    }

    fn message(&self, index: u64) -> &Bytes {
        let round = self.config.messages.len() as u64;
        let index = usize::try_from(index % round).expect("an index below a length is a usize");
        &self.config.messages[index]
    }

    /// The number of messages, from the first one, that may be sent by now.
    fn send_limit(&self) -> u64 {
        let in_flight = match self.config.pace {
            Pace::Lockstep => 1,
            Pace::Pipelined(messages) => messages.get() as u64,
        };
        self.total.min(self.due).min(self.received.messages.saturating_add(in_flight))
    }

    fn advance(&self, position: &mut Position, bytes: usize) {
        position.offset += bytes;
        position.bytes += bytes as u64;
        if position.offset == self.message(position.messages).len() {
            position.messages += 1;
            position.offset = 0;
        }
    }

    /// Compares `received` with the bytes that were sent.
    fn verify(&mut self, now: Instant, mut received: &[u8]) -> Result<(), LoadReason> {
        while !received.is_empty() {
            let mut position = self.received;
            let unanswered = self.sent.bytes - position.bytes;
            if unanswered == 0 {
                return Err(LoadReason::Surplus { sent: self.sent.bytes });
            }
            let message = &self.message(position.messages)[position.offset..];
            let n = message
                .len()
                .min(received.len())
                .min(usize::try_from(unanswered).unwrap_or(usize::MAX));
            if message[..n] != received[..n] {
                let equal = message.iter().zip(received).take_while(|(a, b)| a == b).count();
                return Err(LoadReason::Mismatch {
                    position: position.bytes + equal as u64,
                    sent: message[equal],
                    received: received[equal],
                });
            }
            received = &received[n..];
            self.advance(&mut position, n);
            if position.messages > self.received.messages {
                let began = match self.config.schedule {
                    Some(schedule) => Some(self.made + schedule.due_after(self.received.messages)),
                    None => self.in_flight.pop_front(),
                };
                if let Some(began) = began {
                    (self.on_echo)(now.since(began));
                }
            }
            self.received = position;
        }
        Ok(())
    }

    fn closed(&self) -> LoadReason {
        LoadReason::Closed { sent: self.sent.bytes, received: self.received.bytes }
    }

    /// The reason of a connection that has failed with `error` or, without one, is complete.
    fn outcome(&self, error: Option<(Direction, ConnectionError)>) -> LoadReason {
        let (sent, received) = (self.sent.bytes, self.received.bytes);
        match error {
            None => LoadReason::Complete { bytes: received },
            Some((direction, error)) => LoadReason::Lost { direction, error, sent, received },
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
                write: if self.sent.messages < self.send_limit() {
                    Outbound::Flush
                } else {
                    Outbound::Idle
                },
            },
            State::Closing { .. } => Interest { read: true, write: Outbound::Finish },
            State::Awaiting { .. } => Interest { read: true, write: Outbound::Finished },
            State::Ending(teardown) => teardown.interest(false),
        }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.buffer.get_or_insert_with(|| self.pool.take())
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        let unsent = self.sent.messages..self.send_limit();
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
                    let teardown = Teardown::finishing(self.outcome(None), Some(until));
                    self.state = State::Ending(teardown);
                }
                &mut State::Awaiting { error, .. } => self.end(self.outcome(error)),
                State::Ending(teardown) => teardown.handle_eof(),
            },
            Event::Error(direction, error) => self.handle_error(now, direction, error),
            Event::Written(n) => self.handle_written(now, n),
            Event::Finished => match &mut self.state {
                State::Closing { .. } => {
                    let until = now + self.config.close_timeout;
                    self.state = State::Awaiting { until, error: None };
                }
                State::Ending(teardown) => teardown.handle_finished(now),
                State::Open | State::Awaiting { .. } => {}
            },
            Event::Timeout { unacknowledged } => self.handle_timeout(now, unacknowledged),
            Event::ShutDown => {
                if let State::Open = self.state {
                    // A message that is due just now does not count.
                    if self.begun() < self.due {
                        self.update_due(now);
                    }
                    self.total = self.begun();
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
                let awaits_server = self.config.schedule.is_none() || self.awaits_server();
                let limit = self.config.idle_timeout.filter(|_| awaits_server);
                let idle =
                    limit.map(|limit| self.progress.idle_deadline(self.last_activity, limit));
                let all_begun = self.sent.messages == self.due && self.due < self.total;
                let schedule = self.config.schedule.filter(|_| all_begun);
                let due = schedule.map(|schedule| self.made + schedule.due_after(self.due));
                [idle, due].into_iter().flatten().min()
            }
            State::Closing { until } | State::Awaiting { until, .. } => Some(*until),
            State::Ending(teardown) => teardown.poll_timeout(None),
        }
    }

    fn status(&self) -> Status {
        let state = match &self.state {
            State::Open => "open",
            State::Closing { .. } => "closing",
            State::Awaiting { error: None, .. } => "awaiting",
            State::Awaiting { error: Some(_), .. } => "broken",
            State::Ending(teardown) => teardown.state(),
        };
        Status { state, queued: 0, lag: self.unanswered() }
    }

    fn reason(&self) -> Option<LoadReason> {
        match &self.state {
            State::Ending(teardown) => teardown.reason(),
            State::Open | State::Closing { .. } | State::Awaiting { .. } => None,
        }
    }
}

impl<F: FnMut(Duration)> Load<F> {
    fn handle_read(&mut self, now: Instant, n: usize) {
        let Some(buffer) = self.buffer.take() else { return };
        let verified = self.verify(now, &buffer[..n]);
        self.buffer = Some(buffer);
        self.last_activity = now;
        self.update_due(now);
        match verified {
            Ok(()) => self.close_if_complete(now),
            Err(reason) => self.state = State::Ending(Teardown::reset(reason)),
        }
    }

    fn end(&mut self, reason: LoadReason) {
        self.state = State::Ending(Teardown::ended(reason));
    }

    fn handle_error(&mut self, now: Instant, direction: Direction, error: ConnectionError) {
        let error = Some((direction, error));
        let reason = self.outcome(error);
        match (&mut self.state, direction) {
            (State::Open, Direction::Write) => {
                self.state = State::Awaiting { until: now + self.config.close_timeout, error };
            }
            (State::Open, Direction::Read) => self.end(reason),
            // All bytes have come back, so the error is no failure.
            (State::Closing { .. }, _) => self.end(self.outcome(None)),
            (&mut State::Awaiting { error, .. }, _) => self.end(self.outcome(error)),
            (State::Ending(teardown), _) => teardown.handle_error(reason),
        }
    }

    fn handle_written(&mut self, now: Instant, written: usize) {
        let mut n = written;
        let mut position = self.sent;
        while n > 0 {
            if position.offset == 0 && self.config.schedule.is_none() {
                self.in_flight.push_back(now);
            }
            let bytes = n.min(self.message(position.messages).len() - position.offset);
            self.advance(&mut position, bytes);
            n -= bytes;
        }
        self.sent = position;
        self.update_due(now);
        self.progress.queued(now);
        self.progress.written(now, written);
    }

    fn handle_timeout(&mut self, now: Instant, unacknowledged: usize) {
        if self.poll_timeout().is_none_or(|deadline| deadline > now) {
            return;
        }
        self.update_due(now);
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
            &mut State::Awaiting { error, .. } => self.end(self.outcome(error)),
            State::Ending(teardown) => teardown.expire(None),
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
