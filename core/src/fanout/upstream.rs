//! The machine that reads from the upstream and publishes.

use core::{task::Context, time::Duration};

use bytes::BytesMut;

use super::{Capacity, Feed, TooLong};
use crate::{
    ConnectionError, Direction, Event, Fault, Instant, Interest, Machine, Outbound, Reason as _,
    Status,
    admission::ABORTED,
    machine::impl_reason,
    teardown::{FIN_TIMEOUT, Teardown},
};

/// The connection to the upstream. It only reads; the bytes go to the subscribers from where the
/// kernel put them. If its FIN stays pending for 10 s, it is reset.
///
/// It reads once after each [`poll_shared`](Machine::poll_shared) that finds room in the feed.
///
/// It holds a block of 256 KiB or a quarter of the window, whichever is less, or the longest message
/// and 4 KiB where that is more; the feed's chunks are parts of such blocks. It keeps the block while
/// it is idle: with a new one for each message, the window would keep them all.
#[derive(Debug)]
pub struct Upstream {
    feed: Feed,
    idle_timeout: Option<Duration>,
    /// The bytes of a message that is not whole, and the room behind them.
    block: BytesMut,
    /// How many bytes there are.
    filled: usize,
    state: State,
    /// When a byte last came in, or could have again.
    moved: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// It reads once the feed has granted room for a block, which one read uses up.
    Open {
        granted: bool,
    },
    /// A subscriber would fall out of the window: nothing is read, until the feed is asked again,
    /// at the latest at this time.
    Held(Option<Instant>),
    Ending(Teardown<UpstreamReason>),
}

/// Why the connection to the upstream ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamReason {
    /// The upstream closed.
    #[error("the upstream closed; bytes dropped of a message that was not whole: {tail}")]
    Closed {
        /// Bytes that were no whole message.
        tail: usize,
    },
    /// The upstream sent a message that is longer than it may be.
    #[error(transparent)]
    TooLong(TooLong),
    /// Nothing came for too long.
    #[error("no byte for {limit:?}; bytes dropped of a message that was not whole: {tail}")]
    IdleTimeout {
        /// The limit.
        limit: Duration,
        /// Bytes that were no whole message.
        tail: usize,
    },
    /// We were asked to stop.
    #[error("asked to stop")]
    ShutDown,
    /// The connection broke.
    #[error("lost while {way}: {why}; bytes dropped of a message that was not whole: {tail}")]
    Lost {
        /// At a read or a write.
        way: Direction,
        /// How.
        why: ConnectionError,
        /// Bytes that were no whole message.
        tail: usize,
    },
}

impl_reason!(UpstreamReason {
    Self::Closed { .. } => ("upstream_closed", Fault::Lost),
    Self::TooLong(_) => ("message_too_long", Fault::Limit),
    Self::IdleTimeout { .. } => ("idle_timeout", Fault::Time),
    Self::ShutDown => ("shut_down", Fault::Requested),
    Self::Lost { why, .. } => (why.label(), Fault::Lost),
});

/// How much is read at once, in bytes. One publication wakes every subscriber that has caught up,
/// which is dear where each is a thread: so it should bring much.
const BLOCK: usize = 256 * 1024;
/// With less room than this behind the last byte, a new block is begun.
const LEAST_READ: usize = 4 * 1024;

impl Upstream {
    /// The machine for a connection that was made `now`. It is given up when no byte comes for
    /// `idle_timeout`; not while it is held itself.
    pub fn new(feed: Feed, idle_timeout: Option<Duration>, now: Instant) -> Self {
        feed.connected();
        Self {
            feed,
            idle_timeout,
            block: BytesMut::new(),
            filled: 0,
            state: State::Open { granted: false },
            moved: now,
        }
    }

    fn block_size(&self) -> usize {
        let config = self.feed.config();
        // What is read at once must find room in the window while others are a little behind.
        let block = BLOCK.min(config.window / 4);
        // A message that is not whole never fills it.
        block.max(config.framing.longest().unwrap_or(0) + LEAST_READ)
    }

