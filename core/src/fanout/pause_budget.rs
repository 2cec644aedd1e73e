//! The limit on how long the upstream may be paused while subscribers wait.

use core::time::Duration;

use crate::Instant;

/// A rate limit on time: at most `limit` may be spent in any ten times `limit`.
///
/// Time is divided into slots of the length `limit`. A span of time that is spent counts in the
/// slot in which it ends. [`remaining`](Self::remaining) is `limit` less all spans that count in
/// the present slot and in the [`EARLIER`] ones.
///
/// Proof of the bound, for every window of ten times `limit`. Let the window end at `t`, within a
/// span that began at `a`, when at least `t - a` remained. Every earlier span that reaches into the
/// window ended after `t - 10 limit`. That is not before `a - 10 limit`, so the span counted at
/// `a`. Hence all earlier spans and `t - a` are `limit` together at most. A window that ends within
/// no span contains no more than the window that ends with its last span.
///
/// The caller must end a span when nothing remains: any delay adds to the bound.
///
/// The budget holds eleven durations, however short the spans are. A span may count for up to two
/// slots longer than necessary.
#[derive(Debug)]
pub(super) struct PauseBudget {
    limit: Duration,
    /// The number of the newest slot that was used.
    slot: u64,
    /// The time spent in each of the last slots. A slot's index is its number modulo [`SLOTS`].
    spent: [Duration; SLOTS],
}

impl PauseBudget {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, slot: 0, spent: [Duration::ZERO; SLOTS] }
    }

    /// How much time may be spent from `now` on, without a break.
    pub(super) fn remaining(&mut self, now: Instant) -> Duration {
        self.advance_to(now);
        self.limit.saturating_sub(self.spent.iter().sum())
    }

    /// Counts the time from `from` to `now` as spent.
    pub(super) fn spend(&mut self, from: Instant, now: Instant) {
        let index = self.advance_to(now);
        self.spent[index] += now.since(from);
    }

    /// Clears the slots that do not count at `now`; returns the index of the present slot.
    fn advance_to(&mut self, now: Instant) -> usize {
        let slot = now.nanos() / u64::try_from(self.limit.as_nanos()).unwrap_or(u64::MAX).max(1);
        if slot.saturating_sub(self.slot) > EARLIER {
            self.spent = [Duration::ZERO; SLOTS];
            self.slot = slot;
        }
        while self.slot < slot {
            self.slot += 1;
            self.spent[index(self.slot)] = Duration::ZERO;
        }
        index(slot)
    }
}

fn index(slot: u64) -> usize {
    usize::try_from(slot % SLOTS as u64).unwrap_or(0)
}

/// How many slots before the present one count.
const EARLIER: u64 = 10;
/// How many slots count, including the present one.
const SLOTS: usize = 11;

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn spent_time_is_available_again_after_ten_times_the_limit() {
        let limit = Duration::from_nanos(100);
        let mut budget = PauseBudget::new(limit);
        assert_eq!(budget.remaining(at(1050)), limit);
        budget.spend(at(1050), at(1090));
        assert_eq!(budget.remaining(at(1090)), Duration::from_nanos(60));
        budget.spend(at(1500), at(1560));
        assert_eq!(budget.remaining(at(1560)), Duration::ZERO);
        assert_eq!(budget.remaining(at(2099)), Duration::ZERO);
        assert_eq!(budget.remaining(at(2100)), Duration::from_nanos(40));
        assert_eq!(budget.remaining(at(2600)), limit);
        budget.spend(at(2600), at(2610));
        assert_eq!(budget.remaining(at(1_000_000)), limit);
    }

    proptest! {
        /// Each request follows a break, and spends as much of its time as remains.
        #[test]
        fn no_more_than_the_limit_is_spent_in_any_ten_times_the_limit(
            limit in 1_u64..50,
            start in 0_u64..1000,
            requests in prop::collection::vec((0_u64..200, 0_u64..60), 0..60),
        ) {
            let mut budget = PauseBudget::new(Duration::from_nanos(limit));
            let (mut now, mut spent) = (start, Vec::new());
            for (gap, request) in requests {
                now += gap;
                let remaining = u64::try_from(budget.remaining(at(now)).as_nanos()).unwrap();
                let to = now + request.min(remaining);
                budget.spend(at(now), at(to));
                spent.push((now, to));
                now = to;
            }
            // The sum is largest where the window ends with a span.
            for &(_, end) in &spent {
                let begin = end.saturating_sub(10 * limit);
                let within = spent.iter().filter(|(_, to)| *to <= end);
                let sum: u64 = within.map(|&(from, to)| to.saturating_sub(from.max(begin))).sum();
                prop_assert!(sum <= limit, "{sum} of {limit} by {end}: {spent:?}");
            }
        }
    }
}
