//! A token bucket: a burst at once, and then a constant rate.

use core::time::Duration;

use crate::Instant;

/// A token bucket, stored as one time: the generic cell rate algorithm (ITU-T I.371, annex A).
///
/// Tokens are measured by the time in which the bucket regains them: `cost` for the tokens to take,
/// `size` for a full bucket. The default is a full bucket.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenBucket {
    /// When the bucket is full again.
    full: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub(crate) const FULL: Self = Self { full: Instant::EPOCH };

    /// Takes `cost` if the bucket holds it, and returns whether it did.
    pub(crate) fn take(&mut self, cost: Duration, size: Duration, now: Instant) -> bool {
        let has_enough = self.wait(cost, size, now).is_zero();
        if has_enough {
            self.borrow(cost, now);
        }
        has_enough
    }

    /// How long it takes until the bucket holds `cost`.
    pub(crate) fn wait(&self, cost: Duration, size: Duration, now: Instant) -> Duration {
        (self.full.max(now) + cost).since(now).saturating_sub(size)
    }

    /// Takes `cost`, even if the bucket does not hold it yet. Later calls wait longer.
    pub(crate) fn borrow(&mut self, cost: Duration, now: Instant) {
        self.full = self.full.max(now) + cost;
    }

    /// Whether the bucket is full.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.full <= now
    }

    /// Gives back `cost` that was taken and not used.
    #[cfg(feature = "status")]
    pub(crate) fn give_back(&mut self, cost: Duration) {
        self.full = Instant::from_epoch(self.full.since_epoch().saturating_sub(cost));
    }
}
