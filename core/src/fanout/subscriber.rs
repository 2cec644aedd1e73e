//! The machine that sends published messages to one subscriber.

use alloc::{collections::VecDeque, vec::Vec};
use core::{iter, mem, task::Context, time::Duration};

use bytes::{Buf, Bytes};

use super::{
    Chunk, Config, Feed, LagPolicy,
    cursor::{Cursor, FetchOutcome},
    discard::Discard,
    replay::{INVALID, Seen, take_position},
};
use crate::{
    ConnectionError, Direction, Event, Fault, Instant, Interest, Linger, Machine, Outbound, Status,
    WriteProgress, buffer::fill_owned, machine::impl_reason, quantity::Time, record::Recordable,
    teardown::Teardown,
};

/// The connection to one subscriber. It has a cursor in the feed, and handles of up to 64 chunks
/// that are being sent.
///
/// The subscriber's input is discarded, at most 64 KiB in 100 ms. If it sends more, reading pauses,
/// and its FIN or reset is noticed only after the data before it was read. Its FIN ends the
/// subscription: messages published before are still sent, followed by a FIN. So does an epoch that
/// begins, with [`GapPolicy::Disconnect`](super::GapPolicy::Disconnect).
///
/// It holds 64 bytes for input, and 16 KiB while it reads from a subscriber that sends much at
/// once. A buffer from [`write_owned`](Machine::write_owned) keeps the whole block of the
/// [upstream](super::Upstream) alive, also after its chunk has left the window.
#[derive(Debug)]
pub struct Subscriber {
    cursor: Cursor,
    /// The chunks that are being sent.
    chunks: VecDeque<Chunk>,
    /// How many bytes of the first chunk were sent, or precede the subscription's first message.
    offset: usize,
    /// The rest of a partly sent message, if the messages after it were skipped.
    unfinished: Bytes,
    progress: WriteProgress,
    /// Whether all output was sent. Skipped output does not count as sent.
    has_sent_all: bool,
    /// `None`: the subscription is open.
    teardown: Option<Teardown<SubscriberReason>>,
    discard: Discard,
}

/// Why a subscription ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscriberReason {
    /// The subscriber closed its side.
    #[error("the subscriber left")]
    Left,
    /// A shutdown was requested.
    #[error("shutdown requested")]
    ShutDown,
    /// An epoch began: messages may be missing after the last one that it got
    /// ([`GapPolicy::Disconnect`](super::GapPolicy::Disconnect)).
    #[error("messages may be missing: an epoch began")]
    Gap,
    /// It fell out of the window ([`LagPolicy::Disconnect`]).
    #[error("fell out of the window of {window} bytes; messages behind: {lag}")]
    Lagged {
        /// How many messages it is behind.
        lag: u64,
        /// [`Config::window`], in bytes.
        window: usize,
    },
    /// It acknowledged no byte for [`Config::write_timeout`].
    #[error("no byte acknowledged for {limit}; messages behind: {lag}", limit = Time(*limit))]
    WriteStalled {
        /// The limit.
        limit: Duration,
        /// How many messages it is behind.
        lag: u64,
    },
    /// The connection failed.
    #[error("lost while {direction}: {error}; messages behind: {lag}")]
    Lost {
        /// The direction of the operation that failed.
        direction: Direction,
        /// The error.
        error: ConnectionError,
        /// How many messages it is behind.
        lag: u64,
    },
}

impl_reason!(SubscriberReason {
    Self::Left => ("left", Fault::None),
    Self::ShutDown => ("shut_down", Fault::Requested),
    Self::Gap => ("gap", Fault::Lost),
    Self::Lagged { .. } => ("lagged", Fault::Limit),
    Self::WriteStalled { .. } => ("write_stalled", Fault::Time),
    Self::Lost { error, .. } => (ConnectionError: error, Fault::Lost),
});

impl Subscriber {
    /// The machine for a connection that was made `now`. It starts with the next message, or with
    /// the last [`Config::replay`].
    pub fn new(feed: &Feed, now: Instant) -> Self {
        let mut cursor = Cursor::join(feed);
        Self {
            offset: cursor.take_offset(),
            cursor,
            chunks: VecDeque::new(),
            unfinished: Bytes::new(),
            progress: WriteProgress::new(now),
            has_sent_all: true,
            teardown: None,
            discard: Discard::new(),
        }
    }

