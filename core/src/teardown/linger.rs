//! The limits of the lingering close, for one connection and for all connections of a server.

use core::time::Duration;

use crate::{
    Instant,
    shared::{Lock, Shared},
    token_bucket::TokenBucket,
};

/// The limits of a lingering close: after its FIN, a machine reads and discards what the peer still
/// sends. If it closed the socket at once, the kernel would answer these bytes with a reset. That
/// may destroy output that the peer has not read yet (RFC 9112, section 9.6).
///
/// Each connection may discard 64 KiB in any case. Beyond that, all connections of one server, feed
/// or proxy share a budget: they may discard 64 MiB at once and 32 MiB a second in the long run.
/// When it is used up, a connection whose peer still sends is closed at once, and the peer may get
/// a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linger {
    /// The most bytes that one connection discards. Default: 16 MiB.
    pub bytes: usize,
    /// The most time that one connection lingers. Default: 2 s.
    pub time: Duration,
}

impl Default for Linger {
    /// 16 MiB or 2 s.
    fn default() -> Self {
        Self { bytes: 16 * MIB, time: Duration::from_secs(2) }
    }
}

/// The bytes that all lingering connections of one server may discard: 64 MiB at once and 32 MiB a
/// second in the long run. Clones share one budget.
#[derive(Clone, Debug, Default)]
pub struct DiscardBudget {
    bytes: Shared<Lock<TokenBucket>>,
}

impl DiscardBudget {
    /// Counts `n` more bytes discarded by a connection under `linger`, and adds them to its
    /// `discarded`. Returns whether the connection may continue.
    pub(crate) fn discard(
        &self,
        linger: Linger,
        discarded: &mut usize,
        n: usize,
        now: Instant,
    ) -> bool {
        let free = FREE.max(*discarded);
        *discarded += n;
        let cost = regained_within(discarded.saturating_sub(free));
        let take = |bytes: &mut TokenBucket| bytes.take(cost, regained_within(BURST), now);
        *discarded < linger.bytes && (cost.is_zero() || self.bytes.with(take))
    }
}

/// The time in which the budget regains `n` bytes.
fn regained_within(n: usize) -> Duration {
    Duration::from_nanos((n as u64).saturating_mul(1_000_000_000) / PER_SECOND as u64)
}

const MIB: usize = 1024 * 1024;
/// The bytes that each connection may discard without taking from the budget.
const FREE: usize = 64 * 1024;
/// The bytes that all connections may discard at once.
const BURST: usize = 64 * MIB;
/// The bytes that all connections may discard in a second, in the long run.
const PER_SECOND: usize = 32 * MIB;

#[cfg(test)]
mod tests {
    use super::*;

    /// Discards 64 KiB at a time up to a limit. Returns the bytes discarded.
    fn flood(budget: &DiscardBudget, now: Instant) -> usize {
        let mut discarded = 0;
        while budget.discard(Linger::default(), &mut discarded, FREE, now) {}
        discarded
    }

    #[test]
    fn each_connection_and_all_together_discard_up_to_a_limit() {
        let (budget, begin) = (DiscardBudget::default(), Instant::EPOCH);
        for _ in 0..4 {
            assert_eq!(flood(&budget, begin), 16 * MIB, "the budget is not used up");
        }
        let rest: usize = (0..100).map(|_| flood(&budget, begin) - 2 * FREE).sum();
        assert!(rest <= 8 * FREE, "{rest} bytes beyond what each connection may discard for free");
        let mut discarded = 0;
        assert!(budget.discard(Linger::default(), &mut discarded, FREE, begin), "64 KiB each");

        let later = begin + Duration::from_millis(250);
        assert_eq!(flood(&budget, later), 8 * MIB + 2 * FREE);
        assert_eq!(flood(&budget, begin), 2 * FREE, "time that goes backwards regains nothing");
        let later = later + Duration::from_secs(3600);
        let all: usize = (0..100).map(|_| flood(&budget, later)).sum();
        assert!(all <= 64 * MIB + 100 * 2 * FREE, "{all} bytes exceed the burst");
    }

    #[test]
    fn a_smaller_limit_is_held_to_the_byte() {
        let (budget, now) = (DiscardBudget::default(), Instant::EPOCH);
        let (linger, mut discarded) = (Linger { bytes: 100, ..Linger::default() }, 0);
        assert!(budget.discard(linger, &mut discarded, 99, now));
        assert!(!budget.discard(linger, &mut discarded, 1, now));
        assert_eq!(discarded, 100);
    }
}
