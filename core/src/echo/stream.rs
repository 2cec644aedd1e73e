//! The machine of a client that passes a stream of bytes through, in both directions.

use core::time::Duration;

use bytes::{Buf, Bytes, BytesMut};

use crate::{
    ConfigError, ConnectionError, Direction, Event, Fault, Instant, Interest, Machine, Outbound,
    Status, WriteProgress,
    config::{check_timeout, with_setters},
    machine::impl_reason,
    quantity::Time,
    teardown::{FIN_TIMEOUT, Teardown},
};

/// The limits of a [`StreamClient`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamConfig {
    /// The connection is reset when the server neither sends nor acknowledges a byte for this long,
    /// although output is pending or the input has ended; `None`: never. Must be non-zero.
    /// Default: 30 s.
    pub idle_timeout: Option<Duration>,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self { idle_timeout: Some(Duration::from_secs(30)) }
    }
}

impl StreamConfig {
    with_setters! {
        with_idle_timeout(idle_timeout: impl Into<Option<Duration>>);
    }
}

/// A client's connection as a stream: it sends all that it is given, then a FIN, and receives up to
/// the server's FIN. It does not interpret the bytes.
///
/// Both directions have backpressure. It [wants input](Self::wants_input) when the last input is
/// sent, and it reads when what it has received was [taken](Self::take). Its deadline stands still
/// while received bytes wait to be taken.
///
/// It holds the last input, and a block of 64 KiB for received bytes. Bytes that
/// [`take`](Self::take) returns keep the whole block alive.
///
/// ```
/// # use wirestate_core::{Event, Instant, Machine, drive, echo::{StreamClient, StreamConfig}};
/// # let now = Instant::EPOCH;
/// let mut client = StreamClient::new(StreamConfig::default())?;
/// client.send("any bytes".into(), now);
/// client.finish(now); // the end of the input
///
/// let mut sent = [0; 64];
/// let n = drive::collect_into(&mut client, &mut sent, now);
/// client.handle(now, Event::Finished);
/// drive::deliver(&mut client, &mut &sent[..n], now); // an echo
/// assert_eq!(client.take(now).unwrap(), "any bytes");
/// client.handle(now, Event::Eof);
/// assert_eq!(client.reason().unwrap().to_string(), "complete; bytes sent: 9, received: 9");
/// # Ok::<(), wirestate_core::ConfigError>(())
/// ```
#[derive(Debug)]
pub struct StreamClient {
    config: StreamConfig,
    /// The rest of the last input.
    output: Bytes,
    input_has_ended: bool,
    /// The first `filled` bytes were received and not taken; the rest is space for more.
    block: BytesMut,
    filled: usize,
    sent: u64,
    received: u64,
    /// When bytes were last received or taken, or the input ended, or the FIN was sent.
    last_activity: Instant,
    progress: WriteProgress,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Open,
    /// The FIN is sent.
    Finished,
    /// A write has failed. Input that arrived before is still read, until `until`.
    Broken {
        error: ConnectionError,
        until: Instant,
    },
    Ending(Teardown<StreamReason>),
}

/// Why a [`StreamClient`]'s connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamReason {
    /// All input was sent, and the server has closed.
    #[error("complete; bytes sent: {sent}, received: {received}")]
    Complete {
        /// Bytes sent.
        sent: u64,
        /// Bytes received.
        received: u64,
    },
    /// The server closed before the end of the input.
    #[error(
        "the server closed the connection before the end of the input; bytes sent: {sent}, \
         received: {received}"
    )]
    Closed {
        /// Bytes sent.
        sent: u64,
        /// Bytes received.
        received: u64,
    },
    /// [`StreamConfig::idle_timeout`] elapsed.
    #[error(
        "no byte from the server for {}; bytes sent: {sent}, received: {received}",
        Time(*limit)
    )]
    IdleTimeout {
        /// The limit.
        limit: Duration,
        /// Bytes sent.
        sent: u64,
        /// Bytes received.
        received: u64,
    },
    /// A shutdown was requested.
    #[error("shutdown requested")]
    ShutDown,
    /// The connection failed.
    #[error("{error} while {direction}; bytes sent: {sent}, received: {received}")]
    Lost {
        /// The direction of the operation that failed.
        direction: Direction,
        /// The error.
        error: ConnectionError,
        /// Bytes sent.
        sent: u64,
        /// Bytes received.
        received: u64,
    },
}

