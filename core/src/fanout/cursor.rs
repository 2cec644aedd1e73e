//! One subscriber's cursor in a feed.

use alloc::{boxed::Box, collections::VecDeque, vec::Vec};
use core::{mem, sync::atomic::Ordering::Relaxed, task::Context, time::Duration};

use super::{
    Chunk, Config, Feed, GapPolicy, LagPolicy, Log,
    counters::UncountedDeliveries,
    replay::{Notes, Seen},
    state::{CatchUp, EndPosition, SubscriberEntry},
};
use crate::{
    Instant,
    drive::MAX_SLICES,
    record::put_number,
    shared::{register_waker, wake},
    teardown::DiscardBudget,
};

/// A subscriber's position in the feed, until it [leaves](Self::leave).
#[derive(Debug)]
pub(super) struct Cursor {
    feed: Feed,
    /// The key of its [`SubscriberEntry`]; `None` once it has left.
    entry: Option<usize>,
    /// The position of the next chunk to fetch.
    next_fetch: u64,
    /// The position of the first chunk that is not delivered.
    undelivered: u64,
    /// The number of the first message that is not delivered.
    next_message: u64,
    /// How many bytes of the first chunk precede the first message that the subscriber gets.
    offset: usize,
    /// Whether anything was delivered since the last fetch.
    has_delivered: bool,
    /// As [`SubscriberEntry::end`] at the last fetch.
    end: EndPosition,
    uncounted: UncountedDeliveries,
    /// Set while the subscriber is recorded or replayed.
    notes: Option<Box<Notes>>,
}

/// The result of a fetch of chunks from a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchOutcome {
    /// Chunks were added.
    Fetched,
    /// There are no more chunks. The waker is woken by the next one, or when this subscriber or
    /// reader falls out of the window.
    Pending,
    /// This subscriber or reader fell out of the window.
    Lagged,
}

impl Cursor {
    /// Adds a subscriber, which starts with the next message, or with the last
    /// [`Config::replay`].
    pub(super) fn join(feed: &Feed) -> Self {
        let Config { on_lag, window, framing, replay, on_gap, .. } = feed.inner.config;
        feed.inner.state.with(|state| {
            let (mut position, mut before) = state.log.position_of_last(replay);
            // Chunks that the reserved one will displace count as displaced. The older half of the
            // window is left out, because the upstream is not paused for the subscriber until it
            // has caught up.
            let mut start = state.reserved.map_or(0, |bytes| state.log.start_after(bytes));
            if on_lag != LagPolicy::Block {
                start = start.max(state.log.newest_within(position, window / 2));
            }
            if on_gap == GapPolicy::Disconnect {
                start = start.max(state.log.epoch_start());
            }
            if position < start {
                (position, before) = (start, 0);
            }
            let chunk = state.log.chunk(position);
            let offset = chunk.map_or(0, |chunk| framing.message_start(&chunk.bytes, before));
            let next_message =
                chunk.map_or(state.log.messages(), |chunk| chunk.first_message + before);
            let entry = SubscriberEntry { position, ..SubscriberEntry::default() };
            let key = state.subscribers.insert(entry);
            Self {
                feed: feed.clone(),
                entry: Some(key),
                next_fetch: position,
                undelivered: position,
                next_message,
                offset,
                has_delivered: false,
                end: EndPosition::OPEN,
                uncounted: UncountedDeliveries::default(),
                notes: None,
            }
        })
    }

    pub(super) fn config(&self) -> &Config {
        &self.feed.inner.config
    }

    pub(super) fn discard_budget(&self) -> &DiscardBudget {
        &self.feed.inner.discards
    }

    /// Returns how many bytes of the first chunk to leave out, once.
    pub(super) fn take_offset(&mut self) -> usize {
        mem::take(&mut self.offset)
    }

    /// How many published messages of this subscription are not delivered. All messages of a chunk
    /// count until the chunk is delivered, or [`deliver_before`](Self::deliver_before) was called.
    pub(super) fn lag(&self) -> u64 {
        let published = self.feed.inner.published.load(Relaxed);
        published.min(self.end.message).saturating_sub(self.next_message)
    }

