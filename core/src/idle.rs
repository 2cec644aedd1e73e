//! Eviction: a full server ends an idle connection for each new one.
//!
//! A machine keeps an [`IdleSlot`], and [updates](IdleSlot::update) it when its activity changes.
//! In [`poll_shared`](crate::Machine::poll_shared) it checks whether it is evicted
//! ([`poll_eviction`](IdleSlot::poll_eviction)), and then ends. A full server evicts if it has
//! [`with_idle_connections`](crate::serve::Server::with_idle_connections). The machine of a framed
//! protocol does its part with
//! [`protocol::Server::with_idle_connections`](crate::protocol::Server::with_idle_connections).
//!
//! ```
//! use core::task::{Context, Poll, Waker};
//! use wirestate_core::{Instant, idle::{Activity, IdleConnections}};
//!
//! let mut cx = Context::from_waker(Waker::noop());
//! let (idle, now) = (IdleConnections::new(), Instant::EPOCH);
//! let mut first = idle.enter(Activity::Idle, now);
//! let second = idle.enter(Activity::Idle, now);
//! assert!(idle.poll_evict(&mut cx).is_pending());
//! assert!(first.poll_eviction(&mut cx) && !second.poll_eviction(&mut cx));
//!
//! first.update(Activity::Sending, now); // it has received a request
//! assert!(idle.poll_evict(&mut cx).is_pending());
//! assert!(!first.poll_eviction(&mut cx) && second.poll_eviction(&mut cx));
//!
//! drop((first, second));
//! assert_eq!(idle.poll_evict(&mut cx), Poll::Ready(()), "there is no connection");
//! ```

use alloc::collections::BTreeMap;
use core::{
    mem,
    task::{Context, Poll, Waker},
};

use crate::{
    Instant,
    shared::{Lock, Shared, register_waker, wake},
};

/// The connections of one server, in the order of their eviction. Clones share one order.
///
/// It holds about 50 bytes and a waker for each connection.
#[derive(Clone, Debug, Default)]
pub struct IdleConnections {
    state: Shared<Lock<State>>,
}

/// What a connection is doing. A full server evicts connections in the order of these variants.
/// Among connections with the same activity, it evicts the one that began it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Activity {
    /// It lingers after its last response ([`Linger`](crate::Linger)).
    Lingering,
    /// It waits for its next answer, and has been answered before.
    Queued,
    /// It waits for a request, or for the rest of one.
    Idle,
    /// It sends a response.
    Sending,
    /// It waits for its first answer. If it is evicted, its machine ends only after that answer,
    /// and must limit the wait.
    FirstQueued,
}

#[derive(Debug, Default)]
struct State {
    /// In the order of their eviction.
    slots: BTreeMap<Key, Option<Waker>>,
    /// How many connections have entered so far: the number of the last one.
    count: u64,
    /// The connection that is being evicted, until its activity changes.
    evicted: Option<Key>,
    /// The waker of the server that evicts it.
    server: Option<Waker>,
}

/// A connection's activity, when it began, and the connection's number.
type Key = (Activity, Instant, u64);

/// A connection's position in the order of eviction.
#[derive(Debug)]
pub struct IdleSlot {
    idle: IdleConnections,
    key: Key,
}

impl IdleConnections {
    /// An order without connections.
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters a connection, with its activity and when that began. The connection leaves when the
    /// slot is dropped.
    pub fn enter(&self, activity: Activity, since: Instant) -> IdleSlot {
        let key = self.state.with(|state| {
            state.count += 1;
            let key = (activity, since, state.count);
            state.slots.insert(key, None);
            key
        });
        IdleSlot { idle: self.clone(), key }
    }

    /// Evicts the first connection in the order, one at a time.
    ///
    /// Pending until the connection's slot is dropped or its activity changes. Then call this again
    /// if the server is still full. Ready if there is no connection.
    pub fn poll_evict(&self, cx: &mut Context<'_>) -> Poll<()> {
        let (mut woken, mut server) = (None, Some(cx.waker().clone()));
        let polled = self.state.with(|state| {
            let Some(mut first) = state.slots.first_entry() else { return Poll::Ready(()) };
            if state.evicted.is_none() {
                state.evicted = Some(*first.key());
                woken = first.get_mut().take();
            }
            mem::swap(&mut state.server, &mut server);
            Poll::Pending
        });
        drop(server); // outside the lock: it may be the last handle on a task
        wake(woken);
        polled
    }
}

impl IdleSlot {
    /// Sets the activity, and when it began. A change withdraws an eviction of this connection.
    pub fn update(&mut self, activity: Activity, since: Instant) {
        let key = (activity, since, self.key.2);
        if key == self.key {
            return;
        }
        let previous = mem::replace(&mut self.key, key);
        let server = self.idle.state.with(|state| {
            let waker = state.slots.remove(&previous).flatten();
            state.slots.insert(key, waker);
            state.withdraw(previous)
        });
        wake(server);
    }

