//! State that several machines, or a machine and its handle, have in common.

#[cfg(any(test, not(target_has_atomic = "64")))]
use core::sync::atomic::Ordering;
use core::task::{Context, Waker};

#[cfg(not(target_has_atomic = "64"))]
pub(crate) use LockedU64 as AtomicU64;
#[cfg(target_has_atomic = "64")]
pub(crate) use core::sync::atomic::AtomicU64;

/// A counted handle: an `Arc`, or an `Rc` without the feature `std`.
#[cfg(feature = "std")]
pub type Shared<T> = alloc::sync::Arc<T>;
/// A counted handle: an `Arc`, or an `Rc` without the feature `std`.
#[cfg(not(feature = "std"))]
pub type Shared<T> = alloc::rc::Rc<T>;

/// A value behind a lock that is only ever held for a moment, and never across IO.
///
/// It survives poisoning: a panic of one connection must not end the others. So whoever changes
/// the value must leave it whole at every step that can panic.
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

    /// Calls `f` with the value. `f` must not come back to this lock.
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        #[cfg(feature = "std")]
        return f(&mut self.value.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        #[cfg(not(feature = "std"))]
        return f(&mut self.value.borrow_mut());
    }
}

/// Leaves the waker of `cx` in `slot`, unless one is there that wakes the same task. Returns the one
/// that it replaces, to be dropped outside of locks: it may be the last handle on a task.
pub(crate) fn register_waker(slot: &mut Option<Waker>, cx: &Context<'_>) -> Option<Waker> {
    let is_there = slot.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
    if is_there { None } else { slot.replace(cx.waker().clone()) }
}

/// The operations of an `AtomicU64` that the crate uses, for targets without 64-bit atomics.
///
/// The lock orders all accesses, so any [`Ordering`] is met.
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

    /// Adds `more`, wrapping around at 2^64, and returns the value before.
    #[cfg(any(test, feature = "message"))]
    pub(crate) fn fetch_add(&self, more: u64, _: Ordering) -> u64 {
        self.0.with(|value| core::mem::replace(value, value.wrapping_add(more)))
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering::Relaxed;

    use super::*;

    /// The same tests for the atomic and for the locked number.
    macro_rules! tests_of {
        ($number:ident, $module:ident) => {
            mod $module {
                use super::*;

                #[test]
                fn it_counts_beyond_32_bits_and_wraps_around_at_64() {
                    let number = $number::new(u64::from(u32::MAX));
                    assert_eq!(number.fetch_add(1, Relaxed), u64::from(u32::MAX));
                    assert_eq!(number.load(Relaxed), 1 << 32);
                    number.store(u64::MAX, Relaxed);
                    assert_eq!(number.fetch_add(3, Relaxed), u64::MAX);
                    assert_eq!(number.load(Relaxed), 2);
                }

                #[cfg(feature = "std")]
                #[test]
                fn what_threads_add_at_once_is_all_counted() {
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

    tests_of!(AtomicU64, of_the_atomic_number);
    tests_of!(LockedU64, of_the_locked_number);
}
