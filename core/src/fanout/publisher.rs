//! The machine for a client that publishes messages.

use alloc::{boxed::Box, vec::Vec};
use core::{mem, task::Context, time::Duration};

use super::{
    Capacity, Feed, MessageTooLong,
    publish_queue::Ticket,
    replay::{self, INVALID},
};
use crate::{
    ConnectionError, Direction, Event, Fault, Instant, Interest, Machine, Outbound, Status,
    machine::impl_reason,
    quantity::Time,
    record::{Recordable, put_number},
    teardown::{FIN_TIMEOUT, Teardown},
};

/// The connection to one of many clients that publish to a feed. It receives, and sends nothing.
///
/// The client's stream is cut into messages, and only complete messages are published, so that
/// those of several publishers never mix. A publisher that stops within a message stops nobody
/// else: its part of the message stays in its own buffer. After
/// [`Config::publisher_message_timeout`](super::Config::publisher_message_timeout) it is reset, and
/// what it has sent of the message is dropped and counted.
///
/// While the feed pauses the upstream, nothing is read from publishers that have a complete
/// message. They publish in the order in which they have come to wait. A publisher begins no epoch.
///
/// A feed has publishers or an [`Upstream`](super::Upstream), not both: a pause wakes only one of
/// them.
///
/// It holds a buffer of 16 KiB, or up to twice what it has received of a longer message, at most
/// the longest message and 4 KiB. After [`Event::Release`] an idle publisher holds none. Published
/// messages are copied once.
#[derive(Debug)]
pub struct Publisher {
    feed: Feed,
    buffer: Vec<u8>,
    /// How many bytes of the buffer were received.
    filled: usize,
    state: State,
    /// When a byte was last received, or a pause last ended.
    last_activity: Instant,
    /// When the incomplete message in the buffer began, or a pause ended after that.
    message_since: Instant,
    /// Its place among the publishers that wait.
    ticket: Option<Ticket>,
    /// The last answer of the feed, while the publisher is recorded.
    answer: Option<Box<Answer>>,
}

/// An answer of the feed that is not recorded yet: whether the publisher is paused, or the position
/// and the message of what it has published.
type Answer = Option<Result<(u64, u64), Option<Instant>>>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The buffer begins with complete messages, which wait for capacity.
    Publishing {
        bytes: usize,
        messages: u64,
        /// When to ask the feed again at the latest; `None`: only when the waker is woken.
        until: Option<Instant>,
        then: Then,
    },
    Ending(Teardown<PublisherReason>),
}

/// What follows when the messages are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Read,
    /// The connection is reset, because the next message is too long.
    TooLong(MessageTooLong),
    ShutDown,
}

/// Why the connection to a publisher ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublisherReason {
    /// The publisher closed its side.
    #[error("the publisher left; bytes dropped of an incomplete message: {tail}")]
    Left {
        /// Bytes of an incomplete message, which are dropped.
        tail: usize,
    },
    /// The publisher sent a message that is too long.
    #[error(transparent)]
    TooLong(MessageTooLong),
    /// No byte arrived for
    /// [`Config::publisher_idle_timeout`](super::Config::publisher_idle_timeout).
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
    /// A message was not complete after
    /// [`Config::publisher_message_timeout`](super::Config::publisher_message_timeout).
    #[error(
        "a message was not complete after {limit}; bytes dropped: {tail}",
        limit = Time(*limit)
    )]
    MessageTimeout {
        /// The limit.
        limit: Duration,
        /// Bytes of the message, which are dropped.
        tail: usize,
    },
    /// A shutdown was requested.
    #[error("shutdown requested")]
    ShutDown,
    /// The connection failed.
    #[error("lost while {direction}: {error}; bytes dropped: {tail}")]
    Lost {
        /// The direction of the operation that failed.
        direction: Direction,
        /// The error.
        error: ConnectionError,
        /// Bytes that were received and not published.
        tail: usize,
    },
}

