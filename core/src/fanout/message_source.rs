//! The machine of a server that sends numbered messages at a rate.

use alloc::{format, vec::Vec};
use core::{num::NonZeroUsize, time::Duration};

use super::discard::Discard;
use crate::{
    ConfigError, ConnectionError, Direction, Event, Fault, Instant, Interest, Linger, Machine,
    Outbound, Status, WriteProgress,
    config::{check_timeout, with_setters},
    machine::impl_reason,
    quantity::Time,
    record::Recordable,
    teardown::{DiscardBudget, Teardown},
};

/// What a [`MessageSource`] sends, and its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MessageSourceConfig {
    /// The length of a message, in bytes. Default: 1,024.
    pub size: NonZeroUsize,
    /// Messages a second; 0: as fast as the client reads. Default: 1,000.
    pub rate: u64,
    /// How many messages to send before the FIN; `None`: no end. Default: `None`.
    pub count: Option<u64>,
    /// The driver's epoch, as the time since the Unix epoch. The time in a message is the sum of
    /// this and the driver's time. Default: 0.
    pub epoch: Duration,
    /// The client is reset when output or a FIN is pending and it has acknowledged no byte for this
    /// long; `None`: never. The reset may come late, within 1.125 times this duration.
    /// Default: 30 s.
    ///
    /// Where the client is a fan-out server, set it to more than 1.125 times
    /// [`Config::write_timeout`](super::Config::write_timeout), because a subscriber that reads
    /// nothing can pause the server's reading for that long.
    pub write_timeout: Option<Duration>,
    /// The close after the last message, or after
    /// [`Event::ShutDown`](crate::Event::ShutDown).
    pub linger: Linger,
}

impl Default for MessageSourceConfig {
    fn default() -> Self {
        Self {
            size: const { NonZeroUsize::new(1024).unwrap() },
            rate: 1000,
            count: None,
            epoch: Duration::ZERO,
            write_timeout: Some(Duration::from_secs(30)),
            linger: Linger::default(),
        }
    }
}

impl MessageSourceConfig {
    with_setters! {
        with_size(size: NonZeroUsize);
        with_rate(rate: u64);
        with_count(count: impl Into<Option<u64>>);
        with_epoch(epoch: Duration);
        with_write_timeout(write_timeout: impl Into<Option<Duration>>);
        with_linger(linger: Linger);
    }
}

/// One connection of a server that sends numbered messages of a fixed size at a rate.
///
/// A message is text: its number in twenty digits, counted from 0, a space, the time at which it
/// was generated in twenty digits (nanoseconds since the Unix epoch), a space, dots, and a line
/// feed. If [`size`](MessageSourceConfig::size) is too small for that, the text is cut off, and the
/// last byte is a line feed.
///
/// The client's input is discarded, at most 64 KiB in 100 ms. Its FIN does not end the connection:
/// `nc` sends one when its standard input ends, and still reads. A client that has closed both
/// directions answers the next message by a reset.
///
/// It holds 64 KiB, or one message if that is more, and 16 KiB while it reads from a client that
/// sends much at once.
#[derive(Debug)]
pub struct MessageSource {
    config: MessageSourceConfig,
    started: Instant,
    /// When output was last generated or written.
    now: Instant,
    /// How many messages were generated.
    generated: u64,
    /// Output. The bytes before `sent` were written.
    block: Vec<u8>,
    sent: usize,
    fin_received: bool,
    progress: WriteProgress,
    /// `None`: messages are generated.
    teardown: Option<Teardown<MessageSourceReason>>,
    discard: Discard,
    /// The budget of this connection alone: such a server has one client at a time.
    discard_budget: DiscardBudget,
}

