//! The machine of a server of fixed-size, numbered messages at a rate.

use alloc::{format, vec::Vec};
use core::{num::NonZeroUsize, time::Duration};

use crate::{Fault, Instant, Interest, Lost, Machine, Outbound, Status, Way};

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
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self {
            size: const { NonZeroUsize::new(1024).unwrap() },
            rate: 1000,
            count: None,
            epoch: Duration::ZERO,
        }
    }
}

/// The connection to the one client of a source.
///
/// A message is text: its number in twenty digits, counted from 0, a space, the time at which it
/// was made in twenty digits (nanoseconds since Unix' epoch), a space, dots, and a line feed; a
/// message that has no room for all of it ends earlier. What the client sends is thrown away.
///
/// It holds 64 KiB, or one message where that is more.
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
    state: State,
    scratch: [u8; 64],
}

#[derive(Clone, Debug)]
enum State {
    Open,
    Closing(SourceReason),
    Lingering { reason: SourceReason, until: Instant },
    Resetting(SourceReason),
    Over(SourceReason),
}

/// Why a source's connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceReason {
    /// All messages are sent.
    #[error("all {count} messages are sent")]
    Finished {
        /// How many they are.
        count: u64,
    },
    /// The client closed.
    #[error("the client left after {sent} messages")]
    Left {
        /// Messages that were made for it.
        sent: u64,
    },
    /// We were asked to stop.
    #[error("asked to stop")]
    ShutDown,
    /// The connection broke.
    #[error("lost while {way}: {why}")]
    Lost {
        /// At a read or a write.
        way: Way,
        /// How.
        why: Lost,
    },
}

impl crate::Reason for SourceReason {
    fn label(&self) -> &'static str {
        match self {
            Self::Finished { .. } => "finished",
            Self::Left { .. } => "left",
            Self::ShutDown => "shut_down",
            Self::Lost { why, .. } => why.label(),
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Finished { .. } | Self::Left { .. } => Fault::None,
            Self::ShutDown => Fault::Asked,
            Self::Lost { .. } => Fault::Lost,
        }
    }
}

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
            state: State::Open,
            scratch: [0; 64],
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
        if self.sent < self.block.len() || !matches!(self.state, State::Open) {
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
        if self.block.is_empty() && Some(self.made) == self.config.count {
            self.state = State::Closing(SourceReason::Finished { count: self.made });
        }
    }
}

const NANOS: u128 = 1_000_000_000;
const BLOCK: usize = 64 * 1024;
const LINGER: Duration = Duration::from_secs(2);

impl Machine for Source {
    type Reason = SourceReason;

    fn interest(&self) -> Interest {
        let flush_or = |write| if self.sent < self.block.len() { Outbound::Flush } else { write };
        match self.state {
            State::Open => Interest { read: true, write: flush_or(Outbound::Idle) },
            State::Closing(_) => Interest { read: false, write: flush_or(Outbound::Finish) },
            State::Lingering { .. } => Interest { read: true, write: Outbound::Finished },
            State::Resetting(_) => Interest { read: false, write: Outbound::Reset },
            State::Over(_) => Interest::DONE,
        }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        &mut self.scratch
    }

    fn handle_read(&mut self, _now: Instant, _n: usize) {}

    fn handle_eof(&mut self, _now: Instant) {
        match &self.state {
            State::Open => self.state = State::Resetting(SourceReason::Left { sent: self.made }),
            State::Lingering { reason, .. } => self.state = State::Over(reason.clone()),
            State::Closing(_) | State::Resetting(_) | State::Over(_) => {}
        }
    }

    fn handle_lost(&mut self, _now: Instant, way: Way, why: Lost) {
        self.state = match &self.state {
            State::Open | State::Closing(_) => State::Over(SourceReason::Lost { way, why }),
            State::Lingering { reason, .. } | State::Resetting(reason) => {
                State::Over(reason.clone())
            }
            State::Over(_) => return,
        };
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        out[0] = &self.block[self.sent..];
        1
    }

    fn handle_written(&mut self, now: Instant, n: usize) {
        self.sent += n;
        self.make(now);
    }

    fn handle_finished(&mut self, now: Instant) {
        self.state = match &self.state {
            State::Closing(reason) => {
                State::Lingering { reason: reason.clone(), until: now + LINGER }
            }
            State::Resetting(reason) => State::Over(reason.clone()),
            State::Open | State::Lingering { .. } | State::Over(_) => return,
        };
    }

    /// The messages that were begun are finished.
    fn shut_down(&mut self, _now: Instant) {
        if let State::Open = self.state {
            self.state = State::Closing(SourceReason::ShutDown);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            // While something waits to be sent, the rest waits with it.
            State::Open if self.sent == self.block.len() => Some(self.due_at(self.made)),
            State::Lingering { until, .. } => Some(until),
            State::Open | State::Closing(_) | State::Resetting(_) | State::Over(_) => None,
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|deadline| deadline > now) {
            return;
        }
        match &self.state {
            State::Open => self.make(now),
            State::Lingering { reason, .. } => self.state = State::Over(reason.clone()),
            State::Closing(_) | State::Resetting(_) | State::Over(_) => {}
        }
    }

    fn status(&self) -> Status {
        let state = match self.state {
            State::Open => "open",
            State::Closing(_) => "closing",
            State::Lingering { .. } => "lingering",
            State::Resetting(_) => "resetting",
            State::Over(_) => "over",
        };
        let lag = match self.state {
            State::Open if self.config.rate > 0 => self.due(self.now).saturating_sub(self.made),
            State::Open
            | State::Closing(_)
            | State::Lingering { .. }
            | State::Resetting(_)
            | State::Over(_) => 0,
        };
        Status { state, queued: self.block.len() - self.sent, lag }
    }

    fn reason(&self) -> Option<SourceReason> {
        match &self.state {
            State::Over(reason) => Some(reason.clone()),
            State::Open | State::Closing(_) | State::Lingering { .. } | State::Resetting(_) => None,
        }
    }
}
