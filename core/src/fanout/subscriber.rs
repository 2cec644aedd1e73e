//! The machine that sends what is published to one of those who have connected.

use alloc::collections::VecDeque;
use core::{task::Context, time::Duration};

use bytes::{Buf, Bytes};

use super::{
    Chunk, Config, Feed, LagPolicy,
    discard::Discard,
    feed::{Cursor, Fetched},
};
use crate::{
    ConnectionError, Direction, Event, Fault, Instant, Interest, Linger, Machine, Outbound, Status,
    WriteProgress, buffer::fill_owned, machine::impl_reason, teardown::Teardown,
};

/// One subscriber: a place in the feed, and handles of up to 64 chunks that are being sent.
///
/// What it sends is read and discarded, 64 KiB in 100 ms at most. If it sends more, reading pauses,
/// and its FIN or reset is noticed only after the data before it was read. Its FIN ends the
/// subscription: messages published before are still sent, followed by a FIN.
///
/// It holds 64 bytes for input, and 16 KiB while it reads from a subscriber that sends much at
/// once. Output that is taken by [`write_owned`](Machine::write_owned) keeps the
/// [upstream](super::Upstream)'s block that it lies in, beyond the window too.
#[derive(Debug)]
pub struct Subscriber {
    cursor: Cursor,
    held: VecDeque<Chunk>,
    /// How many bytes of the first chunk are with the kernel, or were not asked for.
    offset: usize,
    /// The rest of a message that was begun before the ones behind it were skipped.
    rest: Bytes,
    progress: WriteProgress,
    /// All output has been written. Output that was skipped has not.
    caught_up: bool,
    /// `None`: it gets what is published.
    end: Option<Teardown<SubscriberReason>>,
    discard: Discard,
}

/// Why a subscription ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscriberReason {
    /// The subscriber closed.
    #[error("the subscriber left")]
    Left,
    /// We were asked to stop.
    #[error("asked to stop")]
    ShutDown,
    /// It fell out of the window ([`LagPolicy::Disconnect`]).
    #[error("fell out of the window of {window} bytes; messages behind: {lag}")]
    Lagged {
        /// How many messages it is behind.
        lag: u64,
        /// The window, in bytes.
        window: usize,
    },
    /// It took no byte for too long.
    #[error("took no byte for {limit:?}; messages behind: {lag}")]
    WriteStalled {
        /// The limit.
        limit: Duration,
        /// How many messages it is behind.
        lag: u64,
    },
    /// The connection broke.
    #[error("lost while {way}: {why}; messages owed: {lag}")]
    Lost {
        /// At a read or a write.
        way: Direction,
        /// How.
        why: ConnectionError,
        /// Messages that were published and not delivered.
        lag: u64,
    },
}

impl_reason!(SubscriberReason {
    Self::Left => ("left", Fault::None),
    Self::ShutDown => ("shut_down", Fault::Requested),
    Self::Lagged { .. } => ("lagged", Fault::Limit),
    Self::WriteStalled { .. } => ("write_stalled", Fault::Time),
    Self::Lost { why, .. } => (why.label(), Fault::Lost),
});

impl Subscriber {
    /// The machine for a connection that was made now: it starts with the next message, or with
    /// the last [`Config::replay`](super::Config::replay).
    pub fn new(feed: &Feed, now: Instant) -> Self {
        let mut cursor = feed.join();
        Self {
            offset: cursor.take_offset(),
            cursor,
            held: VecDeque::new(),
            rest: Bytes::new(),
            progress: WriteProgress::new(now),
            caught_up: true,
            end: None,
            discard: Discard::new(),
        }
    }

    fn has_output(&self) -> bool {
        !self.held.is_empty() || !self.rest.is_empty()
    }

    /// Nothing new is begun.
    fn close(&mut self, reason: SubscriberReason, linger: Option<Linger>, now: Instant) {
        if self.end.is_none() {
            self.cursor.close();
            self.end = Some(Teardown::closing(reason, linger, &mut self.progress, now));
        }
    }

    fn is_closing(&self) -> bool {
        self.end.as_ref().is_some_and(Teardown::is_closing)
    }

    /// How many messages it is behind. A message that others were skipped behind is one of them.
    fn lag(&self) -> u64 {
        self.cursor.lag() + u64::from(!self.rest.is_empty())
    }

    /// Has the messages counted that are with the kernel whole although their chunk is not: what
    /// is left is the [`lag`](Self::lag) to the message. (To do so at every write would be dear.)
    fn count_partly_sent(&mut self) {
        if let Some(chunk) = self.held.front() {
            let whole = self.cursor.config().framing.whole_within(&chunk.bytes, self.offset);
            self.cursor.finished_to(chunk.start + whole);
        }
    }

    /// Nothing more is sent, and the upstream is not held for this one any more.
    fn give_up(&mut self) {
        self.held.clear();
        self.rest = Bytes::new();
        self.cursor.leave();
    }

    /// It fell out of the window.
    fn fall_behind(&mut self) {
        let Config { on_lag, window, framing, .. } = *self.cursor.config();
        self.count_partly_sent();
        if on_lag != LagPolicy::Skip {
            self.cursor.disconnect();
            let reason = SubscriberReason::Lagged { lag: self.lag(), window };
            self.end = Some(Teardown::reset(reason));
            return self.give_up();
        }
        // The message that was begun is finished; as a copy, so that nothing keeps the block that
        // it lies in.
        if let Some(chunk) = self.held.front()
            && self.offset > 0
        {
            let end = framing.end_of_message(&chunk.bytes, self.offset - 1);
            if end > self.offset {
                self.rest = Bytes::copy_from_slice(&chunk.bytes[self.offset..end]);
                self.cursor.take_message();
            }
        }
        self.held.clear();
        self.offset = 0;
        self.cursor.skip();
        // It goes on waiting for the last write: skipping takes no byte.
    }
}

