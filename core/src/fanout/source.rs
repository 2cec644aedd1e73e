//! The machine of a server of fixed-size, numbered messages at a rate.

use alloc::{format, vec::Vec};
use core::{num::NonZeroUsize, time::Duration};

use super::discard::Discard;
use crate::{
    ConnectionError, Direction, Event, Fault, Instant, Interest, Linger, Machine, Outbound, Status,
    WriteProgress,
    machine::impl_reason,
    teardown::{DiscardBudget, Teardown},
};

/// What a source sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceConfig {
    /// The length of a message, in bytes. Default: 1,024.
    pub size: NonZeroUsize,
    /// Messages a second; 0: as fast as they are taken. Default: 1,000.
    pub rate: u64,
    /// How many messages, then a FIN; `None`: without end. Default: without end.
    pub count: Option<u64>,
    /// Added to the driver's time to make the time that messages carry: where the driver's epoch
    /// lies after that of Unix. Default: 0.
    pub epoch: Duration,
    /// A client that acknowledges no byte for this long, although output or a FIN is pending, is
    /// reset within 1.125 times this; `None`: never. Default: 30 s.
    ///
    /// It should be longer than [`Config::write_timeout`](super::Config::write_timeout) of a fan-out
    /// that is the client: a subscriber that takes nothing holds it for 1.125 times that.
    pub write_timeout: Option<Duration>,
    /// The close behind the last message, or behind [`Event::ShutDown`](crate::Event::ShutDown).
    pub linger: Linger,
}

impl Default for SourceConfig {
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

/// The connection to the one client of a source.
///
/// A message is text: its number in twenty digits, counted from 0, a space, the time at which it
/// was made in twenty digits (nanoseconds since Unix' epoch), a space, dots, and a line feed; a
/// message that has no room for all of it ends earlier.
///
/// What the client sends is read and discarded, 64 KiB in 100 ms at most. Its FIN is not the end of
/// the connection: `nc` sends one when its standard input ends, and goes on reading. If the client
/// is gone, it answers a message by a reset.
///
/// It holds 64 KiB, or one message if that is more; and 16 KiB while it reads from a client that
/// sends much at once.
#[derive(Debug)]
pub struct Source {
    config: SourceConfig,
    began: Instant,
    /// When something last moved out.
    now: Instant,
    /// Messages that were made.
    made: u64,
    /// What waits to be sent, from `sent` on.
    block: Vec<u8>,
    sent: usize,
    /// The client's FIN has come.
    heard_fin: bool,
    progress: WriteProgress,
    /// `None`: messages are made.
    end: Option<Teardown<SourceReason>>,
    discard: Discard,
    /// One for each client, since a source has one client at a time.
    discard_budget: DiscardBudget,
}

/// Why a source's connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceReason {
    /// All messages are sent.
    #[error("all messages are sent: {count}")]
    Finished {
        /// How many they are.
        count: u64,
    },
    /// The client closed: its FIN came, and then a reset.
    #[error("the client left; messages made for it: {sent}")]
    Left {
        /// Messages that were made for it.
        sent: u64,
    },
    /// We were asked to stop.
    #[error("asked to stop")]
    ShutDown,
    /// The client took no byte for too long ([`SourceConfig::write_timeout`]).
    #[error("took no byte for {limit:?}; bytes not acknowledged: {unsent}")]
    WriteStalled {
        /// The limit.
        limit: Duration,
        /// Bytes of messages that it has not acknowledged.
        unsent: usize,
    },
    /// The connection broke.
    #[error("lost while {way}: {why}")]
    Lost {
        /// At a read or a write.
        way: Direction,
        /// How.
        why: ConnectionError,
    },
}

impl_reason!(SourceReason {
    Self::Finished { .. } => ("finished", Fault::None),
    Self::Left { .. } => ("left", Fault::None),
    Self::ShutDown => ("shut_down", Fault::Requested),
    Self::WriteStalled { .. } => ("write_stalled", Fault::Time),
    Self::Lost { why, .. } => (why.label(), Fault::Lost),
});

impl Source {
    /// The machine for a connection that was made `now`.
    pub fn new(config: SourceConfig, now: Instant) -> Self {
        let mut source = Self {
            config,
            began: now,
            now,
            made: 0,
            block: Vec::new(),
            sent: 0,
            heard_fin: false,
            progress: WriteProgress::new(now),
            end: None,
            discard: Discard::new(),
            discard_budget: DiscardBudget::default(),
        };
        source.make(now);
        source
    }

    /// How many messages are due.
    fn due(&self, now: Instant) -> u64 {
        let due = match self.config.rate {
            0 => u64::MAX,
            // The first one at once.
            rate => {
                let elapsed = now.since(self.began).as_nanos() * u128::from(rate) / NANOS;
                u64::try_from(elapsed).unwrap_or(u64::MAX).saturating_add(1)
            }
        };
        due.min(self.config.count.unwrap_or(u64::MAX))
    }

