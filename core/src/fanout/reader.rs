//! A reader of a feed that is no subscriber: it has a pace of its own.

use alloc::collections::VecDeque;
use core::{mem, sync::atomic::Ordering::Relaxed, task::Context};

use super::{
    Chunk, Feed, FetchOutcome,
    state::{Pause, ReaderEntry},
};
use crate::shared::{register_waker, wake};

/// A position in a feed that moves when messages are acknowledged, for example by a broker or a
/// disk. Dropping it leaves the feed.
///
/// A reader is no subscriber: neither [`Config::on_lag`](super::Config::on_lag) nor
/// [`Config::lag_wait`](super::Config::lag_wait) applies to it, it does not count as a subscriber
/// that waits, and it has counters of its own ([`Counters::readers`](super::Counters::readers) and
/// the like). It gets the messages of all epochs ([`Chunk::epoch`]).
///
/// What it holds is in the window, so the feed's memory does not grow.
///
/// ```
/// use std::{collections::VecDeque, task::{Context, Waker}};
/// use wirestate_core::{Instant, fanout::{Capacity, Config, Feed, FetchOutcome, Pace, Reader}};
///
/// let feed = Feed::new(Config::default().with_window(2 * 1152))?; // two messages of 1,024 bytes
/// let (now, cx) = (Instant::EPOCH, &mut Context::from_waker(Waker::noop()));
/// let mut reader = Reader::join(&feed, Pace::Blocks);
/// for _ in 0..2 {
///     assert_eq!(feed.poll_capacity(now, 1024, cx), Capacity::Available);
///     feed.publish(vec![0; 1024].into(), 1, now);
/// }
/// assert_eq!(feed.poll_capacity(now, 1024, cx), Capacity::Paused { until: None });
///
/// let mut chunks = VecDeque::new();
/// assert_eq!(reader.fetch(&mut chunks, 64, cx), FetchOutcome::Fetched);
/// reader.acknowledge(&chunks.pop_front().unwrap());
/// reader.fetch(&mut chunks, 64, cx); // the feed learns what is acknowledged
/// assert_eq!(feed.poll_capacity(now, 1024, cx), Capacity::Available);
/// # Ok::<(), wirestate_core::ConfigError>(())
/// ```
#[derive(Debug)]
pub struct Reader {
    feed: Feed,
    /// The key of its [`ReaderEntry`].
    entry: usize,
    /// The position of the next chunk to fetch.
    next_fetch: u64,
    /// The position of the first chunk that is not acknowledged.
    unacknowledged: u64,
    /// The number of the first message that is not acknowledged.
    next_message: u64,
    /// How many messages were acknowledged since the last fetch.
    uncounted: u64,
}

/// What happens when a [`Reader`] is about to fall out of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// The upstream is paused without limit: nothing leaves the window before it is acknowledged.
    Blocks,
    /// The reader falls out of the window, and [skips](Reader::skip).
    NeverBlocks,
}

impl Reader {
    /// Adds a reader to the feed. It starts with the next message.
    pub fn join(feed: &Feed, pace: Pace) -> Self {
        feed.inner.state.with(|state| {
            let (position, next_message) = (state.log.end(), state.log.messages());
            let entry = state.readers.insert(ReaderEntry {
                pace,
                position,
                wants_notify: false,
                pauses_upstream: false,
                waker: None,
            });
            Self {
                feed: feed.clone(),
                entry,
                next_fetch: position,
                unacknowledged: position,
                next_message,
                uncounted: 0,
            }
        })
    }

    /// Tells the feed what is acknowledged, and fetches chunks until `chunks` has `max` of them.
    /// Call it after each [`acknowledge`](Self::acknowledge).
    ///
    /// A reader with [`Pace::Blocks`] falls out of the window only if its feed publishes without
    /// capacity.
    pub fn fetch(
        &mut self,
        chunks: &mut VecDeque<Chunk>,
        max: usize,
        cx: &mut Context<'_>,
    ) -> FetchOutcome {
        let (mut upstream, mut previous) = (None, None);
        let outcome = self.feed.inner.state.with(|state| {
            state.counters.reader_acknowledged += mem::take(&mut self.uncounted);
            let entry = state.readers.get_mut(self.entry);
            let Some(entry) = entry else { return FetchOutcome::Pending };
            entry.position = self.unacknowledged;
            if entry.position < state.log.start() {
                return FetchOutcome::Lagged;
            }
            previous = register_waker(&mut entry.waker, cx);
            let before = chunks.len();
            while chunks.len() < max
                && let Some(chunk) = state.log.chunk(self.next_fetch)
            {
                chunks.push_back(chunk.clone());
                self.next_fetch += 1;
            }
            entry.wants_notify = chunks.len() < max;
            if let Some(pause) = &mut state.pause
                && entry.position >= pause.target
                && mem::take(&mut entry.pauses_upstream)
            {
                upstream = pause.remove_cause();
            }
            if chunks.len() > before { FetchOutcome::Fetched } else { FetchOutcome::Pending }
        });
        drop(previous); // outside the lock: it may be the last handle on a task
        wake(upstream);
        outcome
    }

    /// Records that the oldest fetched chunk that was not acknowledged is, all of it.
    pub fn acknowledge(&mut self, chunk: &Chunk) {
        self.unacknowledged += 1;
        self.acknowledge_before(chunk.first_message + chunk.messages);
    }

    /// Records that the messages before `message` of the oldest chunk are acknowledged. They count
    /// as such, but stay in the window until the whole chunk is acknowledged.
    pub fn acknowledge_before(&mut self, message: u64) {
        self.uncounted += message.saturating_sub(self.next_message);
        self.next_message = self.next_message.max(message);
    }

    /// The number of the first message that is neither acknowledged nor skipped.
    pub fn position(&self) -> u64 {
        self.next_message
    }

    /// How many published messages are not acknowledged.
    pub fn lag(&self) -> u64 {
        self.feed.inner.published.load(Relaxed).saturating_sub(self.next_message)
    }

    /// Skips everything that was published, and continues with the next message. Returns how many
    /// messages it skips, fetched ones included: drop them.
    pub fn skip(&mut self) -> u64 {
        let (skipped, upstream) = self.feed.inner.state.with(|state| {
            state.counters.reader_acknowledged += mem::take(&mut self.uncounted);
            let skipped = state.log.messages() - self.next_message;
            state.counters.reader_skipped += skipped;
            self.next_fetch = state.log.end();
            self.unacknowledged = self.next_fetch;
            self.next_message = state.log.messages();
            let entry = state.readers.get_mut(self.entry);
            let is_cause = entry.is_some_and(|entry| {
                entry.position = self.next_fetch;
                mem::take(&mut entry.pauses_upstream)
            });
            let pause = state.pause.as_mut().filter(|_| is_cause);
            (skipped, pause.and_then(Pause::remove_cause))
        });
        wake(upstream);
        skipped
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let (entry, upstream) = self.feed.inner.state.with(|state| {
            state.counters.reader_acknowledged += mem::take(&mut self.uncounted);
            let entry = state.readers.try_remove(self.entry);
            let is_cause = entry.as_ref().is_some_and(|entry| entry.pauses_upstream);
            let pause = state.pause.as_mut().filter(|_| is_cause);
            (entry, pause.and_then(Pause::remove_cause))
        });
        drop(entry); // outside the lock: its waker may be the last handle on a task
        wake(upstream);
    }
}
