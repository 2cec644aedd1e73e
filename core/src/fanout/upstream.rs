//! The machine that receives messages from the upstream and publishes them.

use alloc::{boxed::Box, vec::Vec};
use core::{task::Context, time::Duration};

use bytes::BytesMut;

use super::{
    Capacity, Feed, MessageTooLong,
    replay::{self, INVALID},
};
use crate::{
    ConnectionError, Direction, Event, Fault, Instant, Interest, Machine, Outbound, Reason as _,
    Status,
    admission::ABORTED,
    machine::impl_reason,
    quantity::Time,
    record::{Recordable, put_number},
    teardown::{FIN_TIMEOUT, Teardown},
};

/// The connection to the upstream. It receives, and sends nothing.
///
/// Bytes are not copied: subscribers send them from the memory into which the kernel wrote them.
/// Each read needs capacity, which [`poll_shared`](Machine::poll_shared) gets from the feed. A FIN
/// that stays pending for 10 s becomes a reset.
///
/// It holds a block of 256 KiB or a quarter of the window, whichever is less, or the longest
/// message and 4 KiB where that is more. The feed's chunks are parts of such blocks. An idle
/// upstream keeps its block. If each message had a block of its own, the window would keep all of
/// these blocks alive.
#[derive(Debug)]
pub struct Upstream {
    feed: Feed,
    /// The bytes of an incomplete message, and space behind them.
    block: BytesMut,
    /// How many bytes of the block were received.
    filled: usize,
    state: State,
    /// When a byte was last received, or a pause last ended.
    last_activity: Instant,
    /// What a recording says last about the feed.
    recorded: Option<Box<Recorded>>,
}

/// What a recording says about the feed: its capacity, and the position and the message of the next
/// chunk.
type Recorded = Option<(Capacity, (u64, u64))>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Open {
        /// Whether the feed has granted capacity for a block. One read uses it up.
        has_capacity: bool,
    },
    /// A subscriber would fall out of the window: nothing is read until the feed grants capacity.
    Paused {
        /// When to ask the feed again at the latest; `None`: only when the waker is woken.
        until: Option<Instant>,
    },
    Ending(Teardown<UpstreamReason>),
}

/// Why the connection to the upstream ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamReason {
    /// The upstream closed its side.
    #[error("the upstream closed; bytes dropped of an incomplete message: {tail}")]
    Closed {
        /// Bytes of an incomplete message, which are dropped.
        tail: usize,
    },
    /// The upstream sent a message that is too long.
    #[error(transparent)]
    TooLong(MessageTooLong),
    /// No byte arrived for [`Config::upstream_idle_timeout`](super::Config::upstream_idle_timeout).
    #[error(
        "no byte for {limit}; bytes dropped of an incomplete message: {tail}",
        limit = Time(*limit)
    )]
    IdleTimeout {
        /// The limit.
        limit: Duration,
        /// Bytes of an incomplete message, which are dropped.
        tail: usize,
    },
    /// A shutdown was requested.
    #[error("shutdown requested")]
    ShutDown,
    /// The connection failed.
    #[error("lost while {direction}: {error}; bytes dropped of an incomplete message: {tail}")]
    Lost {
        /// The direction of the operation that failed.
        direction: Direction,
        /// The error.
        error: ConnectionError,
        /// Bytes of an incomplete message, which are dropped.
        tail: usize,
    },
}

impl_reason!(UpstreamReason {
    Self::Closed { .. } => ("upstream_closed", Fault::Lost),
    Self::TooLong(_) => ("message_too_long", Fault::Limit),
    Self::IdleTimeout { .. } => ("idle_timeout", Fault::Time),
    Self::ShutDown => ("shut_down", Fault::Requested),
    Self::Lost { error, .. } => (ConnectionError: error, Fault::Lost),
});

impl Upstream {
    /// The machine for a connection that was made `now`.
    pub fn new(feed: &Feed, now: Instant) -> Self {
        feed.upstream_connected();
        Self {
            feed: feed.clone(),
            block: BytesMut::new(),
            filled: 0,
            state: State::Open { has_capacity: false },
            last_activity: now,
            recorded: None,
        }
    }

    fn block_size(&self) -> usize {
        let config = self.feed.config();
        // Subscribers that are only a little behind must stay in the window after one read.
        let block = BLOCK.min(config.window / 4);
        // An incomplete message never fills the block.
        block.max(config.framing.max_message_size().unwrap_or(0) + MIN_READ)
    }

    fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. } | State::Paused { .. })
    }

    /// Sends a FIN.
    fn close(&mut self, reason: UpstreamReason, now: Instant) {
        self.end(Teardown::finishing(reason, Some(now + FIN_TIMEOUT)), now);
    }

    fn end(&mut self, teardown: Teardown<UpstreamReason>, now: Instant) {
        self.feed.upstream_disconnected(teardown.cause().label(), self.filled, now);
        self.filled = 0;
        self.state = State::Ending(teardown);
    }

    fn handle_read(&mut self, now: Instant, n: usize) {
        let scanned = self.filled;
        self.filled += n;
        self.last_activity = now;
        self.state = State::Open { has_capacity: false };
        let framing = self.feed.config().framing;
        let complete = framing.complete_messages(&self.block[..self.filled], scanned);
        if complete.bytes > 0 {
            self.filled -= complete.bytes;
            let bytes = self.block.split_to(complete.bytes).freeze();
            self.feed.publish(bytes, complete.count, now);
        }
        if let Some(error) = complete.error {
            self.end(Teardown::reset(UpstreamReason::TooLong(error)), now);
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|deadline| deadline > now) {
            return;
        }
        match &mut self.state {
            State::Open { .. } => {
                let limit = self.feed.config().upstream_idle_timeout.unwrap_or_default();
                let reason = UpstreamReason::IdleTimeout { limit, tail: self.filled };
                self.end(Teardown::reset(reason), now);
            }
            // The next `poll_shared` asks the feed again.
            State::Paused { until } => *until = None,
            State::Ending(teardown) => teardown.expire(None),
        }
    }
}

