//! Counters for targets without 64-bit atomics.

use core::sync::atomic::Ordering;

use super::Lock;

/// The operations of an `AtomicU64` that the crate uses, for targets without 64-bit atomics.
///
/// The lock orders all accesses, so it satisfies any [`Ordering`].
#[derive(Debug, Default)]
pub(crate) struct LockedU64(Lock<u64>);

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
    pub(crate) fn fetch_add(&self, increment: u64, _: Ordering) -> u64 {
        self.0.with(|value| core::mem::replace(value, value.wrapping_add(increment)))
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::shared::AtomicU64;

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
