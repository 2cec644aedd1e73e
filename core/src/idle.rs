//! Connections that are closed to make room for new ones when their server is full.
//!
//! A machine keeps a [`IdleSlot`] and [updates](IdleSlot::update) it whenever its activity changes. In
//! [`poll_shared`](crate::Machine::poll_shared) it checks whether it is asked to give way.
//! [`serve`](crate::serve::serve) asks the connections of
//! [`Options::idle`](crate::serve::Options::idle).
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
//! first.update(Activity::Sending, now); // it has a request to answer
//! assert!(idle.poll_evict(&mut cx).is_pending());
//! assert!(!first.poll_eviction(&mut cx) && second.poll_eviction(&mut cx));
//!
//! drop((first, second));
//! assert_eq!(idle.poll_evict(&mut cx), Poll::Ready(()), "no connection is left");
//! ```

use alloc::collections::BTreeMap;
use core::{
    mem,
    task::{Context, Poll, Waker},
};

use crate::{
    Instant,
    shared::{Lock, Shared, register_waker},
};

/// The connections of one server, in the order in which they give way. Clones are the same ones.
///
/// It holds a few words and a waker for each of them.
#[derive(Clone, Debug, Default)]
pub struct IdleConnections {
    state: Shared<Lock<State>>,
}

/// What a connection does. When a server is full, connections give way in the order of these
/// variants; of several with one activity, the one that has had it longest is first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Activity {
    /// It lingers after its last response ([`Linger`](crate::Linger)).
    Lingering,
    /// It has had an answer, and waits for its next one.
    Queued,
    /// It waits for a request, or for the rest of one.
    Idle,
    /// It sends a response.
    Sending,
    /// It waits for its first answer. It is not asked before it has that answer, which must come
    /// soon.
    FirstQueued,
}

#[derive(Debug, Default)]
struct State {
    /// In the order in which the connections give way.
    places: BTreeMap<Key, Option<Waker>>,
    /// How many connections have entered so far.
    count: u64,
    /// The connection that was asked to give way, until its activity changes.
    asked: Option<Key>,
    /// Who has asked.
    asker: Option<Waker>,
}

/// A connection's activity, since when, and its number.
type Key = (Activity, Instant, u64);

/// A connection's place in the order in which connections give way.
#[derive(Debug)]
pub struct IdleSlot {
    idle: IdleConnections,
    key: Key,
}

impl IdleConnections {
    /// Without connections.
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters a connection whose activity is `activity` since `since`. It leaves when the place is
    /// dropped.
    pub fn enter(&self, activity: Activity, since: Instant) -> IdleSlot {
        let key = self.state.with(|state| {
            state.count += 1;
            let key = (activity, since, state.count);
            state.places.insert(key, None);
            key
        });
        IdleSlot { idle: self.clone(), key }
    }

    /// Asks the first connection in the order to give way: one at a time. Pending until its place
    /// is dropped or its activity changes; ask again then, if there is still no room. Ready if
    /// there is no connection.
    pub fn poll_evict(&self, cx: &mut Context<'_>) -> Poll<()> {
        let (mut woken, mut asker) = (None, Some(cx.waker().clone()));
        let polled = self.state.with(|state| {
            let Some(mut first) = state.places.first_entry() else { return Poll::Ready(()) };
            if state.asked.is_none() {
                state.asked = Some(*first.key());
                woken = first.get_mut().take();
            }
            mem::swap(&mut state.asker, &mut asker);
            Poll::Pending
        });
        drop(asker); // outside the lock: it may be the last handle on a task
        if let Some(waker) = woken {
            waker.wake();
        }
        polled
    }
}

impl IdleSlot {
    /// Sets the activity, and since when. If it has changed, the connection is not asked any more.
    pub fn update(&mut self, activity: Activity, since: Instant) {
        let key = (activity, since, self.key.2);
        if key == self.key {
            return;
        }
        let former = mem::replace(&mut self.key, key);
        let asker = self.idle.state.with(|state| {
            let waker = state.places.remove(&former).flatten();
            state.places.insert(key, waker);
            state.withdraw(former)
        });
        if let Some(asker) = asker {
            asker.wake();
        }
    }

    /// Whether it is asked to give way; until then, `cx` is woken when it is.
    pub fn poll_eviction(&self, cx: &mut Context<'_>) -> bool {
        let (is_asked, former) = self.idle.state.with(|state| {
            if state.asked == Some(self.key) {
                return (true, None);
            }
            let slot = state.places.get_mut(&self.key);
            (false, slot.and_then(|slot| register_waker(slot, cx)))
        });
        drop(former); // outside the lock
        is_asked
    }
}