impl_reason!(PublisherReason {
    Self::Left { .. } => ("left", Fault::None),
    Self::TooLong(_) => ("message_too_long", Fault::Limit),
    Self::IdleTimeout { .. } => ("idle_timeout", Fault::Time),
    Self::MessageTimeout { .. } => ("message_timeout", Fault::Time),
    Self::ShutDown => ("shut_down", Fault::Requested),
    Self::Lost { error, .. } => (ConnectionError: error, Fault::Lost),
});

impl Publisher {
    /// The machine for a connection that was made `now`.
    pub fn new(feed: &Feed, now: Instant) -> Self {
        feed.publisher_connected();
        Self {
            feed: feed.clone(),
            buffer: Vec::new(),
            filled: 0,
            state: State::Open,
            last_activity: now,
            message_since: now,
            ticket: None,
            answer: None,
        }
    }

    fn end(&mut self, teardown: Teardown<PublisherReason>, now: Instant) {
        self.feed.withdraw(&mut self.ticket, now);
        self.feed.publisher_ended(self.filled);
        (self.buffer, self.filled) = (Vec::new(), 0);
        self.state = State::Ending(teardown);
    }

    /// Sends a FIN.
    fn close(&mut self, reason: PublisherReason, now: Instant) {
        self.end(Teardown::finishing(reason, Some(now + FIN_TIMEOUT)), now);
    }

    fn handle_read(&mut self, now: Instant, n: usize) {
        let scanned = self.filled;
        if scanned == 0 {
            self.message_since = now;
        }
        self.filled += n;
        self.last_activity = now;
        let framing = self.feed.config().framing;
        let complete = framing.complete_messages(&self.buffer[..self.filled], scanned);
        let then = complete.error.map_or(Then::Read, Then::TooLong);
        if complete.bytes > 0 {
            let (bytes, messages) = (complete.bytes, complete.count);
            self.state = State::Publishing { bytes, messages, until: None, then };
        } else {
            self.proceed(then, now);
        }
    }

    /// Does what follows when the complete messages are published.
    fn proceed(&mut self, then: Then, now: Instant) {
        match then {
            Then::Read => self.state = State::Open,
            Then::TooLong(error) => {
                self.end(Teardown::reset(PublisherReason::TooLong(error)), now);
            }
            Then::ShutDown => self.close(PublisherReason::ShutDown, now),
        }
    }

    /// The two deadlines of an open connection: for the next byte, and for the incomplete message.
    fn deadlines(&self) -> [Option<Instant>; 2] {
        let config = self.feed.config();
        let idle = config.publisher_idle_timeout.map(|limit| self.last_activity + limit);
        let message = config.publisher_message_timeout.filter(|_| self.filled > 0);
        [idle, message.map(|limit| self.message_since + limit)]
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|deadline| deadline > now) {
            return;
        }
        let (config, tail) = (self.feed.config(), self.filled);
        let [_, message] = self.deadlines();
        match &mut self.state {
            State::Open if message.is_some_and(|deadline| deadline <= now) => {
                let limit = config.publisher_message_timeout.unwrap_or_default();
                self.end(Teardown::reset(PublisherReason::MessageTimeout { limit, tail }), now);
            }
            State::Open => {
                let limit = config.publisher_idle_timeout.unwrap_or_default();
                self.end(Teardown::reset(PublisherReason::IdleTimeout { limit, tail }), now);
            }
            // The next `poll_shared` asks the feed again.
            State::Publishing { until, .. } => *until = None,
            State::Ending(teardown) => teardown.expire(None),
        }
    }
}

/// A recording has the pauses, and the positions of what is published.
impl Recordable for Publisher {
    fn begin_recording(&mut self) {
        self.answer = Some(Box::default());
    }

    fn take_outside(&mut self, out: &mut Vec<u8>) {
        let Some(answer) = self.answer.as_mut().and_then(|answer| answer.take()) else { return };
        match answer {
            Err(until) => replay::put_capacity(out, Capacity::Paused { until }),
            Ok((position, message)) => {
                replay::put_capacity(out, Capacity::Available);
                put_number(out, position);
                put_number(out, message);
            }
        }
    }

