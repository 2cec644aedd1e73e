//! A burst at once, and then a constant rate.

use core::time::Duration;

use crate::Instant;

/// A token bucket, kept as one time: the generic cell rate algorithm (ITU-T I.371, annex A).
///
/// Tokens are counted as the time in which they come back. The default is a full one.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenBucket {
    /// When the bucket is full again.
    full: Instant,
}

impl TokenBucket {
    pub(crate) const FULL: Self = Self { full: Instant::EPOCH };

    /// Takes the tokens that come back within `cost` from a bucket that holds those of `size`, if
    /// it has so many. Otherwise it takes none.
    pub(crate) fn take(&mut self, cost: Duration, size: Duration, now: Instant) -> bool {
        let full = self.full.max(now) + cost;
        let has_enough = full.since(now) <= size;
        if has_enough {
            self.full = full;
        }
        has_enough
    }
}