    fn has_output(&self) -> bool {
        !self.chunks.is_empty() || !self.unfinished.is_empty()
    }

    /// How many messages it is behind, including an unfinished one.
    fn lag(&self) -> u64 {
        self.cursor.lag() + u64::from(!self.unfinished.is_empty())
    }

    fn is_closing(&self) -> bool {
        self.teardown.as_ref().is_some_and(Teardown::is_closing)
    }

    /// Ends the subscription: messages published so far are sent, then a FIN.
    fn close(&mut self, reason: SubscriberReason, linger: Option<Linger>, now: Instant) {
        if self.teardown.is_none() {
            self.cursor.close();
            self.teardown = Some(Teardown::closing(reason, linger, &mut self.progress, now));
        }
    }

    /// Drops all output, and leaves the feed.
    fn leave(&mut self) {
        self.chunks.clear();
        self.unfinished = Bytes::new();
        self.cursor.leave();
    }

    /// Counts the messages of the first chunk that were sent, although the chunk is not complete.
    /// This makes [`lag`](Self::lag) exact, but is too expensive for every write.
    fn count_partly_sent(&mut self) {
        if let Some(chunk) = self.chunks.front() {
            let sent = self.cursor.config().framing.count_within(&chunk.bytes, self.offset);
            self.cursor.deliver_before(chunk.first_message + sent);
        }
    }

    /// Applies the [`LagPolicy`], because the subscriber fell out of the window.
    fn handle_lag(&mut self) {
        let Config { on_lag, window, framing, .. } = *self.cursor.config();
        self.count_partly_sent();
        if on_lag != LagPolicy::Skip {
            self.cursor.count_lagged();
            let reason = SubscriberReason::Lagged { lag: self.lag(), window };
            self.teardown = Some(Teardown::reset(reason));
            return self.leave();
        }
        // A partly sent message is completed from a copy, which does not keep the block alive.
        if let Some(chunk) = self.chunks.front()
            && self.offset > 0
        {
            let end = framing.message_end(&chunk.bytes, self.offset - 1);
            if end > self.offset {
                self.unfinished = Bytes::copy_from_slice(&chunk.bytes[self.offset..end]);
                self.cursor.detach_message();
            }
        }
        self.chunks.clear();
        self.offset = 0;
        self.cursor.skip();
        // `has_sent_all` stays false: skipped output was not sent, and the write timeout continues.
    }

    fn handle_read(&mut self, now: Instant, n: usize) {
        self.discard.handle_read(n);
        match &mut self.teardown {
            None => self.discard.limit(now, n),
            Some(teardown) => teardown.handle_read(now, n, self.cursor.discard_budget()),
        }
    }

    fn handle_error(&mut self, direction: Direction, error: ConnectionError) {
        self.count_partly_sent();
        let lost = SubscriberReason::Lost { direction, error, lag: self.lag() };
        match &mut self.teardown {
            None => self.teardown = Some(Teardown::ended(lost)),
            Some(teardown) => teardown.handle_error(lost),
        }
        self.leave();
    }

    fn handle_written(&mut self, now: Instant, written: usize) {
        let mut n = written;
        let unfinished_sent = n.min(self.unfinished.len());
        self.unfinished.advance(unfinished_sent);
        n -= unfinished_sent;
        if unfinished_sent > 0 && self.unfinished.is_empty() {
            self.cursor.deliver_detached();
        }
        while n > 0
            && let Some(chunk) = self.chunks.front()
        {
            let unsent = chunk.bytes.len() - self.offset;
            if n < unsent {
                self.offset += n;
                break;
            }
            n -= unsent;
            self.offset = 0;
            let next_message = chunk.first_message + chunk.messages;
            self.cursor.deliver_chunk(next_message, now.since(chunk.received_at));
            self.chunks.pop_front();
        }
        self.progress.written(now, written);
        self.has_sent_all = !self.has_output();
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
        match &mut self.teardown {
            None => self.teardown = Some(Teardown::reset(stalled)),
            Some(teardown) => teardown.expire(Some(stalled)),
        }
        self.leave();
    }
}

/// A recording has positions in the log. The bytes are in the recordings of the upstream, or of the
/// publishers.
impl Recordable for Subscriber {
    fn begin_recording(&mut self) {
        self.cursor.begin_recording();
    }

