//! The log as upstream and subscribers share it.

use alloc::{collections::BTreeMap, vec::Vec};
use core::{
    mem,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use slab::Slab;

use super::{Chunk, Framing, Log, allowance::Allowance};
use crate::{
    Instant, Linger,
    drive::MAX_SLICES,
    shared::{AtomicU64, Lock, Shared},
    teardown::DiscardBudget,
};

/// How messages get from the upstream to all subscribers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where one message ends and the next begins. Default: fixed, 1,024 bytes.
    pub framing: Framing,
    /// How many bytes of messages are kept for those who are behind (with 128 bytes more per
    /// chunk). Default: 16 MiB.
    pub window: usize,
    /// What becomes of a subscriber that falls out of the window.
    pub on_lag: LagPolicy,
    /// How long the upstream is held for subscribers that are about to fall out of the window,
    /// while another one has read everything and waits: the limit in any ten times this time, for
    /// all of them together. It is held only for subscribers that have caught up since they joined
    /// or skipped. Once half of the limit is used up, it is held until these have read half of the
    /// window; once all of it is, `on_lag` applies.
    ///
    /// While none waits, the upstream is held without limit, at the pace of the slowest subscriber.
    /// One that acknowledges no byte is reset after [`write_timeout`](Self::write_timeout).
    ///
    /// Zero: it is never held. Ignored with [`LagPolicy::Block`]. Default: 1 s.
    pub lag_wait: Duration,
    /// A subscriber that acknowledges no byte for this long, although output or a FIN is pending, is
    /// reset within 1.125 times this; `None`: never. Default: 10 s.
    pub write_timeout: Option<Duration>,
    /// The close of a subscription that was [asked to end](crate::Event::ShutDown).
    pub linger: Linger,
    /// How many of the last messages a new subscriber gets first, as far as they are in the newer
    /// half of the window: the upstream is not held for it until it has caught up. With
    /// [`LagPolicy::Block`], as far as they are in the window and are not displaced by the chunk that
    /// the upstream may be reading. Default: none.
    pub replay: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            framing: Framing::Fixed(const { core::num::NonZeroUsize::new(1024).unwrap() }),
            window: 16 * 1024 * 1024,
            on_lag: LagPolicy::Disconnect,
            lag_wait: Duration::from_secs(1),
            write_timeout: Some(Duration::from_secs(10)),
            linger: Linger::default(),
            replay: 0,
        }
    }
}

/// What becomes of a subscriber that falls out of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LagPolicy {
    /// Its connection is reset: a stream of raw bytes can't show a gap, so it must not have one.
    Disconnect,
    /// It goes on with the next message that is published; what it has missed is counted. The
    /// message that was begun is finished.
    Skip,
    /// No subscriber falls out of it: the upstream is held, without limit.
    Block,
}

/// The log that one upstream publishes to and many subscribers read. Clones are the same feed.
///
/// It holds [`Config::window`] bytes of messages, one block of the upstream's, and an entry for
/// each subscriber, however slow they are. The lock is held to clone handles and leave wakers,
/// never across IO.
#[derive(Clone, Debug)]
pub struct Feed {
    inner: Shared<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    discards: DiscardBudget,
    /// Messages published, as the log in `state` has it: to be read without the lock.
    published: AtomicU64,
    state: Lock<State>,
}

#[derive(Debug)]
struct State {
    log: Log,
    readers: Slab<Reader>,
    hold: Option<Hold>,
    /// How many readers have read everything and wait.
    waiting: usize,
    /// The time for which the upstream may be held while some wait.
    allowance: Allowance,
    /// So many bytes may be published without another look for room.
    reserved: Option<usize>,
    counters: Counters,
}

/// The upstream does not read, because somebody would fall out of the window.
#[derive(Debug)]
struct Hold {
    since: Instant,
    /// Each reader that holds the upstream does so until it has read up to this position.
    until: u64,
    /// How many readers hold it.
    readers: usize,
    /// When a reader first waited during this hold.
    waited: Option<Instant>,
    /// The hold has no time limit, even while readers wait.
    is_unlimited: bool,
    upstream: Option<Waker>,
}

#[derive(Debug, Default)]
struct Reader {
    /// The first chunk that is not with the kernel whole.
    cursor: u64,
    /// It fell out of the window, and does not know yet.
    lagged: bool,
    /// It has read all there is, and wants to know of more.
    wants_notify: bool,
    progress: Progress,
    /// The upstream is held because of this one.
    holds: bool,
    waker: Option<Waker>,
}

/// Whether a reader has kept up so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    /// It has not caught up since it joined.
    #[default]
    Joined,
    /// It has read everything at least once.
    CaughtUp,
    /// It has skipped, and has not caught up since.
    Skipped,
}

