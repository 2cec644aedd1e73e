//! The close behind which a peer may still be sending.

use core::time::Duration;

use crate::{
    Instant,
    shared::{Lock, Shared},
    token_bucket::TokenBucket,
};

/// A lingering close: behind our FIN, what the peer still sends is read and thrown away for a
/// while. Closing the socket at once would answer those bytes with a reset, and a reset may
/// destroy output that the peer has not read yet (RFC 9112, section 9.6).
///
/// Each connection may discard 64 KiB in any case. Beyond that, all connections of one server, feed
/// or proxy share a budget: they may discard 64 MiB at once and 32 MiB a second in the long run.
/// When it is used up, a connection whose peer goes on sending is closed at once, and the peer may
/// get a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linger {
    /// How many bytes of one connection are discarded at most.
    pub bytes: usize,
    /// How long at most.
    pub time: Duration,
}

impl Default for Linger {
    /// 16 MiB or 2 s.
    fn default() -> Self {
        Self { bytes: 16 * MIB, time: Duration::from_secs(2) }
    }
}

/// How much the lingering connections of one server may discard together. Clones are the same
/// budget.
#[derive(Clone, Debug)]
pub(crate) struct DiscardBudget {
    bytes: Shared<Lock<TokenBucket>>,
}

impl Default for DiscardBudget {
    fn default() -> Self {
        Self { bytes: Shared::new(Lock::new(TokenBucket::FULL)) }
    }
}

impl DiscardBudget {
    /// Counts `n` bytes more that were discarded by a connection that lingers under `linger` and
    /// had discarded `discarded` before. Returns whether it may go on.
    pub(crate) fn discard(
        &self,
        linger: Linger,
        discarded: &mut usize,
        n: usize,
        now: Instant,
    ) -> bool {
        let free = OWN.max(*discarded);
        *discarded += n;
        *discarded < linger.bytes && self.spend(discarded.saturating_sub(free), now)
    }

    fn spend(&self, n: usize, now: Instant) -> bool {
        let take =
            |bytes: &mut TokenBucket| bytes.take(regained_within(n), regained_within(AT_ONCE), now);
        n == 0 || self.bytes.with(take)
    }
}

/// The time in which `n` bytes are regained.
fn regained_within(n: usize) -> Duration {
    Duration::from_nanos((n as u64).saturating_mul(1_000_000_000) / PER_SECOND as u64)
}

const MIB: usize = 1024 * 1024;
/// The bytes that each connection may discard, whatever the others do.
const OWN: usize = 64 * 1024;
const AT_ONCE: usize = 64 * MIB;
const PER_SECOND: usize = 32 * MIB;

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads 64 KiB at a time until it has to close; returns the bytes discarded.
    fn flood(budget: &DiscardBudget, now: Instant) -> usize {
        let mut discarded = 0;
        while budget.discard(Linger::default(), &mut discarded, OWN, now) {}
        discarded
    }

    #[test]
    fn connections_throw_so_much_away_each_and_so_much_together() {
        let (budget, begin) = (DiscardBudget::default(), Instant::EPOCH);
        for _ in 0..4 {
            assert_eq!(flood(&budget, begin), 16 * MIB, "as long as there is enough for all");
        }
        let rest: usize = (0..100).map(|_| flood(&budget, begin) - 2 * OWN).sum();
        assert!(rest <= 8 * OWN, "{rest} bytes more, besides what each may in any case");
        let mut discarded = 0;
        assert!(budget.discard(Linger::default(), &mut discarded, OWN, begin), "64 KiB each");

        let later = begin + Duration::from_millis(250);
        assert_eq!(flood(&budget, later), 8 * MIB + 2 * OWN);
        assert_eq!(flood(&budget, begin), 2 * OWN, "time that goes backwards gives nothing");
        let later = later + Duration::from_secs(3600);
        let all: usize = (0..100).map(|_| flood(&budget, later)).sum();
        assert!(all <= 64 * MIB + 100 * 2 * OWN, "{all} bytes: no more than at once");
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