    /// Whether the connection is evicted. If not, an eviction will wake `cx`.
    pub fn poll_eviction(&self, cx: &mut Context<'_>) -> bool {
        let (is_evicted, previous) = self.idle.state.with(|state| {
            if state.evicted == Some(self.key) {
                return (true, None);
            }
            let slot = state.slots.get_mut(&self.key);
            (false, slot.and_then(|slot| register_waker(slot, cx)))
        });
        drop(previous); // outside the lock
        is_evicted
    }
}

impl State {
    /// Withdraws the eviction of this connection, if there is one. Returns the server's waker.
    fn withdraw(&mut self, key: Key) -> Option<Waker> {
        self.evicted.take_if(|evicted| *evicted == key)?;
        self.server.take()
    }
}

impl Drop for IdleSlot {
    fn drop(&mut self) {
        let (own, server) =
            self.idle.state.with(|state| (state.slots.remove(&self.key), state.withdraw(self.key)));
        drop(own); // outside the lock: it may be the last handle on a task
        wake(server);
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;
    use core::time::Duration;

    use super::*;
    use crate::shared::WakeCount;

    fn enter(idle: &IdleConnections, since: Instant) -> IdleSlot {
        idle.enter(Activity::Idle, since)
    }

    fn at(secs: u64) -> Instant {
        Instant::EPOCH + Duration::from_secs(secs)
    }

    #[test]
    fn the_connection_that_is_idle_for_the_longest_time_is_evicted_and_one_at_a_time() {
        let mut cx = Context::from_waker(Waker::noop());
        let idle = IdleConnections::new();
        let (late, early, middle) = (enter(&idle, at(3)), enter(&idle, at(1)), enter(&idle, at(2)));
        for _ in 0..2 {
            assert!(idle.poll_evict(&mut cx).is_pending());
            let evicted = [&late, &early, &middle].map(|slot| slot.poll_eviction(&mut cx));
            assert_eq!(evicted, [false, true, false]);
        }
        drop(early);
        assert!(!middle.poll_eviction(&mut cx), "the server may have room now");
        assert!(idle.poll_evict(&mut cx).is_pending());
        assert!(middle.poll_eviction(&mut cx) && !late.poll_eviction(&mut cx));
    }

    #[test]
    fn connections_are_evicted_in_the_order_of_their_activities() {
        use Activity::{FirstQueued, Idle as Silent, Lingering, Queued, Sending};

        let mut cx = Context::from_waker(Waker::noop());
        let idle = IdleConnections::new();
        let activities = [FirstQueued, Sending, Silent, Queued, Lingering];
        let mut slots: Vec<_> = (1..).zip(activities).map(|(s, a)| idle.enter(a, at(s))).collect();
        while let Some(slot) = slots.pop() {
            assert!(idle.poll_evict(&mut cx).is_pending());
            assert!(slot.poll_eviction(&mut cx), "{slot:?}");
        }
    }

    #[test]
    fn a_change_of_activity_withdraws_the_eviction() {
        let mut cx = Context::from_waker(Waker::noop());
        let idle = IdleConnections::new();
        let (mut first, second) = (enter(&idle, at(1)), enter(&idle, at(2)));
        assert!(idle.poll_evict(&mut cx).is_pending());
        first.update(Activity::Idle, at(1));
        assert!(first.poll_eviction(&mut cx), "the activity is unchanged");
        first.update(Activity::Idle, at(3));
        assert!(!first.poll_eviction(&mut cx) && !second.poll_eviction(&mut cx));
        assert!(idle.poll_evict(&mut cx).is_pending());
        assert!(second.poll_eviction(&mut cx));
    }

    #[test]
    fn an_eviction_wakes_the_connection_and_its_end_wakes_the_server() {
        let counts: [_; 3] = core::array::from_fn(|_| WakeCount::new());
        let [mut server, mut first, mut second] =
            counts.each_ref().map(|(_, waker)| Context::from_waker(waker));
        let woken = || counts.each_ref().map(|(count, _)| count.get());

        let idle = IdleConnections::new();
        let slots = (enter(&idle, at(1)), enter(&idle, at(2)));
        assert!(!slots.0.poll_eviction(&mut first) && !slots.1.poll_eviction(&mut second));
        assert!(idle.poll_evict(&mut server).is_pending());
        assert_eq!(woken(), [0, 1, 0]);
        drop(slots.1);
        assert_eq!(woken(), [0, 1, 0], "this connection was not evicted");
        drop(slots.0);
        assert_eq!(woken(), [1, 1, 0]);
    }
}