impl Reader {
    /// Whether it has read everything and waits. A reader that has skipped has not read everything.
    fn waits(&self) -> bool {
        self.wants_notify && self.progress != Progress::Skipped
    }
}

/// What a feed has counted since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages published.
    pub messages_in: u64,
    /// Bytes of messages published.
    pub bytes_in: u64,
    /// Bytes of messages that were cut short by the upstream's end, and dropped.
    pub tail_bytes_dropped: u64,
    /// Whether the upstream is connected.
    pub upstream_up: bool,
    /// How many times the upstream was connected.
    pub upstream_connects: u64,
    /// How many times it could not be.
    pub upstream_failures: u64,
    /// Connections to the upstream that ended, by [`Reason::label`](crate::Reason::label); `aborted`
    /// for those that were cut short.
    pub upstream_ended: BTreeMap<&'static str, u64>,
    /// How long the upstream was held, in all.
    pub held: Duration,
    /// For how long of that time some subscriber had read everything and waited: what
    /// [`Config::lag_wait`] limits.
    pub held_waiting: Duration,
    /// Subscribers now.
    pub subscribers: u64,
    /// Messages delivered, to all subscribers together: with the kernel, whole.
    pub delivered: u64,
    /// How many messages the slowest subscriber is behind now, counting those that came in together
    /// as undelivered until all of them are delivered.
    pub lag: u64,
    /// Messages that subscribers skipped ([`LagPolicy::Skip`]).
    pub skipped: u64,
    /// Subscribers that were disconnected because they lagged ([`LagPolicy::Disconnect`]).
    pub lagged: u64,
    /// How often a subscriber fell out of the window that had not caught up since it joined or
    /// skipped: the upstream is not held for these while others wait.
    pub never_caught_up: u64,
    /// How long deliveries took, from the last byte in to the last byte out: how many took less
    /// than the bound of the same place in [`LATENCY_BOUNDS`], and did not fit one before; the
    /// last count is of those beyond the last bound.
    pub latency: [u64; LATENCY_BOUNDS.len() + 1],
    /// How long all of them took together.
    pub latency_sum: Duration,
}

/// The bounds of [`Counters::latency`].
pub const LATENCY_BOUNDS: [Duration; 12] = [
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(10),
];

/// Whether the upstream may read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// It may.
    Free,
    /// The upstream is held until the waker is woken, or until the given time; then ask again.
    Held(Option<Instant>),
}

