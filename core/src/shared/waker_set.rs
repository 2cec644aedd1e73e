//! The wakers of machines that wait for a change of shared state.

use alloc::vec::Vec;
use core::task::{Context, Waker};

use slab::Slab;

use super::{Lock, Shared, register_waker, wake};

/// The wakers of machines that wait for a change of shared state. Clones are the same set.
///
/// Each machine [joins](Self::join) once. To wait, [register, then look](WakerSlot::register). To
/// change the state, [change it, then wake all](Self::wake_all). In these orders no wake-up is
/// lost.
///
/// ```
/// use core::{future::poll_fn, task::{Context, Poll, Waker}};
/// use wirestate_core::shared::{Lock, Shared, WakerSet};
///
/// // A price that connections send when it changes.
/// let (price, changed) = (Shared::new(Lock::new(100)), WakerSet::new());
///
/// // In a machine: `poll_shared` with the last price that it has sent.
/// let (mut sent, slot) = (100, changed.join());
/// let mut poll_shared = |cx: &mut Context<'_>| {
///     slot.register(cx);
///     let price = price.with(|price| *price);
///     core::mem::replace(&mut sent, price) != price
/// };
/// let cx = &mut Context::from_waker(Waker::noop());
/// assert!(!poll_shared(cx), "it is registered for the next change");
///
/// // In any other machine, or in a handle.
/// price.with(|price| *price = 101);
/// changed.wake_all();
/// assert!(poll_shared(cx));
/// ```
///
/// It holds one slot for each member, of at most 24 bytes and a waker.
#[derive(Clone, Debug, Default)]
pub struct WakerSet {
    slots: Shared<Lock<Slab<Option<Waker>>>>,
}

/// A machine's membership in a [`WakerSet`]. The machine leaves when this is dropped.
#[derive(Debug)]
pub struct WakerSlot {
    set: WakerSet,
    key: usize,
}

impl WakerSet {
    /// A set without members.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a member. It is woken once it has [registered](WakerSlot::register).
    pub fn join(&self) -> WakerSlot {
        WakerSlot { set: self.clone(), key: self.slots.with(|slots| slots.insert(None)) }
    }

    /// The number of members.
    pub fn members(&self) -> usize {
        self.slots.with(|slots| slots.len())
    }

    /// Wakes each member that has registered since it was last woken. Call it after the change,
    /// and outside of locks: a waker can run anything.
    pub fn wake_all(&self) {
        // Collected first, because the wakers must run outside of this set's lock too.
        let wakers: Vec<_> =
            self.slots.with(|slots| slots.iter_mut().filter_map(|(_, slot)| slot.take()).collect());
        wake(wakers);
    }
}

impl WakerSlot {
    /// Registers the waker of `cx` for the next [`WakerSet::wake_all`], in place of the previous
    /// one. Read the state after this call: every later change wakes `cx`.
    pub fn register(&self, cx: &Context<'_>) {
        let previous = self.set.slots.with(|slots| register_waker(slots.get_mut(self.key)?, cx));
        drop(previous); // outside the lock: it may be the last handle on a task
    }
}

impl Drop for WakerSlot {
    fn drop(&mut self) {
        let waker = self.set.slots.with(|slots| slots.try_remove(self.key));
        drop(waker); // outside the lock: it may be the last handle on a task
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::WakeCount;

    #[test]
    fn each_member_that_registered_is_woken_once_and_others_are_not() {
        let set = WakerSet::new();
        let (registered, unregistered, dropped) = (set.join(), set.join(), set.join());
        let counts: [_; 3] = core::array::from_fn(|_| WakeCount::new());
        let woken = || counts.each_ref().map(|(count, _)| count.get());
        for slot in [&registered, &registered, &dropped] {
            slot.register(&Context::from_waker(&counts[0].1));
        }
        registered.register(&Context::from_waker(&counts[1].1));
        assert_eq!(set.members(), 3);
        drop(dropped);
        assert_eq!(set.members(), 2);

        set.wake_all();
        assert_eq!(woken(), [0, 1, 0], "the last waker of each member counts");
        set.wake_all();
        assert_eq!(woken(), [0, 1, 0], "it has not registered again");
        unregistered.register(&Context::from_waker(&counts[2].1));
        registered.register(&Context::from_waker(&counts[0].1));
        set.wake_all();
        assert_eq!(woken(), [1, 1, 1]);
        drop((registered, unregistered));
        assert_eq!(set.members(), 0);
    }

    #[test]
    fn a_waker_is_cloned_only_if_another_one_is_registered() {
        let (set, (count, waker)) = (WakerSet::new(), WakeCount::new());
        let (slot, handles) = (set.join(), alloc::sync::Arc::strong_count(&count));
        let clones = || alloc::sync::Arc::strong_count(&count) - handles;
        for _ in 0..3 {
            slot.register(&Context::from_waker(&waker));
            assert_eq!(clones(), 1);
        }
        drop(slot);
        assert_eq!(clones(), 0, "a member that leaves takes its waker along");
    }

    #[cfg(feature = "std")]
    #[test]
    fn a_waker_may_use_the_set_and_the_state() {
        use alloc::sync::Arc;
        use std::sync::Mutex;

        struct Reentrant(WakerSet, Mutex<Option<WakerSlot>>);
        impl alloc::task::Wake for Reentrant {
            fn wake(self: Arc<Self>) {
                self.0.wake_all();
                self.1.lock().unwrap().take();
                assert_eq!(self.0.members(), 0);
            }
        }
        let set = WakerSet::new();
        let reentrant = Arc::new(Reentrant(set.clone(), Mutex::new(Some(set.join()))));
        let waker = Waker::from(reentrant.clone());
        reentrant.1.lock().unwrap().as_ref().unwrap().register(&Context::from_waker(&waker));
        set.wake_all();
        assert_eq!(set.members(), 0);
    }

    #[cfg(feature = "std")]
    #[test]
    fn no_wake_up_is_lost_when_threads_change_the_state_and_register() {
        use core::task::Poll;
        use std::thread;

        use crate::shared::block_on;

        // Two threads take turns, so each change must wake the other thread.
        const TURNS: usize = 1000;
        let (turn, set) = (Lock::new(0), WakerSet::new());
        thread::scope(|scope| {
            for own in 0..2 {
                let (turn, set, slot) = (&turn, &set, set.join());
                scope.spawn(move || {
                    for _ in 0..TURNS {
                        block_on(|cx| {
                            slot.register(cx);
                            let is_own = turn.with(|turn| *turn % 2 == own);
                            if is_own { Poll::Ready(()) } else { Poll::Pending }
                        });
                        turn.with(|turn| *turn += 1);
                        set.wake_all();
                    }
                });
            }
        });
        assert_eq!((turn.with(|turn| *turn), set.members()), (2 * TURNS, 0));
    }
}