    /// Whether a chunk before the end of the subscription was not fetched.
    pub(super) fn has_more(&self) -> bool {
        self.next_fetch < self.end.chunk
    }

    /// Whether the subscription has an end: it was closed, or an epoch began
    /// ([`GapPolicy::Disconnect`]).
    pub(super) fn has_end(&self) -> bool {
        !self.end.is_open()
    }

    /// Updates this subscriber's position in the feed, and fetches chunks before the end of the
    /// subscription, until `chunks` has [`MAX_SLICES`].
    pub(super) fn fetch(
        &mut self,
        chunks: &mut VecDeque<Chunk>,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> FetchOutcome {
        let (mut upstream, mut previous) = (None, None);
        let outcome = self.feed.inner.state.with(|state| {
            self.uncounted.move_to(&mut state.counters);
            let entry = self.entry.and_then(|key| state.subscribers.get_mut(key));
            let Some(entry) = entry else { return FetchOutcome::Pending };
            entry.position = self.undelivered;
            self.end = entry.end;
            note(&mut self.notes, &state.log, entry.has_lagged);
            if entry.has_lagged {
                return FetchOutcome::Lagged;
            }
            previous = register_waker(&mut entry.waker, cx);
            let before = chunks.len();
            while chunks.len() < MAX_SLICES
                && self.next_fetch < self.end.chunk
                && let Some(chunk) = state.log.chunk(self.next_fetch)
            {
                chunks.push_back(chunk.clone());
                self.next_fetch += 1;
            }
            let was_waiting = entry.is_waiting();
            entry.wants_notify = chunks.is_empty() && self.end.is_open();
            if mem::take(&mut self.has_delivered) && entry.wants_notify {
                entry.catch_up = CatchUp::CaughtUp;
            }
            let is_waiting = entry.is_waiting();
            if let Some(pause) = &mut state.pause
                && !entry.is_behind(pause.target)
                && mem::take(&mut entry.pauses_upstream)
            {
                upstream = pause.remove_cause();
            }
            if is_waiting && !was_waiting {
                upstream = state.begin_waiting(now).or(upstream.take());
            }
            if chunks.len() > before { FetchOutcome::Fetched } else { FetchOutcome::Pending }
        });
        drop(previous); // outside the lock: it may be the last handle on a task
        wake(upstream);
        outcome
    }

    /// Records that the oldest fetched chunk is delivered, `latency` after it was published.
    /// `next_message` is the first message after it.
    pub(super) fn deliver_chunk(&mut self, next_message: u64, latency: Duration) {
        self.undelivered += 1;
        self.has_delivered = true;
        self.deliver_before(next_message);
        self.uncounted.record_latency(latency);
    }

    /// Records that the messages before `next_message` are delivered.
    pub(super) fn deliver_before(&mut self, next_message: u64) {
        let before = mem::replace(&mut self.next_message, next_message);
        self.uncounted.messages += next_message - before;
    }

    /// Detaches the first undelivered message from its chunk, to be sent separately.
    pub(super) fn detach_message(&mut self) {
        self.next_message += 1;
    }

    /// Records that the detached message is delivered.
    pub(super) fn deliver_detached(&mut self) {
        self.has_delivered = true;
        self.uncounted.messages += 1;
    }

    /// Counts a subscriber that is disconnected because an epoch began.
    pub(super) fn count_gap(&self) {
        self.feed.inner.state.with(|state| state.counters.gap_ended += 1);
    }

    /// Counts a subscriber that is disconnected because it fell out of the window.
    pub(super) fn count_lagged(&self) {
        self.feed.inner.state.with(|state| state.counters.lagged += 1);
    }

    /// Skips everything that was published, and continues with the next publication.
    pub(super) fn skip(&mut self) {
        self.feed.inner.state.with(|state| {
            note(&mut self.notes, &state.log, false);
            // Messages after the end of the subscription do not count as skipped.
            let next_message = state.log.messages().min(self.end.message);
            state.counters.skipped += next_message.saturating_sub(self.next_message);
            self.next_fetch = state.log.end();
            self.undelivered = self.next_fetch;
            self.next_message = next_message;
            self.offset = 0;
            self.has_delivered = false;
            if let Some(entry) = self.entry.and_then(|key| state.subscribers.get_mut(key)) {
                entry.position = self.next_fetch;
                entry.has_lagged = false;
                entry.catch_up = CatchUp::Skipped;
            }
        });
    }

    /// Ends the subscription: the subscriber gets nothing that is published from now on.
    pub(super) fn close(&mut self) {
        let upstream = self.feed.inner.state.with(|state| {
            let end = EndPosition { chunk: state.log.end(), message: state.log.messages() };
            note(&mut self.notes, &state.log, false);
            let entry = self.entry.and_then(|key| state.subscribers.get_mut(key))?;
            let was_waiting = entry.is_waiting();
            entry.close(end);
            self.end = entry.end;
            if was_waiting { state.end_waiting() } else { None }
        });
        wake(upstream);
    }

    /// Notes what it sees of the feed from now on.
    pub(super) fn begin_recording(&mut self) {
        self.notes = Some(Box::default());
        self.feed.inner.state.with(|state| note(&mut self.notes, &state.log, false));
    }

    /// Appends what it has seen of the feed since the last call: first its start, which is the
    /// position of its first chunk, and its first message. Falling out of the window is seen once.
    pub(super) fn take_notes(&mut self, out: &mut Vec<u8>) {
        let Some(notes) = &mut self.notes else { return };
        let seen = Seen { end: self.end, ..notes.seen };
        notes.seen.has_lagged = false;
        if notes.recorded == Some(seen) {
            return;
        }
        if notes.recorded.is_none() {
            put_number(out, self.next_fetch);
            put_number(out, self.next_message);
        }
        seen.encode(out);
        notes.recorded = Some(seen);
    }

    /// In a replay: whether its start is not restored yet.
    pub(super) fn is_at_start(&self) -> bool {
        self.notes.as_ref().is_none_or(|notes| notes.recorded.is_none())
    }

    /// In a replay: begins at a position and a message. Returns how many bytes of the first chunk
    /// to leave out; `None` if the message is not in that chunk.
    pub(super) fn restore_start(&mut self, position: u64, next_message: u64) -> Option<usize> {
        (self.next_fetch, self.undelivered, self.next_message) = (position, position, next_message);
        self.feed.inner.state.with(|state| {
            let before = state.restore_start(position, next_message)?;
            if let Some(entry) = self.entry.and_then(|key| state.subscribers.get_mut(key)) {
                entry.position = position;
            }
            let chunk = state.replayed.as_ref().and_then(|replayed| replayed.chunk(position));
            let framing = self.feed.inner.config.framing;
            Some(chunk.map_or(0, |chunk| framing.message_start(&chunk.bytes, before)))
        })
    }

    /// In a replay: changes the feed to what was seen of it. Returns false if the recordings of the
    /// upstream do not have all of it.
    pub(super) fn restore(&mut self, seen: Seen) -> bool {
        self.feed.inner.state.with(|state| {
            let is_complete = state.restore_log(seen.log_end);
            self.feed.inner.published.store(state.log.messages(), Relaxed);
            note(&mut self.notes, &state.log, false);
            if let Some(entry) = self.entry.and_then(|key| state.subscribers.get_mut(key)) {
                entry.has_lagged |= seen.has_lagged;
                if !seen.end.is_open() {
                    entry.close(seen.end);
                }
            }
            is_complete
        })
    }

    /// Removes the subscriber from the feed.
    pub(super) fn leave(&mut self) {
        let Some(key) = self.entry.take() else { return };
        let upstream = self.feed.inner.state.with(|state| {
            self.uncounted.move_to(&mut state.counters);
            note(&mut self.notes, &state.log, false);
            let entry = state.subscribers.try_remove(key)?;
            let upstream = if entry.is_waiting() { state.end_waiting() } else { None };
            upstream
                .or_else(|| state.pause.as_mut().filter(|_| entry.pauses_upstream)?.remove_cause())
        });
        wake(upstream);
    }
}

/// Notes what a subscriber sees of the log, if it is recorded.
fn note(notes: &mut Option<Box<Notes>>, log: &Log, has_lagged: bool) {
    if let Some(notes) = notes {
        notes.seen.log_end = log.end();
        notes.seen.has_lagged |= has_lagged;
    }
}