impl Machine for Subscriber {
    type Reason = SubscriberReason;

    fn interest(&self) -> Interest {
        let write = if self.has_output() { Outbound::Flush } else { Outbound::Idle };
        match &self.end {
            None => Interest { read: self.discard.wants_more(), write },
            Some(end) if end.is_closing() && self.cursor.has_more() => {
                Interest { read: false, write }
            }
            Some(end) => end.interest(self.has_output()),
        }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.discard.read_buf()
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        let rest = Some(&self.rest[..]).filter(|rest| !rest.is_empty());
        let mut offset = self.offset;
        let chunks = self.held.iter().map(|chunk| &chunk.bytes[core::mem::take(&mut offset)..]);
        out.iter_mut().zip(rest.into_iter().chain(chunks)).map(|(out, buf)| *out = buf).count()
    }

    fn write_owned(&self, out: &mut [Bytes], most: usize) -> usize {
        let mut offset = self.offset;
        let chunks =
            self.held.iter().map(|chunk| chunk.bytes.slice(core::mem::take(&mut offset)..));
        fill_owned(out, most, core::iter::once(self.rest.clone()).chain(chunks))
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Read(n) => self.handle_read(now, n),
            Event::Eof => match &mut self.end {
                None => self.close(SubscriberReason::Left, None, now),
                Some(end) => end.handle_eof(),
            },
            Event::Error(way, why) => self.handle_lost(way, why),
            Event::Written(all) => self.handle_written(now, all),
            Event::Finished => {
                self.cursor.leave();
                if let Some(end) = &mut self.end {
                    end.handle_finished(now);
                }
            }
            Event::Timeout { unacknowledged } => self.handle_timeout(now, unacknowledged),
            // What was published by now is still sent.
            Event::ShutDown => {
                let linger = self.cursor.config().linger;
                self.close(SubscriberReason::ShutDown, Some(linger), now);
            }
            Event::Release => {
                self.discard.release();
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let limit = self.cursor.config().write_timeout;
        let write = self.progress.pending_deadline(self.has_output(), limit);
        match &self.end {
            None => [write, self.discard.poll_timeout()].into_iter().flatten().min(),
            Some(end) => end.poll_timeout(write),
        }
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        if self.end.is_some() && !self.is_closing() {
            return false;
        }
        match self.cursor.fetch(&mut self.held, now, cx) {
            Fetched::Nothing => false,
            Fetched::Chunks => {
                if core::mem::take(&mut self.caught_up) {
                    self.progress.queued(now);
                }
                true
            }
            Fetched::Lagged => {
                self.fall_behind();
                true
            }
        }
    }

    fn status(&self) -> Status {
        let state = self.end.as_ref().map_or("open", Teardown::state);
        let queued = self.held.iter().map(|chunk| chunk.bytes.len()).sum::<usize>();
        let queued = self.rest.len() + queued.saturating_sub(self.offset);
        Status { state, queued, lag: self.lag() }
    }

    fn reason(&self) -> Option<SubscriberReason> {
        self.end.as_ref().and_then(Teardown::reason)
    }
}

impl Subscriber {
    fn handle_read(&mut self, now: Instant, n: usize) {
        self.discard.handle_read(n);
        match &mut self.end {
            None => self.discard.limit(now, n),
            Some(end) => end.handle_read(now, n, self.cursor.discard_budget()),
        }
    }

    fn handle_lost(&mut self, way: Direction, why: ConnectionError) {
        self.count_partly_sent();
        let lost = SubscriberReason::Lost { way, why, lag: self.lag() };
        match &mut self.end {
            None => self.end = Some(Teardown::over(lost)),
            Some(end) => end.handle_error(lost),
        }
        self.give_up();
    }

    fn handle_written(&mut self, now: Instant, all: usize) {
        let mut n = all;
        let rest = n.min(self.rest.len());
        self.rest.advance(rest);
        n -= rest;
        if rest > 0 && self.rest.is_empty() {
            self.cursor.finished_message();
        }
        while n > 0
            && let Some(chunk) = self.held.front()
        {
            let left = chunk.bytes.len() - self.offset;
            if n < left {
                self.offset += n;
                break;
            }
            n -= left;
            self.offset = 0;
            self.cursor.finished(chunk.start + chunk.messages, now.since(chunk.at));
            self.held.pop_front();
        }
        self.progress.written(now, all);
        self.caught_up = !self.has_output();
    }

    fn handle_timeout(&mut self, now: Instant, unacknowledged: usize) {
        self.discard.handle_timeout(now);
        let queued = self.has_output() || self.is_closing();
        if !WriteProgress::expires(self, |m| &mut m.progress, now, queued, unacknowledged) {
            return;
        }
        self.count_partly_sent();
        let limit = self.cursor.config().write_timeout.unwrap_or_default();
        let stalled = SubscriberReason::WriteStalled { limit, lag: self.lag() };
        match &mut self.end {
            None => self.end = Some(Teardown::reset(stalled)),
            Some(end) => end.expire(Some(stalled)),
        }
        self.give_up();
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.count_partly_sent();
        self.cursor.leave();
    }
}
