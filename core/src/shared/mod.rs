//! State that machines share with each other, or with their handles.
//!
//! | piece | what for |
//! |---|---|
//! | [`Shared`], [`Lock`] | a value that machines, or their handles, read and change |
//! | [`WakerSet`] | wakes the machines that wait for a change of such a value |
//! | [`promise`] | one value that a connection, task or thread gives to another |
//! | [`Topic`](crate::topic::Topic) | items that every subscriber gets, in the same order |
//! | [`Feed`](crate::fanout::Feed) | a stream to many subscribers, which can pause its upstream |

mod lock;
#[cfg(any(test, not(target_has_atomic = "64")))]
mod locked_u64;
mod promise;
#[cfg(test)]
mod wake_count;
mod waker_set;

use core::task::{Context, Waker};

#[cfg(target_has_atomic = "64")]
pub(crate) use core::sync::atomic::AtomicU64;

#[cfg(not(target_has_atomic = "64"))]
pub(crate) use self::locked_u64::LockedU64 as AtomicU64;
#[cfg(test)]
pub(crate) use self::wake_count::WakeCount;
#[cfg(all(test, feature = "std"))]
pub(crate) use self::wake_count::block_on;
pub use self::{
    lock::Lock,
    promise::{Promise, Promised, promise},
    waker_set::{WakerSet, WakerSlot},
};

/// A reference-counted handle: an `Arc`, or an `Rc` without the feature `std`.
#[cfg(feature = "std")]
pub type Shared<T> = alloc::sync::Arc<T>;
/// A reference-counted handle: an `Arc`, or an `Rc` without the feature `std`.
#[cfg(not(feature = "std"))]
pub type Shared<T> = alloc::rc::Rc<T>;

/// Stores the waker of `cx` in `slot`, unless the stored one wakes the same task. Returns the waker
/// that it replaces. Drop it outside of locks, since it may be the last handle on a task.
pub(crate) fn register_waker(slot: &mut Option<Waker>, cx: &Context<'_>) -> Option<Waker> {
    let is_same = slot.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
    if is_same { None } else { slot.replace(cx.waker().clone()) }
}

/// Wakes `wakers`. Call it outside of locks, since a waker can run anything.
pub(crate) fn wake(wakers: impl IntoIterator<Item = Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}