/// A recording has the pauses, and the positions of what is published.
impl Recordable for Upstream {
    fn begin_recording(&mut self) {
        self.recorded = Some(Box::default());
    }

    fn take_outside(&mut self, out: &mut Vec<u8>) {
        let Some(recorded) = &mut self.recorded else { return };
        let capacity = match self.state {
            State::Paused { until } => Capacity::Paused { until },
            State::Open { .. } | State::Ending(_) => Capacity::Available,
        };
        let (position, message) = self.feed.position();
        let now = Some((capacity, (position, message)));
        if now != **recorded {
            **recorded = now;
            replay::put_capacity(out, capacity);
            put_number(out, position);
            put_number(out, message);
        }
    }

    fn restore_outside(&mut self, mut outside: &[u8]) -> Result<(), &'static str> {
        if outside.is_empty() {
            return Ok(());
        }
        let is_start = self.recorded.as_deref().is_none_or(Option::is_none);
        let capacity = replay::take_capacity(&mut outside).ok_or(INVALID)?;
        let (position, message) = replay::take_position(&mut outside).ok_or(INVALID)?;
        if !outside.is_empty() {
            return Err(INVALID);
        }
        self.feed.restore(capacity, is_start.then_some((position, message)));
        Ok(())
    }
}

impl Machine for Upstream {
    type Reason = UpstreamReason;

    fn interest(&self) -> Interest {
        match &self.state {
            State::Open { has_capacity } => Interest { read: *has_capacity, write: Outbound::Idle },
            State::Paused { .. } => Interest { read: false, write: Outbound::Idle },
            State::Ending(teardown) => teardown.interest(false),
        }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        if self.block.len() - self.filled < MIN_READ {
            let mut block = BytesMut::zeroed(self.block_size());
            block[..self.filled].copy_from_slice(&self.block[..self.filled]);
            self.block = block;
        }
        &mut self.block[self.filled..]
    }

    fn write_bufs<'a>(&'a self, _out: &mut [&'a [u8]]) -> usize {
        0
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Read(n) => self.handle_read(now, n),
            Event::Eof => {
                if self.is_open() {
                    self.close(UpstreamReason::Closed { tail: self.filled }, now);
                }
            }
            Event::Error(direction, error) => {
                let lost = UpstreamReason::Lost { direction, error, tail: self.filled };
                match &mut self.state {
                    State::Open { .. } | State::Paused { .. } => {
                        self.end(Teardown::ended(lost), now);
                    }
                    State::Ending(teardown) => teardown.handle_error(lost),
                }
            }
            Event::Finished => {
                if let State::Ending(teardown) = &mut self.state {
                    teardown.handle_finished(now);
                }
            }
            Event::Timeout { .. } => self.handle_timeout(now),
            Event::ShutDown => {
                if self.is_open() {
                    self.close(UpstreamReason::ShutDown, now);
                }
            }
            // `Release` frees no memory: a chunk keeps its whole block alive, so messages that
            // arrive one by one must share blocks.
            Event::Written(_) | Event::Release => {}
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Open { .. } => {
                let limit = self.feed.config().upstream_idle_timeout;
                limit.map(|limit| self.last_activity + limit)
            }
            State::Paused { until } => *until,
            State::Ending(teardown) => teardown.poll_timeout(None),
        }
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        if !self.is_open() {
            return false;
        }
        let state = match self.feed.poll_capacity(now, self.block_size(), cx) {
            Capacity::Paused { until } => State::Paused { until },
            Capacity::Available => {
                if let State::Paused { .. } = self.state {
                    // Input that arrived during the pause was not read.
                    self.last_activity = now;
                }
                State::Open { has_capacity: true }
            }
        };
        let has_changed = state != self.state;
        self.state = state;
        has_changed
    }

    fn status(&self) -> Status {
        let state = match &self.state {
            State::Open { .. } => "open",
            State::Paused { .. } => "paused",
            State::Ending(teardown) => teardown.state(),
        };
        Status { state, queued: 0, lag: 0 }
    }

    fn reason(&self) -> Option<UpstreamReason> {
        match &self.state {
            State::Ending(teardown) => teardown.reason(),
            State::Open { .. } | State::Paused { .. } => None,
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if self.is_open() {
            self.feed.upstream_disconnected(ABORTED, self.filled, self.last_activity);
        }
    }
}

/// The largest block, and the most that one read receives, in bytes. A publication wakes every
/// subscriber that has caught up, which is expensive on threads, so large reads are better.
const BLOCK: usize = 256 * 1024;
/// A new block is allocated when less space than this follows the last byte.
const MIN_READ: usize = 4 * 1024;
