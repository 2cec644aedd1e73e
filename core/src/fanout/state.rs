//! The state of a feed, behind its lock.

use alloc::{boxed::Box, vec::Vec};
use core::{mem, sync::atomic::Ordering::Relaxed, task::Waker};

use bytes::Bytes;
use slab::Slab;

use super::{
    Counters, Log, Pace, pause_budget::PauseBudget, publish_queue::PublishQueue, replay::Replayed,
};
use crate::{Instant, shared::AtomicU64};

/// The state of a feed: the log, its subscribers and readers, and the pause of the upstream.
#[derive(Debug)]
pub(super) struct State {
    pub(super) log: Log,
    pub(super) subscribers: Slab<SubscriberEntry>,
    pub(super) readers: Slab<ReaderEntry>,
    pub(super) pause: Option<Pause>,
    /// How many subscribers have read everything and wait for the next message.
    pub(super) waiting: usize,
    /// For how long the upstream may be paused while subscribers wait.
    pub(super) pause_budget: PauseBudget,
    /// The size of the chunk that the upstream may publish: the last capacity granted.
    pub(super) reserved: Option<usize>,
    pub(super) queue: PublishQueue,
    pub(super) counters: Counters,
    /// Set in a replay.
    pub(super) replayed: Option<Box<Replayed>>,
}

/// The state of one subscriber in the feed.
#[derive(Debug, Default)]
pub(super) struct SubscriberEntry {
    /// The position of the first chunk that is not delivered.
    pub(super) position: u64,
    /// Whether it fell out of the window and its machine has not handled that yet.
    pub(super) has_lagged: bool,
    /// Whether it has read everything, so that the next publication wakes it.
    pub(super) wants_notify: bool,
    pub(super) catch_up: CatchUp,
    /// Whether it is a cause of the present [`Pause`].
    pub(super) pauses_upstream: bool,
    /// The end of its subscription.
    pub(super) end: EndPosition,
    pub(super) waker: Option<Waker>,
}

/// The end of a subscription in the log: the subscriber gets everything before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EndPosition {
    /// The position of the first chunk after the end.
    pub(super) chunk: u64,
    /// The number of the first message after the end.
    pub(super) message: u64,
}

impl EndPosition {
    /// The subscription has no end yet.
    pub(super) const OPEN: Self = Self { chunk: u64::MAX, message: u64::MAX };

    pub(super) fn is_open(self) -> bool {
        self == Self::OPEN
    }
}

impl Default for EndPosition {
    fn default() -> Self {
        Self::OPEN
    }
}

/// The state of one [`Reader`](super::Reader) in the feed.
#[derive(Debug)]
pub(super) struct ReaderEntry {
    pub(super) pace: Pace,
    /// The position of the first chunk that is not acknowledged.
    pub(super) position: u64,
    /// Whether the next publication wakes it.
    pub(super) wants_notify: bool,
    /// Whether it is a cause of the present [`Pause`].
    pub(super) pauses_upstream: bool,
    pub(super) waker: Option<Waker>,
}

/// Whether a subscriber has caught up: delivered everything that was published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum CatchUp {
    /// Not since it joined.
    #[default]
    Joined,
    /// At least once.
    CaughtUp,
    /// Not since it skipped.
    Skipped,
}

impl SubscriberEntry {
    /// Whether it has read everything and waits. A subscriber that has skipped has not.
    pub(super) fn is_waiting(&self) -> bool {
        self.wants_notify && self.catch_up != CatchUp::Skipped
    }

    /// Whether a chunk before `position` is not delivered.
    pub(super) fn is_behind(&self, position: u64) -> bool {
        self.position < position.min(self.end.chunk)
    }

    /// Ends its subscription at `end`, unless it has an end.
    pub(super) fn close(&mut self, end: EndPosition) {
        self.wants_notify = false;
        if self.end.is_open() {
            self.end = end;
        }
    }
}

/// A pause of the upstream: it reads nothing, because a subscriber or a reader would fall out of
/// the window.
#[derive(Debug)]
pub(super) struct Pause {
    pub(super) since: Instant,
    /// The position up to which a cause has to read before it no longer causes the pause.
    pub(super) target: u64,
    pub(super) cause: Cause,
    /// How many of them cause the pause.
    pub(super) causes: usize,
    /// When a subscriber first waited during this pause.
    pub(super) waiting_since: Option<Instant>,
    /// Whether the pause has no time limit even while subscribers wait.
    pub(super) is_unlimited: bool,
    pub(super) upstream: Option<Waker>,
}

/// For whom the upstream is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// For subscribers, as [`Config::lag_wait`](super::Config::lag_wait) and
    /// [`Config::on_lag`](super::Config::on_lag) say.
    Subscribers,
    /// For readers that block, without limit.
    Readers,
}

impl State {
    /// Publishes a chunk, and stores the number of messages in `published`. Returns the wakers of
    /// those that wait for it, or fall out of the window.
    pub(super) fn publish(
        &mut self,
        published: &AtomicU64,
        bytes: Bytes,
        messages: u64,
        now: Instant,
    ) -> Vec<Waker> {
        self.reserved = None;
        self.counters.messages_in += messages;
        self.counters.bytes_received += bytes.len() as u64;
        let start = self.log.start();
        self.log.push(bytes, messages, now);
        self.keep_published();
        published.store(self.log.messages(), Relaxed);
        let mut wakers = if self.log.start() == start { Vec::new() } else { self.mark_lagged() };
        self.waiting = 0;
        for (_, entry) in &mut self.readers {
            entry.pauses_upstream = false;
            if mem::take(&mut entry.wants_notify) {
                wakers.extend(entry.waker.take());
            }
        }
        for (_, entry) in &mut self.subscribers {
            entry.pauses_upstream = false;
            if mem::take(&mut entry.wants_notify) {
                wakers.extend(entry.waker.take());
            }
        }
        wakers
    }

    /// Marks the subscribers that have fallen out of the window. Returns their wakers, and those of
    /// such readers.
    fn mark_lagged(&mut self) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for (_, entry) in &mut self.readers {
            if entry.position < self.log.start() {
                wakers.extend(entry.waker.take());
            }
        }
        for (_, entry) in &mut self.subscribers {
            if entry.is_behind(self.log.start()) && !entry.has_lagged {
                entry.has_lagged = true;
                self.counters.never_caught_up += u64::from(entry.catch_up != CatchUp::CaughtUp);
                wakers.extend(entry.waker.take());
            }
        }
        wakers
    }
}
