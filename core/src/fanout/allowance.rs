//! The limit on how long the upstream may be held while some subscriber waits.

use core::time::Duration;

use crate::Instant;

/// A rate limit on time: at most `limit` may be spent in any ten times `limit`.
///
/// Time is cut into slots as long as `limit`. A piece of time that is spent counts in the slot in
/// which it ends. [`left`](Self::left) is `limit` less all pieces that count in the present slot
/// and in the [`EARLIER`] ones.
///
/// The bound holds in every stretch of ten times `limit`. Proof: let a stretch end at `t`, within a
/// piece that began at `a`, when at least `t - a` was left. Every earlier piece that reaches into
/// the stretch ended after `t - 10 limit`. That is not before `a - 10 limit`, so the piece counted
/// at `a`. Hence all earlier pieces and `t - a` are `limit` together at most. A stretch that ends
/// within no piece contains no more than the stretch that ends with its last piece.
///
/// The driver must end a piece when nothing is left: any delay adds to the bound.
///
/// It holds eleven durations, however small the pieces are. A piece may count for up to two slots
/// longer than necessary.
#[derive(Debug)]
pub(super) struct Allowance {
    limit: Duration,
    /// The newest slot that was used.
    slot: u64,
    /// The time spent in each of the last slots; a slot's index is its number modulo their count.
    spent: [Duration; SLOTS],
}

/// How many slots before the present one count.
const EARLIER: u64 = 10;
/// How many slots count, including the present one.
const SLOTS: usize = 11;

impl Allowance {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, slot: 0, spent: [Duration::ZERO; SLOTS] }
    }

    /// How much may be spent from `now` on, without a break.
    pub(super) fn left(&mut self, now: Instant) -> Duration {
        self.turn_to(now);
        self.limit.saturating_sub(self.spent.iter().sum())
    }

    /// Counts the time from `from` to `now` as spent.
    pub(super) fn spend(&mut self, from: Instant, now: Instant) {
        let place = self.turn_to(now);
        self.spent[place] += now.since(from);
    }

    /// Clears the slots that do not count at `now`; returns the index of the present slot.
    fn turn_to(&mut self, now: Instant) -> usize {
        let slot = now.nanos() / u64::try_from(self.limit.as_nanos()).unwrap_or(u64::MAX).max(1);
        if slot.saturating_sub(self.slot) > EARLIER {
            self.spent = [Duration::ZERO; SLOTS];
            self.slot = slot;
        }
        while self.slot < slot {
            self.slot += 1;
            self.spent[place(self.slot)] = Duration::ZERO;
        }
        place(slot)
    }
}

fn place(slot: u64) -> usize {
    usize::try_from(slot % SLOTS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn what_was_spent_is_left_again_after_ten_times_the_limit() {
        let limit = Duration::from_nanos(100);
        let mut allowance = Allowance::new(limit);
        assert_eq!(allowance.left(at(1050)), limit);
        allowance.spend(at(1050), at(1090));
        assert_eq!(allowance.left(at(1090)), Duration::from_nanos(60));
        allowance.spend(at(1500), at(1560));
        assert_eq!(allowance.left(at(1560)), Duration::ZERO);
        assert_eq!(allowance.left(at(2099)), Duration::ZERO);
        assert_eq!(allowance.left(at(2100)), Duration::from_nanos(40));
        assert_eq!(allowance.left(at(2600)), limit);
        allowance.spend(at(2600), at(2610));
        assert_eq!(allowance.left(at(1_000_000)), limit);
    }

    proptest! {
        /// Pauses, each followed by a request for time, of which as much is spent as is left.
        #[test]
        fn no_more_than_the_limit_is_spent_in_any_ten_times_the_limit(
            limit in 1_u64..50,
            start in 0_u64..1000,
            wishes in prop::collection::vec((0_u64..200, 0_u64..60), 0..60),
        ) {
            let mut allowance = Allowance::new(Duration::from_nanos(limit));
            let (mut now, mut spent) = (start, Vec::new());
            for (pause, wish) in wishes {
                now += pause;
                let left = u64::try_from(allowance.left(at(now)).as_nanos()).unwrap();
                let to = now + wish.min(left);
                allowance.spend(at(now), at(to));
                spent.push((now, to));
                now = to;
            }
            // The sum is largest where the stretch ends with a piece.
            for &(_, end) in &spent {
                let begin = end.saturating_sub(10 * limit);
                let within = spent.iter().filter(|(_, to)| *to <= end);
                let sum: u64 = within.map(|&(from, to)| to.saturating_sub(from.max(begin))).sum();
                prop_assert!(sum <= limit, "{sum} of {limit} by {end}: {spent:?}");
            }
        }
    }
}
