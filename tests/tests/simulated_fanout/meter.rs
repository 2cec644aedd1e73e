//! Measures from outside how long the upstream is paused while a subscriber waits, and checks the
//! limit at every step.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    task::Context,
    time::Duration,
};

use bytes::Bytes;
use wirestate_core::{Event, Instant, Interest, Machine, Outbound, Status, shared::Lock};

/// Asserts that the pauses are at most `limit` in any ten times `limit`; `None`: no limit.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    state: Arc<Lock<State>>,
}

#[derive(Debug)]
struct State {
    limit: Option<Duration>,
    now: Instant,
    is_paused: bool,
    /// The subscribers that have read everything.
    waiting: BTreeSet<u64>,
    subscribers: u64,
    /// The spans of time in which the upstream was paused and a subscriber waited, in order.
    spans: VecDeque<(Instant, Instant)>,
    total: Duration,
}

impl Meter {
    pub(crate) fn new(limit: Option<Duration>) -> Self {
        let state = State {
            limit,
            now: Instant::EPOCH,
            is_paused: false,
            waiting: BTreeSet::new(),
            subscribers: 0,
            spans: VecDeque::new(),
            total: Duration::ZERO,
        };
        Self { state: Arc::new(Lock::new(state)) }
    }

    /// The total time in which the upstream was paused while a subscriber waited.
    pub(crate) fn total(&self) -> Duration {
        self.state.with(|state| state.total)
    }

    /// Sets whether the upstream is paused from `now` on.
    pub(crate) fn set_paused(&self, now: Instant, is_paused: bool) {
        self.state.with(|state| {
            state.advance_to(now);
            state.is_paused = is_paused;
        });
    }

    /// Wraps a subscriber, so that the meter observes whether it waits.
    pub(crate) fn subscriber<M: Machine>(&self, machine: M, now: Instant) -> Metered<M> {
        let number = self.state.with(|state| {
            state.subscribers += 1;
            state.subscribers
        });
        let mut metered = Metered { machine, meter: self.clone(), number, is_behind: false };
        metered.observe(now);
        metered
    }
}

impl State {
    /// Accounts for the time up to `now`.
    fn advance_to(&mut self, now: Instant) {
        let before = std::mem::replace(&mut self.now, now);
        if now <= before || !self.is_paused || self.waiting.is_empty() {
            return;
        }
        self.total += now.since(before);
        match self.spans.back_mut() {
            Some(last) if last.1 == before => last.1 = now,
            Some(_) | None => self.spans.push_back((before, now)),
        }
        let Some(limit) = self.limit else { return };
        let since = now.since_epoch().saturating_sub(10 * limit);
        let since = Instant::from_epoch(since);
        while self.spans.front().is_some_and(|(_, end)| *end <= since) {
            self.spans.pop_front();
        }
        let paused: Duration =
            self.spans.iter().map(|(from, to)| to.since((*from).max(since))).sum();
        assert!(paused <= limit, "paused for {paused:?} of {:?}, at {now}", 10 * limit);
    }
}

/// A subscriber that is observed by a [`Meter`].
#[derive(Debug)]
pub(crate) struct Metered<M> {
    machine: M,
    meter: Meter,
    number: u64,
    /// Whether it has fallen behind, and has not caught up by output since. A skip does not count.
    is_behind: bool,
}

impl<M: Machine> Metered<M> {
    fn observe(&mut self, now: Instant) {
        let Status { state, queued, lag } = self.machine.status();
        let waits = state == "open" && queued == 0 && lag == 0 && !self.is_behind;
        self.is_behind |= queued > 0 || lag > 0;
        self.meter.state.with(|state| {
            state.advance_to(now);
            if waits {
                state.waiting.insert(self.number);
            } else {
                state.waiting.remove(&self.number);
            }
        });
    }
}

impl<M> Drop for Metered<M> {
    fn drop(&mut self) {
        self.meter.state.with(|state| state.waiting.remove(&self.number));
    }
}

#[deny(clippy::missing_trait_methods, reason = "a method that is not forwarded has no effect")]
impl<M: Machine> Machine for Metered<M> {
    type Reason = M::Reason;

    fn interest(&self) -> Interest {
        self.machine.interest()
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.machine.read_buf()
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        self.machine.write_bufs(out)
    }

    fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
        self.machine.write_owned(out, max)
    }

    fn handle(&mut self, now: Instant, event: Event) {
        self.machine.handle(now, event);
        if let Event::Written(_) = event {
            let Status { queued, lag, .. } = self.machine.status();
            self.is_behind &= queued > 0 || lag > 0;
        }
        if event != Event::Release {
            self.observe(now);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.machine.poll_timeout()
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let has_changed = self.machine.poll_shared(now, cx);
        self.observe(now);
        has_changed
    }

    fn work(&self) -> u64 {
        self.machine.work()
    }

    fn status(&self) -> Status {
        self.machine.status()
    }

    fn reason(&self) -> Option<M::Reason> {
        self.machine.reason()
    }
}

/// Whether a machine is open, and does not read.
pub(crate) fn is_paused<M: Machine>(machine: &M) -> bool {
    machine.interest() == Interest { read: false, write: Outbound::Idle }
}