impl Feed {
    /// A feed without subscribers.
    ///
    /// # Panics
    /// If the window is smaller than a message, or [`LagPolicy::Skip`] or a replay is asked for where
    /// there are no messages.
    pub fn new(config: Config) -> Self {
        if let Some(longest) = config.framing.longest() {
            assert!(config.window >= longest, "the window must hold a message");
        } else {
            assert!(config.on_lag != LagPolicy::Skip, "without messages none can be skipped");
            assert!(config.replay == 0, "without messages none can be replayed");
        }
        let state = State {
            log: Log::new(config.window),
            readers: Slab::new(),
            hold: None,
            waiting: 0,
            allowance: Allowance::new(config.lag_wait),
            reserved: None,
            counters: Counters::default(),
        };
        let (published, state) = (AtomicU64::new(0), Lock::new(state));
        let discards = DiscardBudget::default();
        Self { inner: Shared::new(Inner { config, discards, published, state }) }
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// What it has counted.
    pub fn counters(&self) -> Counters {
        self.inner.state.with(|state| {
            let subscribers = state.readers.len() as u64;
            let cursors = state.readers.iter().filter(|(_, reader)| !reader.lagged);
            let slowest = cursors.map(|(_, reader)| reader.cursor).min();
            let oldest = slowest.and_then(|cursor| state.log.chunk(cursor));
            let lag = oldest.map_or(0, |chunk| state.log.messages() - chunk.start);
            Counters { subscribers, lag, ..state.counters.clone() }
        })
    }

    /// Whether a chunk of up to `bytes` can be published without displacing data for which the
    /// upstream may still be held. Ask before each publication. `cx` is woken when the answer may
    /// have changed.
    pub fn poll_capacity(&self, now: Instant, bytes: usize, cx: &mut Context<'_>) -> Capacity {
        self.inner.state.with(|state| {
            let room = state.poll_capacity(&self.inner.config, now, bytes, cx);
            state.reserved = (room == Capacity::Free).then_some(bytes);
            room
        })
    }

    /// Publishes whole messages, of no more bytes than [`poll_capacity`](Self::poll_capacity) was asked
    /// about.
    pub fn publish(&self, bytes: Bytes, messages: u64, now: Instant) {
        let woken = self.inner.state.with(|state| {
            state.reserved = None;
            state.counters.messages_in += messages;
            state.counters.bytes_in += bytes.len() as u64;
            let first = state.log.first();
            state.log.push(bytes, messages, now);
            self.inner.published.store(state.log.messages(), Relaxed);
            let mut woken =
                if state.log.first() == first { Vec::new() } else { state.leave_behind() };
            state.waiting = 0;
            for (_, reader) in &mut state.readers {
                reader.holds = false;
                if mem::take(&mut reader.wants_notify) {
                    woken.extend(reader.waker.take());
                }
            }
            woken
        });
        wake(woken);
    }

    /// The upstream was connected.
    pub(super) fn connected(&self) {
        self.inner.state.with(|state| {
            state.counters.upstream_up = true;
            state.counters.upstream_connects += 1;
        });
    }

    /// An attempt to connect the upstream failed. For whoever dials.
    pub fn connect_failed(&self) {
        self.inner.state.with(|state| state.counters.upstream_failures += 1);
    }

    /// The upstream is gone, for a reason of this name, with so many bytes of a message that was not
    /// whole.
    pub(super) fn disconnected(&self, label: &'static str, tail: usize, now: Instant) {
        self.inner.state.with(|state| {
            state.counters.upstream_up = false;
            *state.counters.upstream_ended.entry(label).or_default() += 1;
            state.counters.tail_bytes_dropped += tail as u64;
            state.reserved = None;
            state.release(now);
        });
    }

    /// A new reader, from the next message on, or from the last [`Config::replay`] on; and how many
    /// bytes of its first chunk come before that.
    pub(super) fn join(&self) -> Cursor {
        self.inner.state.with(|state| {
            let (mut cursor, mut before) = state.log.last(self.inner.config.replay);
            // Data that a reserved chunk will displace counts as displaced already. And the
            // upstream is not held for this reader until it has caught up: its lead for that is
            // half of the window.
            let Config { on_lag, window, .. } = self.inner.config;
            let mut kept = state.reserved.map_or(0, |bytes| state.log.first_after(bytes));
            if on_lag != LagPolicy::Block {
                kept = kept.max(state.log.newest(cursor, window / 2));
            }
            if cursor < kept {
                (cursor, before) = (kept, 0);
            }
            let chunk = state.log.chunk(cursor);
            let offset = chunk.map_or(0, |chunk| {
                self.inner.config.framing.start_of_message(&chunk.bytes, before)
            });
            let position = chunk.map_or(state.log.messages(), |chunk| chunk.start + before);
            let id = Some(state.readers.insert(Reader { cursor, ..Reader::default() }));
            Cursor {
                feed: self.clone(),
                id,
                next: cursor,
                done: cursor,
                position,
                offset,
                advanced: false,
                until: End::NEVER,
                delivered: Delivered::default(),
            }
        })
    }
}

fn wake(wakers: impl IntoIterator<Item = Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

impl State {
    fn poll_capacity(
        &mut self,
        config: &Config,
        now: Instant,
        bytes: usize,
        cx: &mut Context<'_>,
    ) -> Capacity {
        let Config { on_lag, lag_wait, window, .. } = *config;
        if on_lag != LagPolicy::Block && lag_wait.is_zero() {
            return Capacity::Free;
        }
        self.release(now);
        let until = self.log.first_after(bytes);
        if until == self.log.first() {
            return Capacity::Free;
        }
        let is_unlimited = on_lag == LagPolicy::Block;
        let is_free = is_unlimited || self.waiting == 0;
        let left = if is_free { Duration::MAX } else { self.allowance.left(now) };
        if left.is_zero() {
            return Capacity::Free;
        }
        // If the source is faster than all readers, a slow one would stay at the end of the window,
        // and another one would wait for each message. So before the time is used up, the slow one
        // may catch up.
        let is_scarce = left < lag_wait / 2;
        let goal = if is_scarce { self.log.first_after(bytes.max(window / 2)) } else { until };
        let mut readers = 0;
        for (_, reader) in &mut self.readers {
            let behind = reader.cursor < if reader.holds { goal } else { until };
            let is_awaited = is_free || reader.progress == Progress::CaughtUp;
            reader.holds = behind && is_awaited && !reader.lagged;
            readers += usize::from(reader.holds);
        }
        if readers == 0 {
            return Capacity::Free;
        }
        let waited = (self.waiting > 0).then_some(now);
        let upstream = Some(cx.waker().clone());
        self.hold = Some(Hold { since: now, until: goal, readers, waited, is_unlimited, upstream });
        Capacity::Held((!is_free).then(|| now + left))
    }

    /// The upstream is held no longer, or at least the time is accounted for.
    fn release(&mut self, now: Instant) {
        let Some(hold) = self.hold.take() else { return };
        self.counters.held += now.since(hold.since);
        if let Some(since) = hold.waited {
            self.counters.held_waiting += now.since(since);
            self.allowance.spend(since, now);
        }
    }

    /// Marks all readers that have fallen out of the window; returns the wakers to wake.
    fn leave_behind(&mut self) -> Vec<Waker> {
        let mut woken = Vec::new();
        for (_, reader) in &mut self.readers {
            if reader.cursor < self.log.first() && !reader.lagged {
                reader.lagged = true;
                self.counters.never_caught_up += u64::from(reader.progress != Progress::CaughtUp);
                woken.extend(reader.waker.take());
            }
        }
        woken
    }

    /// A reader begins to wait. Returns the upstream's waker, where the upstream has to ask again.
    fn begin_waiting(&mut self, now: Instant) -> Option<Waker> {
        self.waiting += 1;
        let hold = self.hold.as_mut().filter(|_| self.waiting == 1)?;
        hold.waited.get_or_insert(now);
        if hold.is_unlimited { None } else { hold.upstream.take() }
    }

    /// A reader ends its wait although nothing was published. Returns the upstream's waker,
    /// likewise.
    fn end_waiting(&mut self) -> Option<Waker> {
        self.waiting -= 1;
        self.hold.as_mut().filter(|_| self.waiting == 0)?.upstream.take()
    }
}

impl Hold {
    /// One of the readers that hold the upstream has read up to `until`, or is gone: whom to wake.
    fn let_go(&mut self) -> Option<Waker> {
        self.readers = self.readers.saturating_sub(1);
        if self.readers == 0 { self.upstream.take() } else { None }
    }
}

/// A subscriber's place in the feed, until it [leaves](Self::leave).
#[derive(Debug)]
pub(super) struct Cursor {
    feed: Feed,
    /// Its reader; `None` once it has left.
    id: Option<usize>,
    /// The next chunk to take.
    next: u64,
    /// The first chunk that is not with the kernel whole.
    done: u64,
    /// The message that comes next in the chunk at `done`, or will.
    position: u64,
    /// How many bytes of the first chunk are left out.
    offset: usize,
    /// Whether something was delivered since the feed was last asked.
    advanced: bool,
    /// Where it ends.
    until: End,
    delivered: Delivered,
}

/// Where a reader ends: it gets nothing behind that.
#[derive(Clone, Copy, Debug)]
struct End {
    /// The position of a chunk, exclusively.
    chunk: u64,
    /// The position of a message, exclusively.
    message: u64,
}

impl End {
    const NEVER: Self = Self { chunk: u64::MAX, message: u64::MAX };
}

/// What came of asking the feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fetched {
    /// Chunks.
    Chunks,
    /// None: the waker is woken when there is one, or when this reader falls out of the window.
    Nothing,
    /// This reader fell out of the window.
    Lagged,
}

impl Cursor {
    pub(super) fn config(&self) -> &Config {
        &self.feed.inner.config
    }

