//! What others see of an edge and of an ingest.

use core::{mem, sync::atomic::Ordering::Relaxed, task::Context};

use crate::{
    Instant,
    fanout::Feed,
    shared::{AtomicU64, Lock, Shared, WakerSet, WakerSlot},
};

/// The counters of an [`Edge`](super::Edge).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EdgeCounters {
    /// Whether messages are asked for at present.
    pub is_reading: bool,
    /// How often the server has made a consumer: at the start, after each connection, and after
    /// each loss of one.
    pub consumers: u64,
    /// Messages of the stream received.
    pub messages: u64,
    /// The sequence of the last message in the stream; 0 before the first one.
    pub sequence: u64,
    /// The epoch of the last message; `None` if it has no id.
    pub epoch: Option<u64>,
    /// Gaps: how often messages may be missing.
    pub gaps: u64,
    /// Messages that are missing, as far as their number is known.
    pub missing: u64,
    /// Messages that were dropped because they do not have the feed's framing.
    pub rejected: u64,
    /// How many messages of the stream followed the last one when the server sent it.
    pub pending: u64,
    /// When the edge had received everything for the last time, if it has not now.
    pub behind_since: Option<Instant>,
}

impl EdgeCounters {
    pub(super) fn set_pending(&mut self, pending: u64, now: Instant) {
        self.pending = pending;
        self.behind_since = match pending {
            0 => None,
            _ => Some(self.behind_since.unwrap_or(now)),
        };
    }
}

/// A handle on an [`Edge`](super::Edge). Clones are handles on the same one.
#[derive(Clone, Debug, Default)]
pub struct EdgeHandle {
    counters: Shared<Lock<EdgeCounters>>,
}

impl EdgeHandle {
    /// The counters.
    pub fn counters(&self) -> EdgeCounters {
        self.counters.with(|counters| *counters)
    }

    pub(super) fn set(&self, counters: EdgeCounters) {
        self.counters.with(|own| *own = counters);
    }
}

/// The counters of an [`Ingest`](super::Ingest).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IngestCounters {
    /// The present epoch; `None` without a connection, and while another process holds the lease,
    /// or nobody does.
    pub epoch: Option<u64>,
    /// Epochs begun.
    pub epochs: u64,
    /// How often the lease was lost.
    pub leases_lost: u64,
    /// The sequence of the last acknowledged message in the stream; 0 before the first one.
    pub sequence: u64,
    /// Messages that are sent and not acknowledged.
    pub in_flight: u64,
    /// How often publishing has begun behind the last message of the stream: with each epoch, on
    /// each connection, and after a message that was not acknowledged.
    pub resumed: u64,
    /// Messages that were dropped because the server refused them for their length.
    pub rejected: u64,
}

/// A handle on an [`Ingest`](super::Ingest). Clones are handles on the same one.
#[derive(Clone, Debug)]
pub struct IngestHandle {
    feed: Feed,
    state: Shared<Lock<IngestState>>,
    lease: WakerSet,
}

#[derive(Clone, Copy, Debug, Default)]
struct IngestState {
    counters: IngestCounters,
    /// Whether the ingest has held the lease, and no other process has it since.
    is_active: bool,
    /// How often it has become active.
    activations: u64,
}

impl IngestHandle {
    pub(super) fn new(feed: &Feed) -> Self {
        Self { feed: feed.clone(), state: Shared::default(), lease: WakerSet::new() }
    }

    /// The counters.
    pub fn counters(&self) -> IngestCounters {
        self.state.with(|state| state.counters)
    }

    /// The feed that the ingest reads.
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Watches the lease.
    pub fn watch_lease(&self) -> LeaseWatch {
        let seen = AtomicU64::new(0);
        LeaseWatch { slot: self.lease.join(), state: self.state.clone(), seen }
    }

    pub(super) fn set(&self, counters: IngestCounters, is_active: bool) {
        let has_changed = self.state.with(|state| {
            state.counters = counters;
            let was_active = mem::replace(&mut state.is_active, is_active);
            state.activations += u64::from(is_active && !was_active);
            is_active != was_active
        });
        if has_changed {
            self.lease.wake_all();
        }
    }
}

/// Says whether an [`Ingest`](super::Ingest) is the one that publishes.
///
/// A standby must not take the place of the active one at a source that serves one client. So
/// connect to the source while the ingest is active.
#[derive(Debug)]
pub struct LeaseWatch {
    slot: WakerSlot,
    state: Shared<Lock<IngestState>>,
    /// The activation that was seen last; 0 after [`poll`](Self::poll) has returned `false`.
    seen: AtomicU64,
}

impl LeaseWatch {
    /// Whether the ingest is active: it has acquired the lease, and no other process has it since.
    /// `cx` is woken when that changes.
    ///
    /// An ingest whose lease has expired stays active until it learns of another holder. So the
    /// source is held, and nothing is lost, while the servers are away.
    ///
    /// What the source has sent on a connection of before may be older than what the other holder
    /// has published. So this returns `false` once, and wakes `cx`, if the ingest was inactive
    /// since the last call and is active again.
    pub fn poll(&self, cx: &Context<'_>) -> bool {
        self.slot.register(cx);
        let state = self.state.with(|state| *state);
        let seen = self.seen.load(Relaxed);
        if state.is_active && seen != 0 && seen != state.activations {
            self.seen.store(0, Relaxed);
            cx.waker().wake_by_ref();
            return false;
        }
        self.seen.store(if state.is_active { state.activations } else { 0 }, Relaxed);
        state.is_active
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fanout::Config, shared::WakeCount};

    #[test]
    fn a_watch_reports_that_the_ingest_was_inactive_even_if_it_is_active_again() {
        let handle = IngestHandle::new(&Feed::new(Config::default()).unwrap());
        let (count, waker) = WakeCount::new();
        let (watch, cx) = (handle.watch_lease(), Context::from_waker(&waker));
        let set = |is_active| handle.set(IngestCounters::default(), is_active);
        let poll = || watch.poll(&cx);
        set(false);
        assert!(!poll());
        set(true);
        assert!(poll() && poll());
        assert_eq!(count.get(), 1);
        [false, true].into_iter().for_each(set);
        assert!(!poll());
        assert_eq!(count.get(), 3, "by the change, and for the next call");
        assert!(poll());
        [false, true, false].into_iter().for_each(set);
        assert!(!poll());
        [true, false, true].into_iter().for_each(set);
        assert!(poll());
    }
}