    fn restore_outside(&mut self, mut outside: &[u8]) -> Result<(), &'static str> {
        if outside.is_empty() {
            return Ok(());
        }
        let capacity = replay::take_capacity(&mut outside).ok_or(INVALID)?;
        let position = match capacity {
            Capacity::Available => Some(replay::take_position(&mut outside).ok_or(INVALID)?),
            Capacity::Paused { .. } => None,
        };
        self.feed.restore(capacity, position);
        if outside.is_empty() { Ok(()) } else { Err(INVALID) }
    }
}

impl Machine for Publisher {
    type Reason = PublisherReason;

    fn interest(&self) -> Interest {
        match &self.state {
            State::Open => Interest { read: true, write: Outbound::Idle },
            State::Publishing { .. } => Interest { read: false, write: Outbound::Idle },
            State::Ending(teardown) => teardown.interest(false),
        }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        if self.buffer.len() - self.filled < MIN_READ {
            let max = self.feed.config().framing.max_message_size().unwrap_or(0) + MIN_READ;
            let size = (2 * self.filled).min(max).max(MIN_BUFFER);
            self.buffer.resize(size, 0);
        }
        &mut self.buffer[self.filled..]
    }

    fn write_bufs<'a>(&'a self, _out: &mut [&'a [u8]]) -> usize {
        0
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Read(n) => self.handle_read(now, n),
            Event::Eof => match &self.state {
                State::Open => self.close(PublisherReason::Left { tail: self.filled }, now),
                State::Publishing { .. } | State::Ending(_) => {}
            },
            Event::Error(direction, error) => {
                let lost = PublisherReason::Lost { direction, error, tail: self.filled };
                match &mut self.state {
                    State::Open | State::Publishing { .. } => {
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
            Event::ShutDown => match &mut self.state {
                State::Open => self.close(PublisherReason::ShutDown, now),
                State::Publishing { then: then @ Then::Read, .. } => *then = Then::ShutDown,
                State::Publishing { .. } | State::Ending(_) => {}
            },
            Event::Release => {
                if self.filled == 0 {
                    self.buffer = Vec::new();
                }
            }
            Event::Written(_) => {}
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Open => self.deadlines().into_iter().flatten().min(),
            State::Publishing { until, .. } => *until,
            State::Ending(teardown) => teardown.poll_timeout(None),
        }
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let State::Publishing { bytes, messages, until, then } = &mut self.state else {
            return false;
        };
        let (bytes, messages, then) = (*bytes, *messages, *then);
        let complete = &self.buffer[..bytes];
        let polled = self.feed.poll_publish(&mut self.ticket, complete, messages, now, cx);
        let has_changed = if let Err(next) = polled {
            mem::replace(until, next) != next
        } else {
            self.buffer.copy_within(bytes..self.filled, 0);
            self.filled -= bytes;
            // Nothing was read meanwhile.
            (self.last_activity, self.message_since) = (now, now);
            self.proceed(then, now);
            true
        };
        if has_changed && let Some(answer) = &mut self.answer {
            **answer = Some(polled);
        }
        has_changed
    }

    fn status(&self) -> Status {
        let state = match &self.state {
            State::Open => "open",
            State::Publishing { .. } => "paused",
            State::Ending(teardown) => teardown.state(),
        };
        Status { state, queued: 0, lag: 0 }
    }

    fn reason(&self) -> Option<PublisherReason> {
        match &self.state {
            State::Ending(teardown) => teardown.reason(),
            State::Open | State::Publishing { .. } => None,
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        match self.state {
            State::Open | State::Publishing { .. } => {
                self.feed.withdraw(&mut self.ticket, self.last_activity);
                self.feed.publisher_ended(self.filled);
            }
            State::Ending(_) => {}
        }
    }
}

/// The smallest buffer, in bytes.
const MIN_BUFFER: usize = 16 * 1024;
/// The buffer grows when less space than this follows the last byte.
const MIN_READ: usize = 4 * 1024;