    pub(super) fn discard_budget(&self) -> &DiscardBudget {
        &self.feed.inner.discards
    }

    /// How many messages were published for it and not delivered, as of now. Of a chunk that is
    /// partly sent all count, but for those that [`finished_to`](Self::finished_to) was told of.
    pub(super) fn lag(&self) -> u64 {
        let published = self.feed.inner.published.load(Relaxed);
        published.min(self.until.message).saturating_sub(self.position)
    }

    /// Nothing that is published from now on is for this reader.
    pub(super) fn close(&mut self) {
        let (until, upstream) = self.feed.inner.state.with(|state| {
            let reader = self.id.and_then(|id| state.readers.get_mut(id));
            let waited = reader.is_some_and(|reader| {
                let waited = reader.waits();
                reader.wants_notify = false;
                waited
            });
            let upstream = if waited { state.end_waiting() } else { None };
            (End { chunk: state.log.next(), message: state.log.messages() }, upstream)
        });
        self.until = until;
        wake(upstream);
    }

    /// Whether there is something before its end that was not fetched.
    pub(super) fn has_more(&self) -> bool {
        self.next < self.until.chunk
    }

    /// How many bytes of the first chunk that is fetched were not asked for.
    pub(super) fn take_offset(&mut self) -> usize {
        mem::take(&mut self.offset)
    }