impl_reason!(StreamReason {
    Self::Complete { .. } => ("complete", Fault::None),
    Self::Closed { .. } => ("closed", Fault::Peer),
    Self::IdleTimeout { .. } => ("idle_timeout", Fault::Time),
    Self::ShutDown => ("shut_down", Fault::Requested),
    Self::Lost { error, .. } => (ConnectionError: error, Fault::Lost),
});

impl StreamClient {
    /// The machine for a new connection.
    ///
    /// # Errors
    /// The timeout of `config` is zero.
    pub fn new(config: StreamConfig) -> Result<Self, ConfigError> {
        check_timeout("idle_timeout", config.idle_timeout)?;
        Ok(Self {
            config,
            output: Bytes::new(),
            input_has_ended: false,
            block: BytesMut::new(),
            filled: 0,
            sent: 0,
            received: 0,
            last_activity: Instant::EPOCH,
            progress: WriteProgress::new(Instant::EPOCH),
            state: State::Open,
        })
    }

    /// Whether [`send`](Self::send) accepts bytes.
    pub fn wants_input(&self) -> bool {
        matches!(self.state, State::Open) && !self.input_has_ended && self.output.is_empty()
    }

    /// Sends `input`. Returns false, and sends nothing, unless the client
    /// [wants input](Self::wants_input).
    pub fn send(&mut self, input: Bytes, now: Instant) -> bool {
        let wants_input = self.wants_input();
        if wants_input && !input.is_empty() {
            self.output = input;
            self.progress.queued(now);
        }
        wants_input
    }

    /// Ends the input: once all of it is sent, the client sends a FIN.
    pub fn finish(&mut self, now: Instant) {
        self.input_has_ended = true;
        self.last_activity = now;
    }

    /// The bytes that were received since the last call; `None` if there are none.
    pub fn take(&mut self, now: Instant) -> Option<Bytes> {
        if self.filled == 0 {
            return None;
        }
        self.last_activity = now;
        if let State::Broken { until, .. } = &mut self.state {
            *until = now + FINAL_READ_TIMEOUT;
        }
        let filled = core::mem::take(&mut self.filled);
        Some(self.block.split_to(filled).freeze())
    }

    /// Whether output or a FIN is pending or not acknowledged, or the server's FIN is awaited.
    fn awaits_server(&self) -> bool {
        self.input_has_ended || !self.output.is_empty() || self.progress.is_outstanding()
    }

    fn lost(&self, direction: Direction, error: ConnectionError) -> StreamReason {
        StreamReason::Lost { direction, error, sent: self.sent, received: self.received }
    }

    fn handle_eof(&mut self, now: Instant) {
        let (sent, received) = (self.sent, self.received);
        let complete = StreamReason::Complete { sent, received };
        let closed = StreamReason::Closed { sent, received };
        let until = Some(now + FIN_TIMEOUT);
        let teardown = match &mut self.state {
            // A FIN inside the output would mean that the output is complete.
            State::Open if !self.output.is_empty() => Teardown::reset(closed),
            State::Open if self.input_has_ended => Teardown::finishing(complete, until),
            State::Open => Teardown::finishing(closed, until),
            State::Finished => Teardown::ended(complete),
            State::Broken { error, .. } => {
                let error = *error;
                Teardown::ended(self.lost(Direction::Write, error))
            }
            State::Ending(teardown) => return teardown.handle_eof(),
        };
        self.state = State::Ending(teardown);
    }

    fn handle_error(&mut self, now: Instant, direction: Direction, error: ConnectionError) {
        let lost = self.lost(direction, error);
        let teardown = match (&mut self.state, direction) {
            (State::Open | State::Finished, Direction::Write) => {
                self.state = State::Broken { error, until: now + FINAL_READ_TIMEOUT };
                return;
            }
            (State::Open | State::Finished, Direction::Read) => Teardown::ended(lost),
            (State::Broken { error, .. }, _) => {
                let error = *error;
                Teardown::ended(self.lost(Direction::Write, error))
            }
            (State::Ending(teardown), _) => return teardown.handle_error(lost),
        };
        self.state = State::Ending(teardown);
    }

    fn handle_timeout(&mut self, now: Instant, unacknowledged: usize) {
        let queued = !self.output.is_empty();
        if !WriteProgress::expires(self, |m| &mut m.progress, now, queued, unacknowledged) {
            return;
        }
        let teardown = match &mut self.state {
            State::Open | State::Finished => Teardown::reset(StreamReason::IdleTimeout {
                limit: self.config.idle_timeout.unwrap_or_default(),
                sent: self.sent,
                received: self.received,
            }),
            State::Broken { error, .. } => {
                let error = *error;
                Teardown::ended(self.lost(Direction::Write, error))
            }
            State::Ending(teardown) => return teardown.expire(None),
        };
        self.state = State::Ending(teardown);
    }

