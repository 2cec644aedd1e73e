//! State that machines share with each other, or with their handles.

#[cfg(any(test, not(target_has_atomic = "64")))]
use core::sync::atomic::Ordering;
use core::task::{Context, Waker};

#[cfg(not(target_has_atomic = "64"))]
pub(crate) use LockedU64 as AtomicU64;
#[cfg(target_has_atomic = "64")]
pub(crate) use core::sync::atomic::AtomicU64;

/// A reference-counted handle: an `Arc`, or an `Rc` without the feature `std`.
#[cfg(feature = "std")]
pub type Shared<T> = alloc::sync::Arc<T>;
/// A reference-counted handle: an `Arc`, or an `Rc` without the feature `std`.
#[cfg(not(feature = "std"))]
pub type Shared<T> = alloc::rc::Rc<T>;

/// A value behind a lock, which is held only for a short time, and never across IO.
///
/// The lock ignores poisoning, since a panic of one connection must not end the others. A closure
/// that changes the value must leave it consistent at every step that can panic.
///
/// Without the feature `std` it is a `RefCell`, and stays on one thread.
#[derive(Debug, Default)]
pub struct Lock<T> {
    #[cfg(feature = "std")]
    value: std::sync::Mutex<T>,
    #[cfg(not(feature = "std"))]
    value: core::cell::RefCell<T>,
}

impl<T> Lock<T> {
    /// Puts `value` behind a lock.
    pub const fn new(value: T) -> Self {
        Self {
            #[cfg(feature = "std")]
            value: std::sync::Mutex::new(value),
            #[cfg(not(feature = "std"))]
            value: core::cell::RefCell::new(value),
        }
    }

    /// Calls `f` with the value. `f` must not use this lock: that would be a deadlock, or a panic
    /// without the feature `std`.
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        #[cfg(feature = "std")]
        return f(&mut self.value.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        #[cfg(not(feature = "std"))]
        return f(&mut self.value.borrow_mut());
    }
}

/// Stores the waker of `cx` in `slot`, unless the stored one wakes the same task. Returns the waker
/// that it replaces. Drop it outside of locks, since it may be the last handle on a task.
pub(crate) fn register_waker(slot: &mut Option<Waker>, cx: &Context<'_>) -> Option<Waker> {
    let is_same = slot.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
    if is_same { None } else { slot.replace(cx.waker().clone()) }
}

/// The operations of an `AtomicU64` that the crate uses, for targets without 64-bit atomics.
///
/// The lock orders all accesses, so it satisfies any [`Ordering`].
#[cfg(any(test, not(target_has_atomic = "64")))]
#[derive(Debug)]
pub(crate) struct LockedU64(Lock<u64>);

#[cfg(any(test, not(target_has_atomic = "64")))]
impl LockedU64 {
    pub(crate) const fn new(value: u64) -> Self {
        Self(Lock::new(value))
    }

    pub(crate) fn load(&self, _: Ordering) -> u64 {
        self.0.with(|value| *value)
    }

    pub(crate) fn store(&self, new: u64, _: Ordering) {
        self.0.with(|value| *value = new);
    }

    /// Adds `increment`, wrapping around at 2⁶⁴, and returns the previous value.
    #[cfg(any(test, feature = "message"))]
    pub(crate) fn fetch_add(&self, increment: u64, _: Ordering) -> u64 {
        self.0.with(|value| core::mem::replace(value, value.wrapping_add(increment)))
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering::Relaxed;

    use super::*;

    /// The tests of both implementations.
    macro_rules! tests_of {
        ($number:ident, $module:ident) => {
            mod $module {
                use super::*;

                #[test]
                fn it_counts_beyond_32_bits_and_wraps_around_at_64_bits() {
                    let number = $number::new(u64::from(u32::MAX));
                    assert_eq!(number.fetch_add(1, Relaxed), u64::from(u32::MAX));
                    assert_eq!(number.load(Relaxed), 1 << 32);
                    number.store(u64::MAX, Relaxed);
                    assert_eq!(number.fetch_add(3, Relaxed), u64::MAX);
                    assert_eq!(number.load(Relaxed), 2);
                }

                #[cfg(feature = "std")]
                #[test]
                fn concurrent_additions_are_all_counted() {
                    let number = $number::new(u64::from(u32::MAX));
                    std::thread::scope(|scope| {
                        for _ in 0..4 {
                            scope.spawn(|| {
                                for _ in 0..10_000 {
                                    number.fetch_add(1 << 20, Relaxed);
                                }
                            });
                        }
                    });
                    assert_eq!(number.load(Relaxed), u64::from(u32::MAX) + 4 * (10_000 << 20));
                }
            }
        };
    }

    tests_of!(AtomicU64, atomic);
    tests_of!(LockedU64, locked);
}