    /// The oldest chunk that was fetched is with the kernel, `latency` after it was published, and
    /// with it the messages before `position`.
    pub(super) fn finished(&mut self, position: u64, latency: Duration) {
        self.done += 1;
        self.advanced = true;
        self.finished_to(position);
        self.delivered.record(latency);
    }

    /// The messages before `position` are with the kernel.
    pub(super) fn finished_to(&mut self, position: u64) {
        self.delivered.messages += position - mem::replace(&mut self.position, position);
    }

    /// The message at this reader's position is taken out of its chunk, to be finished by itself.
    pub(super) fn take_message(&mut self) {
        self.position += 1;
    }

    /// The message that was taken out is with the kernel.
    pub(super) fn finished_message(&mut self) {
        self.advanced = true;
        self.delivered.messages += 1;
    }

    /// Says how far this reader has come, and fetches what there is before its end: until, with
    /// the `held` that it has, there are [`MAX_SLICES`] chunks.
    pub(super) fn fetch(
        &mut self,
        held: &mut alloc::collections::VecDeque<Chunk>,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Fetched {
        let mut upstream = None;
        let fetched = self.feed.inner.state.with(|state| {
            self.delivered.settle(&mut state.counters);
            let reader = self.id.and_then(|id| state.readers.get_mut(id));
            let Some(reader) = reader else { return Fetched::Nothing };
            reader.cursor = self.done;
            if reader.lagged {
                return Fetched::Lagged;
            }
            if !reader.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                reader.waker = Some(cx.waker().clone());
            }
            let before = held.len();
            while held.len() < MAX_SLICES
                && self.next < self.until.chunk
                && let Some(chunk) = state.log.chunk(self.next)
            {
                held.push_back(chunk.clone());
                self.next += 1;
            }
            let waited = reader.waits();
            reader.wants_notify = held.is_empty() && self.until.chunk == End::NEVER.chunk;
            if mem::take(&mut self.advanced) && reader.wants_notify {
                reader.progress = Progress::CaughtUp;
            }
            let waits = reader.waits();
            if let Some(hold) = &mut state.hold
                && self.done >= hold.until
                && mem::take(&mut reader.holds)
            {
                upstream = hold.let_go();
            }
            if waits && !waited {
                upstream = state.begin_waiting(now).or(upstream.take());
            }
            if held.len() > before { Fetched::Chunks } else { Fetched::Nothing }
        });
        wake(upstream);
        fetched
    }

    /// Goes on with the next message that is published.
    pub(super) fn skip(&mut self) {
        self.feed.inner.state.with(|state| {
            // What was published behind its end it does not miss.
            let position = state.log.messages().min(self.until.message);
            state.counters.skipped += position.saturating_sub(self.position);
            self.next = state.log.next();
            self.done = self.next;
            self.position = position;
            self.offset = 0;
            self.advanced = false;
            if let Some(reader) = self.id.and_then(|id| state.readers.get_mut(id)) {
                reader.cursor = self.next;
                reader.lagged = false;
                reader.progress = Progress::Skipped;
            }
        });
    }

    /// Gives the place up.
    pub(super) fn leave(&mut self) {
        let Some(id) = self.id.take() else { return };
        let woken = self.feed.inner.state.with(|state| {
            self.delivered.settle(&mut state.counters);
            let reader = state.readers.try_remove(id)?;
            let upstream = if reader.waits() { state.end_waiting() } else { None };
            upstream.or_else(|| state.hold.as_mut().filter(|_| reader.holds)?.let_go())
        });
        wake(woken);
    }

    /// Counts this reader as disconnected because it lagged.
    pub(super) fn disconnect(&self) {
        self.feed.inner.state.with(|state| state.counters.lagged += 1);
    }
}

/// Deliveries that a subscriber has not told the feed of yet.
#[derive(Debug, Default)]
struct Delivered {
    messages: u64,
    /// As [`Counters::latency`] has it: at most [`MAX_SLICES`] chunks are finished between two
    /// fetches.
    latency: [u8; LATENCY_BOUNDS.len() + 1],
    latency_sum: Duration,
}

impl Delivered {
    fn record(&mut self, latency: Duration) {
        let place = LATENCY_BOUNDS.partition_point(|bound| *bound <= latency);
        self.latency[place] += 1;
        self.latency_sum += latency;
    }

    fn settle(&mut self, counters: &mut Counters) {
        if self.messages == 0 {
            return;
        }
        counters.delivered += mem::take(&mut self.messages);
        counters.latency_sum += mem::take(&mut self.latency_sum);
        for (all, new) in counters.latency.iter_mut().zip(mem::take(&mut self.latency)) {
            *all += u64::from(new);
        }
    }
}