    fn take_outside(&mut self, out: &mut Vec<u8>) {
        self.cursor.take_notes(out);
    }

    fn restore_outside(&mut self, mut outside: &[u8]) -> Result<(), &'static str> {
        if outside.is_empty() {
            return Ok(());
        }
        if self.cursor.is_at_start() {
            let (position, message) = take_position(&mut outside).ok_or(INVALID)?;
            self.offset = self.cursor.restore_start(position, message).ok_or(INVALID)?;
        }
        let seen = Seen::decode(&mut outside).filter(|_| outside.is_empty()).ok_or(INVALID)?;
        if !self.cursor.restore(seen) {
            return Err("the recordings of its upstream beside it do not have the messages");
        }
        Ok(())
    }
}

impl Machine for Subscriber {
    type Reason = SubscriberReason;

    fn interest(&self) -> Interest {
        let write = if self.has_output() { Outbound::Flush } else { Outbound::Idle };
        match &self.teardown {
            None => Interest { read: self.discard.wants_more(), write },
            Some(teardown) if teardown.is_closing() && self.cursor.has_more() => {
                Interest { read: false, write }
            }
            Some(teardown) => teardown.interest(self.has_output()),
        }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.discard.read_buf()
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        let unfinished = Some(&self.unfinished[..]).filter(|bytes| !bytes.is_empty());
        let mut offset = self.offset;
        let chunks = self.chunks.iter().map(|chunk| &chunk.bytes[mem::take(&mut offset)..]);
        let bufs = unfinished.into_iter().chain(chunks);
        out.iter_mut().zip(bufs).map(|(out, buf)| *out = buf).count()
    }

    fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
        let mut offset = self.offset;
        let chunks = self.chunks.iter().map(|chunk| chunk.bytes.slice(mem::take(&mut offset)..));
        fill_owned(out, max, iter::once(self.unfinished.clone()).chain(chunks))
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Read(n) => self.handle_read(now, n),
            Event::Eof => match &mut self.teardown {
                None => self.close(SubscriberReason::Left, None, now),
                Some(teardown) => teardown.handle_eof(),
            },
            Event::Error(direction, error) => self.handle_error(direction, error),
            Event::Written(n) => self.handle_written(now, n),
            Event::Finished => {
                self.cursor.leave();
                if let Some(teardown) = &mut self.teardown {
                    teardown.handle_finished(now);
                }
            }
            Event::Timeout { unacknowledged } => self.handle_timeout(now, unacknowledged),
            Event::ShutDown => {
                let linger = self.cursor.config().linger;
                self.close(SubscriberReason::ShutDown, Some(linger), now);
            }
            Event::Release => self.discard.release(),
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let limit = self.cursor.config().write_timeout;
        let write = self.progress.pending_deadline(self.has_output(), limit);
        match &self.teardown {
            None => [write, self.discard.poll_timeout()].into_iter().flatten().min(),
            Some(teardown) => teardown.poll_timeout(write),
        }
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        if self.teardown.is_some() && !self.is_closing() {
            return false;
        }
        let has_changed = match self.cursor.fetch(&mut self.chunks, now, cx) {
            FetchOutcome::Pending => false,
            FetchOutcome::Fetched => {
                if mem::take(&mut self.has_sent_all) {
                    self.progress.queued(now);
                }
                true
            }
            FetchOutcome::Lagged => {
                self.handle_lag();
                true
            }
        };
        if self.teardown.is_none() && self.cursor.has_end() {
            self.cursor.count_gap();
            let linger = self.cursor.config().linger;
            self.close(SubscriberReason::Gap, Some(linger), now);
            return true;
        }
        has_changed
    }

    fn status(&self) -> Status {
        let state = self.teardown.as_ref().map_or("open", Teardown::state);
        let queued = self.chunks.iter().map(|chunk| chunk.bytes.len()).sum::<usize>();
        let queued = self.unfinished.len() + queued.saturating_sub(self.offset);
        Status { state, queued, lag: self.lag() }
    }

    fn reason(&self) -> Option<SubscriberReason> {
        self.teardown.as_ref().and_then(Teardown::reason)
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.count_partly_sent();
        self.cursor.leave();
    }
}