impl State {
    /// Withdraws the request if this place was asked. Returns the waker of the asking task.
    fn withdraw(&mut self, key: Key) -> Option<Waker> {
        self.asked.take_if(|asked| *asked == key)?;
        self.asker.take()
    }
}

impl Drop for IdleSlot {
    fn drop(&mut self) {
        let (own, asker) = self
            .idle
            .state
            .with(|state| (state.places.remove(&self.key), state.withdraw(self.key)));
        drop(own); // outside the lock: it may be the last handle on a task
        if let Some(asker) = asker {
            asker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;
    use core::time::Duration;

    use super::*;

    fn enter(idle: &IdleConnections, since: Instant) -> IdleSlot {
        idle.enter(Activity::Idle, since)
    }

    fn at(secs: u64) -> Instant {
        Instant::EPOCH + Duration::from_secs(secs)
    }

    #[test]
    fn the_one_that_has_waited_longest_is_asked_and_one_at_a_time() {
        let mut cx = Context::from_waker(Waker::noop());
        let idle = IdleConnections::new();
        let (late, early, middle) = (enter(&idle, at(3)), enter(&idle, at(1)), enter(&idle, at(2)));
        for _ in 0..2 {
            assert!(idle.poll_evict(&mut cx).is_pending());
            let asked = [&late, &early, &middle].map(|place| place.poll_eviction(&mut cx));
            assert_eq!(asked, [false, true, false]);
        }
        drop(early);
        assert!(!middle.poll_eviction(&mut cx), "there may be room now");
        assert!(idle.poll_evict(&mut cx).is_pending());
        assert!(middle.poll_eviction(&mut cx) && !late.poll_eviction(&mut cx));
    }

    #[test]
    fn those_that_linger_come_first_and_those_that_wait_for_their_first_answer_last() {
        use Activity::{FirstQueued, Idle as Silent, Lingering, Queued, Sending};

        let mut cx = Context::from_waker(Waker::noop());
        let idle = IdleConnections::new();
        let activities = [FirstQueued, Sending, Silent, Queued, Lingering];
        let mut places: Vec<_> = (1..).zip(activities).map(|(s, a)| idle.enter(a, at(s))).collect();
        while let Some(place) = places.pop() {
            assert!(idle.poll_evict(&mut cx).is_pending());
            assert!(place.poll_eviction(&mut cx), "{place:?}");
        }
    }

    #[test]
    fn one_that_does_something_else_is_not_asked_any_more() {
        let mut cx = Context::from_waker(Waker::noop());
        let idle = IdleConnections::new();
        let (mut first, second) = (enter(&idle, at(1)), enter(&idle, at(2)));
        assert!(idle.poll_evict(&mut cx).is_pending());
        first.update(Activity::Idle, at(1));
        assert!(first.poll_eviction(&mut cx), "it is the same");
        first.update(Activity::Idle, at(3));
        assert!(!first.poll_eviction(&mut cx) && !second.poll_eviction(&mut cx));
        assert!(idle.poll_evict(&mut cx).is_pending());
        assert!(second.poll_eviction(&mut cx));
    }

    #[test]
    #[cfg(feature = "std")]
    fn who_is_asked_is_woken_and_so_is_who_asked() {
        use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

        #[derive(Default)]
        struct Count(AtomicUsize);
        impl alloc::task::Wake for Count {
            fn wake(self: alloc::sync::Arc<Self>) {
                self.0.fetch_add(1, SeqCst);
            }
        }
        let counts: [_; 3] = core::array::from_fn(|_| alloc::sync::Arc::new(Count::default()));
        let wakers = counts.each_ref().map(|count| Waker::from(count.clone()));
        let [mut asker, mut first, mut second] = wakers.each_ref().map(Context::from_waker);
        let woken = || counts.each_ref().map(|count| count.0.load(SeqCst));

        let idle = IdleConnections::new();
        let places = (enter(&idle, at(1)), enter(&idle, at(2)));
        assert!(!places.0.poll_eviction(&mut first) && !places.1.poll_eviction(&mut second));
        assert!(idle.poll_evict(&mut asker).is_pending());
        assert_eq!(woken(), [0, 1, 0]);
        drop(places.1);
        assert_eq!(woken(), [0, 1, 0], "nobody waits for that one");
        drop(places.0);
        assert_eq!(woken(), [1, 1, 0]);
    }
}