    /// When message number `number` is due.
    fn due_at(&self, number: u64) -> Instant {
        let rate = u128::from(self.config.rate.max(1));
        let nanos = (u128::from(number) * NANOS).div_ceil(rate);
        self.began + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Makes the messages that are due, as far as there is room.
    fn make(&mut self, now: Instant) {
        self.now = now;
        if self.owes() || self.end.is_some() {
            return;
        }
        self.block.clear();
        self.sent = 0;
        let size = self.config.size.get();
        let time = (self.config.epoch + now.since_epoch()).as_nanos();
        let due = self.due(now);
        while self.made < due && (self.block.is_empty() || self.block.len() + size <= BLOCK) {
            let start = self.block.len();
            self.block.extend_from_slice(format!("{:020} {time:020} ", self.made).as_bytes());
            self.block.resize(start + size, b'.');
            if let Some(last) = self.block.last_mut() {
                *last = b'\n';
            }
            self.made += 1;
        }
        if self.owes() {
            self.progress.queued(now);
        } else if Some(self.made) == self.config.count {
            self.close(SourceReason::Finished { count: self.made }, now);
        }
    }

    /// No more messages are made.
    fn close(&mut self, reason: SourceReason, now: Instant) {
        if self.end.is_none() {
            let linger = (!self.heard_fin).then_some(self.config.linger);
            self.end = Some(Teardown::closing(reason, linger, &mut self.progress, now));
        }
    }

    fn owes(&self) -> bool {
        self.sent < self.block.len()
    }
}

const NANOS: u128 = 1_000_000_000;
const BLOCK: usize = 64 * 1024;

impl Machine for Source {
    type Reason = SourceReason;

    fn interest(&self) -> Interest {
        match &self.end {
            None => {
                let write = if self.owes() { Outbound::Flush } else { Outbound::Idle };
                Interest { read: !self.heard_fin && self.discard.wants_more(), write }
            }
            Some(end) => end.interest(self.owes()),
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
                match &mut self.end {
                    None => self.discard.limit(now, n),
                    Some(end) => end.handle_read(now, n, &self.discard_budget),
                }
            }
            Event::Eof => {
                self.heard_fin = true;
                if let Some(end) = &mut self.end {
                    end.handle_eof();
                }
            }
            Event::Error(way, why) => self.handle_lost(way, why),
            Event::Written(n) => {
                self.sent += n;
                self.progress.written(now, n);
                self.make(now);
            }
            Event::Finished => {
                if let Some(end) = &mut self.end {
                    end.handle_finished(now);
                }
            }
            Event::Timeout { unacknowledged } => self.handle_timeout(now, unacknowledged),
            // The messages that were begun are finished.
            Event::ShutDown => self.close(SourceReason::ShutDown, now),
            Event::Release => {
                self.discard.release();
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let write = self.progress.pending_deadline(self.owes(), self.config.write_timeout);
        match &self.end {
            None => {
                // While output waits to be sent, further messages wait too.
                let due = (!self.owes()).then(|| self.due_at(self.made));
                [due, write, self.discard.poll_timeout()].into_iter().flatten().min()
            }
            Some(end) => end.poll_timeout(write),
        }
    }

    fn status(&self) -> Status {
        let state = self.end.as_ref().map_or("open", Teardown::state);
        let lag = if self.end.is_none() && self.config.rate > 0 {
            self.due(self.now).saturating_sub(self.made)
        } else {
            0
        };
        Status { state, queued: self.block.len() - self.sent, lag }
    }

    fn reason(&self) -> Option<SourceReason> {
        self.end.as_ref().and_then(Teardown::reason)
    }
}

impl Source {
    fn handle_lost(&mut self, way: Direction, why: ConnectionError) {
        let lost = if self.heard_fin && why == ConnectionError::Reset {
            SourceReason::Left { sent: self.made }
        } else {
            SourceReason::Lost { way, why }
        };
        match &mut self.end {
            None => self.end = Some(Teardown::over(lost)),
            Some(end) => end.handle_error(lost),
        }
    }

    fn handle_timeout(&mut self, now: Instant, unacknowledged: usize) {
        self.discard.handle_timeout(now);
        let closing = self.end.as_ref().is_some_and(Teardown::is_closing);
        let queued = closing || self.owes();
        if !WriteProgress::expires(self, |m| &mut m.progress, now, queued, unacknowledged) {
            return;
        }
        let limit = self.config.write_timeout;
        let unsent = self.block.len() - self.sent + unacknowledged;
        let stalled = unsent > 0 && limit.is_some_and(|limit| self.progress.is_stalled(now, limit));
        let reason = SourceReason::WriteStalled { limit: limit.unwrap_or_default(), unsent };
        match &mut self.end {
            None if stalled => self.end = Some(Teardown::reset(reason)),
            None => self.make(now),
            Some(end) => end.expire(Some(reason)),
        }
    }
}