    fn end(&mut self, ending: Teardown<UpstreamReason>, now: Instant) {
        self.feed.disconnected(ending.cause().label(), self.filled, now);
        self.filled = 0;
        self.state = State::Ending(ending);
    }

    /// Sends a FIN.
    fn close(&mut self, reason: UpstreamReason, now: Instant) {
        self.end(Teardown::finishing(reason, Some(now + FIN_TIMEOUT)), now);
    }

    fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. } | State::Held(_))
    }
}

impl Machine for Upstream {
    type Reason = UpstreamReason;

    fn interest(&self) -> Interest {
        match &self.state {
            State::Open { granted } => Interest { read: *granted, write: Outbound::Idle },
            State::Held(_) => Interest { read: false, write: Outbound::Idle },
            State::Ending(ending) => ending.interest(false),
        }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        if self.block.len() - self.filled < LEAST_READ {
            let mut block = BytesMut::zeroed(self.block_size());
            block[..self.filled].copy_from_slice(&self.block[..self.filled]);
            self.block = block;
        }
        &mut self.block[self.filled..]
    }

    // `release` gives nothing back: a chunk keeps the block that it was cut from, so messages that
    // come one by one must share blocks, or each would keep one of its own.

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
            Event::Error(way, why) => {
                let lost = UpstreamReason::Lost { way, why, tail: self.filled };
                match &mut self.state {
                    State::Open { .. } | State::Held(_) => self.end(Teardown::over(lost), now),
                    State::Ending(ending) => ending.handle_error(lost),
                }
            }
            Event::Finished => {
                if let State::Ending(ending) = &mut self.state {
                    ending.handle_finished(now);
                }
            }
            Event::Timeout { .. } => self.handle_timeout(now),
            Event::ShutDown => {
                if self.is_open() {
                    self.close(UpstreamReason::ShutDown, now);
                }
            }
            Event::Written(_) | Event::Release => {}
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Open { .. } => self.idle_timeout.map(|limit| self.moved + limit),
            State::Held(until) => *until,
            State::Ending(ending) => ending.poll_timeout(None),
        }
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        if !self.is_open() {
            return false;
        }
        let state = match self.feed.poll_capacity(now, self.block_size(), cx) {
            Capacity::Held(until) => State::Held(until),
            Capacity::Free => {
                if let State::Held(_) = self.state {
                    self.moved = now; // while nothing was read, nothing could come
                }
                State::Open { granted: true }
            }
        };
        let news = state != self.state;
        self.state = state;
        news
    }

    fn status(&self) -> Status {
        let state = match &self.state {
            State::Open { .. } => "open",
            State::Held(_) => "held",
            State::Ending(ending) => ending.state(),
        };
        Status { state, queued: 0, lag: 0 }
    }

    fn reason(&self) -> Option<UpstreamReason> {
        match &self.state {
            State::Ending(ending) => ending.reason(),
            State::Open { .. } | State::Held(_) => None,
        }
    }
}

impl Upstream {
    fn handle_read(&mut self, now: Instant, n: usize) {
        let seen = self.filled;
        self.filled += n;
        self.moved = now;
        self.state = State::Open { granted: false };
        let whole = self.feed.config().framing.whole(&self.block[..self.filled], seen);
        if whole.bytes > 0 {
            self.filled -= whole.bytes;
            let bytes = self.block.split_to(whole.bytes).freeze();
            self.feed.publish(bytes, whole.messages, now);
        }
        if let Some(too_long) = whole.too_long {
            self.end(Teardown::reset(UpstreamReason::TooLong(too_long)), now);
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|deadline| deadline > now) {
            return;
        }
        match &mut self.state {
            State::Open { .. } => {
                let (limit, tail) = (self.idle_timeout.unwrap_or_default(), self.filled);
                let idle = UpstreamReason::IdleTimeout { limit, tail };
                self.end(Teardown::reset(idle), now);
            }
            State::Held(until) => *until = None, // until the feed is asked again
            State::Ending(ending) => ending.expire(None),
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if self.is_open() {
            self.feed.disconnected(ABORTED, self.filled, self.moved);
        }
    }
}