/// Why a message source's connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageSourceReason {
    /// [`MessageSourceConfig::count`] messages were sent.
    #[error("all messages are sent: {count}")]
    Finished {
        /// Their number.
        count: u64,
    },
    /// The client closed: it sent a FIN, and later a reset.
    #[error("the client left; messages generated: {generated}")]
    Left {
        /// Messages that were generated for it.
        generated: u64,
    },
    /// A shutdown was requested.
    #[error("shutdown requested")]
    ShutDown,
    /// The client acknowledged no byte for [`MessageSourceConfig::write_timeout`].
    #[error(
        "no byte acknowledged for {limit}; bytes not acknowledged: {unsent}",
        limit = Time(*limit)
    )]
    WriteStalled {
        /// The limit.
        limit: Duration,
        /// Bytes of messages that were not acknowledged.
        unsent: usize,
    },
    /// The connection failed.
    #[error("lost while {direction}: {error}")]
    Lost {
        /// The direction of the operation that failed.
        direction: Direction,
        /// The error.
        error: ConnectionError,
    },
}

impl_reason!(MessageSourceReason {
    Self::Finished { .. } => ("finished", Fault::None),
    Self::Left { .. } => ("left", Fault::None),
    Self::ShutDown => ("shut_down", Fault::Requested),
    Self::WriteStalled { .. } => ("write_stalled", Fault::Time),
    Self::Lost { error, .. } => (ConnectionError: error, Fault::Lost),
});

impl MessageSource {
    /// The machine for a connection that was made `now`.
    ///
    /// # Errors
    /// A timeout in `config` is zero.
    pub fn new(config: MessageSourceConfig, now: Instant) -> Result<Self, ConfigError> {
        check_timeout("write_timeout", config.write_timeout)?;
        check_timeout("linger.time", config.linger.time)?;
        let mut source = Self {
            config,
            started: now,
            now,
            generated: 0,
            block: Vec::new(),
            sent: 0,
            fin_received: false,
            progress: WriteProgress::new(now),
            teardown: None,
            discard: Discard::new(),
            discard_budget: DiscardBudget::default(),
        };
        source.generate(now);
        Ok(source)
    }

    /// Generates the messages that are due, up to a full block.
    fn generate(&mut self, now: Instant) {
        self.now = now;
        if self.has_output() || self.teardown.is_some() {
            return;
        }
        self.block.clear();
        self.sent = 0;
        let size = self.config.size.get();
        let time = (self.config.epoch + now.since_epoch()).as_nanos();
        let due = self.due(now);
        while self.generated < due && (self.block.is_empty() || self.block.len() + size <= BLOCK) {
            let start = self.block.len();
            let head = format!("{:020} {time:020} ", self.generated);
            self.block.extend_from_slice(head.as_bytes());
            self.block.resize(start + size, b'.');
            if let Some(last) = self.block.last_mut() {
                *last = b'\n';
            }
            self.generated += 1;
        }
        if self.has_output() {
            self.progress.queued(now);
        } else if Some(self.generated) == self.config.count {
            self.close(MessageSourceReason::Finished { count: self.generated }, now);
        }
    }

    /// How many messages are due, including those that were generated.
    fn due(&self, now: Instant) -> u64 {
        let due = match self.config.rate {
            0 => u64::MAX,
            // The first message is due at once.
            rate => {
                let elapsed = now.since(self.started).as_nanos();
                let intervals = elapsed * u128::from(rate) / NANOS_PER_SECOND;
                u64::try_from(intervals).unwrap_or(u64::MAX).saturating_add(1)
            }
        };
        due.min(self.config.count.unwrap_or(u64::MAX))
    }

