//! The feed: a log that the upstream and all subscribers share.

use alloc::{boxed::Box, vec::Vec};
use core::{mem, task::Context};

use bytes::Bytes;
use slab::Slab;

use super::{
    Capacity, Chunk, Config, Counters, GapPolicy, Log,
    pause_budget::PauseBudget,
    publish_queue::PublishQueue,
    state::{EndPosition, State},
};
use crate::{
    ConfigError, Instant,
    shared::{AtomicU64, Lock, Shared, wake},
    teardown::DiscardBudget,
};

/// The log that one upstream publishes to and many subscribers read. Clones are the same feed.
///
/// It holds at most [`Config::window`] bytes of messages, one block of the
/// [upstream](super::Upstream), and an entry for each subscriber and [reader](super::Reader),
/// however slow they are. Its lock is held to clone handles and register wakers, never across IO.
#[derive(Clone, Debug)]
pub struct Feed {
    pub(super) inner: Shared<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) config: Config,
    pub(super) discards: DiscardBudget,
    /// [`Log::messages`], to be read without the lock.
    pub(super) published: AtomicU64,
    pub(super) state: Lock<State>,
}

impl Feed {
    /// A feed without subscribers.
    ///
    /// # Errors
    /// A timeout in `config` is zero; the window is smaller than the longest message; a
    /// length-prefixed message has no space for its prefix; or [`Config::on_lag`] or
    /// [`Config::replay`] needs messages, but [`Framing::None`](super::Framing::None) has none.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self::with_valid(config))
    }

    fn with_valid(config: Config) -> Self {
        let state = State {
            log: Log::new(config.window),
            subscribers: Slab::new(),
            readers: Slab::new(),
            pause: None,
            waiting: 0,
            pause_budget: PauseBudget::new(config.lag_wait),
            reserved: None,
            queue: PublishQueue::default(),
            counters: Counters::default(),
            replayed: None,
        };
        let (published, state) = (AtomicU64::new(0), Lock::new(state));
        let discards = DiscardBudget::default();
        Self { inner: Shared::new(Inner { config, discards, published, state }) }
    }

    /// A feed for [replays](crate::record::replay()) of the machines of one recorded feed, one
    /// after the other: first the [upstream](super::Upstream) or the
    /// [publishers](super::Publisher), and then a [subscriber](super::Subscriber), which gets their
    /// messages as in the recording. It keeps all messages.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn for_replay(config: Config) -> Result<Self, ConfigError> {
        let feed = Self::new(config)?;
        feed.inner.state.with(|state| {
            state.replayed = Some(Box::default());
            state.log = Log::unlimited_from(0, 0);
        });
        Ok(feed)
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// A snapshot of the counters.
    pub fn counters(&self) -> Counters {
        self.inner.state.with(|state| {
            let subscribers = state.subscribers.len() as u64;
            let in_window = state.subscribers.iter().filter(|(_, entry)| !entry.has_lagged);
            let slowest_position = in_window.map(|(_, entry)| entry.position).min();
            let oldest = slowest_position.and_then(|position| state.log.chunk(position));
            let behind = |chunk: &Chunk| state.log.messages() - chunk.first_message;
            let lag = oldest.map_or(0, behind);
            let positions = state.readers.iter().map(|(_, entry)| entry.position);
            let first_of_readers = positions.min().map(|first| first.max(state.log.start()));
            let oldest = first_of_readers.and_then(|position| state.log.chunk(position));
            Counters {
                subscribers,
                lag,
                epoch: state.log.epoch(),
                readers: state.readers.len() as u64,
                reader_lag: oldest.map_or(0, behind),
                reader_oldest: oldest.map(|chunk| chunk.received_at),
                ..state.counters.clone()
            }
        })
    }

    /// The position and the message of the next chunk.
    pub(super) fn position(&self) -> (u64, u64) {
        self.inner.state.with(|state| (state.log.end(), state.log.messages()))
    }

    /// In a replay: sets what the upstream or a publisher gets from the feed, and the position and
    /// the message of its next chunk.
    pub(super) fn restore(&self, capacity: Capacity, position: Option<(u64, u64)>) {
        self.inner.state.with(|state| state.restore(capacity, position));
    }

    /// Counts a failed attempt to connect to the upstream.
    pub fn connect_failed(&self) {
        self.inner.state.with(|state| state.counters.upstream_failures += 1);
    }

    /// Whether a chunk of up to `bytes` bytes can be published now, or the upstream is paused, so
    /// that the chunk does not displace messages that slow subscribers need ([`Config::lag_wait`]).
    ///
    /// Call it before each publication. `cx` is woken when the result may have changed.
    pub fn poll_capacity(&self, now: Instant, bytes: usize, cx: &mut Context<'_>) -> Capacity {
        self.inner.state.with(|state| {
            let capacity = state.poll_capacity(&self.inner.config, now, bytes, cx);
            state.reserved = (capacity == Capacity::Available).then_some(bytes);
            capacity
        })
    }

    /// Publishes a chunk: one or more complete messages, with at most as many bytes as the last
    /// call of [`poll_capacity`](Self::poll_capacity) has granted.
    pub fn publish(&self, bytes: Bytes, messages: u64, now: Instant) {
        let published = &self.inner.published;
        let wakers = self.inner.state.with(|state| state.publish(published, bytes, messages, now));
        wake(wakers);
    }

    /// Begins an epoch: messages may be missing between the last message and the next one.
    /// [`Config::on_gap`] applies to the present subscribers. Without effect if nothing was
    /// published in the present epoch.
    ///
    /// An [`Upstream`](super::Upstream) does this for each connection. Call it where you publish
    /// and cannot know that the next message follows the last one.
    pub fn begin_epoch(&self) {
        let wakers = self.inner.state.with(|state| {
            if !state.log.begin_epoch() || self.inner.config.on_gap == GapPolicy::Continue {
                return Vec::new();
            }
            let end = EndPosition { chunk: state.log.end(), message: state.log.messages() };
            let mut wakers = Vec::new();
            for (_, entry) in &mut state.subscribers {
                entry.close(end);
                wakers.extend(entry.waker.take());
            }
            // The pause has no time limit from now on.
            if mem::take(&mut state.waiting) > 0 {
                wakers.extend(state.pause.as_mut().and_then(|pause| pause.upstream.take()));
            }
            wakers
        });
        wake(wakers);
    }

    /// Counts a connection that was made to the upstream, and begins an epoch.
    pub(super) fn upstream_connected(&self) {
        self.begin_epoch();
        self.upstream_resumed();
    }

    /// Counts a connection to an upstream that continues where the last one has ended.
    pub(super) fn upstream_resumed(&self) {
        self.inner.state.with(|state| {
            state.counters.upstream_up = true;
            state.counters.upstream_connects += 1;
        });
    }

    /// Counts the end of the upstream's connection, with the label of its reason and the bytes that
    /// were dropped of an incomplete message.
    pub(super) fn upstream_disconnected(&self, label: &'static str, tail: usize, now: Instant) {
        self.inner.state.with(|state| {
            state.counters.upstream_up = false;
            *state.counters.upstream_ended.entry(label).or_default() += 1;
            state.counters.tail_bytes_dropped += tail as u64;
            state.reserved = None;
            state.end_pause(now);
        });
    }
}

impl Default for Feed {
    /// A feed with the default [`Config`].
    fn default() -> Self {
        Self::with_valid(Config::default())
    }
}