    fn shut_down(&mut self, now: Instant) {
        let reason = StreamReason::ShutDown;
        let teardown = match &self.state {
            State::Open => Teardown::finishing(reason, Some(now + FIN_TIMEOUT)),
            State::Finished => Teardown::ended(reason),
            State::Broken { error, .. } => Teardown::ended(self.lost(Direction::Write, *error)),
            State::Ending(_) => return,
        };
        self.filled = 0;
        self.state = State::Ending(teardown);
    }
}

impl Machine for StreamClient {
    type Reason = StreamReason;

    fn interest(&self) -> Interest {
        let read = self.filled == 0;
        let write = match &self.state {
            State::Open if !self.output.is_empty() => Outbound::Flush,
            State::Open if self.input_has_ended => Outbound::Finish,
            State::Open => Outbound::Idle,
            // `Finished` without `read` would be the end.
            State::Finished | State::Broken { .. } if !read => Outbound::Idle,
            State::Finished | State::Broken { .. } => Outbound::Finished,
            State::Ending(teardown) => return teardown.interest(!self.output.is_empty()),
        };
        Interest { read, write }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        if self.block.len() < MIN_READ {
            self.block = BytesMut::zeroed(BLOCK);
        }
        &mut self.block
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        out[0] = &self.output;
        1
    }

    fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
        out[0] = self.output.slice(..self.output.len().min(max));
        1
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Read(n) => {
                self.filled = n;
                self.received += n as u64;
                self.last_activity = now;
            }
            Event::Eof => self.handle_eof(now),
            Event::Error(direction, error) => self.handle_error(now, direction, error),
            Event::Written(n) => {
                self.output.advance(n);
                self.sent += n as u64;
                self.progress.queued(now);
                self.progress.written(now, n);
            }
            Event::Finished => match &mut self.state {
                State::Open => {
                    self.last_activity = now;
                    self.state = State::Finished;
                }
                State::Finished | State::Broken { .. } => {}
                State::Ending(teardown) => teardown.handle_finished(now),
            },
            Event::Timeout { unacknowledged } => self.handle_timeout(now, unacknowledged),
            Event::ShutDown => self.shut_down(now),
            Event::Release => {
                if self.filled == 0 {
                    self.block = BytesMut::new();
                }
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Open | State::Finished | State::Broken { .. } if self.filled > 0 => None,
            State::Open | State::Finished => {
                let limit = self.config.idle_timeout.filter(|_| self.awaits_server());
                limit.map(|limit| self.progress.idle_deadline(self.last_activity, limit))
            }
            State::Broken { until, .. } => Some(*until),
            State::Ending(teardown) => teardown.poll_timeout(None),
        }
    }

    fn status(&self) -> Status {
        let state = match &self.state {
            State::Open => "open",
            State::Finished => "finished",
            State::Broken { .. } => "broken",
            State::Ending(teardown) => teardown.state(),
        };
        Status { state, queued: self.output.len(), lag: 0 }
    }

    fn reason(&self) -> Option<StreamReason> {
        match &self.state {
            State::Ending(teardown) => teardown.reason(),
            State::Open | State::Finished | State::Broken { .. } => None,
        }
    }
}

/// The size of a block, and the most that one read receives, in bytes.
const BLOCK: usize = 64 * 1024;
/// A new block is allocated when less space than this remains.
const MIN_READ: usize = 16 * 1024;
/// How long a connection whose write has failed may take to deliver what arrived before.
const FINAL_READ_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_stands_still_while_received_bytes_wait_to_be_taken() {
        let limit = Duration::from_secs(30);
        let now = Instant::EPOCH;
        let mut client = StreamClient::new(StreamConfig::default()).unwrap();
        assert_eq!(client.poll_timeout(), None, "the input may be silent");
        client.finish(now);
        assert_eq!(client.poll_timeout(), Some(now + limit));
        client.read_buf()[0] = b'x';
        client.handle(now, Event::Read(1));
        assert_eq!(client.poll_timeout(), None);
        let later = now + Duration::from_secs(3600);
        assert_eq!(client.take(later).unwrap(), "x");
        assert_eq!(client.poll_timeout(), Some(later + limit));
    }
}