    /// When message `number` is due.
    fn due_at(&self, number: u64) -> Instant {
        let rate = u128::from(self.config.rate.max(1));
        let nanos = (u128::from(number) * NANOS_PER_SECOND).div_ceil(rate);
        self.started + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn has_output(&self) -> bool {
        self.sent < self.block.len()
    }

    /// Generates no more messages, and closes once the pending ones are sent.
    fn close(&mut self, reason: MessageSourceReason, now: Instant) {
        if self.teardown.is_none() {
            let linger = (!self.fin_received).then_some(self.config.linger);
            self.teardown = Some(Teardown::closing(reason, linger, &mut self.progress, now));
        }
    }

    fn handle_error(&mut self, direction: Direction, error: ConnectionError) {
        let reason = if self.fin_received && error == ConnectionError::Reset {
            MessageSourceReason::Left { generated: self.generated }
        } else {
            MessageSourceReason::Lost { direction, error }
        };
        match &mut self.teardown {
            None => self.teardown = Some(Teardown::ended(reason)),
            Some(teardown) => teardown.handle_error(reason),
        }
    }

    fn handle_timeout(&mut self, now: Instant, unacknowledged: usize) {
        self.discard.handle_timeout(now);
        let is_closing = self.teardown.as_ref().is_some_and(Teardown::is_closing);
        let queued = is_closing || self.has_output();
        if !WriteProgress::expires(self, |m| &mut m.progress, now, queued, unacknowledged) {
            return;
        }
        let limit = self.config.write_timeout;
        let unsent = self.block.len() - self.sent + unacknowledged;
        let is_stalled =
            unsent > 0 && limit.is_some_and(|limit| self.progress.is_stalled(now, limit));
        let limit = limit.unwrap_or_default();
        let reason = MessageSourceReason::WriteStalled { limit, unsent };
        match &mut self.teardown {
            None if is_stalled => self.teardown = Some(Teardown::reset(reason)),
            None => self.generate(now),
            Some(teardown) => teardown.expire(Some(reason)),
        }
    }
}

/// It shares nothing.
impl Recordable for MessageSource {}

impl Machine for MessageSource {
    type Reason = MessageSourceReason;

    fn interest(&self) -> Interest {
        match &self.teardown {
            None => {
                let write = if self.has_output() { Outbound::Flush } else { Outbound::Idle };
                Interest { read: !self.fin_received && self.discard.wants_more(), write }
            }
            Some(teardown) => teardown.interest(self.has_output()),
        }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.discard.read_buf()
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        out[0] = &self.block[self.sent..];
        1
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Read(n) => {
                self.discard.handle_read(n);
                match &mut self.teardown {
                    None => self.discard.limit(now, n),
                    Some(teardown) => teardown.handle_read(now, n, &self.discard_budget),
                }
            }
            Event::Eof => {
                self.fin_received = true;
                if let Some(teardown) = &mut self.teardown {
                    teardown.handle_eof();
                }
            }
            Event::Error(direction, error) => self.handle_error(direction, error),
            Event::Written(n) => {
                self.sent += n;
                self.progress.written(now, n);
                self.generate(now);
            }
            Event::Finished => {
                if let Some(teardown) = &mut self.teardown {
                    teardown.handle_finished(now);
                }
            }
            Event::Timeout { unacknowledged } => self.handle_timeout(now, unacknowledged),
            // Generated messages are still sent.
            Event::ShutDown => self.close(MessageSourceReason::ShutDown, now),
            Event::Release => self.discard.release(),
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let write = self.progress.pending_deadline(self.has_output(), self.config.write_timeout);
        match &self.teardown {
            None => {
                // While output is pending, no message is generated.
                let due = (!self.has_output()).then(|| self.due_at(self.generated));
                [due, write, self.discard.poll_timeout()].into_iter().flatten().min()
            }
            Some(teardown) => teardown.poll_timeout(write),
        }
    }

    fn status(&self) -> Status {
        let state = self.teardown.as_ref().map_or("open", Teardown::state);
        let lag = if self.teardown.is_none() && self.config.rate > 0 {
            self.due(self.now).saturating_sub(self.generated)
        } else {
            0
        };
        Status { state, queued: self.block.len() - self.sent, lag }
    }

    fn reason(&self) -> Option<MessageSourceReason> {
        self.teardown.as_ref().and_then(Teardown::reason)
    }
}

/// The most output that is generated at once, in bytes; a longer message is generated alone.
const BLOCK: usize = 64 * 1024;
const NANOS_PER_SECOND: u128 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use alloc::string::ToString as _;

    use super::*;

    #[test]
    fn a_timeout_of_zero_is_an_error_that_names_the_setting() {
        let config = MessageSourceConfig::default().with_write_timeout(Duration::ZERO);
        let error = MessageSource::new(config, Instant::EPOCH).unwrap_err();
        assert_eq!(error.to_string(), "write_timeout must be non-zero");
        let linger = Linger { time: Duration::ZERO, ..Linger::default() };
        let config = MessageSourceConfig::default().with_linger(linger);
        let error = MessageSource::new(config, Instant::EPOCH).unwrap_err();
        assert_eq!(error.to_string(), "linger.time must be non-zero");
    }
}
