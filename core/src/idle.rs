//! Connections that wait for a request, and give way to new ones when their server is full.
//!
//! A machine takes a [`Place`] whenever it begins to wait, looks in
//! [`poll_shared`](crate::Machine::poll_shared) whether it is to give way, and drops the place when
//! there is a request, or with itself. [`serve`](crate::serve::serve) asks, where
//! [`Options::idle`](crate::serve::Options::idle) says whom.
//!
//! ```
//! use core::task::{Context, Poll, Waker};
//! use wirestate_core::{Instant, idle::Idle};
//!
//! let mut cx = Context::from_waker(Waker::noop());
//! let idle = Idle::new();
//! let (first, second) = (idle.wait(Instant::EPOCH), idle.wait(Instant::EPOCH));
//! assert!(idle.poll_give_way(&mut cx).is_pending());
//! assert!(first.poll_asked(&mut cx) && !second.poll_asked(&mut cx));
//!
//! drop((first, second));
//! assert_eq!(idle.poll_give_way(&mut cx), Poll::Ready(()), "nobody is left to do so");
//! ```

use alloc::collections::BTreeMap;
use core::{
    mem,
    task::{Context, Poll, Waker},
};

use crate::{
    Instant,
    shared::{Lock, Shared},
};

/// The connections of one server that wait for a request. Clones are the same ones.
///
/// It holds a few words and a waker for each of them.
#[derive(Clone, Debug, Default)]
pub struct Idle {
    state: Shared<Lock<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// The one that has waited longest comes first.
    waiting: BTreeMap<Key, Option<Waker>>,
    /// How many have waited up to now.
    count: u64,
    /// Who was asked to give way, as long as it is there.
    asked: Option<Key>,
    /// Who has asked.
    asker: Option<Waker>,
}

/// Since when it waits, and its number, which tells it from others that began at the same time.
type Key = (Instant, u64);

/// A connection's place among those that wait.
#[derive(Debug)]
pub struct Place {
    idle: Idle,
    key: Key,
}

impl Idle {
    /// Nobody waits yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A connection waits for a request, until the place is dropped.
    pub fn wait(&self, since: Instant) -> Place {
        let key = self.state.with(|state| {
            state.count += 1;
            let key = (since, state.count);
            state.waiting.insert(key, None);
            key
        });
        Place { idle: self.clone(), key }
    }

    /// Asks the connection that has waited longest to give way: one at a time. Pending until its place
    /// is dropped, because it has done so or because it has a request; ask again then, if there is no
    /// room still. Ready where nobody waits.
    pub fn poll_give_way(&self, cx: &mut Context<'_>) -> Poll<()> {
        let (mut woken, mut asker) = (None, Some(cx.waker().clone()));
        let polled = self.state.with(|state| {
            let Some(mut longest) = state.waiting.first_entry() else { return Poll::Ready(()) };
            if state.asked.is_none() {
                state.asked = Some(*longest.key());
                woken = longest.get_mut().take();
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

impl Place {
    /// Since when it waits.
    pub fn since(&self) -> Instant {
        self.key.0
    }

    /// Whether it is asked to give way; until then, `cx` is woken when it is.
    pub fn poll_asked(&self, cx: &mut Context<'_>) -> bool {
        let (is_asked, former) = self.idle.state.with(|state| {
            if state.asked == Some(self.key) {
                return (true, None);
            }
            match state.waiting.get_mut(&self.key) {
                Some(waker) if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) => {
                    (false, waker.replace(cx.waker().clone()))
                }
                Some(_) | None => (false, None),
            }
        });
        drop(former); // outside the lock
        is_asked
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (own, asker) = self.idle.state.with(|state| {
            let own = state.waiting.remove(&self.key);
            let was_asked = state.asked.take_if(|asked| *asked == self.key).is_some();
            (own, if was_asked { state.asker.take() } else { None })
        });
        drop(own); // outside the lock: it may be the last handle on a task
        if let Some(asker) = asker {
            asker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    fn at(secs: u64) -> Instant {
        Instant::EPOCH + Duration::from_secs(secs)
    }

    #[test]
    fn the_one_that_has_waited_longest_is_asked_and_one_at_a_time() {
        let mut cx = Context::from_waker(Waker::noop());
        let idle = Idle::new();
        let (late, early, middle) = (idle.wait(at(3)), idle.wait(at(1)), idle.wait(at(2)));
        for _ in 0..2 {
            assert!(idle.poll_give_way(&mut cx).is_pending());
            let asked = [&late, &early, &middle].map(|place| place.poll_asked(&mut cx));
            assert_eq!(asked, [false, true, false]);
        }
        drop(early);
        assert!(!middle.poll_asked(&mut cx), "there may be room now");
        assert!(idle.poll_give_way(&mut cx).is_pending());
        assert!(middle.poll_asked(&mut cx) && !late.poll_asked(&mut cx));
        assert_eq!(middle.since(), at(2));
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

        let idle = Idle::new();
        let places = (idle.wait(at(1)), idle.wait(at(2)));
        assert!(!places.0.poll_asked(&mut first) && !places.1.poll_asked(&mut second));
        assert!(idle.poll_give_way(&mut asker).is_pending());
        assert_eq!(woken(), [0, 1, 0]);
        drop(places.1);
        assert_eq!(woken(), [0, 1, 0], "nobody waits for that one");
        drop(places.0);
        assert_eq!(woken(), [1, 1, 0]);
    }
}
